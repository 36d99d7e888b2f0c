"""Handwritten digits in idx files, and how their store becomes what a model trains on.

Format: http://yann.lecun.com/exdb/mnist (big-endian; magic number, sizes, bytes), plain or gzip whatever the name says. Files
of images have "images" in their names, those of labels "labels", and are otherwise named alike.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from microlatent.data.folders import open_stores
from microlatent.data.io.paths import natural
from microlatent.data.source import PatchSource
from microlatent.schemas import Settings
from microlatent.systems.mnist.schema import MnistConfig

IMAGES, LABELS = 2051, 2049  # magic numbers


@dataclass
class Digits:
    """A file of images with its labels."""

    part_of: str  # what comes before "images" in the file's name: train, t10k
    path: Path
    images: np.ndarray  # (N, Y, X) uint8
    labels: np.ndarray | None  # (N,) uint8


def find_digits(root: str | Path) -> list[Digits]:
    """Read every file of images in a folder with its file of labels; without any label file, labels are None.

    Raises
    ------
    FileNotFoundError
        The folder is missing, holds no images, or has labels for some images alone.
    ValueError
        A file is no idx file, cut short, or has not as many labels as images; or images differ in size.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root is {root}, but there is no such folder. Give the folder that holds the idx files.")
    there = sorted((path for path in root.iterdir() if path.is_file() and path.name[0] != "."), key=lambda p: natural(p.name))
    images, labels = ([path for path in there if word in path.name.lower()] for word in ("images", "labels"))
    if not images:
        names = ", ".join(path.name for path in there[:5]) or "nothing"
        raise FileNotFoundError(
            f"data.root={root} holds {names}, but no file with 'images' in its name, such as train-images-idx3-ubyte. Give the "
            "folder that holds the idx files."
        )
    found = []
    for path in images:
        partner = [other for other in labels if _stem(other, "labels") == _stem(path, "images")]
        partner = labels if len(images) == len(labels) == 1 else partner
        if labels and not partner:
            raise FileNotFoundError(
                f"{path} has no file of labels beside it, but there are {', '.join(other.name for other in labels)}. Name it as "
                f"the images, with 'labels' instead of 'images', or give a folder without labels."
            )
        pixels = read_idx(path, IMAGES)
        digits = read_idx(partner[0], LABELS) if partner else None
        if digits is not None and len(digits) != len(pixels):
            raise ValueError(f"{partner[0]} has {len(digits)} labels, but {path} has {len(pixels)} images. Give a pair.")
        if found and pixels.shape[1:] != found[0].images.shape[1:]:
            raise ValueError(
                f"{path} has images of {pixels.shape[1]} x {pixels.shape[2]} px, but {found[0].path} of "
                f"{found[0].images.shape[1]} x {found[0].images.shape[2]} px. Put them into two folders."
            )
        found.append(Digits(_stem(path, "images") or path.name, path, pixels, digits))
    return found


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Read a file of images (N, Y, X) or labels (N,), all uint8, and refuse one that is damaged."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked ({error}). It is damaged or cut short: copy it again.") from error
    num_axes = magic % 256
    head = 4 * (1 + num_axes)
    if len(raw) < head:
        raise ValueError(
            f"{path} has {len(raw)} bytes, fewer than the head of an idx file ({head}). It is cut short: copy it again."
        )
    found, *shape = struct.unpack(f">{1 + num_axes}I", raw[:head])
    if found != magic:
        what = {IMAGES: "images", LABELS: "labels"}
        raise ValueError(
            f"{path} begins with the number {found}{f' of {what[found]}' if found in what else ''}, but an idx file of "
            f"{what[magic]} begins with {magic}. Rename the file, or take it out of data.root."
        )
    wanted = int(np.prod(shape, dtype=object))
    if len(raw) - head != wanted:
        raise ValueError(
            f"{path} says that it holds {' x '.join(map(str, shape))} bytes, {wanted} in all, but has {len(raw) - head}. It is "
            f"{'cut short' if len(raw) - head < wanted else 'longer than it says'}: copy it again."
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _stem(path: Path, word: str) -> str:
    """Return what comes before "images" or "labels" in a name."""
    return re.split(word, path.name, flags=re.IGNORECASE)[0].strip("-_. ")


class DigitPatches(PatchSource):
    """Digits, each on its own."""

    split_levels: ClassVar = {"image": ("key",)}
    independent_unit = "image"


def open_source(settings: Settings) -> DigitPatches:
    """Open the store of digits."""
    config: MnistConfig = settings.data
    return DigitPatches(open_stores(config, settings.outputs), config.channels, augment=config.augment)
