"""Batch normalisation with its ReLU in one step, on rows of pixels.

A row of a channels-last image is X * C numbers side by side. Statistics and the affine map are computed on whole rows, with
the channels' numbers repeated X times: torch's own kernels work on C numbers at a time, 8 to 32 here, and take several times
as long.

Shapes: B patches, C channels, Y rows, X columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlatent import distributed


def as_rows(x_BCYX: Tensor) -> Tensor:
    """View a channels-last image as (B, X * C, Y, 1), itself channels-last."""
    B, C, Y, X = x_BCYX.shape
    return x_BCYX.permute(0, 2, 3, 1).reshape(B, Y, 1, X * C).permute(0, 3, 1, 2)


class _RowNorm(torch.autograd.Function):
    """(x - mean) / std * weight + bias, then ReLU if wanted; also returns mean and population variance."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, relu):
        C, X = x.shape[1], x.shape[3]
        rows = as_rows(x)
        means, variances = torch.batch_norm_update_stats(rows, None, None, 0.0)
        means, variances = means.view(X, C), variances.view(X, C)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        inv_std = torch.rsqrt(var + eps)
        scale = weight * inv_std
        y = torch.addcmul((bias - mean * scale).repeat(X)[:, None, None], rows, scale.repeat(X)[:, None, None])
        if relu:
            y.relu_()
        y = y.permute(0, 2, 3, 1).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        ctx.save_for_backward(x, y if relu else None, weight, mean, inv_std)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        x, y, weight, mean, inv_std = ctx.saved_tensors
        C, X = x.shape[1], x.shape[3]
        rows, grad = as_rows(x), as_rows(grad.contiguous(memory_format=torch.channels_last))
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, as_rows(y), 0)
        wide = [v.repeat(X) for v in (weight, mean, inv_std)]
        sums = torch.ops.aten.native_batch_norm_backward(grad, rows, wide[0], None, None, *wide[1:], True, 0.0, [False, True, True])
        grad_weight, grad_bias = (s.view(X, C).sum(0) for s in sums[1:])
        num = x.numel() / C
        # d x = scale * (grad - mean(grad) - x_normalised * mean(grad * x_normalised)), gathered as a * grad + b * x + c
        a = weight * inv_std
        b = -a * inv_std * grad_weight / num
        c = -a * grad_bias / num - b * mean
        a, b, c = (v.repeat(X)[:, None, None] for v in (a, b, c))
        grad_x = torch.addcmul(c, rows, b).addcmul_(grad, a)
        return grad_x.permute(0, 2, 3, 1).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2), grad_weight, grad_bias, None, None


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with its parameters and buffers, followed by a ReLU if wanted."""

    def __init__(self, channels: int, relu: bool):
        super().__init__(channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of the batch (of all processes) and update the running ones."""
        if distributed.world_size() > 1:
            y = distributed.GlobalBatchNorm2d.forward(self, x)
        elif x.is_cuda or x.dtype != torch.float32 or torch.compiler.is_compiling():
            y = super().forward(x)
        else:
            y, mean, var = _RowNorm.apply(x.contiguous(memory_format=torch.channels_last), self.weight, self.bias, self.eps, self.relu)
            with torch.no_grad():
                num = x.numel() / x.shape[1]
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * (num / (num - 1)), self.momentum)
            return y
        return F.relu(y, inplace=True) if self.relu else y

    def instance(self, x: Tensor) -> Tensor:
        """Normalise each patch with its own statistics, leaving the running ones alone; no gradient. May overwrite ``x``."""
        B, C, Y, X = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(B, Y, X * C)

        def mean_of(rows: Tensor) -> Tensor:
            return rows.mean(1).view(B, X, C).mean(1)

        def widen(v: Tensor) -> Tensor:
            return v.repeat(1, X)[:, None]

        rows = rows - widen(mean_of(rows))
        scale = self.weight * torch.rsqrt(mean_of(rows.square()) + self.eps)
        rows = torch.addcmul(widen(self.bias[None]), rows, widen(scale))
        if self.relu:
            rows.relu_()
        return rows.view(B, Y, X, C).permute(0, 3, 1, 2)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernel and bias of the convolution before it, with the running statistics folded in."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return weight * scale[:, None, None, None], (bias - self.running_mean) * scale + self.bias
