"""``task=report``: one HTML page about a run or a sweep, which opens from disk without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microlatent.files import write_text
from microlatent.record import is_sweep
from microlatent.report import page
from microlatent.results import Preflight
from microlatent.schemas import Settings

PAGE = "report.html"


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Write the page; return its size."""
    text = page.render(Path(settings.run), settings.task.max_points, settings.task.max_image_px)
    write_text(text, out / PAGE)
    return {"page_mb": round(len(text.encode()) / 1e6, 2)}


def preflight(settings: Settings, out: Path) -> Preflight:
    """Say what would be read and written."""
    folder = Path(settings.run)
    kind = "sweep" if is_sweep(folder) else "run"
    return Preflight(
        reads=[f"{folder} ({kind})"], writes=[str(out / PAGE)], memory_mb=300, disk_mb=page.MAX_BYTES / 1e6, seconds=5
    )
