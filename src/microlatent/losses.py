"""What an objective returns, and loss terms that several models share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, finest first: Wang et al. 2003, section 3.2
WINDOW, WINDOW_SIGMA = 11, 1.5  # px, of SSIM


class Losses(NamedTuple):
    """Named loss terms of one batch."""

    terms: dict[str, Tensor]  # scalars, means per patch; "total" is the one to minimise
    tallies: dict[str, Tensor]  # counts that add up over the batches of an epoch


def gaussian_nll(x: Tensor, mean: Tensor, std: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of each patch under independent normal pixels, constants included; (B,) nats.

    Parameters
    ----------
    std
        Standard deviation: of every pixel (B, C, Y, X), one per patch (B, 1, 1, 1), or None for 1.
    """
    num_pixels, dims = x[0].numel(), tuple(range(1, x.ndim))
    errors = x - mean
    if std is None:
        return 0.5 * (errors.square().sum(dims) + num_pixels * LOG_2PI)
    log_std = std.log().flatten(1)  # one value per patch stands for all of its pixels
    return 0.5 * ((errors / std).square().sum(dims) + num_pixels * LOG_2PI) + log_std.sum(1) * (num_pixels // log_std.shape[1])


def bernoulli_nll(x: Tensor, probability: Tensor, margin: float = 1e-6) -> Tensor:
    """Negative log-likelihood of each patch of zeros and ones; (B,) nats.

    ``margin`` is added to the probabilities inside of the logarithms, so that a certain and wrong pixel costs 14 nats and not
    infinitely many.
    """
    log_likelihood = x * (probability + margin).log() + (1 - x) * (1 - probability + margin).log()
    return -log_likelihood.flatten(1).sum(1)


def bernoulli_nll_of_logits(x: Tensor, logits: Tensor) -> Tensor:
    """Negative log-likelihood of each patch of zeros and ones, from log-odds: exact however certain; (B,) nats."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def kl_to_standard_normal(mu_BD: Tensor, std_BD: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mu, std^2) from N(0, 1) per patch and dimension; (B, D) nats."""
    variance = std_BD.square()
    return 0.5 * (mu_BD.square() + variance - 1 - variance.log())


def log_normal(x_BD: Tensor, mu_BD: Tensor | float = 0.0, std_BD: Tensor | float = 1.0) -> Tensor:
    """Log-density of independent normal numbers, summed over dimensions; (B,) nats."""
    std_BD = torch.as_tensor(std_BD, dtype=x_BD.dtype, device=x_BD.device)
    return -(0.5 * (((x_BD - mu_BD) / std_BD).square() + LOG_2PI) + std_BD.log()).sum(1)


# ----------------------------------------------------------------------------------------------------- images and targets


def weighted_mse(x: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Squared error of images (B, K, ...) by a weight that is broadcast to them: mean over pixels, then over samples; ()."""
    weight = weight.expand_as(truth)
    errors = (weight * (x - truth).square()).flatten(1).sum(1)
    return (errors / weight.flatten(1).sum(1).clamp(min=1e-6)).mean()  # a sample without weight costs nothing


def refuse_small_crops(shape: tuple[int, ...], scales: int) -> None:
    """Refuse samples that MS-SSIM cannot halve as often as its scales ask.

    Raises
    ------
    ValueError
        The smallest side of the coarsest scale would be below the window.
    """
    side, smallest = min(shape[-2:]), WINDOW * 2 ** (scales - 1)
    if side < smallest:
        fits = max((n for n in range(1, scales) if WINDOW * 2 ** (n - 1) <= side), default=0)
        rows, columns = shape[-2:]
        advice = f"set model.msssim_scales={fits}, " if fits else ""
        raise ValueError(
            f"model.loss=l1_msssim with model.msssim_scales={scales} needs crops of {smallest} x {smallest} px or more, but they "
            f"have {rows} x {columns}. Take larger crops, {advice}or choose model.loss=mse."
        )


def ms_ssim(x: Tensor, truth: Tensor, scales: int = len(SCALE_WEIGHTS)) -> Tensor:
    """Structural similarity over several scales of each sample, mean over channels and planes; (B,), 1 for equal images.

    The constants are taken from the range of each plane of the truth, and from at least 1: planes without a stain hold noise
    alone, whose structure is not to be learnt. Below 5 scales the weights of the finest are used, to a sum of 1.

    Parameters
    ----------
    x, truth
        Images (B, K, Y, X) or volumes (B, K, Z, Y, X), whose planes are taken one by one; normalised units.

    Source: Wang, Simoncelli, Bovik 2003 (doi:10.1109/ACSSC.2003.1292216).
    """
    num, rows, columns = len(x), *x.shape[-2:]
    with torch.autocast(x.device.type, enabled=False):  # variances are differences of nearly equal numbers
        x, truth = (images.float().reshape(-1, 1, rows, columns) for images in (x, truth))
        range_N111 = (truth.amax((2, 3), keepdim=True) - truth.amin((2, 3), keepdim=True)).clamp(min=1)
        weights = torch.tensor(SCALE_WEIGHTS[:scales], device=x.device)
        similarity = torch.ones(len(x), device=x.device)
        for scale, weight in enumerate((weights / weights.sum()).tolist()):
            if scale:
                x, truth = F.avg_pool2d(x, 2), F.avg_pool2d(truth, 2)
            luminance, contrast = _similarity(x, truth, range_N111)
            part = contrast * luminance if scale == scales - 1 else contrast
            similarity = similarity * part.mean((1, 2, 3)).clamp(min=1e-4) ** weight  # below 0 has no power, at 0 no gradient
        return similarity.view(num, -1).mean(1)


def _similarity(x: Tensor, y: Tensor, data_range: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance and the contrast-and-structure terms of SSIM wherever the window fits."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    window = window / window.sum()
    images = torch.cat([x, y, x * x, y * y, x * y])
    images = F.conv2d(F.conv2d(images, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_x, mean_y, xx, yy, xy = images.chunk(5)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)


def correlation_sums(x: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return the sums over a batch of images (B, K, ...) that :func:`correlation` takes, as tallies; each (K,)."""
    x, truth = (images.detach().double().transpose(0, 1).flatten(1) for images in (x, truth))
    products = {"x": x, "y": truth, "xx": x * x, "yy": truth * truth, "xy": x * truth, "n": torch.ones_like(x)}
    return {name: values.sum(1) for name, values in products.items()}


def correlation(sums: dict[str, Tensor]) -> Tensor:
    """Pearson correlation of prediction and truth over all pixels of a part, by target channel; (K,), 0 where one is constant."""
    x, y, xx, yy, xy = (sums[name] / sums["n"] for name in ("x", "y", "xx", "yy", "xy"))
    return (xy - x * y) / ((xx - x * x) * (yy - y * y)).clamp(min=1e-18).sqrt()
