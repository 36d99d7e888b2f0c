"""Runs compared over seeds: means, paired differences that own up to how many there are, the best, and the Pareto front.

Functions take a table with a row per finished run: ``configuration`` (what was varied), ``data`` (which data; numbers of
different data are never set against each other), ``seed``, and a column per metric.

Method. Runs of one seed share the split, and so their validation patches; what that split makes easy or hard is the same in
both. Differences are therefore taken within a seed, and their mean has a t interval over the seeds. It assumes that the
differences of seeds are independent draws from about a normal distribution; the seeds are what varies, the data are not drawn
anew, so it speaks of the same wells, subjects or scans with other splits and other starts.

The best of many is partly the luckiest, so it is not simply tested against the others. ``could_be_best`` asks of each
configuration whether any other is better, corrected for the number of others; those of which that is not shown are a confidence
set: it holds the true best as often as it says, whatever was picked. P-values of pairs are corrected by Holm's method. Neither
needs an assumption about how the tests depend on each other.

Sources: Holm 1979, Scand. J. Statist. 6, 65-70; Hsu 1981, Ann. Statist. 9, 1026-1034 (comparison with the best); Bouthillier et
al. 2021, arXiv:2103.03098 (what varies between runs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # Student's distribution and its quantile, quick enough for thousands of pairs

from microlatent.analysis.statistics import holm

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
DIRECTIONS = {"minimize": 1.0, "maximize": -1.0}  # sign under which lower is better


def summarise(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of every metric, by configuration and data.

    Returns
    -------
    Columns configuration, data, metric, mean, std (over seeds, with n - 1), num_seeds, low, high (t interval of the mean). A
    metric that a configuration lacks has no row; ``std``, ``low`` and ``high`` are NaN for one seed.
    """
    records = []
    for (configuration, data), group in runs.groupby(["configuration", "data"], sort=False):
        for metric in metrics:
            values = group[metric].dropna().to_numpy(float)
            if len(values):
                record = {"configuration": configuration, "data": data, "metric": metric, "mean": values.mean()}
                spread = np.nan if len(values) < 2 else values.std(ddof=1) if np.ptp(values) else 0.0  # not the rounding's
                low, high = mean_interval(values)
                records.append(record | {"std": spread, "num_seeds": len(values), "low": low, "high": high})
    return pd.DataFrame(records, columns=["configuration", "data", "metric", "mean", "std", "num_seeds", "low", "high"])


def mean_interval(values: NDArray) -> tuple[float, float]:
    """Return the t interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    half = stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def differences(runs: pd.DataFrame, metrics: Sequence[str], reference: str | None = None) -> pd.DataFrame:
    """Differences of metrics between configurations over the seeds that they share.

    Parameters
    ----------
    reference
        The configuration that all others are compared with, chosen before looking at the numbers; default: all pairs.

    Returns
    -------
    Columns metric, data, configuration, other, difference (configuration - other, mean over shared seeds), std (of the
    differences), num_seeds (shared), low, high (of this pair by itself), p (paired t test), p_holm (corrected for all pairs of
    the metric and the data that have a p). One shared seed gives a difference without interval and p; none, no row. Where the
    seed makes no difference to the difference (a number of parameters) there is nothing to test.

    """
    records = []
    for metric in metrics:
        for data, group in runs.groupby("data", sort=False):
            wide = group.pivot(index="seed", columns="configuration", values=metric)
            values = {name: wide[name].to_numpy(float) for name in group["configuration"].unique() if wide[name].notna().any()}
            pairs = combinations(values, 2)
            if reference is not None:
                pairs = ((name, reference) for name in values if name != reference and reference in values)
            rows = [
                {"metric": metric, "data": data, "configuration": one, "other": other} | paired(values[one], values[other])
                for one, other in pairs
            ]
            tested = [row for row in rows if np.isfinite(row["p"])]
            for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
                row["p_holm"] = p
            records += [row for row in rows if row["num_seeds"]]
    columns = ["metric", "data", "configuration", "other", "difference", "std", "num_seeds", "low", "high", "p", "p_holm"]
    return pd.DataFrame(records, columns=columns)


def paired(one: NDArray, other: NDArray) -> dict[str, float]:
    """Return the mean of one - other where both are known, with its t interval and the p-value of the paired t test."""
    change = one - other
    change = change[np.isfinite(change)]
    found = {"difference": np.nan, "std": np.nan, "num_seeds": len(change), "low": np.nan, "high": np.nan, "p": np.nan}
    if len(change):
        found["difference"] = float(change.mean())
    if len(change) > 1:
        found["std"] = float(change.std(ddof=1))
        found["low"], found["high"] = mean_interval(change)
        if found["std"] > 1e-12 * np.abs(change).max():
            found["p"] = float(2 * stdtr(len(change) - 1, -abs(found["difference"]) / found["std"] * np.sqrt(len(change))))
    return found


def against(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the rows of ``differences`` that one configuration is part of, as the others minus it."""
    first = table["configuration"] == reference
    turned = table[first].assign(
        configuration=table.loc[first, "other"],
        other=reference,
        difference=-table.loc[first, "difference"],
        low=-table.loc[first, "high"],
        high=-table.loc[first, "low"],
    )
    return pd.concat([turned, table[table["other"] == reference]]).sort_index()


def could_be_best(table: pd.DataFrame, direction: str) -> pd.Series:
    """Return for each configuration the p-value of "no other is better", from the differences of one metric on the same data.

    It is the smallest one-sided p-value of another being better, times the number of others it was tested against (Bonferroni).
    Where it is at least ``ALPHA`` the configuration is in the confidence set of the best. Only the true best must not be left
    out, so there is no correction for the number of configurations that are asked. NaN where there is no test.
    """
    sign, found = DIRECTIONS[direction], {}
    for name in dict.fromkeys([*table["configuration"], *table["other"]]):
        rows = against(table, name).dropna(subset="p")
        is_better = rows["difference"] * sign < 0  # the other, than this one
        one_sided = np.where(is_better, rows["p"] / 2, 1 - rows["p"] / 2)
        found[name] = min(1.0, one_sided.min() * len(rows)) if len(rows) else np.nan
    return pd.Series(found, dtype=float)


def best(means: pd.Series, direction: str) -> str | None:
    """Return the configuration with the lowest or highest mean; None if none has one."""
    known = means.dropna() * DIRECTIONS[direction]
    return None if known.empty else str(known.idxmin())


def pareto(means: pd.DataFrame, objectives: Mapping[str, str]) -> pd.Series:
    """Return which rows no other row beats: as good on every objective and better on one.

    Parameters
    ----------
    means
        A column per objective.
    objectives
        {column: minimize or maximize}. A row that lacks one of them is not on the front.
    """
    costs = means[list(objectives)].to_numpy(float) * [DIRECTIONS[direction] for direction in objectives.values()]
    no_worse, better = (costs[:, None] <= costs[None]).all(-1), (costs[:, None] < costs[None]).any(-1)
    beaten = (no_worse & better).any(0)
    return pd.Series(~beaten & np.isfinite(costs).all(1), index=means.index)
