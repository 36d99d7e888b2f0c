"""Figures of a training run: learning curves, and samples beside what the model makes of them."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
import pandas as pd

from microlatent import figures, metrics
from microlatent.drawing.sheet import TILE_GAP_MM, Tiles

LABEL_MM, WRAP = 20.0, 30  # of the names beside the images; characters of an axis label on a line


def curves(history: pd.DataFrame, labels: dict[str, str], path: Path) -> Path:
    """Draw every loss term and health number over epochs, training and validation together; ``labels`` are the model's."""
    names = list(dict.fromkeys(name.split("_", 1)[1] for name in history.columns if name.startswith(("train_", "val_"))))
    ncols = min(3, len(names))
    nrows = -(-len(names) // ncols)
    fig, axes = figures.new(nrows, ncols, width_mm=figures.PAGE_MM, height_mm=8 + 44 * nrows, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        for part, colour, style in (("train", figures.OKABE_ITO[0], "-"), ("val", figures.OKABE_ITO[3], "--")):
            if f"{part}_{name}" in history:
                label = "training" if part == "train" else "validation"
                marker = "o" if len(history) < 15 else None
                ax.plot(
                    history["epoch"], history[f"{part}_{name}"], style, color=colour, label=label, marker=marker, markersize=2.5
                )
        ax.set_xlabel("epoch")
        ax.set_ylabel(labels.get(name) or fill(metrics.metric(name).title, WRAP))
        figures.few_ticks(ax, integer=True)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    axes.flat[0].legend()
    return figures.save(fig, path)


class Shown(NamedTuple):
    """Samples beside what a model makes of them; of volumes one plane."""

    truth: np.ndarray  # (B, K, Y, X): the input, or the target
    made: np.ndarray  # the same: its reconstruction, or the prediction
    channels: list[str]
    word: str  # reconstructed, predicted
    pixel_um: float | None
    x: np.ndarray | None = None  # (B, C, Y, X) the input, where it is not the target
    x_channels: list[str] | None = None


def samples(shown: Shown, path: Path) -> Path:
    """Draw samples in columns: the input's channels where it is not the target, then each channel above what was made of it.

    Both of a pair have one intensity scale.
    """
    rows, given = [], "held out" if shown.x is None else "target"
    if shown.x is not None:
        rows += [(f"{name}\ninput", x, x) for name, x in zip(shown.x_channels or (), shown.x.swapaxes(0, 1), strict=True)]
    for name, truth, made in zip(shown.channels, shown.truth.swapaxes(0, 1), shown.made.swapaxes(0, 1), strict=True):
        rows += [(f"{name}\n{given}", truth, truth), (f"{name}\n{shown.word}", made, truth)]
    tile = min(20.0, (figures.PAGE_MM - LABEL_MM) / len(shown.truth) - TILE_GAP_MM)
    what = "patches and their reconstructions" if shown.x is None else "samples, their targets and predictions"
    tiles = Tiles(len(rows), len(shown.truth), tile, LABEL_MM, f"Held-out {what}")
    for row, (label, images, scale) in enumerate(rows):
        tiles.label(row, label)
        for column, image in enumerate(images):
            tiles.image(row, column, image, *figures.limits(scale))
    tiles.tile_bar(shown.truth.shape[-1], shown.pixel_um)
    return tiles.save(path)


def one_sample(shown: Shown, title: str, path: Path) -> Path:
    """Draw the first sample above what the model makes of it, a column per channel, both rows on the sample's own scale."""
    truth, made = shown.truth[0], shown.made[0]
    tile = min(24.0, (figures.PAGE_MM - LABEL_MM) / len(truth) - TILE_GAP_MM)
    tiles = Tiles(2, len(truth), tile, LABEL_MM, title)
    for row, (images, word) in enumerate(((truth, "original" if shown.x is None else "target"), (made, shown.word))):
        tiles.label(row, word)
        for column, image in enumerate(images):
            tiles.image(row, column, image, *figures.limits(truth[column], 0.5, 99.5))
    for column, name in enumerate(shown.channels):
        tiles.caption(0, column, name)
    tiles.tile_bar(truth.shape[-1], shown.pixel_um)
    return tiles.save(path)
