"""EDAX .ang: a map as text below a header of lines that begin with #; angles in radians.

Nothing in the format says where in a larger map the first point was: it is column 0 and row 0.

Source: EDAX OIM Analysis manual, appendix on .ang files.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from microlatent.systems.kikuchi.ebsd.edax import phase_from_one
from microlatent.systems.kikuchi.ebsd.grid import not_square, steps
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points, stated

# Columns in their order where the header does not name them.
COLUMNS = ("phi1_rad", "Phi_rad", "phi2_rad", "x_um", "y_um", "iq", "ci", "phase", "sem_signal", "fit")
NAMES = {"phi1": "phi1_rad", "phi": "Phi_rad", "phi2": "phi2_rad", "x": "x_um", "y": "y_um", "iq": "iq", "ci": "ci", "fit": "fit"}
NAMES |= {"phase": "phase", "phase index": "phase", "phase_index": "phase", "sem": "sem_signal", "sem signal": "sem_signal"}


def open_ang(path: Path) -> Scan:
    """Return the map of a file.

    Raises
    ------
    ValueError
        The grid is hexagonal, rows are missing, or columns are too few.
    """
    header, phases, number, rows = {}, {}, None, []
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.startswith("#"):
            rows += [line.replace(",", ".").split()] if line.strip() else []  # of some countries decimal commas
            continue
        key, _, value = line[1:].strip().replace("\t", " ").partition(" ")
        key, value = key.rstrip(":").upper(), value.strip()
        header.setdefault(key, value)
        if key == "PHASE" and value.isdecimal():
            number = int(value)
        elif key == "MATERIALNAME" and number is not None:
            phases[number] = value
    if not header.get("GRID", "SqrGrid").lower().startswith("sqr"):
        raise not_square(f"{path}: GRID is {header['GRID']!r}")
    names = [NAMES.get(name.strip().lower(), "") for name in header.get("COLUMN_HEADERS", "").split(",") if name.strip()]
    names = names or list(COLUMNS)
    table = _numbers(path, rows, names)
    (y, step_y), (x, step_x) = (
        steps(path, key, table[key], stated(path, header, step)) for key, step in (("y_um", "YSTEP"), ("x_um", "XSTEP"))
    )
    shape = tuple(int(stated(path, header, key) or place.max() + 1) for key, place in (("NROWS", y), ("NCOLS_ODD", x)))
    if len(rows) != shape[0] * shape[1]:
        raise ValueError(
            f"{path} has {len(rows)} points, but its header says {shape[0]} x {shape[1]}. It may be cut short: copy "
            "it again; of a part of a scan, export it with its own header."
        )
    table["phase"] = phase_from_one(table["phase"], phases)
    columns = {name: values for name, values in table.items() if name and not re.fullmatch("[xy]_um", name)}
    points, _ = grid_points(path, shape, (step_y, step_x), columns, y=y, x=x)
    return Scan(
        name=path.stem, path=path, format="EDAX ang", map_shape=shape, points=points, phases=phases, step_um=(step_y, step_x)
    )


def _numbers(path: Path, rows: list[list[str]], names: list[str]) -> dict[str, np.ndarray]:
    """Return the columns by name; columns behind the known ones are passed over."""
    width = min((len(row) for row in rows), default=0)
    names = names[:width]
    missing = [name for name in ("phi1_rad", "x_um", "y_um", "iq", "phase") if name not in names]
    if missing:
        raise ValueError(
            f"{path} has {len(rows)} rows of at least {width} columns, but lacks {missing}; its columns are taken to be {names}. "
            "It may be damaged, or of another program: export it again from OIM Analysis."
        )
    try:
        values = np.array([row[: len(names)] for row in rows], float)
    except ValueError as error:
        raise ValueError(f"{path} holds a value that is no number ({error}). Export the map again.") from error
    return dict(zip(names, values.T, strict=True))
