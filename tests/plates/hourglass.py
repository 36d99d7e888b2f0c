"""A plugin: a small convolutional network that predicts a target, of a plane, of a stack to its middle plane, or of a stack."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from microlatent.config import register
from microlatent.losses import Losses


@dataclass(kw_only=True)
class HourglassConfig:
    """Two halvings."""

    name: str = "hourglass"
    planes: int = 1
    all_planes: bool = False

    @property
    def predicts_all_planes(self):
        """Whether the output has the planes of the input."""
        return self.all_planes


class Hourglass(nn.Module):
    """Convolutions at full resolution and after each halving; takes frames of any size."""

    stride, receptive_field = 4, 57

    def __init__(self, config, channels, shape, target_channels):
        super().__init__()
        self.planes, self.all_planes = config.planes, config.all_planes
        self.down = nn.ModuleList([nn.Conv2d(channels * config.planes, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)])
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ModuleList([nn.Conv2d(12, 6, 3, padding=1) for _ in range(2)])
        self.head = nn.Conv2d(6, target_channels * (config.planes if config.all_planes else 1), 1)

    def forward(self, x):
        """Return (B, K, Y, X), or (B, K, Z, Y, X) of all planes."""
        *_, rows, columns = x.shape
        x = F.pad(x.flatten(1, -3), (0, -columns % 4, 0, -rows % 4), mode="replicate")
        known = []
        for layer in self.down:
            x = F.gelu(layer(x))
            known.append(x)
            x = F.max_pool2d(x, 2)
        x = F.gelu(self.middle(x))
        for layer, skip in zip(self.up, known[::-1], strict=True):
            x = F.gelu(layer(torch.cat([F.interpolate(x, scale_factor=2.0, mode="bilinear"), skip], 1)))
        x = self.head(x)[..., :rows, :columns]
        return x.unflatten(1, (-1, self.planes)) if self.all_planes else x

    def predict(self, x):
        """Return the same without gradients."""
        with torch.no_grad():
            return self(x)

    def loss(self, batch, step):
        """Return the mean squared error."""
        mse = (self(batch.x) - batch.y).square().mean()
        return Losses({"total": mse, "mse": mse}, {})


register("model", "hourglass", HourglassConfig, "tests.plates.hourglass:Hourglass")
