"""Kikuchi patterns made ready: backgrounds, binning, neighbours, and two numbers that say how good a pattern is.

Shapes: n patterns of h rows and w columns, float32 tensors (n, h, w); map rows of patterns (rows, cols, h, w) with ``present``
(rows, cols), which is false where there is no pattern, or a bad one. Nothing here knows of files.

Every step hides something:

==================  ========================================================================================================
static background   what all patterns share: dust and scintillator, but also the mean pattern of a single crystal
dynamic background  all that varies slowly across the screen: thickness, the mean atomic number, the pattern centre's level
neighbours' mean    noise, but also grain boundaries: there it mixes the patterns of two crystals
binning             noise and the narrowest bands
circular mask       the corners, where the screen is dark
z-score per pattern mean and contrast of every pattern, hence band contrast (chosen by ``data.normalise``, not here)
==================  ========================================================================================================
"""

from __future__ import annotations

from functools import cache
from math import exp

import torch
from torch import Tensor

TRUNCATE = 4.0  # standard deviations at which a blur ends
NEGLIGIBLE = 1e-5
WINDOWS = {  # weights of the 3 x 3 points around a point, itself in the middle
    "circle": ((0.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)),
    "gauss": tuple(tuple(exp(-(dy**2 + dx**2) / 2) for dx in (-1, 0, 1)) for dy in (-1, 0, 1)),
}


def is_bad(x: Tensor) -> Tensor:
    """Return which patterns (n,) hold a value that is not finite, or one value only."""
    flat = x.flatten(1)
    return ~torch.isfinite(flat).all(1) | (flat.amax(1) == flat.amin(1))


def crop(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Return rows [top, bottom) and columns [left, right) of every pattern."""
    return x[..., top:bottom, left:right]


def remove_static(x: Tensor, background: Tensor, how: str) -> Tensor:
    """Take the background (h, w), the same for all, out of every pattern.

    Its mean stays (``subtract`` takes away its deviation from the mean, ``divide`` divides by its ratio to the mean): patterns
    keep their level, and can be divided by their own blur afterwards.
    """
    if how == "subtract":
        return x - (background - background.mean())
    return x / (background / background.mean())


def remove_dynamic(x: Tensor, std_px: float, how: str) -> Tensor:
    """Subtract from every pattern its own Gaussian blur, or divide it by that.

    Raises
    ------
    ValueError
        A blur to divide by is not above 0.
    """
    blurred = blur(x, std_px)
    if how == "subtract":
        return x - blurred
    if bool((blurred <= 0).any()):
        raise ValueError(
            f"A pattern's blur of {std_px:g} px is {float(blurred.min()):.3g} somewhere, so no pattern can be divided by it. "
            "Use task.dynamic_background=subtract."
        )
    return x / blurred


def blur(x: Tensor, std_px: float) -> Tensor:
    """Return every pattern blurred by a Gaussian, mirrored at its edges, as ``scipy.ndimage.gaussian_filter`` does.

    A blur of an eighth of the width reaches across half of the pattern, and has few degrees of freedom: the matrices A and B of
    A x B' are products of tall and flat ones, which takes a tenth of the time in large patterns. What they leave out is smaller
    than ``NEGLIGIBLE`` of any wave in the pattern, less than a thousandth of a grey level.
    """
    (tall, flat), (right_tall, right_flat) = ((one.to(x) for one in blur_factors(side, float(std_px))) for side in x.shape[-2:])
    return tall @ ((flat @ (x @ right_flat.T)) @ right_tall.T)


@cache
def blur_factors(side: int, std_px: float) -> tuple[Tensor, Tensor]:
    """Return matrices (side, rank) and (rank, side) whose product is ``blur_matrix``."""
    u, strength, v = torch.linalg.svd(blur_matrix(side, std_px))
    rank = int((strength > NEGLIGIBLE).sum())
    return u[:, :rank] * strength[:rank], v[:rank]


def blur_matrix(side: int, std_px: float) -> Tensor:
    """Return the matrix (side, side) float64 that blurs a line of pixels, mirrored at its ends (d c b a | a b c d | d c b a)."""
    radius = int(TRUNCATE * std_px + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset.double() / std_px) ** 2)
    weight /= weight.sum()
    source = (torch.arange(side)[:, None] + offset) % (2 * side)
    source = torch.where(source < side, source, 2 * side - 1 - source)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, source, weight.expand(side, -1).contiguous())


def bin_patterns(x: Tensor, k: int) -> Tensor:
    """Return the mean of every k x k pixels; the last rows and columns that fill no block are left out."""
    if k == 1:
        return x
    h, w = (side // k for side in x.shape[-2:])
    return x[..., : h * k, : w * k].unflatten(-1, (w, k)).unflatten(-3, (h, k)).mean((-3, -1))


def circle(h: int, w: int) -> Tensor:
    """Return which pixels (h, w) have their centre inside the largest circle around the middle of a pattern."""
    y, x = torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2
    return y[:, None] ** 2 + x**2 <= (min(h, w) / 2) ** 2


def mask_circle(x: Tensor) -> Tensor:
    """Set the pixels outside the inscribed circle to the mean of those inside, pattern by pattern."""
    inside = circle(*x.shape[-2:]).to(x.device)
    mean = x[..., inside].mean(-1)
    return torch.where(inside, x, mean[..., None, None])


def image_quality(x: Tensor) -> Tensor:
    """Return the image quality (n,) of patterns: near 1 where few, low frequencies make the pattern, 0 for white noise.

    Q = 1 - J / Jmax with J the mean of u^2 + v^2 (frequencies in periods per pattern) weighted by the Fourier amplitudes of
    the pattern less its mean, and Jmax the plain mean. Neither level nor contrast matters, nor is it a vendor's band contrast:
    it falls with noise, and rises with whatever slow variation was left in the pattern. NaN for constant patterns.

    Source
    ------
    N. C. Krieger Lassen 1994, Automated determination of crystal orientations from electron backscattering patterns (thesis).
    """
    h, w = x.shape[-2:]
    kind = {"dtype": x.dtype, "device": x.device}
    u, v = torch.fft.fftfreq(h, 1 / h, **kind), torch.fft.rfftfreq(w, 1 / w, **kind)
    square = u[:, None] ** 2 + v**2
    # The transform of real numbers leaves out the columns -v; those of v count twice, except 0 and, at even w, the last.
    times = torch.full((len(v),), 2.0, **kind)
    times[0] = 1.0
    if w % 2 == 0:
        times[-1] = 1.0
    amplitude = torch.fft.rfft2(x - x.mean((-2, -1), keepdim=True)).abs() * times
    highest = (square * times).sum() / (h * w)
    return 1 - (amplitude * square).sum((-2, -1)) / (amplitude.sum((-2, -1)) * highest)


def average_neighbours(rows: Tensor, how: str, present: Tensor) -> Tensor:
    """Return every pattern of map rows (rows, cols, h, w) averaged with its neighbours in the map.

    The weighted mean is over the neighbours that are there, so map edges and holes do not darken a pattern. Patterns that are
    not present come back as they are. The first and last row lack their neighbours beyond: pass a row more on either side.

    Parameters
    ----------
    how
        circle (the point and its four neighbours, equally) or gauss (3 x 3 points, standard deviation 1 point).
    """
    total, weights = torch.zeros_like(rows), torch.zeros(present.shape, dtype=rows.dtype, device=rows.device)
    clean = torch.where(present[..., None, None], rows, 0.0)
    there = present.to(rows.dtype)
    for dy, line in enumerate(WINDOWS[how], -1):
        for dx, weight in enumerate(line, -1):
            if weight:
                to, source = shifted(dy, dx)
                total[to] += weight * clean[source]
                weights[to] += weight * there[source]
    return torch.where(present[..., None, None], total / weights.clamp_min(1e-12)[..., None, None], rows)


def neighbour_similarity(rows: Tensor, present: Tensor) -> Tensor:
    """Return the mean normalised dot product (rows, cols) of every pattern with its up to four neighbours in the map.

    1 inside a perfect crystal, lower at its boundaries and where noise hides the pattern; NaN where no neighbour is present.
    Patterns are freed of their mean and scaled to norm 1 first. The first and last row lack their neighbours beyond.
    """
    total, number = (torch.zeros(present.shape, dtype=rows.dtype, device=rows.device) for _ in range(2))
    unit = unit_patterns(torch.where(present[..., None, None], rows, 0.0))
    for dy, dx in ((1, 0), (0, 1)):
        low, high = shifted(dy, dx)  # a pair each: the point, and its neighbour below or to the right
        both = present[low] & present[high]
        product = torch.where(both, (unit[low] * unit[high]).sum((-2, -1)), 0.0)
        for place in (low, high):
            total[place] += product
            number[place] += both
    return torch.where(present & (number > 0), total / number, torch.nan)


def unit_patterns(x: Tensor) -> Tensor:
    """Return patterns of mean 0 and norm 1; constant ones become 0."""
    x = x - x.mean((-2, -1), keepdim=True)
    return x / x.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)


def shifted(dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the points of a map that have a neighbour (dy, dx) away, and those neighbours."""

    def cut(step: int) -> slice:
        return slice(max(0, -step), -step if step > 0 else None)

    return (cut(dy), cut(dx)), (cut(-dy), cut(-dx))
