"""A whole image beside its reconstruction: a column per marker, on one intensity scale each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microlatent import figures

GAP_MM = 1.2
TITLE_MM, CAPTION_MM, FOOT_MM = 6.0, 4.0, 5.0
LABEL_MM = 20.0
SIDE_MM = 34.0  # longer side of an image in print


def panel(
    rows: list[tuple[str, np.ndarray, tuple[float, float] | None]],
    channels: list[str],
    pixel_um: float | None,
    title: str,
    path: Path,
) -> Path:
    """Draw rows of images (C, Y, X) of one size.

    Parameters
    ----------
    rows
        Label, images, and the limits of their grey scale; None takes each marker's limits in the first row, which are written
        below its column.
    """
    first = rows[0][1]
    height_px, width_px = first.shape[1:]
    mm_per_px = SIDE_MM / max(height_px, width_px)
    wide, tall = width_px * mm_per_px, height_px * mm_per_px
    width = max(LABEL_MM + len(channels) * (wide + GAP_MM), 4 + 1.6 * len(title))  # a long title of few channels needs room
    height = TITLE_MM + CAPTION_MM + len(rows) * (tall + GAP_MM) + FOOT_MM
    fig, ax = figures.new(1, 1, width, height)
    fig.set_layout_engine(None)
    ax.set_position((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    ax.text(2.0, TITLE_MM / 2, title, va="center", fontsize=8)
    limits = [figures.limits(plane) for plane in first]
    for column, name in enumerate(channels):
        x, top = LABEL_MM + column * (wide + GAP_MM), TITLE_MM + CAPTION_MM
        ax.text(x + wide / 2, top - 0.9, name, ha="center", va="bottom", fontsize=7)
        for number, (_, images, scale) in enumerate(rows):
            y = top + number * (tall + GAP_MM)
            low, high = scale or limits[column]
            ax.imshow(
                images[column],
                **{"cmap": figures.INTENSITY, "vmin": low, "vmax": high, "extent": (x, x + wide, y + tall, y), "aspect": "auto"},
                interpolation="auto",  # a large image is averaged down, not sampled
            )
        low, high = limits[column]
        foot = top + len(rows) * (tall + GAP_MM) + 0.4
        ax.text(x + wide / 2, foot, f"{low:.4g} to {high:.4g} counts", ha="center", va="top", fontsize=6, color="#404040")
    for number, (label, _, _) in enumerate(rows):
        y = TITLE_MM + CAPTION_MM + number * (tall + GAP_MM) + tall / 2
        ax.text(LABEL_MM - 1.5, y, label, ha="right", va="center", fontsize=7)
    inset = ax.inset_axes((LABEL_MM, TITLE_MM + CAPTION_MM, wide, tall), transform=ax.transData)
    inset.set_axis_off()
    inset.set(xlim=(0, width_px), ylim=(height_px, 0))
    figures.scale_bar(inset, pixel_um)
    return figures.save(fig, path)
