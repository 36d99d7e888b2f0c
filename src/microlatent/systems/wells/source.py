"""Wells: single-cell time lapses. Where their stores lie, and how a store becomes what a model trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from microlatent.data.folders import open_stores, raw_folder
from microlatent.data.relations import reference_order
from microlatent.data.source import PatchSource
from microlatent.data.store import Store
from microlatent.schemas import Settings
from microlatent.systems.wells.schema import WellsConfig

MADE_FROM = "made_from.json"  # beside patches: the folder of images that they were cut from


def assembly_folder(config: WellsConfig, outputs: str) -> Path:
    """Return the folder that task=assemble reads: the raw files, or the patches that task=patch cut from them."""
    root = raw_folder(config, outputs)
    ready = any(root.glob("*-supps")) or any(root.glob("*_static_patches.pkl"))
    cut = patches_folder(root, outputs)
    about = cut / MADE_FROM
    if ready or not about.is_file():
        return root
    made_from = json.loads(about.read_text(encoding="utf-8"))["root"]
    if made_from != str(root.resolve()):
        raise ValueError(
            f"{cut} holds patches of {made_from}, not of data.root={root}: two folders have the same name. Cut these images with "
            "task=patch task.out=<another folder>, and give that folder as data.root."
        )
    return cut


def patches_folder(root: Path, outputs: str) -> Path:
    """Return where task=patch puts the patches of a folder of images."""
    return Path(outputs) / "patches" / root.resolve().name


class WellPatches(PatchSource):
    """Patches of cells that move: a split never tears a trajectory, and an epoch may go through whole tracks.

    Parameters
    ----------
    order
        ``tracks``: whole trajectories, reshuffled each epoch; ``reference``: DynaMorph's fixed order; ``random``.
    """

    split_levels: ClassVar = {"well": ("well",), "site": ("well", "site"), "trajectory": ()}
    independent_unit = "trajectory"

    def __init__(self, stores: list[Store], channels: list[str] | None, *, order: str = "random", augment: bool = False) -> None:
        super().__init__(stores, channels, augment=augment)
        self.order = order

    def names(self) -> pd.Series:
        """Well, site, frame and cell."""
        table = self.table
        return table["well"] + "/" + table["site"] + "/" + table["frame"].astype(str) + "_" + table["cell_id"].astype(str)

    def groups(self, by: str) -> np.ndarray:
        """Name of every row's group; the finest never tears a chain of related patches."""
        if by != "trajectory":
            return super().groups(by)
        component = self.relations.connected_components()
        first = pd.Series(np.arange(len(self))).groupby(component).transform("first").to_numpy()
        return (self.table["well"] + "/" + self.table["key"].map(lambda key: "/".join(key.split("/")[-2:]))).to_numpy()[first]

    def _shuffled(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if self.order == "random":
            return super()._shuffled(rows, random)
        if self.order == "reference":
            place = np.full(len(self), -1)
            place[rows] = np.arange(len(rows))
            order = place[reference_order(self.relations, len(self))]
            return order[order >= 0]
        label = self.table["store"].to_numpy()[rows] + "\t" + self.table["label"].to_numpy()[rows].astype(str)
        _, track = np.unique(label, return_inverse=True)
        turn = random.permutation(track.max() + 1)
        return np.lexsort([self.table["frame"].to_numpy()[rows], turn[track]])


def open_source(settings: Settings) -> WellPatches:
    """Open the stores of the chosen wells as one source of patches."""
    config: WellsConfig = settings.data
    stores = open_stores(config, settings.outputs, config.wells, "data.wells")
    source = WellPatches(stores, config.channels, order=config.order, augment=config.augment)
    if config.sites:
        source.select("site", config.sites, "data.sites")
    return source
