"""What a task writes: declared once, told by ``check=true``, and all that the run may write.

A task opens and checks what it reads in one function, and declares its ``Results`` in another; ``run`` and ``preflight`` call
both. So what cannot be done is refused by either before any work, and no file is written that a check did not tell of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microlatent.files import write_csv

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Preflight:
    """What a command would do: said by ``check=true``."""

    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)


class Results:
    """The files of a task below its folder, and who else is told of them.

    Parameters
    ----------
    tracker
        Of the run; a check has none.
    tables, figures
        Names of ``tables/<name>.csv`` and ``figures/<name>.png``.
    files
        Other files, relative to the folder. In any name ``*`` stands for what only the run can tell.

    A run may write less than is declared, where the data allow no more, but nothing else.
    """

    def __init__(
        self,
        out: Path,
        tracker: Any = None,
        *,
        tables: Iterable[str] = (),
        figures: Iterable[str] = (),
        files: Iterable[str] = (),
    ) -> None:
        self.out, self.tracker = out, tracker
        self.names = [*files, *(f"tables/{name}.csv" for name in tables), *(f"figures/{name}.png" for name in figures)]

    @property
    def writes(self) -> list[str]:
        """Return the paths of all files."""
        return [str(self.out / name) for name in self.names]

    def path(self, name: str) -> Path:
        """Return where a declared file goes."""
        assert name in self.names or any(fnmatchcase(name, known) for known in self.names), (
            f"{name} is written but not declared; {', '.join(self.names)} are."
        )
        return self.out / name

    def table(self, name: str, table: pd.DataFrame, *, track: bool = True) -> None:
        """Write ``tables/<name>.csv``; the tracker receives it, unless it is long."""
        write_csv(table, self.path(f"tables/{name}.csv"))
        if track:
            self.tracker.table(name, table)

    def figure(self, name: str, draw: Callable[..., Any], *args: Any, file: str | None = None, **options: Any) -> None:
        """Let ``draw(*args, path=...)`` write ``figures/<name>.png``, or another file, and show it to the tracker."""
        path = self.path(file or f"figures/{name}.png")
        draw(*args, path=path, **options)
        self.tracker.image(name, path)

    def artifact(self, name: str, kind: str, file: str) -> None:
        """Let the tracker keep a file that was written."""
        self.tracker.artifact(name, kind, self.path(file))
