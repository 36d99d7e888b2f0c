"""Losses of images with a target: as straightforward sums of numpy and scipy say."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from microlatent.losses import correlation, correlation_sums, ms_ssim, refuse_small_crops, weighted_mse

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def pair(shape, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    y = 4 * ndimage.gaussian_filter(rng.standard_normal(shape), (*[0] * (len(shape) - 2), 2, 2))
    return (y + noise * rng.standard_normal(shape)).astype(np.float32), y.astype(np.float32)


def straightforward(x, y, scales):
    """MS-SSIM of a plane."""
    data_range, weights, product = max(1.0, y.max() - y.min()), WEIGHTS[:scales] / WEIGHTS[:scales].sum(), 1.0
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def blur(image):
        return ndimage.gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    for scale, weight in enumerate(weights):
        if scale:
            x, y = (image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2] for image in (x, y))
            x, y = ((image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4 for image in (x, y))
        mx, my = blur(x), blur(y)
        value = (2 * (blur(x * y) - mx * my) + c2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
        if scale == scales - 1:
            value = value * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        product *= value.mean() ** weight
    return product


@pytest.mark.parametrize(("side", "scales"), [(176, 5), (90, 4), (45, 3), (20, 1)])
def test_ms_ssim_is_that_of_the_plain_formula_in_every_channel_and_plane(side, scales):
    x, y = pair((2, 2, 3, side, side + 3))
    expected = [
        np.mean([straightforward(a, b, scales) for a, b in zip(*planes, strict=True)])
        for planes in zip(x.astype(float).reshape(2, 6, side, -1), y.astype(float).reshape(2, 6, side, -1), strict=True)
    ]
    found = ms_ssim(torch.from_numpy(x), torch.from_numpy(y), scales)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(
        ms_ssim(torch.from_numpy(x[:, :, 0]), torch.from_numpy(y[:, :, 0]), scales)[0],
        np.mean(
            [straightforward(*both, scales) for both in zip(x[0, :, 0].astype(float), y[0, :, 0].astype(float), strict=True)]
        ),
        rtol=1e-4,
    )


def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise_and_is_not_spoilt_by_half_precision():
    y = torch.from_numpy(pair((3, 1, 48, 48))[1])
    assert ms_ssim(y, y, 3).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    little, much = (ms_ssim(torch.from_numpy(pair((3, 1, 48, 48), noise)[0]), y, 3) for noise in (0.1, 1.0))
    assert (little > much).all()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ms_ssim(y + 0.1, y, 3), ms_ssim((y + 0.1).double(), y, 3), rtol=1e-3, atol=0)


def test_ms_ssim_can_be_descended_from_images_of_opposite_structure_and_from_blank_ones():
    y = torch.from_numpy(pair((2, 1, 48, 48))[1])
    for start in (-y, torch.zeros_like(y)):
        x = start.clone().requires_grad_()
        (1 - ms_ssim(x, y, 3)).mean().backward()
        assert torch.isfinite(x.grad).all()


def test_crops_too_small_for_the_scales_are_refused_with_what_fits():
    refuse_small_crops((5, 176, 200), 5)
    with pytest.raises(
        ValueError, match=r"msssim_scales=5 needs crops of 176 x 176 px or more, but they have 64 x 200.*scales=3,"
    ):
        refuse_small_crops((64, 200), 5)
    with pytest.raises(ValueError, match=r"needs crops of 22 x 22 .* Take larger crops, or choose model\.loss=mse"):
        refuse_small_crops((8, 8), 2)


def test_weighted_error_is_the_mean_where_there_is_weight_and_nothing_where_there_is_none():
    x, y = (torch.from_numpy(one) for one in pair((2, 2, 6, 6)))
    weight = torch.zeros(2, 1, 6, 6)
    weight[0, :, :3] = 0.5
    torch.testing.assert_close(weighted_mse(x, y, weight), (x - y)[0, :, :3].square().mean() / 2)
    torch.testing.assert_close(weighted_mse(x, y, torch.ones(1)), (x - y).square().mean())


def test_correlation_is_over_all_pixels_of_a_part_however_it_comes_in_batches():
    x, y = pair((6, 2, 8, 8))
    parts = [correlation_sums(torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in (slice(0, 4), slice(4, 6))]
    found = correlation({name: parts[0][name] + parts[1][name] for name in parts[0]})
    np.testing.assert_allclose(found, [np.corrcoef(x[:, k].ravel(), y[:, k].ravel())[0, 1] for k in range(2)], rtol=1e-6)
    assert correlation(correlation_sums(torch.ones(2, 1, 4, 4), torch.from_numpy(y[:2, :1, :4, :4]))).tolist() == [0]
