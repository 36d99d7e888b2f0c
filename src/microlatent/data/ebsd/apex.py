"""EDAX APEX .edaxh5: a map whose patterns are in a .up1 or .up2 file beside it.

The layout is not documented by EDAX; what is read here are the names that other open readers of such files agree on.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from microlatent.data.ebsd.edax import NO_PATTERNS, refuse_hexagonal
from microlatent.data.ebsd.h5 import count, find, need, phase_names, scan_name, steps_um
from microlatent.data.ebsd.scan import Scan, grid_points

logger = logging.getLogger(__name__)
TABLE = "EBSD/ANG/DATA/DATA"  # one record per point
# Orientations are matrices there, of a convention that is not known to us; they are not read.
COLUMNS = {"iq": "IQ", "ci": "CI", "fit": "Fit", "sem_signal": "SEM Signal", "phase": "Phase"}


def apex_groups(file: h5py.File) -> list[h5py.Group]:
    """Return the groups that hold a map of APEX."""
    found: list[h5py.Group] = []
    file.visititems(lambda name, node: found.append(node) if isinstance(node, h5py.Group) and TABLE in node else None)
    return found


def open_apex(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the maps of a file.

    Raises
    ------
    ValueError
        The grid is hexagonal, or a data set is missing or does not fit the map.
    """
    groups = apex_groups(file)
    logger.warning("%s holds no patterns: a map alone. %s", path, NO_PATTERNS)
    return [_open(path, group, scan_name(path, group, len(groups))) for group in groups]


def _open(path: Path, group: h5py.Group, name: str) -> Scan:
    refuse_hexagonal(path, need(path, group, "Sample/Grid Type"))
    sample, table = find(group, "Sample"), group[TABLE]
    map_shape = count(path, sample, "Number Of Rows"), count(path, sample, "Number Of Columns")
    step_um = steps_um(sample, "Step Y", "Step X")
    columns = {key: np.asarray(table[field]).ravel() for key, field in COLUMNS.items() if field in (table.dtype.names or ())}
    if "phase" in columns:
        columns["phase"] = columns["phase"].astype(np.int64)  # -1: not indexed; the first phase is 0
    points, _ = grid_points(path, map_shape, step_um, columns)
    phases = phase_names(find(group, "EBSD/ANG/HEADER/Phase"), "Material Name")
    return Scan(
        name=name,
        path=path,
        format="EDAX APEX h5",
        map_shape=map_shape,
        points=points,
        no_patterns=NO_PATTERNS,
        phases={number - 1: phase for number, phase in phases.items()},
        step_um=step_um,
    )
