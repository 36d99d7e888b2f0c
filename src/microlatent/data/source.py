"""Stores as one table of patches, and the batches that training, evaluation and inference take from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from microlatent import distributed
from microlatent.contract import Batch
from microlatent.data.augment import dihedral, draw
from microlatent.data.normalise import Normaliser
from microlatent.data.relations import RelationTable
from microlatent.data.split import PARTS, Split
from microlatent.data.store import Moments, Store

BLOCK = 256  # rows read at a time where all are needed


class PatchSource:
    """All patches of some stores; a system's own kind says which patches belong together.

    ``split_levels`` are the groups that a split may hold out together (``data.split_by``), each by the columns that name it;
    ``independent_unit`` is the one whose members are independent of each other's, over which statistics are taken.

    Parameters
    ----------
    stores
        Opened stores with the same patch shape.
    channels
        Names in the order the model sees them; None takes the first store's.
    augment
        Random flips and quarter turns of training patches.

    Raises
    ------
    ValueError
        A channel is absent, or the stores disagree.
    """

    split_levels: ClassVar[dict[str, tuple[str, ...]]] = {"patch": ("key",)}
    independent_unit: ClassVar[str] = "patch"
    baselines: ClassVar[tuple[str, ...]] = ()  # that task=process fits beside the latents: pca, nmf

    def __init__(self, stores: list[Store], channels: list[str] | None, *, augment: bool = False) -> None:
        self.stores, self.augment = stores, augment
        self.channels = list(channels or stores[0].channels)
        self.channel_index = [self._find_channels(store) for store in stores]
        shapes = {store.images.shape[2:] for store in stores}
        if len(shapes) > 1:
            found = ", ".join(f"{store.path.name}: {store.images.shape[2:]}" for store in stores)
            raise ValueError(f"The stores' patches differ in size ({found}). Assemble them again with one size.")
        self.shape_px: tuple[int, int] = shapes.pop()  # rows and columns of a patch
        self.starts = np.cumsum([0] + [len(store) for store in stores])
        self.table = pd.concat(
            [store.table.assign(row=np.arange(len(store)), store=str(store.path)) for store in stores], ignore_index=True
        )
        self.moments = Moments.join([store.moments.take((slice(None), index)) for store, index in self._indexed()])
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

    def select(self, column: str, values: list[str], key: str) -> None:
        """Leave out all rows but those with the given values; ``key`` is the setting that asked for it."""
        absent = sorted(set(values) - set(self.table[column]))
        if absent:
            raise ValueError(f"{key} names {absent}, but the stores hold {sorted(set(self.table[column]))}.")
        self.rows = {"all": np.flatnonzero(self.table[column].isin(values))}

    def rows_used_by(self, data: dict[str, Any]) -> np.ndarray:
        """Return which rows (N,) a run with these data settings took, as far as its split does not say."""
        return np.ones(len(self), bool)

    # ------------------------------------------------------------------------------------------- split, statistics

    def names(self) -> pd.Series:
        """Name of every row, the same in every table made from it."""
        return self.table["key"]

    def groups(self, by: str) -> np.ndarray:
        """Name of every row's group at one of the levels."""
        first, *rest = self.split_levels[by]
        name = self.table[first].astype(str)
        for column in rest:
            name = name + "/" + self.table[column].astype(str)
        return name.to_numpy().astype(object)

    def use_split(self, split: Split) -> None:
        """Set which rows are train, val and test."""
        self.split = split
        parts = split.parts(self.groups(split.by)[self.rows["all"]])
        self.rows |= {part: self.rows["all"][parts == part] for part in PARTS}

    def parts(self) -> np.ndarray:
        """Return the part (N,) of every row: train, val, test, or nothing."""
        part = np.full(len(self), "", dtype=object)
        for name in PARTS:
            part[self.rows[name]] = name
        return part

    def fit_normaliser(self, mode: str, cofactor: float | None = None, percentile: float | None = None) -> Normaliser:
        """Set the normalisation from the training rows."""
        rows = self.rows["train"]
        self.normaliser = Normaliser.fit(
            mode, self.channels, self.moments.take(rows), lambda: self.blocks(rows), cofactor=cofactor, percentile=percentile
        )
        return self.normaliser

    def blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Read patches a block at a time, in the stores' dtype."""
        for start in range(0, len(rows), BLOCK):
            yield self.read(rows[start : start + BLOCK])

    def extra_files(self, out: Path) -> list[Path]:
        """Return the files that users of this kind of data expect beside the latents table in ``out``."""
        return []

    def write_extra_files(self, out: Path, rows: np.ndarray) -> None:
        """Write these files for the rows of the table."""

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
        """Order of the training rows in an epoch, as indices into ``rows``."""
        return random.permutation(len(rows))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return patches (n, C, Y, X) in the stores' dtype."""
        if len(self.stores) == 1 and self.channel_index[0] == list(range(len(self.stores[0].channels))):
            return self.stores[0].images[rows]
        dtype = np.result_type(*(store.images.dtype for store in self.stores))
        out = np.empty((len(rows), len(self.channels), *self.shape_px), dtype)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number, (store, index) in enumerate(self._indexed()):
            here = owner == number
            if here.any():
                out[here] = store.images[rows[here] - self.starts[number]][:, index]
        return out

    def _masks(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), 1, *self.shape_px), np.uint8)
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
        return Batch(x, weight=mask, relations=codes)
