"""Wells: single-cell time lapses. Where their stores lie, and how a store becomes what a model trains on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microlatent.data.source import PatchSource, open_stores
from microlatent.data.store import Store
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


@contextmanager
def rehearsing(config: WellsConfig, outputs: str) -> Iterator[str]:
    """Yield the outputs folder, a temporary one for the specimen: a rehearsal leaves nothing behind, not even that."""
    if config.root != "demo":
        yield outputs
        return
    with tempfile.TemporaryDirectory() as name:
        yield name


def assembly_folder(config: WellsConfig, outputs: str) -> Path:
    """Return the folder that task=assemble reads: the raw files, or the patches that task=patch cut from them."""
    root = raw_folder(config, outputs)
    ready = any(root.glob("*-supps")) or any(root.glob("*_static_patches.pkl"))
    cut = patches_folder(root, outputs)
    about = cut / "made_from.json"
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


def store_folder(config: WellsConfig, outputs: str) -> Path:
    """Return the folder of the assembled stores, one file per well."""
    if config.store:
        return Path(config.store)
    if config.root is None:
        raise ValueError(
            "Neither data.store nor data.root is set. Name the folder that was assembled: data.root=<raw files>, "
            "or data.store=<folder of .h5 stores>."
        )
    name = config.root if config.root == "demo" else Path(config.root).resolve().name
    return (Path(outputs) / "stores" / f"wells-{name}").absolute()


def origin_of(config: WellsConfig) -> str | None:
    """Return what a store remembers as the folder that it was assembled from."""
    return str(Path(config.root).resolve()) if config.root not in (None, "demo") else config.root


def refuse_foreign(stores: list[Store], config: WellsConfig) -> None:
    """Refuse stores that were assembled from another folder of the same name.

    Raises
    ------
    ValueError
        A store's origin is not ``data.root``.
    """
    for store in stores:
        if store.origin.get("data_root") != origin_of(config):
            raise ValueError(
                f"{store.path} was assembled from {store.origin.get('data_root')}, not from data.root={config.root}. Assemble "
                "that folder (data.store=<folder> keeps both), or name the stores themselves with data.store."
            )


def open_source(settings: Settings) -> PatchSource:
    """Open the stores of the chosen wells as one source of patches."""
    config: WellsConfig = settings.data
    folder = store_folder(config, settings.outputs)
    stores = open_stores(folder, config.wells)
    if config.store is None:
        refuse_foreign(stores, config)
        config.store = str(folder)  # what stands on this run finds it from anywhere
    source = PatchSource(stores, config.channels, order=config.order, augment=config.augment)
    if config.sites:
        source.keep_only("site", config.sites, "data.sites")
    return source
