"""EDAX UP1 and UP2: raw patterns of 8 and 16 bits behind a short header; map and orientations are in other files.

Version 1 does not say its map: rows and columns are those of the .ang or EDAX h5 of the same name beside it.
"""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np

from microlatent.systems.kikuchi.ebsd.ang import open_ang
from microlatent.systems.kikuchi.ebsd.edax import open_edax
from microlatent.systems.kikuchi.ebsd.grid import known_step, not_square
from microlatent.systems.kikuchi.ebsd.h5 import open_h5
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points
from microlatent.systems.kikuchi.ebsd.stacks import RawStack

logger = logging.getLogger(__name__)
MAPS_BESIDE = (".ang", ".oh5", ".edaxh5")
DTYPES = {".up1": np.dtype(np.uint8), ".up2": np.dtype("<u2")}


def open_up(path: Path) -> Scan:
    """Return the scan of a file; one of version 1 without a map beside it is one row.

    Raises
    ------
    ValueError
        The version is 2, the grid hexagonal, the file cut short, or the map beside it another one.
    """
    dtype, num_bytes = DTYPES[path.suffix.lower()], path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(42)
    version, width, height, offset = struct.unpack_from("<4I", head) if len(head) >= 16 else (0, 0, 0, 0)
    if not 1 <= version <= 100 or not width or not height:
        raise ValueError(
            f"{path} begins with version {version} and patterns of {height} x {width} px, which no {path.suffix} file does. It "
            f"is damaged or of another kind ({num_bytes} bytes): copy it again."
        )
    if version == 2:
        raise ValueError(
            f"{path} is of version 2, whose layout is not known; 1 and from 3 on are read. Export it again from APEX."
        )
    pattern_bytes, step_um = height * width * dtype.itemsize, None
    if version == 1:
        num, left = divmod(num_bytes - offset, pattern_bytes)
        needed = num_bytes if not left and num > 0 else offset + (max(num, 0) + 1) * pattern_bytes
        map_shape, step_um = _map_beside(path, num)
    else:
        cols, rows = struct.unpack_from("<2I", head, 17) if len(head) == 42 else (0, 0)
        if len(head) == 42 and head[25]:
            raise not_square(f"{path} was scanned on a hexagonal grid ({rows} rows of {cols})")
        step_x, step_y = struct.unpack_from("<2d", head, 26) if len(head) == 42 else (0.0, 0.0)
        map_shape, step_um = (rows, cols), known_step(step_y, step_x)
        needed = offset + rows * cols * pattern_bytes
    num = map_shape[0] * map_shape[1]
    if num_bytes < needed or num < 1:
        raise ValueError(
            f"{path} is cut short: it has {num_bytes} bytes, but {map_shape[0]} x {map_shape[1]} patterns of {height} x {width} "
            f"px need {needed}. Copy it again, or export the part that was scanned."
        )
    if num_bytes > needed:
        logger.warning("%s has %d bytes behind its %d patterns, which are passed over.", path, num_bytes - needed, num)
    points, order = grid_points(path, map_shape, step_um, {})
    starts = offset + np.arange(num, dtype=np.int64) * pattern_bytes
    return Scan(
        name=path.stem,
        path=path,
        format=f"EDAX {path.suffix[1:].upper()}",
        map_shape=map_shape,
        points=points,
        stack=RawStack(path, starts, (height, width), dtype),
        order=order,
        step_um=step_um,
        metadata={"format_version": version},
    )


def _map_beside(path: Path, num: int) -> tuple[tuple[int, int], tuple[float, float] | None]:
    """Return rows and columns of so many patterns, and their step, from the map of the same name; one row where there is none."""
    for beside in sorted(path.parent.iterdir()):
        if beside.stem != path.stem or beside.suffix.lower() not in MAPS_BESIDE:
            continue
        if beside.suffix.lower() == ".ang":
            scan = open_ang(beside)
        else:
            with open_h5(beside) as file:
                scan = open_edax(beside, file, "processed")[0]
        if scan.map_shape[0] * scan.map_shape[1] != num:
            raise ValueError(
                f"{path} has {num} patterns, but {beside.name}, which would say their map, {scan.map_shape[0]} x "
                f"{scan.map_shape[1]} points. Copy both again, or rename the map if it is of another scan."
            )
        logger.info("%s is of version 1: its map of %d x %d points is that of %s.", path, *scan.map_shape, beside.name)
        return scan.map_shape, scan.step_um
    logger.warning(
        "%s is of version 1, which has no map shape: its %d patterns are taken as one row, in which maps and neighbours mean "
        "little. Put the scan's .ang (or .oh5, .edaxh5) beside it as %s.ang.",
        *(path, num, path.stem),
    )
    return (1, num), None
