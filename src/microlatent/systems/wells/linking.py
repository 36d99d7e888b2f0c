"""Join the cells of consecutive frames to tracks.

Two assignment problems: from frame to frame, then from the ends of tracks to later beginnings. A cell's size counts beside
its distance. Source: Jaqaman et al. 2008 (doi 10.1038/nmeth.1237); costs as in the wells reference.

Tables of cells have the columns frame, cell_id, y_px, x_px, area_px; tables of tracks have trajectory (0, 1, ...), frame,
cell_id, y_px, x_px and are ordered by trajectory, then frame.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

TRACK_COLUMNS = ["trajectory", "frame", "cell_id", "y_px", "x_px"]
FAR = 10.0  # cost of an impossible pair, in units of the longest step's


def link(cells: pd.DataFrame, max_step_px: float = 100.0, max_gap_frames: int = 2, min_track_frames: int = 3) -> pd.DataFrame:
    """Track cells without knowing them; a frame without cells ends no more than the links through it.

    Parameters
    ----------
    cells
        Table of cells; ``frame`` counts consecutive frames, and a number may be absent.
    max_step_px
        A link is never longer, whether between neighbouring frames or over a gap.
    max_gap_frames
        Frames a cell may be missing and still be the same: 0, 1 or 2.
    min_track_frames
        Tracks with fewer cells are dropped.
    """
    cells = cells.sort_values(["frame", "cell_id"], ignore_index=True)
    rows = {frame: group.index.to_numpy() for frame, group in cells.groupby("frame")}
    position, area = cells[["y_px", "x_px"]].to_numpy(float), cells["area_px"].to_numpy(float)
    following = np.full(len(cells), -1)  # row of the same cell in a later frame
    for frame, here in rows.items():
        there = rows.get(frame + 1)
        if there is not None:
            i, j = link_frames(position[here], area[here], position[there], area[there], max_step_px)
            following[here[i]] = there[j]
    if max_gap_frames:
        has_past = np.isin(np.arange(len(cells)), following)
        ends, starts = np.flatnonzero(following < 0), np.flatnonzero(~has_past)
        frame = cells["frame"].to_numpy()
        i, j = close_gaps(position[ends], frame[ends], position[starts], frame[starts], max_step_px, max_gap_frames)
        following[ends[i]] = starts[j]
    return _chains(cells, following, min_track_frames)


def link_frames(
    position: np.ndarray, area: np.ndarray, next_position: np.ndarray, next_area: np.ndarray, max_step_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (i, j) of the same cells in one frame (n, 2 centres; n areas) and the next (m)."""
    longest = max_step_px**2
    distance = _squared_distance(position, next_position)
    is_near = distance < longest
    distance = np.where(is_near, distance, FAR * longest)
    ratio = next_area[None] / area[:, None]
    size = ratio + 1 / ratio  # 2 for equal sizes
    size = np.where(size >= 2.5, 20.0, size) ** 1.4
    base = np.percentile(size, 10)
    cost = _with_alternatives(distance * size, distance, 1.05 * longest * base, FAR * longest * base)
    return _accepted(cost, is_near)


def close_gaps(
    end: np.ndarray,
    end_frame: np.ndarray,
    start: np.ndarray,
    start_frame: np.ndarray,
    max_step_px: float,
    max_gap_frames: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (i, j) of track ends and of the later beginnings that continue them after a gap."""
    # Only ends and beginnings that some pair could join enter the assignment: it grows with the cube of their number.
    step = start_frame[None] - end_frame[:, None]
    distance = _squared_distance(end, start)
    valid = (step >= 2) & (step <= max_gap_frames + 1) & (distance < max_step_px**2)
    ends, starts = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    if len(ends) == 0:
        return ends, starts
    valid, step, distance = (array[np.ix_(ends, starts)] for array in (valid, step, distance))
    distance = distance * np.where(step == 2, 1.0, 4.0)
    alternative = 1.05 * np.percentile(distance[valid], 90)  # a little dearer than a tie, so that a lone candidate is joined
    blocked = FAR * max(max_step_px**2, distance[valid].max())
    cost = np.where(valid, distance, blocked)
    i, j = _accepted(_with_alternatives(cost, cost, alternative, blocked), valid)
    return ends[i], starts[j]


def tracks_from_ids(cells: pd.DataFrame, min_track_frames: int = 1) -> pd.DataFrame:
    """Return the tracks of masks whose values are the same for the same cell in all frames."""
    tracks = cells.sort_values(["cell_id", "frame"], ignore_index=True)
    tracks = tracks[tracks.groupby("cell_id")["frame"].transform("size") >= min_track_frames]
    return _numbered(tracks.assign(trajectory=tracks["cell_id"]))


def share_of_lasting_ids(cells: pd.DataFrame) -> float:
    """Return how often a cell's nearest neighbour in the next frame has the same value: near 1 where values are track ids.

    Cells whose value is absent from the next frame count as different.
    """
    kept = total = 0
    frames = {frame: group for frame, group in cells.groupby("frame")}
    for frame, here in frames.items():
        there = frames.get(frame + 1)
        if there is not None:
            _, nearest = cKDTree(there[["y_px", "x_px"]]).query(here[["y_px", "x_px"]])
            kept += int((there["cell_id"].to_numpy()[nearest] == here["cell_id"].to_numpy()).sum())
            total += len(here)
    return kept / total if total else 0.0


def tracks_from_table(
    table: pd.DataFrame,
    cells: pd.DataFrame,
    pixel_um: float | None = None,
    max_offset_px: float = 10.0,
    min_track_frames: int = 1,
) -> pd.DataFrame:
    """Return tracks as another program wrote them, joined to our cells.

    Parameters
    ----------
    table
        Columns trajectory, particle or track_id; frame; and cell_id, or positions: y and x (or y_px, x_px) in pixels, or y_um
        and x_um. With positions, each row means the nearest cell within ``max_offset_px``.
    pixel_um
        Needed for y_um and x_um.

    Raises
    ------
    ValueError
        If a column is missing, or fewer than half of the rows in the cells' frames meet a cell.
    """
    table = table.rename(columns={"particle": "trajectory", "track_id": "trajectory", "y": "y_px", "x": "x_px"})
    if {"y_um", "x_um"} <= set(table.columns) and pixel_um:
        table = table.assign(y_px=table["y_um"] / pixel_um, x_px=table["x_um"] / pixel_um)
    has_position = {"y_px", "x_px"} <= set(table.columns)
    if not {"trajectory", "frame"} <= set(table.columns) or not ("cell_id" in table or has_position):
        raise ValueError(
            f"The table of tracks has the columns {', '.join(table.columns)}, but needs trajectory (or particle, track_id), "
            f"frame, and cell_id or y and x in pixels or y_um and x_um (with data.pixel_um). Rename its columns."
        )
    table = table[table["frame"].isin(cells["frame"])]
    if "cell_id" in table:
        found = table[["trajectory", "frame", "cell_id"]].merge(cells, on=["frame", "cell_id"])
    else:
        found = _nearest_cells(table, cells, max_offset_px)
    if len(found) < 0.5 * len(table) or found.empty:
        how = "values of the masks" if "cell_id" in table else f"a cell's centre within {max_offset_px:g} px"
        raise ValueError(
            f"Only {len(found)} of the {len(table)} rows of the table of tracks in the cells' frames ({cells['frame'].min()} to "
            f"{cells['frame'].max()}) meet {how}. Positions may be in um (name the columns y_um and x_um and set data.pixel_um), "
            f"or frames counted from another number (task.mask_frame_offset)."
        )
    found = found[found.groupby("trajectory")["frame"].transform("size") >= min_track_frames]
    return _numbered(found)


def _nearest_cells(table: pd.DataFrame, cells: pd.DataFrame, max_offset_px: float) -> pd.DataFrame:
    """Return for each row of the table the cell that it means; a cell is meant once."""
    parts = [cells.iloc[:0].assign(trajectory=0, distance=0.0)]
    for frame, rows in table.groupby("frame"):
        there = cells[cells["frame"] == frame]
        distance, nearest = cKDTree(there[["y_px", "x_px"]]).query(rows[["y_px", "x_px"]])
        part = there.iloc[nearest].assign(trajectory=rows["trajectory"].to_numpy(), distance=distance)
        part = part[part["distance"] <= max_offset_px].sort_values("distance")
        parts.append(part.drop_duplicates("cell_id").drop_duplicates("trajectory"))
    return pd.concat([part for part in parts if len(part)] or parts)


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None] - b[None]) ** 2).sum(axis=2)


def _with_alternatives(cost: np.ndarray, lower: np.ndarray, alternative: float, blocked: float) -> np.ndarray:
    """Return the square matrix in which each row and column may also stay alone at the cost ``alternative``."""
    n, m = cost.shape
    whole = np.full((n + m, n + m), blocked)
    whole[:n, :m] = cost
    whole[range(n), range(m, m + n)] = alternative
    whole[range(n, n + m), range(m)] = alternative
    whole[n:, m:] = lower.T
    return whole


def _accepted(cost: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, j = linear_sum_assignment(cost)
    real = (i < allowed.shape[0]) & (j < allowed.shape[1])
    i, j = i[real], j[real]
    return i[allowed[i, j]], j[allowed[i, j]]


def _chains(cells: pd.DataFrame, following: np.ndarray, min_track_frames: int) -> pd.DataFrame:
    """Follow the links from every beginning; tracks are numbered by their first frame, then cell."""
    trajectory = np.full(len(cells), -1)
    starts = np.setdiff1d(np.arange(len(cells)), following)
    number = 0
    for row in starts:
        chain = []
        while row >= 0:
            chain.append(row)
            row = following[row]
        if len(chain) >= min_track_frames:
            trajectory[chain] = number
            number += 1
    return _numbered(cells.assign(trajectory=trajectory)[trajectory >= 0])


def _numbered(tracks: pd.DataFrame) -> pd.DataFrame:
    """Return the table in its order with trajectories numbered from 0."""
    tracks = tracks.assign(trajectory=np.unique(tracks["trajectory"], return_inverse=True)[1])
    return tracks.sort_values(["trajectory", "frame"], ignore_index=True)[TRACK_COLUMNS]
