"""Vector-quantised autoencoder of single-cell patches (DynaMorph), 16 x 16 or 32 x 32 latent grid for 128 x 128 pixels.

Modules are numbered as in the reference's files, so that its weights load strictly; placeholders (``nn.Identity``) stand where
it has a layer without parameters. The arithmetic is the reference's, in another order: see ``phases.py`` and ``normalise.py``.

Shapes: B patches, C channels, Y rows, X columns, D latent dimensions, K codes; blocks are those of ``phases.py``.
Source: Wu et al. 2022, Mol. Biol. Cell 33(6), doi:10.1091/mbc.E21-11-0561; van den Oord et al. 2017, arXiv:1711.00937.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent import distributed
from microlatent.contract import Batch
from microlatent.losses import Losses
from microlatent.models import phases
from microlatent.models.normalise import BatchNorm, as_rows, from_rows
from microlatent.models.quantiser import Quantiser, matching_loss, perplexity
from microlatent.models.square import side_px
from microlatent.schemas import VQVAEConfig


class VQVAEOutput(NamedTuple):
    """One pass through the network."""

    x_blocks: Tensor  # (B, 4 C, Y / 2 + 1, X / 2 + 1) the input in blocks
    features: Tensor  # (B, C, Y / 2, X / 2) what the head makes the reconstruction from
    z: Tensor  # (B, D, Y / 8, X / 8) before the quantiser (Y / 4 for z32)
    z_after: Tensor  # the same after it
    commitment: Tensor  # scalar
    codes: Tensor  # (B, Y / 8, X / 8) int64


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: BatchNorm, statistics: str) -> Tensor:
    """Convolve and normalise with the statistics of the ``batch``, of each patch (``instance``) or the running ones (``eval``).

    An input that has its columns of padding already is convolved in pairs of columns.
    """
    weight, bias = norm.fold(conv.weight, conv.bias) if statistics == "eval" else (conv.weight, conv.bias)
    is_padded = x.shape[3] > x.shape[2]
    y = phases.conv_pairs(x, weight, bias) if is_padded else F.conv2d(x, weight, bias, stride=conv.stride, padding=conv.padding)
    return normalise(y, norm, statistics)


def normalise(y: Tensor, norm: BatchNorm, statistics: str) -> Tensor:
    """Normalise; in ``eval`` the convolution has done so."""
    return norm.finish(y) if statistics == "eval" else norm(y) if statistics == "batch" else norm.instance(y)


def up(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """Double the size with a transposed convolution; the result is in blocks."""
    return phases.conv_transpose_to_blocks(x, conv.weight, conv.bias)


class _WeightedSquares(torch.autograd.Function):
    """Sum of squares of error * weight, with one pass over the numbers for the gradient; the weight has none."""

    @staticmethod
    def forward(ctx, error, weight):
        weighted = error * weight
        ctx.save_for_backward(weighted, weight)
        return weighted.square().sum()

    @staticmethod
    def backward(ctx, grad):
        weighted, weight = ctx.saved_tensors
        return weighted * (weight * (2 * grad)), None


class ResidualBlock(nn.Module):
    """Layers of x + norm(conv 1x1(relu(norm(conv 3x3(relu(x))))))."""

    def __init__(self, latent_dim: int, num_residual_hiddens: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Identity(),
                nn.Conv2d(latent_dim, num_residual_hiddens, 3, padding=1),
                BatchNorm(num_residual_hiddens, relu=True),
                nn.Identity(),
                nn.Conv2d(num_residual_hiddens, latent_dim, 1),
                BatchNorm(latent_dim, relu=False),
            )
            for _ in range(num_layers)
        )

    def forward(self, x: Tensor, statistics: str) -> Tensor:
        """Add each layer's output to its input."""
        for layer in self.layers:
            y = conv_norm(F.relu(x), layer[1], layer[2], statistics)
            x = x + conv_norm(y, layer[4], layer[5], statistics)
        return x


def _match_candidates(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Let weights load whether or not dead codes were revived where they come from, and are here."""
    if hasattr(module, "candidates"):
        state.setdefault(f"{prefix}candidates", module.candidates)
    else:
        state.pop(f"{prefix}candidates", None)


class VQVAE(nn.Module):
    """Encode a patch to a grid of vectors, replace each by the nearest code, decode."""

    labels: ClassVar = {"recon": "reconstruction\n(mean squared error)"}  # of the learning curves
    fixed_shape = True  # of the patches

    def __init__(self, config: VQVAEConfig, channels: int, shape: tuple[int, int]):
        super().__init__()
        patch_px = side_px(shape, config.name)
        self.config, self.channels, self.patch_px = config, channels, patch_px
        self.is_z32 = config.name.endswith("z32")
        reduction = 4 if self.is_z32 else 8
        if patch_px < reduction or patch_px % reduction:
            raise ValueError(
                f"patches are {patch_px} pixels wide, but model={config.name} reduces them {reduction} times, so the side must "
                f"divide by {reduction}. Assemble with task.patch_px={max(1, round(patch_px / reduction)) * reduction}."
            )
        variance = [1.0] * channels if config.channel_var is None else list(config.channel_var)
        if len(variance) != channels:
            raise ValueError(
                f"model.channel_var has {len(variance)} values, but the data has {channels} channels. Give one value per "
                "channel of data.channels, or leave it out for 1."
            )
        self.channel_var = nn.Parameter(torch.tensor(variance).view(1, -1, 1, 1), requires_grad=False)
        h, residual = config.latent_dim, (config.latent_dim, config.num_residual_hiddens, config.num_residual_layers)

        def norm(width: int, pad: bool = False) -> list[nn.Module]:
            return [BatchNorm(width, relu=True, pad=pad), nn.Identity()]

        if self.is_z32:
            encoder = [nn.Conv2d(channels, h // 2, 4, 2, 1), *norm(h // 2, pad=True)]
            encoder += [nn.Conv2d(h // 2, h, 4, 2, 1), BatchNorm(h, relu=False)]
            decoder = [ResidualBlock(*residual), nn.ConvTranspose2d(h, h // 2, 4, 2, 1), *norm(h // 2)]
            decoder += [nn.ConvTranspose2d(h // 2, channels, 4, 2, 1)]
        else:
            encoder = [nn.Conv2d(channels, h // 2, 1), nn.Conv2d(h // 2, h // 2, 4, 2, 1), *norm(h // 2, pad=True)]
            encoder += [nn.Conv2d(h // 2, h, 4, 2, 1), *norm(h), nn.Conv2d(h, h, 4, 2, 1), *norm(h)]
            encoder += [nn.Conv2d(h, h, 3, padding=1), BatchNorm(h, relu=False)]
            decoder = [nn.ConvTranspose2d(h, h // 2, 4, 2, 1), nn.Identity(), nn.ConvTranspose2d(h // 2, h // 4, 4, 2, 1)]
            decoder += [nn.Identity(), nn.ConvTranspose2d(h // 4, h // 4, 4, 2, 1), nn.Identity(), nn.Conv2d(h // 4, channels, 1)]
        self.enc = nn.Sequential(*encoder, ResidualBlock(*residual))
        self.vq = Quantiser(config.num_codes, h, config.commitment_weight)
        self.dec = nn.Sequential(*decoder)
        for sequence in (module for module in self.modules() if isinstance(module, nn.Sequential)):
            for conv, after in pairwise(sequence):
                if isinstance(after, BatchNorm):
                    # Normalisation takes this bias away again. Its gradient is rounding noise, by which Adam would move it.
                    conv.bias.requires_grad_(False)
        # 1 on the image, 0 on the ring around it.
        self.register_buffer("inside", phases.to_blocks(torch.ones(1, 1, patch_px, patch_px)), persistent=False)
        unrelated = config.matching_unrelated if config.matching == "mean" else 0.0
        weights = torch.tensor([unrelated, config.matching_track, config.matching_adjacent])
        self.register_buffer("matching_weights", weights, persistent=False)
        matched = config.matching != "none" and config.weight_matching > 0
        self.needs = {name for name, used in (("relations", matched), ("mask", config.masked_loss)) if used}
        if config.revive_dead_codes:
            # Encoder outputs drawn from the latest training batch, one for each code; a resumed run may need them.
            self.register_buffer("candidates", torch.zeros(config.num_codes, h))
        self.register_load_state_dict_pre_hook(_match_candidates)

    def first_conv(self, x: Tensor, norm: BatchNorm, statistics: str) -> Tensor:
        """Apply the first strided convolution, with the z16 model's 1 x 1 convolution before it folded in."""
        conv = self.enc[0] if self.is_z32 else self.enc[1]
        weight, bias = conv.weight, conv.bias
        if not self.is_z32:
            # The 1 x 1 convolution's bias reaches only pixels of the image: one more input channel, which is 1 on the image.
            mix = torch.cat([self.enc[0].weight[:, :, 0, 0], self.enc[0].bias[:, None]], 1)
            weight = torch.einsum("dmyx,mc->dcyx", weight, mix)
        if statistics == "eval":
            weight, bias = norm.fold(weight, bias)
        convolve = phases.conv_blocks if x.shape[1] == 4 * self.channels else phases.conv_pairs
        y = convolve(x, weight[:, : self.channels], bias if self.is_z32 else None)
        if not self.is_z32:
            # The same map for every patch. Added as rows of numbers, because its gradient, a sum over patches, is faster so.
            offset = phases.conv_blocks(self.inside, weight[:, self.channels :], bias)
            rows, offset = as_rows(y), as_rows(offset).flatten(1)
            flat = rows.flatten(1)
            rows = (flat + offset if flat.requires_grad else flat.add_(offset)).view(rows.shape)
            y = from_rows(rows, y.shape[1])
        return normalise(y, norm, statistics)

    def encoder(self, x: Tensor, statistics: str) -> Tensor:
        """Return the latents before the quantiser, of patches in blocks or with columns of padding."""
        if self.is_z32:
            y = self.first_conv(x, self.enc[1], statistics)
            y = conv_norm(y, self.enc[3], self.enc[4], statistics)
            return self.enc[5](y, statistics)
        y = self.first_conv(x, self.enc[2], statistics)
        y = conv_norm(y, self.enc[4], self.enc[5], statistics)
        y = conv_norm(y, self.enc[7], self.enc[8], statistics)
        y = conv_norm(y, self.enc[10], self.enc[11], statistics)
        return self.enc[12](y, statistics)

    def decoder(self, z_after: Tensor, statistics: str) -> Tensor:
        """Return the features (B, C, Y / 2, X / 2), at half the size of the patch."""
        if self.is_z32:
            y = phases.from_blocks(up(self.dec[0](z_after, statistics), self.dec[1]))
            if statistics == "eval":
                norm = self.dec[2]
                return F.relu(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))
            return self.dec[2](y)
        y = F.relu(phases.from_blocks(up(z_after, self.dec[0])), inplace=True)
        return F.relu(phases.from_blocks(up(y, self.dec[2])), inplace=True)

    def head(self, features: Tensor) -> Tensor:
        """Return the reconstruction in blocks; its outer ring is not of the image."""
        y = up(features, self.dec[4])
        return y if self.is_z32 else phases.pointwise_on_blocks(F.relu(y, inplace=True), self.dec[6].weight, self.dec[6].bias)

    def forward(self, x: Tensor) -> VQVAEOutput:
        """Encode, quantise and decode, with the statistics of the batch in training and the running ones otherwise."""
        statistics = "batch" if self.training else "eval"
        x_blocks = phases.to_blocks(x)
        z = self.encoder(x_blocks, statistics)
        z_after, commitment, codes = self.vq(z)
        return VQVAEOutput(x_blocks, self.decoder(z_after, statistics), z, z_after, commitment, codes)

    def loss(self, batch: Batch, step: int) -> Losses:
        """Compute the terms of the objective, means per patch, and this process's counts of the codes.

        Terms: ``recon`` (squared error over channel variance, averaged over all pixels), ``commitment`` (both halves of the
        quantiser's loss), ``matching`` (0 where relations are unknown), ``perplexity`` (effective number of codes in the batch).
        """
        config, out = self.config, self(batch.x)
        recon = self.recon_loss(out, batch.weight)
        total = config.weight_recon * recon + config.weight_commitment * out.commitment
        matching = torch.zeros_like(recon)
        if config.matching != "none" and batch.relations is not None:
            z = (out.z_after if self.is_z32 else out.z).permute(0, 2, 3, 1).flatten(1)
            margin = config.matching_margin if config.matching == "mean" else None
            matching = matching_loss(z, batch.relations, self.matching_weights, margin)
            total = total + config.weight_matching * matching
        counts = self.vq.count(out.codes)
        if self.training and config.revive_dead_codes:
            z = out.z.detach().permute(0, 2, 3, 1).flatten(0, 2)
            self.candidates.copy_(z[torch.randint(len(z), (config.num_codes,)).to(z.device)])
        terms = {"total": total, "recon": recon, "commitment": out.commitment, "matching": matching}
        return Losses(terms | {"perplexity": perplexity(counts)}, {"codes": counts})

    def recon_loss(self, out: VQVAEOutput, mask: Tensor | None) -> Tensor:
        """Mean over pixels of the weighted squared error; the weight is 0 on the ring around the image."""
        weight = self.inside if mask is None else phases.to_blocks(mask)
        weight = weight[:, :, None] * torch.rsqrt(self.channel_var)[:, None, :, 0, 0, None, None]
        weight = weight.permute(0, 3, 4, 1, 2).flatten(3).permute(0, 3, 1, 2)

        error = self.head(out.features).float().sub_(out.x_blocks)  # in place: nothing else needs the reconstruction
        return _WeightedSquares.apply(error, weight) / (len(error) * self.channels * self.patch_px**2)

    @torch.no_grad()
    def encode(self, x: Tensor, norm: str = "eval") -> dict[str, Tensor]:
        """Return the latents ``before`` and ``after`` the quantiser, each (B, D) float32 in channel, row, column order.

        Parameters
        ----------
        x
            Normalised patches (B, C, Y, X).
        norm
            ``eval``: running statistics of training. ``instance``: each patch's own, what the reference's inference (train mode,
            one patch at a time) amounts to. Weights, running statistics and train/eval mode stay as they are.
        """
        z = self.encoder(phases.pad_columns(x), norm)
        return {"before": z.float().flatten(1), "after": self.vq.nearest(z).flatten(1)}

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstruction (B, C, Y, X) in the units of the input, with running statistics."""
        z_after = self.vq.nearest(self.encoder(phases.pad_columns(x), "eval"))
        return phases.from_blocks(self.head(self.decoder(z_after, "eval"))).float()

    def end_epoch(self, tallies: dict[str, Tensor], training: bool) -> tuple[dict[str, float], list[str]]:
        """Summarise the use of the codebook over an epoch; after training, revive dead codes if wanted.

        ``tallies["codes"]`` are the counts summed over batches and processes.
        """
        counts = tallies["codes"]
        used, warnings = int((counts > 0).sum()), []
        if training and used < self.config.num_codes / 4 and not self.config.revive_dead_codes:
            warnings.append(
                f"only {used} of {self.config.num_codes} codes are in use, so patches share few latent values. Try "
                "model.revive_dead_codes=true, a lower trainer.lr, data.normalise=dataset, or fewer codes (model.num_codes)."
            )
        if training and self.config.revive_dead_codes:
            dead = counts == 0
            with torch.no_grad():
                self.vq.w.weight[dead] = distributed.share(self.candidates.cpu()).to(dead.device)[dead]
        return {"codes_used": float(used), "perplexity": float(perplexity(counts))}, warnings
