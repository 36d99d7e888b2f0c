"""``infer.py task=reconstruct``: whole images through a trained model, from overlapping partitions blended into one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import tifffile
import torch

from microlatent.analysis.statistics import explained
from microlatent.config import nearest
from microlatent.data.folders import origin_of, preflight_outputs, raw_folder
from microlatent.device import choose_device
from microlatent.experiment import Trained, load_model, load_split
from microlatent.files import atomic
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.partitions.draw_reconstruction import panel
from microlatent.systems.partitions.files import TissueImage, find_images
from microlatent.systems.partitions.source import cut, gather, refuse_small
from microlatent.systems.partitions.stitching import Mosaic

logger = logging.getLogger(__name__)
LOGGED_IMAGES = 8  # figures that the tracker receives; all are in the folder
OME_TYPES = {"int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64"}
TINY = 1e-7  # a probability is kept this far from 0 and 1 in the cross-entropy, about float32's resolution


class Result(NamedTuple):
    """An image before and after the model, each (C, Y, X)."""

    counts: np.ndarray  # as the camera gave it
    treated: np.ndarray  # float32, what the model was shown
    output: np.ndarray  # float32, what it made of that, in the same units; of Bernoulli models the probability


class ReconstructInput(NamedTuple):
    """The model, and the images that it is shown."""

    trained: Trained
    images: list[TissueImage]
    part_of: Callable[[TissueImage], str]  # train, val, test, or "" where that is not known

    @property
    def is_bernoulli(self) -> bool:
        """Return whether the model tells probabilities."""
        return self.trained.normaliser.mode == "bern"


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Reconstruct every chosen image and write it, its figure and its errors; memory holds one image."""
    device, task = choose_device(settings.trainer.device), settings.task
    opened = open_all(settings, device, settings.outputs)
    trained, images, results = opened.trained, opened.images, results_of(opened, out, tracker)
    errors, write = [], write_maps if opened.is_bernoulli else write_counts
    for number, image in enumerate(track(images, "Reconstructing")):
        result = reconstruct(image, trained, settings, device)
        part = opened.part_of(image)
        rows = write(result, image, task.threshold, trained, results)
        draw = partial(panel, rows, image.channels, image.pixel_um, _title(image, part))
        figure = f"{image.name}.png"
        if number < LOGGED_IMAGES:
            results.figure(f"{image.subject}_{image.image}", draw, file=figure)
        else:
            draw(results.path(figure))
        errors += measure(result, image, part, task.threshold, trained)
    table = pd.DataFrame(errors)
    results.table("errors", table)
    score = "dice" if opened.is_bernoulli else "r2"
    means = table.groupby("channel", sort=False)[score].mean()
    logger.info("%d images -> %s. Mean %s: %s", len(images), out, score, ", ".join(f"{c} {v:.3f}" for c, v in means.items()))
    return {"images": len(images)} | {f"{score}_{channel}": round(float(value), 4) for channel, value in means.items()}


def open_all(settings: Settings, device: torch.device, outputs: str) -> ReconstructInput:
    """Load the model and find the images; a check has other ``outputs``."""
    trained = load(settings, device)
    images = chosen_images(settings, raw_folder(settings.data, outputs), trained)
    return ReconstructInput(trained, images, parts(settings, trained))


def results_of(opened: ReconstructInput, out: Path, tracker: Any = None) -> Results:
    """Declare the files of every image."""
    kinds = ("_probability.tif", "_map.tif", ".png") if opened.is_bernoulli else (".tif", ".png")
    return Results(out, tracker, files=[image.name + kind for image in opened.images for kind in kinds], tables=["errors"])


def load(settings: Settings, device: torch.device) -> Trained:
    """Load the run's model and refuse what cannot be reconstructed with it.

    Raises
    ------
    ValueError
        The data are no images, or the model's values cannot be turned back into counts.
    """
    run, task, data = Path(settings.run), settings.task, settings.data
    if data.name != "partitions":
        raise ValueError(
            f"task=reconstruct reads whole images, but the data are data={data.name}. Name images: data=partitions "
            "data.root=<folder>. The model may have been trained on any data with channels of the same names."
        )
    trained = load_model(run, task.checkpoint, device)
    if trained.normaliser.mode == "patch":
        raise ValueError(
            f"{run} was trained with data.normalise=patch: every partition has a scale of its own, and none leads back to "
            "counts. Train with gauss, bern, dataset or none to reconstruct whole images."
        )
    overlap = overlap_px(settings, trained)
    if overlap >= trained.shape[0]:
        raise ValueError(
            f"task.overlap is {overlap}, but must be below the model's partitions of {trained.shape[0]} px. Try "
            f"{trained.shape[0] // 4}, or leave it out."
        )
    if data.channels not in (None, trained.channels):
        raise ValueError(
            f"{run} was trained on channels {trained.channels}, but data.channels asks for {data.channels}. Leave data.channels "
            "out: channels are matched by name."
        )
    return trained


def overlap_px(settings: Settings, trained: Trained) -> int:
    """Return what neighbouring partitions share: ``task.overlap``, or a quarter of the model's partition."""
    return trained.shape[0] // 4 if settings.task.overlap is None else settings.task.overlap


def chosen_images(settings: Settings, root: Path, trained: Trained) -> list[TissueImage]:
    """Find the images with the model's channels, by name and in its order."""
    images = find_images(root, replace(settings.data, channels=list(trained.channels), drop_channels=[]))
    wanted = settings.task.images
    if wanted is not None:
        names = [image.name for image in images]
        if not wanted:
            raise ValueError(f"task.images is [], but there are {', '.join(names)}. Name some, or leave it out to take all.")
        absent = [name for name in wanted if name not in names]
        if absent:
            raise ValueError(f"task.images names {absent}, <subject>/<image>. {nearest(str(absent[0]), names)}")
        images = [image for image in images if image.name in wanted]
    remedy = "The model knows partitions of that size alone: leave the image out with task.images."
    refuse_small(images, trained.shape[0], remedy)
    return images


def parts(settings: Settings, trained: Trained) -> Callable[[TissueImage], str]:
    """Return a function that says whether the run was trained on an image: train, val, test, or "" where that is not known."""
    split = load_split(Path(settings.run), trained.provenance["data"])
    own = trained.provenance["config"]["data"].get("root") == origin_of(settings.data)
    if split.by not in ("subject", "image") or not own:  # subjects of the same name elsewhere are other subjects
        return lambda image: ""
    return lambda image: split.parts(np.array([image.subject if split.by == "subject" else image.name]))[0]


@torch.no_grad()
def reconstruct(image: TissueImage, trained: Trained, settings: Settings, device: torch.device) -> Result:
    """Pass one image through the model, partition by partition."""
    counts = image.read()
    corners = cut(image.shape_px, trained.shape[0], overlap_px(settings, trained), "shift")
    mosaic = Mosaic(len(counts), image.shape_px, trained.shape[0])
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16")
    for start in range(0, len(corners), settings.task.batch_size):
        here = corners[start : start + settings.task.batch_size]
        patches = torch.from_numpy(gather(counts, here, trained.shape[0]).astype(np.float32)).to(device)
        with autocast:
            output = trained.model.reconstruct(trained.normaliser.apply(patches))
        mosaic.add(here, output.float().cpu().numpy())
    treated = trained.normaliser.apply(torch.from_numpy(counts[None].astype(np.float32)).to(device))[0].cpu().numpy()
    return Result(counts, treated, mosaic.blend())


def to_counts(result: Result, trained: Trained) -> np.ndarray:
    """Return the reconstruction in counts (C, Y, X) float32."""
    return trained.normaliser.invert(torch.from_numpy(result.output[None]))[0].numpy()


def as_type(counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return counts as the camera would: rounded, and cut off where its numbers end."""
    if dtype.kind not in "ui":
        return counts.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(counts.astype(np.float64)), limits.min, limits.max).astype(dtype)


Rows = list[tuple[str, np.ndarray, tuple[float, float] | None]]  # of an image's figure: label, planes, grey scale


def write_counts(result: Result, image: TissueImage, threshold: float, trained: Trained, results: Results) -> Rows:
    """Write the reconstruction with the original's shape and type; return what the figure shows."""
    counts = as_type(to_counts(result, trained), image.dtype)
    write_tiff(counts, image, results.path(f"{image.name}.tif"))
    return [("original", result.counts, None), ("reconstructed", counts, None)]


def write_maps(result: Result, image: TissueImage, threshold: float, trained: Trained, results: Results) -> Rows:
    """Write the probability and the thresholded map of a Bernoulli model; return what the figure shows."""
    above = (result.output > threshold).astype(np.uint8)
    write_tiff(result.output, image, results.path(f"{image.name}_probability.tif"))
    write_tiff(above, image, results.path(f"{image.name}_map.tif"))
    return [
        ("original\n(counts)", result.counts, None),
        ("above the\ntraining mean", result.treated, (0.0, 1.0)),
        ("reconstructed\nprobability", result.output, (0.0, 1.0)),
        (f"probability\nabove {threshold:g}", above, (0.0, 1.0)),
    ]


def write_tiff(pixels: np.ndarray, image: TissueImage, path: Path) -> None:
    """Write (C, Y, X) as OME-TIFF with the channels' names and the pixel size; as plain TIFF where OME lacks the type."""
    ome = pixels.dtype.name in OME_TYPES
    about: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": image.channels}} if ome else {"channels": image.channels}
    if ome and image.pixel_um:
        for axis in "XY":
            about |= {f"PhysicalSize{axis}": image.pixel_um, f"PhysicalSize{axis}Unit": "\u00b5m"}
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, pixels, ome=ome, photometric="minisblack", compression="zlib", metadata=about)


def measure(result: Result, image: TissueImage, part: str, threshold: float, trained: Trained) -> list[dict[str, Any]]:
    """Return a row per channel.

    ``mse_normalised`` is in the units that the model was trained in, ``rmse_counts`` and what follows in the camera's. Of
    Bernoulli models: the cross-entropy, and how well the thresholded map agrees with the treated image.
    """
    bern = trained.normaliser.mode == "bern"
    counts = None if bern else to_counts(result, trained)
    rows = []
    for number, channel in enumerate(image.channels):
        row: dict[str, Any] = {"subject": image.subject, "image": image.image, "part": part, "channel": channel}
        target, output = result.treated[number].astype(np.float64), result.output[number].astype(np.float64)
        row["mse_normalised"] = float(np.mean((output - target) ** 2))
        if counts is not None:
            original, again = result.counts[number].astype(np.float64), counts[number].astype(np.float64)
            squared, spread = float(np.mean((again - original) ** 2)), float(original.var())
            row |= {"rmse_counts": squared**0.5, "r2": float(explained(squared, spread))}
            both = spread**0.5 * float(again.std())
            product = float(np.mean((original - original.mean()) * (again - again.mean())))
            row["correlation"] = product / both if both else np.nan
        else:
            p, above = np.clip(output, TINY, 1 - TINY), output > threshold
            entropy = -np.mean(target * np.log(p) + (1 - target) * np.log1p(-p))
            found, wanted = int(above.sum()), int(target.sum())
            dice = 2 * int((above & (target > 0)).sum()) / (found + wanted) if found + wanted else 1.0
            row |= {"cross_entropy_nats_per_pixel": float(entropy), "accuracy": float(np.mean(above == (target > 0)))}
            row["dice"] = dice
        rows.append(row)
    return rows


def _title(image: TissueImage, part: str) -> str:
    seen = {"train": "trained on", "val": "validation", "test": "test"}
    return f"{image.name}, {image.shape_px[0]} x {image.shape_px[1]} px" + (f" ({seen[part]})" if part in seen else "")


def preflight(settings: Settings, out: Path) -> Preflight:
    """Load the model, match the channels, reconstruct one batch of the first image, and estimate the rest."""
    device = choose_device(settings.trainer.device)
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        opened = open_all(settings, device, outputs)
        trained, images = opened.trained, opened.images
        counts, size = images[0].read(), trained.shape[0]
    overlap = overlap_px(settings, trained)
    num = sum(len(cut(image.shape_px, size, overlap)) for image in images)
    here = cut(images[0].shape_px, size, overlap)[: settings.task.batch_size]
    started = time.perf_counter()
    with torch.no_grad():
        patches = torch.from_numpy(gather(counts, here, size).astype(np.float32)).to(device)
        trained.model.reconstruct(trained.normaliser.apply(patches))
    seconds = (time.perf_counter() - started) / len(here) * num
    pixels = [len(image.channels) * image.shape_px[0] * image.shape_px[1] for image in images]
    return Preflight(
        reads=[
            f"{len(images)} images, the first {images[0].name} ({images[0].path}), channels {trained.channels}; "
            f"{num} partitions of {size} px, {size - overlap} px apart"
        ],
        writes=results_of(opened, out).writes,
        memory_mb=psutil.Process().memory_info().rss / 1e6 + max(pixels) * 40 / 1e6,
        disk_mb=sum(pixels) * (2 if opened.is_bernoulli else images[0].dtype.itemsize) / 1e6 + len(images),
        seconds=seconds + sum(pixels) / 1e7 + 0.6 * len(images),
    )
