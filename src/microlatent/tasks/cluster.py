"""Cluster latents, and show where the clusters lie, what they hold and how far to trust them.

Reads the latents table of ``task=process`` and the stores behind it; needs no network. Components and clusters are fitted to
the training part. Writes ``latents.h5ad`` (the table with the column ``cluster``), ``tables/`` (clusters, criterion,
stability, marker_means, composition, assignments, exemplars, agreement) and ``figures/``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import cluster_tables as tabulate
from microlatent.analysis import clustering, components
from microlatent.analysis.agreement import agreement_with
from microlatent.analysis.clustering import NOISE, Clustering
from microlatent.analysis.stability import Stability, stability
from microlatent.analysis.statistics import interval
from microlatent.data.latents import Latents, Patches, add_clusters, open_latents
from microlatent.data.sections import PLACES, choose, file_stems, image_codes, sections
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.tasks import cluster_figures
from microlatent.tasks.cluster_result import ClusterInput, ClusterResult

log = logging.getLogger(__name__)

TABLE = "latents.h5ad"
FEWEST_GROUPS = 5  # fewer cannot be resampled
COMPARED_ROWS = 3000  # patches whose pixels are the baseline of agreement with known columns
COMPOSED_BY = ("subject", "well", "true_digit")  # the first of these that the table has


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Cluster, compare with baselines, write tables and figures."""
    task, seed = settings.task, settings.seed
    opened = open_all(settings)
    results = results_of(opened, settings, out, tracker)
    result = find_clusters(opened, settings)
    latents, found, stable = opened.latents, result.found, result.stable
    code, names, by = result.code, result.names, composed_by(latents.obs)
    width, widths = clustering.silhouettes(result.z, found.labels, seed)
    tables = {
        "clusters": tabulate.clusters(latents.obs, code, names, widths, stable),
        "criterion": found.criterion,
        "stability": pd.DataFrame({"refit": np.arange(len(stable.ari)), "ari": stable.ari}),
        "marker_means": tabulate.marker_means(result.means, code, names, opened.patches.channels),
        "assignments": tabulate.assignments(latents.obs, result.z, found, code, names),
        "exemplars": tabulate.exemplars(latents.obs, result.z, found, result.exemplars, names),
    }
    if by is not None:
        values = latents.obs[by].astype(str).to_numpy()
        tables["composition"] = tabulate.composition(values, by, code, names)
    if known_columns(latents.obs):
        tables["agreement"] = agreement_table(opened, result, task.method, seed)
    for name, table in tables.items():
        results.table(name, table, track=name != "assignments")
    about = {"method": task.method, "num_clusters": found.num, "num_fitted": found.num_fitted, "seed": seed}
    add_clusters(latents, results.path(TABLE), pd.Categorical.from_codes(code, names), about)
    results.artifact("latents_clustered", "latents", TABLE)

    numbers = {
        "clusters": found.num,
        "patches": len(latents),
        "explained_share": float(result.pca.ratio.sum()),
        "noise_share": float((found.labels == NOISE).mean()),
        "silhouette": width,
        "ari_stability_median": float(np.nanmedian(stable.ari)) if np.isfinite(stable.ari).any() else np.nan,
        "ari_marker_means": result.ari_markers,
    }
    if by is not None and found.num > 1:
        numbers[f"nmi_{by}"] = agreement_with(found.labels, values)["nmi"]
    report(numbers, found, stable, opened.train, task.method)
    cluster_figures.draw(opened, result, tables, settings, results)
    return numbers


def results_of(opened: ClusterInput, settings: Settings, out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    task, obs = settings.task, opened.latents.obs
    composed = ["composition"] if composed_by(obs) else []
    known = ["agreement"] if known_columns(obs) else []
    tried = ["criterion"] * (task.method != "hdbscan" and task.num_clusters is None and task.max_clusters > 2)
    channels = [f"exemplars_{figures.file_word(name)}" for name in opened.patches.channels]
    return Results(
        *(out, tracker),
        files=[TABLE],
        tables=["clusters", "criterion", "stability", "marker_means", "assignments", "exemplars", *composed, *known],
        figures=["scatter", "marker_means", *tried, *channels, *composed, *file_stems(opened.shown, "clusters")],
    )


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table and its stores, check the names, and list what would be written."""
    task, opened = settings.task, open_all(settings)
    results, (num, dims) = results_of(opened, settings, out), opened.latents.x.shape
    known = bool(known_columns(opened.latents.obs))
    rows = min(num, clustering.FIT_ROWS)
    tried = task.max_clusters if task.num_clusters is None else 1
    cost = {"gmm": rows * tried**2 * 3e-5, "kmeans": tried * (0.4 + rows * 3e-5), "hdbscan": num**2 * 5e-8}[task.method]
    return Preflight(
        reads=[str(opened.latents.path), *(str(store.path) for store in opened.patches.stores)],
        writes=results.writes,
        memory_mb=400 + min(num, dims) ** 2 * 24 / 1e6 + num * (task.max_components * 24 + 400) / 1e6 + 80 * known,
        disk_mb=opened.latents.path.stat().st_size / 1e6 + num * 1.5e-4 + 0.3 * len(results.names),
        seconds=15 + num * dims**2 * 4e-11 + cost * 1.5 + 0.5 * len(opened.shown),
    )


def find_clusters(opened: ClusterInput, settings: Settings) -> ClusterResult:
    """Cluster the components, refit to resampled groups, and choose exemplars."""
    task, seed, train, latents = settings.task, settings.seed, opened.train, opened.latents
    pca = fit_components(latents, train, task.components, task.max_components)
    z = pca.transform(latents.x)
    found = clustering.cluster(z, train, task.method, task.num_clusters, task.max_clusters, task.min_cluster_size, seed)
    stable = stability(z, found, train, resampled_groups(opened), task.method, task.min_cluster_size, seed=seed)
    means = opened.patches.moments(np.arange(len(latents))).mean
    units = latents.groups() if opened.images is None else opened.images
    each = max(2, -(-task.num_exemplars // len(np.unique(units))))  # of one image, so that many are seen
    return ClusterResult(
        pca=pca,
        z=z,
        found=found,
        stable=stable,
        means=means,
        by_means=cluster_features(means, train, task.method, found.num, seed),
        exemplars=clustering.exemplars(z, found, units, task.num_exemplars, each),
    )


def open_all(settings: Settings) -> ClusterInput:
    """Open the table and its stores, and find the images where rows have places in some.

    Raises
    ------
    ValueError
        There are no such images, or too few patches for the clusters asked for.
    """
    latents, task = open_latents(settings, "cluster"), settings.task
    stores = list(latents.stores(settings.data.store))
    patches, train = Patches(latents, stores, settings.data.channels or latents.channels), latents.training_rows()
    if task.images is not None:
        latents.require(PLACES, "cluster with task.images", "Leave task.images out.")
    clustering.refuse_few(len(train), task.num_clusters)
    if not all(name in latents.obs for name in PLACES):
        return ClusterInput(latents, patches, train, [], None)
    every = sections(latents, stores)
    return ClusterInput(latents, patches, train, choose(every, task.images), image_codes(every, len(latents)))


def fit_components(latents: Latents, train: np.ndarray, share: float, most: int) -> components.PCA:
    """Fit principal components to the training part, fewer where it is small: a covariance must be known from its rows."""
    pca = components.fit_pca(latents.x, train, share)
    most = min(most, max(2, int(np.sqrt(len(train)))))
    kept = components.PCA(pca.mean, pca.components[:most], pca.spectrum)
    if len(kept.components) < len(pca.components):
        log.info(
            f"{len(kept.components)} of {len(pca.components)} components are clustered, {kept.ratio.sum():.0%} of the variance "
            f"(task.max_components, and at most the root of {len(train)} training patches)."
        )
    return kept


def resampled_groups(opened: ClusterInput) -> np.ndarray:
    """Return the unit that refits resample (N,): groups of the split; where they are too few, smaller ones, and say so."""
    groups, train = opened.latents.groups(), opened.train
    units = [("groups", groups, "")]
    if opened.images is not None:
        at = opened.latents.obs[["row_px", "col_px"]].to_numpy()
        size = pd.DataFrame(at).groupby(opened.images).transform("max").to_numpy() + 1
        quarter = 4 * at // size  # neighbours stay together, or what they share would look like stability
        units.append(("images", opened.images, "subjects"))
        units.append(("sixteenths of images", opened.images * 16 + quarter @ [4, 1], "subjects or images"))
    units.append(("single patches", np.arange(len(groups)), "groups of them"))
    word, unit, silent = next((one for one in units if len(np.unique(one[1][train])) >= FEWEST_GROUPS), units[-1])
    if silent:
        log.warning(
            f"The stability of clusters is over {word}, so it says nothing about new {silent}: too few independent groups are in "
            f"the training part ({len(np.unique(groups[train]))}, needed {FEWEST_GROUPS})."
        )
    return unit


def cluster_features(features: np.ndarray, train: np.ndarray, method: str, num: int, seed: int) -> np.ndarray:
    """Return labels of as many clusters of other features, standardised over the training part: a baseline."""
    if num < 2:
        return np.zeros(len(features), int)
    mean, std = features[train].mean(0), features[train].std(0)
    z = (features - mean) / np.where(std > 0, std, np.inf)
    return clustering.cluster(z, train, "kmeans" if method == "hdbscan" else method, num, seed=seed).labels


def report(numbers: dict[str, float], found: Clustering, stable: Stability, train: np.ndarray, method: str) -> None:
    """Say in words what was found and how far to trust it."""
    fitted = f"fitted to {found.num_fitted} patches"
    if method == "hdbscan":
        log.info(f"HDBSCAN assigns no new patches, so it was {fitted}, those held out included.")
    elif found.num_fitted < len(train):
        log.info(f"Clusters were {fitted} of {len(train)} of the training part; the others were assigned.")
    if found.num < 2:
        what = {0: "No cluster was found: all patches are noise. Lower task.min_cluster_size."}
        log.warning(what.get(found.num, "One cluster describes the latents best: they fall into no groups."))
        return
    low, high = interval(stable.ari)
    log.info(
        f"{found.num} clusters, {numbers['noise_share']:.0%} noise, silhouette {numbers['silhouette']:.2f}. Refitted to "
        f"{stable.num_groups} resampled groups, the adjusted Rand index is {numbers['ari_stability_median']:.2f} "
        f"({low:.2f} to {high:.2f}); with clusters of marker means alone it is {numbers['ari_marker_means']:.2f}."
    )
    for by in [name.removeprefix("nmi_") for name in numbers if name.startswith("nmi_")]:
        log.info(
            f"Normalised mutual information of the clusters with the column {by}: {numbers[f'nmi_{by}']:.2f} (1: they are it)."
        )
    weak = [str(number + 1) for number in np.flatnonzero(np.nanmean(stable.jaccard, 0) < 0.6)]
    if weak:
        log.warning(
            f"Not to be trusted, since found again in too few refits (mean Jaccard below 0.6): clusters {', '.join(weak)}."
        )
    tried = found.criterion
    if len(tried) > 1 and tried["chosen"].iloc[-1]:
        log.warning(f"The criterion chose the most clusters that were tried, {found.num}. Raise task.max_clusters.")


# ----------------------------------------------------------------------------------------------------------- tables


def known_columns(obs: pd.DataFrame) -> list[str]:
    """Return the columns that hold a truth: planted ones, and labels (true_digit)."""
    return [name for name in obs if name.startswith("true_")]


def composed_by(obs: pd.DataFrame) -> str | None:
    """Return the column whose values' clusters are counted; None where the table has none of them."""
    return next((name for name in COMPOSED_BY if name in obs), None)


def agreement_table(opened: ClusterInput, result: ClusterResult, method: str, seed: int) -> pd.DataFrame:
    """Return how well clusters of latents, of marker means and of pixels agree with each known column, on the same patches."""
    found, width = result.found, len(result.pca.components)
    num = len(opened.latents)
    rows = np.arange(num)
    if num > COMPARED_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(num, COMPARED_ROWS, replace=False))
    here = np.flatnonzero(np.isin(rows, opened.train))
    pixels = opened.patches.features(rows, rows[here], opened.latents.normaliser)
    scores = components.fit_pca(pixels, here, width).transform(pixels) if np.ptp(pixels, 0).any() else np.zeros((len(rows), 1))
    baseline = "kmeans" if method == "hdbscan" else method
    alone = clustering.cluster(scores, here, baseline, found.num, seed=seed).labels if found.num > 1 else np.zeros(len(rows), int)
    sources = {"latents": found.labels[rows], "marker_means": result.by_means[rows], "pca_pixels": alone}
    records = [
        {"column": column, "clusters_of": source}
        | agreement_with(labels, opened.latents.obs[column].to_numpy()[rows])
        | {"num_patches": len(rows)}
        for column in known_columns(opened.latents.obs)
        for source, labels in sources.items()
    ]
    return pd.DataFrame(records)
