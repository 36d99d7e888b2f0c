"""``infer.py task=assemble data=partitions``: the images of each subject, cut into partitions, to one store, image by image."""

from __future__ import annotations

import logging
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash
from scipy import ndimage

from microlatent.analysis.threshold import otsu
from microlatent.data.assembling import Plan, Unit, Written, as_task, origin
from microlatent.data.folders import raw_folder
from microlatent.data.store import StoreWriter
from microlatent.files import atomic, write_csv
from microlatent.progress import track
from microlatent.schemas import Settings
from microlatent.systems.partitions.files import TissueImage, find_images
from microlatent.systems.partitions.schema import AssemblePartitionsConfig
from microlatent.systems.partitions.source import cut, gather, refuse_small

logger = logging.getLogger(__name__)
BLOCK = 512  # partitions that memory holds beside the image they are cut from
SMOOTHING_PX = 1.0  # standard deviation of the Gaussian by which single bright pixels are no foreground


def plan(settings: Settings, outputs: str, out: Path) -> Plan:
    """Find the images of the chosen subjects, and refuse those too small for a partition."""
    task, root = settings.task, raw_folder(settings.data, outputs)
    images = find_images(root, settings.data)
    refuse_small(images, task.size, _remedy(images))
    _warn_of_unlike_subjects(images)
    reference = ReferenceFiles(out / "reference") if task.reference_files else None
    subjects = {subject: list(part) for subject, part in groupby(images, key=lambda image: image.subject)}
    note = f"Partitions with less than {task.min_foreground:.0%} of foreground will be left out of these."
    return Plan(
        units=[_unit(subject, part, root, settings, reference) for subject, part in subjects.items()],
        table="subjects",
        sums=("images", "partitions", "left_out"),
        whole=settings.data.subjects is None,
        reads=[f"{len(images)} images, channels {images[0].channels}"],
        writes=[str(out / "reference" / "data_partition_<i>.npy")] if reference else [],
        notes=[note] if task.min_foreground else [],
        trial=images[0].read,
    )


run, preflight = as_task(plan)


def _unit(subject: str, images: list[TissueImage], root: Path, settings: Settings, reference: ReferenceFiles | None) -> Unit:
    task = settings.task
    count = sum(len(cut(image.shape_px, task.size, task.overlap, task.remainder)) for image in images)
    sizes = sorted({f"{image.shape_px[0]} x {image.shape_px[1]}" for image in images})
    some = ", ".join(sizes[:3]) + " ..." * (len(sizes) > 3)
    pixel_bytes = len(images[0].channels) * np.result_type(*(image.dtype for image in images)).itemsize
    size_mb = count * task.size**2 * pixel_bytes / 1e6
    largest = max(len(image.channels) * image.shape_px[0] * image.shape_px[1] * image.dtype.itemsize for image in images)
    return Unit(
        name=subject,
        reads=[f"{subject}: {len(images)} images of {some} px, {count} partitions"],
        write=partial(assemble, images, root=root, settings=settings, reference=reference),
        size_mb=size_mb,
        memory_mb=250 + 3 * largest / 1e6,
        seconds=size_mb / 60,
    )


def assemble(
    images: list[TissueImage], path: Path, *, root: Path, settings: Settings, reference: ReferenceFiles | None = None
) -> Written:
    """Write one subject's store; memory holds one image and one block of partitions.

    Raises
    ------
    ValueError
        Every partition has less foreground than ``task.min_foreground``.
    """
    task, subject = settings.task, images[0].subject
    dtype = np.result_type(*(image.dtype for image in images))
    digest, left_out, shares = xxhash.xxh3_128(), 0, []
    with StoreWriter(path, dtype) as writer:
        for image in track(images, f"Assembling {subject}"):
            pixels = image.read()
            corners = cut(image.shape_px, task.size, task.overlap, task.remainder)
            share = foreground(pixels, corners, task)
            kept = share >= task.min_foreground
            left_out += int((~kept).sum())
            shares.append(share[kept])
            table = _identity(image, corners[kept], share[kept])
            for start in range(0, len(table), BLOCK):
                rows = table.iloc[start : start + BLOCK]
                patches = gather(pixels, rows[["row_px", "col_px"]].to_numpy(), task.size).astype(dtype, copy=False)
                digest.update(patches.data)
                writer.append(patches, rows)
            if reference:
                reference.write(image, pixels, corners[kept], task)
        if not writer.tables:
            raise ValueError(
                f"Subject {subject}: all {left_out} partitions have less foreground than task.min_foreground="
                f"{task.min_foreground}. Lower it, set task.foreground_counts, or leave the subject out with data.subjects."
            )
        pixel_um = _common_pixel_um(images)
        table = writer.table
        writer.finish(
            table,
            name=subject,
            channels=images[0].channels,
            pixel_um=pixel_um,
            patch_pixel_um=pixel_um,
            origin=origin(settings, root)
            | {
                "images": {
                    image.image: {"shape_px": list(image.shape_px), "dtype": str(image.dtype), "file": str(image.path)}
                    for image in images
                },
                "size": task.size,
                "overlap": task.overlap,
                "remainder": task.remainder,
                "min_foreground": task.min_foreground,
                "left_out": left_out,
                "files": sum(len(image.files) for image in images),
                "bytes": sum(file.stat().st_size for image in images for file in image.files if file.is_file()),
                "digest": digest.hexdigest(),
            },
        )
    if left_out:
        logger.info(
            "%s: %d of %d partitions have less foreground than %g and are left out.",
            *(subject, left_out, left_out + len(table), task.min_foreground),
        )
    if reference:
        write_csv(pd.DataFrame(reference.rows), reference.folder / "manifest.csv")
    row = {"subject": subject, "images": len(images), "partitions": len(table), "left_out": left_out}
    row |= {"channels": len(images[0].channels), "mean_foreground": round(float(np.concatenate(shares).mean()), 4)}
    line = f"{subject}: {len(table)} partitions of {len(images[0].channels)} channels from {len(images)} images"
    return [row | {"pixel_um": pixel_um}], f"{line}, {left_out} left out"


def foreground(pixels: np.ndarray, corners: np.ndarray, task: AssemblePartitionsConfig) -> np.ndarray:
    """Return the share (n,) of every partition's pixels whose mean over the channels, lightly smoothed, is above the threshold.

    The threshold is ``task.foreground_counts``, or Otsu's for this image.
    """
    brightness = ndimage.gaussian_filter(pixels.mean(0, dtype=np.float32), SMOOTHING_PX)
    threshold = otsu(brightness) if task.foreground_counts is None else task.foreground_counts
    above = np.zeros((brightness.shape[0] + 1, brightness.shape[1] + 1), np.int64)  # its sums over any square take four numbers
    np.cumsum(np.cumsum(brightness > threshold, 0), 1, out=above[1:, 1:])
    (row, col), size = corners.T, task.size
    inside = above[row + size, col + size] - above[row, col + size] - above[row + size, col] + above[row, col]
    return inside / size**2


class ReferenceFiles:
    """``data_partition_<i>.npy`` of every image as the partitions reference wrote them, and which image each is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, []

    def write(self, image: TissueImage, pixels: np.ndarray, corners: np.ndarray, task: AssemblePartitionsConfig) -> None:
        """Write the partitions of the next image: (n, m, m, C) in double precision."""
        path = self.folder / f"data_partition_{len(self.rows)}.npy"
        with atomic(path) as temporary:
            np.save(temporary, gather(pixels, corners, task.size).transpose(0, 2, 3, 1).astype(np.float64))
        about = {"i": len(self.rows), "subject": image.subject, "image": image.image, "file": str(image.path)}
        about |= {"rows": image.shape_px[0], "columns": image.shape_px[1], "partitions": len(corners)}
        self.rows.append(about | {"size": task.size, "overlap": task.overlap, "remainder": task.remainder})


def _identity(image: TissueImage, corners: np.ndarray, share: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": [f"{image.name}/{row}_{col}" for row, col in corners],
            "subject": image.subject,
            "image": image.image,
            "row_px": corners[:, 0],
            "col_px": corners[:, 1],
            "foreground": share,
        }
    )


def _common_pixel_um(images: list[TissueImage]) -> float | None:
    """Return the size of a pixel; None, with a warning, where a subject's images differ in it."""
    sizes = {image.pixel_um for image in images}
    if _differ(sizes):
        logger.warning(
            "%s: the pixels of its images measure from %g to %g um, so a partition is not the same area in all. Scale the images "
            "alike, or say data.pixel_um if the files are wrong.",
            *(images[0].subject, min(sizes), max(sizes)),
        )
        return None
    return images[0].pixel_um if None not in sizes else None


def _warn_of_unlike_subjects(images: list[TissueImage]) -> None:
    """Say so where subjects, each alike in itself, differ in the size of a pixel; unknown sizes are passed over."""
    sizes: dict[str, set[float | None]] = {}
    for image in images:
        sizes.setdefault(image.subject, set()).add(image.pixel_um)
    alike = {subject: here.pop() for subject, here in sizes.items() if None not in here and not _differ(here)}
    if _differ(set(alike.values())):
        fine, coarse = min(alike, key=alike.get), max(alike, key=alike.get)
        logger.warning(
            "The pixels of subject %s measure %g um, those of %s %g um, so a partition is not the same area in all subjects and "
            "a model sees tissue at different scales. Scale the images alike, say data.pixel_um if the files are wrong, or "
            "choose subjects that are alike with data.subjects.",
            *(fine, alike[fine], coarse, alike[coarse]),
        )


def _differ(sizes: set[float | None]) -> bool:
    """Return whether sizes of pixels, if all are known, differ by more than how files round them."""
    return bool(sizes) and None not in sizes and max(sizes) > 1.01 * min(sizes)


def _remedy(images: list[TissueImage]) -> str:
    fits = min(min(image.shape_px) for image in images)
    smaller = f"Choose task.size={2 ** int(np.log2(fits))} or less, or take" if fits >= 8 else "Take"
    return f"{smaller} the image away. If its rows or columns are channels, save it as (channels, rows, columns)."
