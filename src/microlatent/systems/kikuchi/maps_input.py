"""What ``task=maps`` starts from on scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from microlatent.data.latents import Latents
from microlatent.systems.kikuchi.draw_maps import Window

if TYPE_CHECKING:
    from microlatent.systems.kikuchi.maps_patterns import Pictures


class MapsInput(NamedTuple):
    """Latents, the drawn part of every scan, and the model."""

    latents: Latents
    windows: list[Window]
    dims: list[int]  # mapped
    pictures: Pictures | None  # the model and its patterns; None without a run

    @property
    def rows(self) -> np.ndarray:
        """Return the positions in the table of the points of the chosen scans."""
        return np.concatenate([window.scan.rows for window in self.windows])

    def train(self) -> np.ndarray:
        """Return the training points of the chosen scans; all of them where these are of no training part."""
        train = np.intersect1d(self.latents.training_rows(), self.rows)
        return train if len(train) > 1 else self.rows
