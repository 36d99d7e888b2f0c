"""Linear baselines of learned latents: principal components and non-negative factors of the same pixels, fitted in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

BATCH = 512  # rows per update; also the most components, since an update needs as many rows
NMF_EPOCHS = 3  # passes over the rows: online updates settle slower than the singular values do

Blocks = Callable[[], Iterable[np.ndarray]]  # the training rows (n, P) float32, block by block, as often as it is called


class Baseline(NamedTuple):
    """A fitted linear model of P pixels in K components."""

    name: str  # pca or nmf
    transform: Callable[[np.ndarray], np.ndarray]  # (n, P) -> (n, K) float32
    restore: Callable[[np.ndarray], np.ndarray]  # (n, K) -> (n, P)
    components: np.ndarray  # (K, P)


def fit(name: str, blocks: Blocks, width: int, num: int, seed: int) -> Baseline:
    """Fit a baseline of at most ``width`` components to ``num`` rows.

    Memory holds one batch of rows and the components. Both are scikit-learn's.

    Source: ``pca`` Ross et al. 2008, doi:10.1007/s11263-007-0075-7 (incremental singular value decomposition); ``nmf`` Lefevre et
    al. 2011, arXiv:1106.4198 (online factorisation), of the pixels less their lowest value.
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
    from sklearn.decomposition import MiniBatchNMF

    floor = min(float(rows.min()) for rows in blocks())
    model = MiniBatchNMF(width, init="nndsvda", random_state=seed)
    for _ in range(NMF_EPOCHS):
        for rows in _batches(blocks(), max(width, 2)):
            model.partial_fit(np.maximum(rows - floor, 0))
    return Baseline(
        "nmf",
        lambda x: model.transform(np.maximum(x - floor, 0)).astype(np.float32),
        lambda z: z @ model.components_ + floor,
        model.components_,
    )


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


def explained(x: np.ndarray, restored: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
    """Return the squared error and the variance about a mean (P,) of rows (n, P), sums over the rows.

    The share that a model explains is one minus the ratio of the two, summed over all rows.
    """
    return float(((x - restored) ** 2).sum(dtype=np.float64)), float(((x - mean) ** 2).sum(dtype=np.float64))


def pool(x: np.ndarray, side_px: int) -> np.ndarray:
    """Average images (n, C, Y, X) to about ``side_px`` pixels along the shorter side and return them as rows (n, P) float32."""
    factor = max(1, min(x.shape[-2:]) // side_px)
    rows, columns = x.shape[-2] // factor, x.shape[-1] // factor
    x = x[..., : rows * factor, : columns * factor].reshape(*x.shape[:2], rows, factor, columns, factor).mean((3, 5))
    return x.astype(np.float32).reshape(len(x), -1)
