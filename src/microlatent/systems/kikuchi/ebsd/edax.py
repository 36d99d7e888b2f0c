"""EDAX h5, on square grids: of OIM, with patterns beside IQ and orientations, and of APEX (.edaxh5), a map alone.

Where a file holds no patterns they are in a .up1 or .up2 file beside it. The layout of APEX is not documented by EDAX; what is
read of it are the names that other open readers of such files agree on.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from microlatent.systems.kikuchi.ebsd import h5
from microlatent.systems.kikuchi.ebsd.grid import not_square
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points, phase_numbers
from microlatent.systems.kikuchi.ebsd.stacks import H5Stack

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
APEX_TABLE = "EBSD/ANG/DATA/DATA"  # one record per point
# Orientations are matrices there, of a convention that is not known to us; they are not read.
APEX_COLUMNS = {"iq": "IQ", "ci": "CI", "fit": "Fit", "sem_signal": "SEM Signal", "phase": "Phase"}


def open_edax(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the scans of a file.

    Raises
    ------
    ValueError
        The grid is hexagonal, a data set is missing, or does not fit the map.
    """
    apex = apex_groups(file)
    groups, opener = (apex, _open_apex) if apex else (h5.scan_groups(path, file), _open)
    scans = [opener(path, file, group, h5.scan_name(path, group, len(groups))) for group in groups]
    if any(scan.stack is None for scan in scans):
        logger.warning("%s holds no patterns: a map alone. %s", path, NO_PATTERNS)
    return scans


def apex_groups(file: h5py.File) -> list[h5py.Group]:
    """Return the groups that hold a map of APEX."""
    found: list[h5py.Group] = []
    file.visititems(lambda name, node: found.append(node) if isinstance(node, h5py.Group) and APEX_TABLE in node else None)
    return found


def phase_from_one(phase: np.ndarray, phases: dict[int, str]) -> np.ndarray:
    """Return EDAX's numbers of phases: where only one is known, 0 means that one in .ang and OIM, and not that none was found."""
    phase = phase_numbers(phase)
    return np.ones_like(phase) if set(phases) == {1} and not phase.any() else phase


def _refuse_hexagonal(path: Path, grid: h5py.Dataset) -> None:
    if not h5.text(grid).lower().startswith("sq"):
        raise not_square(f"{path}: {grid.name} is {h5.text(grid)!r}")


def _open(path: Path, file: h5py.File, group: h5py.Group, name: str) -> Scan:
    data, header = h5.find(group, "EBSD/Data"), h5.find(group, "EBSD/Header")
    _refuse_hexagonal(path, h5.need(path, header, "Grid Type"))
    map_shape = h5.count(path, header, "nRows"), h5.count(path, header, "nColumns")
    num = map_shape[0] * map_shape[1]
    step_um = h5.steps_um(header, "Step Y", "Step X")
    dataset, phases = h5.find(data, "Pattern"), h5.phase_names(h5.find(header, "Phase"), "MaterialName")
    stack = h5.open_stack(path, dataset, map_shape) if isinstance(dataset, h5py.Dataset) else None
    columns = {key: h5.column(h5.find(data, edax)) for key, edax in COLUMNS.items()}
    columns = {key: values for key, values in columns.items() if values is not None}
    if "phase" in columns:
        columns["phase"] = phase_from_one(columns["phase"], phases)
    columns |= _pattern_centre(header, num, stack)
    points, order = grid_points(path, map_shape, step_um, columns)
    x_um = h5.column(h5.find(data, "X Position"))
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
        phases=phases,
        step_um=step_um,
        metadata=_metadata(file, header),
    )


def _open_apex(path: Path, file: h5py.File, group: h5py.Group, name: str) -> Scan:
    _refuse_hexagonal(path, h5.need(path, group, "Sample/Grid Type"))
    sample, table = h5.find(group, "Sample"), group[APEX_TABLE]
    map_shape = h5.count(path, sample, "Number Of Rows"), h5.count(path, sample, "Number Of Columns")
    step_um = h5.steps_um(sample, "Step Y", "Step X")
    columns = {key: np.asarray(table[field]).ravel() for key, field in APEX_COLUMNS.items() if field in (table.dtype.names or ())}
    if "phase" in columns:
        columns["phase"] = phase_numbers(columns["phase"], not_indexed=-1)  # the first phase is 0
    points, _ = grid_points(path, map_shape, step_um, columns)
    phases = h5.phase_names(h5.find(group, "EBSD/ANG/HEADER/Phase"), "Material Name")
    return Scan(
        name=name,
        path=path,
        format="EDAX APEX h5",
        map_shape=map_shape,
        points=points,
        no_patterns=NO_PATTERNS,
        phases={index - 1: phase for index, phase in phases.items()},
        step_um=step_um,
    )


def _pattern_centre(header: h5py.Group, num: int, stack: H5Stack | None) -> dict[str, np.ndarray]:
    """Return the pattern centre in Bruker's convention; EDAX counts y from the bottom and z in the shorter side."""
    x, y, z = (h5.number(h5.find(header, f"Pattern Center Calibration/{axis}-star"), 0.0) for axis in "xyz")
    if stack is None or z == 0:  # zero: never calibrated
        return {}
    height, width = stack.shape
    return {key: np.full(num, value) for key, value in (("pcx", x), ("pcy", 1 - y), ("pcz", z * min(height, width) / height))}


def _metadata(file: h5py.File, header: h5py.Group) -> dict:
    about = {
        "beam_kv": h5.number(h5.find(header, "Voltage[KV]")),
        "sample_tilt_deg": h5.number(h5.find(header, "Sample Tilt")),
        "detector_tilt_deg": h5.number(h5.find(header, "Camera Elevation Angle")),
        "working_distance_mm": h5.number(h5.find(header, "Working Distance")),
        "software_version": h5.text(h5.find(file, "Version")) or None,
    }
    return {key: value for key, value in about.items() if value is not None}
