"""Summaries of subjects: what the latents of a subject's partitions are like, in few numbers. No outcome is looked at here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from microlatent.analysis.statistics import principal_axes

MAX_COMPONENTS = 6  # of the latents, before spread and composition are taken
MAX_ROWS = 20_000  # to which k-means is fitted
CHUNK = 4096


class Components(NamedTuple):
    """Principal components of the latents, every subject weighing the same, scaled to a variance of 1."""

    mean: NDArray  # (D,)
    axes: NDArray  # (K, D)
    scale: NDArray  # (K,) standard deviations

    def transform(self, x: NDArray) -> NDArray:
        """Return scores (N, K) in chunks, so that a memory map stays on disk."""
        matrix = self.axes.T / self.scale
        return np.concatenate(
            [(np.asarray(x[start : start + CHUNK], float) - self.mean) @ matrix for start in range(0, len(x), CHUNK)]
        )

    def invert(self, scores: NDArray) -> NDArray:
        """Return latents (N, D) of scores."""
        return self.mean + (scores * self.scale) @ self.axes


def fit_components(x: NDArray, subject: NDArray, share: float = 0.9, most: int = MAX_COMPONENTS) -> Components:
    """Fit the components that explain a share of the variance of latents (N, D), at most ``most``; outcomes are not used."""
    weight = subject_weights(subject)
    mean, second = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), CHUNK):
        part, own = np.asarray(x[start : start + CHUNK], float), weight[start : start + CHUNK]
        mean += own @ part
        second += part.T @ (own[:, None] * part)
    values, vectors = principal_axes(second - np.outer(mean, mean))
    if values[0] <= 1e-12 * max(1.0, float(np.abs(mean).max()) ** 2):
        raise ValueError(
            "The latents of all partitions are the same, so they tell nothing of an outcome. Train the model longer."
        )
    explained = np.cumsum(values) / values.sum()
    count = min(most, int(np.searchsorted(explained, share) + 1), int((values > 1e-9 * values[0]).sum()))
    return Components(mean, vectors[:, :count].T, np.sqrt(values[:count]))


def subject_weights(subject: NDArray) -> NDArray:
    """Return the weight of each row (N,): subjects (codes from 0) weigh the same, and all together 1."""
    counts = np.bincount(subject)
    return 1 / (len(counts) * counts[subject])


def summarise(scores: NDArray, subject: NDArray, num_clusters: int, seed: int = 0) -> dict[str, NDArray]:
    """Summarise the component scores (N, K) of each subject; outcomes are not used.

    Returns
    -------
    ``mean`` (S, K); ``spread`` (S, K (K + 1) / 2), the matrix logarithm of the covariance of the subject's own partitions: which
    features of the tissue go together in one place is there and not in the mean; ``composition`` (S, num_clusters), square
    roots of the shares of clusters.
    """
    rows = [np.flatnonzero(subject == code) for code in range(subject.max() + 1)]
    upper = np.triu_indices(scores.shape[1])
    spread = []
    for own in rows:
        covariance = shrunk_covariance(scores[own])
        values, vectors = np.linalg.eigh(covariance)
        spread.append(((vectors * np.log(values)) @ vectors.T)[upper])
    blocks = {"mean": np.array([scores[own].mean(0) for own in rows]), "spread": np.array(spread)}
    if num_clusters > 1:
        share = cluster_shares(scores, subject, num_clusters, seed)
        blocks["composition"] = np.sqrt([share[own].mean(0) for own in rows])
    return blocks


def shrunk_covariance(values: NDArray, mean: NDArray | None = None) -> NDArray:
    """Return the covariance (K, K) of rows (n, K), shrunk towards its mean diagonal (Ledoit & Wolf 2004)."""
    n, k = values.shape
    centred = values - (values.mean(0) if mean is None else mean)
    covariance = centred.T @ centred / n
    level = np.trace(covariance) / k
    distance = ((covariance - level * np.eye(k)) ** 2).sum()
    noise = ((centred**2).sum(1) ** 2).sum() / n**2 - (covariance**2).sum() / n
    shrinkage = min(1.0, max(noise, 0.0) / distance) if distance > 0 else 1.0
    # A subject whose partitions are all alike keeps a small spread, so that its logarithm exists.
    return (1 - shrinkage) * covariance + (shrinkage * level + 1e-6) * np.eye(k)


def cluster_shares(scores: NDArray, subject: NDArray, num_clusters: int, seed: int = 0) -> NDArray:
    """Return how much each row belongs to each cluster (N, num_clusters), rows summing to 1.

    Clusters are by k-means, fitted to as many rows of every subject. Tissue has no sharp types of places: a row between
    clusters counts for each by exp(-squared distance / typical squared distance to the nearest), which says far more of a
    subject than whole rows do.
    """
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    refuse_clusters(subject, num_clusters)
    each = fitted_rows(subject)
    fitted = np.concatenate([rng.permutation(np.flatnonzero(subject == code))[:each] for code in range(subject.max() + 1)])
    centres = KMeans(num_clusters, n_init=5, random_state=seed).fit(scores[fitted]).cluster_centers_
    squared = (scores**2).sum(1)[:, None] - 2 * scores @ centres.T + (centres**2).sum(1)
    apart = squared - squared.min(1, keepdims=True)
    share = np.exp(-apart / max(float(np.median(squared.min(1))), 1e-12))
    return share / share.sum(1, keepdims=True)


def fitted_rows(subject: NDArray) -> int:
    """Return how many rows of a subject at most k-means is fitted to."""
    return max(1, min(np.bincount(subject).min() * 4, MAX_ROWS // (subject.max() + 1)))


def refuse_clusters(subject: NDArray, num_clusters: int) -> None:
    """Refuse more clusters than there are rows to fit them to."""
    num = int(np.minimum(np.bincount(subject), fitted_rows(subject)).sum())
    if num < num_clusters:
        raise ValueError(f"task.num_clusters is {num_clusters}, but there are only {num} partitions. Lower it.")
