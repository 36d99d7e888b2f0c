"""Figures of a comparison: every seed of every configuration on each metric, and quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from microlatent import figures
from microlatent.analysis.comparison import CONFIDENCE, DIRECTIONS, pareto
from microlatent.metrics import METRICS, direction, title

MOST_PANELS, MOST_CONFIGURATIONS = 6, 24
ROW_MM, WRAP, LABEL_WRAP = 4.6, 36, 26  # of a configuration; characters of its name, and of an axis label, on a line


def label(metric: str) -> str:
    """Return an axis label: what is known of the metric, or its name in words with its unit."""
    known = title(metric)
    if known is None:
        return figures.axis_label(metric.replace(".", ": "))
    part = metric.removeprefix("best_").partition("_")[0]
    return fill(known, LABEL_WRAP) + {"train": "\n(training part)", "test": "\n(test part)"}.get(part, "")


def families(names: Sequence[str]) -> dict[str, str]:
    """Colour of each configuration: by the first word of its name if that divides them into at most seven, else one for all."""
    words = list(dict.fromkeys(name.partition(" ")[0] for name in names))
    colours = figures.OKABE_ITO[: len(words)] if 1 < len(words) <= 7 else [figures.OKABE_ITO[0]] * len(words)
    by_word = dict(zip(words, colours, strict=True))
    return {name: by_word[name.partition(" ")[0]] for name in names}


def draw_metrics(
    runs: pd.DataFrame,
    summary: pd.DataFrame,
    metrics: Sequence[str],
    objectives: Mapping[str, str],
    unlike: Mapping[str, Sequence[str]],
    path: Path,
) -> Path:
    """Draw a panel per metric with a row per configuration: each seed, their mean, and its t interval.

    A seed is at the same height in every row, so that what it does to all configurations is seen. Of more than 24
    configurations those are drawn that are best on the first objective; of more than six metrics the first six.
    """
    names, every = chosen(runs, summary, objectives)
    metrics, colours = list(metrics)[:MOST_PANELS], families(every)
    seeds = sorted(runs["seed"].unique())
    lift = dict(zip(seeds, np.linspace(-0.26, 0.26, len(seeds)) if len(seeds) > 1 else [0.0], strict=True))
    ncols = min(3, len(metrics))
    nrows = -(-len(metrics) // ncols)
    texts = [fill(name, WRAP) for name in names]
    row_mm = ROW_MM * max(1.0, 0.62 * max(text.count("\n") + 1 for text in texts))
    height_mm = 8 + nrows * (16 + row_mm * max(3, len(names)))
    fig, axes = figures.new(nrows, ncols, figures.PAGE_MM, height_mm, squeeze=False, sharey=True)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        rows = summary[summary["metric"] == metric].set_index("configuration")
        points = runs.loc[runs["configuration"].isin(names), metric].dropna()
        limits = _range(points.to_numpy(), rows.loc[rows.index.isin(names) & (rows["num_seeds"] > 2)])
        for place, name in enumerate(names):
            if place % 2:
                ax.axhspan(place - 0.5, place + 0.5, color="#F2F2F2", linewidth=0, zorder=0)
            own = runs[(runs["configuration"] == name) & runs[metric].notna()]
            heights = [place + lift[seed] for seed in own["seed"]]
            ax.plot(own[metric], heights, "o", color=colours[name], markersize=2.8, markeredgewidth=0, alpha=0.75, zorder=3)
            if name in rows.index and rows.loc[name, "num_seeds"] > 1:
                _interval(ax, place, rows.loc[name], limits)
        if metric in objectives and runs["data"].nunique() == 1:  # the best of different data is none
            means = rows["mean"].reindex(names) * DIRECTIONS[objectives[metric]]
            ax.axvline(rows.loc[means.idxmin(), "mean"], color="black", linewidth=0.6, linestyle=":", zorder=1)
        ax.set(xlim=limits, ylim=(len(names) - 0.5, -0.5), xlabel=label(metric), title=_title(metric, objectives, unlike))
        ax.set_yticks(range(len(names)), texts)
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=4)
    for ax in axes.flat[len(metrics) :]:
        ax.set_visible(False)
    hidden = f"; the best {len(names)} of {len(every)} configurations" if len(names) < len(every) else ""
    bars = f"bar: mean and {CONFIDENCE:.0%} t interval over seeds, arrows where it goes on"
    fig.supxlabel(f"dots: seeds, each at its own height; {bars}{hidden}", fontsize=6.5, color=figures.GREY)
    return figures.save(fig, path)


def chosen(runs: pd.DataFrame, summary: pd.DataFrame, objectives: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the configurations that are drawn, in the order of the table, and all of them."""
    every = list(runs["configuration"].unique())
    if len(every) <= MOST_CONFIGURATIONS:
        return every, every
    kept = every[:MOST_CONFIGURATIONS]
    if objectives:
        metric, direction = next(iter(objectives.items()))
        means = summary[summary["metric"] == metric].set_index("configuration")["mean"] * DIRECTIONS[direction]
        kept = list(means.nsmallest(MOST_CONFIGURATIONS).index)
    return [name for name in every if name in kept], every


def _title(metric: str, objectives: Mapping[str, str], unlike: Mapping[str, Sequence[str]]) -> str:
    if metric in unlike:
        return f"not comparable across\n{', '.join(unlike[metric][:2])}"
    return {"minimize": "lower is better", "maximize": "higher is better"}.get(objectives.get(metric, ""), "")


def _range(points: np.ndarray, intervals: pd.DataFrame) -> tuple[float, float]:
    """Return the range of the points and of the intervals of three seeds and more, those cut where they would hide the points."""
    points = points[np.isfinite(points)]
    low, high = (float(points.min()), float(points.max())) if len(points) else (0.0, 1.0)  # none of those drawn has it
    span = (high - low) or abs(high) * 0.1 or 1.0
    if len(intervals):
        low, high = (
            min(low, max(intervals["low"].min(), low - 0.5 * span)),
            max(high, min(intervals["high"].max(), high + 0.5 * span)),
        )
    return low - 0.06 * span, high + 0.06 * span


def _interval(ax: Axes, place: float, row: pd.Series, limits: tuple[float, float]) -> None:
    """Draw mean and interval; an arrow where the interval leaves the panel."""
    ax.plot([row["mean"]] * 2, [place - 0.34, place + 0.34], color="black", linewidth=1.1, zorder=4)
    if not row["high"] > row["low"]:
        return
    inner = np.clip([row["low"], row["high"]], *limits)
    ax.plot(inner, [place] * 2, color="black", linewidth=0.8, zorder=2)
    for end, edge, marker in ((row["low"], limits[0], "<"), (row["high"], limits[1], ">")):
        if end < limits[0] or end > limits[1]:
            ax.plot(edge, place, marker, color="black", markersize=3, markeredgewidth=0, clip_on=False, zorder=5)


# -------------------------------------------------------------------------------------------------------- trade-offs


def tradeoffs(objectives: Sequence[str], cost: Sequence[str], means: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (x, y) of the panels: the first objective against the others and against each cost that varies; at most three."""
    if not objectives:
        return []
    first, *others = objectives
    varies = [name for name in dict.fromkeys([*others, *cost]) if name != first and means[name].nunique() > 1]
    return [(name, first) for name in varies][:3] if means[first].notna().sum() > 1 else []


def draw_tradeoffs(
    summary: pd.DataFrame,
    means: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    objectives: Mapping[str, str],
    front: Sequence[str],
    path: Path,
) -> Path:
    """Draw configurations by number on pairs of metrics, with the Pareto front of each pair; the names stand beside.

    Parameters
    ----------
    pairs
        Metrics of the x and y axis of each panel. Cost is better when lower, but for patches per second.
    front
        Configurations on the front of all objectives together, whose names are printed bold.
    """
    directions = {one.name: direction(one.name) for one in METRICS.values() if one.kind == "cost"} | dict(objectives)
    metric, way = pairs[0][1], directions[pairs[0][1]]
    names = list(means.index)
    if len(names) > MOST_CONFIGURATIONS:
        kept = (means[metric] * DIRECTIONS[way]).nsmallest(MOST_CONFIGURATIONS).index
        names = [name for name in names if name in kept]
    means, colours = means.loc[names], families(list(means.index))
    spreads = summary[summary["metric"] == metric].set_index("configuration")["std"].fillna(0.0)
    texts = [fill(f"{place + 1}  {name}", WRAP, subsequent_indent="     ") for place, name in enumerate(names)]
    ends = np.cumsum([text.count("\n") + 1 for text in texts])
    height_mm = max(62.0, 14 + 3.4 * ends[-1])
    fig, axes = figures.new(1, len(pairs) + 1, figures.PAGE_MM, height_mm, width_ratios=[1.0] * len(pairs) + [0.9])
    for ax, (x, y) in zip(axes, pairs, strict=False):
        known = means[[x, y]].dropna()
        for name, row in known.iterrows():
            ax.plot(row[x], row[y], "o", color=colours[name], markersize=3.4, markeredgewidth=0)
            ax.vlines(row[x], row[y] - spreads[name], row[y] + spreads[name], color=colours[name], linewidth=0.7)
            place = str(names.index(name) + 1)
            ax.annotate(place, (row[x], row[y]), (3, 2.5), textcoords="offset points", fontsize=5.5)
        if {x, y} <= directions.keys():
            best = known[pareto(known, {x: directions[x], y: directions[y]})].sort_values(x)
            where = "post" if directions[x] == "minimize" else "pre"
            ax.step(best[x], best[y], where=where, color="black", linewidth=0.8, linestyle="--", zorder=1)
        if known[x].min() > 0 and known[x].max() > 20 * known[x].min():
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter(NullFormatter())
        else:
            ax.locator_params(axis="x", nbins=4)
        ax.set(xlabel=label(x), ylabel=label(y) if ax is axes[0] else "")
    key = axes[-1]
    key.set_axis_off()
    for name, text, end in zip(names, texts, ends, strict=True):
        weight, height = "bold" if name in front else "normal", 1.0 - end / max(ends[-1], 14)
        key.text(0.0, height, text, color=colours[name], fontsize=6, weight=weight, va="bottom", transform=key.transAxes)
    foot = "mean over seeds, bars: standard deviation; dashed: Pareto front of the two axes"
    fig.supxlabel(foot + ("; bold: on the front of all objectives" if front else ""), fontsize=6.5, color=figures.GREY)
    return figures.save(fig, path)
