"""The images behind a latents table of partitions: which rows are of which image, where they lie, what the markers look like."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from microlatent import figures
from microlatent.analysis.latent_maps import Canvas
from microlatent.data.latents import Latents, Patches
from microlatent.data.store import Store
from microlatent.schemas import Settings

PLACES = ("subject", "image", "row_px", "col_px")  # columns of a table whose rows have places in images
READ_ROWS = 64  # partitions held in memory at a time
DISPLAY_PX = 300  # images are averaged down to about this side
LIMIT_ROWS = 500  # partitions whose pixels set a marker's range


class Section(NamedTuple):
    """One image of a subject, as the rows of a latents table that were cut from it."""

    subject: str
    image: str
    store: Store
    rows: np.ndarray  # (n,) positions in the latents table
    store_rows: np.ndarray  # (n,) positions in the store
    row_px: np.ndarray  # (n,) upper left corners
    col_px: np.ndarray
    size_px: int  # side of a partition
    step_px: int  # from one partition to the next
    shape_px: tuple[int, int]  # of the image

    @property
    def name(self) -> str:
        """Return <subject>/<image>, as task.images names it."""
        return f"{self.subject}/{self.image}"

    @property
    def block_px(self) -> int:
        """Return how many pixels of the image become one in print."""
        return max(1, round(max(self.shape_px) / DISPLAY_PX))

    def pixel_um(self, settings: Settings) -> float | None:
        """Return the size of a pixel, from the file or data.pixel_um; None where unknown."""
        return self.store.pixel_um or settings.data.pixel_um

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray, int, tuple[int, int], int]:
        """Return what the functions of ``analysis.latent_maps`` call row_px, col_px, size_px, shape_px, step_px."""
        return self.row_px, self.col_px, self.size_px, self.shape_px, self.step_px


def sections(latents: Latents, stores: list[tuple[Store, np.ndarray]]) -> list[Section]:
    """Return the images of a table, in the table's order."""
    found = []
    for store, rows in stores:
        table = latents.obs.iloc[rows]
        subject, image = (table[name].astype(str).to_numpy() for name in ("subject", "image"))
        names, first, code = np.unique(image, return_index=True, return_inverse=True)
        size = int(store.images.shape[-1])
        for number in np.argsort(first):
            inside = np.flatnonzero(code == number)
            row, col = (table[name].to_numpy(np.int64)[inside] for name in ("row_px", "col_px"))
            about = size, size - int(store.origin["overlap"]), tuple(store.origin["images"][names[number]]["shape_px"])
            at = table["row"].to_numpy()[inside]
            found.append(Section(subject[inside[0]], str(names[number]), store, rows[inside], at, row, col, *about))
    return found


def image_codes(every: list[Section], num: int) -> np.ndarray:
    """Return the number (num,) of the image that each row of the table is of."""
    images = np.empty(num, int)
    for number, section in enumerate(every):
        images[section.rows] = number
    return images


def file_stems(shown: list[Section], what: str) -> list[str]:
    """Return names for the images' figures; names that differ in special characters alone get a number."""
    names: list[str] = []
    for section in shown:
        name = f"{what}_{figures.file_word(section.subject)}_{figures.file_word(section.image)}"
        copies = sum(other == name or other.startswith(f"{name}~") for other in names)
        names.append(f"{name}~{copies + 1}" if copies else name)
    return names


def choose(found: list[Section], wanted: list[str] | None) -> list[Section]:
    """Return the images that ``task.images`` names, in its order; all where it names none.

    Raises
    ------
    ValueError
        There is no such image, or it names none.
    """
    if wanted is None:
        return found
    by_name = {one.name: one for one in found}
    listed = ", ".join(list(by_name)[:20]) + (f" ... ({len(by_name)} in all)" if len(by_name) > 20 else "")
    if not wanted:
        raise ValueError(
            f"task.images is [], but the latents table has the images {listed}. Name some of them, or leave it out to take all."
        )
    for name in wanted:
        if name not in by_name:
            near = get_close_matches(name, by_name, n=1, cutoff=0.3)
            raise ValueError(
                f"task.images names {name!r}, but the latents table has the images {listed}."
                + (f" Did you mean {near[0]}?" if near else "")
            )
    return [by_name[name] for name in wanted]


def marker_images(section: Section, channels: list[str]) -> np.ndarray:
    """Return an image's markers (C, Y, X) in counts, put together from its partitions and averaged to blocks for print."""
    index = [section.store.channels.index(name) for name in channels]
    canvas = Canvas(len(index), section.shape_px, section.block_px)
    for start in range(0, len(section.rows), READ_ROWS):
        part = slice(start, start + READ_ROWS)
        partitions = section.store.images[section.store_rows[part]][:, index]
        canvas.add(partitions, section.row_px[part], section.col_px[part])
    return canvas.mean()


def marker_limits(patches: Patches, block_px: int, num: int, seed: int) -> list[tuple[float, float]]:
    """Return one display range for each marker over all images, from pixels of random partitions, averaged as they are shown.

    Parameters
    ----------
    num
        Partitions there are; at most ``LIMIT_ROWS`` are read.
    """
    rows = np.sort(np.random.default_rng(seed).choice(num, min(num, LIMIT_ROWS), replace=False))
    kept = []
    for start in range(0, len(rows), READ_ROWS):
        pixels = patches.read(rows[start : start + READ_ROWS])
        step = min(block_px, pixels.shape[-1])
        side = pixels.shape[-1] // step
        blocks = pixels[..., : side * step, : side * step].reshape(*pixels.shape[:2], side, step, side, step).mean((3, 5))
        kept.append(blocks.swapaxes(0, 1).reshape(pixels.shape[1], -1))
    return [figures.limits(counts) for counts in np.concatenate(kept, 1)]
