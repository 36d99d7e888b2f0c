"""The run folder: claimed by one process, true about its state, found again by name.

::

    outputs/<experiment>/<yyyymmdd-hhmmss>/
      config.yaml  provenance.json  status.json  .hydra/overrides.yaml  log.txt
      checkpoints/  history.csv  summary.csv  figures/  tables/
      process/  match/  embed/  ...    what tasks made from this run, each a folder of the same kind
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from microlatent import slurm
from microlatent.files import create_text, write_json, write_text
from microlatent.metrics import SCORE, sign
from microlatent.record import Record

ALWAYS_THERE = ("seed", "plugins", "model", "data", "task", "trainer", "logger")  # in config.yaml, whichever version wrote it


class RunFolder:
    """One command's folder and its status."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def claim(cls, path: Path, *, exactly: bool = False) -> RunFolder:
        """Claim a folder for this process alone; if another process has it, claim the same name with a suffix.

        Raises
        ------
        ValueError
            Another process has it, and it must be this one ``exactly``.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
            candidate.mkdir(exist_ok=True)
            folder = cls(candidate)
            # The status is the claim: mkdir alone would not do, since Hydra makes a sweep's folders.
            if create_text(json.dumps(_status("running", {}), indent=2), folder.path / "status.json"):
                return folder
            if exactly:
                raise ValueError(f"{path} has just been begun by another process, and is left to it.")
        raise ValueError(f"{path} and ten thousand names like it are taken. Clean the outputs folder or set name=<another>.")

    @classmethod
    def replace(cls, path: Path) -> RunFolder:
        """Take the folder of a review, which is made anew from what runs left behind.

        Raises
        ------
        ValueError
            Another process is writing it now.
        """
        if Record(path).state == "running":
            raise ValueError(f"{path} is being written by another process. Wait for it, or stop it.")
        path.mkdir(parents=True, exist_ok=True)
        for name in ("status.json", "log.txt"):  # what an earlier one said would stand beside what this one says
            (path / name).unlink(missing_ok=True)
        folder = cls(path)
        folder.set("running")
        return folder

    def set(self, state: str, **facts: Any) -> None:
        """Write the status: running, completed, pruned, interrupted, failed or lost, with facts such as step and reason."""
        write_json(_status(state, read_status(self.path)) | facts, self.path / "status.json")

    def describe(self, config: dict[str, Any], provenance: dict[str, Any], overrides: list[str] | None = None) -> None:
        """Write the resolved configuration, the provenance and, where a command begins, what was typed."""
        write_text(yaml.safe_dump(config, sort_keys=False), self.path / "config.yaml")
        if overrides is not None:
            write_text(yaml.safe_dump(overrides), self.path / ".hydra" / "overrides.yaml")
        write_json(provenance, self.path / "provenance.json")


def _status(state: str, old: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a run that this process works on, from what it was before."""
    import psutil

    process, now = psutil.Process(), datetime.now().astimezone()
    seconds = old.get("seconds", 0.0)
    if old.get("state") == "running" and old.get("pid") == process.pid and "updated" in old:  # or nobody worked since
        seconds += (now - datetime.fromisoformat(old["updated"])).total_seconds()
    return {
        "state": state,
        "started": old.get("started") or now.isoformat(timespec="milliseconds"),
        "updated": now.isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 3),  # worked, without the time between an interruption and its continuation
        "host": socket.gethostname(),
        "pid": process.pid,
        "process_started": process.create_time(),
        **slurm.here(),
        **{key: old[key] for key in ("epoch", "step") if key in old},
    }


def read_status(path: Path) -> dict[str, Any]:
    """Return a run's status; a run that says running but whose process is gone on this host is ``lost``."""
    return Record(path).status


def can_continue(path: Path) -> bool:
    """Return whether a training run that ended before its time has left a checkpoint to go on from."""
    ended = Record(path).state in ("interrupted", "lost")
    return ended and (path / "checkpoints" / "last.ckpt").is_file() and (path / "config.yaml").is_file()


def read_provenance(path: Path) -> dict[str, Any]:
    """Return a run's provenance; empty where it has none.

    Raises
    ------
    ValueError
        It is damaged.
    """
    record = Record(path)
    provenance = record.provenance
    _refuse_damage(record, "provenance.json")
    return provenance


def read_config(path: Path) -> dict[str, Any]:
    """Return the resolved configuration of a run.

    Raises
    ------
    FileNotFoundError
        The folder is no run folder.
    ValueError
        It is damaged.
    """
    if not (path / "config.yaml").is_file():
        raise FileNotFoundError(_no_run(path))
    record = Record(path)
    config = record.config
    _refuse_damage(record, "config.yaml", [key for key in ALWAYS_THERE if key not in config])
    return config


def _no_run(path: Path) -> str:
    return f"{path} is no run folder: it has no config.yaml. Name a folder under outputs/, or latest."


def _refuse_damage(record: Record, name: str, missing: Iterable[str] = ()) -> None:
    problem = record.problem(name) or (f"it lacks {', '.join(missing)}" if missing else None)
    if problem:
        raise ValueError(
            f"{record.path / name} cannot be read: {problem}. It must be as the run wrote it. Bring it back from a copy, or name "
            "another run."
        )


def training_runs(outputs: Path, mark: str = "checkpoints/last.ckpt") -> list[Path]:
    """Every training run below a folder that has left a certain file, oldest first."""
    found = [outputs / path.relative_to(outputs).as_posix().removesuffix(f"/{mark}") for path in outputs.glob(f"**/{mark}")]
    return sorted(found, key=lambda path: Record(path).status.get("started", ""))


def find(spec: str, outputs: str, name: str | None = None, key: str = "run") -> Path:
    """Find a training run: a folder, ``latest``, or ``best`` (by what was monitored).

    Raises
    ------
    FileNotFoundError
        There is none; the message lists what is there.
    """
    if spec not in ("latest", "best"):
        path = Path(spec).absolute()
        if not path.is_dir():
            known = [str(p) for p in training_runs(Path(outputs))][-5:]
            raise FileNotFoundError(
                f"{key}={spec}: there is no such folder. " + (f"Recent runs: {', '.join(known)}" if known else "")
            )
        if not (path / "config.yaml").is_file():
            raise FileNotFoundError(_no_run(path))
        return path
    root = Path(outputs) / name if name else Path(outputs)
    # To go on, the newest run counts even if it died before its first checkpoint: an older one would be a surprise.
    runs = training_runs(root, "split.csv" if key == "resume" else "checkpoints/last.ckpt")
    if not runs:
        raise FileNotFoundError(
            f"{key}={spec}: there is no training run below {root}. Train one: python train.py data.root=<folder>"
        )
    if spec == "latest":
        return runs[-1].absolute()
    costs = {}
    for record in map(Record, runs):
        costs[record.path] = record.metrics.get(SCORE, math.nan) * sign(SCORE, str(record.get("trainer", "monitor") or "total"))
    scored = {path: cost for path, cost in costs.items() if not math.isnan(cost)}
    if not scored:
        raise FileNotFoundError(f"{key}=best: no run below {root} has a best score yet. Use {key}=latest.")
    return min(scored, key=lambda path: scored[path]).absolute()


def set_aside(path: Path) -> Path | None:
    """Keep an older result: rename ``process/`` to ``process-<when it started>/`` before a new one is made.

    Raises
    ------
    ValueError
        Another process is writing it now.
    """
    if not path.exists():
        return None
    if Record(path).state == "running":
        raise ValueError(f"{path} is being written by another process. Wait for it, or stop it.")
    started = Record(path).status.get("started", time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(path.stat().st_mtime)))
    stamp = "".join(c for c in started[:19] if c.isdigit())
    return path.rename(free_name(path.with_name(f"{path.name}-{stamp[:8]}-{stamp[8:]}")))


def run_name(path: Path) -> str:
    """Return a run's folder as a user would type it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def free_name(path: Path) -> Path:
    """Return a path that nothing has yet: this one, or with a number behind it."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def put_back(path: Path, kept: Path | None) -> Path:
    """After a failure give the older result its name back; the failed one stays beside it, and its folder is returned."""
    if kept is None:
        return path
    failed = path.rename(free_name(path.with_name(f"{path.name}-failed-{time.strftime('%Y%m%d-%H%M%S')}")))
    kept.rename(path)
    return failed
