"""Random flips and quarter turns of square patches, on whichever device they are.

The distribution is the wells reference's: a flip drawn from none, upside down, left to right, then 0 to 3 quarter turns. Of the
eight symmetries of the square, each rotation comes once in twelve and each reflection once in six.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLIPS, TURNS = 3, 4


def draw(num: int, generator: torch.Generator) -> Tensor:
    """Draw a flip (0 none, 1 rows reversed, 2 columns reversed) and a number of quarter turns per patch; (num, 2) int64."""
    flips = torch.randint(FLIPS, (num,), generator=generator, device=generator.device)
    turns = torch.randint(TURNS, (num,), generator=generator, device=generator.device)
    return torch.stack([flips, turns], 1)


def dihedral(x_BCYX: Tensor, draws: Tensor) -> Tensor:
    """Flip each patch, then turn it counter-clockwise (from rows towards columns, as ``torch.rot90`` on the last two axes).

    Parameters
    ----------
    x_BCYX
        Square patches; masks and other images of the same patches take the same draws.
    draws
        What :func:`draw` returned.
    """
    Y, X = x_BCYX.shape[2:]
    if Y != X:
        raise ValueError(f"patches are {Y} x {X} pixels, but only square ones can be turned. Switch off data.augment.")
    flips, turns = draws.cpu().unbind(1)
    # Reversing rows, reversing columns and a transposition make all eight symmetries: one copy for each that was drawn.
    flip_rows, flip_columns = (flips == 1) ^ (turns >= 2), (flips == 2) ^ ((turns == 1) | (turns == 2))
    symmetry = flip_rows + 2 * flip_columns + 4 * (turns % 2)
    out = torch.empty_like(x_BCYX)
    for number in symmetry.unique().tolist():
        rows = (symmetry == number).nonzero()[:, 0].to(x_BCYX.device)
        axes = [axis for axis, bit in ((2, 1), (3, 2)) if number & bit]
        patches = x_BCYX[rows].flip(axes) if axes else x_BCYX[rows]
        out[rows] = patches.transpose(2, 3) if number & 4 else patches
    return out
