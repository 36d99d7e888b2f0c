"""Figures as Plotly's JSON: what is drawn. How it looks (fonts, grid, colours of the theme) is the page's own style.

Margins, fonts and the look of axes are set by ``charts.js`` for all figures alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microlatent.figures import GREY, OKABE_ITO
from microlatent.metrics import metric
from microlatent.report.blocks import Plot, plain
from microlatent.report.latents import Points, short
from microlatent.report.values import label, number

if TYPE_CHECKING:
    import pandas as pd

TRAIN, VAL, THIRD = OKABE_ITO[0], OKABE_ITO[3], OKABE_ITO[2]
LEGEND = [("line train", "training"), ("line val", "validation"), ("ring", "best epoch")]
VIRIDIS = "Viridis"
MOST_EPOCHS, MOST_ROWS = 200, 128  # of the heat map
QUIET_NATS = 0.1  # a dimension with a smaller divergence from the prior says next to nothing


def inert(text: str) -> str:
    """Return text that Plotly shows as it is: it reads markup otherwise."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def numbers(values: Any) -> list[Any]:
    """Return a column as JSON has it: four significant digits are enough to draw, None where there is no number."""
    return [short(v) if isinstance(v := plain(value), int | float) else None for value in values]


def epoch_axis(epochs: list[Any]) -> dict[str, Any]:
    """Return the axis of epochs: there are no halves."""
    return {"title": {"text": "epoch"}} | ({"dtick": 1} if len(epochs) <= 10 else {})


def curve(history: pd.DataFrame, term: str, best_epoch: float | None, ceiling: float | None = None) -> Plot:
    """One loss part over epochs: training, validation, and the best epoch where it is known."""
    epochs, traces, told = numbers(history["epoch"]), [], []
    marks = "lines+markers" if len(epochs) < 15 else "lines"
    for part, colour, dash in (("train", TRAIN, "solid"), ("val", VAL, "dash")):
        name = f"{part}_{term}"
        if name not in history:
            continue
        values = numbers(history[name])
        traces.append(
            {"x": epochs, "y": values, "name": "training" if part == "train" else "validation", "mode": marks}
            | {"line": {"color": colour, "dash": dash, "width": 1.8}, "marker": {"size": 5}}
        )
        known = [value for value in values if value is not None]
        if known:
            words = "training" if part == "train" else "validation"
            told.append(f"{words} from {number(known[0])} to {number(known[-1])}")
    kept = "val" if f"val_{term}" in history else "train"
    at = history[history["epoch"] == best_epoch] if best_epoch is not None else history[:0]
    if len(at) and plain(at[f"{kept}_{term}"].iloc[0]) is not None:
        value = short(float(at[f"{kept}_{term}"].iloc[0]))
        look = {"size": 11, "color": VAL if kept == "val" else TRAIN, "symbol": "circle-open", "line": {"width": 2}}
        traces.append({"x": [best_epoch], "y": [value], "name": "best epoch", "mode": "markers", "marker": look})
        told.append(f"{number(value)} at the best epoch, {number(plain(best_epoch))}")
    layout: dict[str, Any] = {"xaxis": epoch_axis(epochs), "showlegend": False, "hovermode": "x unified"}
    if ceiling:
        layout["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": ceiling, "y1": ceiling}
            | {"line": {"width": 1, "dash": "dot", "color": "#8C8C8C"}}
        ]
        layout["yaxis"] = {"rangemode": "tozero"}
    title = metric(term).title
    if ceiling:
        title += f" (of {number(plain(ceiling))})"
    return Plot(f"curve-{term}", {"data": traces, "layout": layout}, f"Curves of {title}: {'; '.join(told)}.", title, height=220)


def kl_map(table: pd.DataFrame, part: str) -> Plot:
    """KL divergence of every latent dimension over epochs, the largest at the top."""
    if len(table) > MOST_EPOCHS:
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, MOST_EPOCHS).astype(int))]
    values = table.drop(columns="epoch").astype(float)
    order = values.iloc[-1].sort_values().index[-MOST_ROWS:]
    rows = [numbers(values[name]) for name in order]
    trace = {"type": "heatmap", "x": numbers(table["epoch"]), "y": [inert(f"latent {name}") for name in order], "z": rows}
    trace |= {"colorscale": VIRIDIS, "colorbar": {"title": {"text": "nats", "side": "right"}}}
    trace |= {"hovertemplate": "epoch %{x}, %{y}: %{z:.3g} nats<extra></extra>"}
    many = len(order) > 24
    layout = {
        "xaxis": epoch_axis(trace["x"]) | {"showgrid": False},
        "yaxis": {"showgrid": False, "nticks": 24 if many else len(order)},
    }
    last = values.iloc[-1]
    most, least = (f"latent {name} with {number(float(last[name]))} nats" for name in (last.idxmax(), last.idxmin()))
    alt = f"Heat map of the KL divergence of {values.shape[1]} latent dimensions over {len(table)} epochs ({part}); in the last "
    alt += f"epoch the largest is {most}, the smallest {least}."
    quiet, whole = int((last < QUIET_NATS).sum()), len(last)
    caption = f"{quiet} of {whole} dimensions have less than {QUIET_NATS} nats in the last epoch." if quiet else ""
    caption += f" Shown are the {MOST_ROWS} with most." if whole > MOST_ROWS else ""
    height = int(np.clip(90 + 15 * len(order), 220, 520))
    return Plot(f"kl-{part}", {"data": [trace], "layout": layout}, alt, f"KL divergence per dimension ({part})", caption, height)


def scatter(points: Points) -> Plot:
    """Return the latent space; the page's script colours it by the column chosen."""
    spec = {
        "names": points.names,
        "columns": [{"name": name, "label": label(name), "values": values} for name, values in points.columns.items()],
        "planes": [{"name": name, "x": x, "y": y, "xlabel": a, "ylabel": b} for name, (x, y, a, b) in points.planes.items()],
        "first": points.first,
    }
    shown = len(points.names)
    few = f"{shown:,} of {points.total:,} points, drawn at random" if shown < points.total else f"All {shown:,} points"
    alt = f"Scatter plot of the latents, {' or '.join(points.planes)}. {few}."
    return Plot("latent-space", spec, alt, caption=few + ". Hover over a point for its identity.", height=520, draw="scatter")


def intervals(names: list[str], series: list[tuple[str, list[Any], list[Any], list[Any]]], axis: str, key: str, alt: str) -> Plot:
    """Estimates with their intervals, a row per name; ``series`` holds (words, values, lows, highs)."""
    data, marks = [], ("circle", "diamond-open")
    for index, (words, values, lows, highs) in enumerate(series):
        middle, low, high = (np.asarray(v, float) for v in (values, lows, highs))
        place = [i + (0.12 if index else -0.12) for i in range(len(names))]
        error = {"type": "data", "symmetric": False, "array": numbers(high - middle), "arrayminus": numbers(middle - low)}
        look = {"color": OKABE_ITO[(0, 3)[index % 2]], "size": 8, "symbol": marks[index % 2]}
        data.append(
            {
                "x": numbers(middle),
                "y": place,
                "name": words,
                "mode": "markers",
                "marker": look,
                "text": [inert(name) for name in names],
            }
            | {
                "error_x": error | {"thickness": 1.3, "width": 0},
                "hovertemplate": "%{text}: %{x:.3f}<extra>" + words + "</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": axis}},
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [inert(name) for name in names],
            "autorange": "reversed",
            "zeroline": False,
        },
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    return Plot(key, {"data": data, "layout": layout}, alt, height=90 + 38 * len(names))


def optimisation(trials: list[int], values: list[Any], pruned: list[Any], objective: str, maximise: bool) -> Plot:
    """Return a study's history: the value of each trial, the last of pruned ones, and the best so far."""
    values, pruned = numbers(values), numbers(pruned)
    best, so_far = [], None
    for value in values:
        if value is not None and (so_far is None or (value > so_far if maximise else value < so_far)):
            so_far = value
        best.append(so_far)
    look = {"x": trials, "mode": "markers", "hovertemplate": "trial %{x}: %{y:.4g}<extra></extra>"}
    cross = {"size": 8, "color": GREY, "symbol": "x-thin-open", "line": {"width": 2}}
    data = [
        look | {"y": values, "name": "trial", "marker": {"size": 8, "color": TRAIN}},
        look | {"y": pruned, "name": "pruned", "marker": cross},
        {"x": trials, "y": best, "mode": "lines", "name": "best so far", "line": {"shape": "hv", "color": VAL, "width": 1.8}},
    ]
    layout = {
        "xaxis": {"title": {"text": "trial"}},
        "yaxis": {"title": {"text": inert(objective)}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    known = sum(value is not None for value in values)
    alt = f"Optimisation history: {objective} of {known} trials with a value; the best is {number(so_far)}."
    return Plot("optimisation", {"data": data, "layout": layout}, alt, height=320)


def rate(history: pd.DataFrame) -> Plot:
    """Return the learning rate over epochs."""
    trace = {"x": numbers(history["epoch"]), "y": numbers(history["lr"]), "mode": "lines", "name": "learning rate"}
    trace["line"] = {"color": THIRD, "width": 1.8}
    layout = {"xaxis": epoch_axis(trace["x"]), "yaxis": {"exponentformat": "power"}, "showlegend": False}
    alt = f"Learning rate over {len(history)} epochs, at most {number(float(history['lr'].max()))}."
    return Plot("curve-lr", {"data": [trace], "layout": layout}, alt, "learning rate", height=220)
