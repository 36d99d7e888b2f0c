"""Orientations of cubic crystals: Bunge's matrices, random and small rotations, misorientation and grains.

A matrix g (3, 3) turns directions of the sample into those of the crystal, v_crystal = g v_sample. Axes of the sample: x down
its tilted face, y to the right as the detector's pattern shows it, z along its normal.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components


def bunge_matrix(euler_rad: NDArray) -> NDArray:
    """Return g = Rz(phi2) Rx(Phi) Rz(phi1), (..., 3, 3), of Bunge's Euler angles phi1, Phi, phi2 (..., 3)."""
    phi1, Phi, phi2 = np.moveaxis(np.asarray(euler_rad, float), -1, 0)
    return _turn(phi2, 2) @ _turn(Phi, 0) @ _turn(phi1, 2)


def bunge_angles(g: NDArray) -> NDArray:
    """Return phi1, Phi, phi2 (..., 3) of matrices: phi1 and phi2 in [0, 2 pi), Phi in [0, pi]."""
    tilt = np.arccos(np.clip(g[..., 2, 2], -1, 1))
    phi1, phi2 = np.arctan2(g[..., 2, 0], -g[..., 2, 1]), np.arctan2(g[..., 0, 2], g[..., 1, 2])
    flat = np.abs(np.sin(tilt)) < 1e-7  # only the sum or the difference of the other two is defined
    phi1 = np.where(flat, np.arctan2(g[..., 0, 1], g[..., 0, 0]), phi1)
    phi2 = np.where(flat, 0.0, phi2)
    return np.stack([phi1 % (2 * np.pi), tilt, phi2 % (2 * np.pi)], -1)


def _turn(angle_rad: NDArray, axis: int) -> NDArray:
    """Return passive rotations about a coordinate axis."""
    out = np.zeros((*np.shape(angle_rad), 3, 3))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    out[..., axis, axis] = 1
    out[..., first, first] = out[..., second, second] = np.cos(angle_rad)
    out[..., first, second], out[..., second, first] = np.sin(angle_rad), -np.sin(angle_rad)
    return out


def random_rotations(rng: np.random.Generator, count: int) -> NDArray:
    """Return rotations (count, 3, 3), evenly distributed: unit quaternions in random directions."""
    w, x, y, z = (quaternion := rng.normal(size=(4, count))) / np.linalg.norm(quaternion, axis=0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.moveaxis(np.array(rows), -1, 0)


def small_rotations(vector_rad: NDArray) -> NDArray:
    """Return rotations (..., 3, 3) about vectors (..., 3) by their lengths (Rodrigues' formula)."""
    x, y, z = np.moveaxis(vector_rad, -1, 0)
    nothing = np.zeros_like(x)
    cross = np.stack([nothing, -z, y, z, nothing, -x, -y, x, nothing], -1).reshape(*x.shape, 3, 3)
    angle = np.linalg.norm(vector_rad, axis=-1)[..., None, None]
    half = np.sinc(angle / (2 * np.pi))  # sin(angle / 2) / (angle / 2)
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * half**2 * cross @ cross


def cubic_rotations() -> NDArray:
    """Return the 24 rotations (24, 3, 3) that leave a cube as it is."""
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
        if np.linalg.det(matrix) > 0:
            found.append(matrix)
    return np.array(found)


def misorientation_rad(first: NDArray, second: NDArray) -> NDArray:
    """Return the smallest angle (...) between orientations (..., 3, 3) of cubic crystals, all symmetric ones considered."""
    between = first @ np.swapaxes(second, -1, -2)
    trace = np.einsum("sij,...ji->...s", cubic_rotations(), between).max(-1)
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


def grains(g: NDArray, threshold_rad: float) -> NDArray:
    """Return the number (rows, cols) of each point's grain, from 0: points join neighbours that differ by less than a threshold.

    Parameters
    ----------
    g
        Orientations (rows, cols, 3, 3) of one cubic phase.
    """
    number = np.arange(g.shape[0] * g.shape[1]).reshape(g.shape[:2])
    pairs = []
    for low, high in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        near = misorientation_rad(g[low], g[high]) < threshold_rad
        pairs.append(np.stack([number[low][near], number[high][near]]))
    rows, cols = np.concatenate(pairs, 1)
    graph = sparse.coo_array((np.ones(len(rows), bool), (rows, cols)), (number.size, number.size))
    return connected_components(graph, directed=False)[1].reshape(number.shape)
