"""U-Net for virtual staining: of a plane, of a stack to its middle plane, or of a stack to a stack.

``dims=2.5`` takes the planes as channels of one image. ``dims=3`` halves rows and columns alone, because planes are few and far
apart: convolutions are (1, 3, 3) at full resolution and (3, 3, 3) below, and every plane of the input is predicted.

Shapes: B samples, C channels, K target channels, Z planes, Y rows, X columns.
Source: Ronneberger, Fischer, Brox 2015, arXiv:1505.04597; Cicek et al. 2016, arXiv:1606.06650 (volumes).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent.models.staining import ChannelNorm, Interval, Staining


class Block(nn.Sequential):
    """Two convolutions of 3 x 3 pixels, each with its norm and ReLU; ``across`` planes where there are any."""

    def __init__(self, channels: int, width: int, norm: str, across: int | None) -> None:
        conv, batch_norm = (nn.Conv2d, nn.BatchNorm2d) if across is None else (nn.Conv3d, nn.BatchNorm3d)
        kernel: Any = (3, 3) if across is None else (across, 3, 3)
        padding: Any = tuple(side // 2 for side in kernel)
        layers: list[nn.Module] = []
        for before in (channels, width):
            layers.append(conv(before, width, kernel, padding=padding, bias=False))
            layers += [batch_norm(width) if norm == "batch" else ChannelNorm(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class StainUNet(Staining):
    """Blocks at full resolution and after each halving, and the same on the way back with what was there before it."""

    def build(self) -> int:
        """Make the blocks."""
        config, is_3d = self.config, self.config.dims == "3"
        self.stride = 2**config.depth
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        maps = [self.channels * (config.planes or 1 if config.dims == "2.5" else 1), *widths]
        across = [(1 if level == 0 else 3) if is_3d else None for level in range(config.depth + 1)]
        self.encoder = nn.ModuleList(Block(maps[k], maps[k + 1], config.norm, across[k]) for k in range(config.depth + 1))
        self.decoder = nn.ModuleList(
            Block(widths[k + 1] + widths[k], widths[k], config.norm, across[k]) for k in reversed(range(config.depth))
        )
        self.halve, self.mode = (F.max_pool3d, "trilinear") if is_3d else (F.max_pool2d, "bilinear")
        self.twice = (1, 2, 2) if is_3d else (2, 2)
        return config.width

    def make_head(self, width: int, channels: int) -> nn.Module:
        """Return a convolution of one pixel; ``dims=2.5`` gives the planes of the input back as channels."""
        if self.config.dims == "3":
            return nn.Conv3d(width, channels, 1)
        if self.config.dims == "2.5" and self.is_masked:
            planes = self.config.planes or 1
            return nn.Sequential(nn.Conv2d(width, channels * planes, 1), nn.Unflatten(1, (channels, planes)))
        return nn.Conv2d(width, channels, 1)

    def network(self, x: Tensor) -> Tensor:
        """Return the features at full resolution."""
        if self.config.dims == "2.5":
            x = x.flatten(1, 2)
        known = []
        for level, block in enumerate(self.encoder):
            x = block(self.halve(x, self.twice) if level else x)
            known.append(x)
        for block, skip in zip(self.decoder, known[-2::-1], strict=True):
            scale = tuple(map(float, self.twice))
            x = block(torch.cat([F.interpolate(x, scale_factor=scale, mode=self.mode, align_corners=False), skip], 1))
        return x

    def reach(self, pixels: Interval) -> Interval:
        """Return the pixels of a row of the input that some of the output depend on, through the deepest level."""
        first, last = pixels
        for _ in range(self.config.depth):  # a block reaches 2 px to each side, and twice the size is told from two neighbours
            first, last = (first - 2 - 1) // 2, (last + 2 + 1) // 2
        first, last = first - 2, last + 2
        for _ in range(self.config.depth):
            first, last = 2 * first - 2, 2 * last + 1 + 2
        return first, last
