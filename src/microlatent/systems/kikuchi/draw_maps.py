"""Figures of EBSD scans: values over the map, contact sheets of all latents, patterns beside reconstructions, traversals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_hex
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from microlatent import figures
from microlatent.drawing.sheet import EDGE_MM, GAP_MM, HOLE, NAME_MM, TITLE_MM, Panel, Sheet, tile_size
from microlatent.systems.kikuchi.scans import ScanMap

MAP_MM, TALLEST_MM = 58.0, 120.0  # a map in print
LEFT_MM, RIGHT_MM, TOP_MM, BOTTOM_MM = 13.0, 21.0, 8.0, 10.0  # around it: labels, colour bar, title
FEW_PANELS, TILE_MM = 64, 52.0  # of a contact sheet; more have no room for colour bars and a scale bar
LABEL_MM = 24.0
CHANGE = "RdBu_r"  # of differences, white at none


class Window(NamedTuple):
    """The part of a scan that is drawn, and how long its points are."""

    scan: ScanMap
    columns: slice
    rows: slice
    step_um: tuple[float, float] | None  # distance of neighbouring rows and columns; None where unknown

    @classmethod
    def of(cls, scan: ScanMap, xrange: list[int] | None, yrange: list[int] | None, step_um: tuple[float, float] | None) -> Window:
        """Return the half-open ranges of columns and rows, cut where the map ends."""
        spans = [
            slice(max(0, limits[0]), min(limits[1], length)) if limits else slice(0, length)
            for limits, length in ((xrange, scan.map_shape[1]), (yrange, scan.map_shape[0]))
        ]
        return cls(scan, *spans, step_um)

    def grid(self, values: NDArray) -> NDArray:
        """Lay values (n, ...) of the scan's rows out; (rows, columns, ...) with NaN where there is none."""
        return self.scan.grid(values)[self.rows, self.columns]

    @property
    def shape(self) -> tuple[int, int]:
        """Return rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Return the edges for ``imshow``, map columns and rows."""
        return self.columns.start - 0.5, self.columns.stop - 0.5, self.rows.stop - 0.5, self.rows.start - 0.5

    @property
    def point_um(self) -> float | None:
        """Return the distance of neighbouring columns; None where unknown."""
        return self.step_um and self.step_um[1]

    @property
    def tall(self) -> float:
        """Return height over width, as the specimen has it."""
        down, right = self.step_um or (1.0, 1.0)
        return self.shape[0] * down / (self.shape[1] * right)


def colours(name: str, bad: str) -> Colormap:
    """Return a colour map with a colour for points where nothing is known.

    Raises
    ------
    ValueError
        There is no such colour map or colour.
    """
    if name not in matplotlib.colormaps:
        raise ValueError(f"task.cmap is {name!r}, but matplotlib has no such colour map. Try viridis, cividis, gray or RdBu_r.")
    try:
        return matplotlib.colormaps[name].with_extremes(bad=bad)
    except ValueError as error:
        raise ValueError(f"task.bad_color is {bad!r}, which is no colour. Try white, black, or #RRGGBB.") from error


def show_map(ax: Axes, picture: NDArray, window: Window, **look: object) -> AxesImage:
    """Show a map, (rows, columns) of values or (rows, columns, 3) of colours, with its axes and its scale bar."""
    shown = ax.imshow(picture, extent=window.extent, aspect="auto", **look)
    ax.set(xlabel="x (map column)", ylabel="y (map row)")
    figures.few_ticks(ax, 4, integer=True)
    ax.yaxis.get_major_locator().set_params(integer=True)
    figures.scale_bar(ax, window.point_um, pixel="points")
    return shown


def draw_map(
    picture: NDArray, window: Window, limits: tuple[float, float], cmap: Colormap, label: str, title: str, path: Path
) -> Path:
    """Draw one map with its colour bar; what lies beyond the limits is said by the bar's ends."""
    wide = min(MAP_MM, TALLEST_MM / window.tall)
    tall = wide * window.tall
    width, height = LEFT_MM + wide + RIGHT_MM, BOTTOM_MM + tall + TOP_MM
    fig, ax = figures.new(1, 1, width, height)
    fig.set_layout_engine(None)
    ax.set_position((LEFT_MM / width, BOTTOM_MM / height, wide / width, tall / height))
    shown = show_map(ax, picture, window, cmap=cmap, vmin=limits[0], vmax=limits[1])
    fig.text(LEFT_MM / width, 1 - 0.5 * TOP_MM / height, title + missing(picture, cmap), va="center", fontsize=7.5)
    known = picture[np.isfinite(picture)]
    beyond = bool((known < limits[0]).any()), bool((known > limits[1]).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    bar = fig.colorbar(
        shown,
        cax=fig.add_axes(((LEFT_MM + wide + 3) / width, BOTTOM_MM / height, 2.8 / width, tall / height)),
        label=label,
        extend=extend,
    )
    bar.outline.set_linewidth(0.4)
    return figures.save(fig, path)


def missing(picture: NDArray, cmap: Colormap) -> str:
    """Return what the title adds where points have no value."""
    if np.isfinite(picture).all():
        return ""
    colour = to_hex(cmap.get_bad())
    return f" ({({'#ffffff': 'white', '#000000': 'black', HOLE.lower(): 'pale blue'}).get(colour, colour)}: no value)"


def draw_contact(
    pictures: Iterable[NDArray],
    names: Sequence[str],
    limits: Sequence[tuple[float, float]],
    window: Window,
    cmap: Colormap,
    title: str,
    path: Path,
) -> Path:
    """Draw many maps of one scan side by side, each on its own scale of colour, whose ends stand below it if there is room."""
    num, bars = len(names), len(names) <= FEW_PANELS
    if not bars:
        size, unit = window.shape[1] * (window.point_um or 1), figures.UNITS["um"] if window.point_um else "points"
        title += f"; {size:g} {unit} wide"
    columns = min(num, 4 if num <= 16 else 8 if num <= FEW_PANELS else 16)
    gap = GAP_MM if bars else 1.0
    width = min(TILE_MM, (figures.PAGE_MM - 2 * EDGE_MM + gap) / columns - gap, 1.4 * TILE_MM / window.tall)
    height = width * window.tall
    row_mm = (NAME_MM + height + 6.0) if bars else (2.8 + height)
    sheet = Sheet(figures.PAGE_MM, TITLE_MM + -(-num // columns) * row_mm, title)
    for place, (picture, name, limit) in enumerate(zip(pictures, names, limits, strict=True)):
        x, y = EDGE_MM + place % columns * (width + gap), TITLE_MM + place // columns * row_mm + (NAME_MM if bars else 2.4)
        panel = Panel(name, picture, 1, limit, cmap)
        sheet.text(x, y - (0.8 if bars else 0.3), name, 6.5 if bars else 4.5, va="bottom")
        sheet.picture(x, y, width, height, panel, picture.shape)
        if bars:
            sheet.bar(x, y + height + 0.8, width, panel)
        if bars and not place:
            sheet.scale_bar(x, y, width, height, window.shape, window.point_um, "points")
    return sheet.save(path)


def draw_reconstructions(inputs: NDArray, outputs: NDArray, names: Sequence[str], unit: str, path: Path) -> Path:
    """Draw patterns (P, Y, X), what the model makes of them, and the difference.

    One grey scale holds for all patterns and reconstructions, one for all differences.

    Parameters
    ----------
    unit
        Of the pixels.
    """
    limits, change = figures.limits(np.concatenate([inputs, outputs])), outputs - inputs
    bound = max(abs(value) for value in figures.limits(change))
    shape = inputs.shape[1:]
    width, height = tile_size(shape, max(4, len(names)), figures.PAGE_MM - 2 * EDGE_MM - LABEL_MM)
    width, height = (min(1.0, 32.0 / width) * side for side in (width, height))
    row_mm = height + 1.5
    top = TITLE_MM + 2 * NAME_MM
    across = max(EDGE_MM + LABEL_MM + len(names) * (width + GAP_MM), 140.0)
    sheet = Sheet(across, top + 3 * row_mm + 12.0, "Patterns and their reconstruction, from best to worst of those shown")
    looks = [(limits, figures.INTENSITY), (limits, figures.INTENSITY), ((-bound, bound), CHANGE)]
    words = ("input", "reconstruction", "reconstruction\n\u2212 input")
    for row, (word, planes, (limit, cmap)) in enumerate(zip(words, (inputs, outputs, change), looks, strict=True)):
        y = top + row * row_mm
        sheet.text(EDGE_MM, y + height / 2, word, 7, va="center")
        for place, plane in enumerate(planes):
            x = EDGE_MM + LABEL_MM + place * (width + GAP_MM)
            sheet.picture(x, y, width, height, Panel(names[place], plane, 1, limit, cmap), shape)
            if not row:
                sheet.text(x, y - 0.8, names[place], 6, va="bottom")
    y = top + 3 * row_mm + 1.5
    for place, (limit, cmap) in enumerate(looks[1:]):
        x = EDGE_MM + LABEL_MM + place * 58.0
        sheet.bar(x, y, 36.0, Panel("", inputs[0], 1, limit, cmap))
        sheet.text(x, y + 5.0, ("intensity", "difference")[place] + f" ({unit})", 6, va="top")
    return sheet.save(path)


def draw_traversals(patterns: NDArray, names: Sequence[str], steps: NDArray, unit: str, path: Path) -> Path:
    """Draw patterns (R, S, Y, X) decoded along each of R dimensions, all others at their mean, on one grey scale.

    Parameters
    ----------
    steps
        (S,) distance from the mean, in standard deviations of the dimension.
    """
    limits, shape = figures.limits(patterns), patterns.shape[2:]
    width, height = tile_size(shape, len(steps), 150.0)
    width, height = (min(1.0, 22.0 / width) * side for side in (width, height))
    row_mm, top = height + 1.5, TITLE_MM + NAME_MM
    across = EDGE_MM + LABEL_MM + len(steps) * (width + 1.5) + EDGE_MM
    sheet = Sheet(across, top + len(names) * row_mm + 12.0, "Patterns decoded along latents, the other dimensions at their mean")
    for row, (name, line) in enumerate(zip(names, patterns, strict=True)):
        y = top + row * row_mm
        sheet.text(EDGE_MM, y + height / 2, name, 6.5, va="center")
        for place, (plane, step) in enumerate(zip(line, steps, strict=True)):
            x = EDGE_MM + LABEL_MM + place * (width + 1.5)
            sheet.picture(x, y, width, height, Panel(name, plane, 1, limits, figures.INTENSITY), shape)
            if not row:
                word = "mean" if step == 0 else f"{step:+g} sd".replace("-", "\u2212")
                sheet.text(x + width / 2, y - 0.8, word, 6, va="bottom", ha="center")
    y, x = top + len(names) * row_mm + 1.5, EDGE_MM + LABEL_MM
    sheet.bar(x, y, 36.0, Panel("", patterns[0, 0], 1, limits, figures.INTENSITY))
    sheet.text(x, y + 5.0, f"intensity ({unit})", 6, va="top")
    return sheet.save(path)
