"""Kikuchi patterns of EBSD scans, and how their stores become what a model trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pandas as pd

from microlatent.data.folders import open_stores
from microlatent.data.latents import mapped
from microlatent.data.source import PatchSource
from microlatent.data.split import PARTS, Split
from microlatent.data.store import Store
from microlatent.files import atomic, write_csv
from microlatent.schemas import Settings
from microlatent.systems.kikuchi.coordinates import read_coordinates
from microlatent.systems.kikuchi.ebsd import join_maps
from microlatent.systems.kikuchi.schema import KikuchiConfig

KEPT = "kept_coords.csv"  # what task=bandcontrast leaves for data.keep


class KikuchiPatterns(PatchSource):
    """Patterns of scans; neighbours show the same grain, so whole squares of the map are held out, with a gap around them."""

    split_levels: ClassVar = {"block": ("scan", "block"), "scan": ("scan",)}
    independent_unit = "block"
    baselines: ClassVar = ("pca", "nmf")

    def __init__(self, stores: list[Store], config: KikuchiConfig) -> None:
        super().__init__(stores, config.channels)
        self.gap_points = config.gap_points
        self.table["block"] = block_names(self.table, config.block_points)
        self.table = with_maps(self.table, config)
        if config.keep is not None:
            self.rows = {"all": np.flatnonzero(kept_rows(self.table, config.keep))}

    def use_split(self, split: Split) -> None:
        """Set which rows are train, val and test; training points beside a held-out block are in no part."""
        super().use_split(split)
        if split.by == "block" and self.gap_points:
            held_out = np.concatenate([self.rows[part] for part in PARTS if part != "train"])
            train = self.rows["train"]
            self.rows["train"] = train[~self._near(train, held_out)]

    def rows_used_by(self, provenance: dict[str, Any]) -> np.ndarray:
        """Return which rows (N,) a run of this provenance took: those of its scans and of its keep list."""
        own, keep = super().rows_used_by(provenance), provenance["config"]["data"].get("keep")
        return own & kept_rows(self.table, keep) if keep is not None else own

    def _near(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return which rows lie within the gap of one of the others of the same scan."""
        from scipy.spatial import cKDTree

        near = np.zeros(len(rows), bool)
        scan, places = self.table["scan"].to_numpy(), self.table[["x", "y"]].to_numpy(float)
        for name in pd.unique(scan[others]):
            here = np.flatnonzero(scan[rows] == name)
            tree = cKDTree(places[others[scan[others] == name]])
            distance, _ = tree.query(places[rows[here]], p=np.inf, distance_upper_bound=self.gap_points + 0.5)
            near[here] = np.isfinite(distance)
        return near

    def extra_files(self, out: Path) -> list[Path]:
        """Return the reference's files: of several scans each has its folder."""
        folders = [out if len(self.stores) == 1 else out / store.name for store in self.stores]
        return [folder / name for folder in folders for name in ("coords.csv", "latents_full.npy", "latents_roi.npy")]

    def write_extra_files(self, out: Path, rows: np.ndarray) -> None:
        """Write every scan's latents as the reference did.

        ``latents_full.npy`` (map rows * columns, D) float32 goes through the full field row by row, NaN where nothing was
        encoded; ``latents_roi.npy`` (n, D) holds the encoded points alone, in the order of those lines of ``coords.csv`` whose
        ``encoded`` is true.
        """
        with h5py.File(out / "latents.h5ad", "r") as file:
            latents = mapped(out / "latents.h5ad", file["X"])
        paths = iter(self.extra_files(out))
        for number, store in enumerate(self.stores):
            coords_csv, full_npy, roi_npy = (next(paths) for _ in range(3))
            first, end = self.starts[number : number + 2]
            here = np.flatnonzero((rows >= first) & (rows < end))
            field = full_field(store, self.table.iloc[first:end])
            flat = (self.table["y"] * store.origin["map_shape"][1] + self.table["x"]).to_numpy()[rows[here]]
            field["encoded"] = np.isin(np.arange(len(field)), flat)
            write_csv(field, coords_csv)
            with atomic(full_npy) as temporary:
                full = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(field), latents.shape[1]))
                full[:] = np.nan
                full[flat] = latents[here]
                full.flush()
            with atomic(roi_npy) as temporary:
                np.save(temporary, latents[here[np.argsort(flat)]])


def full_field(store: Store, table: pd.DataFrame) -> pd.DataFrame:
    """Return every place of a scan's map, row by row: x, y, and where its points are known x_um, y_um and their quality."""
    y, x = (axis.ravel() for axis in np.indices(store.origin["map_shape"]))
    known = [name for name in ("x_um", "y_um", store.origin["quality"]) if name in table]
    return pd.DataFrame({"x": x, "y": y}).merge(table[["x", "y", *known]], on=["x", "y"], how="left")


def open_source(settings: Settings) -> KikuchiPatterns:
    """Open the stores of the chosen scans as one source of patterns."""
    config: KikuchiConfig = settings.data
    return KikuchiPatterns(open_stores(config, settings.outputs, config.scans, "data.scans"), config)


def block_names(table: pd.DataFrame, side: int) -> pd.Series:
    """Return the square of ``side`` x ``side`` points that each point of a map lies in: <row>_<column>."""
    return (table["y"] // side).astype(str) + "_" + (table["x"] // side).astype(str)


def with_maps(table: pd.DataFrame, config: KikuchiConfig) -> pd.DataFrame:
    """Add the columns of the files in ``data.maps`` to a table of points, by scan, x and y."""
    if not config.maps:
        return table
    scans = table.groupby("scan", sort=False, observed=True)
    parts = [join_maps(part, config.maps, str(scan), of_several=len(scans) > 1) for scan, part in scans]
    return pd.concat(parts).loc[table.index]


def kept_rows(table: pd.DataFrame, keep: str) -> np.ndarray:
    """Return which points (N,) of a table a keep list names.

    Parameters
    ----------
    keep
        A run of ``task=bandcontrast``; or a CSV with x, y and, for several scans, scan, and perhaps valid; or an NPY (n, 2).

    Raises
    ------
    FileNotFoundError
        There is no such file or run.
    ValueError
        The file does not hold that, or names none of the points.
    """
    path = Path(keep) / KEPT if Path(keep).is_dir() else Path(keep)
    if not path.is_file():
        raise FileNotFoundError(
            f"data.keep={keep}: there is no {path}. Make one with: python analyze.py task=bandcontrast data=kikuchi "
            "data.root=<scan>"
        )
    kept = read_coordinates("data.keep", path, "scan", "valid")
    if "valid" in kept:  # valid_pixels.csv lists all points
        kept = kept[kept["valid"] == 1].copy()
    if "scan" not in kept:
        if table["scan"].nunique() > 1:
            raise ValueError(
                f"data.keep: {path} does not say of which scan its points are, but there are {sorted(table['scan'].unique())}. "
                "Add a column scan, or choose one scan with data.scans."
            )
        kept["scan"] = table["scan"].iloc[0]
    points, named = (pd.MultiIndex.from_frame(one[["scan", "x", "y"]].astype({"scan": str})) for one in (table, kept))
    found = points.isin(named)
    if not found.any():
        raise ValueError(
            f"data.keep: {path} names {len(kept)} points, but none of them is one of the scan's {len(table)} patterns "
            f"(x {table['x'].min()} to {table['x'].max()}, y {table['y'].min()} to {table['y'].max()}). Is it of another scan?"
        )
    return found
