"""Partitions of a map into clusters, and how well two of them agree, also after every shift of one.

Shapes: n points, K and L clusters, S shifts.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from microlatent.analysis import surrogates
from microlatent.analysis.clustering import FIT_ROWS, number_by_size
from microlatent.analysis.surrogates import Box, Torus

MOST_FEATURES = 10  # of more columns the first so many principal components are clustered: mixtures need many points for each


def mixture_labels(values: NDArray, max_clusters: int, criterion: str, seed: int) -> NDArray:
    """Return clusters (n,), 0 the largest, of values (n, F) by a Gaussian mixture of full covariance.

    The number of clusters, from 1 to ``max_clusters``, has the lowest ``criterion``: bic or aic. Of more than
    ``clustering.FIT_ROWS`` points so many, drawn at random, are fitted to, and the others assigned.
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    z = np.asarray(values, np.float64)
    z = (z - z.mean(0)) / (z.std(0).max() or 1.0)
    if z.shape[1] > MOST_FEATURES:
        z = z @ np.linalg.eigh(z.T @ z)[1][:, : -MOST_FEATURES - 1 : -1]
    rows = np.arange(len(z))
    if len(z) > FIT_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(z), FIT_ROWS, replace=False))
    best, least = None, np.inf
    with warnings.catch_warnings(), threadpool_limits(1):  # small sums are slower, and not the same, in several threads
        warnings.simplefilter("ignore")  # of convergence: another number of clusters is lower then
        for count in range(1, max_clusters + 1):
            model = GaussianMixture(count, random_state=seed).fit(z[rows])
            value = getattr(model, criterion)(z[rows])
            if value < least:
                best, least = model, value
    return number_by_size(best.predict(z))


def agreement(first: NDArray, second: NDArray, kind: str) -> float:
    """Return the adjusted Rand index (``ari``) or normalised mutual information (``nmi``) of two partitions (n,).

    ari: 1 the same, 0 as alike as by chance. nmi: 0 to 1, with the mean of both entropies; it is not corrected for chance and
    grows with the number of clusters. NaN where both are a single cluster.

    Source: Hubert & Arabie 1985, J. Classif. 2; Strehl & Ghosh 2002, J. Mach. Learn. Res. 3.
    """
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    return float(_scores(iter(table[..., None]), np.array([len(first)], float), kind)[0])


def shifted_agreement(first: NDArray, second: NDArray, box: Box, kind: str) -> NDArray:
    """Return the agreement of two partitions (n,) for every shift of the second, mirrored, over the torus, (S,).

    ``[0]`` is the agreement observed. Where too few points meet it is NaN.
    """
    torus = Torus(box)
    moved = torus.moved((second == np.arange(second.max() + 1)[:, None]).astype(float))
    members = ((first == number).astype(float) for number in range(first.max() + 1))
    rows = (np.rint(torus.sums(torus.fixed(one), moved)) for one in members)
    return _scores(rows, np.where(torus.count > 0, torus.count, np.nan), kind)


def agreement_null(first: NDArray, second: NDArray, box: Box, kind: str) -> tuple[float, int]:
    """Return the p-value of the agreement of two partitions over all shifts, and how many these are."""
    scores = shifted_agreement(first, second, box, kind)[None]
    exceed, num = surrogates.exceeding(scores[:, 1:], scores[:, 0])
    return float(surrogates.p_value(exceed, num, scores[:, 0])[0]), int(num[0])


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
