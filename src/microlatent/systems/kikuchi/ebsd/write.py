"""Write EBSD scans as Oxford H5OINA, block by block: what the reader beside this file reads.

Source: Oxford Instruments, H5OINA file format specification, 5.0 to 8.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from microlatent.files import atomic
from microlatent.systems.kikuchi.ebsd import oxford
from microlatent.systems.kikuchi.ebsd.elements import ATOMIC_NUMBER
from microlatent.systems.kikuchi.ebsd.scan import EULER

Blocks = np.ndarray | Iterable[np.ndarray]  # all patterns (N, h, w), or blocks of them in the order of points
CHUNK_BYTES = 256 * 1024  # patterns are compressed and read in pieces of about this size

# Types of the data sets of H5OINA.
OXFORD_TYPES = dict.fromkeys(("bandcontrast", "band_slope", "bands", "error", "phase"), np.uint8)
OXFORD_TYPES |= dict.fromkeys(("mad_rad", "pattern_quality"), np.float32)


@dataclass(kw_only=True)
class Phase:
    """A crystal structure that points may have; where only its name is said, nickel's cubic cell stands in."""

    name: str
    lattice_angstrom: tuple[float, float, float] = (3.5236, 3.5236, 3.5236)
    lattice_deg: tuple[float, float, float] = (90.0, 90.0, 90.0)
    space_group: int = 225
    laue_group: int = 11  # Oxford's number; 11 is m-3m


def write_h5oina(
    path: str | Path,
    patterns: Blocks,
    map_shape: tuple[int, int],
    *,
    step_um: tuple[float, float],
    columns: Mapping[str, np.ndarray] | None = None,
    elements: Mapping[str, np.ndarray] | None = None,
    phases: Mapping[int, Phase | str] | None = None,
    static_background: np.ndarray | None = None,
    background_corrected: bool = False,
    unprocessed: Blocks | None = None,
    unprocessed_static_background: np.ndarray | None = None,
    pattern_centre: np.ndarray | tuple[float, float, float] | None = None,
    beam_kv: float = 20.0,
    sample_tilt_deg: float = 70.0,
    detector_tilt_deg: float = 0.0,
    version: str = "7.0",
) -> None:
    """Write a scan as Oxford H5OINA, with one slice named 1.

    Parameters
    ----------
    patterns, unprocessed
        Processed and unprocessed patterns (N, h, w), or an iterable of blocks (n, h, w), row by row of the map.
    map_shape
        Rows and columns of the map; N is their product.
    step_um
        Distance of neighbouring rows and of neighbouring columns.
    columns
        Values (N,) by our names: those of ``oxford.COLUMNS``, phi1_rad, Phi_rad and phi2_rad. Phase 0 is not indexed.
    elements
        Weight percent (N,) by chemical symbol.
    phases
        Phases, or their names alone, by number from 1.
    static_background, unprocessed_static_background
        The recorded background (h, w) of either kind of patterns.
    background_corrected
        Whether it was removed from the processed patterns already.
    pattern_centre
        Bruker convention: x from the left and y from the top as shares of width and height, z in heights; (3,) or (N, 3).
    beam_kv, sample_tilt_deg, detector_tilt_deg
        Acceleration voltage and geometry.
    version
        Of the format, 5.0 to 8.0: patterns are compressed with LZF below 8.0.

    Raises
    ------
    ValueError
        Values do not fit the map, or a column or element is unknown.
    """
    num, columns = map_shape[0] * map_shape[1], dict(columns or {})
    major = int(version.split(".")[0])
    if not 5 <= major <= 8:
        raise ValueError(f"version is {version!r}, but H5OINA holds patterns in 5.0 to 8.0. Take one of these.")
    compression = "lzf" if major < 8 else None
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for name, text in (("Manufacturer", "Oxford Instruments"), ("Format Version", version), ("Index", "1")):
            _scalar(file, name, text)
        _scalar(file, "Software Version", "microlatent")
        file["Index"].attrs["Type"] = "Single"
        data, header = file.create_group("1/EBSD/Data"), file.create_group("1/EBSD/Header")
        shape = _write_patterns(data, "Processed Patterns", patterns, num, compression)
        if unprocessed is not None:
            other = _write_patterns(data, "Unprocessed Patterns", unprocessed, num, compression)
            if other != shape:
                raise ValueError(f"unprocessed patterns have {other} px, but processed ones {shape}. Give both in one size.")
        for prefix, background in (("Processed", static_background), ("Unprocessed", unprocessed_static_background)):
            if background is not None:
                header[f"{prefix} Static Background"] = _like_pattern(background, shape)
        _write_oxford_columns(data, columns, num)
        _write_grid(data, map_shape, step_um)
        _write_oxford_header(header, map_shape, step_um, shape)
        values = {"Beam Voltage": beam_kv, "Tilt Angle": np.radians(sample_tilt_deg)}
        values |= {"Static Background Correction": np.uint8(background_corrected), "Scanning Rotation Angle": 0.0}
        values |= {"Camera Binning Mode" if major < 7 else "Camera Mode": f"1x1 ({shape[1]}x{shape[0]} px)"}
        for name, value in values.items():
            _scalar(header, name, value)
        header["Specimen Orientation Euler"] = np.zeros((1, 3), np.float32)
        header["Detector Orientation Euler"] = np.array([[0, np.pi / 2 + np.radians(detector_tilt_deg), 0]], np.float32)
        if pattern_centre is not None:
            centre, ratio = np.broadcast_to(np.asarray(pattern_centre, float), (num, 3)), shape[0] / shape[1]
            stored = np.stack([centre[:, 0], (1 - centre[:, 1]) * ratio, centre[:, 2] * ratio], -1).astype(np.float32)
            for axis, name in enumerate(("Pattern Center X", "Pattern Center Y", "Detector Distance")):
                data[name] = stored[:, axis]
        for number, phase in (phases or {}).items():
            _write_oxford_phase(header.create_group(f"Phases/{number}"), phase)
        if elements:
            _write_eds(file.create_group("1/EDS"), elements, map_shape, step_um)


def _write_patterns(group: h5py.Group, name: str, patterns: Blocks, num: int, compression: str | None) -> tuple[int, int]:
    """Write patterns block by block; return their rows and columns."""
    blocks: Iterator[np.ndarray] = iter([patterns] if isinstance(patterns, np.ndarray) else patterns)
    first = next(blocks, None)
    if first is None or first.ndim != 3:
        raise ValueError(f"{name} have the shape {None if first is None else first.shape}; blocks must be (n, h, w).")
    shape, begin = first.shape[1:], 0
    # At most CHUNK_BYTES, at least one pattern.
    chunk = max(1, min(num, CHUNK_BYTES // max(1, first[:1].nbytes)))
    storage = {"chunks": (chunk, *shape), "compression": compression} if compression else {}
    dataset = group.create_dataset(name, (num, *shape), first.dtype, **storage)
    for block in chain([first], blocks):
        if block.shape[1:] != shape or begin + len(block) > num:
            raise ValueError(
                f"{name} are blocks of {first.shape} and {block.shape}, {begin + len(block)} patterns so far, but the map has "
                f"{num} points. Give one pattern of one size per point."
            )
        dataset[begin : begin + len(block)] = block
        begin += len(block)
    if begin != num:
        raise ValueError(f"{name} are {begin} patterns, but the map has {num} points. Give one pattern per point.")
    return tuple(int(side) for side in shape)


def _write_oxford_columns(data: h5py.Group, columns: dict[str, np.ndarray], num: int) -> None:
    unknown = sorted(set(columns) - {*oxford.COLUMNS, *EULER})
    if unknown:
        raise ValueError(f"columns {unknown} have no place in H5OINA. It has {[*oxford.COLUMNS, *EULER]}.")
    # Phase and Euler are what the format cannot be without.
    columns = {"phase": np.zeros(num, np.uint8)} | dict.fromkeys(EULER, np.zeros(num, np.float32)) | columns
    for name, dataset in oxford.COLUMNS.items():
        if name in columns:
            data[dataset] = _per_point(name, columns[name], num).astype(OXFORD_TYPES[name])
    data["Euler"] = np.stack([_per_point(name, columns[name], num) for name in EULER], -1).astype(np.float32)
    data["Euler"].attrs["Unit"] = "rad"


def _write_oxford_header(
    header: h5py.Group, map_shape: tuple[int, int], step_um: tuple[float, float], pattern_shape: tuple[int, int] | None = None
) -> None:
    values: dict[str, Any] = {"Y Cells": map_shape[0], "X Cells": map_shape[1]}
    values |= {"Y Step": float(step_um[0]), "X Step": float(step_um[1])}
    if pattern_shape:
        values |= {"Pattern Height": pattern_shape[0], "Pattern Width": pattern_shape[1]}
    for name, value in values.items():
        _scalar(header, name, value)


def _write_grid(data: h5py.Group, map_shape: tuple[int, int], step_um: tuple[float, float]) -> None:
    for name, axis, step in zip(("Y", "X"), np.indices(map_shape), step_um, strict=True):
        data[name] = (axis.ravel() * float(step)).astype(np.float32)
        data[name].attrs["Unit"] = "um"


def _write_oxford_phase(group: h5py.Group, phase: Phase | str) -> None:
    phase = Phase(name=phase) if isinstance(phase, str) else phase
    for name, value in (
        ("Phase Name", phase.name),
        ("Reference", "microlatent"),
        ("Laue Group", phase.laue_group),
        ("Space Group", phase.space_group),
    ):
        _scalar(group, name, value)
    group["Lattice Dimensions"] = np.array([phase.lattice_angstrom], np.float32)
    group["Lattice Angles"] = np.radians([phase.lattice_deg]).astype(np.float32)


def _write_eds(
    group: h5py.Group, elements: Mapping[str, np.ndarray], map_shape: tuple[int, int], step_um: tuple[float, float]
) -> None:
    unknown = sorted(set(elements) - set(ATOMIC_NUMBER))
    if unknown:
        raise ValueError(f"elements are named {unknown}, which are no chemical symbols. Name them as Fe or O.")
    num, data = map_shape[0] * map_shape[1], group.create_group("Data")
    for symbol, values in elements.items():
        data[f"Composition/{symbol}"] = _per_point(symbol, values, num).astype(np.float32)
        data[f"Composition/{symbol}"].attrs["Atomic Number"] = np.int32(ATOMIC_NUMBER[symbol])
    _write_grid(data, map_shape, step_um)
    _write_oxford_header(group.create_group("Header"), map_shape, step_um)


def _per_point(name: str, values: np.ndarray, num: int) -> np.ndarray:
    values = np.asarray(values)
    if values.size != num:
        raise ValueError(f"{name} has {values.size} values, but the map has {num} points. Give one per point, row by row.")
    return values.ravel()


def _like_pattern(background: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    background = np.asarray(background)
    if background.shape != shape:
        raise ValueError(f"A static background has {background.shape} px, but patterns have {shape}. Give one of their size.")
    return background


def _scalar(group: h5py.Group, name: str, value: Any) -> None:
    """Write one value as the formats have it: an array of length 1, text as bytes, numbers of 32 bits but for float."""
    if isinstance(value, str):
        group.create_dataset(name, data=np.array([value.encode()], object), dtype=h5py.string_dtype("utf-8"))
    elif isinstance(value, int):
        group[name] = np.array([value], np.int32)
    else:
        group[name] = np.array([value], getattr(value, "dtype", np.float64))
