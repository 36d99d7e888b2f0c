"""What is known of a plate's intensities: statistics of every channel per field and time point, and where the foreground is.

Every number follows from histograms, which are added up: the time points of a field to the field's, the fields of a data set to
the data set's. So the statistics of any choice of fields, such as those for training, need no second look at the pixels.

==================  =======================================================================================================
integers            all statistics are exact
floats              mean, std, min and max are exact; quantiles and Otsu's threshold within 1 part in 4000 of their value
missing chunks      left out and counted (``num_missing``); a chunk that was written with zeros counts
NaN and infinity    left out and counted (``num_invalid``)
==================  =======================================================================================================

They are kept in a folder of their own, a file per field with a fingerprint of the raw data: raw data are never written to. The
exception is asked for: VisCy's attribute ``normalization``, whose layout ``normalization`` and ``known_statistics`` know.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from scipy import ndimage

from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.files import atomic

FORMAT = 1
PIECE = 1 << 20
LOW_PX = 8  # side of the squares whose means the foreground is taken from
QUANTILES = {"p1": 1, "p5": 5, "median": 50, "p95": 95, "p99": 99}
# Distance of the classes on both sides of Otsu's threshold, in standard deviations within them. Noise alone has 2.65.
EMPTY_CONTRAST = 3.2
ORIGIN = "normalization_origin"  # attribute that says what the attribute "normalization" was taken from
_SHIFT, _SIGN = np.uint32(12), np.uint32(1 << 31)


@dataclass(frozen=True)
class Histogram:
    """The values of a channel and how often each occurs; histograms of the same channel can be added.

    ``values`` are sorted and, of floats, the middles of bins. ``mean``, ``squares`` (the sum of squared deviations from it),
    ``low`` and ``high`` are exact in any case.
    """

    values: np.ndarray
    counts: np.ndarray
    mean: float
    squares: float
    low: float
    high: float
    num_missing: int = 0
    num_invalid: int = 0

    @property
    def num_pixels(self) -> int:
        """Number of pixels that were counted."""
        return int(self.counts.sum())

    @classmethod
    def sum(cls, parts: Iterable[Histogram]) -> Histogram:
        """Add histograms up, one after the other as they come: there may be thousands."""
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        moments, num_missing, num_invalid = [], 0, 0
        for part in parts:
            num_missing, num_invalid = num_missing + part.num_missing, num_invalid + part.num_invalid
            if part.num_pixels:
                moments.append((part.num_pixels, part.mean, part.squares, part.low, part.high))
                waiting.append((part.values, part.counts))
            if sum(len(values) for values, _ in waiting) > PIECE:
                waiting = [_merge(waiting)]
        if not moments:
            return cls(np.empty(0), np.empty(0, np.int64), *(np.nan,) * 4, num_missing, num_invalid)
        size, mean, squares, low, high = np.array(moments).T
        whole = float(size @ mean / size.sum())
        total = float(squares.sum() + size @ (mean - whole) ** 2)
        return cls(*_merge(waiting), whole, total, float(low.min()), float(high.max()), num_missing, num_invalid)

    def quantile(self, percent: float) -> float:
        """Return a percentile, interpolated between neighbours as ``numpy.percentile`` does."""
        upto = np.cumsum(self.counts)
        place = (upto[-1] - 1) * percent / 100
        below, above = (
            self.values[np.searchsorted(upto, int(np.floor(place)) + k, "right").clip(max=len(upto) - 1)] for k in (0, 1)
        )
        return float(below + (place - np.floor(place)) * (float(above) - float(below)))

    def _classes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weight and means of the classes at or below, and above, each value but the last."""
        values = self.values.astype(np.float64)
        weight, total = np.cumsum(self.counts), np.cumsum(self.counts * values)
        lower, upper = total / weight, (total[-1] - total[:-1]) / (weight[-1] - weight[:-1])
        return weight[:-1] / weight[-1], lower[:-1], upper

    @property
    def otsu(self) -> float:
        """Otsu's threshold: foreground is what is larger. A constant channel has none: its value."""
        if len(self.values) < 2:
            return float(self.values[0]) if len(self.values) else np.nan
        weight, lower, upper = self._classes()
        return float(self.values[np.argmax(weight * (1 - weight) * (upper - lower) ** 2)])

    @property
    def contrast(self) -> float:
        """How far Otsu's classes lie apart, in standard deviations within them: see ``EMPTY_CONTRAST``."""
        if len(self.values) < 2:
            return 0.0
        weight, lower, upper = self._classes()
        best = int(np.argmax(weight * (1 - weight) * (upper - lower) ** 2))
        between = float(weight[best] * (1 - weight[best]) * (upper[best] - lower[best]) ** 2)
        within = max(self.squares / self.num_pixels - between, 0.0)
        return float((upper[best] - lower[best]) / np.sqrt(within)) if within else np.inf

    def statistics(self) -> dict[str, float]:
        """Return the numbers under VisCy's names, and Otsu's threshold; an empty dict where no pixel was counted."""
        if not self.num_pixels:
            return {}
        found = {name: self.quantile(percent) for name, percent in QUANTILES.items()}
        found |= {"mean": self.mean, "std": float(np.sqrt(self.squares / self.num_pixels)), "min": self.low, "max": self.high}
        found |= {"iqr": self.quantile(75) - self.quantile(25), "otsu_threshold": self.otsu}
        return found | {"p95_p5": found["p95"] - found["p5"], "p99_p1": found["p99"] - found["p1"]}


class Counting:
    """Counts the pixels of one channel as they come."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype, self.num_missing, self.num_invalid = np.dtype(dtype), 0, 0
        self.is_float = self.dtype.kind == "f"
        self.is_dense = self.is_float or self.dtype.itemsize <= 2
        self.counts = np.zeros(1 << 20 if self.is_float else 1 << 8 * self.dtype.itemsize if self.is_dense else 0, np.int64)
        self.parts: list[Histogram] = []  # of wide integers whole, of floats their moments

    def add(self, pixels: np.ndarray, present: np.ndarray | None = None) -> None:
        """Count pixels, those alone that are ``present``."""
        if present is not None:
            self.num_missing += int(pixels.size - present.sum())
            pixels = pixels[present]
        pixels = pixels.reshape(-1)
        if self.dtype.kind == "i" and self.is_dense:
            pixels = pixels.view(f"u{self.dtype.itemsize}")
        for first in range(0, pixels.size, PIECE):  # a piece stays in the processor's cache
            self._add_piece(pixels[first : first + PIECE])

    def _add_piece(self, pixels: np.ndarray) -> None:
        if self.is_float:
            finite = np.isfinite(pixels)
            if not finite.all():
                self.num_invalid += int(pixels.size - finite.sum())
                pixels = pixels[finite]
            if pixels.size:
                self.counts += np.bincount(_float_keys(pixels), minlength=len(self.counts))
                wide = pixels.astype(np.float64)
                mean, low, high = float(wide.mean()), float(pixels.min()), float(pixels.max())
                wide -= mean
                self.parts.append(Histogram(np.zeros(1), np.array([pixels.size]), mean, float(wide @ wide), low, high))
        elif self.is_dense:
            self.counts += np.bincount(pixels, minlength=len(self.counts))
        else:
            self.parts = [Histogram.sum([*self.parts, _exact(*np.unique(pixels, return_counts=True))])]

    def histogram(self) -> Histogram:
        """Return what was counted so far."""
        gone = self.num_missing, self.num_invalid
        whole = Histogram.sum(self.parts)
        if self.is_float:
            keys = np.flatnonzero(self.counts)
            middles = np.clip(_float_middles(keys), whole.low, whole.high)
            return Histogram(middles, self.counts[keys], whole.mean, whole.squares, whole.low, whole.high, *gone)
        if self.is_dense:
            values = np.arange(len(self.counts), dtype=f"u{self.dtype.itemsize}").view(self.dtype).astype(np.int64)
            order = np.argsort(values, kind="stable")
            order = order[self.counts[order] > 0]
            whole = _exact(values[order], self.counts[order])
        return Histogram(whole.values, whole.counts, whole.mean, whole.squares, whole.low, whole.high, *gone)


@dataclass
class FieldStatistics:
    """A field's histograms by channel and time point, and the means of small squares of some channels.

    ``low`` holds, by channel, the means of ``LOW_PX`` x ``LOW_PX`` pixels (T, Z, Y, X) float32; NaN where no pixel is known.
    """

    name: str
    histograms: dict[str, list[Histogram]]
    low: dict[str, np.ndarray] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)

    def whole(self, channel: str) -> Histogram:
        """Return the field's histogram, over all time points."""
        return Histogram.sum(self.histograms[channel])

    def foreground(self, channel: str, dataset: Histogram | None = None) -> np.ndarray:
        """Return how likely each small square is foreground (T, Z, Y, X): the share of its neighbours above Otsu's threshold.

        An empty field has a threshold within its noise. Where the classes are no further apart than noise has them, the
        ``dataset``'s threshold is taken.
        """
        own = self.whole(channel)
        threshold = dataset.otsu if dataset is not None and own.contrast < EMPTY_CONTRAST else own.otsu
        above = (self.low[channel] > threshold).astype(np.float32)  # NaN is not
        return ndimage.uniform_filter(above, (0, 0, 3, 3), mode="nearest").clip(0, 1)


def measure(image: OmeImage, channels: Sequence[str] | None = None, foreground: Sequence[str] = ()) -> FieldStatistics:
    """Read a field once, chunk by chunk, and return its statistics.

    Parameters
    ----------
    channels
        The channels to measure; all by default.
    foreground
        Those of them whose foreground will be asked for.

    Raises
    ------
    ValueError
        A channel is unknown, or the pixels cannot be read.
    """
    places = {name: image.channel(name) for name in (channels or image.channels or [image.channel("")])}
    num_t, _, num_z, rows, columns = image.shape
    counting = {name: [Counting(image.dtype) for _ in range(num_t)] for name in places}
    squares = {name: _Squares((num_t, num_z, rows, columns)) for name in foreground}
    marks = fingerprint_of_files(image)
    for box in image.levels[0].blocks(list(places.values())):
        pixels, present = image[box], image.levels[0].present(box)
        for name, place in places.items():
            if not box[1].start <= place < box[1].stop:
                continue
            c = place - box[1].start
            for t in range(box[0].start, box[0].stop):
                at = (t - box[0].start, c)
                there = None if present is None else present[at]
                counting[name][t].add(pixels[at], there)
                if name in squares:
                    squares[name].add(t, box[2:], pixels[at], there)
    return FieldStatistics(
        image.name,
        {name: [one.histogram() for one in times] for name, times in counting.items()},
        {name: one.means() for name, one in squares.items()},
        {"files": marks, "content": _fingerprint_of_content(image)},
    )


def dataset_statistics(fields: Iterable[FieldStatistics], channel: str) -> Histogram:
    """Return the histogram of a channel over fields, such as those for training."""
    return Histogram.sum(histogram for one in fields for histogram in one.histograms[channel])


def is_current(known: dict[str, str], image: OmeImage) -> bool:
    """Return whether a fingerprint is that of the field as it is now.

    Equal names, sizes and times of the files are enough. A copy has other times: then the contents decide.
    """
    return known.get("files") == fingerprint_of_files(image) or known.get("content") == _fingerprint_of_content(image)


def statistics_path(folder: str | Path, plate: str, name: str) -> Path:
    """Return where the statistics of a field such as A/1/000 are kept."""
    return Path(folder) / plate / f"{name.replace('/', '_')}.npz"


def save(statistics: FieldStatistics, path: str | Path) -> None:
    """Write a field's statistics, whole or not at all."""
    parts = [one for times in statistics.histograms.values() for one in times]
    about = {"format": FORMAT, "name": statistics.name, "channels": list(statistics.histograms)}
    about |= {"fingerprint": statistics.fingerprint, "num_t": len(next(iter(statistics.histograms.values())))}
    numbers = [(p.mean, p.squares, p.low, p.high, p.num_missing, p.num_invalid) for p in parts]
    arrays = {"values": np.concatenate([p.values for p in parts]), "counts": np.concatenate([p.counts for p in parts])}
    arrays |= {"lengths": np.array([len(p.values) for p in parts]), "numbers": np.array(numbers, np.float64)}
    arrays |= {f"low/{name}": low for name, low in statistics.low.items()}
    with atomic(path) as temporary:
        np.savez_compressed(temporary, about=np.array(json.dumps(about)), **arrays)


def load(path: str | Path, image: OmeImage | None = None) -> FieldStatistics:
    """Read a field's statistics, of ``image`` as it is now.

    Raises
    ------
    FileNotFoundError
        There are none.
    ValueError
        They cannot be read, or were taken from other pixels than the image has now.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no statistics {path}. Make them: infer.py task=preprocess.")
    try:
        with np.load(path, allow_pickle=False) as found:
            about, arrays = json.loads(str(found["about"])), {name: found[name] for name in found.files if name != "about"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}). Remove it and make it again: infer.py task=preprocess.") from error
    if about["format"] != FORMAT:
        raise ValueError(f"{path} has format {about['format']}, but this version reads {FORMAT}. Make it again: task=preprocess.")
    if image is not None and not is_current(about["fingerprint"], image):
        raise ValueError(
            f"{path} was taken from other pixels than {image.path} has now: they were changed since. Make the statistics again: "
            f"infer.py task=preprocess."
        )
    ends = np.cumsum(arrays["lengths"])
    parts = [
        Histogram(
            arrays["values"][end - size : end], arrays["counts"][end - size : end], *map(float, row[:4]), *map(int, row[4:])
        )
        for end, size, row in zip(ends, arrays["lengths"], arrays["numbers"], strict=True)
    ]
    times = about["num_t"]
    histograms = {name: parts[k * times : (k + 1) * times] for k, name in enumerate(about["channels"])}
    low = {name.removeprefix("low/"): array for name, array in arrays.items() if name.startswith("low/")}
    return FieldStatistics(about["name"], histograms, low, about["fingerprint"])


def normalization(statistics: FieldStatistics | None, dataset: dict[str, Histogram]) -> dict[str, Any]:
    """Return attributes in VisCy's layout: ``normalization[channel][level][statistic]``, and what they were taken from.

    Of a field they have the levels ``dataset_statistics``, ``fov_statistics`` and ``timepoint_statistics``; of a plate, which is
    ``statistics=None``, the first alone. A level without a pixel is left out.
    """
    channels: dict[str, Any] = {}
    for name, whole in dataset.items():
        levels: dict[str, Any] = {"dataset_statistics": whole.statistics()}
        if statistics is not None:
            levels["fov_statistics"] = statistics.whole(name).statistics()
            times = {str(t): one.statistics() for t, one in enumerate(statistics.histograms[name])}
            levels["timepoint_statistics"] = {t: numbers for t, numbers in times.items() if numbers}
        channels[name] = {level: numbers for level, numbers in levels.items() if numbers}
    origin = {"written_by": "microlatent", **({"fingerprint": statistics.fingerprint} if statistics else {})}
    return {"normalization": channels, ORIGIN: origin}


def known_statistics(
    attributes: dict[str, Any], channel: str, level: str = "fov_statistics", t: int | None = None
) -> dict | None:
    """Return the statistics of a channel that attributes in VisCy's layout hold, or None.

    Parameters
    ----------
    level
        ``dataset_statistics``, ``fov_statistics`` or, with ``t``, ``timepoint_statistics``.
    """
    found = ((attributes.get("normalization") or {}).get(channel) or {}).get(level)
    found = found.get(str(t)) if found and t is not None else found
    return {str(name): float(value) for name, value in found.items()} if found else None


def are_stale(image: OmeImage) -> bool | None:
    """Return whether a field's ``normalization`` attributes are of other pixels; None if they do not say of which."""
    known = (image.attributes.get(ORIGIN) or {}).get("fingerprint")
    return None if not known else not is_current(known, image)


class _Squares:
    """Gathers the means of small squares from pieces of planes that may end anywhere."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        small = (*shape[:2], -(-shape[2] // LOW_PX), -(-shape[3] // LOW_PX))
        self.total, self.known = np.zeros(small, np.float32), np.zeros(small, np.float32)

    def add(self, t: int, box: tuple[slice, ...], pixels: np.ndarray, present: np.ndarray | None) -> None:
        """Add pixels (Z, Y, X) of a box that reaches over all columns."""
        lead, (rows, columns) = box[1].start % LOW_PX, pixels.shape[1:]
        pad = ((0, 0), (lead, -(lead + rows) % LOW_PX), (0, -columns % LOW_PX))
        known = np.ones((1, rows, columns), bool) if present is None else present
        if pixels.dtype.kind == "f" or present is not None:
            known = known & np.isfinite(pixels)
            pixels = np.where(known, pixels, 0)
        first = box[1].start // LOW_PX
        at = (t, box[0], slice(first, -(-box[1].stop // LOW_PX)))
        for gathered, part in ((self.total, pixels), (self.known, known)):
            kind = np.uint32 if part.dtype.kind in "bu" and part.dtype.itemsize <= 2 else np.float64
            part = np.pad(part, pad) if any(map(any, pad)) else part
            part = part.reshape(len(part), -1, LOW_PX, part.shape[2]).sum(2, dtype=kind)
            gathered[at] += part.reshape(*part.shape[:2], -1, LOW_PX).sum(3)

    def means(self) -> np.ndarray:
        """Return the means, NaN where nothing is known."""
        return np.where(self.known, self.total / np.maximum(self.known, 1), np.float32(np.nan))


def _exact(values: np.ndarray, counts: np.ndarray) -> Histogram:
    if not len(values):
        return Histogram.sum([])
    size = int(counts.sum())
    mean = float(values.astype(np.float64) @ counts / size)
    squares = float((values - mean) ** 2 @ counts)
    return Histogram(values, counts, mean, squares, float(values[0]), float(values[-1]))


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return values and counts of several histograms as those of one."""
    if len(parts) == 1:
        return parts[0]
    values, where = np.unique(np.concatenate([values for values, _ in parts]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, where, np.concatenate([counts for _, counts in parts]))
    return values, counts


def _float_keys(values: np.ndarray) -> np.ndarray:
    """Return the bin of each value: the first 20 bits of a float32, arranged so that larger values have larger keys."""
    bits = values.astype(np.float32).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN) >> _SHIFT


def _float_middles(keys: np.ndarray) -> np.ndarray:
    """Return the value in the middle of each bin."""
    bits = (keys.astype(np.uint32) << _SHIFT) | np.uint32(1 << 11)
    return np.where(bits & _SIGN, bits ^ _SIGN, ~bits).astype(np.uint32).view(np.float32).astype(np.float64)


def _files(image: OmeImage) -> list[Path]:
    return sorted(path for path in image.levels[0].path.rglob("*") if path.is_file())


def fingerprint_of_files(image: OmeImage) -> str:
    """Return a digest of the names, sizes and times of the files of an image's pixels."""
    digest = xxhash.xxh3_128()
    for path in _files(image):
        about = path.stat()
        digest.update(f"{path.relative_to(image.path)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _fingerprint_of_content(image: OmeImage) -> str:
    digest = xxhash.xxh3_128()
    for path in _files(image):
        digest.update(f"{path.relative_to(image.path)}\n".encode())
        with open(path, "rb") as file:
            while part := file.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()
