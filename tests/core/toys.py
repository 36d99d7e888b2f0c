"""A plugin: two kinds of data with targets and weights, and a model that predicts, in two and in three dimensions."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import nn

from microlatent.config import register
from microlatent.data.source import TableSource
from microlatent.losses import Losses
from microlatent.metrics import register_metric


@dataclass(kw_only=True)
class ToyDataConfig:
    """Images or volumes made up on the spot."""

    name: str = "toy_images"
    channels: list[str] | None = None
    normalise: str = "dataset"
    split_by: str = "sample"
    val_share: float = 0.2
    test_share: float = 0.2
    augment: bool = True
    num: int = 40


class Toys(TableSource):
    """Samples in memory, with targets and weights."""

    split_levels: ClassVar = {"sample": ("key",)}
    independent_unit = "sample"

    def __init__(self, x, y, weight, channels, target_channels, augment):
        table = pd.DataFrame({"key": [f"s{number:02d}" for number in range(len(x))]})
        super().__init__(table, channels, x.shape[2:], {"toys": str(x.sum())}, target_channels=target_channels, augment=augment)
        self.x, self.y, self.weight = x, y, weight

    def read(self, rows):
        """Return samples."""
        return self.x[rows]

    def read_target(self, rows, needs):
        """Return targets and weights."""
        return self.y[rows], self.weight[rows]


def open_images(settings):
    """Two channels, of whose blurred difference the target is."""
    x = np.random.default_rng(0).gamma(2.0, size=(settings.data.num, 2, 8, 8)).astype(np.float32)
    y = (x[:, :1] - x[:, 1:] + np.roll(x[:, :1], 1, 2) + np.roll(x[:, :1], 1, 3)).astype(np.float32)
    weight = np.ones_like(y)
    weight[:, :, :, 6:] = 0  # where the target says nothing
    y[:, :, :, 6:] = 1e3
    return Toys(x, y, weight, ["phase", "retardance"], ["nuclei"], settings.data.augment)


def open_volumes(settings):
    """One channel; the targets are whether a voxel is as bright as its neighbour along each axis."""
    x = np.random.default_rng(1).integers(0, 2, size=(settings.data.num, 1, 4, 8, 8)).astype(np.uint8)
    y = np.concatenate([x == np.roll(x, 1, axis) for axis in (2, 3, 4)], 1)
    return Toys(x, y, np.ones_like(y[:, :1]), ["membrane"], ["z", "y", "x"], settings.data.augment)


@dataclass(kw_only=True)
class ToyNetConfig:
    """Two convolutions."""

    name: str = "toy_net"
    width: int = 4


class ToyNet(nn.Module):
    """Takes images and volumes of any size."""

    def __init__(self, config, channels, shape, target_channels):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if len(shape) == 2 else (nn.Conv3d, nn.BatchNorm3d)
        layers = (
            conv(channels, config.width, 3, padding=1, bias=False),
            norm(config.width),
            nn.ReLU(),
            conv(config.width, target_channels, 1),
        )
        self.layers = nn.Sequential(*layers)

    def predict(self, x):
        """Return the target's channels."""
        return self.layers(x)

    def loss(self, batch, step):
        """Return the weighted squared error."""
        errors = (batch.weight * (self.layers(batch.x) - batch.y).square()).flatten(1)
        mse = (errors.sum(1) / batch.weight.expand_as(batch.y).flatten(1).sum(1)).mean()
        return Losses({"total": mse, "mse": mse}, {})


def likeness(model, batch):
    """Correlation of target and prediction in each sample."""
    both = [(image * batch.weight).flatten(1) for image in (batch.y, model.predict(batch.x))]
    return F.cosine_similarity(*(one - one.mean(1, keepdim=True) for one in both))


def worst(model, batch):
    """Largest error in each sample."""
    return (batch.weight * (batch.y - model.predict(batch.x))).abs().flatten(1).amax(1)


register("data", "toy_images", ToyDataConfig, "tests.core.toys:open_images")
register("data", "toy_volumes", ToyDataConfig, "tests.core.toys:open_volumes")
register("model", "toy_net", ToyNetConfig, "tests.core.toys:ToyNet")
register_metric("likeness", "likeness to the target", better="higher", measure="tests.core.toys:likeness", wants=("predict",))
register_metric("worst", "largest error", measure="tests.core.toys:worst", when="end", wants=("predict",))
