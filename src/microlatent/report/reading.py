"""Tables and sections of folders that may be half-written, damaged or somebody else's: what cannot be read is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microlatent.record import DAMAGE, SET_ASIDE, Record, reason
from microlatent.report.blocks import Folded, Note, Section, Table

if TYPE_CHECKING:
    import pandas as pd

NOT_RESULTS = {"checkpoints", "figures", "tables", "wandb", "report", ".hydra", "experiment"}


def problem_notes(record: Record) -> list[Note]:
    """Return what is wrong with a folder's files as notes."""
    return [Note(words, "warning") for words in record.problems]


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


def table_or_note(path: Path, within: Path, limit: int) -> Table | Note:
    """Return a CSV as a table, or a note that names the file and says what is wrong with it."""
    try:
        return Table.of(read_csv(path), path.relative_to(within).as_posix(), limit)
    except DAMAGE as error:
        return Note(f"{path.relative_to(within).as_posix()} cannot be read: {reason(error)}", "warning")


def folded_tables(paths: list[Path], within: Path) -> list[Folded | Note]:
    """Return tables behind their names; damaged ones as notes."""
    blocks = []
    for path in paths:
        table = table_or_note(path, within, limit=100)
        title = f"Table: {path.stem.replace('_', ' ')}"
        blocks.append(table if isinstance(table, Note) else Folded(title, [table]))
    return blocks


def guarded(title: str, key: str, build: Callable[[], Section | None]) -> Iterator[Section]:
    """Yield a section, nothing where there is none, or a section that says why it cannot be shown."""
    try:
        section = build()
    except DAMAGE as error:
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
