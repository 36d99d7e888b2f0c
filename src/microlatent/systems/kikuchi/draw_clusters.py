"""Clusters of scan points: a hue for every cluster, dark to light by the latent inside it, alike in map and scatter."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from microlatent import figures
from microlatent.analysis.clustering import NOISE
from microlatent.systems.kikuchi.draw_maps import Window, show_map

NOISE_COLOUR, MISSING_COLOUR = "#999999", "#FFFFFF"
FIRST_HUES = (250.0, 60.0, 165.0, 345.0)  # blue, orange, bluish green, magenta: Oklab 0.03 apart in every dichromacy
SATURATED, PALE = 0.16, 0.08  # chroma; many clusters take turns
DARK, MIDDLE, LIGHT = 0.32, 0.66, 0.92  # lightness of a cluster's lowest, middle and highest latent
ROBUST = (2.0, 98.0)  # percentiles of the latent in a cluster that are dark and light
NUMBERED = 4  # clusters; beyond, no hues suit every kind of colour vision, so they are numbered in the map
MANY = 8  # clusters; beyond, hues alone come too close
MAP_MM, TALLEST_MM, SCATTER_MM, COLUMN_MM = 62.0, 95.0, 62.0, 27.0
LEFT_MM, GAP_MM, TOP_MM, BOTTOM_MM, LINE_MM = 12.0, 17.0, 8.0, 10.5, 3.6
HEADER = 3  # lines above the legend's entries


class Points(NamedTuple):
    """The points of one scan as they are drawn."""

    labels: NDArray  # (n,) cluster, NOISE for noise and for what is missing
    known: NDArray  # (n,) bool: it was clustered
    latent: NDArray  # (n,) what the brightness shows
    other: NDArray  # (n,) the scatter's second axis
    latent_label: str
    other_label: str


def oklch(lightness: NDArray, chroma: NDArray, hue_deg: NDArray) -> NDArray:
    """Return sRGB colours (..., 3) of a lightness, a chroma and a hue, cut where a screen has no such colour.

    Source: B. Ottosson 2020, "A perceptual color space for image processing" (Oklab).
    """
    angle = np.deg2rad(hue_deg)
    a, b = chroma * np.cos(angle), chroma * np.sin(angle)
    cone = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        -1,
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(cone**3 @ to_linear.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def shades(hue_deg: NDArray, chroma: NDArray, brightness: NDArray) -> NDArray:
    """Return colours (..., 3) of a hue from dark (brightness 0) to light (1), with less chroma towards either end."""
    lightness = np.interp(brightness, [0, 0.5, 1], [DARK, MIDDLE, LIGHT])
    return oklch(lightness, chroma * np.clip(1.25 - np.abs(lightness - MIDDLE) * 2.6, 0, 1), hue_deg)


def hues(borders: NDArray) -> tuple[NDArray, NDArray]:
    """Return hue (deg) and chroma (K,) of every cluster; those that share long borders are given hues far apart.

    Parameters
    ----------
    borders
        (K, K) how much border clusters share (``scan_maps.shared_borders``).
    """
    num = len(borders)
    if num <= len(FIRST_HUES):
        return np.array(FIRST_HUES[:num]), np.full(num, SATURATED)
    free = list(range(num))
    hue = (FIRST_HUES[0] + 360.0 * np.arange(num) / num) % 360
    chroma = np.where(np.arange(num) % 2, PALE, SATURATED) if num > MANY else np.full(num, SATURATED)
    place = np.stack([chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))], -1) / SATURATED
    near = np.exp(-4 * np.linalg.norm(place[:, None] - place[None], axis=-1))
    chosen = np.full(num, -1)
    for cluster in np.argsort(-borders.sum(1), kind="stable"):
        done = np.flatnonzero(chosen >= 0)
        cost = [(borders[cluster, done] * near[colour, chosen[done]]).sum() for colour in free]
        chosen[cluster] = free.pop(int(np.argmin(np.round(cost, 9))))
    return hue[chosen], chroma[chosen]


def base_colours(hue_deg: NDArray, chroma: NDArray) -> list[str]:
    """Return the colour (#rrggbb) of each cluster at middle brightness."""
    return [to_hex(colour) for colour in shades(hue_deg, chroma, np.full(len(hue_deg), 0.5))]


def point_colours(points: Points, hue_deg: NDArray, chroma: NDArray) -> NDArray:
    """Return the colour (n, 3) of every point: its cluster's hue, brighter the higher the latent is among the cluster's."""
    colours = np.tile(to_rgb(NOISE_COLOUR), (len(points.labels), 1))
    colours[~points.known] = to_rgb(MISSING_COLOUR)
    for number in range(len(hue_deg)):
        here = points.labels == number
        if here.any():
            low, high = np.percentile(points.latent[here], ROBUST)
            brightness = np.clip((points.latent[here] - low) / (high - low), 0, 1) if high > low else np.full(here.sum(), 0.5)
            colours[here] = shades(np.full(here.sum(), hue_deg[number]), np.full(here.sum(), chroma[number]), brightness)
    return colours


def compose(points: Points, window: Window, hue_deg: NDArray, chroma: NDArray, title: str, seed: int = 0) -> Figure:
    """Return the figure: the map, the scatter in exactly the same colours, and the legend.

    Parameters
    ----------
    points
        In the order of the scan's rows.
    """
    labels, num = points.labels, len(hue_deg)
    colours = point_colours(points, hue_deg, chroma)
    wide = min(MAP_MM, TALLEST_MM / window.tall)
    tall = wide * window.tall
    lines = num + int(((labels == NOISE) & points.known).any()) + HEADER
    columns = max(1, -(-lines // (int(max(tall, 50.0) / LINE_MM) + 2)))
    rows = -(-lines // columns)
    body = max(tall, 50.0, rows * LINE_MM)
    edges = np.cumsum([LEFT_MM, wide, GAP_MM, SCATTER_MM, 4.0, columns * COLUMN_MM])
    width, height = edges[-1], BOTTOM_MM + body + TOP_MM
    fig, axes = figures.new(1, 3, width, height)
    fig.set_layout_engine(None)
    boxes = [(edges[0], wide, tall), (edges[2], SCATTER_MM, body), (edges[4], columns * COLUMN_MM, body)]
    for ax, (left, across, high) in zip(axes, boxes, strict=True):
        ax.set_position((left / width, (BOTTOM_MM + body - high) / height, across / width, high / height))
    fig.text(LEFT_MM / width, 1 - 0.5 * TOP_MM / height, title, va="center", fontsize=7.5)

    picture = window.grid(colours)
    show_map(axes[0], np.where(np.isnan(picture), to_rgb(MISSING_COLOUR), picture), window)
    if num > NUMBERED:
        number_in_map(axes[0], points, window)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(points.known))  # so that no cluster hides another
    order = order[np.argsort(labels[order] != NOISE, kind="stable")]  # but noise lies below
    size = float(np.clip(9000 / max(1, len(order)), 1.0, 8.0))
    axes[1].scatter(points.latent[order], points.other[order], c=colours[order], s=size, linewidths=0, rasterized=True)
    axes[1].set(xlabel=points.latent_label, ylabel=points.other_label)
    figures.few_ticks(axes[1], 5)
    axes[2].set(xlim=(0, columns * COLUMN_MM), ylim=(body, 0))
    legend(axes[2], points, hue_deg, chroma, rows)
    return fig


def draw_clusters(points: Points, window: Window, hue_deg: NDArray, chroma: NDArray, title: str, seed: int, path: Path) -> Path:
    """Write the figure that ``compose`` makes."""
    return figures.save(compose(points, window, hue_deg, chroma, title, seed), path)


def number_in_map(ax: Axes, points: Points, window: Window) -> None:
    """Write the number of each cluster on its point that lies deepest inside it."""
    from scipy.ndimage import distance_transform_edt

    labels = np.nan_to_num(window.grid(np.where(points.known, points.labels, NOISE)), nan=NOISE).astype(int)
    for number in np.unique(labels[labels >= 0]):
        depth = distance_transform_edt(np.pad(labels == number, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        at = column + window.columns.start, row + window.rows.start
        word = ax.text(*at, str(number), fontsize=5.5, ha="center", va="center", color="white")
        word.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def legend(ax: Axes, points: Points, hue_deg: NDArray, chroma: NDArray, rows: int) -> None:
    """Draw a ramp from dark to light for each cluster, with its share of the points, into axes measured in mm."""
    ax.set_axis_off()
    ax.set_autoscale_on(False)
    total = points.known.sum()
    entries = [(str(number), (points.labels == number).sum()) for number in range(len(hue_deg))]
    noise = ((points.labels == NOISE) & points.known).sum()
    entries += [("noise", noise)] if noise else []
    ax.text(0, HEADER * LINE_MM / 2, "cluster (share),\ndark to light: its\nlowest to highest latent", va="center", fontsize=6.0)
    for place, (word, count) in enumerate(entries, HEADER):
        x, y = place // rows * COLUMN_MM, place % rows * LINE_MM
        if word == "noise":
            ax.add_patch(Rectangle((x, y + 0.6), 9, LINE_MM - 1.2, color=NOISE_COLOUR, linewidth=0))
        else:
            ramp = shades(np.full(32, hue_deg[place - HEADER]), np.full(32, chroma[place - HEADER]), np.linspace(0, 1, 32))
            ax.imshow(ramp[None], extent=(x, x + 9, y + LINE_MM - 0.6, y + 0.6), aspect="auto")
        ax.text(x + 10, y + 0.5 * LINE_MM, f"{word} ({count / total:.0%})", va="center", fontsize=6.5)


def draw_stability(table: pd.DataFrame, jaccard: NDArray, colours: list[str], path: Path) -> Path:
    """Draw how alike refits are (adjusted Rand index, by kind of refit), and in how much of them each cluster comes back.

    Parameters
    ----------
    table
        Columns ``kind`` and ``ari``, a row for each refit.
    jaccard
        (B, K) of each cluster with its best match in each refit to resampled blocks.
    colours
        (K,) of the clusters.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    fig, (left, right) = figures.new(1, 2, 110.0 + 1.5 * len(colours), 55.0, width_ratios=[1, 1.4])
    rng = np.random.default_rng(0)
    for place, kind in enumerate(kinds):
        ari = table.loc[table["kind"] == kind, "ari"].to_numpy()
        jitter = rng.uniform(-0.15, 0.15, len(ari))
        left.plot(place + jitter, ari, "o", color=figures.OKABE_ITO[0], markersize=2.5, alpha=0.7, markeredgewidth=0)
        left.hlines(np.nanmedian(ari), place - 0.28, place + 0.28, color="black", linewidth=1.2)
    left.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds])
    left.set(ylabel="adjusted Rand index", xlim=(-0.6, len(kinds) - 0.4), ylim=(min(0, table["ari"].min()), 1.04))
    mean = np.nanmean(jaccard, 0)
    right.bar(range(len(mean)), mean, color=colours, width=0.8)
    right.axhline(0.6, color="black", linewidth=0.7, linestyle="--")
    right.set_title("dashed: 0.6, below not to be trusted", fontsize=6.5)
    right.set(xlabel="cluster", ylabel="mean Jaccard index", ylim=(0, 1.04), xlim=(-0.6, len(mean) - 0.4))
    right.xaxis.get_major_locator().set_params(integer=True)
    return figures.save(fig, path)
