"""Ridge logistic regressions of few subjects, many at once: all permutations of an outcome and all strengths of the penalty.

Shapes: n subjects, K features, P outcomes, L strengths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit


def fit(z: NDArray, labels: NDArray, strengths: NDArray) -> tuple[NDArray, NDArray]:
    """Fit ridge logistic regressions for many outcomes and strengths at once, by Newton's method.

    Minimises sum_i w_i log(1 + exp(-y_i (z_i b + c))) + strength / 2 |b|^2, where both outcomes have the same total weight and
    the weights' sum is the number of subjects.

    Parameters
    ----------
    z
        Features (n, K).
    labels
        Outcomes 0 or 1 (P, n).
    strengths
        Penalties (L,), from strong to weak.

    Returns
    -------
    Weights (P, L, K + 1), the intercept last; and scores (P, L, n) of each subject when it is left out, approximated by one
    Newton step from the fit to all (Rad & Maleki 2020), which spares refitting for the choice of the strength.
    """
    n, width = z.shape[0], z.shape[1] + 1
    design = np.column_stack([z, np.ones(n)])
    outer = np.einsum("ni,nj->nij", design, design).reshape(n, -1)
    sign = 2.0 * labels - 1
    positive = labels.mean(1, keepdims=True)
    importance = 0.5 / np.maximum(np.where(labels == 1, positive, 1 - positive), 1 / n)
    weights = np.zeros((len(labels), width))
    paths, left_out = [], []
    for strength in strengths:  # from strong to weak, each from where the last one ended
        penalty = np.full(width, strength)
        penalty[-1] = 1e-8  # the intercept is free
        for _ in range(60):
            chance = expit(-sign * (weights @ design.T))
            slope, curvature = -importance * sign * chance, importance * chance * (1 - chance)
            hessian = (curvature @ outer).reshape(-1, width, width) + np.diag(penalty)
            step = np.linalg.solve(hessian, (slope @ design + penalty * weights)[..., None])[..., 0]
            # Far from the optimum a whole step may overshoot: no score moves by more than 4 at once.
            reach = np.abs(step @ design.T).max(-1, keepdims=True)
            weights = weights - step * np.minimum(1.0, 4.0 / np.maximum(reach, 1e-300))
            if reach.max() < 1e-4:  # the error is squared at every step: the next one would be about 1e-8
                break
        paths.append(weights)
        left_out.append(_left_out(weights, design, slope, curvature, np.linalg.inv(hessian), labels))
    return np.stack(paths, 1), np.stack(left_out, 1)


def _left_out(
    weights: NDArray, design: NDArray, slope: NDArray, curvature: NDArray, inverse: NDArray, labels: NDArray
) -> NDArray:
    """Return the score (P, n) of each subject by one Newton step from the fit to all to the fit to all others.

    The others of its outcome gain the weight that it leaves, or the stronger the penalty, the more would every left-out
    subject lean to the other outcome.
    """
    reached = design @ inverse  # (P, n, K + 1)
    leverage = (reached * design).sum(-1)
    shift = leverage * slope
    for value in (0, 1):
        own = labels == value
        pull = (reached @ ((slope * own) @ design)[..., None])[..., 0]  # of all subjects of the outcome
        shift += own * (shift - pull) / np.maximum(own.sum(1, keepdims=True) - 1, 1)
    return weights @ design.T + shift / np.maximum(1 - leverage * curvature, 1e-6)


def deviance(left_out: NDArray, labels: NDArray) -> NDArray:
    """Return the mean loss (P, L) in nats of left-out scores (P, L, n), both outcomes weighing the same."""
    loss = -log_expit((2.0 * labels[:, None] - 1) * left_out)
    return sum((loss * (labels == value)[:, None]).sum(-1) / (labels == value).sum(1)[:, None] for value in (0, 1)) / 2
