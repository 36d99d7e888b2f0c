"""Cluster latents, with band contrast or without, and show the clusters over the scan and in their plane.

Reads the latents table of ``task=process``, or the files of the EBSD reference (``task.coords_csv``, ``task.latent_roi``,
``task.bandcontrast``). Writes ``cluster_latent_bc__<tag>.png``, ``cluster_assignments__<tag>.csv``,
``cluster_report__<tag>.json``, ``tables/`` (clusters, criterion, stability, agreement) and ``figures/``.

The clusters describe the points of the region, so they are fitted to all of them, held-out blocks too.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import clustering
from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.drawing import clusters as criterion_drawing
from microlatent.files import write_csv, write_json
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import draw_clusters as drawing
from microlatent.systems.kikuchi import scan_clusters, scan_maps
from microlatent.systems.kikuchi.draw_clusters import Points
from microlatent.systems.kikuchi.draw_maps import Window
from microlatent.systems.kikuchi.fields import Field, open_field
from microlatent.systems.kikuchi.schema import ClusterKikuchiConfig

if TYPE_CHECKING:
    from microlatent.results import Preflight

log = logging.getLogger(__name__)
KMEANS_CLUSTERS = 3  # of k-means, unless task.num_clusters says
DBSCAN_SAMPLES = 10  # near points that make a place dense to dbscan, unless task.min_samples says


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Cluster the points, compare with what is known and with baselines, write figure, assignments and report."""
    task: ClusterKikuchiConfig = settings.task
    field, how = open_field(settings), options(task)
    z, known = scan_clusters.features(field.latents, field.clustered_quality, task.standardize)
    found = scan_clusters.fit(z[known], how, settings.seed)
    labels = np.full(len(known), NOISE)
    labels[known] = found.labels
    width, widths = clustering.silhouettes(z[known], found.labels, settings.seed)
    stable, jaccard = scan_clusters.stability_table(z[known], found, field.groups[known], how, task.num_refits, settings.seed)
    shown, shown_label = shown_latent(field, known, task.standardize)
    hue, chroma = drawing.hues(borders(field, labels, found.num))
    colours = drawing.base_colours(hue, chroma)
    tag = tag_of(task, field, found)

    clusters = scan_clusters.clusters_table(labels, known, shown, field.quality, field.quality_name, widths, jaccard)
    tables = {"clusters": clusters.assign(colour=colours), "criterion": found.criterion}
    if len(stable):
        tables["stability"] = stable
    if field.known:
        others = compared(field, task.standardize)
        tables["agreement"] = scan_clusters.agreement_table(labels, known, z.shape[1], field.known, others, how, settings.seed)
    for name, table in tables.items():
        write_csv(table, out / "tables" / f"{name}.csv")
        tracker.table(name, table)
    write_csv(field.assignments(shown, labels), out / f"cluster_assignments__{tag}.csv")
    tracker.artifact("clusters", "table", out / f"cluster_assignments__{tag}.csv")
    paths = draw_clusters(field, labels, known, shown, shown_label, hue, chroma, tag, settings, out)
    report = {
        **scan_clusters.parameters(found, how),
        "n_points": len(labels),
        "n_missing": int((~known).sum()),
        "counts": {str(number): int((labels[known] == number).sum()) for number in np.unique(labels[known])},
        "silhouette": width,
        "stability": {
            "ari_median_by_kind": stable.groupby("kind")["ari"].median().to_dict() if len(stable) else {},
            "refits": int(task.num_refits),
            "blocks": len(np.unique(field.groups[known])),
        },
        "agreement": tables["agreement"].to_dict("records") if "agreement" in tables else [],
        "features": field.names,
        "standardize": task.standardize,
        "latent": shown_label,
        "dims": field.dims,
        "roi": {"x_range": task.roi_xrange, "y_range": task.roi_yrange, "half_open": True},
        "seed": settings.seed,
        "cluster_colors": {str(number): colour for number, colour in enumerate(colours)},
        "noise_color": drawing.NOISE_COLOUR,
        "figure": paths[0].name if len(paths) == 1 else [path.name for path in paths],
        "assignments_csv": f"cluster_assignments__{tag}.csv",
        "reads": field.reads,
    }
    write_json(finite(report), out / f"cluster_report__{tag}.json")
    if len(found.criterion) > 1:
        path = out / "figures" / "criterion.png"
        paths.append(criterion_drawing.draw_criterion(found.criterion, task.criterion, path))
    if stable["ari"].notna().any():
        paths.append(drawing.draw_stability(stable, jaccard, colours, out / "figures" / "stability.png"))
    for path in paths:
        tracker.image(path.stem.replace(f"__{tag}", ""), path)  # one name whatever the number of clusters
    return numbers(labels, known, found, width, stable, tables.get("agreement"))


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the points, check that they can be clustered, and list what would be written."""
    from microlatent.results import Preflight

    task: ClusterKikuchiConfig = settings.task
    field = open_field(settings)
    z, known = scan_clusters.features(field.latents, field.clustered_quality, task.standardize)
    tag = tag_of(task, field, None)
    tables = ["clusters", "criterion"] + ["stability"] * (task.num_refits > 0) + ["agreement"] * bool(field.known)
    drawn = ["stability"] * (task.num_refits > 0)
    drawn += ["criterion"] * (task.method == "gmm" and task.num_clusters is None and task.max_clusters > 1)
    num, most = int(known.sum()), task.num_clusters or task.max_clusters
    once = {
        "gmm": 1e-6 * min(num, clustering.FIT_ROWS) * most * z.shape[1],
        "kmeans": 0.05,
        "dbscan": 3e-5 * num,
        "hdbscan": 5e-8 * num**2,
    }[task.method]
    return Preflight(
        reads=field.reads,
        writes=[
            *(str(path) for path in map_paths(field, tag, out)),
            str(out / f"cluster_assignments__{tag}.csv"),
            str(out / f"cluster_report__{tag}.json"),
            *(str(out / "tables" / f"{name}.csv") for name in tables),
            *(str(out / "figures" / f"{name}.png") for name in drawn),
        ],
        memory_mb=300 + len(known) * (z.shape[1] * 40 + 200) / 1e6,
        disk_mb=0.5 + len(known) * 5e-5,
        seconds=5 + once * (3 + 2 * task.num_refits + len(field.baselines)),
    )


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


def map_paths(field: Field, tag: str, out: Path) -> list[Path]:
    """Return where the figure of each scan goes; one scan needs no name of its own."""
    tails = [f"__{figures.file_word(scan.name)}" for scan in field.scans] if len(field.scans) > 1 else [""]
    return [out / f"cluster_latent_bc__{tag}{tail}.png" for tail in tails]


def second_axis(field: Field, shown: np.ndarray) -> tuple[np.ndarray, str]:
    """Return what the scatter shows over the latent: the quality; where there is none, the share of points below."""
    if field.quality is not None:
        return field.quality, spoken(field.quality_name)
    return 100 * pd.Series(shown).rank(pct=True).to_numpy(), "share of the points with a lower latent (%)"


def spoken(column: str) -> str:
    """Return a column's name as a label."""
    return column.replace("bandcontrast", "band contrast").replace("_", " ")


def draw_clusters(
    field: Field,
    labels: np.ndarray,
    known: np.ndarray,
    shown: np.ndarray,
    shown_label: str,
    hue: np.ndarray,
    chroma: np.ndarray,
    tag: str,
    settings: Settings,
    out: Path,
) -> list[Path]:
    """Draw map and scatter of each scan, in the same colours throughout."""
    task: ClusterKikuchiConfig = settings.task
    other, other_label = second_axis(field, shown)
    dims = f"latent {field.dims[0]}" if len(field.dims) == 1 else f"latents {', '.join(map(str, field.dims))}"
    what = dims if len(field.dims) <= 6 else f"{len(field.dims)} latents"
    what = f"{task.method} on {what}" + (f" and {spoken(field.quality_name)}" if field.with_quality else "")
    paths = map_paths(field, tag, out)
    for scan, step_um, path in zip(field.scans, field.steps_um, paths, strict=True):
        here = scan.rows
        points = Points(labels[here], known[here], shown[here], other[here], shown_label, other_label)
        local = scan._replace(rows=np.arange(len(here)))
        window = Window.of(local, task.roi_xrange, task.roi_yrange, step_um)
        title = f"{scan.name}: {len(hue)} clusters by {what}" + ("" if task.standardize else ", unscaled")
        figures.save(drawing.compose(points, window, hue, chroma, title, settings.seed), path)
    return paths


def numbers(
    labels: np.ndarray,
    known: np.ndarray,
    found: Clustering,
    width: float,
    stable: pd.DataFrame,
    agreement: pd.DataFrame | None,
) -> dict[str, float]:
    """Return the numbers of the run, and say in words what was found and how far to trust it."""
    noise = float((labels[known] == NOISE).mean())
    result = {
        "points": len(labels),
        "missing": int((~known).sum()),
        "clusters": found.num,
        "noise_share": noise,
        "silhouette": width,
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
