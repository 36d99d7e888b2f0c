"""The index of a sweep, ``sweep.csv``: a row per job, made anew from the jobs' own folders whenever one begins or ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microlatent.files import write_csv
from microlatent.overrides import texts
from microlatent.record import Record
from microlatent.sweeps import sweep

if TYPE_CHECKING:
    import pandas as pd

INDEX = "sweep.csv"
LAST = ("duration_s", "folder", "overrides", "error")  # columns after those that differ from sweep to sweep

logger = logging.getLogger(__name__)


def read(folder: Path) -> pd.DataFrame:
    """Return a row per job: number, state, what was varied, final metrics, seconds, folder, overrides, first line of error.

    Read from the jobs' own folders, so it is true while the sweep runs and after it was killed. ``duration_s`` is the time that
    the job has worked; ``folder`` is relative to the sweep's.
    """
    import pandas as pd

    plan, rows = sweep.read_plan(folder), []
    varied = plan.varied
    for number, overrides in sorted(plan.jobs.items()):
        path, values = sweep.job_folder(folder, number), texts(overrides)
        record = Record(path)
        state = record.state or "pending"
        metrics = record.metrics if state in sweep.FINISHED else {}
        rows.append(
            {
                "job": number,
                "state": state,
                **{key: sweep.as_number(values.get(key)) for key in varied},
                **metrics,
                "duration_s": duration(record.status),
                "folder": os.path.relpath(path, folder),
                "overrides": " ".join(overrides),
                "error": what_ended(record.status),
            }
        )
    table, last = pd.DataFrame(rows, columns=None if rows else ["job", "state", *LAST]), list(LAST)
    return table[[name for name in table if name not in last] + last]


def what_ended(status: dict[str, Any]) -> str:
    """Return the first line of why a job did not finish; empty for others."""
    if status.get("state") not in ("failed", "lost", "interrupted"):
        return ""
    reason = ((status.get("reason") or "").splitlines() or [""])[0]
    return f"stopped by {reason}" if status["state"] == "interrupted" else reason


def write(folder: Path) -> None:
    """Write ``sweep.csv`` anew."""
    try:
        with sweep.lock(folder):
            write_csv(read(folder), folder / INDEX)
    except OSError as error:  # locked by a process that died, or the disk is full: the jobs' own folders say all that is in it
        logger.warning("%s could not be written (%s). It is written again when the next job ends.", folder / INDEX, error)


def duration(status: dict[str, Any]) -> float | None:
    """Return the seconds that a run has worked, up to now if it still does."""
    seconds = status.get("seconds")
    if seconds is not None and status.get("state") == "running" and "updated" in status:
        seconds += (datetime.now().astimezone() - datetime.fromisoformat(status["updated"])).total_seconds()
    return None if seconds is None else round(seconds, 1)


@contextmanager
def indexed(path: Path | None, folder: Path) -> Iterator[None]:
    """Keep the index true while a job runs, if it is one: ``path`` is its own folder, ``folder`` where its results are."""
    if path is None or sweep.of_job(path) is None:
        yield
        return
    if folder != path:
        sweep.point(path, folder)
    write(path.parent)
    try:
        yield
    finally:
        write(path.parent)
