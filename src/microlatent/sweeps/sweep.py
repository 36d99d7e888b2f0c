"""The folder of a sweep: what was asked for, how far it is, what is missing.

::

    outputs/sweeps/<yyyymmdd-hhmmss>/
      sweep.yaml    the plan: what was typed, and the jobs that follow from it
      sweep.csv     the index: a row per job, made anew from the jobs' own folders whenever one begins or ends
      0/ 1/ ...     the jobs' run folders; job.json there names the folder of a job that writes into the run it stands on
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from microlatent import run
from microlatent.files import write_csv, write_json, write_text

if TYPE_CHECKING:
    import pandas as pd

PLAN, INDEX, POINTER = "sweep.yaml", "sweep.csv", "job.json"
FINISHED = ("completed", "pruned")
LAST = ("duration_s", "folder", "overrides", "error")  # columns of the index after those that differ from sweep to sweep
LOCK_S = 60.0  # a writer of the index is done in a fraction of this, or has died on a file system that keeps its lock

logger = logging.getLogger(__name__)


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
        return list(dict.fromkeys(key for job in self.jobs.values() for key in parts([one for one in job if one not in typed])))

    def write(self) -> None:
        """Write ``sweep.yaml``."""
        container = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_text(yaml.safe_dump(container, sort_keys=False), self.folder / PLAN)


def parts(overrides: list[str]) -> dict[str, str]:
    """Return key and value of overrides."""
    return {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is a sweep's."""
    return (folder / PLAN).is_file()


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
        plan = Plan(folder=folder.absolute(), **yaml.safe_load((folder / PLAN).read_text()))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is no sweep: it has no {PLAN}. Name a folder below outputs/sweeps/.") from error
    except (TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / PLAN} cannot be read ({error}). It must be as the sweep wrote it.") from error
    jobs_are_whole = isinstance(plan.jobs, dict) and all(
        isinstance(number, int) and isinstance(overrides, list) for number, overrides in plan.jobs.items()
    )
    study_is_whole = plan.study is None or (isinstance(plan.study, dict) and isinstance(plan.study.get("objectives"), dict))
    if not (jobs_are_whole and study_is_whole and isinstance(plan.arguments, list)):
        raise ValueError(f"{folder / PLAN} is damaged: its jobs, arguments or study are not as the sweep wrote them.")
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
    return [argument for argument in arguments if not argument.startswith(("hydra.", "hydra/launcher"))]


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


# ------------------------------------------------------------------------------------------------------------ index


def index(folder: Path) -> pd.DataFrame:
    """Return a row per job: number, state, what was varied, final metrics, seconds, folder, overrides, first line of error.

    Read from the jobs' own folders, so it is true while the sweep runs and after it was killed. ``duration_s`` is the time that
    the job has worked; ``folder`` is relative to the sweep's.
    """
    import pandas as pd

    plan, rows = read_plan(folder), []
    varied = plan.varied
    for number, overrides in sorted(plan.jobs.items()):
        path, values = job_folder(folder, number), parts(overrides)
        status = run.read_status(path)
        state = status.get("state", "pending")
        metrics = status.get("metrics", {}) if state in FINISHED else {}
        rows.append(
            {
                "job": number,
                "state": state,
                **{key: typed(values.get(key)) for key in varied},
                **metrics,
                "duration_s": duration(status),
                "folder": os.path.relpath(path, folder),
                "overrides": " ".join(overrides),
                "error": what_ended(status),
            }
        )
    table, last = pd.DataFrame(rows, columns=None if rows else ["job", "state", *LAST]), list(LAST)
    return table[[name for name in table if name not in last] + last]


def what_ended(status: dict[str, Any]) -> str:
    """Return the first line of why a job did not finish; empty for others."""
    if status.get("state") not in ("failed", "lost", "interrupted"):
        return ""
    reason = (str(status.get("reason", "")).splitlines() or [""])[0]
    return f"stopped by {reason}" if status["state"] == "interrupted" else reason


def write_index(folder: Path) -> None:
    """Write ``sweep.csv`` anew."""
    try:
        with lock(folder):
            write_csv(index(folder), folder / INDEX)
    except OSError as error:  # locked by a process that died, or the disk is full: the jobs' own folders say all that is in it
        logger.warning("%s could not be written (%s). It is written again when the next job ends.", folder / INDEX, error)


def typed(value: str | None) -> Any:
    """Return the number that an override's text stands for, or the text."""
    for kind in (int, float):
        try:
            return kind(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return value


def duration(status: dict[str, Any]) -> float | None:
    """Return the seconds that a run has worked, up to now if it still does."""
    seconds = status.get("seconds")
    if not isinstance(seconds, (int, float)):
        return None
    if status.get("state") == "running":
        seconds += (datetime.now().astimezone() - datetime.fromisoformat(status["updated"])).total_seconds()
    return round(seconds, 1)


def job_folder(folder: Path, number: int) -> Path:
    """Return where a job's results are: its own folder, or below the run that it stands on."""
    path = folder / str(number)
    try:
        return Path(os.path.normpath(path / json.loads((path / POINTER).read_text())["folder"]))
    except FileNotFoundError:
        return path


def point(path: Path, folder: Path) -> None:
    """Say in a job's own folder where its results are, such that it stays true when the outputs folder is moved."""
    write_json({"folder": os.path.relpath(folder, path)}, path / POINTER)


def clear(path: Path) -> None:
    """Set the folder of an attempt aside that cannot be continued, under the name of how it ended."""
    if not run.read_status(path):
        return
    with lock(path.parent):  # two processes may want the same job: the second finds it cleared, or begun by the first
        state = run.read_status(path).get("state")
        if state in (None, "running", *FINISHED) or run.can_continue(path):
            return
        path.rename(run.free_name(path.with_name(f"{path.name}-{state}")))


@contextmanager
def indexed(path: Path | None, folder: Path) -> Iterator[None]:
    """Keep the index true while a job runs, if it is one: ``path`` is its own folder, ``folder`` where its results are."""
    if path is None or of_job(path) is None:
        yield
        return
    if folder != path:
        point(path, folder)
    write_index(path.parent)
    try:
        yield
    finally:
        write_index(path.parent)


def shares_run(folder: Path) -> bool:
    """Return whether several jobs of a sweep stand on the same trained run, so that their results cannot all lie below it."""
    runs = [parts(overrides).get("run") for overrides in read_plan(folder).jobs.values()]
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
        values = parts(overrides)
        shown = [
            short(values[key]) if "." not in key and key != "seed" else f"{names[key]}={short(values[key])}"
            for key in varied
            if key in values
        ]
        found[number] = " ".join(shown)
    return found


def short(value: str) -> str:
    """Return a value with three digits if it is a number that was drawn."""
    number = typed(value)
    return f"{number:.3g}" if isinstance(number, float) else value


def find_sweeps(outputs: Path) -> list[Path]:
    """Every sweep below a folder, oldest first."""
    return sorted((path.parent for path in outputs.glob(f"**/{PLAN}")), key=lambda path: (path.name, str(path)))


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
            found += [job for job in jobs if run.read_status(job)]
        else:
            found.append(run.find(spec, outputs, key="task.runs"))
    return list(dict.fromkeys(found))
