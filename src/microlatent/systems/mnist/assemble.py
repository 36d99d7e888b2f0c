"""``infer.py task=assemble data=mnist``: idx files of digits to one store."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from microlatent.data.assembling import Plan, Unit, Written, as_task, origin
from microlatent.data.folders import raw_folder
from microlatent.data.store import StoreWriter
from microlatent.schemas import Settings
from microlatent.systems.mnist.source import Digits, find_digits

BLOCK = 8192  # digits that are measured and written at a time


def plan(settings: Settings, outputs: str, out: Path) -> Plan:
    """Read the files: all digits go into one store."""
    root = raw_folder(settings.data, outputs)
    files = find_digits(root)
    if not sum(len(part.images) for part in files):
        raise ValueError(f"{', '.join(str(part.path) for part in files)} hold no image. Give files with digits.")
    size_mb = sum(part.images.nbytes for part in files) / 1e6
    digits = Unit(
        name="mnist",
        reads=[
            f"{part.path}: {len(part.images)} images of {part.images.shape[1]} x {part.images.shape[2]} px, "
            f"{'with' if part.labels is not None else 'without'} labels"
            for part in files
        ],
        write=partial(assemble, files, root=root, settings=settings),
        size_mb=size_mb,
        memory_mb=250 + 3 * size_mb,
        seconds=0.5 + size_mb / 40,
    )
    return Plan(units=[digits], table="digits", rows="files", sums=("digits", "labelled"), whole=True)


run, preflight = as_task(plan)


def assemble(files: list[Digits], path: Path, *, root: Path, settings: Settings) -> Written:
    """Write the digits of all files, in the order of the files' names, into one store."""
    digest, first = xxhash.xxh3_128(), 0
    with StoreWriter(path, np.uint8) as writer:
        for part in files:
            table = _identity(part, first)
            first += len(table)
            for start in range(0, len(table), BLOCK):
                images = np.ascontiguousarray(part.images[start : start + BLOCK, None])
                digest.update(images.data)
                writer.append(images, table.iloc[start : start + BLOCK])
        writer.finish(
            writer.table,
            name="mnist",
            channels=["intensity"],
            origin=origin(settings, root) | {"files": [str(part.path) for part in files], "digest": digest.hexdigest()},
        )
    return [_counts(part) for part in files], f"{first} digits from {len(files)} files"


def _identity(part: Digits, first: int) -> pd.DataFrame:
    """Name every digit by its place among all; the label is text, because it is a name and no amount."""
    names = [f"{number:05d}" for number in range(first, first + len(part.images))]
    labels = part.labels.astype(str) if part.labels is not None else ""
    return pd.DataFrame({"key": names, "image": names, "true_digit": labels, "part_of": part.part_of})


def _counts(part: Digits) -> dict[str, Any]:
    counts = np.bincount(part.labels, minlength=10) if part.labels is not None else np.zeros(10, int)
    about = {"part_of": part.part_of, "file": str(part.path), "digits": len(part.images), "labelled": int(counts.sum())}
    return about | {f"of_{digit}": int(count) for digit, count in enumerate(counts)}
