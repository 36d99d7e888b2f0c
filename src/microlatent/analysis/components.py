"""Principal components and UMAP of latents, and the patches that show what a component means.

Shapes: N patches, D latent dimensions, K components.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microlatent.analysis.statistics import principal_axes
from microlatent.files import atomic

CHUNK = 8192  # rows of latents held in memory at a time
BANDS = ((0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9), (0.0, 1.0))


@dataclass
class PCA:
    """Principal components: ``scores = (x - mean) @ components.T``, not whitened."""

    mean: NDArray  # (D,)
    components: NDArray  # (K, D), orthonormal rows
    spectrum: NDArray  # variance of every direction, of those not kept too

    @property
    def ratio(self) -> NDArray:
        """Share of the variance that each component explains (K,)."""
        return self.spectrum[: len(self.components)] / self.spectrum.sum()

    def transform(self, x: ArrayLike) -> NDArray:
        """Return the scores (N, K), float32, reading a few rows at a time."""
        x_mean = self.mean @ self.components.T
        blocks = [np.asarray(x[start : start + CHUNK], np.float64) @ self.components.T for start in range(0, len(x), CHUNK)]
        return (np.concatenate(blocks) - x_mean).astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Write a plain ``.npz``: nothing in it can run when it is read."""
        with atomic(path) as temporary:
            np.savez(temporary, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> PCA:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("mean", "components", "spectrum") if name not in file]
            if missing:
                raise ValueError(f"{path} is no PCA: it lacks {', '.join(missing)}. Use the pca.npz that task=embed writes.")
            return cls(file["mean"], file["components"], file["spectrum"])


def fit_pca(x: ArrayLike, rows: NDArray, components: float = 0.5, at_least: int = 2) -> PCA:
    """Fit principal components to some rows of the latents, exactly.

    Parameters
    ----------
    x
        (N, D) latents; may lie on disk.
    rows
        Indices of the rows to fit to (those of training).
    components
        Below 1: as many components as explain this share of the variance. Else their number.
    at_least
        Fewest components returned, as far as the data allow: a scatter needs two.

    Notes
    -----
    Each component's largest loading is positive, so that signs do not depend on the solver. Memory holds min(N, D) squared
    numbers and some rows of ``x``: the covariance is summed up in blocks.
    """
    num, dims = len(rows), x.shape[1]
    if num < 2:
        raise ValueError(f"PCA needs at least two patches, but there is {num}.")
    rows = np.sort(rows)
    blocks = [rows[start : start + CHUNK] for start in range(0, num, CHUNK)]
    mean = sum(np.asarray(x[block], np.float64).sum(0) for block in blocks) / num
    if not np.isfinite(mean).all():
        raise ValueError("Some latents are NaN or infinite. Run task=process again from a checkpoint of before training failed.")
    if num <= dims:  # few patches: the small side is the patches'
        centred = np.asarray(x[rows], np.float64) - mean
        values, vectors = principal_axes(centred @ centred.T)
        directions = vectors.T @ centred
    else:
        scatter = np.zeros((dims, dims))
        for block in blocks:
            centred = np.asarray(x[block], np.float64) - mean
            scatter += centred.T @ centred
        values, vectors = principal_axes(scatter)
        directions = vectors.T
    spectrum = values / (num - 1)
    total = float(spectrum.sum())
    if total <= 1e-12 * max(1.0, float(mean @ mean)):
        raise ValueError(
            "All latents are the same, so they have no principal components. The model has collapsed: train it anew."
        )
    rank = int((spectrum > 1e-10 * spectrum[0]).sum())
    share = np.cumsum(spectrum) / total
    wanted = int(np.searchsorted(share, components - 1e-12)) + 1 if components < 1 else int(components)
    count = min(max(wanted, at_least), rank)
    directions = directions[:count] / np.linalg.norm(directions[:count], axis=1, keepdims=True)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return PCA(mean, directions * np.sign(largest), spectrum)


def umap(scores: NDArray, rows: NDArray, neighbours: int = 15, min_dist: float = 0.1, seed: int = 0) -> NDArray:
    """Return UMAP coordinates (N, 2): fitted to ``rows`` (training), the others placed into that map.

    One thread and a fixed seed, so that the map is the same each time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the package and its note on the single thread
        from umap import UMAP

        model = UMAP(n_neighbors=min(neighbours, len(rows) - 1), min_dist=min_dist, random_state=seed, n_jobs=1)
        result = np.empty((len(scores), 2), np.float32)
        result[rows] = model.fit_transform(scores[rows])
        others = np.setdiff1d(np.arange(len(scores)), rows)
        if len(others):
            result[others] = model.transform(scores[others])
    return result


@dataclass
class Exemplars:
    """Patches along one component, quantile by quantile."""

    component: int
    edges: NDArray  # (Q + 1,) scores that bound the quantiles
    members: list[NDArray]  # rows of each quantile, at most ``max_mean`` of them, for its mean patch
    gallery: list[NDArray]  # rows of typical patches of each quantile: other components near their median
    bands: list[tuple[float, float]]  # the band of quantiles in which the other components were held


def exemplars(
    scores: NDArray,
    component: int,
    held: Sequence[int],
    num_quantiles: int = 5,
    num_exemplars: int = 8,
    cells: NDArray | None = None,
    max_mean: int = 1000,
    seed: int = 0,
) -> Exemplars:
    """Choose patches that differ along one component while the other components shown stay near their median.

    Parameters
    ----------
    held
        Components (beside this one) held in their 40-60 % band. Where too few patches are in it, the band is widened step
        by step, and the result says how far.
    cells
        (N,) number of each patch's trajectory: the gallery shows as many different cells as there are.

    Notes
    -----
    Source: the quintile means and galleries of Wu et al. 2020 (DynaMorph), doi 10.1101/2020.07.20.213074.
    """
    rng = np.random.default_rng((seed, component))
    others = [index for index in held if index != component]
    shown = scores[:, [component, *others]]
    rank = np.argsort(np.argsort(shown, 0, kind="stable"), 0) / max(1, len(scores) - 1)
    cells = np.arange(len(scores)) if cells is None else cells
    quantile = np.minimum((rank[:, 0] * num_quantiles).astype(int), num_quantiles - 1)
    members, gallery, bands = [], [], []
    for number in range(num_quantiles):
        inside = rng.permutation(np.flatnonzero(quantile == number))
        other_rank = rank[inside, 1:]
        members.append(np.sort(inside[:max_mean]))
        for band in BANDS:
            near = inside[((other_rank >= band[0]) & (other_rank <= band[1])).all(1)]
            if len(near) >= num_exemplars:
                break
        _, first = np.unique(cells[near], return_index=True)
        first = np.sort(first)  # one patch of each cell, in random order; then further patches of the same cells
        chosen = np.concatenate([near[first], np.delete(near, first)])[:num_exemplars]
        gallery.append(chosen[np.argsort(scores[chosen, component], kind="stable")])
        bands.append(band)
    edges = np.quantile(scores[:, component], np.linspace(0, 1, num_quantiles + 1))
    return Exemplars(component, edges, members, gallery, bands)
