"""What the latents of two outcomes look like: their distributions, the way from one to the other, and what it changes.

Latents are described by a few components (``subjects.py``), as one Gaussian per outcome in which every subject weighs
the same. The way from one outcome to the other is the optimal transport between the two: the map that turns the partitions of
the first into those of the second with the smallest change. It moves the means onto each other and, unlike the difference of
the means, also changes what occurs together, which is all that differs when cells of the same number stand elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Moments(NamedTuple):
    """Moments of the component scores of each subject."""

    mean: NDArray  # (S, K)
    within: NDArray  # (S, K, K) covariance of its partitions


class Gaussians(NamedTuple):
    """The conditional distributions of outcome 0 and of outcome 1."""

    mean: NDArray  # (2, K)
    covariance: NDArray  # (2, K, K)


def subject_moments(scores: NDArray, subject: NDArray) -> Moments:
    """Return the moments of rows (N, K) by subject (codes from 0)."""
    own = [scores[subject == code] for code in range(subject.max() + 1)]
    return Moments(np.array([part.mean(0) for part in own]), np.array([np.atleast_2d(np.cov(part.T, bias=True)) for part in own]))


def condition(moments: Moments, outcome: NDArray, weights: NDArray | None = None) -> Gaussians:
    """Return the Gaussian of each outcome, shrunk towards what both have in common.

    How far is what the scatter of the subjects would give by itself (James & Stein), for means and covariances apart: outcomes
    between which nothing differs get the same Gaussian. The scatter of the subjects' own means is common to both.

    Parameters
    ----------
    weights
        How often each subject counts (S,), for resampling; default once.
    """
    weights = np.ones(len(outcome)) if weights is None else weights
    mean, within = (_shrunk(values, outcome, weights) for values in moments)
    apart = moments.mean - mean[outcome]
    between = np.einsum("s,sk,sl->kl", weights, apart, apart) / weights.sum()
    values, vectors = np.linalg.eigh(within + between)
    floor = 1e-3 * values.max(axis=1, keepdims=True)
    return Gaussians(mean, np.einsum("oik,ok,ojk->oij", vectors, np.maximum(values, floor), vectors))


def _shrunk(values: NDArray, outcome: NDArray, weights: NDArray) -> NDArray:
    """Return the mean (2, ...) of values (S, ...) for each outcome, moved towards the middle of both by the share of noise."""
    found, noise = [], 0.0
    for value in (0, 1):
        share = np.where(outcome == value, weights, 0.0)
        count = share.sum()
        mean = np.tensordot(share, values, 1) / count
        noise += share @ ((values - mean) ** 2).reshape(len(values), -1).sum(1) / count / max(count - 1, 1)
        found.append(mean)
    found, apart = np.array(found), ((found[1] - found[0]) ** 2).sum()
    kept = max(0.0, 1 - noise / apart) if apart > 0 else 0.0
    return found.mean(0) + kept * (found - found.mean(0))


def transport(pair: Gaussians) -> NDArray:
    """Return the matrix (K, K) of the optimal transport x -> mean_1 + A (x - mean_0) from outcome 0 to outcome 1.

    Source: Dowson & Landau 1982; A = S0^-1/2 (S0^1/2 S1 S0^1/2)^1/2 S0^-1/2.
    """
    values, vectors = np.linalg.eigh(pair.covariance[0])
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    values, vectors = np.linalg.eigh(root @ pair.covariance[1] @ root)
    return inverse @ (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T @ inverse


def displace(pair: Gaussians, scores: NDArray) -> NDArray:
    """Return how partitions of outcome 0 (n, K) have to change to be of outcome 1 (n, K)."""
    return pair.mean[1] - pair.mean[0] + (scores - pair.mean[0]) @ (transport(pair) - np.eye(scores.shape[1])).T


def direction(pair: Gaussians) -> NDArray:
    """Return the discriminating direction (K,), unit length: along it partitions have to change most, in the mean square."""
    change = transport(pair) - np.eye(pair.mean.shape[1])
    shift = pair.mean[1] - pair.mean[0]
    leading = np.linalg.eigh(change @ pair.covariance[0] @ change.T + np.outer(shift, shift))[1][:, -1]
    return leading * (1 if leading @ shift >= 0 else -1)


def walk(pair: Gaussians, start: NDArray, num_steps: int) -> NDArray:
    """Return the changes (n, num_steps, K) on the straight way from partitions of outcome 0 (n, K) to outcome 1."""
    return np.linspace(0, 1, num_steps)[None, :, None] * displace(pair, start)[:, None]


def draw(pair: Gaussians, outcome: int, num: int, rng: np.random.Generator) -> NDArray:
    """Draw scores (num, K) from the Gaussian of an outcome."""
    return rng.multivariate_normal(pair.mean[outcome], pair.covariance[outcome], num, method="eigh")


def evidence(pair: Gaussians, scores: NDArray) -> NDArray:
    """Return the log ratio (N,) of the density of outcome 1 over that of outcome 0, nats."""
    log_density = []
    for mean, covariance in zip(*pair, strict=True):
        root = np.linalg.cholesky(covariance)
        distance = np.linalg.solve(root, (scores - mean).T)
        log_density.append(-0.5 * (distance**2).sum(0) - np.log(np.diag(root)).sum())
    return log_density[1] - log_density[0]


def typical(pair: Gaussians, scores: NDArray, subject: NDArray, outcome: NDArray, num: int) -> list[NDArray]:
    """Return the rows of real partitions that speak most clearly for each outcome, at most one of a subject.

    Only subjects of that outcome are searched, and only partitions among the 90 % nearest to the centre of all: far out, the
    ratio of two Gaussians says more about their tails than about tissue.
    """
    ratio = evidence(pair, scores)
    common = Gaussians(np.tile(pair.mean.mean(0), (2, 1)), np.tile(pair.covariance.mean(0), (2, 1, 1)))
    root = np.linalg.cholesky(common.covariance[0])
    distance = (np.linalg.solve(root, (scores - common.mean[0]).T) ** 2).sum(0)
    ordinary = distance <= np.quantile(distance, 0.9)
    chosen = []
    for value, sign in ((0, -1), (1, 1)):
        rows = np.flatnonzero(ordinary & (outcome[subject] == value))
        rows = rows[np.argsort(-sign * ratio[rows], kind="stable")]
        _, first = np.unique(subject[rows], return_index=True)
        chosen.append(rows[np.sort(first)][:num])
    return chosen


def counterparts(pair: Gaussians, scores: NDArray, subject: NDArray, outcome: NDArray, num: int) -> tuple[NDArray, NDArray]:
    """Return rows of real partitions of outcome 0 and of outcome 1, (n,) each, that answer to each other; n is at most ``num``.

    The first half are partitions typical of outcome 0 with those of outcome 1 that are nearest to where the way ends; the
    second half, typical ones of outcome 1 with those of outcome 0 nearest to where the way begins. No subject is shown twice.
    """
    first, second = typical(pair, scores, subject, outcome, len(outcome))
    back = Gaussians(pair.mean[::-1], pair.covariance[::-1])
    chosen: list[tuple[int, int]] = []
    used = np.zeros(len(outcome), bool)
    for anchors, way, value, wanted in ((first, pair, 1, (num + 1) // 2), (second, back, 0, num)):
        for anchor in anchors:
            rows = np.flatnonzero((outcome[subject] == value) & ~used[subject])
            if len(chosen) >= wanted or not len(rows):
                break
            if used[subject[anchor]]:
                continue
            end = scores[anchor] + displace(way, scores[anchor][None])[0]
            near = rows[((scores[rows] - end) ** 2).sum(1).argmin()]
            used[subject[[anchor, near]]] = True
            chosen.append((anchor, near) if value else (near, anchor))
    return tuple(np.array(chosen).reshape(-1, 2).T)


# --------------------------------------------------------------------------------------- what differs between markers


class Local(NamedTuple):
    """Local statistics of the markers of each subject, from images of its partitions."""

    mean: NDArray  # (S, C)
    correlation: NDArray  # (S, C, C) covariance of places, over the scatter of both markers


def coarsen(images: NDArray, blocks: int = 8) -> NDArray:
    """Average images (n, C, Y, X) over about ``blocks`` x ``blocks`` places (n, C, places), each about as large as a cell."""
    edges = [np.linspace(0, size, min(blocks, size) + 1).astype(int)[:-1] for size in images.shape[2:]]
    counts = np.multiply.outer(*(np.diff([*edge, size]) for edge, size in zip(edges, images.shape[2:], strict=True)))
    sums = np.add.reduceat(np.add.reduceat(images, edges[0], axis=2), edges[1], axis=3)
    return (sums / counts).reshape(*images.shape[:2], -1)


def local_statistics(places: NDArray, subject: NDArray, scatter: NDArray) -> Local:
    """Return the statistics of coarse images (n, C, places) by subject; ``scatter`` (S, C) are the markers' units."""
    means, correlations = [], []
    for code, unit in enumerate(scatter):
        own = np.moveaxis(places[subject == code], 1, 0).reshape(places.shape[1], -1)
        mean = own.mean(1, dtype=np.float64)
        centred = (own - mean[:, None]) / unit[:, None]
        means.append(mean)
        correlations.append(centred @ centred.T / own.shape[1])
    return Local(np.array(means), np.array(correlations))


def compare(values: NDArray, outcome: NDArray, num_bootstraps: int, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Return the mean of outcome 1 less that of outcome 0 of values (S, ...), and its 95 % interval over subjects.

    The intervals hold together, so that the largest difference may be picked out: in 95 % of the permutations of the subjects'
    deviations from the mean of their outcome no difference is further from zero, in its own standard errors.
    """
    flat = values.reshape(len(values), -1)
    rng = np.random.default_rng([seed, 2])
    counts = np.bincount(outcome, minlength=2)
    means = np.stack([flat[outcome == value].mean(0) for value in (0, 1)])
    apart = (flat - means[outcome]) * np.sqrt(counts / (counts - 1))[outcome, None]
    # The outcomes as they are, of which the spread is taken, and permuted; (1 + B, S).
    labels = np.stack([outcome, *(rng.permutation(outcome) for _ in range(num_bootstraps))])
    shift, variance = 0.0, 0.0
    for value, sign in ((0, -1), (1, 1)):
        own = (labels == value) / counts[value]
        centre = own @ apart
        shift = shift + sign * centre
        variance = variance + np.maximum(own @ apart**2 - centre**2, 0.0) / (counts[value] - 1)
    spread = np.sqrt(sum(apart[outcome == value].var(0) / counts[value] for value in (0, 1)))
    furthest = (np.abs(shift[1:]) / np.maximum(np.sqrt(variance[1:]), 1e-300)).max(1)
    found, half = means[1] - means[0], np.quantile(furthest, 0.95) * spread
    return tuple(part.reshape(values.shape[1:]) for part in (found, found - half, found + half))
