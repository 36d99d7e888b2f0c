"""Architectures 1 and 2 of the partitions reference, layer by layer as it built them in TensorFlow 1.

Encoder: for each stage a convolution, ELU, max-pool of 3 x 3 with stride 2; then dense layers with ELU, then the latents.
Decoder: the dense layers in reverse; then for each stage a transposed convolution, ELU, bilinear upsampling. All padding is
'SAME'. The reference gave the shape of the map to come as the kernel size, so its transposed convolutions have kernels as
large as their target: 95 % of its multiplications. They are kept, and computed in Fourier space (``fourier.py``).

Shapes: B patches, C channels, Y rows, X columns, D latent dimensions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent.models.decoded import Decoded
from microlatent.models.fourier import FourierConvTranspose

STD_MIN = 0.1
# Kernel size of each convolution and, in multiples of the channels, its maps; then the widths of the dense layers.
ARCHITECTURES = {
    "1": (((9, 2), (6, 4), (3, 8)), (3000, 2000)),
    "2": (((6, 2), (3, 4)), (2000,)),
}


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """Pad for a convolution as TensorFlow's 'SAME' does: the odd pixel of an even kernel's padding goes behind."""
    before, after = (kernel - 1) // 2, kernel // 2
    return F.pad(x, (before, after, before, after))


def max_pool(x: Tensor) -> Tensor:
    """Take the largest of 3 x 3 pixels at every second one, padded as TensorFlow's 'SAME' pads.

    It puts the odd pixel of padding behind: an even image has none in front, an odd one has one on either side.
    """
    if x.shape[-1] % 2:
        return F.max_pool2d(x, 3, 2, padding=1)
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def bilinear_matrix(size: int) -> Tensor:
    """Matrix (2 S, S) of TensorFlow 1's upsampling: y[2 i] = x[i], y[2 i + 1] = (x[i] + x[i + 1]) / 2, x[S] = x[S - 1]."""
    here, after = torch.eye(size), torch.eye(size).roll(1, 1)
    after[-1] = here[-1]
    return torch.stack([here, (here + after) / 2], 1).flatten(0, 1)


def upsample(x_BCYX: Tensor, matrix: Tensor) -> Tensor:
    """Double the size with the matrix of ``bilinear_matrix``, in float32."""
    with torch.autocast(x_BCYX.device.type, enabled=False):
        # Rows in front, as the transposed convolutions leave and want them: two plain products.
        x = x_BCYX.float().permute(2, 1, 0, 3) @ matrix.T
        y = (matrix @ x.flatten(1)).unflatten(1, x.shape[1:])
        return y.permute(2, 1, 0, 3)


def initialise(weight: Tensor) -> None:
    """Draw weights as TensorFlow 1's Xavier initialiser does in its normal form: cut off at two standard deviations."""
    fan = (weight.shape[0] + weight.shape[1]) / 2 * weight[0, 0].numel()
    std = math.sqrt(1.3 / fan)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class UpStage(nn.Module):
    """Transposed convolution with a kernel as large as the target, then an activation, then upsampling to the target."""

    def __init__(self, maps: int, maps_out: int, size: int):
        super().__init__()
        self.conv = FourierConvTranspose(maps, maps_out, size, 2 * size)
        self.register_buffer("bilinear", bilinear_matrix(size), persistent=False)


class ReferenceNetwork(nn.Module):
    """Encoder and decoder of the reference.

    Parameters
    ----------
    convolutions
        Kernel size and number of maps of each stage of the encoder.
    dense
        Widths of the encoder's dense layers.
    likelihood
        ``gauss`` or ``bern``.
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
        convolutions: list[tuple[int, int]],
        dense: list[int],
        *,
        likelihood: str,
        is_variational: bool = False,
        full_var: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        halvings = len(convolutions)
        if patch_px % 2**halvings:
            nearest = max(1, round(patch_px / 2**halvings)) * 2**halvings
            raise ValueError(
                f"patches are {patch_px} pixels wide, but this architecture of the reference halves them {halvings} times, so "
                f"the side must divide by {2**halvings}. Assemble with task.size={nearest}, or choose model.arch=compact."
            )
        self.channels, self.patch_px, self.likelihood = channels, patch_px, likelihood
        self.dropout = nn.Dropout(dropout)
        maps, kernels = [channels, *(maps for _, maps in convolutions)], [kernel for kernel, _ in convolutions]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, kernel) for (a, b), kernel in zip(pairwise(maps), kernels, strict=True))
        self.grid = (maps[-1], patch_px // 2**halvings, patch_px // 2**halvings)
        widths = [math.prod(self.grid), *dense]
        self.dense_in = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.mu = nn.Linear(widths[-1], latent_dim)
        self.std = nn.Linear(widths[-1], latent_dim) if is_variational else None
        self.dense_out = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([latent_dim, *widths[::-1]]))
        sizes = [patch_px // 2 ** (halvings - number) for number in range(halvings)]
        self.stages = nn.ModuleList(UpStage(a, b, size) for (a, b), size in zip(pairwise(maps[::-1]), sizes, strict=True))
        has_x_std = is_variational and likelihood == "gauss"
        self.x_std = FourierConvTranspose(maps[1], channels, sizes[-1], 2 * sizes[-1]) if has_x_std else None
        self.x_std_dense = nn.Linear(channels * patch_px**2, 1) if has_x_std and not full_var else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | FourierConvTranspose):
                initialise(module.weight)
                nn.init.zeros_(module.bias)

    def encode(self, x_BCYX: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents, and their standard deviation where the network is variational, each (B, D)."""
        y = x_BCYX
        for conv in self.convolutions:
            y = self.dropout(max_pool(F.elu(conv(pad_same(y, conv.kernel_size[0])))))
        y = y.flatten(1)
        for layer in self.dense_in:
            y = self.dropout(F.elu(layer(y)))
        return self.mu(y).float(), None if self.std is None else F.elu(self.std(y).float()) + (1 + STD_MIN)

    def decode(self, z_BD: Tensor) -> Decoded:
        """Return what the latents say of every pixel."""
        y = z_BD
        for layer in self.dense_out:
            y = self.dropout(F.elu(layer(y)))
        y = y.unflatten(1, self.grid)
        *inner, last = self.stages
        for stage in inner:
            y = upsample(F.elu(stage.conv(y)), stage.bilinear)
        if self.x_std is None:
            y = last.conv(y)
            x_hat = torch.sigmoid(y) if self.likelihood == "bern" else F.elu(y) + 1
            return Decoded(upsample(x_hat, last.bilinear))
        # Both heads look at the same maps: one transform serves both.
        heads = (last.conv, self.x_std)
        weight, bias = torch.cat([head.weight for head in heads], 1), torch.cat([head.bias for head in heads])
        x_hat, std = upsample(F.elu(last.conv(y, weight, bias)), last.bilinear).split(self.channels, 1)
        if self.x_std_dense is not None:
            std = F.elu(self.x_std_dense(std.flatten(1)).float())[:, :, None, None]
        return Decoded(x_hat + 1, std + (1 + STD_MIN))
