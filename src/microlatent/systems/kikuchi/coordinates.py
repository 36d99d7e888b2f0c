"""Points of a map as files list them by x and y, and files of values that follow the order of such a list."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from microlatent.systems.kikuchi.ebsd.csv import ALIASES, read_fields

logger = logging.getLogger(__name__)


def read_coordinates(key: str, path: str | Path, *also: str) -> pd.DataFrame:
    """Read x and y (int64) of the points that a CSV or an NPY (n, 2) lists, in the order of the file.

    Parameters
    ----------
    key
        The setting that names the file.
    also
        Columns to take as well where a CSV has them: ``scan`` is text, others are float64, NaN where unknown.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It lacks x or y, one is no whole number from 0, or a point (of a scan, if ``scan`` is taken) is listed twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{key}={path}: there is no such file. It lists x, y of points: a CSV, or an NPY (n, 2).")
    is_npy = path.suffix == ".npy"
    table = pd.DataFrame(_places(key, path), columns=["x", "y"]) if is_npy else _columns(key, path, ("x", "y", *also))
    places = table[["x", "y"]].to_numpy(float)
    bad = ~(np.isfinite(places) & (places >= 0) & (places == np.round(places))).all(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        where = f"row {row} (from 0)" if is_npy else f"line {row + 2}"
        raise ValueError(
            f"{key}: {path} has {bad.sum()} rows whose x, y are no map column and row (whole numbers from 0), the first in "
            f"{where}: {places[row].tolist()}. Correct or delete them, and the values of these points elsewhere."
        )
    table = table.astype({"x": np.int64, "y": np.int64})
    by = [name for name in ("scan", "x", "y") if name in table]
    double = table.duplicated(by)
    if double.any():
        first = ", ".join(f"{name}={table[name][double.idxmax()]}" for name in by)
        raise ValueError(f"{key}: {path} lists {double.sum()} points more than once, the first {first}. Delete the copies.")
    return table


def _places(key: str, path: Path) -> np.ndarray:
    """Read x and y (n, 2) of an NPY."""
    places = np.load(path, allow_pickle=False)
    if places.ndim != 2 or places.shape[1] != 2 or places.dtype.kind not in "fiu":
        raise ValueError(
            f"{key}: {path} holds an array of shape {places.shape}, {places.dtype}, but must hold x and y of each point: (n, 2)."
        )
    return places


def _columns(key: str, path: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """Read those of the named columns that a CSV has, whatever the capitals and spaces of their headers."""
    headers, table, separator, _ = read_fields(path)
    table.columns = found = [_name(header) for header in headers]
    wanted = [name for name in found if name in names]
    absent = [name for name in ("x", "y") if name not in wanted]
    if absent:
        raise ValueError(f"{key}: {path} has the columns {headers}, but lacks {', '.join(absent)}. Name them so.")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"{key}: {path} has the columns {headers}, two of which mean the same. Delete one.")
    table = table[wanted].copy()
    for name in wanted:
        written = table[name]
        if name != "scan" and written.dtype.kind not in "fiub":
            written = written.astype(str).str.replace(",", ".") if separator != "," else written
            table[name] = pd.to_numeric(written, errors="coerce")
    return table.astype({name: float for name in wanted if name != "scan"})


def _name(header: object) -> str:
    """Return a header as other maps name that column: "Band Contrast" and BC are bandcontrast."""
    name = str(header).strip().lower().replace(" ", "_")
    return ALIASES.get(name, name)


# ------------------------------------------------------------------------------------- a region, in the order of its list


class Region(NamedTuple):
    """The points of a region of a full field, in the order of the file of coordinates."""

    x: np.ndarray  # (n,) int64 map column
    y: np.ndarray  # (n,) int64 map row
    latents: np.ndarray  # (n, D) float64, NaN where unknown
    bandcontrast: np.ndarray | None  # (n,) float64, NaN where unknown
    map_shape: tuple[int, int]  # rows and columns that hold the full field


def read_region(
    coords_csv: str, latent_roi: str, bandcontrast: str | None, xrange: list[int] | None, yrange: list[int] | None
) -> Region:
    """Read coordinates, latents and band contrast that lie in files of their own, and check that they fit one another.

    Parameters
    ----------
    coords_csv
        Columns x, y and, if known, bandcontrast, a row for each point of the full field.
    latent_roi
        NPY or CSV of as many rows as the region has points, in the order of ``coords_csv``; a column for each dimension. Where a
        CSV has columns x and y too, they must be those of the region, row by row.
    bandcontrast
        The same, of the region or of the full field; default: the column of ``coords_csv``.
    xrange, yrange
        Half-open ranges of the region.

    Raises
    ------
    FileNotFoundError
        One of the files is not there.
    ValueError
        They do not fit; the message names both lengths.
    """
    points = read_coordinates("task.coords_csv", coords_csv, "bandcontrast")
    inside = np.ones(len(points), bool)
    for name, limits in (("x", xrange), ("y", yrange)):
        if limits is not None:
            inside &= (points[name] >= limits[0]).to_numpy() & (points[name] < limits[1]).to_numpy()
    asked = f"task.roi_xrange={xrange}, task.roi_yrange={yrange}"
    if not inside.any():
        raise ValueError(
            f"{asked} hold none of the {len(points)} points of {coords_csv}, whose x is {points['x'].min()} to "
            f"{points['x'].max()} and y {points['y'].min()} to {points['y'].max()}. Ranges are half-open."
        )
    region = points[inside].reset_index(drop=True)
    latents = read_columns("task.latent_roi", latent_roi, region)
    if len(latents) != len(region):
        whole = " It has as many as the full field: cut the region out of it first." if len(latents) == len(points) else ""
        raise ValueError(
            f"task.latent_roi: {latent_roi} holds {len(latents)} values, but the region of {coords_csv} ({asked}, half-open) has "
            f"{len(region)} points.{whole} Both must list the same points in one order."
        )
    quality = region["bandcontrast"].to_numpy() if "bandcontrast" in region else None
    if bandcontrast is not None:
        quality = read_columns("task.bandcontrast", bandcontrast, region, points)
        if quality.shape[1] != 1:
            raise ValueError(f"task.bandcontrast: {bandcontrast} has {quality.shape[1]} columns of values, but must have one.")
        if len(quality) not in (len(region), len(points)):
            raise ValueError(
                f"task.bandcontrast: {bandcontrast} holds {len(quality)} values, but the region has {len(region)} points and the "
                f"full field of {coords_csv} {len(points)}. It must be of either length, in the order of that file."
            )
        quality = quality[:, 0] if len(quality) == len(region) else quality[inside, 0]
    shape = int(points["y"].max()) + 1, int(points["x"].max()) + 1
    return Region(region["x"].to_numpy(), region["y"].to_numpy(), latents, quality, shape)


def read_columns(key: str, path: str, *tables: pd.DataFrame) -> np.ndarray:
    """Read the columns (n, D) of an NPY or CSV; x and y in a CSV are checked against the table that is as long, row by row."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{key}={path}: there is no such file. It is an NPY or a CSV, a row for each point.")
    if Path(path).suffix == ".npy":
        values = np.load(path, allow_pickle=False)
        if values.ndim not in (1, 2) or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{key}: {path} holds an array of shape {values.shape}, {values.dtype}, but must be numbers (n,) or (n, D)."
            )
        return values.reshape(len(values), -1).astype(np.float64)
    table = _numbers(key, path)
    if {"x", "y"} <= set(table):
        for points in tables:
            if len(points) == len(table):
                other = (table[["x", "y"]].to_numpy() != points[["x", "y"]].to_numpy()).any(1)
                if other.any():
                    row = int(np.flatnonzero(other)[0])
                    raise ValueError(
                        f"{key}: {path} lists the points in another order than task.coords_csv: row {row + 1} is "
                        f"x={table['x'][row]:g}, y={table['y'][row]:g} instead of x={points['x'][row]}, y={points['y'][row]}. "
                        "Sort it alike."
                    )
                break
        table = table.drop(columns=["x", "y"])
    if not len(table.columns):
        raise ValueError(f"{key}: {path} has no column of values beside x and y.")
    return table.to_numpy(np.float64)


def _numbers(key: str, path: str) -> pd.DataFrame:
    """Read a CSV of numbers, with headers or without; a first column that merely counts the rows is no value, and left out."""
    given = {"skipinitialspace": True, "encoding": "utf-8-sig"}
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **given).iloc[0].str.strip().str.lower()
    is_named = (pd.to_numeric(first, errors="coerce").isna() & (first != "nan")).any()
    table = pd.read_csv(path, header=0 if is_named else None, **given)
    table.columns = [_name(header) for header in table]
    nameless = [name for name in table if not is_named or name.startswith("unnamed:")]  # as pandas calls an empty header
    index = table.columns[0]
    if index in nameless and len(table.columns) > 1 and (table[index] == np.arange(len(table))).all():
        logger.warning("%s: the first column of %s counts its rows, so it is left out.", key, path)
        table, nameless = table.drop(columns=index), nameless[1:]
    if is_named and nameless:
        raise ValueError(
            f"{key}: {path} has {len(nameless)} columns without a header beside {', '.join(table.columns.drop(nameless))}. "
            "Delete what is no value, such as the index that pandas writes (index=False leaves it out), and name the others."
        )
    if table.columns.has_duplicates:
        raise ValueError(f"{key}: {path} has columns {sorted(table.columns[table.columns.duplicated()])} twice. Rename one.")
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        wrong = numbers.isna() & table[name].notna() & (table[name].astype(str).str.strip().str.lower() != "nan")
        if wrong.any():
            raise ValueError(f"{key}: {path} holds {table[name][wrong].iloc[0]!r} in column {name}, which is no number.")
        table[name] = numbers
    return table
