"""Wells: single-cell time lapses. Where their stores lie, and how a store becomes what a model trains on."""

from __future__ import annotations

from pathlib import Path

from microlatent.data.source import PatchSource, open_stores
from microlatent.schemas import Settings, WellsConfig


def raw_folder(config: WellsConfig, outputs: str) -> Path:
    """Return the folder of raw files; ``data.root=demo`` simulates the specimen there the first time."""
    if config.root is None:
        raise ValueError("data.root is not set. Name the folder of raw files, or data.root=demo for the simulated specimen.")
    if config.root != "demo":
        return Path(config.root)
    from microlatent.data.simulate.wells import simulate

    folder = Path(outputs) / "specimens" / "wells-demo"
    simulate(folder, seed=0)
    return folder


def assembly_folder(config: WellsConfig, outputs: str) -> Path:
    """Return the folder that task=assemble reads: the raw files, or the patches that task=patch cut from them."""
    root = raw_folder(config, outputs)
    ready = any(root.glob("*-supps")) or any(root.glob("*_static_patches.pkl"))
    cut = patches_folder(root, outputs)
    return cut if not ready and cut.is_dir() else root


def patches_folder(root: Path, outputs: str) -> Path:
    """Return where task=patch puts the patches of a folder of images."""
    return Path(outputs) / "patches" / root.resolve().name


def store_folder(config: WellsConfig, outputs: str) -> Path:
    """Return the folder of the assembled stores, one file per well."""
    if config.store:
        return Path(config.store)
    if config.root is None:
        raise ValueError(
            "Neither data.store nor data.root is set. Name the folder that was assembled: data.root=<raw files>, "
            "or data.store=<folder of .h5 stores>."
        )
    return Path(outputs) / "stores" / f"wells-{Path(config.root).name}"


def open_source(settings: Settings) -> PatchSource:
    """Open the stores of the chosen wells as one source of patches."""
    config: WellsConfig = settings.data
    stores = open_stores(store_folder(config, settings.outputs), config.wells)
    source = PatchSource(stores, config.channels, order=config.order, augment=config.augment)
    if config.sites:
        source.keep_only("site", config.sites, "data.sites")
    return source
