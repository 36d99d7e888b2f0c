"""A study from its first trial to its last: the loop, the recipe of the best, the table at the end."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import Any

from microlatent.overrides import texts
from microlatent.run import read_config, run_name
from microlatent.signals import CTRL_C, SIGNALS, Interrupted, StopSignals, raise_on_signals
from microlatent.sweeps import index, recipe, running, search_space, sweep
from microlatent.sweeps.launching import Finished, Pool
from microlatent.sweeps.trials import Trials

SHOWN = 5  # trials in the table at the end
LOOK_S = 1.0  # between two looks at a run whose own sweep is gone

logger = logging.getLogger("microlatent")


def run_trials(trials: Trials, pool: Pool, fixed: list[str], max_failures: int) -> None:
    """Run trials until the study has enough, the next as soon as one ends; a signal stops them all, saved.

    Parameters
    ----------
    fixed
        Overrides of every trial.
    max_failures
        Trials of this process that may fail.

    Raises
    ------
    ValueError
        More trials failed, or they have no such metric as the study's objective.
    """
    wanted, name = trials.total, trials.study.study_name
    logger.info("study %s: %d of %d trials are finished.", name, trials.finished, wanted)
    raise_on_signals()
    try:
        while True:
            with StopSignals() as stop:  # what is written to the storage is written to its end
                while not stop.asked and pool.free and (asked := trials.ask()):
                    number, values = asked
                    chosen = search_space.overrides(values)
                    sweep.add_job(trials.folder, number, [*fixed, *chosen])
                    logger.info("trial %d: %s", number, " ".join(chosen))
                    pool.start(number, [*fixed, *chosen], trials.folder / str(number))
            if stop.asked:
                raise Interrupted(stop.asked)
            if pool.running:
                tell(trials, pool.wait())
            elif trials.collect():  # somebody else's run, whose end nobody but us will hear of
                time.sleep(LOOK_S)
            elif not trials.is_wanting:
                return
            if trials.failures > max_failures:
                raise ValueError(
                    f"{trials.failures} trials failed, more than hydra.sweeper.max_failures={max_failures}. The last one said: "
                    f"{trials.last_error} The others are kept. When the reason is gone, go on: python train.py "
                    f"resume={trials.folder}"
                )
    except BaseException as error:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the trials have heard it; let them save
        is_ctrl_c = isinstance(error, Interrupted) and error.exit_code == CTRL_C
        tell(trials, pool.stop(signal.SIGINT if is_ctrl_c else signal.SIGTERM))
        if isinstance(error, Interrupted):
            logger.warning("Stopped by %s. Go on with: python train.py resume=%s", error, run_name(trials.folder))
        raise


def tell(trials: Trials, ended: list[Finished]) -> None:
    """Tell the study how trials ended, and keep the index and the recipe of the best true."""
    for one in ended:
        if one.error:
            running.note_failure(trials.folder, one.number, one.error)
            logger.error("trial %d did not finish: %s", one.number, one.error)
        trials.tell(one)
    write_best(trials)


def best(trials: Trials) -> list[Any]:
    """Return the best trial, or those of several objectives that no other beats in all of them."""
    return trials.study.best_trials if len(trials.opened.objectives) > 1 else trials.study.best_trials[:1]


def write_best(trials: Trials) -> None:
    """Write ``experiment/best.yaml``, with several objectives ``experiment/best_trial<number>.yaml`` for each of the best."""
    folder, kept = trials.folder / "experiment", set()
    for trial in best(trials):
        name = "best" if len(trials.opened.objectives) == 1 else f"best_trial{trial.number}"
        path, where = folder / f"{name}.yaml", trials.folder_of(trial)
        if not (where / "config.yaml").is_file():
            logger.warning("Trial %d is among the best, but its folder, %s, is not on this machine.", trial.number, where)
            continue
        values = ", ".join(f"{key} {value:.6g}" for key, value in zip(trials.opened.objectives, trial.values, strict=True))
        about = f"Trial {trial.number} of the study {trials.study.study_name}: {values}."
        typed = set(texts(sweep.read_plan(trials.folder).jobs.get(trial.number, []))) | set(trial.params)
        if not path.is_file() or about not in path.read_text():
            recipe.write(read_config(where), typed, about, path)
        kept.add(path)
    for path in set(folder.glob("best*.yaml")) - kept:  # another trial has beaten it
        path.unlink(missing_ok=True)


def conclude(trials: Trials) -> None:
    """Print the best trials, how many there are of each kind, and what to do with the best."""
    from rich.console import Console
    from rich.table import Table

    write_best(trials)
    index.write(trials.folder)
    objectives, folder = trials.opened.objectives, run_name(trials.folder)
    table = Table(box=None)
    for column in ("trial", *objectives, *trials.space):
        table.add_column(column, justify="right")
    front = best(trials)
    others = [trial for trial in trials.in_states("COMPLETE") if trial.number not in {one.number for one in front}]
    sign = 1 if next(iter(objectives.values())) == "minimize" else -1
    others.sort(key=lambda trial: sign * trial.values[0])
    for trial in [*front, *others[: max(0, SHOWN - len(front))]]:
        values = [*trial.values, *(trial.params.get(key, "") for key in trials.space)]
        table.add_row(str(trial.number), *(f"{value:.5g}" if isinstance(value, float) else str(value) for value in values))
    console = Console(file=sys.stdout)
    console.print(table)
    counts = ", ".join(f"{count} {kind}" for kind, count in trials.counts().items() if count)
    console.print(f"study {trials.study.study_name}: {trials.finished} of {trials.total} trials ({counts})", soft_wrap=True)
    for trial in trials.elsewhere():
        host = trial.user_attrs.get("owner", {}).get("host", "another machine")
        console.print(
            f"trial {trial.number} is running in another process on {host}. If that is gone, remove "
            f"{trial.user_attrs.get('folder')}/status.json and type: python train.py resume={folder}",
            soft_wrap=True,
        )
    for name in sorted(path.stem for path in (trials.folder / "experiment").glob("best*.yaml"))[:1]:
        console.print(f"train the best again: python train.py --config-dir {folder} experiment={name}", soft_wrap=True)
    console.print(f"results: {folder} ({index.INDEX} is the index)", soft_wrap=True)
