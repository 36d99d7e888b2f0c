"""Multiplexed tissue images of subjects, found by a pattern of paths and read one at a time.

A pattern such as ``{subject}/{image}.*`` is matched below data.root. Its fields:

    {subject}     the patient, animal or core that an outcome belongs to; needed
    {image}       one of the subject's images; without it the image has the subject's name
    {channel}     one file per marker, which is named so; without it every page of a file is a marker
    *  **         anything, without and with slashes; a last ``.*`` is the file's ending: im1.ome.tif is im1

Markers are matched by name, so files may hold them in any order. Names come from the path, from OME-XML, from ImageJ's labels,
from inForm's pages, or else from data.channel_names; pages without any name are page_0, page_1 ...
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microlatent.data.io.image_files import ImageFile, is_known, open_image
from microlatent.data.io.paths import TEXT, find_paths, named, natural, nothing_found
from microlatent.systems.partitions.schema import PartitionsConfig

logger = logging.getLogger(__name__)
FIELDS = {"subject": TEXT, "image": TEXT, "channel": TEXT}
KEY = "data.images"


@dataclass
class TissueImage:
    """One image of a subject; its pixels stay in the files until they are read."""

    subject: str
    image: str
    files: list[Path]
    channels: list[str]  # the chosen markers in the order of ``read``
    shape_px: tuple[int, int]
    dtype: np.dtype
    pixel_um: float | None
    planes: dict[str, tuple[Path, int]]  # file and page of every marker in it, chosen or not
    others: list[str]  # pages that can be no marker, such as a coloured composite

    @property
    def name(self) -> str:
        """Subject and image, as keys and messages have it."""
        return f"{self.subject}/{self.image}"

    @property
    def path(self) -> Path:
        """The file, or the folder of the files."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent

    def read(self) -> np.ndarray:
        """Return the chosen markers (C, Y, X) in the camera's dtype.

        Raises
        ------
        ValueError
            A file is damaged, or a pixel is not finite.
        """
        pixels = np.empty((len(self.channels), *self.shape_px), self.dtype)
        for path in dict.fromkeys(self.planes[name][0] for name in self.channels):
            file = open_image(path, "C")
            whole = file.read(0)
            file.close()
            for number, name in enumerate(self.channels):
                source, plane = self.planes[name]
                if source == path:
                    _refuse_not_finite(whole[plane], path, name)
                    pixels[number] = whole[plane]
        return pixels


def find_images(root: str | Path, config: PartitionsConfig) -> list[TissueImage]:
    """Return the images of the chosen subjects with the chosen channels, in natural order of subject and image.

    Raises
    ------
    FileNotFoundError
        The folder is missing, or nothing in it matches data.images.
    ValueError
        No subject is chosen, files are damaged or coloured, names are doubled or missing, or images do not agree in channels
        or kind of numbers.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root is {root}, but there is no such folder. Give the folder above the subjects' images.")
    groups = _grouped(root, config)
    images = [_header(*name, groups[name], config) for name in sorted(groups, key=lambda name: (*map(natural, name), name))]
    _choose_channels(images, config)
    odd = next((image for image in images if image.dtype.kind != images[0].dtype.kind), None)
    if odd is not None:
        raise ValueError(
            f"{odd.name} ({odd.path}) holds numbers of type {odd.dtype}, but {images[0].name} ({images[0].path}) "
            f"{images[0].dtype}. All images must be of one kind, or their intensities do not compare: convert the files."
        )
    _warn_of_mixed_integers(images)
    return images


def _grouped(root: Path, config: PartitionsConfig) -> dict[tuple[str, str], dict[str, Path]]:
    """Return the files of every image by channel; the channel is "" where the path does not say."""
    pattern, groups, unknown = config.images, {}, []
    if "{subject}" not in pattern:
        raise ValueError(
            f"{KEY}={pattern!r} has no {{subject}}, but outcomes and splits are by subject. Write {{subject}} where the path "
            f"names the patient or animal, of {named(FIELDS)}. Without {{image}}, '{{subject}}.tif', a file is a subject."
        )
    last = re.search(r"{(\w+)}\.\*$", pattern)
    last = last[1] if last and pattern.count("{" + last[1] + "}") == 1 else None
    for path, found in find_paths(root, pattern.removesuffix(".*") if last else pattern, KEY, FIELDS):
        if not is_known(path):
            unknown.append(str(path.relative_to(root)))
            continue
        if last:
            found[last] = re.sub(r"(\.ome)?\.[^.]*$", "", found[last], flags=re.IGNORECASE)
        group = groups.setdefault((found["subject"], found.get("image", found["subject"])), {})
        channel = found.get("channel", "")
        if channel in group:
            raise ValueError(
                f"{group[channel]} and {path} are both {f'channel {channel} of ' if channel else ''}image "
                f"{found.get('image', found['subject'])} of subject {found['subject']}. Put what tells them apart into {KEY} as "
                f"{named(FIELDS)}, or the ending of the images; it is {pattern!r}."
            )
        group[channel] = path
    if unknown:
        some = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        logger.warning("%s matches files that are no images, which are passed over: %s.", KEY, some)
    if not groups:
        raise nothing_found(root, pattern, KEY, FIELDS)
    subjects = sorted({subject for subject, _ in groups}, key=natural)
    if config.subjects == []:
        raise ValueError(f"data.subjects is [], but {root} has {subjects}. Name some of them, or leave it out to take all.")
    absent = [subject for subject in config.subjects or [] if subject not in subjects]
    if absent:
        raise ValueError(f"data.subjects names {absent}, but {root} has {subjects}. Take a name from there.")
    return {name: files for name, files in groups.items() if config.subjects is None or name[0] in config.subjects}


def _header(subject: str, image: str, paths: dict[str, Path], config: PartitionsConfig) -> TissueImage:
    """Open the files of one image for what they say of themselves; no pixel is read."""
    planes: dict[str, tuple[Path, int]] = {}
    others, shape, dtype, pixel_um, before = [], None, None, None, None
    for channel in sorted(paths, key=natural):
        path = paths[channel]
        file = open_image(path, "C")
        file.close()
        _refuse_no_markers(file)
        names = _names(file, channel, config)
        others += _other_pages(file, config)
        if shape not in (None, file.shape[2:]):
            raise ValueError(
                f"{path} has {file.shape[2]} x {file.shape[3]} px, but {before}, another channel of {subject}/{image}, "
                f"{shape[0]} x {shape[1]}. All channels of an image must be alike: save it again."
            )
        shape, before, pixel_um = file.shape[2:], path, pixel_um or file.pixel_um
        kind = np.dtype(np.uint8) if file.dtype == bool else file.dtype
        dtype = kind if dtype is None else np.result_type(dtype, kind)
        planes |= {name: (path, number) for number, name in enumerate(names)}
    files = list(paths.values())
    return TissueImage(subject, image, files, [], shape, dtype, config.pixel_um or pixel_um, planes, others)


def _names(file: ImageFile, channel: str, config: PartitionsConfig) -> list[str]:
    """Return the names of a file's pages."""
    num = file.shape[1]
    if channel:
        if num > 1:
            raise ValueError(
                f"{file.path} holds {num} channels, but {{channel}} in {KEY}={config.images!r} says that every file is one. Take "
                "{channel} out: the pages' names come from the file, or from data.channel_names."
            )
        return [channel]
    names = file.channels or config.channel_names or [f"page_{number}" for number in range(num)]
    if len(names) != num:
        raise ValueError(
            f"data.channel_names has {len(names)} names, {names}, but {file.path} has {num} pages. Name every page in its order; "
            "data.drop_channels leaves pages out."
        )
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        where = "It says so itself: mend its names" if file.channels else "Mend data.channel_names"
        raise ValueError(
            f"{file.path} has more than one channel named {doubled}, of {names}. {where}, so that each is one marker."
        )
    return names


def _other_pages(file: ImageFile, config: PartitionsConfig) -> list[str]:
    """Return the names of pages that can be no channel; one as large as the image may be meant as such, and must be dropped."""
    others = [f"page_{page.number}" for page in file.others if page.shape_px == file.shape[2:]]
    kept = [page for page in file.others if f"page_{page.number}" in others and f"page_{page.number}" not in config.drop_channels]
    if kept and config.channels is None:
        raise ValueError(
            f"{file.path} has {file.shape[1]} pages that are channels, but page_{kept[0].number} is another kind of page "
            f"({kept[0].text}). Leave it out: data.drop_channels=[{', '.join(others)}]."
        )
    if len(others) < len(file.others):
        small = ", ".join(page.text for page in file.others if page.shape_px != file.shape[2:])
        logger.info("%s: pages of another size are no channels: %s.", file.path, small)
    return others


def _choose_channels(images: list[TissueImage], config: PartitionsConfig) -> None:
    """Set the channels of every image: those of data.channels, or all but data.drop_channels, which must then agree."""
    there = list(dict.fromkeys(name for image in images for name in image.planes))
    droppable = set(there).union(*(image.others for image in images))
    absent = [name for name in config.drop_channels if name not in droppable]
    if absent:
        raise ValueError(f"data.drop_channels names {absent}, but the images have {there}. Take names from there.")
    first = images[0]
    wanted = config.channels or [name for name in first.planes if name not in config.drop_channels]
    if not wanted:
        raise ValueError(f"data.drop_channels leaves no channel of {list(first.planes)}. Drop fewer.")
    for image in images:
        here = [name for name in image.planes if name not in config.drop_channels]
        missing = [name for name in wanted if name not in here]
        if missing and config.channels:
            raise ValueError(
                f"data.channels names {missing}, but {image.name} ({image.path}) has {here}. Take names from there, or name "
                "the pages in their order with data.channel_names=[...]."
            )
        further = [name for name in here if name not in wanted]
        if missing or (further and not config.channels):
            raise ValueError(
                f"{image.name} ({image.path}) has the channels {here}, but {first.name} ({first.path}) has {wanted}"
                + (
                    f": {missing} is missing (the other has it in {first.planes[missing[0]][0]})"
                    if missing
                    else f": {further} is more"
                )
                + ". All images must have the same markers by name. Complete the files, choose what all have with "
                "data.channels=[...], or leave the rest out with data.drop_channels or data.subjects."
            )
        image.channels = list(wanted)
    if config.channel_names and not set(config.channel_names) & set(there):
        logger.warning("data.channel_names has no effect: the files name their channels %s.", there)


def _refuse_no_markers(file: ImageFile) -> None:
    """Refuse pictures, movies, and numbers that are no intensities."""
    if file.is_rgb:
        raise ValueError(
            f"{file.path} is a coloured picture (red, green, blue), but an image needs a page or a file for every marker. Give "
            f"the original, and write {KEY} so that pictures do not match, such as '{{subject}}/{{image}}.tif'. If its planes "
            "are markers, save them as separate grey pages (tifffile: photometric='minisblack')."
        )
    if file.shape[0] > 1:
        raise ValueError(f"{file.path} has {file.shape[0]} time points, but a tissue image has one. Save the one that is meant.")
    if file.dtype.kind not in "buif":
        raise ValueError(
            f"{file.path} holds numbers of type {file.dtype}, but intensities are whole or real numbers. Convert it."
        )


def _warn_of_mixed_integers(images: list[TissueImage]) -> None:
    """Say so where images hold integers of different widths, which an instrument's export scales to different ranges."""
    examples = {image.dtype.itemsize: image for image in reversed(images) if image.dtype.kind in "ui"}  # the first of each
    if len(examples) > 1:
        logger.warning(
            "Images hold integers of different types: %s. Their intensities do not compare unless they were scaled alike: "
            "export all with one type, or choose those that are alike with data.subjects.",
            ", ".join(f"{image.dtype} in {image.name} ({image.path})" for _, image in sorted(examples.items())),
        )


def _refuse_not_finite(plane: np.ndarray, path: Path, name: str) -> None:
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        bad = np.argwhere(~np.isfinite(plane))
        raise ValueError(
            f"{path}, channel {name}: {len(bad)} pixels are NaN or infinite, the first at row {bad[0][0]}, column {bad[0][1]}. "
            "Intensities must be finite: mend the file, or leave the channel out with data.drop_channels."
        )
