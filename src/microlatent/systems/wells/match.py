"""Match latents to trajectories over time: which cells were followed, how they moved, how slowly their latents change.

Reads the latents table of ``task=process`` and the stores behind it; needs no network. Writes ``trajectories.json``
({well: {"<site>/<i>": [row of the store, ...]}}), ``tables/`` (trajectories, steps, msd) and ``figures/``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.data.latents import Latents, open_latents
from microlatent.data.store import Store
from microlatent.files import write_json, write_pickle
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.wells import draw_tracks as drawing
from microlatent.systems.wells import trajectories

log = logging.getLogger(__name__)

NEEDED = ("well", "site", "frame", "label", "trajectory")
MAX_WELLS_DRAWN = 4
MAX_FRAMES_DRAWN = 10


class Well(NamedTuple):
    """One store, its rows in the latents table, and its trajectories as positions in that table."""

    store: Store
    rows: np.ndarray
    lengths: dict[str, int]  # frames of the raw trajectories of the sites that the table covers
    matched: dict[str, list[int]]  # rows of the store, as the reference counts them
    tracks: dict[str, np.ndarray]  # positions in the latents table of the matched trajectories


class MatchInput(NamedTuple):
    """Latents, and the trajectories that they are matched to."""

    latents: Latents
    wells: list[Well]


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Match every trajectory of the table, compare step sizes with random pairs, write tables and figures."""
    opened = open_all(settings)
    latents, wells = opened
    results = results_of(opened, settings, out, tracker)
    num_raw, num_matched = (
        sum(len(part) for part in parts) for parts in zip(*((w.lengths, w.matched) for w in wells), strict=True)
    )
    write_json({well.store.name: well.matched for well in wells}, results.path("trajectories.json"))
    if settings.task.reference_files:
        for well in wells:
            write_pickle(well.matched, results.path(f"{well.store.name}_trajectories.pkl"))
    log.info(f"{num_matched} of {num_raw} trajectories have a patch in more than {settings.task.min_found:.0%} of their frames.")
    if not num_matched:
        log.warning("No trajectory was matched. Lower task.min_found, or see in the store why patches are missing.")

    frame = latents.obs["frame"].to_numpy()
    pairs = trajectories.steps(latents.x, frame, latents.cells(), well_codes(wells, len(latents)), settings.seed)
    comparison = trajectories.compare(pairs, seed=settings.seed)
    results.table("steps", pd.DataFrame([comparison._asdict()]))
    results.table("trajectories", motion_table(latents, wells, settings))
    displacement = pooled_displacement(latents, wells, settings)
    if len(displacement.table):
        results.table("msd", displacement.table)
    results.artifact("trajectories", "table", "tables/trajectories.csv")
    draw(opened, pairs, comparison, displacement, settings, results)
    report(comparison)
    return {
        "trajectories": num_raw,
        "matched": num_matched,
        "matched_share": num_matched / num_raw if num_raw else np.nan,
        "median_step_ratio": comparison.ratio,
        "step_shorter_probability": comparison.shorter,
        "msd_exponent": displacement.exponent,
    }


def open_all(settings: Settings) -> MatchInput:
    """Open the table and its stores, and match the trajectories."""
    latents = open_latents(settings, "match")
    latents.require(NEEDED, "match", "Only data=wells has trajectories; try task=embed or task=cluster.")
    found = latents.stores(settings.data.store)
    return MatchInput(latents, [match_well(latents, *one, settings.task.min_found) for one in found])


def results_of(opened: MatchInput, settings: Settings, out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    pickled = opened.wells if settings.task.reference_files else []
    return Results(
        *(out, tracker),
        files=["trajectories.json", *(f"{well.store.name}_trajectories.pkl" for well in pickled)],
        tables=["trajectories", "steps", "msd"],
        figures=["tracks", "steps", "msd", *(strip_name(channel) for channel in opened.wells[0].store.channels)],
    )


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the table and its stores, and list what would be written."""
    opened = open_all(settings)
    return Preflight(
        reads=[str(opened.latents.path), *(str(well.store.path) for well in opened.wells)],
        writes=results_of(opened, settings, out).writes,
        memory_mb=300 + len(opened.latents) * 2e-3,
        disk_mb=2.0,
        seconds=10 + len(opened.latents) * 2e-4,
    )


def match_well(latents: Latents, store: Store, rows: np.ndarray, min_found: float) -> Well:
    """Apply the rule of the match to one store; trajectories of sites that the table leaves out do not count."""
    obs = latents.obs
    sites = set(obs["site"].iloc[rows])
    lengths = {name: length for name, length in store.trajectory_lengths.items() if name.rsplit("/", 1)[0] in sites}
    by_frame = rows[np.argsort(obs["frame"].to_numpy()[rows], kind="stable")]
    names, code = np.unique(obs["trajectory"].to_numpy(str)[by_frame], return_inverse=True)
    parts = np.split(by_frame[np.argsort(code, kind="stable")], np.cumsum(np.bincount(code))[:-1])
    positions = {str(name): part for name, part in zip(names, parts, strict=True) if name}
    row = obs["row"].to_numpy()
    matched = trajectories.match({name: row[part] for name, part in positions.items()}, lengths, min_found)
    return Well(store, rows, lengths, matched, {name: positions[name] for name in matched})


def well_codes(wells: list[Well], num: int) -> np.ndarray:
    """Return the number of each patch's store (num,)."""
    codes = np.empty(num, int)
    for number, well in enumerate(wells):
        codes[well.rows] = number
    return codes


def scales(wells: list[Well], settings: Settings) -> list[tuple[float | None, float | None]]:
    """Return um per px and min per frame of each well; None for all where one is unknown, so that units agree."""
    pixel = [well.store.pixel_um or settings.data.pixel_um for well in wells]
    minutes = [well.store.frame_min or settings.data.frame_min for well in wells]
    return [(p if all(pixel) else None, m if all(minutes) else None) for p, m in zip(pixel, minutes, strict=True)]


def centres(latents: Latents) -> np.ndarray:
    """Return the centres of the patches in their raw image (N, 2), px; NaN where unknown."""
    return latents.obs.reindex(columns=["y_px", "x_px"]).to_numpy(float)


def motion_table(latents: Latents, wells: list[Well], settings: Settings) -> pd.DataFrame:
    """Return one row per matched trajectory."""
    frame, centre = latents.obs["frame"].to_numpy(), centres(latents)
    parts = []
    for well, scale in zip(wells, scales(wells, settings), strict=True):
        table = trajectories.motion(well.tracks, frame, centre, latents.x, *scale)
        if len(table):
            table.insert(0, "well", well.store.name)
            table.insert(2, "site", table["trajectory"].str.rsplit("/", n=1).str[0])
            table.insert(4, "num_frames_raw", table["trajectory"].map(well.lengths))
        parts.append(table)
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=["well", "trajectory", "site", "num_frames"])


def pooled_displacement(latents: Latents, wells: list[Well], settings: Settings) -> trajectories.Displacement:
    """Return the mean squared displacement over the trajectories of all wells, in the wells' common units."""
    centre, tracks = centres(latents), {}
    known = scales(wells, settings)
    for well, (pixel_um, _) in zip(wells, known, strict=True):
        centre[well.rows] *= pixel_um or 1.0
        tracks |= {f"{well.store.name}/{name}": rows for name, rows in well.tracks.items()}
    same_interval = len({minutes for _, minutes in known}) == 1
    frame_min = known[0][1] if same_interval else None
    result = trajectories.mean_squared_displacement(
        tracks, latents.obs["frame"].to_numpy(), centre, frame_min=frame_min, seed=settings.seed
    )
    table = result.table.rename(columns={"msd_px2": "msd_um2"}) if known[0][0] else result.table
    return result._replace(table=table)


def report(comparison: trajectories.Comparison) -> None:
    """Say in words what the comparison shows, and when it cannot show much."""
    if not comparison.num_steps:
        log.warning("No two consecutive frames of a track, or a single track per well: step sizes were not compared.")
        return
    ratio = f"{comparison.ratio:.2f} (95 % interval {comparison.ratio_lo:.2f}-{comparison.ratio_hi:.2f})"
    shorter = f"{comparison.shorter:.2f} ({comparison.shorter_lo:.2f}-{comparison.shorter_hi:.2f})"
    log.info(
        f"A step to the next frame is {ratio} of the distance of random pairs, and shorter with probability {shorter}; "
        f"{comparison.num_tracks} tracks."
    )
    if comparison.num_tracks < 10:
        log.warning(f"The number of tracks is {comparison.num_tracks}: with so few, the interval is itself uncertain.")


# ---------------------------------------------------------------------------------------------------------- figures


def strip_name(channel: str) -> str:
    """Return the name of a channel's film strips."""
    return f"strips_{figures.file_word(channel)}"


def draw(
    opened: MatchInput,
    pairs: trajectories.Steps,
    comparison: trajectories.Comparison,
    displacement: trajectories.Displacement,
    settings: Settings,
    results: Results,
) -> None:
    """Draw every figure that the data allow."""
    latents, wells = opened
    examples = choose_examples(wells, settings.task.num_examples, settings.seed)
    if examples and np.isfinite(centres(latents)).any():
        panels = [panel(latents, well, scale, examples) for well, scale in zip(wells, scales(wells, settings), strict=True)]
        units = scales(wells, settings)[0]
        unit, time = figures.UNITS["um" if units[0] else "px"], f"time ({'min' if units[1] else 'frame'})"
        shown = [part for part in panels if part.paths][:MAX_WELLS_DRAWN]
        results.figure("tracks", drawing.draw_tracks, shown, unit, time)
    if comparison.num_steps:
        results.figure("steps", drawing.draw_steps, pairs, comparison)
    if len(displacement.table) > 1:
        results.figure("msd", drawing.draw_displacement, displacement)
    for channel, name in enumerate(wells[0].store.channels) if examples else ():
        films = [
            film(latents, well, trajectory, number, channel, settings) for number, (well, trajectory) in enumerate(examples, 1)
        ]
        title = f"{name}, one contrast for all"
        results.figure(strip_name(name), drawing.draw_films, films, title, wells[0].store.patch_pixel_um)


def choose_examples(wells: list[Well], count: int, seed: int) -> list[tuple[Well, str]]:
    """Take the longest trajectories, in turn from each well; of equally long ones any, so that they come from all over."""
    rng = np.random.default_rng(seed)
    shuffled = [[list(well.tracks)[index] for index in rng.permutation(len(well.tracks))] for well in wells]
    longest = [sorted(names, key=lambda name: -len(well.tracks[name])) for well, names in zip(wells, shuffled, strict=True)]
    turns = [
        (well, names[turn]) for turn in range(count) for well, names in zip(wells, longest, strict=True) if turn < len(names)
    ]
    return sorted(turns[:count], key=lambda pair: pair[0].store.name)


def panel(
    latents: Latents, well: Well, scale: tuple[float | None, float | None], examples: list[tuple[Well, str]]
) -> drawing.Panel:
    """Return the tracks of the well's site that holds most examples; those are numbered as in the film strips."""
    frame, centre = latents.obs["frame"].to_numpy(), centres(latents)
    numbers = {name: str(number) for number, (other, name) in enumerate(examples, 1) if other is well}
    sites = [name.rsplit("/", 1)[0] for name in numbers or well.tracks]
    site = max(dict.fromkeys(sites), key=sites.count, default="")
    drawn = {
        name: rows
        for name, rows in well.tracks.items()
        if name.rsplit("/", 1)[0] == site and len(rows) > 1 and np.isfinite(centre[rows]).all()
    }
    return drawing.Panel(
        title=f"well {well.store.name}, {site}",
        paths=[centre[rows][:, ::-1] * (scale[0] or 1.0) for rows in drawn.values()],
        times=[frame[rows] * (scale[1] or 1.0) for rows in drawn.values()],
        numbers=[numbers.get(name, "") for name in drawn],
    )


def film(latents: Latents, well: Well, name: str, number: int, channel: int, settings: Settings) -> drawing.Film:
    """Return evenly spaced patches of a trajectory, as they lie in the store."""
    track = well.tracks[name]
    picked = track[np.unique(np.linspace(0, len(track) - 1, min(MAX_FRAMES_DRAWN, len(track))).round().astype(int))]
    frame, row = latents.obs["frame"].to_numpy()[picked], latents.obs["row"].to_numpy()[picked]
    minutes = well.store.frame_min or settings.data.frame_min
    captions = [f"{at * minutes:g} min" if minutes else f"frame {at}" for at in frame]
    return drawing.Film(f"{number}  {name}", captions, np.stack([well.store.images[at, channel] for at in row]))
