"""Embed latents by PCA and UMAP, show what the components mean, and measure what latents hold by linear probes.

Reads the latents table of ``task=process`` and the stores behind it; needs no network. PCA and UMAP are fitted to the training
part and applied to the rest. Writes ``latents.h5ad`` (the table with ``obsm`` X_pca, X_umap, ``varm`` PCs and ``uns`` pca),
``pca.npz``, ``tables/`` (variance, exemplars, probes) and ``figures/``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import components, probe
from microlatent.analysis.statistics import holm
from microlatent.config import nearest
from microlatent.data.latents import Latents, Patches, extend, open_latents
from microlatent.drawing import components as drawing
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings

log = logging.getLogger(__name__)

FEWEST_FOR_UMAP = 10
PROBE_ROWS = 10_000  # at most; more would cost time without narrowing an interval over tracks
NUM_FOLDS = 5
MOST_LABELS = 50  # more kinds of text are names, not labels
PROBE_TABLES = {"r2": "probes", "accuracy": "class_probes"}
COLOURS = ("well", "frame", "subject")  # columns that colour the scatters, where the table has them


class EmbedInput(NamedTuple):
    """What is embedded, and what is asked of it."""

    latents: Latents
    patches: Patches
    train: np.ndarray  # rows that PCA and UMAP are fitted to
    pca: components.PCA | None  # of task.pca
    probes: list[str]  # columns that are read out
    colours: list[str]  # columns that colour the scatters


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Embed, draw and probe."""
    task, opened = settings.task, open_all(settings)
    latents, train, results = opened.latents, opened.train, results_of(opened, out, tracker)

    pca = opened.pca or components.fit_pca(latents.x, train, task.components)
    scores = pca.transform(latents.x)
    umap = embed_umap(scores, train, settings)
    save_embedding(latents, pca, scores, umap, results)
    log.info(f"{len(pca.ratio)} components explain {pca.ratio.sum():.0%} of the variance of {len(train)} patches.")

    results.table("variance", variance_table(pca))
    results.figure("variance", drawing.draw_variance, pca)
    for column in opened.colours if scores.shape[1] > 1 else ():
        name, values = f"scatter_{figures.file_word(column)}", latents.obs[column].to_numpy()
        results.figure(name, drawing.draw_scatter, scores, pca.ratio, umap, values, column, seed=settings.seed)
    results.table("exemplars", draw_exemplars(opened, scores, pca.ratio, settings, results))
    numbers = {"components": len(pca.ratio), "explained_share": float(pca.ratio.sum()), "patches": len(latents)}
    for score, found in run_probes(opened, settings).items():
        results.table(PROBE_TABLES[score], found)
        results.figure(PROBE_TABLES[score], drawing.draw_probes, found, score, task.probe_components)
        for row in found.to_dict("records"):
            numbers |= {f"{score}_{kind}_{row['column']}": row[f"{score}_{kind}"] for kind in ("latent", "pca_pixels")}
    return numbers


def open_all(settings: Settings) -> EmbedInput:
    """Open the table and its stores, and check what is asked for.

    Raises
    ------
    ValueError
        A column does not exist or is no label, or ``task.pca`` is of other latents.
    """
    latents, task = open_latents(settings, "embed"), settings.task
    patches = Patches(latents, list(latents.stores(settings.data.store)), settings.data.channels or latents.channels)
    probes = probe_columns(task.probes, latents.obs)
    colours = colour_columns(task.colour_by, probes, latents.obs)
    pca = components.PCA.load(task.pca) if task.pca else None
    if pca is not None and pca.components.shape[1] != latents.x.shape[1]:
        raise ValueError(
            f"{task.pca} (from task.pca) is of {pca.components.shape[1]} latent dimensions, but {latents.path} has "
            f"{latents.x.shape[1]}. Use the pca.npz of the same model."
        )
    return EmbedInput(latents, patches, latents.training_rows(), pca, probes, colours)


def results_of(opened: EmbedInput, out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    probes = dict.fromkeys(PROBE_TABLES["accuracy" if is_label(opened.latents.obs[name]) else "r2"] for name in opened.probes)
    scatters = (f"scatter_{figures.file_word(column)}" for column in opened.colours)
    channels = [figures.file_word(channel) for channel in opened.patches.channels]
    drawn = [f"{what}_{channel}" for channel in channels for what in ("means", "exemplars_PC*")]
    return Results(
        *(out, tracker),
        files=["latents.h5ad", "pca.npz"],
        tables=["variance", "exemplars", *probes],
        figures=["variance", *scatters, *drawn, *probes],
    )


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open all, and list what would be written."""
    opened, task = open_all(settings), settings.task
    latents = opened.latents
    num, dims = latents.x.shape
    side = min(len(opened.train), dims)
    return Preflight(
        reads=[str(latents.path), *(str(store.path) for store in opened.patches.stores)],
        writes=results_of(opened, out).writes,
        memory_mb=400 + side**2 * 24 / 1e6 + (min(num, PROBE_ROWS) * (dims + 2048) * 8 / 1e6 if opened.probes else 0),
        disk_mb=latents.path.stat().st_size / 1e6 + 10,
        seconds=15 + num * dims * side * 4e-11 + side**3 * 1.5e-10 + (20 + num * 2e-3 if task.umap else 0),
    )


# ------------------------------------------------------------------------------------------------- names of columns


def find_columns(names: list[str], obs: pd.DataFrame, key: str) -> list[str]:
    """Return the names if the table has them all."""
    for name in names:
        if name not in obs:
            raise ValueError(f"{key} names {name!r}, which the latents table does not hold. {nearest(name, obs.columns)}")
    return list(names)


def probe_columns(names: list[str], obs: pd.DataFrame) -> list[str]:
    """Return the columns to read out, numbers or labels: those asked for, else what is known of the patches (true_*)."""
    chosen = find_columns(names, obs, "task.probes") or [name for name in obs if name.startswith("true_")]
    for name in chosen:
        kinds = obs[name].nunique() if is_label(obs[name]) else 0
        if kinds > MOST_LABELS:
            raise ValueError(
                f"task.probes names {name!r}, which holds {kinds} different texts such as {obs[name].iloc[0]!r}; a probe reads "
                f"numbers, or labels of at most {MOST_LABELS} kinds."
            )
    return chosen


def is_label(column: pd.Series) -> bool:
    """Return whether a column holds text."""
    return column.dtype.kind in "OUT"


def colour_columns(names: list[str], probes: list[str], obs: pd.DataFrame) -> list[str]:
    """Return the columns that colour the scatters."""
    return find_columns(names, obs, "task.colour_by") or list(
        dict.fromkeys([*(name for name in COLOURS if name in obs), *probes])
    )


# -------------------------------------------------------------------------------------------------------- embedding


def embed_umap(scores: np.ndarray, train: np.ndarray, settings: Settings) -> np.ndarray | None:
    """Return the UMAP of the scores, or None where it is not wanted or there are too few patches."""
    task = settings.task
    if not task.umap:
        return None
    if len(train) < FEWEST_FOR_UMAP:
        log.warning(f"UMAP was left out: it needs at least {FEWEST_FOR_UMAP} training patches, but there are {len(train)}.")
        return None
    if task.umap_neighbours >= len(train):
        log.warning(
            f"task.umap_neighbours is {task.umap_neighbours}, but only {len(train) - 1} other patches exist; those are used."
        )
    return components.umap(scores, train, task.umap_neighbours, task.umap_min_dist, settings.seed)


def save_embedding(latents: Latents, pca: components.PCA, scores: np.ndarray, umap: np.ndarray | None, results: Results) -> None:
    """Write the table with its new columns, and the PCA alone."""
    entries: dict[str, Any] = {
        "obsm/X_pca": scores,
        "varm/PCs": pca.components.T.astype(np.float32),
        "uns/pca": {"variance": pca.spectrum[: len(pca.ratio)], "variance_ratio": pca.ratio},
    }
    if umap is not None:
        entries["obsm/X_umap"] = umap
    pca.save(results.path("pca.npz"))
    extend(latents, results.path("latents.h5ad"), entries)
    results.artifact("latents_embedded", "latents", "latents.h5ad")


def variance_table(pca: components.PCA) -> pd.DataFrame:
    """Return the explained share of each component kept."""
    number = np.arange(1, len(pca.ratio) + 1)
    return pd.DataFrame({"component": number, "variance_ratio": pca.ratio, "cumulative": np.cumsum(pca.ratio)})


# -------------------------------------------------------------------------------------------------------- exemplars


def draw_exemplars(
    opened: EmbedInput, scores: np.ndarray, ratio: np.ndarray, settings: Settings, results: Results
) -> pd.DataFrame:
    """Draw mean patches and galleries of the first components; return the table that names every patch of the galleries."""
    task, latents, patches = settings.task, opened.latents, opened.patches
    groups, held = latents.groups(), list(range(min(task.max_components_shown, scores.shape[1])))
    chosen = [
        components.exemplars(scores, component, held, task.quantiles, task.num_exemplars, groups, seed=settings.seed)
        for component in held
    ]
    means = np.stack([[mean_patch(patches, rows) for rows in one.members] for one in track(chosen, "Averaging patches")])
    galleries = [[patches.read(rows) for rows in one.gallery] for one in chosen]
    names = [f"PC{component + 1}" for component in held]
    labels = [f"{name}\n({100 * ratio[component]:.1f} %)" for name, component in zip(names, held, strict=True)]
    pixel_um = patches.patch_pixel_um
    for channel, word in enumerate(patches.channels):
        in_file = figures.file_word(word)
        title = f"{word}: mean patch by quantile of each component"
        results.figure(f"means_{in_file}", drawing.draw_means, means[:, :, channel], labels, title, pixel_um)
        every = np.concatenate([group[:, channel].ravel() for gallery in galleries for group in gallery])
        limits = figures.limits(every, 0.5, 99.5)
        for name, one, gallery in zip(names, chosen, galleries, strict=True):
            shown = [group[:, channel] for group in gallery], one.bands, task.num_exemplars
            title = f"{word}: patches by quantile of {name}"
            results.figure(f"exemplars_{name}_{in_file}", drawing.draw_gallery, *shown, title, limits, pixel_um)
    records = [
        {"component": name, "quantile": number + 1, "patch": latents.obs.index[at], "score": scores[at, one.component]}
        | {"others_from": band[0], "others_to": band[1]}
        for name, one in zip(names, chosen, strict=True)
        for number, (rows, band) in enumerate(zip(one.gallery, one.bands, strict=True))
        for at in rows
    ]
    return pd.DataFrame(records)


def mean_patch(patches: Patches, rows: np.ndarray) -> np.ndarray:
    """Return the mean (C, Y, X) of some patches, NaN where there is none."""
    if not len(rows):
        return np.full(patches.read(np.array([0]))[0].shape, np.nan)
    return sum(patches.read(rows[start : start + 64]).sum(0, dtype=np.float64) for start in range(0, len(rows), 64)) / len(rows)


# ----------------------------------------------------------------------------------------------------------- probes


def run_probes(opened: EmbedInput, settings: Settings) -> dict[str, pd.DataFrame]:
    """Read each column out of latents and of pixels, both reduced to the same width, on groups held out; a table per score."""
    latents, columns = opened.latents, opened.probes
    every, width = latents.groups(), settings.task.probe_components
    if not columns:
        return {}
    if len(np.unique(every)) < NUM_FOLDS:
        log.warning(f"Probes were left out: they need at least {NUM_FOLDS} groups, but there are {len(np.unique(every))}.")
        return {}
    rows = np.arange(len(latents))
    if len(rows) > PROBE_ROWS:
        rows = np.sort(np.random.default_rng(settings.seed).choice(rows, PROBE_ROWS, replace=False))
    groups = every[rows]
    latent = probe.reduce(np.asarray(latents.x[rows]), groups, width, NUM_FOLDS, settings.seed)
    pixels = probe.reduce(
        opened.patches.features(rows, opened.train, latents.normaliser), groups, width, NUM_FOLDS, settings.seed
    )
    records: dict[str, list[dict]] = {}
    for column in track(columns, "Probing"):
        text = is_label(latents.obs[column])
        target = latents.obs[column].to_numpy(str if text else float)[rows]
        known = target != "" if text else np.isfinite(target)
        if len(np.unique(groups[known])) < NUM_FOLDS or len(np.unique(target[known])) < 2:
            log.warning(f"{column} was not probed: it is constant, or known for fewer than {NUM_FOLDS} groups.")
            continue
        if reason := probe.unreadable(latent, target, groups):
            log.warning(f"{column} was not probed: {reason}.")
            continue
        record = {"column": column} | probe.compare(latent, pixels, target, groups, settings.seed)
        records.setdefault("accuracy" if text else "r2", []).append(record)
    tables = {score: pd.DataFrame(found) for score, found in records.items()}
    for kind in ("latent", "pca_pixels") if "r2" in tables else ():
        tables["r2"][f"p_holm_{kind}"] = holm(tables["r2"][f"p_permutation_{kind}"].to_numpy())
    return tables
