"""A field through a network, tile by tile and plane by plane, as if every frame had passed as a whole.

A tile is read with a halo that holds all its pixels depend on, and begins where the network's own grid does; so it has the values
of the whole frame. Tiles follow one another along a Z-order curve, so that the levels of a pyramid are complete early. In a tile
the planes pass through a ring buffer: each is read once, taken by every window that needs it, and written once, when no later
window has it. So memory depends on the tile and the window, not on the frame.

Nothing here knows torch, files or what the intensities mean.

Shapes: B windows, C source channels, K target channels, P planes in, Q planes out, Z planes, Y rows, X columns.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

CACHE_BYTES = 1 << 28  # of decoded chunks
BLOCK_PX = 256  # smaller chunks are read several at a time

Network = Callable[[np.ndarray], np.ndarray]  # (B, C, P, Y, X) float32 -> (B, K, Q, Y, X) float32, normalised units
Plane = tuple[slice, slice]


@dataclass(frozen=True)
class Tiling:
    """How a field is cut: sides in px of the network, planes of a window, and how far apart windows lie."""

    tile_px: int = 512
    halo_px: int = 0  # half of the receptive field
    align_px: int = 1  # stride of the network: tiles begin at multiples of it
    planes: int = 1  # of the input
    all_planes: bool = False  # the output has the planes of the input, not their middle one alone
    z_step: int = 1  # planes between windows that overlap
    batch_size: int = 1  # windows at a time


# ------------------------------------------------------------------------------------------------- along one axis


class Span(NamedTuple):
    """A tile along one axis; the matrices are there where the image is resampled."""

    core: slice  # px of the image that are written
    read: slice  # px of the image that are read
    to_network: np.ndarray | None  # (network px, read px)
    inner: slice  # px of the network that the core depends on, from the tile's first
    back: np.ndarray | None  # (core px, inner px)


def spans(size: int, tiling: Tiling, ratio: float = 1.0) -> list[Span]:
    """Cut an axis of ``size`` px into tiles; a px of the image is ``ratio`` px of the network."""
    fine, align = max(1, round(size * ratio)), tiling.align_px
    cores = [slice(first, min(first + tiling.tile_px, size)) for first in range(0, size, tiling.tile_px)]
    inner = [resampling(core, size, fine) for core in cores]
    starts = [max(0, part.start - tiling.halo_px) // align * align for part, _ in inner]
    stops = [min(fine, -(-(part.stop + tiling.halo_px) // align) * align) for part, _ in inner]
    side = max(stop - start for start, stop in zip(starts, stops, strict=True))
    found = []
    for core, (middle, back), start, stop in zip(cores, inner, starts, stops, strict=True):
        # Tiles at the edge see more than they need: of one size, each takes the memory that the one before has left.
        start = max(0, min(start, (fine - side) // align * align))
        stop = max(stop, min(fine, start + side))
        read, to_network = resampling(slice(start, stop), fine, size)
        found.append(Span(core, read, to_network, slice(middle.start - start, middle.stop - start), back))
    return found


def resampling(wanted: slice, size: int, given_size: int) -> tuple[slice, np.ndarray | None]:
    """Return which of the given px some wanted px are made of, and the weights (wanted, given); None where both are the same.

    Weights fall linearly over the larger of both px, so that fine structure is averaged and not skipped.
    """
    if size == given_size:
        return wanted, None
    ratio = given_size / size
    width = max(1.0, ratio)
    centre = (np.arange(wanted.start, wanted.stop) + 0.5) * ratio - 0.5
    given = slice(max(0, int(np.floor(centre[0] - width)) + 1), min(given_size, int(np.ceil(centre[-1] + width))))
    weights = 1 - np.abs(np.arange(given.start, given.stop) - centre[:, None]) / width
    weights = weights.clip(min=0)
    return given, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resampled(pixels: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    """Return pixels (..., Y, X) with the weights of both axes applied."""
    pixels = pixels if rows is None else rows @ pixels
    return pixels if columns is None else pixels @ columns.T


def tiles(shape: tuple[int, int], tiling: Tiling, ratio: tuple[float, float] = (1.0, 1.0)) -> list[tuple[Span, Span]]:
    """Return the tiles of a frame (rows, columns) along a Z-order curve."""
    rows, columns = (spans(size, tiling, part) for size, part in zip(shape, ratio, strict=True))
    places = itertools.product(range(len(rows)), range(len(columns)))
    return [(rows[i], columns[j]) for i, j in sorted(places, key=_z_order)]


def _z_order(place: tuple[int, int]) -> int:
    return sum((place[k] >> bit & 1) << 2 * bit + 1 - k for bit in range(24) for k in (0, 1))


# ---------------------------------------------------------------------------------------------------- along planes


def mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Return places on an axis of a size; those beyond its ends are mirrored at the first and last."""
    period = max(1, 2 * (size - 1))
    return np.minimum(places % period, -places % period)


def windows(num_planes: int, tiling: Tiling) -> list[tuple[np.ndarray, int]]:
    """Return the planes (P,) of every window, and the plane that its first output is."""
    own = np.arange(tiling.planes)
    if not tiling.all_planes:
        return [(mirrored(z - tiling.planes // 2 + own, num_planes), z) for z in range(num_planes)]
    last = num_planes - tiling.planes
    starts = [last // 2] if last < 0 else [*range(0, last, tiling.z_step), last]
    return [(mirrored(start + own, num_planes), start) for start in starts]


def through_planes(
    read: Callable[[int], np.ndarray], network: Network, num_planes: int, tiling: Tiling
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield every plane (K, Y, X) of the prediction once, in order.

    Windows that overlap are averaged, with weights that fall linearly from their middle: it knows most of what is around it.

    Parameters
    ----------
    read
        Returns a plane (C, Y, X) float32 of the source; it is asked for each once.
    """
    every = windows(num_planes, tiling)
    planes: dict[int, np.ndarray] = {}
    sums: dict[int, tuple[Any, float]] = {}
    for number in range(0, len(every), tiling.batch_size):
        batch, following = every[number : number + tiling.batch_size], every[number + tiling.batch_size :]
        for z in sorted({int(z) for chosen, _ in batch for z in chosen} - planes.keys()):
            planes[z] = read(z)
        x = np.stack([np.stack([planes[int(z)] for z in chosen], 1) for chosen, _ in batch])
        needed = min((int(chosen.min()) for chosen, _ in following), default=num_planes)
        planes = {z: plane for z, plane in planes.items() if z >= needed}
        for (_, first), y in zip(batch, network(x), strict=True):
            weights = np.minimum(np.arange(1, y.shape[1] + 1), np.arange(y.shape[1], 0, -1))
            for q in range(max(0, -first), min(y.shape[1], num_planes - first)):
                total, weight = sums.get(first + q, (0.0, 0.0))
                sums[first + q] = total + y[:, q] * np.float32(weights[q]), weight + float(weights[q])
        done = following[0][1] if following else num_planes
        for z in sorted(z for z in sums if z < done):
            total, weight = sums.pop(z)
            yield z, total / np.float32(weight)


# ------------------------------------------------------------------------------------------------- the whole field


class Decoded:
    """Reads planes of some channels; the chunks that were decoded last are kept, as far as a tile needs them again.

    Parameters
    ----------
    image
        Is indexed as (T, C, Z, Y, X), and says its ``shape``, ``chunks`` and ``dtype``.
    """

    def __init__(self, image: Any, channels: Sequence[int], tile_px: int) -> None:
        self.image, self.channels = image, list(channels)
        step = [min(a, b) for a, b in zip(image.chunks, image.shape, strict=True)]
        self.step = [*step[:3], *(side * -(-BLOCK_PX // side) for side in step[3:])]
        self.blocks: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self.held = 0
        one = int(np.prod([min(a, b) for a, b in zip(self.step, image.shape, strict=True)])) * image.dtype.itemsize
        groups = len({c // self.step[1] for c in channels})
        across = [min(tile_px // side + 2, -(-size // side)) for side, size in zip(self.step[3:], image.shape[3:], strict=True)]
        touched = groups * -(-image.shape[2] // self.step[2]) * int(np.prod(across)) * one
        self.limit = max(min(CACHE_BYTES, touched), groups * one)

    def plane(self, t: int, z: int, box: Plane) -> np.ndarray:
        """Return pixels (C, Y, X), as they are stored."""
        out = np.empty((len(self.channels), *(part.stop - part.start for part in box)), self.image.dtype)
        touched = [range(part.start // side, -(-part.stop // side)) for part, side in zip(box, self.step[3:], strict=True)]
        for into, c in zip(out, self.channels, strict=True):
            for i, j in itertools.product(*touched):
                at = (t, c, z, i * self.step[3], j * self.step[4])
                first = [a // b * b for a, b in zip(at, self.step, strict=True)]
                block = self._block(tuple(first))
                inner = block[t - first[0], c - first[1], z - first[2]]
                low = [max(part.start, a) for part, a in zip(box, first[3:], strict=True)]
                high = [min(part.stop, a + b) for part, a, b in zip(box, first[3:], inner.shape, strict=True)]
                to = tuple(slice(a - part.start, b - part.start) for a, b, part in zip(low, high, box, strict=True))
                into[to] = inner[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, first[3:], strict=True))]
        return out

    def _block(self, first: tuple[int, ...]) -> np.ndarray:
        if first in self.blocks:
            self.blocks.move_to_end(first)
            return self.blocks[first]
        sizes = zip(first, self.step, self.image.shape, strict=True)
        box = tuple(slice(a, min(a + b, size)) for a, b, size in sizes)
        nbytes = int(np.prod([part.stop - part.start for part in box])) * self.image.dtype.itemsize
        while self.blocks and self.held + nbytes > self.limit:
            self.held -= self.blocks.popitem(last=False)[1].nbytes
        self.held += nbytes
        self.blocks[first] = self.image[box]
        return self.blocks[first]


def predict_field(
    image: Any,
    channels: Sequence[int],
    network: Network,
    lines: np.ndarray,
    write: Callable[[np.ndarray, int, int, int, int], None],
    tiling: Tiling,
    *,
    ratio: tuple[float, float] = (1.0, 1.0),
    times: Sequence[int] | None = None,
) -> None:
    """Predict a field of any size.

    Parameters
    ----------
    image
        Is indexed as (T, C, Z, Y, X), and says its ``shape``, ``chunks`` and ``dtype``.
    channels
        Those of the image that the network takes, in its order.
    lines
        Centre and scale (T, C, 2) of the channels, which the network wants as (x - centre) / scale. Never told from a tile.
    write
        Takes predicted pixels (K, Y, X) float32 in normalised units, and their t, z, first row and first column.
    ratio
        Px of the network in a px of the image, along rows and columns.
    times
        Time points to predict; all by default.
    """
    source = Decoded(image, channels, int((tiling.tile_px + 2 * tiling.halo_px) / min(1.0, *ratio)))

    def read(t: int, rows: Span, columns: Span, z: int) -> np.ndarray:
        plane = source.plane(t, z, (rows.read, columns.read)).astype(np.float32)
        plane = (plane - lines[t, :, 0, None, None]) / lines[t, :, 1, None, None]
        if image.dtype.kind == "f":  # what is not finite would spread over its surroundings
            np.nan_to_num(plane, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return resampled(plane, rows.to_network, columns.to_network)

    lines = np.asarray(lines, np.float32)
    for t in range(image.shape[0]) if times is None else times:
        for rows, columns in tiles(image.shape[3:], tiling, ratio):
            for z, y in through_planes(partial(read, t, rows, columns), network, image.shape[2], tiling):
                y = resampled(y[:, rows.inner, columns.inner], rows.back, columns.back)
                write(y, t, z, rows.core.start, columns.core.start)


# ----------------------------------------------------------------------------------------- turned and mirrored copies


def averaged(network: Network, how: str, align_px: int = 1, *, is_square: bool = True) -> Network:
    """Return a network that predicts mirrored and turned copies too, and takes the mean or the median of them.

    There are 8 copies; 4 where pixels are not square and so rows cannot become columns. Sides are made multiples of ``align_px``
    by repeating the last pixel, so that a copy lies on the network's grid as the original does.
    """
    copies = [(turn, flip) for turn in (range(4) if is_square else (0, 2)) for flip in (False, True)]

    def moved(x: np.ndarray, turn: int, flip: bool) -> np.ndarray:
        return np.rot90(x[..., ::-1] if flip else x, turn, (-2, -1))

    def back(y: np.ndarray, turn: int, flip: bool) -> np.ndarray:
        y = np.rot90(y, -turn, (-2, -1))
        return y[..., ::-1] if flip else y

    def predicted(x: np.ndarray) -> np.ndarray:
        rows, columns = x.shape[-2:]
        x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, -rows % align_px), (0, -columns % align_px)], mode="edge")
        every = (back(network(np.ascontiguousarray(moved(x, *copy))), *copy)[..., :rows, :columns] for copy in copies)
        return np.median(np.stack(list(every)), 0) if how == "median" else sum(every) / np.float32(len(copies))

    return predicted
