"""Figures of images of tissue: latents, markers and clusters at their places, one scale for all images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from microlatent import figures
from microlatent.drawing.sheet import EDGE_MM, GAP_MM, LINE_MM, NAME_MM, TITLE_MM, Panel, Sheet, tile_size

HEADING_MM, BAR_MM, LEGEND_MM = 6.0, 5.5, 27.0
MAX_COLUMNS = 6


class Block(NamedTuple):
    """Panels under a heading."""

    heading: str
    panels: list[Panel]


def fewest_gaps(counts: Sequence[int]) -> int:
    """Return the number of columns (4 to 6, fewer for few panels) that leaves the fewest places empty, the larger of equals."""
    allowed = range(MAX_COLUMNS, 3, -1) if max(counts) > 3 else (max(counts),)
    return min((columns for columns in allowed), key=lambda columns: sum(-count % columns for count in counts))


def draw_section(
    blocks: Sequence[Block],
    shape_px: tuple[int, int],
    pixel_um: float | None,
    title: str,
    path: Path,
    legend: Sequence[tuple[str, str]] = (),
) -> Path:
    """Draw the planes of one image block by block; the legend, if any, stands right of the panels."""
    room = figures.PAGE_MM - 2 * EDGE_MM - (LEGEND_MM + GAP_MM if legend else 0)
    columns = fewest_gaps([len(block.panels) for block in blocks])
    width, height = tile_size(shape_px, columns, room)
    row_mm = NAME_MM + height + BAR_MM
    rows = [-(-len(block.panels) // columns) for block in blocks]
    total = TITLE_MM + sum(HEADING_MM + count * row_mm for count in rows) + 1.0
    sheet = Sheet(figures.PAGE_MM, max(total, TITLE_MM + HEADING_MM + NAME_MM + len(legend) * LINE_MM + 2.0), title)
    top, first = TITLE_MM, True
    for block, count in zip(blocks, rows, strict=True):
        sheet.text(EDGE_MM, top + HEADING_MM / 2, block.heading, va="center", color="#555555")
        for place, panel in enumerate(block.panels):
            x = EDGE_MM + place % columns * (width + GAP_MM)
            y = top + HEADING_MM + place // columns * row_mm + NAME_MM
            sheet.text(x, y - 0.8, panel.name, 7, va="bottom")
            sheet.picture(x, y, width, height, panel, shape_px)
            if panel.limits:
                sheet.bar(x, y + height + 1.0, width, panel)
            if first:
                sheet.scale_bar(x, y, width, height, shape_px, pixel_um)
                first = False
        top += HEADING_MM + count * row_mm
    sheet.legend(EDGE_MM + columns * (width + GAP_MM), TITLE_MM + HEADING_MM + NAME_MM, legend)
    return sheet.save(path)


def draw_contact(
    panels: Sequence[Panel], shapes_px: Sequence[tuple[int, int]], pixel_um: float | None, title: str, label: str, path: Path
) -> Path:
    """Draw one plane of many images side by side, all to one scale of length and of colour."""
    largest = tuple(max(shape[axis] for shape in shapes_px) for axis in (0, 1))
    columns = min(len(panels), 4 if len(panels) <= 8 else 6 if len(panels) <= 24 else 8)
    width, height = tile_size(largest, columns, figures.PAGE_MM - 2 * EDGE_MM)
    row_mm = height + NAME_MM + 1.5
    rows = -(-len(panels) // columns)
    sheet = Sheet(figures.PAGE_MM, TITLE_MM + rows * row_mm + 1.2 * BAR_MM, title)
    for place, (panel, shape) in enumerate(zip(panels, shapes_px, strict=True)):
        x, y = EDGE_MM + place % columns * (width + GAP_MM), TITLE_MM + place // columns * row_mm + NAME_MM
        size = width * shape[1] / largest[1], height * shape[0] / largest[0]
        sheet.text(x, y - 0.8, panel.name, 6, va="bottom")
        sheet.picture(x, y, *size, panel, shape)
        if not place:
            sheet.scale_bar(x, y, *size, shape, pixel_um)
    y = TITLE_MM + rows * row_mm + 1.0
    sheet.bar(EDGE_MM, y, 50.0, panels[0])
    sheet.text(EDGE_MM + 53.0, y + 0.75, label, va="center")
    return sheet.save(path)
