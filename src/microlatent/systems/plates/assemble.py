"""``infer.py task=assemble data=plates``: TIFF and other images, found by a pattern of paths, to one OME-Zarr plate.

A pattern such as ``{well}_{site}_t{frame}_z{z}_{channel}.tif`` is matched below data.root, with the fields that data/io/images.py
knows and {z}. What a path does not say, the file's own axes do; ``task.pages`` says it for files that do not. Fields may differ
in their numbers of time points and planes. The plate appears under its name when it is whole.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from microlatent.data.folders import SIMULATED
from microlatent.data.io.image_files import ImageFile, open_image
from microlatent.data.io.images import FIELDS
from microlatent.data.io.ome_zarr.writer import ImageWriter, create_plate
from microlatent.data.io.paths import NUMBER, find_paths, natural, nothing_found
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.plates.schema import AssemblePlatesConfig

logger = logging.getLogger(__name__)
WITH_Z = {**FIELDS, "z": NUMBER}
WELL = re.compile(r"([A-Za-z]+)[-_]?(\d+)")


class Frame(NamedTuple):
    """Which part of a field a file holds; None is what its own axes say."""

    t: int | None
    channel: str | None
    z: int | None


@dataclass
class FieldFiles:
    """The files of one field, and its sizes."""

    well: str  # A/1
    name: str
    files: dict[Frame, Path]
    shape: tuple[int, int, int, int, int]
    dtype: np.dtype
    channels: list[str]
    pixel_um: float | None


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Write the plate and a table of its fields."""
    fields, path = plan(settings), plate_path(settings)
    results = results_of(out, tracker)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        create_plate(
            partial, [(field.well, field.name) for field in fields], settings.task.version, path.name.removesuffix(".zarr")
        )
        for field in track(fields, "Writing fields"):
            write_field(field, partial, settings)
        if path.exists():
            os.rename(path, old := path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old"))
            os.rename(partial, path)
            shutil.rmtree(old)
        else:
            os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    table = pd.DataFrame([row_of(field, path) for field in fields])
    results.table("fields", table)
    logger.info("%d fields of %d wells -> %s", len(fields), table["well"].nunique(), path)
    return {"wells": table["well"].nunique(), "fields": len(fields), "files": int(table["files"].sum())}


def results_of(out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    return Results(out, tracker, tables=["fields"])


def preflight(settings: Settings, out: Path) -> Preflight:
    """Find the files, open one of each field, and say what would be written."""
    fields, path = plan(settings), plate_path(settings)
    size_mb = sum(np.prod(field.shape) * field.dtype.itemsize for field in fields) / 1e6
    wells = len({field.well for field in fields})
    shapes = sorted({str(field.shape) for field in fields})
    return Preflight(
        reads=[f"{settings.data.root}: {sum(len(field.files) for field in fields)} files of {wells} wells, {len(fields)} fields"],
        writes=[*results_of(out).writes, f"{path}: NGFF {settings.task.version}"],
        memory_mb=300 + 2 * max(np.prod(field.shape[2:]) * field.dtype.itemsize for field in fields) / 1e6,
        disk_mb=size_mb,
        seconds=1 + size_mb / 40,
        notes=[f"channels: {', '.join(fields[0].channels)}", f"T, C, Z, Y, X: {', '.join(shapes[:6])}"],
    )


def plate_path(settings: Settings) -> Path:
    """Return where the plate goes.

    Raises
    ------
    ValueError
        Something is there that must not be replaced.
    """
    task, root = settings.task, Path(settings.data.root).resolve()
    path = Path(task.out) if task.out else Path(settings.outputs) / "plates" / f"{root.name.removesuffix('.zarr')}.zarr"
    if path.exists() and not task.overwrite:
        raise ValueError(f"{path} exists. Name another plate with task.out=<name>.zarr, or replace it with task.overwrite=true.")
    if path.exists() and not ((path / "zarr.json").is_file() or (path / ".zgroup").is_file()):
        raise ValueError(f"{path} is no OME-Zarr, so task.overwrite=true does not replace it. Name another plate with task.out.")
    return path.absolute()


def plan(settings: Settings) -> list[FieldFiles]:
    """Find the files of every field, and open one of each for what it says.

    Raises
    ------
    FileNotFoundError
        Nothing matches.
    ValueError
        Two files are the same frame, some frames are missing, or a well is not a row and a column.
    """
    task: AssemblePlatesConfig = settings.task
    if isinstance(settings.data.root, list) or settings.data.root in SIMULATED:
        raise ValueError(
            f"data.root={settings.data.root} is no folder of images; the specimen is a plate already. Name a folder."
        )
    root, key = Path(settings.data.root), "task.images"
    if not root.is_dir():
        raise FileNotFoundError(f"data.root is {root}, but there is no such folder. Give the folder above the images.")
    groups: dict[tuple[str, str], dict[Frame, Path]] = {}
    for path, found in find_paths(root, task.images, key, WITH_Z):
        well = found.get("well") or found.get("row", "") + found.get("column", "") or task.well
        place = well_place(well, f"{key}={task.images!r}")
        t, z = (int(found[name]) if name in found else None for name in ("frame", "z"))
        frame = Frame(t, found.get("channel"), z)
        group = groups.setdefault((place, found.get("site") or task.site), {})
        if frame in group:
            raise ValueError(
                f"{group[frame]} and {path} are both the same frame of {place}. Put what tells them apart into {key} as "
                f"{{site}}, {{frame}}, {{z}} or {{channel}}; it is {task.images!r}."
            )
        group[frame] = path
    if not groups:
        raise nothing_found(root, task.images, key, WITH_Z)
    fields = [_opened(*name, groups[name], settings) for name in sorted(groups, key=lambda one: natural("/".join(one)))]
    places = [(field.well, field.name) for field in fields]
    if doubled := sorted({place for place in places if places.count(place) > 1}):
        raise ValueError(
            f"task.images finds several fields {doubled[0][1]} of {doubled[0][0]}: only letters and digits count. Rename them."
        )
    names = {tuple(field.channels) for field in fields}
    if len(names) > 1:
        raise ValueError(
            f"The fields differ in their channels: {' and '.join(', '.join(some) for some in sorted(names)[:2])}. Copy the files "
            f"that are missing, or narrow {key}."
        )
    return fields


def well_place(well: str, said: str) -> str:
    """Return a well as row and column: A1 becomes A/1, and A01 A/01."""
    match = WELL.fullmatch(well)
    if not match:
        raise ValueError(
            f"{said} finds the well {well!r}, but a well is a row and a column such as A1. Write {{row}} and {{column}}."
        )
    return f"{match[1]}/{match[2]}"


def _opened(well: str, name: str, files: dict[Frame, Path], settings: Settings) -> FieldFiles:
    first = next(iter(files.values()))
    image = _open(first, settings.task.pages)
    own = dict(zip(image.axes, image.array.shape, strict=True))
    pixel_um, dtype, said = settings.data.pixel_um or image.pixel_um, image.dtype, image.channels
    image.close()
    times, names, planes = (sorted({frame[k] for frame in files if frame[k] is not None}, key=str) for k in range(3))
    times, planes = sorted(times), sorted(planes)
    for axis, numbers, word in (("T", times, "frame"), ("C", names, "channel"), ("Z", planes, "z")):
        if numbers and own.get(axis, 1) > 1:
            raise ValueError(
                f"{first} holds {own[axis]} of the axis {axis}, but {{{word}}} is in task.images as well. Take it out, or say "
                "with task.pages what the pages are."
            )
    shape = (len(times) or own.get("T", 1), len(names) or own.get("C", 1), len(planes) or own.get("Z", 1), own["Y"], own["X"])
    wanted = max(1, len(times)) * max(1, len(names)) * max(1, len(planes))
    if len(files) != wanted:
        raise ValueError(
            f"{well}, {name}: {len(files)} files were found, but {max(1, len(times))} frames, {max(1, len(names))} channels and "
            f"{max(1, len(planes))} planes make {wanted}. Copy the missing files, or take the incomplete frames away."
        )
    channels = settings.data.channel_names or names or said
    if not channels and shape[1] == 1:
        channels = ["channel"]
    if not channels or len(channels) != shape[1]:
        raise ValueError(
            f"{first}: {well}, {name} has {shape[1]} channels, but {len(channels or [])} names. Give them in their order: "
            "data.channel_names=[...]."
        )
    return FieldFiles(well, re.sub(r"[^A-Za-z0-9]", "", name), files, shape, dtype, list(channels), pixel_um)


def _open(path: Path, pages: str) -> ImageFile:
    return open_image(path, pages.upper(), volumes=True)


def write_field(field: FieldFiles, plate: Path, settings: Settings) -> None:
    """Write one field, a file at a time."""
    times, names, planes = (sorted({frame[k] for frame in field.files if frame[k] is not None}, key=str) for k in range(3))
    times, planes = sorted(times), sorted(planes)
    size = field.pixel_um or 1.0
    units = {"Y": "micrometer", "X": "micrometer"} if field.pixel_um else {}
    units |= {"Z": "micrometer"} if settings.data.z_um else {}
    scale = (1.0, 1.0, settings.data.z_um or 1.0, size, size)
    version = settings.task.version
    target = plate / field.well / field.name
    with ImageWriter(target, field.shape, field.dtype, field.channels, version=version, scale=scale, units=units) as writer:
        for frame, path in sorted(field.files.items(), key=lambda item: natural(str(item[1]))):
            image = _open(path, settings.task.pages)
            own = dict(zip(image.axes, image.array.shape, strict=True))
            for t in range(own.get("T", 1)):
                for c in range(own.get("C", 1)):
                    pixels = volume(image, t, c)
                    at = (times.index(frame.t) if times else t, names.index(frame.channel) if names else c)
                    first = planes.index(frame.z) if planes else 0
                    wanted = (1 if planes else field.shape[2], *field.shape[3:])
                    if pixels.shape != wanted:
                        raise ValueError(
                            f"{path} has planes, rows and columns {pixels.shape}, but the field's first file {wanted}. All files "
                            "of a field must be alike: narrow task.images."
                        )
                    writer.write(pixels, *at, first)
            image.close()


def volume(image: ImageFile, t: int, c: int) -> np.ndarray:
    """Return one channel (Z, Y, X) of a file at a time point."""
    pixels = np.asarray(image.array[tuple({"T": t, "C": c}.get(axis, slice(None)) for axis in image.axes)], image.dtype)
    left = [axis for axis in image.axes if axis not in "TC"]
    if "Z" not in left:
        pixels, left = pixels[None], ["Z", *left]
    return pixels.transpose([left.index(axis) for axis in "ZYX"])


def row_of(field: FieldFiles, plate: Path) -> dict[str, Any]:
    """Return what the table says of a field."""
    sizes = dict(zip(("num_t", "num_c", "num_z", "rows_px", "columns_px"), field.shape, strict=True))
    about = {"well": field.well, "fov": field.name, **sizes, "channels": ", ".join(field.channels)}
    return about | {"pixel_um": field.pixel_um, "files": len(field.files), "plate": str(plate)}
