"""Cluster latents, with band contrast or without, and show the clusters over the scan and in their plane.

Reads the latents table of ``task=process``, or the files of the EBSD reference (``task.coords_csv``, ``task.latent_roi``,
``task.bandcontrast``). Writes ``cluster_latent_bc__<tag>.png``, ``cluster_assignments__<tag>.csv``,
``cluster_report__<tag>.json``, ``latents.h5ad`` (the table with the column ``cluster``, where there is one), ``tables/``
(clusters, criterion, stability, agreement) and ``figures/``.

The clusters describe the points of the region, so they are fitted to all of them, held-out blocks too.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import clustering
from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.data.latents import add_clusters
from microlatent.drawing import clusters as criterion_drawing
from microlatent.files import write_csv, write_json
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import draw_clusters as drawing
from microlatent.systems.kikuchi import scan_clusters, scan_maps
from microlatent.systems.kikuchi.draw_clusters import Points
from microlatent.systems.kikuchi.draw_maps import Window
from microlatent.systems.kikuchi.fields import Field, open_field
from microlatent.systems.kikuchi.scan_clusters import ScanClusters
from microlatent.systems.kikuchi.scans import ScanMap
from microlatent.systems.kikuchi.schema import ClusterKikuchiConfig

log = logging.getLogger(__name__)
TABLE = "latents.h5ad"
KMEANS_CLUSTERS = 3  # of k-means, unless task.num_clusters says
DBSCAN_SAMPLES = 10  # near points that make a place dense to dbscan, unless task.min_samples says


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Cluster the points, compare with what is known and with baselines, write figure, assignments and report."""
    task: ClusterKikuchiConfig = settings.task
    field, how = open_field(settings), options(task)
    result = find_clusters(field, how, settings)
    tag = tag_of(task, field, result.found)
    results = results_of(field, tag, settings, out, tracker)
    tables = tables_of(field, result, how, settings)
    for name, table in tables.items():
        results.table(name, table)
    assignments = f"cluster_assignments__{tag}.csv"
    write_csv(field.assignments(result.shown, result.labels), results.path(assignments))
    results.artifact("clusters", "table", assignments)
    if field.table is not None:
        values = pd.Series(pd.Categorical([None] * len(field.table), result.categories().categories))
        values.iloc[field.rows] = result.categories()
        about = {"method": task.method, "num_clusters": result.found.num, "tag": tag, "seed": settings.seed}
        add_clusters(field.table, results.path(TABLE), values.array, about)
        results.artifact("latents_clustered", "latents", TABLE)
    draw_clusters(field, result, tag, settings, results)
    report = report_of(field, result, tag, how, tables.get("agreement"), settings)
    write_json(finite(report), results.path(f"cluster_report__{tag}.json"))
    if len(result.found.criterion) > 1:
        results.figure("criterion", criterion_drawing.draw_criterion, result.found.criterion, task.criterion)
    if result.stable["ari"].notna().any():
        colours = drawing.base_colours(result.hue, result.chroma)
        results.figure("stability", drawing.draw_stability, result.stable, result.jaccard, colours)
    return numbers(result, tables.get("agreement"))


def results_of(field: Field, tag: str, settings: Settings, out: Path, tracker: Any = None) -> Results:
    """Declare the files; ``*`` in the tag is what the run finds."""
    task: ClusterKikuchiConfig = settings.task
    refitted = ["stability"] * (task.num_refits > 0)
    tried = ["criterion"] * (task.method == "gmm" and task.num_clusters is None and task.max_clusters > 1)
    return Results(
        *(out, tracker),
        files=[
            *(map_name(field, tag, scan) for scan in field.scans),
            *(f"cluster_assignments__{tag}.csv", f"cluster_report__{tag}.json"),
            *([TABLE] if field.table is not None else []),
        ],
        tables=["clusters", "criterion", *refitted, *(["agreement"] if field.known else [])],
        figures=[*refitted, *tried],
    )


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the points, check that they can be clustered, and list what would be written."""
    task: ClusterKikuchiConfig = settings.task
    field = open_field(settings)
    z, known = scan_clusters.features(field.latents, field.clustered_quality, task.standardize)
    num, most = int(known.sum()), task.num_clusters or task.max_clusters
    once = {
        "gmm": 1e-6 * min(num, clustering.FIT_ROWS) * most * z.shape[1],
        "kmeans": 0.05,
        "dbscan": 3e-5 * num,
        "hdbscan": 5e-8 * num**2,
    }[task.method]
    table_mb = field.table.path.stat().st_size / 1e6 if field.table is not None else 0
    return Preflight(
        reads=field.reads,
        writes=results_of(field, tag_of(task, field, None), settings, out).writes,
        memory_mb=300 + len(known) * (z.shape[1] * 40 + 200) / 1e6,
        disk_mb=0.5 + len(known) * 5e-5 + table_mb,
        seconds=5 + once * (3 + 2 * task.num_refits + len(field.baselines)),
    )


def find_clusters(field: Field, how: dict[str, Any], settings: Settings) -> ScanClusters:
    """Cluster the known points, refit, and choose the latent that is shown and the colours."""
    task: ClusterKikuchiConfig = settings.task
    z, known = scan_clusters.features(field.latents, field.clustered_quality, task.standardize)
    found = scan_clusters.fit(z[known], how, settings.seed)
    labels = np.full(len(known), NOISE)
    labels[known] = found.labels
    measured = clustering.silhouettes(z[known], found.labels, settings.seed)
    refits = scan_clusters.stability_table(z[known], found, field.groups[known], how, task.num_refits, settings.seed)
    shown = shown_latent(field, known, task.standardize)
    return ScanClusters(found, labels, known, *measured, *refits, *shown, *drawing.hues(borders(field, labels, found.num)))


def tables_of(field: Field, result: ScanClusters, how: dict[str, Any], settings: Settings) -> dict[str, pd.DataFrame]:
    """Return the tables by name: what clusters are, what was tried, how stable they are, what they agree with."""
    clusters = scan_clusters.clusters_table(result, field.quality, field.quality_name)
    tables = {
        "clusters": clusters.assign(colour=drawing.base_colours(result.hue, result.chroma)),
        "criterion": result.found.criterion,
    }
    if len(result.stable):
        tables["stability"] = result.stable
    if field.known:
        others = compared(field, settings.task.standardize)
        tables["agreement"] = scan_clusters.agreement_table(result, len(field.names), field.known, others, how, settings.seed)
    return tables


def report_of(
    field: Field, result: ScanClusters, tag: str, how: dict[str, Any], agreement: pd.DataFrame | None, settings: Settings
) -> dict[str, Any]:
    """Return the report: the reference's fields, and what the clusters stand on."""
    task, labels, known, stable = settings.task, result.labels, result.known, result.stable
    maps, colours = [map_name(field, tag, scan) for scan in field.scans], drawing.base_colours(result.hue, result.chroma)
    return {
        **scan_clusters.parameters(result.found, how),
        "n_points": len(labels),
        "n_missing": int((~known).sum()),
        "counts": {str(number): int((labels[known] == number).sum()) for number in np.unique(labels[known])},
        "silhouette": result.silhouette,
        "stability": {
            "ari_median_by_kind": stable.groupby("kind")["ari"].median().to_dict() if len(stable) else {},
            "refits": int(task.num_refits),
            "blocks": len(np.unique(field.groups[known])),
        },
        "agreement": [] if agreement is None else agreement.to_dict("records"),
        "features": field.names,
        "standardize": task.standardize,
        "latent": result.shown_label,
        "dims": field.dims,
        "roi": {"x_range": task.roi_xrange, "y_range": task.roi_yrange, "half_open": True},
        "seed": settings.seed,
        "cluster_colors": {str(number): colour for number, colour in enumerate(colours)},
        "noise_color": drawing.NOISE_COLOUR,
        "figure": maps[0] if len(maps) == 1 else maps,
        "assignments_csv": f"cluster_assignments__{tag}.csv",
        "reads": field.reads,
    }


def finite(value: Any) -> Any:
    """Return plain values for JSON, which knows no NaN."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ------------------------------------------------------------------------------------------------ settings and tables


def options(task: ClusterKikuchiConfig) -> dict[str, Any]:
    """Return method and settings as ``clustering.cluster`` takes them."""
    if task.method == "gmm":
        how = {"num_clusters": task.num_clusters, "max_clusters": task.max_clusters, "criterion": task.criterion}
    elif task.method == "kmeans":
        how = {"num_clusters": task.num_clusters or KMEANS_CLUSTERS}
    elif task.method == "dbscan":
        how = {"eps": task.eps, "min_samples": task.min_samples or DBSCAN_SAMPLES}
    else:
        how = {"min_cluster_size": task.min_cluster_size, "min_samples": task.min_samples or task.min_cluster_size}
    return {"method": task.method, **how}


def tag_of(task: ClusterKikuchiConfig, field: Field, found: Clustering | None) -> str:
    """Return what tells runs apart in files' names: features, method, parameters, region; ``*`` for what is not known yet."""
    if task.tag is not None:
        return figures.file_word(task.tag)
    parts = []
    if field.total > 1:
        few = len(field.dims) <= 6
        named = "-".join(map(str, field.dims)) if few else f"{field.dims[0]}to{field.dims[-1]}of{len(field.dims)}"
        parts.append(f"d{named}" if task.dims is not None else "all")
    if field.with_quality != (len(field.dims) == 1):
        parts.append("bc" if field.with_quality else "nobc")
    if task.method in ("gmm", "kmeans"):
        k = task.num_clusters or (KMEANS_CLUSTERS if task.method == "kmeans" else found.num if found else "*")
        parts.append(f"{task.method}_k{k}")
    elif task.method == "dbscan":
        eps = task.eps or (found.criterion["eps"].iloc[0] if found else None)
        parts.append(f"dbscan_eps{'*' if eps is None else f'{eps:.3g}'}_m{task.min_samples or DBSCAN_SAMPLES}")
    else:
        parts.append(f"hdbscan_mcs{task.min_cluster_size}" + (f"_m{task.min_samples}" if task.min_samples else ""))
    if not task.standardize:
        parts.append("unscaled")
    parts += [f"{axis}_{limits[0]}_{limits[1]}" for axis, limits in (("x", task.roi_xrange), ("y", task.roi_yrange)) if limits]
    return "_".join(parts)


def shown_latent(field: Field, known: np.ndarray, standardize: bool) -> tuple[np.ndarray, str]:
    """Return the latent (n,) that figure and table show, and its label: the only one, or the first principal component of all."""
    if len(field.dims) == 1:
        return field.latents[:, 0], f"latent {field.dims[0]} (no unit)"
    shown, share = scan_clusters.first_component(field.latents, known, standardize)
    kind = "standardised " if standardize else ""
    return shown, f"PC1 of {len(field.dims)} {kind}latents ({share:.0%} of their variance)"


def borders(field: Field, labels: np.ndarray, num: int) -> np.ndarray:
    """Return how many pairs of neighbours lie in each pair of clusters (num, num), over all scans."""
    return sum(
        scan_maps.shared_borders(labels[scan.rows], scan_maps.neighbour_pairs(scan.x, scan.y, 4), num) for scan in field.scans
    )


def compared(field: Field, standardize: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return what is clustered for comparison: each baseline, with band contrast where the latents have it, and that alone."""
    others = {name: scan_clusters.features(x, field.clustered_quality, standardize) for name, x in field.baselines.items()}
    if field.quality is not None:
        others[field.quality_name] = scan_clusters.features(field.quality[:, None], None, standardize)
    return others


# ----------------------------------------------------------------------------------------------------------- figures


def map_name(field: Field, tag: str, scan: ScanMap) -> str:
    """Return the file of a scan's figure; one scan needs no name of its own."""
    return f"cluster_latent_bc__{tag}{tail(field, scan)}.png"


def tail(field: Field, scan: ScanMap) -> str:
    """Return what tells the files of several scans apart."""
    return f"__{figures.file_word(scan.name)}" if len(field.scans) > 1 else ""


def second_axis(field: Field, shown: np.ndarray) -> tuple[np.ndarray, str]:
    """Return what the scatter shows over the latent: the quality; where there is none, the share of points below."""
    if field.quality is not None:
        return field.quality, spoken(field.quality_name)
    return 100 * pd.Series(shown).rank(pct=True).to_numpy(), "share of the points with a lower latent (%)"


def spoken(column: str) -> str:
    """Return a column's name as a label."""
    return column.replace("bandcontrast", "band contrast").replace("_", " ")


def draw_clusters(field: Field, result: ScanClusters, tag: str, settings: Settings, results: Results) -> None:
    """Draw map and scatter of each scan, in the same colours throughout."""
    task: ClusterKikuchiConfig = settings.task
    other, other_label = second_axis(field, result.shown)
    dims = f"latent {field.dims[0]}" if len(field.dims) == 1 else f"latents {', '.join(map(str, field.dims))}"
    what = dims if len(field.dims) <= 6 else f"{len(field.dims)} latents"
    what = f"{task.method} on {what}" + (f" and {spoken(field.quality_name)}" if field.with_quality else "")
    for scan, step_um in zip(field.scans, field.steps_um, strict=True):
        here = scan.rows
        values = (each[here] for each in (result.labels, result.known, result.shown, other))
        points = Points(*values, result.shown_label, other_label)
        local = scan._replace(rows=np.arange(len(here)))
        window = Window.of(local, task.roi_xrange, task.roi_yrange, step_um)
        title = f"{scan.name}: {len(result.hue)} clusters by {what}" + ("" if task.standardize else ", unscaled")
        look = points, window, result.hue, result.chroma, title, settings.seed
        # One name for the tracker, whatever the number of clusters.
        results.figure(f"cluster_latent_bc{tail(field, scan)}", drawing.draw_clusters, *look, file=map_name(field, tag, scan))


def numbers(result: ScanClusters, agreement: pd.DataFrame | None) -> dict[str, float]:
    """Return the numbers of the run, and say in words what was found and how far to trust it."""
    labels, known, found, stable = result.labels, result.known, result.found, result.stable
    noise = float((labels[known] == NOISE).mean())
    result = {
        "points": len(labels),
        "missing": int((~known).sum()),
        "clusters": found.num,
        "noise_share": noise,
        "silhouette": result.silhouette,
    }
    for kind, name in ((scan_clusters.SEEDS, "ari_seeds_median"), (scan_clusters.BLOCKS, "ari_blocks_median")):
        ari = stable.loc[stable["kind"] == kind, "ari"].dropna()
        if len(ari):
            result[name] = float(ari.median())
            log.info(f"{kind}: adjusted Rand index {ari.median():.2f} ({ari.min():.2f} to {ari.max():.2f}) in {len(ari)} refits.")
    if found.num < 2:
        log.warning(
            "All points are noise." if not found.num else "One cluster describes the points best: they fall into no groups."
        )
    tried = found.criterion
    if len(tried) > 1 and tried["chosen"].iloc[-1]:
        log.warning(f"The criterion chose the most clusters that were tried, {found.num}. Raise task.max_clusters.")
    for row in agreement.itertuples() if agreement is not None else ():
        result[f"ari_{row.column}" + ("" if row.clusters_of == "latents" else f"_{row.clusters_of}")] = float(row.ari)
    if agreement is not None and len(agreement):
        for column, part in agreement.groupby("column", sort=False):
            words = ", ".join(f"{row.clusters_of} {row.ari:.2f}" for row in part.itertuples())
            log.info(f"Adjusted Rand index with {column}, by what was clustered: {words}.")
    return result
