"""The runs of a sweep as the page's views need them: the table, values to draw and filter by, curves, figures, differences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from microlatent.report.blocks import Cell, Picture
from microlatent.report.jobs import Jobs
from microlatent.report.pictures import Album
from microlatent.report.values import decimals, fixed, label, number

COSTS = ("parameters", "seconds", "duration_s")
MAX_CHOICES = 12  # values of a column that a menu offers
MAX_AXES = 8
MAX_COMPARED = 6  # numbers over seeds
PICTURES = {
    "reconstructions": "figures/reconstructions.png",
    "predictions": "figures/predictions.png",
    "training curves": "figures/history.png",
    "latent maps": "maps/figures/contact.png",
    "clusters": "cluster/figures/scatter.png",
    "probes": "embed/figures/probes.png",
    "associations": "associate/figures/associations.png",
}


# --------------------------------------------------------------------------------------------------- table of runs


@dataclass
class RunColumn:
    """A column of the table of runs."""

    name: str
    label: str
    is_number: bool
    choices: list[str] = field(default_factory=list)


@dataclass
class RunRow:
    """A job in the table of runs."""

    job: str
    cells: list[Cell]


@dataclass
class Runs:
    """The table of runs: its rows can be ticked, and each column filtered."""

    kind: ClassVar[str] = "runs"
    columns: list[RunColumn]
    rows: list[RunRow]


def columns_of(jobs: Jobs) -> list[RunColumn]:
    """Return the columns: job, state, what was varied, metrics, time."""
    leaves = [key.rpartition(".")[2] for key in jobs.varied]
    columns = [RunColumn("job", "job", True), RunColumn("state", "state", False, sorted(jobs.states))]
    for key, leaf in zip(jobs.varied, leaves, strict=True):
        values = [row.get(key) for row in jobs.rows if row.get(key) is not None]
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        words = sorted({_word(value) for value in values})
        name = leaf.replace("_", " ") if leaves.count(leaf) == 1 else key
        columns.append(RunColumn(key, name, is_number, words if not is_number and len(words) <= MAX_CHOICES else []))
    columns += [RunColumn(name, jobs.words(name), True) for name in jobs.metrics]
    if any(isinstance(row.get("duration_s"), int | float) for row in jobs.rows):
        columns.append(RunColumn("duration_s", "duration (s)", True))
    return columns


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(row: dict[str, Any], column: RunColumn) -> Any:
    value = row.get(column.name)
    return value if value is None or column.is_number else _word(value)


def _drawn(value: Any) -> Any:
    """Return a value as JSON can have it: what diverged has no place on an axis."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def runs_table(jobs: Jobs) -> Runs:
    """Return the table of runs."""
    columns, cells = columns_of(jobs), []
    for column in columns:
        values = [_value(row, column) for row in jobs.rows]
        places = decimals(column.name, values) if column.is_number else None
        own = column.name in jobs.varied  # as it was typed: 0.001 stays 0.001
        text = [number(v) if own or not column.is_number else fixed(v, places) for v in values]
        cells.append([Cell(words, "" if v is None else v) for words, v in zip(text, values, strict=True)])
    rows = [RunRow(str(row["job"]), list(one)) for row, one in zip(jobs.rows, zip(*cells, strict=True), strict=True)]
    return Runs(columns, rows)


# ---------------------------------------------------------------------------------------------- what the views draw


def views(jobs: Jobs) -> dict[str, Any]:
    """Return what the page's script needs to draw and to filter."""
    columns, seen = columns_of(jobs), _pictures(jobs)
    runs = []
    for row in jobs.rows:
        own = jobs.curves.get(row["job"], {"epochs": [], "curves": {}})
        values = {column.name: _drawn(_value(row, column)) for column in columns}
        name = f"job {row['job']}: {jobs.name(row['job'])}"
        runs.append({"job": str(row["job"]), "name": name, "values": values, **own, "pictures": seen.get(row["job"], [])})
    scores = [name for name in jobs.metrics if name not in (*COSTS, "best_epoch", "epochs")]
    asked = [name for name in jobs.objectives if name in jobs.metrics]
    axes = [*jobs.varied, *scores][:MAX_AXES]
    names = list(dict.fromkeys(name for own in jobs.curves.values() for name in own["curves"]))
    first = [f"{part}_{term}" for part in ("val", "train") for term in ("recon", "total")]
    return {
        "runs": runs,
        "columns": [{"name": one.name, "label": one.label, "kind": "number" if one.is_number else "text"} for one in columns]
        + [{"name": name, "label": _curve_label(jobs, name), "kind": "number"} for name in names],
        "axes": axes,
        "colour": next((key for key in jobs.varied if key != "seed"), next(iter(axes), "job")),
        "curves": sorted(names, key=lambda name: first.index(name) if name in first else len(first)),
        "group": [key for key in jobs.varied if key != "seed"],
        "compared": [*asked, *(name for name in scores if name not in asked)][:MAX_COMPARED],
        "objectives": [[name, jobs.objectives[name]] for name in asked],
        "settings": differences(jobs),
        "pictures": [name for name in PICTURES if any(name in one for one in seen.values())],
    }


def _curve_label(jobs: Jobs, name: str) -> str:
    return label(name) + (", not comparable" if jobs.unlike(name) else "")  # the note above the table says in what


def differences(jobs: Jobs) -> list[dict[str, Any]]:
    """Return the settings that are not the same in all jobs, with their values by job."""
    configs, found = {str(job): one for job, one in jobs.configs.items()}, []
    for key in dict.fromkeys(key for one in configs.values() for key in one):
        values = {job: _word(one[key]) if one[key] is not None else "null" for job, one in configs.items() if key in one}
        if len(set(values.values())) > 1 or len(values) < len(configs):
            found.append({"name": key, "values": values})
    return found


def _pictures(jobs: Jobs) -> dict[int, list[str]]:
    seen = {job: [name for name, path in PICTURES.items() if (jobs.records[job].path / path).is_file()] for job in jobs.pictured}
    return {job: names for job, names in seen.items() if names}


@dataclass
class Tile:
    """A figure of one run among those of others."""

    job: str
    name: str
    title: str
    picture: Picture
    shown: bool


@dataclass
class Wall:
    """Figures of the runs side by side; the page's script shows those of the selection."""

    kind: ClassVar[str] = "wall"
    tiles: list[Tile]


def wall(jobs: Jobs, album: Album) -> Wall:
    """Return every run's figures, one kind after the other: where the page would be too large, the first kinds are kept."""
    seen, tiles = _pictures(jobs), []
    first = next((name for name in PICTURES if any(name in one for one in seen.values())), None)
    for name, path in PICTURES.items():
        for job in jobs.records:
            if name in seen.get(job, ()):
                record = jobs.records[job]
                title = f"Job {job}: {jobs.name(job)}"
                picture = album.add(record.path / path, f"{name.capitalize()} of job {job}, {jobs.name(job)}.")
                tiles.append(Tile(str(job), name, title, picture, shown=name == first and len(tiles) < 4))
    return Wall(tiles)
