"""Fields of view found by a pattern of paths, frame by frame, and images joined to their instance masks.

A pattern such as ``images/{well}-{site}_t{frame}.tif`` is matched below data.root. Its fields:

    {well} {site}      any text without a slash; {row} and {column} together are the well (OME-Zarr plates)
    {frame}            a number; a pattern without it takes the files of a site in natural order, or a file's own time axis
    {channel}          one file per channel, in natural order of the names
    *  **              anything, without and with slashes

An OME-Zarr plate is named by its folder: its wells and fields are taken from its metadata.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from microlatent.data.io.image_files import ImageFile, open_image
from microlatent.data.io.ome_zarr.metadata import is_zarr
from microlatent.data.io.ome_zarr.plate import places
from microlatent.data.io.paths import NUMBER, TEXT, find_paths, natural, nothing_found

logger = logging.getLogger(__name__)

FIELDS = {"well": TEXT, "site": TEXT, "row": TEXT, "column": TEXT, "frame": NUMBER, "channel": TEXT}


@dataclass
class FieldOfView:
    """The frames of one site, read one at a time.

    ``files`` has, for each frame number, (path, time point in that file) of every channel file.
    """

    well: str
    site: str
    files: dict[int, list[tuple[Path, int]]]
    channels: list[str] | None
    shape_px: tuple[int, int]
    num_channels: int
    pixel_um: float | None
    frame_min: float | None
    numbered: bool  # frame numbers were read, not counted
    pages: str
    opened: dict[Path, ImageFile] = field(default_factory=dict, repr=False)

    @property
    def frames(self) -> list[int]:
        """Frame numbers in order."""
        return sorted(self.files)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.files)

    def frame(self, number: int) -> np.ndarray:
        """Return a frame (C, Y, X) in the camera's dtype."""
        parts = self.files[number]
        for path in [path for path in self.opened if path not in [p for p, _ in parts]]:
            self.opened.pop(path).close()
        for path, _ in parts:
            if path not in self.opened:
                self.opened[path] = open_image(path, self.pages)
        image = np.concatenate([self.opened[path].read(t) for path, t in parts])
        if image.shape != (self.num_channels, *self.shape_px):
            raise ValueError(
                f"{parts[0][0]} has (channels, rows, columns) {image.shape}, but the site's first frame has "
                f"{(self.num_channels, *self.shape_px)}. All frames of a site must be alike: check task.images and task.masks."
            )
        return image

    def labels(self, number: int) -> np.ndarray:
        """Return a frame of an instance mask (Y, X) as integers; 0, negative numbers and NaN are background."""
        image, path = self.frame(number), self.files[number][0][0]
        if len(image) > 1:
            raise ValueError(
                f"{path} has {len(image)} channels, but an instance mask has one value per pixel. It may be a coloured picture "
                f"of the masks: name the files of labels in task.masks."
            )
        labels = image[0]
        if labels.dtype.kind == "f":
            labels = np.nan_to_num(labels, nan=0.0)
            if not np.array_equal(labels, np.rint(labels)):
                raise ValueError(
                    f"{path} holds fractions such as {labels[labels != np.rint(labels)][0]}, but labels are whole numbers."
                )
            labels = labels.astype(np.int64)
        return np.maximum(labels, 0) if labels.dtype.kind == "i" else labels.astype(np.uint8) if labels.dtype == bool else labels

    def close(self) -> None:
        """Close the files that are open."""
        while self.opened:
            self.opened.popitem()[1].close()


def find_fields(
    root: str | Path, pattern: str, key: str, well: str = "A1", site: str = "Site_0"
) -> dict[tuple[str, str], FieldOfView]:
    """Return the fields of view (well, site) that a pattern finds; sites and frames in natural order.

    Parameters
    ----------
    key
        The setting that holds the pattern, for messages.
    well, site
        Where the path does not say. A site's name begins with its well: ``Site_0`` of A1 becomes ``A1-Site_0``.

    Raises
    ------
    FileNotFoundError
        If the folder is missing or nothing matches.
    ValueError
        If a field is unknown, two files are the same frame, or channels differ between frames.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root is {root}, but there is no such folder. Give the folder above the images and masks.")
    groups: dict[tuple[str, str], dict[tuple[int, str], Path]] = {}
    numbered, num_found = "{frame}" in pattern, 0
    for path, found in find_paths(root, pattern, key, FIELDS):
        inside = _plate_places(path) if is_zarr(path) else []
        for well_of, site_of, image in inside or [(None, None, path)]:
            name = found.get("well") or found.get("row", "") + found.get("column", "") or well_of or well
            place = found.get("site") or site_of or site
            group = groups.setdefault((name, place if place.startswith(name) else f"{name}-{place}"), {})
            channel = found.get("channel", "")
            number = int(found["frame"]) if numbered else sum(1 for _, other in group if other == channel)
            if (number, channel) in group:
                raise ValueError(
                    f"{group[number, channel]} and {image} are both frame {number} of {name}, {place}. Put what tells them apart "
                    f"into {key} as {{well}}, {{site}}, {{frame}} or {{channel}}; it is {pattern!r}."
                )
            group[number, channel] = image
            num_found += 1
    if not groups:
        raise nothing_found(root, pattern, key, FIELDS)
    return {name: _field(*name, groups[name], numbered) for name in sorted(groups, key=lambda name: natural("/".join(name)))}


def _plate_places(path: Path) -> list[tuple[str, str, Path]]:
    """Return (well, field, path) of the fields of an OME-Zarr plate, wells without a slash; what is absent is said once."""
    found, missing = places(path)
    if missing:
        logger.warning("%s lists %s, which are not there; the other fields are used.", path, ", ".join(missing))
    return [(place.well.replace("/", ""), place.field, place.path) for place in found]


def _field(well: str, site: str, group: dict[tuple[int, str], Path], numbered: bool) -> FieldOfView:
    """Open the first frame's files for what they say, and lay out all frames."""
    names = sorted({channel for _, channel in group}, key=natural)
    numbers = sorted({number for number, _ in group})
    lacking = [(number, channel) for number in numbers for channel in names if (number, channel) not in group]
    if lacking:
        raise ValueError(
            f"{site}: frame {lacking[0][0]} has no file of channel {lacking[0][1]!r}, but other frames have {', '.join(names)}. "
            f"Copy the {len(lacking)} missing files, or take the frames without them away."
        )
    files = {number: [(group[number, channel], 0) for channel in names] for number in numbers}
    pages = "C" if numbered or len(numbers) > 1 else "T"
    opened = [open_image(path, pages) for path, _ in files[numbers[0]]]
    shapes = [image.shape for image in opened]
    first = opened[0]
    num_frames = shapes[0][0]
    if num_frames > 1:
        if numbered or len(numbers) > 1:
            raise ValueError(
                f"{first.path} holds {num_frames} time points, but {len(numbers)} files were found for {site} and each was taken "
                f"for one frame. Name one file per site, or put {{site}} where the paths differ."
            )
        files = {t: [(path, t) for path, _ in files[numbers[0]]] for t in range(num_frames)}
    own = first.channels if len(set(first.channels or [])) == len(first.channels or []) else None  # doubled names name nothing
    channels = names if names != [""] else own
    result = FieldOfView(
        **{"well": well, "site": site, "files": files, "channels": channels, "shape_px": shapes[0][2:]},
        **{"num_channels": sum(shape[1] for shape in shapes), "numbered": numbered or num_frames > 1, "pages": pages},
        **{"pixel_um": first.pixel_um, "frame_min": first.frame_min},
    )
    for image in opened:
        image.close()
    return result


@dataclass
class Pair:
    """A site's images and masks, and the frames that both have."""

    images: FieldOfView
    masks: FieldOfView
    frames: list[tuple[int, int]]  # image frame, mask frame


def join(
    images: dict[tuple[str, str], FieldOfView], masks: dict[tuple[str, str], FieldOfView], mask_frame_offset: int | None = None
) -> tuple[list[Pair], list[str]]:
    """Pair images and masks by well, site and frame; return the pairs and what a user should know about the rest.

    Parameters
    ----------
    mask_frame_offset
        Image frame minus mask frame. None: equal numbers belong together, which is only taken for granted where both begin
        with the same number, and, if either was counted instead of read from names, where there are as many of both.

    Raises
    ------
    ValueError
        If no site or frame is common, or if it is not certain which frames belong together.
    """
    common = [name for name in images if name in masks]
    if not common:
        raise ValueError(
            f"No site has both images and masks. Images: {_list(images)}. Masks: {_list(masks)}. Write {{well}} and {{site}} in "
            f"task.images and task.masks so that both give the same names."
        )
    notes = [f"{name[1]} has images but no masks and is left out." for name in images if name not in masks]
    notes += [f"{name[1]} has masks but no images and is left out." for name in masks if name not in images]
    pairs = []
    for name in common:
        frames = _common_frames(images[name], masks[name], mask_frame_offset)
        pairs.append(Pair(images[name], masks[name], frames))
        if not len(frames) == images[name].num_frames == masks[name].num_frames:
            notes.append(
                f"{name[1]}: {images[name].num_frames} images and {masks[name].num_frames} masks, {len(frames)} frames have both "
                f"and are used."
            )
    return pairs, notes


def _common_frames(images: FieldOfView, masks: FieldOfView, offset: int | None) -> list[tuple[int, int]]:
    """Return (image frame, mask frame) of the frames that both have."""
    a, b = images.frames, masks.frames
    counted = not (images.numbered and masks.numbered)
    if offset is None and (a[0] != b[0] or (counted and len(a) != len(b))):
        raise ValueError(
            f"{images.site}: the images are frames {a[0]} to {a[-1]} ({len(a)} of them"
            f"{'' if images.numbered else ', counted in the order of names'}), the masks {b[0]} to {b[-1]} ({len(b)}"
            f"{'' if masks.numbered else ', counted'}), so it is not certain which belong together. Say it: "
            f"task.mask_frame_offset={a[0] - b[0]} if both begin at the same moment, task.mask_frame_offset=0 if equal numbers "
            f"are the same moment. Pixels of one frame under the masks of another would give wrong patches without any sign."
        )
    there = set(b)
    frames = [(number, number - (offset or 0)) for number in a if number - (offset or 0) in there]
    if not frames:
        raise ValueError(
            f"{images.site}: no frame has both image and mask. Images are frames {a[0]} to {a[-1]}, masks {b[0]} to {b[-1]}; "
            f"task.mask_frame_offset is {offset}. Set it to {a[0] - b[0]} if both begin at the same moment."
        )
    return frames


def _list(fields: dict[tuple[str, str], FieldOfView]) -> str:
    names = [site for _, site in fields]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
