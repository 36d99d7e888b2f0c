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
    out = torch.empty_like(x_BCYX)
    groups = (draws[:, 0] * TURNS + draws[:, 1]).cpu()
    for group in groups.unique().tolist():
        flip, turns = divmod(group, TURNS)
        rows = (groups == group).nonzero()[:, 0].to(x_BCYX.device)
        patches = x_BCYX[rows]
        # Flips and turns are views of other strides; only the assignment moves pixels.
        out[rows] = torch.rot90(patches.flip(flip + 1) if flip else patches, turns, (2, 3))
    return out
