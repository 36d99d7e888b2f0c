"""Draw latents at the places of their partitions, beside the markers, and say how they vary.

Reads the latents table of ``task=process`` and the stores behind it; needs no network. Writes ``tables/dims.csv`` (variance,
share between subjects, spatial autocorrelation and correlation with the markers of every latent), one figure for each image
and ``figures/contact.png``, the first of them in many images.
"""

from __future__ import annotations

import logging
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis import latent_maps
from microlatent.analysis.statistics import holm
from microlatent.data.latents import Latents, Patches, open_latents
from microlatent.data.sections import (
    DISPLAY_PX,
    PLACES,
    Section,
    choose,
    file_stems,
    marker_images,
    marker_limits,
    sections,
)
from microlatent.drawing import sections as drawing
from microlatent.drawing.sheet import Panel
from microlatent.files import write_csv
from microlatent.progress import track
from microlatent.schemas import Settings

if TYPE_CHECKING:
    from microlatent.results import Preflight

log = logging.getLogger(__name__)

CONTACT_IMAGES = 48  # on the contact sheet
INSTEAD = "Latents of any data are drawn by: python analyze.py task=embed run=<run>"


class Opened(NamedTuple):
    """All that a preflight and a run need."""

    latents: Latents
    patches: Patches
    every: list[Section]
    shown: list[Section]
    images: np.ndarray  # (N,) number of each row's image


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Measure every latent, draw the chosen ones."""
    opened = open_all(settings)
    latents, channels = opened.latents, opened.patches.channels
    train = latents.training_rows()
    means = opened.patches.moments(np.arange(len(latents))).mean
    found = latent_maps.spread(latents.x, train, latents.groups(), opened.images, means)
    dims = chosen_dims(settings, found.variance)
    values = np.column_stack([np.asarray(latents.x[:, dim], np.float64) for dim in dims])
    table = dims_table(found, dims, values, opened, channels, settings.seed)
    write_csv(table, out / "tables" / "dims.csv")
    tracker.table("dims", table)
    report(table)

    scales = [figures.limits(column) for column in values.T]
    block = max(section.block_px for section in opened.every)
    greys = marker_limits(opened.patches, block, len(latents), settings.seed)
    paths = [
        draw_image(section, values, dims, scales, channels, greys, settings, out / "figures" / f"{stem}.png")
        for section, stem in zip(track(opened.shown, "Drawing images"), file_stems(opened.shown, "maps"), strict=True)
    ]
    paths.append(draw_contact(opened.shown, values[:, 0], dims[0], scales[0], settings, out / "figures"))
    for path in paths:
        tracker.image(path.stem, path)
    drawn = table[table["drawn"]].set_index("dim").loc[dims]
    numbers = {"images": len(opened.every), "subjects": latents.obs["subject"].nunique(), "partitions": len(latents)}
    for name in ("variance", "eta2_subject", "moran_i"):
        numbers |= {f"{name}_latent{dim}": float(drawn.loc[dim, name]) for dim in dims}
    return numbers


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table and its stores, check the names, and list what would be written."""
    from microlatent.results import Preflight

    opened = open_all(settings)
    num, width = opened.latents.x.shape
    if settings.task.dims is not None:
        chosen_dims(settings, np.ones(width))
    names = [*file_stems(opened.shown, "maps"), "contact"]
    largest = max(int(np.prod(section.shape_px)) for section in opened.every)
    return Preflight(
        reads=[str(opened.latents.path), *(str(store.path) for store in opened.patches.stores)],
        writes=[str(out / "tables" / "dims.csv"), *(str(out / "figures" / f"{name}.png") for name in names)],
        memory_mb=300 + (latent_maps.CHUNK * width * 24 + num * 200 + min(largest, DISPLAY_PX**2) * 200) / 1e6,
        disk_mb=0.5 * len(names) + width * 2e-4,
        seconds=10 + num * width * 4e-8 + num * 4e-4 + 1.0 * len(opened.shown),
    )


def open_all(settings: Settings) -> Opened:
    """Open the table and its stores, and find the images."""
    latents = open_latents(settings, "maps")
    latents.require(PLACES, "maps", INSTEAD)
    stores = list(latents.stores(getattr(settings.data, "store", None)))
    known = [name for name in stores[0][0].channels if all(name in store.channels for store, _ in stores)]
    for name in settings.task.markers or ():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"task.markers names {name!r}, but the stores have the markers {', '.join(known)}.{hint}")
    every = sections(latents, stores)
    images = np.empty(len(latents), int)
    for number, section in enumerate(every):
        images[section.rows] = number
    patches = Patches(latents, stores, settings.task.markers or known)
    return Opened(latents, patches, every, choose(every, settings.task.images), images)


def chosen_dims(settings: Settings, variance: np.ndarray) -> list[int]:
    """Return the latent dimensions to draw: those asked for, else those that vary most between training partitions."""
    task, width = settings.task, len(variance)
    if task.dims is None:
        dims = latent_maps.most_varying(variance, task.num_dims)
        if not dims:
            raise ValueError("No latent varies, so there is nothing to map. The model has collapsed: train it anew.")
        return dims
    outside = [dim for dim in task.dims if not 0 <= dim < width]
    if outside or not task.dims:
        raise ValueError(
            f"task.dims is {task.dims}, but must name latent dimensions from 0 to {width - 1}."
            + (f" Leave out {outside}." if outside else " Leave it out for those that vary most.")
        )
    return list(dict.fromkeys(task.dims))


# ----------------------------------------------------------------------------------------------------------- table


def dims_table(
    found: latent_maps.Spread, dims: list[int], values: np.ndarray, opened: Opened, channels: list[str], seed: int
) -> pd.DataFrame:
    """Return one row per latent; Moran's I and its p-value for those drawn."""
    table = pd.DataFrame({"dim": np.arange(len(found.variance)), "variance": found.variance})
    table["variance_share"] = found.variance / found.variance.sum()
    table["drawn"] = table["dim"].isin(dims)
    table["eta2_subject"] = found.between_groups
    result = autocorrelation(values, opened, seed)
    columns = {"moran_i": result.moran_i, "p_permutation": result.p_permutation, "p_holm": holm(result.p_permutation)}
    for name, numbers in columns.items():
        table[name] = np.nan
        table.loc[dims, name] = numbers
    for number, name in enumerate(channels):
        table[f"r_{name}"] = found.correlation[:, number]
    return table


def autocorrelation(values: np.ndarray, opened: Opened, seed: int) -> latent_maps.Autocorrelation:
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


def draw_image(
    section: Section,
    values: np.ndarray,
    dims: list[int],
    scales: list[tuple[float, float]],
    channels: list[str],
    greys: list[tuple[float, float]],
    settings: Settings,
    path: Path,
) -> Path:
    """Draw the chosen latents and markers of one image."""
    latent = [
        Panel(f"latent {dim}", latent_maps.tissue_map(column[section.rows], *section.places), section.step_px, scale)
        for dim, column, scale in zip(dims, values.T, scales, strict=True)
    ]
    markers = [
        Panel(name, picture, section.block_px, grey, figures.INTENSITY)
        for name, picture, grey in zip(channels, marker_images(section, channels), greys, strict=True)
    ]
    holes = any(np.isnan(panel.picture).any() for panel in latent)
    blocks = [
        drawing.Block("latents (no unit), each on one scale for all images, 1st to 99th percentile", latent),
        drawing.Block("markers (counts), each on one scale for all images, 1st to 99th percentile", markers),
    ]
    title = f"{section.name}: {len(section.rows)} partitions" + ("; pale blue: no partition" if holes else "")
    return drawing.draw_section(blocks, section.shape_px, section.pixel_um(settings), title, path)


def draw_contact(
    shown: list[Section], column: np.ndarray, dim: int, scale: tuple[float, float], settings: Settings, folder: Path
) -> Path:
    """Draw one latent in many images; of too many, the first ones of every subject."""
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
    return drawing.draw_contact(panels, shapes, sizes.pop() if len(sizes) == 1 else None, title, label, folder / "contact.png")
