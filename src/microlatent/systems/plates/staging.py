"""The pixels of a plate in one file that is mapped into memory: crops are cut from it at the speed of a copy.

A chunk of a plate is compressed, and often a whole plane: cut from there, a crop costs hundreds of times as much as it does from
the map. So every pixel is decoded once. The file holds the channels in use in the camera's type; beside each field lie the means
of its small squares, NaN where a pixel is unknown (its chunk was never written, or it is NaN). What is mapped is the system's to
drop when memory is short, so a process is no larger for a larger plate.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from microlatent.files import atomic, write_json
from microlatent.progress import track
from microlatent.systems.plates.fields import Field
from microlatent.systems.plates.statistics import LOW_PX

logger = logging.getLogger(__name__)
FORMAT = 1
ALIGN = 4096


@dataclass
class Pixels:
    """A field's pixels (C, T, Z, Y, X) of the channels in use, and the means of small squares of them (C, T, Z, y, x)."""

    values: np.ndarray
    low: np.ndarray
    is_whole: bool  # every pixel is known


def stage(fields: Sequence[Field], channels: Sequence[str], fingerprints: dict[str, str], folder: Path) -> dict[str, Pixels]:
    """Return the mapped pixels of fields by name; files that are not there, or are of other pixels, are written first."""
    found: dict[str, Pixels] = {}
    for plate in dict.fromkeys(field.plate for field in fields):
        own = [field for field in fields if field.plate == plate]
        path = folder / f"{plate}-{xxhash.xxh3_64_hexdigest(json.dumps(list(channels)).encode())[:8]}.raw"
        wanted = {"format": FORMAT, "channels": list(channels), "fingerprints": {one.name: fingerprints[one.name] for one in own}}
        about = _read(path)
        if about is None or {key: about[key] for key in wanted} != wanted:
            about = wanted | {"fields": _write(own, channels, path)}
            write_json(about, path.with_suffix(".json"))
        for entry in about["fields"]:
            found[entry["name"]] = _open(path, entry)
    return found


def size_of(fields: Sequence[Field], num_channels: int) -> int:
    """Return the bytes that the staged pixels of fields take."""
    return sum(int(np.prod(one.image.shape)) // one.image.shape[1] * num_channels * one.image.dtype.itemsize for one in fields)


def unstaged(field: Field, channels: Sequence[str]) -> Pixels:
    """Return a field's pixels read into memory: for a look at one, without a file."""
    values = np.empty(_shape(field, channels), field.image.dtype)
    low = np.empty(_small(values.shape), np.float32)
    return Pixels(values, low, _fill(field, channels, values, low))


def _read(path: Path) -> dict[str, Any] | None:
    about = path.with_suffix(".json")
    if not (path.is_file() and about.is_file()):
        return None
    try:
        return json.loads(about.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _write(fields: Sequence[Field], channels: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Write the file under another name, rename it, and return what stands where in it."""
    path.with_suffix(".json").unlink(missing_ok=True)  # it describes the file that is replaced now
    entries, at = [], 0
    for field in fields:
        shape = _shape(field, channels)
        low_at = _aligned(at + int(np.prod(shape)) * field.image.dtype.itemsize)
        entry = {"name": field.name, "dtype": field.image.dtype.str, "shape": shape, "at": at, "low_at": low_at}
        entries.append(entry)
        at = _aligned(low_at + 4 * int(np.prod(_small(shape))))
    logger.info("%.2f GB of pixels of %d fields are staged once: %s", at / 1e9, len(fields), path)
    with atomic(path) as temporary:
        with open(temporary, "wb") as file:
            file.truncate(at)
        for field, entry in zip(track(fields, "Staging pixels"), entries, strict=True):
            values, low = _mapped(temporary, entry, "r+")
            entry["whole"] = _fill(field, channels, values, low)
    return entries


def _fill(field: Field, channels: Sequence[str], values: np.ndarray, low: np.ndarray) -> bool:
    """Read a field into place, chunk by chunk, and return whether every pixel is known."""
    places = [field.image.channel(name) for name in channels]
    level = field.image.levels[0]
    known = np.ones(low.shape[1:], bool)
    for box in level.blocks(places):
        pixels, present = field.image[box], level.present(box)
        inside = [(k, place - box[1].start) for k, place in enumerate(places) if box[1].start <= place < box[1].stop]
        for k, c in inside:
            values[k, box[0], box[2], box[3], box[4]] = pixels[:, c]
            good = np.ones_like(pixels[:, c], bool) if present is None else present[:, c]
            good = good & np.isfinite(pixels[:, c]) if pixels.dtype.kind == "f" else good
            if not good.all():
                t, z, y, x = (at + part.start for at, part in zip(np.nonzero(~good), (box[0], *box[2:]), strict=True))
                known[t, z, y // LOW_PX, x // LOW_PX] = False
    lacking = [(0, small * LOW_PX - size) for small, size in zip(low.shape[3:], values.shape[3:], strict=True)]
    for place in np.ndindex(low.shape[:3]):
        plane = np.pad(values[place], lacking, "edge") if np.any(lacking) else values[place]
        low[place] = plane.reshape(low.shape[3], LOW_PX, low.shape[4], LOW_PX).mean((1, 3), dtype=np.float32)
    low[:, ~known] = np.nan
    return bool(known.all())


def _shape(field: Field, channels: Sequence[str]) -> tuple[int, ...]:
    t, _, *space = field.image.shape
    return (len(channels), t, *space)


def _small(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:3], -(-shape[3] // LOW_PX), -(-shape[4] // LOW_PX))


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN


def _open(path: Path, entry: dict[str, Any]) -> Pixels:
    return Pixels(*_mapped(path, entry, "r"), entry["whole"])


def _mapped(path: Path, entry: dict[str, Any], mode: Any) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(entry["shape"])
    values = np.memmap(path, entry["dtype"], mode, entry["at"], shape)
    return values, np.memmap(path, "<f4", mode, entry["low_at"], _small(shape))
