"""What ``data.root`` names: fields of plates, which of them are for testing alone, and what a user should know of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microlatent.data.folders import raw_folder, store_folder
from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.data.io.ome_zarr.plate import Plate, open_plates
from microlatent.systems.plates import simulate
from microlatent.systems.plates.files import find_project
from microlatent.systems.plates.schema import PlatesConfig
from microlatent.systems.plates.statistics import FieldStatistics, are_stale, load, measure, save, statistics_path

logger = logging.getLogger(__name__)


@dataclass
class Field:
    """A field of a plate."""

    plate: str
    image: OmeImage
    held_out: bool  # lies in datasets/test: never trained on

    @property
    def name(self) -> str:
        """Plate, well and field, such as 20260101_demo/A/1/000."""
        return f"{self.plate}/{self.image.name}"

    @property
    def well(self) -> str:
        """The well, such as A/1; of a single image its name."""
        return self.image.place.well or self.image.name

    def missing_frames(self, channels: Sequence[str] | None = None) -> int:
        """Return how many frames, each a time point and a channel, lack a chunk."""
        chosen = slice(None) if channels is None else [self.image.channel(name) for name in channels]
        level = self.image.levels[0]
        lacking = np.logical_not(np.all(level.stored, (2, 3, 4)))
        t, c = (np.arange(size) // step for size, step in zip(level.shape[:2], level.chunks[:2], strict=True))
        return int(lacking[np.ix_(t, c)][:, chosen].sum())

    def is_empty(self, channels: Sequence[str]) -> bool:
        """Return whether nothing at all was written of one of the channels."""
        stored, step = self.image.levels[0].stored.any((0, 2, 3, 4)), self.image.chunks[1]
        return not all(stored[self.image.channel(name) // step] for name in channels)


def open_fields(config: PlatesConfig, outputs: str) -> tuple[list[Field], list[Plate]]:
    """Open everything that ``data.root`` names, and say once what of it is absent.

    Raises
    ------
    FileNotFoundError, ValueError
        Nothing is there, or it is not OME-Zarr.
    """
    tests: list[Path] = []
    if isinstance(config.root, list):
        roots = list(map(Path, config.root))
    else:
        root = raw_folder(config, outputs)
        project = find_project(root) if root.is_dir() else None
        roots, tests = (project.plates, project.test) if project else ([root], [])
    plates = open_plates(roots, config.channel_names)
    for note in (note for plate in plates for note in plate.notes):
        logger.warning("%s", note)
    return [Field(plate.name, image, plate.path in tests) for plate in plates for image in plate.fields], plates


def chosen_channels(config: PlatesConfig, fields: Sequence[Field]) -> tuple[list[str], list[str] | None]:
    """Return the channels of source and target; the specimen's own where none are named.

    Raises
    ------
    ValueError
        None are named.
    """
    channels, targets = config.source_channels, config.target_channels
    if config.root == "demo":
        channels = channels or simulate.CHANNELS[:1]
        targets = targets or [name for name in simulate.CHANNELS[1:] if name not in channels]
    if not channels:
        there = fields[0].image.channels
        raise ValueError(
            f"data.source_channels is not set. {fields[0].image.path} has "
            + (f"the channels {', '.join(there)}" if there else "no channel names: give them with data.channel_names")
            + ". Name the label-free ones, data.source_channels=[...], and what is to be predicted, data.target_channels=[...]."
        )
    return list(channels), list(targets) if targets else None


def usable(fields: Sequence[Field], channels: Sequence[str], side_px: int) -> list[Field]:
    """Return the fields that have pixels; those of which nothing was written are named once.

    Raises
    ------
    ValueError
        A field is smaller than a crop, or none has pixels.
    """
    empty = [field for field in fields if field.is_empty(channels)]
    if empty:
        names = ", ".join(field.name for field in empty[:6]) + (f" and {len(empty) - 6} more" if len(empty) > 6 else "")
        logger.warning("%s: nothing was written of %s; left out.", names, " or ".join(channels))
    found = [field for field in fields if field not in empty]
    if not found:
        raise ValueError(
            f"No field of {fields[0].image.path.parent} and others has pixels of {', '.join(channels)}. Copy it again."
        )
    for field in found:
        if min(field.image.shape[3:]) < side_px:
            y, x = field.image.shape[3:]
            raise ValueError(
                f"{field.image.path} is {y} x {x} px, but data.crop_px is {side_px}. "
                f"Set data.crop_px={min(y, x) // 8 * 8} or less."
            )
    return found


def statistics_folder(config: PlatesConfig, outputs: str) -> Path:
    """Return where the statistics of fields lie."""
    return store_folder(config, outputs) / "statistics"


def statistics_of(
    field: Field, folder: Path, channels: Sequence[str] | None, foreground: Sequence[str] = (), *, keep: bool = True
) -> FieldStatistics:
    """Read the statistics of a field's channels, or measure them, and keep those.

    Raises
    ------
    ValueError
        Those that are there were taken from other pixels than the field has now.
    """
    path = statistics_path(folder, field.plate, field.image.name)
    wanted = list(channels or field.image.channels or [])
    if path.is_file():
        found = load(path, field.image)
        if set(wanted) <= set(found.histograms) and set(foreground) <= set(found.low):
            return found
        wanted, foreground = list(dict.fromkeys([*found.histograms, *wanted])), list(dict.fromkeys([*found.low, *foreground]))
    found = measure(field.image, wanted, foreground)  # refuses an image whose channels have no names
    if keep:
        save(found, path)
    return found


def refuse_stale_attributes(field: Field) -> None:
    """Refuse a field whose ``normalization`` attributes were taken from other pixels than it has now."""
    if are_stale(field.image):
        raise ValueError(
            f"The attribute normalization of {field.image.path} was taken from other pixels than it has now. Write it again: "
            "infer.py task=preprocess task.write_attributes=true task.overwrite=true, or use data.statistics=measured."
        )


def plate_map(fields: Sequence[Field], plates: Sequence[Plate]) -> list[str]:
    """Return lines for a person: wells, fields, sizes, channels and missing frames of every plate."""
    lines = []
    for plate in plates:
        own = [field for field in fields if field.plate == plate.name]
        if not own:
            continue
        wells = Counter(field.well for field in own)
        lines.append(
            f"{plate.path}: {len(wells)} wells, {len(own)} fields"
            + (", held out for testing" if own[0].held_out else "")
            + f", NGFF {plate.version}; wells: {_some([f'{well} ({n})' if n > 1 else well for well, n in wells.items()])}"
        )
        alike = Counter((field.image.shape, tuple(field.image.channels or ())) for field in own)
        for (shape, channels), times in alike.items():
            names = ", ".join(channels) or "without names"
            t, c, z, y, x = shape
            lines.append(f"  {times} fields of T {t}, C {c} ({names}), Z {z}, Y {y}, X {x}")
        gaps = {field.image.name: number for field in own if (number := field.missing_frames())}
        if gaps:
            total = sum(gaps.values())
            lines.append(f"  {total} frames lack chunks: " + _some([f"{name} ({number})" for name, number in gaps.items()]))
        if plate.missing:
            lines.append(f"  listed but absent: {_some(plate.missing)}")
    return lines


def _some(names: Sequence[str], limit: int = 24) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
