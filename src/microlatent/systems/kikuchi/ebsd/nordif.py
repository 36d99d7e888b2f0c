"""NORDIF: raw 8-bit patterns in Pattern.dat, what is known of them in Setting.txt, the background in a bmp, in one folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from microlatent.systems.kikuchi.ebsd.grid import known_step
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points
from microlatent.systems.kikuchi.ebsd.stacks import RawStack, read_image

BACKGROUND = "background acquisition pattern.bmp"


def is_nordif(folder: Path) -> bool:
    """Return whether a folder is one of NORDIF's."""
    return _inside(folder, "setting.txt") is not None and _inside(folder, "pattern.dat") is not None


def open_nordif(path: Path) -> Scan:
    """Return the scan of a folder, or of its Pattern.dat; it is named as the folder.

    Raises
    ------
    FileNotFoundError
        One of the two files is not there.
    ValueError
        The settings do not say the size, or the patterns are fewer.
    """
    folder = path if path.is_dir() else path.parent
    patterns = _inside(folder, "pattern.dat") if path.is_dir() else path
    settings = _inside(folder, "setting.txt")
    if patterns is None or settings is None:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
        raise FileNotFoundError(
            f"{folder} must hold Pattern.dat and Setting.txt, but holds {there}. Copy the whole folder of the NORDIF scan."
        )
    values = _settings(settings)
    width, height = _pair(settings, values, "acquisition settings", "resolution")
    cols, rows = _pair(settings, values, "area", "number of samples")
    needed, num_bytes = rows * cols * height * width, patterns.stat().st_size
    if num_bytes < needed:
        raise ValueError(
            f"{patterns} is cut short: it has {num_bytes} bytes, but {rows} x {cols} patterns of {height} x {width} px "
            f"({settings.name}) need {needed}. Copy it again."
        )
    step = _number(values, "area", "step size")
    step_um = known_step(step, step)
    points, order = grid_points(patterns, (rows, cols), step_um, {})
    background = _inside(folder, BACKGROUND)
    about = {
        "beam_kv": _number(values, "microscope", "accelerating voltage"),
        "magnification": _number(values, "microscope", "magnification"),
        "working_distance_mm": _number(values, "microscope", "working distance"),
        "sample_tilt_deg": _number(values, "microscope", "tilt angle"),
        "detector_tilt_deg": _number(values, "detector angles", "elevation"),
    }
    return Scan(
        name=folder.name,
        path=patterns,
        format="NORDIF",
        map_shape=(rows, cols),
        points=points,
        stack=RawStack(patterns, np.arange(rows * cols, dtype=np.int64) * height * width, (height, width), np.dtype(np.uint8)),
        order=order,
        step_um=step_um,
        static_background=None if background is None else read_image(background),
        metadata={key: value for key, value in about.items() if value is not None},
        files=[patterns, settings, *([background] if background else [])],
    )


def _inside(folder: Path, name: str) -> Path | None:
    return next((file for file in sorted(folder.iterdir()) if file.name.lower() == name and file.is_file()), None)


def _settings(path: Path) -> dict[tuple[str, str], str]:
    """Return values by section and name, in lower case; lines are name, value and unit between tabs."""
    section, values = "", {}
    for line in path.read_text(encoding="latin-1").splitlines():
        parts = [part.strip() for part in line.split("\t")]
        if parts[0].startswith("["):
            section = parts[0].strip("[]").lower()
        elif len(parts) > 1 and parts[0]:
            values[section, parts[0].lower()] = parts[1]
    return values


def _pair(path: Path, values: dict[tuple[str, str], str], section: str, name: str) -> tuple[int, int]:
    value = values.get((section, name), "")
    found = re.fullmatch(r"(\d+)\s*x\s*(\d+)", value)
    if not found:
        raise ValueError(
            f"{path}: [{section}] {name} is {value!r}, but must be two numbers such as 60x60. The file may be of another "
            "version: write the value there."
        )
    return int(found[1]), int(found[2])


def _number(values: dict[tuple[str, str], str], section: str, name: str) -> float | None:
    found = re.match(r"[-+]?\d+([.,]\d+)?", values.get((section, name), ""))  # some countries' versions write decimal commas
    return float(found[0].replace(",", ".")) if found else None
