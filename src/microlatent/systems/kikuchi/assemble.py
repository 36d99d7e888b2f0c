"""``infer.py task=assemble data=kikuchi``: the patterns of each EBSD scan, background removed, to one store.

The store's table has what the scan's file says of every point (band contrast or what stands for it, elements, phase,
orientation), and what is measured on the way: ``image_quality`` and ``neighbour_similarity``. A file ``<scan>.truth.csv`` beside
the scan (x, y, true_...) joins the table, for specimens whose truth is known.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from microlatent.config import plain
from microlatent.data.folders import (
    mark_unfinished,
    origin_of,
    preflight_outputs,
    raw_folder,
    refuse_overwrite,
    set_aside_stale,
    store_folder,
)
from microlatent.data.store import StoreWriter
from microlatent.files import write_csv
from microlatent.progress import track
from microlatent.provenance import collect_provenance
from microlatent.results import Preflight
from microlatent.schemas import Settings
from microlatent.systems.kikuchi.ebsd import find_scans
from microlatent.systems.kikuchi.ebsd.scan import Scan
from microlatent.systems.kikuchi.patterns import Preprocessing

logger = logging.getLogger(__name__)
NAMED = ("true_grain", "true_phase")  # columns of truth that are names and no amounts, whatever they look like
BLOCK = 2048  # patterns that are measured and written at a time


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Assemble every chosen scan."""
    root, folder = raw_folder(settings.data, settings.outputs), store_folder(settings.data, settings.outputs)
    scans = scans_with_patterns(settings, root)
    for scan in scans:
        refuse_overwrite(folder / f"{scan.name}.h5", settings.data, settings.task.overwrite)
    summary, names = [], [scan.name for scan in scans]
    for number, scan in enumerate(scans, 1):
        path = folder / f"{scan.name}.h5"
        facts = assemble(scan, path, root, settings)
        logger.info("%s (%s): %d patterns of %s px -> %s", scan.name, scan.format, facts["patterns"], facts["pattern_px"], path)
        summary.append({"scan": scan.name, "format": scan.format, **facts, "store": str(path)})
        mark_unfinished(folder, scan.name, names[number:])
    if settings.data.scans is None:
        set_aside_stale(folder, names, settings.data)
    table = pd.DataFrame(summary)
    write_csv(table, out / "tables" / "scans.csv")
    tracker.table("scans", table)
    return {"scans": len(table), "patterns": int(table["patterns"].sum()), "left_out": int(table["left_out"].sum())}


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


def assemble(scan: Scan, path: Path, root: Path, settings: Settings) -> dict[str, Any]:
    """Write one scan's store and return what is in it; memory holds some rows of the map.

    Raises
    ------
    ValueError
        No pattern is left, or ``task.bad_patterns=refuse`` and some are NaN or constant.
    """
    task, preprocessing = settings.task, Preprocessing(scan, settings.task)
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
        _say_left_out(left_out, scan, task.bad_patterns, len(left_out) == len(points))
        table = writer.table
        writer.finish(
            table,
            name=scan.name,
            channels=["pattern"],
            origin={
                "root": str(root),
                "data_root": origin_of(settings.data),
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
                "birth": collect_provenance(plain(settings)),
            },
        )
    return {
        "patterns": len(table),
        "left_out": len(left_out),
        "rows": scan.map_shape[0],
        "columns": scan.map_shape[1],
        "raw_px": "x".join(map(str, scan.pattern_shape)),
        "pattern_px": "x".join(map(str, preprocessing.shape_px)),
        "quality": scan.quality or "image_quality",
        "elements": ", ".join(name.removeprefix("element_") for name in scan.elements),
        "image_quality": round(float(table["image_quality"].mean()), 4),
        "neighbour_similarity": round(float(table["neighbour_similarity"].mean()), 4),
    }


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


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open every scan, read and preprocess the first block, and estimate the stores."""
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        root, folder, plan = raw_folder(settings.data, outputs), store_folder(settings.data, settings.outputs), Preflight()
        for scan in scans_with_patterns(settings, root):
            preprocessing = Preprocessing(scan, settings.task)
            next(preprocessing.blocks())
            path = folder / f"{scan.name}.h5"
            refuse_overwrite(path, settings.data, settings.task.overwrite)
            rows, columns = scan.map_shape
            plan.reads.append(
                f"{scan.name} ({scan.format}): {rows} x {columns} points, {len(scan.points)} patterns of "
                f"{'x'.join(map(str, scan.pattern_shape))} px, columns {', '.join(scan.points)}"
            )
            done = ", ".join(f"{key} {value}" for key, value in preprocessing.describe().items() if value is not None)
            plan.notes.append(f"{scan.name}: {done}.")
            plan.writes.append(str(path))
            pattern_mb = np.prod(preprocessing.shape_px) * stored_dtype(scan, preprocessing).itemsize / 1e6
            plan.disk_mb += 2 * len(scan.points) * pattern_mb  # the pixels stand twice until the store is renamed
            plan.seconds = (plan.seconds or 0.0) + len(scan.points) * np.prod(scan.pattern_shape) / 2e7
            plan.memory_mb = max(plan.memory_mb, preprocessing.memory_mb())
        return plan
