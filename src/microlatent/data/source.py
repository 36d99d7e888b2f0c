"""Stores as one table of patches, and the batches that training, evaluation and inference take from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from microlatent import distributed
from microlatent.data.augment import dihedral, draw
from microlatent.data.batch import Batch
from microlatent.data.normalise import Normaliser
from microlatent.data.relations import RelationTable, reference_order
from microlatent.data.split import Split
from microlatent.data.store import Store


class PatchSource:
    """All patches of some stores.

    Parameters
    ----------
    stores
        Opened stores with the same patch shape.
    channels
        Names in the order the model sees them; None takes the first store's.
    order
        ``tracks``: whole trajectories, reshuffled each epoch; ``reference``: the wells reference's fixed order; ``random``.
    augment
        Random flips and quarter turns of training patches.

    Raises
    ------
    ValueError
        A channel is absent, or the stores disagree.
    """

    def __init__(self, stores: list[Store], channels: list[str] | None, *, order: str = "random", augment: bool = False) -> None:
        self.stores, self.order, self.augment = stores, order, augment
        self.channels = list(channels or stores[0].channels)
        self.channel_index = [self._find_channels(store) for store in stores]
        shapes = {store.images.shape[2:] for store in stores}
        if len(shapes) > 1 or len(shape := shapes.pop()) != 2 or shape[0] != shape[1]:
            found = ", ".join(f"{store.path.name}: {store.images.shape[2:]}" for store in stores)
            raise ValueError(f"The stores' patches differ in size ({found}). Assemble them again with one task.patch_px.")
        self.patch_px = shape[0]
        self.starts = np.cumsum([0] + [len(store) for store in stores])
        self.table = pd.concat(
            [store.table.assign(row=np.arange(len(store)), store=str(store.path)) for store in stores], ignore_index=True
        )
        columns = [(store.moments[0][:, index], store.moments[1][:, index]) for store, index in self._indexed()]
        self.moments = tuple(np.concatenate(part) for part in zip(*columns, strict=True))
        shifted = [store.relations + np.array([[start, start, 0]]) for store, start in zip(stores, self.starts, strict=False)]
        self.relations = RelationTable(np.concatenate(shifted), len(self))
        self.fingerprints = {store.path.name: store.fingerprint for store in stores}
        self.normaliser: Normaliser | None = None
        self.split: Split | None = None
        self.rows: dict[str, np.ndarray] = {"all": np.arange(len(self))}
        self.resident: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _indexed(self) -> zip:
        return zip(self.stores, self.channel_index, strict=True)

    def _find_channels(self, store: Store) -> list[int]:
        missing = [name for name in self.channels if name not in store.channels]
        if missing:
            raise ValueError(
                f"Channels {missing} are needed but {store.path} has {store.channels}. Name its channels with data.channel_names "
                "when assembling, or choose others with data.channels."
            )
        return [store.channels.index(name) for name in self.channels]

    def keep_only(self, column: str, values: list[str], key: str) -> None:
        """Leave out all rows but those with the given values; ``key`` is the setting that asked for it."""
        absent = sorted(set(values) - set(self.table[column]))
        if absent:
            raise ValueError(f"{key} names {absent}, but the stores hold {sorted(set(self.table[column]))}.")
        self.rows = {"all": np.flatnonzero(self.table[column].isin(values))}

    # ------------------------------------------------------------------------------------------- split, statistics

    def groups(self, by: str) -> np.ndarray:
        """Name of every row's group; the finest never tears a chain of related patches."""
        if by == "well":
            return self.table["well"].to_numpy().astype(object)
        site = self.table["well"] + "/" + self.table["site"]
        if by == "site":
            return site.to_numpy().astype(object)
        component = self.relations.components()
        first = pd.Series(np.arange(len(self))).groupby(component).transform("first").to_numpy()
        return (self.table["well"] + "/" + self.table["key"].map(lambda key: "/".join(key.split("/")[-2:]))).to_numpy()[first]

    def use_split(self, split: Split) -> None:
        """Set which rows are train and val."""
        self.split = split
        parts = split.parts(self.groups(split.by)[self.rows["all"]])
        self.rows |= {part: self.rows["all"][parts == part] for part in ("train", "val")}

    def fit_normaliser(self, mode: str) -> Normaliser:
        """Set the normalisation from the training rows."""
        self.normaliser = Normaliser.fit(mode, self.channels, self.moments, self.rows["train"])
        return self.normaliser

    # ----------------------------------------------------------------------------------------------------- batches

    def plan(self, part: str, epoch: int, batch_size: int, seed: int) -> list[np.ndarray]:
        """Rows of every batch of an epoch; a function of its arguments alone, so a resumed run finds its place."""
        rows = self.rows[part]
        if part == "train":
            rows = rows[self._shuffled(rows, np.random.default_rng([seed, 2, epoch]))]
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        if len(batches) > 1 and len(batches[-1]) < max(2, distributed.world_size()):
            batches[-2:] = [np.concatenate(batches[-2:])]  # no process and no batch statistic may be left with nothing
        return batches

    def _shuffled(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if self.order == "random":
            return random.permutation(len(rows))
        if self.order == "reference":
            place = np.full(len(self), -1)
            place[rows] = np.arange(len(rows))
            order = place[reference_order(self.relations, len(self))]
            return order[order >= 0]
        label = self.table["store"].to_numpy()[rows] + "\t" + self.table["label"].to_numpy()[rows].astype(str)
        _, track = np.unique(label, return_inverse=True)
        turn = random.permutation(track.max() + 1)
        return np.lexsort([self.table["frame"].to_numpy()[rows], turn[track]])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return patches (n, C, Y, X) in the stores' dtype."""
        if len(self.stores) == 1 and self.channel_index[0] == list(range(len(self.stores[0].channels))):
            return self.stores[0].images[rows]
        dtype = np.result_type(*(store.images.dtype for store in self.stores))
        out = np.empty((len(rows), len(self.channels), self.patch_px, self.patch_px), dtype)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number, (store, index) in enumerate(self._indexed()):
            here = owner == number
            if here.any():
                out[here] = store.images[rows[here] - self.starts[number]][:, index]
        return out

    def _masks(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), 1, self.patch_px, self.patch_px), np.uint8)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number, store in enumerate(self.stores):
            if store.masks is None:
                raise ValueError(f"model.masked_loss needs cell masks, but {store.path} has none. Assemble with task.masks=true.")
            here = owner == number
            out[here] = store.masks[rows[here] - self.starts[number]]
        return out

    def make_resident(self, device: torch.device) -> None:
        """Keep all patches in the device's memory."""
        self.resident = torch.from_numpy(self.read(np.arange(len(self)))).to(device)

    def batch(
        self,
        rows: np.ndarray,
        device: torch.device,
        *,
        augment_seed: tuple[int, ...] | None = None,
        relations: bool = False,
        masks: bool = False,
        channels_last: bool = False,
        alone: bool = False,
    ) -> Batch:
        """Return this process's part of a global batch, normalised on the device.

        Parameters
        ----------
        rows
            Rows of the global batch.
        augment_seed
            Numbers from which flips and quarter turns are drawn (seed, step ...); None leaves the patches as they are.
        relations
            Add the relation codes of the global batch.
        masks
            Add pixel weights: 1 on the cell's enlarged mask, 0.5 elsewhere.
        alone
            Give this process the whole batch.
        """
        assert self.normaliser is not None
        here = slice(None) if alone else distributed.shard(len(rows))
        local = rows[here]
        index = torch.from_numpy(local)
        x = self.resident[index.to(device)] if self.resident is not None else torch.from_numpy(self.read(local)).to(device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x = self.normaliser.apply(x.to(torch.float32, memory_format=layout))
        mask = torch.from_numpy(self._masks(local)).to(device).float().add_(1).div_(2) if masks else None
        if augment_seed is not None:
            entropy = np.random.SeedSequence([3, *augment_seed]).generate_state(1, np.uint64)
            draws = draw(len(rows), torch.Generator().manual_seed(int(entropy[0] >> 1)))[here]
            x = dihedral(x, draws)
            mask = dihedral(mask, draws) if mask is not None else None
        codes = torch.from_numpy(self.relations.among(rows)).to(device) if relations else None
        return Batch(x, index, codes, mask)


def open_stores(folder: Path, names: list[str] | None) -> list[Store]:
    """Open every store of a folder, or the named ones, in the order of their names.

    Raises
    ------
    FileNotFoundError
        The folder or a named store is absent; the message lists what is there.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.h5")) if not path.name.startswith(".")}
    if not found:
        raise FileNotFoundError(
            f"There is no store in {folder}. Make one from raw files: python infer.py task=assemble data.root=<folder>, "
            "or name the folder of stores: data.store=<folder>."
        )
    missing = [name for name in names or [] if name not in found]
    if missing:
        raise FileNotFoundError(f"data.wells names {missing}, but {folder} holds {list(found)}.")
    return [Store.open(found[name]) for name in names or found]
