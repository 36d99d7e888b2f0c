"""Where crops are cut: anywhere in a field, or where a target is likely foreground, and never over pixels that are not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

from microlatent.systems.plates.fields import Field
from microlatent.systems.plates.schema import PlatesConfig
from microlatent.systems.plates.staging import Pixels
from microlatent.systems.plates.statistics import LOW_PX

TRIES = 64  # places looked at for a crop in the foreground
NUMBERS = 4 + 3 * TRIES  # from 0 to 1, that a place is drawn by
DRAW = 5  # of the streams of random numbers


class Place(NamedTuple):
    """Where a crop is cut: the middle of its planes, or their first where all are the target, and its first pixel."""

    t: int
    z: int
    y: int
    x: int


class Places:
    """Draws places in fields, which are known by their numbers.

    Parameters
    ----------
    used, targets
        Channels in the order of the pixels, and those that tell what is foreground.
    pixels, thresholds
        Return the pixels of a field, and the values (K,) above which its targets are foreground.
    """

    def __init__(
        self,
        config: PlatesConfig,
        fields: Sequence[Field],
        used: Sequence[str],
        targets: Sequence[str],
        pixels: Callable[[int], Pixels],
        thresholds: Callable[[int], np.ndarray],
    ) -> None:
        self.config, self.fields, self.used, self.targets = config, fields, list(used), list(targets)
        self.pixels, self.thresholds = pixels, thresholds
        self.planes, self.all_planes = config.planes or 1, bool(config.all_planes)
        self._fixed: dict[tuple[int, int], Place] = {}
        self._valid: dict[int, np.ndarray] = {}

    def fixed(self, number: int, crop: int) -> Place:
        """Return where a crop is cut out of training: windows are spread over the field's planes and time points."""
        if (number, crop) not in self._fixed:
            random = np.random.default_rng([DRAW, xxhash.xxh32_intdigest(self.fields[number].name.encode()), crop])
            times, windows = self.windows(number)
            at = crop % (times * windows) if self.config.crops >= times * windows else crop * times * windows // self.config.crops
            self._fixed[number, crop] = self.drawn(number, random.random(NUMBERS), divmod(at, windows))
        return self._fixed[number, crop]

    def windows(self, number: int) -> tuple[int, int]:
        """Return how many time points a field has, and how many windows of planes in each."""
        times, _, planes, *_ = self.fields[number].image.shape
        return times, max(1, planes - self.planes + 1) if self.all_planes else planes

    def drawn(self, number: int, u: np.ndarray, at: tuple[int, int] | None = None) -> Place:
        """Choose a place by numbers drawn from 0 to 1: four, and three for each try; at a given time point and window, or any."""
        times, windows = self.windows(number)
        t, z = at or divmod(int(u[0] * times * windows), windows)
        side, (rows, columns) = self.config.crop_px, self.fields[number].image.shape[3:]
        pixels, tries = self.pixels(number), u[4:].reshape(TRIES, 3)
        in_foreground = u[1] < self.config.foreground and bool(self.targets)
        if not pixels.is_whole:
            valid = self.whole(number)
            chosen = valid[(tries[:, 0] * len(valid)).astype(int)]
            if in_foreground:
                middle = (chosen[:, 2:] + side // 2) // LOW_PX
                chosen = chosen[[self._first(number, chosen[:, 0], self._middle(number, chosen[:, 1]), middle, tries[:, 2])]]
            return Place(*chosen[0].tolist())
        if not in_foreground:
            return Place(t, z, int(u[2] * (rows - side + 1)), int(u[3] * (columns - side + 1)))
        small = np.array(pixels.low.shape[3:])
        squares = (tries[:, :2] * small).astype(int)
        best = squares[self._first(number, t, self._middle(number, z), squares, tries[:, 2])]
        corner = best * LOW_PX + LOW_PX // 2 - (u[2:4] * side).astype(int)  # the square lies anywhere in the crop
        return Place(t, z, *np.clip(corner, 0, [rows - side, columns - side]).tolist())

    def _first(self, number: int, t: Any, z: Any, squares: np.ndarray, u: np.ndarray) -> int:
        """Return the first of some squares (n, 2) that passes as foreground, else the likeliest."""
        low = self.pixels(number).low
        channels = [self.used.index(name) for name in self.targets]
        around = squares[:, :, None] + np.array([-1, 0, 1])
        y, x = (around[:, k].clip(0, low.shape[3 + k] - 1) for k in (0, 1))
        t, z = (np.broadcast_to(one, len(squares))[:, None, None] for one in (t, z))
        likely = np.zeros(len(squares))
        for channel, threshold in zip(channels, self.thresholds(number), strict=True):
            likely = np.maximum(likely, (low[channel, t, z, y[:, :, None], x[:, None, :]] > threshold).mean((1, 2)))
        passing = np.flatnonzero(u < likely)
        return int(passing[0] if len(passing) else likely.argmax())

    def _middle(self, number: int, z: Any) -> Any:
        last = self.fields[number].image.shape[2] - 1
        return np.minimum(z + self.planes // 2, last) if self.all_planes else z

    def whole(self, number: int) -> np.ndarray:
        """Return places (n, 4) whose crops have no unknown pixel, of a field that has some.

        Raises
        ------
        ValueError
            There is none.
        """
        if number not in self._valid:
            low, side = self.pixels(number).low, self.config.crop_px
            unknown = np.isnan(low[0])  # the same in all channels
            corners = [np.arange(0, size - side + 1, max(LOW_PX, side // 4)) for size in self.fields[number].image.shape[3:]]
            found = []
            times, windows = self.windows(number)
            for t, z in np.ndindex(times, windows):
                bad = unknown[t, self.window(number, z)].any(0)
                upto = np.pad(bad.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
                y, x = (grid.ravel() for grid in np.meshgrid(*corners, indexing="ij"))
                y0, x0, y1, x1 = y // LOW_PX, x // LOW_PX, -(-(y + side) // LOW_PX), -(-(x + side) // LOW_PX)
                whole = upto[y1, x1] - upto[y0, x1] - upto[y1, x0] + upto[y0, x0] == 0
                found.append(np.stack([np.full_like(y, t), np.full_like(y, z), y, x], 1)[whole])
            self._valid[number] = np.concatenate(found)
            if not len(self._valid[number]):
                field = self.fields[number]
                raise ValueError(
                    f"{field.image.path} has no crop of {side} x {side} px and {self.planes} planes without pixels that are NaN "
                    "or were never written. Lower data.crop_px, copy the field again, or take it out of the plate's metadata."
                )
        return self._valid[number]

    def window(self, number: int, z: int) -> np.ndarray:
        """Return the planes of a window; beyond the first and the last they are mirrored."""
        first = z if self.all_planes else z - self.planes // 2
        return mirrored(np.arange(first, first + self.planes), self.fields[number].image.shape[2])


def mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Return places on an axis of a size, those beyond its ends mirrored at the first and last."""
    if size == 1:
        return np.zeros_like(places)
    period = 2 * (size - 1)
    places = np.abs(places) % period
    return np.where(places < size, places, period - places)
