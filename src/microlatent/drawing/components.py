"""Figures of components: explained variance, coloured scatters, patches along a component, linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microlatent import figures
from microlatent.analysis.components import PCA
from microlatent.drawing.sheet import TILE_GAP_MM, Tiles

LABEL_MM, NARROW_LABEL_MM = 22.0, 14.0


def draw_variance(pca: PCA, path: Path) -> Path:
    """Draw the share of variance that each component explains, and their sum, with the kept ones marked."""
    kept = len(pca.components)
    shown = min(len(pca.spectrum), max(3 * kept, 20))
    share = 100 * pca.spectrum / pca.spectrum.sum()
    number = np.arange(1, shown + 1)
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 62)
    edges = np.arange(shown + 1) + 0.5
    ax.stairs(share[:kept], edges[: kept + 1], fill=True, color=figures.OKABE_ITO[0], label="each, kept")
    ax.stairs(share[kept:shown], edges[kept:], fill=True, color=figures.GREY, label="each, left out")
    ax.plot(number, np.cumsum(share)[:shown], "-", color="black", linewidth=1, label="cumulative")
    ax.plot(kept, share[:kept].sum(), "o", color="black", markersize=3.5)
    ax.annotate(
        f"{kept} components: {share[:kept].sum():.0f} %",
        (kept, share[:kept].sum()),
        xytext=(5, -9),
        textcoords="offset points",
        fontsize=7,
    )
    ax.set(xlabel="component", ylabel="explained variance (%)", ylim=(0, 102), xlim=(0.3, shown + 0.7))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="center right")
    return figures.save(fig, path)


def draw_scatter(
    scores: NDArray, ratio: NDArray, umap: NDArray | None, values: NDArray, column: str, path: Path, seed: int = 0
) -> Path:
    """Draw the first two components, and UMAP where there is one, coloured by a column."""
    maps = [(scores[:, :2], [f"PC{k + 1} ({100 * ratio[k]:.1f} %)" for k in (0, 1)])]
    if umap is not None:
        maps.append((umap, ["UMAP 1", "UMAP 2"]))
    fig, axes = figures.new(1, len(maps), figures.PAGE_MM if umap is not None else 110.0, 74, squeeze=False)
    for ax, (points, names) in zip(axes[0], maps, strict=True):
        figures.colour_points(ax, *points.T, values, column, seed, legend=ax is axes[0, -1])
        ax.set(xlabel=names[0], ylabel=names[1])
        figures.few_ticks(ax)
    if umap is not None:
        axes[0, 1].set(xticks=[], yticks=[])  # distances on a UMAP have no unit
    return figures.save(fig, path)


def draw_means(means: NDArray, names: Sequence[str], title: str, pixel_um: float | None, path: Path) -> Path:
    """Draw the mean patch (K, Q, Y, X) of each quantile of each component, and the change from the lowest to the highest."""
    rows, quantiles = means.shape[:2]
    tile = min(26.0, (figures.PAGE_MM - NARROW_LABEL_MM) / (quantiles + 1) - TILE_GAP_MM)
    tiles = Tiles(rows, quantiles + 1, tile, NARROW_LABEL_MM, title, foot_mm=13)
    vmin, vmax = figures.limits(means, 0, 100)
    change = means[:, -1] - means[:, 0]
    bound = max(abs(value) for value in figures.limits(change, 0, 100))
    for row, name in enumerate(names):
        tiles.label(row, name)
        for column in range(quantiles):
            shown = tiles.image(row, column, means[row, column], vmin, vmax)
        changed = tiles.image(row, quantiles, change[row], -bound, bound, "RdBu_r")
    for column in range(quantiles):
        tiles.caption(0, column, quantile_name(column, quantiles))
    tiles.caption(0, quantiles, "highest \u2212 lowest")
    tiles.tile_bar(means.shape[-1], pixel_um)
    tiles.colour_bar(shown, 0, quantiles - 1, "mean intensity (counts)", 6)
    tiles.colour_bar(changed, quantiles, quantiles, "change (counts)", 4)
    return tiles.save(path)


def draw_gallery(
    patches: Sequence[NDArray],
    bands: Sequence[tuple[float, float]],
    num_columns: int,
    title: str,
    limits: tuple[float, float],
    pixel_um: float | None,
    path: Path,
) -> Path:
    """Draw typical patches of each quantile, (n, Y, X) each; the labels say how closely the other components were held."""
    tile = min(22.0, (figures.PAGE_MM - LABEL_MM) / num_columns - TILE_GAP_MM)
    tiles = Tiles(len(patches), num_columns, tile, LABEL_MM, title)
    for row, (group, band) in enumerate(zip(patches, bands, strict=True)):
        held = "others free" if band == (0.0, 1.0) else f"others {100 * band[0]:.0f}\u2013{100 * band[1]:.0f} %"
        tiles.label(row, f"{quantile_name(row, len(patches))}\n{held}")
        for column, patch in enumerate(group):
            tiles.image(row, column, patch, *limits)
    tiles.caption(0, 0, "lower score")
    tiles.caption(0, num_columns - 1, "higher score")
    tiles.tile_bar(patches[0].shape[-1], pixel_um)
    return tiles.save(path)


def quantile_name(number: int, count: int) -> str:
    """Return the share of patches a quantile covers, such as 20-40 %."""
    return f"{100 * number / count:.0f}\u2013{100 * (number + 1) / count:.0f} %"


def draw_probes(table: pd.DataFrame, score: str, width: int, path: Path) -> Path:
    """Draw the score (r2, accuracy) of latents and of pixels for each property, with intervals over groups, beside chance."""
    fig, ax = figures.new(1, 1, 120.0, 30 + 10.0 * len(table))
    place = np.arange(len(table))[::-1]
    sets = (
        ("latent", 0.13, figures.OKABE_ITO[0], "o", f"latents, {width} components"),
        ("pca_pixels", -0.13, figures.OKABE_ITO[1], "s", f"pixels, {width} components"),
    )
    for kind, shift, colour, marker, label in sets:
        middle, low, high = (table[f"{name}_{kind}"].to_numpy() for name in (score, "lo", "hi"))
        ax.hlines(place + shift, low, high, color=colour, linewidth=1.4)
        ax.plot(middle, place + shift, marker, color=colour, markersize=4.5, label=label)
    is_label = score == "accuracy"
    chance = ["accuracy_most_common"] if is_label else ["r2_permuted_latent", "r2_permuted_pca_pixels"]
    for name, shift in zip(chance, (0.0,) if is_label else (0.13, -0.13), strict=True):
        label = ("most common label" if is_label else "groups permuted") if name == chance[0] else None
        ax.plot(table[name], place + shift, "|", color=figures.GREY, markersize=7, label=label)
    lowest = min(0.05, *(table[name].min() for name in ("lo_latent", "lo_pca_pixels", *chance)))
    ax.set(xlim=(max(lowest - 0.05, -0.6), 1.02), ylim=(-0.6, len(table) - 0.4))
    ax.set_yticks(place, [figures.axis_label(name) for name in table["column"]])
    ax.set_xlabel("accuracy on groups held out" if is_label else "$R^2$ on groups held out")
    ax.axvline(0, color="black", linewidth=0.6)
    ax.legend(loc="lower right", bbox_to_anchor=(1.02, 1), ncols=3, columnspacing=1.0, handletextpad=0.3)
    return figures.save(fig, path)
