"""Settings of what makes jobs of ``-m``, a grid or a study: ``hydra.sweeper.<key>=...``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from microlatent.schemas.checks import at_least, one_of

SAMPLERS = ("tpe", "random", "nsga2")
PRUNERS = ("median", "hyperband", "none")
DIRECTIONS = ("minimize", "maximize")


@dataclass(kw_only=True)
class GridConfig:
    """Every combination of the swept values (``src/hydra_plugins/grid_sweeper.py``)."""

    _target_: str = "hydra_plugins.grid_sweeper.GridSweeper"  # what Hydra makes of it
    n_jobs: int | None = None  # jobs at a time; default: one on this machine, as many as the launcher takes elsewhere
    params: dict[str, str] = field(default_factory=dict)  # {key: values}, swept as if typed


@dataclass(kw_only=True)
class StudyConfig:
    """A search through Optuna, which stops hopeless trials early (``src/hydra_plugins/study_sweeper.py``)."""

    _target_: str = "hydra_plugins.study_sweeper.StudySweeper"  # what Hydra makes of it
    study_name: str | None = None  # default: the sweep folder's name
    storage: str | None = None  # a journal file or a database (sqlite:///<path> ...); default: study.journal in the sweep folder
    n_trials: int = 20  # finished trials (complete or pruned) wanted in the study in all, also after resume=<sweep folder>
    n_jobs: int = 1  # trials at a time; as soon as one ends the next is asked for
    max_failures: int = 3  # trials that may fail before the study stops
    seed: int | None = 0  # of the sampler; null draws another one each time
    sampler: str = "tpe"  # tpe (learns where the good ones are), random, nsga2 (several objectives)
    pruner: str = "median"  # median (stops what is worse than half of the trials by then), hyperband (many short, few long), none
    startup_trials: int = 5  # tpe: drawn at random first; median: complete before any is judged; nsga2: trials of a generation
    warmup_epochs: int = 3  # no trial is judged before this many epochs
    # Typed as a mapping, Hydra would let nobody add a key to it.
    objectives: Any = None  # {metric: minimize|maximize} of the final metrics; default {best_score: minimize}
    params: dict[str, str] = field(default_factory=dict)  # {key: values}, swept as if typed

    def __post_init__(self) -> None:
        for key in ("n_trials", "n_jobs", "startup_trials", "warmup_epochs"):
            at_least(f"hydra.sweeper.{key}", getattr(self, key), 1)
        for key in ("max_failures", "seed"):
            at_least(f"hydra.sweeper.{key}", getattr(self, key), 0)
        one_of("hydra.sweeper.sampler", self.sampler, SAMPLERS)
        one_of("hydra.sweeper.pruner", self.pruner, PRUNERS)
        self.objectives = {"best_score": "minimize"} if self.objectives is None else self.objectives
        if not isinstance(self.objectives, Mapping) or not self.objectives:
            raise ValueError(
                f"hydra.sweeper.objectives is {self.objectives!r}, but must say what to do with each final metric: "
                "hydra.sweeper.objectives={best_score:minimize}."
            )
        self.objectives = dict(self.objectives)
        for metric, direction in self.objectives.items():
            one_of(f"hydra.sweeper.objectives.{metric}", direction, DIRECTIONS)
        if self.sampler == "nsga2" and self.startup_trials < 2:
            raise ValueError("hydra.sweeper.startup_trials is 1, but nsga2 needs a population of at least 2.")
