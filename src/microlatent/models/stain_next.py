"""ConvNeXt for virtual staining: the planes of a stack are folded into channels, so that it costs as little as one image.

The stem takes squares of ``stem_px`` pixels over all planes at once; blocks of depthwise 7 x 7 convolutions work on their
features and on halvings of them; the head unfolds each feature vector into the square's pixels, of one plane or of all.

Shapes: B samples, C channels, K target channels, Z planes, Y rows, X columns.
Source: Liu et al. 2022, arXiv:2201.03545 (blocks); Shi et al. 2016, arXiv:1609.05158 (head).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent.models.staining import ChannelNorm, Interval, Staining
from microlatent.schemas.model import StainNextConfig

BLOCKS = 2  # at each level of the encoder; one on the way back
EXPANSION = 4  # of the features inside of a block


def make_norm(kind: str, width: int) -> nn.Module:
    """Return the norm that ``model.norm`` names."""
    return nn.BatchNorm2d(width) if kind == "batch" else ChannelNorm(width)


class Block(nn.Module):
    """What a depthwise convolution and two layers on each pixel add to their input."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False),
            make_norm(norm, width),
            nn.Conv2d(width, EXPANSION * width, 1),
            nn.GELU(),
            nn.Conv2d(EXPANSION * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the input with what was added."""
        return x + self.layers(x)


class Unfold(nn.Module):
    """The head: feature vectors to squares of pixels, of one plane or of several."""

    def __init__(self, width: int, channels: int, planes: int | None, stem_px: int) -> None:
        super().__init__()
        self.shape = (channels, *(() if planes is None else (planes,)))
        self.conv = nn.Conv2d(width, channels * (planes or 1) * stem_px**2, 1)
        self.shuffle = nn.PixelShuffle(stem_px)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K, Y, X) or (B, K, Z, Y, X)."""
        return self.shuffle(self.conv(x)).unflatten(1, self.shape)


class StainNext(Staining):
    """Stem, encoder of halvings, decoder with what was there before each of them, head."""

    config: StainNextConfig

    def build(self) -> int:
        """Make the stem and the stages."""
        config = self.config
        self.stride = config.stem_px * 2**config.depth
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        stages = []
        for level, width in enumerate(widths):
            if level:
                enter = nn.Sequential(
                    make_norm(config.norm, widths[level - 1]), nn.Conv2d(widths[level - 1], width, 2, stride=2, bias=False)
                )
            else:
                inputs = self.channels * (config.planes or 1)
                enter = nn.Sequential(
                    nn.Conv2d(inputs, width, config.stem_px, stride=config.stem_px, bias=False), make_norm(config.norm, width)
                )
            stages.append(nn.Sequential(enter, *(Block(width, config.norm) for _ in range(BLOCKS))))
        self.encoder = nn.ModuleList(stages)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(widths[k + 1] + widths[k], widths[k], 1), Block(widths[k], config.norm))
            for k in reversed(range(config.depth))
        )
        return config.width

    def make_head(self, width: int, channels: int) -> nn.Module:
        """Return what unfolds the features into one plane, or into all where they are asked for."""
        has_planes = self.config.dims == "3" or (self.config.dims == "2.5" and self.is_masked)
        return Unfold(width, channels, self.config.planes if has_planes else None, self.config.stem_px)

    def network(self, x: Tensor) -> Tensor:
        """Return the features of each square."""
        x = x.flatten(1, 2) if x.ndim == 5 else x
        known = []
        for stage in self.encoder:
            x = stage(x)
            known.append(x)
        for stage, skip in zip(self.decoder, known[-2::-1], strict=True):
            x = stage(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], 1))
        return x

    def reach(self, pixels: Interval) -> Interval:
        """Return the pixels of a row of the input that some of the output depend on, through the deepest level."""
        config, radius = self.config, 3
        first, last = (pixel // config.stem_px for pixel in pixels)
        for _ in range(config.depth):
            first, last = (first - radius) // 2, (last + radius) // 2
        for level in range(config.depth + 1):
            first, last = first - BLOCKS * radius, last + BLOCKS * radius
            if level < config.depth:
                first, last = 2 * first, 2 * last + 1
        return config.stem_px * first, config.stem_px * last + config.stem_px - 1
