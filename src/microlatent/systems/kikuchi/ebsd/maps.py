"""Maps without patterns: read from .csv, .ctf, .cpr / .crc and .ang, and joined to the points of a scan by x and y."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.systems.kikuchi.ebsd.ang import open_ang
from microlatent.systems.kikuchi.ebsd.crc import open_crc
from microlatent.systems.kikuchi.ebsd.csv import open_csv, read_csv
from microlatent.systems.kikuchi.ebsd.ctf import open_ctf
from microlatent.systems.kikuchi.ebsd.grid import common_step

logger = logging.getLogger(__name__)
MAPS = {".csv": open_csv, ".ctf": open_ctf, ".cpr": open_crc, ".crc": open_crc, ".ang": open_ang}
PLACE = ("x", "y", "x_um", "y_um", "scan")  # columns that join, or say the place once more


def read_map(path: str | Path) -> pd.DataFrame:
    """Return the columns of a map by x and y (int64); a CSV may have a column scan.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Its kind is unknown, or it cannot be read as one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"data.maps names {path}, but there is no such file. Give the path of a .csv, .ctf, .cpr or .ang."
        )
    if path.suffix.lower() not in MAPS:
        raise ValueError(f"data.maps names {path}, but maps are {', '.join(MAPS)}. Export it as one of these.")
    return read_csv(path)[0] if path.suffix.lower() == ".csv" else MAPS[path.suffix.lower()](path).points


def join_maps(points: pd.DataFrame, paths: list[str], scan: str | None = None, *, of_several: bool = False) -> pd.DataFrame:
    """Return the points with the columns of the maps; points that a map lacks get NaN.

    Files of vendors do not say where in a larger map they begin: their first column is joined as x = 0, their first row as y = 0.

    Parameters
    ----------
    points
        One row per point of one scan, with x and y.
    paths
        Files of ``read_map``.
    scan
        The scan's name: of a CSV with a column scan, only its rows are taken.
    of_several
        The scan is one of several to which the maps are joined, so that every map must say of which scan its points are.

    Raises
    ------
    ValueError
        A map has a column that is there already with other values, no point in common, coordinates that are lengths, or does not
        say of which of several scans it is.
    """
    for path in paths:
        table = read_map(path)
        if "scan" in table and scan is not None:
            named = table["scan"].unique()
            table = table[table["scan"] == scan]
            if table.empty:
                raise ValueError(
                    f"{path} has no rows of the scan {scan}; its column scan names {sorted(named)[:8]}. Rename them."
                )
        elif "scan" not in table and of_several:
            raise ValueError(
                f"data.maps: {path} does not say of which scan its points are, but there are several. Add a column scan (as "
                "CSV), or choose one scan with data.scans."
            )
        found = points[["x", "y"]].merge(table, on=["x", "y"], how="left", indicator=True)
        has = (found["_merge"] == "both").to_numpy()
        if not has.any():
            raise ValueError(
                f"{path} has no point in common with the scan{f' {scan}' if scan else ''}: its x is {_range(table['x'])} and y "
                f"{_range(table['y'])}, the scan's x {_range(points['x'])} and y {_range(points['y'])}. x is the column and y "
                "the row, both from 0."
            )
        step = common_step(table["y"].to_numpy(), table["x"].to_numpy())
        if step is not None and has.sum() < len(table):
            raise ValueError(
                f"{path}: x goes in steps of {step[1]} and y in steps of {step[0]}, up to x {table['x'].max()} and y "
                f"{table['y'].max()}, beyond the scan's x {_range(points['x'])} and y {_range(points['y'])}. Coordinates are "
                "columns (x) and rows (y) of the map, whole numbers from 0: divide them by the steps."
            )
        if not has.all() or has.sum() < len(table):
            logger.warning(
                "%s has %d of the scan's %d points; the others get NaN. %d of its rows are of no point.",
                path,
                int(has.sum()),
                len(points),
                len(table) - int(has.sum()),
            )
        names = [name for name in table if name not in PLACE]
        for name in (name for name in names if name in points):
            _refuse_clash(path, name, points[name].to_numpy(), found[name].to_numpy())
        new = found[[name for name in names if name not in points]].set_index(points.index)
        points = pd.concat([points, new], axis=1)
    return points


def _refuse_clash(path: str | Path, name: str, there: np.ndarray, values: np.ndarray) -> None:
    """Refuse a column whose name is taken by other values; the same once more does no harm."""
    there, values = np.asarray(there, float), np.asarray(values, float)
    known = np.isfinite(there) & np.isfinite(values)
    unlike = known & ~np.isclose(there, values, rtol=1e-4, atol=1e-5)
    if unlike.any():
        raise ValueError(
            f"{path} gives a column {name}, which the scan's points have already, and {int(unlike.sum())} of {int(known.sum())} "
            f"values differ (the first: {there[unlike][0]:g} there, {values[unlike][0]:g} in the file). Take that column out of "
            "the file, or rename it."
        )


def _range(values: pd.Series) -> str:
    return f"{values.min()} to {values.max()}"
