"""Samples as rows of a table, their split, and the batches that training, evaluation and inference take from them.

``TableSource`` is what the loop needs of any kind of data (``contract.Source``); ``PatchSource`` reads assembled stores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from microlatent import distributed
from microlatent.contract import Batch
from microlatent.data.augment import augmented
from microlatent.data.normalise import Normaliser
from microlatent.data.relations import RelationTable
from microlatent.data.split import PARTS, Split
from microlatent.data.store import Moments, Store
from microlatent.device import layout

BLOCK = 256  # rows read at a time where all are needed


class TableSource:
    """Named samples with targets or without; a kind of data says how its rows are read, and which belong together.

    ``split_levels`` are the groups that a split may hold out together (``data.split_by``), each by the columns that name it;
    ``independent_unit`` is the one whose members are independent of each other's, over which statistics are taken.

    Parameters
    ----------
    table
        A row per sample; its column ``key`` names it.
    channels, target_channels
        Names, in the order the model sees them.
    shape
        Of a sample, without channels: (Y, X) or (Z, Y, X).
    augment
        Random flips and quarter turns of training samples.
    """

    split_levels: ClassVar[dict[str, tuple[str, ...]]] = {"patch": ("key",)}
    independent_unit: ClassVar[str] = "patch"
    pixel_um: float | None = None
    z_um: float | None = None  # from plane to plane

    def __init__(
        self,
        table: pd.DataFrame,
        channels: list[str],
        shape: tuple[int, ...],
        fingerprints: dict[str, str],
        *,
        target_channels: list[str] | None = None,
        augment: bool = False,
    ) -> None:
        self.table, self.channels, self.target_channels = table, list(channels), target_channels
        self.shape, self.fingerprints, self.augment = tuple(shape), fingerprints, augment
        self.normaliser: Normaliser | None = None
        self.split: Split | None = None
        self.rows: dict[str, np.ndarray] = {"all": np.arange(len(self))}
        self.resident: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.table)

    # --------------------------------------------------------------------------------- what a kind of data must say

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return samples (n, C, *space) as they are stored."""
        raise NotImplementedError

    def read_target(self, rows: np.ndarray, needs: Collection[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the target (n, K, *space) and its weight, of numbers that become float32; None where there is none."""
        return None, None

    def fit_normaliser(self, mode: str, cofactor: float | None = None, percentile: float | None = None) -> Normaliser:
        """Set the normalisation from the training rows."""
        rows = self.rows["train"]
        self.normaliser = Normaliser.fit(
            mode, self.channels, self.measure(rows), lambda: self.blocks(rows), cofactor=cofactor, percentile=percentile
        )
        return self.normaliser

    def measure(self, rows: np.ndarray) -> Moments:
        """Return the statistics of rows."""
        return Moments.join([Moments.of(block) for block in self.blocks(rows)])

    def contents(self) -> list[str]:
        """Return a line for each file: what is in it."""
        return [f"{name}: of {len(self)} samples, channels {self.channels}" for name in self.fingerprints]

    def relation_codes(self, rows: np.ndarray) -> np.ndarray:
        """Return how the rows are related to each other, (n, n) int8."""
        return np.eye(len(rows), dtype=np.int8) * 2

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return self.read(np.arange(1)).nbytes * len(self)

    def select(self, column: str, values: list[str], key: str) -> None:
        """Leave out all rows but those with the given values; ``key`` is the setting that asked for it."""
        absent = sorted(set(values) - set(self.table[column]))
        if absent:
            raise ValueError(f"{key} names {absent}, but the stores hold {sorted(set(self.table[column]))}.")
        self.rows = {"all": np.flatnonzero(self.table[column].isin(values))}

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

    def prepare(self, data: Any, seed: int) -> None:
        """Draw the split from the seed, and fit the normalisation to the training part; ``data`` are the settings.

        Raises
        ------
        ValueError
            No row is left to train on.
        """
        groups = self.groups(data.split_by)[self.rows["all"]]
        self.use_split(Split.draw(data.split_by, groups, data.val_share, data.test_share, seed))
        if not len(self.rows["train"]):
            raise ValueError(
                f"data.split_by={data.split_by} leaves none of {len(self.rows['all'])} samples to train on. Lower data.val_share "
                "or data.test_share, or use a finer data.split_by."
            )
        self.fit_normaliser(data.normalise, data.arcsinh_cofactor, data.clip_percentile)

    def use_split(self, split: Split) -> None:
        """Set which rows are train, val and test."""
        self.split = split
        parts = split.parts(self.groups(split.by)[self.rows["all"]])
        self.rows |= {part: self.rows["all"][parts == part] for part in PARTS}

    def rows_used_by(self, provenance: dict[str, Any]) -> np.ndarray:
        """Return which rows (N,) a run of this provenance took, as far as its split does not say."""
        known = provenance["data"]["fingerprints"]
        return np.full(len(self), all(known.get(name) == digest for name, digest in self.fingerprints.items()))

    def parts(self) -> np.ndarray:
        """Return the part (N,) of every row: train, val, test, or nothing."""
        part = np.full(len(self), "", dtype=object)
        for name in PARTS:
            part[self.rows[name]] = name
        return part

    def blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Read patches a block at a time, in the stores' dtype."""
        for start in range(0, len(rows), BLOCK):
            yield self.read(rows[start : start + BLOCK])

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

    def examples(self, num: int) -> np.ndarray:
        """Return at most ``num`` held-out rows to draw, evenly spread; training rows where nothing is held out."""
        rows = self.rows["val"] if len(self.rows["val"]) else self.rows["train"]
        return rows[np.unique(np.linspace(0, len(rows) - 1, num).astype(int))]

    def make_resident(self, device: torch.device) -> None:
        """Keep all samples in the device's memory."""
        self.resident = torch.from_numpy(self.read(np.arange(len(self)))).to(device)

    def batch(
        self,
        rows: np.ndarray,
        device: torch.device,
        *,
        needs: Collection[str] = (),
        augment_seed: tuple[int, ...] | None = None,
        channels_last: bool = False,
        alone: bool = False,
    ) -> Batch:
        """Return this process's part of a global batch, normalised on the device.

        Parameters
        ----------
        rows
            Rows of the global batch.
        needs
            ``relations``: the relation codes of the global batch; ``mask``: pixel weights.
        augment_seed
            Numbers from which flips and quarter turns are drawn (seed, step ...); None leaves the samples as they are.
        alone
            Give this process the whole batch.
        """
        assert self.normaliser is not None
        here = slice(None) if alone else distributed.shard(len(rows))
        local = rows[here]
        index = torch.from_numpy(local)

        def ready(x: torch.Tensor) -> torch.Tensor:
            return x.to(device).to(torch.float32, memory_format=layout(x.ndim, channels_last))

        x = ready(self.resident[index.to(device)] if self.resident is not None else torch.from_numpy(self.read(local)))
        target = self.read_target(local, needs)
        y, weight = (None if values is None else ready(torch.from_numpy(values)) for values in target)
        codes = torch.from_numpy(self.relation_codes(rows)).to(device) if "relations" in needs else None
        batch = Batch(self.normaliser.apply(x), y, weight, codes)
        return batch if augment_seed is None else augmented(batch, len(rows), here, augment_seed)


class PatchSource(TableSource):
    """All patches of some stores; a system's own kind says which patches belong together.

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

    baselines: ClassVar[tuple[str, ...]] = ()  # that task=process fits beside the latents: pca, nmf

    def __init__(self, stores: list[Store], channels: list[str] | None, *, augment: bool = False) -> None:
        self.stores, self.channels = stores, list(channels or stores[0].channels)
        self.channel_index = [self._find_channels(store) for store in stores]
        shapes = {store.images.shape[2:] for store in stores}
        if len(shapes) > 1:
            found = ", ".join(f"{store.path.name}: {store.images.shape[2:]}" for store in stores)
            raise ValueError(f"The stores' patches differ in size ({found}). Assemble them again with one size.")
        tables = [store.table.assign(row=np.arange(len(store)), store=str(store.path)) for store in stores]
        fingerprints = {store.path.name: store.fingerprint for store in stores}
        super().__init__(pd.concat(tables, ignore_index=True), self.channels, shapes.pop(), fingerprints, augment=augment)
        self.starts = np.cumsum([0] + [len(store) for store in stores])
        self.moments = Moments.join([store.moments.take((slice(None), index)) for store, index in self._indexed()])
        shifted = [store.relations + np.array([[start, start, 0]]) for store, start in zip(stores, self.starts, strict=False)]
        self.relations = RelationTable(np.concatenate(shifted), len(self))
        sizes = {store.patch_pixel_um for store in stores}
        self.pixel_um = sizes.pop() if len(sizes) == 1 else None

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

    def measure(self, rows: np.ndarray) -> Moments:
        """Return the statistics of rows, which the stores hold."""
        return self.moments.take(rows)

    def rows_used_by(self, provenance: dict[str, Any]) -> np.ndarray:
        """Return which rows (N,) a run of this provenance took: those of stores that it knew, as they were."""
        known = provenance["data"]["fingerprints"]
        own = [known.get(store.path.name) == store.fingerprint for store in self.stores]
        return np.repeat(own, [len(store) for store in self.stores])

    def examples(self, num: int) -> np.ndarray:
        """Return at most ``num`` held-out rows to draw, evenly spread; a single one is the patch of most contrast."""
        if num > 1:
            return super().examples(num)
        rows = super().examples(len(self))
        contrast = self.moments.std[rows] / np.maximum(self.moments.std.mean(0), 1e-12)
        return rows[[contrast.mean(1).argmax()]]

    def contents(self) -> list[str]:
        """Return a line for each store: what is in it."""
        return [f"{store.path}: {len(store)} patches, channels {store.channels}" for store in self.stores]

    @property
    def nbytes(self) -> int:
        """Bytes of all patches."""
        return sum(store.images.nbytes for store in self.stores)

    def relation_codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the relation codes of the rows, (n, n) int8."""
        return self.relations.among(rows)

    def extra_files(self, out: Path) -> list[Path]:
        """Return the files that users of this kind of data expect beside the latents table in ``out``."""
        return []

    def write_extra_files(self, out: Path, rows: np.ndarray) -> None:
        """Write these files for the rows of the table."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return patches (n, C, Y, X) in the stores' dtype."""
        if len(self.stores) == 1 and self.channel_index[0] == list(range(len(self.stores[0].channels))):
            return self.stores[0].images[rows]
        dtype = np.result_type(*(store.images.dtype for store in self.stores))
        out = np.empty((len(rows), len(self.channels), *self.shape), dtype)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number, (store, index) in enumerate(self._indexed()):
            here = owner == number
            if here.any():
                out[here] = store.images[rows[here] - self.starts[number]][:, index]
        return out

    def read_target(self, rows: np.ndarray, needs: Collection[str]) -> tuple[None, np.ndarray | None]:
        """Return no target, and where masks are needed pixel weights: 1 on the cell's enlarged mask, 0.5 elsewhere."""
        if "mask" not in needs:
            return None, None
        out = np.empty((len(rows), 1, *self.shape), np.uint8)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number, store in enumerate(self.stores):
            if store.masks is None:
                raise ValueError(f"model.masked_loss needs cell masks, but {store.path} has none. Assemble with task.masks=true.")
            here = owner == number
            out[here] = store.masks[rows[here] - self.starts[number]]
        return None, (out.astype(np.float32) + 1) / 2
