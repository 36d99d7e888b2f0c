"""Figures of associations: a latent beside what it goes with, and all of them in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, ListedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from microlatent import figures
from microlatent.analysis.association import SIGNIFICANT
from microlatent.drawing.sheet import HOLE
from microlatent.systems.kikuchi.draw_maps import (
    BOTTOM_MM,
    CHANGE,
    LEFT_MM,
    RIGHT_MM,
    TALLEST_MM,
    TOP_MM,
    Window,
    missing,
    show_map,
)

WIDE_MM = 44.0  # a map beside another
MOST_POINTS = 5000  # of a scatter plot
MOST_DIMS = 40  # of the overview, for each source
CELL_MM, NAME_MM, HEAD_MM = 3.6, 16.0, 9.0


class Side(NamedTuple):
    """One of two maps that are compared."""

    picture: NDArray  # (rows, columns), NaN where there is none; or (rows, columns, 3) colours
    label: str  # with the unit
    limits: tuple[float, float]
    cmap: str | Colormap
    num_clusters: int = 0  # of a map of clusters, numbered from 1; 0: of any other


def clusters(picture: NDArray, label: str) -> Side:
    """Return a map of clusters numbered from 1, each in a colour of its own."""
    num = int(np.nanmax(picture))
    steps = matplotlib.colormaps[figures.CONTINUOUS](np.linspace(0, 1, num))
    look = ListedColormap(figures.OKABE_ITO[:num] if num <= len(figures.OKABE_ITO) else steps)
    return Side(picture, label, (0.5, num + 0.5), look, num)


def draw_pair(
    latent: Side, target: Side, scored: NDArray, label: str, window: Window, title: str, words: str, path: Path
) -> Path:
    """Draw a latent's map, the target's, and both against each other.

    Parameters
    ----------
    scored
        (rows, columns) values of the target that were scored: of a map in three colours, their luminance.
    label
        Of these values, with the unit.
    words
        What stands above the scatter plot.
    """
    wide = min(WIDE_MM, TALLEST_MM / window.tall)
    tall = max(wide * window.tall, 30.0)
    step = LEFT_MM + wide + RIGHT_MM
    width, height = 2 * step + LEFT_MM + 44.0 + 4.0, BOTTOM_MM + tall + TOP_MM + 3.0
    fig, axes = figures.new(1, 3, width, height)
    fig.set_layout_engine(None)
    for number, (ax, side) in enumerate(zip(axes[:2], (latent, target), strict=True)):
        left, down = number * step + LEFT_MM, BOTTOM_MM + (tall - wide * window.tall) / 2
        ax.set_position((left / width, down / height, wide / width, wide * window.tall / height))
        draw_side(fig, side, window, number, (left + wide + 2.5, down, 2.4, wide * window.tall), (width, height))
    axes[2].set_position(((2 * step + LEFT_MM) / width, BOTTOM_MM / height, 44.0 / width, tall / height))
    known = np.isfinite(latent.picture) & np.isfinite(scored)
    x, y = scored[known], latent.picture[known]
    if len(x) > MOST_POINTS:
        part = np.sort(np.random.default_rng(0).choice(len(x), MOST_POINTS, replace=False))
        x, y, title = x[part], y[part], f"{title}; {MOST_POINTS} of {len(x)} points plotted"
    if target.num_clusters:
        x = x + np.random.default_rng(0).uniform(-0.3, 0.3, len(x))  # side by side, or they would hide each other
    size = float(np.clip(4000 / len(x), 1.0, 6.0))
    axes[2].scatter(x, y, s=size, color=figures.OKABE_ITO[0], alpha=0.5, linewidths=0, rasterized=True)
    axes[2].set(xlabel=label, ylabel=latent.label)
    axes[2].set_title(words, loc="left", fontsize=6.5)
    figures.few_ticks(axes[2], 5, integer=bool(target.num_clusters))
    note = missing(np.where(known, 0.0, np.nan), colours(latent.cmap))
    fig.text(LEFT_MM / width, 1 - 0.4 * TOP_MM / height, title + note, va="center", fontsize=8)
    return figures.save(fig, path)


def draw_side(
    fig: Figure, side: Side, window: Window, number: int, bar_mm: tuple[float, ...], size_mm: tuple[float, float]
) -> None:
    """Draw one of the two maps and its colour bar, which three colours do not have."""
    ax, has_colours = fig.axes[number], side.picture.ndim == 3
    look = {} if has_colours else {"cmap": colours(side.cmap), "vmin": side.limits[0], "vmax": side.limits[1]}
    shown = show_map(ax, in_colours(side.picture) if has_colours else side.picture, window, **look)
    if number:
        ax.set_ylabel("")
    if has_colours:
        ax.set_title(side.label, loc="left", fontsize=6.5)
        return
    known = side.picture[np.isfinite(side.picture)]
    beyond = bool((known < side.limits[0]).any()), bool((known > side.limits[1]).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    place = tuple(length / size_mm[at % 2] for at, length in enumerate(bar_mm))
    bar = fig.colorbar(shown, cax=fig.add_axes(place), label=side.label, extend=extend)
    bar.outline.set_linewidth(0.4)
    if side.num_clusters:
        bar.set_ticks(range(1, side.num_clusters + 1))


def colours(name: str | Colormap) -> Colormap:
    """Return a colour map in which points without a value are pale blue, which is no value of any map here."""
    return (name if isinstance(name, Colormap) else matplotlib.colormaps[name]).with_extremes(bad=HOLE)


def in_colours(picture: NDArray) -> NDArray:
    """Return a map (rows, columns, 3) whose points without a value are pale blue."""
    return np.where(np.isfinite(picture).all(-1, keepdims=True), picture, to_rgb(HOLE))


def draw_colours(picture: NDArray, window: Window, title: str, path: Path) -> Path:
    """Draw a map (rows, columns, 3) in colours of its own."""
    wide = min(58.0, TALLEST_MM / window.tall)
    tall = wide * window.tall
    width, height = LEFT_MM + wide + 6.0, BOTTOM_MM + tall + TOP_MM
    fig, ax = figures.new(1, 1, width, height)
    fig.set_layout_engine(None)
    ax.set_position((LEFT_MM / width, BOTTOM_MM / height, wide / width, tall / height))
    show_map(ax, in_colours(picture), window)
    fig.text(LEFT_MM / width, 1 - 0.5 * TOP_MM / height, title, va="center", fontsize=7)
    return figures.save(fig, path)


class Panel(NamedTuple):
    """Associations of one source: a row for each dimension, a column for each target."""

    name: str
    dims: Sequence[int]
    scores: NDArray  # (dims, targets)
    is_significant: NDArray  # (dims, targets) bool


def strongest(panel: Panel) -> Panel:
    """Return the dimensions that go most with any target, in their order, where there are too many to draw."""
    if len(panel.dims) <= MOST_DIMS:
        return panel
    best = np.nan_to_num(np.abs(panel.scores)).max(1)
    kept = np.sort(np.argsort(-best, kind="stable")[:MOST_DIMS])
    dims = [panel.dims[at] for at in kept]
    return Panel(f"{panel.name}: {MOST_DIMS} of {len(panel.dims)}", dims, panel.scores[kept], panel.is_significant[kept])


def draw_overview(panels: Sequence[Panel], targets: Sequence[str], label: str, signed: bool, path: Path) -> Path:
    """Draw all associations on one scale; a dot marks those of a false discovery rate below 0.05."""
    panels = [strongest(panel) for panel in panels]
    cell = min(2 * CELL_MM, max(CELL_MM, 26.0 / len(targets)))
    body_mm, panel_mm = CELL_MM * max(len(panel.dims) for panel in panels), cell * len(targets)
    step = max(NAME_MM + panel_mm + 2.0, 38.0)
    foot = 4.0 + 1.35 * max(map(len, targets))
    width, height = max(len(panels) * step + 20.0, 92.0), HEAD_MM + 5.0 + body_mm + foot
    fig, axes = figures.new(1, len(panels), width, height, squeeze=False)
    fig.set_layout_engine(None)
    bound = 1.0 if signed else max(1e-9, *(float(np.nanmax(panel.scores, initial=0)) for panel in panels))
    look = {"cmap": colours(CHANGE if signed else figures.CONTINUOUS), "vmin": -bound if signed else 0.0, "vmax": bound}
    for number, (ax, panel) in enumerate(zip(axes[0], panels, strict=True)):
        tall = CELL_MM * len(panel.dims)
        bottom = height - HEAD_MM - 5.0 - tall
        ax.set_position(((number * step + NAME_MM) / width, bottom / height, panel_mm / width, tall / height))
        shown = ax.imshow(panel.scores, aspect="auto", **look)
        for row, column in np.argwhere(panel.is_significant):
            dark = abs(panel.scores[row, column]) > 0.55 * bound if signed else panel.scores[row, column] < 0.5 * bound
            ax.plot(column, row, "o", markersize=2.6, color="white" if dark else "black", markeredgewidth=0)
        alone = len(panel.dims) == 1  # what has one dimension needs no number for it
        ax.set_yticks([] if alone else range(len(panel.dims)), [] if alone else [str(dim) for dim in panel.dims], fontsize=5.5)
        ax.set_xticks(range(len(targets)), targets, rotation=90)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_ylabel("" if alone else "dimension")
        ax.set_title(panel.name, loc="left", fontsize=7)
    left = len(panels) * step + 4.0
    bar_mm = min(40.0, body_mm)
    place = left / width, (height - HEAD_MM - 5.0 - bar_mm) / height, 2.6 / width, bar_mm / height
    bar = fig.colorbar(shown, cax=fig.add_axes(place), label=label)
    bar.outline.set_linewidth(0.4)
    words = f"Associations with the maps; dot: q < {SIGNIFICANT:g}"
    fig.text(3.0 / width, 1 - 0.45 * HEAD_MM / height, words, va="center", fontsize=8)
    return figures.save(fig, path)
