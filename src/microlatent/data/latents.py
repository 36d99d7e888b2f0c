"""The latents table of ``task=process``: find it, read it without loading it, join it back to its stores.

AnnData ``.h5ad``: ``X`` (N, D) latents before the quantiser, ``obsm["after"]``, ``obs`` one row per patch with the columns of
the store's table, ``row`` (index in the store), ``store`` (its path) and ``part`` (train, val, test or empty).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from microlatent.data.store import Store
from microlatent.files import atomic

NEEDED = ("row", "store", "well", "frame", "label", "trajectory")


def locate(latents: str | None, run: str | None, task: str) -> Path:
    """Return the table named by ``task.latents``, else the one that ``task=process`` left in the run.

    Raises
    ------
    FileNotFoundError
        It is not there; the message holds the command that makes it.
    ValueError
        Neither of the two keys is set.
    """
    if latents is None and run is None:
        raise ValueError(
            f"task={task} needs latents, but neither run nor task.latents is set. "
            "Give run=<folder>, run=latest or run=best (after task=process), or task.latents=<file.h5ad>."
        )
    path = Path(latents) if latents is not None else Path(run) / "process" / "latents.h5ad"
    if not path.is_file():
        remedy = f"python infer.py task=process data=wells run={run or '<run>'}"
        raise FileNotFoundError(
            f"There are no latents at {path} (from {'task.latents' if latents else 'run'}). Make them first with: {remedy}"
        )
    return path


class Latents:
    """A latents table; ``x`` (N, D) stays on disk where it is contiguous there. ``obs`` is a pandas table.

    ``stores(folder)`` yields what is needed to reach the patches.
    """

    def __init__(self, path: str | Path) -> None:
        from anndata.io import read_elem

        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                if "X" not in file or "obs" not in file:
                    raise ValueError(f"{self.path} is no latents table: it lacks X or obs. Make one with task=process.")
                obs = read_elem(file["obs"])
                self.x = self._map(file["X"])
        except OSError as error:
            raise ValueError(
                f"{self.path} cannot be read as HDF5 ({error}). It may be cut short; run task=process again."
            ) from error
        for name in obs.columns[obs.dtypes == "category"]:
            obs[name] = obs[name].astype(object)
        missing = [name for name in NEEDED if name not in obs]
        if missing:
            raise ValueError(
                f"{self.path} lacks the columns {', '.join(missing)}; it has {', '.join(obs.columns)}. "
                "They join the latents to their patches: make the table with task=process."
            )
        self.obs: pd.DataFrame = obs
        if not len(obs):
            raise ValueError(f"{self.path} holds no patch. Run task=process on a store that has some.")

    def _map(self, data: Any) -> np.ndarray:
        if not isinstance(data, h5py.Dataset) or data.ndim != 2:
            raise ValueError(
                f"{self.path}: X is not a dense matrix of patches by latent dimensions. Make the table with task=process."
            )
        offset = data.id.get_offset()
        if offset is None or data.chunks is not None:
            return data[:]
        return np.memmap(self.path, data.dtype, "r", offset, data.shape)

    def __len__(self) -> int:
        return len(self.obs)

    def stores(self, folder: str | None = None) -> Iterator[tuple[Store, np.ndarray]]:
        """Yield each store with the rows of this table that are of it, in the table's order.

        ``folder`` (``data.store``) is searched for stores that are no longer where they were.

        Raises
        ------
        ValueError
            A store has changed since the latents were made.
        """
        for name in pd.unique(self.obs["store"]):
            rows = np.flatnonzero(self.obs["store"] == name)
            path = Path(name)
            if not path.is_file() and folder is not None:
                path = Path(folder) / path.name
            if not path.is_file():
                raise FileNotFoundError(
                    f"{self.path} was made from the store {name}, which is gone. If it was moved, set data.store to its folder."
                )
            store = Store.open(path)
            at = self.obs["row"].to_numpy()[rows]
            if at.max() >= len(store) or (
                "key" in self.obs and (store.table["key"].to_numpy()[at] != self.obs["key"].iloc[rows]).any()
            ):
                raise ValueError(
                    f"{path} no longer holds the patches that {self.path} was made from: their keys differ. "
                    "Run task=process again."
                )
            yield store, rows

    def cells(self) -> np.ndarray:
        """Return a number for the trajectory of each patch, over all stores (N,); patches of none have their own."""
        pairs = self.obs["store"].astype(str) + "\0" + self.obs["label"].astype(str)
        return np.unique(pairs, return_inverse=True)[1]


def extend(source: Path, target: Path, entries: Mapping[str, Any]) -> None:
    """Copy a table and add entries such as ``{"obsm/X_pca": array, "uns/pca": {...}}``; memory does not hold the latents."""
    from anndata.io import write_elem

    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "a") as file:
            for key, value in entries.items():
                group, name = key.split("/")
                write_elem(file.require_group(group), name, value)
