"""A simulated single-cell time lapse with known truth: two wells of cells that move, grow, stretch and change state.

Each cell has five planted properties that change slowly: size, elongation, brightness of the phase channel, granularity of
the retardance channel, and speed. A hidden state sets the first two and the speed: state 0 is small, round and slow, state 1
large, stretched and fast. The wells differ in how many cells are in state 1. Orientation is not a property: it turns freely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from microlatent.data.specimen import write_once
from microlatent.files import write_csv
from microlatent.systems.wells.patches import Frame, site_folder, write_site
from microlatent.systems.wells.schema import PatchConfig

CHANNELS = ["phase", "retardance"]
PIXEL_UM, FRAME_MIN = 0.65, 10.0
STATE_SHARE = {"A1": 0.25, "B2": 0.75}  # of cells in state 1; other wells have half
# Properties of the two states.
SIZE_UM = (15.0, 19.0)  # diameter of the disc of the cell's area, mean
SIZE_SPREAD_UM = 1.3
ELONGATION = (1.2, 2.0)  # long axis over short axis, mean
ELONGATION_SPREAD = (0.08, 0.2)
SPEED_UM_PER_MIN = (0.15, 0.6)
SWITCH = 0.01  # chance to change state in a frame
WINDOW_PX = 64
BAND_PX = 26  # cells stay this far from the edge


@dataclass
class Population:
    """Properties (T, n) of the cells of one site over time, and their texture."""

    y_px: np.ndarray
    x_px: np.ndarray
    angle: np.ndarray
    size_um: np.ndarray
    elongation: np.ndarray
    brightness: np.ndarray
    texture: np.ndarray
    state: np.ndarray
    speed: np.ndarray
    lobes: np.ndarray  # (n, 3, 2) amplitude and phase of the outline's ripples
    granules: np.ndarray  # (n, G, G) granular field of each cell, in its own axes
    present: np.ndarray  # (T, n)


def simulate(
    folder: str | Path,
    seed: int = 0,
    wells: tuple[str, ...] = ("A1", "B2"),
    sites: int = 2,
    frames: int = 20,
    cells: int = 24,
    size_px: int = 512,
) -> Path:
    """Write the specimen with its patches and tracks, and return the folder; an existing one of the same numbers is kept.

    The folder appears whole or not at all: it is made under another name and renamed at the end.

    Raises
    ------
    ValueError
        If the folder exists and holds anything else.
    """
    wanted = {"seed": seed, "wells": list(wells), "sites": sites, "frames": frames, "cells": cells, "size_px": size_px}
    return write_once(folder, wanted, lambda partial: specimen(partial, seed, wells, sites, frames, cells, size_px, patches=True))


def specimen(
    folder: str | Path,
    seed: int = 0,
    wells: tuple[str, ...] = ("A1", "B2"),
    sites: int = 2,
    frames: int = 20,
    cells: int = 24,
    size_px: int = 512,
    patches: bool = False,
) -> None:
    """Write what a lab would hand over: two-channel TIFFs, instance masks with track ids, and the truth.

    ``images/<well>-Site_<k>_t<frame>.tif`` (2, Y, X) uint16, ``masks/`` of the same names, and ``truth.csv`` with a row per
    cell and frame. With ``patches``, the very same code as ``task=patch`` also writes ``<well>-supps/``.
    """
    folder = Path(folder)
    truths = []
    for w, well in enumerate(wells):
        for k in range(sites):
            rng = np.random.default_rng([seed, w, k])
            site = f"{well}-Site_{k}"
            population = populate(rng, frames, cells, size_px, STATE_SHARE.get(well, 0.5))
            truth = truth_table(population).assign(well=well, site=site)
            truths.append(truth)
            shot = render(rng, population, size_px)
            if patches:
                settings = PatchConfig(name="patch", tracks="ids", window_px=WINDOW_PX, dilate_cell_px=3, dilate_neighbour_px=5)
                write_site(
                    *(site_folder(folder, well, site), _saved(shot, folder, site), settings),
                    **{"well": well, "site": site, "channels": CHANNELS, "pixel_um": PIXEL_UM, "frame_min": FRAME_MIN},
                    truth=truth,
                )
            else:
                for _ in _saved(shot, folder, site):
                    pass
    table = pd.concat(truths, ignore_index=True)
    first = ["well", "site", "frame", "cell_id"]
    write_csv(table[first + [name for name in table if name not in first]], folder / "truth.csv")


def _saved(shots: Iterator[Frame], folder: Path, site: str) -> Iterator[Frame]:
    """Write each frame as raw files and hand it on."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"axes": "CYX", "unit": "um", "finterval": FRAME_MIN * 60, "Labels": CHANNELS}
    for frame in shots:
        name = f"{site}_t{frame.number:03d}.tif"
        pixels_per_um = (1 / PIXEL_UM, 1 / PIXEL_UM)
        tifffile.imwrite(folder / "images" / name, frame.image, imagej=True, resolution=pixels_per_um, metadata=about)
        tifffile.imwrite(folder / "masks" / name, frame.labels, compression="zlib")
        yield frame


def populate(rng: np.random.Generator, frames: int, cells: int, size_px: int, share: float) -> Population:
    """Draw the cells of a site and let them live: slow changes around each cell's own mean, and a persistent walk."""
    state = np.empty((frames, cells), int)
    state[0] = rng.permutation(cells) < round(share * cells)
    for t in range(1, frames):
        # Switching keeps the share: cells leave the rarer state more often.
        leave = SWITCH * np.where(state[t - 1] == 1, 1 - share, share) * 2
        state[t] = np.where(rng.random(cells) < leave, 1 - state[t - 1], state[t - 1])
    ease = ndimage.gaussian_filter1d(state.astype(float), 1.5, axis=0, mode="nearest")  # a cell changes shape over hours

    def between(values: tuple[float, float]) -> np.ndarray:
        return values[0] + (values[1] - values[0]) * ease

    def varying(mean: np.ndarray | float, spread: np.ndarray | float, slow: float) -> np.ndarray:
        within = ndimage.gaussian_filter1d(rng.normal(size=(frames, cells)), 2.5, axis=0, mode="nearest")
        return mean + spread * (rng.normal(size=cells) + slow * within / within.std())

    speed = between(SPEED_UM_PER_MIN) * np.exp(0.25 * rng.normal(size=cells))
    heading = rng.uniform(0, 2 * np.pi, cells) + np.cumsum(0.5 * rng.normal(size=(frames, cells)), axis=0)
    size = np.clip(varying(between(SIZE_UM), SIZE_SPREAD_UM, 0.5), 11.5, 23.0)
    elongation = np.clip(varying(between(ELONGATION), between(ELONGATION_SPREAD), 0.5), 1.0, 2.6)
    y, x = _walk(rng, heading, speed * FRAME_MIN / PIXEL_UM, size * np.sqrt(elongation) / PIXEL_UM, size_px)
    present = np.ones((frames, cells), bool)
    for cell in np.flatnonzero(rng.random(cells) < 0.2):  # some come late or leave early
        late, edge = rng.random() < 0.5, int(rng.integers(1, max(2, frames // 2)))
        present[: edge if late else 0, cell] = False
        present[frames if late else frames - edge :, cell] = False
    granules = ndimage.gaussian_filter(rng.normal(size=(cells, 96, 96)), (0, 1.2, 1.2))
    return Population(
        y_px=y,
        x_px=x,
        angle=rng.uniform(0, np.pi, cells) + np.cumsum(0.12 * rng.normal(size=(frames, cells)), axis=0),
        size_um=size,
        elongation=elongation,
        brightness=np.clip(varying(1.0, 0.2, 0.4), 0.5, 1.6),
        texture=np.clip(varying(0.5, 0.22, 0.3), 0.0, 1.0),
        state=state,
        speed=speed,
        lobes=np.stack([rng.uniform(0.0, 0.05, (cells, 3)), rng.uniform(0, 2 * np.pi, (cells, 3))], axis=2),
        granules=_unit(granules),
        present=present,
    )


def truth_table(population: Population) -> pd.DataFrame:
    """Return a row per cell and frame: frame, cell_id (the track's number, from 1) and the planted true_* properties."""
    frame, cell = np.nonzero(population.present)
    return pd.DataFrame(
        {
            "frame": frame,
            "cell_id": cell + 1,
            "true_size_um": population.size_um[frame, cell],
            "true_elongation": population.elongation[frame, cell],
            "true_brightness": population.brightness[frame, cell],
            "true_texture": population.texture[frame, cell],
            "true_speed_um_per_min": population.speed[frame, cell],
            "true_state": population.state[frame, cell],
        }
    )


def render(rng: np.random.Generator, population: Population, size_px: int) -> Iterator[Frame]:
    """Yield the frames as a camera would see them: uneven light, grainy medium, photon noise."""
    shading = _unit(ndimage.zoom(rng.normal(size=(4, 4)), size_px / 4, order=3))[:size_px, :size_px]
    medium = _unit(ndimage.gaussian_filter(rng.normal(size=(size_px, size_px)), 3.0))
    for t in range(len(population.present)):
        labels = np.zeros((size_px, size_px), np.uint16)
        nearest = np.full((size_px, size_px), np.inf)
        phase = 20000.0 + 600 * shading + 250 * medium
        retardance = 1500.0 + 60 * shading + 40 * medium
        for cell in np.flatnonzero(population.present[t]):
            window, radius, grain = _outline(population, t, cell, size_px)
            inside = np.clip(1 - radius**2, 0, None)
            dark_ring = np.exp(-(((radius - 1.15) / 0.12) ** 2))
            nucleus = np.exp(-((radius / 0.35) ** 2))
            bright = population.brightness[t, cell]
            phase[window] += 11000 * bright * (inside**0.7 + 0.25 * nucleus) - 1800 * dark_ring
            granular = 1 + 1.1 * population.texture[t, cell] * grain
            retardance[window] += 3500 * inside**0.5 * np.clip(granular, 0, None)
            own = (radius < 1) & (radius < nearest[window])
            labels[window][own] = cell + 1
            nearest[window][own] = radius[own]
        image = np.stack([phase, retardance])
        image += rng.normal(size=image.shape) * np.sqrt(np.maximum(image, 1.0))
        yield Frame(t, np.clip(np.rint(image), 0, 65535).astype(np.uint16), labels)


def _outline(population: Population, t: int, cell: int, size_px: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Return a window of the frame, the distance from the centre in units of the outline's, and the granules there."""
    y, x, reach = population.y_px[t, cell], population.x_px[t, cell], BAND_PX + 14
    rows = slice(max(0, int(y) - reach), min(size_px, int(y) + reach + 1))
    columns = slice(max(0, int(x) - reach), min(size_px, int(x) + reach + 1))
    dy, dx = np.mgrid[rows, columns] - np.array([y, x])[:, None, None]
    cos, sin = np.cos(population.angle[t, cell]), np.sin(population.angle[t, cell])
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    stretch = np.sqrt(population.elongation[t, cell])
    u, v = along / stretch, across * stretch
    theta = np.arctan2(v, u)
    ripple = sum(a * np.cos(k * theta + phi) for k, (a, phi) in zip((2, 3, 5), population.lobes[cell], strict=True))
    radius = np.hypot(u, v) / (population.size_um[t, cell] / 2 / PIXEL_UM * (1 + ripple))
    middle = population.granules.shape[1] / 2
    grain = ndimage.map_coordinates(population.granules[cell], [across + middle, along + middle], order=1, mode="wrap")
    return (rows, columns), radius, grain


def _walk(
    rng: np.random.Generator, heading: np.ndarray, step_px: np.ndarray, reach_px: np.ndarray, size_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move cells along their headings; they bounce off the frame's edge and push each other apart."""
    frames, cells = heading.shape
    low, high = BAND_PX, size_px - BAND_PX
    position = rng.uniform(low, high, (cells, 2))
    path = np.empty((frames, cells, 2))
    turn = np.ones((cells, 2))
    for t in range(frames):
        if t:
            direction = np.stack([np.sin(heading[t]), np.cos(heading[t])], axis=1) * turn
            position = position + step_px[t][:, None] * direction
        for _ in range(200 if t == 0 else 20):
            gap = position[:, None] - position[None]
            distance = np.linalg.norm(gap, axis=2) + np.eye(cells) * 1e9
            # Half the sum of two long axes, a little less, so that stretched neighbours may touch.
            overlap = np.clip(0.45 * (reach_px[t][:, None] + reach_px[t][None]) - distance, 0, None)
            position = position + 0.5 * np.einsum("nm,nmk->nk", overlap / distance, gap)
            outside = (position < low) | (position > high)
            position = np.clip(position, low, high)
        turn = np.where(outside, -turn, turn)
        path[t] = position
    return path[..., 0], path[..., 1]


def _unit(values: np.ndarray) -> np.ndarray:
    """Return values of mean 0 and standard deviation 1."""
    return (values - values.mean()) / values.std()


SPECIMENS = {"demo": simulate}  # by the value of data.root
