"""kikuchipy h5: patterns with detector, background and, where they were indexed, a crystal map."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import h5py
import numpy as np

from microlatent.systems.kikuchi.ebsd import h5
from microlatent.systems.kikuchi.ebsd.grid import not_square
from microlatent.systems.kikuchi.ebsd.scan import COMPUTED, Scan, grid_points, phase_numbers

logger = logging.getLogger(__name__)
COLUMNS = {"phi1_rad": "phi1", "Phi_rad": "Phi", "phi2_rad": "phi2", "phase": "phase_id"}
CRYSTAL_MAP = "EBSD/CrystalMap/crystal_map"
NOT_COLUMNS = {"id", "is_in_data", "x", "y", "z"}


def open_kikuchipy(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the scans of a file.

    Raises
    ------
    ValueError
        A data set is missing, or does not fit the map.
    """
    groups = h5.scan_groups(path, file)
    return [_open(path, file, group, h5.scan_name(path, group, len(groups))) for group in groups]


def _open(path: Path, file: h5py.File, group: h5py.Group, name: str) -> Scan:
    data, header = h5.find(group, "EBSD/Data"), h5.find(group, "EBSD/Header")
    map_shape = h5.count(path, header, "n_rows"), h5.count(path, header, "n_columns")
    num = map_shape[0] * map_shape[1]
    stack = h5.open_stack(path, h5.need(path, data, "patterns"), map_shape)
    grid = h5.text(h5.find(header, "grid_type"))
    if "hex" in grid.lower():
        raise not_square(f"{path}: {header.name}/grid_type is {grid!r}")
    step_um = h5.steps_um(header, "step_y", "step_x")
    columns = _crystal_map(path, group, num)
    for key in ("pcx", "pcy", "pcz"):  # Bruker's convention already
        values = h5.column(h5.find(header, key))
        if values is not None and len(values) in (1, num):
            columns[key] = np.broadcast_to(values, num)
    points, order = grid_points(path, map_shape, step_um, columns)
    about = {
        "beam_kv": h5.number(h5.find(group, "SEM/Header/beam_energy")),
        "sample_tilt_deg": h5.number(h5.find(header, "sample_tilt")),
        "detector_tilt_deg": h5.number(h5.find(header, "elevation_angle")),
        "magnification": h5.number(h5.find(group, "SEM/Header/magnification")),
        "working_distance_mm": h5.number(h5.find(group, "SEM/Header/working_distance")),
        "microscope": h5.text(h5.find(group, "SEM/Header/microscope")) or None,
        "software_version": h5.text(h5.find(file, "version")) or None,
    }
    return Scan(
        name=name,
        path=path,
        format="kikuchipy h5",
        map_shape=map_shape,
        points=points,
        stack=stack,
        order=order,
        phases=h5.phase_names(h5.find(group, f"{CRYSTAL_MAP}/header/phases"), "name"),
        step_um=step_um,
        static_background=h5.one_pattern(h5.find(header, "static_background")),
        metadata={key: value for key, value in about.items() if value is not None},
    )


def _crystal_map(path: Path, group: h5py.Group, num: int) -> dict[str, np.ndarray]:
    """Return orientations, phases and properties of the crystal map, the best of several per point.

    Properties that have the name of what is measured from the patterns here are file_<name>.
    """
    found, columns = h5.find(group, f"{CRYSTAL_MAP}/data"), {}
    if not isinstance(found, h5py.Group):
        return columns
    ours = {theirs: name for name, theirs in COLUMNS.items()} | {name: f"file_{name}" for name in COMPUTED}
    for key, dataset in found.items():
        if key in NOT_COLUMNS or dataset.dtype.kind not in "uif" or dataset.ndim == 0:
            continue
        if len(dataset) != num:
            logger.warning("%s: %s has %d values, but the map %d points; it is left out.", path, dataset.name, len(dataset), num)
            continue
        values = dataset[()] if dataset.ndim == 1 else dataset[()].reshape(num, -1)[:, 0]
        name = re.sub(r"\s+", "_", key.strip())
        columns[ours.get(name, name)] = values
    if "phase" in columns:
        columns["phase"] = phase_numbers(columns["phase"], not_indexed=-1)
    return columns
