"""The map of a plate: its wells in rows and columns, what was imaged of each, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from microlatent import figures
from microlatent.data.io.ome_zarr.plate import Plate
from microlatent.data.io.paths import natural
from microlatent.systems.plates.fields import Field

LABELLED = 200  # wells that are small in print carry no numbers


def draw_map(plate: Plate, fields: Sequence[Field], table: pd.DataFrame, path: Path) -> Path:
    """Draw a plate's wells coloured by the foreground of the last channel, with their numbers of fields; gaps are hatched."""
    listed = {word.removeprefix("the well ") for word in plate.missing if word.startswith("the well ")}
    names = sorted({field.well for field in fields} | listed, key=natural)
    places = {name: name.rpartition("/") for name in names}
    rows = sorted({place[0] for place in places.values()}, key=natural)
    columns = sorted({place[2] for place in places.values()}, key=natural)
    channel = table["channel"].iloc[-1]
    share = table[table["channel"] == channel].groupby("well")["foreground"].mean()
    gaps = table.groupby("well")["missing_frames"].sum()
    count = pd.Series([field.well for field in fields]).value_counts()
    values = np.full((len(rows), len(columns)), np.nan)
    for well, (row, _, column) in places.items():
        values[rows.index(row), columns.index(column)] = share.get(well, np.nan)
    width = float(np.clip(20 + 11 * len(columns), 60, figures.PAGE_MM))
    fig, ax = figures.new(width_mm=width, height_mm=float(np.clip(26 + 9 * len(rows), 46, 200)))
    shown = ax.imshow(values, cmap=figures.CONTINUOUS, vmin=0, vmax=max(1e-6, float(np.nanmax(values, initial=0.0))))
    for well, (row, _, column) in places.items():
        y, x = rows.index(row), columns.index(column)
        if well in listed or gaps.get(well, 0):
            colour = figures.GREY if well in listed else "white"
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", edgecolor=colour, linewidth=0))
        if len(places) <= LABELLED:
            text = "absent" if well in listed else str(count.get(well, 0))
            light = values[y, x] > 0.6 * np.nanmax(values, initial=0.0)
            ax.text(x, y, text, ha="center", va="center", fontsize=6, color="black" if light or well in listed else "white")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), [row or "-" for row in rows])
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    bar = fig.colorbar(shown, ax=ax, label=f"foreground share\nof {channel}", aspect=25, pad=0.02)
    bar.outline.set_linewidth(0.4)
    hatched = "" if not (listed or gaps.sum()) else "; hatched: absent, or frames lack chunks"
    ax.set_title(f"{plate.name}: fields per well{hatched}")
    return figures.save(fig, path)
