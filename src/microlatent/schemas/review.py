"""Settings of the tasks that review runs: ``task=compare`` and ``task=report``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from microlatent.schemas.checks import MISSING, at_least, distinct, one_of

DIRECTIONS = ("minimize", "maximize")


@dataclass(kw_only=True)
class CompareConfig:
    """Compare runs: one table and one figure across what was varied and across seeds (``tasks/compare.py``)."""

    name: str = MISSING
    runs: Any = None  # folders of runs, of experiments or of sweeps: one, or [a,b]
    metrics: list[str] | None = None  # final numbers in tables, differences and figures; default: see tasks/compare.py
    objectives: Any = None  # {metric: minimize or maximize}; default: what is comparable
    reference: str | None = None  # configuration the others are compared with; default: the best on each objective

    def __post_init__(self) -> None:
        self.runs = [self.runs] if isinstance(self.runs, str) else [str(run) for run in self.runs or []]
        if not isinstance(self.objectives, dict | None):
            raise ValueError(
                f"task.objectives is {self.objectives}, but must say for each metric which way is better: "
                "'task.objectives={best_score: minimize, parameters: minimize}'."
            )
        self.objectives = self.objectives or {}
        for metric, direction in self.objectives.items():
            one_of(f"task.objectives.{metric}", direction, DIRECTIONS)
        distinct("task.metrics", self.metrics)


@dataclass(kw_only=True)
class ReportConfig:
    """Write one HTML page about a run or a sweep, which opens from disk without a network (``tasks/report.py``)."""

    name: str = MISSING
    max_points: int = 3000  # points of a scatter plot at most, drawn from the seed
    max_image_px: int = 1000  # longer side of an image in the page at most

    def __post_init__(self) -> None:
        at_least("task.max_points", self.max_points, 1)
        at_least("task.max_image_px", self.max_image_px, 240)  # smaller ones show nothing
