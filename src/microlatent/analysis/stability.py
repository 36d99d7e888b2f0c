"""How far to trust clusters: how alike refits to resampled groups, or from other seeds, are to them.

Shapes: N patches, D principal components, K clusters, B refits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from microlatent.analysis.clustering import FEWEST_ROWS, FIT_ROWS, NOISE, Clustering, cluster, drawn_rows

REFIT_ROWS = 4000  # rows of a refit at most: fewer than the fit has, so what is stable there is stable here


class Stability(NamedTuple):
    """How alike the clusters of refits to resampled groups are to those found."""

    ari: NDArray  # (B,) adjusted Rand index: 1 the same, 0 as alike as by chance; NaN with a single cluster
    jaccard: NDArray  # (B, K) of each cluster with its best match in the refit
    num_groups: int


def stability(
    z: NDArray,
    found: Clustering,
    train: NDArray,
    groups: NDArray,
    method: str,
    min_cluster_size: int | None = None,
    num_refits: int = 20,
    seed: int = 0,
    **options: Any,
) -> Stability:
    """Cluster anew with other groups (subjects, images) and compare.

    Mixtures and k-means are fitted with as many clusters as were found to groups of the training part drawn with replacement,
    and compared on all patches; hdbscan and dbscan to four fifths of all groups, drawn without (copies would look like dense
    places), and compared on those.

    Parameters
    ----------
    groups
        (N,) unit that is independent of the others.
    options
        ``num_starts``, ``min_samples`` and ``eps`` of ``cluster``; numbers of points shrink with the rows that are refitted.

    Notes
    -----
    Source: Hennig 2007, Comput. Stat. Data Anal. 52: a mean Jaccard index below 0.6 marks a cluster not to be trusted.
    """
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng((seed, 1))
    everywhere = method in ("hdbscan", "dbscan")
    pool = np.arange(len(z)) if everywhere else train
    names, code = np.unique(groups[pool], return_inverse=True)
    members = np.split(pool[np.argsort(code, kind="stable")], np.cumsum(np.bincount(code))[:-1])
    ari, jaccard = np.full(num_refits, np.nan), np.full((num_refits, found.num), np.nan)
    for refit in range(num_refits if found.num > 1 else 0):
        count = max(1, round(0.8 * len(names))) if everywhere else len(names)
        drawn = np.concatenate([members[group] for group in rng.choice(len(names), count, replace=not everywhere)])
        if everywhere:
            if len(drawn) > REFIT_ROWS:  # the time grows with the square of the rows
                drawn = rng.choice(drawn, REFIT_ROWS, replace=False)
            fewer = {"min_cluster_size": min_cluster_size, "min_samples": options.get("min_samples")}
            fewer = {key: size and max(2, round(size * len(drawn) / len(z))) for key, size in fewer.items()}
            labels = cluster(z[drawn], np.arange(len(drawn)), method, seed=refit, **options | fewer).labels
            before = found.labels[drawn]
        else:
            if len(drawn) // 2 < found.num or len(drawn) < FEWEST_ROWS:
                continue
            labels = cluster(z, drawn, method, found.num, seed=refit, fit_rows=REFIT_ROWS, **options).labels
            before = found.labels
        ari[refit], jaccard[refit] = adjusted_rand_score(before, labels), overlap(before, labels, found.num)
    return Stability(ari, jaccard, len(names))


def seed_stability(
    z: NDArray, found: Clustering, train: NDArray, method: str, num_refits: int = 20, seed: int = 0, **options: Any
) -> NDArray:
    """Return how alike (num_refits,) refits of gmm or kmeans from other seeds are: adjusted Rand indices.

    Parameters
    ----------
    seed
        That ``found`` was made with: it chose the rows of the fit, and the refits are to the same.
    """
    from sklearn.metrics import adjusted_rand_score

    rows = drawn_rows(z, train, FIT_ROWS, seed)
    ari = np.full(num_refits, np.nan)
    for refit in range(num_refits if found.num > 1 else 0):
        labels = cluster(z, rows, method, found.num, seed=seed + 1 + refit, **options).labels
        ari[refit] = adjusted_rand_score(found.labels, labels)
    return ari


def overlap(labels: NDArray, others: NDArray, num: int) -> NDArray:
    """Return for each of ``num`` clusters the Jaccard index with the other clustering's cluster that it shares most with."""
    both = (labels != NOISE) & (others != NOISE)
    table = np.zeros((num, others.max(initial=-1) + 2))  # a column too many, so that it is never empty
    np.add.at(table, (labels[both], others[both]), 1)
    first = np.bincount(labels[labels != NOISE], minlength=num)[:, None]
    second = np.bincount(others[others != NOISE], minlength=table.shape[1])[None]
    return (table / np.maximum(first + second - table, 1)).max(1)
