"""Autoencoder and variational autoencoder of image partitions, with a normal or a Bernoulli likelihood of the pixels.

The network is one of two: ``compact.py``, or architectures 1 and 2 of the partitions reference (``reference_autoencoder.py``).
Loss terms are in nats per patch, constants included, so that they are the log-likelihoods that they are called.

Shapes: B patches, C channels, Y rows, X columns, D latent dimensions.
Source: Kingma & Welling 2014, arXiv:1312.6114; Burda et al. 2016, arXiv:1509.00519 (active units, importance weighting).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from microlatent.contract import Batch
from microlatent.losses import (
    Losses,
    bernoulli_nll,
    bernoulli_nll_of_logits,
    gaussian_nll,
    kl_to_standard_normal,
    log_normal,
)
from microlatent.models.compact import CompactNetwork
from microlatent.models.decoded import Decoded
from microlatent.models.reference_autoencoder import ARCHITECTURES, ReferenceNetwork
from microlatent.models.square import side_px
from microlatent.schemas import AEConfig, VAEConfig

ACTIVE_VARIANCE = 0.01  # a dimension is active if its posterior mean varies more over the data (Burda et al. 2016)
MOST_PIXELS = 2**24  # decoded at a time by the importance-weighted likelihood: 64 MiB


class Autoencoder(nn.Module):
    """Encode a patch to a vector and decode it."""

    labels: ClassVar = {  # of the learning curves
        "total": "total loss (nats per patch)",
        "recon": "reconstruction\n(negative log-likelihood, nats)",
        "mse": "mean squared error\n(normalised units)",
    }
    fixed_shape = True  # of the patches

    def __init__(self, config: AEConfig, channels: int, shape: tuple[int, int]):
        super().__init__()
        self.config, self.channels = config, channels
        self.needs: set[str] = set()
        self.network = self.build_network(shape)

    def build_network(self, shape: tuple[int, int]) -> nn.Module:
        """Return the encoder and decoder that ``model.arch`` names."""
        config, patch_px = self.config, side_px(shape, self.config.name)
        likelihood = {
            "likelihood": config.likelihood,
            "is_variational": config.family == "vae",
            "full_var": config.family == "vae" and config.full_var,
            "dropout": config.dropout,
        }
        if config.arch == "compact":
            return CompactNetwork(self.channels, patch_px, config.latent_dim, config.width, **likelihood)
        convolutions, dense = ARCHITECTURES[config.arch]
        maps = [(kernel, self.channels * times) for kernel, times in convolutions]
        return ReferenceNetwork(self.channels, patch_px, config.latent_dim, maps, list(dense), **likelihood)

    def loss(self, batch: Batch, step: int) -> Losses:
        """Compute the terms of the objective, means per patch.

        Terms: ``recon`` and ``total`` (negative log-likelihood, nats per patch; under the normal likelihood every pixel has
        unit variance), ``mse`` (mean over all pixels, normalised units).
        """
        z_BD, _ = self.network.encode(batch.x)
        decoded = self.network.decode(z_BD)
        recon = self.nll(batch.x, decoded).mean()
        z_BD = z_BD.detach().double()
        tallies = {"z": z_BD.sum(0), "z_squares": z_BD.square().sum(0), "patches": z_BD.new_full((), len(z_BD))}
        return Losses({"total": recon, "recon": recon, "mse": (batch.x - decoded.x_hat).square().mean()}, tallies)

    def end_epoch(self, tallies: dict[str, Tensor], training: bool) -> tuple[dict[str, float | list[float]], list[str]]:
        """Summarise the use of the latents over an epoch: ``active_units``.

        No prior sets the scale of these latents, so a dimension is active if its variance over the data is more than
        ``ACTIVE_VARIANCE`` of the dimensions' mean variance.
        """
        variance = tallies["z_squares"] / tallies["patches"] - (tallies["z"] / tallies["patches"]).square()
        return {"active_units": float((variance > ACTIVE_VARIANCE * variance.mean()).sum())}, []

    def nll(self, x: Tensor, decoded: Decoded) -> Tensor:
        """Negative log-likelihood of every patch given its latents; (B,) nats."""
        if self.config.likelihood == "gauss":
            return gaussian_nll(x, decoded.x_hat, decoded.std)
        if decoded.logits is not None:
            return bernoulli_nll_of_logits(x, decoded.logits)
        return bernoulli_nll(x, decoded.x_hat)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Leave out dropout and gradients for a while, whatever mode the model is in."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)

    def encode(self, x: Tensor, norm: str = "eval") -> dict[str, Tensor]:
        """Return the latents ``z`` (B, D) float32.

        Raises
        ------
        ValueError
            ``norm`` is not ``eval``.
        """
        z_BD, _ = self.latents(x, norm)
        return {"z": z_BD}

    def latents(self, x: Tensor, norm: str) -> tuple[Tensor, Tensor | None]:
        """Return the encoder's output, without dropout and gradients."""
        if norm != "eval":
            raise ValueError(
                f"norm is {norm!r}, but {self.config.name} has no batch statistics, so there is only 'eval'. Leave task.norm out."
            )
        with self.evaluating():
            return self.network.encode(x)

    def decode(self, z_BD: Tensor) -> Tensor:
        """Return the expected pixels (B, C, Y, X): normalised units, or probabilities under the Bernoulli likelihood."""
        with self.evaluating():
            return self.network.decode(z_BD).x_hat.contiguous()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstruction (B, C, Y, X) from the latents' mean, as ``decode`` does."""
        with self.evaluating():
            return self.network.decode(self.network.encode(x)[0]).x_hat.contiguous()


class VariationalAutoencoder(Autoencoder):
    """Encode a patch to a normal posterior and decode a sample of it (in training) or its mean (in evaluation)."""

    config: VAEConfig

    def loss(self, batch: Batch, step: int) -> Losses:
        """Compute the terms of the objective, means per patch, and what the use of the latents is told from.

        Terms: ``recon`` (negative log-likelihood, nats per patch), ``kl`` (of the posterior from the standard normal, nats per
        patch), ``total`` (recon + beta * kl; beta rises over ``kl_warmup_steps`` in training), ``mse``. With a sample in
        training ``total`` at beta 1 is the negative evidence lower bound. In evaluation the mean stands for the sample, so
        that the number is the same each time; ``log_likelihood`` gives the bound proper.
        """
        mu_BD, std_BD = self.network.encode(batch.x)
        z_BD = mu_BD + std_BD * torch.randn_like(mu_BD) if self.training else mu_BD
        decoded = self.network.decode(z_BD)
        recon = self.nll(batch.x, decoded).mean()
        kl_BD = kl_to_standard_normal(mu_BD, std_BD)
        beta = self.config.beta
        if self.training:
            beta *= min(1.0, (step + 1) / max(1, self.config.kl_warmup_steps))
        mse = (batch.x - decoded.x_hat).square().mean()
        terms = {"total": self.total(recon, kl_BD, mse, beta), "recon": recon, "kl": kl_BD.sum(1).mean(), "mse": mse}
        mu_BD, kl_BD = mu_BD.detach().double(), kl_BD.detach().double()
        tallies = {"mu": mu_BD.sum(0), "mu_squares": mu_BD.square().sum(0), "kl": kl_BD.sum(0)}
        tallies["patches"] = torch.full((), len(mu_BD), dtype=torch.float64, device=mu_BD.device)
        return Losses(terms, tallies | self.tally(batch.x, decoded))

    def total(self, recon: Tensor, kl_BD: Tensor, mse: Tensor, beta: float) -> Tensor:
        """Combine the terms of a batch into the one to minimise."""
        return recon + beta * kl_BD.sum(1).mean()

    def tally(self, x: Tensor, decoded: Decoded) -> dict[str, Tensor]:
        """Sum over a batch what ``end_epoch`` tells of the reconstruction, if anything."""
        return {}

    def encode(self, x: Tensor, norm: str = "eval") -> dict[str, Tensor]:
        """Return mean ``mu`` and standard deviation ``std`` of the posterior, each (B, D) float32; ``mu`` is for analysis.

        Raises
        ------
        ValueError
            ``norm`` is not ``eval``.
        """
        mu_BD, std_BD = self.latents(x, norm)
        return {"mu": mu_BD, "std": std_BD}

    def log_likelihood(self, x: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Estimate each patch's log-likelihood from samples of its posterior; (B,) nats.

        It is a lower bound on average, which rises to the truth with the number of samples; with one it is the evidence lower
        bound. Results do not depend on how patches are cut to save memory.

        Source: Burda et al. 2016, eq. 8.
        """
        most = max(1, MOST_PIXELS // x[0].numel())
        with self.evaluating():
            posteriors = [self.network.encode(part) for part in x.split(most)]
            mu_BD, std_BD = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
            log_weights = []
            for _ in range(num_samples):
                device = mu_BD.device if generator is None else generator.device
                z_BD = mu_BD + std_BD * torch.randn(mu_BD.shape, generator=generator, device=device).to(mu_BD.device)
                nll = [self.nll(a, self.network.decode(b)) for a, b in zip(x.split(most), z_BD.split(most), strict=True)]
                log_weights.append(log_normal(z_BD) - log_normal(z_BD, mu_BD, std_BD) - torch.cat(nll))
            return torch.stack(log_weights).logsumexp(0) - math.log(num_samples)

    def end_epoch(self, tallies: dict[str, Tensor], training: bool) -> tuple[dict[str, float | list[float]], list[str]]:
        """Summarise the use of the latents over an epoch: ``active_units``, and ``kl_per_dimension`` in nats."""
        num, mean = tallies["patches"], tallies["mu"] / tallies["patches"]
        variance = tallies["mu_squares"] / num - mean.square()
        active, dimensions, warnings = int((variance > ACTIVE_VARIANCE).sum()), len(mean), []
        if training and active < max(2, dimensions // 20) and active < dimensions:
            warnings.append(
                f"only {active} of {dimensions} latent dimensions carry information (their posterior mean varies by more than "
                f"{ACTIVE_VARIANCE} over the data); the others have collapsed to the prior. If this lasts, try "
                "model.kl_warmup_steps=1000, model.beta=0.5, another trainer.lr, or a smaller model.latent_dim."
            )
        return {"active_units": float(active), "kl_per_dimension": (tallies["kl"] / num).tolist()}, warnings
