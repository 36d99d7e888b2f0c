"""Cut the cells of one frame out of its image and its instance mask.

Shapes: C channels, Y rows, X columns, W window, n cells. Everything is done inside each cell's window and in the camera's
dtype, so a frame costs little more memory than its patches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Cells(NamedTuple):
    """The cells of one frame, ordered by ``cell_id``."""

    cell_id: np.ndarray  # (n,) int64, values of the mask
    y_px: np.ndarray  # (n,) float64, mean row of the cell's pixels
    x_px: np.ndarray  # (n,) float64, mean column
    area_px: np.ndarray  # (n,) int64, number of pixels
    reach_px: np.ndarray  # (n,) int64, rows or columns from the window's centre to the cell's farthest pixel


class Patches(NamedTuple):
    """Windows around the cells of one frame."""

    mat: np.ndarray  # (n, C, W, W), zero outside the image
    masked_mat: np.ndarray  # (n, C, W, W), other cells and the outside filled with the frame's background
    mask: np.ndarray  # (n, W, W) uint8, the cell's own pixels
    enlarged_mask: np.ndarray  # (n, W, W) uint8, the cell's pixels dilated


def find_cells(labels: np.ndarray, min_area_px: int = 1) -> Cells:
    """Return the cells of an instance mask (Y, X); 0 is background, smaller labels than ``min_area_px`` are none."""
    rows, columns = np.nonzero(labels)
    values, inverse, area = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    y, x = (np.bincount(inverse, weights=position, minlength=len(values)) / area for position in (rows, columns))
    far = np.maximum(np.abs(rows - y.astype(np.int64)[inverse]), np.abs(columns - x.astype(np.int64)[inverse]))
    reach = np.zeros(len(values), np.int64)
    np.maximum.at(reach, inverse, far)
    keep = area >= min_area_px
    return Cells(values[keep].astype(np.int64), y[keep], x[keep], area[keep], reach[keep])


def window_corners(cells: Cells, window_px: int) -> np.ndarray:
    """Return the first row and column (n, 2) of each window; the centre is the mean pixel without its fraction."""
    return np.stack([cells.y_px.astype(np.int64), cells.x_px.astype(np.int64)], axis=1) - window_px // 2


def inside(corners: np.ndarray, window_px: int, shape_px: tuple[int, int]) -> np.ndarray:
    """Return for each window (n,) whether all of it lies in the image."""
    return np.all((corners >= 0) & (corners + window_px <= np.array(shape_px)), axis=1)


def background(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the median (C,) of the pixels outside all cells, in the image's dtype; of all pixels where cells cover all."""
    outside = labels == 0
    if not outside.any():
        outside = np.ones_like(outside)
    return np.array([np.median(channel[outside]) for channel in image]).astype(image.dtype)


def cut(
    image: np.ndarray,
    labels: np.ndarray,
    cells: Cells,
    window_px: int = 256,
    dilate_cell_px: int = 10,
    dilate_neighbour_px: int = 5,
) -> Patches:
    """Cut a window around each cell.

    In ``masked_mat`` the background's median replaces every pixel within ``dilate_neighbour_px`` of another cell, unless it
    lies less than ``dilate_cell_px`` from this one, and every pixel outside the image. The other variant keeps the image and
    is zero outside. Labels without a row in ``cells`` still count as other cells.

    Parameters
    ----------
    image
        (C, Y, X), any real dtype.
    labels
        (Y, X) integers, 0 is background.
    """
    margin = max(dilate_cell_px, dilate_neighbour_px) + 1  # a neighbour beyond the window's edge still reaches into it
    num_cells, height, width = len(cells.cell_id), *labels.shape
    fill = background(image, labels)[:, None, None]
    mat = np.zeros((num_cells, len(image), window_px, window_px), image.dtype)
    masked_mat = np.empty_like(mat)
    mask = np.zeros((num_cells, window_px, window_px), np.uint8)
    enlarged = np.zeros_like(mask)
    side = window_px + 2 * margin
    middle = slice(margin, margin + window_px)
    for n, (top, left) in enumerate(window_corners(cells, window_px)):
        y, x = top - margin, left - margin
        rows, columns = slice(max(0, y), min(height, y + side)), slice(max(0, x), min(width, x + side))
        around = np.zeros((side, side), labels.dtype)
        around[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = labels[rows, columns]
        is_cell = around == cells.cell_id[n]
        large = _near(is_cell, dilate_cell_px, strictly=True)[middle, middle]
        others = _near((around != 0) & ~is_cell, dilate_neighbour_px, strictly=False)[middle, middle]

        rows, columns = slice(max(0, top), min(height, top + window_px)), slice(max(0, left), min(width, left + window_px))
        here = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        mat[n][:, here[0], here[1]] = image[:, rows, columns]
        replace = np.ones((window_px, window_px), bool)
        replace[here] = (others & ~large)[here]
        masked_mat[n] = np.where(replace, fill, mat[n])
        mask[n] = is_cell[middle, middle]
        enlarged[n] = large
    return Patches(mat, masked_mat, mask, enlarged)


def _near(pixels: np.ndarray, radius: int, *, strictly: bool) -> np.ndarray:
    """Dilate by a disc: pixels at a distance below ``radius`` (or up to it) of any of ``pixels``."""
    if not pixels.any():
        return pixels
    distance = ndimage.distance_transform_edt(~pixels)
    return distance < max(radius, 1) if strictly else distance <= radius
