"""The EBSD scans behind a latents table: open it, and say which rows are of which scan and where they lie in its map."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from microlatent.config import nearest
from microlatent.data.latents import Latents, open_latents
from microlatent.data.store import Store
from microlatent.schemas import Settings
from microlatent.systems.kikuchi.schema import KikuchiConfig

POINTS = ("scan", "x", "y")  # columns of a table whose rows are points of scans
ELEMENT = "element_"  # columns of elements begin so
INSTEAD = "For latents of other data name their kind: data=wells, data=partitions or data=mnist."


class ScanMap(NamedTuple):
    """One scan, as the rows of a latents table that are of it."""

    name: str
    store: Store
    rows: np.ndarray  # (n,) positions in the latents table
    x: np.ndarray  # (n,) int64 map column, from 0
    y: np.ndarray  # (n,) int64 map row, from 0 at the top
    map_shape: tuple[int, int]  # rows, columns

    @property
    def step_um(self) -> tuple[float, float] | None:
        """Return the distance of neighbouring rows and of neighbouring columns; None where unknown."""
        step = self.store.origin["step_um"]
        return None if step is None else (float(step[0]), float(step[1]))

    @property
    def quality(self) -> str:
        """Return the column of the patterns' quality: the vendor's, else image_quality."""
        return self.store.origin["quality"]

    @property
    def elements(self) -> dict[str, str]:
        """Return the unit of every element by its column (element_Fe: wt%)."""
        return self.store.origin["elements"]

    @property
    def flat(self) -> np.ndarray:
        """Return the place (n,) of every row in the full field, row by row."""
        return self.y * self.map_shape[1] + self.x

    def grid(self, values: np.ndarray) -> np.ndarray:
        """Lay values (n, ...) of the scan's rows out as a map (rows, columns, ...) float; NaN where there is no row."""
        values = np.asarray(values, float)
        out = np.full((self.map_shape[0] * self.map_shape[1], *values.shape[1:]), np.nan)
        out[self.flat] = values
        return out.reshape(*self.map_shape, *values.shape[1:])

    def inside(self, xrange: list[int] | None, yrange: list[int] | None) -> np.ndarray:
        """Return which rows (n,) lie in a half-open range of columns and rows.

        Raises
        ------
        ValueError
            None does.
        """
        kept = np.ones(len(self.rows), bool)
        for values, limits in ((self.x, xrange), (self.y, yrange)):
            if limits is not None:
                kept &= (values >= limits[0]) & (values < limits[1])
        if not kept.any():
            raise ValueError(
                f"task.roi_xrange={xrange}, task.roi_yrange={yrange} hold none of the {len(self.rows)} points of {self.name}, "
                f"whose x is {self.x.min()} to {self.x.max()} and y {self.y.min()} to {self.y.max()}. Ranges are half-open."
            )
        return kept


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
        from microlatent.systems.kikuchi.source import kept_rows, with_maps

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


def scan_maps(latents: Latents, stores: list[tuple[Store, np.ndarray]]) -> list[ScanMap]:
    """Return the scans of a table, in its order."""
    found = []
    for store, rows in stores:
        x, y = (latents.obs[name].to_numpy(np.int64)[rows] for name in ("x", "y"))
        found.append(ScanMap(store.name, store, rows, x, y, tuple(store.origin["map_shape"])))
    return found


def about_scan(store: Store) -> dict[str, Any]:
    """Return what reports say of a scan."""
    keys = ("format", "map_shape", "step_um", "quality", "elements", "phases", "metadata")
    return {"scan": store.name} | {key: store.origin.get(key) for key in keys}
