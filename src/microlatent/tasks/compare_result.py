"""A comparison as tables: what ``task=compare`` writes, tells and draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from microlatent import config
from microlatent import metrics as declared
from microlatent.analysis import comparison, configurations
from microlatent.tasks.compare_runs import Run, arrange, frame

SHOWN = (  # of the measures of health each family has one
    *("val_explained_variance", declared.SCORE, "best_val_recon", "best_val_kl", "best_val_active_units", "best_val_codes_used"),
    *("test_explained_variance", "test_log_likelihood"),
)
FIXED = ("parameters", "epochs")  # no seed changes them


@dataclass
class Comparison:
    """What the tables, the text and the figures are made of."""

    runs: pd.DataFrame  # every run, as compare_runs.frame gives them
    keys: list[str]  # settings that configurations are named by
    common: list[str]  # model and data that all counted runs have in common: model=vae_gauss
    settings: pd.DataFrame  # a row per configuration (the index), a column per setting that differs
    metrics: list[str]  # all that any counted run has
    shown: list[str]  # those in the text, the differences and the figure
    objectives: dict[str, str]
    unlike: dict[str, list[str]]  # {metric: settings that give it another unit or meaning in some of the runs}
    summary: pd.DataFrame  # comparison.summarise of all metrics
    differences: pd.DataFrame  # comparison.differences of what is shown
    reference: str | None = None  # the configuration that the user named to compare with
    best: dict[tuple[str, str], str] = field(default_factory=dict)  # {(objective, data): configuration}
    front: list[str] = field(default_factory=list)  # configurations on the Pareto front of the objectives
    notes: list[str] = field(default_factory=list)  # what a reader must know

    @property
    def counted(self) -> pd.DataFrame:
        """The runs whose numbers are in the tables."""
        return self.runs[self.runs["counts"]]

    @property
    def means(self) -> pd.DataFrame:
        """Mean of every metric (columns) by configuration (index)."""
        return self.summary.pivot(index="configuration", columns="metric", values="mean").reindex(self.settings.index)

    def varies_with_seed(self, metric: str) -> bool:
        """Return whether seeds say anything about a metric: nothing of a number of parameters, whatever the runs."""
        spread = self.summary.loc[self.summary["metric"] == metric, "std"]
        return bool((spread > 0).any() or (spread.isna().all() and metric not in FIXED))

    @property
    def cost(self) -> list[str]:
        """The measures of cost that the runs have."""
        return [one.name for one in declared.METRICS.values() if one.kind == "cost" and one.name in self.metrics]


def compare(runs: list[Run], task: Any, study: dict[str, str] | None = None) -> Comparison:
    """Name configurations, summarise over seeds, and take differences, the best and the front.

    Parameters
    ----------
    study
        {metric: direction} of a study, the objectives where the task names none.

    Raises
    ------
    ValueError
        No run is completed, or a metric, an objective or the reference does not exist.
    """
    ordered, keys, notes = arrange(runs)
    table, members = frame(ordered), [one for one in ordered if one.is_counted]
    counted = table[table["counts"]]
    if not members:
        states = ", ".join(f"{one.name}: {one.state}" for one in runs[:8])
        raise ValueError(
            f"None of {len(runs)} runs is completed, so there is nothing to compare ({states}). Wait, or resume them."
        )
    metrics = [name for name in table.columns[list(table).index("reason") + 1 :] if counted[name].notna().any()]
    for key, named in (("task.objectives", task.objectives), ("task.metrics", task.metrics or [])):
        for name in named:
            if name not in metrics:
                raise ValueError(f"{key} names {name}, which is no final number of these runs. {config.nearest(name, metrics)}")
    names = list(counted["configuration"].unique())
    if task.reference is not None and task.reference not in names:
        raise ValueError(f"task.reference={task.reference} is no configuration here. {config.nearest(task.reference, names)}")

    meanings = {name: declared.unlike(name, [one.settings for one in members if name in one.metrics]) for name in metrics}
    unlike = {name: why for name, why in meanings.items() if why}
    monitor = str(members[0].settings.get("trainer.monitor"))  # where they differ, the score is not what is compared
    objectives = dict(task.objectives) or default_objectives(counted, metrics, unlike, study or {}, monitor)
    notes += [
        f"{name} is not one quantity in these runs: its unit or meaning depends on {', '.join(unlike[name])}, which differ. "
        "Compare it within them alone; val_explained_variance is one quantity in all families of models."
        for name in objectives
        if name in unlike
    ]
    notes += [
        f"{number} of {len(counted)} runs {'has' if number == 1 else 'have'} no {name}, and no part in what is said of it."
        for name in objectives
        if (number := int(counted[name].isna().sum()))
    ]
    shown = list(dict.fromkeys([*objectives, *(task.metrics or default_metrics(counted, metrics, unlike))]))
    varied = configurations.varied([one.settings for one in members])
    first = {one.configuration: one.settings for one in reversed(members)}
    found = Comparison(
        runs=table,
        keys=keys,
        common=[
            f"{key.partition('.')[0]}={values.pop()}"
            for key in configurations.LEADS
            if len(values := {one.settings[key] for one in members}) == 1
        ],
        settings=pd.DataFrame([{key: first[name].get(key) for key in varied} for name in names], index=names),
        metrics=metrics,
        shown=shown,
        objectives=objectives,
        unlike=unlike,
        summary=comparison.summarise(counted, metrics),
        differences=comparison.differences(counted, shown, task.reference),
        reference=task.reference,
        notes=notes,
    )
    rank(found)
    return found


def rank(found: Comparison) -> None:
    """Find the best on each objective and the Pareto front, within each of the data.

    A configuration that has an objective for half of the seeds of others or fewer is not picked: one lucky seed would do.
    """
    objectives, means = list(found.objectives), found.means
    for data, runs in found.counted.groupby("data"):
        seeds = runs.groupby("configuration", sort=False)[objectives].count()
        part = means.loc[seeds.index, objectives].where(seeds > seeds.max() / 2)
        winners = {name: comparison.best(part[name], direction) for name, direction in found.objectives.items()}
        found.best |= {(name, data): winner for name, winner in winners.items() if winner is not None}
        if len(found.objectives) > 1:
            found.front += list(part.index[comparison.pareto(part, found.objectives)])


def default_objectives(
    counted: pd.DataFrame, metrics: list[str], unlike: dict[str, list[str]], study: dict[str, str], monitor: str
) -> dict[str, str]:
    """Return a study's objectives; else a quality that is one quantity in all runs, and the number of parameters if it varies.

    The quality is the score that the runs were monitored by where it may be compared, else the explained variance, of the runs
    that have it; where none has, the score in spite of its units. ``compare`` warns of either.
    """
    if known := {name: direction for name, direction in study.items() if name in metrics}:
        return known
    known = [name for name in declared.QUALITY if name in metrics]
    quality = min(known, key=lambda name: (name in unlike, counted[name].isna().any()), default=None)
    chosen = {quality: declared.direction(quality, monitor)} if quality else {}
    return chosen | ({"parameters": "minimize"} if counted.get("parameters", pd.Series()).nunique() > 1 else {})


def default_metrics(counted: pd.DataFrame, metrics: list[str], unlike: dict[str, list[str]]) -> list[str]:
    """Return the usual numbers that are not all the same and may be compared, and health; of training if nothing is held out."""
    usual = [name if name in metrics else name.replace("_val_", "_train_") for name in SHOWN]
    usual += [name for name in metrics if declared.metric(name) in declared.of_plugins() and "train_" not in name]
    varies = [name for name in dict.fromkeys(usual) if name in metrics and counted[name].nunique() > 1]
    varies = list(counted[varies].T.drop_duplicates().index)  # the score is the monitored loss once more
    return [name for name in varies if declared.metric(name).kind == "health" or name not in unlike] or varies[:1]


def describe(found: Comparison) -> dict[str, pd.DataFrame]:
    """Return the tables that are written, by name."""
    named = found.settings.copy()
    named.insert(0, "on_front", np.isin(named.index, found.front) if found.front else None)
    summary = found.summary.merge(found.settings[found.keys].reset_index(names="configuration"), on="configuration")
    summary = summary[["configuration", *found.keys, *(name for name in found.summary if name != "configuration")]]
    differences = found.differences.copy()
    for table in (summary, differences):
        table["not_comparable_across"] = [", ".join(found.unlike.get(name, [])) for name in table["metric"]]
    return {
        "compare": summary,
        "differences": differences,
        "configurations": named.reset_index(names="configuration"),
        "runs": found.runs,
    }
