"""Oxford H5OINA: patterns since 5.0, band contrast, orientations and EDS of the same points in one file.

Source: Oxford Instruments, H5OINA file format specification, versions 1.0 (AZtec 4.2) to 8.0 (AZtec 6.3).
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from microlatent.systems.kikuchi.ebsd import h5
from microlatent.systems.kikuchi.ebsd.elements import ATOMIC_NUMBER
from microlatent.systems.kikuchi.ebsd.scan import EULER, Scan, grid_points, phase_numbers
from microlatent.systems.kikuchi.ebsd.stacks import H5Stack

logger = logging.getLogger(__name__)
COLUMNS = {
    "bandcontrast": "Band Contrast",
    "band_slope": "Band Slope",
    "bands": "Bands",
    "error": "Error",
    "mad_rad": "Mean Angular Deviation",
    "pattern_quality": "Pattern Quality",
    "phase": "Phase",
}
EDS_UNITS = {"Composition": "wt%", "Window Integral": "cps", "Peak Area": "counts"}  # the first that there is
HEADER = {
    "beam_kv": "Beam Voltage",
    "magnification": "Magnification",
    "working_distance_mm": "Working Distance",
    "hit_rate": "Hit Rate",
}


def open_oxford(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the scans of a file with the kind of patterns asked for, or the only kind there is.

    Raises
    ------
    ValueError
        A data set is missing, or does not fit the map.
    """
    groups = h5.scan_groups(path, file)
    return [_open(path, file, group, h5.scan_name(path, group, len(groups)), patterns) for group in groups]


def _open(path: Path, file: h5py.File, group: h5py.Group, name: str, patterns: str) -> Scan:
    data, header, version = h5.find(group, "EBSD/Data"), h5.find(group, "EBSD/Header"), h5.text(h5.find(file, "Format Version"))
    map_shape = h5.count(path, header, "Y Cells"), h5.count(path, header, "X Cells")
    num = map_shape[0] * map_shape[1]
    kind, dataset = _patterns(path, data, patterns)
    columns = {key: h5.column(h5.find(data, oxford)) for key, oxford in COLUMNS.items()}
    euler = h5.find(data, "Euler")
    if isinstance(euler, h5py.Dataset):
        columns |= dict(zip(EULER, np.reshape(euler[()], (-1, 3)).T, strict=True))
    stack = None if dataset is None else h5.open_stack(path, dataset, map_shape)
    columns |= _pattern_centre(data, header, num, stack)
    eds, units = _elements(path, group, map_shape)
    columns = {key: values for key, values in (columns | eds).items() if values is not None}
    if "phase" in columns:
        columns["phase"] = phase_numbers(columns["phase"])
    step_um = h5.steps_um(header, "Y Step", "X Step")
    points, order = grid_points(path, map_shape, step_um, columns)
    present = _present(data, num)
    if not present.all():
        logger.info("%s: %d of %d points are outside the area that was scanned.", path, int((~present).sum()), num)
    return Scan(
        name=name,
        path=path,
        format=f"Oxford H5OINA {version}".strip(),
        map_shape=map_shape,
        points=points[present].reset_index(drop=True),
        stack=stack,
        order=None if stack is None else order[present],
        no_patterns=f"H5OINA holds patterns since 5.0, if they were stored; this file is {version or 'of an unknown version'}.",
        elements=units,
        phases=h5.phase_names(h5.find(header, "Phases"), "Phase Name"),
        step_um=step_um,
        static_background=h5.one_pattern(h5.find(header, f"{kind} Static Background")),
        background_corrected=stack is not None and kind == "Processed" and _is_corrected(header),
        metadata=_metadata(file, header, kind if stack is not None else None),
    )


def _patterns(path: Path, data: h5py.Group, wanted: str) -> tuple[str, h5py.Dataset | None]:
    """Return which patterns are read, and their data set."""
    kinds = ("Processed", "Unprocessed") if wanted == "processed" else ("Unprocessed", "Processed")
    for kind in kinds:
        dataset = h5.find(data, f"{kind} Patterns")
        if isinstance(dataset, h5py.Dataset):
            if kind != kinds[0]:
                logger.warning("%s holds only %s patterns; data.patterns=%s has no effect.", path, kind.lower(), wanted)
            return kind, dataset
    return kinds[0], None


def _pattern_centre(data: h5py.Group, header: h5py.Group, num: int, stack: H5Stack | None) -> dict[str, np.ndarray]:
    """Return the pattern centre in Bruker's convention; Oxford counts all three in widths, from the bottom left."""
    oxford = [h5.column(h5.find(data, key)) for key in ("Pattern Center X", "Pattern Center Y", "Detector Distance")]
    height, width = stack.shape if stack else (h5.number(h5.find(header, f"Pattern {side}")) for side in ("Height", "Width"))
    if any(values is None for values in oxford) or not height or not width:
        return {}
    x, y, z = (np.broadcast_to(values, num) if len(values) == 1 else values for values in oxford)
    return {"pcx": x, "pcy": 1 - y * (width / height), "pcz": z * (width / height)}


def _elements(path: Path, group: h5py.Group, map_shape: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the columns of the elements and their units; composition before counts where there are both.

    Of several lines of an element the first is element_<symbol>, the others have their name behind it.
    """
    columns, units = {}, {}
    for name in sorted(name for name in group if name.strip().upper().startswith("EDS")):
        eds = group[name]
        kind = next((kind for kind in EDS_UNITS if _has_members(h5.find(eds, f"Data/{kind}"))), None)
        if kind is None:
            continue
        shape = tuple(h5.number(h5.find(eds, f"Header/{axis} Cells"), map_shape[index]) for index, axis in enumerate("YX"))
        if shape != map_shape:
            raise ValueError(
                f"{path}: the EDS map of {eds.name} has {shape[0]:g} x {shape[1]:g} points, but the EBSD map {map_shape[0]} x "
                f"{map_shape[1]}. Both must have the same grid: acquire or export EDS with the EBSD map's (binning 1)."
            )
        suffix = f"_{name.strip()}" if columns else ""
        for line, values in h5.find(eds, f"Data/{kind}").items():
            symbol, *rest = line.split() or [""]
            key = f"element_{symbol}{suffix}"
            key = key if key not in columns else "_".join([f"element_{symbol}", *rest]) + suffix
            if symbol in ATOMIC_NUMBER and isinstance(values, h5py.Dataset) and key not in columns:
                columns[key], units[key] = h5.column(values), EDS_UNITS[kind]
    return columns, units


def _has_members(group: h5py.Group | h5py.Dataset | None) -> bool:
    return isinstance(group, h5py.Group) and len(group) > 0


def _present(data: h5py.Group, num: int) -> np.ndarray:
    """Return which points (num,) were scanned: outside an irregular area their places are NaN."""
    present = np.ones(num, bool)
    for key in ("X", "Y"):
        values = h5.column(h5.find(data, key))
        if values is not None and len(values) == num:
            present &= np.isfinite(values)
    return present


def _is_corrected(header: h5py.Group) -> bool:
    """Return whether the static background was removed; processed patterns that do not say are taken to be without it."""
    flag = h5.find(header, "Static Background Correction")
    if not isinstance(flag, h5py.Dataset):
        return True
    return bool(h5.number(flag)) if flag.dtype.kind in "buif" else h5.text(flag).lower() in ("true", "yes", "on", "1")


def _metadata(file: h5py.File, header: h5py.Group, kind: str | None) -> dict:
    about = {key: h5.number(h5.find(header, name)) for key, name in HEADER.items()}
    tilt, detector = h5.number(h5.find(header, "Tilt Angle")), h5.column(h5.find(header, "Detector Orientation Euler"))
    about["sample_tilt_deg"] = None if tilt is None else round(float(np.degrees(tilt)), 4)
    known = detector is not None and len(detector) >= 3
    about["detector_tilt_deg"] = None if not known else round(float(np.degrees(detector[1])) - 90, 4)
    about["camera_mode"] = h5.text(h5.find(header, "Camera Mode") or h5.find(header, "Camera Binning Mode")) or None
    about["software_version"] = h5.text(h5.find(file, "Software Version")) or None
    about["patterns"] = kind and kind.lower()
    return {key: value for key, value in about.items() if value is not None}
