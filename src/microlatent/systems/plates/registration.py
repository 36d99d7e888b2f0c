"""How far two images of the same place lie apart, to a fraction of a pixel.

Images of one modality are compared as they are (``shift_between``). A label-free image and a stain look different. So the stain
is first predicted from local features of the label-free image, all of them the same in every direction. These cannot move
anything: what they predict lies where the label-free image has it, however the stain is shifted. The stain is moved back by what
was found, and predicted again. Several stains are worth more than one: nuclei alone lie off the middle of their cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

SCALES_PX = (1, 2, 4, 8)
SLOW_PX = 20  # what varies more slowly is background
LARGEST_PX = 768  # side of the middle that is looked at
ROUNDS = 3


def shift_between(fixed: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """Return by how many rows and columns ``moved`` (Y, X) lies from ``fixed``; (0, 0) where one is constant."""
    return _peak(_correlation(_scaled(fixed), _scaled(moved)))


def shift_of_stains(fields: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]]) -> tuple[float, float]:
    """Return by how many rows and columns stains lie from the label-free image.

    Parameters
    ----------
    fields
        Planes (Y, X) of the label-free channel and of every stain, of one field or several.
    """
    sides = [min(LARGEST_PX, *(field[0].shape[axis] for field in fields)) for axis in (0, 1)]
    sources = [_scaled(_middle(source, sides)) for source, _ in fields]
    stains = [[_scaled(_middle(stain, sides)) for stain in some] for _, some in fields]
    features = [_features(source) for source in sources]
    inner = (slice(16, -16, 3), slice(16, -16, 3))
    a = np.concatenate([one[inner].reshape(-1, one.shape[-1]) for one in features])
    found = (0.0, 0.0)
    for _ in range(ROUNDS):
        total = np.zeros(sides)
        for c in range(len(stains[0])):
            back = [ndimage.shift(some[c], np.negative(found), order=1, mode="nearest") for some in stains]
            weights = np.linalg.lstsq(a, np.concatenate([one[inner].ravel() for one in back]), rcond=None)[0]
            total += sum(_correlation(one @ weights, some[c]) for one, some in zip(features, stains, strict=True))
        found = _peak(total)
    return found


def _middle(plane: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    first = [(size - side) // 2 for size, side in zip(plane.shape, sides, strict=True)]
    return plane[first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]]


def _scaled(plane: np.ndarray) -> np.ndarray:
    """Return a plane cut at its extremes and scaled; pixels that are not known have the median."""
    plane = np.asarray(plane, np.float64)
    known = plane[np.isfinite(plane)]
    low, middle, high = np.percentile(known, [1, 50, 99]) if known.size else np.zeros(3)
    plane = np.where(np.isfinite(plane), plane, middle)
    return (np.clip(plane, low, high) - middle) / (high - low) if high > low else np.zeros_like(plane)


def _features(plane: np.ndarray) -> np.ndarray:
    """Return local features (Y, X, F), each the same whichever way the image is turned."""
    found = [np.ones_like(plane), plane]
    for sigma in SCALES_PX:
        smooth = ndimage.gaussian_filter(plane, sigma)
        found += [smooth, ndimage.gaussian_gradient_magnitude(plane, sigma), ndimage.gaussian_laplace(plane, sigma) * sigma**2]
        found.append(np.sqrt(np.maximum(ndimage.gaussian_filter(plane**2, sigma) - smooth**2, 0)))
    return np.stack(found, -1)


def _correlation(fixed: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the normalised cross-correlation over shifts, of images without background that fade out towards the edges.

    The spectrum is not whitened (phase correlation): of two modalities, fine detail is what they have least in common.
    """
    window, spectra = np.multiply.outer(*(np.hanning(size) for size in fixed.shape)), []
    for image in (fixed, moved):
        image = ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, SLOW_PX)
        image = (image - image.mean()) * window
        spectra.append(fft.rfft2(image / max(float(np.linalg.norm(image)), 1e-12)))
    return fft.irfft2(spectra[1] * np.conj(spectra[0]), s=fixed.shape)


def _peak(correlation: np.ndarray) -> tuple[float, float]:
    """Return the shift of the highest point, between pixels by the parabola through it and its neighbours."""
    if not np.ptp(correlation) > 1e-9:
        return 0.0, 0.0
    at = np.unravel_index(correlation.argmax(), correlation.shape)
    found = []
    for axis, size in enumerate(correlation.shape):
        line = np.moveaxis(correlation, axis, 0)[:, at[1 - axis]]
        below, here, above = (line[(at[axis] + k) % size] for k in (-1, 0, 1))
        curve = below - 2 * here + above
        place = at[axis] + (0.5 * (below - above) / curve if curve else 0.0)
        found.append(float(place if place <= size / 2 else place - size))
    return found[0], found[1]
