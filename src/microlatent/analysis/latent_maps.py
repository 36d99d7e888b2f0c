"""Values at places, as a grid with holes: where in an image a latent is high, which cluster lies where, how patchy it is.

A place is a square of pixels (a partition of tissue; a scan point is one of its step's size). Places may overlap, stand off the
lattice (a last row shifted inwards) or be missing; where nothing lies, a map is NaN.

Shapes: n places, K values of each, G groups, M pairs of neighbours; maps are (Y, X), one cell per step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microlatent.analysis.statistics import p_value

CHUNK = 8192  # rows of latents held in memory at a time
MISSING = -1  # of a map of labels: nothing lies there


def tissue_map(
    values: NDArray, row_px: NDArray, col_px: NDArray, size_px: int, shape_px: tuple[int, int], step_px: int
) -> NDArray:
    """Return the values (n,) of places at their places: (Y, X) cells of ``step_px``, NaN where nothing lies.

    Parameters
    ----------
    row_px, col_px
        (n,) upper left corner of each place in the image.
    size_px
        Side of a place.
    shape_px
        Height and width of the image; the last row and column of cells may reach beyond it.

    Notes
    -----
    A cell is the mean of the places that cover it, weighted by how much of it each covers. A place whose value is NaN is a
    place where nothing lies. The order of the places does not matter.
    """
    known = np.isfinite(values)
    total, weight = _cover(values[known, None], row_px[known], col_px[known], size_px, shape_px, step_px)
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total[0] / weight, np.nan)


def label_map(
    labels: NDArray, row_px: NDArray, col_px: NDArray, size_px: int, shape_px: tuple[int, int], step_px: int
) -> NDArray:
    """Return for each cell the label (int, from 0) that covers most of it, the lowest of equals; ``MISSING`` where none lies."""
    known = labels >= 0
    hot = np.eye(int(labels.max(initial=0)) + 1)[labels[known]]
    total, weight = _cover(hot, row_px[known], col_px[known], size_px, shape_px, step_px)
    return np.where(weight > 0, np.round(total, 9).argmax(0), MISSING)


def _cover(
    values: NDArray, row_px: NDArray, col_px: NDArray, size_px: int, shape_px: tuple[int, int], step_px: int
) -> tuple[NDArray, NDArray]:
    """Return the sums (K, Y, X) of values (n, K) by covered area, and the area covered (Y, X).

    Rows and columns of places repeat, so values are first added up by (row, column) and then spread along either axis alone.
    """
    row, row_code = np.unique(row_px, return_inverse=True)
    col, col_code = np.unique(col_px, return_inverse=True)
    lattice = np.zeros((values.shape[1] + 1, len(row), len(col)))
    np.add.at(lattice, (slice(None), row_code, col_code), np.column_stack([values, np.ones(len(values))]).T)
    down, across = (_shared_px(begin, size_px, length, step_px) for begin, length in zip((row, col), shape_px, strict=True))
    spread = down.T @ lattice @ across
    return spread[:-1], spread[-1]


def _shared_px(begin: NDArray, size_px: int, length_px: int, step_px: int) -> NDArray:
    """Return how many pixels each place (n,) shares with each cell of one axis, (n, cells)."""
    edge = np.arange(-(-length_px // step_px)) * step_px
    low = np.maximum(begin[:, None], edge)
    high = np.minimum(np.minimum(begin[:, None] + size_px, edge + step_px), length_px)
    return np.maximum(high - low, 0).astype(float)


class Canvas:
    """Whole images put together from partitions, averaged down to blocks of ``block_px``; memory holds the blocks alone."""

    def __init__(self, num_channels: int, shape_px: tuple[int, int], block_px: int) -> None:
        self.block = block_px
        self.shape = tuple(-(-length // block_px) for length in shape_px)
        self.total = np.zeros((num_channels, *self.shape))
        self.count = np.zeros(self.shape)

    def add(self, images: ArrayLike, row_px: NDArray, col_px: NDArray) -> None:
        """Add partitions (n, C, Y, X) by their upper left corners."""
        for image, row, col in zip(images, row_px, col_px, strict=True):
            (top, down), (left, across) = (
                self._pieces(begin, length) for begin, length in zip((row, col), image.shape[-2:], strict=True)
            )
            sums = np.add.reduceat(np.add.reduceat(image, down, 1, dtype=np.float64), across, 2)
            target = np.s_[top : top + len(down), left : left + len(across)]
            self.total[:, *target] += sums
            self.count[target] += np.diff(down, append=image.shape[-2])[:, None] * np.diff(across, append=image.shape[-1])

    def _pieces(self, begin: int, length: int) -> tuple[int, NDArray]:
        """Return the first block that a stretch of pixels touches, and where in the stretch each block begins."""
        first = int(begin) // self.block
        starts = np.arange(first, (int(begin) + length - 1) // self.block + 1) * self.block - int(begin)
        return first, np.maximum(starts, 0)

    def mean(self) -> NDArray:
        """Return the blocks' means (C, Y, X), NaN where nothing lies; a pixel counts as often as it was added."""
        with np.errstate(invalid="ignore"):
            return np.where(self.count > 0, self.total / self.count, np.nan)


# -------------------------------------------------------------------------------------------- what a latent is like


class Spread(NamedTuple):
    """How each latent dimension varies (D,)."""

    variance: NDArray  # between the chosen patches
    between_groups: NDArray  # share of all patches' variance that lies between groups (eta squared)
    correlation: NDArray  # (D, C) with reference values, both less their means in each image


def spread(x: ArrayLike, rows: NDArray, groups: NDArray, images: NDArray, reference: NDArray) -> Spread:
    """Return variance, share between groups and correlation with reference values of every latent, reading blocks of rows.

    Parameters
    ----------
    x
        (N, D) latents; may lie on disk.
    rows
        Patches (of training) whose variance is returned.
    groups, images
        (N,) codes from 0: independent unit of each patch, and its image. Correlations are within images, so that neither
        staining nor anything else that sets one image apart from another makes them.
    reference
        (N, C), such as mean marker intensities.
    """
    centre = np.asarray(x[:CHUNK], np.float64).mean(0)  # near the mean, so that squares do not cancel
    chosen = np.zeros(len(x), bool)
    chosen[rows] = True
    num_image = np.bincount(images).astype(float)
    reference = reference - _sums(reference, images)[images] / num_image[images, None]
    by_image, group_of_image = np.zeros((len(num_image), x.shape[1])), np.zeros(len(num_image), int)
    group_of_image[images] = groups
    square, first, second, product = 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        block = np.asarray(x[part], np.float64) - centre
        by_image += _sums(block, images[part], len(num_image))
        square += (block**2).sum(0)
        first += block[chosen[part]].sum(0)
        second += (block[chosen[part]] ** 2).sum(0)
        product += block.T @ reference[part]
    num = chosen.sum()
    by_group, num_group = _sums(by_image, group_of_image), np.bincount(group_of_image, num_image)
    mean = by_group.sum(0) / len(x)
    if not np.isfinite(mean).all():
        raise ValueError("Some latents are NaN or infinite. Run task=process again from a checkpoint of before training failed.")
    between = (by_group**2 / num_group[:, None]).sum(0) - len(x) * mean**2
    within_image = square - (by_image**2 / num_image[:, None]).sum(0)
    floor = 1e-12 * (1 + np.abs(centre)) ** 2 * len(x)  # of latents that do not vary, rounding is all that is left
    with np.errstate(divide="ignore", invalid="ignore"):
        all_of_it = square - len(x) * mean**2
        eta = np.where(all_of_it > floor, np.clip(between / all_of_it, 0, 1), np.nan)
        r = product / np.sqrt(within_image[:, None] * (reference**2).sum(0))
    variance = np.maximum(second - first**2 / num, 0) / max(1, num - 1)
    return Spread(variance, eta, np.where((within_image > floor)[:, None], np.clip(r, -1, 1), np.nan))


def _sums(values: NDArray, codes: NDArray, num: int | None = None) -> NDArray:
    """Return the sums (G, K) of values (n, K) by code."""
    total = np.zeros((int(codes.max()) + 1 if num is None else num, values.shape[1]))
    np.add.at(total, codes, values)
    return total


def most_varying(variance: NDArray, num: int) -> list[int]:
    """Return the dimensions that vary most, first the one that varies most; dimensions that do not vary are left out."""
    order = np.argsort(-variance, kind="stable")
    return [int(dim) for dim in order[:num] if variance[dim] > 0]


# -------------------------------------------------------------------------------------------- spatial autocorrelation


def apart(row_px: NDArray, col_px: NDArray, size_px: int) -> NDArray:
    """Return places (indices) of one image on a lattice where none overlaps another: overlapping ones are alike by making."""
    return np.flatnonzero(_every(row_px, size_px) & _every(col_px, size_px))


def _every(begin: NDArray, size_px: int) -> NDArray:
    kept: list[int] = []
    for value in np.unique(begin):
        if not kept or value >= kept[-1] + size_px:
            kept.append(value)
    return np.isin(begin, kept)


def neighbours(row_px: NDArray, col_px: NDArray, size_px: int) -> NDArray:
    """Return pairs (M, 2) of places that share a side, or nearly (less than a place lies between); diagonals do not count."""
    from scipy.spatial import cKDTree

    places = np.column_stack([row_px, col_px]).astype(float)
    return cKDTree(places).query_pairs(2 * size_px - 0.5, p=1, output_type="ndarray").reshape(-1, 2)


class Autocorrelation(NamedTuple):
    """Moran's I of each of K values, all images together."""

    moran_i: NDArray  # (K,): 1 smooth, 0 no structure, below 0 a chessboard
    p_permutation: NDArray  # (K,)
    num_places: int
    num_pairs: int


def autocorrelation(
    values: NDArray, images: NDArray, pairs: NDArray, num_permutations: int = 999, seed: int = 0
) -> Autocorrelation:
    """Return how alike neighbours are, and how often values dealt out anew inside each image are as alike.

    Parameters
    ----------
    values
        (n, K), of places that do not overlap (``apart``).
    images
        (n,) image of each place. Its mean is taken off, so that differences between images are no structure inside them.
    pairs
        (M, 2) neighbours, always of one image.

    Notes
    -----
    The hypothesis tested is that an image has no spatial structure at all; under it values may change places freely inside
    their image, so no surrogate that keeps structure (a toroidal shift) is called for. Source: Moran 1950, Biometrika 37.
    """
    num, width = values.shape
    if not len(pairs):
        return Autocorrelation(np.full(width, np.nan), np.full(width, np.nan), num, 0)
    order = np.argsort(images, kind="stable")
    place = np.empty(num, int)
    place[order] = np.arange(num)
    pairs = place[pairs]
    _, code, counts = np.unique(images[order], return_inverse=True, return_counts=True)
    z = values[order] - (_sums(values[order], code) / counts[:, None])[code]
    power = (z**2).sum(0)
    z = z / np.sqrt(np.where(power > 0, power, np.nan)) * np.sqrt(num / len(pairs))
    observed = (z[pairs[:, 0]] * z[pairs[:, 1]]).sum(0)
    rng, exceed = np.random.default_rng(seed), np.zeros(width)
    for _ in range(num_permutations):
        dealt = z[np.lexsort((rng.random(num), code))]  # rows stay inside their image
        exceed += (dealt[pairs[:, 0]] * dealt[pairs[:, 1]]).sum(0) >= observed - 1e-12
    return Autocorrelation(observed, p_value(exceed, num_permutations, observed), num, len(pairs))
