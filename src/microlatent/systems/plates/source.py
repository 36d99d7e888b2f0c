"""Plates as a model of virtual staining is trained on them: crops of label-free channels and of the stain at the same place.

Every field has ``data.crops`` crops in an epoch. A row of the table is one of them. Out of training it is always cut at the same
place. In training a place is drawn anew each time from the seed and the step, so a run that goes on takes the crops it would have
taken. Some are drawn where a target is likely foreground: such a place has small squares above Otsu's threshold around it.

Shapes: B crops, C source channels, K target channels, Z planes of a window, Y rows, X columns.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from microlatent import distributed
from microlatent.contract import Batch
from microlatent.data.augment import augmented
from microlatent.data.folders import SIMULATED, raw_path, store_folder
from microlatent.data.io.ome_zarr.plate import Plate
from microlatent.data.source import TableSource
from microlatent.data.split import Split
from microlatent.device import layout
from microlatent.schemas import Settings
from microlatent.systems.plates import registration
from microlatent.systems.plates.fields import (
    Field,
    chosen_channels,
    open_fields,
    plate_map,
    refuse_stale_attributes,
    statistics_folder,
    statistics_of,
    usable,
)
from microlatent.systems.plates.normalise import StainNormaliser, line_of_attributes
from microlatent.systems.plates.places import DRAW, NUMBERS, Place, Places
from microlatent.systems.plates.schema import PlatesConfig
from microlatent.systems.plates.staging import Pixels, size_of, stage, unstaged
from microlatent.systems.plates.statistics import EMPTY_CONTRAST, FieldStatistics, Histogram, known_statistics

logger = logging.getLogger(__name__)
CHECKED = 8  # fields that a check looks at
JITTER = 6  # of the streams of random numbers; places have 5, augmentation 3
MAX_SHIFT_PX = 2.0


@dataclass
class Levels:
    """What is kept of a field's statistics: lines of the source (T, C, 2), and Otsu's thresholds of the targets (K,)."""

    lines: np.ndarray
    otsu: np.ndarray
    contrast: np.ndarray
    fingerprint: str


class PlateCrops(TableSource):
    """Crops of fields; a split holds out fields, wells or plates.

    Parameters
    ----------
    fields
        With all channels, none smaller than a crop.
    keep
        Write statistics and staged pixels to ``folder``; else everything is read from the plates when it is needed.
    """

    split_levels: ClassVar = {"plate": ("plate",), "well": ("plate", "well"), "fov": ("plate", "well", "fov")}
    independent_unit = "well"

    def __init__(
        self,
        config: PlatesConfig,
        fields: Sequence[Field],
        plates: Sequence[Plate],
        channels: list[str],
        target_channels: list[str] | None,
        folder: Path,
        statistics: Path,
        *,
        keep: bool = True,
    ) -> None:
        self.config, self.fields, self.plates, self.folder, self.keep = config, list(fields), list(plates), folder, keep
        self.statistics = statistics
        planes, self.all_planes = config.planes or 1, bool(config.all_planes)
        self.used = list(dict.fromkeys([*channels, *(target_channels or [])]))  # order of the staged channels
        self.field_of_row = np.repeat(np.arange(len(fields)), config.crops)
        number = np.tile(np.arange(config.crops), len(fields))
        table = pd.DataFrame(
            {
                "key": [f"{fields[k].name}/crop{n:03d}" for k, n in zip(self.field_of_row, number, strict=True)],
                "plate": [fields[k].plate for k in self.field_of_row],
                "well": [fields[k].well for k in self.field_of_row],
                "fov": [fields[k].image.place.field for k in self.field_of_row],
                "crop": number,
            }
        )
        is_volume = planes > 1 or self.all_planes
        shape = (planes, config.crop_px, config.crop_px) if is_volume else (config.crop_px,) * 2
        super().__init__(table, channels, shape, {}, target_channels=target_channels, augment=True)
        del self.fingerprints
        sizes = {field.image.pixel_um for field in fields}
        self.pixel_um = config.pixel_um or (sizes.pop() if len(sizes) == 1 else None)
        steps = {field.image.z_um for field in fields}
        self.z_um = config.z_um or (steps.pop() if len(steps) == 1 else None)
        self._levels: dict[int, Levels] = {}
        self._unstaged: dict[int, Pixels] = {}
        self.places = Places(config, self.fields, self.used, target_channels or [], self.pixels, self._thresholds)
        self.temporary: tempfile.TemporaryDirectory | None = None  # of a specimen that goes with the source
        self.thresholds: np.ndarray | None = None  # (K,) of the training fields, for those without foreground

    @cached_property
    def fingerprints(self) -> dict[str, str]:  # type: ignore[override]
        """Digest of every field's files, looked up when it is asked for: a check reads a few fields alone."""
        return {field.name: self.levels(k).fingerprint for k, field in enumerate(self.fields)}

    # ----------------------------------------------------------------------------------------------- statistics

    def measured(self, number: int) -> FieldStatistics:
        """Return the statistics of a field."""
        return statistics_of(self.fields[number], self.statistics, self.used, self.target_channels or (), keep=self.keep)

    def levels(self, number: int) -> Levels:
        """Return the numbers that are kept of a field's statistics."""
        if number not in self._levels:
            self._levels[number] = self._levels_of(number, self.measured(number))
        return self._levels[number]

    def _levels_of(self, number: int, found: FieldStatistics) -> Levels:
        field, wholes = self.fields[number], [found.whole(name) for name in self.target_channels or []]
        times = field.image.shape[0]
        mode = self.normaliser.mode if self.normaliser else self.config.normalise
        own = StainNormaliser(mode, self.channels, [], [[0.0, 1.0]] * len(self.channels), [])
        lines = np.stack([own.lines(found, t) for t in range(times)])
        if self.config.statistics == "attributes" and mode in ("field", "time"):
            lines = np.stack([self._lines_of_attributes(field, t if mode == "time" else None) for t in range(times)])
        otsu, contrast = (np.array([getattr(one, name) for one in wholes], np.float32) for name in ("otsu", "contrast"))
        return Levels(lines, otsu, contrast, found.fingerprint["content"])

    def _lines_of_attributes(self, field: Field, t: int | None) -> np.ndarray:
        refuse_stale_attributes(field)
        level = "fov_statistics" if t is None else "timepoint_statistics"
        lines = []
        for name in self.channels:
            known = known_statistics(field.image.attributes, name, level, t)
            if not known or "median" not in known:
                raise ValueError(
                    f"data.statistics=attributes, but {field.image.path} has no {level} of {name} in its attribute "
                    "normalization. Write it: infer.py task=preprocess task.write_attributes=true, or "
                    "use data.statistics=measured."
                )
            lines.append(line_of_attributes(known))
        return np.array(lines, np.float32)

    # -------------------------------------------------------------------------------------- split, normalisation

    def prepare(self, data: Any, seed: int) -> None:
        """Draw the split from the seed, and take the normalisation from the training fields; ``data`` are the settings."""
        held_out = np.array([self.fields[k].held_out for k in self.field_of_row])
        if held_out.any() and data.test_share:
            raise ValueError(
                f"data.test_share is {data.test_share}, but {data.root} has plates in datasets/test, which are the test part. "
                "Leave data.test_share out."
            )
        by = data.split_by or self._usual_level(held_out)
        groups = self.groups(by)
        if both := sorted(set(groups[held_out]) & set(groups[~held_out])):
            raise ValueError(f"data.split_by={by} puts {', '.join(both[:3])} into training and test. Use a finer data.split_by.")
        if held_out.all():
            raise ValueError(f"{data.root} has no plate in datasets/train, so nothing can be learnt. Put one there.")
        drawn = Split.draw(by, groups[~held_out], data.val_share, data.test_share, seed)
        if held_out.any():
            names, counts = np.unique(groups[held_out], return_counts=True)
            kept = pd.DataFrame({"group": names, "part": "test", "num_patches": counts})
            drawn = Split(by, pd.concat([drawn.groups, kept], ignore_index=True))
        self.use_split(drawn)
        if distributed.rank() == 0:
            self._measure_all()
        distributed.share(None)  # the others read what is written now
        self.fit_normaliser(data.normalise)

    def _usual_level(self, held_out: np.ndarray) -> str:
        wells = set(self.groups("well")[~held_out])
        return "well" if len(wells) >= 3 else "fov"

    def _training_fields(self) -> np.ndarray:
        found = np.unique(self.field_of_row[self.rows["train"]])
        return found if self.keep else found[np.unique(np.linspace(0, len(found) - 1, CHECKED).astype(int))]

    def _measure_all(self) -> None:
        if self.keep:
            for number in range(len(self.fields)):
                self.levels(number)

    def fit_normaliser(self, mode: str, cofactor: float | None = None, percentile: float | None = None) -> Any:
        """Set the normalisation from the training fields; a check takes some of them."""
        training: dict[str, Histogram] = {}
        for number in self._training_fields():
            found = self.measured(number)
            self._levels[number] = self._levels_of(number, found)
            for name in self.used:
                training[name] = Histogram.sum([training[name], found.whole(name)] if name in training else [found.whole(name)])
        self.normaliser = StainNormaliser.fit(mode, self.channels, self.target_channels or [], training)  # type: ignore
        self.thresholds = np.array([training[name].otsu for name in self.target_channels or []], np.float32)
        return self.normaliser

    def rows_used_by(self, provenance: dict[str, Any]) -> np.ndarray:
        """Return which rows (N,) a run of this provenance took: those of fields that it knew, as they were."""
        known = provenance["data"]["fingerprints"]
        own = np.array([known.get(name) == digest for name, digest in self.fingerprints.items()])
        return own[self.field_of_row]

    # ---------------------------------------------------------------------------------------------------- places

    @cached_property
    def _staged(self) -> dict[str, Pixels]:
        """The mapped pixels of all fields."""
        if distributed.rank() == 0:
            stage(self.fields, self.used, self.fingerprints, self.folder)
        distributed.share(None)
        return stage(self.fields, self.used, self.fingerprints, self.folder)

    def pixels(self, number: int) -> Pixels:
        """Return a field's pixels."""
        if self.keep:
            return self._staged[self.fields[number].name]
        if number not in self._unstaged:
            self._unstaged[number] = unstaged(self.fields[number], self.used)
        return self._unstaged[number]

    def fixed_place(self, row: int) -> Place:
        """Return where a row is cut out of training."""
        return self.places.fixed(int(self.field_of_row[row]), int(self.table["crop"].iloc[row]))

    def _thresholds(self, number: int) -> np.ndarray:
        """Return Otsu's thresholds (K,); an empty field has one within its noise, and takes that of the training fields."""
        levels = self.levels(number)
        if self.thresholds is None or not len(self.thresholds):
            return levels.otsu
        return np.where(levels.contrast < EMPTY_CONTRAST, self.thresholds, levels.otsu)

    # --------------------------------------------------------------------------------------------------- batches

    def _cut(self, rows: np.ndarray, places: Sequence[Place], channels: Sequence[str], *, middle: bool) -> np.ndarray:
        """Return crops (n, C, *space) of channels as they are stored; of the middle plane alone if so wanted."""
        index = [self.used.index(name) for name in channels]
        numbers = self.field_of_row[rows]
        dtype = np.result_type(*(self.fields[k].image.dtype for k in np.unique(numbers)))
        flat, side = middle or len(self.shape) == 2, self.config.crop_px
        out = np.empty((len(rows), len(index), *(self.shape[-2:] if flat else self.shape)), dtype)
        for into, number, place in zip(out, numbers, places, strict=True):
            values = self.pixels(number).values
            at = (slice(place.y, place.y + side), slice(place.x, place.x + side))
            planes = place.z if flat else self.places.window(number, place.z)
            for c, channel in enumerate(index):
                into[c] = values[(channel, place.t, planes, *at)]
        return out

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the source (n, C, *space) at the rows' fixed places, as it is stored."""
        return self._cut(rows, [self.fixed_place(row) for row in rows], self.channels, middle=False)

    def batch(
        self,
        rows: np.ndarray,
        device: torch.device,
        *,
        needs: Collection[str] = (),
        augment_seed: tuple[int, ...] | None = None,
        channels_last: bool = False,
        alone: bool = False,
    ) -> Batch:
        """Return this process's part of a global batch, normalised on the device.

        Parameters
        ----------
        needs
            ``foreground``: a weight (B, K, *space) that is 1 where a target is above its threshold, else 0.
        augment_seed
            Numbers from which places, contrasts, flips and turns are drawn; None takes the rows' fixed places.
        """
        assert self.normaliser is not None
        here = slice(None) if alone else distributed.shard(len(rows))
        local = rows[here]
        if augment_seed is None:
            places = [self.fixed_place(row) for row in local]
        else:  # a draw depends on the place in the global batch, not on who holds it
            u = np.random.default_rng([DRAW, *augment_seed]).random((len(rows), NUMBERS))[here]
            places = [self.places.drawn(int(number), one) for number, one in zip(self.field_of_row[local], u, strict=True)]

        def ready(values: np.ndarray) -> torch.Tensor:
            if values.dtype.kind == "u" and values.dtype.itemsize > 2:  # not all of torch's kernels know it
                values = values.astype(np.int64)
            x = torch.from_numpy(values).to(device)
            return x.to(torch.float32, memory_format=layout(x.ndim, channels_last))

        found = [self.levels(int(number)) for number in self.field_of_row[local]]
        lines = None
        if self.normaliser.mode in ("field", "time"):
            lines = torch.from_numpy(np.stack([one.lines[place.t] for one, place in zip(found, places, strict=True)]))
        x = self.normaliser.apply(ready(self._cut(local, places, self.channels, middle=False)), lines)  # type: ignore[call-arg]
        if augment_seed is not None and self.config.jitter > 1:
            power = np.random.default_rng([JITTER, *augment_seed]).uniform(-1, 1, (len(rows), len(self.channels)))[here]
            factor = torch.from_numpy(self.config.jitter**power).to(device, torch.float32)
            x = x * factor.reshape(*factor.shape, *[1] * (x.ndim - 2))
        y = weight = None
        if self.target_channels:
            raw = ready(self._cut(local, places, self.target_channels, middle=not self.all_planes))
            if "foreground" in needs:
                above = torch.from_numpy(np.stack([self._thresholds(int(number)) for number in self.field_of_row[local]])).to(
                    device
                )
                weight = (raw > above.reshape(*above.shape, *[1] * (raw.ndim - 2))).float()
            y = self.normaliser.apply_target(raw)  # type: ignore[attr-defined]
        batch = Batch(x, y, weight)
        if augment_seed is None or not self.config.augment:
            return batch
        return augmented(batch, len(rows), here, augment_seed)

    def make_resident(self, device: torch.device) -> None:
        """Leave the pixels where they are: copying the crops of a batch costs little beside the network."""

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels of all fields."""
        return size_of(self.fields, len(self.used))

    def contents(self) -> list[str]:
        """Return the map of the plates, and what is made of them."""
        lines = plate_map(self.fields, self.plates)
        if self.places.planes > 1 and not self.all_planes:
            lines.append(f"windows of {self.places.planes} planes: beyond the first and last plane of a field they are mirrored")
        return lines


def open_source(settings: Settings) -> PlateCrops:
    """Open all fields of ``data.root`` with the channels by name."""
    config: PlatesConfig = settings.data
    temporary = None
    if settings.check and config.root in SIMULATED and not raw_path(config, settings.outputs).exists():
        temporary = tempfile.TemporaryDirectory()  # a check leaves nothing behind, not even the specimen
    fields, plates = open_fields(config, temporary.name if temporary else settings.outputs)
    channels, targets = chosen_channels(config, fields)
    used = list(dict.fromkeys([*channels, *(targets or [])]))
    for field in fields:
        for name in used:
            field.image.channel(name)  # refused by name
    fields = usable(fields, used, config.crop_px)
    folder, statistics = store_folder(config, settings.outputs), statistics_folder(config, settings.outputs)
    keep = not settings.check
    source = PlateCrops(config, fields, plates, channels, targets, folder / "pixels", statistics, keep=keep)
    source.temporary = temporary
    if settings.check and targets:
        warn_of_shift(source)
    return source


def warn_of_shift(source: PlateCrops) -> None:
    """Warn of plates whose source and target do not lie on each other: a model would learn to blur."""
    for plate in dict.fromkeys(field.plate for field in source.fields):
        numbers = [k for k, field in enumerate(source.fields) if field.plate == plate]
        numbers = [numbers[k] for k in np.unique(np.linspace(0, len(numbers) - 1, 4).astype(int))]
        looked_at = []
        for number in numbers:
            image = source.fields[number].image
            names = [source.channels[0], *(source.target_channels or [])]
            first, *others = (image[0, image.channel(name), image.shape[2] // 2] for name in names)
            looked_at.append((first, others))
        dy, dx = registration.shift_of_stains(looked_at)
        if np.hypot(dy, dx) > MAX_SHIFT_PX:
            logger.warning(
                "%s: by an estimate, %s lies %.1f rows and %.1f columns from where %s shows it. A model would learn to blur: "
                "look at the channels, and register them before training.",
                *(plate, " and ".join(source.target_channels or []), dy, dx, source.channels[0]),
            )
