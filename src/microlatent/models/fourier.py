"""Transposed convolution with kernels larger than the image, in Fourier space: exact, and tens of times faster on a CPU.

A kernel as large as the target map costs k^2 multiplications per pixel and pair of channels; in Fourier space it costs one
complex one. The images are small (8 to 64 pixels), so the discrete Fourier transform is not computed with the butterflies of
``torch.fft`` but as two matrix products, one per axis. They run at the speed of the matrix unit, need no complex numbers (so
they compile, and their gradients are the transposed products), can have any length, and write the frequencies in front of
the images, where the product over channels wants them. With ``torch.fft`` the same takes up to twice as long.

How small a transform is exact. Per axis, an image of S pixels, a kernel of k taps and TensorFlow's 'SAME' padding give
y[j] = sum over i of x[i] w[j + p - i], with p = (k - 1) // 2 and 0 <= i, j < S. So tap t is used only if -S < t - p < S: taps
outside of first = max(0, p - S + 1) and last = min(k - 1, p + S - 1) never meet the image, and are cut off. The full
convolution of what is left has entries q = 0 .. S + m - 2 (m taps), of which q = o .. o + S - 1 are wanted (o = p - first). A
transform of length N folds entry q onto q + N and q - N. Nothing is folded into the wanted window if the first wanted entry
plus N lies behind the end, o + N > S + m - 2, and the last wanted entry minus N before the start, o + S - 1 - N < 0. With
k = 2 S that is m = 2 S - 1, o = S - 1 and N = 2 S - 1: not longer than the kernel itself, where padding against all folding
would take 3 S - 1.

Shapes: B patches, C and D channels in and out, Y rows, X columns, R = B * C or C * D images, F frequencies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Axis(NamedTuple):
    """How one axis of an image is folded with a kernel."""

    first: int  # the first tap of the kernel that meets the image
    taps: int  # the number of taps that do
    offset: int  # where the wanted window starts in the full convolution
    length: int  # of the transform

    @classmethod
    def of(cls, size: int, kernel: int) -> Axis:
        """Return the shortest exact transform for an image of ``size`` pixels and ``kernel`` taps."""
        middle = (kernel - 1) // 2
        first, last = max(0, middle - size + 1), min(kernel - 1, middle + size - 1)
        taps, offset = last - first + 1, middle - first
        return cls(first, taps, offset, max(size + taps - 1 - offset, offset + size))


def waves(num_frequencies: int, places: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every frequency at every place, each (frequencies, places) float32; exact to the last digit."""
    turns = torch.arange(num_frequencies)[:, None] * places % length  # whole numbers, so that no digit is lost
    angle = turns.double() * (2 * math.pi / length)
    return angle.cos().float(), angle.sin().float()


def over_columns(axis: Axis, columns: int) -> Tensor:
    """Matrix from the columns of real images to their frequencies, real and imaginary part in turn; (2 frequencies, X)."""
    cos, sin = waves(axis.length // 2 + 1, torch.arange(columns), axis.length)
    return torch.stack([cos, -sin], 1).flatten(0, 1)


def over_rows(axis: Axis, rows: int) -> Tensor:
    """Matrix from rows (real parts, then imaginary) to frequencies, real and imaginary part in turn; (2 frequencies, 2 Y)."""
    cos, sin = waves(axis.length, torch.arange(rows), axis.length)
    return torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1).flatten(0, 1)


def back_to_rows(axis: Axis, rows: int) -> Tensor:
    """Matrix from frequencies, real and imaginary part in turn, to the wanted rows (real parts, then imaginary)."""
    cos, sin = waves(axis.length, torch.arange(rows) + axis.offset, axis.length)
    return torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1).flatten(0, 1).T / axis.length


def back_to_columns(axis: Axis, columns: int) -> Tensor:
    """Matrix from frequencies, real and imaginary part in turn, to the wanted columns of real images."""
    frequencies = torch.arange(axis.length // 2 + 1)
    cos, sin = waves(len(frequencies), torch.arange(columns) + axis.offset, axis.length)
    # A real image has every frequency twice, but for 0 and, where the length is even, the highest.
    alone = (frequencies == 0) | (2 * frequencies == axis.length)
    scale = torch.where(alone, 1.0, 2.0)[:, None, None] / axis.length
    return (torch.stack([cos, -sin], 1) * scale).flatten(0, 1)


class Matrices(NamedTuple):
    """Transforms of maps and kernels, and back to the wanted window of maps; every frequency has two parts."""

    columns: Tensor  # (2 frequencies over X, X)
    rows: Tensor  # (2 frequencies over Y, 2 Y)
    kernel_columns: Tensor
    kernel_rows: Tensor
    back_rows: Tensor  # (2 Y, 2 frequencies over Y)
    back_columns: Tensor  # (2 frequencies over X, X)


def each(matrix: Tensor, x_HKR: Tensor) -> Tensor:
    """Multiply every frequency over X by the same matrix."""
    return torch.bmm(matrix.expand(len(x_HKR), -1, -1), x_HKR)


def rows_first(x_BCYX: Tensor) -> Tensor:
    """Order pixels by row, channel, patch; then all products below read and write their matrices as they lie."""
    return x_BCYX.permute(2, 1, 0, 3).reshape(-1, x_BCYX.shape[3])


def to_frequencies(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Transform real images, rows first, to (frequencies over X, 2 frequencies over Y, images)."""
    return each(rows, (columns @ x.T).view(len(columns) // 2, rows.shape[1], -1))


def to_pixels(x_HKR: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Transform back, to real images with rows first; with transposed matrices also the gradient of ``to_frequencies``."""
    return each(rows, x_HKR).view(len(columns), -1).T @ columns


def as_real_matrix(w_FPDC: Tensor) -> Tensor:
    """Write complex matrices (P: real, imaginary part) as real ones, [[real, -imag], [imag, real]]; (F, 2 D, 2 C)."""
    F, P, D, C = w_FPDC.shape
    matrix = w_FPDC.new_empty(F, P, D, P, C)
    matrix[:, :, :, 0] = w_FPDC
    matrix[:, 1, :, 1] = w_FPDC[:, 0]
    matrix[:, 0, :, 1] = -w_FPDC[:, 1]
    return matrix.view(F, P * D, P * C)


class _Convolve(torch.autograd.Function):
    """The convolution; the gradients are the same products transposed."""

    @staticmethod
    def forward(ctx, x_BCYX, weight, axis, *matrices):
        m = Matrices(*matrices)
        (B, C, S, _), D, used = x_BCYX.shape, weight.shape[1], slice(axis.first, axis.first + axis.taps)
        x = to_frequencies(rows_first(x_BCYX), m.columns, m.rows).view(-1, 2 * C, B)
        w = rows_first(weight[:, :, used, used])
        w = as_real_matrix(to_frequencies(w, m.kernel_columns, m.kernel_rows).view(-1, 2, D, C))
        y = torch.bmm(w, x).view(len(m.columns) // 2, -1, D * B)
        ctx.save_for_backward(x, w, *matrices)
        ctx.axis, ctx.shapes = axis, (x_BCYX.shape, weight.shape)
        return to_pixels(y, m.back_rows, m.back_columns).view(S, D, B, S).permute(2, 1, 0, 3)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, w, *matrices = ctx.saved_tensors
        m, axis, (x_shape, w_shape) = Matrices(*matrices), ctx.axis, ctx.shapes
        (B, C, S, _), D, H = x_shape, w_shape[1], len(m.columns) // 2
        grad = to_frequencies(rows_first(grad), m.back_columns, m.back_rows.T).view(-1, 2 * D, B)
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.bmm(w.transpose(1, 2), grad).view(H, -1, C * B)
            grad_x = to_pixels(grad_x, m.rows.T, m.columns).view(S, C, B, S).permute(2, 1, 0, 3)
        if ctx.needs_input_grad[1]:
            grad_w = torch.bmm(grad, x.transpose(1, 2)).view(-1, 2, D, 2, C)
            real = grad_w[:, 0, :, 0] + grad_w[:, 1, :, 1]
            imag = grad_w[:, 1, :, 0] - grad_w[:, 0, :, 1]
            half = each(m.kernel_rows.T, torch.stack([real, imag], 1).view(H, -1, D * C))
            taps = half.view(2 * H, -1).T @ m.kernel_columns
            taps, used = taps.view(axis.taps, D, C, axis.taps).permute(2, 1, 0, 3), slice(axis.first, axis.first + axis.taps)
            grad_w = grad.new_zeros(w_shape)
            grad_w[:, :, used, used] = taps
        return grad_x, grad_w, None, *[None] * len(matrices)


class FourierConvTranspose(nn.Module):
    """Transposed convolution with stride 1 and 'SAME' padding of maps of a fixed size, computed in float32.

    Parameters
    ----------
    size
        Side of the maps, pixels.
    kernel
        Side of the kernel; larger than the map as a rule.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, kernel: int):
        super().__init__()
        self.size, self.kernel, self.axis = size, kernel, (axis := Axis.of(size, kernel))
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        matrices = Matrices(
            over_columns(axis, size),
            over_rows(axis, size),
            over_columns(axis, axis.taps),
            over_rows(axis, axis.taps),
            back_to_rows(axis, size),
            back_to_columns(axis, size),
        )
        self.matrices = Matrices._fields
        for name, matrix in matrices._asdict().items():
            self.register_buffer(name, matrix.contiguous(), persistent=False)

    def forward(self, x_BCYX: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Convolve with this layer's kernels, or with given ones of the same size; returns (B, D, Y, X) float32."""
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
        matrices = (getattr(self, name) for name in self.matrices)
        with torch.autocast(x_BCYX.device.type, enabled=False):
            y_BDYX = _Convolve.apply(x_BCYX.float(), weight.float(), self.axis, *matrices)
            return y_BDYX if bias is None else y_BDYX + bias.float()[:, None, None]
