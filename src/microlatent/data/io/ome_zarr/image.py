"""One image: what its metadata say, and its levels."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from microlatent.data.io.ome_zarr.level import Index, Level
from microlatent.data.io.ome_zarr.metadata import AXES, damaged, is_zarr, read_attributes
from microlatent.data.io.units import MINUTES, UM


class Place(NamedTuple):
    """Where a field lies: ``A/1`` and ``000``; a single image has no well."""

    well: str
    field: str
    path: Path

    @property
    def name(self) -> str:
        """Well and field, such as A/1/000."""
        return f"{self.well}/{self.field}".lstrip("/")


class OmeImage:
    """One image: a field of a plate, a single image or a label image. Metadata are read now, pixels when indexed.

    Attributes: ``place`` and ``name``, ``version`` of NGFF, ``axes`` as stored, ``levels`` from full resolution down, ``units``
    by axis letter, ``omero`` as it stands, ``attributes`` that are not NGFF's, such as VisCy's ``normalization``.
    ``shape``, ``dtype``, ``chunks``, ``scale``, ``translation`` and indexing are those of full resolution.
    """

    def __init__(self, place: Place | str | Path, channel_names: Sequence[str] | None = None) -> None:
        self.place = place if isinstance(place, Place) else Place("", Path(place).name, Path(place))
        self.path, self.name = self.place.path, self.place.name
        self.version, about, self.attributes = read_attributes(self.path)
        if not about.get("multiscales"):
            there = ", ".join(sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())) or "nothing"
            raise ValueError(
                f"{self.path} has no multiscales, so it is no OME-Zarr image; it holds {there}. Name an image in it."
            )
        self.omero: dict[str, Any] = about.get("omero") or {}
        self.colors: list[dict] = (about.get("image-label") or {}).get("colors") or []
        try:
            self._read_multiscales(about["multiscales"][0])
        except (KeyError, TypeError, IndexError) as error:
            raise damaged(self.path, error) from error
        labels = [channel.get("label") for channel in self.omero.get("channels") or []]
        self._named = [str(label) for label in labels] if labels and all(labels) else None
        self._given = list(channel_names) if channel_names else None

    def _read_multiscales(self, scales: dict[str, Any]) -> None:
        axes = scales.get("axes")
        if axes is None and self.version not in ("0.1", "0.2"):
            raise ValueError(f"{self.path} is of NGFF {self.version} and names no axes. Known are 0.4 and 0.5: convert it.")
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes or "tczyx"]
        letters = [{"time": "T", "channel": "C"}.get(axis.get("type"), str(axis["name"]).upper()) for axis in axes]
        self.axes = "".join(letters)
        if not set(letters) <= set(AXES) or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
            raise ValueError(
                f"{self.path} has the axes {', '.join(str(axis['name']) for axis in axes)}, but an image has y and x, and t, c "
                f"and z at most once. Save the part of it that is to be read as an image of its own."
            )
        self.units = {letter: str(axis["unit"]) for letter, axis in zip(letters, axes, strict=True) if axis.get("unit")}
        everywhere = scales.get("coordinateTransformations") or []
        self.levels = []
        for level in scales["datasets"]:
            scale, shift = np.ones(5), np.zeros(5)
            for step in [*(level.get("coordinateTransformations") or []), *everywhere]:  # in this order
                kind = step["type"]
                values = np.full(5, 1.0 if kind == "scale" else 0.0)
                if kind in ("scale", "translation"):
                    if len(step[kind]) != len(letters):
                        raise ValueError(f"{self.path} has a {kind} of {len(step[kind])} numbers for the axes {self.axes}.")
                    values[[AXES.index(letter) for letter in letters]] = step[kind]
                scale, shift = (scale * values, shift * values) if kind == "scale" else (scale, shift + values)
            path = self.path / str(level["path"])
            self.levels.append(Level(path, self.axes, tuple(scale.tolist()), tuple(shift.tolist())))

    def __getitem__(self, index: int | slice | Index) -> np.ndarray:
        """Return pixels of full resolution; see ``Level``."""
        return self.levels[0][index]

    def __repr__(self) -> str:
        return f"OmeImage({str(self.path)!r}, shape={self.shape})"

    shape = property(lambda self: self.levels[0].shape, doc="Sizes of T, C, Z, Y, X.")
    dtype = property(lambda self: self.levels[0].dtype, doc="Type of a pixel, in this machine's byte order.")
    chunks = property(lambda self: self.levels[0].chunks, doc="What is decoded at once, in pixels along T, C, Z, Y, X.")
    scale = property(lambda self: self.levels[0].scale, doc="Size of a pixel along T, C, Z, Y, X, in ``units``.")
    translation = property(lambda self: self.levels[0].translation, doc="Centre of the first pixel, in ``units``.")

    @property
    def channels(self) -> list[str] | None:
        """Names from the metadata, else those given by the caller; None if there are none or their number is wrong."""
        return next((names for names in (self._named, self._given) if names and len(names) == self.shape[1]), None)

    def channel(self, name: str) -> int:
        """Return the position of a channel.

        Raises
        ------
        ValueError
            The image's channels have no names, none has this one, or two have.
        """
        names = self.channels
        if names is None:
            said = f"gives {len(self._named)} names" if self._named else "names no channels"
            given = f" (data.channel_names has {len(self._given)})" if self._given else ""
            raise ValueError(
                f"{self.path} has {self.shape[1]} channels, but {said}{given}, so {name!r} cannot be found. Give their names in "
                f"their order: data.channel_names=[...]."
            )
        if names.count(name) != 1:
            near = difflib.get_close_matches(name.lower(), [one.lower() for one in names], 1)
            near = [one for one in names if one.lower() in near and one != name]
            raise ValueError(
                f"The channel {name!r} is {'twice' if name in names else 'not'} in {self.path}; it has {', '.join(names)}."
                + (f" Is {near[0]!r} meant?" if near else "")
                + " Name one of them."
            )
        return names.index(name)

    @property
    def windows(self) -> list[tuple[float, float] | None]:
        """Display range (start, end) of every channel, None where the metadata give none."""
        windows = [channel.get("window") or {} for channel in self.omero.get("channels") or []]
        windows = windows if len(windows) == self.shape[1] else [{}] * self.shape[1]
        return [(float(one["start"]), float(one["end"])) if {"start", "end"} <= set(one) else None for one in windows]

    pixel_um = property(lambda self: self._size("X", UM), doc="Width of a pixel, None if its unit is unknown.")
    z_um = property(lambda self: self._size("Z", UM), doc="Distance of planes, None if its unit is unknown.")
    frame_min = property(lambda self: self._size("T", MINUTES), doc="Interval of time points, None if its unit is unknown.")

    def _size(self, axis: str, known: dict[str, float]) -> float | None:
        unit = known.get(self.units.get(axis, ""))
        return self.scale[AXES.index(axis)] * unit if unit else None

    @property
    def label_names(self) -> list[str]:
        """Names of the label images that lie with this one."""
        folder = self.path / "labels"
        return [str(name) for name in read_attributes(folder)[1].get("labels") or []] if is_zarr(folder) else []

    def labels(self, name: str) -> OmeImage:
        """Return a label image; its C axis has length 1."""
        if name not in self.label_names:
            there = ", ".join(self.label_names) or "none"
            raise ValueError(f"{self.path} has no labels {name!r}; it has {there}. Name one of them.")
        return OmeImage(Place(self.place.well, self.place.field, self.path / "labels" / name))
