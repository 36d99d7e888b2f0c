"""Oxford .ebsp: uncompressed patterns at offsets that a table at the beginning of the file lists in the order of the map.

Layout by version (the file begins with its negative as int64; no negative number: version 0): the table begins at byte 0 (0), 8
(1 to 3) or 9 (from 4 on). Before every pattern are four int32 (compressed, rows, columns, bytes), from version 5 on after two
int32 (x and y in the map); behind it, where the version has them, a flag and a float64 each of the beam's x and y in micrometres.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points
from microlatent.systems.kikuchi.ebsd.stacks import RawStack

logger = logging.getLogger(__name__)
FOOTER = np.dtype([("has_x", "u1"), ("x", "<f8"), ("has_y", "u1"), ("y", "<f8")])


def open_ebsp(path: Path) -> Scan:
    """Return the scan of a file; patterns that are not in the table leave holes in the map.

    Raises
    ------
    ValueError
        Patterns are compressed or of several sizes, or the file is cut short.
    """
    raw = np.memmap(path, np.uint8, "r") if path.stat().st_size >= 24 else np.zeros(0, np.uint8)
    first = int(raw[:8].view("<i8")[0]) if len(raw) else 0
    version = -first if first < 0 else 0
    if not len(raw) or version > 6:
        raise ValueError(
            f"{path} ({len(raw)} bytes) begins with {first}, but .ebsp files of the versions 0 to 6 with 0 to -6 or an offset. "
            "It is damaged or newer: export the scan as H5OINA from AZtec."
        )
    table = _offsets(raw, 0 if version == 0 else 8 if version < 4 else 9)
    index = np.flatnonzero(table > 0)
    starts = table[index]
    lead = 8 if version >= 5 else 0
    last = int(starts.max()) + lead + 16 if len(starts) else len(raw) + 1
    if last > len(raw):
        raise _cut_short(path, raw, last)
    compressed, heights, widths, num_bytes = _gather(raw, starts + lead, 16).view("<i4").T
    shape, item = (int(heights[0]), int(widths[0])), 0
    if compressed.any():
        raise ValueError(
            f"{path}: {int((compressed != 0).sum())} of {len(starts)} patterns are compressed, which only AZtec can undo. Export "
            "the scan as H5OINA from AZtec, or store patterns uncompressed."
        )
    if shape[0] > 0 and shape[1] > 0:
        item = int(num_bytes[0]) // (shape[0] * shape[1])
    alike = (heights == shape[0]) & (widths == shape[1]) & (num_bytes == item * shape[0] * shape[1])
    if item not in (1, 2) or not alike.all():
        raise ValueError(
            f"{path}: pattern 0 has {shape[0]} x {shape[1]} px in {num_bytes[0]} bytes, and {int((~alike).sum())} of "
            f"{len(starts)} patterns differ. It is damaged, or newer than version 6: export the scan as H5OINA from AZtec."
        )
    pixels = starts + lead + 16
    if pixels.max() + num_bytes[0] > len(raw):
        raise _cut_short(path, raw, int(pixels.max() + num_bytes[0]))
    y, x, map_shape, step_um = _places(path, raw, starts, pixels + int(num_bytes[0]), index, len(table), version)
    points, order = grid_points(path, map_shape, step_um, {}, y=y, x=x)
    return Scan(
        name=path.stem,
        path=path,
        format=f"Oxford ebsp v{version}",
        map_shape=map_shape,
        points=points,
        stack=RawStack(path, pixels, shape, np.dtype("<u1" if item == 1 else "<u2")),
        order=order,
        step_um=step_um,
        metadata={"format_version": version},
    )


def _offsets(raw: np.ndarray, begin: int) -> np.ndarray:
    """Return the table (n,) of offsets: it ends where the first of the patterns begins, which need not be the first listed."""
    end, tables = len(raw), []
    while begin + 8 <= end:
        part = raw[begin : begin + min(8 << 16, (end - begin) // 8 * 8)].view("<i8")
        nearest = np.minimum.accumulate(np.where(part > 0, part, end))
        # An entry counts as long as no entry up to it points to bytes at or before it.
        inside = begin + 8 * np.arange(len(part)) < np.concatenate([[end], nearest[:-1]])
        part = part[: int(inside.sum())] if not inside.all() else part
        end = min(end, int(nearest[len(part) - 1]))
        tables.append(np.array(part))
        begin += 8 * len(part)
        if not inside.all():
            break
    return np.concatenate(tables) if tables else np.zeros(0, np.int64)


def _gather(raw: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Return so many bytes (n, length) from each start on."""
    out = np.empty((len(starts), length), np.uint8)
    for begin in range(0, len(starts), 65536):  # the index of all patterns at once would be as large as some of them
        out[begin : begin + 65536] = raw[starts[begin : begin + 65536, None] + np.arange(length)]
    return out


def _places(
    path: Path, raw: np.ndarray, starts: np.ndarray, footers: np.ndarray, index: np.ndarray, num: int, version: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int], tuple[float, float] | None]:
    """Return row and column of every pattern, the map's shape, and the step: from the beam where the file says it."""
    step_um, cols = None, None
    if footers.max() + FOOTER.itemsize <= len(raw):
        footer = _gather(raw, footers, FOOTER.itemsize).view(FOOTER).ravel()
        if (footer["has_x"] == 1).all() and (footer["has_y"] == 1).all():
            beam_x, beam_y = (np.unique(footer[axis].round(6)) for axis in "xy")
            cols = len(beam_x)
            if num % cols == 0 and np.array_equal(beam_x[index % cols], footer["x"].round(6)):
                between = [float(np.diff(beam).min()) if len(beam) > 1 else 0.0 for beam in (beam_y, beam_x)]
                step_um = (between[0] or between[1], between[1] or between[0]) if any(between) else None
            else:
                cols = None
    if cols is None and version >= 5:
        x, y = _gather(raw, starts, 8).view("<i4").T.astype(np.int64)
        if min(x.min(), y.min()) >= 0 and (y.max() + 1) * (x.max() + 1) == num:
            return y, x, (int(y.max()) + 1, int(x.max()) + 1), None
    if cols is None:
        logger.warning("%s does not say the places of its patterns: they are taken as one row of %d.", path, num)
        cols = num
    return index // cols, index % cols, (num // cols, cols), step_um


def _cut_short(path: Path, raw: np.ndarray, needed: int) -> ValueError:
    return ValueError(f"{path} is cut short: it has {len(raw)} bytes, but its patterns reach to byte {needed}. Copy it again.")
