"""What an objective returns, and loss terms that several models share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


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
