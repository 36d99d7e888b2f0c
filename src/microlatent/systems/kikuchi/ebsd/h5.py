"""What vendors' HDF5 files have in common: names with odd cases and spaces, values that are scalars, (1,) or (n, 1)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from microlatent.systems.kikuchi.ebsd.grid import known_step
from microlatent.systems.kikuchi.ebsd.stacks import H5Stack


def open_h5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    ValueError
        It is cut short or damaged.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        sizes = re.search(r"stored_eof = (\d+)", str(error))
        if "truncated" in str(error) and sizes:
            raise ValueError(
                f"{path} is cut short: it has {path.stat().st_size} bytes, but says that it has {sizes[1]}. Copy it again."
            ) from error
        raise ValueError(f"{path} cannot be opened as HDF5 ({error}). It may be damaged or in use: copy it again.") from error


def find(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a member by its path; case and spaces around names do not matter. None if it is not there."""
    for step in name.split("/"):
        if not isinstance(group, h5py.Group):
            return None
        key = step if step in group else next((key for key in group if key.strip().lower() == step.strip().lower()), None)
        if key is None:
            return None
        group = group[key]
    return group


def need(path: Path, group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a data set that the format cannot be without.

    Raises
    ------
    ValueError
        It is not there.
    """
    found = find(group, name)
    if not isinstance(found, h5py.Dataset):
        parent, _, last = name.rpartition("/")
        above = find(group, parent) if parent else group
        where, there = (above.name, list(above)) if isinstance(above, h5py.Group) else (group.name, list(group))
        raise ValueError(
            f"{path} has no data set {last!r} in {where}, which every file of this format has. It has {_some(there)}. "
            "Export the scan again with this part."
        )
    return found


def text(value: h5py.Dataset | None) -> str:
    """Return the text of a data set, however it is wrapped; "" for None."""
    if value is None:
        return ""
    value = np.asarray(value[()]).ravel()
    first = value[0] if len(value) else ""
    return (first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)).strip()


def number(value: h5py.Dataset | None, default: float | None = None) -> float | None:
    """Return the first number of a data set; the default where there is none."""
    if not isinstance(value, h5py.Dataset) or value.dtype.kind not in "buif" or value.size == 0:
        return default
    first = np.asarray(value[()]).ravel()[0]
    return float(first) if value.dtype.kind == "b" else float(str(first))  # a float32 of 0.1 is 0.1, not 0.10000000149


def count(path: Path, group: h5py.Group, name: str) -> int:
    """Return a number of rows, columns or pixels that the format cannot be without.

    Raises
    ------
    ValueError
        It is not there, or not positive.
    """
    value = number(need(path, group, name))
    if value is None or value < 1 or value != int(value):
        raise ValueError(f"{path}: {group.name}/{name} is {value}, but must be a whole number from 1. Export the scan again.")
    return int(value)


def column(value: Any) -> np.ndarray | None:
    """Return a data set of numbers as (n,); None if there is none."""
    if not isinstance(value, h5py.Dataset) or value.dtype.kind not in "buif":
        return None
    return np.asarray(value[()]).ravel()


def steps_um(header: h5py.Group, row: str, col: str) -> tuple[float, float] | None:
    """Return the distances of neighbouring rows and columns; None where the file does not know them."""
    return known_step(number(find(header, row)), number(find(header, col)))


def one_pattern(value: Any) -> np.ndarray | None:
    """Return a background (h, w), whose data set may have axes of length 1 before; None if there is none."""
    if not isinstance(value, h5py.Dataset):
        return None
    pixels = value[()]
    return pixels.reshape(pixels.shape[-2:]) if pixels.ndim > 2 and pixels.size == np.prod(pixels.shape[-2:]) else pixels


def phase_names(phases: h5py.Group | None, name: str) -> dict[int, str]:
    """Return the names of phases by their numbers, which are the names of their groups."""
    numbered = [key for key in phases if key.strip().isdecimal()] if isinstance(phases, h5py.Group) else []
    return {int(key): text(find(phases[key], name)) for key in numbered}


def scan_groups(path: Path, file: h5py.File) -> list[h5py.Group]:
    """Return every group that holds EBSD/Data and EBSD/Header.

    Raises
    ------
    ValueError
        There is none.
    """
    found: list[h5py.Group] = []

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        data, header = (
            (find(node, f"EBSD/{part}") for part in ("Data", "Header")) if isinstance(node, h5py.Group) else (None, None)
        )
        if isinstance(data, h5py.Group) and isinstance(header, h5py.Group):
            found.append(node)

    file.visititems(visit)
    if not found:
        raise ValueError(
            f"{path} has no group with EBSD/Data and EBSD/Header, where this format keeps a scan. It has {_some(list(file))}. "
            "Export the EBSD data with the map."
        )
    return found


def scan_name(path: Path, group: h5py.Group, num: int) -> str:
    """Return the scan's name: the file's stem, and the group where the file holds several."""
    if num == 1:
        return path.stem
    group_name = re.sub(r"^scan\s+", "", group.name.strip("/"), flags=re.IGNORECASE)
    return f"{path.stem}_{re.sub(r'[^0-9A-Za-z.-]+', '-', group_name)}"


def open_stack(path: Path, dataset: h5py.Dataset, map_shape: tuple[int, int]) -> H5Stack:
    """Return the patterns of a whole map; none is read.

    Raises
    ------
    ValueError
        They have other axes, or are more or fewer than the map's points.
    """
    stack = H5Stack.open(path, dataset)
    if stack.num != map_shape[0] * map_shape[1]:
        raise ValueError(
            f"{path}: {dataset.name} holds {stack.num} patterns, but the map of {map_shape[0]} x {map_shape[1]} has "
            f"{map_shape[0] * map_shape[1]} points. The scan was interrupted or cropped: export it again as a rectangle."
        )
    return stack


def _some(names: list[str]) -> str:
    names = sorted(names)
    return (
        ", ".join(repr(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    ) or "nothing"
