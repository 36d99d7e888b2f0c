"""The figures of ``task=cluster``: the criterion, the scatter, what clusters hold, where they lie, their exemplars."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import components, latent_maps
from microlatent.analysis.agreement import agreement_with
from microlatent.analysis.clustering import Clustering
from microlatent.data.latents import Patches
from microlatent.data.sections import file_stems, marker_images, marker_limits
from microlatent.drawing import clusters as drawing
from microlatent.drawing.sections import Block, draw_section
from microlatent.drawing.sheet import Panel
from microlatent.progress import track
from microlatent.schemas import Settings

if TYPE_CHECKING:
    from microlatent.tasks.cluster import Opened

log = logging.getLogger(__name__)

MAX_BARS = 60  # of the composition's figure
NUCLEI = re.compile(r"dapi|dna|hoechst|histone|nucle", re.IGNORECASE)


def draw(
    opened: Opened,
    tables: dict[str, pd.DataFrame],
    z: np.ndarray,
    pca: components.PCA,
    found: Clustering,
    code: np.ndarray,
    names: list[str],
    chosen: list[np.ndarray],
    means: np.ndarray,
    by: str | None,
    ari_markers: float,
    settings: Settings,
    folder: Path,
) -> list[Path]:
    """Draw every figure that the data allow."""
    patches, paths = opened.patches, []
    criterion = next((name for name in ("bic", "silhouette") if name in found.criterion), None)
    if criterion and len(found.criterion) > 1:
        paths.append(drawing.draw_criterion(found.criterion, criterion, folder / "criterion.png"))
    if z.shape[1] > 1:
        paths.append(drawing.draw_scatter(z, pca.ratio, code, names, folder / "scatter.png", settings.seed))
    heat = tables["marker_means"].pivot(index="cluster", columns="marker", values="z").loc[names, patches.channels]
    note = "" if np.isnan(ari_markers) else f"(adjusted Rand index with clusters of marker means alone: {ari_markers:.2f})"
    shares = tables["clusters"]["share"].to_numpy()
    paths.append(drawing.draw_heat_map(heat.to_numpy(), shares, names, patches.channels, note, folder / "marker_means.png"))
    if by is not None:
        shown = tables["composition"].head(MAX_BARS)
        if len(shown) < len(tables["composition"]):
            log.info(f"The figure of the composition shows {len(shown)} of {len(tables['composition'])} rows of its table.")
        paths.append(drawing.draw_composition(shown, by, names, folder / "composition.png"))
    if found.num:
        paths += draw_exemplars(patches, chosen, names[: found.num], settings, folder)
    if opened.shown:
        paths += draw_sections(opened, code, names, means, settings, folder)
    return paths


def draw_exemplars(patches: Patches, chosen: list[np.ndarray], names: list[str], settings: Settings, folder: Path) -> list[Path]:
    """Draw the patches nearest to the clusters' centres, a figure for each channel."""
    read, paths = [patches.read(rows) for rows in chosen], []
    for channel, word in enumerate(patches.channels):
        shown = [group[:, channel] for group in read]
        limits = figures.limits(np.concatenate([group.ravel() for group in shown]), 0.5, 99.5)
        title = f"{word}: patches nearest to each cluster's centre"
        path = folder / f"exemplars_{figures.file_word(word)}.png"
        num = max(len(group) for group in shown)
        paths.append(drawing.draw_exemplars(shown, names, num, title, limits, patches.patch_pixel_um, path))
    return paths


def draw_sections(
    opened: Opened, code: np.ndarray, names: list[str], means: np.ndarray, settings: Settings, folder: Path
) -> list[Path]:
    """Draw each image's clusters beside nuclei and the marker that tells the clusters apart best."""
    channels = opened.patches.channels
    nuclei = next((name for name in channels if NUCLEI.search(name)), channels[0])
    apart = np.nan_to_num([agreement_with(code, column)["eta2"] for column in means.T])
    others = [channels[at] for at in np.argsort(-apart, kind="stable") if channels[at] != nuclei]
    beside = [nuclei, *others[:1]]
    stores = [(store, np.flatnonzero(opened.patches.store_of == at)) for at, store in enumerate(opened.patches.stores)]
    block = max(section.block_px for section in opened.shown)
    limits = marker_limits(Patches(opened.latents, stores, beside), block, len(opened.latents), settings.seed)
    paths = []
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
        paths.append(
            draw_section(
                [Block(heading, panels)], section.shape_px, section.pixel_um(settings), title, folder / f"{stem}.png", legend
            )
        )
    return paths
