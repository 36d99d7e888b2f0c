"""What a report shows of the tasks on tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microlatent.report.blocks import Table, with_interval
from microlatent.report.pictures import Album
from microlatent.report.reading import read_csv


def prediction(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Outcome predicted from the latents, beside the markers' means."""
    path = folder / "tables" / "prediction.csv"
    if not path.is_file():
        return [], set()
    table = read_csv(path)
    rows = table[["features", "subjects"]].copy()
    rows["AUC"] = with_interval(table["auc"], table["auc_lo"], table["auc_hi"])
    rows["p (permutation)"] = table["p_permutation"]
    if "balanced_accuracy" in table:
        names = [f"balanced_accuracy{end}" for end in ("", "_lo", "_hi")]
        rows["balanced accuracy"] = with_interval(*(table[name] for name in names))
    caption = "Outcome predicted by cross-validation over subjects, with 95 % intervals; the last row is a paired difference"
    difference = table["features"].astype(str).str.contains(" less ").any()
    return [Table.of(rows, caption if difference else caption.partition(";")[0])], {path.name}
