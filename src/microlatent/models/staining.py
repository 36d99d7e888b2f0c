"""What the models of virtual staining share: objectives, frames of any size, masked pre-training, a frozen encoder.

Every output pixel depends on a window of the input alone, ``receptive_field`` px wide, and on where it lies in a grid of
``stride`` px. So a frame may be cut into tiles that begin at multiples of the stride, with a halo of half the window, and the
prediction is that of the whole frame. This rules out norms that are taken over the pixels of a sample, such as group norm:
they would make every pixel depend on the whole frame. ``norm=batch`` has fixed numbers in evaluation, costs least, and wants
batches that hold several fields; ``norm=layer`` is taken over the channels of each pixel, knows no batch, and is what to
pre-train with, because hidden squares change the statistics of a batch.

Shapes: B samples, C channels, K target channels, Z planes, Y rows, X columns, N channels times planes.
Source: Woo et al. 2023, arXiv:2301.00808 (hidden squares).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent.contract import Batch
from microlatent.losses import Losses, correlation, correlation_sums, ms_ssim, refuse_small_crops, weighted_mse
from microlatent.schemas.model import StainConfig

Interval = tuple[int, int]  # first and last pixel of a row


class ChannelNorm(nn.LayerNorm):
    """Normalise the channels (axis 1) of each pixel, as ConvNeXt does."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, ...)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Staining(nn.Module):
    """A network from a label-free image to its stains; a subclass brings ``build``, ``network`` and ``reach``.

    Raises
    ------
    ValueError
        The samples have other axes than the model, or are too small for its loss.
    """

    labels: ClassVar = {"total": "total loss", "mse": "mean squared error\n(normalised units)"}
    capable_if: ClassVar = {"predict": {"objective": "translate"}, "reconstruct": {"objective": "masked"}}
    takes_what_fits = True  # init_from may lack its head, or have other channels
    encoder: nn.ModuleList
    decoder: nn.ModuleList
    stride: int  # px

    def __init__(self, config: StainConfig, channels: int, shape: tuple[int, ...], target_channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.is_masked = config.objective == "masked"
        space = shape if config.dims == "2" else shape[1:]
        if len(space) != 2 or (config.dims != "2" and shape[0] != config.planes):
            takes = "one plane" if config.dims == "2" else f"{config.planes} planes"
            raise ValueError(
                f"The samples are {' x '.join(map(str, shape))}, but model={config.name} with model.dims={config.dims} takes "
                f"{takes} of Y x X px. Change model.dims or model.planes."
            )
        if config.loss == "l1_msssim" and not self.is_masked:
            refuse_small_crops(shape, config.msssim_scales)
        self.needs = {"foreground"} if config.weight_foreground and not self.is_masked else set()
        width = self.build()
        # Of another objective the head is another one, under another name: fine-tuning begins with its own.
        self.head_name = "source_head" if self.is_masked else "head"
        self.add_module(self.head_name, self.make_head(width, channels if self.is_masked else target_channels))
        if config.freeze:
            self.encoder.requires_grad_(False)

    # ------------------------------------------------------------------------------- what a network brings

    def build(self) -> int:
        """Make ``encoder``, ``decoder`` and ``stride``; return the width of the features that the head gets."""
        raise NotImplementedError

    def make_head(self, width: int, channels: int) -> nn.Module:
        """Return the last layer, from ``width`` feature maps to images of so many channels."""
        raise NotImplementedError

    def network(self, x: Tensor) -> Tensor:
        """Return what the head gets, of images whose sides are multiples of the stride."""
        raise NotImplementedError

    def reach(self, pixels: Interval) -> Interval:
        """Return which pixels of a row of the input some pixels of the output depend on."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------------- use

    @property
    def receptive_field(self) -> int:
        """Side in px of the window around a pixel that holds all that it depends on, wherever it lies."""
        ends = [(pixel - first, last - pixel) for pixel in range(self.stride) for first, last in [self.reach((pixel, pixel))]]
        return 2 * max(map(max, ends)) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the head (B, K, *space) float32.

        Sides that are no multiple of the stride are made so at their ends, by repeating the last pixel. Sizes inside of the
        network then follow from the pixel's place, not from the frame's size, and tiles see the same as the frame.
        """
        *_, rows, columns = x.shape
        below, right = -rows % self.stride, -columns % self.stride
        if below or right:
            x = F.pad(x, (0, right, 0, below) + (0, 0) * (x.ndim - 4), mode="replicate")
        out = getattr(self, self.head_name)(self.network(x)).float()
        return out[..., :rows, :columns] if below or right else out

    def predict(self, x: Tensor) -> Tensor:
        """Return the stains (B, K, *space), normalised units; of one plane (B, K, Y, X) unless ``model.dims=3``."""
        with torch.no_grad():
            return self(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the input (B, C, *space) as told from its surroundings: each square from an image in which it is hidden."""
        rounds = max(2, round(1 / self.config.mask_ratio))
        groups_BYX, out = self._hidden(x, lambda num: self._fixed_order(num) % rounds), torch.zeros_like(x)
        with torch.no_grad():
            for number in range(rounds):
                mask = groups_BYX == number
                out = torch.where(mask, self(x.masked_fill(mask, 0)), out)
        return out

    def train(self, mode: bool = True) -> Staining:
        """Set the mode; a frozen encoder keeps the statistics of its norms."""
        super().train(mode)
        if self.config.freeze:
            self.encoder.eval()
        return self

    # ----------------------------------------------------------------------------------- objectives

    def loss(self, batch: Batch, step: int) -> Losses:
        """Compute the terms of the objective, means per sample, and what the correlation with the target is told from.

        ``translate``: ``mse``; with ``loss=l1_msssim`` also ``l1`` and ``msssim`` (1 - MS-SSIM); ``foreground_mse`` where it
        has a weight. ``masked``: ``masked_mse`` over the hidden squares, which are drawn in training and the same in evaluation.
        """
        return self._masked(batch.x) if self.is_masked else self._translated(batch)

    def _translated(self, batch: Batch) -> Losses:
        config, y = self.config, batch.y
        assert y is not None
        made = self(batch.x)
        terms = {"mse": (made - y).square().mean()}
        weights = {"mse": config.weight_mse}
        if config.loss == "l1_msssim":
            terms |= {"l1": (made - y).abs().mean(), "msssim": (1 - ms_ssim(made, y, config.msssim_scales)).mean()}
            weights = {"l1": config.weight_l1, "msssim": config.weight_msssim}
        if config.weight_foreground:
            if batch.weight is None:
                raise ValueError(
                    f"model.weight_foreground={config.weight_foreground} needs to know where the foreground is, but these data "
                    "do not say so. Leave it out, or choose data with a foreground."
                )
            terms["foreground_mse"] = weighted_mse(made, y, batch.weight)
            weights["foreground_mse"] = config.weight_foreground
        total = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        return Losses({"total": total, **terms}, correlation_sums(made, y))

    def _masked(self, x: Tensor) -> Losses:
        def drawn(num: int) -> Tensor:
            hidden = max(1, round(self.config.mask_ratio * num))
            if self.training:
                return torch.rand(len(x), num, device=x.device).argsort(1) < hidden
            return self._fixed_order(num) < hidden

        mask = self._hidden(x, drawn)
        error = weighted_mse(self(x.masked_fill(mask, 0)), x, mask.float())
        return Losses({"total": error, "masked_mse": error}, {})

    def _hidden(self, x: Tensor, choose: Callable[[int], Tensor]) -> Tensor:
        """Return what ``choose`` says of each square of the images ((B, num) or (num,)), for each pixel: as x, of one channel."""
        side = self.config.mask_px
        grid = [-(-size // side) for size in x.shape[-2:]]
        values = choose(grid[0] * grid[1]).to(x.device).view(-1, *grid)
        values = values.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : x.shape[-2], : x.shape[-1]]
        return values.view(-1, *[1] * (x.ndim - 3), *x.shape[-2:])

    @staticmethod
    def _fixed_order(num: int) -> Tensor:
        """Return the squares' numbers in an order that is always the same, for evaluation."""
        return torch.randperm(num, generator=torch.Generator().manual_seed(0))

    def end_epoch(self, tallies: dict[str, Tensor], training: bool) -> tuple[dict[str, Any], list[str]]:
        """Return ``pearson``, the mean over target channels of the correlation over all pixels, and each of them."""
        if self.is_masked:
            return {}, []
        by_channel = correlation(tallies)
        return {"pearson": float(by_channel.mean()), "pearson_per_target": by_channel.tolist()}, []
