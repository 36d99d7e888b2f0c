"""The wells reference's method, written anew from its description: what the benchmark compares with.

Broadcast quantiser recorded by autograd, pairwise broadcast matching loss, per-sample augmentation in numpy, and inference
in train mode one patch at a time. Slow on purpose; nothing of the product imports it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Residual layers: x + [ReLU, 3x3, norm, ReLU, 1x1, norm]."""

    def __init__(self, latent_dim: int, num_residual_hiddens: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(latent_dim, num_residual_hiddens, 3, padding=1),
                nn.BatchNorm2d(num_residual_hiddens),
                nn.ReLU(),
                nn.Conv2d(num_residual_hiddens, latent_dim, 1),
                nn.BatchNorm2d(latent_dim),
            )
            for _ in range(num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add each layer's output to its input."""
        for layer in self.layers:
            x = x + layer(x)
        return x


class BroadcastQuantiser(nn.Module):
    """Nearest code by the full table of squared differences."""

    def __init__(self, num_codes: int, code_dim: int, commitment_weight: float = 0.25):
        super().__init__()
        self.w = nn.Embedding(num_codes, code_dim)
        self.commitment_weight = commitment_weight

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the straight-through output, the commitment loss and the perplexity."""
        distances = ((z[:, None] - self.w.weight[None, :, :, None, None]) ** 2).sum(2)
        codes = distances.argmin(1)
        quantised = self.w(codes).permute(0, 3, 1, 2)
        loss = ((quantised - z.detach()) ** 2).mean() + self.commitment_weight * ((quantised.detach() - z) ** 2).mean()
        one_hot = torch.zeros(codes.numel(), self.w.num_embeddings, device=z.device).scatter_(1, codes.reshape(-1, 1), 1)
        share = one_hot.mean(0)
        return z + (quantised - z).detach(), loss, torch.exp(-(share * torch.log(share + 1e-10)).sum())


class ReferenceVQVAE(nn.Module):
    """The 16 x 16 latent model of two-channel 128 x 128 patches, with the current generation of the matching loss."""

    def __init__(self, channels: int = 2, latent_dim: int = 16, num_residual_hiddens: int = 32, num_codes: int = 64):
        super().__init__()
        h = latent_dim
        self.channel_var = nn.Parameter(torch.ones(1, channels, 1, 1), requires_grad=False)
        self.enc = nn.Sequential(
            nn.Conv2d(channels, h // 2, 1),
            nn.Conv2d(h // 2, h // 2, 4, 2, 1),
            nn.BatchNorm2d(h // 2),
            nn.ReLU(),
            nn.Conv2d(h // 2, h, 4, 2, 1),
            nn.BatchNorm2d(h),
            nn.ReLU(),
            nn.Conv2d(h, h, 4, 2, 1),
            nn.BatchNorm2d(h),
            nn.ReLU(),
            nn.Conv2d(h, h, 3, padding=1),
            nn.BatchNorm2d(h),
            Residual(h, num_residual_hiddens, 2),
        )
        self.vq = BroadcastQuantiser(num_codes, h)
        self.dec = nn.Sequential(
            nn.ConvTranspose2d(h, h // 2, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(h // 2, h // 4, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(h // 4, h // 4, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(h // 4, channels, 1),
        )

    def forward(self, x: Tensor, relations: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, dict]:
        """Return the reconstruction and the loss terms."""
        z = self.enc(x)
        z_after, commitment, perplexity = self.vq(z)
        x_hat = self.dec(z_after)
        weight = 1.0 if mask is None else mask
        recon = ((weight * x_hat - weight * x) ** 2 / self.channel_var).mean()
        total, matching = recon + commitment, 0.0
        if relations is not None:
            flat = z.reshape(len(z), -1)
            similarity = ((flat[:, None] - flat[None]) ** 2).mean(-1)
            weights = torch.where(relations == 2, 1.1, torch.where(relations == 1, 0.1, -0.5))
            pairs = similarity * weights
            matching = torch.where(relations == 0, (pairs + 0.5).clamp_min(0), pairs).mean()
            total = total + 0.005 * matching
        return x_hat, {"total": total, "recon": recon, "commitment": commitment, "matching": matching, "perplexity": perplexity}


def augment_one_by_one(x: Tensor, rng: np.random.RandomState) -> Tensor:
    """Flip and turn each sample by its own draws."""
    samples = []
    for sample in x:
        flip = rng.choice([0, 1, 2])
        if flip:
            sample = torch.flip(sample, dims=(int(flip),))
        samples.append(torch.rot90(sample, int(rng.choice([0, 1, 2, 3])), dims=(1, 2)))
    return torch.stack(samples)


def process_one_by_one(model: ReferenceVQVAE, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Latents before and after the quantiser: train mode, one patch at a time, gradients recorded."""
    model.train()
    before, after = [], []
    for i in range(len(x)):
        z = model.enc(x[i : i + 1])
        z_after, _, _ = model.vq(z)
        before.append(z.detach().cpu().numpy().reshape(1, -1))
        after.append(z_after.detach().cpu().numpy().reshape(1, -1))
    return np.concatenate(before), np.concatenate(after)
