"""Random flips and quarter turns of square patches and of the planes of volumes, on whichever device they are.

The distribution is the wells reference's: a flip drawn from none, upside down, left to right, then 0 to 3 quarter turns. Of the
eight symmetries of the square, each rotation comes once in twelve and each reflection once in six.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from microlatent.contract import Batch

FLIPS, TURNS = 3, 4


def draw(num: int, generator: torch.Generator) -> Tensor:
    """Draw a flip (0 none, 1 rows reversed, 2 columns reversed) and a number of quarter turns per patch; (num, 2) int64."""
    flips = torch.randint(FLIPS, (num,), generator=generator, device=generator.device)
    turns = torch.randint(TURNS, (num,), generator=generator, device=generator.device)
    return torch.stack([flips, turns], 1)


def augmented(batch: Batch, num: int, here: slice, seed: tuple[int, ...]) -> Batch:
    """Flip and turn samples, their targets and their weights alike.

    Parameters
    ----------
    num, here
        Size of the global batch, and which of it ``batch`` is: the draws of a sample do not depend on who holds it.
    seed
        Numbers from which they follow.
    """
    entropy = np.random.SeedSequence([3, *seed]).generate_state(1, np.uint64)
    draws = draw(num, torch.Generator().manual_seed(int(entropy[0] >> 1)))[here]
    x, y, weight = (None if images is None else dihedral(images, draws) for images in (batch.x, batch.y, batch.weight))
    return batch._replace(x=x, y=y, weight=weight)


def dihedral(x: Tensor, draws: Tensor) -> Tensor:
    """Flip each patch, then turn it counter-clockwise (from rows towards columns, as ``torch.rot90`` on the last two axes).

    Parameters
    ----------
    x
        Square patches (B, C, Y, X), or volumes (B, C, Z, Y, X); other images of the same samples take the same draws.
    draws
        What :func:`draw` returned.
    """
    Y, X = x.shape[-2:]
    if Y != X:
        raise ValueError(f"patches are {Y} x {X} pixels, but only square ones can be turned. Switch off data.augment.")
    flips, turns = draws.cpu().unbind(1)
    # Reversing rows, reversing columns and a transposition make all eight symmetries: one copy for each that was drawn.
    flip_rows, flip_columns = (flips == 1) ^ (turns >= 2), (flips == 2) ^ ((turns == 1) | (turns == 2))
    symmetry = flip_rows + 2 * flip_columns + 4 * (turns % 2)
    out = torch.empty_like(x)
    for number in symmetry.unique().tolist():
        rows = (symmetry == number).nonzero()[:, 0].to(x.device)
        axes = [axis for axis, bit in ((-2, 1), (-1, 2)) if number & bit]
        patches = x[rows].flip(axes) if axes else x[rows]
        out[rows] = patches.transpose(-2, -1) if number & 4 else patches
    return out
