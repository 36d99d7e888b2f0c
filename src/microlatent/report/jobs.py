"""A sweep or a study as its folders tell it: rows, states, objectives, numbers that may be compared, curves."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from microlatent.metrics import QUALITY, SCORE, direction, unlike
from microlatent.record import DAMAGE, Record, reason
from microlatent.report.blocks import Note
from microlatent.report.plots import numbers
from microlatent.report.reading import problem_notes, read_csv
from microlatent.report.values import label
from microlatent.sweeps import index, sweep

FIXED = ("job", "state", "duration_s", "folder", "overrides", "error")
CURVE_POINTS = 60_000  # of all curves together: more would make the page heavy and no line clearer
FEWEST_POINTS = 20  # of one curve
MOST_PICTURED = 48  # jobs whose figures are in the page


@dataclass
class Jobs:
    """A sweep as read: a row per job, and the records of the jobs that have begun."""

    plan: sweep.Plan
    rows: list[dict[str, Any]]
    records: dict[int, Record]
    problems: list[Note]

    @cached_property
    def states(self) -> Counter[str]:
        """Return how many jobs are in each state."""
        return Counter(row["state"] for row in self.rows)

    @cached_property
    def varied(self) -> list[str]:
        """Return the keys that were varied and have a value."""
        return [key for key in self._keys if any(row.get(key) is not None for row in self.rows)]

    @cached_property
    def _keys(self) -> list[str]:
        return self.plan.varied

    @cached_property
    def metrics(self) -> list[str]:
        """Return the final numbers that tell runs apart: the objectives, what may be compared, then what may not.

        Those of the training part stay in the runs' own pages.
        """
        names = dict.fromkeys(key for row in self.rows for key, value in row.items() if isinstance(value, int | float))
        found = [name for name in names if name not in (*FIXED, *self._keys) and not name.startswith("best_train_")]
        values = {name: {row[name] for row in self.rows if name in row} for name in found}
        telling = [name for name in found if len(values[name]) > 1 and name not in ("seconds", *self.objectives)]
        asked = [name for name in self.objectives if name in values]
        # The best score is also the loss part that was monitored: it is shown once.
        score = SCORE
        same = {
            name for name in (*asked, *telling) if name != score and all(row.get(name) == row.get(score) for row in self.rows)
        }
        left_out = same if score in asked else {score} if same else set()
        telling = [name for name in telling if name not in left_out]
        return [*asked, *sorted(telling, key=lambda name: bool(self.unlike(name)))]

    def words(self, name: str) -> str:
        """Return what a column is called; the best score by what was monitored, where that is the same for all."""
        if name == SCORE and len(self.monitors) == 1:
            (term,) = self.monitors
            part = "val" if any(f"best_val_{term}" in row for row in self.rows) else "train"
            return label(f"best_{part}_{term}")
        return label(name)

    @cached_property
    def monitors(self) -> set[str]:
        """Return the metrics by which the jobs chose their best epoch."""
        return {str(record.get("trainer", "monitor") or "total") for record in self.records.values() if record.config}

    @cached_property
    def objectives(self) -> dict[str, str]:
        """Return the study's objectives; of a sweep a quality that is one quantity in all runs, and the parameters."""
        if self.plan.study:
            return dict(self.plan.study.get("objectives") or {})
        known = [name for name in QUALITY if any(isinstance(row.get(name), int | float) for row in self.rows)]
        quality = next((name for name in known if not self.unlike(name)), next(iter(known), SCORE))
        sizes = {row["parameters"] for row in self.rows if "parameters" in row}
        way = direction(quality, next(iter(self.monitors), "total"))
        return {quality: way} | ({"parameters": "minimize"} if len(sizes) > 1 else {})

    @cached_property
    def configs(self) -> dict[int, dict[str, Any]]:
        """Return the settings of every job, with dotted keys."""
        from microlatent.config import flat

        return {job: flat(record.config) for job, record in self.records.items() if record.config}

    def unlike(self, name: str) -> list[str]:
        """Return the settings that make a number another quantity in some of the runs; none where it may be compared."""
        return unlike(name, self.configs.values())

    @cached_property
    def curves(self) -> dict[int, dict[str, Any]]:
        """Return epochs and curves of every job that has a history, thinned where there are many."""
        found, counts = {}, 0
        for job, record in self.records.items():
            path = record.path / "history.csv"
            if path.is_file():
                try:
                    found[job] = table = read_csv(path)
                    counts += sum(name.startswith(("train_", "val_")) for name in table)
                    table["epoch"]
                except DAMAGE as error:
                    found.pop(job, None)
                    self.problems.append(Note(f"Job {job}: history.csv cannot be read: {reason(error)}", "warning"))
        return {
            job: _thinned(table, max(FEWEST_POINTS, CURVE_POINTS // max(1, counts))) for job, table in found.items() if len(table)
        }

    def name(self, job: int) -> str:
        """Return what tells a job from the others."""
        return self._names.get(job) or "nothing varied"

    @cached_property
    def _names(self) -> dict[int, str]:
        return sweep.labels(self.plan)

    @cached_property
    def pictured(self) -> list[int]:
        """Return the jobs whose figures the page holds: all, or of very many the best."""
        metric, direction = next(iter(self.objectives.items()))
        sign = 1 if direction == "minimize" else -1
        scores = {row["job"]: row.get(metric) for row in self.rows}
        order = {job: sign * score if isinstance(score, int | float) else math.inf for job, score in scores.items()}
        return sorted(sorted(self.records, key=lambda job: order[job])[:MOST_PICTURED])

    def last(self, job: int, metric: str) -> float | None:
        """Return what a metric was when a job stopped: the last value of the curve that it is the best of."""
        monitor = self.records[job].get("trainer", "monitor") or "total"
        curve = f"val_{monitor}" if metric == SCORE else metric.removeprefix("best_")
        return (self.curves.get(job, {}).get("curves", {}).get(curve) or [None])[-1]

    def best(self, metric: str, direction: str) -> dict[str, Any] | None:
        """Return the completed job that is best on a metric."""
        rows = [row for row in self.rows if row["state"] == "completed" and isinstance(row.get(metric), int | float)]
        return (min if direction == "minimize" else max)(rows, key=lambda row: row[metric]) if rows else None


def read_jobs(folder: Path) -> Jobs:
    """Read a sweep: its plan, its index, and what each job's folder says."""
    plan, problems = sweep.read_plan(folder), []
    rows = [{key: value for key, value in row.items() if value == value} for row in index.read(folder).to_dict("records")]
    records = {row["job"]: Record((folder / row["folder"]).resolve()) for row in rows if row["state"] != "pending"}
    for job, record in records.items():
        problems += [Note(f"Job {job}: {note.text}", "warning") for note in problem_notes(record)]
    return Jobs(plan, rows, records, problems)


def _thinned(table: Any, most: int) -> dict[str, Any]:
    if len(table) > most:
        table = table.iloc[sorted({round(i * (len(table) - 1) / (most - 1)) for i in range(most)})]
    names = [name for name in table if name.startswith(("val_", "train_"))]
    return {"epochs": numbers(table["epoch"]), "curves": {name: numbers(table[name]) for name in names}}
