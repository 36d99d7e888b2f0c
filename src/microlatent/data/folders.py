"""Where raw files and stores lie, the same for every system: the specimen, the default folders, and whose store a store is.

``config`` is a data group's settings. Its name (wells, partitions) is the beginning of the folders' names.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from microlatent.config import choice
from microlatent.data.store import Store
from microlatent.files import write_json

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished.json"
SIMULATED = ("demo", "demo_real")  # values of data.root that name a specimen and no folder


def raw_folder(config: Any, outputs: str) -> Path:
    """Return the folder, or the file, of raw data; ``data.root=demo`` simulates the specimen there the first time."""
    if config.root is None:
        raise ValueError("data.root is not set. Name the folder of raw files, or data.root=demo for the simulated specimen.")
    if config.root not in SIMULATED:
        return Path(config.root)
    module = choice("data", config.name).specimens
    specimens = import_module(module).SPECIMENS if module else {}
    if config.root not in specimens:
        raise ValueError(
            f"data.root={config.root}: there is no simulated specimen of data={config.name}"
            + (f" of that name. There is {', '.join(specimens)}." if specimens else ". Name the folder of its files.")
        )
    folder = Path(outputs).absolute() / "specimens" / f"{config.name}-{config.root}"
    specimens[config.root](folder)
    return folder


@contextmanager
def preflight_outputs(config: Any, outputs: str) -> Iterator[str]:
    """Yield the outputs folder, a temporary one for the specimen: a preflight leaves nothing behind, not even that."""
    if config.root not in SIMULATED:
        yield outputs
        return
    with tempfile.TemporaryDirectory() as name:
        yield name


def store_folder(config: Any, outputs: str) -> Path:
    """Return the folder of the assembled stores."""
    if config.store:
        return Path(config.store)
    if config.root is None:
        raise ValueError(
            "Neither data.store nor data.root is set. Name the folder that was assembled: data.root=<raw files>, "
            "or data.store=<folder of .h5 stores>."
        )
    path = Path(config.root).resolve()
    name = config.root if config.root in SIMULATED else path.stem if path.is_file() else path.name
    return (Path(outputs) / "stores" / f"{config.name}-{name}").absolute()


def origin_of(config: Any) -> str | None:
    """Return what a store remembers as the folder that it was assembled from."""
    return str(Path(config.root).resolve()) if config.root not in (None, *SIMULATED) else config.root


def refuse_foreign(stores: list[Store], config: Any) -> None:
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


def refuse_overwrite(path: Path, config: Any, overwrite: bool) -> None:
    """Do not replace a store of other raw files unless that was asked for (``task.overwrite``).

    Raises
    ------
    ValueError
        The store at ``path`` was assembled from another folder than ``data.root``.
    """
    if not path.is_file() or overwrite:
        return
    try:
        store = Store.open(path)
    except ValueError:
        return  # a broken store protects nothing
    if store.origin.get("data_root") != origin_of(config):
        raise ValueError(
            f"{path} was assembled from {store.origin.get('data_root')}, not from data.root={config.root}. Name another "
            "folder with data.store=..., or replace it with task.overwrite=true."
        )


def mark_unfinished(folder: Path, done: str, to_come: list[str]) -> None:
    """Note beside the stores which of an assembly's are still to come, also of an earlier one; the last takes the note away.

    A store is written whole, but an assembly that fails halfway leaves new stores beside old or missing ones.
    """
    remaining = [name for name in dict.fromkeys([*read_unfinished(folder), *to_come]) if name != done]
    if remaining:
        write_json({"remaining": remaining}, folder / UNFINISHED)
    else:
        (folder / UNFINISHED).unlink(missing_ok=True)


def read_unfinished(folder: Path) -> list[str]:
    """Return the stores that an assembly of the folder did not come to."""
    note = folder / UNFINISHED
    return json.loads(note.read_text(encoding="utf-8"))["remaining"] if note.is_file() else []


def set_aside_stale(folder: Path, names: list[str], config: Any) -> None:
    """After all of a folder was assembled, take out of use the stores of wells or subjects that it no longer has."""
    (folder / UNFINISHED).unlink(missing_ok=True)
    for path in sorted(folder.glob("*.h5")):
        if path.stem in names or path.name.startswith("."):
            continue
        try:
            same = Store.open(path).origin.get("data_root") == origin_of(config)
        except ValueError:
            continue
        if same:
            path.rename(path.with_suffix(".h5.stale"))
            logger.warning("%s is of nothing that data.root holds now, and was set aside as %s.stale.", path, path.name)


def open_stores(config: Any, outputs: str, names: list[str] | None = None, key: str = "") -> list[Store]:
    """Open every assembled store, or those that the setting ``key`` names, in the order of their names.

    ``config.store`` and ``config.root`` become absolute, so that what stands on a run finds them from anywhere.

    Raises
    ------
    FileNotFoundError
        The folder or a named store is absent; the message lists what is there.
    ValueError
        A store was assembled from another folder of the same name.
    """
    folder = store_folder(config, outputs)
    found = {path.stem: path for path in sorted(folder.glob("*.h5")) if not path.name.startswith(".")}
    if not found:
        raise FileNotFoundError(
            f"There is no store in {folder}. Make one from raw files: python infer.py task=assemble data={config.name} "
            "data.root=<folder>, or name the folder of stores: data.store=<folder>."
        )
    remaining = read_unfinished(folder)
    if set(remaining) & set(names or remaining):
        raise ValueError(
            f"{folder} is half assembled: the last task=assemble ended before {', '.join(remaining)}, so its stores do not "
            "belong together. Run task=assemble again."
        )
    missing = [name for name in names or [] if name not in found]
    if missing:
        raise FileNotFoundError(f"{key} names {missing}, but {folder} holds {list(found)}.")
    stores = [Store.open(found[name]) for name in names or found]
    if config.store is None:
        refuse_foreign(stores, config)
        config.store = str(folder)
    config.root = origin_of(config)
    return stores
