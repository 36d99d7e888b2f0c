"""What a model is given at each step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Patches of one step with their identity and what is known of their relations."""

    x: Tensor  # (B, C, Y, X) float32, normalised
    rows: Tensor  # (B,) int64, rows of the source's table
    relations: Tensor | None = None  # (B, B) int8: 2 adjacent frames or self, 1 same trajectory, 0 otherwise
    mask: Tensor | None = None  # (B, 1, Y, X) float32 pixel weights: 1 on the cell, 0.5 elsewhere
