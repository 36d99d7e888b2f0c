"""The figures of ``task=cluster``: the criterion, the scatter, what clusters hold, where they lie, their exemplars."""

from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import latent_maps
from microlatent.analysis.agreement import agreement_with
from microlatent.data.latents import Patches
from microlatent.data.sections import file_stems, marker_images, marker_limits
from microlatent.drawing import clusters as drawing
from microlatent.drawing.sections import Block, draw_section
from microlatent.drawing.sheet import Panel
from microlatent.progress import track
from microlatent.results import Results
from microlatent.schemas import Settings
from microlatent.tasks.cluster_result import ClusterInput, ClusterResult

log = logging.getLogger(__name__)

MAX_BARS = 60  # of the composition's figure
NUCLEI = re.compile(r"dapi|dna|hoechst|histone|nucle", re.IGNORECASE)


def draw(
    opened: ClusterInput, result: ClusterResult, tables: dict[str, pd.DataFrame], settings: Settings, results: Results
) -> None:
    """Draw every figure that the data allow."""
    channels, found, names, seed = opened.patches.channels, result.found, result.names, settings.seed
    criterion = next((name for name in ("bic", "silhouette") if name in found.criterion), None)
    if criterion and len(found.criterion) > 1:
        results.figure("criterion", drawing.draw_criterion, found.criterion, criterion)
    if result.z.shape[1] > 1:
        results.figure("scatter", drawing.draw_scatter, result.z, result.pca.ratio, result.code, names, seed=seed)
    heat = tables["marker_means"].pivot(index="cluster", columns="marker", values="z").loc[names, channels]
    ari = result.ari_markers
    note = "" if np.isnan(ari) else f"(adjusted Rand index with clusters of marker means alone: {ari:.2f})"
    shares = tables["clusters"]["share"].to_numpy()
    results.figure("marker_means", drawing.draw_heat_map, heat.to_numpy(), shares, names, channels, note)
    if "composition" in tables:
        shown = tables["composition"].head(MAX_BARS)
        if len(shown) < len(tables["composition"]):
            log.info(f"The figure of the composition shows {len(shown)} of {len(tables['composition'])} rows of its table.")
        results.figure("composition", drawing.draw_composition, shown, shown.columns[0], names)
    if found.num:
        draw_exemplars(opened.patches, result, results)
    if opened.shown:
        draw_sections(opened, result, settings, results)


def draw_exemplars(patches: Patches, result: ClusterResult, results: Results) -> None:
    """Draw the patches nearest to the clusters' centres, a figure for each channel."""
    read = [patches.read(rows) for rows in result.exemplars]
    for channel, word in enumerate(patches.channels):
        shown = [group[:, channel] for group in read]
        limits = figures.limits(np.concatenate([group.ravel() for group in shown]), 0.5, 99.5)
        title = f"{word}: patches nearest to each cluster's centre"
        options = result.names[: result.found.num], max(len(group) for group in shown), title, limits, patches.patch_pixel_um
        results.figure(f"exemplars_{figures.file_word(word)}", drawing.draw_exemplars, shown, *options)


def draw_sections(opened: ClusterInput, result: ClusterResult, settings: Settings, results: Results) -> None:
    """Draw each image's clusters beside nuclei and the marker that tells the clusters apart best."""
    channels, code, names = opened.patches.channels, result.code, result.names
    nuclei = next((name for name in channels if NUCLEI.search(name)), channels[0])
    apart = np.nan_to_num([agreement_with(code, column)["eta2"] for column in result.means.T])
    others = [channels[at] for at in np.argsort(-apart, kind="stable") if channels[at] != nuclei]
    beside = [nuclei, *others[:1]]
    stores = [(store, np.flatnonzero(opened.patches.store_of == at)) for at, store in enumerate(opened.patches.stores)]
    block = max(section.block_px for section in opened.shown)
    limits = marker_limits(Patches(opened.latents, stores, beside), block, len(opened.latents), settings.seed)
    for section, stem in zip(track(opened.shown, "Drawing images"), file_stems(opened.shown, "clusters"), strict=True):
        panels = [
            Panel(name, picture, section.block_px, limit, figures.INTENSITY)
            for name, picture, limit in zip(beside, marker_images(section, beside), limits, strict=True)
        ]
        lying = latent_maps.label_map(code[section.rows], *section.places)
        panels.append(Panel("clusters", drawing.coloured(lying, names), section.step_px))
        holes = "; pale blue: no partition" if (lying == latent_maps.MISSING).any() else ""
        title = f"{section.name}: {len(section.rows)} partitions{holes}"
        heading = "markers (counts) on one scale for all images, and the cluster of most of each place"
        legend = drawing.legend_entries(names)
        about = section.shape_px, section.pixel_um(settings), title
        results.figure(stem, draw_section, [Block(heading, panels)], *about, legend=legend)
