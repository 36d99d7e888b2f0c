"""Intervals, corrected p-values, shares of variance and principal axes: what several analyses need, once.

Shapes: n units, B resamples or surrogates, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE = 1e-9  # statistics that differ by less are equal: sums in another order are not the same to the last digit

# ------------------------------------------------------------------------------------------------------- resampling


def resampled(rng: np.random.Generator, num_units: int, size: int | None = None) -> NDArray:
    """Return how often each of the units counts in a bootstrap sample (num_units,), or in each of many (size, num_units)."""
    return rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size)


def interval(draws: NDArray, share: float = 0.95, most_undefined: float = 1.0) -> tuple[float, float]:
    """Return the central interval of bootstrap draws (B,).

    Draws that are not finite (nothing to measure in that sample) are left out; NaN where more than the share
    ``most_undefined`` is so, or all are.
    """
    known = draws[np.isfinite(draws)]
    if not len(known) or len(draws) - len(known) > most_undefined * len(draws):
        return np.nan, np.nan
    low, high = np.quantile(known, ((1 - share) / 2, (1 + share) / 2))
    return float(low), float(high)


# ----------------------------------------------------------------------------------------------------- significance


def exceeding(null: NDArray, observed: NDArray) -> tuple[NDArray, NDArray]:
    """Return how many of the surrogates' statistics (D, B) reach the observed (D,), and how many are known (not NaN)."""
    with np.errstate(invalid="ignore"):
        return (null >= observed[:, None] - TOLERANCE).sum(1), np.isfinite(null).sum(1)


def p_value(exceed: ArrayLike, num: ArrayLike, observed: ArrayLike = 0.0) -> NDArray:
    """Return (1 + number that reach the observed) / (1 + number of surrogates); NaN without an observation or surrogates."""
    exceed, num = np.asarray(exceed), np.asarray(num)
    return np.where(np.isfinite(observed) & (num > 0), (1 + exceed) / (1 + num), np.nan)


def holm(p: NDArray) -> NDArray:
    """Return p-values corrected for how many there are: the chance of any false one (Holm 1979, Scand. J. Statist. 6)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1)
    return result


def benjamini_hochberg(p: NDArray) -> NDArray:
    """Return q-values (D,): the least false discovery rate at which each is called (Benjamini & Hochberg 1995).

    NaN, a dimension that was not tested or has no value, counts as p = 1, which is conservative, and has q = 1.
    """
    p = np.where(np.isfinite(p), p, 1.0)
    order = np.argsort(p, kind="stable")[::-1]
    stepped = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    q = np.empty(len(p))
    q[order] = np.minimum(stepped, 1)
    return q


# --------------------------------------------------------------------------------------------------------- variance


def explained(error: ArrayLike, variance: ArrayLike) -> NDArray:
    """Return the share of a variance that is explained, 1 - error / variance, of sums or means over the same values.

    1 is perfect, 0 what the mean explains, below 0 worse than that; NaN where there is no variance.
    """
    variance = np.asarray(variance, float)
    return 1 - error / np.where(variance > 0, variance, np.nan)


def principal_axes(scatter: NDArray) -> tuple[NDArray, NDArray]:
    """Return the eigenvalues (D,) of a symmetric matrix (D, D), the largest first and none below 0, and its axes as columns."""
    values, vectors = np.linalg.eigh(scatter)
    return np.maximum(values[::-1], 0), vectors[:, ::-1]
