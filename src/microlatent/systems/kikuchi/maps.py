"""Draw latents over the scan, say how they vary, and show what the model makes of patterns.

Reads the latents table of ``task=process`` and, where ``run`` is set, its model. Writes a map of every dimension into
``latent_maps_.../``; ``tables/dims.csv`` (variance, divergence, Moran's I, correlations over the whole scan) and
``tables/points.csv`` with the kernel latent spread and the reconstruction error of every point of the region, both also as NPY
maps of the scan, NaN outside the region; and ``figures/``: contact sheets of the latents and of the baselines beside them, both
maps, patterns beside their reconstruction, traversals.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.data.latents import BASELINE, Latents
from microlatent.files import atomic
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import draw_maps as drawing
from microlatent.systems.kikuchi import scan_maps
from microlatent.systems.kikuchi.draw_maps import Window
from microlatent.systems.kikuchi.maps_patterns import (
    MapsInput,
    divergence,
    draw_patterns,
    load_decoder,
    named_points,
    reconstruction_error,
)
from microlatent.systems.kikuchi.scans import ScanMap, open_points
from microlatent.systems.kikuchi.schema import MapsKikuchiConfig

log = logging.getLogger(__name__)


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Measure every latent, draw the maps, and the patterns where there is a model."""
    task: MapsKikuchiConfig = settings.task
    opened = open_all(settings)
    latents, pictures, train = opened.latents, opened.pictures, opened.train()
    results = results_of(opened, settings, out, tracker)
    if pictures is None:
        log.info(NO_MODEL)
    variance = scan_maps.variances(latents.x, train)
    table = dims_table(opened, train, variance, settings.seed)
    results.table("dims", table)

    shown = np.full(len(latents), False)
    for window in opened.windows:
        shown[window.scan.rows] = window.scan.inside(task.roi_xrange, task.roi_yrange)
    points = latents.obs[["scan", "x", "y"]].reset_index(drop=True)
    points["kernel_spread"] = np.where(shown, kernel_spread(opened, variance, task.neighbours), np.nan)
    if pictures is not None:
        points["reconstruction_error"] = reconstruction_error(latents, pictures, np.flatnonzero(shown), task.batch_size)
    results.table("points", points[shown], track=False)

    draw_latents(opened, variance, settings, results)
    draw_contacts(opened, variance, settings, results)
    for name in measured(opened):
        draw_measured(points[name].to_numpy(), name, opened, settings, results)
    if pictures is not None:
        draw_patterns(opened, points["reconstruction_error"].to_numpy(), train, variance, settings, results)
    return numbers(table, points[shown], latents)


def results_of(opened: MapsInput, settings: Settings, out: Path, tracker: Any = None) -> Results:
    """Declare the files; those of several scans have a name of their own."""
    contacts = ["contact", *(f"contact_{name}" for name in opened.latents.matrices(BASELINE))]
    tails = [tail(opened, window) for window in opened.windows]
    return Results(
        *(out, tracker),
        files=[
            *(latent_file(settings, opened, dim, word) for word in tails for dim in opened.dims),
            *(f"{name}{word}.npy" for word in tails for name in measured(opened)),
        ],
        tables=["dims", "points"],
        figures=[
            *(name + word for word in tails for name in [*contacts, *measured(opened)]),
            *(["reconstructions", "traversals"] if opened.pictures is not None else []),
        ],
    )


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table, its stores and the model, check the names, and list what would be written."""
    opened = open_all(settings)
    (num, width), drawn, has_model = opened.latents.x.shape, len(opened.dims) * len(opened.windows), opened.pictures is not None
    return Preflight(
        reads=[str(opened.latents.path), *(str(window.scan.store.path) for window in opened.windows)],
        writes=results_of(opened, settings, out).writes,
        memory_mb=350 + num * width * 16 / 1e6 + 400 * has_model,
        disk_mb=0.1 * drawn + num * 6e-5,
        seconds=5 + 0.15 * drawn + num * width * 2e-6 + num * 1e-3 * has_model,
        notes=[] if has_model else [NO_MODEL],
    )


def open_all(settings: Settings) -> MapsInput:
    """Open the table, its scans and the model of the run, and check what is asked for.

    Raises
    ------
    ValueError
        A dimension, a point, a colour or a region does not exist.
    """
    task: MapsKikuchiConfig = settings.task
    latents, scans = open_points(settings, "maps")
    drawing.colours(task.cmap, task.bad_color)
    width = latents.x.shape[1]
    latents.require_dims("task.dims", task.dims)
    latents.require_dims("task.traverse", task.traverse)
    for scan in scans:
        scan.inside(task.roi_xrange, task.roi_yrange)
    windows = [Window.of(scan, task.roi_xrange, task.roi_yrange, scan.step_um) for scan in scans]
    pictures = load_decoder(settings, latents) if settings.run else None
    if pictures is None:
        given = [f"task.{key}" for key in ("pixels", "traverse") if getattr(task, key) is not None]
        if given:
            raise ValueError(f"{' and '.join(given)} ask for patterns, but without run there is no model. Add run=<folder>.")
    elif task.pixels is not None:
        named_points(latents, windows, task)
    return MapsInput(latents, windows, list(range(width)) if task.dims is None else list(task.dims), pictures)


NO_MODEL = (
    "Without run=<folder> there is no model: no reconstructions, errors and traversals are drawn, only what the latents tell."
)

# ----------------------------------------------------------------------------------------------------------- numbers


def dims_table(opened: MapsInput, train: np.ndarray, variance: np.ndarray, seed: int) -> pd.DataFrame:
    """Return one row per latent: how it varies, how smooth its map is, and what it goes along with over the scan."""
    latents, scans = opened.latents, [window.scan for window in opened.windows]
    table = pd.DataFrame({"dim": np.arange(len(variance)), "variance": variance})
    table["variance_share"] = variance / (variance.sum() or 1.0)
    table["active"] = variance > scan_maps.ACTIVE_VARIANCE
    kl = divergence(latents, train)
    if kl is not None:
        table["kl_nats"] = kl
    number, pairs, rows, start = [], [], [], 0
    for at, scan in enumerate(scans):
        pairs.append(start + scan_maps.neighbour_pairs(scan.x, scan.y, 4))
        rows.append(scan.rows)
        number.append(np.full(len(scan.rows), at))
        start += len(scan.rows)
    rows = np.concatenate(rows)
    x = latents.x if len(rows) == len(latents) and (rows == np.arange(len(rows))).all() else latents.x[rows]
    found = scan_maps.autocorrelation(x, np.concatenate(number), np.concatenate(pairs), seed)
    table["moran_i"], table["p_permutation"] = found.moran_i, found.p_permutation
    for name in reference_columns(latents, scans):
        table[f"r_{name}"] = scan_maps.correlations(x, latents.obs[name].to_numpy(float)[rows])
    return table


def reference_columns(latents: Latents, scans: list[ScanMap]) -> list[str]:
    """Return the columns of the table that latents are compared with: quality first, then the elements."""
    names = [name for scan in scans for name in (scan.quality, *scan.elements)]
    return [name for name in dict.fromkeys(names) if name in latents.obs]


def kernel_spread(opened: MapsInput, variance: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the kernel latent spread (N,) of the active dimensions, each in its standard deviation over the training points."""
    active, result = scan_maps.active_dims(variance), np.full(len(opened.latents), np.nan)
    for window in opened.windows:
        scan = window.scan
        z = (np.asarray(opened.latents.x[scan.rows], np.float32)[:, active] / np.sqrt(variance[active])).astype(np.float32)
        result[scan.rows] = scan_maps.kernel_spread(z, scan_maps.neighbour_pairs(scan.x, scan.y, neighbours))
    return result


def numbers(table: pd.DataFrame, points: pd.DataFrame, latents: Latents) -> dict[str, float]:
    """Return the numbers of the run, and say in words what the latents are like."""
    result = {"points": len(points), "dims": len(table), "active_dims": int(table["active"].sum())}
    for name in ("kernel_spread", "reconstruction_error"):
        if name in points:
            result[f"{name}_median"] = float(points[name].median())
    for row in table.sort_values("variance", ascending=False).head(6).itertuples():
        known = table.loc[row.Index].filter(like="r_").astype(float).dropna()
        near = f"; closest to {known.abs().idxmax()[2:]} (r {known[known.abs().idxmax()]:.2f})" if len(known) else ""
        log.info(f"latent {row.dim}: {row.variance_share:.1%} of the variance, Moran's I {row.moran_i:.2f}{near}.")
    idle = len(table) - result["active_dims"]
    if idle:
        log.info(f"{idle} of {len(table)} dimensions vary less than {scan_maps.ACTIVE_VARIANCE} and say next to nothing.")
    return result


# ----------------------------------------------------------------------------------------------------------- figures


def folder_name(settings: Settings, opened: MapsInput) -> str:
    """Return the folder of the maps, named as the reference names it by what was chosen."""
    task: MapsKikuchiConfig = settings.task
    name = "latent_maps" + "_filtered" * (settings.data.keep is not None) + "_selected" * (task.dims is not None)
    name += f"_dim_{opened.latents.x.shape[1]}"
    if task.roi_xrange is None and task.roi_yrange is None:
        return name
    shapes = np.array([window.scan.map_shape for window in opened.windows]).max(0)
    (x0, x1), (y0, y1) = (
        limits or [0, int(most)] for limits, most in zip((task.roi_xrange, task.roi_yrange), shapes[::-1], strict=True)
    )
    return f"{name}_x_{x0}_{x1}_y_{y0}_{y1}"


def tail(opened: MapsInput, window: Window) -> str:
    """Return what tells the files of several scans apart."""
    return f"__{figures.file_word(window.scan.name)}" if len(opened.windows) > 1 else ""


def robust(settings: Settings, values: np.ndarray) -> tuple[float, float]:
    """Return the limits of the colours."""
    return figures.limits(values, settings.task.robust, 100 - settings.task.robust)


def cut_off(settings: Settings) -> str:
    """Say what the limits are."""
    low = settings.task.robust
    return f"percentiles {low:g} to {100 - low:g}" if low else "all values"


def latent_file(settings: Settings, opened: MapsInput, dim: int, word: str) -> str:
    """Return the file of a dimension's map."""
    return f"{folder_name(settings, opened)}/latent{dim}{word}.png"


def draw_latents(opened: MapsInput, variance: np.ndarray, settings: Settings, results: Results) -> None:
    """Draw every chosen dimension; several scans share its scale. They are many, so the tracker has the contact sheet alone."""
    cmap, share = drawing.colours(settings.task.cmap, settings.task.bad_color), variance / (variance.sum() or 1.0)
    for dim in track(opened.dims, "Drawing maps"):
        column = np.asarray(opened.latents.x[:, dim], float)
        maps = [window.grid(column[window.scan.rows]) for window in opened.windows]
        limits = robust(settings, np.concatenate([one.ravel() for one in maps]))
        for window, picture in zip(opened.windows, maps, strict=True):
            title = f"{window.scan.name}: latent {dim}, {share[dim]:.1%} of the variance"
            label = f"latent {dim} (no unit)\n{cut_off(settings)}"
            path = results.path(latent_file(settings, opened, dim, tail(opened, window)))
            drawing.draw_map(picture, window, limits, cmap, label, title, path)


def draw_contacts(opened: MapsInput, variance: np.ndarray, settings: Settings, results: Results) -> None:
    """Draw all dimensions on one sheet, and those of every baseline on another."""
    sheets = {"contact": (opened.latents.x, "latents", variance / (variance.sum() or 1.0))}
    for name, x in opened.latents.matrices(BASELINE).items():
        spread = scan_maps.variances(x, opened.rows)
        sheets[f"contact_{name}"] = (x, f"components of {name.removeprefix(BASELINE).upper()}", spread / (spread.sum() or 1.0))
    for window in opened.windows:
        for stem, (x, word, share) in sheets.items():
            results.figure(stem + tail(opened, window), draw_sheet, x, word, share, window, settings)


def draw_sheet(x: np.ndarray, word: str, share: np.ndarray, window: Window, settings: Settings, path: Path) -> Path:
    """Draw the maps of all columns of a matrix (N, D)."""

    def pictures() -> Iterator[np.ndarray]:
        return (window.grid(np.asarray(x[:, dim], float)[window.scan.rows]) for dim in range(x.shape[1]))

    limits = [robust(settings, picture) for picture in pictures()]
    names = [f"{dim}: {part:.1%}" for dim, part in enumerate(share)]
    title = (
        f"{window.scan.name}: all {x.shape[1]} {word} with their share of the variance, each on a scale of its own "
        f"({cut_off(settings)})"
    )
    cmap = drawing.colours(settings.task.cmap, settings.task.bad_color)
    return drawing.draw_contact(pictures(), names, limits, window, cmap, title, path)


MEASURED = {
    "kernel_spread": ("mean distance to neighbours\n(standard deviations)", "kernel latent spread"),
    "reconstruction_error": ("mean squared error\n(normalised units)", "reconstruction error"),
}


def measured(opened: MapsInput) -> list[str]:
    """Return what is measured at every point: the error needs a model."""
    return [name for name in MEASURED if name == "kernel_spread" or opened.pictures is not None]


def draw_measured(values: np.ndarray, name: str, opened: MapsInput, settings: Settings, results: Results) -> None:
    """Draw a number of every point over the scan, and write it as a map; several scans share the scale."""
    (label, title), cmap = MEASURED[name], drawing.colours(settings.task.cmap, settings.task.bad_color)
    maps = [window.grid(values[window.scan.rows]) for window in opened.windows]
    limits = robust(settings, np.concatenate([one.ravel() for one in maps]))
    for window, picture in zip(opened.windows, maps, strict=True):
        stem = f"{name}{tail(opened, window)}"
        with atomic(results.path(f"{stem}.npy")) as temporary:
            np.save(temporary, window.scan.grid(values[window.scan.rows]))
        results.figure(stem, drawing.draw_map, picture, window, limits, cmap, label, f"{window.scan.name}: {title}")
