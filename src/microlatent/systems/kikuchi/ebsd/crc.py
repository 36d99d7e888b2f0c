"""HKL .cpr and .crc: a map as binary records (.crc), and which fields they have (.cpr).

Angles are in radians, their mean deviation in degrees.

Source: Oxford Instruments HKL, Channel 5; the numbers of the fields as in DefDAP's documentation (Apache-2.0).
"""

from __future__ import annotations

import configparser
from pathlib import Path

import numpy as np

from microlatent.systems.kikuchi.ebsd.elements import ATOMIC_NUMBER
from microlatent.systems.kikuchi.ebsd.grid import known_step
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points, stated

FIELDS = {
    3: ("phi1_rad", "<f4"),
    4: ("Phi_rad", "<f4"),
    5: ("phi2_rad", "<f4"),
    6: ("mad_rad", "<f4"),
    7: ("bandcontrast", "u1"),
    8: ("band_slope", "u1"),
    10: ("bands", "u1"),
    11: ("error", "u1"),
    12: ("reliability", "<f4"),
}
FIRST_WINDOW = 101  # fields of EDS windows count from here


def open_crc(path: Path) -> Scan:
    """Return the map of a pair of files; either may be named.

    Raises
    ------
    FileNotFoundError
        The other one is not there.
    ValueError
        A field is unknown, the map irregular, or the records fewer than the points.
    """
    pair = {file.suffix.lower(): file for file in sorted(path.parent.iterdir()) if file.stem == path.stem}
    if ".cpr" not in pair or ".crc" not in pair:
        other = ".cpr" if ".cpr" not in pair else ".crc"
        raise FileNotFoundError(f"{path} is one of a pair, but {path.stem}{other} is not beside it. Copy both into one folder.")
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        settings.read_string(pair[".cpr"].read_text(encoding="latin-1"))
        job, names = settings["Job"], settings["Fields"]
        shape = job.getint("yCells"), job.getint("xCells")
        step_um = known_step(*(stated(pair[".cpr"], job, name) for name in ("GridDistY", "GridDistX")))
        numbers = [names.getint(f"Field{index}") for index in range(1, names.getint("Count") + 1)]
        if None in numbers:
            raise KeyError(f"Field{numbers.index(None) + 1}")
        mode = settings.get("General", "JobMode", fallback="RegularGrid")
    except (configparser.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{pair['.cpr']} lacks a part of [Job] and [Fields] that every map has ({error}). Export the map again."
        ) from error
    if mode.lower() != "regulargrid" or None in shape:
        raise ValueError(
            f"{pair['.cpr']}: JobMode is {mode!r} with {shape[0]} x {shape[1]} cells, but only maps on a RegularGrid are read. "
            "Export the map as .ctf or H5OINA."
        )
    fields, elements = _fields(pair[".cpr"], numbers, settings)
    record = np.dtype([("phase", "u1"), *fields])
    num, num_bytes = shape[0] * shape[1], pair[".crc"].stat().st_size
    if num_bytes != num * record.itemsize:
        raise ValueError(
            f"{pair['.crc']} has {num_bytes} bytes, but {shape[0]} x {shape[1]} points of {record.itemsize} bytes are "
            f"{num * record.itemsize}. It may be cut short, or of another .cpr: copy both again."
        )
    table = np.fromfile(pair[".crc"], record)
    columns = {name: np.ascontiguousarray(table[name]) for name in record.names}
    columns["phase"] = columns["phase"].astype(np.int64)
    columns |= {"mad_rad": np.radians(columns["mad_rad"])} if "mad_rad" in columns else {}
    points, _ = grid_points(path, shape, step_um, columns)
    about = {"beam_kv": "kV", "magnification": "Magnification", "sample_tilt_deg": "TiltAngle"}
    return Scan(
        name=path.stem,
        path=path,
        format="HKL crc",
        map_shape=shape,
        points=points,
        elements=elements,
        phases=_phases(settings),
        step_um=step_um,
        metadata={key: stated(pair[".cpr"], job, name) for key, name in about.items() if job.get(name)},
        files=[pair[".cpr"], pair[".crc"]],
    )


def _fields(path: Path, numbers: list[int], settings: configparser.ConfigParser) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return name and type of every field of a record, and the unit of those that are elements."""
    fields, elements = [], {}
    for number in numbers:
        name, dtype = FIELDS.get(number, ("", ""))
        window = settings.get("EDX Windows", f"Window{number - FIRST_WINDOW + 1}", fallback="").strip()
        if number >= FIRST_WINDOW and window:
            symbol, dtype = window.split()[0], "<f4"
            name = f"element_{symbol}" if symbol in ATOMIC_NUMBER else window.lower().replace(" ", "_")
            if name in elements:  # another line of that element
                name = f"element_{'_'.join(window.split())}"
            elements |= {name: "counts"} if symbol in ATOMIC_NUMBER else {}
        if not name:
            raise ValueError(
                f"{path} lists the field {number}, but known are {sorted(FIELDS)} and EDS windows from {FIRST_WINDOW}. Export "
                "the map as .ctf, whose columns have names."
            )
        if name in dict(fields):
            raise ValueError(f"{path} lists {name} ({window or f'field {number}'}) more than once. Export the map as .ctf.")
        fields.append((name, dtype))
    return fields, elements


def _phases(settings: configparser.ConfigParser) -> dict[int, str]:
    found = [section for section in settings.sections() if section.startswith("Phase") and section[5:].isdecimal()]
    return {int(section[5:]): settings.get(section, "StructureName", fallback="") for section in found}
