"""Trajectories of single cells: matching patches over time, step sizes of latents, motion.

Frames of a track depend on each other, so tracks are the units of every interval here, never frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from microlatent.analysis.statistics import interval, resampled

CHUNK = 4096  # pairs of latents compared at a time


def match(found: Mapping[str, Sequence[int]], lengths: Mapping[str, int], min_found: float = 0.95) -> dict[str, list[int]]:
    """Keep the trajectories of which nearly every frame has a patch.

    Parameters
    ----------
    found
        Patch indices of each trajectory ``<site>/<i>`` in increasing frame; frames without a patch are left out.
    lengths
        Frames of every raw trajectory, with or without a patch. The result is in this order.
    min_found
        A trajectory is kept if more than this share of its frames was found.

    Notes
    -----
    The rule as the wells reference means it. Its code stops at the first missing patch and never reaches the rule.
    """
    return {
        name: [int(index) for index in found[name]]
        for name, length in lengths.items()
        if name in found and len(found[name]) > min_found * length
    }


def distances(latents: ArrayLike, first: NDArray, second: NDArray) -> NDArray:
    """Return Euclidean distances (n,) between rows of ``latents`` (N, D), reading a few rows at a time."""
    result = np.empty(len(first))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        delta = np.asarray(latents[first[part]], np.float32) - np.asarray(latents[second[part]], np.float32)
        result[part] = np.sqrt(np.einsum("nd,nd->n", delta, delta, dtype=np.float64))
    return result


class Steps(NamedTuple):
    """Latent distances between consecutive frames of a track, each beside a random pair that starts at the same patch."""

    step: NDArray  # (n,) distance of a patch to the next frame's patch of its track
    random: NDArray  # (n,) distance of the same patch to a random patch of another track
    anchor: NDArray  # (n,) row of the patch
    track: NDArray  # (n,) track of the patch
    partner: NDArray  # (n,) track of the random patch


def steps(latents: ArrayLike, frame: NDArray, track: NDArray, group: NDArray, seed: int = 0) -> Steps:
    """Measure how far a cell moves in latent space from one frame to the next, and how far apart random cells are.

    Parameters
    ----------
    latents
        (N, D), any unit.
    frame
        (N,) integers; only neighbouring frames form a step, a gap does not.
    track
        (N,) integers, unique over all groups; a patch of no trajectory has a number of its own.
    group
        (N,) integers; the random partner is of the same group (well), so that differences between wells do not count.
        Patches of groups with a single track have no partner and form no pair.
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((frame, track))
    here, after = order[:-1], order[1:]
    consecutive = (track[here] == track[after]) & (frame[after] - frame[here] == 1)
    here, after = here[consecutive], after[consecutive]
    partner = np.full(len(here), -1)
    for name in np.unique(group[here]):
        members, at = np.flatnonzero(group == name), np.flatnonzero(group[here] == name)
        if len(np.unique(track[members])) < 2:
            continue
        while len(at):  # draw again where the partner is of the same track
            partner[at] = rng.choice(members, len(at))
            at = at[track[partner[at]] == track[here[at]]]
    paired = partner >= 0
    here, after, partner = here[paired], after[paired], partner[paired]
    return Steps(distances(latents, here, after), distances(latents, here, partner), here, track[here], track[partner])


class Comparison(NamedTuple):
    """Consecutive frames against random pairs; ``lo`` and ``hi`` bound the 95 % interval over tracks."""

    median_step: float
    median_random: float
    ratio: float  # of the medians; below 1 where cells change slowly
    ratio_lo: float
    ratio_hi: float
    shorter: float  # probability that a step is shorter than a random pair; 0.5 where tracks mean nothing
    shorter_lo: float
    shorter_hi: float
    num_tracks: int
    num_steps: int


def compare(pairs: Steps, num_bootstrap: int = 1000, seed: int = 0) -> Comparison:
    """Compare steps with random pairs, with intervals that resample whole tracks.

    A random pair involves two tracks and is weighted by how often each of them was drawn (Owen 2007, the pigeonhole
    bootstrap), which is on the wide side rather than too narrow.
    """
    step, random = np.argsort(pairs.step), np.argsort(pairs.random)
    step_sorted, random_sorted = pairs.step[step], pairs.random[random]
    below, upto = (np.searchsorted(step_sorted, random_sorted, side) for side in ("left", "right"))
    names, code = np.unique(np.concatenate([pairs.track, pairs.partner]), return_inverse=True)
    anchor_code, partner_code = code[: len(step)], code[len(step) :]

    def measure(weight: NDArray) -> tuple[float, float, float]:
        weight_step = weight[anchor_code[step]]
        weight_random = weight[anchor_code[random]] * weight[partner_code[random]]
        total_step, total_random = weight_step.sum(), weight_random.sum()
        if not total_step or not total_random:
            return np.nan, np.nan, np.nan
        cumulated = np.concatenate([[0.0], np.cumsum(weight_step)])
        shorter = weight_random @ (cumulated[below] + cumulated[upto]) / 2 / (total_step * total_random)
        return weighted_median(step_sorted, weight_step), weighted_median(random_sorted, weight_random), float(shorter)

    if not len(step):
        return Comparison(*[np.nan] * 8, num_tracks=0, num_steps=0)
    rng = np.random.default_rng(seed)
    drawn = np.array([measure(resampled(rng, len(names)).astype(float)) for _ in range(num_bootstrap)])
    median_step, median_random, shorter = measure(np.ones(len(names)))
    ratio_lo, ratio_hi = interval(drawn[:, 0] / drawn[:, 1])
    return Comparison(
        median_step,
        median_random,
        median_step / median_random,
        ratio_lo,
        ratio_hi,
        shorter,
        *interval(drawn[:, 2]),
        num_tracks=len(np.unique(pairs.track)),
        num_steps=len(step),
    )


def weighted_median(ordered: NDArray, weight: NDArray) -> float:
    """Return the median of increasing values of which each counts ``weight`` times."""
    cumulated = np.cumsum(weight)
    half = cumulated[-1] / 2
    low, high = np.searchsorted(cumulated, half, "left"), np.searchsorted(cumulated, half, "right")
    return float(ordered[low] + ordered[min(high, len(ordered) - 1)]) / 2


def motion(
    tracks: Mapping[str, Sequence[int]],
    frame: NDArray,
    centre_px: NDArray,
    latents: ArrayLike | None = None,
    pixel_um: float | None = None,
    frame_min: float | None = None,
) -> pd.DataFrame:
    """Summarise each track: frames, speed, displacement and how fast its latents change.

    Lengths are in um where ``pixel_um`` is known, else in px; times in min where ``frame_min`` is known, else in frames.
    The columns' names say which. Unknown positions give NaN.

    Parameters
    ----------
    tracks
        Rows of each track in increasing frame.
    centre_px
        (N, 2) y, x in the raw image, px.
    """
    length, time = ("um" if pixel_um else "px"), ("min" if frame_min else "frame")
    records = []
    for name, members in tracks.items():
        rows = np.asarray(members)
        gaps = np.diff(frame[rows])
        centre = centre_px[rows] * (pixel_um or 1.0)
        path = float(np.linalg.norm(np.diff(centre, axis=0), axis=1).sum())
        net = float(np.linalg.norm(centre[-1] - centre[0]))
        duration = float(gaps.sum()) * (frame_min or 1.0)
        change = distances(latents, rows[:-1], rows[1:])[gaps == 1] if latents is not None else np.array([])
        records.append(
            {
                "trajectory": name,
                "num_frames": len(rows),
                "first_frame": int(frame[rows[0]]),
                "last_frame": int(frame[rows[-1]]),
                f"duration_{time}{'' if frame_min else 's'}": duration,
                f"path_{length}": path if len(rows) > 1 else np.nan,
                f"net_displacement_{length}": net if len(rows) > 1 else np.nan,
                "straightness": min(net / path, 1.0) if path > 0 else np.nan,
                f"mean_speed_{length}_per_{time}": path / duration if duration > 0 else np.nan,
                "latent_step_median": float(np.median(change)) if len(change) else np.nan,
            }
        )
    return pd.DataFrame(records)


class Displacement(NamedTuple):
    """Mean squared displacement by lag, and its growth."""

    table: pd.DataFrame  # lag_frames, [lag_min], msd_px2, lo, hi, num_tracks, num_pairs
    exponent: float  # of the power law: 1 for diffusion, 2 for straight motion
    exponent_lo: float
    exponent_hi: float


def mean_squared_displacement(
    tracks: Mapping[str, Sequence[int]],
    frame: NDArray,
    centre_px: NDArray,
    frame_min: float | None = None,
    max_lag: int = 30,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> Displacement:
    """Average the squared displacement over all start frames and tracks, by lag; intervals resample tracks.

    Lags up to half of the longest track are measured, those that at least three tracks reach are kept. Gaps are left out.
    """
    kept = [rows for rows in map(np.asarray, tracks.values()) if len(rows) > 1 and np.isfinite(centre_px[rows]).all()]
    longest = max((int(np.ptp(frame[rows])) for rows in kept), default=0)
    lags = np.arange(1, min(max_lag, longest // 2 if longest > 2 else longest) + 1)
    squares, counts = np.zeros((len(kept), len(lags))), np.zeros((len(kept), len(lags)))
    for index, rows in enumerate(kept):
        path = np.full((int(np.ptp(frame[rows])) + 1, 2), np.nan)
        path[frame[rows] - frame[rows[0]]] = centre_px[rows]
        for column, lag in enumerate(lags[lags < len(path)]):
            square = ((path[lag:] - path[:-lag]) ** 2).sum(1)
            squares[index, column], counts[index, column] = np.nansum(square), np.isfinite(square).sum()
    enough = (counts > 0).sum(0) >= 3
    lags, squares, counts = lags[enough], squares[:, enough], counts[:, enough]
    rng = np.random.default_rng(seed)
    weights = resampled(rng, max(1, len(kept)), num_bootstrap)[:, : len(kept)]
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (weights @ squares) / (weights @ counts)
        msd = squares.sum(0) / counts.sum(0)
    bounds = np.array([interval(column) for column in drawn.T]).reshape(-1, 2)
    table = pd.DataFrame({"lag_frames": lags})
    if frame_min:
        table["lag_min"] = lags * frame_min
    table["msd_px2"] = msd
    table["lo"], table["hi"] = bounds.T
    table["num_tracks"], table["num_pairs"] = (counts > 0).sum(0), counts.sum(0).astype(int)
    low, high = interval(slopes(lags, drawn))
    return Displacement(table, float(slopes(lags, msd[None])[0]), low, high)


def slopes(lags: NDArray, msd: NDArray) -> NDArray:
    """Return the least-squares slope of log msd (n, lags) over log lag; NaN where it is undefined."""
    if len(lags) < 2:
        return np.full(len(msd), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(msd)
    x = np.log(lags) - np.log(lags).mean()
    result = y @ x / (x @ x)
    return np.where(np.isfinite(result), result, np.nan)
