"""What chance does on maps: surrogates of a map that keep its smoothness and lose its tie to another map.

Neighbouring points of a map are alike, so a p-value that counts points as independent is wrong by orders of magnitude. Here a
statistic is compared with the same statistic of the target moved over the map (toroidal shifts), of random maps with the
target's own spectrum and values (phase randomisation), or of the target with its grains' means dealt anew (grains). All hold the
latents fixed, and holes stay where they are.

What is tested differs. Shifts and phases test that two maps are not independent, and two maps of one specimen are not as soon as
they share grain boundaries: values drawn for each grain on its own, for either map, are called associated by pearson in 18 to
30 %, by dcorr and hsic in 40 to 80 % and by mi in all cases at a nominal 5 %. Whether a property goes with the latents beyond
sharing grains is tested by dealing grain means. Phases are for smooth maps: of independent maps of 20 grains each, mi calls all
associated, hsic a quarter and dcorr 15 %; of these, shifts only mislead mi (21 %). With a fifth of the points missing, phases
mislead mi on smooth maps too (12 to 16 %), for a spectrum known from fewer pairs makes rougher maps.

A map is a cut-out, not a torus: its opposite edges do not fit, and a shift that joins them makes surrogates rougher than the
map, which calls too much significant. So maps are continued by their mirror images first (the torus is 2R x 2C, and smooth).

Shapes: n points in a bounding box of R rows and C columns, D latent dimensions, S = 2R * 2C shifts, B surrogates.
Source: toroidal shifts: Lotwick & Silverman 1982, J. R. Stat. Soc. B 44; phases: Theiler et al. 1992, Physica D 58 (amplitude
adjusted).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtri

BLOCK_BYTES = 128e6  # memory that a block of maps may take
LEAST_SHARE = 0.5  # of the points that meet points on average must do so after a shift, or the shift does not count
LEAST_MEETING = 10  # points that must do so in any case
ROUNDING = 1e-12  # of the largest value: values that differ by less are constant


class Box(NamedTuple):
    """Points of a map in their bounding box."""

    shape: tuple[int, int]  # rows, columns
    flat: NDArray  # (n,) place of each point, row by row

    @property
    def full(self) -> bool:
        """Return whether there is a point everywhere."""
        return len(self.flat) == self.shape[0] * self.shape[1]

    def grid(self, values: NDArray, empty: float = 0.0) -> NDArray:
        """Lay values (..., n) out as maps (..., R, C)."""
        out = np.full((*values.shape[:-1], self.shape[0] * self.shape[1]), empty, np.result_type(values, type(empty)))
        out[..., self.flat] = values
        return out.reshape(*values.shape[:-1], *self.shape)


def bounding_box(x: NDArray, y: NDArray) -> Box:
    """Return the bounding box of points at integer columns ``x`` and rows ``y`` (n,), none of them twice."""
    shape = int(np.ptp(y)) + 1, int(np.ptp(x)) + 1
    flat = (y - y.min()) * shape[1] + (x - x.min())
    assert len(np.unique(flat)) == len(flat), "points at the same place"
    return Box(shape, flat)


# ---------------------------------------------------------------------------------------------- all shifts at once


class Torus:
    """The torus over which a target's mirrored map is moved, seen through the fixed window of the box.

    ``count`` (S,) points of the box that meet a point of the target after each shift, 0 where they are too few to count. The
    first shift is none.
    """

    def __init__(self, box: Box) -> None:
        self.box, self.shape = box, (2 * box.shape[0], 2 * box.shape[1])
        self.num_shifts = self.shape[0] * self.shape[1]
        there = np.ones(len(box.flat))
        self.window, self.there = self.fixed(there), self.moved(there)
        count = np.rint(self.sums(self.window, self.there))
        share = len(box.flat) / (box.shape[0] * box.shape[1])  # of the box is there, so of the points meets points on average
        self.count = np.where(count >= max(LEAST_SHARE * share * len(box.flat), LEAST_MEETING), count, 0)

    def fixed(self, values: NDArray) -> NDArray:
        """Return the transform of values (..., n) in the window."""
        rows, columns = self.box.shape
        return fft.rfft2(np.pad(self.box.grid(values), [(0, 0)] * (values.ndim - 1) + [(0, rows), (0, columns)]))

    def moved(self, values: NDArray) -> NDArray:
        """Return the transform of values (..., n) continued by their mirror images."""
        return fft.rfft2(mirrored(self.box.grid(values)))

    def sums(self, fixed: NDArray, moved: NDArray) -> NDArray:
        """Return the sums (..., S) over the window of the products of two maps for every shift of the second."""
        return fft.irfft2(fixed * moved.conj(), self.shape).reshape(*np.broadcast_shapes(fixed.shape, moved.shape)[:-2], -1)


def mirrored(maps: NDArray) -> NDArray:
    """Return maps (..., R, C) continued by their mirror images, (..., 2R, 2C)."""
    maps = np.concatenate([maps, maps[..., ::-1, :]], -2)
    return np.concatenate([maps, maps[..., ::-1]], -1)


def shifted_correlations(x: NDArray, y: NDArray, box: Box) -> Iterator[tuple[slice, NDArray]]:
    """Yield for blocks of dimensions Pearson's r of ``x`` (n, D) and ``y`` (n,) at every shift of y, (d, S).

    ``[:, 0]`` is the correlation observed. Means and variances are those of the points that meet; where too few do, and of
    constant maps, r is NaN.
    """
    torus, y = Torus(box), standardised(y[:, None])[:, 0]
    y_moved = torus.moved(y)
    floor = 1e-9 * len(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where(torus.count > 0, torus.count, np.nan)
        y_mean = torus.sums(torus.window, y_moved) / count
        y_var = torus.sums(torus.window, torus.moved(y**2)) - y_mean**2 * count
        y_var = np.where(y_var > floor, y_var, np.nan)
        step = max(1, int(BLOCK_BYTES / (torus.num_shifts * 8 * (3 if box.full else 6))))
        for start in range(0, x.shape[1], step):
            part = slice(start, min(start + step, x.shape[1]))
            z = standardised(x[:, part]).T
            z_fixed = torus.fixed(z)
            covariance = torus.sums(z_fixed, y_moved)
            x_var = float(len(y))
            if not box.full:  # else all points meet, whose mean is 0
                x_sum = torus.sums(z_fixed, torus.there)
                covariance -= x_sum * y_mean
                x_var = torus.sums(torus.fixed(z**2), torus.there) - x_sum**2 / count
                x_var = np.where(x_var > floor, x_var, np.nan)
            yield part, covariance / np.sqrt(x_var * y_var)


def varying(x: NDArray) -> NDArray:
    """Return which columns (D,) of (n, D), or whether values (n,), are finite and differ by more than rounding."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(x).all(0) & (np.ptp(x, axis=0) > ROUNDING * np.abs(x).max(0))


def standardised(x: NDArray) -> NDArray:
    """Return columns (n, D) of mean 0 and variance 1; NaN where a column does not vary or has a value that is not finite."""
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = x - x.mean(0)
        return z / np.where(varying(x), z.std(0), np.nan)


# -------------------------------------------------------------------------------------------- surrogates one by one


def shift_surrogates(y: NDArray, box: Box, num: int, seed: int) -> Iterator[NDArray]:
    """Yield blocks (b, n) of the mirrored target moved by different random shifts, NaN where a hole has moved to.

    There are ``num`` in all, or as many as there are shifts.
    """
    torus, rng = Torus(box), np.random.default_rng((seed, 3))
    allowed = np.flatnonzero(torus.count[1:]) + 1  # the first is no shift
    shifts = rng.permutation(allowed)[:num]
    row, column = np.divmod(box.flat, box.shape[1])
    values = mirrored(box.grid(np.asarray(y, np.float64), np.nan))
    for part in blocks(len(shifts), len(y)):
        down, across = (moved[:, None] for moved in np.divmod(shifts[part], torus.shape[1]))
        yield values[(row - down) % torus.shape[0], (column - across) % torus.shape[1]]


def phase_surrogates(y: NDArray, box: Box, num: int, seed: int) -> Iterator[NDArray]:
    """Yield blocks (b, n) of random maps with the spectrum and exactly the values of the target, at its points.

    The spectrum is that of the mirrored map of the values' normal scores, from their covariance over pairs of points that are
    both there, so that holes do not roughen it. Surrogates are cut out of the torus as the map was cut out of the specimen.
    """
    rng, shape = np.random.default_rng((seed, 4)), (2 * box.shape[0], 2 * box.shape[1])
    score, there = (fft.rfft2(mirrored(box.grid(values))) for values in (normal_scores(y), np.ones(len(y))))
    pairs = np.rint(fft.irfft2(np.abs(there) ** 2, shape))
    covariance = np.where(pairs > 0, fft.irfft2(np.abs(score) ** 2, shape) / np.maximum(pairs, 1), 0)
    amplitude = np.sqrt(nearest_spectrum(fft.fft2(covariance).real))[:, : shape[1] // 2 + 1]
    amplitude[0, 0] = 0
    values = np.sort(np.asarray(y, np.float64))
    for part in blocks(num, 12 * box.shape[0] * box.shape[1]):
        noise = fft.rfft2(rng.standard_normal((part.stop - part.start, *shape)))
        maps = fft.irfft2(noise / np.abs(noise) * amplitude, shape)[:, : box.shape[0], : box.shape[1]]
        at_points = maps.reshape(len(maps), -1)[:, box.flat]
        out = np.empty_like(at_points)
        np.put_along_axis(out, at_points.argsort(1), np.broadcast_to(values, out.shape), 1)
        yield out


def grain_surrogates(y: NDArray, grains: NDArray, num: int, seed: int) -> Iterator[NDArray]:
    """Yield blocks (b, n) of the target with its grains' means dealt anew; what each point has beyond its grain's stays.

    ``grains`` (n,) whole numbers from 0, none left out. Exact where, but for their places, no grain is unlike another.
    """
    rng, y = np.random.default_rng((seed, 6)), np.asarray(y, np.float64)
    means = np.bincount(grains, y) / np.bincount(grains)
    rest = y - means[grains]
    for part in blocks(num, len(y)):
        dealt = rng.permuted(np.tile(means, (part.stop - part.start, 1)), axis=1)
        yield dealt[:, grains] + rest


def nearest_spectrum(power: NDArray) -> NDArray:
    """Return the spectrum nearest to one that is estimated, with its sum, so its variance, but nowhere negative.

    Holes make parts of an estimate negative; setting these to 0 alone would add variance, and roughness.
    """
    falling = np.sort(power.ravel())[::-1]
    excess = (np.cumsum(falling) - power.sum()) / np.arange(1, power.size + 1)
    return np.maximum(power - excess[np.flatnonzero(falling > excess)[-1]], 0)


def normal_scores(y: NDArray) -> NDArray:
    """Return the values (n,) a normal distribution has at the ranks of these, ties at their mean rank; mean 0."""
    from scipy.stats import rankdata

    score = ndtri((rankdata(y) - 0.5) / len(y))
    return score - score.mean()


def blocks(num: int, floats_each: int) -> Iterator[slice]:
    """Yield slices of ``num`` things that take so many numbers each, as many at a time as memory may hold."""
    step = max(1, min(64, int(BLOCK_BYTES / (8 * floats_each))))
    for start in range(0, num, step):
        yield slice(start, min(start + step, num))
