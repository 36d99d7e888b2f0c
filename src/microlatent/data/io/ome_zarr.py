"""OME-Zarr: plates, fields and single images, read lazily as (T, C, Z, Y, X) whatever axes are stored.

NGFF 0.4 (zarr 2) and 0.5 (zarr 3, sharded or not), and what older versions have in common with them. Only the metadata say what
is called what: wells, fields, levels and channels may have any name. An axis that is not stored has length 1.

A chunk that was never written reads as the fill value, mostly zero. ``Level.stored`` tells it from a chunk of zeros. (Some
writers leave out chunks that are all zero; no camera counts exactly zero in a whole chunk, so these count as missing as well.)

Source: NGFF 0.4 and 0.5, https://ngff.openmicroscopy.org; the index of a shard: zarr 3, codec sharding_indexed 1.0.
"""

from __future__ import annotations

import difflib
import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from microlatent.data.io.units import MINUTES, UM

AXES = "TCZYX"
OWN_KEYS = ("multiscales", "omero", "image-label", "plate", "well", "labels", "bioformats2raw.layout")  # of NGFF, in 0.4
NO_CHUNK = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not hold
BLOCK_BYTES = 1 << 26
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, struct.error, zlib.error)

Index = tuple[int | slice, ...]


class Place(NamedTuple):
    """Where a field lies: ``A/1`` and ``000``; a single image has no well."""

    well: str
    field: str
    path: Path

    @property
    def name(self) -> str:
        """Well and field, such as A/1/000."""
        return f"{self.well}/{self.field}".lstrip("/")


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


class OmeImage:
    """One image: a field of a plate, a single image or a label image. Metadata are read now, pixels when indexed.

    Attributes: ``place`` and ``name``, ``version`` of NGFF, ``axes`` as stored, ``levels`` from full resolution down, ``units``
    by axis letter, ``omero`` as it stands, ``attributes`` that are not NGFF's, such as VisCy's ``normalization``.
    ``shape``, ``dtype``, ``chunks``, ``scale``, ``translation`` and indexing are those of full resolution.
    """

    def __init__(self, place: Place | str | Path, channel_names: Sequence[str] | None = None) -> None:
        self.place = place if isinstance(place, Place) else Place("", Path(place).name, Path(place))
        self.path, self.name = self.place.path, self.place.name
        self.version, about, self.attributes = read_attributes(self.path)
        if not about.get("multiscales"):
            there = ", ".join(sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())) or "nothing"
            raise ValueError(
                f"{self.path} has no multiscales, so it is no OME-Zarr image; it holds {there}. Name an image in it."
            )
        self.omero: dict[str, Any] = about.get("omero") or {}
        self.colors: list[dict] = (about.get("image-label") or {}).get("colors") or []
        try:
            self._read_multiscales(about["multiscales"][0])
        except (KeyError, TypeError, IndexError) as error:
            raise damaged(self.path, error) from error
        labels = [channel.get("label") for channel in self.omero.get("channels") or []]
        self._named = [str(label) for label in labels] if labels and all(labels) else None
        self._given = list(channel_names) if channel_names else None

    def _read_multiscales(self, scales: dict[str, Any]) -> None:
        axes = scales.get("axes")
        if axes is None and self.version not in ("0.1", "0.2"):
            raise ValueError(f"{self.path} is of NGFF {self.version} and names no axes. Known are 0.4 and 0.5: convert it.")
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes or "tczyx"]
        letters = [{"time": "T", "channel": "C"}.get(axis.get("type"), str(axis["name"]).upper()) for axis in axes]
        self.axes = "".join(letters)
        if not set(letters) <= set(AXES) or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
            raise ValueError(
                f"{self.path} has the axes {', '.join(str(axis['name']) for axis in axes)}, but an image has y and x, and t, c "
                f"and z at most once. Save the part of it that is to be read as an image of its own."
            )
        self.units = {letter: str(axis["unit"]) for letter, axis in zip(letters, axes, strict=True) if axis.get("unit")}
        everywhere = scales.get("coordinateTransformations") or []
        self.levels = []
        for level in scales["datasets"]:
            scale, shift = np.ones(5), np.zeros(5)
            for step in [*(level.get("coordinateTransformations") or []), *everywhere]:  # in this order
                kind = step["type"]
                values = np.full(5, 1.0 if kind == "scale" else 0.0)
                if kind in ("scale", "translation"):
                    if len(step[kind]) != len(letters):
                        raise ValueError(f"{self.path} has a {kind} of {len(step[kind])} numbers for the axes {self.axes}.")
                    values[[AXES.index(letter) for letter in letters]] = step[kind]
                scale, shift = (scale * values, shift * values) if kind == "scale" else (scale, shift + values)
            path = self.path / str(level["path"])
            self.levels.append(Level(path, self.axes, tuple(scale.tolist()), tuple(shift.tolist())))

    def __getitem__(self, index: int | slice | Index) -> np.ndarray:
        """Return pixels of full resolution; see ``Level``."""
        return self.levels[0][index]

    def __repr__(self) -> str:
        return f"OmeImage({str(self.path)!r}, shape={self.shape})"

    shape = property(lambda self: self.levels[0].shape, doc="Sizes of T, C, Z, Y, X.")
    dtype = property(lambda self: self.levels[0].dtype, doc="Type of a pixel, in this machine's byte order.")
    chunks = property(lambda self: self.levels[0].chunks, doc="What is decoded at once, in pixels along T, C, Z, Y, X.")
    scale = property(lambda self: self.levels[0].scale, doc="Size of a pixel along T, C, Z, Y, X, in ``units``.")
    translation = property(lambda self: self.levels[0].translation, doc="Centre of the first pixel, in ``units``.")

    @property
    def channels(self) -> list[str] | None:
        """Names from the metadata, else those given by the caller; None if there are none or their number is wrong."""
        return next((names for names in (self._named, self._given) if names and len(names) == self.shape[1]), None)

    def channel(self, name: str) -> int:
        """Return the position of a channel.

        Raises
        ------
        ValueError
            The image's channels have no names, none has this one, or two have.
        """
        names = self.channels
        if names is None:
            said = f"gives {len(self._named)} names" if self._named else "names no channels"
            given = f" (data.channel_names has {len(self._given)})" if self._given else ""
            raise ValueError(
                f"{self.path} has {self.shape[1]} channels, but {said}{given}, so {name!r} cannot be found. Give their names in "
                f"their order: data.channel_names=[...]."
            )
        if names.count(name) != 1:
            near = difflib.get_close_matches(name.lower(), [one.lower() for one in names], 1)
            near = [one for one in names if one.lower() in near and one != name]
            raise ValueError(
                f"The channel {name!r} is {'twice' if name in names else 'not'} in {self.path}; it has {', '.join(names)}."
                + (f" Is {near[0]!r} meant?" if near else "")
                + " Name one of them."
            )
        return names.index(name)

    @property
    def windows(self) -> list[tuple[float, float] | None]:
        """Display range (start, end) of every channel, None where the metadata give none."""
        windows = [channel.get("window") or {} for channel in self.omero.get("channels") or []]
        windows = windows if len(windows) == self.shape[1] else [{}] * self.shape[1]
        return [(float(one["start"]), float(one["end"])) if {"start", "end"} <= set(one) else None for one in windows]

    pixel_um = property(lambda self: self._size("X", UM), doc="Width of a pixel, None if its unit is unknown.")
    z_um = property(lambda self: self._size("Z", UM), doc="Distance of planes, None if its unit is unknown.")
    frame_min = property(lambda self: self._size("T", MINUTES), doc="Interval of time points, None if its unit is unknown.")

    def _size(self, axis: str, known: dict[str, float]) -> float | None:
        unit = known.get(self.units.get(axis, ""))
        return self.scale[AXES.index(axis)] * unit if unit else None

    @property
    def label_names(self) -> list[str]:
        """Names of the label images that lie with this one."""
        folder = self.path / "labels"
        return [str(name) for name in read_attributes(folder)[1].get("labels") or []] if is_zarr(folder) else []

    def labels(self, name: str) -> OmeImage:
        """Return a label image; its C axis has length 1."""
        if name not in self.label_names:
            there = ", ".join(self.label_names) or "none"
            raise ValueError(f"{self.path} has no labels {name!r}; it has {there}. Name one of them.")
        return OmeImage(Place(self.place.well, self.place.field, self.path / "labels" / name))


@dataclass
class Plate:
    """The fields of a plate that are there, in the order of its metadata; a single image is a plate of one field.

    ``name`` tells plates apart: the folder's name without ``.zarr``. ``missing`` says what is listed but absent.
    """

    path: Path
    name: str
    version: str
    is_plate: bool  # else one image or several without wells
    fields: list[OmeImage]
    missing: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> OmeImage:
        """Return a field by its well and name, such as A/1/000."""
        for one in self.fields:
            if one.name == name:
                return one
        raise KeyError(f"{self.path} has no field {name!r}; it has {', '.join(one.name for one in self.fields[:6])} ...")

    @property
    def notes(self) -> list[str]:
        """What a user should know before this plate is used: one sentence, or none."""
        some = ", ".join(self.missing[:6]) + (f" and {len(self.missing) - 6} more" if len(self.missing) > 6 else "")
        return [f"{self.path} lists {some}, which are not there; the other fields are used."] if self.missing else []


def open_plates(roots: str | Path | Sequence[str | Path], channel_names: Sequence[str] | None = None) -> list[Plate]:
    """Open what one or several paths name: plates, wells, fields, single images, or folders of them.

    Parameters
    ----------
    channel_names
        Names of the channels of images whose metadata give none.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or nothing of a plate is there.
    ValueError
        It is not OME-Zarr or damaged, or two plates cannot be told apart by name.
    """
    paths: list[Path] = []
    for root in [roots] if isinstance(roots, str | Path) else roots:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"data.root names {root}, but there is no such folder. Give an OME-Zarr plate or image.")
        paths += [root] if is_zarr(root) else zarrs_in(root)
        if not paths:
            raise ValueError(f"{root} is no OME-Zarr plate or image, and holds none. Give one, or the folder that holds them.")
    plates = [_open_plate(path, channel_names) for path in paths]
    doubled = {name for name, times in Counter(plate.name for plate in plates).items() if times > 1}
    for plate in plates:
        plate.name = f"{plate.path.resolve().parent.name}-{plate.name}" if plate.name in doubled else plate.name
    names = Counter(plate.name for plate in plates)
    if len(names) < len(plates):
        same = [str(plate.path) for plate in plates if names[plate.name] > 1]
        raise ValueError(f"{' and '.join(same)} have the same name, so their fields cannot be told apart. Rename a folder.")
    return plates


def places(path: Path) -> tuple[list[Place], list[str]]:
    """Return the places of a plate's, a well's or a bioformats2raw store's images that are there, and what is listed but absent.

    Both are empty for anything else.
    """
    _, about, _ = read_attributes(path)
    try:
        if "plate" in about:
            return _places_of_wells({str(well["path"]): path / str(well["path"]) for well in about["plate"]["wells"]})
        if "well" in about:
            return _places_of_wells({_well_name(path): path})
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
    if "bioformats2raw.layout" in about:
        listed = read_attributes(path / "OME")[1].get("series") if is_zarr(path / "OME") else None
        listed = listed or sorted((one.name for one in path.iterdir() if one.name.isdecimal() and is_zarr(one)), key=int)
        return [Place("", str(name), path / str(name)) for name in listed], []
    return [], []


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a zarr group or array."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def zarrs_in(folder: Path) -> list[Path]:
    """Return the zarr groups and arrays right below a folder, by name; hidden ones are passed over."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir() and is_zarr(path))


def read_attributes(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the NGFF version, the NGFF metadata, and the other attributes of a group.

    Raises
    ------
    ValueError
        The folder is no zarr group, or its metadata cannot be read.
    """
    try:
        if (folder / "zarr.json").is_file():
            attributes = json.loads((folder / "zarr.json").read_text(encoding="utf-8")).get("attributes") or {}
        elif (folder / ".zgroup").is_file():
            attributes = json.loads((folder / ".zattrs").read_text("utf-8")) if (folder / ".zattrs").is_file() else {}
        else:
            raise ValueError("it has neither zarr.json nor .zgroup")
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    if "ome" in attributes:
        about = attributes["ome"]
        return str(about.get("version", "0.5")), about, {key: value for key, value in attributes.items() if key != "ome"}
    about = {key: attributes[key] for key in OWN_KEYS if key in attributes}
    inner = about.get("plate") or about.get("well") or (about.get("multiscales") or [{}])[0]
    foreign = {key: value for key, value in attributes.items() if key not in OWN_KEYS}
    return str(inner.get("version", "0.4")), about, foreign


def damaged(path: Path, error: Exception) -> ValueError:
    """Return the error that names what cannot be read."""
    return ValueError(f"{path} cannot be read ({error}). It may be damaged or cut short: copy it again.")


def _open_plate(path: Path, channel_names: Sequence[str] | None) -> Plate:
    version, about, _ = read_attributes(path)
    found, missing = places(path)
    is_plate, whole = "plate" in about or "well" in about, path
    if "well" in about:
        whole = path.parents[_well_name(path).count("/")]
    elif "multiscales" in about:
        well = path.parent
        if is_zarr(well) and "well" in read_attributes(well)[1]:  # a field of a plate keeps its names
            is_plate, whole = True, well.parents[_well_name(well).count("/")]
            found = [Place(_well_name(well), path.name, path)]
        else:
            found = [Place("", "0", path)]
    if not found:
        listed = f"lists {', '.join(missing[:6])}, but none of it is there" if missing else "has neither plate nor image in it"
        raise FileNotFoundError(f"{path} {listed}. Give an OME-Zarr plate, a field or an image.")
    images = []
    for place in found:
        image = OmeImage(place, channel_names)
        if is_zarr(image.levels[0].path):
            images.append(image)
        else:
            missing.append(f"the pixels of {place.name} ({image.levels[0].path.name})")
    if not images:
        raise FileNotFoundError(f"{path} lists {', '.join(missing[:6])}, but none of it is there. Copy the plate again.")
    return Plate(path, whole.name.removesuffix(".zarr").removesuffix(".ome"), version, is_plate, images, missing)


def _places_of_wells(wells: dict[str, Path]) -> tuple[list[Place], list[str]]:
    found, missing = [], []
    for name, folder in wells.items():
        if not is_zarr(folder):
            missing.append(f"the well {name}")
            continue
        for image in read_attributes(folder)[1].get("well", {}).get("images", []):
            place = Place(name, str(image["path"]), folder / str(image["path"]))
            if is_zarr(place.path):
                found.append(place)
            else:
                missing.append(f"the field {place.name}")
    return found, missing


def _well_name(folder: Path) -> str:
    """Return a well's name as its plate has it: the path below the nearest folder that is a plate."""
    folder = folder.resolve()
    for above in folder.parents[:3]:
        if is_zarr(above) and "plate" in read_attributes(above)[1]:
            return folder.relative_to(above).as_posix()
    return "/".join(folder.parts[-2:])
