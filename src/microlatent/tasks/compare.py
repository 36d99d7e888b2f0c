"""Compare finished runs across what was varied and across seeds, from what they left in their folders.

Writes ``tables/``: ``compare.csv`` (a row per configuration and metric: mean, standard deviation, number of seeds),
``compare.md`` (to be read: the numbers, the best, the Pareto front, differences, what was left out), ``differences.csv`` (pairs
of configurations over shared seeds), ``configurations.csv`` (settings that differ) and ``runs.csv`` (every run with its state);
and ``figures/``: ``compare.png`` (a panel per metric) and ``tradeoffs.png`` (quality against cost, with the Pareto front).

A configuration is a combination of settings without the seed. Only completed runs count; the others are listed with their state.
How differences and their intervals are made stands in ``analysis/comparison.py``, what is compared by default in
``tasks/compare_result.py``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from microlatent.drawing import comparison as drawing
from microlatent.files import write_text
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.tasks import compare_text
from microlatent.tasks.compare_result import Comparison, compare, describe
from microlatent.tasks.compare_runs import gather

log = logging.getLogger(__name__)


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Gather, compare, write."""
    results = results_of(out, tracker)
    for path in results.writes:
        Path(path).unlink(missing_ok=True)  # nothing of an earlier comparison stays beside this one, or beside its failure
    found = look(settings)
    for note in found.notes:
        log.warning(note)
    for name, table in describe(found).items():
        results.table(name, table)
    write_text(compare_text.write(found), results.path("tables/compare.md"))
    draw(found, results)
    for line in compare_text.ranking(found).splitlines()[2:]:
        log.info(line.removeprefix("- ").replace("**", ""))
    return {
        "runs": len(found.counted),
        "not_counted": int((~found.runs["counts"]).sum()),
        "configurations": len(found.settings),
        "seeds": int(found.counted["seed"].nunique()),
    }


def results_of(out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    tables = ["compare", "differences", "configurations", "runs"]
    return Results(out, tracker, files=["tables/compare.md"], tables=tables, figures=["compare", "tradeoffs"])


def look(settings: Settings) -> Comparison:
    """Read the runs and compare them."""
    runs, study = gather(settings.task.runs, settings.outputs)
    return compare(runs, settings.task, study)


def draw(found: Comparison, results: Results) -> None:
    """Draw the metrics by configuration and, where there is something to trade, quality against cost."""
    shown = found.counted, found.summary, found.shown, found.objectives, found.unlike
    results.figure("compare", drawing.draw_metrics, *shown)
    if pairs := drawing.tradeoffs(list(found.objectives), found.cost, found.means):
        traded = found.summary, found.means, pairs, found.objectives, found.front
        results.figure("tradeoffs", drawing.draw_tradeoffs, *traded)


def preflight(settings: Settings, out: Path) -> Preflight:
    """Read the runs, compare them, and list what would be written."""
    found = look(settings)
    count, objectives = len(found.counted), ", ".join(found.objectives) or "none"
    return Preflight(
        reads=list(found.runs["run"]),
        writes=results_of(out).writes,
        memory_mb=300.0,
        disk_mb=1.0,
        seconds=3.0,
        notes=[
            f"{count} of {len(found.runs)} runs count; {len(found.settings)} configurations by "
            f"{', '.join(found.keys) or 'nothing'}; objectives: {objectives}",
            *found.notes,
        ],
    )
