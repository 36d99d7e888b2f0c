"""How far two images of the same place lie apart, to a fraction of a pixel.

Images of one modality are compared as they are (``shift_between``). A label-free image and a stain look different. So the stain is
first predicted from local features of the label-free image, all of them the same in every direction. These cannot move anything:
what they predict lies where the label-free image has it, however the stain is shifted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

SCALES_PX = (1, 2, 4, 8)
LARGEST_PX = 768  # side of the middle that is looked at


def shift_between(fixed: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """Return by how many rows and columns ``moved`` (Y, X) lies from ``fixed``; (0, 0) where one is constant."""
    return _peak(_correlation(fixed, moved))


def shift_of_modalities(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Return by how many rows and columns the stain lies from the label-free image, over pairs (label-free, stain) of planes."""
    pairs = [(_middle(source), _middle(stain)) for source, stain in pairs]
    features = [_features(source) for source, _ in pairs]
    a = np.concatenate([one[::3, ::3].reshape(-1, one.shape[-1]) for one in features])
    b = np.concatenate([stain[::3, ::3].ravel() for _, stain in pairs])
    weights = np.linalg.lstsq(a, b, rcond=None)[0]
    total = None
    for one, (_, stain) in zip(features, pairs, strict=True):
        found = _correlation(one @ weights, stain)
        if total is None or found.shape == total.shape:
            total = found if total is None else total + found
    assert total is not None
    return _peak(total)


def _middle(plane: np.ndarray) -> np.ndarray:
    plane = np.nan_to_num(np.asarray(plane, np.float64), nan=float(np.nanmean(plane)) if np.isfinite(plane).any() else 0.0)
    first = [max(0, (size - LARGEST_PX) // 2) for size in plane.shape]
    plane = plane[first[0] : first[0] + LARGEST_PX, first[1] : first[1] + LARGEST_PX]
    low, middle, high = np.percentile(plane, [1, 50, 99])
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
    """Return the cross-correlation over shifts, both images without their slow parts and fading out towards the edges."""
    window = np.multiply.outer(*(np.hanning(size) for size in fixed.shape))
    spectra = []
    for image in (fixed, moved):
        image = image - ndimage.gaussian_filter(image, 20)
        spectra.append(fft.rfft2((image - image.mean()) * window))
    product = spectra[1] * np.conj(spectra[0])
    return fft.irfft2(product / np.sqrt(np.abs(product) + 1e-12 * np.abs(product).max() + 1e-30), s=fixed.shape)


def _peak(correlation: np.ndarray) -> tuple[float, float]:
    """Return the shift of the highest point, between pixels by the parabola through it and its neighbours."""
    if not np.ptp(correlation) > 0:
        return 0.0, 0.0
    at = np.unravel_index(correlation.argmax(), correlation.shape)
    found = []
    for axis, size in enumerate(correlation.shape):
        neighbours = [correlation[tuple((p + (k if a == axis else 0)) % s for a, (p, s) in enumerate(zip(at, correlation.shape, strict=True)))] for k in (-1, 0, 1)]
        below, here, above = neighbours
        curve = below - 2 * here + above
        place = at[axis] + (0.5 * (below - above) / curve if curve else 0.0)
        found.append(float(place if place <= size / 2 else place - size))
    return found[0], found[1]
