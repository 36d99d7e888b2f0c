"""Figures of images of tissue: latents, markers and clusters at their places, one scale for all images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from microlatent import figures

HOLE = "#D7E5F5"  # where nothing lies: this pale blue is no value of the latents' map, nor of the markers' greys
GAP_MM, EDGE_MM, TITLE_MM, HEADING_MM, NAME_MM, BAR_MM = 3.0, 3.0, 7.0, 6.0, 4.0, 5.5
LEGEND_MM, LINE_MM = 27.0, 3.6
MAX_COLUMNS, MAX_TILE_MM = 6, 52.0


class Panel(NamedTuple):
    """One plane of an image."""

    name: str
    picture: NDArray  # (Y, X) with NaN in holes, or (Y, X, 4) colours
    cell_px: int  # side of one of its cells in pixels of the image
    limits: tuple[float, float] | None = None  # None: no colour bar
    cmap: str = figures.CONTINUOUS


class Block(NamedTuple):
    """Panels under a heading."""

    heading: str
    panels: list[Panel]


class Sheet:
    """A page in millimetres on a single axes, y downwards (an axes for each panel would take seconds to draw)."""

    def __init__(self, width_mm: float, height_mm: float, title: str) -> None:
        self.width, self.height = width_mm, height_mm
        self.fig, self.ax = figures.new(1, 1, width_mm, height_mm)
        self.fig.set_layout_engine(None)
        self.ax.set_position((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.set(xlim=(0, width_mm), ylim=(height_mm, 0), autoscale_on=False)
        self.text(EDGE_MM, TITLE_MM / 2, title, 8, va="center")

    def text(self, x: float, y: float, text: str, size: float = 6.5, **look: str) -> None:
        """Write at a place."""
        self.ax.text(x, y, text, fontsize=size, **look)

    def picture(self, x: float, y: float, width: float, height: float, panel: Panel, shape_px: tuple[int, int]) -> None:
        """Show a plane in a box that stands for the whole image; cells that reach beyond the image are cut."""
        box = Rectangle((x, y), width, height, facecolor=HOLE, edgecolor="none", zorder=-1)
        self.ax.add_patch(box)
        across, down = (side * panel.cell_px / px for side, px in zip(panel.picture.shape[1::-1], shape_px[::-1], strict=True))
        shown = self.ax.imshow(
            panel.picture,
            cmap=panel.cmap,
            vmin=panel.limits and panel.limits[0],
            vmax=panel.limits and panel.limits[1],
            extent=(x, x + across * width, y + down * height, y),
            aspect="auto",
            interpolation="auto" if panel.cmap == figures.INTENSITY and panel.limits else "nearest",
        )
        shown.set_clip_path(box)

    def bar(self, x: float, y: float, width: float, panel: Panel) -> None:
        """Draw a colour bar with its ends named."""
        ramp = np.linspace(0, 1, 128)[None]
        self.ax.imshow(ramp, cmap=panel.cmap, extent=(x, x + width, y + 1.5, y), aspect="auto", interpolation="nearest")
        self.text(x, y + 2.0, number(panel.limits[0]), 5.5, va="top", ha="left")
        self.text(x + width, y + 2.0, number(panel.limits[1]), 5.5, va="top", ha="right")

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Draw coloured squares with their words."""
        for row, (colour, words) in enumerate(entries):
            self.ax.add_patch(Rectangle((x, y + row * LINE_MM), 2.4, 2.4, facecolor=colour, edgecolor="none"))
            self.text(x + 3.6, y + row * LINE_MM + 1.2, words, 6.5, va="center")

    def scale_bar(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        shape_px: tuple[int, int],
        pixel_um: float | None,
        pixel: str = "px",
    ) -> None:
        """Draw a scale bar into the box of an image."""
        inset = self.ax.inset_axes((x, y, width, height), transform=self.ax.transData)
        inset.set_axis_off()
        inset.set(xlim=(0, shape_px[1]), ylim=(shape_px[0], 0))
        figures.scale_bar(inset, pixel_um, pixel=pixel)

    def save(self, path: Path) -> Path:
        """Write the figure and return its path."""
        return figures.save(self.fig, path)


def number(value: float) -> str:
    """Return a number for the end of a colour bar, with the true minus sign."""
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}").replace("-", "\u2212")


def tile_size(shape_px: tuple[int, int], num_columns: int, room_mm: float) -> tuple[float, float]:
    """Return width and height of an image in print, in true proportion, so that columns fill the room but none is huge."""
    width = min(MAX_TILE_MM, (room_mm - (num_columns - 1) * GAP_MM) / num_columns)
    tall = shape_px[0] / shape_px[1]
    if width * tall > 1.4 * MAX_TILE_MM:
        width = 1.4 * MAX_TILE_MM / tall
    return width, width * tall


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
