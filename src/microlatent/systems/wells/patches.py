"""The patches and tracks of one site: ``patches.h5`` and ``tracks.csv``, written frame by frame, so memory holds one frame.

Layout of ``<folder>/<well>-supps/<site>/patches.h5``, rows ordered by frame, then cell:

    mat, masked_mat       (N, C, W, W) in the camera's dtype
    mask, enlarged_mask   (N, W, W) uint8, 0 or 1
    table/<column>        (N,) frame, cell_id, y_px, x_px, area_px and every true_* of a simulated specimen
    attributes            well, site, channels, pixel_um and frame_min (absent if unknown), complete (set last)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from microlatent.files import atomic, write_csv, write_pickle
from microlatent.systems.wells import cells as cutting
from microlatent.systems.wells import linking
from microlatent.systems.wells.schema import PatchConfig

MASK_NAMES = ("mask", "enlarged_mask")
LASTING_IDS = 0.9  # tracks=auto takes mask values for track ids from this share on (real tracked masks: 0.97 to 0.99)


class Frame(NamedTuple):
    """One time point of a site."""

    number: int
    image: np.ndarray  # (C, Y, X)
    labels: np.ndarray  # (Y, X), 0 is background


class NoCells(ValueError):
    """No frame of a site has a cell."""


class SiteCells(NamedTuple):
    """What was cut from a site."""

    folder: Path
    cells: pd.DataFrame  # frame, cell_id, y_px, x_px, area_px, true_* of every patch, in row order
    tracks: pd.DataFrame  # trajectory, frame, cell_id, y_px, x_px
    num_frames: int
    num_skipped: int  # cells whose window left the image
    num_cropped: int  # cells larger than their window
    enough_px: int  # window that holds 99 % of the cells
    linked_by: str  # ids, link or table


def site_folder(root: str | Path, well: str, site: str) -> Path:
    """Return ``<root>/<well>-supps/<site>``, the folder that all readers of patches know."""
    return Path(root) / f"{well}-supps" / site


def write_site(
    folder: Path,
    frames: Iterable[Frame],
    settings: PatchConfig,
    *,
    well: str,
    site: str,
    channels: list[str],
    pixel_um: float | None = None,
    frame_min: float | None = None,
    tracks: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
) -> SiteCells:
    """Cut every cell of a site, track the cells, and write both.

    Parameters
    ----------
    frames
        In increasing number; read once.
    settings
        How to cut and how to link.
    channels
        Names of the image's channels.
    tracks
        Another program's tracks (see ``linking.tracks_from_table``); takes the place of ``settings.tracks``.
    truth
        Columns frame, cell_id and true_*: carried along in the table.

    Raises
    ------
    NoCells
        If no frame has a cell.
    ValueError
        If an image is not (C, Y, X) with these channels, or image and mask differ in size.
    """
    parts, num_frames, num_skipped, num_cropped = [], 0, 0, 0
    reach: list[np.ndarray] = []
    with atomic(folder / "patches.h5") as temporary, h5py.File(temporary, "w") as file:
        for frame in frames:
            refuse_unlike(frame, channels, site)
            found, patches, skipped = cut_frame(frame, settings)
            parts.append(pd.DataFrame({"frame": frame.number, **found._asdict()}).drop(columns="reach_px"))
            reach.append(found.reach_px)
            num_frames, num_skipped = num_frames + 1, num_skipped + skipped
            num_cropped += int((patches.mask.sum(axis=(1, 2)) < found.area_px).sum())
            for name, rows in patches._asdict().items():
                _append(file, name, rows)
            if settings.reference_files and len(found.cell_id):
                _write_stacks(folder, frame.number, found, patches)
        cells = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if cells.empty:
            raise NoCells(
                f"{site}: none of its {num_frames} frames has a cell of at least {settings.min_area_px} px"
                + (f" ({num_skipped} were skipped at the boundary)." if num_skipped else ".")
                + " Cells are the values above 0 of the masks: check task.masks, task.min_area_px and task.boundary."
            )
        if truth is not None:
            truth = truth[["frame", "cell_id", *(name for name in truth if name.startswith("true_"))]]
            cells = cells.merge(truth, on=["frame", "cell_id"], how="left", validate="one_to_one")
        for name in cells:
            file[f"table/{name}"] = cells[name].to_numpy()
        known = {"pixel_um": pixel_um, "frame_min": frame_min}
        file.attrs.update({"well": well, "site": site, "channels": channels})
        file.attrs.update({name: value for name, value in known.items() if value is not None})
        tracked, linked_by = _track(cells, settings, tracks, pixel_um)
        write_csv(tracked, folder / "tracks.csv")
        file.attrs["complete"] = True
    if settings.reference_files:
        _write_trajectories(folder, tracked)
    enough_px = 16 * int(np.ceil((2 * np.percentile(np.concatenate(reach), 99) + 2) / 16))
    return SiteCells(folder, cells, tracked, num_frames, num_skipped, num_cropped, enough_px, linked_by)


def cut_frame(frame: Frame, settings: PatchConfig) -> tuple[cutting.Cells, cutting.Patches, int]:
    """Return the cells of a frame, their patches, and how many were skipped at the boundary."""
    found, skipped = cutting.find_cells(frame.labels, settings.min_area_px), 0
    if settings.boundary == "skip":
        corners = cutting.window_corners(found, settings.window_px)
        keep = cutting.inside(corners, settings.window_px, frame.labels.shape)
        found, skipped = cutting.Cells(*(column[keep] for column in found)), int((~keep).sum())
    patches = cutting.cut(
        frame.image, frame.labels, found, settings.window_px, settings.dilate_cell_px, settings.dilate_neighbour_px
    )
    return found, patches, skipped


def refuse_unlike(frame: Frame, channels: list[str], site: str) -> None:
    """Refuse a frame that has other channels than were named, or another size than its mask."""
    if frame.image.ndim != 3 or len(frame.image) != len(channels):
        raise ValueError(
            f"{site}, frame {frame.number}: the image has the shape {frame.image.shape}, but {len(channels)} channels "
            f"({', '.join(channels)}) of rows and columns were expected. Name its channels in data.channel_names."
        )
    if frame.image.shape[1:] != frame.labels.shape:
        raise ValueError(
            f"{site}, frame {frame.number}: the image has {frame.image.shape[1:]} rows and columns, but its mask "
            f"{frame.labels.shape}. They must be of one size: check task.images and task.masks, or crop one to the other."
        )


def _append(file: h5py.File, name: str, rows: np.ndarray) -> None:
    """Add rows to a data set that grows; masks are compressed, for they are nearly all zeros."""
    if name not in file:
        file.create_dataset(
            name,
            data=rows,
            maxshape=(None, *rows.shape[1:]),
            chunks=(1, *rows.shape[1:]),
            compression="gzip" if name in MASK_NAMES else None,
            compression_opts=1 if name in MASK_NAMES else None,
        )
    elif len(rows):
        if rows.dtype != file[name].dtype:
            raise ValueError(
                f"The pixels change from {file[name].dtype} to {rows.dtype} within a site. Save all of its frames as one type."
            )
        data = file[name]
        data.resize(len(data) + len(rows), axis=0)
        data[-len(rows) :] = rows


def _track(
    cells: pd.DataFrame, settings: PatchConfig, table: pd.DataFrame | None, pixel_um: float | None
) -> tuple[pd.DataFrame, str]:
    """Return the tracks and how they were made."""
    if table is not None:
        return linking.tracks_from_table(table, cells, pixel_um, min_track_frames=settings.min_track_frames), "table"
    how = settings.tracks
    if how == "auto":
        how = "ids" if linking.share_of_lasting_ids(cells) > LASTING_IDS else "link"
    if how == "ids":
        return linking.tracks_from_ids(cells, settings.min_track_frames), how
    return linking.link(cells, settings.max_step_px, settings.max_gap_frames, settings.min_track_frames), how


def _write_stacks(folder: Path, number: int, found: cutting.Cells, patches: cutting.Patches) -> None:
    """Write ``stacks_<t>.pkl`` as the wells reference: float64 (C + 2, 1, W, W), the two masks as last channels."""
    stacks: dict[str, dict[str, np.ndarray]] = {}
    for n, cell_id in enumerate(found.cell_id):
        masks = patches.mask[n][None], patches.enlarged_mask[n][None]
        stacks[os.path.join(folder, f"{number}_{cell_id}.h5")] = {
            name: np.concatenate([getattr(patches, name)[n], *masks]).astype(np.float64)[:, None]
            for name in ("mat", "masked_mat")
        }
    write_pickle(stacks, folder / f"stacks_{number}.pkl")


def _write_trajectories(folder: Path, tracks: pd.DataFrame) -> None:
    """Write ``cell_traj.pkl`` as the wells reference: a list of two lists, of frame to cell and of frame to position."""
    trajectories: list[dict[int, Any]] = []
    positions: list[dict[int, Any]] = []
    for _, track in tracks.groupby("trajectory"):
        trajectories.append(dict(zip(track["frame"].tolist(), track["cell_id"].tolist(), strict=True)))
        centres = track[["y_px", "x_px"]].to_numpy().astype(np.int64)
        positions.append(dict(zip(track["frame"].tolist(), centres, strict=True)))
    write_pickle([trajectories, positions], folder / "cell_traj.pkl")
