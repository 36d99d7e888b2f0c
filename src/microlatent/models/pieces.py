"""Loss terms at full resolution, computed for a few patches at a time, so that their temporaries stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PATCHES = 16  # at a time: 4 MiB per tensor of 16 x 65 x 65 numbers a patch


class WeightedSquares(torch.autograd.Function):
    """Sum of squares of (x_hat - x) * weight; overwrites ``x_hat``. The gradient is for ``x_hat`` alone."""

    @staticmethod
    def forward(ctx, x_hat, x, weight):
        difference = x_hat.sub_(x).mul_(weight)
        ctx.mark_dirty(x_hat)
        ctx.save_for_backward(difference, weight)
        return difference.square().sum()

    @staticmethod
    def backward(ctx, grad):
        difference, weight = ctx.saved_tensors
        return difference * (weight * (2 * grad)), None, None


class _SumInPieces(torch.autograd.Function):
    """Sum of a term over pieces of the batch; its gradients are computed on the way and wait for the backward pass."""

    @staticmethod
    def forward(ctx, term, constants, features, *parameters):
        total, grads = 0.0, [torch.zeros_like(p) for p in parameters]
        grad_features = torch.empty_like(features)
        for start in range(0, len(features), PATCHES):
            piece = slice(start, start + PATCHES)
            with torch.enable_grad():
                leaf = features[piece].detach().requires_grad_()
                value = term(leaf, *(c[piece] if len(c) == len(features) else c for c in constants))
            grad_features[piece], *of_parameters = torch.autograd.grad(value, (leaf, *parameters))
            torch._foreach_add_(grads, of_parameters)
            total = total + value.detach()
        ctx.save_for_backward(grad_features, *grads)
        return total

    @staticmethod
    def backward(ctx, grad):
        return None, None, *(g * grad for g in ctx.saved_tensors)


def sum_in_pieces(
    term: Callable[..., Tensor], features: Tensor, constants: Sequence[Tensor], parameters: Sequence[Tensor]
) -> Tensor:
    """Add up ``term(features, *constants)`` over pieces of the batch.

    Parameters
    ----------
    term
        Returns a scalar, a sum over patches.
    features
        First argument of ``term``, (B, ...), which needs a gradient.
    constants
        Further arguments, (B, ...), or (1, ...) if the same for all patches.
    parameters
        What else ``term`` depends on and needs a gradient.
    """
    is_small = features.is_cuda or len(features) <= PATCHES or torch.compiler.is_compiling()
    if is_small or not (torch.is_grad_enabled() and features.requires_grad):
        return term(features, *constants)
    return _SumInPieces.apply(term, constants, features, *parameters)
