"""Bruker Esprit h5: patterns in the order of acquisition, with their places in the map beside them."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from microlatent.systems.kikuchi.ebsd import h5
from microlatent.systems.kikuchi.ebsd.grid import not_square
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points, phase_numbers

logger = logging.getLogger(__name__)
COLUMNS = {"radon_quality": "RadonQuality", "bands": "NIndexedBands", "phase": "Phase", "pcx": "PCX", "pcy": "PCY", "pcz": "DD"}
DEGREES = {"mad_rad": "MAD", "phi1_rad": "phi1", "Phi_rad": "PHI", "phi2_rad": "phi2"}  # Esprit writes degrees
PLACES = (("EBSD/SEM/IY", "EBSD/SEM/IX"), ("SEM/SEM IY", "SEM/SEM IX"), ("SEM/IY", "SEM/IX"))


def open_bruker(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the scans of a file.

    Raises
    ------
    ValueError
        The region is no rectangle, the grid is hexagonal, or a data set is missing or does not fit the map.
    """
    groups = h5.scan_groups(path, file)
    return [_open(path, file, group, h5.scan_name(path, group, len(groups))) for group in groups]


def _open(path: Path, file: h5py.File, group: h5py.Group, name: str) -> Scan:
    data, header = h5.find(group, "EBSD/Data"), h5.find(group, "EBSD/Header")
    grid = h5.text(h5.find(header, "Grid Type"))
    if grid and grid.lower() != "isometric":
        raise not_square(f"{path}: {header.name}/Grid Type is {grid!r}")
    dataset = h5.find(data, "RawPatterns")
    dataset = dataset if isinstance(dataset, h5py.Dataset) else None
    quality = h5.column(h5.find(data, "RadonQuality"))
    num = len(dataset) if dataset is not None else None if quality is None else len(quality)
    y, x, map_shape = _places(path, group, header, num)
    stack = None if dataset is None else h5.open_stack(path, dataset, map_shape)
    columns = {key: h5.column(h5.find(data, bruker)) for key, bruker in (COLUMNS | DEGREES).items()}
    columns = {key: np.radians(values) if key in DEGREES else values for key, values in columns.items() if values is not None}
    if "phase" in columns:
        columns["phase"] = phase_numbers(columns["phase"])
    step_um = h5.steps_um(header, "YSTEP", "XSTEP")
    points, order = grid_points(path, map_shape, step_um, columns, y=y, x=x)
    return Scan(
        name=name,
        path=path,
        format="Bruker h5",
        map_shape=map_shape,
        points=points,
        stack=stack,
        order=None if stack is None else order,
        no_patterns=f"{data.name} has no RawPatterns: export the scan from Esprit with patterns.",
        phases=h5.phase_names(h5.find(header, "Phases"), "Name"),
        step_um=step_um,
        static_background=h5.one_pattern(h5.find(header, "StaticBackground")),
        metadata=_metadata(file, header),
    )


def _places(
    path: Path, group: h5py.Group, header: h5py.Group, num: int | None
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[int, int]]:
    """Return row and column of every pattern, from 0, and the map's shape; None and None: all points, row by row."""
    unlike = []
    for row_name, col_name in PLACES:
        rows, cols = h5.column(h5.find(group, row_name)), h5.column(h5.find(group, col_name))
        if rows is None or cols is None or (len(rows) <= 1 and num != 1):  # one value stands for none
            continue
        num = len(rows) if num is None else num
        if len(rows) != num or len(cols) != num:
            unlike.append(f"{group.name}/{row_name} has {len(rows)} and {col_name} {len(cols)} values")
            continue
        rows, cols = (values.astype(np.int64) - int(values.min()) for values in (rows, cols))
        shape = int(rows.max()) + 1, int(cols.max()) + 1
        if num != shape[0] * shape[1] or len(np.unique(rows * shape[1] + cols)) != num:
            raise ValueError(
                f"{path}: {num} patterns lie in a region of {shape[0]} x {shape[1]} points ({group.name}/{row_name}), which they "
                "do not fill. Only rectangular regions are read: export a rectangle."
            )
        return rows, cols, shape
    if unlike:
        raise ValueError(
            f"{path}: {', '.join(unlike)}, but there are {num} patterns or values: it is not known which is of which point. The "
            "scan was interrupted or cropped: export it again."
        )
    logger.warning(
        "%s does not say the places of its patterns (%s), which Esprit keeps in the order of acquisition: they are taken row by "
        "row. Export the scan with its SEM data if the map looks shuffled.",
        *(path, ", ".join(f"{group.name}/{name}" for name in PLACES[0])),
    )
    return None, None, (h5.count(path, header, "NROWS"), h5.count(path, header, "NCOLS"))


def _metadata(file: h5py.File, header: h5py.Group) -> dict:
    about = {
        "beam_kv": h5.number(h5.find(header, "KV")),
        "sample_tilt_deg": h5.number(h5.find(header, "SampleTilt") or h5.find(header, "Sample Tilt")),
        "detector_tilt_deg": h5.number(h5.find(header, "CameraTilt") or h5.find(header, "Camera Tilt")),
        "magnification": h5.number(h5.find(header, "Magnification")),
        "working_distance_mm": h5.number(h5.find(header, "WD")),
        "software_version": h5.text(h5.find(file, "Version")) or None,
    }
    return {key: value for key, value in about.items() if value is not None}
