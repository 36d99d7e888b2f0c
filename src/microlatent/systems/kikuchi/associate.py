"""Rank latents by their association with maps of the same points: band contrast, elements, clusters of other features.

Reads the latents table of ``task=process`` and the columns of ``data.maps``. The baselines, PCA and NMF, are carried along, and
the distance of each point's latents from their mean, in which the quality of patterns shows.
Writes a folder for each target (``scores.csv``, a JSON report, figures and arrays of the highest dimensions),
``tables/associations.csv`` and ``figures/associations.png`` over all of them. Significance is against surrogates, corrected over
dimensions.

What it says depends on ``task.null``. ``shift`` and ``phase`` test that the maps are not independent, for which sharing grain
boundaries is enough, above all for mi, hsic and dcorr; ``phase`` is for smooth maps, not for maps of grains. Whether a property
goes with the latents beyond sharing grains needs ``task.null=grains``. Labels of clusters are tested by shifts whatever the null.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent.analysis import agreement, surrogates
from microlatent.analysis.association import SIGNED, SIGNIFICANT, Null, associate, least_q, ranked, strength
from microlatent.analysis.dependence import threads
from microlatent.analysis.statistics import benjamini_hochberg
from microlatent.data.latents import BASELINE
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import associate_output as output
from microlatent.systems.kikuchi.associate_output import Findings
from microlatent.systems.kikuchi.associate_targets import LATENT, AssociateInput, Target, open_all

log = logging.getLogger(__name__)
# Microseconds that one metric of one dimension takes for each point, on one core.
COST_US = {"kendall": 0.25, "mi": 1.1, "dcorr": 0.7, "hsic": 5.0, "pearson": 0.1, "spearman": 0.2, "pp_spatial": 0.1}


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Score, test and rank every dimension for every target, write tables and figures."""
    opened = open_all(settings)
    results = results_of(opened, out, tracker)
    numbers, tables, scans = {}, [], [target.scan.name for target in opened.targets]
    for target in track(opened.targets, "Associating"):
        found = labels_findings(target, opened, settings) if target.is_labels else findings(target, opened, settings)
        tables.append(found.table.assign(target=target.tag, scan=target.scan.name))
        output.write_target(target, found, opened.latents, settings, results)
        numbers |= report(target, found)
    together = output.associations(tables)
    results.table("associations", together)
    results.artifact("associations", "table", "tables/associations.csv")
    output.draw_overview(together, settings.task.metrics, results)
    return {"scans": len(set(scans)), "targets": len(opened.targets), "dims": len(opened.dims)} | numbers


def results_of(opened: AssociateInput, out: Path, tracker: Any = None) -> Results:
    """Declare the files; which dimensions are drawn and saved only the run finds."""
    files = [f"{target.tag}/{name}" for target in opened.targets for name in output.target_files(target)]
    return Results(out, tracker, files=files, tables=["associations"], figures=output.overview_names(opened.targets))


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table, check the names, and list what would be written."""
    task, opened = settings.task, open_all(settings)
    num = max(target.num for target in opened.targets)
    seen = min(num, task.max_points or num)
    width = sum(len(opened.dims) if name == LATENT else x.shape[1] for name, x in opened.sources.items())
    tests = min(task.num_ranked * len(opened.sources), width) * task.num_surrogates
    costly = [metric for metric in task.metrics if metric in ("kendall", "mi", "dcorr")]
    each = sum(COST_US[metric] * (num if metric not in costly else seen) * width for metric in task.metrics)
    each += sum(COST_US[metric] * seen * tests for metric in costly)
    if "hsic" in task.metrics and task.null != "shift":  # which takes all shifts at once
        each += COST_US["hsic"] * num * task.num_surrogates * len(opened.sources)
    stores = {str(target.scan.store.path) for target in opened.targets}
    return Preflight(
        reads=[str(opened.latents.path), *sorted(stores)],
        writes=results_of(opened, out).writes,
        memory_mb=400 + num * 24 * max(x.shape[1] for x in opened.sources.values()) / 1e6 + num * 3e-3,
        disk_mb=len(opened.targets) * (task.num_top * 2.0 + width * 6e-4),
        seconds=5 + len(opened.targets) * (each * 1e-6 / threads() + 1.5 * task.num_top),
        notes=[f"At most {task.num_top} dimensions for each metric are drawn and saved below each target's folder."],
    )


# ---------------------------------------------------------------------------------------------------------- scoring


def matrices(target: Target, opened: AssociateInput) -> dict[str, tuple[list[int], np.ndarray]]:
    """Return the dimensions and the values (n, D) of every source at the points of a target."""
    rows, found = target.rows, {}
    for name, x in opened.sources.items():
        dims = opened.dims if name == LATENT else list(range(x.shape[1]))
        values = np.asarray(x[rows[0] : rows[-1] + 1])[rows - rows[0]] if (np.diff(rows) > 0).all() else np.asarray(x)[rows]
        found[name] = dims, values if len(dims) == x.shape[1] else values[:, dims]
    return found


def findings(target: Target, opened: AssociateInput, settings: Settings) -> Findings:
    """Score, rank and test every dimension of every source with one target."""
    task, parts, about = settings.task, [], {}
    null = Null(task.null, task.num_surrogates, task.num_ranked, settings.seed, target.grains)
    options = task.trend_degree, task.mi_neighbours, task.max_points
    for source, (dims, values) in matrices(target, opened).items():
        made = associate(values, target.values, target.x, target.y, task.metrics, null, *options)
        parts.append(made.table.assign(source=source, dim=[dims[at] for at in made.table["dim"]]))
        about[source] = {"surrogates": made.surrogates, "tested": made.tested, "num_points": made.num_points}
        if source == LATENT:
            resolution(target, made.table, made.surrogates, made.tested)
    return Findings(output.columns_first(pd.concat(parts, ignore_index=True)), list(task.metrics), about)


def labels_findings(target: Target, opened: AssociateInput, settings: Settings) -> Findings:
    """Cluster every dimension of every source by its values, and compare with the reference's clusters."""
    task, kind, parts, about = settings.task, settings.task.agreement, [], {}
    known = target.known
    box = surrogates.bounding_box(target.x[known], target.y[known])
    labels = target.values[known]
    for source, (dims, values) in matrices(target, opened).items():
        columns = [np.asarray(values[known, at], float) for at in range(len(dims))]
        usable = [bool(surrogates.varying(column)) for column in columns]
        clusters = [
            agreement.mixture_labels(column[:, None], task.max_clusters, task.criterion, settings.seed) if good else None
            for column, good in zip(columns, usable, strict=True)
        ]
        scores = np.array([np.nan if one is None else agreement.agreement(one, labels, kind) for one in clusters])
        p, num = np.full(len(dims), np.nan), 0
        for at in np.flatnonzero(ranked(scores) <= task.num_ranked):
            p[at], num = agreement.agreement_null(clusters[at], labels, box, kind)
        k = [np.nan if one is None else one.max() + 1 for one in clusters]
        table = pd.DataFrame({"source": source, "dim": dims, kind: scores, "k_lat": k, "k_ref": target.about["k_ref"]})
        rank = ranked(scores)
        table = table.assign(**{f"p_{kind}": p, f"q_{kind}": benjamini_hochberg(p), f"rank_{kind}": rank})
        parts.append(table.assign(mean_reciprocal_rank=np.nan_to_num(1 / rank), combined_rank=rank))
        tested = {kind: int(np.isfinite(p).sum())}
        about[source] = {"surrogates": {kind: num}, "tested": tested, "num_points": len(labels)}
        if source == LATENT:
            resolution(target, table, {kind: num}, tested)
    return Findings(output.columns_first(pd.concat(parts, ignore_index=True)), [kind], about)


def resolution(target: Target, table: pd.DataFrame, counts: dict[str, int], tested: dict[str, int]) -> None:
    """Warn where no result could have become significant, whatever the data."""
    for metric, num in counts.items():
        least = least_q(len(table), num, tested[metric])
        if tested[metric] and least >= SIGNIFICANT:
            needed = int(np.ceil(len(table) / (SIGNIFICANT * tested[metric])))
            log.warning(
                f"{target.tag}, {metric}: with {num} surrogates and {tested[metric]} of {len(table)} dimensions tested, no q "
                f"can be below {least:.2g}. Set task.num_surrogates above {needed}, or raise task.num_ranked."
            )
        elif not tested[metric] and table[metric].notna().any():
            log.warning(
                f"{target.tag}, {metric}: no dimension could be tested, so every q is 1. {target.num} points scattered over "
                "their region meet too few others when the map is moved. Take a region with fewer holes, or another task.null."
            )


def report(target: Target, found: Findings) -> dict[str, float]:
    """Say in words what goes with a target, and return its numbers."""
    metric, numbers = found.main, {}
    for source, table in found.table.groupby("source", sort=False):
        size = strength(metric, table[metric].to_numpy())
        if np.isnan(size).all():
            log.warning(f"{target.tag}: no dimension of {source} has a score of {metric}.")
            continue
        best, q = table.iloc[int(np.nanargmax(size))], table[f"q_{metric}"].to_numpy()
        name = target.tag if source == LATENT else f"{target.tag}_{source.removeprefix(BASELINE)}"
        numbers[f"best_{'abs_' * (metric in SIGNED)}{metric}_{name}"] = float(np.nanmax(size))
        numbers[f"q_{name}"] = float(best[f"q_{metric}"])
        if source == LATENT:
            numbers[f"dim_{name}"] = int(best["dim"])
            numbers[f"significant_{name}"] = int((q < SIGNIFICANT).sum())
        log.info(
            f"{target.tag}: {source} {int(best['dim'])} goes with it most, {metric} {best[metric]:.2f} "
            f"(q {best[f'q_{metric}']:.2g}); {(q < SIGNIFICANT).sum()} of {len(table)} with q below {SIGNIFICANT:g}."
        )
    return numbers
