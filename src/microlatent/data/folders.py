"""Where raw files and stores lie, the same for every system: the specimen, the default folders, and whose store a store is.

``config`` is a data group's settings. Its name (wells, partitions) is the beginning of the folders' names.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from microlatent.config import choice
from microlatent.data.store import Store
from microlatent.files import write_json
from microlatent.schemas import Settings

UNFINISHED = "unfinished.json"
SIMULATED = ("demo", "demo_real")  # values of data.root that name a specimen and no folder


def raw_path(config: Any, outputs: str) -> Path:
    """Return where raw data lie, whether or not the specimen was simulated there already."""
    if config.root is None:
        raise ValueError("data.root is not set. Name the folder of raw files, or data.root=demo for the simulated specimen.")
    if config.root not in SIMULATED:
        return Path(config.root)
    return Path(outputs).absolute() / "specimens" / f"{config.name}-{config.root}"


def raw_folder(config: Any, outputs: str) -> Path:
    """Return the folder, or the file, of raw data; ``data.root=demo`` simulates the specimen there the first time."""
    path = raw_path(config, outputs)
    if config.root not in SIMULATED:
        return path
    module = choice("data", config.name).specimens
    specimens = import_module(module).SPECIMENS if module else {}
    if config.root not in specimens:
        raise ValueError(
            f"data.root={config.root}: there is no simulated specimen of data={config.name}"
            + (f" of that name. There is {', '.join(specimens)}." if specimens else ". Name the folder of its files.")
        )
    specimens[config.root](path)
    return path


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
    if isinstance(config.root, list):
        name = "+".join(Path(root).resolve().name.removesuffix(".zarr") for root in config.root)[:100]
    else:
        path = Path(config.root).resolve()
        name = config.root if config.root in SIMULATED else path.stem if path.is_file() else path.name
    return (Path(outputs) / "stores" / f"{config.name}-{name}").absolute()


def origin_of(config: Any) -> str | list[str] | None:
    """Return what a store remembers as the folder, or the folders, that it was assembled from."""
    if isinstance(config.root, list):
        return [str(Path(root).resolve()) for root in config.root]
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


def note_unfinished(folder: Path, remaining: list[str]) -> None:
    """Note in a folder which of its parts are still to be made, so that those made before do not pass for new; none: no note."""
    if remaining:
        write_json({"remaining": remaining}, folder / UNFINISHED)
    else:
        (folder / UNFINISHED).unlink(missing_ok=True)


def read_unfinished(folder: Path) -> list[str]:
    """Return the parts that the last task which wrote the folder did not come to."""
    note = folder / UNFINISHED
    return json.loads(note.read_text(encoding="utf-8"))["remaining"] if note.is_file() else []


def open_stores(config: Any, outputs: str, names: list[str] | None = None, key: str = "") -> list[Store]:
    """Open every assembled store, or those that the setting ``key`` names, in the order of their names.

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
    return stores


def resolved(settings: Settings) -> Settings:
    """Return the settings with absolute paths of raw files and stores: what stands on a run finds them from anywhere.

    The schema of the data says in ``FILES`` which others of its settings are paths.
    """
    config = settings.data
    given = {one.name: getattr(config, one.name) for one in fields(config)}  # a kind of data may have no stores or no raw files
    changes = {key: _absolute(given[key]) for key in getattr(config, "FILES", ())}
    if "store" in given and (given["store"] or given.get("root")):
        changes["store"] = given["store"] or str(store_folder(config, settings.outputs))
    if given.get("root"):
        changes["root"] = origin_of(config)
    return replace(settings, data=replace(config, **changes))


def _absolute(path: str | list[str] | None) -> Any:
    if isinstance(path, list):
        return [_absolute(one) for one in path]
    return path and str(Path(path).absolute())
