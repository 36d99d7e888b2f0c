"""Draw latents at the places of their partitions, beside the markers, and say how they vary.

Reads the latents table of ``task=process`` and the stores behind it; needs no network. Writes ``tables/dims.csv`` (variance,
share between subjects, spatial autocorrelation and correlation with the markers of every latent), one figure for each image
and ``figures/contact.png``, the first of them in many images.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import latent_maps
from microlatent.analysis.statistics import holm
from microlatent.config import nearest
from microlatent.data.latents import Latents, Patches, open_latents
from microlatent.data.sections import (
    DISPLAY_PX,
    PLACES,
    Section,
    choose,
    file_stems,
    image_codes,
    marker_images,
    marker_limits,
    sections,
)
from microlatent.drawing import sections as drawing
from microlatent.drawing.sheet import Panel
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings

log = logging.getLogger(__name__)

CONTACT_IMAGES = 48  # on the contact sheet
INSTEAD = "Latents of any data are drawn by: python analyze.py task=embed run=<run>"


class MapsInput(NamedTuple):
    """Latents, and the images that they are of."""

    latents: Latents
    patches: Patches
    every: list[Section]
    shown: list[Section]
    images: np.ndarray  # (N,) number of each row's image


class Drawn(NamedTuple):
    """The latents that are drawn, each on one scale for all images."""

    dims: list[int]
    values: np.ndarray  # (N, dims)
    scales: list[tuple[float, float]]

    @classmethod
    def of(cls, latents: Latents, dims: list[int]) -> Drawn:
        """Read the dimensions."""
        values = np.column_stack([np.asarray(latents.x[:, dim], np.float64) for dim in dims])
        return cls(dims, values, [figures.limits(column) for column in values.T])


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Measure every latent, draw the chosen ones."""
    opened = open_all(settings)
    latents, channels, results = opened.latents, opened.patches.channels, results_of(opened, out, tracker)
    train = latents.training_rows()
    means = opened.patches.moments(np.arange(len(latents))).mean
    found = latent_maps.spread(latents.x, train, latents.groups(), opened.images, means)
    drawn = Drawn.of(latents, chosen_dims(settings, found.variance))
    table = dims_table(found, drawn, opened, settings.seed)
    results.table("dims", table)
    report(table)

    block = max(section.block_px for section in opened.every)
    greys = dict(zip(channels, marker_limits(opened.patches, block, len(latents), settings.seed), strict=True))
    for section, stem in zip(track(opened.shown, "Drawing images"), file_stems(opened.shown, "maps"), strict=True):
        results.figure(stem, draw_image, section, drawn, greys, settings)
    results.figure("contact", draw_contact, opened.shown, drawn, settings)
    rows = table[table["drawn"]].set_index("dim").loc[drawn.dims]
    numbers = {"images": len(opened.every), "subjects": latents.obs["subject"].nunique(), "partitions": len(latents)}
    for name in ("variance", "eta2_subject", "moran_i"):
        numbers |= {f"{name}_latent{dim}": float(rows.loc[dim, name]) for dim in drawn.dims}
    return numbers


def results_of(opened: MapsInput, out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    return Results(out, tracker, tables=["dims"], figures=[*file_stems(opened.shown, "maps"), "contact"])


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table and its stores, check the names, and list what would be written."""
    opened = open_all(settings)
    (num, width), results = opened.latents.x.shape, results_of(opened, out)
    largest = max(int(np.prod(section.shape_px)) for section in opened.every)
    return Preflight(
        reads=[str(opened.latents.path), *(str(store.path) for store in opened.patches.stores)],
        writes=results.writes,
        memory_mb=300 + (latent_maps.CHUNK * width * 24 + num * 200 + min(largest, DISPLAY_PX**2) * 200) / 1e6,
        disk_mb=0.5 * len(results.names) + width * 2e-4,
        seconds=10 + num * width * 4e-8 + num * 4e-4 + 1.0 * len(opened.shown),
    )


def open_all(settings: Settings) -> MapsInput:
    """Open the table and its stores, and find the images."""
    latents = open_latents(settings, "maps")
    latents.require(PLACES, "maps", INSTEAD)
    stores = list(latents.stores(settings.data.store))
    known = [name for name in stores[0][0].channels if all(name in store.channels for store, _ in stores)]
    for name in settings.task.markers or ():
        if name not in known:
            raise ValueError(f"task.markers names {name!r}, which the stores do not hold. {nearest(name, known)}")
    latents.require_dims("task.dims", settings.task.dims)
    every = sections(latents, stores)
    patches = Patches(latents, stores, settings.task.markers or known)
    return MapsInput(latents, patches, every, choose(every, settings.task.images), image_codes(every, len(latents)))


def chosen_dims(settings: Settings, variance: np.ndarray) -> list[int]:
    """Return the latent dimensions to draw: those asked for, else those that vary most between training partitions."""
    if settings.task.dims is not None:
        return list(dict.fromkeys(settings.task.dims))
    dims = latent_maps.most_varying(variance, settings.task.num_dims)
    if not dims:
        raise ValueError("No latent varies, so there is nothing to map. The model has collapsed: train it anew.")
    return dims


# ----------------------------------------------------------------------------------------------------------- table


def dims_table(found: latent_maps.Spread, drawn: Drawn, opened: MapsInput, seed: int) -> pd.DataFrame:
    """Return one row per latent; Moran's I and its p-value for those drawn."""
    table = pd.DataFrame({"dim": np.arange(len(found.variance)), "variance": found.variance})
    table["variance_share"] = found.variance / found.variance.sum()
    table["drawn"] = table["dim"].isin(drawn.dims)
    table["eta2_subject"] = found.between_groups
    result = autocorrelation(drawn.values, opened, seed)
    columns = {"moran_i": result.moran_i, "p_permutation": result.p_permutation, "p_holm": holm(result.p_permutation)}
    for name, numbers in columns.items():
        table[name] = np.nan
        table.loc[drawn.dims, name] = numbers
    for number, name in enumerate(opened.patches.channels):
        table[f"r_{name}"] = found.correlation[:, number]
    return table


def autocorrelation(values: np.ndarray, opened: MapsInput, seed: int) -> latent_maps.Autocorrelation:
    """Return Moran's I over all images, of partitions that share no pixel."""
    rows, pairs, num = [], [], 0
    for section in opened.every:
        apart = latent_maps.apart(section.row_px, section.col_px, section.size_px)
        pairs.append(num + latent_maps.neighbours(section.row_px[apart], section.col_px[apart], section.size_px))
        rows.append(section.rows[apart])
        num += len(apart)
    taken = np.concatenate(rows)
    return latent_maps.autocorrelation(values[taken], opened.images[taken], np.concatenate(pairs), seed=seed)


def report(table: pd.DataFrame) -> None:
    """Say in words what the drawn latents are like."""
    for row in table[table["drawn"]].sort_values("variance", ascending=False).itertuples():
        marker = table.loc[row.dim].filter(like="r_").astype(float)
        near = f"; closest to {marker.abs().idxmax()[2:]} (r {marker[marker.abs().idxmax()]:.2f})" if marker.notna().any() else ""
        log.info(
            f"latent {row.dim}: {row.variance_share:.1%} of the variance, {row.eta2_subject:.0%} of its own between subjects, "
            f"Moran's I {row.moran_i:.2f} (p {row.p_holm:.3f}, corrected){near}."
        )


# ---------------------------------------------------------------------------------------------------------- figures


def draw_image(section: Section, drawn: Drawn, greys: dict[str, tuple[float, float]], settings: Settings, path: Path) -> Path:
    """Draw the chosen latents and markers of one image, the markers in ``greys``."""
    latent = [
        Panel(f"latent {dim}", latent_maps.tissue_map(column[section.rows], *section.places), section.step_px, scale)
        for dim, column, scale in zip(drawn.dims, drawn.values.T, drawn.scales, strict=True)
    ]
    markers = [
        Panel(name, picture, section.block_px, grey, figures.INTENSITY)
        for (name, grey), picture in zip(greys.items(), marker_images(section, list(greys)), strict=True)
    ]
    holes = any(np.isnan(panel.picture).any() for panel in latent)
    blocks = [
        drawing.Block("latents (no unit), each on one scale for all images, 1st to 99th percentile", latent),
        drawing.Block("markers (counts), each on one scale for all images, 1st to 99th percentile", markers),
    ]
    title = f"{section.name}: {len(section.rows)} partitions" + ("; pale blue: no partition" if holes else "")
    return drawing.draw_section(blocks, section.shape_px, section.pixel_um(settings), title, path)


def draw_contact(shown: list[Section], drawn: Drawn, settings: Settings, path: Path) -> Path:
    """Draw the first latent in many images; of too many, the first ones of every subject."""
    dim, column, scale = drawn.dims[0], drawn.values[:, 0], drawn.scales[0]
    picked = shown
    if len(shown) > CONTACT_IMAGES:
        turn = pd.Series([section.subject for section in shown]).groupby([section.subject for section in shown]).cumcount()
        picked = [shown[at] for at in sorted(np.argsort(turn, kind="stable")[:CONTACT_IMAGES])]
        log.info(f"The contact sheet shows {len(picked)} of {len(shown)} images, some of every subject.")
    panels = [
        Panel(section.name, latent_maps.tissue_map(column[section.rows], *section.places), section.step_px, scale)
        for section in picked
    ]
    sizes = {section.pixel_um(settings) for section in picked}
    title = f"latent {dim} in " + (f"{len(picked)} of {len(shown)} images" if len(picked) < len(shown) else "all images")
    label = f"latent {dim} (no unit), 1st to 99th percentile of all images"
    shapes = [section.shape_px for section in picked]
    return drawing.draw_contact(panels, shapes, sizes.pop() if len(sizes) == 1 else None, title, label, path)
