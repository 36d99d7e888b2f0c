"""``infer.py task=preprocess data=plates``: statistics and foreground of every field, in a folder beside the stores.

The plates are read once, chunk by chunk, and never written to. Every field has a file with the histograms of its channels by time
point, the means of its small squares, from which foreground is taken, and a fingerprint of what it was read from. A file that is
still of the same pixels is kept, so a run that was interrupted goes on where it was. Training uses them; it measures what is not
there.

``task.write_attributes=true`` also writes VisCy's attribute ``normalization`` into every field and plate. Attributes that are
there are read and compared; they are not replaced without ``task.overwrite=true``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent.data.folders import preflight_outputs, raw_folder
from microlatent.data.io.ome_zarr.metadata import read_attributes, set_attributes
from microlatent.data.io.ome_zarr.plate import Plate
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.plates.draw_plate import draw_map
from microlatent.systems.plates.fields import Field, open_fields, plate_map, statistics_folder, statistics_of
from microlatent.systems.plates.schema import PlatesConfig
from microlatent.systems.plates.statistics import (
    FieldStatistics,
    Histogram,
    are_stale,
    known_statistics,
    load,
    normalization,
    statistics_path,
)

logger = logging.getLogger(__name__)
MB_PER_S = 150  # read, decoded and counted on one core
SHOWN = ("median", "iqr", "mean", "std", "p1", "p99", "otsu_threshold")


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Measure every field, and write the tables and the map of the plates."""
    raw_folder_of(settings.data, settings.outputs)
    fields, plates = opened(settings, settings.outputs)
    results, folder = results_of(plates, out, tracker), statistics_folder(settings.data, settings.outputs)
    rows: list[dict[str, Any]] = []
    of_plates: dict[str, dict[str, Histogram]] = {plate.name: {} for plate in plates}
    for field in track(fields, "Measuring fields"):
        statistics = _fresh(field, folder, settings)
        rows += rows_of(field, statistics)
        for name in statistics.histograms:
            so_far, whole = of_plates[field.plate].get(name), statistics.whole(name)
            of_plates[field.plate][name] = whole if so_far is None else Histogram.sum([so_far, whole])
    table = pd.DataFrame(rows)
    results.table("fields", table)
    results.table("plates", _of_plates(of_plates, table))
    for plate in plates:
        own = [field for field in fields if field.plate == plate.name]
        results.figure(f"plate_{plate.name}", draw_map, plate, own, table[table["plate"] == plate.name])
    if settings.task.write_attributes:
        write_attributes(fields, plates, folder, settings)
    stale = table.loc[table["attributes"] == "stale", ["plate", "well", "fov"]].drop_duplicates()
    if len(stale) and not settings.task.write_attributes:
        logger.warning(
            "%d fields have an attribute normalization of other pixels than they have now; data.statistics=attributes is refused "
            "on them. Write it again with task.write_attributes=true task.overwrite=true.",
            len(stale),
        )
    return {
        "plates": len(plates),
        "fields": len(fields),
        "frames_without_chunks": int(table["missing_frames"].sum()),
        "empty_fields": int(table.groupby(["plate", "well", "fov"])["foreground"].max().lt(0.001).sum()),
    }


def raw_folder_of(config: PlatesConfig, outputs: str) -> None:
    """Simulate the specimen where that is what is asked for."""
    if not isinstance(config.root, list):
        raw_folder(config, outputs)


def opened(settings: Settings, outputs: str) -> tuple[list[Field], list[Plate]]:
    """Open the plates, and refuse whatever the task could not do.

    Raises
    ------
    ValueError
        A channel is not there, or attributes would be replaced, or the plates cannot be written to.
    """
    fields, plates = open_fields(settings.data, outputs)
    for field in fields:
        for name in settings.task.channels or []:
            field.image.channel(name)
        if field.image.channels is None:
            field.image.channel("")  # refused: its channels have no names
    if settings.task.write_attributes:
        refuse_to_write(fields, settings)
    return fields, plates


def refuse_to_write(fields: Sequence[Field], settings: Settings) -> None:
    """Refuse to write attributes where some are there, or where writing is not allowed."""
    there = [field for field in fields if "normalization" in field.image.attributes]
    if there and not settings.task.overwrite:
        raise ValueError(
            f"{there[0].image.path} and {len(there) - 1} more have an attribute normalization already. Leave it with "
            "task.write_attributes=false, or replace it with task.overwrite=true."
        )
    for field in fields:
        if not os.access(field.image.path, os.W_OK):
            raise PermissionError(
                f"{field.image.path} cannot be written to, so task.write_attributes=true is not possible. Leave it out: the "
                "statistics are kept in a folder of their own."
            )


def results_of(plates: Sequence[Plate], out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    return Results(out, tracker, tables=["fields", "plates"], figures=[f"plate_{plate.name}" for plate in plates])


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the plates, and say what would be read and written."""
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        fields, plates = opened(settings, outputs)
        size_mb = sum(np.prod(field.image.shape) * field.image.dtype.itemsize for field in fields) / 1e6
        lines, folder = plate_map(fields, plates), statistics_folder(settings.data, settings.outputs)
        writes = [*results_of(plates, out).writes, f"{folder}/<plate>/<field>.npz of {len(fields)} fields"]
        if settings.task.write_attributes:
            writes += [f"{plate.path}: the attribute normalization of every field and of the plate" for plate in plates]
    return Preflight(reads=lines, writes=writes, memory_mb=400, disk_mb=1 + 0.03 * size_mb, seconds=2 + size_mb / MB_PER_S)


def _fresh(field: Field, folder: Path, settings: Settings) -> FieldStatistics:
    """Return a field's statistics of its pixels as they are now."""
    path, channels = statistics_path(folder, field.plate, field.image.name), settings.task.channels
    if path.is_file():
        try:
            load(path, field.image)
        except ValueError as error:
            logger.info("Measured again: %s", error)
            path.unlink()
    return statistics_of(field, folder, channels, channels or field.image.channels or ())


def rows_of(field: Field, statistics: FieldStatistics) -> list[dict[str, Any]]:
    """Return a row for every channel of a field."""
    rows, image = [], field.image
    for name in statistics.histograms:
        whole = statistics.whole(name)
        numbers, known = whole.statistics(), known_statistics(image.attributes, name)
        sizes = dict(zip(("num_t", "num_z", "rows_px", "columns_px"), np.take(image.shape, (0, 2, 3, 4)).tolist(), strict=True))
        rows.append(
            {"plate": field.plate, "well": field.well, "fov": image.place.field, "channel": name}
            | {"part": "test" if field.held_out else "", **sizes}
            | {"missing_frames": field.missing_frames([name])}
            | {"unknown_share": (whole.num_missing + whole.num_invalid) / max(1, int(np.prod(image.shape)) // image.shape[1])}
            | {key: numbers.get(key, np.nan) for key in SHOWN}
            | {"foreground": float(statistics.foreground(name).mean()) if whole.num_pixels else 0.0}
            | {"contrast": whole.contrast if whole.num_pixels else np.nan}
            | {"attributes": _attributes(field, known), "median_of_attributes": (known or {}).get("median", np.nan)}
        )
    return rows


def _attributes(field: Field, known: dict | None) -> str:
    """Return what a field's attributes are: none, current, stale, or foreign, which do not say of which pixels they are."""
    return "none" if not known else {True: "stale", False: "current", None: "foreign"}[are_stale(field.image)]


def _of_plates(found: dict[str, dict[str, Histogram]], table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for plate, channels in found.items():
        own = table[table["plate"] == plate]
        for name, whole in channels.items():
            numbers = whole.statistics()
            rows.append(
                {"plate": plate, "channel": name, "wells": own["well"].nunique(), "fields": len(own[own["channel"] == name])}
                | {key: numbers.get(key, np.nan) for key in SHOWN}
            )
    return pd.DataFrame(rows)


def write_attributes(fields: Sequence[Field], plates: Sequence[Plate], folder: Path, settings: Settings) -> None:
    """Write VisCy's attribute; the level of the data set is of the fields that are not held out for testing."""
    whole: dict[str, Histogram] = {}
    training = [field for field in fields if not field.held_out] or list(fields)
    for field in training:
        found = statistics_of(field, folder, settings.task.channels)
        for name in found.histograms:
            whole[name] = Histogram.sum([whole[name], found.whole(name)] if name in whole else [found.whole(name)])
    for field in track(fields, "Writing attributes"):
        found = statistics_of(field, folder, settings.task.channels)
        own = {name: whole.get(name) or found.whole(name) for name in found.histograms}
        set_attributes(field.image.path, normalization(found, own))
    for plate in plates:
        if "plate" in read_attributes(plate.path)[1]:
            set_attributes(plate.path, normalization(None, whole))
    logger.info("The attribute normalization was written into %d fields.", len(fields))
