"""Reading run folders that may be half-written, damaged or somebody else's: whatever cannot be read is named, never fatal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from microlatent import run
from microlatent.report.blocks import Folded, Note, Section, Table

if TYPE_CHECKING:
    import pandas as pd

UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, yaml.YAMLError)
NOT_RESULTS = {"checkpoints", "figures", "tables", "wandb", "report", ".hydra", "experiment"}
SET_ASIDE = re.compile(r"-\d{8}-\d{6}(_\d+)?$")  # process-20261120-173219, process-failed-20261120-173219
LOG_LINE = re.compile(r"^[\d-]+ [\d:,]+ (\w+) (.*)$")


class Record:
    """What a folder says about itself: status, configuration, provenance, what was typed, its log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Note] = []
        self.status: dict[str, Any] = self._read("status.json", lambda: run.read_status(path))
        self.config: dict[str, Any] = self._read("config.yaml", lambda: _yaml(path / "config.yaml"))
        self.provenance: dict[str, Any] = self._read("provenance.json", lambda: run.read_provenance(path))
        self.overrides: list[str] = self._read(".hydra/overrides.yaml", lambda: _yaml(path / ".hydra" / "overrides.yaml")) or []

    def _read(self, name: str, reader: Callable[[], Any]) -> Any:
        try:
            value = reader() or {}
            expected = list if name.endswith("overrides.yaml") else dict
            if value and not isinstance(value, expected):
                raise ValueError(f"it holds a {type(value).__name__}")
        except UNREADABLE as error:
            self.problems.append(Note(f"{name} cannot be read: {reason(error)}", "warning"))
            return {}
        return value

    @property
    def state(self) -> str:
        """Return the state, or "unknown" where no status was written."""
        return str(self.status.get("state", "unknown"))

    @property
    def metrics(self) -> dict[str, float]:
        """Return the final numbers; from ``metrics.csv`` where the status has none."""
        found = self.status.get("metrics")
        if isinstance(found, dict) and found:
            return {key: value for key, value in found.items() if isinstance(value, int | float)}
        try:
            table = read_csv(self.path / "metrics.csv")
            return dict(zip(table["metric"], table["value"].astype(float), strict=True))
        except UNREADABLE:
            return {}

    def get(self, *keys: str) -> Any:
        """Return a value of the configuration, or None."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def log_lines(self, level: str) -> list[str]:
        """Return the messages that the log has at a level, each once, in order."""
        found = (LOG_LINE.match(line) for line in log_tail(self.path, None))
        return list(dict.fromkeys(match.group(2) for match in found if match and match.group(1) == level))


def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if path.is_file() else {}


def log_tail(path: Path, count: int | None = 40) -> list[str]:
    """Return the last lines of a folder's log; none where there is no log."""
    try:
        lines = (path / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return lines if count is None else lines[-count:]


def reason(error: BaseException) -> str:
    """Return the first line of an error, in words where its type alone would be cryptic."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table.

    Raises
    ------
    ValueError
        It is empty or no table.
    FileNotFoundError
        It does not exist.
    """
    import pandas as pd

    return pd.read_csv(path, low_memory=False)


def read_json(path: Path) -> Any:
    """Read a JSON file, or return None where there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def table_or_note(path: Path, within: Path, caption: str = "", limit: int = 200) -> Table | Note:
    """Return a CSV as a table, or a note that names the file and says what is wrong with it."""
    try:
        return Table.of(read_csv(path), caption or path.relative_to(within).as_posix(), limit)
    except UNREADABLE as error:
        return Note(f"{path.relative_to(within).as_posix()} cannot be read: {reason(error)}", "warning")


def folded_tables(paths: list[Path], within: Path, limit: int = 100) -> list[Folded | Note]:
    """Return tables behind their names; damaged ones as notes."""
    blocks = []
    for path in paths:
        table = table_or_note(path, within, limit=limit)
        title = f"Table: {path.stem.replace('_', ' ')}"
        blocks.append(table if isinstance(table, Note) else Folded(title, [table]))
    return blocks


def guarded(title: str, key: str, build: Callable[[], Section | None]) -> Iterator[Section]:
    """Yield a section, nothing where there is none, or a section that says why it cannot be shown."""
    try:
        section = build()
    except UNREADABLE as error:
        name = getattr(error, "filename", None)
        words = f"This section cannot be shown: {reason(error)}" + (f" ({name})" if name else "")
        section = Section(key, title, [Note(words, "warning")])
    if section is not None:
        yield section


def result_folders(path: Path) -> list[Path]:
    """Return the folders that tasks left below a run, without those set aside."""
    try:
        found = [child for child in path.iterdir() if child.is_dir() and child.name not in NOT_RESULTS]
    except OSError:
        return []
    return sorted(child for child in found if not SET_ASIDE.search(child.name) and not child.name.startswith("."))
