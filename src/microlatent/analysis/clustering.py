"""Clusters of latents: fitted to the training part, numbered by size, with the number of clusters chosen by a stated criterion.

Shapes: N patches, D principal components, K clusters.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NOISE = -1  # label of hdbscan and dbscan: dense nowhere
FEWEST_ROWS = 10  # of training; below, clusters are anecdotes
FIT_ROWS = 10_000  # mixtures and k-means are fitted to at most so many rows, chosen at random; the others are assigned
MIN_SAMPLES = 10  # near points that make a place dense, unless the caller says
SCORED_ROWS = 3000  # the silhouette compares all pairs
NUM_STARTS = 3  # initialisations; the best is kept
RIDGE = 1e-3  # added to the variances of a mixture, in units of the least variance of a principal component


class Clustering(NamedTuple):
    """What a method found."""

    labels: NDArray  # (N,) int: 0 is the largest cluster, NOISE is none
    confidence: NDArray  # (N,): posterior (gmm) or strength of membership (hdbscan); NaN for kmeans and dbscan
    centres: NDArray  # (K, D)
    criterion: pd.DataFrame  # one row for each number of clusters that was tried
    num_fitted: int  # rows that it was fitted to

    @property
    def num(self) -> int:
        """Return the number of clusters, noise not among them."""
        return len(self.centres)


def cluster(
    z: NDArray,
    train: NDArray,
    method: str,
    num_clusters: int | None = None,
    max_clusters: int = 12,
    min_cluster_size: int | None = None,
    seed: int = 0,
    fit_rows: int = FIT_ROWS,
    *,
    criterion: str = "bic",
    num_starts: int = NUM_STARTS,
    min_samples: int | None = None,
    eps: float | None = None,
) -> Clustering:
    """Cluster principal components (N, D) by ``gmm``, ``kmeans``, ``hdbscan`` or ``dbscan``.

    Parameters
    ----------
    train
        Rows that gmm and kmeans are fitted to; the others are assigned. hdbscan and dbscan cannot assign new rows and are fitted
        to all.
    num_clusters
        Default: the lowest criterion from 1 (gmm), the highest silhouette from 2 (kmeans).
    criterion
        Of gmm: ``bic`` or ``aic``.
    num_starts
        Initialisations of gmm, and a third of those of kmeans.
    min_samples
        Of hdbscan and dbscan: points within reach (the point itself among them) that make a place dense; default 10, or
        ``min_cluster_size`` if that is less.
    eps
        Of dbscan: the reach, in units of ``z``; default ``usual_reach``.

    Raises
    ------
    ValueError
        There are too few rows.

    Notes
    -----
    Rows are sorted by their values before they are fitted, so that the result does not depend on the table's order. The BIC
    counts patches as independent, and neighbours are not: it may choose too many, which ``stability.stability`` shows.
    """
    refuse_few(len(train), num_clusters)
    scale = np.sqrt(z[train].var(0, dtype=np.float64).mean()) or 1.0
    y = z.astype(np.float64) / scale
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: the criterion's table shows it
        if method == "hdbscan":
            labels, confidence, tried, num_fitted = _hdbscan(y, min_cluster_size, min_samples)
        elif method == "dbscan":
            labels, confidence, tried, num_fitted = _dbscan(y, scale, eps, min_samples or MIN_SAMPLES)
        else:
            rows = drawn_rows(y, train, fit_rows, seed)
            if method == "gmm":
                model, tried = _scan_gmm(y[rows], num_clusters, max_clusters, seed, criterion, num_starts)
            else:
                model, tried = _scan_kmeans(y[rows], num_clusters, max_clusters, seed, num_starts)
            confidence = model.predict_proba(y).max(1) if method == "gmm" else np.full(len(y), np.nan)
            labels, num_fitted = model.predict(y), len(rows)
    labels = number_by_size(labels)
    centres = np.array([z[labels == number].mean(0, dtype=np.float64) for number in range(labels.max() + 1)])
    return Clustering(labels, confidence, centres.reshape(-1, z.shape[1]), tried, num_fitted)


def refuse_few(num_rows: int, num_clusters: int | None) -> None:
    """Refuse to cluster too few rows (patches of training, points of a scan), or into too many clusters.

    Raises
    ------
    ValueError
        They are.
    """
    if num_rows < FEWEST_ROWS:
        raise ValueError(
            f"Clustering needs at least {FEWEST_ROWS} training patches, but there are {num_rows}. "
            "Run task=process on more subjects, images or wells."
        )
    if num_clusters is not None and num_clusters > num_rows // 2:
        raise ValueError(
            f"task.num_clusters is {num_clusters}, but the {num_rows} rows to fit clusters to allow at most {num_rows // 2}."
        )


def number_by_size(labels: NDArray) -> NDArray:
    """Return labels renumbered so that 0 is the largest cluster; NOISE stays, empty clusters vanish."""
    names, code, counts = np.unique(labels[labels != NOISE], return_inverse=True, return_counts=True)
    rank = np.empty(len(names), int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    result = np.full(len(labels), NOISE)
    result[labels != NOISE] = rank[code]
    return result


def _in_order(y: NDArray, rows: NDArray) -> NDArray:
    """Return rows sorted by their values, whatever their order in the table."""
    return rows[np.lexsort(y[rows].T[::-1])]


def drawn_rows(y: NDArray, rows: NDArray, most: int, seed: int) -> NDArray:
    """Return at most so many of the rows, in order; the seed chooses them."""
    rows = _in_order(y, rows)
    return rows if len(rows) <= most else rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


def _one_thread() -> Any:
    """Hold sums to one order: that of several threads changes, and with it the last digits.

    Small matrices are also much faster so: on a busy machine each of their products waits for every thread.
    """
    from sklearn import cluster, metrics, mixture  # noqa: F401  libraries that are loaded later are not held
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


# ---------------------------------------------------------------------------------------------------------- methods


def _scan_gmm(y: NDArray, num: int | None, most: int, seed: int, criterion: str, num_starts: int) -> tuple[Any, pd.DataFrame]:
    """Fit mixtures of full covariance and return that of the lowest criterion, and the table of all.

    A component of fewer patches than it has directions fits its own few patches without end, so a mixture that has one is
    listed but not chosen.
    """
    from sklearn.mixture import GaussianMixture

    ridge, width = max(1e-6, RIDGE * y.var(0).min()), y.shape[1]
    models, records = [], []
    for count in [num] if num else range(1, max(1, min(most, len(y) // (width + 1))) + 1):
        starts = num_starts if count > 1 else 1
        model = GaussianMixture(count, reg_covar=ridge, n_init=starts, max_iter=300, random_state=seed).fit(y)
        models.append(model)
        record = {"num_clusters": count, "bic": model.bic(y), "aic": model.aic(y), "log_likelihood_nats": model.score(y)}
        smallest = model.weights_.min() * len(y)
        sound = count == 1 or smallest >= width + 1
        records.append(record | {"smallest": smallest, "converged": model.converged_, "sound": sound})
    return _chosen(models, records, [-one[criterion] if one["sound"] or num else -np.inf for one in records])


def _scan_kmeans(y: NDArray, num: int | None, most: int, seed: int, num_starts: int) -> tuple[Any, pd.DataFrame]:
    """Fit k-means and return that of the highest silhouette, and the table of all."""
    from sklearn.cluster import KMeans

    models, records = [], []
    for count in [num] if num else range(min(2, most), min(most, len(y) // 2) + 1):
        model = KMeans(count, n_init=num_starts * 3, random_state=seed).fit(y)
        models.append(model)
        record = {"num_clusters": count, "silhouette": silhouettes(y, model.labels_, seed)[0], "inertia": model.inertia_}
        records.append(record | {"smallest": np.bincount(model.labels_).min()})
    return _chosen(models, records, [np.nan_to_num(one["silhouette"], nan=-1.0) for one in records])


def _chosen(models: list[Any], records: list[dict[str, Any]], score: list[float]) -> tuple[Any, pd.DataFrame]:
    best = int(np.argmax(score))
    return models[best], pd.DataFrame(records).assign(chosen=np.arange(len(models)) == best)


def _hdbscan(y: NDArray, min_cluster_size: int | None, min_samples: int | None) -> tuple[NDArray, NDArray, pd.DataFrame, int]:
    """Return labels, strength of membership, and the one row that says what was asked and found.

    A patch is dense by its ten nearest ones: with as many as ``min_cluster_size``, the method's default, small clusters drown.
    """
    from sklearn.cluster import HDBSCAN

    least = min(min_cluster_size or max(5, round(0.01 * len(y))), len(y))
    near = min(least, MIN_SAMPLES) if min_samples is None else min(min_samples, len(y))
    rows = _in_order(y, np.arange(len(y)))
    model = HDBSCAN(min_cluster_size=least, min_samples=near, copy=True).fit(y[rows])
    labels, confidence = np.empty(len(y), int), np.empty(len(y))
    labels[rows], confidence[rows] = np.maximum(model.labels_, NOISE), model.probabilities_
    found = {"min_cluster_size": least, "min_samples": near, "num_clusters": labels.max() + 1}
    found |= {"noise_share": (labels == NOISE).mean(), "chosen": True}
    return labels, confidence, pd.DataFrame([found]), len(y)


def _dbscan(y: NDArray, scale: float, eps: float | None, min_samples: int) -> tuple[NDArray, NDArray, pd.DataFrame, int]:
    """Return labels, no confidence, and the one row that says what was asked (``eps`` in units of ``y * scale``) and found."""
    from sklearn.cluster import DBSCAN

    reach = usual_reach(y) if eps is None else eps / scale
    rows = _in_order(y, np.arange(len(y)))
    labels = np.empty(len(y), int)
    labels[rows] = DBSCAN(eps=reach, min_samples=min_samples).fit(y[rows]).labels_
    found = {"eps": reach * scale, "min_samples": min_samples, "num_clusters": labels.max() + 1}
    found |= {"noise_share": (labels == NOISE).mean(), "chosen": True}
    return labels, np.full(len(y), np.nan), pd.DataFrame([found]), len(y)


def usual_reach(z: NDArray, neighbour: int = 8, quantile: float = 0.98) -> float:
    """Return the distance to a near neighbour (counted with the point itself) that nearly all points (N, D) keep below.

    Where points coincide, so that it is 0, a tenth of the median distance from the median point.
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(neighbour, len(z))).fit(z)
    reach = float(np.quantile(near.kneighbors(z)[0][:, -1], quantile))
    return reach if reach > 0 else 0.1 * float(np.median(np.linalg.norm(z - np.median(z, 0), axis=1))) or 1.0


# ------------------------------------------------------------------------------------------ how far apart, who is typical


def silhouettes(z: NDArray, labels: NDArray, seed: int = 0) -> tuple[float, NDArray]:
    """Return the mean silhouette of all patches and of each cluster (K,), of at most ``SCORED_ROWS``, noise left out.

    1: far from other clusters; 0: on the border; NaN: there is one cluster, or the sample holds none of it.
    """
    from sklearn.metrics import silhouette_samples

    rows = np.flatnonzero(labels != NOISE)
    if len(rows) > SCORED_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(_in_order(z, rows), SCORED_ROWS, replace=False))
    each = np.full(labels.max(initial=-1) + 1, np.nan)
    present = np.unique(labels[rows])
    if not 2 <= len(present) < len(rows):
        return np.nan, each
    width = silhouette_samples(z[rows], labels[rows])
    for number in present:
        each[number] = width[labels[rows] == number].mean()
    return float(width.mean()), each


def exemplars(z: NDArray, found: Clustering, units: NDArray, num: int, per_unit: int = 2) -> list[NDArray]:
    """Return for each cluster the rows nearest to its centre, at most ``per_unit`` of each unit (image, trajectory)."""
    chosen = []
    for number, centre in enumerate(found.centres):
        rows = np.flatnonzero(found.labels == number)
        rows = rows[np.argsort(((z[rows] - centre) ** 2).sum(1), kind="stable")]
        taken: dict[Any, int] = {}
        kept = []
        for row in rows:
            taken[units[row]] = taken.get(units[row], 0) + 1
            if taken[units[row]] <= per_unit:
                kept.append(row)
            if len(kept) == num:
                break
        chosen.append(np.array(kept, int))
    return chosen
