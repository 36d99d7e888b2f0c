"""Random flips and quarter turns of square patches, on the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(num: int, generator: torch.Generator) -> Tensor:
    """Draw for each patch a flip (0 none, 1 rows, 2 columns) and then 0 to 3 quarter turns: (num, 2) int64."""
    return torch.stack([torch.randint(3, (num,), generator=generator), torch.randint(4, (num,), generator=generator)], 1)


def dihedral(x_BCYX: Tensor, draws: Tensor) -> Tensor:
    """Return each patch flipped and then turned as drawn."""
    out = torch.empty_like(x_BCYX)
    for flip, turns in {tuple(pair) for pair in draws.tolist()}:
        here = torch.nonzero((draws[:, 0] == flip) & (draws[:, 1] == turns))[:, 0].to(x_BCYX.device)
        part = x_BCYX[here]
        part = part if flip == 0 else part.flip(1 + flip)
        out[here] = torch.rot90(part, turns, (2, 3))
    return out
