"""Figures of outcomes: how well they are predicted, and images of what goes with each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microlatent import figures
from microlatent.drawing.sheet import TILE_GAP_MM, Tiles
from microlatent.systems.partitions.prediction import Prediction

LABEL_MM = 27.0
MAX_TILE_MM = 20.0
COLOURS = (figures.OKABE_ITO[0], figures.OKABE_ITO[1])  # of the two outcomes


class Scale(NamedTuple):
    """One display range for each channel."""

    channels: list[str]
    limits: list[tuple[float, float]]
    unit: str  # counts, probability ...


def draw_prediction(results: dict[str, Prediction], labels: NDArray, outcomes: Sequence[str], held_out: str, path: Path) -> Path:
    """Draw the AUC of each set of features with its interval beside permuted outcomes, and every subject's held-out score."""
    fig, axes = figures.new(1, 1 + len(results), figures.PAGE_MM, 66, width_ratios=[1.25] + [1] * len(results))
    ax, rng = axes[0], np.random.default_rng(0)
    for place, result in enumerate(results.values()):
        body = ax.violinplot(result.auc_permuted, [place], widths=0.75, showextrema=False)["bodies"][0]
        body.set(facecolor=figures.GREY, alpha=0.35, linewidth=0)
        ax.vlines(place, result.auc_lo, result.auc_hi, color="black", linewidth=1.4)
        ax.plot(place, result.auc, "o", color="black", markersize=4.5)
        ax.annotate(
            f"{result.auc:.2f}\np = {result.p_permutation:.2g}", (place, result.auc), (6, 0), textcoords="offset points",
            va="center", fontsize=6.5,
        )  # fmt: skip
    ax.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
    ax.set(
        ylim=(-0.02, 1.04), xlim=(-0.6, len(results) - 0.2), ylabel="AUC on subjects held out", title="grey: outcomes permuted"
    )
    ax.set_xticks(range(len(results)), list(results))
    for ax, (name, result) in zip(axes[1:], results.items(), strict=True):
        for value, colour in enumerate(COLOURS):
            own = result.scores[labels == value]
            across = value + 0.28 * rng.uniform(-1, 1, len(own))
            ax.plot(across, own, "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.85)
        ax.axhline(0, color="black", linewidth=0.6, linestyle=":")
        ax.set_xticks((0, 1), [f"{outcome}\n(n = {(labels == value).sum()})" for value, outcome in enumerate(outcomes)])
        ax.set(xlim=(-0.6, 1.6), ylabel="held-out log odds (nats)", title=name)
    fig.supxlabel(f"bars: 95 % intervals over subjects; {held_out}; log odds of {outcomes[1]}", fontsize=6.5, color=figures.GREY)
    return figures.save(fig, path)


def draw_path(images: NDArray, scale: Scale, outcomes: Sequence[str], title: str, pixel_um: float | None, path: Path) -> Path:
    """Draw decoded images (steps, C, Y, X) on the way from one outcome to the other, and what changed."""
    steps = len(images)
    tiles = _grid(images.shape[1], steps + 1, title, "change: blue lower, red higher; full colour at half the grey range")
    for row, (low, high) in enumerate(scale.limits):
        _label(tiles, row, scale)
        for column in range(steps):
            tiles.image(row, column, images[column, row], low, high)
        tiles.image(row, steps, images[-1, row] - images[0, row], -(high - low) / 2, (high - low) / 2, "RdBu_r")
    tiles.caption(0, 0, outcomes[0])
    tiles.caption(0, steps - 1, outcomes[1])
    tiles.caption(0, steps, "change")
    tiles.tile_bar(images.shape[-1], pixel_um)
    return tiles.save(path)


def draw_pair(
    images: Sequence[NDArray], scale: Scale, captions: Sequence[Sequence[str]], outcomes: Sequence[str], title: str,
    pixel_um: float | None, path: Path,
) -> Path:  # fmt: skip
    """Draw images (n, C, Y, X) of both outcomes side by side, a row per channel, with a line between the outcomes."""
    first, second = (len(part) for part in images)
    tiles = _grid(images[0].shape[1], first + second, title, f"left of the line: {outcomes[0]}; right: {outcomes[1]}")
    for row, (low, high) in enumerate(scale.limits):
        _label(tiles, row, scale)
        for column, image in enumerate([*images[0], *images[1]]):
            tiles.image(row, column, image[row], low, high)
    for column, text in enumerate([*captions[0], *captions[1]]):
        tiles.caption(0, column, text)
    x, top = tiles.corner(0, first)
    bottom = tiles.corner(images[0].shape[1] - 1, first)[1] + tiles.tile
    tiles.ax.plot([x - TILE_GAP_MM / 2] * 2, [top - 3, bottom], color="#D55E00", linewidth=1.2)
    tiles.tile_bar(images[0].shape[-1], pixel_um)
    return tiles.save(path)


def _grid(rows: int, columns: int, title: str, foot: str) -> Tiles:
    tile = min(MAX_TILE_MM, (figures.PAGE_MM - LABEL_MM) / columns - TILE_GAP_MM)
    tiles = Tiles(rows, columns, tile, LABEL_MM, title, foot_mm=5.0)
    tiles.ax.text(LABEL_MM, tiles.height - 2.0, foot, fontsize=6.5, color=figures.GREY, va="center")
    return tiles


def _label(tiles: Tiles, row: int, scale: Scale) -> None:
    low, high = scale.limits[row]
    tiles.label(row, f"{scale.channels[row]}\n{low:.3g} to {high:.3g}\n{scale.unit}")


def draw_differences(table: pd.DataFrame, outcomes: Sequence[str], path: Path) -> Path:
    """Draw the differences between the outcomes by marker: what stands together, how far, and how much there is."""
    panels = (
        (
            "change of co-occurrence with\nthe marker named (correlation)",
            (("local_correlation_change", "latents, decoded"), ("pixels_local_correlation_change", "pixels")),
        ),
        ("change on the way\n(RMS, in SD of the marker)", (("transport_rms", "latents, decoded"),)),
        ("change of the mean\n(in SD of the marker)", (("mean_change", "latents, decoded"), ("pixels_mean_change", "pixels"))),
    )
    fig, axes = figures.new(1, len(panels), figures.PAGE_MM, 32 + 7.0 * len(table), sharey=True)
    place = np.arange(len(table))[::-1]
    for ax, (title, kinds) in zip(axes, panels, strict=True):
        for number, (kind, label) in enumerate(kinds):
            shift = 0.14 - 0.28 * number if len(kinds) > 1 else 0.0
            colour = figures.OKABE_ITO[number]
            ax.hlines(place + shift, table[f"{kind}_lo"], table[f"{kind}_hi"], color=colour, linewidth=1.4)
            ax.plot(table[kind], place + shift, "os"[number], color=colour, markersize=4, label=label)
        if "transport_rms" in dict(kinds):
            ax.plot(table["transport_rms_permuted"], place, "|", color=figures.GREY, markersize=8, label="outcomes permuted")
            ax.set_xlim(left=0)
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(xlabel=title, ylim=(-0.6, len(table) - 0.4))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0, handletextpad=0.3)
        figures.few_ticks(ax, 5)
    axes[0].set_yticks(place, [f"{row.marker} ({row.partner})" if row.partner else row.marker for row in table.itertuples()])
    fig.supxlabel(
        f"{outcomes[1]} less {outcomes[0]}; bars: 95 % intervals over subjects; left and right: of all markers together",
        fontsize=6.5,
        color=figures.GREY,
    )
    return figures.save(fig, path)
