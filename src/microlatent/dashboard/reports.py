"""Reports that are made when somebody asks for them, and made anew only when something that they read has changed."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from microlatent.record import STATUS, Record

REPORTS_KEPT = 8  # each a few MB
NOT_REPORTED = ("checkpoints", "wandb", "report")  # folders that no report reads


class Reports:
    """Reports made on demand, kept as long as nothing that they read has changed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[Any, bytes]] = OrderedDict()
        self._lock = threading.Lock()  # one at a time: a second reader of the same report waits for the first

    def of(self, folder: Path) -> bytes:
        """Return the report of a run or sweep as HTML."""
        from microlatent.report import page  # here: the list is there at once, without what plots need

        with self._lock:
            seen = stamp(folder)
            if self._kept.get(folder, (None,))[0] != seen:
                self._kept[folder] = seen, page.render(folder).encode()
            self._kept.move_to_end(folder)
            while len(self._kept) > REPORTS_KEPT:
                self._kept.popitem(last=False)
            return self._kept[folder][1]


def stamp(folder: Path) -> tuple[int, list[str | None]]:
    """Return what a report about this folder depends on: the last modification, in ns, and the states of its runs.

    A run that was killed changes its state without changing a file.
    """
    latest, states = 0, []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_REPORTED]
        if STATUS in files:
            states.append(Record(Path(path)).state)
        for name in (".", *files):
            try:
                latest = max(latest, os.stat(f"{path}/{name}").st_mtime_ns)
            except OSError:
                continue  # renamed while we looked, or a link to nowhere
    return latest, states
