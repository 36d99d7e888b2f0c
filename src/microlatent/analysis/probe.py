"""Linear probes: how much of a known property of a cell a straight line reads out of its latents.

A track is never on both sides of a split, because neighbouring frames of one cell are nearly copies. Two feature sets
(latents, pixels) are compared at equal width: both are reduced to the same number of principal components, fitted to the
training folds alone, and read by the same ridge regression, whose strength is chosen inside the training folds.

Shapes: N patches, F features, K components, T targets (the measured one and its permutations).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from microlatent.analysis.trajectories import interval

ALPHAS = np.logspace(-6, 3, 19)  # ridge strength per patch, on standardised components; the top predicts the mean


class Fold(NamedTuple):
    """One split by groups, with both sides' features reduced and standardised by the training side."""

    train: NDArray  # rows
    test: NDArray
    z_train: NDArray  # (n, K)
    z_test: NDArray  # (m, K)


class Probe(NamedTuple):
    """Out-of-fold R2 of one target, with the 95 % interval over groups."""

    r2: float
    lo: float
    hi: float
    p_permutation: float  # share of group-permuted targets that are read out as well
    r2_permuted: float  # median R2 of the permuted targets: about 0 or below
    error: NDArray  # (G,) squared error of each group
    spread: NDArray  # (G,) squared error of each group when the training folds' mean is predicted


def assign_folds(groups: NDArray, num_folds: int, seed: int) -> NDArray:
    """Return the fold of each row: whole groups, shuffled, the emptiest fold filled next."""
    names, code, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]  # large groups first, so that folds come out even
    fold_of, load = np.empty(len(names), int), np.zeros(num_folds, int)
    for group in order:
        fold_of[group] = load.argmin()
        load[fold_of[group]] += counts[group]
    return fold_of[code]


def reduce(features: NDArray, groups: NDArray, num_components: int = 16, num_folds: int = 5, seed: int = 0) -> list[Fold]:
    """Split by groups and reduce the features (N, F) to principal components fitted to each training side."""
    from sklearn.decomposition import PCA

    if len(np.unique(groups)) < num_folds:
        raise ValueError(
            f"A probe needs at least {num_folds} trajectories to hold some out, but there are {len(np.unique(groups))}."
        )
    fold_of = assign_folds(groups, num_folds, seed)
    folds = []
    for number in range(num_folds):
        train, test = np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number)
        width = min(num_components, features.shape[1], len(train) - 1)
        solver = "randomized" if min(features.shape[1], len(train)) > 4 * width else "full"
        pca = PCA(width, svd_solver=solver, random_state=seed)
        z_train = pca.fit_transform(features[train]).astype(np.float64)
        z_test = pca.transform(features[test]).astype(np.float64)
        scale = z_train.std(0)
        scale[scale <= 1e-7 * max(scale.max(), 1e-300)] = np.inf  # directions without variance say nothing
        folds.append(Fold(train, test, z_train / scale, z_test / scale))
    return folds


def probe(folds: list[Fold], target: NDArray, groups: NDArray, num_permutations: int = 199, seed: int = 0) -> Probe:
    """Predict a numeric property (N,) from reduced features; rows where it is NaN are left out.

    R2 = 1 - (squared error) / (squared error of predicting the training folds' mean), over all held-out rows.
    """
    known = np.isfinite(target)
    rng = np.random.default_rng(seed)
    targets = np.full((len(target), 1 + num_permutations), np.nan)
    targets[:, 0] = target
    for column in range(1, 1 + num_permutations):
        targets[known, column] = permute_groups(target[known], groups[known], rng)
    error, spread = np.full_like(targets, np.nan), np.full_like(targets, np.nan)
    for fold in folds:
        train, test = known[fold.train], known[fold.test]
        rows, held = fold.train[train], fold.test[test]
        mean = targets[rows].mean(0)
        weights = fit_ridge(fold.z_train[train], targets[rows] - mean, groups[rows], seed)
        offset = fold.z_train[train].mean(0)
        error[held] = (targets[held] - mean - (fold.z_test[test] - offset) @ weights) ** 2
        spread[held] = (targets[held] - mean) ** 2
    r2 = 1 - error[known].sum(0) / spread[known].sum(0)
    _, code = np.unique(groups[known], return_inverse=True)
    group_error, group_spread = (np.bincount(code, part[known, 0]) for part in (error, spread))
    low, high = interval(bootstrap(group_error, group_spread, seed))
    return Probe(
        r2=float(r2[0]),
        lo=low,
        hi=high,
        p_permutation=float((1 + (r2[1:] >= r2[0]).sum()) / (1 + num_permutations)),
        r2_permuted=float(np.median(r2[1:])),
        error=group_error,
        spread=group_spread,
    )


def bootstrap(error: NDArray, spread: NDArray, seed: int = 0, num: int = 1000) -> NDArray:
    """Return R2 of resampled groups (num,); equal seeds draw equal groups, so that two probes can be compared in pairs."""
    weights = np.random.default_rng(seed).multinomial(len(error), np.full(len(error), 1 / len(error)), size=num)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - (weights @ error) / (weights @ spread)


def difference(first: Probe, second: Probe, seed: int = 0) -> tuple[float, float, float]:
    """Return R2 of the first less R2 of the second on the same rows, with its paired interval over groups."""
    draws = bootstrap(first.error, first.spread, seed) - bootstrap(second.error, second.spread, seed)
    return (first.r2 - second.r2, *interval(draws))


def permute_groups(target: NDArray, groups: NDArray, rng: np.random.Generator) -> NDArray:
    """Give each group the values of another one, in their order: the dependence inside a track stays, its tie to features goes.

    Groups differ in length, so the values of all groups are joined in random order and dealt out again.
    """
    order = np.argsort(groups, kind="stable")
    blocks = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    source = np.concatenate([blocks[index] for index in rng.permutation(len(blocks))])
    result = np.empty_like(target)
    result[order] = np.roll(target[source], rng.integers(len(target)))
    return result


def fit_ridge(z: NDArray, y: NDArray, groups: NDArray, seed: int = 0, num_inner: int = 4) -> NDArray:
    """Return ridge weights (K, T) for centred targets (n, T); each target's strength is chosen by inner folds over groups."""
    inner = assign_folds(groups, min(num_inner, len(np.unique(groups))), seed + 1)
    loss = np.zeros((len(ALPHAS), y.shape[1]))
    for number in np.unique(inner):
        fit, check = inner != number, inner == number
        if not fit.any():  # a single group: nothing to choose by
            continue
        centre, level = z[fit].mean(0), y[fit].mean(0)
        weights = ridge_path(z[fit] - centre, y[fit] - level)
        z_check, y_check = z[check] - centre, y[check] - level
        # Squared error by its quadratic form: n enters once, not for each strength.
        loss += np.einsum("akt,kl,alt->at", weights, z_check.T @ z_check, weights, optimize=True)
        loss += (y_check**2).sum(0) - 2 * np.einsum("akt,kt->at", weights, z_check.T @ y_check)
    # Of equal losses the stronger penalty is taken.
    best = len(ALPHAS) - 1 - loss[::-1].argmin(0)
    paths = ridge_path(z - z.mean(0), y - y.mean(0))
    return paths[best, :, np.arange(y.shape[1])].T


def ridge_path(z: NDArray, y: NDArray) -> NDArray:
    """Return ridge weights (A, K, T) for every strength from one eigendecomposition of z'z."""
    values, vectors = np.linalg.eigh(z.T @ z)
    projected = vectors.T @ (z.T @ y)
    shrunk = projected[None] / (np.maximum(values, 0)[None, :, None] + ALPHAS[:, None, None] * len(z))
    return vectors @ shrunk


def holm(p: NDArray) -> NDArray:
    """Return p-values corrected for the number of properties probed (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1)
    return result
