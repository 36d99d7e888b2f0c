"""Intensity normalisation, with statistics from training groups alone.

=============  ================================================================================================================
dataset        z-score (x - mean) / (std + eps) with the population standard deviation of the training patches (DynaMorph)
patch          the same with each patch's own mean and standard deviation; hides differences of brightness and contrast
zero_one       each patch's own lowest and highest pixel become 0 and 1; a single hot pixel sets the scale, contrast partly stays
minus_one_one  the same, but -1 and 1 (the kikuchi reference's); a constant patch becomes 0
gauss          each channel's lowest and highest training pixel become 0 and 100 (the partitions reference's Gaussian treatment)
bern           1 above the channel's training mean, else 0 (its Bernoulli treatment)
none           as it is
=============  ================================================================================================================

Before any of them, intensities may be cut at a percentile of the training pixels and compressed by arcsinh(x / cofactor), as is
usual for the skewed markers of mass cytometry (Bendall et al. 2011, doi:10.1126/science.1198704).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microlatent.data.store import Moments

EPS = 2.220446049250313e-16  # a constant patch becomes 0, not NaN
BINS = 1 << 16
PER_PATCH_RANGE = {"zero_one": (0.0, 1.0), "minus_one_one": (-1.0, 1.0)}

Blocks = Callable[
    [], Iterator[np.ndarray]
]  # reads the training patches (n, C, *space) a block at a time, as often as it is called


@dataclass
class Normaliser:
    """How pixels become model input; stored in every checkpoint and used again at inference."""

    mode: str  # dataset, patch, zero_one, minus_one_one, gauss, bern, none
    channels: list[str]
    mean: list[float]  # per channel, after cutting and arcsinh; used by dataset and bern
    std: list[float]
    low: list[float] | None = None  # the same; used by gauss
    high: list[float] | None = None
    cofactor: float | None = None  # of the arcsinh
    ceiling: list[float] | None = None  # counts at which each channel is cut

    @classmethod
    def fit(
        cls,
        mode: str,
        channels: list[str],
        moments: Moments,
        blocks: Blocks,
        *,
        cofactor: float | None = None,
        percentile: float | None = None,
    ) -> Normaliser:
        """Measure the training patches.

        Parameters
        ----------
        moments
            Of the training patches, in counts.
        blocks
            Reads them; not called unless there is a cofactor or a percentile.
        percentile
            Of the training pixels of each channel, at which it is cut.

        Raises
        ------
        ValueError
            A channel is constant.
        """
        ceiling = _percentiles(moments, blocks, percentile) if percentile is not None else None
        self = cls(mode, list(channels), [], [], cofactor=cofactor, ceiling=ceiling)
        if cofactor or ceiling:
            squeezed = (self._squeeze(torch.from_numpy(block).float()).numpy() for block in blocks())
            moments = Moments.join([Moments.of(block) for block in squeezed])
        # All patches have the same number of pixels, so variances within and between patches simply add. Constant (empty)
        # patches do not count for the z-score, as at DynaMorph; they do for the threshold.
        for channel in range(len(channels)):
            mean, std = moments.mean[:, channel], moments.std[:, channel]
            counted = std > 0 if mode != "bern" and (std > 0).any() else np.ones(len(std), bool)
            centre = mean[counted].mean()
            self.mean.append(float(centre))
            self.std.append(float(np.sqrt((std[counted] ** 2 + (mean[counted] - centre) ** 2).mean())))
        self.low, self.high = moments.low.min(0).tolist(), moments.high.max(0).tolist()
        flat = [name for name, low, high in zip(channels, self.low, self.high, strict=True) if not low < high]
        if flat and mode in ("dataset", "gauss", "bern"):
            cut = f" after it was cut at data.clip_percentile={percentile}" if ceiling else ""
            raise ValueError(
                f"Channel {', '.join(flat)} is constant in all {len(moments.mean)} training patches{cut}, so "
                f"data.normalise={mode} cannot scale it. Leave it out with data.channels=[...]"
                + (", raise data.clip_percentile," if ceiling else "")
                + " or set data.normalise=none."
            )
        return self

    def apply(self, x: Tensor) -> Tensor:
        """Normalise float32 patches (B, C, *space) in place where possible and return them."""
        x, space = self._squeeze(x), tuple(range(2, x.ndim))
        if self.mode == "none":
            return x
        if self.mode == "patch":
            centred = x - x.mean(space, keepdim=True)
            return centred / (centred.square().mean(space, keepdim=True).sqrt() + EPS)
        if self.mode in PER_PATCH_RANGE:
            low, high = PER_PATCH_RANGE[self.mode]
            bottom = x.amin(space, keepdim=True)
            span = x.amax(space, keepdim=True) - bottom
            scaled = (x - bottom) / span.clamp(min=EPS) * (high - low) + low
            return scaled.where(span > 0, scaled.new_zeros(()))
        if self.mode == "bern":
            return (x > self._planes(self.mean, x)).float()
        offset, scale = self._line(x)
        return x.sub_(offset).mul_(1.0 / scale)

    def invert(self, x: Tensor) -> Tensor:
        """Return counts from what a model made in normalised units; what was cut off stays at its ceiling.

        Raises
        ------
        ValueError
            Nothing leads back from ``bern`` and from what each patch was scaled by itself.
        """
        if self.mode in ("patch", "bern", *PER_PATCH_RANGE):
            raise ValueError(f"data.normalise={self.mode} cannot be undone: counts follow from dataset, gauss and none alone.")
        if self.mode != "none":
            offset, scale = self._line(x)
            x = x * scale + offset
        return x.sinh() * self.cofactor if self.cofactor else x

    def _squeeze(self, x: Tensor) -> Tensor:
        if self.ceiling:
            x = x.minimum(self._planes(self.ceiling, x))
        return (x / self.cofactor).asinh_() if self.cofactor else x

    def _line(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and scale of dataset and gauss, (C, 1, ...) each."""
        if self.mode == "dataset":
            return self._planes(self.mean, like), self._planes(self.std, like) + EPS
        low, high = self._planes(self.low, like), self._planes(self.high, like)
        return low, (high - low) / 100

    @staticmethod
    def _planes(values: list[float] | None, like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device).view(-1, *[1] * (like.ndim - 2))

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return dict(vars(self))


def _percentiles(moments: Moments, blocks: Blocks, percentile: float) -> list[float]:
    """Percentile of the pixels of each channel: exact for counts up to 65535, else to 1/65536 of the range of arcsinh(x)."""
    low, high = moments.low.min(0), moments.high.max(0)
    num_channels = len(low)
    counts, whole = np.zeros((num_channels, BINS), np.int64), True
    a, b = np.arcsinh(low), np.arcsinh(high)
    width = np.where(a < b, b - a, 1.0)  # a constant channel falls into the first bin
    for block in blocks():
        whole = block.dtype.kind == "u" and block.dtype.itemsize <= 2
        for channel in range(num_channels):
            pixels = block[:, channel].ravel()
            if not whole:  # arcsinh, because the markers' long tails would leave most bins empty
                bins = (np.arcsinh(pixels, dtype=np.float64) - a[channel]) / width[channel] * (BINS - 1)
                pixels = bins.round().clip(0, BINS - 1).astype(np.int64)
            counts[channel] += np.bincount(pixels, minlength=BINS)
    rank = np.ceil(percentile / 100 * counts.sum(1)).astype(np.int64)
    place = np.array([np.searchsorted(np.cumsum(row), max(1, wanted)) for row, wanted in zip(counts, rank, strict=True)])
    cut = place if whole else np.where(a < b, np.sinh(a + place / (BINS - 1) * width), low)
    return cut.astype(float).tolist()
