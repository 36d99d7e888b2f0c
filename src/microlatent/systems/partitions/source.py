"""Partitions: square cuts of multiplexed tissue images, and how their stores become what a model trains on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from microlatent.data.folders import open_stores
from microlatent.data.source import PatchSource
from microlatent.data.split import Split
from microlatent.data.store import Store
from microlatent.schemas import Settings
from microlatent.systems.partitions.files import TissueImage
from microlatent.systems.partitions.schema import PartitionsConfig

logger = logging.getLogger(__name__)


def cut(shape_px: tuple[int, int], size: int, overlap: int = 0, remainder: str = "shift") -> np.ndarray:
    """Return the upper left corners (n, 2) int64, row by row, of the squares that cover an image.

    Parameters
    ----------
    shape_px
        Rows and columns of the image.
    size, overlap
        Side of a square, and how much of it neighbours share: they begin ``size - overlap`` apart.
    remainder
        ``shift``: the last row and column of squares move inwards to the image's edge, so that every pixel is covered.
        ``drop``: what is left at the right and the bottom is in no square, as in the partitions reference.

    Raises
    ------
    ValueError
        The image is smaller than a square.
    """
    if min(shape_px) < size:
        raise ValueError(f"An image of {shape_px[0]} x {shape_px[1]} px is smaller than a partition of {size} px.")
    starts = []
    for length in shape_px:
        along = list(range(0, length - size + 1, size - overlap))
        if remainder == "shift" and along[-1] + size < length:
            along.append(length - size)
        starts.append(along)
    return np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2).astype(np.int64)


def gather(pixels: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Cut squares (n, C, size, size) with the given upper left corners (n, 2) out of an image (C, Y, X)."""
    patches = np.empty((len(corners), len(pixels), size, size), pixels.dtype)
    for number, (row, col) in enumerate(corners):
        patches[number] = pixels[:, row : row + size, col : col + size]
    return patches


def refuse_small(images: Iterable[TissueImage], size: int, remedy: str) -> None:
    """Refuse images that no square of ``size`` px fits into, with what to do about it.

    Raises
    ------
    ValueError
        An image is smaller.
    """
    for image in images:
        if min(image.shape_px) < size:
            raise ValueError(
                f"{image.name} ({image.path}) has {image.shape_px[0]} x {image.shape_px[1]} px, but a partition has {size} x "
                f"{size} px. {remedy}"
            )


class PartitionPatches(PatchSource):
    """Partitions of subjects; what is said of subjects counts subjects, because a subject's partitions are alike."""

    split_levels: ClassVar = {"subject": ("subject",), "image": ("subject", "image"), "partition": ("key",)}
    independent_unit = "subject"

    def use_split(self, split: Split) -> None:
        """Set which rows are train, val and test; say so where the split leaks."""
        if split.by == "partition":
            logger.warning(
                "data.split_by=partition leaks: a held-out partition has neighbours of the same tissue in training, so it "
                "looks better than new images will. Use data.split_by=image or subject."
            )
        super().use_split(split)


def open_source(settings: Settings) -> PartitionPatches:
    """Open the stores of the chosen subjects as one source of partitions."""
    config: PartitionsConfig = settings.data
    stores = open_stores(config, settings.outputs, config.subjects, "data.subjects")
    _refuse_unlike(stores)
    chosen = config.channels
    if config.drop_channels:
        already = set(stores[0].origin["birth"]["config"]["data"]["drop_channels"])
        unknown = [name for name in config.drop_channels if name not in {*already, *stores[0].channels}]
        if unknown:
            raise ValueError(
                f"data.drop_channels names {unknown}, but the stores have {stores[0].channels}. Take names from there."
            )
        chosen = [name for name in chosen or stores[0].channels if name not in config.drop_channels]
    return PartitionPatches(stores, chosen, augment=config.augment)


def _refuse_unlike(stores: list[Store]) -> None:
    """Refuse stores that were not cut in the same way: their partitions do not compare, nor count the same."""
    for key in ("size", "overlap", "remainder", "min_foreground"):
        found = {store.name: store.origin.get(key) for store in stores}
        if len(set(found.values())) > 1:
            some = ", ".join(f"{name}: {value}" for name, value in list(found.items())[:4])
            raise ValueError(
                f"The stores in {stores[0].path.parent} were assembled with different task.{key} ({some}). Assemble all subjects "
                "in one go, or choose those that are alike with data.subjects."
            )
