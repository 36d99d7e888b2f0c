"""systems/kikuchi/preprocessing.py and systems/kikuchi/patterns.py: the same as scipy and as naive loops, whatever the blocks."""

import gc
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from microlatent.systems.kikuchi import preprocessing
from microlatent.systems.kikuchi.assemble import with_truth
from microlatent.systems.kikuchi.ebsd import find_scans
from microlatent.systems.kikuchi.patterns import Preprocessing
from microlatent.systems.kikuchi.schema import AssembleKikuchiConfig
from tests import ebsd_files


@dataclass
class FakeScan:
    """What Preprocessing asks of a scan; ``kept`` are the points that there are."""

    pixels: np.ndarray  # (rows, cols, h, w)
    kept: np.ndarray | None = None
    static_background: np.ndarray | None = None
    background_corrected: bool = False
    path: Path = Path("fake.h5")
    format: str = "fake"
    reads: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.map_shape, self.pattern_shape = self.pixels.shape[:2], self.pixels.shape[2:]
        kept = np.ones(self.map_shape, bool) if self.kept is None else self.kept
        y, x = np.nonzero(kept)
        self.points = pd.DataFrame({"x": x, "y": y})

    def read(self, rows):
        """Return patterns (n, h, w) of points."""
        self.reads.append(len(rows))
        return self.pixels[self.points["y"].to_numpy()[rows], self.points["x"].to_numpy()[rows]]


def drawn(rows=5, cols=6, h=20, w=24, seed=0):
    """Return patterns (rows, cols, h, w) uint8 of a few blurred blobs over a background, and that background."""
    rng = np.random.default_rng(seed)
    shape = ndimage.gaussian_filter(rng.normal(size=(rows, cols, h, w)), (1, 1, 1, 1)) * 400
    background = 90 + 60 * np.exp(-(((np.mgrid[:h, :w] - np.array([h / 3, w / 2])[:, None, None]) / 15) ** 2).sum(0))
    counts = background + shape + 4 * rng.normal(size=shape.shape)
    return np.clip(counts, 1, 255).astype(np.uint8), background.astype(np.uint8)


def config(**keys):
    return AssembleKikuchiConfig(name="assemble", **keys)


def whole(scan, max_points=10**9, **keys):
    """Return patterns and extra columns of a scan, all blocks put together."""
    positions, x, extra = zip(*Preprocessing(scan, config(**keys)).blocks(max_points), strict=True)
    assert (np.concatenate(positions) == np.arange(len(scan.points))).all()
    return np.concatenate(x), pd.concat(extra, ignore_index=True)


def tensor(values):
    return torch.from_numpy(np.asarray(values, np.float32))


# ----------------------------------------------------------------------------------------------------- single steps


@pytest.mark.parametrize(("h", "w", "std"), [(60, 60, 7.5), (80, 100, 12.5), (20, 31, 2.3), (7, 5, 9.0), (12, 12, 0.4)])
def test_blur_is_that_of_scipy(h, w, std):
    x = np.random.default_rng(0).normal(100, 20, (3, h, w))
    expected = np.stack([ndimage.gaussian_filter(one, std, mode="reflect", truncate=4.0) for one in x])
    matrices = [preprocessing.blur_matrix(side, std).numpy() for side in (h, w)]
    assert matrices[0] @ x @ matrices[1].T == pytest.approx(expected, abs=1e-9)
    assert preprocessing.blur(torch.from_numpy(x), std).numpy() == pytest.approx(expected, abs=5e-4)
    assert preprocessing.remove_dynamic(tensor(x), std, "subtract").numpy() == pytest.approx(x - expected, abs=1e-3)
    assert preprocessing.remove_dynamic(tensor(x), std, "divide").numpy() == pytest.approx(x / expected, abs=1e-4)


def test_dynamic_background_removes_level_and_slope_whatever_they_are():
    x = np.random.default_rng(0).normal(size=(2, 60, 60))
    got, expected = (preprocessing.remove_dynamic(torch.from_numpy(one), 7.5, "subtract").numpy() for one in (x + 500, x))
    assert got == pytest.approx(expected, abs=1e-3)
    slope = 20 * np.linspace(-1, 1, 60)
    left = preprocessing.remove_dynamic(torch.from_numpy(x + slope), 7.5, "subtract").numpy() - expected
    assert np.abs(left[..., 20:40]).max() < 0.01 * 20  # the mirror bends it near the edges


def test_blur_to_divide_by_must_be_positive():
    with pytest.raises(ValueError, match=r"A pattern's blur of 2 px is -1 somewhere.*Use task.dynamic_background=subtract"):
        preprocessing.remove_dynamic(torch.full((1, 8, 8), -1.0), 2.0, "divide")


def test_static_background_leaves_what_differs_and_the_level():
    x, background = drawn()
    x, background = tensor(x[0]), tensor(background)
    subtracted = preprocessing.remove_static(x, background, "subtract")
    assert (subtracted - x).std(0).max() < 1e-4  # the same for all patterns
    assert subtracted.mean((1, 2)).numpy() == pytest.approx(x.mean((1, 2)).numpy(), rel=1e-5)
    flat = preprocessing.remove_static(3 * background[None], background, "divide")
    assert flat.numpy() == pytest.approx(3 * float(background.mean()), rel=1e-5)


@pytest.mark.parametrize(("h", "w", "k"), [(20, 24, 2), (21, 26, 4), (20, 24, 1)])
def test_bin_is_the_mean_of_blocks(h, w, k):
    x = np.random.default_rng(0).normal(size=(3, h, w))
    expected = [[one[i * k : i * k + k, j * k : j * k + k].mean() for i in range(h // k) for j in range(w // k)] for one in x]
    got = preprocessing.bin_patterns(torch.from_numpy(x), k).numpy()
    assert got == pytest.approx(np.reshape(expected, (3, h // k, w // k)), abs=1e-12)


def test_bin_of_a_crop_is_a_crop_of_the_bin():
    x = torch.randn(4, 24, 32)
    assert torch.equal(
        preprocessing.bin_patterns(preprocessing.crop(x, 4, 20, 8, 28), 4),
        preprocessing.crop(preprocessing.bin_patterns(x, 4), 1, 5, 2, 7),
    )


def test_mask_leaves_the_circle_and_its_mean():
    x = torch.randn(3, 21, 30) + 7
    inside = preprocessing.circle(21, 30)
    got = preprocessing.mask_circle(x)
    assert torch.equal(got[:, inside], x[:, inside])
    assert got[:, ~inside].numpy() == pytest.approx(
        np.repeat(x[:, inside].mean(1)[:, None].numpy(), int((~inside).sum()), 1), rel=1e-6
    )
    assert inside.float().mean() * 21 * 30 == pytest.approx(np.pi * 10.5**2, rel=0.03)
    assert torch.equal(inside, inside.flip(0))
    assert torch.equal(inside, inside.flip(1))


# ------------------------------------------------------------------------------------------------------ image quality


@pytest.mark.parametrize(("h", "w"), [(20, 24), (21, 25), (15, 20)])
def test_image_quality_is_its_formula(h, w):
    x = np.random.default_rng(0).normal(size=(3, h, w)) + 4
    amplitude = np.abs(np.fft.fft2(x - x.mean((1, 2), keepdims=True)))
    square = (np.fft.fftfreq(h, 1 / h) ** 2)[:, None] + np.fft.fftfreq(w, 1 / w) ** 2
    expected = 1 - (amplitude * square).sum((1, 2)) / amplitude.sum((1, 2)) / square.mean()
    assert preprocessing.image_quality(torch.from_numpy(x)).numpy() == pytest.approx(expected, abs=1e-9)


def test_image_quality_knows_neither_level_nor_contrast_nor_mirror():
    x = tensor(drawn()[0][0])
    expected = preprocessing.image_quality(x).numpy()
    for other in (0.1 * x + 30, -2 * x, x.flip(1), x.flip(2)):
        assert preprocessing.image_quality(other).numpy() == pytest.approx(expected, abs=1e-5)


def test_image_quality_falls_with_noise_to_nothing():
    bands = np.sin(np.arange(60) / 3)[:, None] * np.cos(np.arange(60) / 5)
    noise = np.random.default_rng(0).normal(size=(60, 60))
    found = [float(preprocessing.image_quality(tensor(bands + sigma * noise)[None])) for sigma in (0, 0.1, 0.3, 1, 3, 100)]
    assert (np.diff(found) < 0).all()
    assert found[0] > 0.75
    assert found[-1] == pytest.approx(0, abs=0.02)


def test_constant_and_unfinished_patterns_are_bad():
    x = torch.randn(5, 8, 8)
    x[1, 3, 3], x[2], x[4, 0, 0] = torch.nan, 7.0, torch.inf
    assert preprocessing.is_bad(x).tolist() == [False, True, True, False, True]


# --------------------------------------------------------------------------------------------------------- neighbours


def naive_average(x, present, weights):
    out = np.array(x, float)
    for row, col in np.argwhere(present):
        near = [
            (weights[dy + 1][dx + 1], x[row + dy, col + dx])
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if 0 <= row + dy < len(x) and 0 <= col + dx < x.shape[1] and present[row + dy, col + dx]
        ]
        out[row, col] = sum(weight * one for weight, one in near) / sum(weight for weight, _ in near)
    return out


def holed(shape, seed=1):
    present = np.random.default_rng(seed).random(shape) > 0.3
    present[0, 0] = True
    present[:2, -2:] = [[True, False], [False, False]]  # one point has no neighbour at all
    present[0, -3] = present[1, -3] = False
    return present


@pytest.mark.parametrize("how", ["circle", "gauss"])
def test_average_is_over_the_neighbours_that_are_there(how):
    x, present = np.random.default_rng(0).normal(size=(5, 6, 3, 4)), holed((5, 6))
    weights = {"circle": [[0, 1, 0], [1, 1, 1], [0, 1, 0]], "gauss": np.exp(-0.5 * (np.mgrid[-1:2, -1:2] ** 2).sum(0))}[how]
    got = preprocessing.average_neighbours(torch.from_numpy(x), how, torch.from_numpy(present)).numpy()
    assert got == pytest.approx(naive_average(x, present, weights), abs=1e-12)


def test_similarity_is_the_mean_over_up_to_four_neighbours():
    x, present = np.random.default_rng(0).normal(size=(5, 6, 3, 4)), holed((5, 6))
    unit = x - x.mean((2, 3), keepdims=True)
    unit /= np.sqrt((unit**2).sum((2, 3), keepdims=True))
    expected = np.full((5, 6), np.nan)
    for row, col in np.argwhere(present):
        near = [(row + dy, col + dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        near = [at for at in near if 0 <= at[0] < 5 and 0 <= at[1] < 6 and present[at]]
        if near:
            expected[row, col] = np.mean([(unit[row, col] * unit[at]).sum() for at in near])
    got = preprocessing.neighbour_similarity(torch.from_numpy(x), torch.from_numpy(present)).numpy()
    assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert np.isnan(got[0, -2])


def test_equal_patterns_are_similar_and_stay_when_averaged():
    one = torch.randn(8, 9)
    x = one.expand(4, 5, 8, 9) * torch.rand(4, 5, 1, 1) + 3  # contrast and level do not count
    present = torch.ones(4, 5, dtype=torch.bool)
    assert preprocessing.neighbour_similarity(x, present).numpy() == pytest.approx(1, abs=1e-5)
    same = one.expand(4, 5, 8, 9)
    assert preprocessing.average_neighbours(same, "gauss", present).numpy() == pytest.approx(same.numpy(), abs=1e-6)


# -------------------------------------------------------------------------------------------------------- whole scans


def test_all_steps_are_those_of_a_loop_over_points_with_scipy():
    pixels, background = drawn()
    scan = FakeScan(pixels, static_background=background)
    x, extra = whole(scan, crop=[2, 18, 4, 24], average="circle", bin=2, mask="circle")
    level, expected = background[2:18, 4:24].astype(float), np.empty((5, 6, 8, 10))
    for at in np.ndindex(5, 6):
        one = pixels[at][2:18, 4:24] - (level - level.mean())
        one = one - ndimage.gaussian_filter(one, 20 / 8)
        expected[at] = one.reshape(8, 2, 10, 2).mean((1, 3))
    expected = naive_average(expected, np.ones((5, 6), bool), [[0, 1, 0], [1, 1, 1], [0, 1, 0]]).reshape(-1, 8, 10)
    inside = preprocessing.circle(8, 10).numpy()
    expected[:, ~inside] = expected[:, inside].mean(1)[:, None]
    assert x == pytest.approx(expected, abs=2e-4)
    assert not extra["bad"].any()


@pytest.mark.parametrize("average", ["none", "gauss"])
@pytest.mark.parametrize("kept", [None, holed((7, 6))])
def test_blocks_do_not_change_a_single_bit(average, kept, monkeypatch):
    pixels, background = drawn(rows=7)
    scan = FakeScan(pixels, kept, background)
    x, extra = whole(scan, average=average)
    for max_points in (1, 4, 13):
        other, columns = whole(scan, max_points, average=average)
        assert np.array_equal(x, other)
        pd.testing.assert_frame_equal(extra, columns, check_exact=True)
    sizes = [len(part) for part, _, _ in Preprocessing(scan, config(average=average)).blocks(13)]
    assert max(sizes) <= 13
    monkeypatch.setattr("microlatent.systems.kikuchi.patterns.CHUNK_BYTES", 4 * 20 * 24 * 5)
    scan.reads.clear()
    other, columns = whole(scan, average=average)
    assert max(scan.reads) == 5
    assert sum(scan.reads) == len(scan.points)  # no pattern is read twice
    assert other == pytest.approx(x, abs=1e-3)  # a band of columns at a time
    assert columns["neighbour_similarity"].to_numpy() == pytest.approx(extra["neighbour_similarity"], abs=1e-5, nan_ok=True)


def test_bad_patterns_are_flagged_and_no_neighbours():
    pixels, _ = drawn()
    pixels = pixels.astype(np.float32)
    pixels[2, 3], pixels[0, 0, 5, 5] = 8.0, np.nan
    x, extra = whole(FakeScan(pixels), average="circle")
    bad = np.zeros((5, 6), bool)
    bad[2, 3] = bad[0, 0] = True
    assert (extra["bad"].to_numpy().reshape(5, 6) == bad).all()
    assert (x[bad.ravel()] == 0).all()
    assert extra.loc[bad.ravel(), ["image_quality", "neighbour_similarity"]].isna().all(None)
    absent, columns = whole(FakeScan(pixels, ~bad), average="circle")  # as if they had never been there
    assert np.array_equal(absent, x[~bad.ravel()])
    pd.testing.assert_frame_equal(columns, extra[~bad.ravel()].reset_index(drop=True), check_exact=True)


def test_rows_without_any_point_part_the_map():
    pixels, _ = drawn()
    kept = np.ones((5, 6), bool)
    kept[2] = False
    x, extra = whole(FakeScan(pixels, kept), average="gauss")
    above, columns = whole(FakeScan(pixels[:2]), average="gauss")
    assert np.array_equal(x[:12], above)
    pd.testing.assert_frame_equal(extra[:12], columns, check_exact=True)


def test_averaging_raises_neither_quality_nor_similarity():
    scan = FakeScan(drawn()[0])
    pd.testing.assert_frame_equal(whole(scan)[1], whole(scan, average="gauss", mask="circle")[1], check_exact=True)


def test_auto_removes_a_static_background_once():
    pixels, background = drawn()
    cases = [(background, False, "subtract"), (background, True, "none"), (None, False, "none")]
    for static, corrected, expected in cases:
        scan = FakeScan(pixels, static_background=static, background_corrected=corrected)
        assert Preprocessing(scan, config()).describe()["static_background"] == expected


def test_removing_a_static_background_twice_is_said(caplog):
    pixels, background = drawn()
    scan = FakeScan(pixels, static_background=background, background_corrected=True)
    Preprocessing(scan, config(static_background="subtract"))
    assert "it is now removed twice" in caplog.text


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"static_background": "subtract"}, "fake.h5 .fake. holds no static background. Use auto or none"),
        ({"crop": [0, 21, 0, 8]}, r"task.crop is \[0, 21, 0, 8\].*have 20 rows and 24 columns. Stay inside \[0, 20, 0, 24\]"),
        ({"crop": [-1, 8, 0, 8]}, "task.crop is"),
        ({"crop": [0, 10, 0, 8], "bin": 9}, "task.bin is 9, but the patterns of fake.h5 have 10 x 8 px. Use at most 8"),
    ],
)
def test_impossible_steps_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing(FakeScan(drawn()[0]), config(**keys))


def test_backgrounds_that_do_not_fit_are_refused():
    pixels, background = drawn()
    scan = FakeScan(pixels, static_background=background[1:])
    with pytest.raises(ValueError, match=r"static background of fake.h5 has 19 x 24 px, but its patterns have 20 x 24"):
        Preprocessing(scan, config())
    background[3, 4] = 0
    scan = FakeScan(pixels, static_background=background)
    with pytest.raises(ValueError, match=r"has 1 pixels that are not above 0. Use subtract, or cut them off with task.crop"):
        Preprocessing(scan, config(static_background="divide"))


def test_maps_without_patterns_are_refused():
    scan = FakeScan(drawn()[0])
    scan.pattern_shape = None
    with pytest.raises(ValueError, match=r"is a map without patterns. Name a file with patterns in data.root"):
        Preprocessing(scan, config())


def test_image_qualities_alone_are_those_of_the_blocks(monkeypatch):
    monkeypatch.setattr("microlatent.systems.kikuchi.patterns.CHUNK_BYTES", 7 * 4 * 20 * 24)
    pixels, background = drawn()
    pixels[2, 3] = 9  # a bad one
    scan = FakeScan(pixels, kept=holed((5, 6)), static_background=background)
    steps = Preprocessing(scan, config())
    positions, quality = (np.concatenate(parts) for parts in zip(*steps.image_qualities(), strict=True))
    assert np.array_equal(positions, np.arange(len(scan.points)))
    assert np.array_equal(quality, whole(scan)[1]["image_quality"], equal_nan=True)
    assert max(scan.reads) == 7
    assert len(list(steps.image_qualities())) == steps.num_pieces


def test_every_scan_of_a_file_has_its_own_truth(tmp_path):
    path = ebsd_files.kikuchipy(tmp_path, ebsd_files.some_patterns())
    with h5py.File(path, "r+") as file:
        file.copy("Scan 1", "Scan 2")
    y, x = (axis.ravel() for axis in np.indices(ebsd_files.MAP_SHAPE))
    truth = pd.concat([pd.DataFrame({"x": x, "y": y}).assign(scan=f"scan_{number}", true_grain=number) for number in (1, 2)])
    truth.to_csv(tmp_path / "scan.truth.csv", index=False)
    for number, scan in enumerate(find_scans(path), 1):
        assert set(with_truth(scan)[0]["true_grain"]) == {str(number)}
    truth.query("scan == 'scan_1'").drop(columns="scan").to_csv(tmp_path / "scan_1.truth.csv", index=False)
    first, second = find_scans(path)
    assert with_truth(first)[1] == str(tmp_path / "scan_1.truth.csv")
    truth.drop(columns="scan").to_csv(tmp_path / "scan.truth.csv", index=False)
    with pytest.raises(ValueError, match=r"does not say whether it is of the scan scan_2. Name it scan_2.truth.csv"):
        with_truth(second)


@pytest.mark.slow
@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize(("shape", "keys"), [((3, 600, 160, 160), {}), ((3, 600, 160, 160), {"bin": 4}), ((20, 40, 60, 60), {})])
def test_memory_is_at_most_twice_what_was_said_and_at_least_half(shape, keys, neighbours):
    measure = f"""
import numpy as np
import torch
from benchmarks.timing import peak_mb
from tests.kikuchi.test_patterns import FakeScan, config
from microlatent.systems.kikuchi.patterns import Preprocessing

class Endless(FakeScan):
    def read(self, rows):
        return np.random.default_rng(0).integers(0, 255, (len(rows), *self.pattern_shape), np.uint8)

torch.set_num_threads(1)
steps = Preprocessing(Endless(np.broadcast_to(np.uint8(0), {shape})), config(**{keys}))
for _ in steps.blocks() if {neighbours} else steps.image_qualities():
    pass
print(steps.memory_mb({neighbours}), peak_mb() * 2**20 / 1e6)
"""
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    said, needed = map(float, done.stdout.split())
    assert 0.5 < said / needed < 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_map(monkeypatch):
    monkeypatch.setattr("microlatent.systems.kikuchi.patterns.CHUNK_BYTES", 1 << 17)

    class Endless(FakeScan):
        def read(self, rows):
            return np.random.default_rng(int(rows[0])).integers(0, 255, (len(rows), *self.pattern_shape), np.uint8)

    def held():
        live = [one.untyped_storage() for one in gc.get_objects() if type(one) is torch.Tensor]
        return sum({one.data_ptr(): one.nbytes() for one in live}.values())

    most, before = [], held()
    for rows in (30, 240):
        scan = Endless(np.broadcast_to(np.uint8(0), (rows, 10, 24, 24)))
        found = []
        tracemalloc.start()
        for number, _ in enumerate(Preprocessing(scan, config(average="circle")).blocks(50)):
            if number % 8 == 1:
                found.append(held() - before)
        most.append(max(found) + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < 1.2 * most[0]
