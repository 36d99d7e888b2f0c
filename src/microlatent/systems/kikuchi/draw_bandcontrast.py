"""Figures of the patterns' quality: its histogram with the threshold, and which points are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from numpy.typing import NDArray

from microlatent import figures
from microlatent.systems.kikuchi.draw_maps import BOTTOM_MM, LEFT_MM, MAP_MM, TALLEST_MM, TOP_MM, Window, show_map

KEPT, LEFT_OUT, NO_VALUE = figures.OKABE_ITO[0], figures.OKABE_ITO[1], "#C8C8C8"
LEGEND_MM = 36.0
MOST_BINS = 128


def draw_histogram(values: NDArray, kept: NDArray, threshold: float | None, label: str, title: str, path: Path) -> Path:
    """Draw how many points (n,) have which value, those that are kept in one colour, the others in another."""
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 62)
    edges = bins(values, threshold)
    groups = [(KEPT, "kept", kept), (LEFT_OUT, "left out", ~kept)]
    groups = [(colour, words, chosen) for colour, words, chosen in groups if chosen.any()]
    ax.hist(
        [values[chosen] for _, _, chosen in groups],
        edges,
        stacked=True,
        color=[colour for colour, _, _ in groups],
        label=[f"{words}: {chosen.sum()}" for _, words, chosen in groups],
    )
    ends = [edges[0], edges[-1]]
    if threshold is not None:
        ax.axvline(threshold, color="black", linewidth=1.0, linestyle="--", label=f"threshold: {threshold:.4g}")
        ends = [min(ends[0], threshold), max(ends[1], threshold)]
    ax.set(xlabel=label, ylabel="points", xlim=ends)
    figures.few_ticks(ax, 6)
    ax.yaxis.get_major_locator().set_params(integer=True)
    fig.suptitle(title)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figures.save(fig, path)


def bins(values: NDArray, threshold: float | None = None) -> NDArray:
    """Return the edges of a histogram, one of them at the threshold if it is among the values.

    Of whole numbers each bin holds equally many, so that no comb appears, and edges lie between two of them.
    """
    low, high = float(values.min()), float(values.max())
    width = (high - low) / np.clip(3 * len(values) ** (1 / 3), 8, MOST_BINS) or 1.0
    edge = low if threshold is None else threshold
    if (values == np.rint(values)).all():
        width, edge = np.ceil(width), np.ceil(edge) - 0.5
    elif not low <= edge <= high:
        edge = low
    first = edge - width * np.ceil((edge - low) / width)
    return first + width * np.arange(int((high - first) / width) + 2)


def draw_kept(known: NDArray, kept: NDArray, window: Window, title: str, path: Path) -> Path:
    """Draw which points of a map (rows, columns) are kept, left out by their value, or without one."""
    groups = [(KEPT, "kept", kept), (LEFT_OUT, "left out", known & ~kept), (NO_VALUE, "no point or value", ~known)]
    groups = [(colour, words, chosen) for colour, words, chosen in groups if chosen.any()]
    number = np.select([chosen for _, _, chosen in groups], range(len(groups)))
    wide = min(MAP_MM, TALLEST_MM / window.tall)
    tall = wide * window.tall
    width, height = LEFT_MM + wide + LEGEND_MM, BOTTOM_MM + tall + TOP_MM
    fig, ax = figures.new(1, 1, width, height)
    fig.set_layout_engine(None)
    ax.set_position((LEFT_MM / width, BOTTOM_MM / height, wide / width, tall / height))
    colours = ListedColormap([colour for colour, _, _ in groups])
    show_map(ax, number, window, cmap=colours, vmin=-0.5, vmax=len(groups) - 0.5)
    handles = [Patch(color=colour, label=f"{words}: {int(chosen.sum())}") for colour, words, chosen in groups]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0)
    fig.text(LEFT_MM / width, 1 - 0.5 * TOP_MM / height, title, va="center", fontsize=7.5)
    return figures.save(fig, path)
