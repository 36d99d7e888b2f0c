"""One resolution of an image, read when it is indexed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import zarr

from microlatent.data.io.ome_zarr.metadata import AXES, DAMAGE, damaged

NO_CHUNK = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not hold
BLOCK_BYTES = 1 << 26

Index = tuple[int | slice, ...]


class Level:
    """One resolution of an image: an array of five axes (T, C, Z, Y, X), read when it is indexed.

    Parameters
    ----------
    path
        Folder of the zarr array.
    axes
        A letter per stored axis, in stored order.
    scale, translation
        Size of a pixel and position of the first one's centre, for T, C, Z, Y, X, in the image's units.
    """

    def __init__(self, path: Path, axes: str, scale: tuple[float, ...], translation: tuple[float, ...]) -> None:
        self.path, self.axes, self.scale, self.translation = path, axes, scale, translation
        self._whole: set[tuple[int, ...]] = set()  # chunks that were found to be of full length

    @cached_property
    def array(self) -> zarr.Array:
        """The stored array, with the axes that are stored."""
        try:
            array = zarr.open_array(self.path, mode="r")
        except DAMAGE as error:
            raise damaged(self.path, error) from error
        if array.ndim != len(self.axes):
            raise ValueError(
                f"{self.path} has the shape {array.shape}, but the image's metadata name the axes {', '.join(self.axes)}. One of "
                f"them is wrong: correct the metadata."
            )
        return array

    def _five(self, values: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return values of the stored axes as those of T, C, Z, Y, X."""
        return tuple(dict(zip(self.axes, values, strict=True)).get(axis, 1) for axis in AXES)  # type: ignore[return-value]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Sizes of T, C, Z, Y, X."""
        return self._five(self.array.shape)

    @property
    def chunks(self) -> tuple[int, int, int, int, int]:
        """The smallest box that is decoded at once: a chunk, of a shard its inner chunk."""
        return self._five(self.array.chunks)

    @property
    def dtype(self) -> np.dtype:
        """Type of a pixel, in this machine's byte order."""
        return np.dtype(self.array.dtype).newbyteorder("=")

    def __getitem__(self, index: int | slice | Index) -> np.ndarray:
        """Return pixels as numpy would; integers and slices without a step, up to five of them."""
        index = index if isinstance(index, tuple) else (index,)
        index += (slice(None),) * (5 - len(index))
        box = []
        for axis, part, size in zip(AXES, index, self.shape, strict=True):
            if not isinstance(part, slice):
                if not -size <= part < size:
                    raise IndexError(f"{self.path} has {size} along {axis}, so {part} is not among them.")
                part = slice(part % size, part % size + 1)
            start, stop, step = part.indices(size)
            if step != 1:
                raise IndexError(f"{self.path} is read without a step along {axis}, not with {step}.")
            box.append(slice(start, max(start, stop)))
        inner = tuple(box[AXES.index(axis)] for axis in self.axes)
        try:
            self._refuse_cut_short(inner)
            pixels = np.asarray(self.array[inner], self.dtype)
        except DAMAGE as error:
            raise damaged(self.path, error) from error
        there = [axis for axis in AXES if axis in self.axes]
        pixels = pixels.transpose([self.axes.index(axis) for axis in there])
        pixels = pixels[tuple(slice(None) if axis in there else np.newaxis for axis in AXES)]
        pixels = pixels[tuple(slice(part.stop - part.start) for part in box)]  # an empty slice of an axis that is not stored
        return np.ascontiguousarray(pixels[tuple(slice(None) if isinstance(part, slice) else 0 for part in index)])

    def _refuse_cut_short(self, box: tuple[slice, ...]) -> None:
        """Refuse chunks of Blosc that lack their end: it would be decoded from whatever lies behind it in memory."""
        if self.array.shards or not any("blosc" in type(codec).__name__.lower() for codec in self.array.compressors):
            return
        touched = (range(part.start // step, -(-part.stop // step)) for part, step in zip(box, self.array.chunks, strict=True))
        for corner in product(*touched):
            path = self.path / self.array.metadata.encode_chunk_key(corner)
            if corner in self._whole or not path.is_file():
                continue
            with open(path, "rb") as file:
                head, size = file.read(16), file.seek(0, 2)
            said = int.from_bytes(head[12:], "little")
            if size != said:
                raise ValueError(f"the chunk {path.relative_to(self.path)} has {size} bytes, but says that it has {said}")
            self._whole.add(corner)

    @cached_property
    def stored(self) -> np.ndarray:
        """Which chunks were written: booleans over the grid of ``chunks``, for T, C, Z, Y, X."""
        outer = self.array.shards or self.array.chunks
        inner = tuple(a // b for a, b in zip(outer, self.array.chunks, strict=True))
        grid = tuple(-(-size // step) for size, step in zip(self.array.shape, outer, strict=True))
        found = np.zeros([a * b for a, b in zip(grid, inner, strict=True)], bool)
        for corner in np.ndindex(*grid):
            path = self.path / self.array.metadata.encode_chunk_key(corner)
            if path.is_file():
                box = tuple(slice(a * b, (a + 1) * b) for a, b in zip(corner, inner, strict=True))
                found[box] = self._shard_index(path, inner) if self.array.shards else True
        found = found[tuple(slice(-(-size // step)) for size, step in zip(self.array.shape, self.array.chunks, strict=True))]
        there = [axis for axis in AXES if axis in self.axes]
        found = found.transpose([self.axes.index(axis) for axis in there])
        return found[tuple(slice(None) if axis in there else np.newaxis for axis in AXES)]

    def _shard_index(self, path: Path, inner: tuple[int, ...]) -> np.ndarray:
        """Return which chunks a shard holds; all of them if its index is encoded in a way that is not read here."""
        (codec,) = self.array.metadata.codecs
        about = codec.to_dict()["configuration"]
        names = [one["name"] for one in about["index_codecs"]]
        if names not in (["bytes"], ["bytes", "crc32c"]):
            return np.ones(inner, bool)
        checksum, size = 4 * (len(names) - 1), 16 * int(np.prod(inner))
        at_end = str(about["index_location"]).endswith("end")
        with open(path, "rb") as file:
            if at_end:
                file.seek(-size - checksum, 2)
            index = np.frombuffer(file.read(size), "<u8").reshape(*inner, 2)
        return (index != NO_CHUNK).all(-1)

    def present(self, box: tuple[slice, ...]) -> np.ndarray | None:
        """Return which pixels of a box of five slices were written, or None if all were."""
        chosen = []
        for part, size, step in zip(box, self.shape, self.chunks, strict=True):
            start, stop, _ = part.indices(size)
            chosen.append(np.arange(start, stop) // step)
        corners = [slice(rows[0], rows[-1] + 1) if len(rows) else slice(0) for rows in chosen]
        return None if self.stored[tuple(corners)].all() else self.stored[np.ix_(*chosen)]

    def blocks(self, channels: Sequence[int] | None = None, limit: int = BLOCK_BYTES) -> Iterator[tuple[slice, ...]]:
        """Yield boxes that cover the array and decode no chunk twice; rows of chunks are joined up to ``limit`` bytes."""
        size, step = self.shape, list(self.chunks)
        step[4] = -(-size[4] // step[4]) * step[4]
        rows = limit // max(1, int(np.prod([*np.minimum(step[:4], size[:4]), size[4]])) * self.dtype.itemsize)
        step[3] = min(step[3] * max(1, rows), -(-size[3] // step[3]) * step[3])
        for corner in product(*(range(0, a, b) for a, b in zip(size, step, strict=True))):
            box = tuple(slice(a, min(a + b, c)) for a, b, c in zip(corner, step, size, strict=True))
            if channels is None or any(box[1].start <= c < box[1].stop for c in channels):
                yield box
