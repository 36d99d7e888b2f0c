"""Intensity normalisation, with statistics from training groups alone.

Source: DynaMorph's data-set and per-patch z-scores, (x - mean) / (std + eps) with the population standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPS = 2.220446049250313e-16  # a constant patch becomes 0, not NaN


@dataclass
class Normaliser:
    """How pixels become model input; stored in every checkpoint and used again at inference."""

    mode: str  # dataset, patch, none
    channels: list[str]
    mean: list[float]  # per channel, camera counts; used by mode dataset
    std: list[float]

    @classmethod
    def fit(cls, mode: str, channels: list[str], moments: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> Normaliser:
        """Pool the moments of the given rows; constant (empty) patches do not count.

        Parameters
        ----------
        moments
            Mean and population standard deviation of every patch, each (N, C).
        rows
            Rows of the training groups.
        """
        mean, std = moments[0][rows], moments[1][rows]
        pooled_mean, pooled_std = [], []
        for channel in range(len(channels)):
            filled = std[:, channel] > 0
            centre = mean[filled, channel].mean() if filled.any() else 0.0
            # All patches have the same number of pixels, so variances within and between patches simply add.
            variance = (std[filled, channel] ** 2 + (mean[filled, channel] - centre) ** 2).mean() if filled.any() else 0.0
            pooled_mean.append(float(centre))
            pooled_std.append(float(np.sqrt(variance)))
        if mode == "dataset" and not all(pooled_std):
            dark = [name for name, value in zip(channels, pooled_std, strict=True) if not value]
            raise ValueError(
                f"Channel {', '.join(dark)} is constant in all {len(rows)} training patches, so it cannot be z-scored. "
                "Leave it out with data.channels=[...] or set data.normalise=none."
            )
        return cls(mode, list(channels), pooled_mean, pooled_std)

    def apply(self, x_BCYX: Tensor) -> Tensor:
        """Normalise float32 patches in place where possible and return them."""
        if self.mode == "none":
            return x_BCYX
        if self.mode == "patch":
            centred = x_BCYX - x_BCYX.mean((2, 3), keepdim=True)
            return centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + EPS)
        mean = torch.tensor(self.mean, device=x_BCYX.device)[:, None, None]
        scale = 1.0 / (torch.tensor(self.std, device=x_BCYX.device)[:, None, None] + EPS)
        return x_BCYX.sub_(mean).mul_(scale)

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return dict(vars(self))
