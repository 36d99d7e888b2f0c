"""Normalisation: what each mode promises, statistics of the given rows alone, and the way back to counts."""

import numpy as np
import pytest
import torch

from microlatent.data.normalise import Normaliser, _percentiles
from microlatent.data.store import Moments

NAMES = ["CD8", "DAPI"]


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return np.stack([rng.gamma(0.5, 40, (30, 8, 8)), rng.poisson(300, (30, 8, 8))], 1).astype(np.uint16)


def fitted(mode, counts, **options):
    return Normaliser.fit(mode, NAMES, Moments.of(counts), lambda: iter(np.array_split(counts, 4)), **options)


def test_gauss_takes_the_lowest_and_highest_training_pixel_to_0_and_100(counts):
    x = fitted("gauss", counts).apply(torch.from_numpy(counts.astype(np.float32)))
    np.testing.assert_allclose(x.amin((0, 2, 3)), [0, 0], atol=1e-4)
    np.testing.assert_allclose(x.amax((0, 2, 3)), [100, 100], rtol=1e-6)


def test_bern_is_one_above_the_training_mean(counts):
    x = fitted("bern", counts).apply(torch.from_numpy(counts.astype(np.float32)))
    expected = counts > counts.mean((0, 2, 3), keepdims=True)
    np.testing.assert_array_equal(x.numpy(), expected)


def test_dataset_has_mean_0_and_variance_1_over_all_pixels(counts):
    x = fitted("dataset", counts, cofactor=5.0).apply(torch.from_numpy(counts.astype(np.float32)))
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.var((0, 2, 3), unbiased=False), 1, rtol=1e-4)


@pytest.mark.parametrize("mode", ["gauss", "dataset", "none"])
@pytest.mark.parametrize("cofactor", [None, 5.0])
def test_counts_come_back(mode, cofactor, counts):
    normaliser = fitted(mode, counts, cofactor=cofactor)
    x = normaliser.apply(torch.from_numpy(counts.astype(np.float32)))
    np.testing.assert_array_equal(normaliser.invert(x).round().numpy(), counts)


def test_what_cannot_be_undone_says_so(counts):
    with pytest.raises(ValueError, match=r"data\.normalise=bern cannot be undone"):
        fitted("bern", counts).invert(torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pixels_are_cut_at_the_percentile_of_the_training_pixels(dtype, counts):
    counts = counts.astype(dtype)
    normaliser = fitted("none", counts, percentile=97.0)
    expected = np.percentile(counts.swapaxes(0, 1).reshape(2, -1), 97, axis=1, method="inverted_cdf")
    np.testing.assert_allclose(normaliser.ceiling, expected, rtol=0 if dtype is np.uint16 else 1e-3)
    brighter = normaliser.apply(torch.full((1, 2, 8, 8), 1e5))
    np.testing.assert_allclose(brighter[0, :, 0, 0], normaliser.ceiling)


def test_percentile_does_not_depend_on_the_blocks(counts):
    whole = _percentiles(Moments.of(counts), lambda: iter([counts]), 99.0)
    assert whole == _percentiles(Moments.of(counts), lambda: iter(np.array_split(counts, 7)), 99.0)


@pytest.mark.parametrize("mode", ["gauss", "bern", "dataset"])
def test_a_constant_channel_is_named(mode, counts):
    counts[:, 0] = 7
    with pytest.raises(ValueError, match=r"Channel CD8 is constant in all 30 training patches, .* data\.channels"):
        fitted(mode, counts)


def test_a_marker_that_cutting_makes_constant_is_named_with_the_remedy(counts):
    counts[:, 0] = 0
    counts[0, 0, 0, 0] = 900
    with pytest.raises(ValueError, match=r"CD8 is constant .* cut at data\.clip_percentile=99.*raise data\.clip_percentile"):
        fitted("gauss", counts, percentile=99.0)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6, 3e38])
@pytest.mark.parametrize("spacings", [0, 1, 3])
def test_percentiles_of_real_numbers_that_hardly_vary_lie_between_them(level, spacings):
    low = np.float32(level)
    high = low + spacings * np.spacing(low)
    counts = np.full((4, 1, 8, 8), low, np.float32)
    counts[0, 0, 0] = high
    (ceiling,) = _percentiles(Moments.of(counts), lambda: iter([counts[:1], counts[1:]]), 99.0)
    assert low <= np.float32(ceiling) <= high
    assert spacings or ceiling == low


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6])
def test_a_constant_channel_of_real_numbers_is_named_whatever_the_percentile(level, counts):
    counts = counts.astype(np.float32)
    counts[:, 0] = level
    with pytest.raises(ValueError, match=r"Channel CD8 is constant in all 30 training patches .*data\.channels"):
        fitted("gauss", counts, percentile=99.0)
    x = fitted("none", counts, percentile=99.0).apply(torch.from_numpy(counts.copy()))
    np.testing.assert_array_equal(x[:, 0], counts[:, 0])


def test_its_state_makes_the_same_again(counts):
    normaliser = fitted("gauss", counts, cofactor=5.0, percentile=99.0)
    x = torch.from_numpy(counts.astype(np.float32))
    torch.testing.assert_close(Normaliser(**normaliser.state()).apply(x.clone()), normaliser.apply(x.clone()), rtol=0, atol=0)
