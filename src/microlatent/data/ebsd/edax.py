"""EDAX OIM h5: patterns beside IQ and orientations, on square grids; names at the root begin with a space.

Files may come without patterns, which are then in a .up1 or .up2 file beside them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from microlatent.data.ebsd.h5 import (
    column,
    count,
    find,
    need,
    number,
    open_stack,
    phase_names,
    scan_groups,
    scan_name,
    steps_um,
    text,
)
from microlatent.data.ebsd.scan import Scan, grid_points
from microlatent.data.ebsd.stacks import H5Stack

logger = logging.getLogger(__name__)
COLUMNS = {
    "iq": "IQ",
    "ci": "CI",
    "fit": "Fit",
    "sem_signal": "SEM Signal",
    "phase": "Phase",
    "phi1_rad": "Phi1",
    "Phi_rad": "Phi",
    "phi2_rad": "Phi2",
}
INVALID_UM = -1111111.0  # the place of a point that was not scanned
NO_PATTERNS = (
    "EDAX keeps patterns of newer scans in a .up1 or .up2 file: give that as data.root (its map joins through data.maps as "
    ".ang), or export the scan with patterns."
)


def open_edax(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the scans of a file.

    Raises
    ------
    ValueError
        The grid is hexagonal, a data set is missing, or does not fit the map.
    """
    groups = scan_groups(path, file)
    return [_open(path, file, group, scan_name(path, group, len(groups))) for group in groups]


def refuse_hexagonal(path: Path, grid: h5py.Dataset) -> None:
    """Refuse another grid than a square one.

    Raises
    ------
    ValueError
        The grid is another.
    """
    if not text(grid).lower().startswith("sq"):
        raise ValueError(
            f"{path}: {grid.name} is {text(grid)!r}, but only square grids (SqrGrid) are read: neighbours, maps and blocks "
            "mean rows and columns. Convert the scan to a square grid in OIM Analysis."
        )


def _open(path: Path, file: h5py.File, group: h5py.Group, name: str) -> Scan:
    data, header = find(group, "EBSD/Data"), find(group, "EBSD/Header")
    refuse_hexagonal(path, need(path, header, "Grid Type"))
    map_shape = count(path, header, "nRows"), count(path, header, "nColumns")
    num = map_shape[0] * map_shape[1]
    step_um = steps_um(header, "Step Y", "Step X")
    dataset, stack = find(data, "Pattern"), None
    if isinstance(dataset, h5py.Dataset):
        stack = open_stack(path, dataset, map_shape)
    else:
        logger.warning("%s holds no patterns: a map alone. %s", path, NO_PATTERNS)
    columns = {key: column(find(data, edax)) for key, edax in COLUMNS.items()}
    columns = {key: values for key, values in columns.items() if values is not None}
    if "phase" in columns:
        columns["phase"] = columns["phase"].astype(np.int64)
    columns |= _pattern_centre(header, num, stack)
    points, order = grid_points(path, map_shape, step_um, columns)
    x_um = column(find(data, "X Position"))
    present = np.ones(num, bool) if x_um is None or len(x_um) != num else x_um != INVALID_UM
    return Scan(
        name=name,
        path=path,
        format="EDAX h5",
        map_shape=map_shape,
        points=points[present].reset_index(drop=True),
        stack=stack,
        order=None if stack is None else order[present],
        no_patterns=NO_PATTERNS,
        phases=phase_names(find(header, "Phase"), "MaterialName"),
        step_um=step_um,
        metadata=_metadata(file, header),
    )


def _pattern_centre(header: h5py.Group, num: int, stack: H5Stack | None) -> dict[str, np.ndarray]:
    """Return the pattern centre in Bruker's convention; EDAX counts y from the bottom and z in the shorter side."""
    x, y, z = (number(find(header, f"Pattern Center Calibration/{axis}-star"), 0.0) for axis in "xyz")
    if stack is None or z == 0:  # zero: never calibrated
        return {}
    height, width = stack.shape
    return {key: np.full(num, value) for key, value in (("pcx", x), ("pcy", 1 - y), ("pcz", z * min(height, width) / height))}


def _metadata(file: h5py.File, header: h5py.Group) -> dict:
    about = {
        "beam_kv": number(find(header, "Voltage[KV]")),
        "sample_tilt_deg": number(find(header, "Sample Tilt")),
        "detector_tilt_deg": number(find(header, "Camera Elevation Angle")),
        "working_distance_mm": number(find(header, "Working Distance")),
        "software_version": text(find(file, "Version")) or None,
    }
    return {key: value for key, value in about.items() if value is not None}
