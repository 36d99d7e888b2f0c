"""What latents are like over the points of a scan: which vary, how much neighbours differ, what they go along with.

Points have whole map columns x and rows y; points may be missing. Shapes: n points, D dimensions, M pairs of neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microlatent.analysis import latent_maps
from microlatent.analysis.latent_maps import Autocorrelation

ACTIVE_VARIANCE = 0.01  # a posterior mean that varies less says nothing (Burda et al. 2016, arXiv:1509.00519)
BLOCK = 16  # dimensions, or pairs times as many, held in memory at a time
MOST_PERMUTATIONS, FEWEST_PERMUTATIONS = 199, 19
GATHERED = 4e8  # neighbours' values that the permutations of Moran's I may read in all: some seconds
OFFSETS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}  # each pair once: (rows down, columns right)


def variances(x: ArrayLike, train: NDArray) -> NDArray:
    """Return the variance (D,) of every latent over the training points; ``x`` may lie on disk."""
    columns = range(0, x.shape[1], BLOCK)
    return np.concatenate([np.asarray(x[:, start : start + BLOCK], np.float64)[train].var(0) for start in columns])


def active_dims(variance: NDArray) -> NDArray:
    """Return the dimensions whose variance is above ``ACTIVE_VARIANCE``, or of all that vary if none is."""
    active = np.flatnonzero(variance > ACTIVE_VARIANCE)
    return active if len(active) else np.flatnonzero(variance > 0)


def neighbour_pairs(x: NDArray, y: NDArray, neighbours: int = 8) -> NDArray:
    """Return pairs (M, 2) of points that are neighbours, each pair once: by a side (4), or by a side or a corner (8)."""
    place = np.full((y.max() + 3, x.max() + 3), -1)  # a frame of nothing around the map
    place[y + 1, x + 1] = np.arange(len(x))
    found = []
    for down, right in OFFSETS[neighbours]:
        other = place[y + 1 + down, x + 1 + right]
        here = np.flatnonzero(other >= 0)
        found.append(np.column_stack([here, other[here]]))
    return np.concatenate(found)


def kernel_spread(z: NDArray, pairs: NDArray) -> NDArray:
    """Return how far each point's latent vector (n, D) is from those of its neighbours that there are: the mean distance (n,).

    NaN where a point has no neighbour. It is to latents what kernel average misorientation is to orientations: low inside a
    grain, high at its boundary.

    Parameters
    ----------
    z
        Latents, in units in which the dimensions may be added up, such as standard deviations over the scan.
    pairs
        (M, 2) as ``neighbour_pairs`` gives them.
    """
    distance = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK * 512):
        part = slice(start, start + BLOCK * 512)
        difference = z[pairs[part, 0]] - z[pairs[part, 1]]
        distance[part] = np.sqrt(np.square(difference).sum(1, dtype=np.float64))
    ends = pairs.T.ravel()
    total, count = np.bincount(ends, np.tile(distance, 2), len(z)), np.bincount(ends, minlength=len(z))
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def correlations(x: ArrayLike, values: NDArray) -> NDArray:
    """Return Pearson's r (D,) of every latent (n, D) with values (n,), over the points where they are known.

    NaN for what does not vary. There is no p-value with it: neighbours are alike, so maps that have nothing to do with each
    other correlate.
    """
    known = np.isfinite(values)
    y = values[known] - values[known].mean() if known.any() else values[known]
    result = np.full(x.shape[1], np.nan)
    for start in range(0, x.shape[1], BLOCK):
        block = np.asarray(x[:, start : start + BLOCK], np.float64)[known]
        block = block - block.mean(0) if len(block) else block
        with np.errstate(divide="ignore", invalid="ignore"):
            result[start : start + BLOCK] = (block * y[:, None]).sum(0) / np.sqrt(np.square(block).sum(0) * np.square(y).sum())
    return np.clip(result, -1, 1)


def autocorrelation(x: ArrayLike, scans: NDArray, pairs: NDArray, seed: int = 0) -> Autocorrelation:
    """Return Moran's I of every latent over pairs of neighbours, and how often values dealt out anew are as much alike.

    Toroidal shifts are no null for it, since they leave neighbours together: the hypothesis is that the map has no structure at
    all, which a latent of mere noise meets. Large maps have fewer permutations, so that it takes seconds.

    Parameters
    ----------
    scans
        (n,) number of each point's scan; its mean is taken off.
    """
    num = int(np.clip(GATHERED / max(1, 2 * len(pairs) * x.shape[1]), FEWEST_PERMUTATIONS, MOST_PERMUTATIONS))
    blocks = [np.asarray(x[:, start : start + BLOCK], np.float64) for start in range(0, x.shape[1], BLOCK)]
    found = [latent_maps.autocorrelation(block, scans, pairs, num, seed) for block in blocks]
    moran_i, p = (np.concatenate([getattr(one, name) for one in found]) for name in ("moran_i", "p_permutation"))
    return Autocorrelation(moran_i, p, len(scans), len(pairs))


def shared_borders(labels: NDArray, pairs: NDArray, num: int) -> NDArray:
    """Return how many pairs of neighbours lie in each pair of ``num`` clusters (num, num), symmetric, zero on the diagonal."""
    first, second = labels[pairs].T
    table = np.zeros((num, num))
    apart = (first >= 0) & (second >= 0) & (first != second)
    np.add.at(table, (first[apart], second[apart]), 1)
    return table + table.T
