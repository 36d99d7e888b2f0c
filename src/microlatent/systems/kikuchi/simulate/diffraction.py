"""Kikuchi patterns by calculation: master patterns on the sphere of directions, seen by a detector.

A master pattern holds the intensity in every direction of the crystal, as two square Lambert projections (2, N, N) float32: the
half of the sphere with z >= 0, and the other one. The square Lambert projection keeps areas (Rosca 2010, New uniform grids on
the sphere; Callahan & De Graef 2013, doi:10.1017/S1431927613001840, eq. 8-10, whose convention of rows and columns this is).

The masters of ``kinematic_master`` add up one band per lattice plane. Bands, zone axes and widths are right, and intensities
roughly (they correlate with a dynamical master by 0.6); they are made to teach and to test, not to index real patterns with.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

EDGE = np.sqrt(np.pi / 2)  # half the side of the square that a half sphere is projected to
PLANCK, CHARGE, MASS, LIGHT = 6.62607015e-34, 1.602176634e-19, 9.1093837015e-31, 2.99792458e8  # SI units
BAND_WIDTH, BAND_ASYMMETRY = 0.3, 0.3  # of the profile across a band, see ``band_profile``


@dataclass(frozen=True)
class Crystal:
    """A cubic phase."""

    name: str
    lattice_angstrom: float
    space_group: int
    amplitudes: dict[tuple[int, int, int], float]  # structure factor of families of planes, relative to the strongest
    weight_percent: dict[str, float]  # by element
    backscatter: float  # mean intensity, relative to iron


# Amplitudes at 20 kV, computed with electron scattering factors from X-ray tables (Mott and Bethe).
FE = Crystal(
    "Fe",
    2.8665,
    229,
    {(1, 1, 0): 1.0, (2, 0, 0): 0.709, (2, 1, 1): 0.568, (2, 2, 0): 0.477, (3, 1, 0): 0.411, (2, 2, 2): 0.360, (3, 2, 1): 0.320},
    {"Fe": 100.0, "O": 0.0},
    1.0,
)
FEO = Crystal(
    "FeO",
    4.307,
    225,
    {(2, 0, 0): 1.0, (2, 2, 0): 0.721, (2, 2, 2): 0.575, (4, 0, 0): 0.482, (1, 1, 1): 0.481}
    | {(4, 2, 0): 0.415, (4, 2, 2): 0.363, (4, 4, 0): 0.290, (3, 1, 1): 0.250},
    {"Fe": 77.73, "O": 22.27},
    0.85,
)
FE3O4 = Crystal(
    "Fe3O4",
    8.396,
    227,
    {(4, 4, 0): 1.0, (4, 0, 0): 0.795, (8, 0, 0): 0.658, (3, 1, 1): 0.595, (4, 4, 4): 0.448, (5, 1, 1): 0.440}
    | {(2, 2, 0): 0.402, (3, 3, 3): 0.347, (8, 4, 0): 0.311, (5, 3, 3): 0.308, (5, 5, 3): 0.285},
    {"Fe": 72.36, "O": 27.64},
    0.80,
)


# ---------------------------------------------------------------------------------------------------- square Lambert


def to_square(v: NDArray) -> tuple[NDArray, NDArray]:
    """Return the place X, Y (...) of unit vectors (..., 3) in the square of their half of the sphere, in [-EDGE, EDGE]."""
    x, y, z = np.moveaxis(v, -1, 0)
    reach = np.sqrt(np.maximum(2 * (1 - np.abs(z)), 0)).astype(v.dtype)
    wide = np.abs(y) <= np.abs(x)
    long, short = np.where(wide, x, y), np.where(wide, y, x)
    angle = np.arctan(np.divide(short, long, out=np.zeros_like(long), where=long != 0))
    reach = np.copysign(reach, long)
    long, short = reach * v.dtype.type(np.sqrt(np.pi) / 2), reach * v.dtype.type(2 / np.sqrt(np.pi)) * angle
    return np.where(wide, long, short), np.where(wide, short, long)


def from_square(x: NDArray, y: NDArray) -> NDArray:
    """Return the unit vectors (..., 3), z >= 0, of places in the square."""
    wide = np.abs(y) <= np.abs(x)
    long, short = np.where(wide, x, y), np.where(wide, y, x)
    angle = np.pi / 4 * np.divide(short, long, out=np.zeros_like(long), where=long != 0)
    reach = 2 * long / np.pi * np.sqrt(np.maximum(np.pi - long**2, 0))
    along, across = reach * np.cos(angle), reach * np.sin(angle)
    return np.stack([np.where(wide, along, across), np.where(wide, across, along), 1 - 2 * long**2 / np.pi], -1)


def square_grid(side: int) -> NDArray:
    """Return the unit vectors (side, side, 3) of the pixels of a master pattern's first half; rows are Y."""
    axis = np.linspace(-EDGE, EDGE, side)
    return from_square(*np.meshgrid(axis, axis))


def look_up(master: NDArray, v: NDArray) -> NDArray:
    """Return the intensity (...) of a master pattern (2, N, N) in directions (..., 3) of the crystal, bilinear."""
    side = master.shape[-1]
    column, row = ((place / EDGE + 1) * (side - 1) / 2 for place in to_square(v))
    top, left = (np.clip(place.astype(np.int32), 0, side - 2) for place in (row, column))
    down, right = (row - top).astype(master.dtype), (column - left).astype(master.dtype)
    flat, at = master.ravel(), (v[..., 2] < 0) * (side * side) + top * side + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + side] * (1 - right) + flat[at + side + 1] * right
    return upper * (1 - down) + lower * down


# --------------------------------------------------------------------------------------------------------- detector


def detector_rays(
    shape: tuple[int, int], centre: tuple[float, float, float], sample_tilt_deg: float = 70.0, detector_tilt_deg: float = 0.0
) -> NDArray:
    """Return the unit vectors (h, w, 3) float32 from the sample to the detector's pixels, in axes of the sample.

    Parameters
    ----------
    centre
        Pattern centre in the convention of Bruker: x from the left in widths, y from the top and z, the distance, in heights.
    """
    h, w = shape
    x = ((np.arange(w) + 0.5) / w - centre[0]) * (w / h) / centre[2]
    y = (centre[1] - (np.arange(h) + 0.5) / h) / centre[2]
    direction = np.stack([*np.meshgrid(x, y), np.ones(shape)], -1)
    tilt = np.radians(sample_tilt_deg - detector_tilt_deg)
    axes = np.array([[0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)], [np.cos(tilt), 0, np.sin(tilt)]])
    direction = direction @ axes
    return (direction / np.linalg.norm(direction, axis=-1, keepdims=True)).astype(np.float32)


def project(master: NDArray, g: NDArray, rays: NDArray) -> NDArray:
    """Return the patterns (n, h, w) float32 of orientations g (n, 3, 3) on a detector of rays (h, w, 3)."""
    turned = rays.reshape(-1, 3) @ np.swapaxes(g, -1, -2).astype(np.float32)
    return look_up(master, turned).reshape(len(g), *rays.shape[:2])


# ------------------------------------------------------------------------------------------------------- kinematics


def wavelength_angstrom(beam_kv: float) -> float:
    """Return the relativistic wavelength of electrons: 0.0859 Angstrom at 20 kV."""
    energy = CHARGE * 1e3 * beam_kv
    return 1e10 * PLANCK / np.sqrt(2 * MASS * energy * (1 + energy / (2 * MASS * LIGHT**2)))


def bragg_rad(lattice_angstrom: float, hkl: tuple[int, int, int], beam_kv: float) -> float:
    """Return the Bragg angle of planes of a cubic lattice."""
    return float(np.arcsin(wavelength_angstrom(beam_kv) * np.linalg.norm(hkl) / (2 * lattice_angstrom)))


def family(hkl: tuple[int, int, int]) -> NDArray:
    """Return the planes (n, 3) of a cubic crystal that are equivalent to one; of two opposite ones the first is left out."""
    every = {tuple(np.array(order) * signs) for order in permutations(hkl) for signs in product((1, -1), repeat=3)}
    return np.array(sorted(plane for plane in every if plane > tuple(-index for index in plane)), float)


def band_profile(s: NDArray, half_width: float) -> NDArray:
    """Return the intensity across a band: bright inside, a little dark just outside, as two beams give it.

    Parameters
    ----------
    s
        Sine of the angle to the plane.
    half_width
        Sine of the Bragg angle, where the band ends.
    """
    y = (np.abs(s) - half_width) / (BAND_WIDTH * half_width)
    return 0.5 * (1 - y / np.sqrt(1 + y * y)) - BAND_ASYMMETRY * y / (1 + y * y)


def kinematic_master(crystal: Crystal, beam_kv: float = 20.0, side: int = 201) -> NDArray:
    """Return a master pattern (2, side, side) float32 of mean 0 and standard deviation 1: a band for every plane."""
    v = square_grid(side).astype(np.float32)
    halves = np.stack([v, v * np.array([1, 1, -1], np.float32)])
    total = np.zeros(halves.shape[:3], np.float32)
    for hkl, amplitude in crystal.amplitudes.items():
        half_width = np.sin(bragg_rad(crystal.lattice_angstrom, hkl, beam_kv))
        for plane in family(hkl):
            total += amplitude * band_profile(halves @ (plane / np.linalg.norm(plane)).astype(np.float32), half_width)
    return standardised(total)


def standardised(master: NDArray) -> NDArray:
    """Return a master pattern of mean 0 and standard deviation 1, float32."""
    master = np.asarray(master, np.float64)
    return ((master - master.mean()) / master.std()).astype(np.float32)
