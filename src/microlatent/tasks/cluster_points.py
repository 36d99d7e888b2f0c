"""What ``task=cluster`` of scans computes: the features, their clusters, and the tables that say what they are.

Shapes: n points, F features, D latent dimensions, K clusters, B refits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from microlatent.analysis import clustering, components, scan_maps
from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.data.cluster_fields import Field
from microlatent.schemas import ClusterKikuchiConfig

KMEANS_CLUSTERS = 3  # of k-means, unless task.num_clusters says
REFIT_STARTS = 1  # of mixtures that are refitted: fewer than the fit has, so what is stable is stable with more
SEEDS, BLOCKS = "other seeds", "resampled blocks"

# ------------------------------------------------------------------------------------------------------------ points


def features(latents: np.ndarray, quality: np.ndarray | None, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return what is clustered (n, F), each column of mean 0 and variance 1 over the known points, and which points are known."""
    z = latents if quality is None else np.column_stack([latents, quality])
    known = np.isfinite(z).all(1)
    if not standardize or not known.any():
        return z, known
    spread = z[known].std(0)
    return (z - z[known].mean(0)) / np.where(spread > 0, spread, 1.0), known


def refuse_few(known: np.ndarray, field: Field) -> None:
    """Refuse a region in which next to nothing is known."""
    if known.sum() < clustering.FEWEST_ROWS:
        raise ValueError(
            f"{known.sum()} of the region's {len(known)} points have {' and '.join(feature_names(field))}, but clusters need at "
            f"least {clustering.FEWEST_ROWS}. Widen task.roi_xrange and task.roi_yrange."
        )


def feature_names(field: Field) -> list[str]:
    """Return what is clustered, in words."""
    return [f"latent {dim}" for dim in field.dims] + [field.quality_name] * field.with_quality


def shown_latent(field: Field, known: np.ndarray, standardize: bool) -> tuple[np.ndarray, str]:
    """Return the latent (n,) that figure and table show, and its label: the only one, or the first principal component of all."""
    if len(field.dims) == 1:
        return field.latents[:, 0], f"latent {field.dims[0]} (no unit)"
    z, _ = features(field.latents, None, standardize)
    complete = np.isfinite(z).all(1)
    pca = components.fit_pca(z[complete], np.flatnonzero(known[complete]), 1)
    result = np.full(len(z), np.nan)
    result[complete] = pca.transform(z[complete])[:, 0]
    kind = "standardised " if standardize else ""
    return result, f"PC1 of {len(field.dims)} {kind}latents ({pca.ratio[0]:.0%} of their variance)"


def second_axis(field: Field, shown: np.ndarray) -> tuple[np.ndarray, str]:
    """Return what the scatter shows over the latent: the quality; where there is none, the share of points below."""
    if field.quality is not None:
        return field.quality, spoken(field.quality_name)
    return 100 * pd.Series(shown).rank(pct=True).to_numpy(), "share of the points with a lower latent (%)"


def spoken(column: str) -> str:
    """Return a column's name as a label."""
    return column.replace("bandcontrast", "band contrast").replace("_", " ")


def borders(field: Field, labels: np.ndarray, num: int) -> np.ndarray:
    """Return how many pairs of neighbours lie in each pair of clusters (num, num), over all scans."""
    return sum(
        scan_maps.shared_borders(labels[scan.rows], scan_maps.neighbour_pairs(scan.x, scan.y, 4), num) for scan in field.scans
    )


# ---------------------------------------------------------------------------------------------------------- clusters


def fit(z: np.ndarray, task: ClusterKikuchiConfig, seed: int, num: int | None = None) -> Clustering:
    """Cluster known points as the settings say; ``num`` overrides the number of clusters, for baselines."""
    chosen = num or task.num_clusters or (KMEANS_CLUSTERS if task.method == "kmeans" else None)
    if task.method in ("dbscan", "hdbscan"):
        chosen = None
    options = {"criterion": task.criterion, **density(task)}
    return clustering.cluster(z, np.arange(len(z)), task.method, chosen, task.max_clusters, size(task), seed, **options)


def size(task: ClusterKikuchiConfig) -> int | None:
    """Return the least size of a cluster, where the method has one."""
    return task.min_cluster_size if task.method == "hdbscan" else None


def density(task: ClusterKikuchiConfig) -> dict[str, Any]:
    """Return what dense means to dbscan and hdbscan."""
    if task.method == "dbscan":
        return {"eps": task.eps, "min_samples": task.min_samples or 10}
    return {"min_samples": task.min_samples or task.min_cluster_size} if task.method == "hdbscan" else {}


def parameters(found: Clustering, task: ClusterKikuchiConfig) -> dict[str, Any]:
    """Return method and parameters as the report holds them, those that were found by a criterion too."""
    chosen = found.criterion[found.criterion["chosen"]].iloc[0]
    if task.method in ("gmm", "kmeans"):
        name = task.criterion if task.method == "gmm" else "silhouette"
        tried = {str(row.num_clusters): float(getattr(row, name)) for row in found.criterion.itertuples()}
        return {
            "method": task.method,
            "k": found.num,
            "scores": {"criterion": name, "value": float(chosen[name]), "tried": tried},
        }
    names = ("eps", "min_samples") if task.method == "dbscan" else ("min_cluster_size", "min_samples")
    values = {name: float(chosen[name]) if name == "eps" else int(chosen[name]) for name in names}
    epsilon = {"cluster_selection_epsilon": 0.0} if task.method == "hdbscan" else {}
    return {"method": task.method, "k": found.num, **values, **epsilon}


def default_tag(task: ClusterKikuchiConfig, field: Field, found: Clustering | None) -> str:
    """Return what tells runs apart in files' names: features, method, parameters, region; ``*`` for what is not known yet."""
    parts = []
    if field.total > 1:
        named = (
            "-".join(map(str, field.dims)) if len(field.dims) <= 6 else f"{field.dims[0]}to{field.dims[-1]}of{len(field.dims)}"
        )
        parts.append(f"d{named}" if task.dims is not None else "all")
    if field.with_quality != (len(field.dims) == 1):
        parts.append("bc" if field.with_quality else "nobc")
    if task.method in ("gmm", "kmeans"):
        k = task.num_clusters or (KMEANS_CLUSTERS if task.method == "kmeans" else found.num if found else "*")
        parts.append(f"{task.method}_k{k}")
    elif task.method == "dbscan":
        eps = task.eps or (found.criterion["eps"].iloc[0] if found else None)
        parts.append(f"dbscan_eps{'*' if eps is None else f'{eps:.3g}'}_m{task.min_samples or 10}")
    else:
        parts.append(f"hdbscan_mcs{task.min_cluster_size}" + (f"_m{task.min_samples}" if task.min_samples else ""))
    if not task.standardize:
        parts.append("unscaled")
    parts += [f"{axis}_{limits[0]}_{limits[1]}" for axis, limits in (("x", task.roi_xrange), ("y", task.roi_yrange)) if limits]
    return "_".join(parts)


# ------------------------------------------------------------------------------------------------------------ tables


def stability_table(
    z: np.ndarray, found: Clustering, groups: np.ndarray, task: ClusterKikuchiConfig, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the adjusted Rand index of every refit (other seeds, resampled blocks), and the clusters' Jaccard indices (B, K)."""
    everything, tables = np.arange(len(z)), []
    options = {"num_refits": task.num_refits, "seed": seed, "num_starts": REFIT_STARTS}
    if task.method in ("gmm", "kmeans"):  # the others draw nothing at random
        tables.append((SEEDS, clustering.seed_stability(z, found, everything, task.method, **options)))
    stable = clustering.stability(z, found, everything, groups, task.method, size(task), **options, **density(task))
    tables.append((BLOCKS, stable.ari))
    frames = [pd.DataFrame({"kind": kind, "refit": np.arange(len(ari)), "ari": ari}) for kind, ari in tables]
    return pd.concat(frames, ignore_index=True), stable.jaccard


def clusters_table(
    field: Field,
    labels: np.ndarray,
    known: np.ndarray,
    shown: np.ndarray,
    widths: np.ndarray,
    jaccard: np.ndarray,
    colours: list[str],
) -> pd.DataFrame:
    """Return for each cluster its size, what it holds on the average, how far apart it lies and how often it is found again."""
    records = []
    for number, colour in enumerate(colours):
        here = labels == number
        record = {
            "cluster": number,
            "size": int(here.sum()),
            "share": here.sum() / known.sum(),
            "latent_mean": shown[here].mean(),
        }
        if field.quality is not None:
            values = field.quality[here]
            record[f"{field.quality_name}_mean"] = values[np.isfinite(values)].mean() if np.isfinite(values).any() else np.nan
        again = jaccard[:, number][np.isfinite(jaccard[:, number])]
        record |= {"silhouette": widths[number], "jaccard_stability": again.mean() if len(again) else np.nan, "colour": colour}
        records.append(record)
    return pd.DataFrame(records, columns=None if records else ["cluster", "size", "share"])


def agreement_table(
    field: Field, labels: np.ndarray, known: np.ndarray, num: int, task: ClusterKikuchiConfig, seed: int
) -> pd.DataFrame:
    """Return how well clusters agree with known labels: these, and those of each baseline and of band contrast alone.

    The others are made by the same method with as many clusters, of as many components, with band contrast where these have it.
    """
    quality = field.quality if field.with_quality else None
    sources = {"latents": labels}
    compared = {name: features(values, quality, task.standardize) for name, values in field.baselines.items()}
    if field.quality is not None:
        compared[field.quality_name] = features(field.quality[:, None], None, task.standardize)
    for name, (z, finite_rows) in compared.items():
        here = finite_rows & known
        sources[name] = np.full(len(labels), NOISE)
        if num > 1 and here.sum() >= clustering.FEWEST_ROWS:
            sources[name][here] = fit(z[here], task, seed, num).labels
    records = []
    for column, truth in field.known.items():
        rows = known & np.isfinite(truth)
        if not rows.any():
            continue
        for source, found in sources.items():
            scores = clustering.agreement(found[rows], truth[rows].astype(int))
            number = len(np.unique(found[rows][found[rows] != NOISE]))
            record = {"column": column, "clusters_of": source, "ari": scores["ari"], "nmi": scores["nmi"], "num_clusters": number}
            records.append(record | {"num_labels": len(np.unique(truth[rows])), "num_points": int(rows.sum())})
    return pd.DataFrame(records)


def assignments_table(field: Field, shown: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return one row per point of the region, in its order; cluster -1 is noise, or what has no latent."""
    quality = np.full(len(labels), np.nan) if field.quality is None else field.quality
    table = pd.DataFrame({"x": field.x, "y": field.y, "latent": shown, field.quality_name: quality, "cluster": labels})
    if len(field.scans) > 1:
        table.insert(0, "scan", field.scan)
    return table
