"""Figures of a training run: learning curves, and patches beside their reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from microlatent import checkpoint, figures
from microlatent.data.source import PatchSource
from microlatent.schemas import Settings

LABELS = {
    "total": "total loss",
    "recon": "reconstruction\n(mean squared error)",
    "commitment": "commitment loss",
    "matching": "matching loss",
    "perplexity": "perplexity (codes)",
    "codes_used": "codes in use",
}


def leave(settings: Settings, model: nn.Module, source: PatchSource, out: Path, tracker: Any, device: torch.device) -> None:
    """Draw the learning curves, and held-out patches beside their reconstructions by the best checkpoint."""
    tracker.image("history", curves(pd.read_csv(out / "history.csv"), out / "figures" / "history.png"))
    if not hasattr(model, "reconstruct"):
        return
    checkpoint.load_state(model, checkpoint.load(out / "checkpoints" / "best.ckpt", device)["model"], "best.ckpt")
    model.eval()
    rows = source.rows["val"] if len(source.rows["val"]) else source.rows["train"]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, settings.trainer.num_reconstructions).astype(int))]
    with torch.no_grad():
        x = source.batch(rows, device, alone=True).x
        x_hat = model.reconstruct(x)
    path = reconstructions(
        x.cpu().numpy(),
        x_hat.cpu().numpy(),
        source.channels,
        source.stores[0].patch_pixel_um,
        out / "figures" / "reconstructions.png",
    )
    tracker.image("reconstructions", path)


def curves(history: pd.DataFrame, path: Path) -> Path:
    """Draw every loss term and health number over epochs, training and validation together."""
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
        ax.set_ylabel(LABELS.get(name, name.replace("_", " ")))
        figures.few_ticks(ax, integer=True)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    axes.flat[0].legend()
    return figures.save(fig, path)


def reconstructions(x: np.ndarray, x_hat: np.ndarray, channels: list[str], pixel_um: float | None, path: Path) -> Path:
    """Draw patches (B, C, Y, X) above their reconstructions, a pair of rows per channel, one intensity scale per channel."""
    num = len(x)
    fig, axes = figures.new(
        2 * len(channels),
        num,
        width_mm=figures.PAGE_MM,
        height_mm=2 * len(channels) * figures.PAGE_MM / (num + 0.6),
        squeeze=False,
    )
    for channel, name in enumerate(channels):
        low, high = figures.limits(x[:, channel])
        for row, (images, title) in enumerate(((x, "held out"), (x_hat, "reconstructed"))):
            line = axes[2 * channel + row]
            for ax, image in zip(line, images[:, channel], strict=True):
                figures.image(ax, image, low, high)
            line[0].set_axis_on()
            line[0].set(xticks=[], yticks=[])
            line[0].spines[:].set_visible(False)
            line[0].set_ylabel(f"{name}\n{title}")
    figures.scale_bar(axes[0, -1], pixel_um)
    return figures.save(fig, path)
