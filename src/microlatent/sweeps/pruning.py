"""A training run that is a trial of a study: it reports every epoch and stops early where the study sees no future in it.

The run knows its study from where it lies: the folder above it is a sweep whose plan has a ``study``, and its name is the
trial's number. A run outside a study imports nothing of this.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microlatent.metrics import SCORE, direction
from microlatent.schemas.checks import nearest
from microlatent.sweeps import sweep

if TYPE_CHECKING:
    from microlatent.sweeps.study import OpenStudy

logger = logging.getLogger(__name__)


class Pruned(Exception):
    """The study's pruner stopped a training run: others were better at the same epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"pruned after epoch {epoch}: other trials of the study were better by then")
        self.epoch = epoch


def trial_of(out: Path, monitor: str = "total") -> RunningTrial | None:
    """Return the trial that a run folder belongs to, or None where it is not pruned.

    Raises
    ------
    ValueError
        The study looks for the worst value of the metric that is monitored.
    """
    folder = sweep.of_job(out)
    study = sweep.read_plan(folder).study if folder is not None else None
    asked, better = (study or {}).get("objectives", {}).get(SCORE), direction(SCORE, monitor)
    if asked not in (None, better):
        raise ValueError(
            f"hydra.sweeper.objectives asks to {asked} {SCORE}, but trainer.monitor={monitor} is better when "
            f"{'higher' if better == 'maximize' else 'lower'}. Set hydra.sweeper.objectives={{{SCORE}:{better}}}."
        )
    if not study or study["pruner"] == "none":
        return None
    return RunningTrial(study, out)


class RunningTrial:
    """One trial, as its own training loop sees it.

    Parameters
    ----------
    study
        As ``sweep.yaml`` describes it.
    out
        The run folder; its name is the trial's number.
    """

    def __init__(self, study: dict[str, Any], out: Path) -> None:
        self.description, self.folder, self.number = study, out.parent, int(out.name)
        (self.objective,) = study["objectives"]
        self.opened: OpenStudy | None = None

    def is_hopeless(self, row: dict[str, Any], score: float) -> bool:
        """Report an epoch, and return whether the study's pruner would rather spend the time on another trial.

        Parameters
        ----------
        row
            The epoch's line of ``history.csv``.
        score
            Its monitored metric, what ``best_score`` is the best of.

        Raises
        ------
        ValueError
            The study's objective is no number of the history.
        """
        from optuna.exceptions import OptunaError
        from optuna.trial import TrialState

        from microlatent.sweeps import study

        value = self._value(row, score)
        try:
            if self.opened is None:
                self.opened = study.patiently(lambda: study.OpenStudy(self.description, self.folder))
            opened, epoch = self.opened, int(row["epoch"])
            trial = study.patiently(lambda: opened.trial(self.number))
            if trial.state != TrialState.RUNNING:  # resumed by hand, after the study had closed the trial
                return False
            if epoch not in trial.intermediate_values:  # or a run that goes on would report it twice
                study.patiently(lambda: opened.report(self.number, epoch, value))
            return study.patiently(lambda: opened.study.pruner.prune(opened.study, opened.trial(self.number)))
        except (OptunaError, OSError, KeyError, ValueError) as error:  # gone, damaged, or silent: the training is worth more
            logger.warning("Epoch %d could not be reported to the study (%s). The training goes on.", row["epoch"], error)
            return False

    def _value(self, row: dict[str, Any], score: float) -> float:
        if self.objective == SCORE:
            return score
        columns = [name for name in row if name.startswith(("train_", "val_")) and not isinstance(row[name], list)]
        known = {f"best_{name}": name for name in columns}
        if self.objective not in known:
            raise ValueError(
                f"hydra.sweeper.objectives names {self.objective}, which this model does not measure. "
                f"{nearest(self.objective, [SCORE, *known])}"
            )
        return float(row[known[self.objective]])
