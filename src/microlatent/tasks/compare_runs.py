"""The runs that ``task=compare`` is about: each read from its folder, and set into configurations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from microlatent import config, overrides
from microlatent.analysis import configurations
from microlatent.record import DAMAGE, Record, is_sweep
from microlatent.run import run_name
from microlatent.sweeps import sweep

REVIEWS = ("compare", "report")  # below a run, but about it
DAMAGED = "damaged"  # the state of a run that cannot be compared, since not all of it can be read
UNKNOWN = "unknown"  # the task of a run whose config.yaml is damaged: it is listed, with what is wrong


@dataclass
class Run:
    """One training run, as its folder tells."""

    name: str  # folder, as a user types it
    path: Path
    state: str
    reason: str = ""  # why it did not complete; of a job that has not begun, what it will be
    settings: dict[str, Any] = field(default_factory=dict)  # flat; empty where it has not begun
    typed: set[str] = field(default_factory=set)  # settings that its command or sweep named
    metrics: dict[str, float] = field(default_factory=dict)  # final numbers, those of tasks below it as <task>.<metric>
    seed: int | None = None
    data: str = ""  # what the stores held: fingerprints, channels, patch size
    split: str = ""  # digest of what was held out
    machine: str = ""
    started: str = ""
    configuration: str = ""  # set by arrange
    is_counted: bool = False


def gather(specs: list[str], outputs: str) -> tuple[list[Run], dict[str, str]]:
    """Read the runs of folders of runs, of experiments (all training runs in them) and of sweeps (all jobs, begun or not).

    Returns
    -------
    The runs, and {metric: direction} of the first sweep that is a study.

    Raises
    ------
    ValueError, FileNotFoundError
        A folder is absent, or holds no training run.
    """
    found: dict[Path, Run] = {}
    study: dict[str, str] = {}
    for spec in specs:
        folder = Path(spec).absolute()
        if is_sweep(folder):
            plan = sweep.read_plan(folder)
            if plan.entry != "train":
                raise ValueError(_no_training(f"{spec} is a sweep of {plan.entry}.py"))
            study = study or (plan.study or {}).get("objectives", {})
            jobs = {sweep.job_folder(folder, number): typed for number, typed in sorted(plan.jobs.items())}
            found |= {path: read(path, typed) for path, typed in jobs.items()}
        elif folder.is_dir() and not (folder / "config.yaml").is_file():
            runs = [path for path in sorted(folder.iterdir()) if _task(Record(path)) in ("train", UNKNOWN)]
            if not runs:
                raise FileNotFoundError(f"task.runs={spec}: there is no training run in {folder}. Name a run, or a sweep.")
            found |= {path: read(path) for path in runs}
        else:
            for path in sweep.expand([spec], outputs):
                if (task := _task(Record(path))) not in ("train", UNKNOWN):
                    raise ValueError(_no_training(f"{spec} is a run of task={task}"))
                found[path] = read(path)
    return list(found.values()), study


def _no_training(what: str) -> str:
    return (
        f"task.runs: {what}, but task=compare takes training runs, and reads what tasks made of them too. Name the runs that it "
        "stands on."
    )


def _task(record: Record) -> str | None:
    task = record.get("task", "name")
    return UNKNOWN if task is None and record.problem("config.yaml") else task


def read(path: Path, typed: list[str] | None = None) -> Run:
    """Read one run; ``typed`` are the overrides of a sweep's job, which may not have begun."""
    record = Record(path)
    status, provenance, data = record.status, record.provenance, record.provenance.get("data") or {}
    one = Run(run_name(path), path, record.state or "pending", reason=(status.get("reason", "").splitlines() or [""])[0])
    if record.problems:
        one.state, one.reason = DAMAGED, "; ".join(record.problems)
    if not record.config:
        one.reason = one.reason or sweep.label(path)
        return one
    one.settings, one.seed, one.started = config.flat(record.config), record.get("seed"), status.get("started", "")
    one.typed = set(overrides.texts(record.overrides if typed is None else typed))
    hardware = provenance.get("hardware") or {}
    one.machine = " ".join(str(value) for value in (status.get("host"), hardware.get("processor"), hardware.get("gpu")) if value)
    one.data = json.dumps([data.get(key) for key in ("fingerprints", "channels", "shape_px")], sort_keys=True)
    one.split = data.get("split_hash", "")
    if one.state == "completed":
        one.metrics = record.metrics | _throughput(path) | _of_tasks(path)
    return one


def _throughput(path: Path) -> dict[str, float]:
    """Median over the epochs, which one slow epoch does not move."""
    try:
        history = pd.read_csv(path / "history.csv")
        return {"patches_per_s": float(history["patches_per_s"].median())}
    except DAMAGE:
        return {}


def _of_tasks(path: Path) -> dict[str, float]:
    """Numbers of what tasks made from a run; older results that were set aside have a dash in their name."""
    found = {}
    for child in sorted(path.iterdir()):
        if child.name not in REVIEWS and "-" not in child.name:
            below = Record(child)
            if below.state == "completed":
                found |= {f"{child.name}.{name}": value for name, value in below.metrics.items()}
    return found


# --------------------------------------------------------------------------------------------------- configurations


def arrange(runs: list[Run]) -> tuple[list[Run], list[str], list[str]]:
    """Set the runs into configurations, and say which count: those completed, one for each configuration and seed.

    Returns
    -------
    The runs in order of configuration and seed, the settings that configurations are named by, and notes for the reader.
    """
    begun = [one for one in runs if one.settings]
    every = name_all(begun)
    order = configurations.in_order([one.settings for one in begun], [*every, "seed"])
    ordered = [begun[place] for place in order] + [one for one in runs if not one.settings]
    completed = [one for one in ordered if one.state == "completed"]
    keys = name_all(completed)  # by what differs between those; what an unfinished run alone has stays in its own name
    notes = [*mark_data(begun, completed), *count(completed)]
    counted = [one for one in completed if one.is_counted]
    if len({(one.data, one.seed, one.split) for one in counted}) > len({(one.data, one.seed) for one in counted}):
        notes.append(
            "Runs of one seed do not all hold out the same patches (data.split_by, data.val_share, data.test_share or which "
            "patches are used at all differ), so their difference is one of validation parts too."
        )
    seeds = {name: {one.seed for one in counted if one.configuration == name} for name in {one.configuration for one in counted}}
    if any(own != set.union(*seeds.values()) for own in seeds.values()):
        notes.append(
            "The configurations do not all have the same seeds, so their means are over different splits. Trust the differences, "
            "which are taken within seeds, and let the missing runs finish. The best and the front are picked among those with "
            "more than half of the seeds."
        )
    if pruned := sum(one.state == "pruned" for one in ordered):
        notes.append(
            f"{pruned} of the runs {'was' if pruned == 1 else 'were'} pruned for doing badly. A configuration of which "
            "some seeds were pruned looks better here than it is, since only its good seeds count."
        )
    if len({one.machine for one in counted}) > 1:
        notes.append("The runs were made on different machines, so their seconds and patches/s are not comparable.")
    return ordered, keys, notes


def name_all(runs: list[Run]) -> list[str]:
    """Name each run's configuration by what differs between these runs; return the settings that names are made of."""
    settings = [one.settings for one in runs]
    keys = configurations.naming(settings, set().union(*(one.typed for one in runs)))
    for one, name in zip(runs, configurations.names(settings, keys), strict=True):
        one.configuration = name
    return keys


def mark_data(begun: list[Run], completed: list[Run]) -> list[str]:
    """Set a number for each of different data, in which configurations' names end, so that none is taken for another."""
    different = list(dict.fromkeys(one.data for one in completed))
    numbers = {data: str(place + 1) for place, data in enumerate(different)} if len(different) > 1 else {}
    for one in begun:
        one.data = numbers.get(one.data, "")
        one.configuration += f" [data {one.data}]" if one.data else ""
    if not numbers:
        return []
    about = []
    for data, number in numbers.items():
        fingerprints, channels, shape_px = json.loads(data)
        stores = ", ".join(f"{name} ({digest[:8]})" for name, digest in list((fingerprints or {}).items())[:4]) or "unknown"
        more = f" and {len(fingerprints) - 4} more" if len(fingerprints or {}) > 4 else ""
        about.append(f"Data {number}: {stores}{more}; channels {channels}, {shape_px} px.")
    return [
        "These runs are of different data (fingerprints of the stores, channels or patch size): only runs of the same data are "
        f"set against each other. {' '.join(about)}"
    ]


def count(completed: list[Run]) -> list[str]:
    """Let the latest run of each configuration and seed count: a repeat is no new seed."""
    latest: dict[tuple, Run] = {}
    notes = []
    for one in sorted(completed, key=lambda one: one.started):
        place = (one.configuration, one.seed)
        if place in latest:
            earlier = latest[place]
            earlier.is_counted, earlier.reason = False, f"repeated by {one.name}"
            notes.append(f"{earlier.name} does not count: {one.name} repeats it ({one.configuration}, seed {one.seed}).")
        one.is_counted, latest[place] = True, one
    return notes


def frame(runs: list[Run]) -> pd.DataFrame:
    """Return a row per run: who it is, whether it counts and why not, and its final numbers."""
    names = list(dict.fromkeys(name for one in runs for name in one.metrics))
    records = [
        {
            "run": one.name,
            "configuration": one.configuration,
            "data": one.data if one.settings else "",
            "seed": one.seed,
            "state": one.state,
            "counts": one.is_counted,
            "reason": one.reason,
            **{name: one.metrics.get(name) for name in names},
        }
        for one in runs
    ]
    return pd.DataFrame(records).astype({"seed": "Int64"})  # a job that has not begun has none
