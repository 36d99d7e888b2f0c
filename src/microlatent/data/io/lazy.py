"""Arrays that stay in their file until they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Span:
    """A byte string left in the file: where it begins and how long it is."""

    path: str
    offset: int
    length: int


class LazyArray:
    """An array of a pickle that is read when asked for; small ones are held in memory behind the same interface.

    Parameters
    ----------
    source
        The bytes, or the ``Span`` of the file that holds them.
    dtype
        Without objects or fields.
    memory_shape
        Shape in the order of memory, slowest axis first.
    axes
        Memory axis of each axis of the array: (1, 0) for a Fortran-ordered matrix.
    """

    def __init__(self, source: bytes | Span, dtype: np.dtype, memory_shape: tuple[int, ...], axes: tuple[int, ...]):
        self.source, self.dtype, self.memory_shape, self.axes = source, dtype, memory_shape, axes
        self.shape = tuple(memory_shape[axis] for axis in axes)
        length = source.length if isinstance(source, Span) else len(source)
        if math.prod(self.shape) * dtype.itemsize != length:
            raise ValueError(f"an array of shape {self.shape} and type {dtype} has {length} bytes")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyArray(shape={self.shape}, dtype={self.dtype}, {'on disk' if self.is_lazy else 'in memory'})"

    @property
    def is_lazy(self) -> bool:
        """Whether the values are still on disk."""
        return isinstance(self.source, Span)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, index: Sequence[int] | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Return the array, or its rows ``index`` along the first axis, reading only their bytes.

        ``out``, a C-ordered array of the rows' shape and type, takes neighbouring rows without a copy on the way.

        Raises
        ------
        ValueError
            If the file has become shorter since it was opened.
        IndexError
            If a row lies outside the array.
        """
        if index is None:
            return self._memory(0, math.prod(self.shape)).reshape(self.memory_shape).transpose(self.axes)
        if any(not -len(self) <= i < len(self) for i in index):
            raise IndexError(f"rows {list(index)} were asked of an array with {len(self)} rows")
        if self.axes[0] != 0:  # rows are scattered over the whole array
            return self.read()[list(index)]
        rows = [i % len(self) for i in index]
        row_shape = self.memory_shape[1:]
        size = math.prod(row_shape)
        values = np.empty((len(rows), *row_shape), self.dtype) if out is None else out.reshape(len(rows), *row_shape)
        if rows == list(range(rows[0], rows[0] + len(rows))):
            self._memory(rows[0] * size, len(rows) * size, values)
        else:
            for place, row in zip(values, rows, strict=True):
                self._memory(row * size, size, place)
        return values.transpose([0, *self.axes[1:]])

    def _memory(self, start: int, count: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read ``count`` items from item ``start`` on, in the order of memory, into a writable array."""
        out = np.empty(count, self.dtype) if out is None else out
        first, length = start * self.dtype.itemsize, count * self.dtype.itemsize
        target = memoryview(out.reshape(-1).view(np.uint8))  # a view, because ``out`` is C-ordered
        if not isinstance(self.source, Span):
            target[:] = self.source[first : first + length]
            return out
        with open(self.source.path, "rb", buffering=0) as file:
            file.seek(self.source.offset + first)
            while target and (got := file.readinto(target)):
                target = target[got:]
        if target:
            raise ValueError(f"{self.source.path} was cut short after it had been opened. Copy it again from its source.")
        return out
