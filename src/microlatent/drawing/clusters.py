"""Figures of clusters: the criterion, the components, marker means, composition, exemplars. One colour means one cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from microlatent import figures
from microlatent.analysis.latent_maps import MISSING
from microlatent.drawing.sheet import TILE_GAP_MM, Tiles

# Okabe-Ito, then four of Tol's muted scheme; no more than twelve colours can be told apart, the smallest clusters share grey.
PALETTE = (*figures.OKABE_ITO[:6], "#F0E442", "#882255", "#44AA99", "#999933", "#661100", "#000000")
NOISE_NAME, NOISE_COLOUR, OTHER_COLOUR = "noise", "#C8C8C8", figures.GREY
LABEL_MM = 22.0


def colours(names: Sequence[str]) -> list[str]:
    """Return the colour of each cluster by its place in the list; noise has its own."""
    palette = [*PALETTE, *[OTHER_COLOUR] * len(names)]
    return [NOISE_COLOUR if name == NOISE_NAME else colour for name, colour in zip(names, palette, strict=False)]


def legend_entries(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return colour and words of each cluster; those that share grey share a line."""
    words = [name if name == NOISE_NAME else f"cluster {name}" for name in names]
    found = list(zip(colours(names), words, strict=True))
    shared = [name for name, (colour, _) in zip(names, found, strict=True) if colour == OTHER_COLOUR]
    if len(shared) > 1:
        first = names.index(shared[0])
        found[first : first + len(shared)] = [(OTHER_COLOUR, f"clusters {shared[0]} to {shared[-1]}")]
    return found


def coloured(labels: NDArray, names: Sequence[str]) -> NDArray:
    """Return a map of labels (Y, X), places in the list of names, as colours (Y, X, 4), transparent where nothing lies."""
    table = np.array([to_rgba(colour) for colour in colours(names)] + [(0, 0, 0, 0)])
    return table[np.where(labels == MISSING, len(names), labels)]


def draw_criterion(table: pd.DataFrame, column: str, path: Path) -> Path:
    """Draw the criterion over the number of clusters, the chosen one marked, unsound ones hollow."""
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 60)
    number, value, chosen = table["num_clusters"], table[column], table["chosen"].to_numpy()
    ax.plot(number, value, "-", color=figures.OKABE_ITO[0], zorder=1)
    sound = table["sound"].to_numpy() if "sound" in table else np.ones(len(table), bool)
    ax.plot(number[sound], value[sound], "o", color=figures.OKABE_ITO[0], markersize=3.5)
    if not sound.all():
        look = {"markerfacecolor": "white", "color": figures.OKABE_ITO[0], "markersize": 3.5}
        ax.plot(number[~sound], value[~sound], "o", **look, label="a cluster of too few patches")
    ax.plot(
        number[chosen], value[chosen], "o", color=figures.OKABE_ITO[3], markersize=6, label=f"chosen: {number[chosen].item()}"
    )
    words = {"bic": "BIC (lower is better)", "aic": "AIC (lower is better)", "silhouette": "mean silhouette (higher is better)"}
    ax.set(xlabel="number of clusters", ylabel=words[column])
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="best")
    return figures.save(fig, path)


def draw_scatter(scores: NDArray, ratio: NDArray, labels: NDArray, names: Sequence[str], path: Path, seed: int = 0) -> Path:
    """Draw pairs of the first four components, coloured by cluster; points in random order, so that none hides another."""
    pairs = [(0, 1), (2, 3)] if scores.shape[1] > 3 else [(0, 1)]
    fig, axes = figures.new(1, len(pairs), figures.PAGE_MM if len(pairs) > 1 else 110.0, 74, squeeze=False)
    entries = legend_entries(names)
    palette = np.array(colours(names))
    order = np.random.default_rng(seed).permutation(len(scores))
    look = {"s": float(np.clip(9000 / len(scores), 1.0, 7.0)), "linewidths": 0, "alpha": 0.8, "rasterized": True}
    for ax, (first, second) in zip(axes[0], pairs, strict=True):
        ax.scatter(scores[order, first], scores[order, second], c=palette[labels[order]], **look)
        ax.set(xlabel=f"PC{first + 1} ({100 * ratio[first]:.1f} %)", ylabel=f"PC{second + 1} ({100 * ratio[second]:.1f} %)")
        figures.few_ticks(ax)
    handles = [Line2D([], [], marker="o", linestyle="", markersize=3.5, color=colour, label=words) for colour, words in entries]
    axes[0, -1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figures.save(fig, path)


def draw_heat_map(z: NDArray, shares: NDArray, names: Sequence[str], channels: Sequence[str], note: str, path: Path) -> Path:
    """Draw the mean of each marker in each cluster (K, C), in standard deviations from the mean of all patches."""
    num, width = z.shape
    cell_mm = float(np.clip(110.0 / width, 7.5, 14.0))
    slanted = max(map(len, channels)) * 1.5 > cell_mm
    fig, ax = figures.new(1, 1, max(figures.COLUMN_MM, 48.0 + cell_mm * width), 32.0 + 5.5 * max(num, 4) + 8.0 * slanted)
    bound = max(0.5, float(np.nanmax(np.abs(z), initial=0.0)))
    shown = ax.imshow(z, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
    for (row, column), value in np.ndenumerate(z):
        tint = "white" if abs(value) > 0.6 * bound else "black"
        ax.text(
            column, row, f"{round(value, 1) + 0.0:.1f}".replace("-", "\u2212"), ha="center", va="center", fontsize=5.5, color=tint
        )
    beside = offset_copy(ax.get_yaxis_transform(), fig, x=-6, units="points")
    for row, colour in enumerate(colours(names)):
        ax.plot(0, row, "s", color=colour, markersize=6, transform=beside, clip_on=False)
    ax.set_yticks(range(num), [f"{name} ({100 * share:.0f} %)" for name, share in zip(names, shares, strict=True)])
    ax.set_xticks(range(width), channels)
    if slanted:
        for word in ax.get_xticklabels():
            word.set(rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.tick_params(axis="y", pad=11)
    ax.spines[:].set_visible(False)
    ax.set(ylabel="cluster (share)")
    fig.suptitle(f"Mean marker intensity by cluster\n{note}".strip(), fontsize=7)
    bar = fig.colorbar(shown, ax=ax, label="standard deviations\nover patches", aspect=14, pad=0.03)
    bar.outline.set_linewidth(0.4)
    return figures.save(fig, path)


def draw_composition(table: pd.DataFrame, by: str, names: Sequence[str], path: Path) -> Path:
    """Draw the share of each cluster in each subject (well, digit) as stacked bars; columns of the table are the clusters."""
    fig, ax = figures.new(1, 1, 130.0, 24.0 + 4.2 * len(table))
    left = np.zeros(len(table))
    for name, colour in zip(names, colours(names), strict=True):
        ax.barh(
            np.arange(len(table)), 100 * table[name], left=100 * left, height=0.8, color=colour, edgecolor="white", linewidth=0.3
        )
        left += table[name].to_numpy()
    ax.set_yticks(range(len(table)), [f"{value} ({num})" for value, num in zip(table[by], table["num_patches"], strict=True)])
    ax.set(
        xlabel="share of the patches (%)",
        ylabel=f"{by.removeprefix('true_')} (patches)",
        xlim=(0, 100),
        ylim=(len(table) - 0.4, -0.6),
    )
    handles = [Patch(color=colour, label=words) for colour, words in legend_entries(names)]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figures.save(fig, path)


def draw_exemplars(
    patches: Sequence[NDArray],
    names: Sequence[str],
    num_columns: int,
    title: str,
    limits: tuple[float, float],
    pixel_um: float | None,
    path: Path,
) -> Path:
    """Draw the patches nearest to each cluster's centre, (n, Y, X) each, all on one scale."""
    tile = min(20.0, (figures.PAGE_MM - LABEL_MM) / num_columns - TILE_GAP_MM)
    tiles = Tiles(len(patches), num_columns, tile, LABEL_MM, title, foot_mm=13)
    for row, (group, name, colour) in enumerate(zip(patches, names, colours(names), strict=True)):
        tiles.label(row, f"cluster {name}")
        x, y = tiles.corner(row, 0)
        tiles.ax.add_patch(Rectangle((x - 1.1, y), 0.8, tile, color=colour, linewidth=0))
        for column, patch in enumerate(group):
            shown = tiles.image(row, column, patch, *limits)
    tiles.caption(0, 0, "nearest")
    tiles.tile_bar(patches[0].shape[-1], pixel_um)
    tiles.colour_bar(shown, 0, min(2, num_columns - 1), "intensity (counts)", 4)
    return tiles.save(path)
