"""The latents table for a scatter plot: a sample of its points, their identity, columns to colour by and planes to show.

The file is read with h5py: it needs a few columns only, and loading anndata would cost more than the rest of the page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

IDENTITY = ("patch", "key")
MAX_GROUPS = 200  # words with more values than this say who, not which kind
MAX_COLUMNS = 30
FIRST = ("cluster", "true_state", "phase", "well", "subject", "part")  # colours shown first, where they are there
MANY = 64_000_000  # values of X that are read in one go


@dataclass
class Points:
    """A sample of the rows of a latents table."""

    total: int
    names: list[str]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    planes: dict[str, tuple[list[float], list[float], str, str]] = field(default_factory=dict)  # x, y and their names

    @property
    def first(self) -> str | None:
        """Return the column that colours the points at first."""
        return next((name for name in FIRST if name in self.columns), next(iter(self.columns), None))


def read_points(path: Path, max_points: int, seed: int, extra: Path | None = None) -> Points:
    """Read a sample.

    Parameters
    ----------
    max_points
        Rows at most, drawn from the seed.
    extra
        Another table of the same rows, whose further columns are added: clusters, for example.
    """
    with h5py.File(path) as file:
        obs, total = file["obs"], len(file["X"])
        rows = np.arange(total)
        if total > max_points:
            rows = np.sort(np.random.default_rng(seed).choice(total, max_points, replace=False))
        identity = next((name for name in IDENTITY if name in obs), obs.attrs.get("_index", "_index"))
        points = Points(total, [str(name) for name in column(obs, identity)[rows]])
        _add_columns(points, obs, rows)
        for name, key in (("UMAP", "X_umap"), ("PCA", "X_pca")):
            if key in file.get("obsm", ()):
                plane = np.asarray(file["obsm"][key][:, :2], float)[rows]
                points.planes[name] = _plane(plane, name)
        if not points.planes:
            x = file["X"]
            values = np.asarray(x[:] if x.size <= MANY else x[rows], np.float32)
            points.planes["PCA"] = _principal(values[rows] if x.size <= MANY else values)
    if extra is not None:
        with h5py.File(extra) as file:
            if len(file["X"]) == total and list(column(file["obs"], identity)[rows].astype(str)) == points.names:
                _add_columns(points, file["obs"], rows)
    return points


def _add_columns(points: Points, obs: h5py.Group, rows: np.ndarray) -> None:
    order = [name for name in obs.attrs.get("column-order", ()) if name in obs and name not in points.columns]
    for name in order[: MAX_COLUMNS - len(points.columns)]:
        values = column(obs, name)[rows]
        if values.dtype.kind in "fiu" and name != "cluster":
            if len(np.unique(values[np.isfinite(values.astype(float))])) > 1:
                points.columns[name] = [short(value) for value in values.tolist()]
        else:
            words = values.astype(str)
            if 1 < len(np.unique(words)) <= min(MAX_GROUPS, len(words) - 1):
                points.columns[name] = words.tolist()


def column(obs: h5py.Group, name: str) -> np.ndarray:
    """Return a column of an AnnData table: plain, categorical, or with a mask of missing values."""
    node = obs[name]
    if isinstance(node, h5py.Dataset):
        return node.asstr()[:] if h5py.check_string_dtype(node.dtype) else node[:]
    if "categories" in node:
        codes, categories = node["codes"][:], column(node, "categories")
        return np.where(codes >= 0, np.asarray(categories).astype(str)[codes], "none")
    values, mask = node["values"][:], node["mask"][:]
    return np.where(mask, np.nan, values) if values.dtype.kind in "fiub" else np.where(mask, "none", values.astype(str))


def _principal(x: np.ndarray) -> tuple[list[float], list[float], str, str]:
    """Return the first two principal components of rows and how much of the variance each has."""
    x = x - x.mean(0)
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh((x @ x.T if wide else x.T @ x).astype(float))
    share = values[::-1][:2] / max(values.sum(), 1e-30)
    top = vectors[:, ::-1][:, :2]
    scores = top * np.sqrt(np.maximum(values[::-1][:2], 0)) if wide else x @ top
    # An eigenvector's sign is arbitrary: the largest score is made positive, so that the same table gives the same picture.
    scores = scores * np.sign(scores[np.abs(scores).argmax(0), np.arange(scores.shape[1])])
    if scores.shape[1] == 1:
        scores, share = np.column_stack([scores, np.zeros(len(scores))]), np.append(share, 0.0)
    names = [f"PC{i + 1} ({share[i]:.1%} of the variance)" for i in range(2)]
    return [short(v) for v in scores[:, 0].tolist()], [short(v) for v in scores[:, 1].tolist()], *names


def _plane(plane: np.ndarray, name: str) -> tuple[list[float], list[float], str, str]:
    x, y = ([short(v) for v in plane[:, i].tolist()] for i in range(2))
    words = "PC" if name == "PCA" else "UMAP "
    return x, y, f"{words}1", f"{words}2"


def short(value: float) -> float | int | None:
    """Return a number with four significant digits; None where it is not finite."""
    if isinstance(value, int):
        return value
    return float(f"{value:.4g}") if np.isfinite(value) else None
