"""A field that passes in tiles and planes has the values of one that passes whole; every plane is read once and written once."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from microlatent.systems.plates.tiles import Decoded, Tiling, averaged, predict_field, spans, through_planes, windows
from tests.plates.hourglass import Hourglass, HourglassConfig

STRIDE, HALO = Hourglass.stride, Hourglass.receptive_field // 2


def network_of(channels=1, planes=1, all_planes=False):
    """Return a network of numpy."""
    torch.manual_seed(0)
    model = Hourglass(HourglassConfig(planes=planes, all_planes=all_planes), channels, (planes, 8, 8), 2)

    def network(x):
        network.calls += 1
        y = model.predict(torch.from_numpy(x)).numpy()
        return y if y.ndim == 5 else y[:, :, None]

    network.calls = 0
    return network


class Field:
    """An array with the face of an image; counts what is decoded."""

    def __init__(self, array, chunks=None):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.chunks = chunks or (1, 1, 1, 64, 64)
        self.decoded = []

    def __getitem__(self, box):
        self.decoded.append(tuple(part.start for part in box))
        return self.array[box]


def field(*shape, dtype="u2", seed=0, **options):
    return Field(np.random.default_rng(seed).integers(0, 4000, shape).astype(dtype), **options)


def predicted(image, network, tiling, channels=(0,), **options):
    lines = np.tile(np.float32([2000, 1000]), (image.shape[0], len(channels), 1))
    out = np.full((image.shape[0], 2, *image.shape[2:]), np.nan, np.float32)

    def write(y, t, z, row, column):
        into = out[t, :, z, row : row + y.shape[1], column : column + y.shape[2]]
        assert np.isnan(into).all()  # nothing is written twice
        into[...] = y

    predict_field(image, channels, network, lines, write, tiling, **options)
    return out


def equal(tiled, whole):
    return np.abs(tiled - whole).max() <= 1e-5 * whole.std()


# Tiles


@pytest.mark.parametrize("shape", [(101, 77), (128, 96), (30, 200), (5, 7), (64, 65)])
def test_tiles_have_the_values_of_the_whole_frame(shape):
    image, network = field(1, 1, 1, *shape), network_of()
    whole = predicted(image, network, Tiling(tile_px=512))
    assert not np.isnan(whole).any()
    assert equal(predicted(image, network, Tiling(tile_px=32, halo_px=HALO, align_px=STRIDE)), whole)


def test_a_halo_below_the_receptive_field_shows_at_the_seams():
    image, network = field(1, 1, 1, 128, 128), network_of()
    whole = predicted(image, network, Tiling(tile_px=512))
    for wrong in ({"halo_px": 4, "align_px": STRIDE}, {"halo_px": HALO + 1, "align_px": 1}):
        assert not equal(predicted(image, network, Tiling(tile_px=32, **wrong)), whole)


def test_tiles_cover_every_pixel_once_and_neighbours_follow_each_other():
    found = [(span.core.start, span.core.stop) for span in spans(1001, Tiling(tile_px=512, halo_px=48, align_px=8))]
    assert found == [(0, 512), (512, 1001)]
    places = []
    predict_field(
        field(1, 1, 1, 64, 64), [0], network_of(), np.ones((1, 1, 2)), lambda y, t, z, a, b: places.append((a, b)), Tiling(16)
    )
    assert places[:5] == [(0, 0), (0, 16), (16, 0), (16, 16), (0, 32)]
    assert len(set(places)) == 16


def test_tiles_of_a_large_frame_are_of_one_size():
    for size in (1024, 4096):
        found = spans(size, Tiling(tile_px=512, halo_px=58, align_px=8))
        assert len({span.read.stop - span.read.start for span in found}) == 1


# Planes


@pytest.mark.parametrize("num_planes", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("planes", [1, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_plane_is_read_once_and_predicted_once_from_the_planes_around_it(num_planes, planes, batch_size):
    stack, reads = np.arange(num_planes, dtype=np.float32), []

    def read(z):
        reads.append(z)
        return np.full((1, 2, 2), stack[z])

    tiling = Tiling(planes=planes, batch_size=batch_size)
    found = list(through_planes(read, lambda x: x.mean(2, keepdims=True), num_planes, tiling))
    assert reads == list(range(num_planes))
    assert [z for z, _ in found] == list(range(num_planes))
    padded = np.pad(stack, planes // 2, mode="reflect") if planes > 1 else stack
    expected = [padded[z : z + planes].mean() for z in range(num_planes)]
    np.testing.assert_allclose([y[0, 0, 0] for _, y in found], expected, rtol=1e-6)


@pytest.mark.parametrize("z_step", [1, 2, 3, 4])
@pytest.mark.parametrize("num_planes", [2, 4, 7, 12])
def test_windows_that_overlap_are_blended_by_their_weights_at_any_step(z_step, num_planes):
    tiling = Tiling(planes=4, all_planes=True, z_step=z_step, batch_size=3)
    noise, reads = np.random.default_rng(0).normal(size=(num_planes, 4, 3, 3)).astype(np.float32), []

    def read(z):
        reads.append(z)
        return np.zeros((1, 3, 3), np.float32)

    numbers = iter(range(100))

    def network(x):
        return np.stack([noise[next(numbers)][None] for _ in x])

    found = list(through_planes(read, network, num_planes, tiling))
    assert reads == [z for z, _ in found] == list(range(num_planes))
    total, weight = np.zeros((num_planes, 3, 3)), np.zeros((num_planes, 1, 1))
    for k, (_, first) in enumerate(windows(num_planes, tiling)):
        for q, share in enumerate((1, 2, 2, 1)):
            if 0 <= first + q < num_planes:
                total[first + q] += share * noise[k, q]
                weight[first + q] += share
    np.testing.assert_allclose(np.stack([y[0] for _, y in found]), total / weight, atol=1e-6)


@pytest.mark.parametrize("about", [{"planes": 3}, {"planes": 3, "all_planes": True, "z_step": 2}, {"planes": 5}])
def test_a_stack_in_tiles_has_the_values_of_the_whole_stack(about):
    image, network = field(2, 3, 6, 70, 50), network_of(2, about["planes"], about.get("all_planes", False))
    whole = predicted(image, network, Tiling(tile_px=512, **about), (2, 0))
    assert not np.isnan(whole).any()
    tiling = Tiling(tile_px=32, halo_px=HALO, align_px=STRIDE, batch_size=2, **about)
    assert equal(predicted(image, network, tiling, (2, 0)), whole)


# Reading


@pytest.mark.parametrize("chunks", [(1, 1, 1, 64, 64), (1, 3, 6, 300, 300), (2, 1, 2, 10, 300), (1, 2, 4, 7, 11)])
def test_chunks_of_any_shape_give_the_same(chunks):
    array = field(2, 3, 6, 300, 300).array
    source = Decoded(Field(array, chunks), [2, 0], 64)
    for t, z, rows, columns in [(0, 0, slice(0, 300), slice(5, 9)), (1, 5, slice(250, 300), slice(290, 300))]:
        np.testing.assert_array_equal(source.plane(t, z, (rows, columns)), array[t, [2, 0], z, rows, columns])


def test_a_chunk_of_whole_planes_is_decoded_once_though_many_tiles_read_it():
    image = field(1, 2, 4, 96, 96, chunks=(1, 1, 2, 96, 96))
    predicted(image, network_of(2, 3), Tiling(tile_px=16, halo_px=HALO, align_px=STRIDE, planes=3), (0, 1))
    assert len(image.decoded) == len(set(image.decoded)) == 4


def test_what_is_kept_of_decoded_chunks_does_not_grow_with_the_frame():
    held = []
    for side in (1024, 4096):
        source = Decoded(Field(np.broadcast_to(np.uint16(1), (1, 1, 1, side, side)), (1, 1, 1, 256, 256)), [0], 300)
        for first in range(0, side, 256):
            source.plane(0, 0, (slice(0, 300), slice(first, first + 256)))
            held.append(source.held)
    assert max(held) < 10 * 256 * 256 * 2


def test_pixels_that_are_no_numbers_do_not_spread():
    image = field(1, 1, 1, 40, 40, dtype="f4")
    image.array[0, 0, 0, 3, 3] = np.nan
    assert np.isfinite(predicted(image, network_of(), Tiling())).all()


# Other pixel sizes, other directions


@pytest.mark.parametrize("ratio", [(0.5, 0.5), (2.0, 1.3), (1.0, 1.7)])
def test_another_pixel_size_gives_the_same_tiled_and_whole(ratio):
    image, network = field(1, 1, 1, 101, 77), network_of()
    whole = predicted(image, network, Tiling(tile_px=512), ratio=ratio)
    tiling = Tiling(tile_px=32, halo_px=HALO, align_px=STRIDE)
    assert equal(predicted(image, network, tiling, ratio=ratio), whole)


def test_a_smooth_image_comes_back_from_another_pixel_size_as_it_was():
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(90, 61)), 6)
    smooth = (smooth / smooth.std() * 300 + 2000).astype(np.float32)
    image = Field(smooth[None, None, None])
    for ratio in ((0.5, 0.5), (1.9, 1.9)):
        same = predicted(image, lambda x: np.repeat(x, 2, 1), Tiling(tile_px=32), ratio=ratio)[0, 0, 0]
        assert np.abs(same * 1000 + 2000 - smooth).max() < 0.12 * smooth.std()


@pytest.mark.parametrize("how", ["mean", "median"])
def test_copies_are_turned_back_and_averaged_the_same_in_tiles(how):
    image, network = field(1, 1, 1, 66, 50), network_of()
    every = averaged(network, how, STRIDE)
    whole = predicted(image, every, Tiling(tile_px=512))
    assert network.calls == 8
    assert equal(predicted(image, every, Tiling(tile_px=32, halo_px=HALO, align_px=STRIDE)), whole)
    turned = Field(np.ascontiguousarray(np.rot90(image.array, 1, (-2, -1))))
    square = averaged(network, how, 1)
    image, turned = (Field(np.ascontiguousarray(one.array[..., :48, :48])) for one in (image, turned))
    turned.array = np.ascontiguousarray(np.rot90(image.array, 1, (-2, -1)))
    expected = np.rot90(predicted(image, square, Tiling()), 1, (-2, -1))
    np.testing.assert_allclose(predicted(turned, square, Tiling()), expected, atol=1e-5)


def test_pixels_that_are_not_square_are_never_turned_by_a_quarter():
    network = network_of()
    x = np.zeros((1, 1, 1, 8, 12), np.float32)
    averaged(lambda x: network(x) if x.shape[-2:] == (8, 12) else 1 / 0, "mean", is_square=False)(x)
    assert network.calls == 4
