"""A small convolutional encoder-decoder for patches of any side that divides by 4: ``model.arch=compact``.

Blocks of 2 x 2 pixels become channels first, so that no convolution runs at full resolution; then each stage is a convolution
that halves the map and a residual 3 x 3 convolution, down to 4 pixels or an odd side. The decoder is the mirror image. There
is no normalisation layer: a patch's latents depend on that patch and the weights alone, and a CPU is not held up. Instead,
residual branches start at zero, and the first training batch fixes, once, the mean and scale per channel that the network
works in. So it learns z-scores, 0 to 100 and zeros and ones alike, and begins by answering every patch with the mean.

Shapes: B patches, C channels, Y rows, X columns, D latent dimensions.
Source: data-dependent initialisation, Salimans & Kingma 2016, arXiv:1602.07868; chequerboards, Aitken et al. 2017,
arXiv:1707.02937.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent import distributed
from microlatent.models.decoded import Decoded

STD_MIN = 0.1  # in normalised units, as in the reference; without it one perfect patch would make the likelihood infinite
WIDEST = 8  # times the first stage's maps


class Residual(nn.Module):
    """x + conv(act(x)); it starts as the identity."""

    def __init__(self, maps: int):
        super().__init__()
        self.conv = nn.Conv2d(maps, maps, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolution makes of the map."""
        return x + self.conv(F.elu(x))


def halve(maps: int, maps_out: int) -> nn.Module:
    """Convolution of 2 x 2 pixels to one."""
    return nn.Conv2d(maps, maps_out, 2, 2)


def double(maps: int, maps_out: int) -> nn.Module:
    """Convolution of one pixel to 2 x 2, which are alike at the start: what is not learned leaves no chequerboard."""
    layer = nn.ConvTranspose2d(maps, maps_out, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, :, :1, :1].expand_as(layer.weight))
    return layer


def to_pixels(maps: int, channels: int) -> nn.Module:
    """Convolution of half the resolution to pixels, the four of a block alike at the start (Aitken et al. 2017)."""
    layer = nn.Conv2d(maps, 4 * channels, 3, padding=1)
    with torch.no_grad():
        for values in (layer.weight, layer.bias):
            values.copy_(values[::4].repeat_interleave(4, 0))
    return nn.Sequential(layer, nn.PixelShuffle(2))


def _remember_scaling(module: CompactNetwork, _: object) -> None:
    """After weights were loaded: a network that had seen data keeps their mean and scale."""
    module.must_scale = not bool(module.is_scaled)


class CompactNetwork(nn.Module):
    """Encoder and decoder.

    Parameters
    ----------
    width
        Maps at half of the patch's resolution; they double with each further halving, up to eight times as many.
    likelihood
        ``gauss`` (any real value) or ``bern``.
    is_variational
        The encoder gives a standard deviation, too; with ``gauss`` also the decoder.
    full_var
        The decoder's standard deviation is one per pixel, not one per patch.
    """

    def __init__(
        self,
        channels: int,
        patch_px: int,
        latent_dim: int,
        width: int,
        *,
        likelihood: str,
        is_variational: bool = False,
        full_var: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if patch_px % 4 or patch_px < 8:
            raise ValueError(
                f"patches are {patch_px} pixels wide, but model.arch=compact halves them at least once, to an even side, so the "
                f"side must divide by 4 and be 8 or more. Assemble with task.size={max(8, round(patch_px / 4) * 4)}."
            )
        self.channels, self.patch_px, self.likelihood = channels, patch_px, likelihood
        self.dropout = nn.Dropout(dropout)
        side, maps = patch_px // 2, [width]
        while side % 2 == 0 and side > 4:
            side, maps = side // 2, [*maps, min(2 * maps[-1], WIDEST * width)]
        self.grid = (maps[-1], side, side)
        flat = math.prod(self.grid)

        encoder: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1)]
        for before, after in pairwise(maps):
            encoder += [nn.ELU(), self.dropout, halve(before, after), Residual(after)]
        self.encoder = nn.Sequential(*encoder, nn.ELU(), nn.Flatten(), self.dropout)
        self.mu = nn.Linear(flat, latent_dim)
        self.std = nn.Linear(flat, latent_dim) if is_variational else None

        self.first = nn.Linear(latent_dim, flat)
        decoder: list[nn.Module] = []
        for before, after in pairwise(maps[::-1]):
            decoder += [Residual(before), nn.ELU(), double(before, after)]
        has_x_std = is_variational and likelihood == "gauss"
        self.has_pixel_std = has_x_std and full_var
        num_out = channels * (1 + self.has_pixel_std)
        self.decoder = nn.Sequential(*decoder, nn.ELU(), to_pixels(width, num_out))
        self.x_std = nn.Linear(flat, 1) if has_x_std and not full_var else None

        # Mean and scale of the data, from the first training batch; part of the weights from then on.
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.register_buffer("is_scaled", torch.tensor(False))
        self.must_scale = True  # is_scaled, negated, where asking does not wait for a GPU
        self.register_load_state_dict_post_hook(_remember_scaling)

    @torch.compiler.disable
    @torch.no_grad()
    def scale_to(self, x_BCYX: Tensor) -> None:
        """Fix the mean and scale of the data by one batch (over all processes)."""
        x = x_BCYX.double()
        moments = torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), x.new_full((self.channels,), x[:, 0].numel())])
        total, squares, num = distributed.total(moments)
        mean = total / num
        std = (squares / num - mean.square()).clamp_min(0).sqrt()
        # A channel that is all but constant in this batch must not be blown up in the next.
        std = std.maximum(0.05 * std.mean())
        self.mean.copy_(mean[:, None, None])
        self.scale.copy_(torch.where(std > 0, std, 1.0)[:, None, None])
        self.is_scaled.fill_(True)
        self.must_scale = False

    def encode(self, x_BCYX: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents, and their standard deviation where the network is variational, each (B, D)."""
        if self.training and self.must_scale:
            self.scale_to(x_BCYX)
        y = self.encoder(((x_BCYX - self.mean) / self.scale).contiguous(memory_format=torch.channels_last))
        return self.mu(y).float(), None if self.std is None else F.softplus(self.std(y).float()) + 1e-3

    def decode(self, z_BD: Tensor) -> Decoded:
        """Return what the latents say of every pixel."""
        y = self.dropout(self.first(z_BD))
        out = self.decoder(y.unflatten(1, self.grid).contiguous(memory_format=torch.channels_last)).float()
        if self.likelihood == "bern":
            logits = out + torch.logit(self.mean, 1e-3)
            return Decoded(torch.sigmoid(logits), logits=logits)
        if self.has_pixel_std:
            out, std = out.split(self.channels, 1)
            std = F.softplus(std) * self.scale + STD_MIN
        else:
            # One number for all channels, in their mean scale.
            std = None if self.x_std is None else F.softplus(self.x_std(F.elu(y)).float())[:, :, None, None]
            std = None if std is None else std * self.scale.mean() + STD_MIN
        return Decoded(out * self.scale + self.mean, std)
