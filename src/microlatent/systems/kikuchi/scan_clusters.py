"""Clusters of the points of scans: what is clustered, how stable the clusters are, and how well they agree with known labels.

Shapes: n points, F features, D latent dimensions, K clusters, B refits. ``options`` are those of ``clustering.cluster``, the
method among them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microlatent.analysis import clustering, components, stability
from microlatent.analysis.agreement import agreement_with
from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.drawing.clusters import NOISE_NAME

REFIT_STARTS = 1  # of mixtures that are refitted: fewer than the fit has, so what is stable is stable with more
SEEDS, BLOCKS = "other seeds", "resampled blocks"


class ScanClusters(NamedTuple):
    """The clusters of the n points of a field; their numbers, from 0, are those of files and figures."""

    found: Clustering  # of the known points
    labels: np.ndarray  # (n,) cluster, NOISE for noise and for what is missing
    known: np.ndarray  # (n,) bool: it was clustered
    silhouette: float
    silhouettes: np.ndarray  # (K,)
    stable: pd.DataFrame  # adjusted Rand index of every refit
    jaccard: np.ndarray  # (B, K) of each cluster in every refit to resampled blocks
    shown: np.ndarray  # (n,) the latent that figure and table show
    shown_label: str
    hue: np.ndarray  # (K,) degrees
    chroma: np.ndarray  # (K,)

    def categories(self) -> pd.Categorical:
        """Return the clusters as words: their numbers, noise, and nothing where a point was not clustered."""
        names = [str(number) for number in range(self.found.num)]
        noise = self.known & (self.labels == NOISE)
        codes = np.where(noise, len(names), self.labels)
        return pd.Categorical.from_codes(np.where(self.known, codes, -1), names + [NOISE_NAME] * bool(noise.any()))


def features(latents: NDArray, quality: NDArray | None, standardize: bool) -> tuple[NDArray, NDArray]:
    """Return what is clustered (n, F), each column of mean 0 and variance 1 over the known points, and which points are known."""
    z = latents if quality is None else np.column_stack([latents, quality])
    known = np.isfinite(z).all(1)
    if not standardize or not known.any():
        return z, known
    spread = z[known].std(0)
    return (z - z[known].mean(0)) / np.where(spread > 0, spread, 1.0), known


def first_component(latents: NDArray, known: NDArray, standardize: bool) -> tuple[NDArray, float]:
    """Return the latents' first principal component (n,) over the known points, NaN where unknown, and its share of variance."""
    z, complete = features(latents, None, standardize)
    pca = components.fit_pca(z[complete], np.flatnonzero(known[complete]), 1)
    result = np.full(len(z), np.nan)
    result[complete] = pca.transform(z[complete])[:, 0]
    return result, float(pca.ratio[0])


def fit(z: NDArray, options: dict[str, Any], seed: int, num: int | None = None) -> Clustering:
    """Cluster points (n, F), all of them known; ``num`` overrides the number of clusters where the method takes one."""
    if num is not None and "num_clusters" in options:
        options = options | {"num_clusters": num}
    return clustering.cluster(z, np.arange(len(z)), seed=seed, **options)


def parameters(found: Clustering, options: dict[str, Any]) -> dict[str, Any]:
    """Return method and parameters for a report, those that were found by a criterion too."""
    method = {"method": options["method"], "k": found.num}
    chosen = found.criterion[found.criterion["chosen"]].iloc[0]
    if "num_clusters" in options:
        name = options.get("criterion", "silhouette")
        tried = {str(row.num_clusters): float(getattr(row, name)) for row in found.criterion.itertuples()}
        return method | {"scores": {"criterion": name, "value": float(chosen[name]), "tried": tried}}
    density = {name: chosen[name] for name in ("eps", "min_cluster_size", "min_samples") if name in options}
    return method | density | ({"cluster_selection_epsilon": 0.0} if "min_cluster_size" in options else {})


def stability_table(
    z: NDArray, found: Clustering, groups: NDArray, options: dict[str, Any], num_refits: int, seed: int
) -> tuple[pd.DataFrame, NDArray]:
    """Return the adjusted Rand index of every refit (other seeds, resampled blocks), and the clusters' Jaccard indices (B, K)."""
    method, everything, tables = options["method"], np.arange(len(z)), []
    refits = {"num_refits": num_refits, "seed": seed, "num_starts": REFIT_STARTS}
    density = {name: options[name] for name in ("min_cluster_size", "min_samples", "eps") if name in options}
    if method in ("gmm", "kmeans"):  # the others draw nothing at random
        tables.append((SEEDS, stability.seed_stability(z, found, everything, method, **refits)))
    stable = stability.stability(z, found, everything, groups, method, **refits, **density)
    tables.append((BLOCKS, stable.ari))
    frames = [pd.DataFrame({"kind": kind, "refit": np.arange(len(ari)), "ari": ari}) for kind, ari in tables]
    return pd.concat(frames, ignore_index=True), stable.jaccard


def clusters_table(result: ScanClusters, quality: NDArray | None, name: str) -> pd.DataFrame:
    """Return for each cluster its size, what it holds on the average, how far apart it lies and how often it is found again.

    Parameters
    ----------
    quality
        (n,) the band contrast or what stands for it, under its ``name``; None where there is none.
    """
    records = []
    for number, width in enumerate(result.silhouettes):
        here = result.labels == number
        share = here.sum() / result.known.sum()
        record = {"cluster": number, "size": int(here.sum()), "share": share, "latent_mean": result.shown[here].mean()}
        if quality is not None:
            values = quality[here]
            record[f"{name}_mean"] = values[np.isfinite(values)].mean() if np.isfinite(values).any() else np.nan
        again = result.jaccard[:, number][np.isfinite(result.jaccard[:, number])]
        records.append(record | {"silhouette": width, "jaccard_stability": again.mean() if len(again) else np.nan})
    return pd.DataFrame(records, columns=None if records else ["cluster", "size", "share"])


def agreement_table(
    result: ScanClusters,
    num_features: int,
    truths: dict[str, NDArray],
    others: dict[str, tuple[NDArray, NDArray]],
    options: dict[str, Any],
    seed: int,
) -> pd.DataFrame:
    """Return how well clusters agree with known labels: these, and those of baselines and of band contrast alone.

    The others are made by the same method, with as many clusters where it takes a number.

    Parameters
    ----------
    num_features
        Of how many features the clusters of the latents are.
    truths
        Known labels (n,), NaN where unknown, by column.
    others
        ``features`` of what is clustered instead, by name.
    """
    labels, known = result.labels, result.known
    num, sources = labels.max(initial=NOISE) + 1, {"latents": (labels, num_features)}
    for name, (z, finite) in others.items():
        here, found = finite & known, np.full(len(labels), NOISE)
        if num > 1 and here.sum() >= clustering.FEWEST_ROWS:
            found[here] = fit(z[here], options, seed, num).labels
        sources[name] = found, z.shape[1]
    records = []
    for column, truth in truths.items():
        rows = known & np.isfinite(truth)
        if not rows.any():
            continue
        for source, (found, width) in sources.items():
            scores = agreement_with(found[rows], truth[rows].astype(int))
            number = len(np.unique(found[rows][found[rows] != NOISE]))
            record = {"column": column, "clusters_of": source, "num_features": width, "ari": scores["ari"], "nmi": scores["nmi"]}
            record |= {"num_clusters": number, "num_labels": len(np.unique(truth[rows])), "num_points": int(rows.sum())}
            records.append(record)
    return pd.DataFrame(records)
