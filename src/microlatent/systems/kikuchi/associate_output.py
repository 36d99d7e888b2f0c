"""What ``task=associate`` writes: scores, reports, figures and arrays of one target, and the overview of all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis.association import HYPOTHESES, SIGNED, SIGNIFICANT
from microlatent.data.latents import BASELINE, Latents
from microlatent.files import atomic, write_csv, write_json
from microlatent.results import Results
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import draw_association as drawing
from microlatent.systems.kikuchi.associate_targets import LATENT, NORM, Target
from microlatent.systems.kikuchi.draw_association import Panel, Side
from microlatent.systems.kikuchi.draw_maps import Window, draw_map
from microlatent.systems.kikuchi.scans import ELEMENT, about_scan

NAMES = {LATENT: "latents", NORM: "latent norm"}  # of sources in figures


class Findings(NamedTuple):
    """Associations of all sources with one target."""

    table: pd.DataFrame
    metrics: list[str]
    about: dict[str, Any]  # by source: surrogates, dimensions tested, points

    @property
    def main(self) -> str:
        """Return the metric that the overview shows."""
        return "pearson" if "pearson" in self.metrics else self.metrics[0]


def columns_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose first columns are source and dim, and whose ranks are whole numbers."""
    table = table.astype({name: "Int64" for name in table if "rank" in name and name != "mean_reciprocal_rank"})
    return table[["source", "dim", *(name for name in table if name not in ("source", "dim"))]]


def report_name(target: Target) -> str:
    """Return the report's file name, as the reference names it."""
    if target.is_labels:
        return f"report_cluster__{target.tag.rpartition('cluster-')[2]}.json"
    if "synth_mode" in target.about:
        return f"report_elements_multi_metric__{target.tag}.json"
    return f"report_{target.tag}_multi_metric.json"


def target_files(target: Target) -> list[str]:
    """Return the files of a target's folder; ``*`` are the dimension and its score."""
    tag = target.tag
    reference = reference_name(target)
    return [
        *("scores.csv", report_name(target)),
        *([reference] if reference else []),
        *(f"latent_vs_{tag}_d*.png", f"latent_d*_roi_vs_{tag}_*.npy", f"latent_full_{tag}_d*.csv", f"latent_full_{tag}_d*.png"),
    ]


def reference_name(target: Target) -> str | None:
    """Return the figure of the target alone, which the reference draws of its quality in grey and of elements in colours."""
    if target.colours is not None:
        return f"element_rgb_{target.tag}.png"
    return f"{target.tag}_gray_roi.png" if is_quality(target) else None


def is_quality(target: Target) -> bool:
    """Return whether a target is the quality of the patterns, which is drawn in grey."""
    return not target.is_labels and target.tag.endswith(target.scan.quality)


def write_target(target: Target, found: Findings, latents: Latents, settings: Settings, results: Results) -> None:
    """Write the scores, the report, and figures and arrays of the highest dimensions."""
    write_csv(found.table, results.path(f"{target.tag}/scores.csv"))
    table = found.table[found.table["source"] == LATENT]
    picked = highest(table, found.metrics, settings.task.num_top)
    write_json(report(target, found, picked, latents, settings), results.path(f"{target.tag}/{report_name(target)}"))
    window = Window.of(target.scan, settings.task.roi_xrange, settings.task.roi_yrange, target.scan.step_um)
    first = draw_reference(target, window, results)
    for rank, (dim, metric) in enumerate(picked.items(), first + 1):  # files' names hold scores, which differ between runs
        column = np.asarray(latents.x[:, dim], float)[target.scan.rows]
        row = table[table["dim"] == dim].iloc[0]
        write_dimension(target, column, row, metric, window, rank, results)


def highest(table: pd.DataFrame, metrics: list[str], num: int) -> dict[int, str]:
    """Return the highest dimensions of every metric, each with the first metric that picked it."""
    picked: dict[int, str] = {}
    for metric in metrics:
        best = table[table[f"rank_{metric}"] <= num].sort_values(f"rank_{metric}")
        for dim in best["dim"]:
            picked.setdefault(int(dim), metric)
    return picked


def report(target: Target, found: Findings, picked: dict[int, str], latents: Latents, settings: Settings) -> dict[str, Any]:
    """Return the report: the reference's fields, what the significance stands on, and where all of it comes from."""
    task, table = settings.task, found.table
    null = "shift" if target.is_labels else task.null
    mine = table[table["source"] == LATENT]
    shared = {
        "target": target.tag,
        "roi": {"x_range": task.roi_xrange, "y_range": task.roi_yrange, "n": found.about[LATENT]["num_points"]},
        "metrics": found.metrics,
    }
    rest = {
        "drawn": [{"dim": dim, "picked_by": metric} for dim, metric in picked.items()],
        "baselines": {
            source: rankings(part, found.metrics, task.num_top)
            for source, part in table.groupby("source", sort=False)
            if source != LATENT
        },
        "null": null,
        "null_hypothesis": HYPOTHESES[null],
        "grains": None if target.is_labels else task.grains,
        "num_ranked": task.num_ranked,
        "significance": found.about,
        "seed": settings.seed,
        "provenance": {"latents": str(latents.path), "run": settings.run, **about_scan(target.scan.store)},
    }
    if target.is_labels:
        kind = found.metrics[0]
        best = mine.sort_values(f"rank_{kind}")
        fields = {"dim": "dim", "score": kind, "k_lat": "k_lat", "k_ref": "k_ref", "p": f"p_{kind}", "q": f"q_{kind}"}
        top = [{key: plain(row[name]) for key, name in fields.items()} for _, row in best.iterrows()]
        return shared | {"agreement": kind, "top_latent_by_cluster": top} | target.about | rest
    synthetic = {"synth_mode": None, "synth_tag": None, "elements": None, "rgb_elements": None, "weights": None} | target.about
    return synthetic | shared | {"rankings": rankings(mine, found.metrics, len(mine))} | rest


def rankings(table: pd.DataFrame, metrics: list[str], num: int) -> dict[str, list[dict[str, Any]]]:
    """Return the highest dimensions of every metric, with p and q; None where there is no number."""
    return {
        metric: [
            {"dim": int(row["dim"]), "score": plain(row[metric]), "p": plain(row[f"p_{metric}"]), "q": plain(row[f"q_{metric}"])}
            for _, row in table.sort_values(f"rank_{metric}", na_position="last").head(num).iterrows()
        ]
        for metric in metrics
    }


def plain(value: Any) -> float | int | None:
    """Return a number as JSON has it."""
    if not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and isinstance(value, int | np.integer) else round(float(value), 9)


# ---------------------------------------------------------------------------------------------------------- figures


def side_of(target: Target, window: Window) -> tuple[Side, np.ndarray]:
    """Return the target's map as it is drawn, and the values that were scored, laid out."""
    if target.is_labels:
        picture = window.grid(target.full(np.where(target.values < 0, np.nan, target.values + 1)))
        return drawing.clusters(picture, target.label), picture
    scored = window.grid(target.full(target.values))
    if target.colours is not None:
        names = [f"{colour} {name}" for colour, name in zip(("red", "green", "blue"), target.about["elements"], strict=False)]
        words = ", ".join(names) if len(names) > 1 else f"grey {target.about['elements'][0]}"
        return Side(window.grid(target.full(target.colours)), words, (0.0, 1.0), figures.INTENSITY), scored
    return Side(
        scored, target.label, figures.limits(target.values), figures.INTENSITY if is_quality(target) else "cividis"
    ), scored


def draw_reference(target: Target, window: Window, results: Results) -> int:
    """Draw the target alone where the reference does; return how many figures that makes."""
    name, (side, _) = reference_name(target), side_of(target, window)
    if name is None:
        return 0
    here, title = {"file": f"{target.tag}/{name}"}, target.scan.name
    if target.colours is not None:
        results.figure(f"{target.tag}/1", drawing.draw_colours, side.picture, window, f"{title}: {side.label}", **here)
    else:
        look = side.limits, drawing.colours(side.cmap), side.label, title
        results.figure(f"{target.tag}/1", draw_map, side.picture, window, *look, **here)
    return 1


def write_dimension(
    target: Target, column: np.ndarray, row: pd.Series, metric: str, window: Window, rank: int, results: Results
) -> None:
    """Write what belongs to one dimension: the figure beside the target, arrays of the region, the map of the full field."""
    dim, score, tag = int(row["dim"]), float(row[metric]), target.tag
    limits = figures.limits(column[target.inside])
    target_side, scored = side_of(target, window)
    latent = Side(window.grid(target.full(column[target.inside])), f"latent {dim} (no unit)", limits, figures.CONTINUOUS)
    words = f"{metric} {score:.2f} (q {row[f'q_{metric}']:.2g})"
    title = f"{target.scan.name}: latent {dim} and {target.label.partition(' (')[0]}"
    file = f"{tag}/latent_vs_{tag}_d{dim}_{metric}{score:.3f}.png"
    shown = latent, target_side, scored, target.label, window, title, words
    results.figure(f"{tag}/{rank}", drawing.draw_pair, *shown, file=file)
    with atomic(results.path(f"{tag}/latent_d{dim}_roi_vs_{tag}_{metric}.npy")) as temporary:
        np.save(temporary, column[target.inside].astype(np.float32))
    whole = Window.of(target.scan, None, None, target.scan.step_um)
    full = whole.grid(column)
    stem = f"{tag}/latent_full_{tag}_d{dim}"
    y, x = (axis.ravel() for axis in np.indices(full.shape))
    write_csv(pd.DataFrame({"x": x, "y": y, "latent": full.ravel()}), results.path(f"{stem}.csv"))
    label, words = f"latent {dim} (no unit)", f"{target.scan.name}: latent {dim}, full field"
    look = figures.limits(full), drawing.colours(figures.CONTINUOUS), label, words
    draw_map(full, whole, *look, results.path(f"{stem}.png"))


# --------------------------------------------------------------------------------------------------------- overview


def associations(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the scores of all targets one below the other."""
    together = pd.concat(tables, ignore_index=True)
    first = ["scan", "target", "source", "dim"]
    return together[[*first, *(name for name in together if name not in first)]]


def overview_names(targets: list[Target]) -> list[str]:
    """Return the figures over all targets: one of maps, one of labels."""
    kinds = {target.is_labels for target in targets}
    return [name for name, kind in (("associations", False), ("agreements", True)) if kind in kinds]


def draw_overview(table: pd.DataFrame, metrics: list[str], results: Results) -> None:
    """Draw all dimensions by all targets: Pearson's r (else the first metric) of maps, the agreement of labels."""
    shown = {"pearson" if "pearson" in metrics else metrics[0]: "associations", "ari": "agreements", "nmi": "agreements"}
    words = {"pearson": "Pearson's r", "ari": "adjusted Rand index", "nmi": "normalised mutual information"}
    for metric, stem in shown.items():
        part = table[table[f"q_{metric}"].notna()] if metric in table else table[:0]
        if not len(part):
            continue
        targets, panels = list(dict.fromkeys(part["target"])), []
        for source, rows in part.groupby("source", sort=False):
            scores, q = (rows.pivot(index="dim", columns="target", values=name)[targets] for name in (metric, f"q_{metric}"))
            name = NAMES.get(source, source.removeprefix(BASELINE).upper())
            panels.append(Panel(name, list(scores.index), scores.to_numpy(), (q < SIGNIFICANT).to_numpy()))
        names = [name.removeprefix(ELEMENT) for name in targets]
        results.figure(stem, drawing.draw_overview, panels, names, words.get(metric, metric), metric in SIGNED)
