"""The list of all runs and sweeps below a folder, kept up to date by looking only at what changed on disk.

A row per run and per sweep, as plain values for JSON. Folders are listed anew when their modification time moved, files read anew
when theirs did; a run that says it is running is read each time, since its process may be gone.
"""

from __future__ import annotations

import csv
import math
import os
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from microlatent.metrics import best
from microlatent.record import DAMAGE, SET_ASIDE, STATUS, SWEEP, UNREADABLE, Record, load_yaml
from microlatent.sweeps import sweep

DATA = ("stores", "specimens")  # folders of outputs/ that hold no runs, but may hold very many files
DEEPEST = 8  # folders below outputs/: an experiment's name may hold slashes
SETTLED_NS = 2_000_000_000  # a folder that changed just now may change again within the clock's resolution
ORDER = ("running", "failed", "lost", "interrupted", "pending")  # the state of a sweep is the first that any of its jobs has
WANTED = re.compile(r"^(?:(?:model|data|task|trainer|logger):|  (?:name|epochs|monitor): ).*\n", re.MULTILINE)  # of config.yaml
NO_FACTS = {"task": None, "model": None, "data": None, "total": None, "monitor": None}
NO_STATE = {"state": "lost", "started": None, "updated": None, "seconds": None, "score": None, "done": None, "reason": ""}
NO_STATUS = NO_STATE | UNREADABLE


class Listing(NamedTuple):
    """A folder as it was when it was listed."""

    mtime_ns: int
    is_settled: bool
    folders: list[str]
    is_run: bool
    is_sweep: bool


@dataclass
class Known:
    """What a file held when it was read."""

    stamp: tuple[int, int]
    value: Any


class Inventory:
    """Rows of all runs and sweeps below ``root``, each with the version at which it last changed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._top = str(self.root)
        self._first = self._version = int(time.time() * 1000)  # a page that outlives its server asks for an older version
        self._rows: dict[str, tuple[int, dict[str, Any]]] = {}
        self._gone: dict[str, int] = {}
        self._listings: dict[str, Listing] = {}
        self._files: dict[str, Known] = {}
        self._lock = threading.Lock()

    def changes(self, since: int = 0) -> dict[str, Any]:
        """Return the rows that changed after a version, the keys of those that went, and the version of now."""
        with self._lock:
            self._refresh()
            is_whole = since < self._first
            return {
                "version": self._version,
                "whole": is_whole,
                "rows": [row for version, row in self._rows.values() if is_whole or version > since],
                "gone": [] if is_whole else [key for key, version in self._gone.items() if version > since],
                "now": time.time(),
            }

    def _refresh(self) -> None:
        found: dict[str, dict[str, Any]] = {}
        self._walk(self._top, 0, found)
        version = self._version + 1
        for key, row in found.items():
            if key not in self._rows or self._rows[key][1] != row:
                self._rows[key], self._version = (version, row), version
                self._gone.pop(key, None)
        for key in self._rows.keys() - found.keys():
            del self._rows[key]
            self._gone[key] = self._version = version

    # ------------------------------------------------------------------------------------------------------ folders

    def _walk(self, path: str, depth: int, found: dict[str, dict[str, Any]]) -> None:
        listing = self._list(path)
        if listing is None:
            return
        if depth and (listing.is_sweep or listing.is_run):
            try:
                rows = self._sweep(path) if listing.is_sweep else [self._run(path, listing)]
            except DAMAGE as error:  # one that cannot be read hides no other
                kind = "sweep" if listing.is_sweep else "run"
                rows = [self._unread(path, kind) | {"state": "lost", "reason": f"cannot be read: {error}"}]
            found |= {row["key"]: row for row in rows}
        elif depth < DEEPEST:
            for name in listing.folders if depth else [one for one in listing.folders if one not in DATA]:
                self._walk(f"{path}/{name}", depth + 1, found)

    def _list(self, path: str) -> Listing | None:
        """Return what a folder holds, from memory if it did not change; None if it is gone."""
        try:
            mtime_ns = os.stat(path).st_mtime_ns
            known = self._listings.get(path)
            if known and known.mtime_ns == mtime_ns and known.is_settled:
                return known
            with os.scandir(path) as entries:
                folders, names = [], set()
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if is_shown(entry.name) and not entry.name.endswith(".zarr"):
                            folders.append(entry.name)
                    elif entry.name in (STATUS, SWEEP) and entry.is_file():
                        names.add(entry.name)
        except OSError:
            self._listings.pop(path, None)
            return None
        is_settled = time.time_ns() - mtime_ns > SETTLED_NS
        listing = Listing(mtime_ns, is_settled, sorted(folders), STATUS in names, SWEEP in names)
        self._listings[path] = listing
        return listing

    def _cached(self, path: str, read: Any, empty: Any) -> Any:
        """Return what ``read`` makes of a file, from memory if the file did not change; ``empty`` if it is absent or damaged."""
        try:
            facts = os.stat(path)
            known, stamp = self._files.get(path), (facts.st_mtime_ns, facts.st_size)
            if known is None or known.stamp != stamp:
                known = self._files[path] = Known(stamp, read(Path(path)))
        except DAMAGE:
            return empty
        return known.value

    # --------------------------------------------------------------------------------------------------------- rows

    def _key(self, path: str) -> str | None:
        """Return a folder's path below the root, or None where it lies elsewhere."""
        return path.removeprefix(f"{self._top}/") if path.startswith(f"{self._top}/") else None

    def _state(self, path: str) -> dict[str, Any]:
        """Return a run's state; that of a running one is read anew each time."""
        file = f"{path}/{STATUS}"
        if (known := self._files.get(file)) and known.value["state"] == "running":
            del self._files[file]
        return self._cached(file, read_state, NO_STATUS)

    def _unread(self, path: str, kind: str) -> dict[str, Any]:
        """Return the row of what has no files yet, or damaged ones."""
        return {"key": self._key(path), "kind": kind, "parent": None, "label": "", "steps": [], **NO_FACTS, **NO_STATE}

    def _run(self, path: str, listing: Listing) -> dict[str, Any]:
        row = {
            **self._unread(path, "run"),
            **self._cached(f"{path}/config.yaml", read_facts, NO_FACTS),
            **self._state(path),
            "steps": self._steps(path, listing),
        }
        if row["score"] is None and row["task"] == "train":
            row["score"] = self._cached(f"{path}/history.csv", lambda file: best_so_far(file, row["monitor"]), None)
        return row

    def _steps(self, path: str, listing: Listing) -> list[dict[str, Any]]:
        """Return what tasks made from a run, in the order in which they began."""
        steps = []
        for name in listing.folders:
            below = None if SET_ASIDE.search(name) else self._list(f"{path}/{name}")
            if below and below.is_run:
                steps.append({"name": name, **self._state(f"{path}/{name}")})
        return sorted(steps, key=lambda step: step["started"] or 0)

    def _sweep(self, path: str) -> list[dict[str, Any]]:
        """Return the rows of a sweep and of its jobs, those without a folder too."""
        plan, labels = self._cached(f"{path}/{SWEEP}", read_plan, (None, {}))
        if plan is None:
            raise ValueError(f"{SWEEP} is damaged")
        jobs = []
        for job in sorted(plan.jobs):
            row = self._job(path, job) | {"parent": self._key(path), "label": f"{job}  {labels.get(job, '')}".strip()}
            jobs.append(row)
        states = Counter(job["state"] for job in jobs)
        scored = [job for job in jobs if job["score"] is not None]
        is_one_scale = len({(job["monitor"], job["model"]) for job in scored}) == 1  # losses of two models are not compared
        row = self._unread(path, "sweep") | {
            "label": f"study {plan.study.get('name', '')}".strip() if plan.study else "",
            "task": plan.entry,
            "model": joined(jobs, "model"),
            "data": joined(jobs, "data"),
            "state": next((state for state in ORDER if states[state]), "completed" if jobs else "pending"),
            "started": seconds_of(plan.created),
            "updated": max((job["updated"] for job in jobs if job["updated"]), default=None),
            "seconds": sum(job["seconds"] or 0 for job in jobs),
            "score": best((job["score"] for job in scored), scored[0]["monitor"]) if is_one_scale else None,
            "monitor": scored[0]["monitor"] if is_one_scale else None,
            "done": states["completed"] + states["pruned"],
            "total": len(jobs),
            "states": dict(states),
        }
        return [row, *jobs]

    def _job(self, path: str, job: int) -> dict[str, Any]:
        """Return the row of a job of a sweep, also of one that has not begun."""
        folder = str(sweep.job_folder(Path(path), job))
        below = self._list(folder)
        if below and below.is_run and self._key(folder):
            return self._run(folder, below)
        return self._unread(f"{path}/{job}", "job") | {"state": "pending"}


# ---------------------------------------------------------------------------------------------------------- one file


def read_facts(path: Path) -> dict[str, Any]:
    """Return what the list shows of a run's settings."""
    # Only the lines that are wanted: reading the whole of a thousand files would take seconds.
    config = load_yaml("".join(WANTED.findall(path.read_text())))
    trainer = config.get("trainer") or {}
    trains = config["task"]["name"] == "train"
    return {
        "task": text(config["task"]["name"]),
        "model": text((config.get("model") or {}).get("name")),
        "data": text((config.get("data") or {}).get("name")),
        "total": number(trainer.get("epochs")) if trains else None,
        "monitor": f"val_{trainer.get('monitor')}" if trains else None,
    }


def read_plan(path: Path) -> tuple[sweep.Plan, dict[int, str]]:
    """Return the plan of a sweep and what tells its jobs apart."""
    plan = sweep.read_plan(path.parent)
    return plan, sweep.labels(plan)


def best_so_far(path: Path, monitor: str) -> float | None:
    """Return the best value yet of what a run that has not ended monitors."""
    with open(path, newline="") as file:
        values = [number(row.get(monitor)) for row in csv.DictReader(file)]
    known = [value for value in values if value is not None]
    return best(known, monitor) if known else None


def read_state(path: Path) -> dict[str, Any]:
    """Return what the list shows of a run's status; times in seconds since 1970, ``seconds`` worked until ``updated``."""
    status = Record(path.parent).status
    started, updated = seconds_of(status.get("started")), seconds_of(status.get("updated"))
    worked = number(status.get("seconds"))
    if worked is None and started and updated:
        worked = updated - started
    return {
        "state": status["state"],
        "started": started,
        "updated": updated,
        "seconds": worked,
        "score": number((status.get("metrics") or {}).get("best_score")),
        "done": number(status.get("epoch")),
        "reason": status.get("reason") or "",
    }


def seconds_of(time_text: str | None) -> float | None:
    """Return an ISO time as seconds since 1970."""
    try:
        return datetime.fromisoformat(time_text).timestamp() if time_text else None
    except (TypeError, ValueError, OverflowError):
        return None


def is_shown(name: str) -> bool:
    """Return whether a file or folder is shown: not hidden, and named in letters that an address can hold."""
    return not name.startswith(".") and not any("\ud800" <= letter <= "\udfff" for letter in name)


def text(value: Any) -> str | None:
    """Return what is shown of a value; None stays None."""
    return None if value is None else str(value)


def number(value: Any) -> float | None:
    """Return a finite number, or None for all else: JSON has no NaN."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def joined(jobs: list[dict[str, Any]], key: str) -> str | None:
    """Return the values that jobs have, each once."""
    return ", ".join(dict.fromkeys(job[key] for job in jobs if job.get(key))) or None
