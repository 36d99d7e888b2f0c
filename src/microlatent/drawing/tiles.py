"""A grid of small images with captions, laid out in millimetres on a single axes (sixty axes would take seconds to draw)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from microlatent import figures

GAP_MM = 1.2
TITLE_MM = 6.0
CAPTION_MM = 3.6


class Tiles:
    """Images by row and column.

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
        self.width = label_mm + ncols * (tile_mm + GAP_MM)
        self.height = TITLE_MM + CAPTION_MM + nrows * (tile_mm + GAP_MM) + (nrows - 1) * CAPTION_MM * caption_every_row + foot_mm
        self.fig, self.ax = figures.new(1, 1, self.width, self.height)
        self.fig.set_layout_engine(None)
        self.ax.set_position((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.set(xlim=(0, self.width), ylim=(self.height, 0), autoscale_on=False)
        self.ax.text(label_mm, TITLE_MM / 2, title, va="center", fontsize=8)

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Return the upper left corner of a tile, mm from that of the figure."""
        x = self.left + column * (self.tile + GAP_MM)
        return x, TITLE_MM + CAPTION_MM + row * (self.tile + GAP_MM + CAPTION_MM * self.every)

    def image(self, row: int, column: int, pixels: NDArray, vmin: float, vmax: float, cmap: str = figures.INTENSITY) -> AxesImage:
        """Show one plane (Y, X)."""
        x, y = self.corner(row, column)
        extent = (x, x + self.tile, y + self.tile, y)
        return self.ax.imshow(pixels, cmap=cmap, vmin=vmin, vmax=vmax, extent=extent, aspect="auto")

    def caption(self, row: int, column: int, text: str) -> None:
        """Write above a tile."""
        x, y = self.corner(row, column)
        self.ax.text(x + self.tile / 2, y - 0.7, text, ha="center", va="bottom", fontsize=6.5)

    def label(self, row: int, text: str) -> None:
        """Write left of a row."""
        self.ax.text(self.left - 1.5, self.corner(row, 0)[1] + self.tile / 2, text, ha="right", va="center", fontsize=6.5)

    def scale_bar(self, num_px: int, pixel_um: float | None) -> None:
        """Draw a scale bar into the first tile, whose image has ``num_px`` columns."""
        x, y = self.corner(0, 0)
        inset = self.ax.inset_axes((x, y, self.tile, self.tile), transform=self.ax.transData)
        inset.set_axis_off()
        inset.set(xlim=(0, num_px), ylim=(num_px, 0))
        figures.scale_bar(inset, pixel_um)

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

    def save(self, path: Path) -> Path:
        """Write the figure and return its path."""
        return figures.save(self.fig, path)
