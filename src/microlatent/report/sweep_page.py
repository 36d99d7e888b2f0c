"""The page about a sweep or a study: what was varied, how the jobs ended, and views that share one selection of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microlatent.record import Record
from microlatent.report import plots
from microlatent.report.blocks import Code, Facts, Note, Section, Widget
from microlatent.report.jobs import Jobs
from microlatent.report.origin import origin, uncommitted
from microlatent.report.pictures import Album
from microlatent.report.reading import guarded
from microlatent.report.sweep_data import runs_table, wall
from microlatent.report.task_sections import task_sections
from microlatent.report.values import moment, number, plural, seconds

MAX_FAILURES = 30
MANY_VALUES = 8
MAX_NAMES = 4  # jobs that failed alike and are named
MAX_REASON = 240  # letters of an error that are shown at once
WORDS = {"minimize": "lowest", "maximize": "highest"}


def sweep_head(jobs: Jobs) -> tuple[str, list[Any]]:
    """Return the summary line and the numbers at the head."""
    counts = ", ".join(f"{number(count)} {state}" for state, count in jobs.states.items())
    kind, begun = "Study" if jobs.plan.study else "Sweep", moment(jobs.plan.created)
    line = f"{kind} of {plural(len(jobs.rows), 'job')} of {jobs.plan.entry}.py, begun {begun}: {counts or 'no job'}."
    items = []
    wanted = jobs.objectives if jobs.plan.study else dict([next(iter(jobs.objectives.items()))])
    for metric, direction in wanted.items():
        best = jobs.best(metric, direction)
        if best is not None:
            words = f"{WORDS[direction]} {jobs.words(metric)}: job {best['job']} ({jobs.name(best['job'])})"
            items.append((words, number(best[metric])))
    spent = [row["duration_s"] for row in jobs.rows if isinstance(row.get("duration_s"), int | float)]
    if spent:
        items.append(("time of all jobs", seconds(float(sum(spent)))))
    return line, [Facts(items, large=True)] if items else []


def attention(jobs: Jobs) -> Section | None:
    """Return the jobs that failed with the first line of their errors, and what else makes the table less than it seems."""
    notes: list[Note] = list(jobs.problems)
    failed: dict[str, list[int]] = {}
    for row in jobs.rows:
        if row["state"] in ("failed", "lost"):
            failed.setdefault(f"{row['state']}: {row.get('error') or 'no reason given'}", []).append(row["job"])
    for why, numbers in list(failed.items())[:MAX_FAILURES]:
        names = ", ".join(f"{job} ({jobs.name(job)})" for job in numbers[:MAX_NAMES])
        more = f" and {len(numbers) - MAX_NAMES} more" if len(numbers) > MAX_NAMES else ""
        short = why if len(why) <= MAX_REASON else why[:MAX_REASON] + " ..."
        who = "Job" if len(numbers) == 1 else "Jobs"
        notes.append(Note(f"{who} {names}{more} {short}", "error", why if short != why else ""))
    if len(failed) > MAX_FAILURES:
        notes.append(Note(f"{len(failed) - MAX_FAILURES} further kinds of failure; the runs' own pages have them.", "error"))
    running, pending = jobs.states["running"], jobs.states["pending"]
    if running:
        queue = f", {pending} not begun" if pending else ""
        notes.append(Note(f"{plural(running, 'job')} still running{queue}: this page shows how far they were.", "warning"))
    elif waiting := pending + sum(jobs.states[state] for state in ("interrupted", "lost", "failed")):
        how = f"python {jobs.plan.entry}.py resume={jobs.plan.folder}"
        notes.append(Note(f"{plural(waiting, 'job')} without a result. To go on: {how}", "warning"))
    changed = sum(bool(uncommitted(record.provenance.get("git") or {})) for record in jobs.records.values())
    if changed:
        notes.append(Note(f"{plural(changed, 'job')} ran with changes to the code that were not committed.", "warning"))
    commits = {str((record.provenance.get("git") or {}).get("commit")) for record in jobs.records.values() if record.provenance}
    if len(commits) > 1:
        notes.append(Note(f"The jobs ran with {len(commits)} different commits of the code; compare them with care.", "warning"))
    if later := ended_since(jobs, jobs.plan.folder / "compare"):
        how = f"python analyze.py task=compare task.runs={jobs.plan.folder}"
        notes.append(Note(f"{plural(later, 'job')} ended after the comparison was made. To make it again: {how}", "warning"))
    return Section("attention", "Attention", notes) if notes else None


def ended_since(jobs: Jobs, folder: Path) -> int:
    """Return how many jobs were completed after a review of them began; 0 where there is none."""
    begun = str(Record(folder).status.get("started") or "")
    ends = [str(jobs.records[row["job"]].status.get("updated") or "") for row in jobs.rows if row["state"] == "completed"]
    return sum(end > begun for end in ends) if begun else 0


def what_was_swept(jobs: Jobs) -> Section:
    """Return the command, the values of every varied key, and the first job's origin."""
    blocks: list[Any] = [Code(f"python {jobs.plan.entry}.py -m " + " ".join(jobs.plan.arguments))]
    facts = [("Folder", str(jobs.plan.folder))]
    facts += [(key, spread([row[key] for row in jobs.rows if row.get(key) is not None])) for key in jobs.varied]
    if jobs.plan.study:
        facts.append(("Study", str(jobs.plan.study.get("name", ""))))
        facts += [(f"Objective: {WORDS.get(way, way)}", jobs.words(metric)) for metric, way in jobs.objectives.items()]
    blocks.append(Facts(facts))
    first = next(iter(jobs.records.values()), None)
    if first is not None:
        common = origin(first)
        blocks += [block for block in common.blocks if block.kind == "folded" and "log" not in block.title]
    lead = (
        "Configuration, versions and data are those of the first job; what differs between jobs is at the end." if first else ""
    )
    return Section("origin", "What was run", blocks, lead)


def spread(values: list[Any]) -> str:
    """Return the values that a key took; of many numbers the least and the greatest."""
    each = list(dict.fromkeys(values))
    if len(each) > MANY_VALUES and all(isinstance(value, int | float) for value in each):
        return f"{number(min(each))} to {number(max(each))} ({len(each)} values)"
    more = f" and {len(each) - MANY_VALUES} more" if len(each) > MANY_VALUES else ""
    return ", ".join(str(value) for value in each[:MANY_VALUES]) + more


def study(jobs: Jobs) -> Section | None:
    """Return the history of a study with one objective."""
    if not jobs.plan.study or len(jobs.objectives) != 1:
        return None
    (metric, direction), rows = next(iter(jobs.objectives.items())), jobs.rows
    # A pruned trial's last value is no result, and does not count as the best.
    done = [row.get(metric) if row["state"] == "completed" and isinstance(row.get(metric), int | float) else None for row in rows]
    cut = [jobs.last(row["job"], metric) if row["state"] == "pruned" else None for row in rows]
    plot = plots.optimisation([row["job"] for row in rows], done, cut, jobs.words(metric), direction == "maximize")
    pruned = jobs.states.get("pruned", 0)
    lead = f"{number(pruned)} of {plural(len(rows), 'trial')} pruned." if pruned else ""
    return Section("study", "Optimisation history", [plot], lead)


def sections(jobs: Jobs, album: Album) -> Iterator[Section]:
    """Yield the sections of the page in the order in which they are read."""
    yield from guarded("Attention", "attention", lambda: attention(jobs))
    yield from guarded("What was run", "origin", lambda: what_was_swept(jobs))
    yield from guarded("Optimisation history", "study", lambda: study(jobs))
    if jobs.rows:
        how = "Tick rows to select runs; a range in a field or a drag along an axis keeps the runs inside. All views follow."
        blocks = [*not_comparable(jobs), Widget("selection", "Selection"), runs_table(jobs)]
        blocks.append(Widget("parallel", "Parallel coordinates"))
        yield Section("runs-section", "Runs", blocks, how)
        yield from guarded("Curves", "curves-section", lambda: curves(jobs))
        if "seed" in jobs.varied:
            lead = "Mean and standard deviation over the seeds of each configuration, of the completed runs that are shown."
            yield Section("seeds-section", "Over seeds", [Widget("seeds", "Mean and spread over seeds")], lead)
        yield from guarded("Figures side by side", "wall-section", lambda: side_by_side(jobs, album))
        if len(jobs.records) > 1:
            yield Section("differences-section", "Differences", [Widget("differences", "Settings that differ")])
    compare = jobs.plan.folder / "compare"
    if compare.is_dir():
        yield from task_sections([compare], jobs.plan.folder, album)


def not_comparable(jobs: Jobs) -> list[Note]:
    """Return a warning for the numbers that are not the same quantity in all runs."""
    kinds: dict[str, list[str]] = {}
    for name in jobs.metrics:
        if keys := jobs.unlike(name):
            kinds.setdefault(", ".join(keys), []).append(jobs.words(name))
    return [
        Note(f"Not the same quantity in all runs: {', '.join(names)}. Compare only runs that agree in {keys}.", "warning")
        for keys, names in kinds.items()
    ]


def curves(jobs: Jobs) -> Section | None:
    """Return the place of the curves of all runs; None where no run has a history."""
    return Section("curves-section", "Curves", [Widget("curves", "Curves of the runs")]) if jobs.curves else None


def side_by_side(jobs: Jobs, album: Album) -> Section | None:
    """Return the figures of the runs side by side; None where no run has any."""
    block = wall(jobs, album)
    few = f" The page holds those of the {len(jobs.pictured)} best runs." if len(jobs.pictured) < len(jobs.records) else ""
    lead = f"Of the selected runs; of the first four of the table while none is ticked.{few}"
    return Section("wall-section", "Figures side by side", [block], lead) if block.tiles else None
