"""One command from its arguments to its run folder; ``train.py``, ``infer.py`` and ``analyze.py`` call ``main``."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from microlatent import arguments
from microlatent.signals import Interrupted, hand_over, raise_on_signals

JOBS_FAILED, BAD_INPUT = 1, 2
USER_ERRORS = (ValueError, OSError)

logger = logging.getLogger("microlatent")


def main(entry: str, doc: str) -> None:
    """Run one of the three commands with the arguments of this process."""
    raise_on_signals()
    try:
        _command(entry, doc)
    except Interrupted as stop:
        sys.exit(stop.exit_code)


def _command(entry: str, doc: str) -> None:
    try:
        sys.argv[1:] = typed = arguments.completed(entry, sys.argv[1:])
    except USER_ERRORS as error:
        sys.exit(_say(error, debugging=False))
    plugins, sweeps = arguments.plugins(typed), arguments.are_of_a_sweep(typed)
    if {"--help", "-h"} & set(typed):
        from microlatent.config import load_plugins
        from microlatent.manual import manual

        load_plugins(plugins)
        print(doc.strip() + "\n\n" + manual(entry))
        return
    # Hydra prints its own account of an error unless it may raise it; we say it in the user's words.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from microlatent import config, manual
    from microlatent.sweeps.sweeper import JobsFailed, deferred

    script = sys.argv[0]

    def job(cfg: Any) -> dict[str, float] | None:
        config.load_plugins(plugins)  # a launcher may have begun a process of its own
        sys.argv[:] = [script, *typed]  # what provenance says was typed
        try:
            return execute(entry, cfg)
        except Interrupted as stop:
            hand_over(stop)  # to a cluster's launcher that waits for this signal
            raise
        except USER_ERRORS as error:
            if sweeps:
                raise  # the sweeper counts it and goes on
            sys.exit(_say(error, debugging))

    try:
        config.load_plugins(plugins)
        if sweeps:
            _log_to_console()
            # Jobs on other machines unpickle hydra_plugins/, which stands beside the three commands.
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))
            sys.argv[1:] = deferred(typed)
        hydra.main(config_path=str(config.CONF), config_name=entry, version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {manual.explain(error, [a for a in typed if not a.startswith('-')], entry)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except JobsFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        sys.exit(JOBS_FAILED)
    except USER_ERRORS as error:
        sys.exit(_say(error, debugging))


def _say(error: Exception, debugging: bool) -> int:
    """Say what went wrong, in one line unless HYDRA_FULL_ERROR=1 asks for the traceback; return the exit code."""
    if debugging:
        traceback.print_exc()
    print(f"error: {_in_words(error)}", file=sys.stderr)
    return BAD_INPUT


def _in_words(error: Exception) -> str:
    """Add to an error of the operating system what to do."""
    code = getattr(error, "errno", None)
    where = f" ({error.filename})" if getattr(error, "filename", None) else ""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full{where}: {error}. Nothing was half-written, and what was whole still is. Free some space, or "
            "write elsewhere with outputs=<folder> (data.store=<folder> for stores)."
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"Permission denied{where}. Ask for the right to read or write it, or name another folder."
    return str(error)


def execute(entry: str, cfg: Any) -> dict[str, float] | None:
    """Turn a composed configuration into checked settings and carry them out."""
    from hydra.core.hydra_config import HydraConfig

    from microlatent import resume, run, settling
    from microlatent.sweeps import sweep

    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    sweep_job = Path(hydra_config.runtime.output_dir) if hydra_config.mode.name == "MULTIRUN" else None
    _log_to_console()
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
        done = run.read_status(sweep_job)
        if done.get("state") in sweep.FINISHED:  # a scheduler begins a job once more whose node failed in its last second
            return done.get("metrics") or {"pruned": True}
        sweep.clear(sweep_job)
    return carry_out(settled(entry, cfg, overrides), overrides, sweep_job=sweep_job)[0]


def settled(entry: str, cfg: Any, overrides: list[str]) -> Any:
    """Return the checked settings of a composed configuration, with the data of the run that it stands on.

    Raises
    ------
    ValueError, FileNotFoundError
        A key, a value or a combination makes no sense, or there is no such run.
    """
    from omegaconf import OmegaConf

    from microlatent import config, run, settling
    from microlatent.sweeps import sweep

    settling.check_origin(cfg, entry)
    run_config = None
    if cfg.run and config.choice("task", cfg.task.name).reviews:
        folder = Path(cfg.run).absolute()
        cfg.run = str(folder if sweep.is_sweep(folder) else run.find(cfg.run, cfg.outputs, cfg.name))
    elif cfg.run:
        cfg.run = str(run.find(cfg.run, cfg.outputs, cfg.name))
        run_config = run.read_config(Path(cfg.run))
        config.load_plugins(run_config["plugins"])
        cfg = settling.with_run_data(cfg, overrides, run_config)
    settings = settling.settle(OmegaConf.to_container(cfg, resolve=True), entry, overrides)
    if run_config:
        settling.refuse_incapable(settings, run_config)
    return settings


def carry_out(
    settings: Any, overrides: list[str], *, resumed: Path | None = None, sweep_job: Path | None = None
) -> tuple[dict[str, float] | None, Path | None]:
    """Rehearse a task, or claim its folder and run it; return its numbers and the folder."""
    from microlatent import config, run
    from microlatent.sweeps import sweep
    from microlatent.tracking import NullTracker

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
            folder = run.RunFolder.replace(intended)
        else:
            kept = run.set_aside(intended) if settings.run and intended != sweep_job else None
            folder = _claim(intended, resumed, exactly=intended == sweep_job)
        with sweep.indexed(job, folder.path):
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
        folder = _claim(intended, resumed) if distributed.rank() == 0 else None
        shared = distributed.share(str(folder.path) if folder else None)
        if folder is None:
            return task.run(settings, Path(shared), NullTracker()), None
        return _in_folder(task, settings, overrides, folder, resumed is not None), folder.path
    finally:
        distributed.stop()


def _in_folder(task: Any, settings: Any, overrides: list[str], folder: Any, resumed: bool) -> dict[str, float]:
    """Run the task in its folder; whatever happens, the status says it."""
    from microlatent import config, run, tracking
    from microlatent.provenance import collect_provenance
    from microlatent.sweeps.pruning import Pruned

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
            tracker = tracking.NullTracker()
        else:
            tracker = tracking.Tracker(settings.logger, folder.path, settings, resumed=resumed)
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


def _claim(intended: Path, resumed: Path | None, *, exactly: bool = False) -> Any:
    from filelock import FileLock

    from microlatent import run

    if resumed is None:
        return run.RunFolder.claim(intended, exactly=exactly)
    with FileLock(resumed / ".lock", timeout=60):  # two may want to go on with it in the same second
        status = run.read_status(resumed)
        if status.get("state") == "running":
            raise ValueError(
                f"resume={run_name(resumed)} is still running (process {status['pid']} on {status['host']}). Stop it; if that "
                f"machine is gone, delete {run_name(resumed)}/status.json and try again."
            )
        folder = run.RunFolder(resumed)
        folder.set("running", resumed=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    return folder


def _intended(settings: Any, sweep_job: Path | None) -> Path:
    """Return where a command writes: below the run it stands on, in its place in a sweep, or in a folder of its own."""
    from microlatent.sweeps import sweep

    task = settings.task
    if settings.run and not (sweep_job and sweep.shares_run(sweep_job.parent)):
        return Path(settings.run) / task.name
    if sweep_job is not None:
        return sweep_job.absolute()
    if task.name == "compare" and len(task.runs) == 1 and sweep.is_sweep(Path(task.runs[0])):
        return Path(task.runs[0]).absolute() / "compare"
    name = settings.name or "-".join(group.name for group in (settings.data, settings.model or task) if group)
    return (Path(settings.outputs) / name / time.strftime("%Y%m%d-%H%M%S")).absolute()


def _limit_threads(threads: int | None) -> None:
    """Bound the threads of BLAS, OpenMP and numba before they are loaded: over-subscription costs more than anything else."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = int(os.environ.get("SLURM_CPUS_PER_TASK", cores))  # what the job was given; not every cluster holds it to that
    count = threads or min(int(os.environ.get("OMP_NUM_THREADS", cores)), cores)  # a login node's value comes along to the jobs
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _log_to_console() -> None:
    if not logger.handlers:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    logger.setLevel(logging.INFO)


def run_name(path: Path) -> str:
    """Return a run's folder as a user would type it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


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
