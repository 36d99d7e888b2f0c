"""Write OME-Zarr: plates and single images of NGFF 0.5 (zarr 3) or 0.4 (zarr 2), piece by piece and in any order.

A *unit* is what is compressed at once. In 0.5 it is a tile of one plane, and all units of a time point and channel lie in one
file (a shard), to which each is appended when it is complete: nothing is read back, and a frame never lies in memory as a whole.
In 0.4 it is a block of whole (Z, Y, X), at most ``BLOCK_BYTES`` large, and a file. The levels of the pyramid are made from the
units of the level above, in the same pass. An image appears under its name when it is whole.

Source: NGFF 0.4 and 0.5, https://ngff.openmicroscopy.org; the index of a shard: zarr 3, codec sharding_indexed 1.0.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from microlatent.data.io.ome_zarr.level_writer import LevelWriter, corners_of
from microlatent.data.io.ome_zarr.metadata import AXES, is_zarr, read_attributes, write_group
from microlatent.data.io.paths import natural

TOP_PX = 256  # the longest side of the coarsest level is at most this
SAMPLE_PX = 1 << 18  # pixels a channel's display window is taken from
WINDOW_PERCENT = (1.0, 99.8)
COLORS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
PARTIAL = ".{name}.{mark}.partial"  # of an image in the making
KINDS = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def create_plate(
    path: str | Path,
    fields: Sequence[tuple[str, str]],
    version: str = "0.5",
    name: str = "",
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write the metadata of a plate of the fields (well, field), such as ("A/1", "000"); their images come later.

    ``rows`` and ``columns`` name those of the plate in which no field lies, ``attributes`` what is to stand beside the metadata.

    A plate with the same metadata is left as it is, so that several processes may begin with it.

    Raises
    ------
    ValueError
        A well is not a row and a column, or the folder holds another plate.
    """
    path = Path(path)
    wells: dict[str, list[str]] = {}
    for well, field in fields:
        if len(well.split("/")) != 2 or not well.replace("/", "").isalnum():
            raise ValueError(f"{path}: the well {well!r} is not a row and a column of letters and digits, such as A/1.")
        wells.setdefault(well, []).append(field)
    if not wells:
        raise ValueError(f"{path} is to be a plate, but no field is given for it.")
    rows, columns = (
        sorted({*names, *(well.split("/")[i] for well in wells)}, key=natural) for i, names in enumerate((rows, columns))
    )
    plate = {
        "name": name or path.name.removesuffix(".zarr"),
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [
            {"path": well, "rowIndex": rows.index(well.split("/")[0]), "columnIndex": columns.index(well.split("/")[1])}
            for well in wells
        ],
        "field_count": max(map(len, wells.values())),
        "version": version,
    }
    if is_zarr(path) and read_attributes(path)[1].get("plate") != plate:
        raise ValueError(f"{path} holds another plate or image, not one of {len(wells)} wells. Remove it or choose another name.")
    for row in {well.split("/")[0] for well in wells}:
        write_group(path / row, version)
    for well, names in wells.items():
        write_group(path / well, version, {"well": {"images": [{"path": one} for one in names], "version": version}})
    write_group(path, version, {"plate": plate}, attributes)


def remove_partials(path: str | Path) -> None:
    """Remove what images that were being written when a process was killed left in a plate; no other may be writing to it."""
    for folder in Path(path).glob(f"*/*/{PARTIAL.format(name='*', mark='*')}"):
        shutil.rmtree(folder, ignore_errors=True)


def remove_partials_of(path: Path) -> None:
    """Remove the same of one image; no other process may be writing it."""
    for folder in path.parent.glob(PARTIAL.format(name=path.name, mark="*")):
        shutil.rmtree(folder, ignore_errors=True)


class ImageWriter:
    """One image or label image, to be filled in a ``with`` block and renamed to its name at the block's end.

    Parameters
    ----------
    shape
        Sizes of T, C, Z, Y, X.
    channels
        A name per channel.
    scale, translation
        Size of a pixel and position of the first one's centre, for T, C, Z, Y, X.
    units
        Unit by axis letter, such as {"X": "micrometer"}; axes without one have none.
    windows
        Display range (start, end) of a channel. None: from the 1st to the 99.8th percentile of its pixels.
    colors
        A colour per channel, such as 00FF00.
    attributes
        What else is to stand beside the NGFF metadata.

    Raises
    ------
    ValueError
        The path exists, or the numbers of channels disagree.
    """

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int],
        dtype: Any,
        channels: Sequence[str],
        *,
        version: str = "0.5",
        scale: Sequence[float] = (1.0,) * 5,
        translation: Sequence[float] = (0.0,) * 5,
        units: dict[str, str] | None = None,
        windows: Sequence[tuple[float, float] | None] | None = None,
        colors: Sequence[str] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.version, self.dtype = Path(path), version, np.dtype(dtype).newbyteorder("=")
        self.shape, self.channels = tuple(map(int, shape)), list(channels)
        self.scale, self.translation, self.units = tuple(scale), tuple(translation), units or {}
        self.windows, self.colors, self.attributes = list(windows or [None] * shape[1]), colors, attributes or {}
        if not len(self.channels) == len(self.windows) == self.shape[1]:
            raise ValueError(
                f"{path} is to have {shape[1]} channels, but {len(self.channels)} names ({', '.join(self.channels)}) and "
                f"{len(self.windows)} display windows are given for them."
            )
        if self.path.exists():
            raise ValueError(f"{path} exists. Remove it, or write the image under another name.")
        self.folder = self.path.with_name(PARTIAL.format(name=self.path.name, mark=uuid.uuid4().hex[:8]))
        self.masks: list[_LabelWriter] = []
        self._samples: list[list[np.ndarray]] = [[] for _ in self.channels]
        self._low, self._high = np.full(shape[1], np.inf), np.full(shape[1], -np.inf)
        self._step = max(1, int(np.prod(self.shape)) // self.shape[1] // SAMPLE_PX) | 1  # odd: no column is met every time
        self._create_levels()

    def _create_levels(self) -> None:
        self.levels, shape = [], self.shape
        while True:
            folder = self.folder / str(len(self.levels))
            self.levels.append(LevelWriter(folder, shape, self.dtype, self.version, self._shrink))
            if max(shape[3:]) <= TOP_PX or min(shape[3:]) < 2:
                break
            shape = (*shape[:3], shape[3] // 2, shape[4] // 2)
        for finer, coarser in zip(self.levels, self.levels[1:], strict=False):
            finer.coarser = coarser

    @staticmethod
    def _shrink(pixels: np.ndarray) -> np.ndarray:
        """Return means of 2 x 2 pixels, of what is not NaN; an odd last row or column is left out."""
        corners = corners_of(pixels)
        if pixels.dtype.kind in "iu":
            total = sum(corner.astype(np.int64 if pixels.dtype.itemsize > 2 else np.int32) for corner in corners)
            return ((total + 2) >> 2).astype(pixels.dtype)
        known = sum(np.isfinite(corner) for corner in corners)
        total = sum(np.where(np.isfinite(corner), corner, 0) for corner in corners)
        return np.where(known, total / np.maximum(known, 1), np.nan).astype(pixels.dtype)

    def __enter__(self) -> ImageWriter:
        """Begin to write."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Rename the image to its name, or remove what there is of it."""
        try:
            if kind is None:
                self._finish()
                os.rename(self.folder, self.path)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, pixels: np.ndarray, t: int, c: int, z: int = 0, y: int = 0, x: int = 0) -> None:
        """Write planes (Z, Y, X), or one (Y, X), with their first pixel at (t, c, z, y, x); no pixel twice.

        Raises
        ------
        ValueError
            They reach beyond the image.
        """
        pixels = np.asarray(pixels, self.dtype)
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        corner = (t, c, z, y, x)
        if any(a < 0 or a + b > size for a, b, size in zip(corner, (1, 1, *pixels.shape), self.shape, strict=True)):
            raise ValueError(f"{self.path} has the shape {self.shape}, but {pixels.shape} pixels were to be put at {corner}.")
        self._sample(c, pixels)
        self.levels[0].put(corner, pixels[None, None])

    def labels(self, name: str, dtype: Any = np.uint32) -> ImageWriter:
        """Return a writer of a label image of the same T, Z, Y, X, to be filled in its own ``with`` block inside this one."""
        mask = _LabelWriter(
            self.folder / "labels" / name,
            *((self.shape[0], 1, *self.shape[2:]), dtype, [name]),
            **{"version": self.version, "scale": self.scale, "translation": self.translation, "units": self.units},
        )
        self.masks.append(mask)
        return mask

    def _sample(self, c: int, pixels: np.ndarray) -> None:
        some = pixels.reshape(-1)[:: self._step]
        self._samples[c].append(some[np.isfinite(some)])
        if self.dtype.kind == "f":
            self._low[c] = min(self._low[c], np.nanmin(pixels, initial=np.inf))
            self._high[c] = max(self._high[c], np.nanmax(pixels, initial=-np.inf))

    def _finish(self) -> None:
        for level in self.levels:
            level.finish()
        if self.masks:
            names = [mask.path.name for mask in self.masks]
            write_group(self.folder / "labels", self.version, {"labels": names})
        write_group(self.folder, self.version, {"multiscales": [self._multiscales()], **self._describe()}, self.attributes)

    def _multiscales(self) -> dict[str, Any]:
        """Return the metadata of the levels: the centre of a mean of n pixels lies (n - 1) / 2 pixels further."""
        datasets = []
        for n in range(len(self.levels)):
            factor = np.array([1, 1, 1, 2**n, 2**n])
            shift = np.array(self.translation) + np.array(self.scale) * (factor - 1) / 2
            steps: list[dict[str, Any]] = [{"type": "scale", "scale": (np.array(self.scale) * factor).tolist()}]
            steps += [{"type": "translation", "translation": shift.tolist()}] if shift.any() else []
            datasets.append({"path": str(n), "coordinateTransformations": steps})
        axes = [
            {"name": axis.lower(), "type": KINDS[axis]} | ({"unit": self.units[axis]} if axis in self.units else {})
            for axis in AXES
        ]
        about = {"name": self.path.name, "axes": axes, "datasets": datasets, "type": "mean"}
        return about if self.version == "0.5" else {**about, "version": self.version}

    def _describe(self) -> dict[str, Any]:
        """Return the display settings: complete, because readers refuse a part of them."""
        colors = self.colors or (COLORS[:1] if len(self.channels) == 1 else COLORS)
        channels = [
            {"label": name, "color": colors[c % len(colors)], "active": True, "window": self._window(c)}
            for c, name in enumerate(self.channels)
        ]
        rdefs = {"defaultT": 0, "defaultZ": self.shape[2] // 2, "model": "color", "projection": "normal"}
        return {"omero": {"name": self.path.name, "version": self.version, "channels": channels, "rdefs": rdefs}}

    def _window(self, c: int) -> dict[str, float]:
        some = np.concatenate(self._samples[c] or [np.zeros(1)])
        start, end = self.windows[c] or np.percentile(some if some.size else np.zeros(1), WINDOW_PERCENT).tolist()
        if self.dtype.kind in "iu":
            low, high = int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)
        else:
            low, high = min(float(self._low[c]), start), max(float(self._high[c]), end)
        return {"start": start, "end": end if end > start else start + 1, "min": low, "max": max(high, low + 1)}


class _LabelWriter(ImageWriter):
    """A label image: its coarser levels hold the commonest label of 2 x 2 pixels, so none is invented."""

    @staticmethod
    def _shrink(pixels: np.ndarray) -> np.ndarray:
        a, b, c, d = corners_of(pixels)
        return np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, np.where(c == d, c, a)))

    def _sample(self, c: int, pixels: np.ndarray) -> None:
        pass

    def _multiscales(self) -> dict[str, Any]:
        return super()._multiscales() | {"type": "mode"}

    def _describe(self) -> dict[str, Any]:
        about = {"colors": [{"label-value": 1, "rgba": [0, 255, 0, 255]}], "source": {"image": "../../"}}
        return {"image-label": {"version": self.version, **about}}
