"""What tasks left below a run, a section each: the known ones with their main table first, unknown ones by what lies there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from microlatent.report import plots
from microlatent.report.blocks import Cell, Code, Facts, Folded, Grid, Note, Picture, Section, Table
from microlatent.report.pictures import Album
from microlatent.report.reading import Record, folded_tables, guarded, read_csv, read_json
from microlatent.report.values import NONE, label, number, plural, seconds, signed

TITLES = {
    "embed": "Embedding and probes",
    "maps": "Latent maps",
    "cluster": "Clusters",
    "associate": "Associations",
    "outcome": "Outcome prediction",
    "match": "Trajectories",
    "reconstruct": "Full-size reconstructions",
    "bandcontrast": "Band contrast",
    "predict": "Predictions",
    "evaluate": "Evaluation",
    "segment": "Segmentation",
    "process": "Latents",
    "deployment": "Deployment",
    "compare": "Comparison",
}
FEW = 8  # numbers shown at once
MAX_FIGURES = 16  # of a task
SIGNIFICANT = 0.05


def task_sections(folder: Path, root: Path, album: Album) -> Iterator[Section]:
    """Yield the section of a task's folder."""
    title = TITLES.get(folder.name, folder.name.replace("_", " ").capitalize())
    yield from guarded(title, f"task-{folder.name}", lambda: task_section(folder, root, album, title))


def task_section(folder: Path, root: Path, album: Album, title: str) -> Section | None:
    """Return what a task's folder shows: its state if it did not finish, warnings, main results, figures, tables, numbers."""
    record = Record(folder)
    blocks: list[Any] = list(record.problems)
    if record.state not in ("completed", "unknown"):
        why = record.status.get("reason")
        blocks.append(Note(f"This task is {record.state}{': ' + str(why) if why else '.'}", "warning"))
    blocks += [Note(line, "warning") for line in record.log_lines("WARNING")]
    used: set[str] = set()
    if folder.name in MAIN:
        main, used = MAIN[folder.name](folder, album)
        blocks += main
    skip = {"scatter_*", "probes.png"} if folder.name == "embed" and (folder / "latents.h5ad").is_file() else set()
    pictures, left = figures_and_rest(folder, album, skip)
    blocks += [Grid(pictures)] if len(pictures) > 1 else pictures
    if left:
        blocks.append(Note(f"{plural(left, 'further figure')} in {folder.relative_to(root).as_posix()}/."))
    blocks += folded_tables([path for path in sorted((folder / "tables").glob("*.csv")) if path.name not in used], folder)
    numbers = [(label(key), number(value)) for key, value in record.metrics.items()]
    if numbers:
        blocks.append(Facts(numbers) if len(numbers) <= FEW else Folded(f"All {len(numbers)} numbers", [Facts(numbers)]))
    spent = record.status.get("seconds")
    lead = f"From {folder.name}/{', made in ' + seconds(spent) if isinstance(spent, int | float) else ''}."
    return Section(f"task-{folder.name}", title, blocks, lead) if blocks else None


def figures_of(folder: Path, album: Album, skip: set[str] = frozenset()) -> list[Picture]:
    """Return the figures of a folder as pictures, the first few."""
    return figures_and_rest(folder, album, skip)[0]


def figures_and_rest(folder: Path, album: Album, skip: set[str] = frozenset()) -> tuple[list[Picture], int]:
    """Return the first figures of a folder (in ``figures/`` or below it; else one deeper) and how many there are beside."""
    found = sorted((folder / "figures").glob("*.png")) + sorted(folder.glob("*.png"))
    deeper = sorted(path for path in folder.glob("*/*.png") if path.parent.name not in ("figures", "wandb"))
    own = not (folder / "checkpoints").is_dir()  # below a training run the folders are the tasks', with sections of their own
    found += deeper if own and not found else []
    kept = [path for path in found if not any(path.match(pattern) for pattern in skip)]
    rest = len(kept[MAX_FIGURES:]) + (len(deeper) if own and deeper and deeper[0] not in found else 0)
    names = [words(path, folder) for path in kept[:MAX_FIGURES]]
    return [album.add(path, f"Figure {name}.", name) for path, name in zip(kept, names, strict=False)], rest


def words(path: Path, within: Path) -> str:
    """Return a figure's file name in words, after the folder that it is alone in: of a subject, for example."""
    if path.parent not in (within, within / "figures"):
        return f"{path.parent.name} {path.stem}".replace("_", " ")
    return path.stem[:1].upper() + path.stem[1:].replace("_", " ")


# ------------------------------------------------------------------------- main results: blocks, and the tables shown


def embed(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Probes: how well a column is predicted from the latents, beside principal components of the pixels."""
    path = folder / "tables" / "probes.csv"
    if not path.is_file():
        return [], set()
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
    return [plot, Table.of(rows, caption)], {path.name}


def with_interval(values: Any, lows: Any, highs: Any) -> list[Cell]:
    """Return "0.93 [0.91, 0.95]" for every row, sorted by its first number."""
    rows = zip(values, lows, highs, strict=True)
    texts = [f"{two(v)} [{two(low)}, {two(high)}]" if low == low else two(v) for v, low, high in rows]
    return [Cell(text, float(value)) for text, value in zip(texts, values, strict=True)]


def two(value: float) -> str:
    """Return a number with two decimals and a true minus sign."""
    return signed(f"{round(value, 2) + 0.0:.2f}") if value == value else NONE


def cluster(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Clusters with their sizes and how firm they are."""
    path = folder / "tables" / "clusters.csv"
    if not path.is_file():
        return [], set()
    table = read_csv(path).drop(columns="colour", errors="ignore")
    caption = (
        "Clusters: size, silhouette, and stability under resampling (Jaccard index; below 0.6 a cluster is not to be trusted)"
    )
    return [Table.of(table, caption)], {path.name}


def associate(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
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
    said = [read_json(one) for one in sorted(folder.glob("*/report_*.json"))]
    tested = list(
        dict.fromkeys(str(one["null_hypothesis"]) for one in said if isinstance(one, dict) and "null_hypothesis" in one)
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


METRICS = ("pearson", "spearman", "kendall", "dcorr", "dcorr_corrected", "hsic", "nhsic", "pp_spatial", "ari", "nmi")


def outcome(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
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


def match(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
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


def compare(folder: Path, album: Album) -> tuple[list[Any], set[str]]:
    """Return what the comparison concluded, in its own sentences, and its account as text."""
    blocks: list[Any] = [Note(line) for line in Record(folder).log_lines("INFO")]
    text = folder / "tables" / "compare.md"
    if text.is_file():
        blocks.append(Folded("The whole comparison as text", [Code(text.read_text(encoding="utf-8"), "Comparison")]))
    return blocks, set()


MAIN: dict[str, Callable[[Path, Album], tuple[list[Any], set[str]]]] = {
    "embed": embed,
    "cluster": cluster,
    "associate": associate,
    "outcome": outcome,
    "match": match,
    "compare": compare,
}
