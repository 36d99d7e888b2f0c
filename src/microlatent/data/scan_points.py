"""Points of scans for analysis: from the latents table of a run, or from the files that the EBSD reference works on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from microlatent.config import nearest
from microlatent.data.latents import Latents, open_latents
from microlatent.data.scans import POINTS, ScanMap, scan_maps
from microlatent.schemas import KikuchiConfig, Settings

INSTEAD = "For latents of other data name their kind: data=wells, data=partitions or data=mnist."


def open_points(settings: Settings, task: str) -> tuple[Latents, list[ScanMap]]:
    """Open the latents table, join the columns of ``data.maps`` to it, and find its scans.

    Raises
    ------
    ValueError
        The table is of other data, a scan of ``data.scans`` is absent, or ``data.keep`` leaves out points that were encoded.
    """
    latents = open_latents(settings, task)
    latents.require(POINTS, task, INSTEAD)
    config: KikuchiConfig = settings.data
    if config.maps or config.keep is not None:
        from microlatent.data.kikuchi import kept_rows, with_maps

        latents.obs = with_maps(latents.obs, config)
        if config.keep is not None and not (kept := kept_rows(latents.obs, config.keep)).all():
            raise ValueError(
                f"{latents.path} holds {len(kept)} points, but data.keep={config.keep} keeps {kept.sum()} of them: the latents "
                "were made without it. Leave data.keep out, or run task=process with it."
            )
    scans = scan_maps(latents, list(latents.stores(config.store)))
    for name in config.scans or []:
        if name not in (known := [scan.name for scan in scans]):
            raise ValueError(f"data.scans names {name!r}, which {latents.path} does not hold. {nearest(name, known)}")
    return latents, [scan for scan in scans if config.scans is None or scan.name in config.scans]


# ------------------------------------------------------------------------------------------------- the reference's files


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
    points = read_coordinates(coords_csv)
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


def read_coordinates(path: str) -> pd.DataFrame:
    """Read x, y (int64) and, if there is one, bandcontrast (float64) of every point, in the order of the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"task.coords_csv={path}: there is no such file. It lists x, y of every point of the full field.")
    table = pd.read_csv(path, skipinitialspace=True)
    table.columns = [str(name).strip().lower().replace(" ", "_") for name in table]
    absent = [name for name in ("x", "y") if name not in table]
    if absent:
        raise ValueError(f"task.coords_csv: {path} has the columns {list(table)}, but lacks {', '.join(absent)}. Name them so.")
    table = table[[name for name in ("x", "y", "bandcontrast") if name in table]].apply(pd.to_numeric, errors="coerce")
    places = table[["x", "y"]].to_numpy(float)
    bad = ~(np.isfinite(places) & (places >= 0) & (places == np.round(places))).all(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"task.coords_csv: {path} has {bad.sum()} rows whose x, y are no map column and row (whole numbers from 0), the "
            f"first in line {row + 2}: {places[row].tolist()}. Correct or delete them; latents follow the order of the rows."
        )
    table = table.astype({"x": np.int64, "y": np.int64})
    double = table.duplicated(["x", "y"])
    if double.any():
        x, y = table.loc[double.idxmax(), ["x", "y"]].astype(int)
        raise ValueError(f"task.coords_csv: {path} lists {double.sum()} points more than once, the first x={x}, y={y}.")
    return table


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
    first = pd.read_csv(path, header=None, nrows=1, skipinitialspace=True).iloc[0]
    is_named = pd.to_numeric(first, errors="coerce").isna().any()
    table = pd.read_csv(path, header=0 if is_named else None, skipinitialspace=True)
    table.columns = [str(name).strip().lower() for name in table]
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        wrong = numbers.isna() & table[name].notna() & (table[name].astype(str).str.strip().str.lower() != "nan")
        if wrong.any():
            raise ValueError(f"{key}: {path} holds {table[name][wrong].iloc[0]!r} in column {name}, which is no number.")
        table[name] = numbers
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
