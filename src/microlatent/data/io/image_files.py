"""Image files as (T, C, Y, X), whatever wrote them, read one time point at a time in the camera's dtype.

=========  ==========================================================================================================
TIFF       axes, channel names, pixel size and interval from OME-XML or ImageJ; pages without axes as said by ``pages``
npy        (T, C, Z, Y, X); also (Y, X), and (n, Y, X) as said by ``pages``; mapped, never read whole
OME-Zarr   NGFF 0.4 (zarr 2) and 0.5 (zarr 3), full resolution
PNG, JPEG  one frame; red, green and blue are channels
=========  ==========================================================================================================

A z axis must have length 1: which plane holds a cell's patch is a choice that no reader may take.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
import zarr
from PIL import Image

from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.data.io.ome_zarr.metadata import is_zarr
from microlatent.data.io.units import MINUTES, UM

COLOURS = {tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR, tifffile.PHOTOMETRIC.CIELAB}
# What the readers and decoders raise when a file is damaged; imagecodecs' errors are RuntimeErrors.
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, struct.error, tifffile.TiffFileError, ElementTree.ParseError)


class OtherPage(NamedTuple):
    """A page that cannot be a channel: of another shape or kind than the pages before it."""

    number: int
    shape_px: tuple[int, int]
    text: str


@dataclass
class ImageFile:
    """One open file."""

    path: Path
    array: Any  # indexable like an array; only what is asked for is read
    axes: str  # a letter per axis of ``array``, of T C Z Y X
    channels: list[str] | None = None
    pixel_um: float | None = None
    frame_min: float | None = None
    is_rgb: bool = False  # its channels are red, green and blue of a picture
    others: list[OtherPage] = field(default_factory=list)
    close: Callable[[], None] = lambda: None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes of T, C, Y, X; an axis that the file lacks has length 1."""
        size = dict(zip(self.axes, self.array.shape, strict=True))
        return size.get("T", 1), size.get("C", 1), size["Y"], size["X"]

    @property
    def dtype(self) -> np.dtype:
        """Type of a pixel, in this machine's byte order."""
        return np.dtype(self.array.dtype).newbyteorder("=")

    def read(self, t: int) -> np.ndarray:
        """Return time point ``t`` as (C, Y, X)."""
        index = tuple({"T": t, "Z": 0}.get(axis, slice(None)) for axis in self.axes)
        try:
            pixels, left = np.asarray(self.array[index], self.dtype), [axis for axis in self.axes if axis not in "TZ"]
        except DAMAGE as error:
            raise _damaged(self.path, error) from error
        if "C" not in left:
            pixels, left = pixels[None], ["C", *left]
        return np.ascontiguousarray(pixels.transpose([left.index(axis) for axis in "CYX"]))


def open_image(path: str | Path, pages: str = "T", *, volumes: bool = False) -> ImageFile:
    """Open a file; ``pages`` (T, C or Z) says what an axis without a name is, ``volumes`` that it may have several planes.

    Raises
    ------
    ValueError
        If the format is unknown, the file damaged, its axes unclear, or z longer than 1.
    """
    path = Path(path)
    opener = _zarr if path.is_dir() else OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ValueError(f"{path} is of a kind that is not read. Known: TIFF, OME-TIFF, OME-Zarr, npy, PNG, JPEG. Convert it.")
    try:
        image = opener(path)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    unnamed = [axis for axis in image.axes if axis not in "TCZYX"]
    image.axes = image.axes.replace(unnamed[0], pages) if len(unnamed) == 1 else image.axes
    if len(unnamed) > 1 or len(set(image.axes)) < len(image.axes) or not {"Y", "X"} <= set(image.axes):
        image.close()
        raise ValueError(
            f"{path} has the shape {image.array.shape}, but does not say which axis is time and which is channel. Save it as "
            f"OME-TIFF, ImageJ hyperstack, OME-Zarr or npy of (T, C, Z, Y, X), or a file per frame with {{frame}} in the path."
        )
    depth = dict(zip(image.axes, image.array.shape, strict=True)).get("Z", 1)
    if depth > 1 and not volumes:
        image.close()
        raise ValueError(
            f"{path} has {depth} planes in z, but patches are cut from one. Save the plane in focus, or a projection, as a file."
        )
    return image


def is_known(path: Path) -> bool:
    """Return whether a file or folder is of a kind that ``open_image`` reads."""
    return is_zarr(path) if path.is_dir() else path.suffix.lower() in OPENERS


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read ({error}). It may be damaged or cut short: copy it again.")


class _Pages:
    """A series of a TIFF, decoded when it is indexed: whole, or through zarr only the pages asked for."""

    def __init__(self, series: tifffile.TiffPageSeries) -> None:
        self.series, self.shape, self.dtype = series, series.shape, series.dtype
        self.pages: Any = None

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        if all(part == slice(None) or size == 1 for part, size in zip(index, self.shape, strict=True)):
            return self.series.asarray()[index]
        self.pages = self.pages if self.pages is not None else zarr.open(self.series.aszarr(), mode="r")
        return self.pages[index]


def _tiff(path: Path) -> ImageFile:
    file = tifffile.TiffFile(path)
    try:
        return _describe_tiff(path, file)
    except DAMAGE:
        file.close()
        raise


def _describe_tiff(path: Path, file: tifffile.TiffFile) -> ImageFile:
    if not file.series:
        raise ValueError("no image in it")
    series = file.series[0]
    _refuse_cut_short(file, series)
    image = ImageFile(path, _Pages(series), series.axes.replace("S", "C" if "C" not in series.axes else "S"), close=file.close)
    image.is_rgb = series.keyframe.photometric in COLOURS
    for other in file.series[1:]:
        page = other.keyframe
        text = f"{page.imagelength} x {page.imagewidth} px of {'colours' if page.photometric in COLOURS else other.dtype}"
        image.others += [OtherPage(one.index, (page.imagelength, page.imagewidth), text) for one in other.pages]
    if file.is_ome:
        _describe_ome(image, file.ome_metadata)
    elif file.is_imagej:
        about = file.imagej_metadata
        image.channels = _imagej_channels(about, image.shape[1])
        image.frame_min = float(about.get("finterval", 0)) / 60 or None
        resolution = file.pages[0].tags.get("XResolution")
        if resolution is not None and str(about.get("unit")) in UM and resolution.value[0]:
            image.pixel_um = resolution.value[1] / resolution.value[0] * UM[str(about["unit"])]
    elif file.is_qpi:  # component data of inForm: each page says its marker
        names = [ElementTree.fromstring(file.pages[page.index].description).findtext("Name") for page in series.pages]
        image.channels = names if all(names) and len(names) == image.shape[1] else None
    return image


def _refuse_cut_short(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Refuse a file whose end is missing: what is left of it may look like an image of fewer pages."""
    if series.dataoffset is not None:
        end = series.dataoffset + series.nbytes
    else:
        end = max(
            sum(part) for page in (series[0], series[-1]) for part in zip(page.dataoffsets, page.databytecounts, strict=True)
        )
    if end > file.filehandle.size:
        raise ValueError(f"it has {file.filehandle.size} bytes, but its pixels reach to byte {end}")
    num_pages = len(file.pages)  # walks along the chain of pages, whose last link must say that it is the last
    handle, form = file.filehandle, file.tiff
    handle.seek(file.pages.next_page_offset)
    (further,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
    if further:
        raise ValueError(f"after {num_pages} pages it names another one at byte {further}, and there is none")
    handle.seek(file.pages[0].offset)  # what the first page says of itself, such as channel names, may stand behind the pixels
    (num_tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
    for _ in range(num_tags):
        entry = handle.read(form.tagsize)
        (_, kind), (count, value) = struct.unpack(form.tagformat1, entry[:4]), struct.unpack(form.tagformat2, entry[4:])
        length = count * struct.calcsize(tifffile.TIFF.DATA_FORMATS.get(kind, "1s"))
        if length > form.tagoffsetthreshold and struct.unpack(form.offsetformat, value)[0] + length > handle.size:
            raise ValueError(f"it has {handle.size} bytes, but its description reaches beyond")


def _imagej_channels(about: dict[str, Any], num_channels: int) -> list[str] | None:
    labels = about.get("Labels")
    labels = [str(label) for label in ([labels] if isinstance(labels, str) else labels or [])]
    # Some programs repeat one label, such as the file's name, for every plane: that is no name of a channel.
    return labels if all(labels) and len(labels) == num_channels and len(set(labels)) > min(1, num_channels - 1) else None


def _describe_ome(image: ImageFile, xml: str) -> None:
    """Take names and sizes from OME-XML. Source: OME model 2016-06, element Pixels."""
    pixels = next((node for node in ElementTree.fromstring(xml).iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return
    names = [node.get("Name") for node in pixels if node.tag.endswith("}Channel")]
    image.channels = names if all(names) and len(names) == image.shape[1] else None
    size, interval = pixels.get("PhysicalSizeX"), pixels.get("TimeIncrement")
    size_unit, interval_unit = UM.get(pixels.get("PhysicalSizeXUnit", "um")), MINUTES.get(pixels.get("TimeIncrementUnit", "s"))
    image.pixel_um = float(size) * size_unit if size and size_unit else None
    image.frame_min = float(interval) * interval_unit if interval and interval_unit else None


def _npy(path: Path) -> ImageFile:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return ImageFile(path, array, {5: "TCZYX", 3: "QYX", 2: "YX"}.get(array.ndim, "Q" * array.ndim))


def _picture(path: Path) -> ImageFile:
    with Image.open(path, formats=["PNG", "JPEG"]) as picture:
        array = np.asarray(picture)  # of a palette, the indices: they are the labels of a mask
    return ImageFile(path, array, "YXC"[: array.ndim], is_rgb=array.ndim == 3)


def _zarr(path: Path) -> ImageFile:
    if not (path / ".zgroup").is_file() and isinstance(node := zarr.open(path, mode="r"), zarr.Array):
        return ImageFile(path, node, {5: "TCZYX", 3: "QYX", 2: "YX"}.get(node.ndim, "Q" * node.ndim))
    image = OmeImage(path)
    about = {"pixel_um": image.pixel_um, "frame_min": image.frame_min}
    return ImageFile(path, image.levels[0], "TCZYX", image.channels, **about)


OPENERS = {".tif": _tiff, ".tiff": _tiff, ".npy": _npy, ".png": _picture, ".jpg": _picture, ".jpeg": _picture}
