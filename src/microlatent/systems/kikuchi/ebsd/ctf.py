"""HKL .ctf: a map as text with tabs, its header above the column names; angles in degrees.

Nothing in the format says where in a larger map the first point was: it is column 0 and row 0.

Source: Oxford Instruments HKL, Channel 5 manual, appendix on Channel text files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.systems.kikuchi.ebsd.grid import steps
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points, phase_numbers, stated

COLUMNS = {"BC": "bandcontrast", "BS": "band_slope", "Bands": "bands", "Error": "error", "Phase": "phase"}
DEGREES = {"MAD": "mad_rad", "Euler1": "phi1_rad", "Euler2": "Phi_rad", "Euler3": "phi2_rad"}


def open_ctf(path: Path) -> Scan:
    """Return the map of a file.

    Raises
    ------
    ValueError
        It has no column names, fewer rows than its header says, or its points are on no square grid.
    """
    lines, header, phases = path.read_text(encoding="latin-1").splitlines(), {}, {}
    begin = next((row for row, line in enumerate(lines) if {"Phase", "X", "Y"} <= set(line.split())), None)
    if begin is None:
        raise ValueError(
            f"{path} has no line of column names with Phase, X and Y, which every .ctf has. It begins with "
            f"{lines[0][:60] if lines else ''!r}: export the map again."
        )
    for row, line in enumerate(lines[:begin]):
        parts = line.split("\t")
        header[parts[0].strip()] = parts[1].strip() if len(parts) > 1 else ""
        if parts[0].strip() == "Phases":
            # A line per phase: cell, angles, name, groups.
            described = [text.split("\t") for text in lines[row + 1 : begin]]
            phases = {number: parts[2].strip() for number, parts in enumerate(described, 1) if len(parts) > 2}
            break
    table = _numbers(path, lines[begin].split(), lines[begin + 1 :])
    shape = tuple(int(stated(path, header, f"{axis}Cells") or 0) for axis in "YX")
    if shape[0] * shape[1] and len(table) != shape[0] * shape[1]:
        raise ValueError(
            f"{path} has {len(table)} points, but its header says {shape[0]} x {shape[1]}. It may be cut short: copy it again."
        )
    (y, step_y), (x, step_x) = (steps(path, axis, table[axis].to_numpy(), stated(path, header, f"{axis}Step")) for axis in "YX")
    columns = {name: _whole(table[key].to_numpy(float)) for key, name in COLUMNS.items() if key in table}
    columns["phase"] = phase_numbers(columns["phase"])
    columns |= {name: np.radians(table[key].to_numpy(float)) for key, name in DEGREES.items() if key in table}
    shape = shape if shape[0] * shape[1] else (int(y.max()) + 1, int(x.max()) + 1)
    points, _ = grid_points(path, shape, (step_y, step_x), columns, y=y, x=x)
    return Scan(
        name=path.stem, path=path, format="HKL ctf", map_shape=shape, points=points, phases=phases, step_um=(step_y, step_x)
    )


def _whole(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as int64; float where one is unknown (NaN) or no whole number."""
    return values.astype(np.int64) if (values % 1 == 0).all() else values


def _numbers(path: Path, names: list[str], lines: list[str]) -> pd.DataFrame:
    """Return the table below the column names; some countries' versions write decimal commas."""
    rows = [line.replace(",", ".").split() for line in lines if line.strip()]
    short = next((number for number, row in enumerate(rows) if len(row) != len(names)), None)
    if short is not None or not rows:
        found = "none" if not rows else f"{len(rows[short])} in row {short} (from 0)"
        raise ValueError(
            f"{path} has {len(names)} columns ({', '.join(names)}), but {found}. It may be cut short: copy it again."
        )
    try:
        return pd.DataFrame(np.array(rows, float), columns=names)
    except ValueError as error:
        raise ValueError(f"{path} holds a value that is no number ({error}). Export the map again.") from error
