"""Figures of trajectories: paths in space, step sizes of latents, displacement over lag, film strips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from microlatent import figures
from microlatent.drawing.sheet import TILE_GAP_MM, Tiles
from microlatent.systems.wells.trajectories import Comparison, Displacement, Steps

LABEL_MM = 24.0  # room for the names of the film strips


class Panel(NamedTuple):
    """Tracks of one site."""

    title: str
    paths: list[NDArray]  # each (n, 2): x, y in ``unit``
    times: list[NDArray]  # each (n,)
    numbers: list[str]  # printed beside a path; empty for none


class Film(NamedTuple):
    """Patches of one cell along time."""

    label: str
    captions: list[str]
    patches: NDArray  # (n, Y, X)


def draw_tracks(panels: Sequence[Panel], unit: str, time_label: str, path: Path) -> Path:
    """Draw paths in space, coloured by time; a dot marks the last frame."""
    ncols = min(2, len(panels))
    nrows = -(-len(panels) // ncols)
    fig, axes = figures.new(nrows, ncols, 110.0 if ncols == 1 else figures.PAGE_MM, 82.0 * nrows, squeeze=False)
    times = np.concatenate([time for panel in panels for time in panel.times])
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes.flat, panels, strict=False):
        for points, time, number in zip(panel.paths, panel.times, panel.numbers, strict=True):
            lines = LineCollection(
                np.stack([points[:-1], points[1:]], 1), cmap=figures.CONTINUOUS, linewidths=1.3, capstyle="round"
            )
            lines.set_array((time[:-1] + time[1:]) / 2)
            lines.set_clim(times.min(), max(times.max(), times.min() + 1))
            ax.add_collection(lines)
            ax.plot(*points[-1], "o", color="black", markersize=1.8)
            name = ax.annotate(number, points[-1], xytext=(3, 2), textcoords="offset points", fontsize=7, weight="bold")
            name.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        ax.autoscale_view()
        ax.set_aspect("equal", adjustable="datalim")
        ax.invert_yaxis()  # as in the image
        ax.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})", title=panel.title)
        figures.few_ticks(ax, 5)
    fig.colorbar(lines, ax=axes, label=time_label, aspect=30, shrink=0.8, pad=0.02)
    fig.supxlabel("dots: last frame; numbers: rows of the film strips", fontsize=6.5, color=figures.GREY)
    return figures.save(fig, path)


def draw_steps(pairs: Steps, comparison: Comparison, path: Path) -> Path:
    """Draw the cumulative distributions of latent steps and of random pairs, with their medians."""
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 64)
    for values, colour, text in (
        (pairs.step, figures.OKABE_ITO[0], "consecutive\nframes of a track"),
        (pairs.random, figures.OKABE_ITO[3], "random pairs of\nthe same well"),
    ):
        ax.ecdf(values, color=colour, label=text)
        ax.plot([np.median(values)] * 2, [0, 0.5], color=colour, linewidth=0.8, linestyle=":")
    right = figures.limits(np.concatenate([pairs.step, pairs.random]), 0, 99.5)[1] * 1.05
    ax.set(xlabel="latent distance", ylabel="cumulative share of pairs", ylim=(0, 1), xlim=(0, right))
    bounds = f"[{comparison.ratio_lo:.2f}, {comparison.ratio_hi:.2f}]"
    ax.set_title(f"median ratio {comparison.ratio:.2f} {bounds}, {comparison.num_tracks} tracks", loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    return figures.save(fig, path)


def draw_displacement(displacement: Displacement, path: Path) -> Path:
    """Draw the mean squared displacement over lag on logarithmic axes, with its interval over tracks."""
    table, blue = displacement.table, figures.OKABE_ITO[0]
    lag = "lag_min" if "lag_min" in table else "lag_frames"
    value = next(name for name in table if name.startswith("msd_"))
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 68)
    ax.fill_between(table[lag], table["lo"], table["hi"], color=blue, alpha=0.25, linewidth=0, label="95 % interval over tracks")
    ax.plot(table[lag], table[value], "o-", color=blue, markersize=2.5, label="all matched tracks")
    guide = table[value].iloc[0] * 0.6 * table[lag] / table[lag].iloc[0]
    ax.plot(table[lag], guide, color=figures.GREY, linestyle="--", linewidth=0.8, label="slope 1 (diffusion)")
    ylabel = figures.axis_label(value).replace("msd", "mean squared displacement")
    ax.set(xscale="log", yscale="log", xlabel=figures.axis_label(lag), ylabel=ylabel)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())
    bounds = f"[{displacement.exponent_lo:.2f}, {displacement.exponent_hi:.2f}]"
    ax.set_title(f"power-law exponent {displacement.exponent:.2f} {bounds}", loc="left")
    ax.legend(loc="lower right")
    return figures.save(fig, path)


def draw_films(films: Sequence[Film], title: str, pixel_um: float | None, path: Path) -> Path:
    """Draw each cell's patches along time, one row per cell, all with the same contrast."""
    ncols = max(len(film.patches) for film in films)
    tile = min(24.0, (figures.PAGE_MM - LABEL_MM) / ncols - TILE_GAP_MM)
    tiles = Tiles(len(films), ncols, tile, LABEL_MM, title, caption_every_row=True)
    vmin, vmax = figures.limits(np.concatenate([film.patches.ravel() for film in films]), 0.5, 99.5)
    for row, film in enumerate(films):
        tiles.label(row, film.label)
        for column, (caption, patch) in enumerate(zip(film.captions, film.patches, strict=True)):
            tiles.image(row, column, patch, vmin, vmax)
            tiles.caption(row, column, caption)
    tiles.tile_bar(films[0].patches.shape[-1], pixel_um)
    return tiles.save(path)
