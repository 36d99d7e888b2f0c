"""What a SLURM cluster knows of our jobs: which one this is, and which are over or still waiting."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

ASK_EVERY_S = 10  # a cluster's administrators dislike being asked more often


def here() -> dict[str, Any]:
    """Return what names this process's SLURM job in a run's status; empty outside of SLURM.

    A job that SLURM starts again keeps its name, and only the number of restarts tells its lives apart.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return {}
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return {"slurm_job": job, "slurm_restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0))}


def is_gone(status: dict[str, Any]) -> bool:
    """Say whether the SLURM job that wrote a run's status is over; False where that cannot be known."""
    if "slurm_job" not in status:
        return False
    this = here()
    if status["slurm_job"] == this.get("slurm_job"):
        return status.get("slurm_restarts", 0) < this["slurm_restarts"]  # SLURM runs one life of a job at a time
    waiting = _queue(int(time.monotonic() / ASK_EVERY_S))
    return waiting is not None and status["slurm_job"] not in waiting


def queued(sweep: Path) -> list[str]:
    """Return those SLURM jobs of a sweep that wait or run; the launcher names a folder after each."""
    submitted = {path.name for path in sweep.glob(".submitit/*")}
    if not submitted:
        return []
    return sorted(submitted & (_queue(int(time.monotonic() / ASK_EVERY_S)) or frozenset()))


@functools.lru_cache(maxsize=1)
def _queue(moment: int) -> frozenset[str] | None:
    """Return every job in the queue, elements of arrays one by one; None where there is no SLURM or it does not answer."""
    if shutil.which("squeue") is None:
        return None
    done = subprocess.run(["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=False)
    return frozenset(done.stdout.split()) if done.returncode == 0 else None
