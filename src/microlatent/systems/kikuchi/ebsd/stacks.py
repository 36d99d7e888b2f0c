"""Stacks of patterns as they lie in files, read a few at a time: HDF5 data sets, raw bytes, one image file per pattern."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tifffile
from PIL import Image

CACHE_BYTES = 64 * 1024 * 1024  # holds at least one chunk of every known writer, which is then decompressed once per read


@dataclass
class H5Stack:
    """Patterns (N, h, w) or (N, 1, h, w) of an HDF5 data set."""

    path: Path
    dataset: str
    num: int
    shape: tuple[int, int]
    dtype: np.dtype

    @classmethod
    def open(cls, path: Path, dataset: h5py.Dataset) -> H5Stack:
        """Describe a data set of patterns; no pattern is read.

        Raises
        ------
        ValueError
            It has other axes, or holds no numbers.
        """
        shape, dtype = dataset.shape, dataset.dtype.newbyteorder("=")
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1) or dtype.kind not in "uif":
            raise ValueError(
                f"{path}: {dataset.name} has the shape {shape} of {dataset.dtype}, but patterns are (number, rows, columns), or "
                "with an axis of one channel after the number. Export the patterns again."
            )
        return cls(path, dataset.name, shape[0], (shape[-2], shape[-1]), dtype)

    def read(self, index: np.ndarray) -> np.ndarray:
        """Return the patterns (n, h, w) at an index (n,); neighbours in the file are read together."""
        unique, inverse = np.unique(index, return_inverse=True)
        out = np.empty((len(unique), *self.shape), self.dtype)
        starts = np.flatnonzero(np.diff(unique, prepend=-2) != 1)
        ends = np.append(starts, len(unique))[1:]
        try:
            with h5py.File(self.path, "r", rdcc_nbytes=CACHE_BYTES) as file:
                dataset = file[self.dataset]
                for begin, end in zip(starts, ends, strict=True):
                    block = dataset[int(unique[begin]) : int(unique[end - 1]) + 1]
                    out[begin:end] = block.reshape(-1, *self.shape)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read ({error}). It may be damaged or cut short: copy it again.") from error
        in_order = len(unique) == len(index) and bool((np.diff(inverse) > 0).all())
        return out if in_order else out[inverse]


@dataclass
class RawStack:
    """Patterns that begin at known bytes of a file."""

    path: Path
    starts: np.ndarray  # (N,) int64, first byte of every pattern
    shape: tuple[int, int]
    dtype: np.dtype  # as in the file; patterns are returned in this machine's byte order

    @property
    def num(self) -> int:
        """Return the number of patterns."""
        return len(self.starts)

    def read(self, index: np.ndarray) -> np.ndarray:
        """Return the patterns (n, h, w) at an index (n,)."""
        pixels = np.memmap(self.path, np.uint8, "r")
        num_bytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        out = np.empty((len(index), *self.shape), self.dtype.newbyteorder("="))
        for number, start in enumerate(self.starts[index]):
            out[number] = pixels[start : start + num_bytes].view(self.dtype).reshape(self.shape)
        return out


@dataclass
class ImageStack:
    """Patterns in one grey image file each."""

    paths: list[Path]
    shape: tuple[int, int]
    dtype: np.dtype

    @classmethod
    def open(cls, paths: list[Path]) -> ImageStack:
        """Take shape and type from the first file; the others must be like it when they are read."""
        first = read_image(paths[0])
        return cls(paths, first.shape, first.dtype)

    @property
    def num(self) -> int:
        """Return the number of patterns."""
        return len(self.paths)

    def read(self, index: np.ndarray) -> np.ndarray:
        """Return the patterns (n, h, w) at an index (n,).

        Raises
        ------
        ValueError
            A file is damaged, coloured, or unlike the first one.
        """
        out = np.empty((len(index), *self.shape), self.dtype)
        for number, which in enumerate(index):
            pattern = read_image(self.paths[which])
            if pattern.shape != self.shape or pattern.dtype != self.dtype:
                raise ValueError(
                    f"{self.paths[which]} has {pattern.shape} px of {pattern.dtype}, but {self.paths[0]} {self.shape} of "
                    f"{self.dtype}. All patterns of a scan must be alike: export them again, or take it out of the folder."
                )
            out[number] = pattern
        return out


Stack = H5Stack | RawStack | ImageStack


def read_image(path: Path) -> np.ndarray:
    """Return a grey image (h, w).

    Raises
    ------
    ValueError
        It is damaged, coloured, or has several pages.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            pixels = tifffile.imread(path)
        else:
            with Image.open(path) as image:
                # A palette of greys is what some cameras write as 8-bit bmp.
                pixels = np.asarray(image.convert("L") if image.mode == "P" else image)
    except (OSError, ValueError, KeyError, RuntimeError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}). It may be damaged: copy it again.") from error
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4) and (pixels[..., :3] == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey, saved as colours
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif":
        raise ValueError(f"{path} has the shape {pixels.shape} of {pixels.dtype}, but a pattern is one grey image. Save it so.")
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
