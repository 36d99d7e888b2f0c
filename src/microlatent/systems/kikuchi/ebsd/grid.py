"""Columns and rows of the map out of the coordinates in files, which may be counted, lengths, doubled or on another grid."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)
EMPTY_CELLS, LEAST_FILL = 1_000_000, 0.01  # a larger map with a smaller share of points is a mistake in the coordinates


def whole_numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Return coordinates as int64.

    Raises
    ------
    ValueError
        One is no whole number from 0.
    """
    values = np.asarray(values)
    bad = np.flatnonzero(~((values >= 0) & (values == np.floor(values))))
    if len(bad):
        raise ValueError(
            f"{path}: {name} is {values[bad[0]]} in row {bad[0]} (from 0) and off the grid in {len(bad)} of {len(values)} rows. "
            "Coordinates are columns (x) and rows (y) of the map, whole numbers from 0. Divide micrometres by the step."
        )
    return values.astype(np.int64)


def map_around(path: Path, y: np.ndarray, x: np.ndarray) -> tuple[int, int]:
    """Return rows and columns of the map that reaches from x = 0, y = 0 to the largest coordinates.

    Raises
    ------
    ValueError
        Coordinates are whole steps of more than 1, or so far apart that they can be no columns and rows.
    """
    map_shape = int(y.max()) + 1, int(x.max()) + 1
    step = common_step(y, x)
    if step is not None:
        raise ValueError(
            f"{path}: x goes in steps of {step[1]} and y in steps of {step[0]}, so most of a map of {map_shape[0]} x "
            f"{map_shape[1]} would be empty. Coordinates are columns (x) and rows (y) of the map, whole numbers from 0: divide "
            "them by the steps."
        )
    cells = map_shape[0] * map_shape[1]
    if cells > EMPTY_CELLS and len(x) < LEAST_FILL * cells:
        raise ValueError(
            f"{path}: {len(x)} points with x up to {x.max()} and y up to {y.max()} would fill {len(x) / cells:.2g} of a map of "
            f"{map_shape[0]} x {map_shape[1]}. Coordinates are columns (x) and rows (y) of the map: divide lengths by the step."
        )
    return map_shape


def common_step(y: np.ndarray, x: np.ndarray) -> tuple[int, int] | None:
    """Return the steps of rows and of columns where both are more than 1, as of lengths; None: they are columns and rows."""
    steps, most = [], 0
    for values in (np.unique(y), np.unique(x)):
        steps.append(int(np.gcd.reduce(np.diff(values))) if len(values) > 1 else 1)
        most = max(most, len(values))
        if len(values) > 1 and steps[-1] == 1:
            return None
    return (steps[0], steps[1]) if most > 2 else None  # any two numbers have a common step


def refuse_doubled(path: Path, table: pd.DataFrame) -> None:
    """Refuse a table in which two rows are of one point.

    Raises
    ------
    ValueError
        They are.
    """
    doubled = table.duplicated(["x", "y"])
    if doubled.any():
        first = table.loc[doubled.idxmax(), ["x", "y"]]
        raise ValueError(
            f"{path}: {int(doubled.sum())} of {len(table)} rows repeat the coordinates of another, the first x={first['x']}, "
            f"y={first['y']}. Every point of the map must be there once: take the others out, or give each scan its own file."
        )


def steps(path: Path, name: str, values_um: np.ndarray, step_um: float | None = None) -> tuple[np.ndarray, float]:
    """Return places in micrometres as whole steps (n,) int64 from the first, and the step; it is found where it is not given.

    The first place is column or row 0: these files do not say where in a larger map they begin. Where the header rounds the step
    so far that columns at the end are off, the one that fits all is returned.

    Raises
    ------
    ValueError
        Places are not on a grid, as in a hexagonal map.
    """
    values_um = np.asarray(values_um, np.float64)
    begin = np.nanmin(values_um)
    from_first = values_um - begin
    places = np.unique(from_first[np.isfinite(from_first)])
    apart = np.diff(places)
    rough = step_um or _smallest(apart)
    # Steps are counted from column to column, so that what the header rounds does not add up over the map.
    counted = np.concatenate([[0.0], np.rint(apart / rough).cumsum()])
    fitted = float(counted @ places / max(1.0, counted @ counted))
    candidates = [rough] if step_um else []
    candidates += [fitted] if abs(fitted - rough) <= 0.1 * rough else []
    step_um = next((one for one in candidates if not _off(from_first, one).any()), rough)
    off = _off(from_first, step_um)
    if off.any():
        first = int(np.flatnonzero(off)[0])
        raise ValueError(
            f"{path}: {name} is {values_um[first]:g} in row {first} (from 0) and off a grid with the step {step_um:g} um in "
            f"{int(off.sum())} of {len(off)} rows. Only square grids are read: export the map on one (resample a hexagonal grid)."
        )
    if begin > 0.5 * step_um:
        logger.warning(
            "%s: %s begins at %g um, which is taken as column or row 0. If it is a part of a larger scan, its columns would join "
            "that scan at the wrong points: give it as CSV with x and y in the whole map.",
            *(path, name, begin),
        )
    return np.rint(from_first / step_um).astype(np.int64), float(step_um)


def _smallest(apart: np.ndarray) -> float:
    """Return the mean of the smallest distances that are no rounding; 1 in a map of one column."""
    apart = apart[apart > 1e-3 * apart.max(initial=0)]
    return float(apart[apart < 1.6 * apart.min()].mean()) if len(apart) else 1.0


def _off(from_first: np.ndarray, step_um: float) -> np.ndarray:
    """Return which places (n,) are more than a fifth of a step off the grid; NaN is off as well."""
    return ~(np.abs(from_first / step_um - np.rint(from_first / step_um)) <= 0.2)


def known_step(row_um: float | None, column_um: float | None) -> tuple[float, float] | None:
    """Return the distances of neighbouring rows and columns; None where they are not known, which files may write as 0."""
    return (float(row_um), float(column_um)) if row_um and column_um and min(row_um, column_um) > 0 else None


def not_square(what: str) -> ValueError:
    """Return the refusal of a grid: what the file says of it comes first."""
    return ValueError(
        f"{what}, but only square grids are read: neighbours, maps and blocks mean rows and columns. Convert the scan to a "
        "square grid in the program that acquired it."
    )
