"""What ``task=cluster`` groups on a scan: chosen latents, band contrast, and what they may be compared with, point by point."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from microlatent.analysis.clustering import FEWEST_ROWS, refuse_few
from microlatent.data.latents import BASELINE, Latents
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import scan_clusters, scan_maps
from microlatent.systems.kikuchi.coordinates import read_region
from microlatent.systems.kikuchi.scans import ScanMap, open_points
from microlatent.systems.kikuchi.schema import ClusterKikuchiConfig

BANDCONTRAST = "bandcontrast"
BLOCK_SIDES = (8, 4, 2, 1)  # of the squares that refits resample, scan points
FEWEST_BLOCKS = 5  # fewer cannot be resampled


class Field(NamedTuple):
    """The points of the region, scan after scan."""

    scans: list[ScanMap]  # their rows are positions in this field
    steps_um: list[tuple[float, float] | None]  # of every scan
    scan: np.ndarray  # (n,) names
    latents: np.ndarray  # (n, D) the chosen dimensions, NaN where missing
    dims: list[int]
    total: int  # dimensions that there are
    quality: np.ndarray | None  # (n,) band contrast, or what stands for it
    quality_name: str
    with_quality: bool  # cluster on it too
    groups: np.ndarray  # (n,) block of the map that a point lies in
    known: dict[str, np.ndarray]  # (n,) labels that clusters may agree with, NaN where unknown
    baselines: dict[str, np.ndarray]  # (n, D) each, where they have as many components: those that vary most
    reads: list[str]
    table: Latents | None = None  # that the points are of; None where they are of files
    rows: np.ndarray | None = None  # (n,) their positions in the table

    @property
    def x(self) -> np.ndarray:
        """Return the map column (n,)."""
        return np.concatenate([scan.x for scan in self.scans])

    @property
    def y(self) -> np.ndarray:
        """Return the map row (n,)."""
        return np.concatenate([scan.y for scan in self.scans])

    @property
    def clustered_quality(self) -> np.ndarray | None:
        """Return the quality (n,) if it is clustered too."""
        return self.quality if self.with_quality else None

    @property
    def names(self) -> list[str]:
        """Return what is clustered, in words."""
        return [f"latent {dim}" for dim in self.dims] + [self.quality_name] * self.with_quality

    def assignments(self, shown: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
        """Return one row per point of the region, in its order; cluster -1 is noise, or what has no latent."""
        quality = np.full(len(labels), np.nan) if self.quality is None else self.quality
        table = pd.DataFrame({"x": self.x, "y": self.y, "latent": shown, self.quality_name: quality, "cluster": labels})
        if len(self.scans) > 1:
            table.insert(0, "scan", self.scan)
        return table


def open_field(settings: Settings) -> Field:
    """Open the points of a run, or those of the files that ``task.coords_csv`` and ``task.latent_roi`` name.

    Raises
    ------
    ValueError
        Settings of one kind of input stand beside those of the other, next to nothing of the region is known, or too
        little of it for so many clusters.
    """
    task, data = settings.task, settings.data
    given = {"run": settings.run, "task.latents": task.latents}
    if settings.run is None:  # which brings settings of data of its own
        given |= {"data.scans": data.scans, "data.keep": data.keep, "data.maps": data.maps or None}
    idle = [name for name, value in given.items() if value is not None]
    if task.coords_csv is not None and idle:
        raise ValueError(
            f"{', '.join(idle)} and task.coords_csv={task.coords_csv} each say which points to cluster, but beside the files "
            f"nothing else is read. Leave out {' and '.join(idle)}, or task.coords_csv and task.latent_roi."
        )
    field = from_table(settings) if task.coords_csv is None else from_files(task)
    known = scan_clusters.features(field.latents, field.clustered_quality, task.standardize)[1]
    if known.sum() < FEWEST_ROWS:
        raise ValueError(
            f"{known.sum()} of the region's {len(known)} points have {' and '.join(field.names)}, but clusters need at least "
            f"{FEWEST_ROWS}. Widen task.roi_xrange and task.roi_yrange."
        )
    refuse_few(int(known.sum()), task.num_clusters)
    return field


def from_table(settings: Settings) -> Field:
    """Take the points of the region from the latents table; without ``task.dims``, the dimensions that are active.

    Raises
    ------
    ValueError
        A dimension does not exist, or the region holds no point.
    """
    task: ClusterKikuchiConfig = settings.task
    latents, whole = open_points(settings, "cluster")
    width = latents.x.shape[1]
    latents.require_dims("task.dims", task.dims)
    inside = [scan.inside(task.roi_xrange, task.roi_yrange) for scan in whole]
    rows = np.concatenate([scan.rows[kept] for scan, kept in zip(whole, inside, strict=True)])
    scans, start = [], 0
    for scan, kept in zip(whole, inside, strict=True):
        scans.append(scan._replace(rows=start + np.arange(kept.sum()), x=scan.x[kept], y=scan.y[kept]))
        start += kept.sum()
    dims, train = task.dims, latents.training_rows()
    if dims is None:
        dims = [int(dim) for dim in scan_maps.active_dims(scan_maps.variances(latents.x, train))]
        if not dims:
            raise ValueError(f"No latent of {latents.path} varies, so there is nothing to cluster. The model has collapsed.")
    obs = latents.obs.iloc[rows]
    names = {scan.quality for scan in whole}
    name = names.pop() if len(names) == 1 else "image_quality"
    baselines = {}
    for baseline, x in latents.matrices(BASELINE).items():
        most = np.sort(np.argsort(-scan_maps.variances(x, train), kind="stable")[: len(dims)])
        baselines[baseline] = np.asarray(x[rows][:, most], np.float64)
    known = {column: labels_of(obs[column], column) for column in obs if column.startswith("true_") or column == "phase"}
    groups = np.unique(obs["group"].astype(str), return_inverse=True)[1]
    return Field(
        scans=scans,
        steps_um=[scan.step_um for scan in whole],
        scan=obs["scan"].to_numpy(str),
        latents=np.asarray(latents.x[rows][:, dims], np.float64),
        dims=list(dims),
        total=width,
        quality=obs[name].to_numpy(np.float64),
        quality_name=name,
        with_quality=task.use_bandcontrast if task.use_bandcontrast is not None else task.dims is not None and len(dims) == 1,
        groups=groups if len(np.unique(groups)) >= FEWEST_BLOCKS else blocks(scans),
        known={column: labels for column, labels in known.items() if labels is not None},
        baselines=baselines,
        reads=[str(latents.path), *(str(scan.store.path) for scan in whole)],
        table=latents,
        rows=rows,
    )


def from_files(task: ClusterKikuchiConfig) -> Field:
    """Take the points of the region from the reference's files; without ``task.dims``, all columns of ``task.latent_roi``.

    Raises
    ------
    ValueError
        The files do not fit one another, or band contrast is asked for but nowhere.
    """
    region = read_region(task.coords_csv, task.latent_roi, task.bandcontrast, task.roi_xrange, task.roi_yrange)
    total = region.latents.shape[1]
    outside = [dim for dim in task.dims or [] if not 0 <= dim < total]
    if outside:
        raise ValueError(
            f"task.dims is {task.dims}, but {task.latent_roi} has the dimensions 0 to {total - 1}. Leave out {outside}."
        )
    dims = list(range(total)) if task.dims is None else list(task.dims)
    with_quality = task.use_bandcontrast if task.use_bandcontrast is not None else len(dims) == 1
    if with_quality and region.bandcontrast is None:
        raise ValueError(
            f"Band contrast is to be clustered with the latent, but {task.coords_csv} has no column bandcontrast. Name a file of "
            "it, task.bandcontrast=<file>, or set task.use_bandcontrast=false."
        )
    name = Path(task.coords_csv).stem
    scans = [ScanMap(name, None, np.arange(len(region.x)), region.x, region.y, region.map_shape)]
    return Field(
        scans=scans,
        steps_um=[None],
        scan=np.full(len(region.x), name),
        latents=region.latents[:, dims],
        dims=dims,
        total=total,
        quality=region.bandcontrast,
        quality_name=BANDCONTRAST,
        with_quality=with_quality,
        groups=blocks(scans),
        known={},
        baselines={},
        reads=[path for path in (task.coords_csv, task.latent_roi, task.bandcontrast) if path is not None],
    )


def blocks(scans: list[ScanMap]) -> np.ndarray:
    """Return the square of the map (n,) that each point lies in, as large as leaves enough of them to resample."""
    for side in BLOCK_SIDES:
        places = np.concatenate(
            [np.column_stack([np.full(len(scan.x), at), scan.y // side, scan.x // side]) for at, scan in enumerate(scans)]
        )
        code = np.unique(places, axis=0, return_inverse=True)[1].ravel()
        if len(np.unique(code)) >= FEWEST_BLOCKS:
            break
    return code


def labels_of(column: pd.Series, name: str) -> np.ndarray | None:
    """Return a column of whole numbers as labels (n,) float, NaN where unknown (a phase: not indexed); None of other columns."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    known = values[np.isfinite(values)]
    if not len(known) or (known != np.round(known)).any() or len(np.unique(known)) > len(known) / 4:
        return None
    return np.where(values > 0, values, np.nan) if name == "phase" else values
