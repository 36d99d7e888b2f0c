"""Containers of EBSD patterns as vendors write them, small, with known patterns: patterns (rows, cols, h, w)."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from microlatent.files import atomic
from microlatent.systems.kikuchi.ebsd import write
from microlatent.systems.kikuchi.ebsd.kikuchipy import COLUMNS
from microlatent.systems.kikuchi.ebsd.write import write_h5oina

MAP_SHAPE, PATTERN_SHAPE, STEP_UM = (4, 5), (6, 8), (0.5, 0.25)


def some_patterns(dtype=np.uint8, seed: int = 0) -> np.ndarray:
    """Return patterns that all differ."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 250, (*MAP_SHAPE, *PATTERN_SHAPE)).astype(dtype)


def flat(patterns: np.ndarray) -> np.ndarray:
    """Return patterns row by row (N, h, w)."""
    return patterns.reshape(-1, *patterns.shape[2:])


def write_tree(path: Path, tree: dict) -> Path:
    """Write data sets by their paths."""
    with h5py.File(path, "w") as file:
        for name, value in tree.items():
            file[name] = np.array([value.encode()]) if isinstance(value, str) else value
    return path


def oxford(folder: Path, patterns: np.ndarray, **options) -> Path:
    path = folder / "scan.h5oina"
    write_h5oina(path, flat(patterns), patterns.shape[:2], step_um=STEP_UM, **options)
    return path


def write_kikuchipy(
    path: str | Path,
    patterns: write.Blocks,
    map_shape: tuple[int, int],
    *,
    step_um: tuple[float, float],
    columns: Mapping[str, np.ndarray] | None = None,
    phases: Mapping[int, write.Phase | str] | None = None,
    static_background: np.ndarray | None = None,
    pattern_centre: np.ndarray | tuple[float, float, float] | None = None,
    beam_kv: float = 20.0,
    sample_tilt_deg: float = 70.0,
    detector_tilt_deg: float = 0.0,
) -> None:
    """Write a scan as kikuchipy h5, with one scan named Scan 1.

    Parameters are those of ``write_h5oina``; columns may have any name, and phase -1 is not indexed.
    """
    (rows, cols), num = map_shape, map_shape[0] * map_shape[1]
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        write._scalar(file, "manufacturer", "kikuchipy")
        write._scalar(file, "version", "0.11.0")
        scan = file.create_group("Scan 1")
        shape = write._write_patterns(scan.create_group("EBSD/Data"), "patterns", patterns, num, None)
        header = scan.create_group("EBSD/Header")
        centre = np.broadcast_to(np.asarray((0.5, 0.5, 0.5) if pattern_centre is None else pattern_centre, float), (num, 3))
        values = {"n_rows": rows, "n_columns": cols, "pattern_height": shape[0], "pattern_width": shape[1]}
        values |= {"step_y": float(step_um[0]), "step_x": float(step_um[1]), "grid_type": "square", "binning": 1}
        values |= {"sample_tilt": sample_tilt_deg, "elevation_angle": detector_tilt_deg, "azimuth_angle": 0.0}
        for name, value in values.items():
            write._scalar(header, name, value)
        if pattern_centre is not None:
            for axis, name in enumerate(("pcx", "pcy", "pcz")):
                header[name] = centre[:, axis].reshape(rows, cols)
        if static_background is not None:
            header["static_background"] = write._like_pattern(static_background, shape)
        write._scalar(scan, "SEM/Header/beam_energy", float(beam_kv))
        if columns:
            points = scan.create_group("EBSD/CrystalMap/crystal_map/data")
            for name, values in columns.items():
                points[COLUMNS.get(name, name)] = write._per_point(name, values, num)
            for name, axis, step in zip("yx", np.indices(map_shape), step_um, strict=True):
                points[name] = axis.ravel() * float(step)
        for number, phase in (phases or {}).items():
            name = phase if isinstance(phase, str) else phase.name
            write._scalar(scan, f"EBSD/CrystalMap/crystal_map/header/phases/{number}/name", name)


def kikuchipy(folder: Path, patterns: np.ndarray, **options) -> Path:
    path = folder / "scan.h5"
    write_kikuchipy(path, flat(patterns), patterns.shape[:2], step_um=STEP_UM, **options)
    return path


def edax(folder: Path, patterns: np.ndarray | None, grid: str = "SqrGrid", name: str = "scan.h5") -> Path:
    rows, cols, height, width = (*MAP_SHAPE, *PATTERN_SHAPE)
    header = {"nRows": rows, "nColumns": cols, "Pattern Height": height, "Pattern Width": width, "Step Y": 0.5, "Step X": 0.25}
    header |= {"Grid Type": grid, "Sample Tilt": np.float32([70.1])}
    header |= {f"Pattern Center Calibration/{axis}-star": value for axis, value in zip("xyz", (0.5, 0.7, 0.8), strict=True)}
    tree = {f"Scan 1/EBSD/Header/{key}": value for key, value in header.items()}
    tree |= {" Manufacturer": "EDAX", " Version": "OIM", "Scan 1/EBSD/Data/IQ": np.arange(rows * cols, dtype=np.float32)}
    tree |= {} if patterns is None else {"Scan 1/EBSD/Data/Pattern": flat(patterns)}
    return write_tree(folder / name, tree)


def apex(folder: Path, grid: str = "SqrGrid") -> Path:
    """Write a map as APEX does: records by point, patterns elsewhere."""
    num, group = MAP_SHAPE[0] * MAP_SHAPE[1], "Project/Sample 1/Area 1/OIM Map 1"
    records = np.zeros(num, [("Orientations", "<f4", 9), ("IQ", "<f4"), ("CI", "<f4"), ("Phase", "<i4")])
    records["IQ"], records["Phase"] = np.arange(num), np.arange(num) % 2 - 1
    sample = {"Grid Type": grid, "Number Of Rows": MAP_SHAPE[0], "Number Of Columns": MAP_SHAPE[1], "Step Y": 0.5, "Step X": 0.25}
    tree = {f"{group}/Sample/{key}": value for key, value in sample.items()}
    tree |= {f"{group}/EBSD/ANG/DATA/DATA": records, f"{group}/EBSD/ANG/HEADER/Phase/1/Material Name": "Nickel"}
    return write_tree(folder / "scan.edaxh5", tree)


def up(folder: Path, patterns: np.ndarray, version: int = 3, is_hex: int = 0) -> Path:
    rows, cols, height, width = patterns.shape
    head = np.array([version, width, height, 16 if version == 1 else 42], "<u4").tobytes()
    if version != 1:
        head += b"\0" + np.array([cols, rows], "<u4").tobytes() + bytes([is_hex]) + np.array(STEP_UM[::-1], "<f8").tobytes()
    path = folder / ("scan.up1" if patterns.dtype == np.uint8 else "scan.up2")
    path.write_bytes(head + patterns.tobytes())
    return path


def bruker(folder: Path, patterns: np.ndarray, keep: np.ndarray | None = None, seed: int = 1) -> Path:
    """Write patterns in a random order, with the places of those that are kept (rows, cols)."""
    keep = np.ones(patterns.shape[:2], bool) if keep is None else keep
    y, x = np.random.default_rng(seed).permutation(np.argwhere(keep)).T
    tree = {"Manufacturer": "Bruker Nano", "Version": "Esprit 2.X", "Scan 0/EBSD/Data/RawPatterns": patterns[y, x]}
    tree |= {"Scan 0/EBSD/SEM/IX": x + 3, "Scan 0/EBSD/SEM/IY": y + 7}
    tree |= {"Scan 0/EBSD/Data/RadonQuality": (y * 100 + x).astype(np.float32), "Scan 0/EBSD/Data/phi1": np.full(len(x), 90.0)}
    header = {"NROWS": patterns.shape[0], "NCOLS": patterns.shape[1], "YSTEP": 0.5, "XSTEP": 0.25, "Grid Type": "isometric"}
    return write_tree(folder / "scan.h5", tree | {f"Scan 0/EBSD/Header/{key}": value for key, value in header.items()})


def nordif(folder: Path, patterns: np.ndarray) -> Path:
    rows, cols, height, width = patterns.shape
    (folder / "Pattern.dat").write_bytes(patterns.tobytes())
    (folder / "Setting.txt").write_bytes(
        f"[Acquisition settings]\t\t\nResolution\t{width}x{height}\tpx\n[Calibration settings]\t\t\nResolution\t9x9\tpx\n"
        f"[Area]\t\t\nStep size\t0.25\t\u00b5m\nNumber of samples\t{cols}x{rows}\t#\n".encode("latin-1")
    )
    Image.fromarray(patterns[0, 0]).save(folder / "Background acquisition pattern.bmp")
    return folder


def ebsp(folder: Path, patterns: np.ndarray, version: int = 4, compressed: int = 0, turn: int = 7, missing: tuple = ()) -> Path:
    """Write patterns behind a table in the map's order, but from the pattern ``turn`` on, as AZtec may do."""
    all_patterns, cols = flat(patterns), patterns.shape[1]
    num, begin = len(all_patterns), 0 if version == 0 else 8 if version < 4 else 9
    table, body = np.zeros(num, "<i8"), bytearray()
    for number in np.roll(np.arange(num), -turn):
        if number in missing:
            continue
        pattern, y, x = all_patterns[number], number // cols, number % cols
        table[number] = begin + 8 * num + len(body)
        body += np.array([x, y], "<i4").tobytes() if version >= 5 else b""
        body += np.array([compressed, *pattern.shape, pattern.nbytes], "<i4").tobytes() + pattern.tobytes()
        if version > 0:
            body += b"\1" + np.array(x * STEP_UM[1], "<f8").tobytes() + b"\1" + np.array(y * STEP_UM[0], "<f8").tobytes()
    head = b"" if version == 0 else np.array(-version, "<i8").tobytes() + (b"\0" if version >= 4 else b"")
    path = folder / "scan.ebsp"
    path.write_bytes(head + table.tobytes() + bytes(body))
    return path


def emsoft(folder: Path, patterns: np.ndarray) -> Path:
    return write_tree(folder / "scan.h5", {"EMData/EBSD/EBSDPatterns": flat(patterns), "EMheader/EBSD/ProgramName": "EMEBSD.f90"})


def table(
    folder: Path, patterns: np.ndarray, keep: np.ndarray | None = None, axis: bool = True, coords=None, seed: int = 2
) -> Path:
    """Write the reference's own file: patterns in a random order, and x and y of each."""
    keep = np.ones(patterns.shape[:2], bool) if keep is None else keep
    y, x = np.random.default_rng(seed).permutation(np.argwhere(keep)).T
    coords = np.stack([x, y], -1).astype(np.int32) if coords is None else coords
    return write_tree(folder / "scan.h5", {"images": patterns[y, x][:, None] if axis else patterns[y, x], "coords": coords})


def images(folder: Path, patterns: np.ndarray, name: str = "x_{x}_y_{y}.png", keep: np.ndarray | None = None) -> Path:
    for y, x in np.argwhere(np.ones(patterns.shape[:2], bool) if keep is None else keep):
        Image.fromarray(patterns[y, x]).save(folder / name.format(x=x, y=y))
    return folder
