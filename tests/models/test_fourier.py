"""Transposed convolution in Fourier space: the same numbers and gradients as the direct one."""

import pytest
import torch
import torch.nn.functional as F

from microlatent.models.fourier import Axis, FourierConvTranspose, _Convolve

# Channels in and out, side of the map, side of the kernel: the reference's on digits, then odd and even in every mix.
CASES = [
    (3, 3, 7, 14),
    (3, 1, 14, 28),
    (4, 2, 8, 16),
    (2, 3, 5, 10),
    (2, 2, 9, 9),
    (2, 2, 8, 3),
    (1, 2, 7, 4),
    (2, 1, 4, 31),
    (1, 1, 1, 1),
]


def direct(x, weight, bias):
    """TensorFlow's 'SAME': the window of the full convolution that starts (k - 1) // 2 pixels in."""
    start, size = (weight.shape[-1] - 1) // 2, x.shape[-1]
    y = F.conv_transpose2d(x, weight)[:, :, start : start + size, start : start + size]
    return y + bias[:, None, None]


def build(case):
    torch.manual_seed(0)
    layer = FourierConvTranspose(*case)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer, torch.randn(3, case[0], case[2], case[2], requires_grad=True)


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_equal_the_direct_convolution(case):
    layer, x = build(case)
    ours, theirs = layer(x), direct(x, layer.weight, layer.bias)
    leaves = (x, layer.weight, layer.bias)
    grad = torch.randn_like(ours)
    assert torch.allclose(ours, theirs, atol=1e-4)
    for a, b in zip(torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(theirs, leaves, grad), strict=True):
        assert (a - b).abs().max() < 1e-4 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_no_shorter_transform_is_exact(case):
    """The length is the shortest at which nothing folds into the wanted window, by brute force over what folds where."""
    size, kernel = case[2:]
    axis = Axis.of(size, kernel)
    wanted = range(axis.offset, axis.offset + size)
    entries = range(size + axis.taps - 1)

    def is_exact(length):
        return not any((q - w) % length == 0 for w in wanted for q in entries if q != w)

    assert is_exact(axis.length)
    assert axis.length == 1 or not is_exact(axis.length - 1)


def test_taps_that_never_meet_the_map_have_no_gradient():
    layer, x = build((2, 2, 8, 16))
    layer(x).square().sum().backward()
    used = layer.weight.grad.abs().sum((0, 1)) > 0
    assert used[:15, :15].all()
    assert not used[15].any()
    assert not used[:, 15].any()


def test_gradients_agree_with_finite_differences():
    layer, x = build((2, 1, 3, 6))
    matrices = [getattr(layer, name).double() for name in layer.matrices]
    weight, x = layer.weight.detach().double().requires_grad_(), x.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: _Convolve.apply(a, b, layer.axis, *matrices), (x, weight), atol=1e-5)


def test_bf16_autocast_does_not_touch_it():
    layer, x = build((3, 2, 7, 14))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = layer(x)
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse, layer(x))


def test_memory_layout_does_not_matter():
    layer, x = build((4, 3, 8, 16))
    flat = layer(x)
    layer.to(memory_format=torch.channels_last)
    assert torch.allclose(layer(x.to(memory_format=torch.channels_last)), flat, atol=1e-5)


def test_two_kernels_side_by_side_equal_two_layers():
    one, x = build((3, 2, 7, 14))
    two = FourierConvTranspose(3, 2, 7, 14)
    both = one(x, torch.cat([one.weight, two.weight], 1), torch.cat([one.bias, two.bias]))
    assert torch.allclose(both, torch.cat([one(x), two(x)], 1), atol=1e-5)


@pytest.mark.slow
def test_compiled_equals_eager():
    layer, x = build((2, 2, 4, 8))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    grad, eager_grad = (torch.autograd.grad(f(x).square().sum(), layer.weight)[0] for f in (compiled, layer))
    assert torch.allclose(grad, eager_grad, atol=1e-4)
