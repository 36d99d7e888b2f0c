"""One EBSD map of points, with or without a Kikuchi pattern at each, whatever wrote its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent.systems.kikuchi.ebsd.grid import refuse_doubled
from microlatent.systems.kikuchi.ebsd.stacks import Stack

QUALITIES = ("bandcontrast", "iq", "radon_quality")  # what vendors measure; not one quantity under three names
COMPUTED = ("image_quality", "neighbour_similarity")  # measured from the patterns, whatever the vendor gives
EULER = ("phi1_rad", "Phi_rad", "phi2_rad")


@dataclass(kw_only=True)
class Scan:
    """A map and its patterns; patterns stay in their files until they are read.

    ``points`` has one row per point that there is, row by row of the map: x and y are its column and row from 0 (int64), x_um and
    y_um its place where the step is known. Further columns, where a file has them: one of ``QUALITIES``, band_slope, bands,
    error, mad_rad, ci, fit, pattern_quality, phase (not indexed is 0 at Oxford, HKL, EDAX OIM and Bruker, and -1 in files of APEX
    and kikuchipy, whose first phase is 0), the Bunge angles phi1_rad, Phi_rad and phi2_rad, the pattern centre pcx, pcy and pcz
    (Bruker convention: from the left and from the top as shares of width and height, distance in heights), element_<symbol>,
    PCA_<n>, cNMF_<n>, cluster_label, and a map's own columns.
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


def phase_numbers(values: np.ndarray, not_indexed: int = 0) -> np.ndarray:
    """Return phases (n,) int64; what is not finite was not indexed."""
    return np.where(np.isfinite(values), values, not_indexed).astype(np.int64)


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
