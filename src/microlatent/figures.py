"""One look for every figure: print-size fonts, colour-blind-safe colours, units from the column's name, atomic files.

Figures are made without pyplot, so nothing is kept open, no window is asked for and threads do not share a state.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from microlatent.files import atomic

# Okabe & Ito 2008: told apart by every common kind of colour vision; the pale yellow comes last, it is weak on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
GREY = "#8C8C8C"
CONTINUOUS = "viridis"  # perceptually uniform
INTENSITY = "gray"  # images of one channel
COLUMN_MM, PAGE_MM = 89.0, 183.0  # width of a journal's column and of its page
DPI = 200

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 8.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=OKABE_ITO),
    "legend.frameon": False,
    "image.cmap": CONTINUOUS,
    "image.interpolation": "nearest",  # pixels are shown as they are
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

UNITS = {
    "um": "\u00b5m",
    "um2": "\u00b5m\u00b2",
    "px": "px",
    "px2": "px\u00b2",
    "min": "min",
    "frame": "frame",
    "frames": "frames",
    "s": "s",
    "deg": "\u00b0",
    "rad": "rad",
    "counts": "counts",
    "nats": "nats",
}


def new(
    nrows: int = 1, ncols: int = 1, width_mm: float = COLUMN_MM, height_mm: float = 65.0, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure of a size in print and its axes, shaped as pyplot shapes them (one Axes, a row, or a grid).

    ``options`` go to ``Figure.subplots`` (``sharex``, ``width_ratios``, ``squeeze`` ...).
    """
    matplotlib.rcParams.update(STYLE)
    fig = Figure(figsize=(width_mm / 25.4, height_mm / 25.4), layout="constrained")
    return fig, fig.subplots(nrows, ncols, **options)


def save(fig: Figure, path: str | Path) -> Path:
    """Write the figure whole or not at all (the suffix is the format: png, pdf, svg), free its memory, return the path."""
    path = Path(path)
    with atomic(path) as temporary:
        # No creation date: the same numbers give the same file.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(path.suffix[1:])
        fig.savefig(temporary, dpi=DPI, metadata=metadata)
    fig.clear()
    return path


def axis_label(column: str) -> str:
    """Return a label with the unit that the column's name ends in: ``true_size_px`` gives "true size (px)"."""
    words, unit = column.split("_"), ""
    if len(words) > 3 and words[-2] == "per" and words[-1] in UNITS and words[-3] in UNITS:
        unit, words = f"{UNITS[words[-3]]}/{UNITS[words[-1]]}", words[:-3]
    elif len(words) > 1 and words[-1] in UNITS and words[0] != "num":
        unit, words = UNITS[words[-1]], words[:-1]
    if words[0] == "num":
        words = ["number", "of", *words[1:]]
    return " ".join(words) + (f" ({unit})" if unit else "")


def scale_bar(
    ax: Axes,
    pixel_um: float | None,
    length_um: float | None = None,
    colour: str = "white",
    share: float = 0.35,
    label: bool = True,
    pixel: str = "px",
) -> None:
    """Draw a bar of round length at the lower right of an image; in pixels where the pixel size is unknown.

    Parameters
    ----------
    pixel_um
        Size of a pixel of the image shown, um; None if unknown.
    length_um
        Length of the bar, um (px where the pixel size is unknown); default: the round number next below ``share`` of the width.
    pixel
        What a pixel is called where its size is unknown.
    """
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    width, height = abs(right - left), top - bottom  # height is negative where y points down, as in images
    scale, unit = (pixel_um, UNITS["um"]) if pixel_um else (1.0, pixel)
    length = length_um or round_below(share * width * scale)
    end, y = max(left, right) - 0.05 * width, bottom + 0.07 * height
    ground = "black" if colour == "white" else "white"
    edge = [withStroke(linewidth=2.4, foreground=ground, alpha=0.7)]  # seen on any image
    ax.plot([end - length / scale, end], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", path_effects=edge)
    if label:
        name = f"{length:g} {unit}"
        text = ax.text(end, y + 0.03 * height, name, color=colour, ha="right", va="bottom", fontsize=6)
        text.set_path_effects([withStroke(linewidth=1.2, foreground=ground, alpha=0.7)])
        text.set_in_layout(False)  # a long label must not push images apart


def round_below(value: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above a positive value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))


def limits(values: Any, low: float = 1.0, high: float = 99.0) -> tuple[float, float]:
    """Return display limits: percentiles of the finite values, never of zero width."""
    values = np.asarray(values, float).ravel()
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    bottom, top = np.percentile(values, (low, high))
    return (float(bottom), float(top)) if top > bottom else (float(bottom) - 0.5, float(bottom) + 0.5)


def image(ax: Axes, pixels: Any, vmin: float, vmax: float, cmap: str = INTENSITY) -> Any:
    """Show one plane (Y, X) without ticks and frame."""
    ax.set_axis_off()
    return ax.imshow(pixels, cmap=cmap, vmin=vmin, vmax=vmax)


def colour_points(ax: Axes, x: Any, y: Any, values: Any, name: str, seed: int = 0, legend: bool = True) -> None:
    """Scatter points coloured by a column: a colour bar for numbers, a legend for words and flags.

    Points are drawn in random order, so that no group hides another. Missing values are grey and below. Of more than eight
    groups the largest seven keep a colour.
    """
    x, y, values = np.asarray(x), np.asarray(y), np.asarray(values)
    order = np.random.default_rng(seed).permutation(len(x))
    look = {
        "s": float(np.clip(9000 / max(1, len(x)), 1.0, 7.0)),
        "alpha": 0.9 if len(x) < 2000 else 0.75,
        "linewidths": 0,
        "rasterized": True,
    }
    if values.dtype.kind in "fiu":
        known = np.isfinite(values.astype(float))
        missing, order = order[~known[order]], order[known[order]]
        ax.scatter(x[missing], y[missing], c=GREY, **look)
        vmin, vmax = limits(values[order])
        colours = ScalarMappable(Normalize(vmin, vmax), CONTINUOUS)
        ax.scatter(x[order], y[order], c=colours.to_rgba(values[order]), **look)
        if legend:
            outside = values[order].min(initial=vmin) < vmin, values[order].max(initial=vmax) > vmax
            extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[outside]
            bar = ax.figure.colorbar(colours, ax=ax, label=axis_label(name), extend=extend, aspect=25, pad=0.02)
            bar.outline.set_linewidth(0.4)
        return
    groups, code, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    shown = np.sort(np.argsort(-counts, kind="stable")[: len(OKABE_ITO) if len(groups) <= len(OKABE_ITO) else 7])
    palette = np.full(len(groups), GREY, dtype="<U7")
    palette[shown] = OKABE_ITO[: len(shown)]
    ax.scatter(x[order], y[order], c=palette[code[order]], **look)
    if legend:
        entries = [(palette[group], groups[group] or "none") for group in shown]
        entries += [(GREY, f"{len(groups) - 7} others")] if len(groups) > len(OKABE_ITO) else []
        handles = [Line2D([], [], marker="o", linestyle="", markersize=3.5, color=colour, label=text) for colour, text in entries]
        ax.legend(handles=handles, title=axis_label(name), loc="center left", bbox_to_anchor=(1.0, 0.5), title_fontsize=7)


def file_word(name: str) -> str:
    """Return a name (of a channel, of a column) as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.") or "unnamed"


def few_ticks(ax: Axes, count: int = 4, integer: bool = False) -> None:
    """Leave at most about ``count`` ticks on either axis."""
    ax.xaxis.set_major_locator(MaxNLocator(count, integer=integer))
    ax.yaxis.set_major_locator(MaxNLocator(count))
