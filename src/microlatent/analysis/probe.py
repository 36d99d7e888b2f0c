"""Linear probes: how much of a known property of a patch a straight line reads out of its latents.

A group (a cell's track, a subject) is never on both sides of a split, because neighbouring frames of one cell are nearly copies.
Two feature sets (latents, pixels) are compared at equal width: both are reduced to the same number of principal components,
fitted to the training folds alone. Numbers are read by the same ridge regression, whose strength is chosen inside the training
folds; classes by the same logistic regression.

Shapes: N patches, F features, K components, T targets (the measured one and its permutations).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from microlatent.analysis.statistics import explained, interval, p_value, resampled

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
    r2 = explained(error[known].sum(0), spread[known].sum(0))
    _, code = np.unique(groups[known], return_inverse=True)
    group_error, group_spread = (np.bincount(code, part[known, 0]) for part in (error, spread))
    low, high = interval(bootstrap(group_error, group_spread, seed))
    return Probe(
        r2=float(r2[0]),
        lo=low,
        hi=high,
        p_permutation=float(p_value((r2[1:] >= r2[0]).sum(), num_permutations, r2[0])),
        r2_permuted=float(np.median(r2[1:])),
        error=group_error,
        spread=group_spread,
    )


def unreadable(folds: list[Fold], target: NDArray, groups: NDArray) -> str:
    """Return why a property, a number or a label of text, cannot be read out on groups held out; "" where it can.

    A label of one group alone is never on both sides of a split, so no features could read it. Missing values are left out.
    """
    is_label = target.dtype.kind in "OUT"
    known = target != "" if is_label else np.isfinite(target)
    if len(np.unique(target[known])) < 2:
        return "it has one value alone"
    if is_label and sum(len(np.unique(groups[known & (target == label)])) > 1 for label in np.unique(target[known])) < 2:
        return "fewer than two of its labels occur in more than one group, so none is both learned and tested"
    for fold in folds:
        there = np.unique(target[fold.train[known[fold.train]]])
        if len(there) < (2 if is_label else 1):
            return f"a training fold has only {str(there[0])!r}" if len(there) else "a training fold does not know it"
    return ""


class ClassProbe(NamedTuple):
    """Out-of-fold accuracy of one label, with the 95 % interval over groups."""

    accuracy: float
    lo: float
    hi: float
    error: NDArray  # (G,) misread patches of each group
    count: NDArray  # (G,) patches of each group


def classify(folds: list[Fold], label: NDArray, groups: NDArray, seed: int = 0) -> ClassProbe:
    """Read a label (N,) of text out of reduced features by multinomial logistic regression; empty labels are left out.

    ``unreadable`` says beforehand where it cannot be.
    """
    from sklearn.linear_model import LogisticRegression

    known = label != ""
    right = np.zeros(len(label))
    for fold in folds:
        train, test = known[fold.train], known[fold.test]
        if not test.any():
            continue
        model = LogisticRegression(max_iter=1000)  # C = 1 on standardised components: patches are many, directions few
        model.fit(fold.z_train[train], label[fold.train[train]])
        right[fold.test[test]] = model.predict(fold.z_test[test]) == label[fold.test[test]]
    _, code = np.unique(groups[known], return_inverse=True)
    error, count = np.bincount(code, 1 - right[known]), np.bincount(code).astype(float)
    low, high = interval(bootstrap(error, count, seed))
    return ClassProbe(float(right[known].mean()), low, high, error, count)


def bootstrap(error: NDArray, spread: NDArray, seed: int = 0, num: int = 1000) -> NDArray:
    """Return R2 or accuracy of resampled groups (num,); equal seeds draw equal groups, so probes can be compared in pairs."""
    weights = resampled(np.random.default_rng(seed), len(error), num)
    return explained(weights @ error, weights @ spread)


def difference(first: Probe | ClassProbe, second: Probe | ClassProbe, seed: int = 0) -> tuple[float, float, float]:
    """Return R2 or accuracy of the first less that of the second on the same rows, with its paired interval over groups."""
    scale = "count" if isinstance(first, ClassProbe) else "spread"
    draws = bootstrap(first.error, getattr(first, scale), seed) - bootstrap(second.error, getattr(second, scale), seed)
    score = "accuracy" if isinstance(first, ClassProbe) else "r2"
    return (getattr(first, score) - getattr(second, score), *interval(draws))


def compare(latent: list[Fold], pixels: list[Fold], target: NDArray, groups: NDArray, seed: int) -> dict[str, float]:
    """Read one property, a number or a label of text, out of both feature sets; return scores, intervals and their difference."""
    is_label = target.dtype.kind in "OUT"
    read, score = (classify, "accuracy") if is_label else (probe, "r2")
    first, second = (read(folds, target, groups, seed=seed) for folds in (latent, pixels))
    gain, gain_lo, gain_hi = difference(first, second, seed)
    record: dict[str, float] = {}
    for kind, result in (("latent", first), ("pca_pixels", second)):
        record |= {f"{score}_{kind}": getattr(result, score), f"lo_{kind}": result.lo, f"hi_{kind}": result.hi}
        if not is_label:
            record |= {f"r2_permuted_{kind}": result.r2_permuted, f"p_permutation_{kind}": result.p_permutation}
    if is_label:
        record["accuracy_most_common"] = float(
            np.unique(target[target != ""], return_counts=True)[1].max() / (target != "").sum()
        )
    record |= {"difference": gain, "lo_difference": gain_lo, "hi_difference": gain_hi}
    known = target != "" if is_label else np.isfinite(target)
    return record | {"n": int(known.sum()), "groups": len(first.error)}


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
