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
    """View a channels-last image as (B, Y, X * C)."""
    return x_BCYX.permute(0, 2, 3, 1).flatten(2)


def from_rows(rows: Tensor, channels: int) -> Tensor:
    """View rows (B, Y, X * C) as a channels-last image (B, C, Y, X)."""
    return rows.unflatten(2, (-1, channels)).permute(0, 3, 1, 2)


def as_channels(rows: Tensor) -> Tensor:
    """View rows as an image of X * C channels and one column, for torch's batch normalisation."""
    return rows[:, :, None].permute(0, 3, 1, 2)


def widen(v_NC: Tensor, X: int) -> Tensor:
    """Repeat each of N vectors of C numbers for the X pixels of a row; (N, X * C)."""
    return v_NC[:, None].expand(-1, X, -1).flatten(1)


class _RowNorm(torch.autograd.Function):
    """(x - mean) / std * weight + bias, then ReLU if wanted, then a column of zeros on either side if wanted.

    Also returns mean and population variance, without gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps, relu, pad):
        B, C, Y, X = x.shape
        rows = as_rows(x)
        means, variances = torch.batch_norm_update_stats(as_channels(rows), None, None, 0.0)
        means, variances = means.view(X, C), variances.view(X, C)
        var_between, mean = torch.var_mean(means, 0, correction=0)
        var = variances.mean(0) + var_between
        inv_std = torch.rsqrt(var + eps)
        scale = weight * inv_std
        y = x.new_empty(B, Y, (X + 2 * pad) * C)
        y[:, :, : pad * C] = 0
        y[:, :, (X + pad) * C :] = 0
        inner = y[:, :, pad * C : (X + pad) * C]
        scale_row, shift_row = widen(torch.stack([scale, bias - mean * scale]), X)
        torch.addcmul(shift_row, rows, scale_row, out=inner)
        if relu:
            inner.relu_()
        ctx.relu, ctx.pad = relu, pad
        ctx.save_for_backward(x, y if relu else None, weight, mean, inv_std)
        ctx.mark_non_differentiable(mean, var)
        return from_rows(y, C), mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        x, y, weight, mean, inv_std = ctx.saved_tensors
        _, C, _, X = x.shape
        inner = slice(ctx.pad * C, (X + ctx.pad) * C)
        grad = as_rows(grad.contiguous(memory_format=torch.channels_last))[:, :, inner]
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y[:, :, inner], 0)
        rows = as_rows(x)
        weight_row, mean_row, inv_std_row = widen(torch.stack([weight, mean, inv_std]), X)
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            as_channels(grad), as_channels(rows), weight_row, None, None, mean_row, inv_std_row, True, 0.0, [False, True, True]
        )
        grad_weight, grad_bias = grad_weight.view(X, C).sum(0), grad_bias.view(X, C).sum(0)
        # d x = scale * (grad - mean(grad) - x_normalised * mean(grad * x_normalised)), gathered as a * grad + b * x + c
        num = x.numel() / C
        a = weight * inv_std
        b = -a * inv_std * grad_weight / num
        c = -a * grad_bias / num - b * mean
        a, b, c = widen(torch.stack([a, b, c]), X)
        grad_x = torch.addcmul(c, rows, b).addcmul_(grad, a)
        return from_rows(grad_x, C), grad_weight, grad_bias, None, None, None


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation, then a ReLU if wanted, then (in training) a column of zeros on either side if wanted."""

    def __init__(self, channels: int, relu: bool, pad: bool = False):
        super().__init__(channels)
        self.relu, self.pad = relu, int(pad)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of the batch (of all processes) and update the running ones."""
        if distributed.world_size() > 1:
            y = self.finish(distributed.global_batch_norm(self, x.float()))
            return F.pad(y, (1, 1)) if self.pad else y
        if x.is_cuda or x.dtype != torch.float32 or torch.compiler.is_compiling():
            y = self.finish(super().forward(x))
            return F.pad(y, (1, 1)) if self.pad else y
        x = x.contiguous(memory_format=torch.channels_last)
        y, mean, var = _RowNorm.apply(x, self.weight, self.bias, self.eps, self.relu, self.pad)
        with torch.no_grad():
            num = x.numel() / x.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (num / max(num - 1, 1)), self.momentum)
        return y

    def finish(self, y: Tensor) -> Tensor:
        """Apply the ReLU, where there is one."""
        return F.relu(y, inplace=True) if self.relu else y

    def instance(self, x: Tensor) -> Tensor:
        """Normalise each patch with its own statistics, leaving the running ones alone; no gradient; overwrites ``x``."""
        C, X = x.shape[1], x.shape[3]
        rows = as_rows(x.float())

        def mean_of(rows: Tensor) -> Tensor:
            return rows.mean(1).view(-1, X, C).mean(1)

        rows.sub_(widen(mean_of(rows), X)[:, None])
        # A few patches at a time, so that the squares stay in the processor's cache.
        var = torch.cat([mean_of(part.square()) for part in rows.split(max(1, 2**18 // rows[0].numel()))])
        rows.mul_(widen(self.weight * torch.rsqrt(var + self.eps), X)[:, None]).add_(widen(self.bias[None], X))
        return self.finish(from_rows(rows, C))

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernel and bias of the convolution before it, with the running statistics folded in."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return weight * scale[:, None, None, None], (bias - self.running_mean) * scale + self.bias
