"""``infer.py task=assemble data=kikuchi``: the patterns of each EBSD scan, background removed, to one store.

The store's table has what the scan's file says of every point (band contrast or what stands for it, elements, phase,
orientation), and what is measured on the way: ``image_quality`` and ``neighbour_similarity``. A file ``<scan>.truth.csv`` beside
the scan (x, y, true_...) joins the table, for specimens whose truth is known.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash

from microlatent.data.assembling import Plan, Unit, Written, as_task, origin
from microlatent.data.folders import raw_folder
from microlatent.data.store import StoreWriter
from microlatent.progress import track
from microlatent.schemas import Settings
from microlatent.systems.kikuchi.ebsd import find_scans
from microlatent.systems.kikuchi.ebsd.scan import Scan
from microlatent.systems.kikuchi.patterns import Preprocessing

logger = logging.getLogger(__name__)
NAMED = ("true_grain", "true_phase")  # columns of truth that are names and no amounts, whatever they look like
BLOCK = 2048  # patterns that are measured and written at a time


def plan(settings: Settings, outputs: str, out: Path) -> Plan:
    """Find the chosen scans, and settle how the patterns of each are preprocessed."""
    root = raw_folder(settings.data, outputs)
    steps = [Preprocessing(scan, settings.task) for scan in scans_with_patterns(settings, root)]
    return Plan(
        units=[_unit(one, root, settings) for one in steps],
        table="scans",
        sums=("patterns", "left_out"),
        whole=settings.data.scans is None,
        notes=[f"{one.scan.name}: {_described(one)}." for one in steps],
        trial=lambda: [next(one.blocks()) for one in steps],
    )


run, preflight = as_task(plan)


def scans_with_patterns(settings: Settings, root: Path) -> list[Scan]:
    """Find the chosen scans; maps without patterns are passed over.

    Raises
    ------
    ValueError
        None has patterns.
    """
    found = find_scans(root, settings.data.patterns, settings.data.scans)
    scans = [scan for scan in found if scan.pattern_shape is not None]
    bare = [f"{scan.name} ({scan.format})" for scan in found if scan.pattern_shape is None]
    if not scans:
        raise ValueError(
            f"data.root={root} holds maps without patterns alone: {', '.join(bare)}. There is nothing to train on. Their quality "
            "is drawn by task=bandcontrast, and their columns join the points of a scan by data.maps."
        )
    if bare:
        logger.info("Passed over, since without patterns: %s.", ", ".join(bare))
    return scans


def _unit(preprocessing: Preprocessing, root: Path, settings: Settings) -> Unit:
    scan = preprocessing.scan
    truth_file(scan)
    scan.read(np.arange(1))  # so that a scan that cannot be read is refused before the first is assembled
    num, (rows, columns), raw_px = len(scan.points), scan.map_shape, "x".join(map(str, scan.pattern_shape))
    return Unit(
        name=scan.name,
        reads=[
            f"{scan.name} ({scan.format}): {rows} x {columns} points, {num} patterns of {raw_px} px, columns "
            f"{', '.join(scan.points)}"
        ],
        write=partial(assemble, preprocessing, root=root, settings=settings),
        size_mb=num * np.prod(preprocessing.shape_px) * stored_dtype(scan, preprocessing).itemsize / 1e6,
        memory_mb=preprocessing.memory_mb(),
        seconds=num * np.prod(scan.pattern_shape) / 2e7,
    )


def _described(preprocessing: Preprocessing) -> str:
    return ", ".join(f"{key} {value}" for key, value in preprocessing.describe().items() if value is not None)


def assemble(preprocessing: Preprocessing, path: Path, *, root: Path, settings: Settings) -> Written:
    """Write one scan's store; memory holds some rows of the map.

    Raises
    ------
    ValueError
        No pattern is left, or ``task.bad_patterns=refuse`` and some are NaN or constant.
    """
    scan = preprocessing.scan
    dtype, num_blocks = stored_dtype(scan, preprocessing), -(-len(scan.points) // BLOCK)
    points, truth = with_truth(scan)
    digest, left_out = xxhash.xxh3_128(), []
    with StoreWriter(path, dtype) as writer:
        for rows, patterns, measured in track(preprocessing.blocks(BLOCK), f"Assembling {scan.name}", num_blocks):
            bad = measured.pop("bad").to_numpy()
            table = pd.concat([points.iloc[rows].reset_index(drop=True), measured.reset_index(drop=True)], axis=1)[~bad]
            left_out += [f"({x}, {y})" for x, y in points[["x", "y"]].to_numpy()[rows[bad]]]
            if len(table):
                kept = np.ascontiguousarray(patterns[~bad][:, None], dtype)
                digest.update(kept.data)
                writer.append(kept, table)
        _say_left_out(left_out, scan, settings.task.bad_patterns, len(left_out) == len(points))
        table = writer.table
        writer.finish(
            table,
            name=scan.name,
            channels=["pattern"],
            origin=origin(settings, root)
            | {
                "format": scan.format,
                "files": [str(file) for file in scan.files],
                "map_shape": list(scan.map_shape),
                "step_um": None if scan.step_um is None else list(scan.step_um),
                "quality": scan.quality or "image_quality",
                "elements": scan.elements,
                "phases": {str(number): name for number, name in scan.phases.items()},
                "metadata": scan.metadata,
                "raw_pattern_px": list(scan.pattern_shape),
                "preprocessing": preprocessing.describe(),
                "truth": truth,
                "left_out": len(left_out),
                "digest": digest.hexdigest(),
            },
        )
    row = {"scan": scan.name, "format": scan.format, "patterns": len(table), "left_out": len(left_out)}
    row |= {"rows": scan.map_shape[0], "columns": scan.map_shape[1]}
    row |= {"raw_px": "x".join(map(str, scan.pattern_shape)), "pattern_px": "x".join(map(str, preprocessing.shape_px))}
    row |= {"quality": scan.quality or "image_quality"}
    row |= {"elements": ", ".join(name.removeprefix("element_") for name in scan.elements)}
    row |= {name: round(float(table[name].mean()), 4) for name in ("image_quality", "neighbour_similarity")}
    return [row], f"{scan.name} ({scan.format}): {len(table)} patterns of {row['pattern_px']} px"


def stored_dtype(scan: Scan, preprocessing: Preprocessing) -> np.dtype:
    """Return the camera's type where its values are kept, else float32."""
    done = preprocessing.describe()
    untouched = all(done[key] == "none" for key in ("static_background", "dynamic_background", "average", "mask"))
    return np.dtype(scan.dtype if untouched and done["bin"] == 1 else np.float32)


def with_truth(scan: Scan) -> tuple[pd.DataFrame, str | None]:
    """Return the identity of the scan's points, with the columns of ``<scan>.truth.csv`` where there is one, and that file."""
    points = scan.points.drop(columns=[name for name in ("key", "scan") if name in scan.points])
    path = truth_file(scan)
    if path is not None:
        truth = pd.read_csv(path, index_col=False, dtype=dict.fromkeys((*NAMED, "scan"), str))
        if "scan" in truth:
            truth = truth[truth["scan"] == scan.name]
        truth = truth[["x", "y", *(name for name in truth if name not in (*points, "scan"))]]
        points = points.merge(truth, on=["x", "y"], how="left", validate="one_to_one")
        named = [name for name in NAMED if name in points]
        points[named] = points[named].fillna("")
    points.insert(0, "key", [f"{scan.name}/{x}_{y}" for x, y in points[["x", "y"]].to_numpy()])
    points.insert(1, "scan", scan.name)
    return points, None if path is None else str(path)


def truth_file(scan: Scan) -> Path | None:
    """Return the truth of a scan: ``<scan>.truth.csv``, else ``<file>.truth.csv``, of several scans with a column scan.

    Raises
    ------
    ValueError
        The latter does not say of which scan it is.
    """
    own, shared = (scan.path.with_name(f"{name}.truth.csv") for name in (scan.name, scan.path.stem))
    if own.is_file() or not shared.is_file():
        return own if own.is_file() else None
    if "scan" not in pd.read_csv(shared, nrows=0) and scan.name != scan.path.stem:
        raise ValueError(
            f"{shared} does not say whether it is of the scan {scan.name}. Name it {own.name}, or add a column scan."
        )
    return shared


def _say_left_out(left_out: list[str], scan: Scan, how: str, nothing_left: bool) -> None:
    some = ", ".join(left_out[:5]) + (" ..." if len(left_out) > 5 else "")
    if nothing_left:
        raise ValueError(f"{scan.path}: all {len(left_out)} patterns are NaN or constant. Is it the right file?")
    if left_out and how == "refuse":
        raise ValueError(
            f"{scan.path}: {len(left_out)} patterns are NaN or constant, at (x, y) {some}. Leave them out with "
            "task.bad_patterns=skip."
        )
    if left_out:
        logger.warning("%s: %d patterns are NaN or constant and left out, at (x, y) %s.", scan.name, len(left_out), some)
