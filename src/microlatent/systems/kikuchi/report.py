"""What a report shows of the tasks on scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microlatent.report.blocks import Folded, Grid, Note, Picture, Table
from microlatent.report.pictures import Album
from microlatent.report.reading import read_csv, read_json

SIGNIFICANT = 0.05
METRICS = ("pearson", "spearman", "kendall", "dcorr", "dcorr_corrected", "hsic", "nhsic", "pp_spatial", "ari", "nmi")


def associations(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Strongest association of every target with the latents, beside the baselines, and what the significance stands on."""
    path = folder / "tables" / "associations.csv"
    if not path.is_file():
        return [], set()
    table = read_csv(path)
    metric = "pearson" if "pearson" in table else next(name.removeprefix("q_") for name in table if name.startswith("q_"))
    rows = []
    for (scan, target, source), part in table.groupby(["scan", "target", "source"], sort=False):
        part = part[part[metric].notna()]
        if not len(part):
            continue
        best = part.loc[part[metric].abs().idxmax()]
        # The dimension with the largest r need not be the one with the smallest q: both are said.
        rows.append(
            {"scan": scan, "target": target, "of": str(source).replace("_", " "), "dimension": best["dim"], metric: best[metric]}
            | {
                f"q_{metric}": best[f"q_{metric}"],
                "significant": f"{int((part[f'q_{metric}'] < SIGNIFICANT).sum())} of {len(part)}",
            }
        )
    import pandas as pd

    names = {metric: "Pearson's r" if metric == "pearson" else metric, f"q_{metric}": "q", "significant": f"q < {SIGNIFICANT}"}
    main = Table.of(pd.DataFrame(rows), "Strongest association of each target, latents beside baselines", labels=names)
    reports = [read_json(one) for one in sorted(folder.glob("*/report_*.json"))]
    tested = list(
        dict.fromkeys(str(one["null_hypothesis"]) for one in reports if isinstance(one, dict) and "null_hypothesis" in one)
    )
    notes = [Note(f"What q tests: {sentence}") for sentence in tested]
    first = ["scan", "target", "source", "dim", metric, f"q_{metric}"]
    top = table[[*first, *(name for name in table if name in METRICS and name not in first)]].sort_values(f"q_{metric}")
    pairs = strongest(folder, table[table["source"] == "latent"], metric, album)
    more = [Folded("Strongest latent of each target, beside it", [Grid(pairs)])] if pairs else []
    return [main, *notes, *more, Folded("All associations, by q", [Table.of(top, limit=100)])], {path.name}


def strongest(folder: Path, table: Any, metric: str, album: Album) -> list[Picture]:
    """Return for every target the figure of the latent that goes with it most, where one was drawn."""
    found = []
    for target, part in table[table[metric].notna()].groupby("target", sort=False):
        for dim in part.loc[part[metric].abs().sort_values(ascending=False).index, "dim"]:
            drawn = sorted((folder / str(target)).glob(f"latent_vs_*_d{dim}_*.png"))
            if drawn:
                found.append(album.add(drawn[0], f"Map of latent {dim} beside {target}.", f"Latent {dim} and {target}"))
                break
    return found
