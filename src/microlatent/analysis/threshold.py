"""The threshold between two kinds of pixels: background and tissue, or bad and good patterns."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def otsu(values: ArrayLike, bins: int = 1024) -> float:
    """Return the threshold above which values are foreground: it parts them into two groups as far apart as possible.

    Parameters
    ----------
    values
        Any shape; values that are not finite do not count.
    bins
        Steps of the histogram from the lowest to the highest value; the threshold is the middle between two steps, or between
        two values that are further apart.

    Returns
    -------
    The threshold; the value itself where all are equal, so that nothing is above it.

    Source
    ------
    Otsu 1979, A threshold selection method from gray-level histograms, eq. 18.
    """
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("There is no finite value to find a threshold of.")
    counts, edges = np.histogram(values, bins)
    filled = np.flatnonzero(counts)  # empty steps leave the groups as they are
    if len(filled) == 1:
        return float(values.max())
    centres, weights = (edges[filled] + edges[filled + 1]) / 2, counts[filled] / values.size
    below, sums = np.cumsum(weights)[:-1], np.cumsum(weights * centres)
    between = (sums[-1] * below - sums[:-1]) ** 2 / (below * (1 - below))
    best = int(np.argmax(between))
    return float(edges[filled[best] + 1] + edges[filled[best + 1]]) / 2
