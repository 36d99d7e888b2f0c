"""A plugin: stacks of planes with a target in every plane or in the middle one, and where the foreground is."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from microlatent.config import register
from microlatent.data.source import TableSource

PLANES, SIDE_PX = 3, 24


@dataclass(kw_only=True)
class StacksConfig:
    """Stacks made up on the spot."""

    name: str = "toy_stacks"
    channels: list[str] | None = None
    normalise: str = "dataset"
    split_by: str = "sample"
    val_share: float = 0.2
    test_share: float = 0.2
    augment: bool = True
    num: int = 40


class Stacks(TableSource):
    """Samples in memory; the foreground is for those who ask."""

    split_levels: ClassVar = {"sample": ("key",)}
    independent_unit = "sample"

    def __init__(self, x, y, foreground, augment):
        table = pd.DataFrame({"key": [f"s{number:02d}" for number in range(len(x))]})
        targets = None if y is None else ["nuclei", "membrane"]
        super().__init__(table, ["phase"], x.shape[2:], {"stacks": str(x.sum())}, target_channels=targets, augment=augment)
        self.x, self.y, self.foreground = x, y, foreground

    def read(self, rows):
        """Return samples."""
        return self.x[rows]

    def read_target(self, rows, needs):
        """Return targets and the foreground."""
        return None if self.y is None else self.y[rows], self.foreground[rows] if "foreground" in needs else None


def open_stacks(settings):
    """One channel; the targets are it, blurred, and its negative. The model says which planes go in and out."""
    model = settings.model
    x = np.random.default_rng(0).normal(size=(settings.data.num, 1, PLANES, SIDE_PX, SIDE_PX)).astype(np.float32)
    y = np.concatenate([sum(np.roll(x, shift, axis) for axis in (3, 4) for shift in (-1, 0, 1)) / 3, -x], 1)
    foreground = (x > 0).astype(np.float32)
    if model.dims == "2":
        x = x[:, :, PLANES // 2]
    if not model.predicts_all_planes:
        y, foreground = y[:, :, PLANES // 2], foreground[:, :, PLANES // 2]
    return Stacks(x, None if settings.data.name == "toy_unstained" else y, foreground, settings.data.augment)


register("data", "toy_stacks", StacksConfig, "tests.models.stacks:open_stacks")
register("data", "toy_unstained", StacksConfig, "tests.models.stacks:open_stacks")
