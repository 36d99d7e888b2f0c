"""Linear baselines of learned latents: principal components and non-negative factors of the same pixels, fitted in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

BATCH = 512  # rows per update; also the most components, since an update needs as many rows
NMF_PASSES = 12  # over the rows
SWEEPS = 20  # of coordinate descent in each step

Blocks = Callable[[], Iterable[np.ndarray]]  # the training rows (n, P) float32, block by block, as often as it is called


class Baseline(NamedTuple):
    """A fitted linear model of P pixels in K components."""

    name: str  # pca or nmf
    transform: Callable[[np.ndarray], np.ndarray]  # (n, P) -> (n, K) float32
    restore: Callable[[np.ndarray], np.ndarray]  # (n, K) -> (n, P)
    components: np.ndarray  # (K, P)


def fit(name: str, blocks: Blocks, width: int, num: int, seed: int) -> Baseline:
    """Fit a baseline of at most ``width`` components to ``num`` rows.

    Memory holds one batch of rows and the components. ``nmf`` is of the pixels less their lowest value; scikit-learn's online
    factorisation explains half as much of Kikuchi patterns in as many passes, so this one is exact alternating least squares.

    Source: ``pca`` Ross et al. 2008, doi:10.1007/s11263-007-0075-7 (incremental singular value decomposition, scikit-learn);
    ``nmf`` Cichocki & Phan 2009, doi:10.1587/transfun.E92.A.708 (hierarchical alternating least squares).
    """
    width = min(width, num, BATCH)
    return _pca(blocks, width) if name == "pca" else _nmf(blocks, width, seed)


def _pca(blocks: Blocks, width: int) -> Baseline:
    from sklearn.decomposition import IncrementalPCA

    model = IncrementalPCA(width)
    for rows in _batches(blocks(), max(width, 2)):
        model.partial_fit(rows)
    return Baseline(
        "pca",
        lambda x: model.transform(x).astype(np.float32),
        lambda z: model.inverse_transform(z),
        model.components_,
    )


def _nmf(blocks: Blocks, width: int, seed: int) -> Baseline:
    """Alternate between the weights of every batch and the factors, whose least squares need two sums over the batches alone."""
    from sklearn.decomposition import NMF

    floor = min(float(rows.min()) for rows in blocks())
    first = next(_batches(blocks(), width)) - floor
    factors = NMF(width, init="nndsvda", random_state=seed, max_iter=SWEEPS, tol=0).fit(first).components_.astype(np.float64)
    for _ in range(NMF_PASSES):
        gram, target = np.zeros((width, width)), np.zeros_like(factors)
        for rows in _batches(blocks(), width):
            weights = _weights(rows - floor, factors)
            gram += weights.T @ weights
            target += weights.T @ (rows - floor)
        _descend(factors, gram, target)
    factors /= np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)  # so that weights of different factors compare
    return Baseline(
        "nmf",
        lambda x: _weights(np.maximum(x - floor, 0), factors).astype(np.float32),
        lambda z: z @ factors + floor,
        factors,
    )


def _weights(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the non-negative weights (n, K) of rows (n, P) that reproduce them best."""
    gram, target = factors @ factors.T, x @ factors.T
    weights = np.maximum(np.linalg.lstsq(gram, target.T, rcond=None)[0], 0)
    _descend(weights, gram, target.T)
    return weights.T


def _descend(unknown: np.ndarray, gram: np.ndarray, target: np.ndarray) -> None:
    """Minimise ||target - gram @ unknown|| over non-negative rows of ``unknown`` (K, m), one row after the other, in place."""
    for _ in range(SWEEPS):
        for k in range(len(unknown)):
            step = (target[k] - gram[k] @ unknown) / max(gram[k, k], 1e-12)
            unknown[k] = np.maximum(unknown[k] + step, 0)


def _batches(blocks: Iterable[np.ndarray], least: int) -> Iterator[np.ndarray]:
    """Regroup rows to BATCH at a time, however they come; the last have at least ``least``, or are all there is."""
    waiting = np.empty((0, 0), np.float32)
    for rows in blocks:
        waiting = np.concatenate([waiting, rows]) if len(waiting) else rows
        while len(waiting) >= BATCH + least:
            yield waiting[:BATCH]
            waiting = waiting[BATCH:]
    if len(waiting):
        yield waiting


def squares(x: np.ndarray, restored: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
    """Return the squared error of rows (n, P) and their squares about a mean (P,), sums over the rows; see ``explained``."""
    return float(((x - restored) ** 2).sum(dtype=np.float64)), float(((x - mean) ** 2).sum(dtype=np.float64))


def pool(x: np.ndarray, side_px: int) -> np.ndarray:
    """Average images (n, C, Y, X) to about ``side_px`` pixels along the shorter side and return them as rows (n, P) float32."""
    factor = max(1, min(x.shape[-2:]) // side_px)
    rows, columns = x.shape[-2] // factor, x.shape[-1] // factor
    x = x[..., : rows * factor, : columns * factor].reshape(*x.shape[:2], rows, factor, columns, factor).mean((3, 5))
    return x.astype(np.float32).reshape(len(x), -1)
