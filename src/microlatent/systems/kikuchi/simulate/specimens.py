"""Simulated EBSD scans with known truth: an oxidised iron, and real nickel grains seen through a real master pattern.

``demo`` is made from nothing: grains of Fe, FeO and Fe3O4 that bend a little inside and overlap at their boundaries; a hidden
quality that sets how strong the bands are, and of which the band contrast is a noisy measure; iron and oxygen as the phases
have them; and aluminium, smooth in space as the others but drawn by itself: a NEGATIVE CONTROL, which no statistic may find
associated with the patterns.

``demo_real`` needs files that are not part of this project: the orientations of a real map of nickel, a dynamical master pattern
and the background of real patterns (Anes et al., doi:10.5281/zenodo.3265037). Bands and noise are as strong as in those.

Patterns are written as the detector gives them, their static background beside them: nothing is removed yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from microlatent.data.specimen import write_once
from microlatent.files import write_csv
from microlatent.systems.kikuchi.ebsd.write import Phase, write_h5oina
from microlatent.systems.kikuchi.simulate import diffraction, orientations

CRYSTALS = (diffraction.FE, diffraction.FEO, diffraction.FE3O4)
PHASE_SHARES = (0.3, 0.4, 0.3)
CENTRE = (0.42, 0.22, 0.50)  # pattern centre, convention of Bruker
STEP_UM = 0.1
BEND_RAD = 0.002  # by which orientations turn from point to point inside a grain
OVERLAP_POINTS = 0.6  # depth over which two grains' patterns mix at their boundary
CONTRAST = 0.10  # of bands of quality 1: standard deviation over the sphere, relative to the background
PEAK_COUNTS, FULL_SCALE = 1000.0, 1400.0  # electrons at the brightest place of the background, and at grey level 255
ELEMENT_COUNTS = 20.0  # X-rays per wt%
ALUMINIUM = (2.0, 0.7)  # mean and standard deviation, wt%
INDEXING_RAD = 0.005  # error of the orientations that the file gives

DATA = "MICROLATENT_DATA"
REAL_FILES = {
    "orientations": "kikuchi/vendor_containers_gpl/ni_large_75x55_orientations_orix.h5",
    "master": "kikuchi/ccby/ni_master_emsoft_20kv_401.h5",
    "patterns": "kikuchi/ccby/ni_small_kikuchipy.h5",
}
GRAIN_RAD = np.radians(5.0)  # neighbours that differ by less are one grain
# Measured on the nine real patterns: after both backgrounds they vary by 2.7 %, of which 1.6 % is white noise.
REAL_CONTRAST, REAL_COUNTS = 0.024, 28.0  # relative to the background; electrons per grey level


class Maps(NamedTuple):
    """A specimen before any pattern of it is taken; maps are (rows, cols)."""

    grain: NDArray  # number of the grain at each point, from 0
    other: NDArray  # number of the grain beyond the nearest boundary
    overlap: NDArray  # share of that other grain in the pattern, at most 0.5
    phase: NDArray  # (grains,) place in CRYSTALS
    orientation: NDArray  # (2, rows, cols, 3, 3) of grain and of other
    quality: NDArray  # amplitude of the bands, 0 to 1
    bandcontrast: NDArray  # uint8
    elements: dict[str, NDArray]  # wt%


def simulate(
    folder: str | Path, seed: int = 0, map_shape: tuple[int, int] = (48, 64), pattern_px: int = 60, num_grains: int = 24
) -> Path:
    """Write ``demo`` and return its folder; an existing one of the same arguments is kept.

    ``demo.h5oina`` with patterns, band contrast, phases, orientations and elements; ``demo.truth.csv``: x, y, true_grain,
    true_phase, true_quality, true_overlap; ``specimen.json``, the arguments.

    Raises
    ------
    ValueError
        If the folder exists and holds anything else.
    """
    wanted = {"seed": seed, "map_shape": list(map_shape), "pattern_px": pattern_px, "num_grains": num_grains}
    return write_once(folder, wanted, lambda partial: _write(partial, seed, map_shape, pattern_px, num_grains))


def _write(folder: Path, seed: int, map_shape: tuple[int, int], pattern_px: int, num_grains: int) -> None:
    maps = draw_maps(seed, map_shape, num_grains)
    error = orientations.small_rotations(INDEXING_RAD * np.random.default_rng([seed, 6]).normal(size=(*map_shape, 3)))
    background = background_counts(pattern_px)
    level = np.mean([CRYSTALS[phase].backscatter for phase in maps.phase[maps.grain].ravel()])
    write_h5oina(
        folder / "demo.h5oina",
        render(maps, background, seed),
        map_shape,
        step_um=(STEP_UM, STEP_UM),
        columns={"bandcontrast": maps.bandcontrast, "phase": maps.phase[maps.grain] + 1}
        | euler_columns(error @ maps.orientation[0]),
        elements=maps.elements,
        phases={
            number: Phase(name=one.name, lattice_angstrom=(one.lattice_angstrom,) * 3, space_group=one.space_group)
            for number, one in enumerate(CRYSTALS, 1)
        },
        static_background=grey_levels(level * background * 255 / FULL_SCALE),
        pattern_centre=CENTRE,
    )
    truth = {
        "true_grain": maps.grain,
        "true_phase": np.array([one.name for one in CRYSTALS])[maps.phase[maps.grain]],
        "true_quality": maps.quality.round(4),
        "true_overlap": maps.overlap.round(4),
    }
    write_csv(truth_table(truth, map_shape), folder / "demo.truth.csv")


def draw_maps(seed: int, map_shape: tuple[int, int], num_grains: int) -> Maps:
    """Draw the specimen. Grains, quality and aluminium come from random numbers of their own: none depends on another."""
    rng = np.random.default_rng([seed, 0])
    seeds = scattered(rng, num_grains, map_shape)
    points = np.moveaxis(np.indices(map_shape), 0, -1) + 0.5
    distance = np.linalg.norm(points[..., None, :] - seeds, axis=-1)
    nearest = np.argsort(distance, -1, kind="stable")[..., :2]
    near, far = np.moveaxis(np.take_along_axis(distance, nearest, -1), -1, 0)
    overlap = 0.5 * np.exp(-(far - near) / 2 / OVERLAP_POINTS)
    phase = rng.choice(len(CRYSTALS), num_grains, p=PHASE_SHARES)
    middle = orientations.random_rotations(rng, num_grains)
    bend = BEND_RAD * rng.normal(size=(num_grains, 2, 3))  # rotation per step along rows and along columns
    grains = np.moveaxis(nearest, -1, 0)
    turn = np.einsum("kyxa,kyxab->kyxb", points - seeds[grains], bend[grains])
    orientation = orientations.small_rotations(turn) @ middle[grains]

    hidden = smooth(np.random.default_rng([seed, 1]), map_shape, 4.0)
    hidden = (hidden - hidden.min()) / np.ptp(hidden)
    quality = (0.35 + 0.65 * hidden) * (1 - 1.2 * overlap)
    contrast = band_contrast(np.random.default_rng([seed, 2]), quality)

    amounts = np.array([[one.weight_percent[name] for name in ("Fe", "O")] for one in CRYSTALS])[phase]
    first, second = amounts[grains]
    mixed = (1 - overlap[..., None]) * first + overlap[..., None] * second
    counting = np.random.default_rng([seed, 3])
    elements = {name: counting.poisson(mixed[..., at] * ELEMENT_COUNTS) / ELEMENT_COUNTS for at, name in enumerate(("Fe", "O"))}
    apart = np.random.default_rng([seed, 4])
    aluminium = np.clip(ALUMINIUM[0] + ALUMINIUM[1] * smooth(apart, map_shape, 6.0), 0, None)
    elements["Al"] = apart.poisson(aluminium * ELEMENT_COUNTS) / ELEMENT_COUNTS
    return Maps(*grains, overlap, phase, orientation, quality, contrast, elements)


def scattered(rng: np.random.Generator, count: int, map_shape: tuple[int, int]) -> NDArray:
    """Return places (count, 2) in a map, each the best of five draws: the one furthest from those before."""
    places = rng.uniform(0, map_shape, (1, 2))
    while len(places) < count:
        draws = rng.uniform(0, map_shape, (5, 2))
        gap = np.linalg.norm(draws[:, None] - places, axis=-1).min(1)
        places = np.concatenate([places, draws[[gap.argmax()]]])
    return places


def smooth(rng: np.random.Generator, map_shape: tuple[int, int], reach: float) -> NDArray:
    """Return a smooth random map of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.normal(size=map_shape), reach)
    return (field - field.mean()) / field.std()


def band_contrast(rng: np.random.Generator, quality: NDArray) -> NDArray:
    """Return a band contrast map uint8: the quality from 0 to 255, less some room for the noise of 6 levels."""
    contrast = 20 + 215 * (quality - quality.min()) / np.ptp(quality) + rng.normal(0, 6, quality.shape)
    return np.clip(np.rint(contrast), 0, 255).astype(np.uint8)


def background_counts(pattern_px: int) -> NDArray:
    """Return the mean counts (h, w) of the screen: a bright cloud above its middle."""
    y, x = np.indices((pattern_px, pattern_px)) / pattern_px
    return PEAK_COUNTS * (0.2 + 0.8 * np.exp(-(((x - 0.45) / 0.30) ** 2 + ((y - 0.30) / 0.33) ** 2) / 2))


def render(maps: Maps, background: NDArray, seed: int) -> Iterator[NDArray]:
    """Yield the patterns (cols, h, w) uint8 of one map row after another."""
    masters = [diffraction.kinematic_master(one) for one in CRYSTALS]
    scatter = np.array([one.backscatter for one in CRYSTALS])[maps.phase]
    rays = diffraction.detector_rays(background.shape, CENTRE)
    for row in range(len(maps.grain)):
        share = maps.overlap[row][:, None, None]
        bands = bands_of(masters, maps.phase[maps.grain[row]], maps.orientation[0, row], rays)
        seen = maps.overlap[row] > 0.02
        other = bands_of(masters, maps.phase[maps.other[row]][seen], maps.orientation[1, row][seen], rays)
        bands[seen] = (1 - share[seen]) * bands[seen] + share[seen] * other
        level = (1 - share) * scatter[maps.grain[row]][:, None, None] + share * scatter[maps.other[row]][:, None, None]
        mean = level * background * (1 + CONTRAST * maps.quality[row][:, None, None] * bands)
        counts = np.random.default_rng([seed, 5, row]).poisson(np.maximum(mean, 0))
        yield grey_levels(counts * (255 / FULL_SCALE))


def bands_of(masters: list[NDArray], phase: NDArray, g: NDArray, rays: NDArray) -> NDArray:
    """Return the bands (n, h, w) float32 of points of some phases (n,) and orientations (n, 3, 3)."""
    out = np.empty((len(phase), *rays.shape[:2]), np.float32)
    for number in np.unique(phase):
        out[phase == number] = diffraction.project(masters[number], g[phase == number], rays)
    return out


def grey_levels(values: NDArray) -> NDArray:
    """Return values rounded to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def euler_columns(g: NDArray) -> dict[str, NDArray]:
    """Return the Euler angles of orientations (..., 3, 3) under the names of our columns."""
    return dict(zip(("phi1_rad", "Phi_rad", "phi2_rad"), np.moveaxis(orientations.bunge_angles(g), -1, 0), strict=True))


def truth_table(columns: dict[str, NDArray], map_shape: tuple[int, int]) -> pd.DataFrame:
    """Return x, y and maps (rows, cols) as columns of points."""
    y, x = np.indices(map_shape)
    return pd.DataFrame({name: values.ravel() for name, values in {"x": x, "y": y, **columns}.items()})


# ---------------------------------------------------------------------------------------------------- real nickel


def simulate_real(folder: str | Path, seed: int = 0) -> Path:
    """Write ``demo_real`` and return its folder; an existing one of the same seed is kept.

    ``nickel.h5oina``, and ``nickel.truth.csv``: x, y, true_grain (neighbours that differ by less than 5 degrees are one grain)
    and true_quality, the amplitude of the bands: the score with which each real pattern was indexed, 1 as in the nine patterns
    whose background is taken.

    Raises
    ------
    FileNotFoundError
        A file that it is made from is absent.
    ValueError
        If the folder exists and holds anything else.
    """
    files = real_files()
    return write_once(folder, {"seed": seed, "specimen": "demo_real"}, lambda partial: _write_real(partial, files, seed))


def real_files() -> dict[str, Path]:
    """Return the files of ``REAL_FILES`` below the folder that the environment names."""
    root = os.environ.get(DATA)
    files = {name: Path(root or ".") / path for name, path in REAL_FILES.items()}
    missing = [path for name, path in REAL_FILES.items() if root is None or not files[name].is_file()]
    if missing:
        raise FileNotFoundError(
            f"data.root=demo_real is made from real measurements, which are not part of this project: {', '.join(missing)} "
            + (f"{'is' if len(missing) == 1 else 'are'} absent from {root}. " if root else "are needed. ")
            + f"Set the environment variable {DATA} to the folder that holds them, or take data.root=demo."
        )
    return files


def _write_real(folder: Path, files: dict[str, Path], seed: int) -> None:
    euler, score = real_orientations(files["orientations"])
    background, centre, reference = real_detector(files["patterns"])
    master, quality, g = real_master(files["master"]), score / reference, orientations.bunge_matrix(euler)
    rays, map_shape = diffraction.detector_rays(background.shape, centre), score.shape

    def rows() -> Iterator[NDArray]:
        for row in range(map_shape[0]):
            bands = diffraction.project(master, g[row], rays)
            mean = background * (1 + REAL_CONTRAST * quality[row][:, None, None] * bands)
            yield grey_levels(np.random.default_rng([seed, 5, row]).poisson(mean * REAL_COUNTS) / REAL_COUNTS)

    write_h5oina(
        folder / "nickel.h5oina",
        rows(),
        map_shape,
        step_um=(1.5, 1.5),
        columns={"bandcontrast": band_contrast(np.random.default_rng([seed, 2]), quality), "phase": np.ones(map_shape, np.uint8)}
        | euler_columns(g),
        phases={1: Phase(name="Ni", lattice_angstrom=(3.5236,) * 3, space_group=225)},
        static_background=grey_levels(background),
        pattern_centre=centre,
    )
    truth = {"true_grain": orientations.grains(g, GRAIN_RAD), "true_quality": quality.round(4)}
    write_csv(truth_table(truth, map_shape), folder / "nickel.truth.csv")


def real_orientations(path: Path) -> tuple[NDArray, NDArray]:
    """Return Euler angles (rows, cols, 3) in rad and indexing scores (rows, cols) of a crystal map in orix's format.

    Only how many different x and y there are is taken from its coordinates: in this file each counts for itself, and both
    together give no grid. The points are row by row.
    """
    with h5py.File(path) as file:
        data = {name: file[f"crystal_map/data/{name}"][()].ravel() for name in ("phi1", "Phi", "phi2", "scores", "x", "y")}
    shape = len(np.unique(data["y"])), len(np.unique(data["x"]))
    euler = np.stack([data[name] for name in ("phi1", "Phi", "phi2")], -1)
    return euler.reshape(*shape, 3), data["scores"].reshape(shape).astype(float)


def real_detector(path: Path) -> tuple[NDArray, tuple[float, float, float], float]:
    """Return static background (h, w), mean pattern centre and mean indexing score of a scan in kikuchipy's format."""
    with h5py.File(path) as file:
        scan = file["Scan 1/EBSD"]
        centre = tuple(float(scan[f"Header/{name}"][()].mean()) for name in ("pcx", "pcy", "pcz"))
        score = float(scan["CrystalMap/crystal_map/data/scores"][()].mean())
        return scan["Header/static_background"][()].astype(float), centre, score


def real_master(path: Path) -> NDArray:
    """Return the master pattern (2, N, N) of an EMsoft file at its highest energy, all atomic sites together."""
    with h5py.File(path) as file:
        halves = [file[f"EMData/EBSDmaster/{name}"][:, -1].astype(float).sum(0) for name in ("mLPNH", "mLPSH")]
    return diffraction.standardised(np.stack(halves))


SPECIMENS: dict[str, Callable[[Path], Path]] = {"demo": simulate, "demo_real": simulate_real}
