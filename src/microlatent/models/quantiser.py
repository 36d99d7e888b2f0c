"""Vector quantisation and the loss terms of latents: one pass over the numbers, nothing broadcast over the codes or the pairs.

Shapes: B patches, D latent dimensions, K codes; N latent vectors (one per patch and grid point) of length C, as rows.
Source: van den Oord et al. 2017 (arXiv:1711.00937), eq. 2 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from microlatent import distributed


def nearest(distance_NK: Tensor) -> Tensor:
    """Return the index of each row's smallest number, the first among equals; overwrites its input.

    ``argmin`` on a CPU goes through the numbers one by one; these four passes are vectorised. What exceeds the smallest number
    is multiplied beyond any index, so that the smallest sum with the index is the index itself.
    """
    K = distance_NK.shape[1]
    excess = distance_NK.sub_(distance_NK.amin(1, keepdim=True))
    index = torch.arange(K, dtype=excess.dtype, device=excess.device)
    return excess.mul_(1e30).add_(index).amin(1).long().clamp_(0, K - 1)  # clamped for rows of NaN, which the loop reports


def assign(z_NC: Tensor, codebook_KC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest code of each row and its index, without gradient."""
    with torch.no_grad(), torch.autocast(z_NC.device.type, enabled=False):
        # The squared length of z is the same for every code, so the nearest code does not depend on it.
        codes = nearest(torch.addmm(codebook_KC.square().sum(1), z_NC, codebook_KC.t(), alpha=-2))
        return codebook_KC.index_select(0, codes), codes


class _NearestCode(torch.autograd.Function):
    """Replace each row by its nearest code; the gradient passes straight through. Also the mean squared distance."""

    @staticmethod
    def forward(ctx, z_NC, codebook_KC, commitment_weight):
        quantised, codes = assign(z_NC, codebook_KC)
        difference = quantised - z_NC
        ctx.save_for_backward(difference, codes)
        ctx.commitment_weight, ctx.num_codes = commitment_weight, len(codebook_KC)
        ctx.mark_non_differentiable(codes)
        return quantised, (1 + commitment_weight) * difference.square().mean(), codes

    @staticmethod
    def backward(ctx, grad_quantised, grad_loss, _):
        difference, codes = ctx.saved_tensors
        scale = 2 * grad_loss / difference.numel()
        grad_z = torch.addcmul(grad_quantised, difference, -ctx.commitment_weight * scale)
        grad_codebook = difference.new_zeros(ctx.num_codes, difference.shape[1]).index_add_(0, codes, difference) * scale
        return grad_z, grad_codebook, None


class Quantiser(nn.Module):
    """Codebook of ``num_codes`` vectors, trained by gradient."""

    def __init__(self, num_codes: int, code_dim: int, commitment_weight: float):
        super().__init__()
        self.w = nn.Embedding(num_codes, code_dim)
        self.commitment_weight = commitment_weight

    def forward(self, z_BCYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nearest codes' vectors (B, C, Y, X), the commitment loss and the codes (B, Y, X)."""
        z_BYXC = z_BCYX.permute(0, 2, 3, 1).float()
        z_NC = z_BYXC.reshape(-1, z_BYXC.shape[-1])
        quantised, loss, codes = _NearestCode.apply(z_NC, self.w.weight, self.commitment_weight)
        return quantised.view(z_BYXC.shape).permute(0, 3, 1, 2), loss, codes.view(z_BYXC.shape[:3])

    def nearest(self, z_BCYX: Tensor) -> Tensor:
        """Return the nearest codes' vectors (B, C, Y, X) alone, without gradient."""
        z_BYXC = z_BCYX.permute(0, 2, 3, 1).float()
        quantised, _ = assign(z_BYXC.reshape(-1, z_BYXC.shape[-1]), self.w.weight)
        return quantised.view(z_BYXC.shape).permute(0, 3, 1, 2)

    def count(self, codes: Tensor) -> Tensor:
        """Count how often each code was used; (K,) int64."""
        counts = torch.zeros(self.w.num_embeddings, dtype=torch.long, device=codes.device)
        return counts.scatter_add_(0, codes.flatten(), torch.ones_like(codes.flatten()))


def perplexity(counts: Tensor) -> Tensor:
    """Return the effective number of codes in use: the exponential of the entropy of their shares."""
    share = counts / counts.sum()
    return torch.exp(-(share * torch.log(share + 1e-10)).sum())


def matching_loss(z_BD: Tensor, relations: Tensor, weights: Tensor, margin: float | None) -> Tensor:
    """Pull latents of one track together and, with a margin, push unrelated ones apart.

    Parameters
    ----------
    z_BD
        Latents of this process's patches.
    relations
        Codes 0, 1, 2 between all patches of the global batch, (B, B) over all processes.
    weights
        Weight of the mean squared difference of a pair, for each of the three codes.
    margin
        Unrelated pairs cost max(0, weight * difference + margin), and the loss is the mean over pairs (the reference's current
        generation). None: the loss is the sum over pairs (the paper's generation).
    """
    with torch.autocast(z_BD.device.type, enabled=False):
        z_BD = distributed.gather(z_BD.float())
        gram = z_BD @ z_BD.t()
        length = gram.diagonal()
        difference = (length[:, None] + length - 2 * gram) / z_BD.shape[1]
        pairs = weights[relations.long()] * difference
        if margin is None:
            return pairs.sum()
        return torch.where(relations == 0, (pairs + margin).clamp_min(0), pairs).mean()
