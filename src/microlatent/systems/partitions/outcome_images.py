"""The images of ``task=outcome``: what the latents of either outcome decode to, and which markers differ where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from microlatent import figures
from microlatent.analysis.statistics import resampled
from microlatent.progress import track
from microlatent.schemas import Settings
from microlatent.systems.partitions import conditional
from microlatent.systems.partitions import draw_outcome as drawing
from microlatent.systems.partitions.subjects import Components

if TYPE_CHECKING:
    from microlatent.experiment import Trained
    from microlatent.systems.partitions.outcome import Opened

BATCH = 64  # partitions decoded at a time
MAX_PARTITIONS = 4000  # decoded for the local statistics, as many of every subject
MAX_RESAMPLES = 100  # of the way between the outcomes: each is decoded anew
WAY_PARTITIONS = 24
SCALE_PARTITIONS = 300  # whose pixels set the range of real partitions
NUM_PATHS = 3  # real partitions whose way to the other outcome is drawn


class Shown(NamedTuple):
    """What became of it."""

    tables: dict[str, pd.DataFrame]
    paths: list[Path]
    numbers: dict[str, float]


class Decoder(NamedTuple):
    """The model's decoder, and how its output and real partitions become comparable."""

    trained: Trained

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Return images (n, C, Y, X) of latents (n, D) in normalised units."""
        with torch.no_grad():
            parts = torch.from_numpy(np.ascontiguousarray(x, np.float32)).split(BATCH)
            return np.concatenate([self.trained.model.decode(part).numpy() for part in parts])

    def normalise(self, counts: np.ndarray) -> np.ndarray:
        """Return real partitions as the model saw them."""
        return self.trained.normaliser.apply(torch.from_numpy(counts.copy())).numpy()

    @property
    def unit(self) -> str:
        """What a pixel of a picture is, once ``picture`` has undone what can be undone."""
        return {"bern": "probability", "patch": "normalised"}.get(self.trained.normaliser.mode, "counts")

    def picture(self, images: np.ndarray) -> np.ndarray:
        """Return decoded images as counts, where the normalisation can be undone."""
        if self.unit != "counts":
            return images
        return np.maximum(self.trained.normaliser.invert(torch.from_numpy(images.copy())).numpy(), 0)


def show(
    settings: Settings, opened: Opened, x: np.ndarray, scores: np.ndarray, components: Components, trained: Trained, folder: Path
) -> Shown:
    """Draw the way, the samples and the typical partitions, and measure the markers' differences."""
    task, decoder = settings.task, Decoder(trained)
    labels, names = opened.outcomes.labels, opened.outcomes.names
    moments = conditional.subject_moments(scores, opened.subject)
    pair = conditional.condition(moments, labels)
    rows = conditional.counterparts(pair, scores, opened.subject, labels, task.num_samples)
    pixel_um = opened.patches.patch_pixel_um

    # The mean way, then that of real partitions typical of the first outcome; all on one scale for each channel.
    starts = rows[0][np.unique(np.linspace(0, len(rows[0]) - 1, NUM_PATHS).astype(int))]
    origins = np.concatenate([components.invert(pair.mean[:1]), np.asarray(x[starts], float)])
    steps = conditional.walk(pair, np.concatenate([pair.mean[:1], scores[starts]]), task.num_steps)
    ways = [
        decoder.picture(decoder.decode(start + change)) for start, change in zip(origins, steps @ spread(components), strict=True)
    ]
    samples = [decoder.picture(decoder.decode(drawn)) for drawn in draw_samples(pair, x, scores, components, opened, settings)]
    scale = scale_of(opened.patches.channels, np.concatenate([*ways, *samples]), decoder.unit)
    keys = opened.latents.obs["key"].astype(str).to_numpy()[opened.rows]
    paths = []
    for number, way in enumerate(ways):
        what = f"partition {keys[starts[number - 1]]}" if number else f"the mean of all partitions of {names[0]}"
        title = f"{what}, changed as little as turns {names[0]} into {names[1]} (decoded)"
        target = folder / f"path_{number or 'mean'}.png"
        paths.append(drawing.draw_path(way, scale, names, title, pixel_um, target))
    captions = [[f"sample {k + 1}" for k in range(len(part))] for part in samples]
    title = "samples of the latents of each outcome, decoded"
    paths.append(drawing.draw_pair(samples, scale, captions, names, title, pixel_um, folder / "samples.png"))
    real = [opened.patches.read(opened.rows[part]) for part in rows]
    captions = [[f"{k}: {opened.outcomes.subjects[opened.subject[row]]}" for k, row in enumerate(part, 1)] for part in rows]
    title = "real partitions nearest to both ends of the way, in the same order; one of a subject"
    any_rows = np.random.default_rng([settings.seed, 6]).choice(
        opened.rows, min(len(opened.rows), SCALE_PARTITIONS), replace=False
    )
    scale = scale_of(opened.patches.channels, opened.patches.read(np.sort(any_rows)), "counts")
    paths.append(drawing.draw_pair(real, scale, captions, names, title, pixel_um, folder / "nearest.png"))

    differences = marker_differences(settings, opened, x, scores, components, moments, decoder)
    paths.append(drawing.draw_differences(differences, names, folder / "differences.png"))
    ratio, along = conditional.evidence(pair, scores), (scores - pair.mean.mean(0)) @ conditional.direction(pair)
    nearest = pd.DataFrame(
        [
            {
                "pair": number + 1,
                "outcome": names[value],
                "subject": opened.outcomes.subjects[opened.subject[row]],
                "key": keys[row],
            }
            | {"log_ratio_nats": ratio[row], "along_direction_sd": along[row]}
            for value, part in enumerate(rows)
            for number, row in enumerate(part)
        ]
    )
    first = differences.iloc[0]
    numbers = {"largest_change_together": float(first["together"])}
    return Shown({"marker_differences": differences, "nearest": nearest}, paths, numbers)


def spread(components: Components) -> np.ndarray:
    """Return the matrix (K, D) that turns changes of the scores into changes of the latents."""
    return components.scale[:, None] * components.axes


def draw_samples(
    pair: conditional.Gaussians, x: np.ndarray, scores: np.ndarray, components: Components, opened: Opened, settings: Settings
) -> list[np.ndarray]:
    """Draw latents of each outcome; what the components leave out is that of a random partition, the same for both."""
    rng, num = np.random.default_rng([settings.seed, 3]), settings.task.num_samples
    chosen = rng.choice(len(scores), num)
    rest = np.asarray(x[chosen], float) - components.invert(scores[chosen])
    state = rng.bit_generator.state
    drawn = []
    for outcome in (0, 1):
        rng.bit_generator.state = state  # alike where the outcomes are
        drawn.append(components.invert(conditional.draw(pair, outcome, num, rng)) + rest)
    return drawn


def scale_of(channels: list[str], images: np.ndarray, unit: str) -> drawing.Scale:
    """Return one display range for each channel over all images."""
    return drawing.Scale(channels, [figures.limits(images[:, number], 0.5, 99.7) for number in range(len(channels))], unit)


# ------------------------------------------------------------------------------------------------------- differences


def marker_differences(
    settings: Settings,
    opened: Opened,
    x: np.ndarray,
    scores: np.ndarray,
    components: Components,
    moments: conditional.Moments,
    decoder: Decoder,
) -> pd.DataFrame:
    """Return one row per marker, the largest change of what it stands together with first.

    Columns, each with its interval (``_lo``, ``_hi``): ``together``, the change of the correlation with the ``partner`` that it
    changes most with, over places of about a cell's size, in the images that the latents decode to, in the units of the real
    partitions' scatter (what the latents do not hold does not count); ``way``, the root mean square change on the way from one
    outcome to the other, with its median under permuted outcomes; ``level``, the change of the mean. ``pixels_``: the same
    in the real partitions.
    """
    task, labels, channels = settings.task, opened.outcomes.labels, opened.patches.channels
    rng = np.random.default_rng([settings.seed, 4])
    each = max(1, MAX_PARTITIONS // len(labels))
    rows = np.concatenate(
        [np.sort(rng.permutation(np.flatnonzero(opened.subject == code))[:each]) for code in range(len(labels))]
    )
    subject, blocks = opened.subject[rows], range(0, len(rows), BATCH)
    decoded, real = (
        np.concatenate(
            [conditional.coarsen(images(rows[start : start + BATCH])) for start in track(blocks, what, total=len(blocks))]
        )
        for what, images in (
            ("Decoding partitions", lambda part: decoder.decode(x[part])),
            ("Reading partitions", lambda part: decoder.normalise(opened.patches.read(opened.rows[part]))),
        )
    )
    scatter = np.array([real[subject == code].std((0, 2), dtype=np.float64) for code in range(len(labels))])
    scatter = np.maximum(scatter, 1e-9 * max(1e-300, scatter.max()))
    options = (labels, task.num_bootstraps, settings.seed)
    found = {}
    for kind, places in (("", decoded), ("pixels_", real)):
        local = conditional.local_statistics(places, subject, scatter)
        found[f"{kind}together"] = conditional.compare(local.together, *options)
        found[f"{kind}level"] = conditional.compare(local.level / scatter.mean(0), *options)
    change = np.abs(found["together"][0])
    if len(channels) > 1:
        np.fill_diagonal(change, 0)
    partner = change.argmax(1)
    way, permuted = way_changes(settings, labels, x, scores, components, moments, decoder, opened.subject)
    way, permuted = way / scatter.mean(0), permuted / scatter.mean(0)
    table = pd.DataFrame({"marker": channels, "partner": [channels[k] if len(channels) > 1 else "" for k in partner]})
    for name in ("together", "pixels_together"):
        for suffix, part in zip(("", "_lo", "_hi"), found[name], strict=True):
            table[name + suffix] = part[np.arange(len(channels)), partner]
    table["way"], table["way_lo"], table["way_hi"] = way[0], *np.quantile(way[1:], (0.025, 0.975), axis=0)
    table["way_permuted"] = np.median(permuted, 0)
    for name in ("level", "pixels_level"):
        for suffix, part in zip(("", "_lo", "_hi"), found[name], strict=True):
            table[name + suffix] = part
    order = np.lexsort((-np.sqrt((change**2).sum(1)), -change.max(1).round(9)))  # a pair shares its change: then by all others
    return table.iloc[order].reset_index(drop=True)


def way_changes(
    settings: Settings,
    labels: np.ndarray,
    x: np.ndarray,
    scores: np.ndarray,
    components: Components,
    moments: conditional.Moments,
    decoder: Decoder,
    subject: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the root mean square change of each marker on the way between the outcomes, coarsely.

    Returns
    -------
    ``(1 + R, C)``, first of all subjects and then of resampled ones; and ``(R, C)`` with the outcomes permuted.
    """
    rng = np.random.default_rng([settings.seed, 5])
    rows = np.sort(rng.choice(np.flatnonzero(labels[subject] == 0), WAY_PARTITIONS))
    start = np.asarray(x[rows], float)
    before = conditional.coarsen(decoder.decode(start))

    def change(outcome: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        pair = conditional.condition(moments, outcome, weights)
        after = decoder.decode(start + conditional.displace(pair, scores[rows]) @ spread(components))
        return np.sqrt(((conditional.coarsen(after) - before) ** 2).mean((0, 2), dtype=np.float64))

    num = min(settings.task.num_bootstraps, MAX_RESAMPLES)
    found, permuted = [change(labels, None)], []
    for _ in track(range(num), "Decoding resampled ways", total=num):
        weights = np.zeros(len(labels))
        for value in (0, 1):
            own = np.flatnonzero(labels == value)
            weights[own] = resampled(rng, len(own))
        found.append(change(labels, weights))
        permuted.append(change(rng.permutation(labels), None))
    return np.array(found), np.array(permuted)
