"""How strongly latent dimensions depend on a target: seven metrics, each of every dimension at once.

Every function takes latents ``x`` (n, D) and a target ``y`` (n,) of the same points and returns (D,) float64. Integers are
taken as real numbers. A dimension that does not vary, or has a value that is not finite, has NaN; so have all where the target
does not vary. A target must be finite: leave out points where it is not (``association.associate`` does).

==========  ==============================================  ==========================
metric      what                                            range; unit
==========  ==============================================  ==========================
pearson     linear correlation                              -1 to 1
spearman    the same of ``ranks``                           -1 to 1
kendall     tau-b: concordant less discordant pairs         -1 to 1
mi          mutual information by nearest neighbours        from 0; nats
dcorr       distance correlation (V-statistic)              0 to 1
hsic        Hilbert-Schmidt criterion, Gaussian kernels     from 0, below 1
pp_spatial  pearson of what a trend leaves: ``detrended``   -1 to 1
==========  ==============================================  ==========================

None of them knows that neighbouring points of a map are alike: for significance see ``surrogates``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma
from scipy.stats import rankdata

from microlatent.analysis import pairs
from microlatent.analysis.surrogates import standardised, varying

LANDMARKS = 16, 96  # of the low-rank kernels: at quantiles; at most so many evenly spaced
RANK_FLOOR = 1e-11  # of an eigenvalue to the largest: smaller ones are rounding
NOISE = 1e-10  # of mutual information, in units of the mean absolute value: parts tied points


def threads() -> int:
    """Return how many kernels run at once: ``trainer.threads``, as the command bounds them for numba."""
    return int(os.environ.get("NUMBA_NUM_THREADS", 0)) or os.cpu_count() or 1


def by_dimension(do: Callable[[int], NDArray | float], num: int) -> NDArray:
    """Return ``do`` of every dimension, several at once."""
    with ThreadPoolExecutor(threads()) as pool:
        return np.array(list(pool.map(do, range(num))), np.float64)


# ------------------------------------------------------------------------------------------------- linear, by rank


def pearson(x: NDArray, y: NDArray) -> NDArray:
    """Return Pearson's r, -1 to 1."""
    return np.clip(standardised(x).T @ standardised(y[:, None])[:, 0] / len(y), -1, 1)


def ranks(x: NDArray) -> NDArray:
    """Return the ranks of every column (n, D), ties at their mean rank; NaN in columns that have a value that is not finite."""
    x = np.asarray(x, np.float64)
    found = rankdata(x, axis=0)
    found[:, ~np.isfinite(x).all(0)] = np.nan
    return found


def without_trend(values: NDArray, x: NDArray, y: NDArray, degree: int) -> NDArray:
    """Return what a polynomial in map column ``x`` and row ``y`` (n,) leaves of values (n, ...), by least squares.

    The polynomial has every term of x and y whose powers sum to at most ``degree``, the constant included.
    """
    x, y = (2 * (axis - axis.min()) / max(np.ptp(axis), 1) - 1.0 for axis in (x, y))  # or high powers would cancel
    terms = [x**power * y**other for power in range(degree + 1) for other in range(degree + 1 - power)]
    basis, triangle = np.linalg.qr(np.stack(terms, 1))
    basis = basis[:, np.abs(np.diag(triangle)) > 1e-9 * np.sqrt(len(x))]  # a region of one row has no trend along y
    values = np.asarray(values, np.float64)
    return values - basis @ (basis.T @ values)


def detrended(values: NDArray, x: NDArray, y: NDArray, degree: int) -> NDArray:
    """Return ``without_trend`` of columns (n, D), NaN where only rounding is left of a column.

    A trend takes out what changes across the whole region. It does not make neighbouring points independent.
    """
    rest = without_trend(values, x, y, degree)
    with np.errstate(invalid="ignore"):
        size = np.abs(np.asarray(values, np.float64)).max(0)
        return np.where(rest.std(0) > 1e-9 * size, rest, np.nan)


# ------------------------------------------------------------------------------------------- of all pairs of points


class Paired(NamedTuple):
    """A metric of all pairs of points, with its target made ready.

    kendall
        tau-b, which allows for ties (Kendall 1945, Biometrika 33).
    mi
        In nats by the estimator of Kraskov, Stoegbauer & Grassberger 2004 (eq. 8). Both are scaled to unit variance and parted
        by a tiny, seeded noise, as scikit-learn's ``mutual_info_regression`` does: grey values are integers, and the estimator
        is for values of which no two are alike. Near independence it scatters around 0 by some hundredths of a nat and is cut
        at 0.
    dcorr
        The V-statistic of Szekely, Rizzo & Bakirov 2007 (Ann. Stat. 35). 0 means independence in infinitely many points only:
        independent normal values have 0.31, 0.17, 0.09 of 30, 100, 400.
    dcorr_corrected
        Squared and without its bias, of U-centred distances: around 0 (also below) where independent, at most 1. Szekely &
        Rizzo 2014, Ann. Stat. 42, eq. 3.3.
    """

    metric: str
    y: NDArray  # (n,)
    neighbours: int = 7
    seed: int = 0

    def target(self) -> NDArray:
        """Return the target's values as the kernel wants them (n,); surrogates are made of these."""
        return apart(self.y, (self.seed, 1)) if self.metric == "mi" else np.asarray(self.y, np.float64)

    def scores(self, x: NDArray) -> NDArray:
        """Return the metric of every dimension (D,)."""
        if not varying(self.y):
            return np.full(x.shape[1], np.nan)
        target = self.target()[None]
        return by_dimension(lambda dim: self.of(x[:, dim], target)[0], x.shape[1])

    def of(self, x: NDArray, targets: NDArray) -> NDArray:
        """Return the metric of one dimension (n,) with each of a block of targets (b, n), NaN where a point has none."""
        # A kernel is compiled for every kind of array that it meets: seconds at first use, so all are made of one kind.
        x, targets = (np.require(values, np.float64, "CW") for values in (x, targets))
        if not varying(x):
            return np.full(len(targets), np.nan)
        if self.metric == "mi":
            x = apart(x, (self.seed, 2))
        order = np.argsort(x, kind="stable")
        if self.metric == "kendall":
            return pairs.concordances(x, order, targets)
        if self.metric == "mi":
            table = np.concatenate([[np.nan], digamma(np.arange(1, len(x) + 1))])
            return pairs.informations(x, order, targets, self.neighbours, table)
        return pairs.distance_correlations(x, order, targets)[:, int(self.metric == "dcorr_corrected")]


def apart(values: NDArray, seed: tuple[int, int]) -> NDArray:
    """Return values (n,) of unit variance, with noise of one part in 1e10, so that none are tied.

    ``seed`` does not end in 0: zeros at its end do not count, and data simulated with the same number would know the noise.
    """
    values = np.asarray(values, np.float64)
    values = values / (values.std() or 1.0)
    return values + NOISE * max(1.0, np.abs(values).mean()) * np.random.default_rng(seed).standard_normal(len(values))


def information_coefficient(mi_nats: NDArray) -> NDArray:
    """Return sqrt(1 - exp(-2 MI)), 0 to 1: the |r| that a normal distribution of this mutual information has (Linfoot 1957)."""
    return np.sqrt(-np.expm1(-2 * mi_nats))


# ---------------------------------------------------------------------------------------------------------- kernels


def kernel_features(x: NDArray) -> NDArray | None:
    """Return centred features (n, r) whose products are the centred Gaussian kernel of values (n,); None where they are alike.

    The kernel is exp(-d^2 / (2 s^2)); s is the median of the distances that are not zero. Features come from ``landmarks``, the
    Nystroem method: Williams & Seeger 2001. They stand in order of their variance, at right angles.
    """
    x = np.asarray(x, np.float64)
    if not varying(x):
        return None
    ordered = np.sort(x)
    scale = np.sqrt(2) * pairs.median_distance(ordered)
    marks = landmarks(ordered / scale)
    power, turn = np.linalg.eigh(np.exp(-((marks[:, None] - marks) ** 2)))
    kept = power > RANK_FLOOR * power[-1]
    features = np.exp(-((x[:, None] / scale - marks) ** 2)) @ (turn[:, kept] / np.sqrt(power[kept]))
    features -= features.mean(0)
    _, turn = np.linalg.eigh(features.T @ features)
    return features @ turn[:, ::-1]


def landmarks(values: NDArray) -> NDArray:
    """Return the places (m,) whose kernels stand for those of sorted values, in units in which the kernel is exp(-d^2).

    Some lie at quantiles; two for each unit lie where values are, for gaps wider than a kernel need none: values with a heavy
    tail get more, up to a bound. Of few values, all.
    """
    at_quantiles, evenly = LANDMARKS
    if len(values) <= sum(LANDMARKS):
        return np.unique(values)
    way = np.concatenate([[0], np.cumsum(np.minimum(np.diff(values), 1))])
    along = np.linspace(0, way[-1], int(np.clip(2 * way[-1], at_quantiles, evenly)))
    return np.unique(
        np.concatenate([np.quantile(values, np.linspace(0, 1, at_quantiles + 2)[1:-1]), np.interp(along, way, values)])
    )


def hsic(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Return the biased Hilbert-Schmidt independence criterion tr(K H L H) / (n - 1)^2, and normalised, both (D,).

    Gaussian kernels exp(-d^2 / (2 s^2)) with the median heuristic (``kernel_features``). The relative error is below 1e-8 of
    normal and grey values, 0.1 % of lognormal ones (sigma 1), 1 % with heavier tails (lognormal of sigma 2, t with 2 degrees of
    freedom) and some per cent without moments (Cauchy), as measured with 150 to 2000 values.

    It is the biased V-statistic, whatever it is called elsewhere: above 0 also where independent, by about 1/n. Values of
    different targets do not compare; the normalised, HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), 0 to 1, do.

    Source: Gretton et al. 2005, ALT, eq. 9; normalised: Cortes, Mohri & Rostamizadeh 2012 (centred kernel alignment).
    """
    of_y = kernel_features(y)

    def one(dim: int) -> tuple[float, float]:
        of_x = kernel_features(x[:, dim])
        if of_x is None or of_y is None:
            return np.nan, np.nan
        both, own, other = ((np.square(a.T @ b)).sum() for a, b in ((of_x, of_y), (of_x, of_x), (of_y, of_y)))
        return both / (len(y) - 1) ** 2, both / np.sqrt(own * other)

    return tuple(by_dimension(one, x.shape[1]).reshape(-1, 2).T)
