"""What a report shows of the tasks that work on every kind of data: their main results, before figures and other tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microlatent.record import Record
from microlatent.report import plots
from microlatent.report.blocks import Code, Folded, Note, Table, with_interval
from microlatent.report.pictures import Album
from microlatent.report.reading import read_csv
from microlatent.report.values import label, number


def embedding(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Probes: how well a column is predicted from the latents, beside principal components of the pixels."""
    path = folder / "tables" / "probes.csv"
    drawn = {"scatter_*", "probes.png"} if (folder / "latents.h5ad").is_file() else set()  # by the page itself
    if not path.is_file():
        return [], drawn
    table = read_csv(path)
    import pandas as pd

    names, series = [label(str(name)) for name in table["column"]], []
    rows = pd.DataFrame({"predicted": names})
    for source, title in (("latent", "latents"), ("pca_pixels", "PCA of the pixels")):
        score = f"r2_{source}"
        if score not in table:
            continue
        low, high = table[f"lo_{source}"], table[f"hi_{source}"]
        rows[f"R\N{SUPERSCRIPT TWO}, {title}"] = with_interval(table[score], low, high)
        series.append((title, list(table[score]), list(low), list(high)))
        if f"p_holm_{source}" in table:
            rows[f"p, {title}"] = table[f"p_holm_{source}"]
    if "difference" in table:
        rows["difference"] = with_interval(table["difference"], table["lo_difference"], table["hi_difference"])
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{title} {number(v[i])}" for title, v, _, _ in series) for i, name in enumerate(names)
    )
    plot = plots.intervals(names, series, "cross-validated R\N{SUPERSCRIPT TWO}", "probes", f"Probes. {alt}.")
    caption = (
        "Cross-validated R\N{SUPERSCRIPT TWO} of linear probes, 95 % intervals over groups; p by permutation, Holm's correction"
    )
    return [plot, Table.of(rows, caption)], {path.name, *drawn}


def clusters(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Clusters with their sizes and how firm they are."""
    path = folder / "tables" / "clusters.csv"
    if not path.is_file():
        return [], set()
    table = read_csv(path).drop(columns="colour", errors="ignore")
    caption = (
        "Clusters: size, silhouette, and stability under resampling (Jaccard index; below 0.6 a cluster is not to be trusted)"
    )
    return [Table.of(table, caption)], {path.name}


def comparison(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Return what the comparison concluded, in its own sentences, and its account as text."""
    blocks: list[Any] = [Note(line) for line in Record(folder).log_lines("INFO")]
    text = folder / "tables" / "compare.md"
    if text.is_file():
        blocks.append(Folded("The whole comparison as text", [Code(text.read_text(encoding="utf-8"), "Comparison")]))
    return blocks, set()
