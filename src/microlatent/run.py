"""The run folder: claimed by one process, true about its state, found again by name.

::

    outputs/<experiment>/<yyyymmdd-hhmmss>/
      config.yaml  provenance.json  status.json  .hydra/overrides.yaml  log.txt
      checkpoints/  history.csv  metrics.csv  figures/  tables/
      process/  match/  embed/  ...    what tasks made from this run, each a folder of the same kind
"""

from __future__ import annotations

import json
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from microlatent import slurm
from microlatent.files import create_text, write_json, write_text


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
        if read_status(path).get("state") == "running":
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
    process, now = psutil.Process(), datetime.now().astimezone()
    seconds = old.get("seconds", 0.0)
    if old.get("state") == "running" and old.get("pid") == process.pid:  # or nobody worked since
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
    try:
        status = json.loads((path / "status.json").read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):  # cut short, or not as a run wrote it
        return {"state": "lost", "reason": "status.json cannot be read"}
    if status.get("state") == "running" and slurm.is_gone(status):
        reason = f"its SLURM job {status['slurm_job']} ended without a word (killed, out of memory, or its node failed)"
        return status | {"state": "lost", "reason": reason}
    if status.get("state") == "running" and status.get("host") == socket.gethostname():
        try:
            alive = abs(psutil.Process(status["pid"]).create_time() - status["process_started"]) < 1.0
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            status |= {"state": "lost", "reason": "its process ended without a word (killed, or the machine stopped)"}
    return status


def can_continue(path: Path) -> bool:
    """Return whether a training run that ended before its time has left a checkpoint to go on from."""
    ended = read_status(path).get("state") in ("interrupted", "lost")
    return ended and (path / "checkpoints" / "last.ckpt").is_file() and (path / "config.yaml").is_file()


def read_provenance(path: Path) -> dict[str, Any]:
    """Return a run's provenance; empty where it has none."""
    try:
        return json.loads((path / "provenance.json").read_text())
    except FileNotFoundError:
        return {}


def read_config(path: Path) -> dict[str, Any]:
    """Return the resolved configuration of a run.

    Raises
    ------
    FileNotFoundError
        The folder is no run folder.
    """
    try:
        return yaml.safe_load((path / "config.yaml").read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is no run folder: it has no config.yaml. Name a folder under outputs/, or latest."
        ) from error


def training_runs(outputs: Path, mark: str = "checkpoints/last.ckpt") -> list[Path]:
    """Every training run below a folder that has left a certain file, oldest first."""
    found = [outputs / path.relative_to(outputs).as_posix().removesuffix(f"/{mark}") for path in outputs.glob(f"**/{mark}")]
    return sorted(found, key=lambda path: read_status(path).get("started", ""))


def find(spec: str, outputs: str, name: str | None = None, key: str = "run") -> Path:
    """Find a training run: a folder, ``latest``, or ``best`` (lowest monitored validation loss).

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
        read_config(path)
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
    scores = {path: _score(path) for path in runs}
    scored = {path: score for path, score in scores.items() if score is not None}
    if not scored:
        raise FileNotFoundError(f"{key}=best: no run below {root} has a metrics.csv yet. Use {key}=latest.")
    return min(scored, key=lambda path: scored[path]).absolute()


def _score(path: Path) -> float | None:
    import csv

    try:
        with open(path / "metrics.csv") as file:
            values = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    except FileNotFoundError:
        return None
    return values.get("best_score")


def set_aside(path: Path) -> Path | None:
    """Keep an older result: rename ``process/`` to ``process-<when it started>/`` before a new one is made.

    Raises
    ------
    ValueError
        Another process is writing it now.
    """
    if not path.exists():
        return None
    if read_status(path).get("state") == "running":
        raise ValueError(f"{path} is being written by another process. Wait for it, or stop it.")
    started = read_status(path).get("started", time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(path.stat().st_mtime)))
    stamp = "".join(c for c in started[:19] if c.isdigit())
    return path.rename(free_name(path.with_name(f"{path.name}-{stamp[:8]}-{stamp[8:]}")))


def free_name(path: Path) -> Path:
    """Return a path that nothing has yet: this one, or with a number behind it."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free


def put_back(path: Path, kept: Path | None) -> Path:
    """After a failure give the older result its name back; the failed one stays beside it, and its folder is returned."""
    if kept is None:
        return path
    failed = path.rename(free_name(path.with_name(f"{path.name}-failed-{time.strftime('%Y%m%d-%H%M%S')}")))
    kept.rename(path)
    return failed
