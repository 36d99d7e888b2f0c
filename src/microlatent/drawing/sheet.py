"""A page in millimetres on a single axes: images, words, colour bars and scale bars at their places, and a grid of tiles.

Sixty axes would take seconds to draw, one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from microlatent import figures

HOLE = "#D7E5F5"  # where nothing lies: this pale blue is no value of the latents' map, nor of the markers' greys
GAP_MM, EDGE_MM, TITLE_MM, NAME_MM, LINE_MM = 3.0, 3.0, 7.0, 4.0, 3.6
MAX_TILE_MM = 52.0
TILE_GAP_MM, TILE_TITLE_MM, CAPTION_MM = 1.2, 6.0, 3.6  # of ``Tiles``, which are small


class Panel(NamedTuple):
    """One plane of an image."""

    name: str
    picture: NDArray  # (Y, X) with NaN in holes, or (Y, X, 4) colours
    cell_px: int  # side of one of its cells in pixels of the image
    limits: tuple[float, float] | None = None  # None: no colour bar
    cmap: str = figures.CONTINUOUS


class Sheet:
    """A page in millimetres, y downwards; the title stands in the middle of the ``title_mm`` at its top."""

    def __init__(
        self, width_mm: float, height_mm: float, title: str, left_mm: float = EDGE_MM, title_mm: float = TITLE_MM
    ) -> None:
        self.width, self.height = width_mm, height_mm
        self.fig, self.ax = figures.new(1, 1, width_mm, height_mm)
        self.fig.set_layout_engine(None)
        self.ax.set_position((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.set(xlim=(0, width_mm), ylim=(height_mm, 0), autoscale_on=False)
        self.text(left_mm, title_mm / 2, title, 8, va="center")

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


class Tiles(Sheet):
    """A page of small square images by row and column, with captions above and labels at the left.

    Parameters
    ----------
    tile_mm
        Side of an image in print.
    label_mm
        Room for the rows' labels, at the left.
    caption_every_row
        Captions above each row rather than above the first alone.
    foot_mm
        Room below, for colour bars.
    """

    def __init__(
        self,
        nrows: int,
        ncols: int,
        tile_mm: float,
        label_mm: float,
        title: str,
        caption_every_row: bool = False,
        foot_mm: float = 1.0,
    ) -> None:
        self.tile, self.left, self.nrows = tile_mm, label_mm, nrows
        self.every = caption_every_row
        width = label_mm + ncols * (tile_mm + TILE_GAP_MM)
        captions = (nrows if caption_every_row else 1) * CAPTION_MM
        height = TILE_TITLE_MM + captions + nrows * (tile_mm + TILE_GAP_MM) + foot_mm
        super().__init__(width, height, title, label_mm, TILE_TITLE_MM)

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Return the upper left corner of a tile, mm from that of the figure."""
        x = self.left + column * (self.tile + TILE_GAP_MM)
        return x, TILE_TITLE_MM + CAPTION_MM + row * (self.tile + TILE_GAP_MM + CAPTION_MM * self.every)

    def image(self, row: int, column: int, pixels: NDArray, vmin: float, vmax: float, cmap: str = figures.INTENSITY) -> AxesImage:
        """Show one plane (Y, X)."""
        x, y = self.corner(row, column)
        extent = (x, x + self.tile, y + self.tile, y)
        return self.ax.imshow(pixels, cmap=cmap, vmin=vmin, vmax=vmax, extent=extent, aspect="auto")

    def caption(self, row: int, column: int, text: str) -> None:
        """Write above a tile."""
        x, y = self.corner(row, column)
        self.text(x + self.tile / 2, y - 0.7, text, ha="center", va="bottom")

    def label(self, row: int, text: str) -> None:
        """Write left of a row."""
        self.text(self.left - 1.5, self.corner(row, 0)[1] + self.tile / 2, text, ha="right", va="center")

    def tile_bar(self, num_px: int, pixel_um: float | None) -> None:
        """Draw a scale bar into the first tile, whose image has ``num_px`` columns."""
        self.scale_bar(*self.corner(0, 0), self.tile, self.tile, (num_px, num_px), pixel_um)

    def colour_bar(self, picture: AxesImage, first: int, last: int, label: str, num_ticks: int) -> None:
        """Draw a colour bar below some columns."""
        x0, y = self.corner(self.nrows - 1, first)
        x1 = self.corner(0, last)[0] + self.tile
        top = (y + self.tile + 2.2) / self.height
        axes = self.fig.add_axes((x0 / self.width, 1 - top - 2.0 / self.height, (x1 - x0) / self.width, 2.0 / self.height))
        bar = self.fig.colorbar(picture, cax=axes, orientation="horizontal", label=label)
        bar.outline.set_linewidth(0.4)
        # Ticks at the very ends would run into a neighbouring bar's.
        axes.xaxis.set_major_locator(MaxNLocator(num_ticks, prune="both"))


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
