"""A comparison to be read: Markdown with the numbers by configuration, the best, the differences, and what was left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from microlatent.analysis import comparison

if TYPE_CHECKING:
    from collections.abc import Iterable

    from microlatent.tasks.compare_result import Comparison

BETTER = {"minimize": "lower is better", "maximize": "higher is better"}
MOST_NAMED, FEW_SEEDS = 6, 5
MARK = "\u2020"  # dagger: the unit is not the same in all rows


def write(found: Comparison) -> str:
    """Return the Markdown."""
    counted = found.counted
    seeds = counted["seed"].nunique()
    head = (
        f"# Comparison of {_number(len(counted), 'run')}\n\n{_number(len(found.settings), 'configuration')}"
        + (f" by {', '.join(f'`{key}`' for key in found.keys)}" if found.keys else "")
        + (f", all of {', '.join(found.common)}" if found.common else "")
        + f"; {_number(seeds, 'seed')} ({', '.join(map(str, sorted(counted['seed'].unique())))}). "
        + f"{_number(int((~found.runs['counts']).sum()), 'run')} not counted."
    )
    notes = [f"**Note.** {note}" for note in found.notes]
    sections = [head, *notes, numbers(found), ranking(found), differences(found), settings(found), left_out(found)]
    return "\n\n".join(section for section in sections if section) + "\n"


def numbers(found: Comparison) -> str:
    """Mean and standard deviation of what is shown and of the cost, the best on the first objective first."""
    columns = list(dict.fromkeys([*found.shown, *found.cost]))
    rows = found.summary.set_index(["configuration", "metric"])
    order = list(found.settings.index)
    if found.objectives:
        first, direction = next(iter(found.objectives.items()))
        order = list((found.means[first] * comparison.DIRECTIONS[direction]).sort_values(kind="stable").index)
    sizes = found.counted.groupby("configuration").size()
    lines = []
    for name in order:
        cells = [spread(rows.loc[(name, metric)], sizes[name]) if (name, metric) in rows.index else "-" for metric in columns]
        lines.append([("**" + name + "**") if name in found.front else name, str(sizes[name]), *cells])
    titles = [metric + (f" {MARK}" if metric in found.unlike else "") for metric in columns]
    text = f"## Numbers\n\nMean \u00b1 standard deviation over seeds.{' Bold: on the Pareto front.' if found.front else ''} "
    text += "Every final number is in `compare.csv`, every run in `runs.csv`.\n\n"
    text += table(["configuration", "seeds", *titles], lines)
    marked = [name for name in columns if name in found.unlike]
    return text + "".join(f"\n\n{MARK} {name}: unit or meaning depends on {', '.join(found.unlike[name])}." for name in marked)


def ranking(found: Comparison) -> str:
    """Return the best on each objective, and the front."""
    if not found.objectives:
        return ""
    rows, sizes = found.summary.set_index(["configuration", "metric"]), found.counted.groupby("configuration").size()
    lines = []
    for (metric, data), name in found.best.items():
        where, value = f", data {data}" if data else "", spread(rows.loc[(name, metric)], sizes[name])
        mark = f" {MARK}" if metric in found.unlike else ""
        line = f"- **{metric}**{mark} ({BETTER[found.objectives[metric]]}{where}): {name}, {value}"
        lines.append(line + rivals(found, metric, data, name))
    if found.front:
        scope = ", within each of the data" if found.counted["data"].nunique() > 1 else ""
        what = f"{', '.join(found.objectives)} (no other is as good on all and better on one{scope})"
        lines.append(f"- **Pareto front** of {what}: {'; '.join(found.front)}")
    return "## The best\n\n" + "\n".join(lines)


def rivals(found: Comparison, metric: str, data: str, winner: str) -> str:
    """Say which other configurations could be the best as well, as far as the seeds tell."""
    rows, known = (table[(table["metric"] == metric) & (table["data"] == data)] for table in (found.differences, found.summary))
    if found.reference or len(known) == 1 or not found.varies_with_seed(metric):
        return "."
    # One that shares no seed with any other has no p, and nothing rules it out.
    chances = comparison.could_be_best(rows, found.objectives[metric]).reindex(known["configuration"])
    if chances.pop(winner) < comparison.ALPHA:
        return f". Its mean is best, but on the seeds that they share another is better (p < {comparison.ALPHA:.2g}, corrected)."
    close = list(chances.index[~(chances < comparison.ALPHA)])
    if not close:
        return f". No other could be the best: each is beaten by one (p < {comparison.ALPHA:.2g}, corrected)."
    if len(close) == len(chances):
        return ". These seeds do not rule out that any other is the best."
    names = "; ".join(close[:MOST_NAMED]) + (f"; and {len(close) - MOST_NAMED} more" if len(close) > MOST_NAMED else "")
    return f". Could be the best as well, as far as these seeds tell: {names}."


def differences(found: Comparison) -> str:
    """Return differences from the reference, or from the best, for every objective that varies with the seed."""
    parts = []
    for metric in filter(found.varies_with_seed, found.objectives):
        of_metric = found.differences[found.differences["metric"] == metric]
        for data, pairs in of_metric.groupby("data", sort=False):
            direction, other = found.objectives[metric], found.reference or found.best.get((metric, data))
            rows = comparison.against(pairs, other)
            if rows.empty:
                continue
            rows = rows.iloc[(rows["difference"] * comparison.DIRECTIONS[direction]).argsort(kind="stable")]
            if found.reference:
                last, values = "p (Holm)", rows.set_index("configuration")["p_holm"]
            else:
                last, values = "p (best)", comparison.could_be_best(pairs, direction)
            lines = [
                [row.configuration, f"{row.difference:+.3g}", _interval(row), str(row.num_seeds), *map(_p, (row.p, corrected))]
                for row, corrected in zip(rows.itertuples(), values[rows["configuration"]], strict=True)
            ]
            what = f"### {metric}: difference from {other}" + (f" (data {data})" if data else "")
            columns = ["configuration", "difference", f"{comparison.CONFIDENCE:.0%} interval", "shared seeds", "p", last]
            parts.append(f"{what}\n\n{table(columns, lines)}\n\n{honestly(rows, found.reference)}")
    if not parts:
        return ""
    return "\n\n".join(["## Differences", METHOD, *parts])


METHOD = (
    "Differences are taken within a seed, because runs of one seed share the split and its validation patches, and averaged over "
    "the seeds that both configurations have. The interval is a t interval of that mean with one degree of freedom less than "
    "seeds; it assumes that the differences of seeds are independent and about normal, and is of each pair by itself, as is p "
    "(paired t test). The data are not drawn anew: other wells, subjects or scans may differ by more than other seeds. All pairs "
    "are in `differences.csv`."
)


def honestly(rows: pd.DataFrame, reference: str | None) -> str:
    """Say what so many seeds can tell, and what the corrected p is of."""
    most = int(rows["num_seeds"].max())
    if most == 1:
        return (
            "One shared seed: what the configuration does and what the seed does cannot be told apart, so there is no interval. "
            "Run the same with more seeds (seed=1,2,3,4,5)."
        )
    scope = (
        f"p (Holm) is corrected for the {len(rows)} comparisons with {reference}."
        if reference
        else "p (best) is of no other configuration being better than this one, corrected for the number of others; it takes "
        "account of the best having been picked by its numbers. Where it is below "
        f"{comparison.ALPHA:.2g} the configuration is not the best; the others are a {comparison.CONFIDENCE:.0%} confidence set."
    )
    few = (
        f" At most {most} shared seeds: the standard deviation itself is hardly known, so intervals are wide and little can be "
        "told. More seeds narrow them fast."
    )
    return scope + (few if most < FEW_SEEDS else "")


def settings(found: Comparison) -> str:
    """Return every setting that differs, those too that follow from a choice and are not in the names."""
    if found.settings.shape[1] == 0:
        return ""
    lines = [[name, *(_value(value) for value in row)] for name, *row in found.settings.itertuples()]
    if len(found.settings.columns) > 8:  # a wide table is not read; turned, it is
        names = [line[0] for line in lines]
        turned = [[key, *(line[place + 1] for line in lines)] for place, key in enumerate(found.settings)]
        return "## Settings that differ\n\n" + table(["setting", *names], turned)
    return "## Settings that differ\n\n" + table(["configuration", *found.settings], lines)


def left_out(found: Comparison) -> str:
    """Return the runs that do not count, with their state and why."""
    rows = found.runs[~found.runs["counts"]]
    if rows.empty:
        return ""
    lines = [[row.run, row.configuration, row.state, row.reason] for row in rows.itertuples()]
    return "## Runs that do not count\n\n" + table(["run", "configuration", "state", "reason"], lines)


# ------------------------------------------------------------------------------------------------------------ cells


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; bars and line breaks in what users named do not break it."""
    lines = [list(columns), ["---"] * len(list(columns)), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in line) + " |" for line in lines)


def spread(row: Any, num_runs: int | None = None) -> str:
    """Return mean and standard deviation to the digits that the deviation leaves; the number of seeds where it is not all."""
    seeds = f" (n = {row['num_seeds']})" if num_runs is not None and row["num_seeds"] != num_runs else ""
    if not row["std"] > 0:  # NaN of one seed, or the same in all
        return f"{plain(row['mean'])}{seeds}"
    decimals = max(0, 1 - math.floor(math.log10(row["std"])))
    return f"{row['mean']:.{decimals}f} \u00b1 {row['std']:.{decimals}f}{seeds}"


def plain(value: float) -> str:
    """Return a number to four digits; whole numbers as they are."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e12 else f"{value:.4g}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _value(value: Any) -> str:
    return "-" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)


def _interval(row: Any) -> str:
    return "none" if math.isnan(row.low) else f"{row.low:+.3g} to {row.high:+.3g}"


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}" if value >= 0.001 else "< 0.001"
