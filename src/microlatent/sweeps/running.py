"""The jobs of a sweep's plan from the first that is missing to the table at the end."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

from microlatent import slurm
from microlatent.record import Record
from microlatent.run import RunFolder, run_name
from microlatent.signals import SIGNALS, Interrupted, jobs_first, raise_on_signals
from microlatent.sweeps import index, launching, sweep

logger = logging.getLogger("microlatent")


class JobsFailed(Exception):
    """Some jobs of a sweep failed; the others are done."""


def run_missing(plan: sweep.Plan, launcher: Any, jobs_at_a_time: int | None) -> None:
    """Run the jobs of a plan that are not done; a signal stops them all, saved."""
    states = {row.job: row.state for row in index.read(plan.folder).itertuples()}
    missing = [number for number, state in states.items() if state not in (*sweep.FINISHED, "running")]
    for number in (number for number, state in states.items() if state == "running"):
        logger.warning("Job %d is running in another process and is left to it.", number)
    for number in missing:
        sweep.clear(plan.folder / str(number))
    if len(missing) < len(plan.jobs):
        logger.info("%d of %d jobs are done; %d are to run.", len(plan.jobs) - len(missing), len(plan.jobs), len(missing))
    if not missing:
        return
    if jobs_at_a_time is None:
        launch_together(plan, missing, launcher)
        return
    pool, waiting = launching.Pool(launcher, jobs_at_a_time), list(missing)
    raise_on_signals()
    try:
        while waiting or pool.running:
            while waiting and pool.free:
                number = waiting.pop(0)
                path = plan.folder / str(number)
                if Record(sweep.job_folder(plan.folder, number)).state in (*sweep.FINISHED, "running"):
                    logger.info("job %d of %d is left to another process, which has begun it.", number, len(plan.jobs))
                    continue
                logger.info("job %d of %d begins: %s", number, len(plan.jobs), sweep.label(path))
                pool.start(number, plan.jobs[number], path)
            for ended in pool.wait():
                if ended.error:
                    note_failure(plan.folder, ended.number, ended.error)
                how = f"failed: {ended.error}" if ended.error else "is done"
                logger.info("job %d of %d %s", ended.number, len(plan.jobs), how)
    except Interrupted as stop:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the jobs have heard it; let them save
        pool.stop(stop.number)
        raise


def launch_together(plan: sweep.Plan, numbers: list[int], launcher: Any) -> None:
    """Hand several jobs to the launcher at once: one array on a cluster. How they ended is in their folders."""
    batch = [[*plan.jobs[number], f"hydra.sweep.subdir={number}"] for number in numbers]

    def working() -> bool:
        return any(Record(sweep.job_folder(plan.folder, number)).state == "running" for number in numbers)

    try:
        with jobs_first(working):
            returns = launcher.launch(batch, initial_job_idx=0)
    except Interrupted:
        index.write(plan.folder)  # a worker may have been killed after it saved and before it wrote this
        if waiting := slurm.queued(plan.folder):
            logger.warning("The jobs go on in SLURM without this process; to end them: scancel %s", " ".join(waiting))
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] != "submitit":
            raise
        # It gives up at the first job that was killed, while others still run.
        logger.warning("A job ended without a result (killed, or cancelled). Waiting for those that SLURM still has.")
        while slurm.queued(plan.folder):
            time.sleep(slurm.ASK_EVERY_S)
        return
    for number, done in zip(numbers, returns, strict=True):
        if done.status.name != "COMPLETED":
            note_failure(plan.folder, number, launching.first_line(done._return_value))


def note_failure(folder: Path, number: int, reason: str) -> None:
    """Say in a job's folder that it failed, where it could not say so itself, and write the index anew."""
    path = folder / str(number)
    state = Record(sweep.job_folder(folder, number)).state
    if state is None:
        path.mkdir(parents=True, exist_ok=True)
        RunFolder(path).set("failed", reason=reason)
    elif state == "lost":
        RunFolder(path).set("lost", reason=reason)
    index.write(folder)


def conclude(folder: Path) -> None:
    """Print the sweep's table and the jobs that failed.

    Raises
    ------
    JobsFailed
        Some did.
    """
    from rich.console import Console
    from rich.table import Table

    index.write(folder)
    table, plan, console = index.read(folder), sweep.read_plan(folder), Console(file=sys.stdout)
    shown = Table(box=None)
    columns = ["job", "state", *plan.varied, *[name for name in ("best_score", "seconds") if name in table]]
    for name in columns:
        shown.add_column(name, justify="left" if name in ("state", *plan.varied) else "right")
    for row in table[columns].to_dict("records"):
        shown.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(shown)
    console.print(f"results: {run_name(folder)} ({index.INDEX} is the index)", soft_wrap=True)
    for number in table.loc[table["state"] == "running", "job"]:
        console.print(f"job {number} is still running in another process, which will write the index")
    failed = table[~table["state"].isin((*sweep.FINISHED, "running"))]
    if len(failed):
        lines = [f"  job {row.job} ({row.state}): {row.error or 'not run'}" for row in failed.itertuples()]
        raise JobsFailed(
            f"{len(failed)} of {len(table)} jobs did not finish:\n" + "\n".join(lines) + f"\nWhat each said is in log.txt of its "
            f"folder. When the reason is gone, run what is missing: python {plan.entry}.py resume={run_name(folder)}"
        )
