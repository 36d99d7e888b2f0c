"""Match latents to trajectories over time: which cells were followed, how they moved, how slowly their latents change.

Reads the latents table of ``task=process`` and the stores behind it; needs no network. Writes ``trajectories.json``
({well: {"<site>/<i>": [row of the store, ...]}}), ``tables/`` (trajectories, steps, msd) and ``figures/``.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection

from microlatent import figures
from microlatent.analysis import trajectories
from microlatent.data.latents import Latents, locate
from microlatent.data.store import Store
from microlatent.files import write_csv, write_json, write_pickle
from microlatent.schemas import Settings

if TYPE_CHECKING:
    from microlatent.run import Rehearsal

log = logging.getLogger(__name__)

MAX_WELLS_DRAWN = 4
MAX_FRAMES_DRAWN = 10


class Well(NamedTuple):
    """One store, its rows in the latents table, and its trajectories as positions in that table."""

    store: Store
    rows: np.ndarray
    lengths: dict[str, int]  # frames of the raw trajectories of the sites that the table covers
    matched: dict[str, list[int]]  # rows of the store, as the reference counts them
    tracks: dict[str, np.ndarray]  # positions in the latents table of the matched trajectories


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Match every trajectory of the table, compare step sizes with random pairs, write tables and figures."""
    latents = Latents(locate(settings.task.latents, settings.run, "match"))
    wells = [match_well(latents, *found, settings.task.min_found) for found in latents.stores(settings.data.store)]
    num_raw, num_matched = (
        sum(len(part) for part in parts) for parts in zip(*((w.lengths, w.matched) for w in wells), strict=True)
    )
    write_json({well.store.well: well.matched for well in wells}, out / "trajectories.json")
    if settings.task.reference_files:
        for well in wells:
            write_pickle(well.matched, out / f"{well.store.well}_trajectories.pkl")
    log.info(f"{num_matched} of {num_raw} trajectories have a patch in more than {settings.task.min_found:.0%} of their frames.")
    if not num_matched:
        log.warning("No trajectory was matched. Lower task.min_found, or see in the store why patches are missing.")

    frame = latents.obs["frame"].to_numpy()
    pairs = trajectories.steps(latents.x, frame, latents.cells(), well_codes(wells, len(latents)), settings.seed)
    comparison = trajectories.compare(pairs, seed=settings.seed)
    tables = {"steps": pd.DataFrame([comparison._asdict()]), "trajectories": motion_table(latents, wells, settings)}
    displacement = pooled_displacement(latents, wells, settings)
    if len(displacement.table):
        tables["msd"] = displacement.table
    for name, table in tables.items():
        write_csv(table, out / "tables" / f"{name}.csv")
        tracker.table(name, table)
    for path in draw(latents, wells, pairs, comparison, displacement, settings, out / "figures"):
        tracker.image(path.stem, path)
    report(comparison)
    return {
        "trajectories": num_raw,
        "matched": num_matched,
        "matched_share": num_matched / num_raw if num_raw else np.nan,
        "median_step_ratio": comparison.ratio,
        "step_shorter_probability": comparison.shorter,
        "msd_exponent": displacement.exponent,
    }


def rehearse(settings: Settings, out: Path) -> Rehearsal:
    """Open the table and its stores, and list what would be written."""
    from microlatent.run import Rehearsal

    path = locate(settings.task.latents, settings.run, "match")
    latents = Latents(path)
    stores = [store for store, _ in latents.stores(settings.data.store)]
    writes = [out / "trajectories.json", *(out / "tables" / f"{name}.csv" for name in ("trajectories", "steps", "msd"))]
    if settings.task.reference_files:
        writes += [out / f"{store.well}_trajectories.pkl" for store in stores]
    writes += [out / "figures" / f"{name}.png" for name in ("tracks", "steps", "msd")]
    writes += [out / "figures" / f"strips_{file_word(name)}.png" for name in stores[0].channels]
    return Rehearsal(
        reads=[str(path), *(str(store.path) for store in stores)],
        writes=[str(name) for name in writes],
        memory_mb=300 + len(latents) * 2e-3,
        disk_mb=2.0,
        seconds=10 + len(latents) * 2e-4,
    )


def match_well(latents: Latents, store: Store, rows: np.ndarray, min_found: float) -> Well:
    """Apply the rule of the match to one store; trajectories of sites that the table leaves out do not count."""
    obs = latents.obs.iloc[rows]
    sites = set(obs["site"])
    lengths = {name: length for name, length in store.trajectory_lengths.items() if name.rsplit("/", 1)[0] in sites}
    order = np.argsort(obs["frame"].to_numpy(), kind="stable")
    tracked = obs.iloc[order]
    tracked = tracked[tracked["trajectory"] != ""]
    at = pd.Series(rows[order], index=obs.index[order])[tracked.index]
    positions = {name: at[part].to_numpy() for name, part in tracked.groupby("trajectory", sort=False).groups.items()}
    row = latents.obs["row"].to_numpy()
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
            table.insert(0, "well", well.store.well)
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
        tracks |= {f"{well.store.well}/{name}": rows for name, rows in well.tracks.items()}
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
    log.info(
        f"A step to the next frame is {comparison.ratio:.2f} (95 % interval {comparison.ratio_lo:.2f}-{comparison.ratio_hi:.2f}) of "
        f"the distance of random pairs, and shorter with probability {comparison.shorter:.2f} "
        f"({comparison.shorter_lo:.2f}-{comparison.shorter_hi:.2f}); {comparison.num_tracks} tracks."
    )
    if comparison.num_tracks < 10:
        log.warning(f"Only {comparison.num_tracks} tracks: their interval is itself uncertain.")


# ---------------------------------------------------------------------------------------------------------- figures


def draw(
    latents: Latents,
    wells: list[Well],
    pairs: trajectories.Steps,
    comparison: trajectories.Comparison,
    displacement: trajectories.Displacement,
    settings: Settings,
    folder: Path,
) -> list[Path]:
    """Draw every figure that the data allow."""
    examples = choose_examples(wells, settings.task.num_examples)
    paths = []
    if examples and np.isfinite(centres(latents)).any():
        paths.append(draw_tracks(latents, wells, examples, scales(wells, settings), folder / "tracks.png"))
    if comparison.num_steps:
        paths.append(draw_steps(pairs, comparison, folder / "steps.png"))
    if len(displacement.table) > 1:
        paths.append(draw_displacement(displacement, folder / "msd.png"))
    channels = wells[0].store.channels
    for channel in range(len(channels)) if examples else ():
        paths.append(draw_strips(latents, examples, channel, folder / f"strips_{file_word(channels[channel])}.png", settings))
    return paths


def file_word(name: str) -> str:
    """Return a channel's name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_") or "channel"


def choose_examples(wells: list[Well], count: int) -> list[tuple[Well, str]]:
    """Take the longest trajectories, in turn from each well."""
    longest = [sorted(well.tracks, key=lambda name: -len(well.tracks[name])) for well in wells]
    turns = [
        (well, names[turn]) for turn in range(count) for well, names in zip(wells, longest, strict=True) if turn < len(names)
    ]
    return sorted(turns[:count], key=lambda pair: pair[0].store.well)


def draw_tracks(latents: Latents, wells: list[Well], examples: list, known: list, path: Path) -> Path:
    """Draw the tracks of one site per well in space, coloured by time, the examples numbered as in the film strips."""
    frame, centre = latents.obs["frame"].to_numpy(), centres(latents)
    shown = [(well, scale) for well, scale in zip(wells, known, strict=True) if well.tracks][:MAX_WELLS_DRAWN]
    width = 110.0 if len(shown) == 1 else figures.PAGE_MM
    ncols = min(2, len(shown))
    nrows = -(-len(shown) // ncols)
    fig, axes = figures.new(nrows, ncols, width, 82.0 * nrows, squeeze=False)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    first, last = frame.min(), frame.max()
    for ax, (well, (pixel_um, frame_min)) in zip(axes.flat, shown, strict=False):
        numbered = {name: number for number, (other, name) in enumerate(examples, 1) if other is well}
        sites = [name.rsplit("/", 1)[0] for name in numbered or well.tracks]
        site = max(dict.fromkeys(sites), key=sites.count)
        scale, minutes = pixel_um or 1.0, frame_min or 1.0
        for name, rows in well.tracks.items():
            if name.rsplit("/", 1)[0] != site:
                continue
            points = centre[rows][:, ::-1] * scale
            segments = np.stack([points[:-1], points[1:]], 1)
            lines = LineCollection(segments, cmap=figures.CONTINUOUS, linewidths=1.3, capstyle="round")
            lines.set_array((frame[rows[:-1]] + frame[rows[1:]]) / 2 * minutes)
            lines.set_clim(first * minutes, max(last, first + 1) * minutes)
            ax.add_collection(lines)
            ax.plot(*points[-1], "o", color="black", markersize=1.8)
            if name in numbered:
                ax.annotate(str(numbered[name]), points[-1], xytext=(3, 2), textcoords="offset points", fontsize=7, weight="bold")
        ax.autoscale_view()
        ax.set_aspect("equal", adjustable="datalim")
        ax.invert_yaxis()
        unit = figures.UNITS["um" if pixel_um else "px"]
        ax.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})", title=f"{well.store.well}: {site}")
        figures.few_ticks(ax, 5)
    fig.colorbar(lines, ax=axes, label=f"time ({'min' if shown[0][1][1] else 'frame'})", aspect=30, shrink=0.8, pad=0.02)
    return figures.save(fig, path)


def draw_steps(pairs: trajectories.Steps, comparison: trajectories.Comparison, path: Path) -> Path:
    """Draw the cumulative distributions of latent steps and of random pairs."""
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 64)
    for values, colour, text in (
        (pairs.step, figures.OKABE_ITO[0], "consecutive frames\nof a track"),
        (pairs.random, figures.OKABE_ITO[3], "random pairs of\nthe same well"),
    ):
        ax.ecdf(values, color=colour, label=text)
        ax.plot([np.median(values)] * 2, [0, 0.5], color=colour, linewidth=0.7, linestyle=":")
    ax.set(
        xlabel="latent distance",
        ylabel="cumulative share",
        ylim=(0, 1.0),
        xlim=(0, figures.limits(pairs.random, 0, 99.5)[1] * 1.05),
    )
    ax.set_title(
        f"median ratio {comparison.ratio:.2f} [{comparison.ratio_lo:.2f}, {comparison.ratio_hi:.2f}], {comparison.num_tracks} tracks",
        loc="left",
    )
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    return figures.save(fig, path)


def draw_displacement(displacement: trajectories.Displacement, path: Path) -> Path:
    """Draw the mean squared displacement over lag on logarithmic axes, with its interval over tracks."""
    table = displacement.table
    lag = "lag_min" if "lag_min" in table else "lag_frames"
    value = next(name for name in table if name.startswith("msd_"))
    fig, ax = figures.new(1, 1, figures.COLUMN_MM, 68)
    ax.fill_between(
        table[lag], table["lo"], table["hi"], color=figures.OKABE_ITO[0], alpha=0.25, linewidth=0, label="95 % interval"
    )
    ax.plot(table[lag], table[value], "o-", color=figures.OKABE_ITO[0], markersize=2.5, label="mean over tracks")
    guide = table[value].iloc[0] * 0.6 * table[lag] / table[lag].iloc[0]
    ax.plot(table[lag], guide, color=figures.GREY, linestyle="--", linewidth=0.8, label="slope 1 (diffusion)")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=figures.axis_label(lag),
        ylabel=figures.axis_label(value).replace("msd", "mean squared displacement"),
    )
    ax.set_title(
        f"exponent {displacement.exponent:.2f} [{displacement.exponent_lo:.2f}, {displacement.exponent_hi:.2f}]", loc="left"
    )
    ax.legend(loc="lower right")
    return figures.save(fig, path)


def draw_strips(latents: Latents, examples: list, channel: int, path: Path, settings: Settings) -> Path:
    """Draw each example's patches along time, one row per trajectory, all with the same contrast."""
    row, frame = latents.obs["row"].to_numpy(), latents.obs["frame"].to_numpy()
    films = []
    for well, name in examples:
        track = well.tracks[name]
        picked = track[np.unique(np.linspace(0, len(track) - 1, min(MAX_FRAMES_DRAWN, len(track))).round().astype(int))]
        films.append((well, name, frame[picked], np.stack([well.store.images[row[at], channel] for at in picked])))
    ncols = max(len(film[2]) for film in films)
    tile = min(24.0, (figures.PAGE_MM - 22) / ncols)
    fig, axes = figures.new(len(films), ncols, tile * ncols + 22, (tile + 3.2) * len(films) + 6, squeeze=False)
    vmin, vmax = figures.limits(np.concatenate([film[3].ravel() for film in films]), 0.5, 99.5)
    for number, (line, (well, name, frames, patches)) in enumerate(zip(axes, films, strict=True), 1):
        minutes = well.store.frame_min or settings.data.frame_min
        for ax in line:
            ax.set_axis_off()
        for ax, at, patch in zip(line, frames, patches, strict=False):
            figures.image(ax, patch, vmin, vmax)
            ax.set_title(f"{at * minutes:g} min" if minutes else f"frame {at}", fontsize=6, pad=1.5)
        line[0].text(-0.08, 0.5, f"{number}  {name}", transform=line[0].transAxes, ha="right", va="center", fontsize=6.5)
    store = films[0][0].store
    figures.scale_bar(axes[0, 0], store.patch_pixel_um)
    fig.suptitle(f"{store.channels[channel]}, all with the same contrast")
    return figures.save(fig, path)
