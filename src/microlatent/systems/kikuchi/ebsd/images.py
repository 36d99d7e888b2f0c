"""A folder of pattern images named by position: x_<i>_y_<j>, <scan>_x_<i>_y_<j>, or <j>_<i>, which is row and column."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from microlatent.data.io.paths import natural
from microlatent.systems.kikuchi.ebsd.grid import map_around
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points
from microlatent.systems.kikuchi.ebsd.stacks import ImageStack

ENDINGS = (".tif", ".tiff", ".png", ".bmp", ".jpg", ".jpeg")
NAMED = re.compile(r"(?:(?P<scan>.+?)_)?x_(?P<x>\d+)_y_(?P<y>\d+)", re.IGNORECASE)
PLAIN = re.compile(r"(?P<y>\d+)_(?P<x>\d+)")


def images_by_scan(folder: Path) -> dict[str, list[tuple[int, int, Path]]]:
    """Return (y, x, path) of every image named by position, by the scan that its name says ("" where it says none).

    Raises
    ------
    ValueError
        Some names say which number is x and others do not.
    """
    found: dict[str, list[tuple[int, int, Path]]] = {}
    plain, named = None, None
    for path in sorted(folder.iterdir(), key=lambda path: natural(path.name)):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        match = NAMED.fullmatch(path.stem)
        if match:
            named = named or path
        else:
            match = PLAIN.fullmatch(path.stem)
            if not match:
                continue
            plain = plain or path
        scan = match.groupdict().get("scan") or ""
        found.setdefault(scan, []).append((int(match["y"]), int(match["x"]), path))
    if plain and named:
        raise ValueError(
            f"{folder} holds {named.name}, which says what is x and y, and {plain.name}, which would be row and column. Name all "
            "patterns in one way, such as x_3_y_7.tif."
        )
    return found


def open_images(folder: Path) -> list[Scan]:
    """Return the scans of a folder, each named as its images or as the folder.

    Raises
    ------
    ValueError
        Two images are of one point, names are no columns and rows, or the first image is damaged or coloured.
    """
    scans = []
    for name, images in images_by_scan(folder).items():
        y, x = (np.array([image[axis] for image in images]) for axis in (0, 1))
        map_shape = map_around(folder, y, x)
        points, order = grid_points(folder, map_shape, None, {}, y=y, x=x)
        paths = [path for _, _, path in images]
        scans.append(
            Scan(
                name=name or folder.name,
                path=folder,
                format="pattern images",
                map_shape=map_shape,
                points=points,
                stack=ImageStack.open(paths),
                order=order,
                files=paths,
            )
        )
    return scans
