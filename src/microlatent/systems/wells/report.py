"""What a report shows of the tasks on time lapses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microlatent.report.blocks import Note
from microlatent.report.pictures import Album
from microlatent.report.reading import read_csv
from microlatent.report.values import plural, two


def trajectories(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Whether a cell stays nearer to itself in latent space than to others."""
    path = folder / "tables" / "steps.csv"
    if not path.is_file():
        return [], set()
    row = read_csv(path).iloc[0]
    text = (
        f"From one frame to the next a cell moves {two(float(row['ratio']))} times as far in latent space as between random "
        f"cells (95 % interval {two(float(row['ratio_lo']))} to {two(float(row['ratio_hi']))}; "
        f"{plural(int(row['num_tracks']), 'trajectory')}, {plural(int(row['num_steps']), 'step')})."
    )
    return [Note(text)], {path.name}
