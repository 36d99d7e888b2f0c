"""Latent dimensions ranked by their association with a map of the same points, with significance that holds on maps.

What significance means depends on the null. ``shift`` and ``phase`` test that the maps are not independent, for which sharing
grain boundaries is enough, above all for mi, hsic and dcorr; ``phase`` is for smooth maps, not for maps of grains. Whether a
property goes with the latents beyond sharing grains needs ``grains`` (see ``surrogates``).

Shapes: n points, D latent dimensions, B surrogates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microlatent.analysis import dependence, surrogates
from microlatent.analysis.dependence import Paired, by_dimension
from microlatent.analysis.statistics import benjamini_hochberg, exceeding, p_value
from microlatent.analysis.surrogates import Box, Torus, bounding_box

SIGNED = ("pearson", "spearman", "kendall", "pp_spatial")  # ranked by absolute value, the others as they are
LINEAR = ("pearson", "spearman", "pp_spatial")  # Pearson's r of something
FEWEST_POINTS = 20
SIGNIFICANT = 0.05  # false discovery rate below which a result is called
MAIN_FEATURES = 1e-4  # kernel features of less than this share of the first one's variance do not enter the null of hsic
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green, blue (ITU-R BT.709)


class Null(NamedTuple):
    """What a metric is compared with."""

    kind: str = "shift"  # shift, phase or grains
    num: int = 999  # surrogates, where not all shifts are taken at once
    num_ranked: int = 10  # dimensions of a costly metric that get one, the highest first
    seed: int = 0
    grains: NDArray | None = None  # (n,) of kind grains: each point's, whole numbers; negative where it has none


HYPOTHESES = {  # by kind of null, what a low p rejects, and what is enough for it
    "shift": "The maps are independent, the target being as likely anywhere else on the map; sharing grain boundaries is enough "
    "to reject it, above all by mi, hsic and dcorr.",
    "phase": "The maps are independent, the target being a smooth random map of its own spectrum and values; sharing grain "
    "boundaries, or having any, is enough to reject it, above all by mi, hsic and dcorr.",
    "grains": "The latent does not depend on which grain has which mean of the target; only what goes beyond sharing grains "
    "rejects it.",
}


class Association(NamedTuple):
    """Every dimension's association with one target."""

    table: pd.DataFrame  # one row per dimension
    num_points: int
    surrogates: dict[str, int]  # by metric: how many its p-values stand on
    tested: dict[str, int]  # by metric: how many dimensions have a p-value


def associate(
    latents: NDArray,
    target: NDArray,
    x: NDArray,
    y: NDArray,
    metrics: list[str],
    null: Null,
    trend_degree: int = 1,
    neighbours: int = 7,
    max_points: int | None = None,
) -> Association:
    """Score, rank and test every dimension.

    Parameters
    ----------
    latents, target
        (n, D) and (n,). Points whose target is not finite, and of null grains those without one, are left out; a dimension that
        is not finite has NaN.
    x, y
        (n,) integer map column and row.
    max_points
        kendall, mi and dcorr see so many points, drawn at random; default all.

    Returns
    -------
    A table with the columns dim; every metric; dcorr_corrected, nhsic and mi_coefficient beside theirs; p_, q_ and rank_ of every
    metric; mean_reciprocal_rank and combined_rank over the metrics.

    Notes
    -----
    Pearson, Spearman, pp_spatial and (of shifts) hsic have a p-value in every dimension, of all shifts at once. The others have
    one in the ``num_ranked`` dimensions of the highest score; the rest count as p = 1 in the correction over dimensions, which
    is conservative. The p-value of dcorr is that of the corrected one, which does not grow where holes leave fewer points.
    """
    known = np.isfinite(target)
    if null.grains is not None:
        known &= null.grains >= 0
        null = null._replace(grains=np.unique(null.grains[known], return_inverse=True)[1])
    latents, target, x, y = np.asarray(latents, np.float64)[known], np.asarray(target, np.float64)[known], x[known], y[known]
    box = bounding_box(x, y)
    seen = np.arange(len(target))
    if max_points is not None and max_points < len(seen):
        seen = np.sort(np.random.default_rng((null.seed, 5)).choice(len(seen), max_points, replace=False))
    columns, p_values, counts, tested = {}, {}, {}, {}
    for metric in metrics:
        if metric in LINEAR:
            form = partial(linear_form, metric, x=x, y=y, degree=trend_degree)
            left, right = form(latents), form(target[:, None])[:, 0]
            columns[metric] = dependence.pearson(left, right)
            exceed, num = shift_null(left, right, box) if null.kind == "shift" else linear_null(left, target, form, box, null)
        elif metric == "hsic":
            columns["hsic"], columns["nhsic"] = dependence.hsic(latents, target)
            if null.kind == "shift":
                exceed, num = hsic_null(latents, target, box)
            else:
                exceed, num = ranked_null(metric, columns[metric], latents, target, box, seen, null, neighbours)
        else:
            columns |= paired_scores(metric, latents[seen], target[seen], neighbours, null.seed)
            exceed, num = ranked_null(metric, columns[metric], latents, target, box, seen, null, neighbours)
        p_values[metric] = p_value(exceed, num, columns[metric])
        counts[metric], tested[metric] = int(num.max(initial=0)), int(np.isfinite(p_values[metric]).sum())
    table = pd.DataFrame({"dim": np.arange(latents.shape[1])} | columns)
    for metric in metrics:
        table[f"p_{metric}"] = p_values[metric]
        table[f"q_{metric}"] = benjamini_hochberg(p_values[metric])
        table[f"rank_{metric}"] = ranked(strength(metric, columns[metric]))
    reciprocal = (1 / table[[f"rank_{metric}" for metric in metrics]]).fillna(0).mean(axis=1).to_numpy()
    table["mean_reciprocal_rank"], table["combined_rank"] = reciprocal, ranked(reciprocal)
    return Association(table, len(target), counts, tested)


def strength(metric: str, scores: NDArray) -> NDArray:
    """Return what dimensions are ranked by: the score, or its absolute value where it has a sign."""
    return np.abs(scores) if metric in SIGNED else np.asarray(scores)


def ranked(values: NDArray) -> NDArray:
    """Return ranks (D,) from 1, the highest value first, equal ones in their order; NaN of NaN."""
    order = np.argsort(-values, kind="stable")  # NaN comes last
    out = np.empty(len(values))
    out[order] = np.arange(1, len(values) + 1)
    return np.where(np.isnan(values), np.nan, out)


def paired_scores(metric: str, latents: NDArray, target: NDArray, neighbours: int, seed: int) -> dict[str, NDArray]:
    """Return the columns of a metric of all pairs of points."""
    scores = Paired(metric, target, neighbours, seed).scores(latents)
    if metric == "mi":
        return {"mi": scores, "mi_coefficient": dependence.information_coefficient(scores)}
    if metric == "dcorr":
        return {"dcorr": scores, "dcorr_corrected": Paired("dcorr_corrected", target).scores(latents)}
    return {metric: scores}


# ------------------------------------------------------------------------------------------------------------ nulls


def linear_form(metric: str, values: NDArray, x: NDArray, y: NDArray, degree: int) -> NDArray:
    """Return what columns (n, D), latents or targets, become, so that their Pearson correlation is the metric."""
    if metric == "spearman":
        return dependence.ranks(values)
    return dependence.detrended(values, x, y, degree) if metric == "pp_spatial" else values


def shift_null(latents: NDArray, target: NDArray, box: Box) -> tuple[NDArray, NDArray]:
    """Return how many of all shifts reach each dimension's |r| (D,), and how many there are (D,)."""
    exceed, num = np.zeros(latents.shape[1], int), np.zeros(latents.shape[1], int)
    if np.isfinite(target).all():
        for part, r in surrogates.shifted_correlations(latents, target, box):
            r = np.abs(r, out=r)
            exceed[part], num[part] = exceeding(r[:, 1:], r[:, 0])
    return exceed, num


def linear_null(
    latents: NDArray, target: NDArray, form: Callable[[NDArray], NDArray], box: Box, null: Null
) -> tuple[NDArray, NDArray]:
    """Return how many surrogates of the target reach each dimension's |r| (D,), and how many there are (D,).

    ``form`` makes of surrogates (n, b) what was made of the latents: ranks, or what a trend leaves.
    """
    exceed, num = np.zeros(latents.shape[1], int), np.zeros(latents.shape[1], int)
    formed = form(target[:, None])
    if not np.isfinite(formed).all():
        return exceed, num
    z = surrogates.standardised(latents).T / len(target)
    observed = np.abs(z @ surrogates.standardised(formed))[:, 0]
    for block in drawn(target if null.kind == "grains" else formed[:, 0], box, null):  # a trend is no part of a random map
        more, there = exceeding(np.abs(z @ surrogates.standardised(form(block.T))), observed)
        exceed, num = exceed + more, num + there
    return exceed, num


def hsic_null(latents: NDArray, target: NDArray, box: Box) -> tuple[NDArray, NDArray]:
    """Return how many of all shifts reach each dimension's hsic (D,), and how many there are (D,).

    hsic is the sum of squares of the covariances of kernel features, and each of those is a correlation of maps. A mirrored map
    in its window varies more or less than the target, so the statistic is divided by the root of the window's own hsic.
    """
    torus = Torus(box)
    features = main_features(target)
    if features is None:
        return np.zeros(latents.shape[1], int), np.zeros(latents.shape[1], int)
    moved = torus.moved(features)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where(torus.count > 0, torus.count, np.nan)
        sums = torus.sums(torus.window, moved)
        own = np.zeros(torus.num_shifts)
        for number, feature in enumerate(features):
            products = torus.sums(torus.window, torus.moved(features * feature))
            own += np.square(products - sums[number] * sums / count).sum(0)

    def one(dim: int) -> tuple[int, int]:
        of_x = main_features(latents[:, dim])
        if of_x is None:
            return 0, 0
        total = np.zeros(torus.num_shifts)
        for feature in of_x:
            fixed = torus.fixed(feature)
            covariance = torus.sums(fixed, moved)
            if not box.full:
                covariance -= torus.sums(fixed, torus.there) * sums / count
            total += np.square(covariance, out=covariance).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = (total / np.sqrt(own) / count)[None]  # as nhsic, where x varies alike after all shifts
        exceed, num = exceeding(statistic[:, 1:] / statistic[:, 0], np.ones(1))
        return int(exceed[0]), int(num[0])

    return tuple(by_dimension(one, latents.shape[1]).reshape(-1, 2).T.astype(int))


def main_features(values: NDArray) -> NDArray | None:
    """Return the kernel features (r, n) that carry all but a ten-thousandth of the variance; None of values that are alike."""
    features = dependence.kernel_features(values)
    if features is None:
        return None
    power = np.square(features).sum(0)
    return np.ascontiguousarray(features[:, power > MAIN_FEATURES * power[0]].T)


def ranked_null(
    metric: str, scores: NDArray, latents: NDArray, target: NDArray, box: Box, seen: NDArray, null: Null, neighbours: int
) -> tuple[NDArray, NDArray]:
    """Return how many surrogates reach the score of the highest dimensions (D,), and how many there are; 0 of the others."""
    exceed, num = np.zeros(len(scores), int), np.zeros(len(scores), int)
    places = ranked(strength(metric, scores))
    chosen = np.flatnonzero(places <= null.num_ranked)
    if not len(chosen):
        return exceed, num
    if metric == "hsic":
        values, features = target, [dependence.kernel_features(latents[:, dim]) for dim in chosen]
        in_order = dependence.kernel_features(np.sort(target))  # random maps have the target's values, so its features

        def every(block: NDArray) -> NDArray:
            if null.kind == "phase":
                of_y = [in_order[row.argsort().argsort()] for row in block]
            else:
                of_y = [dependence.kernel_features(row) for row in block]
            own = [np.linalg.norm(np.square(one).sum(0)) for one in of_y]  # dealt to grains of other sizes, values differ
            both = list(zip(of_y, own, strict=True))
            return by_dimension(lambda at: np.array([np.square(features[at].T @ y).sum() / by for y, by in both]), len(chosen))
    else:
        paired = Paired("dcorr_corrected" if metric == "dcorr" else metric, target, neighbours, null.seed)
        values = paired.target()

        def every(block: NDArray) -> NDArray:
            part = block[:, seen]
            return by_dimension(lambda at: strength(metric, paired.of(latents[seen, chosen[at]], part)), len(chosen))

    observed = every(values[None])[:, 0]
    for block in drawn(values, box, null):
        more, there = exceeding(every(block), observed)
        exceed[chosen], num[chosen] = exceed[chosen] + more, num[chosen] + there
    return exceed, num


def drawn(values: NDArray, box: Box, null: Null) -> Iterator[NDArray]:
    """Yield blocks (b, n) of surrogates of the kind asked for."""
    if null.kind == "grains":
        return surrogates.grain_surrogates(values, null.grains, null.num, null.seed)
    make = surrogates.shift_surrogates if null.kind == "shift" else surrogates.phase_surrogates
    return make(values, box, null.num, null.seed)


def least_q(num_dims: int, num_surrogates: int, num_tested: int) -> float:
    """Return the lowest q-value there can be, where all dimensions that are tested have the lowest p-value there can be."""
    return min(1.0, num_dims / ((num_surrogates + 1) * num_tested)) if num_tested and num_surrogates else 1.0


# ---------------------------------------------------------------------------------------------- synthetic element map


class Synthetic(NamedTuple):
    """A map made of several elements."""

    values: NDArray  # (n,) what is scored
    colours: NDArray | None  # (n, 3) red, green, blue from 0 to 1


def synthetic_map(mode: str, elements: NDArray, weights: NDArray | None = None) -> Synthetic:
    """Return a map of elements (n, E), each scaled to 0 to 1 over the points.

    Parameters
    ----------
    mode
        ``sum``: by weights (E,), divided by their sum; default equal. ``rgb``: one to three elements are red, green and blue,
        scored by their luminance; one alone is grey, and of two, blue is their mean.

    Raises
    ------
    ValueError
        The weights sum to zero.
    """
    elements = np.asarray(elements, np.float64)
    low, high = np.nanmin(elements, 0), np.nanmax(elements, 0)
    scaled = (elements - low) / np.maximum(high - low, 1e-8)
    if mode == "sum":
        weights = np.ones(scaled.shape[1]) if weights is None else np.asarray(weights, np.float64)
        if not abs(weights.sum()) > 1e-12 * np.abs(weights).sum():
            raise ValueError(f"task.synth_weights {weights.tolist()} sum to zero, but they are divided by their sum. Change one.")
        return Synthetic(scaled @ (weights / weights.sum()), None)
    if scaled.shape[1] == 1:
        colours = np.repeat(scaled, 3, 1)
    else:
        colours = scaled if scaled.shape[1] == 3 else np.column_stack([scaled, scaled.mean(1)])
    return Synthetic(colours @ LUMINANCE, colours)
