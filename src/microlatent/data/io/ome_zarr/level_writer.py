"""One level of an image, gathered to units and written as they become complete."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc

from microlatent.data.io.ome_zarr.level import NO_CHUNK
from microlatent.data.io.ome_zarr.metadata import AXES

TILE_PX = 512
BLOCK_BYTES = 1 << 26  # of a unit in 0.4
CODEC = {"cname": "zstd", "clevel": 1}


class LevelWriter:
    """One level: gathers pixels to units, writes each when it is complete and hands it, shrunk, to the next level."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype, version: str, shrink: Any) -> None:
        self.folder, self.shape, self.dtype, self.shrink = folder, shape, dtype, shrink
        self.coarser: LevelWriter | None = None
        self.is_sharded = version == "0.5"
        self.unit = self._unit()
        self.grid = tuple(-(-size // step) for size, step in zip(shape, self.unit, strict=True))
        self.codec = Blosc(shuffle=Blosc.BITSHUFFLE, **CODEC)
        self.waiting: dict[tuple[int, ...], tuple[np.ndarray, int]] = {}  # units in the making, and pixels they still lack
        self.indices: dict[tuple[int, int], np.ndarray] = {}  # of the shards in the making
        options: dict[str, Any]
        if self.is_sharded:
            shard = (1, 1, *(a * b for a, b in zip(self.unit[2:], self.grid[2:], strict=True)))
            codec = zarr.codecs.BloscCodec(typesize=dtype.itemsize, shuffle="bitshuffle", **CODEC)
            options = {"zarr_format": 3, "shards": shard, "dimension_names": list(AXES.lower()), "compressors": codec}
        else:
            keys = {"name": "v2", "separator": "/"}
            options = {"zarr_format": 2, "chunk_key_encoding": keys, "compressors": self.codec}
        self.array = zarr.create_array(folder, shape=shape, dtype=dtype, chunks=self.unit, fill_value=0, **options)

    def _unit(self) -> tuple[int, ...]:
        *_, planes, rows, columns = self.shape
        if self.is_sharded:
            return 1, 1, 1, min(TILE_PX, rows), min(TILE_PX, columns)
        most = max(2, BLOCK_BYTES // (planes * columns * self.dtype.itemsize))
        parts = -(-rows // most)
        return 1, 1, planes, rows if parts == 1 else -(-rows // parts // 2) * 2, columns  # even, so that units halve

    def put(self, corner: tuple[int, ...], pixels: np.ndarray) -> None:
        """Take pixels (T, C, Z, Y, X) whose first one is at ``corner``."""
        ends = [a + b for a, b in zip(corner, pixels.shape, strict=True)]
        touched = (range(a // u, -(-b // u)) for a, b, u in zip(corner, ends, self.unit, strict=True))
        for place in product(*touched):
            first = [n * u for n, u in zip(place, self.unit, strict=True)]
            size = [min(u, total - a) for u, total, a in zip(self.unit, self.shape, first, strict=True)]
            low = [max(a, b) for a, b in zip(first, corner, strict=True)]
            high = [min(a + s, b) for a, s, b in zip(first, size, ends, strict=True)]
            piece = pixels[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, corner, strict=True))]
            if place not in self.waiting and piece.size == np.prod(size):
                self._write(place, piece)
                continue
            unit, lacking = self.waiting.pop(place, None) or (np.zeros(size, self.dtype), int(np.prod(size)))
            unit[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, first, strict=True))] = piece
            if lacking > piece.size:
                self.waiting[place] = unit, lacking - piece.size
            else:
                self._write(place, unit)

    def finish(self) -> None:
        """Write the units and shards that were not filled."""
        for place in list(self.waiting):
            self._write(place, self.waiting.pop(place)[0])
        for t, c in list(self.indices):
            self._close_shard(t, c)

    def _write(self, place: tuple[int, ...], pixels: np.ndarray) -> None:
        whole = pixels
        if pixels.shape != self.unit:  # at the edge; stored chunks are all of one size
            whole = np.zeros(self.unit, self.dtype)
            whole[tuple(map(slice, pixels.shape))] = pixels
        content = self.codec.encode(np.ascontiguousarray(whole))
        if self.is_sharded:
            self._append(place, content)
        else:
            path = self.folder / self.array.metadata.encode_chunk_key(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.coarser is not None:
            smaller = self.shrink(pixels)
            if smaller.size:
                corner = [n * u for n, u in zip(place, self.unit, strict=True)]
                self.coarser.put((*corner[:3], corner[3] // 2, corner[4] // 2), smaller)

    def _shard(self, t: int, c: int) -> Path:
        return self.folder / self.array.metadata.encode_chunk_key((t, c, 0, 0, 0))

    def _append(self, place: tuple[int, ...], content: bytes) -> None:
        """Append a unit to its shard; the shard is closed with its index when it holds all."""
        (t, c), inner = place[:2], place[2:]
        path = self._shard(t, c)
        if (t, c) not in self.indices:
            self.indices[t, c] = np.full((*self.grid[2:], 2), NO_CHUNK, "<u8")
            path.parent.mkdir(parents=True, exist_ok=True)
        index = self.indices[t, c]
        with open(path, "ab") as file:
            index[inner] = file.tell(), len(content)
            file.write(content)
        if (index[..., 0] != NO_CHUNK).all():
            self._close_shard(t, c)

    def _close_shard(self, t: int, c: int) -> None:
        index = self.indices.pop((t, c)).tobytes()
        with open(self._shard(t, c), "ab") as file:
            file.write(index + google_crc32c.value(index).to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())


def corners_of(pixels: np.ndarray) -> list[np.ndarray]:
    """Return the four pixels of every block of 2 x 2."""
    rows, columns = pixels.shape[-2] // 2 * 2, pixels.shape[-1] // 2 * 2
    return [pixels[..., i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)]
