"""A whole image beside its reconstruction: a column per marker, on one intensity scale each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microlatent import figures
from microlatent.drawing.sheet import TILE_GAP_MM, Panel, Sheet

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
    width = max(LABEL_MM + len(channels) * (wide + TILE_GAP_MM), 4 + 1.6 * len(title))  # a long title of few channels needs room
    height = TITLE_MM + CAPTION_MM + len(rows) * (tall + TILE_GAP_MM) + FOOT_MM
    sheet = Sheet(width, height, title, left_mm=2.0, title_mm=TITLE_MM)
    limits = [figures.limits(plane) for plane in first]
    top = TITLE_MM + CAPTION_MM
    for column, name in enumerate(channels):
        x = LABEL_MM + column * (wide + TILE_GAP_MM)
        sheet.text(x + wide / 2, top - 0.9, name, 7, ha="center", va="bottom")
        for number, (_, images, scale) in enumerate(rows):
            plane = Panel(name, images[column], 1, scale or limits[column], figures.INTENSITY)
            sheet.picture(x, top + number * (tall + TILE_GAP_MM), wide, tall, plane, first.shape[1:])
        words = "{:.4g} to {:.4g} counts".format(*limits[column])
        sheet.text(x + wide / 2, top + len(rows) * (tall + TILE_GAP_MM) + 0.4, words, 6, ha="center", va="top", color="#404040")
    for number, (label, _, _) in enumerate(rows):
        sheet.text(LABEL_MM - 1.5, top + number * (tall + TILE_GAP_MM) + tall / 2, label, 7, ha="right", va="center")
    sheet.scale_bar(LABEL_MM, top, wide, tall, first.shape[1:], pixel_um)
    return sheet.save(path)
