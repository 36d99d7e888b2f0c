"""What a run folder says about itself, read without trust: whatever cannot be read is named, never fatal.

Folders may be half-written, damaged or somebody else's. A file that is not there says nothing; of one that is damaged the
problem is named; a value of another kind than runs write is left out and named. Commands that stand on a run do not make do with
that: they read with ``run.read_config`` and ``run.read_provenance``, which refuse.
"""

from __future__ import annotations

import csv
import json
import re
import socket
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from microlatent import slurm

# What is raised by a file that a run left half-written, or that somebody else wrote.
DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, yaml.YAMLError)
STATUS, SWEEP = "status.json", "sweep.yaml"  # what makes a folder a run's, or a sweep's
DEEPEST = 50  # levels of nesting; readers may go through them by recursion
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, six times as fast; nesting deeper than its stack ends the process
SHALLOW_CHARS = 16_000  # of a text that cannot be nested so deeply
SET_ASIDE = re.compile(r"-\d{8}-\d{6}(_\d+)?$")  # process-20261120-173219, process-failed-20261120-173219
LOG_LINE = re.compile(r"^[\d-]+ [\d:,]+ (\w+) (.*)$")
UNREADABLE = {"state": "lost", "reason": "status.json cannot be read"}


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's, or that of a task below one."""
    return (path / STATUS).is_file()


def is_sweep(path: Path) -> bool:
    """Return whether a folder is a sweep's."""
    return (path / SWEEP).is_file()


class Record:
    """What a folder says about itself; each file is read when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._problems: dict[str, str] = {}

    @cached_property
    def status(self) -> dict[str, Any]:
        """State, times, host, progress, final numbers; a run that says running but whose process is gone is ``lost``."""
        status = {key: value for key, value in self._read(STATUS, json.loads, _STATUS).items() if value is not None}
        if "state" not in status and (status or STATUS in self._problems or is_run(self.path)):
            self._problems.setdefault(STATUS, "it has no state")
            return status | UNREADABLE
        if status.get("state") != "running":
            return status
        if slurm.is_gone(status):
            reason = f"its SLURM job {status['slurm_job']} ended without a word (killed, out of memory, or its node failed)"
            return status | {"state": "lost", "reason": reason}
        if status.get("host") == socket.gethostname() and not is_alive(status.get("pid"), status.get("process_started")):
            reason = "its process ended without a word (killed, or the machine stopped)"
            return status | {"state": "lost", "reason": reason}
        return status

    @cached_property
    def config(self) -> dict[str, Any]:
        """Resolved configuration, empty where there is none."""
        return self._read("config.yaml", load_yaml, _CONFIG)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the run was made with and from, empty where nothing says so."""
        return self._read("provenance.json", json.loads, _PROVENANCE)

    @cached_property
    def overrides(self) -> list[str]:
        """What was typed, without the command's name."""
        found = self._read(".hydra/overrides.yaml", lambda text: {"list": load_yaml(text)}, {"list": _is_texts})
        return found.get("list") or []

    @property
    def problems(self) -> list[str]:
        """What is wrong with the files, each with its name."""
        _ = self.status, self.config, self.provenance, self.overrides
        return [f"{name} cannot be read: {words}" for name, words in self._problems.items()]

    def problem(self, name: str) -> str | None:
        """Return what is wrong with one of the files, which has been read; None where nothing is."""
        return self._problems.get(name)

    @property
    def state(self) -> str | None:
        """State, or None where no status was written."""
        return self.status.get("state")

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Final numbers: of the status, else of the table that training leaves.

        That was ``metrics.csv`` once, which is now the name of a table of another shape: it counts only if it has the columns
        ``metric`` and ``value`` and no others.
        """
        told = self.status.get("metrics") or {}
        found = {key: value for key, value in told.items() if isinstance(value, float) or _is_number(value)}
        return found or _numbers(self.path / "summary.csv") or _numbers(self.path / "metrics.csv")

    def get(self, *keys: str) -> Any:
        """Return a value of the configuration, or None."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def log_tail(self, count: int | None = 40) -> list[str]:
        """Return the last lines of the log, or all; none where there is no log."""
        try:
            lines = (self.path / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return lines if count is None else lines[-count:]

    def log_lines(self, level: str) -> list[str]:
        """Return the messages that the log has at a level, each once, in order."""
        found = (LOG_LINE.match(line) for line in self.log_tail(None))
        return list(dict.fromkeys(match.group(2) for match in found if match and match.group(1) == level))

    def _read(self, name: str, parse: Callable[[str], Any], kinds: Kinds) -> dict[str, Any]:
        """Return what a file holds without what is of another kind than runs write, and note what is wrong with it."""
        try:
            value = parse((self.path / name).read_text(encoding="utf-8"))
            if not isinstance(value, dict):
                raise ValueError("it is empty" if value is None else f"it holds {_words(value)}")
            _refuse_deep(value, DEEPEST)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except DAMAGE as error:
            self._problems[name] = reason(error)
            return {}
        wrong = {key: value.pop(key) for key, is_kind in kinds.items() if value.get(key) is not None and not is_kind(value[key])}
        if wrong:
            self._problems[name] = ", ".join(f"its {key} is {_words(one)}" for key, one in wrong.items())
        return value


def is_alive(pid: int | None, started: float | None) -> bool:
    """Return whether a process of this machine still is the one that began at that time."""
    if pid is None or started is None:
        return False
    import psutil

    try:
        return abs(psutil.Process(pid).create_time() - started) < 1.0
    except (psutil.Error, ValueError, OverflowError):
        return False


def reason(error: BaseException) -> str:
    """Return the first line of an error, in words where its type alone would be cryptic."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (str(error).splitlines() or [type(error).__name__])[0]


# -------------------------------------------------------------------------------------------- what runs write, by key


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_choice(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name", ""), str)


Kinds = dict[str, Callable[[Any], bool]]
_STATUS: Kinds = {
    **dict.fromkeys(("state", "host", "slurm_job", "reason"), _is(str)),
    **dict.fromkeys(("started", "updated"), _is_time),
    **dict.fromkeys(("seconds", "epoch", "step", "process_started"), _is_number),
    **dict.fromkeys(("pid", "slurm_restarts"), _is(int)),
    "metrics": _is(dict),
}
_CONFIG: Kinds = {
    **dict.fromkeys(("model", "data", "task", "trainer", "logger"), _is_choice),
    **dict.fromkeys(("name", "outputs", "run", "resume", "rerun", "init_from"), _is(str)),
    "seed": _is(int),
    "plugins": _is_texts,
}
_PROVENANCE: Kinds = {
    **dict.fromkeys(("git", "versions", "hardware", "config", "data"), _is(dict)),
    "command": _is_texts,
}


def _words(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else f"{value!r}"[:80]


def _refuse_deep(value: Any, levels: int) -> None:
    if not levels:
        raise RecursionError
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_deep(one, levels - 1)


# ------------------------------------------------------------------------------------------------------------- files


def load_yaml(text: str) -> Any:
    """Read YAML.

    Raises
    ------
    yaml.YAMLError
        It is none.
    RecursionError
        It is nested too deeply.
    """
    depth = 0
    for event in yaml.parse(text, LOADER) if len(text) > SHALLOW_CHARS else ():
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError
    return yaml.load(text, LOADER)


def _numbers(path: Path) -> dict[str, float]:
    """Return the numbers of a table of the columns ``metric`` and ``value``; empty for any other file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if table.fieldnames != ["metric", "value"]:
                return {}
            return {row["metric"]: float(row["value"] or "nan") for row in table}
    except (*DAMAGE, csv.Error):
        return {}
