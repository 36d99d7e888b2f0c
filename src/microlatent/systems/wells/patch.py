"""``infer.py task=patch``: images and instance masks to single-cell patches and tracks, streaming frame by frame."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from scipy import ndimage

from microlatent import figures
from microlatent.config import plain
from microlatent.data.folders import note_unfinished, preflight_outputs, raw_folder, raw_path, read_unfinished
from microlatent.data.io.images import Pair, find_fields, join
from microlatent.files import write_csv, write_json
from microlatent.progress import track
from microlatent.provenance import collect_provenance
from microlatent.results import Preflight
from microlatent.schemas import Settings
from microlatent.systems.wells.files import channel_names
from microlatent.systems.wells.patches import Frame, NoCells, SiteCells, cut_frame, refuse_unlike, site_folder, write_site
from microlatent.systems.wells.schema import PatchConfig
from microlatent.systems.wells.source import MADE_FROM, patches_folder

logger = logging.getLogger(__name__)
HOW = {
    "ids": "by the masks' values, task.tracks=ids",
    "link": "linked from frame to frame, task.tracks=link",
    "table": "of the table",
}
COLOURS = [colour for colour in figures.OKABE_ITO if colour != "#000000"]


@dataclass
class Site:
    """One site to cut, with everything that is known about it."""

    pair: Pair
    channels: list[str]
    pixel_um: float | None
    frame_min: float | None
    tracks: pd.DataFrame | None
    truth: pd.DataFrame | None

    @property
    def well(self) -> str:
        """Name of the well."""
        return self.pair.images.well

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.pair.images.site

    def frame(self, index: int) -> Frame:
        """Read a frame by its place in the order of time."""
        number, mask_number = self.pair.frames[index]
        return Frame(number, self.pair.images.frame(number), self.pair.masks.labels(mask_number))

    def close(self) -> None:
        """Close the files that are open."""
        self.pair.images.close()
        self.pair.masks.close()


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Cut every chosen site; return how many frames, cells, tracks there were, and cells skipped at the boundary."""
    task: PatchConfig = settings.task
    root = raw_folder(settings.data, settings.outputs)
    sites, notes, folder = planned(settings, root)
    for note in notes:
        logger.warning(note)
    about = {"root": _made_from(settings), "birth": collect_provenance(plain(settings))}
    write_json(about, folder / MADE_FROM)
    done = _cut_all(sites, folder, task)
    if not done:
        raise ValueError(
            f"None of the {len(sites)} sites has a cell. Cells are the values above 0 of the masks: check task.masks."
        )
    table = pd.DataFrame([_summary(site, cut) for site, cut in done])
    write_csv(table, out / "tables" / "sites.csv")
    counts = [cut.cells.groupby("frame").size().rename("num_cells").reset_index().assign(site=site.name) for site, cut in done]
    write_csv(pd.concat(counts)[["site", "frame", "num_cells"]], out / "tables" / "cells_per_frame.csv")
    tracker.table("sites", table)
    for well in dict.fromkeys(site.well for site, _ in done):
        site, cut = next((site, cut) for site, cut in done if site.well == well)
        tracker.image(f"patch/{well}", draw(site, cut, task, out / "figures" / f"{well}.png"))
    for site, _ in done:
        site.close()
    logger.info("Patches are in %s. Next: python infer.py task=assemble data.root=%s", folder, task.out or settings.data.root)
    return {name: float(table[f"num_{name}"].sum()) for name in ("frames", "cells", "tracks", "skipped")}


def _cut_all(sites: list[Site], folder: Path, task: PatchConfig) -> list[tuple[Site, SiteCells]]:
    """Cut one site after another, and note beside them which are still to come; those without a cell are left out."""
    done: list[tuple[Site, SiteCells]] = []
    before = read_unfinished(folder)
    remaining = list(dict.fromkeys([*before, *(f"{site.well}/{site.name}" for site in sites)]))
    try:
        for site in sites:
            note_unfinished(folder, remaining)
            cut = _cut(site, folder, task, alone=len(sites) == 1)
            remaining.remove(f"{site.well}/{site.name}")
            done += [(site, cut)] if cut else []
    finally:
        note_unfinished(folder, remaining if done else before)  # nothing done: nothing has changed
    return done


def _cut(site: Site, folder: Path, task: PatchConfig, *, alone: bool) -> SiteCells | None:
    target = site_folder(folder, site.well, site.name)
    try:
        cut = write_site(
            target,
            track(_frames(site), f"Cutting {site.name}", total=len(site.pair.frames)),
            task,
            **{"well": site.well, "site": site.name, "channels": site.channels, "tracks": site.tracks, "truth": site.truth},
            **{"pixel_um": site.pixel_um, "frame_min": site.frame_min},
        )
    except NoCells as error:
        if alone:
            raise
        logger.warning("%s The site is left out.", error)
        if not any(target.iterdir()):
            target.rmdir()
        return None
    logger.info(
        "%s: %d cells in %d frames, %d tracks (%s)%s",
        *(site.name, len(cut.cells), cut.num_frames, cut.tracks["trajectory"].nunique(), HOW[cut.linked_by]),
        f", {cut.num_skipped} cells skipped at the boundary" if cut.num_skipped else "",
    )
    if cut.num_cropped > 0.05 * len(cut.cells):
        logger.warning(
            "%s: %.0f %% of the cells reach beyond their window of %d px. task.window_px=%d would hold 99 %% of them.",
            *(site.name, 100 * cut.num_cropped / len(cut.cells), task.window_px, cut.enough_px),
        )
    return cut


def preflight(settings: Settings, out: Path) -> Preflight:
    """Find and join the files, read and cut one frame, estimate the rest."""
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        return _preflight(settings, raw_folder(settings.data, outputs))


def _preflight(settings: Settings, root: Path) -> Preflight:
    task: PatchConfig = settings.task
    sites, notes, folder = planned(settings, root)
    started = time.perf_counter()
    frame = sites[0].frame(0)
    found, patches, _ = cut_frame(frame, task)
    seconds = time.perf_counter() - started
    num_frames = sum(len(site.pair.frames) for site in sites)
    megabytes = (patches.mat.nbytes + patches.masked_mat.nbytes) / 2**20
    return Preflight(
        reads=[f"{site.name}: {len(site.pair.frames)} frames of {', '.join(site.channels)}" for site in sites],
        writes=[str(site_folder(folder, site.well, site.name) / name) for site in sites for name in ("patches.h5", "tracks.csv")],
        memory_mb=2 * megabytes + 2 * frame.image.nbytes / 2**20 + 100,
        disk_mb=megabytes * num_frames * (9 if task.reference_files else 1),
        seconds=seconds * num_frames,
        notes=[*notes, f"{sites[0].name}, frame {frame.number}: {len(found.cell_id)} cells."],
    )


def planned(settings: Settings, root: Path) -> tuple[list[Site], list[str], Path]:
    """Return the chosen sites, what a user should know about the others, and the folder of the patches.

    Raises
    ------
    ValueError, FileNotFoundError
        As ``find_sites``; the folder holds patches of other files; or a site's first frame does not fit its mask.
    """
    sites, notes = find_sites(settings, root)
    folder = Path(settings.task.out) if settings.task.out else patches_folder(root, settings.outputs)
    about = folder / MADE_FROM
    made_from = json.loads(about.read_text(encoding="utf-8")).get("root") if about.is_file() else None
    if about.is_file() and made_from != _made_from(settings):
        raise ValueError(
            f"{folder} holds patches of {made_from}, but data.root is {root}. Choose another folder with task.out=<folder>."
        )
    for site in sites:
        refuse_unlike(site.frame(0), site.channels, site.name)
        site.close()
    return sites, notes, folder


def _made_from(settings: Settings) -> str:
    """Return the folder of images as the folder of patches remembers it; of a specimen, where a run finds it."""
    return str(raw_path(settings.data, settings.outputs).resolve())


def find_sites(settings: Settings, root: Path) -> tuple[list[Site], list[str]]:
    """Return the chosen sites, and what a user should know about the others.

    Raises
    ------
    ValueError, FileNotFoundError
        If patterns match nothing, images and masks do not fit together, or a name in the settings is not there.
    """
    task, data = settings.task, settings.data
    images = find_fields(root, task.images, "task.images", task.well, task.site)
    masks = find_fields(root, task.masks, "task.masks", task.well, task.site)
    pairs, notes = join(images, masks, task.mask_frame_offset)
    for key, wanted, there in (
        ("data.wells", data.wells, [pair.images.well for pair in pairs]),
        ("data.sites", data.sites, [pair.images.site for pair in pairs]),
    ):
        missing = sorted(set(wanted or []) - set(there))
        if missing:
            raise ValueError(f"{key} names {missing}, but the images and masks are of {sorted(set(there))}. Choose among these.")
    pairs = [pair for pair in pairs if not data.wells or pair.images.well in data.wells]
    pairs = [pair for pair in pairs if not data.sites or pair.images.site in data.sites]
    if not pairs:
        raise ValueError(f"No site of data.wells={data.wells} is in data.sites={data.sites}. Leave one of them away.")
    tracks, truth = _read_tracks(task, root, pairs), _read_truth(root)
    sites = []
    for pair in pairs:
        well, name, fov = pair.images.well, pair.images.site, pair.images
        sites.append(
            Site(
                pair,
                channel_names(data.channel_names, fov.channels, fov.num_channels, fov.site),
                *(data.pixel_um or fov.pixel_um, data.frame_min or fov.frame_min),
                _of_site(tracks, well, name),
                _of_site(truth, well, name),
            )
        )
    return sites, notes


def _read_tracks(task: PatchConfig, root: Path, pairs: list[Pair]) -> pd.DataFrame | None:
    """Read another program's tracks; their frames count as the masks' do."""
    if not task.tracks.endswith(".csv"):
        return None
    path = next((path for path in (root / task.tracks, Path(task.tracks)) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"task.tracks={task.tracks}: there is no such file below {root}. Or use auto, ids or link.")
    table = pd.read_csv(path)
    if "site" not in table and len(pairs) > 1:
        raise ValueError(
            f"{path} has no column site, but there are {len(pairs)} sites. Add the column (and well), or choose one site with "
            f"data.sites=[...]."
        )
    if "frame" in table:
        table["frame"] = table["frame"].astype(int) + (task.mask_frame_offset or 0)
    return table


def _read_truth(root: Path) -> pd.DataFrame | None:
    path = root / "truth.csv"
    return pd.read_csv(path, dtype={"well": str, "site": str}) if path.is_file() else None


def _of_site(table: pd.DataFrame | None, well: str, site: str) -> pd.DataFrame | None:
    """Return the rows of a site; of a table without sites, all."""
    if table is None or "site" not in table:
        return table
    here = table["site"].astype(str).isin([site, site.removeprefix(f"{well}-")])
    return table[here & (table["well"] == well) if "well" in table else here]


def _frames(site: Site) -> Iterator[Frame]:
    """Yield the frames; warn once where a mask looks like foreground instead of instances."""
    warned = False
    for index in range(len(site.pair.frames)):
        frame = site.frame(index)
        if not warned and frame.labels.any() and np.ptp(frame.labels[frame.labels > 0]) == 0:
            num_pieces = ndimage.label(frame.labels)[1]
            if num_pieces > 1:
                warned = True
                logger.warning(
                    "%s, frame %d: the mask has one value, %s, in %d separate pieces, which are taken for one cell. If each "
                    "piece is a cell, number them first (scipy.ndimage.label).",
                    *(site.name, frame.number, frame.labels.max(), num_pieces),
                )
        yield frame


def _summary(site: Site, cut: SiteCells) -> dict[str, Any]:
    length = cut.tracks.groupby("trajectory").size()
    return {
        "well": site.well,
        "site": site.name,
        "num_frames": cut.num_frames,
        "num_cells": len(cut.cells),
        "median_cells_per_frame": cut.cells.groupby("frame").size().median(),
        "num_skipped": cut.num_skipped,
        "num_cropped": cut.num_cropped,
        "num_tracks": len(length),
        "median_track_frames": length.median() if len(length) else 0,
        "share_of_cells_in_tracks": len(cut.tracks) / len(cut.cells),
        "median_area_px": cut.cells["area_px"].median(),
        "tracks_from": cut.linked_by,
        "pixel_um": site.pixel_um,
        "folder": str(cut.folder),
    }


def draw(site: Site, cut: SiteCells, task: PatchConfig, path: Path, num_examples: int = 5) -> Path:
    """Draw the middle frame with its cells outlined, coloured by track, and where they came from; beside it patches."""
    frame = site.frame(len(site.pair.frames) // 2)
    found, patches, _ = cut_frame(frame, task)
    height, width = frame.labels.shape
    fig, axes = figures.new(
        *(num_examples, 3),
        width_mm=figures.PAGE_MM,
        height_mm=min(150.0, 12 + 123.0 * height / width),
        width_ratios=[num_examples, 1, 1],
        squeeze=False,
    )
    grid = axes[0, 0].get_gridspec()
    for ax in axes[:, 0]:
        ax.remove()
    ax = fig.add_subplot(grid[:, 0])
    limits = figures.limits(frame.image[0], 0.5, 99.7)
    figures.image(ax, frame.image[0], *limits)
    tracks = cut.tracks.set_index(["frame", "cell_id"])["trajectory"]

    def colour_of(cell_id: int) -> str:
        number = tracks.get((frame.number, cell_id))
        return figures.GREY if number is None else COLOURS[number % len(COLOURS)]

    values, compact = np.unique(frame.labels, return_inverse=True)
    first = int(values[0] == 0)  # place of the first label; find_objects wants them small and without gaps
    compact = compact.reshape(frame.labels.shape) + 1 - first
    for cell_id, box in zip(values[first:], ndimage.find_objects(compact), strict=True):
        if cell_id in found.cell_id:
            _outline(ax, frame.labels == cell_id, box, colour_of(cell_id))
    _tails(ax, cut.tracks[cut.tracks["frame"] <= frame.number])
    figures.scale_bar(ax, site.pixel_um)
    ax.set_title(f"{site.name}, frame {frame.number}: {len(found.cell_id)} cells, {site.channels[0]}", loc="left")
    chosen = np.unique(np.linspace(0, len(found.cell_id) - 1, num_examples).astype(int)) if len(found.cell_id) else []
    for row, (left, right) in enumerate(axes[:, 1:]):
        for column, (ax, name) in enumerate(((left, "mat"), (right, "masked_mat"))):
            ax.set_axis_off()
            if row == 0:
                ax.set_title(("as cut", "others masked")[column])
            if row < len(chosen):
                figures.image(ax, getattr(patches, name)[chosen[row]][0], *limits)
                ax.contour(patches.mask[chosen[row]], [0.5], colors=[colour_of(found.cell_id[chosen[row]])], linewidths=0.7)
    return figures.save(fig, path)


def _outline(ax: Any, cell: np.ndarray, box: tuple[slice, slice], colour: str) -> None:
    """Draw a cell's outline; one pixel around the box closes it."""
    rows, columns = (slice(max(0, part.start - 1), part.stop + 1) for part in box)
    part = np.pad(cell[rows, columns], 1)
    y, x = np.arange(part.shape[0]) + rows.start - 1, np.arange(part.shape[1]) + columns.start - 1
    ax.contour(x, y, part, [0.5], colors=[colour], linewidths=0.8)


def _tails(ax: Any, tracks: pd.DataFrame) -> None:
    """Draw each track's way up to now, the older the fainter."""
    lines, colours = [], []
    for number, rows in tracks.groupby("trajectory"):
        points = rows[["x_px", "y_px"]].to_numpy()
        for age, (a, b) in enumerate(zip(points[-2::-1], points[:0:-1], strict=True)):
            lines.append([a, b])
            colours.append((COLOURS[number % len(COLOURS)], max(0.25, 1 - age / 12)))
    ax.add_collection(LineCollection(lines, colors=colours, linewidths=0.9, capstyle="round"))
