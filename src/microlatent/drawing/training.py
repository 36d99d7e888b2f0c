"""Figures of a training run: learning curves, and patches beside their reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.drawing.sheet import TILE_GAP_MM, Tiles

LABEL_MM = 20.0

LABELS = {
    "total": "total loss",
    "recon": "reconstruction loss",
    "mse": "mean squared error",
}


def curves(history: pd.DataFrame, labels: dict[str, str], path: Path) -> Path:
    """Draw every loss term and health number over epochs, training and validation together; ``labels`` are the model's."""
    labels = LABELS | labels
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
        ax.set_ylabel(labels.get(name, name.replace("_", " ")))
        figures.few_ticks(ax, integer=True)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    axes.flat[0].legend()
    return figures.save(fig, path)


def reconstructions(x: np.ndarray, x_hat: np.ndarray, channels: list[str], pixel_um: float | None, path: Path) -> Path:
    """Draw patches (B, C, Y, X) above their reconstructions, a pair of rows per channel, one intensity scale per channel."""
    tile = min(20.0, (figures.PAGE_MM - LABEL_MM) / len(x) - TILE_GAP_MM)
    tiles = Tiles(2 * len(channels), len(x), tile, LABEL_MM, "Held-out patches and their reconstructions")
    for channel, name in enumerate(channels):
        low, high = figures.limits(x[:, channel])
        for row, (images, title) in enumerate(((x, "held out"), (x_hat, "reconstructed"))):
            tiles.label(2 * channel + row, f"{name}\n{title}")
            for column, image in enumerate(images[:, channel]):
                tiles.image(2 * channel + row, column, image, low, high)
    tiles.tile_bar(x.shape[-1], pixel_um)
    return tiles.save(path)


def reconstruction(x: np.ndarray, x_hat: np.ndarray, channels: list[str], title: str, pixel_um: float | None, path: Path) -> Path:
    """Draw one patch (C, Y, X) above its reconstruction, a column per channel, both rows on the intensity scale of the patch."""
    tile = min(24.0, (figures.PAGE_MM - LABEL_MM) / len(channels) - TILE_GAP_MM)
    tiles = Tiles(2, len(channels), tile, LABEL_MM, title)
    for row, (images, word) in enumerate(((x, "original"), (x_hat, "reconstructed"))):
        tiles.label(row, word)
        for column, image in enumerate(images):
            tiles.image(row, column, image, *figures.limits(x[column], 0.5, 99.5))
    for column, name in enumerate(channels):
        tiles.caption(0, column, name)
    tiles.tile_bar(x.shape[-1], pixel_um)
    return tiles.save(path)
