"""The patterns of a scan, made ready block by block: however many rows the map has, memory holds about three of them.

The steps, in this order: crop, static background, dynamic background, bin, average with neighbours, circular mask. What each of
them hides stands in ``preprocessing.py``. Image quality is that of the pattern after its backgrounds are gone, and the
similarity to neighbours that of the binned patterns; neither sees the averaging, which would raise both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from microlatent.systems.kikuchi import preprocessing

if TYPE_CHECKING:
    from microlatent.systems.kikuchi.ebsd import Scan
    from microlatent.systems.kikuchi.schema import AssembleKikuchiConfig

log = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20  # of float32 patterns that are corrected at a time
BLOCK_BYTES = 64 << 20  # of patterns that are handed out at a time


class Corrected(NamedTuple):
    """Some patterns without backgrounds, binned."""

    x: Tensor  # (n, h, w); 0 where bad
    image_quality: Tensor  # (n,) NaN where bad
    bad: Tensor  # (n,) bool


class Band(NamedTuple):
    """A few rows of the map, all of their columns."""

    x: Tensor  # (rows, cols, h, w); 0 where there is no good pattern
    present: Tensor  # (rows, cols) bool: a pattern is there, and good
    positions: np.ndarray  # (n,) of its points in ``scan.points``
    places: tuple[np.ndarray, np.ndarray]  # row in the band and column (n,) of those points
    image_quality: np.ndarray  # (n,)


class Preprocessing:
    """The steps that the settings ask for, settled for one scan.

    Parameters
    ----------
    scan
        An EBSD scan with patterns.
    task
        Settings of ``task=assemble``.

    Raises
    ------
    ValueError
        The scan has no patterns, or the settings ask for what they do not allow.
    """

    def __init__(self, scan: Scan, task: AssembleKikuchiConfig) -> None:
        if scan.pattern_shape is None:
            raise ValueError(
                f"{scan.path} ({scan.format}) is a map without patterns. Name a file with patterns in data.root, and this one "
                "in data.maps."
            )
        self.scan, self.task = scan, task
        self.crop = self._settle_crop()
        shape = self.crop[1] - self.crop[0], self.crop[3] - self.crop[2]
        if task.bin > min(shape):
            raise ValueError(
                f"task.bin is {task.bin}, but the patterns of {scan.path} have {shape[0]} x {shape[1]} px. "
                f"Use at most {min(shape)}."
            )
        self.shape_px = shape[0] // task.bin, shape[1] // task.bin
        self.static = self._settle_static()
        self.dynamic_std_px = task.dynamic_std_px or shape[1] / 8
        self._chunk = max(1, CHUNK_BYTES // (4 * shape[0] * shape[1]))

    def _settle_crop(self) -> tuple[int, int, int, int]:
        h, w = self.scan.pattern_shape
        if self.task.crop is None:
            return 0, h, 0, w
        top, bottom, left, right = self.task.crop
        if top < 0 or left < 0 or bottom > h or right > w:
            raise ValueError(
                f"task.crop is {list(self.task.crop)} (top, bottom, left, right), but the patterns of {self.scan.path} have "
                f"{h} rows and {w} columns. Stay inside [0, {h}, 0, {w}]."
            )
        return top, bottom, left, right

    def _settle_static(self) -> str:
        """Return subtract, divide or none, and keep the background, cropped."""
        asked, scan = self.task.static_background, self.scan
        if asked == "auto":
            asked = "none" if scan.static_background is None or scan.background_corrected else "subtract"
        self.background = None
        if asked == "none":
            return asked
        if scan.static_background is None:
            raise ValueError(
                f"task.static_background={asked}, but {scan.path} ({scan.format}) holds no static background. Use auto or none."
            )
        if tuple(scan.static_background.shape) != tuple(scan.pattern_shape):
            raise ValueError(
                f"The static background of {scan.path} has {' x '.join(map(str, scan.static_background.shape))} px, but its "
                f"patterns have {' x '.join(map(str, scan.pattern_shape))}. Use task.static_background=none."
            )
        if scan.background_corrected:
            log.warning("%s says that its static background is removed already: it is now removed twice.", scan.path)
        background = torch.from_numpy(np.ascontiguousarray(scan.static_background, np.float32))
        self.background = preprocessing.crop(background, *self.crop)
        if asked == "divide" and float(self.background.min()) <= 0:
            raise ValueError(
                f"task.static_background=divide, but the static background of {scan.path} has "
                f"{int((self.background <= 0).sum())} pixels that are not above 0. Use subtract, or cut them off with task.crop."
            )
        return asked

    def describe(self) -> dict[str, object]:
        """Return what was settled, for the store's origin and for reports."""
        task = self.task
        return {
            "crop": list(self.crop),
            "static_background": self.static,
            "dynamic_background": task.dynamic_background,
            "dynamic_std_px": self.dynamic_std_px if task.dynamic_background != "none" else None,
            "average": task.average,
            "bin": task.bin,
            "mask": task.mask,
        }

    def memory_mb(self, neighbours: bool = True) -> float:
        """Return about how much ``blocks`` needs at its peak, with the interpreter; without neighbours, ``image_qualities``."""
        num, (rows, columns) = len(self.scan.points), self.scan.map_shape
        pattern_mb = 4e-6 * self.shape_px[0] * self.shape_px[1]
        raw_mb = 4e-6 * (self.crop[1] - self.crop[0]) * (self.crop[3] - self.crop[2])
        needed = 320 + 3e-6 * self.scan.points.memory_usage().sum() + 8 * min(self._chunk, num) * raw_mb
        if not neighbours:
            return needed
        height = min(rows, max(1, self._chunk // columns))
        seen = min(columns, max(1, self._chunk // height) + 2)
        handed_out = min(num, 2048, max(1, BLOCK_BYTES // int(1e6 * pattern_mb)))
        # Three bands, five copies of what is compared at a time, four of what is handed out.
        return needed + pattern_mb * (3 * height * columns + 5 * (height + 2) * seen + 4 * handed_out)

    @property
    def num_pieces(self) -> int:
        """Return how often ``image_qualities`` yields."""
        return -(-len(self.scan.points) // self._chunk)

    def image_qualities(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions in ``scan.points`` and image quality (n,), as ``blocks`` does, of some patterns after another.

        Needs no neighbours, so that memory does not grow with the width of the map.
        """
        for positions in self._pieces():
            yield positions, self._corrected(positions).image_quality.numpy()

    def blocks(self, max_points: int = 2048) -> Iterator[tuple[np.ndarray, np.ndarray, pd.DataFrame]]:
        """Yield all points in their order, at most ``max_points`` at a time, and fewer of large patterns.

        Yields
        ------
        positions
            (n,) in ``scan.points``.
        patterns
            (n, h, w) float32 of ``shape_px``; 0 where bad.
        extra
            image_quality and neighbour_similarity (NaN where bad; the latter also where no neighbour is present), and bad: a
            pattern that holds NaN or is constant, which is no neighbour of any point. All three in the order of positions.
        """
        max_points = max(1, min(max_points, BLOCK_BYTES // (4 * self.shape_px[0] * self.shape_px[1])))
        waiting, count = [], 0
        for positions, x, extra in self._finished():
            for first in range(0, len(positions), max_points):
                part = slice(first, first + max_points)
                if waiting and count + len(positions[part]) > max_points:
                    yield _joined(waiting)
                    waiting, count = [], 0
                waiting.append((positions[part], x[part], extra.iloc[part]))
                count += len(positions[part])
        if waiting:
            yield _joined(waiting)

    def _finished(self) -> Iterator[tuple[np.ndarray, np.ndarray, pd.DataFrame]]:
        """Yield the points of one band after another, compared and averaged with their neighbours, also in the bands beside."""
        above = here = None
        for below in chain(self._bands(), [None]):
            if here is not None and len(here.positions):
                yield from self._finish(above, here, below)
            above, here = here, below

    def _finish(
        self, above: Band | None, here: Band, below: Band | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, pd.DataFrame]]:
        """Yield the points of a band; where a row of the map is larger than a piece, some columns at a time."""
        width, step = here.present.shape[1], max(1, self._chunk // len(here.present))
        for left in range(0, width, step):
            seen = slice(max(0, left - 1), left + step + 1)
            parts = [(here.x[:, seen], here.present[:, seen])]
            if above is not None:
                parts.insert(0, (above.x[-1:, seen], above.present[-1:, seen]))
            if below is not None:
                parts.append((below.x[:1, seen], below.present[:1, seen]))
            x, present = (torch.cat(part) for part in zip(*parts, strict=True))
            row, column = here.places
            own = (column >= left) & (column < left + step)
            at = row[own] + (above is not None), column[own] - seen.start
            extra = {
                "image_quality": here.image_quality[own],
                "neighbour_similarity": preprocessing.neighbour_similarity(x, present)[at].numpy(),
                "bad": ~present[at].numpy(),
            }
            if self.task.average != "none":
                x = preprocessing.average_neighbours(x, self.task.average, present)
            x = x[at]
            if self.task.mask == "circle":
                x = preprocessing.mask_circle(x)
            yield here.positions[own], x.numpy(), pd.DataFrame(extra)

    def _bands(self) -> Iterator[Band]:
        """Yield the map from the first row with a point to the last, some rows at a time."""
        rows, columns = (self.scan.points[name].to_numpy(np.int64) for name in ("y", "x"))
        width = self.scan.map_shape[1]
        if not (np.diff(rows * width + columns) > 0).all():
            raise ValueError(f"The points of {self.scan.path} are not in the order of their rows, then columns.")
        pieces = self._pieces()
        held, number, height = self._corrected(next(pieces)), 0, max(1, self._chunk // width)
        for top in range(rows[0], rows[-1] + 1, height):
            shape = min(height, rows[-1] + 1 - top), width
            positions = np.arange(number, np.searchsorted(rows, top + shape[0]))
            places = rows[positions] - top, columns[positions]
            x, present, quality = torch.zeros(*shape, *self.shape_px), torch.zeros(shape, dtype=torch.bool), []
            while number <= positions.max(initial=-1):
                if not len(held.x):
                    held = self._corrected(next(pieces))
                at = tuple(place[number - positions[0] :][: len(held.x)] for place in places)
                num = len(at[0])
                x[at], present[at] = held.x[:num], ~held.bad[:num]
                quality.append(held.image_quality[:num])
                held, number = Corrected(*(part[num:] for part in held)), number + num
            yield Band(x, present, positions, places, np.concatenate([np.zeros(0, np.float32), *quality]))

    def _pieces(self) -> Iterator[np.ndarray]:
        """Yield the positions that are read and corrected at a time: they depend on nothing but the size of patterns."""
        num = len(self.scan.points)
        return (np.arange(first, min(first + self._chunk, num)) for first in range(0, num, self._chunk))

    def _corrected(self, positions: np.ndarray) -> Corrected:
        """Read some patterns, and take their backgrounds out."""
        x = torch.from_numpy(np.ascontiguousarray(self.scan.read(positions)).astype(np.float32, copy=False))
        x = preprocessing.crop(x, *self.crop)
        bad = preprocessing.is_bad(x)
        # What takes the place of a bad pattern passes every step, and is not used.
        x = torch.where(bad[:, None, None], torch.ones(()) if self.background is None else self.background, x)
        if self.static != "none":
            x = preprocessing.remove_static(x, self.background, self.static)
        if self.task.dynamic_background != "none":
            x = preprocessing.remove_dynamic(x, self.dynamic_std_px, self.task.dynamic_background)
        quality = preprocessing.image_quality(x)
        bad |= ~torch.isfinite(quality)  # nothing is left of a pattern that is the background itself
        quality = torch.where(bad, torch.nan, quality)
        return Corrected(torch.where(bad[:, None, None], 0.0, preprocessing.bin_patterns(x, self.task.bin)), quality, bad)


def _joined(parts: list[tuple[np.ndarray, np.ndarray, pd.DataFrame]]) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    positions, x, extra = zip(*parts, strict=True)
    return np.concatenate(positions), np.concatenate(x), pd.concat(extra, ignore_index=True)
