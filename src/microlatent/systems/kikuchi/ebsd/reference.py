"""The kikuchi reference's HDF5: /images (N, h, w) or (N, 1, h, w), /coords (N, 2) of x and y; the map may have holes."""

from __future__ import annotations

from pathlib import Path

import h5py

from microlatent.systems.kikuchi.ebsd.grid import map_around, whole_numbers
from microlatent.systems.kikuchi.ebsd.h5 import need
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points
from microlatent.systems.kikuchi.ebsd.stacks import H5Stack


def open_reference(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the one scan of a file; its map reaches from x = 0, y = 0 to the largest coordinates.

    Raises
    ------
    ValueError
        A data set is missing or has other axes, or coordinates are doubled or no columns and rows.
    """
    images, coords = need(path, file, "images"), need(path, file, "coords")
    stack = H5Stack.open(path, images)
    if coords.shape != (stack.num, 2):
        raise ValueError(
            f"{path}: /coords has the shape {coords.shape}, but /images holds {stack.num} patterns, so it must be "
            f"({stack.num}, 2): x and y of every pattern. Write both again from the same list."
        )
    x, y = (whole_numbers(path, f"/coords[:, {axis}]", coords[:, axis]) for axis in (0, 1))
    map_shape = map_around(path, y, x)
    points, order = grid_points(path, map_shape, None, {}, y=y, x=x)
    return [
        Scan(name=path.stem, path=path, format="pattern table h5", map_shape=map_shape, points=points, stack=stack, order=order)
    ]
