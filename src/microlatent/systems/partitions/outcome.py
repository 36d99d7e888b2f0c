"""Relate the latents of subjects to their treatment outcome: predict it for subjects held out, and show what goes with it.

Reads the latents table of ``task=process`` and a CSV of outcomes. Prediction: each subject is summarised by its latents, and a
logistic regression tells the outcomes of subjects that it has not seen; the same from the means of the markers alone. Images:
what the latents of either outcome decode to, the way from one to the other, and the real partitions that are typical of each.
Writes ``tables/`` (prediction, subjects, marker_differences, nearest) and ``figures/``. The decoder runs on the CPU.

The autoencoder has seen the pixels of its training subjects (column ``part`` of subjects.csv), but no outcome: neither has the
summary of the latents. Only the regression sees outcomes, and only those of the subjects that it is not tested on.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from microlatent.analysis.statistics import interval
from microlatent.contract import lacking
from microlatent.data.latents import Patches, open_latents
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.partitions import draw_outcome as drawing
from microlatent.systems.partitions import prediction as analysis
from microlatent.systems.partitions import subjects
from microlatent.systems.partitions.outcome_input import NUM_PATHS, OutcomeInput, Space
from microlatent.systems.partitions.outcomes import find_outcomes, read_outcomes

if TYPE_CHECKING:
    from microlatent.experiment import Trained

log = logging.getLogger(__name__)

INSTEAD = "Outcomes belong to subjects of data=partitions."


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Predict, then show."""
    task, opened = settings.task, open_all(settings)
    trained = load_decoder(settings, opened)
    results = results_of(opened, trained, settings, out, tracker)
    names, labels = opened.outcomes.names, opened.outcomes.labels
    held_out = analysis.describe_folds(len(labels), task.folds)
    log.info(f"task.folds={task.folds} of {len(labels)} subjects: {held_out}.")
    space, markers = Space.of(opened), marker_means(opened)
    features = {
        "latents": subjects.summarise(space.scores, opened.subject, task.num_clusters, settings.seed),
        "marker means": {"mean": np.log(markers) if (markers > 0).all() else markers},
    }
    options = (task.folds, task.num_permutations, task.num_bootstraps, settings.seed)
    found = {name: analysis.predict(blocks, labels, *options) for name, blocks in features.items()}
    report(found, names)
    results.table("prediction", prediction_table(found, len(labels)))
    results.table("subjects", subject_table(opened, found, markers))
    results.figure("prediction", drawing.draw_prediction, found, labels, names, held_out)
    numbers = {}
    for prefix, result in zip(("", "marker_"), found.values(), strict=True):
        row = result_row(result)
        numbers |= {prefix + key: row[key] for key in ("auc", "auc_lo", "auc_hi", "p_permutation", "balanced_accuracy")}
    if trained is not None:
        from microlatent.systems.partitions import outcome_images  # imports torch

        numbers |= outcome_images.show(opened, space, trained, settings, results)
    return numbers


def results_of(opened: OutcomeInput, trained: Trained | None, settings: Settings, out: Path, tracker: Any = None) -> Results:
    """Declare the files: images need a model that decodes."""
    tables, figures = ["prediction", "subjects"], ["prediction"]
    if trained is not None:
        tables += ["marker_differences", "nearest"]
        drawn = min(NUM_PATHS, settings.task.num_samples, *np.bincount(opened.outcomes.labels))
        figures += ["path_mean", *(f"path_{k + 1}" for k in range(drawn)), "samples", "nearest", "differences"]
    return Results(out, tracker, tables=tables, figures=figures)


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table, the stores and the outcomes, and list what would be written."""
    task, opened = settings.task, open_all(settings)
    trained = load_decoder(settings, opened)
    num, width = opened.latents.x.shape
    count, channels = len(opened.outcomes.labels), len(opened.patches.channels)
    # Measured on one core: each fit takes 0.1 ms for 16 subjects, 0.2 for 24, 0.7 for 40; from there about 6 us for each more.
    fits = len(analysis.draw_held_out(count, task.folds, np.random.default_rng(0))) * task.num_permutations
    return Preflight(
        reads=[str(opened.latents.path), *(str(store.path) for store in opened.patches.stores)],
        writes=results_of(opened, trained, settings, out).writes,
        memory_mb=500 + (width**2 * 24 + num * 200 + 4000 * channels * 64 * 8) / 1e6,
        disk_mb=4.0,
        seconds=20 + fits * 1.3 * (7e-4 * (min(count, 40) / 40) ** 2 + 6e-6 * max(0, count - 40)) + num * width * 1e-7,
        notes=[
            f"{count} subjects: "
            + ", ".join(f"{(opened.outcomes.labels == k).sum()} {opened.outcomes.names[k]}" for k in (0, 1)),
            f"task.folds={task.folds}: {analysis.describe_folds(count, task.folds)}",
        ],
    )


def open_all(settings: Settings) -> OutcomeInput:
    """Open the table, its stores and the outcomes.

    Raises
    ------
    ValueError
        There are too few subjects for ``task.folds``, or too few partitions for ``task.num_clusters``.
    """
    latents = open_latents(settings, "outcome")
    latents.require(("subject",), "outcome", INSTEAD)
    stores = list(latents.stores(settings.data.store))
    patches = Patches(latents, stores, latents.channels)
    of = latents.obs["subject"].astype(str).to_numpy()
    path = find_outcomes(settings.task.outcomes, [store for store, _ in stores])
    outcomes = read_outcomes(path, list(pd.unique(of)), analysis.FEWEST)
    number = {name: code for code, name in enumerate(outcomes.subjects)}
    rows = np.flatnonzero(np.isin(of, outcomes.subjects))
    subject = np.array([number[name] for name in of[rows]])
    analysis.count_folds(len(outcomes.labels), settings.task.folds)
    subjects.refuse_clusters(subject, settings.task.num_clusters)
    return OutcomeInput(latents, patches, outcomes, rows, subject)


def marker_means(opened: OutcomeInput) -> np.ndarray:
    """Return the mean of each marker over the partitions of each subject (S, C), counts."""
    means = opened.patches.moments(opened.rows).mean
    return np.array([means[opened.subject == code].mean(0) for code in range(len(opened.outcomes.subjects))])


def load_decoder(settings: Settings, opened: OutcomeInput) -> Trained | None:
    """Load the model of the run; None, and say so, where none can decode."""
    if settings.run is None:
        log.warning("run is not set, so there is no model to decode with: the images are left out.")
        return None
    import torch

    from microlatent.experiment import load_model

    trained = load_model(Path(settings.run), settings.task.checkpoint, torch.device("cpu"))
    if lacking(trained.model, ["decode"]):
        log.warning(f"The model of {settings.run} does not decode single vectors: the images are left out.")
        return None
    if list(trained.channels) != opened.patches.channels:
        raise ValueError(
            f"{opened.latents.path} was made by a model of the channels {opened.patches.channels}, but the checkpoint "
            f"{trained.provenance['checkpoint']} is of {trained.channels}. Give the run that the latents are of."
        )
    width, known = opened.latents.x.shape[1], trained.provenance.get("config", {}).get("model", {}).get("latent_dim")
    if known not in (None, width):
        raise ValueError(
            f"{opened.latents.path} has {width} latent dimensions, but the checkpoint {trained.provenance['checkpoint']} has "
            f"{known}. Give the run that the latents are of."
        )
    return trained


# ----------------------------------------------------------------------------------------------------------- tables


def result_row(result: analysis.Prediction) -> dict[str, float]:
    """Return the numbers of a prediction."""
    row = {name: value for name, value in result._asdict().items() if np.ndim(value) == 0}
    return row | {"auc_permuted_median": float(np.median(result.auc_permuted))}


def prediction_table(results: dict[str, analysis.Prediction], count: int) -> pd.DataFrame:
    """Return one row per set of features, and their difference with its interval over the same resampled subjects."""
    rows = [{"features": name, "subjects": count} | result_row(result) for name, result in results.items()]
    first, second = results.values()
    low, high = interval(first.auc_drawn - second.auc_drawn, most_undefined=analysis.MAX_UNDEFINED)
    gain = {"features": "latents less marker means", "subjects": count, "auc": first.auc - second.auc}
    return pd.DataFrame([*rows, gain | {"auc_lo": low, "auc_hi": high}])


def subject_table(opened: OutcomeInput, results: dict[str, analysis.Prediction], markers: np.ndarray) -> pd.DataFrame:
    """Return one row per subject: its outcome, its held-out scores, whether the autoencoder was trained on it."""
    obs, outcomes = opened.latents.obs, opened.outcomes
    parts = obs["part"].astype(str).to_numpy()[opened.rows] if "part" in obs else np.full(len(opened.rows), "")
    table = pd.DataFrame(
        {
            "subject": outcomes.subjects,
            "outcome": [outcomes.names[label] for label in outcomes.labels],
            "part": ["+".join(pd.unique(parts[opened.subject == code])) for code in range(len(outcomes.subjects))],
            "partitions": np.bincount(opened.subject),
        }
    )
    for name, result in results.items():
        table[f"score_{name.replace(' ', '_')}_nats"] = result.scores
    for name, column in zip(opened.patches.channels, markers.T, strict=True):
        table[f"mean_{name}_counts"] = column
    return table


def report(results: dict[str, analysis.Prediction], names: tuple[str, str]) -> None:
    """Say in words how well subjects are told apart."""
    for name, result in results.items():
        log.info(
            f"{name}: AUC {result.auc:.2f} (95 % interval {result.auc_lo:.2f}-{result.auc_hi:.2f}, permutation p "
            f"{result.p_permutation:.3g}), balanced accuracy {result.balanced_accuracy:.2f}, telling {names[1]} from {names[0]}."
        )
    share = min(result.pairs_compared for result in results.values())
    if share < 0.8:
        log.warning(
            f"Only {share:.0%} of the pairs of subjects of different outcomes were ever held out together, so the AUC depends on "
            "how the folds were drawn. Fewer folds compare more of them; task.folds=loo compares all."
        )
