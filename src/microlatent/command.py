"""One command from its composed configuration to its run folder: settings, folder, task, status."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from microlatent import config, resume, run, settling
from microlatent.provenance import collect_provenance, cores
from microlatent.record import Record, is_sweep
from microlatent.run import RunFolder, run_name
from microlatent.schemas import Settings
from microlatent.signals import Interrupted, raise_on_signals
from microlatent.sweeps import index, sweep
from microlatent.sweeps.pruning import Pruned
from microlatent.tracking import NullTracker, Tracker

logger = logging.getLogger("microlatent")


def execute(entry: str, cfg: Any) -> dict[str, float] | None:
    """Turn a composed configuration into checked settings and carry them out."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    sweep_job = Path(hydra_config.runtime.output_dir) if hydra_config.mode == RunMode.MULTIRUN else None
    log_to_console()
    if cfg.rerun and sweep_job is None:
        settling.check_origin(cfg, entry)
        original, settings = resume.repeated(cfg, overrides)
        numbers, folder = carry_out(settings, overrides)
        if folder is not None:
            resume.compare(original, folder)
        return numbers
    if cfg.resume:
        settling.check_origin(cfg, entry)
        folder = run.find(cfg.resume, cfg.outputs, cfg.name, "resume")
        return carry_out(resume.continued(cfg, overrides, folder), overrides, resumed=folder)[0]
    if sweep_job is not None and run.can_continue(sweep_job):  # the sweep goes on, or its scheduler began this job once more
        return carry_out(resume.continued(cfg, [], sweep_job), overrides, resumed=sweep_job)[0]
    if sweep_job is not None:
        done = Record(sweep_job)
        if done.state in sweep.FINISHED:  # a scheduler begins a job once more whose node failed in its last second
            return done.metrics or {"pruned": True}
        sweep.clear(sweep_job)
    return carry_out(settling.settled(entry, cfg, overrides), overrides, sweep_job=sweep_job)[0]


def carry_out(
    settings: Settings, overrides: list[str], *, resumed: Path | None = None, sweep_job: Path | None = None
) -> tuple[dict[str, float] | None, Path | None]:
    """Check a task, or claim its folder and run it; return its numbers and the folder."""
    _limit_threads(settings.trainer.threads)
    if settings.trainer.allocator:
        from microlatent import allocator

        allocator.tune()
    task = config.task_choice(settings.task.name, settings.data.name if settings.data else None).load()
    intended = resumed or _intended(settings, sweep_job)
    if settings.check:
        _print_preflight(task.preflight(settings, intended))
        return None, None
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        job, kept = sweep_job or resumed, None
        if config.choice("task", settings.task.name).reviews:
            folder = RunFolder.replace(intended)
        else:
            kept = run.set_aside(intended) if settings.run and intended != sweep_job else None
            folder = _claim(intended, resumed, exactly=intended == sweep_job)
        with index.indexed(job, folder.path):
            try:
                return _in_folder(task, settings, overrides, folder, resumed is not None), folder.path
            except BaseException:
                failed = run.put_back(folder.path, kept)
                if sweep_job is not None and failed != folder.path:
                    sweep.point(sweep_job, failed)
                raise

    if settings.task.name != "train":
        raise ValueError(
            f"torchrun shares the work of train.py alone. Run task={settings.task.name} with python, as one process."
        )
    from microlatent import distributed

    distributed.start(settings.trainer.device)
    try:
        claimed = _claim(intended, resumed) if distributed.rank() == 0 else None
        shared = distributed.share(str(claimed.path) if claimed else None)
        if claimed is None:
            return task.run(settings, Path(str(shared)), NullTracker()), None
        return _in_folder(task, settings, overrides, claimed, resumed is not None), claimed.path
    finally:
        distributed.stop()


def _in_folder(task: Any, settings: Settings, overrides: list[str], folder: RunFolder, resumed: bool) -> dict[str, float]:
    """Run the task in its folder; whatever happens, the status says it."""
    raise_on_signals()
    log = logging.FileHandler(folder.path / "log.txt")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(log)
    tracker = None
    try:
        if not resumed:
            container = config.plain(settings)
            data = run.read_provenance(Path(settings.run)).get("data") if settings.run else None
            folder.describe(container, collect_provenance(container, data=data, parent=settings.run), overrides)
        if config.choice("task", settings.task.name).reviews:
            tracker = NullTracker()
        else:
            tracker = Tracker(settings.logger, folder.path, settings, resumed=resumed)
        numbers = task.run(settings, folder.path, tracker)
        tracker.finish(numbers)
        folder.set("completed", metrics=numbers)
    except Pruned as stop:
        folder.set("pruned", reason=str(stop), epoch=stop.epoch)
        numbers = {"pruned": True}
    except Interrupted as stop:
        folder.set("interrupted", reason=str(stop), exit_code=stop.exit_code)
        hint = f" Continue with: python train.py resume={run_name(folder.path)}" if settings.task.name == "train" else ""
        logger.warning("Stopped by %s.%s", stop, hint)
        raise
    except BaseException as error:
        folder.set("failed", reason=f"{type(error).__name__}: {error}")
        with open(folder.path / "log.txt", "a") as file:
            traceback.print_exc(file=file)
        raise
    finally:
        if tracker is not None:
            tracker.close()
        logger.removeHandler(log)
        log.close()
    _print_numbers(numbers, folder.path)
    return numbers


def _claim(intended: Path, resumed: Path | None, *, exactly: bool = False) -> RunFolder:
    from filelock import FileLock

    if resumed is None:
        return RunFolder.claim(intended, exactly=exactly)
    with FileLock(resumed / ".lock", timeout=60):  # two may want to go on with it in the same second
        status = Record(resumed).status
        if status.get("state") == "running":
            raise ValueError(
                f"resume={run_name(resumed)} is still running (process {status.get('pid')} on {status.get('host')}). Stop it; if "
                f"that machine is gone, delete {run_name(resumed)}/status.json and try again."
            )
        folder = RunFolder(resumed)
        folder.set("running", resumed=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    return folder


def _intended(settings: Settings, sweep_job: Path | None) -> Path:
    """Return where a command writes: below the run it stands on, in its place in a sweep, or in a folder of its own."""
    task = settings.task
    if settings.run and not (sweep_job and sweep.shares_run(sweep_job.parent)):
        return Path(settings.run) / task.name
    if sweep_job is not None:
        return sweep_job.absolute()
    if task.name == "compare" and len(task.runs) == 1 and is_sweep(Path(task.runs[0])):
        return Path(task.runs[0]).absolute() / "compare"
    name = settings.name or "-".join(group.name for group in (settings.data, settings.model or task) if group)
    return (Path(settings.outputs) / name / time.strftime("%Y%m%d-%H%M%S")).absolute()


def _limit_threads(threads: int | None) -> None:
    """Bound the threads of BLAS, OpenMP and numba before they are loaded: over-subscription costs more than anything else."""
    given = int(os.environ.get("SLURM_CPUS_PER_TASK", cores()))  # what the job was given; not every cluster holds it to that
    count = threads or min(int(os.environ.get("OMP_NUM_THREADS", given)), given)  # a login node's value comes along to the jobs
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def log_to_console() -> None:
    """Let the commands' messages be seen, once."""
    if not logger.handlers:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    logger.setLevel(logging.INFO)


def _print_numbers(numbers: dict[str, float], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for key, value in numbers.items():
        table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(f"results: {run_name(folder)}", soft_wrap=True)


def _print_preflight(preflight: Any) -> None:
    print("check: nothing was written.")
    for title, lines in (("reads", preflight.reads), ("would write", preflight.writes), ("note", preflight.notes)):
        for line in lines:
            print(f"  {title}: {line}")
    seconds = "unknown" if preflight.seconds is None else f"{preflight.seconds:.0f} s"
    print(f"  estimates: memory {preflight.memory_mb:.0f} MB, disk {preflight.disk_mb:.0f} MB, time {seconds}")
