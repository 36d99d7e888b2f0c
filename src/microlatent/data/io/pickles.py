"""Read pickles of other people without running anything in them, and large arrays only where they are needed.

A pickle is a program. Here its opcodes may build plain containers, numbers, text and numpy arrays, and nothing else: every
name that it asks for is looked up in an exact list, and what the list gives back are functions of this file, never numpy's
own, so that not even numpy's unpickling code sees what a stranger wrote.

Source: the standard library's ``pickle`` (protocols 0 to 5); numpy's ``__reduce_ex__`` of arrays, dtypes and scalars.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from microlatent.data.io.lazy import LazyArray, Span

LARGE_BYTES = 64 * 1024  # byte strings from here on stay on disk until their array is read
MAX_BYTES = 64 * 2**30  # what load() may take into memory
KEYS = (type(None), bool, int, float, complex, str, bytes, frozenset, np.generic)
USUAL = {int, str}
PLAIN = (*KEYS, bytearray, set)


def load(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a pickle of arrays, numbers, text and containers whole; arrays come back writable.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty, cut short, not a pickle, larger than ``max_bytes``, or names anything but data.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size > max_bytes:
        raise ValueError(f"{path} has {size} bytes, but at most {max_bytes} are read into memory. Read it lazily or split it.")
    return _Resolver(path, lazily=False).resolve(_unpickle(path))


def load_lazily(path: str | Path) -> Any:
    """Read a pickle with a ``LazyArray`` in place of every array; large ones stay on disk. Raises as ``load``.

    Protocols 3 and above keep an array's bytes in one piece, which can be skipped; in older ones they are read.
    """
    return _Resolver(path, lazily=True).resolve(_unpickle(path))


def _unpickle(path: str | Path) -> Any:
    """Run the restricted unpickler and turn whatever goes wrong in a broken file into one clear error."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the folder and the name.")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes), but a pickle was expected. Write it or copy it again.")
    with open(path, "rb") as file:
        try:
            return _Unpickler(file, str(path), size).load()
        except _Refused as error:
            raise ValueError(f"{path}: {error}") from None
        except (
            *(pickle.UnpicklingError, EOFError, struct.error, ValueError, TypeError, AttributeError, IndexError),
            *(KeyError, OverflowError, MemoryError, RecursionError, ImportError, AssertionError),
        ) as error:
            raise ValueError(
                f"{path} is not a whole pickle of arrays and containers ({type(error).__name__} {error}). It may be cut "
                f"short or damaged: write it or copy it again."
            ) from None


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not data."""


class _Name:
    """A callable that a pickle may name. No instance dictionary and no state, so that BUILD cannot alter it."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "call", call)

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setattr__(self, key: str, value: Any) -> None:
        raise _Refused(f"the pickle tries to change {self.name}")

    def __setstate__(self, state: Any) -> None:
        raise _Refused(f"the pickle tries to change {self.name}")


class _Dtype:
    """Stands for ``numpy.dtype(spec)`` while the pickle is read: plain numbers and fixed-width text alone."""

    __slots__ = ("order", "spec")

    def __init__(self, spec: Any, *flags: Any):
        if not (isinstance(spec, str) and re.fullmatch(r"[<>=|]?([biufc]\d{1,2}|[US]\d{1,6})", spec)):
            kind = "Python objects" if isinstance(spec, str) and spec[:1] == "O" else f"type {spec!r}"
            raise _Refused(
                f"holds an array of {kind}, but only arrays of numbers and text are read. Save it again as numbers, or as a list."
            )
        self.spec, self.order = spec, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _Refused("holds a structured array, but only plain arrays are read. Save each field as an array of its own.")
        self.order = state[1]

    def get(self) -> np.dtype:
        dtype = np.dtype(self.spec).newbyteorder(self.order)
        if dtype.itemsize == 0:
            raise _Refused(f"holds an array of type {self.spec}, whose items have no bytes")
        return dtype


class _Array:
    """Stands for an array while the pickle is read; numpy's own ``__setstate__`` is never called."""

    __slots__ = ("lazy",)

    def __init__(self) -> None:
        self.lazy: LazyArray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.set(raw, dtype, shape, "F" if is_fortran else "C")

    def set(self, raw: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise _Refused("holds an array without a type or a shape")
        if not all(isinstance(n, int) and 0 <= n < 2**62 for n in shape):
            raise _Refused(f"holds an array of shape {shape}")
        if isinstance(raw, str):  # a byte string of Python 2
            raw = raw.encode("latin1")
        if not isinstance(raw, bytes | bytearray | Span):
            raise _Refused("holds an array of Python objects, but only arrays of numbers and text are read")
        if order == "F":
            shape, axes = shape[::-1], tuple(range(len(shape)))[::-1]
        elif axes is None:
            axes = tuple(range(len(shape)))
        if sorted(axes) != list(range(len(shape))):
            raise _Refused(f"holds an array whose axes are in the order {axes}")
        self.lazy = LazyArray(raw if isinstance(raw, Span) else bytes(raw), dtype.get(), shape, tuple(axes))
        return self


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> _Array:
    return _Array().set(raw, dtype, shape, order, axes)


def _scalar(dtype: _Dtype, raw: Any) -> np.generic:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype.get(), 1)[0]


def _encode(text: str, codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise _Refused(f"asks for the codec {codec!r}")
    return text.encode("latin1")


def _keys(items: Any, depth: int = 0) -> Any:
    """Return what may become keys of a dictionary or members of a set: numbers, text, and tuples of them.

    Tuples nested by the thousand would end the process when they are hashed.
    """
    for item in items:
        if isinstance(item, tuple) and depth < 2:  # deeper ones could name each other over and over
            if not USUAL.issuperset(map(type, item)):  # pairs of numbers come by the million
                _keys(item, depth + 1)
        elif not isinstance(item, KEYS):
            what = item.name if isinstance(item, _Name) else f"an object of type {type(item).__name__.strip('_').lower()}"
            raise _Refused(f"holds {what} as a key, but numbers, text and tuples of them were expected")
    return items


def _dictionary(items: Any = ()) -> dict:
    _keys([key for key, _ in items])
    return dict(items)


def _bytes_of(kind: type) -> Callable:
    """Build bytes or bytearray from bytes alone: from a number they would fill memory."""

    def build(content: Any = b"", codec: str = "latin1") -> Any:
        if isinstance(content, Span):
            return content
        return kind(_encode(content, codec) if isinstance(content, str) else memoryview(content))

    return build


def _is_type(*_: Any) -> Any:
    raise _Refused("asks to build a numpy.ndarray directly")


NAMES: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): _is_type,  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): _dictionary,
    ("_codecs", "encode"): _encode,
} | {(module, name): call for module in ("builtins", "__builtin__") for name, call in {
        "set": lambda items=(): set(_keys(items)),
        "frozenset": lambda items=(): frozenset(_keys(items)),
        "complex": complex,
        "bytes": _bytes_of(bytes),
        "bytearray": _bytes_of(bytearray),
    }.items()
} | {(f"numpy.{core}.{module}", name): call for core in ("core", "_core") for module, name, call in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}  # fmt: skip


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler with some opcodes replaced.

    The one in Python: on many small objects it is slower than the one in C, but its opcodes can be replaced one by one, and
    a hostile memo index costs it nothing where the one in C fills gigabytes.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, path: str, size: int):
        super().__init__(file, encoding="latin1")
        self.file, self.path, self.size = file, path, size

    def find_class(self, module: str, name: str) -> _Name:
        call = NAMES.get((module, name))
        if call is None:
            raise _Refused(
                f"it names {module}.{name}, but only numpy arrays, numbers, text and plain containers are read; nothing in "
                f"it was run. Ask where it came from, or save its content again as arrays."
            )
        return _Name(f"{module}.{name}", call)

    def refuse(self) -> None:
        raise _Refused("it refers to objects outside the file, which are not read")

    for opcode in (pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER):
        dispatch[opcode[0]] = refuse

    def content(self, length: int) -> bytes | Span:
        """Read a byte string, or skip a large one that lies outside a frame."""
        start = self.file.tell()
        if self._unframer.current_frame is not None or length < LARGE_BYTES:
            return self.read(length)
        if start + length > self.size:
            raise _Refused(
                f"it is cut short: an array of {length} bytes begins at byte {start}, but the file has {self.size}. "
                f"Write it or copy it again."
            )
        self.file.seek(start + length)
        return Span(self.path, start, length)

    def load_binbytes(self) -> None:
        self.append(self.content(struct.unpack("<I", self.read(4))[0]))

    def load_binbytes8(self) -> None:
        self.append(self.content(struct.unpack("<Q", self.read(8))[0]))

    # Between a mark and the opcode that ends it, the stack holds what came since the mark.
    def load_setitem(self) -> None:
        _keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _keys(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        _keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _keys(self.stack)
        super().load_frozenset()

    def load_dict(self) -> None:
        _keys(self.stack[::2])
        super().load_dict()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.BINBYTES[0]] = load_binbytes
    dispatch[pickle.BINBYTES8[0]] = load_binbytes8
    dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8


class _Resolver:
    """Put arrays (or lazy ones) in the place of what stood for them, in containers of any depth."""

    def __init__(self, path: str | Path, *, lazily: bool):
        self.path, self.lazily = path, lazily
        self.done: dict[int, tuple[Any, Any]] = {}  # by id; the old object is kept, so that its id is not used again

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Return what ``value`` stands for; dictionaries and lists are changed in place."""
        if isinstance(value, PLAIN):
            return value
        if id(value) in self.done:
            return self.done[id(value)][1]
        if depth > 100:
            raise ValueError(f"{self.path} holds containers nested more than 100 deep, which no table of ours needs.")
        if isinstance(value, dict):
            self.done[id(value)] = value, value
            for key, item in value.items():
                value[key] = self.resolve(item, depth + 1)
            return value
        if isinstance(value, list):
            self.done[id(value)] = value, value
            value[:] = [self.resolve(item, depth + 1) for item in value]
            return value
        new = self.build(value, depth)
        self.done[id(value)] = value, new
        return new

    def build(self, value: Any, depth: int) -> Any:
        """Return the new object for one that cannot be changed in place."""
        if isinstance(value, tuple):
            return tuple(self.resolve(item, depth + 1) for item in value)
        if isinstance(value, _Array) and value.lazy is not None:
            return value.lazy if self.lazily else value.lazy.read()
        if isinstance(value, _Dtype):
            return value.get()
        if isinstance(value, Span):
            return LazyArray(value, np.dtype(np.uint8), (value.length,), (0,)).read().tobytes()
        what = value.name if isinstance(value, _Name) else type(value).__name__.strip("_").lower() + " without content"
        raise ValueError(f"{self.path} holds {what}, but arrays, numbers, text and plain containers were expected.")
