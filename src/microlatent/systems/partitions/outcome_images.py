"""The images of ``task=outcome``: what the latents of either outcome decode to, and which markers differ where."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from microlatent import figures
from microlatent.analysis.statistics import interval, resampled
from microlatent.progress import track
from microlatent.results import Results
from microlatent.schemas import Settings
from microlatent.systems.partitions import conditional
from microlatent.systems.partitions import draw_outcome as drawing
from microlatent.systems.partitions.outcome_input import NUM_PATHS, OutcomeInput, Space

if TYPE_CHECKING:
    from microlatent.experiment import Trained

BATCH = 64  # partitions decoded at a time
MAX_PARTITIONS = 4000  # decoded for the local statistics, as many of every subject
MAX_RESAMPLES = 100  # of the way between the outcomes: each is decoded anew
MOVED_PARTITIONS = 24
SCALE_PARTITIONS = 300  # whose pixels set the range of real partitions


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


def show(opened: OutcomeInput, space: Space, trained: Trained, settings: Settings, results: Results) -> dict[str, float]:
    """Draw the way, the samples and the typical partitions, and measure the markers' differences; return the numbers."""
    task, decoder, scores = settings.task, Decoder(trained), space.scores
    labels, names = opened.outcomes.labels, opened.outcomes.names
    moments = conditional.subject_moments(scores, opened.subject)
    pair = conditional.condition(moments, labels)
    rows = conditional.counterparts(pair, scores, opened.subject, labels, task.num_samples)
    pixel_um = opened.patches.patch_pixel_um

    # The mean way, then that of real partitions typical of the first outcome; all on one scale for each channel.
    starts = rows[0][np.unique(np.linspace(0, len(rows[0]) - 1, NUM_PATHS).astype(int))]
    origins = np.concatenate([space.components.invert(pair.mean[:1]), np.asarray(space.x[starts], float)])
    steps = conditional.walk(pair, np.concatenate([pair.mean[:1], scores[starts]]), task.num_steps)
    ways = [decoder.picture(decoder.decode(start + change)) for start, change in zip(origins, space.changes(steps), strict=True)]
    samples = [decoder.picture(decoder.decode(drawn)) for drawn in draw_samples(pair, space, settings)]
    scale = scale_of(opened.patches.channels, np.concatenate([*ways, *samples]), decoder.unit)
    keys = opened.latents.obs["key"].astype(str).to_numpy()[opened.rows]
    for number, way in enumerate(ways):
        what = f"partition {keys[starts[number - 1]]}" if number else f"the mean of all partitions of {names[0]}"
        title = f"{what}, changed as little as turns {names[0]} into {names[1]} (decoded)"
        results.figure(f"path_{number or 'mean'}", drawing.draw_path, way, scale, names, title, pixel_um)
    captions = [[f"sample {k + 1}" for k in range(len(part))] for part in samples]
    title = "samples of the latents of each outcome, decoded"
    results.figure("samples", drawing.draw_pair, samples, scale, captions, names, title, pixel_um)
    real = [opened.patches.read(opened.rows[part]) for part in rows]
    captions = [[f"{k}: {opened.outcomes.subjects[opened.subject[row]]}" for k, row in enumerate(part, 1)] for part in rows]
    title = "real partitions nearest to both ends of the way, in the same order; one of a subject"
    any_rows = np.random.default_rng([settings.seed, 6]).choice(
        opened.rows, min(len(opened.rows), SCALE_PARTITIONS), replace=False
    )
    scale = scale_of(opened.patches.channels, opened.patches.read(np.sort(any_rows)), "counts")
    results.figure("nearest", drawing.draw_pair, real, scale, captions, names, title, pixel_um)

    differences = marker_differences(opened, space, moments, decoder, settings)
    results.table("marker_differences", differences)
    results.figure("differences", drawing.draw_differences, differences, names)
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
    results.table("nearest", nearest)
    return {"largest_change_together": float(differences["local_correlation_change"].iloc[0])}


def draw_samples(pair: conditional.Gaussians, space: Space, settings: Settings) -> list[np.ndarray]:
    """Draw latents of each outcome; what the components leave out is that of a random partition, the same for both."""
    rng, num = np.random.default_rng([settings.seed, 3]), settings.task.num_samples
    chosen = rng.choice(len(space.scores), num)
    rest = np.asarray(space.x[chosen], float) - space.components.invert(space.scores[chosen])
    state = rng.bit_generator.state
    drawn = []
    for outcome in (0, 1):
        rng.bit_generator.state = state  # alike where the outcomes are
        drawn.append(space.components.invert(conditional.draw(pair, outcome, num, rng)) + rest)
    return drawn


def scale_of(channels: list[str], images: np.ndarray, unit: str) -> drawing.Scale:
    """Return one display range for each channel over all images."""
    return drawing.Scale(channels, [figures.limits(images[:, number], 0.5, 99.7) for number in range(len(channels))], unit)


# ------------------------------------------------------------------------------------------------------- differences


def marker_differences(
    opened: OutcomeInput, space: Space, moments: conditional.Moments, decoder: Decoder, settings: Settings
) -> pd.DataFrame:
    """Return one row per marker, the largest change of what it goes together with first.

    Columns, each with its interval (``_lo``, ``_hi``): ``local_correlation_change``, the change of the correlation with the
    ``partner`` that it changes most with, over places of about a cell's size, in the images that the latents decode to, in the
    units of the real partitions' scatter (what the latents do not hold does not count); ``transport_rms``, the root mean square
    change by the transport from one outcome to the other, with its median under permuted outcomes; ``mean_change``, the change
    of the mean. ``pixels_``: the same in the real partitions.
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
            ("Decoding partitions", lambda part: decoder.decode(space.x[part])),
            ("Reading partitions", lambda part: decoder.normalise(opened.patches.read(opened.rows[part]))),
        )
    )
    scatter = np.array([real[subject == code].std((0, 2), dtype=np.float64) for code in range(len(labels))])
    scatter = np.maximum(scatter, 1e-9 * max(1e-300, scatter.max()))
    options = (labels, task.num_bootstraps, settings.seed)
    found = {}
    for kind, places in (("", decoded), ("pixels_", real)):
        local = conditional.local_statistics(places, subject, scatter)
        found[f"{kind}local_correlation_change"] = conditional.compare(local.correlation, *options)
        found[f"{kind}mean_change"] = conditional.compare(local.mean / scatter.mean(0), *options)
    change = np.abs(found["local_correlation_change"][0])
    if len(channels) > 1:
        np.fill_diagonal(change, 0)
    partner = change.argmax(1)
    moved, permuted = (part / scatter.mean(0) for part in transport_changes(opened, space, moments, decoder, settings))
    table = pd.DataFrame({"marker": channels, "partner": [channels[k] if len(channels) > 1 else "" for k in partner]})
    for name in ("local_correlation_change", "pixels_local_correlation_change"):
        for suffix, part in zip(("", "_lo", "_hi"), found[name], strict=True):
            table[name + suffix] = part[np.arange(len(channels)), partner]
    table["transport_rms"] = moved[0]
    table[["transport_rms_lo", "transport_rms_hi"]] = [interval(draws) for draws in moved[1:].T]
    table["transport_rms_permuted"] = np.median(permuted, 0)
    for name in ("mean_change", "pixels_mean_change"):
        for suffix, part in zip(("", "_lo", "_hi"), found[name], strict=True):
            table[name + suffix] = part
    order = np.lexsort((-np.sqrt((change**2).sum(1)), -change.max(1).round(9)))  # a pair shares its change: then by all others
    return table.iloc[order].reset_index(drop=True)


def transport_changes(
    opened: OutcomeInput, space: Space, moments: conditional.Moments, decoder: Decoder, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the root mean square change of each marker by the transport between the outcomes, coarsely.

    Returns
    -------
    ``(1 + R, C)``, first of all subjects and then of resampled ones; and ``(R, C)`` with the outcomes permuted.
    """
    labels, rng = opened.outcomes.labels, np.random.default_rng([settings.seed, 5])
    rows = np.sort(rng.choice(np.flatnonzero(labels[opened.subject] == 0), MOVED_PARTITIONS))
    start = np.asarray(space.x[rows], float)
    before = conditional.coarsen(decoder.decode(start))

    def change(outcome: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        pair = conditional.condition(moments, outcome, weights)
        after = decoder.decode(start + space.changes(conditional.displace(pair, space.scores[rows])))
        return np.sqrt(((conditional.coarsen(after) - before) ** 2).mean((0, 2), dtype=np.float64))

    num = min(settings.task.num_bootstraps, MAX_RESAMPLES)
    found, permuted = [change(labels, None)], []
    for _ in track(range(num), "Decoding resampled transports", total=num):
        weights = np.zeros(len(labels))
        for value in (0, 1):
            own = np.flatnonzero(labels == value)
            weights[own] = resampled(rng, len(own))
        found.append(change(labels, weights))
        permuted.append(change(rng.permutation(labels), None))
    return np.array(found), np.array(permuted)
