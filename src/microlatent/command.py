"""One command from its arguments to its run folder; ``train.py``, ``infer.py`` and ``analyze.py`` call ``main``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
INTERRUPTED = 75  # exit code after SIGTERM or SIGUSR1: everything is saved, start again with resume= (sysexits.h EX_TEMPFAIL)
BAD_INPUT = 2
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError)

logger = logging.getLogger("microlatent")


class Interrupted(Exception):
    """A signal asked the command to stop; what could be saved is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(entry: str, doc: str) -> None:
    """Run one of the three commands with the arguments of this process."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        from microlatent.config import load_plugins, manual

        load_plugins(_plugins(arguments))
        print(doc.strip() + "\n\n" + manual(entry))
        return
    # Hydra prints its own account of an error unless it may raise it; we say it in the user's words.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from microlatent import config

    overrides = [argument for argument in arguments if not argument.startswith("-")]

    def job(cfg: Any) -> dict[str, float] | None:
        try:
            return execute(entry, cfg)
        except (*USER_ERRORS, Interrupted) as error:
            if "-m" in arguments or "--multirun" in arguments:
                raise  # the sweeper counts it and goes on
            sys.exit(_exit_code(error, debugging))

    try:
        config.load_plugins(_plugins(arguments))
        hydra.main(config_path=str(ROOT / "conf"), config_name=entry, version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {config.explain(error, overrides)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except (*USER_ERRORS, Interrupted) as error:
        sys.exit(_exit_code(error, debugging))


def _exit_code(error: Exception, debugging: bool) -> int:
    """Say what went wrong, in one line unless HYDRA_FULL_ERROR=1 asks for the traceback, and choose the exit code."""
    if isinstance(error, Interrupted):
        return 130 if error.number == signal.SIGINT else INTERRUPTED
    if debugging:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def _plugins(arguments: list[str]) -> list[str]:
    typed = next((a.split("=", 1)[1] for a in arguments if a.lstrip("+").startswith("plugins=")), "")
    return [name.strip(" '\"") for name in typed.strip("[]").split(",") if name.strip()]


def execute(entry: str, cfg: Any) -> dict[str, float] | None:
    """Validate a composed configuration, claim its folder, run the task, and leave a true status."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from microlatent import config, run

    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    if cfg.rerun:
        return _rerun(cfg, overrides)
    resumed = run.find(cfg.resume, cfg.outputs, cfg.name, "resume") if cfg.resume else None
    if resumed:
        container = _resumed_config(cfg, overrides, resumed)
    else:
        if cfg.run:
            cfg.run = str(run.find(cfg.run, cfg.outputs, cfg.name))
            cfg = config.with_run_data(cfg, overrides, run.read_config(Path(cfg.run)))
        container = OmegaConf.to_container(cfg, resolve=True)
    settings = config.settle(container, entry)
    sweep_job = Path(hydra_config.runtime.output_dir) if hydra_config.mode.name == "MULTIRUN" else None
    return _execute(settings, overrides, resumed, sweep_job)


def _execute(settings: Any, overrides: list[str], resumed: Path | None, sweep_job: Path | None) -> dict[str, float] | None:
    from microlatent import config, run

    _console_log()
    _limit_threads(settings.trainer.threads)
    if settings.trainer.allocator:
        from microlatent import allocator

        allocator.tune()
    task = config.choice("task", settings.task.name).load()
    if settings.check:
        _print_rehearsal(task.rehearse(settings, _intended(settings, sweep_job)))
        return None

    from microlatent import distributed

    distributed_run = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed_run:
        distributed.start(settings.trainer.device)
    if distributed_run and distributed.rank() > 0:
        folder = run.RunFolder(Path(distributed.share(None)))
        try:
            return task.run(settings, folder.path, _silent_tracker())
        finally:
            distributed.stop()

    folder = run.RunFolder(resumed) if resumed else _claim(settings, sweep_job)
    if resumed:
        folder.set("running", resumed=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    if distributed_run:
        distributed.share(str(folder.path))
    return _guarded(task, settings, overrides, folder, bool(resumed))


def _guarded(task: Any, settings: Any, overrides: list[str], folder: Any, resumed: bool) -> dict[str, float]:
    """Run the task in its folder; whatever happens, the status says it."""
    from microlatent import config, distributed, provenance, tracking

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    handler = logging.FileHandler(folder.path / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    tracker = None
    try:
        container = config.plain(settings)
        if not resumed:
            folder.describe(container, overrides, provenance.birth(container, parent=settings.run))
        tracker = tracking.Tracker(settings.logger, folder.path, settings, resumed=resumed)
        numbers = task.run(settings, folder.path, tracker)
        tracker.finish(numbers)
        folder.set("completed", **{"metrics": numbers})
        _print_numbers(numbers, folder.path)
        return numbers
    except Interrupted as stop:
        folder.set("interrupted", reason=str(stop), exit_code=130 if stop.number == signal.SIGINT else INTERRUPTED)
        hint = f" Continue with: python train.py resume={_short(folder.path)}" if settings.task.name == "train" else ""
        logger.warning("Stopped by %s.%s", stop, hint)
        raise
    except BaseException as error:
        folder.set("failed", reason=f"{type(error).__name__}: {error}")
        logger.debug("", exc_info=True)
        with open(folder.path / "log.txt", "a") as file:
            traceback.print_exc(file=file)
        raise
    finally:
        if tracker is not None:
            tracker.close()
        logger.removeHandler(handler)
        handler.close()
        distributed.stop()


def _claim(settings: Any, sweep_job: Path | None) -> Any:
    from microlatent import run

    path = _intended(settings, sweep_job)
    if settings.run:
        run.set_aside(path)
    return run.RunFolder.claim(path)


def _intended(settings: Any, sweep_job: Path | None) -> Path:
    """Return where a command writes: below the run it stands on, in its place in a sweep, or in a folder of its own."""
    if settings.run:
        return Path(settings.run) / settings.task.name
    if sweep_job is not None:
        return sweep_job.absolute()
    name = settings.name or f"{settings.data.name}-{settings.model.name if settings.model else settings.task.name}"
    return (Path(settings.outputs) / name / time.strftime("%Y%m%d-%H%M%S")).absolute()


def _resumed_config(cfg: Any, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Return the run's own configuration with the user's changes, refusing those that would make it another experiment."""
    from omegaconf import OmegaConf

    from microlatent import config, run

    stored = run.read_config(folder)
    free = ("trainer.epochs", "trainer.patience", "trainer.checkpoint_every", "trainer.threads", "trainer.device", "logger")
    changed = []
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if key in ("resume", "name", "outputs", "check", "plugins"):
            continue
        wanted = OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(cfg, key)}), resolve=True)["value"]
        if isinstance(wanted, dict):
            wanted_flat = config.flat(wanted, key + ".") if key in config.GROUPS else {key: wanted}
        else:
            wanted_flat = {key: wanted}
        old = config.flat(stored)
        for name, value in wanted_flat.items():
            if old.get(name) == value:
                continue
            if name.startswith(free):
                _put(stored, name, value)
            elif key == name:  # typed itself; a whole group typed again (model=...) is compared by its name alone
                changed.append(f"  {name}: {old.get(name)} in the run, {value} now")
            elif name.endswith(".name"):
                changed.append(f"  {name}: {old.get(name)} in the run, {value} now")
    if changed:
        raise ValueError(
            f"resume={_short(folder)} continues the same experiment, but these settings differ:\n"
            + "\n".join(changed)
            + "\nLeave them out to continue, or start a new run (init_from=<checkpoint> takes its weights)."
        )
    return {**stored, "resume": str(folder), "check": bool(cfg.check)}


def _put(container: dict[str, Any], dotted: str, value: Any) -> None:
    *path, leaf = dotted.split(".")
    for key in path:
        container = container[key]
    container[leaf] = value


def _rerun(cfg: Any, overrides: list[str]) -> dict[str, float] | None:
    """Repeat a run from its folder alone and say whether the history is identical."""
    from microlatent import config, run
    from microlatent.tracking import differing_history

    original = run.find(cfg.rerun, cfg.outputs, cfg.name, "rerun")
    container = run.read_config(original)
    config.load_plugins(container.get("plugins") or [])
    container |= {
        "rerun": None,
        "resume": None,
        "check": bool(cfg.check),
        "name": f"{original.parent.name}",
        "outputs": cfg.outputs,
    }
    settings = config.settle(container, "train")
    before = set(run.training_runs(Path(cfg.outputs)))
    numbers = _execute(settings, [*overrides], None, None)
    new = sorted(set(run.training_runs(Path(cfg.outputs))) - before, key=lambda path: path.stat().st_mtime)
    if new:
        difference = differing_history(original / "history.csv", new[-1] / "history.csv")
        verdict = "identical to" if difference is None else f"different from ({difference}) that of"
        logger.info("The history of %s is %s %s.", _short(new[-1]), verdict, _short(original))
    return numbers


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _silent_tracker() -> Any:
    from microlatent.tracking import NullTracker

    return NullTracker()


def _limit_threads(threads: int | None) -> None:
    """Bound the threads of BLAS and OpenMP before they are loaded; over-subscription costs more than anything else here."""
    count = threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or _cores()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _console_log() -> None:
    if not any(isinstance(h, logging.StreamHandler) and not isinstance(h, logging.FileHandler) for h in logger.handlers):
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _short(path: Path) -> str:
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
    console.print(f"results: {_short(folder)}", soft_wrap=True)


def _print_rehearsal(rehearsal: Any) -> None:
    print("check: nothing was written.")
    for title, lines in (("reads", rehearsal.reads), ("would write", rehearsal.writes), ("note", rehearsal.notes)):
        for line in lines:
            print(f"  {title}: {line}")
    seconds = "unknown" if rehearsal.seconds is None else f"{rehearsal.seconds:.0f} s"
    print(f"  estimates: memory {rehearsal.memory_mb:.0f} MB, disk {rehearsal.disk_mb:.0f} MB, time {seconds}")
