"""EDAX UP1 and UP2: raw patterns of 8 and 16 bits behind a short header; map and orientations are in other files."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np

from microlatent.data.ebsd.scan import Scan, grid_points
from microlatent.data.ebsd.stacks import RawStack

logger = logging.getLogger(__name__)
DTYPES = {".up1": np.dtype(np.uint8), ".up2": np.dtype("<u2")}


def open_up(path: Path) -> Scan:
    """Return the scan of a file; version 1 does not say its map, so that its patterns are taken as one row.

    Raises
    ------
    ValueError
        The version is 2, the grid hexagonal, or the file cut short.
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
        map_shape, needed = (1, num), num_bytes if not left and num > 0 else offset + (max(num, 0) + 1) * pattern_bytes
        logger.warning("%s is of version 1, which has no map shape: its %d patterns are taken as one row.", path, num)
    else:
        cols, rows = struct.unpack_from("<2I", head, 17) if len(head) == 42 else (0, 0)
        if len(head) == 42 and head[25]:
            raise ValueError(
                f"{path} was scanned on a hexagonal grid ({rows} rows of {cols}), but only square grids are read: neighbours, "
                "maps and blocks mean rows and columns. Convert it to a square grid in OIM Analysis."
            )
        step_x, step_y = struct.unpack_from("<2d", head, 26) if len(head) == 42 else (0.0, 0.0)
        map_shape, step_um = (rows, cols), (step_y, step_x) if step_x > 0 and step_y > 0 else None
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
