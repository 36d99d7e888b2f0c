"""The page about one run: its head, what deserves attention, how it was trained, and what tasks made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microlatent import run
from microlatent.metrics import metric
from microlatent.record import Record
from microlatent.report import plots
from microlatent.report.blocks import Facts, Folded, Grid, Note, Section, Table, plain
from microlatent.report.latents import read_points
from microlatent.report.origin import origin, uncommitted
from microlatent.report.pictures import Album
from microlatent.report.reading import folded_tables, guarded, problem_notes, read_csv, result_folders
from microlatent.report.task_sections import figures_of, task_sections
from microlatent.report.values import PARTS, moment, number, plural, seconds
from microlatent.sweeps import sweep

LATENTS = ("embed", "cluster", "process")  # the folder whose table knows most comes first


def run_title(path: Path) -> str:
    """Return what a run is called: experiment and time, or what tells it from its siblings in a sweep."""
    label = sweep.label(path) if sweep.of_job(path) else ""
    return f"Job {path.name}: {label or 'the only one'}" if sweep.of_job(path) else f"{path.parent.name} / {path.name}"


def run_head(record: Record) -> tuple[str, list[Any]]:
    """Return the summary line and the numbers at the head."""
    metrics, monitor = record.metrics, str(record.get("trainer", "monitor") or "total")
    part = next((p for p in ("val", "train") if f"best_{p}_{monitor}" in metrics), None)
    score = f"{PARTS[part]} {metric(monitor).title}" if part else metric(monitor).title
    model, data, task = (record.get(group, "name") for group in ("model", "data", "task"))
    what = f"{model} on {data}" if model and data else str(task or "run") + (f" of {data}" if data else "")
    begun = moment(record.status.get("started") or record.provenance.get("time"))
    line = f"{what}{', begun ' + begun if begun else ''}."
    if "best_score" in metrics:
        line += f" Best {score} {number(metrics['best_score'])} at epoch {number(metrics.get('best_epoch'))}."
    items = [("best " + score, number(metrics.get("best_score"))), ("best epoch", _of(metrics, "best_epoch", "epochs"))]
    if record.state != "completed" and record.status.get("epoch"):
        wanted = record.get("trainer", "epochs")
        items.append(("epochs done", f"{number(record.status['epoch'])}{f' of {number(wanted)}' if wanted else ''}"))
    for name, total in (("codes_used", record.get("model", "num_codes")), ("active_units", record.get("model", "latent_dim"))):
        value = metrics.get(f"best_val_{name}", metrics.get(f"best_train_{name}"))
        if value is not None:
            items.append((metric(name).title, f"{number(value)} of {number(total)}" if total else number(value)))
    explained = metrics.get("val_explained_variance", metrics.get("best_val_explained_variance"))
    items.append(("validation explained variance", number(explained)))
    items += [("parameters", number(metrics.get("parameters"))), ("training time", seconds(metrics.get("seconds")))]
    shown = [(term, value) for term, value in items if value != number(None)]
    return line, [Facts(shown, large=True)] if shown else []


def _of(metrics: dict[str, float], name: str, total: str) -> str:
    if name not in metrics:
        return number(None)
    return f"{number(metrics[name])} of {number(metrics[total])}" if total in metrics else number(metrics[name])


def attention(record: Record) -> Section | None:
    """Return what a reader must know before believing the rest; None where there is nothing."""
    notes, state = problem_notes(record), record.state
    why = str(record.status.get("reason") or "")
    if state in ("failed", "lost", "interrupted", "pruned"):
        tone = "error" if state in ("failed", "lost") else "warning"
        reached = f" in epoch {record.status['epoch']}" if record.status.get("epoch") else ""
        detail = "\n".join(record.log_tail(30)) if state == "failed" else ""
        words = f"The run {'is' if state == 'lost' else 'was'} {state}" if state != "failed" else "The run failed"
        notes.append(Note(f"{words}{reached}{': ' + why if why else '.'}", tone, detail))
        if record.config and run.can_continue(record.path) and not sweep.of_job(record.path):
            notes.append(Note(f"To go on: python train.py resume={record.path}"))
    elif state in ("running", "pending"):
        reached = f"epoch {record.status['epoch']}" if record.status.get("epoch") else "its start"
        notes.append(Note(f"The run is still {state}; this page shows it up to {reached}.", "warning"))
    elif state is None:
        notes.append(Note("The folder has no status.json: its run may not have begun, or was made by something else.", "warning"))
    if changed := uncommitted(record.provenance.get("git") or {}):
        notes.append(Note(f"The code was not as committed: {changed}. Its commit alone does not reproduce this run.", "warning"))
    notes += [Note(words, "warning") for words in dead_parts(record)]
    notes += [Note(line, "warning") for line in record.log_lines("WARNING")]
    return Section("attention", "Attention", notes) if notes else None


def dead_parts(record: Record) -> list[str]:
    """Return sentences about codes that no patch uses and dimensions that the posterior leaves at the prior."""
    metrics, found = record.metrics, []
    for name, size, words in (
        ("codes_used", "num_codes", "codes of the codebook are used by no patch"),
        ("active_units", "latent_dim", "latent dimensions are inactive (collapsed onto the prior)"),
    ):
        total = record.get("model", size)
        part = next((p for p in ("train", "val") if f"best_{p}_{name}" in metrics), None)
        if part and isinstance(total, int) and metrics[f"best_{part}_{name}"] < total:
            dead = total - round(metrics[f"best_{part}_{name}"])
            found.append(f"{dead} of {total} {words} of the {PARTS[part]} part at the best epoch.")
    return found


# --------------------------------------------------------------------------------------------------------- training


def training(record: Record) -> Section | None:
    """Return the curves of all loss parts; health has its own section."""
    path = record.path / "history.csv"
    if not path.is_file():
        return None
    history, best = read_csv(path), record.metrics.get("best_epoch")
    curves = [plots.curve(history, term, best) for term in terms(history) if metric(term).kind != "health"]
    rate = [plots.rate(history)] if "lr" in history and history["lr"].nunique() > 1 else []
    speed = f" {seconds(float(history['seconds'].median()))} an epoch." if "seconds" in history else ""
    blocks: list[Any] = [Grid(curves + rate, "small", plots.LEGEND, scale=True)]
    blocks.append(Folded("All epochs as a table", [Table.of(history)]))
    return Section("training", "Training curves", blocks, f"{plural(len(history), 'epoch')}.{speed}")


def terms(history: Any) -> list[str]:
    """Return the loss parts and health numbers of a history, in its order."""
    return list(dict.fromkeys(name.split("_", 1)[1] for name in history if name.startswith(("train_", "val_"))))


def health(record: Record) -> Section | None:
    """Return how much of the codebook or of the latent space is in use."""
    path = record.path / "history.csv"
    if not path.is_file():
        return None
    history, best, blocks = read_csv(path), record.metrics.get("best_epoch"), []
    ceilings = {"codes_used": record.get("model", "num_codes"), "active_units": record.get("model", "latent_dim")}
    curves = [plots.curve(history, term, best, ceilings.get(term)) for term in terms(history) if metric(term).kind == "health"]
    if curves:
        blocks.append(Grid(curves, "small", plots.LEGEND))
    for part in ("val", "train"):
        table = record.path / f"history_{part}_kl_per_dimension.csv"
        if table.is_file():
            blocks.append(plots.kl_map(read_csv(table), PARTS[part]))
            break
    if not blocks:
        return None
    is_book = any("codes_used" in name for name in history)
    title = "Codebook health" if is_book else "Health of the latent dimensions"
    lead = (
        "In a healthy codebook most codes are in use, and the perplexity (codes, were all used evenly) is a fair part of them."
        if is_book
        else "A dimension carries information where its KL divergence from the prior is well above zero."
    )
    return Section("health", title, blocks, lead)


def reconstructions(record: Record, album: Album) -> Section | None:
    """Return held-out samples beside what the model makes of them, and how that came about where epochs were drawn."""
    blocks = []
    for name, words in (
        ("reconstructions", "Held-out patches and, below each, their reconstructions, channel by channel."),
        ("predictions", "Held-out samples: the input's channels, then each target above its prediction."),
    ):
        path = record.path / "figures" / f"{name}.png"
        if path.is_file():
            blocks.append(album.add(path, words))
    epochs = sorted((record.path / "figures" / "epochs").glob("*.png"))
    if epochs:
        chosen = [epochs[round(i * (len(epochs) - 1) / 3)] for i in range(4)] if len(epochs) > 4 else epochs
        drawn = [album.add(one, f"One held-out patch and its reconstruction, {one.stem}.", one.stem) for one in chosen]
        blocks.append(Folded("One patch over the epochs", [Grid(drawn)]))
    predicts = (record.path / "figures" / "predictions.png").is_file()
    return Section("reconstructions", "Predictions" if predicts else "Reconstructions", blocks) if blocks else None


def latent_space(record: Record, max_points: int) -> Section | None:
    """Return the scatter plot of the latents, from the folder whose table knows most about them."""
    tables = [record.path / name / "latents.h5ad" for name in LATENTS]
    found = next((path for path in (tables[0], tables[2], tables[1]) if path.is_file()), None)
    if found is None:
        return None
    clusters = tables[1] if tables[1].is_file() and tables[1] != found else None
    seed = record.get("seed")
    points = read_points(found, max_points, seed if isinstance(seed, int) else 0, clusters)
    source = found.relative_to(record.path).as_posix()
    return Section("latents", "Latent space", [plots.scatter(points)], f"From {source}.")


def sections(record: Record, album: Album, max_points: int) -> Iterator[Section]:
    """Yield the sections of the page in the order in which they are read."""
    yield from guarded("Attention", "attention", lambda: attention(record))
    yield from guarded("What was run", "origin", lambda: origin(record))
    yield from guarded("Training curves", "training", lambda: training(record))
    yield from guarded("Health", "health", lambda: health(record))
    yield from guarded("Reconstructions", "reconstructions", lambda: reconstructions(record, album))
    yield from guarded("Latent space", "latents", lambda: latent_space(record, max_points))
    yield from guarded("Results", "results", lambda: own_results(record, album))
    yield from task_sections(result_folders(record.path), record.path, album)
    yield from guarded("Numbers", "numbers", lambda: final_numbers(record))


def own_results(record: Record, album: Album) -> Section | None:
    """Return figures and tables that lie in the run's own folder beside those that training leaves."""
    pictures = figures_of(record.path, album, skip={"history.png", "reconstructions.png", "predictions.png"})
    blocks = pictures + folded_tables(sorted((record.path / "tables").glob("*.csv")), record.path)
    return Section("results", "Results", blocks) if blocks else None


def final_numbers(record: Record) -> Section | None:
    """Return all numbers that the run ended with."""
    metrics = {key: value for key, value in record.metrics.items() if plain(value) is not None}
    if not metrics:
        return None
    return Section("numbers", "All final numbers", [Facts([(key, number(value)) for key, value in metrics.items()])])
