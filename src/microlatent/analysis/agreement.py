"""How well two clusterings of the same points agree, also after every shift of one over the map, or with a known property.

Shapes: n points, K and L clusters, S shifts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from microlatent.analysis import clustering
from microlatent.analysis.statistics import exceeding, p_value, principal_axes
from microlatent.analysis.surrogates import Box, Torus

MOST_FEATURES = 10  # of more columns the first so many principal components are clustered: mixtures need many points for each


def mixture_labels(values: NDArray, max_clusters: int, criterion: str, seed: int) -> NDArray:
    """Return clusters (n,), 0 the largest, of values (n, F) by a Gaussian mixture: ``clustering.cluster`` fitted to all points.

    One initialisation has to do, for there may be hundreds of columns.
    """
    z = np.asarray(values, np.float64)
    if z.shape[1] > MOST_FEATURES:
        z = z - z.mean(0)
        z = z @ principal_axes(z.T @ z)[1][:, :MOST_FEATURES]
    options = {"max_clusters": max_clusters, "criterion": criterion, "num_starts": 1}
    return clustering.cluster(z, np.arange(len(z)), "gmm", seed=seed, **options).labels


def agreement(first: NDArray, second: NDArray, kind: str) -> float:
    """Return the adjusted Rand index (``ari``) or normalised mutual information (``nmi``) of two clusterings (n,).

    ari: 1 the same, 0 as alike as by chance. nmi: 0 to 1, with the mean of both entropies; it is not corrected for chance and
    grows with the number of clusters. NaN where both are a single cluster.

    Source: Hubert & Arabie 1985, J. Classif. 2; Strehl & Ghosh 2002, J. Mach. Learn. Res. 3.
    """
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    return float(_scores(iter(table[..., None]), np.array([len(first)], float), kind)[0])


def agreement_with(labels: NDArray, known: NDArray) -> dict[str, float]:
    """Return how well clusters agree with a known property: ``ari`` and ``nmi`` with words, ``eta2`` with numbers.

    eta2 is the share of a number's variance that lies between the clusters; noise counts as a cluster.
    """
    if known.dtype.kind != "f":
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        known = np.unique(known.astype(str), return_inverse=True)[1]
        return {"ari": adjusted_rand_score(known, labels), "nmi": normalized_mutual_info_score(known, labels), "eta2": np.nan}
    here = np.isfinite(known)
    value, code = known[here] - known[here].mean(), np.unique(labels[here], return_inverse=True)[1]
    between = (np.bincount(code, value) ** 2 / np.bincount(code)).sum()
    power = (value**2).sum()
    return {"ari": np.nan, "nmi": np.nan, "eta2": round(between / power, 9) if power > 0 else np.nan}


def shifted_agreement(first: NDArray, second: NDArray, box: Box, kind: str) -> NDArray:
    """Return the agreement of two clusterings (n,) for every shift of the second, mirrored, over the torus, (S,).

    ``[0]`` is the agreement observed. Where too few points meet it is NaN.
    """
    torus = Torus(box)
    moved = torus.moved((second == np.arange(second.max() + 1)[:, None]).astype(float))
    members = ((first == number).astype(float) for number in range(first.max() + 1))
    rows = (np.rint(torus.sums(torus.fixed(one), moved)) for one in members)
    return _scores(rows, np.where(torus.count > 0, torus.count, np.nan), kind)


def agreement_null(first: NDArray, second: NDArray, box: Box, kind: str) -> tuple[float, int]:
    """Return the p-value of the agreement of two clusterings over all shifts, and how many these are."""
    scores = shifted_agreement(first, second, box, kind)[None]
    exceed, num = exceeding(scores[:, 1:], scores[:, 0])
    return float(p_value(exceed, num, scores[:, 0])[0]), int(num[0])


def _scores(rows, num: NDArray, kind: str) -> NDArray:
    """Return the agreement (S,) of contingency tables, given row by row, each (L, S), and their totals (S,)."""
    columns, both, left, log_both, log_left = 0.0, 0.0, 0.0, 0.0, 0.0
    for row in rows:
        size = row.sum(0)
        columns = columns + row
        both, left = both + (row * (row - 1)).sum(0), left + size * (size - 1)
        log_both, log_left = log_both + xlogy(row, row).sum(0), log_left + xlogy(size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "ari":
            right = (columns * (columns - 1)).sum(0)
            chance = left * right / (num * (num - 1))
            return np.where((left + right) / 2 > chance, (both - chance) / ((left + right) / 2 - chance), np.nan)
        log_num, log_right = num * np.log(num), xlogy(columns, columns).sum(0)
        entropies = 2 * log_num - log_left - log_right
        return np.where(entropies > 1e-9 * num, 2 * (log_num + log_both - log_left - log_right) / entropies, np.nan)
