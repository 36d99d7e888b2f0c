"""One EBSD map of points, with or without a Kikuchi pattern at each, whatever wrote its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent.data.ebsd.stacks import Stack

QUALITIES = ("bandcontrast", "iq", "radon_quality")  # what vendors measure; not one quantity under three names


@dataclass(kw_only=True)
class Scan:
    """A map and its patterns; patterns stay in their files until they are read.

    ``points`` has one row per point that there is, row by row of the map: x and y are its column and row from 0 (int64), x_um and
    y_um its place where the step is known. Further columns, where a file has them: one of ``QUALITIES``, band_slope, bands,
    error, mad_rad, ci, fit, pattern_quality, phase (0 or -1 as the vendor marks what is not indexed), the Bunge angles phi1_rad,
    Phi_rad and phi2_rad, the pattern centre pcx, pcy and pcz (Bruker convention: from the left and from the top as shares of
    width and height, distance in heights), element_<symbol>, PCA_<n>, cNMF_<n>, cluster_label, and a map's own columns.
    """

    name: str
    path: Path
    format: str
    map_shape: tuple[int, int]  # rows, columns
    points: pd.DataFrame
    stack: Stack | None = None
    order: np.ndarray | None = None  # (n,) where in the stack the pattern of every point lies
    no_patterns: str = ""  # why there is no stack, and where the patterns may be
    elements: dict[str, str] = field(default_factory=dict)  # unit by column
    phases: dict[int, str] = field(default_factory=dict)
    step_um: tuple[float, float] | None = None  # between rows, between columns
    static_background: np.ndarray | None = None  # (h, w)
    background_corrected: bool = False  # the file's patterns had their static background removed
    metadata: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = self.files or [self.path]
        self.elements = {name: self.elements.get(name, "") for name in self.points if name.startswith("element_")}
        place = self.points["y"].to_numpy() * self.map_shape[1] + self.points["x"].to_numpy()
        assert (np.diff(place) > 0).all(), "points are row by row, each once"
        assert (self.stack is None) == (self.order is None)

    @property
    def pattern_shape(self) -> tuple[int, int] | None:
        """Return rows and columns of a pattern; None for a map without patterns."""
        return None if self.stack is None else tuple(int(side) for side in self.stack.shape)

    @property
    def dtype(self) -> np.dtype | None:
        """Return the type of a pixel; None for a map without patterns."""
        return None if self.stack is None else np.dtype(self.stack.dtype).newbyteorder("=")

    @property
    def quality(self) -> str | None:
        """Return the column of the patterns' quality that the vendor gives, or None."""
        return next((name for name in QUALITIES if name in self.points), None)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the patterns (n, h, w) of the points at these positions of ``points``, in that order; no others are read.

        Raises
        ------
        ValueError
            The map has no patterns, or its file is damaged.
        """
        rows = np.asarray(rows)
        assert rows.dtype.kind in "iu" or not rows.size, "positions, not a mask"
        if self.stack is None:
            raise ValueError(f"{self.path} ({self.format}) holds no patterns. {self.no_patterns}".rstrip())
        return self.stack.read(self.order[rows.astype(np.int64)])


def grid_points(
    path: Path,
    map_shape: tuple[int, int],
    step_um: tuple[float, float] | None,
    columns: Mapping[str, np.ndarray],
    *,
    y: np.ndarray | None = None,
    x: np.ndarray | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table of points, row by row, and where in the file (n,) each is.

    Parameters
    ----------
    map_shape, step_um
        Rows and columns of the map, and their distances.
    columns
        Values (n,) in the order of the file.
    y, x
        Row and column (n,) of every value; default: all points of the map, row by row.

    Raises
    ------
    ValueError
        A column has another length, or two values are of one point.
    """
    if y is None or x is None:
        y, x = (axis.ravel() for axis in np.indices(map_shape))
    for name, values in columns.items():
        if len(values) != len(y):
            raise ValueError(
                f"{path}: {name} has {len(values)} values, but the map of {map_shape[0]} x {map_shape[1]} has {len(y)} points. "
                "The file may be damaged or from an interrupted scan: export it again."
            )
    order = np.lexsort((x, y))
    table = pd.DataFrame({"x": x, "y": y}, dtype=np.int64)
    if step_um is not None:
        table["x_um"], table["y_um"] = table["x"] * step_um[1], table["y"] * step_um[0]
    native = {name: values.astype(values.dtype.newbyteorder("="), copy=False) for name, values in columns.items()}
    table = pd.concat([table, pd.DataFrame(native)], axis=1).iloc[order].reset_index(drop=True)
    refuse_doubled(path, table)
    return table, order


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


def stated(path: Path, header: Mapping[str, str], key: str) -> float | None:
    """Return a number of a header of text; None where it is not stated.

    Raises
    ------
    ValueError
        It is no number.
    """
    text = header.get(key, "").replace(",", ".")  # some countries' versions write decimal commas
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"{path}: {key} is {text!r} in the header, but must be a number. Export the map again.") from None


def steps(path: Path, name: str, values_um: np.ndarray, step_um: float | None = None) -> tuple[np.ndarray, float]:
    """Return places in micrometres as whole steps (n,) int64 from the first, and the step; it is found where it is not given.

    Raises
    ------
    ValueError
        Places are not on a grid, as in a hexagonal map.
    """
    values_um = np.asarray(values_um, np.float64)
    from_first = values_um - values_um.min()
    if not step_um:
        # Smallest distance that is no rounding; 1 in a map of one column.
        between = np.diff(np.unique(from_first))
        between = between[between > 1e-3 * between.max(initial=0)]
        step_um = float(between.min()) if len(between) else 1.0
        step_um = float(from_first.max() / max(1, round(from_first.max() / step_um))) or step_um
    number = np.rint(from_first / step_um)
    off = ~(np.abs(from_first / step_um - number) <= 0.2)  # NaN is off as well
    if off.any():
        first = int(np.flatnonzero(off)[0])
        raise ValueError(
            f"{path}: {name} is {values_um[first]:g} in row {first} (from 0) and off a grid with the step {step_um:g} um in "
            f"{int(off.sum())} of {len(off)} rows. Only square grids are read: export the map on one (resample a hexagonal grid)."
        )
    return number.astype(np.int64), float(step_um)
