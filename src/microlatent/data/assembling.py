"""``infer.py task=assemble``: raw files to stores, the same for every kind of data.

A kind of data finds what its stores are made from and knows how one of them is written; its module says

    def plan(settings, outputs, out) -> Plan: ...
    run, preflight = as_task(plan)

Here stands what is the same for all. Whatever can be refused is refused for every store before the first is replaced. A store is
written whole under another name before it takes its place, and a note beside the stores says which are still to come, so that
stores of two assemblies never open as one, however a process ends. ``check=true`` describes the plan that a run carries out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from microlatent.config import plain
from microlatent.data.folders import note_unfinished, origin_of, preflight_outputs, read_unfinished, store_folder
from microlatent.data.store import Store
from microlatent.files import atomic, write_csv
from microlatent.provenance import collect_provenance
from microlatent.results import Preflight
from microlatent.schemas import Settings

logger = logging.getLogger(__name__)
SHOWN = 6  # stores that a preflight describes one by one

Written = tuple[list[dict[str, Any]], str]  # rows of the summary table, and a line for the log


@dataclass(kw_only=True)
class Unit:
    """What becomes one store: a well, a subject, a scan."""

    name: str  # of the store, without its ending
    reads: list[str]  # what it is made from, for a person
    write: Callable[[Path], Written]  # writes the store under the path it is given
    size_mb: float  # estimate of the store's
    memory_mb: float
    seconds: float


@dataclass(kw_only=True)
class Plan:
    """The stores to be made from ``data.root``, in their order, and what is said of all of them."""

    units: list[Unit]
    table: str  # the summary: tables/<table>.csv
    rows: str = ""  # what its rows are; default: as the table is called
    sums: tuple[str, ...]  # its columns whose sums are the numbers of the run
    whole: bool  # no part of data.root was chosen, so that other stores made from it are of nothing that it holds now
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)  # files besides the stores
    notes: list[str] = field(default_factory=list)
    trial: Callable[[], Any] = lambda: None  # reads a first piece, for check=true: a run does before it replaces anything


Planner = Callable[[Settings, str, Path], Plan]  # of the settings, the folder of outputs with the specimen, and the run's folder


def as_task(plan: Planner) -> tuple[Callable[[Settings, Path, Any], dict[str, float]], Callable[[Settings, Path], Preflight]]:
    """Return the task's ``run`` and ``preflight`` for a kind of data."""
    return partial(assemble, plan), partial(describe, plan)


def assemble(plan: Planner, settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Write every store of the plan, and the summary."""
    folder, rows = store_folder(settings.data, settings.outputs), []
    found = _refused_or(plan(settings, settings.outputs, out), folder, settings)
    remaining = list(dict.fromkeys([*read_unfinished(folder), *(unit.name for unit in found.units)]))
    for unit in found.units:
        path = folder / f"{unit.name}.h5"
        with atomic(path) as staged:
            written, said = unit.write(staged)
            if unit is found.units[0]:
                note_unfinished(folder, remaining)  # not earlier: until here nothing has changed
        remaining.remove(unit.name)
        if remaining:
            note_unfinished(folder, remaining)
        rows += [row | {"store": str(path)} for row in written]
        logger.info("%s -> %s", said, path)
    if found.whole:
        _set_aside_stale(folder, [unit.name for unit in found.units], settings.data)
        remaining = []
    note_unfinished(folder, remaining)
    table = pd.DataFrame(rows)
    write_csv(table, out / "tables" / f"{found.table}.csv")
    tracker.table(found.table, table)
    return {found.rows or found.table: len(table)} | {name: int(table[name].sum()) for name in found.sums}


def describe(plan: Planner, settings: Settings, out: Path) -> Preflight:
    """Say what would be read and written; whatever a run would refuse at its beginning is refused here."""
    folder = store_folder(settings.data, settings.outputs)
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        found = _refused_or(plan(settings, outputs, out), folder, settings)
        found.trial()
    reads = [line for unit in found.units[:SHOWN] for line in unit.reads]
    writes = [str(folder / f"{unit.name}.h5") for unit in found.units[:SHOWN]]
    if len(found.units) > SHOWN:
        reads.append(f"... {len(found.units)} {found.table} in all")
        writes.append(f"... {len(found.units)} stores in all")
    return Preflight(
        reads=reads + found.reads,
        writes=writes + found.writes,
        memory_mb=max(unit.memory_mb for unit in found.units),
        disk_mb=sum(2 * unit.size_mb for unit in found.units),  # the pixels stand twice until a store is whole
        seconds=sum(unit.seconds for unit in found.units),
        notes=found.notes,
    )


def origin(settings: Settings, root: Path) -> dict[str, Any]:
    """Return what every store remembers of where it comes from."""
    return {"root": str(root), "data_root": origin_of(settings.data), "birth": collect_provenance(plain(settings))}


def _refused_or(plan: Plan, folder: Path, settings: Settings) -> Plan:
    """Return the plan, unless one of its stores must not be written.

    Raises
    ------
    FileNotFoundError
        There is nothing to assemble.
    ValueError
        Two stores would have one name, or one is there that was made from another ``data.root`` (but see ``task.overwrite``).
    """
    if not plan.units:
        raise FileNotFoundError(f"data.root={settings.data.root} holds no {plan.table} to assemble.")
    names = [unit.name for unit in plan.units]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(
            f"data.root={settings.data.root} holds more than one of {plan.table} named {doubled}, and each needs a store of its "
            "own. Rename the files."
        )
    for store in _whole_stores(folder / f"{name}.h5" for name in names if not settings.task.overwrite):
        if store.origin.get("data_root") != origin_of(settings.data):
            raise ValueError(
                f"{store.path} was assembled from {store.origin.get('data_root')}, not from data.root={settings.data.root}. "
                "Name another folder with data.store=..., or replace it with task.overwrite=true."
            )
    return plan


def _whole_stores(paths: Iterable[Path]) -> Iterator[Store]:
    """Open those stores that are there; a broken one protects nothing."""
    for path in paths:
        with suppress(FileNotFoundError, ValueError):
            yield Store.open(path)


def _set_aside_stale(folder: Path, names: list[str], config: Any) -> None:
    """Take out of use the stores made from ``data.root`` whose well, subject or scan it no longer has."""
    others = [path for path in sorted(folder.glob("*.h5")) if path.stem not in names and not path.name.startswith(".")]
    for store in _whole_stores(others):
        if store.origin.get("data_root") == origin_of(config):
            path = store.path.rename(store.path.with_suffix(".h5.stale"))
            logger.warning("%s is of nothing that data.root holds now, and was set aside as %s.", store.path, path.name)
