"""Variational autoencoder of Kikuchi patterns of any size: strided convolutions, a dense latent vector, and their mirror.

The network is that of the reference (convolutions of 3 x 3 with stride 2, LeakyReLU 0.2, upsampling to the sizes that the encoder
went through), with dense layers sized from the data, so that the optimiser knows them and the decoder works on its own.

Shapes: B patterns, C channels, Y rows, X columns, D latent dimensions.
Source: Zhang, Benito, Weber, Stricker 2026, arXiv:2601.12584 (network); Kingma & Welling 2014, arXiv:1312.6114 (objective);
Kingma et al. 2016, arXiv:1606.04934, appendix C.8 (free bits).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent.losses import gaussian_nll
from microlatent.models.autoencoder import VariationalAutoencoder
from microlatent.models.decoded import Decoded
from microlatent.schemas import KikuchiCNNConfig

SLOPE = 0.2  # of LeakyReLU below zero
MOST_HALVINGS = 5  # as the reference has
MOST_LOGVAR = 20.0  # beyond, exp would overflow before the loss could pull it back
HEADS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "linear": lambda x: x}


class PatternNetwork(nn.Module):
    """Encoder and decoder; every size is fixed when they are built."""

    def __init__(self, config: KikuchiCNNConfig, channels: int, shape: tuple[int, int], num_down: int) -> None:
        super().__init__()
        self.upsample, self.head = config.upsample, HEADS[config.head or "linear"]
        sizes = [tuple(shape)]
        for _ in range(num_down):
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
        maps = [channels, *(min(config.width * 2**step, config.max_width) for step in range(num_down))]
        self.sizes, self.grid = sizes, (maps[-1], *sizes[-1])
        num_features = maps[-1] * sizes[-1][0] * sizes[-1][1]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(maps))
        self.to_mu, self.to_logvar = (nn.Linear(num_features, config.latent_dim) for _ in range(2))
        self.from_z = nn.Linear(config.latent_dim, num_features)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(maps[:0:-1]))
        self.out = nn.Conv2d(maps[1], channels, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode(self, x_BCYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the posterior, each (B, D) float32."""
        for layer in self.down:
            x_BCYX = F.leaky_relu(layer(x_BCYX), SLOPE)
        features = x_BCYX.flatten(1)
        logvar_BD = self.to_logvar(features).float().clamp(-MOST_LOGVAR, MOST_LOGVAR)
        return self.to_mu(features).float(), (0.5 * logvar_BD).exp()

    def decode(self, z_BD: Tensor) -> Decoded:
        """Return the expected pixels, normalised units."""
        x_BCYX = self.from_z(z_BD).view(-1, *self.grid)
        for layer, size in zip(self.up, self.sizes[-2:0:-1], strict=True):
            x_BCYX = F.leaky_relu(layer(F.interpolate(x_BCYX, size, mode=self.upsample)), SLOPE)
        x_BCYX = self.out(F.interpolate(x_BCYX, self.sizes[0], mode=self.upsample))
        return Decoded(self.head(x_BCYX.float()))


class KikuchiCNN(VariationalAutoencoder):
    """Encode a pattern to a normal posterior and decode a sample of it (in training) or its mean (in evaluation)."""

    config: KikuchiCNNConfig

    def build_network(self, shape: tuple[int, int]) -> nn.Module:
        """Return encoder and decoder for patterns of this size.

        Raises
        ------
        ValueError
            The pattern is one pixel wide before ``model.num_down`` halvings.
        """
        most = max(1, (min(shape) - 1).bit_length())
        num_down = self.config.num_down or min(MOST_HALVINGS, most)
        if num_down > most:
            raise ValueError(
                f"model.num_down is {num_down}, but patterns of {shape[0]} x {shape[1]} px are one pixel "
                f"wide after {most} halvings. Set model.num_down={most} or less."
            )
        return PatternNetwork(self.config, self.channels, shape, num_down)

    def nll(self, x: Tensor, decoded: Decoded) -> Tensor:
        """Negative log-likelihood of every pattern under unit variance: half the squared error and a constant; (B,) nats."""
        return gaussian_nll(x, decoded.x_hat)

    def total(self, recon: Tensor, kl_BD: Tensor, mse: Tensor, beta: float) -> Tensor:
        """Combine the terms as ``model.loss_reduction`` says: ``sum`` is the evidence lower bound of a pattern.

        ``mean_mean`` weighs one pixel's squared error against one dimension's divergence, as the reference does: in terms of
        ``sum`` that is a beta of pixels / (2 latent_dim), under which most dimensions collapse.
        """
        if self.config.loss_reduction == "mean_mean":
            return mse + beta * kl_BD.mean()
        return recon + beta * kl_BD.mean(0).clamp(min=self.config.free_bits).sum()

    def tally(self, x: Tensor, decoded: Decoded) -> dict[str, Tensor]:
        """Sum the pixels, their squares and the squared errors over a batch."""
        x, error = x.detach().double(), (x - decoded.x_hat).detach().double()
        return {"pixels": x.sum(0), "pixel_squares": x.square().sum(), "errors": error.square().sum()}

    def end_epoch(self, tallies: dict[str, Tensor], training: bool) -> tuple[dict[str, float | list[float]], list[str]]:
        """Add ``explained_variance``, the share of the pixels' variance over the patterns that the reconstruction explains."""
        health, warnings = super().end_epoch(tallies, training)
        variance = tallies["pixel_squares"] - tallies["pixels"].square().sum() / tallies["patches"]
        health["explained_variance"] = float(1 - tallies["errors"] / variance.clamp(min=1e-12))
        if warnings and self.config.loss_reduction == "mean_mean":
            warnings[0] += " With model.loss_reduction=mean_mean that is expected: take sum, or model.beta=0.001."
        return health, warnings
