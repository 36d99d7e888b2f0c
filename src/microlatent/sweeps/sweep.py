"""The folder of a sweep: what was asked for, how far it is, what is missing.

::

    outputs/sweeps/<yyyymmdd-hhmmss>/
      sweep.yaml    the plan: what was typed, and the jobs that follow from it
      sweep.csv     the index: a row per job, made anew from the jobs' own folders whenever one begins or ends
      0/ 1/ ...     the jobs' run folders; job.json there names the folder of a job that writes into the run it stands on
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from microlatent import run
from microlatent.files import write_json, write_text
from microlatent.overrides import key_of, texts
from microlatent.record import DAMAGE, SWEEP, Record, is_sweep, load_yaml, reason

POINTER = "job.json"
FINISHED = ("completed", "pruned")
LOCK_S = 60.0  # a writer of the index is done in a fraction of this, or has died on a file system that keeps its lock


@dataclass
class Plan:
    """What a sweep is to do, as ``sweep.yaml`` holds it."""

    folder: Path
    entry: str  # train, infer or analyze
    arguments: list[str]  # as typed
    jobs: dict[int, list[str]] = field(default_factory=dict)  # overrides of each; a study adds its trials as it asks for them
    study: dict[str, Any] | None = None  # name, storage and objectives of a study
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    @property
    def varied(self) -> list[str]:
        """Keys that are not the same in all jobs: those that no job has just as it was typed, in the order of the jobs."""
        typed = set(self.arguments)
        return list(dict.fromkeys(key for job in self.jobs.values() for key in texts(one for one in job if one not in typed)))

    def write(self) -> None:
        """Write ``sweep.yaml``."""
        container = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_text(yaml.safe_dump(container, sort_keys=False), self.folder / SWEEP)


def read_plan(folder: Path) -> Plan:
    """Read ``sweep.yaml``.

    Raises
    ------
    FileNotFoundError
        The folder is no sweep's.
    ValueError
        The file is damaged.
    """
    try:
        plan = Plan(folder=folder.absolute(), **load_yaml((folder / SWEEP).read_text()))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is no sweep: it has no {SWEEP}. Name a folder below outputs/sweeps/.") from error
    except DAMAGE as error:
        raise ValueError(f"{folder / SWEEP} cannot be read ({reason(error)}). It must be as the sweep wrote it.") from error
    jobs_are_whole = isinstance(plan.jobs, dict) and all(
        isinstance(number, int) and isinstance(overrides, list) for number, overrides in plan.jobs.items()
    )
    study_is_whole = plan.study is None or (isinstance(plan.study, dict) and isinstance(plan.study.get("objectives"), dict))
    if not (jobs_are_whole and study_is_whole and isinstance(plan.arguments, list)):
        raise ValueError(f"{folder / SWEEP} is damaged: its jobs, arguments or study are not as the sweep wrote them.")
    return plan


def claim(plan: Plan, *, anew: bool) -> Plan:
    """Write the plan where there is none yet, or return the one that is there: a sweep that goes on, or is shared.

    Parameters
    ----------
    anew
        The folder's name was made from the clock, so another sweep of the same second is not meant: take a name beside it.

    Raises
    ------
    ValueError
        The folder holds the sweep of another command.
    """
    folder = plan.folder
    for number in range(1, 10_000):
        plan.folder = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        plan.folder.mkdir(parents=True, exist_ok=True)
        with lock(plan.folder):
            if not is_sweep(plan.folder):
                plan.write()
                return plan
            if not anew:
                there = read_plan(plan.folder)
                if (there.entry, scientific(there.arguments)) != (plan.entry, scientific(plan.arguments)):
                    raise ValueError(
                        f"{folder} holds another sweep ({there.entry}.py -m {' '.join(there.arguments)}). To go on with it: "
                        f"python {there.entry}.py resume={folder}; for a new one leave hydra.sweep.dir out."
                    )
                return there
    raise ValueError(f"{folder} and ten thousand names like it are taken. Clean the outputs folder.")


def scientific(arguments: list[str]) -> list[str]:
    """Return the arguments that say what is run, without those that say where and how many at a time."""
    return [argument for argument in arguments if not key_of(argument).startswith(("hydra.", "hydra/launcher"))]


def add_job(folder: Path, number: int, overrides: list[str]) -> None:
    """Add a job to the plan: a study learns of its trials one by one, from several processes."""
    with lock(folder):
        plan = read_plan(folder)
        plan.jobs[number] = overrides
        plan.write()


def remove_job(folder: Path, number: int) -> None:
    """Take a job out of the plan: a trial whose values are tried under another number."""
    with lock(folder):
        plan = read_plan(folder)
        plan.jobs.pop(number, None)
        plan.write()


def lock(folder: Path) -> Any:
    """Return the lock that writers of a sweep's plan and index hold, across processes and machines."""
    from filelock import FileLock

    return FileLock(folder / ".lock", timeout=LOCK_S)


def job_folder(folder: Path, number: int) -> Path:
    """Return where a job's results are: its own folder, or below the run that it stands on.

    Where what says so is damaged they are not found, so the job has not begun as far as is known.
    """
    path = folder / str(number)
    try:
        return Path(os.path.normpath(path / json.loads((path / POINTER).read_text())["folder"]))
    except DAMAGE:
        return path


def point(path: Path, folder: Path) -> None:
    """Say in a job's own folder where its results are, such that it stays true when the outputs folder is moved."""
    write_json({"folder": os.path.relpath(folder, path)}, path / POINTER)


def clear(path: Path) -> None:
    """Set the folder of an attempt aside that cannot be continued, under the name of how it ended."""
    if Record(path).state is None:
        return
    with lock(path.parent):  # two processes may want the same job: the second finds it cleared, or begun by the first
        state = Record(path).state
        if state in (None, "running", *FINISHED) or run.can_continue(path):
            return
        path.rename(run.free_name(path.with_name(f"{path.name}-{state}")))


def shares_run(folder: Path) -> bool:
    """Return whether several jobs of a sweep stand on the same trained run, so that their results cannot all lie below it."""
    runs = [texts(overrides).get("run") for overrides in read_plan(folder).jobs.values()]
    return len(runs) != len(set(runs))


# ------------------------------------------------------------------------------------------- one job, several sweeps


def of_job(path: Path) -> Path | None:
    """Return the sweep that a run folder is a job of, or None."""
    return path.parent if path.name.isdigit() and is_sweep(path.parent) else None


def label(path: Path) -> str:
    """Return what tells a job from the others of its sweep, such as ``vae_gauss latent_dim=16 seed=1``; empty for other runs."""
    folder = of_job(path)
    return "" if folder is None else labels(read_plan(folder)).get(int(path.name), "")


def labels(plan: Plan) -> dict[int, str]:
    """Return for every job of a plan what tells it from the others."""
    varied = plan.varied
    leaves = [key.rpartition(".")[2] for key in varied]
    names = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(varied, leaves, strict=True)}
    found = {}
    for number, overrides in plan.jobs.items():
        values = texts(overrides)
        shown = [
            short(values[key]) if "." not in key and key != "seed" else f"{names[key]}={short(values[key])}"
            for key in varied
            if key in values
        ]
        found[number] = " ".join(shown)
    return found


def as_number(text: str | None) -> Any:
    """Return the number that an override's text stands for, or the text."""
    for kind in (int, float):
        try:
            return kind(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return text


def short(value: str) -> str:
    """Return a value with three digits if it is a number that was drawn."""
    number = as_number(value)
    return f"{number:.3g}" if isinstance(number, float) else value


def find_sweeps(outputs: Path) -> list[Path]:
    """Every sweep below a folder, oldest first."""
    return sorted((path.parent for path in outputs.glob(f"**/{SWEEP}")), key=lambda path: (path.name, str(path)))


def expand(specs: list[str], outputs: str) -> list[Path]:
    """Return the run folders that folders of runs and of sweeps name; of a sweep those jobs that have begun.

    Raises
    ------
    FileNotFoundError
        A folder does not exist, or is neither.
    """
    found = []
    for spec in specs:
        path = Path(spec).absolute()
        if is_sweep(path):
            jobs = [job_folder(path, number) for number in sorted(read_plan(path).jobs)]
            found += [job for job in jobs if Record(job).state]
        else:
            found.append(run.find(spec, outputs, key="task.runs"))
    return list(dict.fromkeys(found))
