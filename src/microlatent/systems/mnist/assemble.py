"""``infer.py task=assemble data=mnist``: idx files of digits to one store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from microlatent.config import plain
from microlatent.data.folders import origin_of, raw_folder, refuse_overwrite, store_folder
from microlatent.data.store import StoreWriter
from microlatent.files import write_csv
from microlatent.provenance import collect_provenance
from microlatent.results import Preflight
from microlatent.schemas import Settings
from microlatent.systems.mnist.source import Digits, find_digits

logger = logging.getLogger(__name__)
BLOCK = 8192  # digits that are measured and written at a time


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Write the digits of all files, in the order of the files' names, into one store."""
    data, path = settings.data, store_folder(settings.data, settings.outputs) / "mnist.h5"
    root = raw_folder(data, settings.outputs)
    files = find_digits(root)
    refuse_overwrite(path, data, settings.task.overwrite)
    digest, first = xxhash.xxh3_128(), 0
    with StoreWriter(path, np.uint8) as writer:
        for part in files:
            table = _identity(part, first)
            first += len(table)
            for start in range(0, len(table), BLOCK):
                images = np.ascontiguousarray(part.images[start : start + BLOCK, None])
                digest.update(images.data)
                writer.append(images, table.iloc[start : start + BLOCK])
        if not first:
            raise ValueError(f"{', '.join(str(part.path) for part in files)} hold no image. Give files with digits.")
        writer.finish(
            writer.table,
            name="mnist",
            channels=["intensity"],
            origin={
                "root": str(root),
                "data_root": origin_of(data),
                "files": [str(part.path) for part in files],
                "digest": digest.hexdigest(),
                "birth": collect_provenance(plain(settings)),
            },
        )
    summary = pd.DataFrame(_counts(part) for part in files)
    write_csv(summary, out / "tables" / "digits.csv")
    tracker.table("digits", summary)
    logger.info("%d digits from %d files -> %s", first, len(files), path)
    return {"digits": first, "files": len(files), "labelled": int(summary["labelled"].sum())}


def _identity(part: Digits, first: int) -> pd.DataFrame:
    """Name every digit by its place among all; the label is text, because it is a name and no amount."""
    names = [f"{number:05d}" for number in range(first, first + len(part.images))]
    labels = part.labels.astype(str) if part.labels is not None else ""
    return pd.DataFrame({"key": names, "image": names, "true_digit": labels, "part_of": part.part_of})


def _counts(part: Digits) -> dict[str, Any]:
    counts = np.bincount(part.labels, minlength=10) if part.labels is not None else np.zeros(10, int)
    about = {"part_of": part.part_of, "file": str(part.path), "digits": len(part.images), "labelled": int(counts.sum())}
    return about | {f"of_{digit}": int(count) for digit, count in enumerate(counts)}


def preflight(settings: Settings, out: Path) -> Preflight:
    """Read the files and say what the store will hold."""
    path = store_folder(settings.data, settings.outputs) / "mnist.h5"
    files = find_digits(raw_folder(settings.data, settings.outputs))
    refuse_overwrite(path, settings.data, settings.task.overwrite)
    size_mb = sum(part.images.nbytes for part in files) / 1e6
    return Preflight(
        reads=[
            f"{part.path}: {len(part.images)} images of {part.images.shape[1]} x {part.images.shape[2]} px, "
            f"{'with' if part.labels is not None else 'without'} labels"
            for part in files
        ],
        writes=[str(path)],
        memory_mb=250 + 3 * size_mb,
        disk_mb=2 * size_mb,  # the pixels stand twice until the store is renamed
        seconds=0.5 + size_mb / 40,
    )
