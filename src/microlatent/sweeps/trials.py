"""Who runs which trial: several processes, on one machine or on many, share a study and no trial is run twice.

Every process asks the storage for trials of its own. A trial says who runs it; when that process is gone, the others find out
from the trial's run folder how it ended, and one of them puts the values of a lost trial back into the queue. Whoever takes them
from there goes on with its run, where that left a checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from microlatent.record import Record, is_alive
from microlatent.run import can_continue
from microlatent.schemas.checks import nearest
from microlatent.sweeps import search_space, sweep
from microlatent.sweeps.launching import Finished
from microlatent.sweeps.study import OpenStudy, patiently

logger = logging.getLogger(__name__)

SECONDS_TO_SIGN = 60.0  # a trial that nobody has signed for this long was asked for by a process that died


class Trials:
    """The trials of a study, as one of the processes that run them sees them.

    Parameters
    ----------
    opened
        The study.
    space
        Optuna's distribution of every swept key.
    total
        Finished trials (complete or pruned) wanted in the study.
    folder
        The sweep's: a trial's run folder is its number there.
    """

    def __init__(self, opened: OpenStudy, space: dict[str, Any], total: int, folder: Path) -> None:
        self.opened, self.study, self.space, self.total, self.folder = opened, opened.study, space, total, folder
        self.mine: set[int] = set()
        self.failures, self.last_error = 0, ""  # of this process
        self.is_exhausted = False  # no combination is left to try
        self._refuse_another_space()

    def _refuse_another_space(self) -> None:
        from optuna.distributions import check_distribution_compatibility

        for trial in self.study.get_trials(deepcopy=False)[:1]:
            for key, known in trial.distributions.items():
                try:
                    check_distribution_compatibility(known, self.space[key])
                except (ValueError, KeyError) as error:
                    raise ValueError(
                        f"study {self.study.study_name} searches {key} among {_shown(known)}, but this command among "
                        f"{_shown(self.space.get(key))}. Type the same values to join it, or name another study: "
                        "hydra.sweeper.study_name=<new name>."
                    ) from error

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Return the number and the values of a trial for this process to run, or None where no more are wanted now."""
        self.collect()
        if self.is_exhausted or len(self.underway()) >= self.total:
            return None
        while True:
            trial = patiently(lambda: self.study.ask(self.space))
            owner, path = _this_process(), str(self.folder / str(trial.number))
            patiently(partial(self.opened.annotate, trial.number, owner=owner, folder=path))
            # Others may have asked at the same time. Who came first stays; a trial from the queue, whose number is old, yields.
            is_queued = "again" in trial.user_attrs
            before = [one for one in self.underway() if one.number < trial.number or (is_queued and one.number != trial.number)]
            if len(before) >= self.total:
                self.close(trial.number, "FAIL", surplus=True)
                return None
            tried = [one.params for one in before]
            if is_queued or trial.params not in tried:
                break
            # Samplers like to draw the best again, but the same values with the same seed give the same run.
            self.close(trial.number, "FAIL", repeats=True)
            fresh = search_space.untried(self.space, tried, trial.params)
            if fresh is None:
                logger.info("Every combination of the %d has been tried: the study ends here.", len(tried))
                self.is_exhausted = True
                return None
            patiently(partial(self.study.enqueue_trial, fresh))
        self.mine.add(trial.number)
        if is_queued:
            self._take_over(trial.number, trial.user_attrs["again"])
        return trial.number, trial.params

    def underway(self) -> list[Any]:
        """Return the trials that are finished, or running anywhere."""
        return self.in_states("COMPLETE", "PRUNED", "RUNNING")

    def tell(self, ended: Finished) -> None:
        """Add how a trial of this process ended.

        Raises
        ------
        ValueError
            The run has no such metric as the study's objective.
        """
        self.mine.discard(ended.number)
        status = Record(self.folder / str(ended.number)).status
        if ended.error is None:
            self._finish(ended.number, ended.value)
        elif status.get("state") == "interrupted":
            self._give_back(self.opened.trial(ended.number), status)
        else:
            self._fail(ended.number, ended.error)

    def _finish(self, number: int, numbers: dict[str, Any] | None) -> None:
        numbers = numbers or {}
        if numbers.get("pruned"):
            self.close(number, "PRUNED")
            return
        for metric in self.opened.objectives:
            if metric not in numbers:
                self.close(number, "FAIL", error=f"no metric {metric}")
                raise ValueError(
                    f"hydra.sweeper.objectives names {metric}, but the runs of this study have no such number. "
                    f"{nearest(metric, numbers)}"
                )
        values = [float(numbers[metric]) for metric in self.opened.objectives]
        if any(value != value for value in values):
            self._fail(number, f"{' or '.join(self.opened.objectives)} is not a number")
            return
        self.close(number, "COMPLETE", values)

    def collect(self) -> bool:
        """Close the trials of processes that are gone; return whether a run of one of them goes on without its process.

        A trial whose run had ended keeps its result. The values of one that was lost go back into the queue.
        """
        goes_on = False
        for trial in self.in_states("RUNNING"):
            if trial.number in self.mine or _is_alive(trial):
                continue
            path = self.folder_of(trial)
            record = Record(path)
            status = record.status
            match status.get("state"), _is_here(trial):
                case (("completed" | "pruned"), _):
                    self._finish(trial.number, record.metrics or {"pruned": status["state"] == "pruned"})
                case "failed", True:
                    self._fail(trial.number, str(status.get("reason")))
                case "running", True:
                    goes_on = True
                case _, True:
                    self._give_back(trial, status)
                case None, False if (path / "config.yaml").is_file():  # the user has removed status.json: that machine is gone
                    self._give_back(trial, status)
        return goes_on

    def _fail(self, number: int, error: str) -> None:
        if self.close(number, "FAIL", error=error):
            self.failures, self.last_error = self.failures + 1, error

    def _give_back(self, trial: Any, status: dict[str, Any]) -> None:
        """Close a trial whose run did not come to its end; its values are the next to be tried.

        Those of a run that was killed are tried twice and not more, since it may be them that kill it.
        """
        state = status.get("state", "never begun")
        if not status:
            sweep.remove_job(self.folder, trial.number)  # or the index would say for ever that it is pending
        if self.close(trial.number, "FAIL", lost=state) and (state == "interrupted" or "again" not in trial.user_attrs):
            logger.warning("Trial %d did not come to its end (%s); its values are tried again.", trial.number, state)
            patiently(lambda: self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number}))

    def _take_over(self, number: int, lost: int) -> None:
        """Go on with the run of a lost trial, under the number that its values have now, with what it had reported."""
        before, after = (self.folder / str(one) for one in (lost, number))
        if not can_continue(before):
            return
        before.rename(after)
        sweep.remove_job(self.folder, lost)
        for epoch, value in self.opened.trial(lost).intermediate_values.items():
            patiently(partial(self.opened.report, number, epoch, value))
        logger.info("Trial %d goes on as trial %d.", lost, number)

    def close(self, number: int, state: str, values: list[float] | None = None, **facts: Any) -> bool:
        """Finish a trial in the storage; return False where another process has done so."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            patiently(lambda: self.opened.annotate(number, **facts))
            patiently(lambda: self.study.tell(number, values, state=TrialState[state]))
        except UpdateFinishedTrialError:
            return False
        except ValueError:
            if self.opened.trial(number).state.is_finished():
                return False
            raise
        return True

    def folder_of(self, trial: Any) -> Path:
        """Return a trial's run folder: here, or where the process that ran it has its sweep."""
        here = self.folder / str(trial.number)
        return here if here.is_dir() else Path(trial.user_attrs.get("folder", here))

    @property
    def finished(self) -> int:
        """How many trials are complete or were pruned."""
        return len(self.in_states("COMPLETE", "PRUNED"))

    @property
    def is_wanting(self) -> bool:
        """Whether a trial must still be asked for, as one that ran elsewhere has failed."""
        return len(self.underway()) < self.total and not self.is_exhausted

    def elsewhere(self) -> list[Any]:
        """Return the running trials of other processes."""
        return [trial for trial in self.in_states("RUNNING") if trial.number not in self.mine]

    def counts(self) -> dict[str, int]:
        """Return how many trials are complete, were pruned, have failed, and did not come to their end."""
        failed = self.in_states("FAIL")
        return {
            "complete": len(self.in_states("COMPLETE")),
            "pruned": len(self.in_states("PRUNED")),
            "failed": sum("error" in trial.user_attrs for trial in failed),
            "interrupted": sum("lost" in trial.user_attrs for trial in failed),
        }

    def in_states(self, *names: str) -> list[Any]:
        """Return the trials in some of Optuna's states."""
        from optuna.trial import TrialState

        return patiently(lambda: self.study.get_trials(deepcopy=False, states=[TrialState[name] for name in names]))


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_here(trial: Any) -> bool:
    return trial.user_attrs.get("owner", _this_process())["host"] == socket.gethostname()


def _is_alive(trial: Any) -> bool:
    """Return whether the process that runs a trial is at work, as far as it can be told from here."""
    owner = trial.user_attrs.get("owner")
    if owner is None:
        return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() < SECONDS_TO_SIGN
    if owner["host"] != socket.gethostname():
        return False  # not known: the run's own status decides
    return is_alive(owner["pid"], owner["started"])


def _shown(distribution: Any) -> str:
    if distribution is None:
        return "nothing"
    choices = getattr(distribution, "choices", None)
    return ", ".join(choices) if choices else f"{distribution.low} to {distribution.high}"
