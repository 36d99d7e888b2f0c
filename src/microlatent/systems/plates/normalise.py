"""Intensities in the units a network sees: the source by its own field's statistics, the target by those of the training fields.

A stain's gain is unknown for a new plate, so a target has the same two numbers everywhere: the median and the 99th percentile of
the training fields. That is what ``invert_target`` goes back by, to camera units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microlatent.systems.plates.statistics import FieldStatistics, Histogram

BRIGHT = 3.0  # what the 99th percentile of a target becomes


@dataclass
class StainNormaliser:
    """How pixels become input and target; stored in every checkpoint and used again at inference.

    ``source`` and ``target`` have (centre, scale) by channel: of the source over all training fields, which
    ``mode=dataset`` uses; of the target always.
    """

    mode: str  # of the source: field, time, dataset, none
    channels: list[str]
    target_channels: list[str]
    source: list[list[float]]
    target: list[list[float]]

    @classmethod
    def fit(
        cls, mode: str, channels: Sequence[str], target_channels: Sequence[str], training: dict[str, Histogram]
    ) -> StainNormaliser:
        """Take the numbers from the histograms of the training fields.

        Raises
        ------
        ValueError
            A channel is constant, or no pixel of it is known.
        """
        flat = [name for name in dict.fromkeys([*channels, *target_channels]) if not training[name].low < training[name].high]
        if flat:
            raise ValueError(
                f"Channel {', '.join(flat)} is constant in all training fields, so nothing can be learnt from it. Leave it out "
                "of data.source_channels and data.target_channels."
            )
        target = []
        for name in target_channels:
            found = training[name]
            median, bright = found.quantile(50), found.quantile(99)
            bright = bright if bright > median else found.high  # a stain in less than a hundredth of the pixels
            bright = bright if bright > median else median + float(np.sqrt(found.squares / found.num_pixels))
            target.append([median, (bright - median) / BRIGHT])
        return cls(mode, list(channels), list(target_channels), [list(line_of(training[name])) for name in channels], target)

    def lines(self, statistics: FieldStatistics | None, t: int = 0) -> np.ndarray:
        """Return centre and scale (C, 2) of the source channels in a field, at a time point of it."""
        if self.mode == "none":
            return np.tile(np.array([0.0, 1.0], np.float32), (len(self.channels), 1))
        if self.mode == "dataset":
            return np.array(self.source, np.float32)
        assert statistics is not None
        found = [statistics.histograms[name][t] if self.mode == "time" else statistics.whole(name) for name in self.channels]
        return np.array([line_of(one) for one in found], np.float32)

    def apply(self, x: Tensor, lines: Tensor | None = None) -> Tensor:
        """Return source pixels (B, C, *space) by lines (B, C, 2), or (C, 2) for all; without lines by the training fields'."""
        if lines is None:
            lines = torch.tensor([[0.0, 1.0]] * len(self.channels) if self.mode == "none" else self.source)
        lines = lines.to(x.device, torch.float32)
        centre, scale = (lines[..., k].reshape(*lines.shape[:-1], *[1] * (x.ndim - 2)) for k in (0, 1))
        return torch.addcmul(-centre / scale, x, 1 / scale)

    def apply_target(self, y: Tensor) -> Tensor:
        """Return target pixels (B, K, *space) in normalised units."""
        centre, scale = self._target(y)
        return torch.addcmul(-centre / scale, y, 1 / scale)

    def invert_target(self, y: Tensor) -> Tensor:
        """Return camera units from what a model predicted (B, K, *space)."""
        centre, scale = self._target(y)
        return y * scale + centre

    def _target(self, like: Tensor) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor(self.target, device=like.device, dtype=torch.float32).view(-1, 2, *[1] * (like.ndim - 2))
        return numbers[:, 0], numbers[:, 1]

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return dict(vars(self))


def line_of(found: Histogram) -> tuple[float, float]:
    """Return median and interquartile range; the standard deviation where that is 0, and 1 where the channel is constant."""
    if not found.num_pixels:
        return 0.0, 1.0
    spread = found.quantile(75) - found.quantile(25) or float(np.sqrt(found.squares / found.num_pixels))
    return found.quantile(50), spread or 1.0


def line_of_attributes(known: dict[str, float]) -> tuple[float, float]:
    """Return the same of statistics in VisCy's layout."""
    return known["median"], known.get("iqr") or known.get("std") or 1.0
