"""The latents table of ``task=process``: find it, read it without loading it, join it back to its stores.

AnnData ``.h5ad``: ``X`` (N, D) the model's latents (before a quantiser, posterior means), ``obsm`` others, ``obs`` one row per
patch with the columns of the store's table, ``row`` (index in the store), ``store`` (its path), ``part`` (train, val, test or
empty) and ``group`` (the trajectory, the subject: what is independent of the other groups).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from microlatent.analysis.baselines import pool
from microlatent.data.folders import store_folder
from microlatent.data.io import pickles
from microlatent.data.store import Moments, Store
from microlatent.files import atomic
from microlatent.progress import track
from microlatent.schemas import Settings

logger = logging.getLogger(__name__)

FEATURE_SIDE_PX = 32
NEEDED = ("row", "store", "key", "group")
BASELINE = "baseline_"  # matrices of baselines beside the latents begin so


def open_latents(settings: Settings, task: str) -> Latents:
    """Open the file named by ``task.latents``, else the table that ``task=process`` left in the run.

    Raises
    ------
    FileNotFoundError
        It is not there; the message holds the command that makes it.
    ValueError
        Neither ``task.latents`` nor ``run`` is set, or the file is no latents table.
    """
    latents, run = settings.task.latents, settings.run
    if latents is None and run is None:
        raise ValueError(
            f"task={task} needs latents, but neither run nor task.latents is set. "
            "Give run=<folder>, run=latest or run=best (after task=process), or task.latents=<file.h5ad>."
        )
    path = Path(latents) if latents is not None else Path(run) / "process" / "latents.h5ad"
    if not path.is_file():
        remedy = f"python infer.py task=process run={run or '<run>'}"
        raise FileNotFoundError(
            f"There are no latents at {path} (from {'task.latents' if latents else 'run'}). Make them first with: {remedy}"
        )
    if path.suffix != ".pkl":
        return Latents.open(path)
    return Latents.open(path, store_folder(settings.data, settings.outputs))


class Latents:
    """A latents table: ``obs`` one row per patch, ``x`` (N, D), which stays on disk where it is contiguous there.

    ``birth`` is the provenance of the trained model, empty where unknown.
    """

    def __init__(self, path: Path, obs: pd.DataFrame, x: np.ndarray, provenance: dict[str, Any] | None = None) -> None:
        self.path, self.obs, self.x, self.provenance = path, obs, x, provenance or {}

    @classmethod
    def open(cls, path: str | Path, stores: Path | None = None) -> Latents:
        """Open a table, or the reference's ``<well>_latent_space.pkl`` with the store of that well in the folder ``stores``.

        Raises
        ------
        ValueError
            The file is no latents table, is cut short, or does not fit its store.
        """
        path = Path(path)
        if path.suffix == ".pkl":
            return cls._from_pickle(path, stores)
        from anndata.io import read_elem

        try:
            with h5py.File(path, "r") as file:
                if "X" not in file or "obs" not in file:
                    raise ValueError(f"{path} is no latents table: it lacks X or obs. Make one with task=process.")
                obs, x = read_elem(file["obs"]), mapped(path, file["X"])
                provenance = json.loads(file["uns/birth"].asstr()[()]) if "uns/birth" in file else {}
        except OSError as error:
            raise ValueError(f"{path} cannot be read as HDF5 ({error}). It may be cut short; run task=process again.") from error
        for name in obs.columns[obs.dtypes == "category"]:
            obs[name] = obs[name].astype(object)
        missing = [name for name in NEEDED if name not in obs]
        if missing:
            raise ValueError(
                f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(obs.columns)}. "
                "They join the latents to their patches: make the table with task=process."
            )
        if not len(obs):
            raise ValueError(f"{path} holds no patch. Run task=process on a store that has some.")
        return cls(path, obs, x, provenance)

    @classmethod
    def _from_pickle(cls, path: Path, stores: Path | None) -> Latents:
        well, _, kind = path.stem.partition("_latent_space")
        if stores is None or kind not in ("", "_after"):
            raise ValueError(f"{path} is not named <well>_latent_space.pkl, so the store of its rows is unknown. Rename it.")
        x, store = pickles.load(path), Store.open(stores / f"{well}.h5")
        shape = getattr(x, "shape", None)
        if shape is None or len(shape) != 2 or len(x) != len(store):
            raise ValueError(
                f"{path} holds {f'an array of shape {shape}' if shape else type(x).__name__}, but the store {store.path} has "
                f"{len(store)} patches, one row of latents each. Assemble the well from the files the latents were made from."
            )
        obs = store.table.assign(row=np.arange(len(store)), store=str(store.path), part="")
        obs["group"] = obs["well"] + "/" + obs["label"].astype(str)
        obs.index = obs["well"] + "/" + obs["site"] + "/" + obs["frame"].astype(str) + "_" + obs["cell_id"].astype(str)
        return cls(path, obs, np.asarray(x, np.float32))

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

    @property
    def channels(self) -> list[str] | None:
        """Channels that the model saw, in its order; None where unknown."""
        return self.provenance.get("data", {}).get("channels")

    @property
    def normaliser(self) -> dict[str, Any] | None:
        """How the model's input was made (the state of a ``Normaliser``); None where unknown."""
        state = self.provenance.get("data", {}).get("normaliser")
        mode = self.provenance.get("process", {}).get("task", {}).get("normalise")
        return state and state | ({"mode": mode} if mode else {})

    def require(self, columns: tuple[str, ...], task: str, instead: str) -> None:
        """Refuse a table of another kind of data than a task is for."""
        missing = [name for name in columns if name not in self.obs]
        if missing:
            raise ValueError(
                f"task={task} needs the columns {', '.join(columns)}, but {self.path} has no {', '.join(missing)}: it was "
                f"made of another kind of data. {instead}"
            )

    def require_dims(self, key: str, dims: list[int] | None) -> None:
        """Refuse the dimensions that a setting names and the latents do not have; None names all."""
        width = self.x.shape[1]
        outside = [dim for dim in dims or () if not 0 <= dim < width]
        if outside or dims == []:
            raise ValueError(
                f"{key} is {dims}, but must name latent dimensions of {self.path} from 0 to {width - 1}. "
                f"Leave {outside or 'it'} out."
            )

    def matrices(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the matrices (N, D) that stand beside the latents under names with a prefix, such as the baselines'."""
        if self.path.suffix != ".h5ad":
            return {}
        with h5py.File(self.path, "r") as file:
            names = [name for name in file.get("obsm", {}) if name.startswith(prefix)]
            return {name: mapped(self.path, file[f"obsm/{name}"]) for name in names}

    def training_rows(self) -> np.ndarray:
        """Return the rows of the training part; all rows, and say so, where the table knows none."""
        rows = np.flatnonzero(self.obs["part"] == "train") if "part" in self.obs else np.array([], int)
        if len(rows) >= 2:
            return rows
        logger.warning("%s has no patches of the training part, so what is fitted is fitted to all of them.", self.path)
        return np.arange(len(self))

    def groups(self) -> np.ndarray:
        """Return a number for the independent group (trajectory, subject) of each patch (N,)."""
        return np.unique(self.obs["group"].astype(str), return_inverse=True)[1]

    def cells(self) -> np.ndarray:
        """Return a number for the raw trajectory of each patch of wells, over all stores (N,); patches of none have their own."""
        pairs = self.obs["store"].astype(str) + "\0" + self.obs["label"].astype(str)
        return np.unique(pairs, return_inverse=True)[1]


class Patches:
    """Patches of the rows of a latents table, by name of channel, whichever store they lie in."""

    def __init__(self, latents: Latents, stores: list[tuple[Store, np.ndarray]], channels: list[str] | None = None) -> None:
        self.stores = [store for store, _ in stores]
        self.row = latents.obs["row"].to_numpy()
        self.store_of = np.empty(len(latents), int)
        for number, (_, rows) in enumerate(stores):
            self.store_of[rows] = number
        self.channels = list(channels or self.stores[0].channels)
        for store in self.stores:
            missing = [name for name in self.channels if name not in store.channels]
            if missing:
                raise ValueError(
                    f"Channels {missing} are needed but {store.path} has {store.channels}. Choose others with data.channels."
                )
        self.index = [[store.channels.index(name) for name in self.channels] for store in self.stores]

    @property
    def patch_pixel_um(self) -> float | None:
        """Size of a patch's pixel; None where unknown or not the same in all stores."""
        sizes = {store.patch_pixel_um for store in self.stores}
        return sizes.pop() if len(sizes) == 1 else None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 patches (n, C, Y, X) in camera counts."""
        return np.stack(
            [self.stores[at].images[self.row[i], self.index[at]] for i, at in zip(rows, self.store_of[rows], strict=True)]
        ).astype(np.float32)

    def moments(self, rows: np.ndarray) -> Moments:
        """Return the moments of some patches, each (n, C), without reading pixels."""
        out = Moments(*np.empty((len(Moments._fields), len(rows), len(self.channels))))
        for number, store in enumerate(self.stores):
            here = self.store_of[rows] == number
            for part, values in zip(out, store.moments, strict=True):
                part[here] = values[self.row[rows[here]]][:, self.index[number]]
        return out

    def features(self, rows: np.ndarray, train: np.ndarray, normaliser: dict[str, Any] | None) -> np.ndarray:
        """Return the pixels as a baseline for latents (n, P) float32: patches averaged to about 32 pixels a side.

        Parameters
        ----------
        normaliser
            What the model's input was made by, so that the baseline sees the same; where it is unknown, or not of these
            channels, each channel is z-scored over the rows ``train``.
        """
        import torch

        from microlatent.data.normalise import Normaliser

        if normaliser is not None and normaliser["channels"] == self.channels:
            made = Normaliser(**normaliser)
        else:
            mean, std, *_ = self.moments(train)
            centre = mean.mean(0)
            scale = np.sqrt((std**2 + (mean - centre) ** 2).mean(0))
            made = Normaliser("dataset", self.channels, centre.tolist(), np.where(scale > 0, scale, 1.0).tolist())
        blocks = []
        for start in track(range(0, len(rows), 64), "Reading pixels", total=-(-len(rows) // 64)):
            x = made.apply(torch.from_numpy(self.read(rows[start : start + 64]))).numpy()
            blocks.append(pool(x, FEATURE_SIDE_PX))
        return np.concatenate(blocks)


def mapped(path: Path, data: Any) -> np.ndarray:
    """Return a matrix of an open HDF5 file as a memory map, or read it if it is chunked."""
    if not isinstance(data, h5py.Dataset) or data.ndim != 2:
        raise ValueError(f"{path}: X is not a dense matrix of patches by latent dimensions. Make the table with task=process.")
    offset = data.id.get_offset()
    if offset is None or data.chunks is not None:
        return data[:]
    return np.memmap(path, data.dtype, "r", offset, data.shape)


def extend(latents: Latents, target: Path, entries: Mapping[str, Any]) -> None:
    """Copy a table and add entries such as ``{"obsm/X_pca": array, "uns/pca": {...}}``; memory does not hold the latents."""
    from anndata import AnnData
    from anndata.io import write_elem

    with atomic(target) as temporary:
        if latents.path.suffix == ".h5ad":
            shutil.copyfile(latents.path, temporary)
        else:
            AnnData(latents.x, obs=latents.obs).write_h5ad(temporary)
        with h5py.File(temporary, "a") as file:
            for key, value in entries.items():
                group, name = key.split("/")
                write_elem(file.require_group(group), name, value)


def add_clusters(latents: Latents, target: Path, values: pd.Categorical, about: Mapping[str, Any]) -> None:
    """Copy a table with a column ``cluster`` (N,), the last one, and ``uns/cluster``: how the clusters were made."""
    with atomic(target) as temporary:
        extend(latents, temporary, {"obs/cluster": values, "uns/cluster": dict(about)})
        with h5py.File(temporary, "a") as file:
            order = [name for name in file["obs"].attrs["column-order"] if name != "cluster"]
            file["obs"].attrs["column-order"] = np.array([*order, "cluster"], dtype=h5py.string_dtype())
