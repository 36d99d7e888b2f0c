"""Statistics are those of the pixels that are there, and come without a byte of the data being changed."""

import hashlib
import shutil
import time
import tracemalloc

import numpy as np
import pytest
import zarr

from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.data.io.ome_zarr.metadata import set_attributes
from microlatent.data.io.ome_zarr.plate import open_plates
from microlatent.data.io.ome_zarr.writer import ImageWriter
from microlatent.systems.plates.simulate import draw_well, render_field
from microlatent.systems.plates.statistics import (
    EMPTY_CONTRAST,
    Counting,
    Histogram,
    are_stale,
    dataset_statistics,
    known_statistics,
    load,
    measure,
    normalization,
    save,
    statistics_path,
)
from tests.odd_plates import CHANNELS, odd_plate, pixels, write_image

SHAPE = (2, 2, 3, 44, 60)
PERCENTILES = {"p1": 1, "p5": 5, "median": 50, "p95": 95, "p99": 99}


def counted(*parts, dtype=None):
    counting = Counting(dtype or parts[0].dtype)
    for part in parts:
        counting.add(part)
    return counting.histogram()


def image_of(path, array, version="0.5"):
    with ImageWriter(path, array.shape, array.dtype, CHANNELS, version=version) as image:
        for t, c in np.ndindex(array.shape[:2]):
            image.write(array[t, c], t, c)
    return OmeImage(path)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def values(dtype):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return np.concatenate([rng.normal(0, 2, 5000), rng.normal(500, 100, 5000)]).astype(dtype)
    about = np.iinfo(dtype)
    low = max(about.min, -(2**20))
    return np.clip(rng.normal((low + min(about.max, 2**20)) / 2, 60, 10000), about.min, about.max).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_statistics_are_those_of_numpy(dtype):
    x = values(dtype)
    found = counted(x[:3000], x[3000:]).statistics()
    wide = x.astype(np.float64)
    want = {name: np.percentile(wide, q) for name, q in PERCENTILES.items()}
    want |= {"mean": wide.mean(), "std": wide.std(), "min": wide.min(), "max": wide.max()}
    want |= {"iqr": np.subtract(*np.percentile(wide, [75, 25])), "p99_p1": want["p99"] - want["p1"]}
    for name, value in want.items():
        exact = name in ("mean", "std", "min", "max") or np.dtype(dtype).kind in "iu"
        assert found[name] == pytest.approx(value, rel=1e-9 if exact else 1 / 4000, abs=1e-6 if exact else 1e-3), name


def test_otsu_separates_best():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(100, 10, 3000), rng.normal(180, 15, 1000)]).astype(np.uint8)

    def within(threshold):
        parts = [x[x <= threshold], x[x > threshold]]
        return sum(part.var() * part.size for part in parts if part.size)

    assert counted(x).otsu == min(range(x.min(), x.max()), key=within)


def test_histograms_add_up_whatever_they_were_cut_into():
    x = values("u2")
    parts = [counted(part) for part in np.array_split(x, 7)]
    assert Histogram.sum(parts).statistics() == pytest.approx(counted(x).statistics(), rel=1e-12)
    y = values("f4")
    parts = [counted(part) for part in np.array_split(y, 7)]
    assert Histogram.sum(parts).statistics() == pytest.approx(counted(y).statistics(), rel=5e-4)
    assert Histogram.sum(parts).statistics()["std"] == pytest.approx(y.std(dtype=float), rel=1e-9)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_field_is_measured_per_time_point_and_whole(tmp_path, version):
    array = pixels(SHAPE)
    found = measure(image_of(tmp_path / "x", array, version))
    for c, name in enumerate(CHANNELS):
        assert found.whole(name).statistics()["median"] == np.median(array[:, c])
        for t in (0, 1):
            assert found.histograms[name][t].statistics()["std"] == pytest.approx(array[t, c].std(), rel=1e-9)


def test_missing_chunks_are_left_out_and_counted(tmp_path):
    with ImageWriter(tmp_path / "x", SHAPE, np.uint16, CHANNELS) as image:
        image.write(pixels(SHAPE)[0, 0], 0, 0)
        image.write(np.zeros(SHAPE[2:]), 0, 1)  # zeros that were written are pixels
    found = measure(OmeImage(tmp_path / "x"), foreground=["Phase"])
    assert found.whole("Phase").low == pixels(SHAPE)[0, 0].min() > 0
    assert found.whole("Phase").num_missing == found.whole("Phase").num_pixels == pixels(SHAPE)[0, 0].size
    assert found.histograms["Nuclei"][0].statistics()["max"] == 0
    assert found.histograms["Phase"][1].statistics() == {}
    assert np.isnan(found.low["Phase"][1]).all()


def test_pixels_that_are_no_number_are_left_out_and_counted(tmp_path):
    (plate,) = open_plates(odd_plate(tmp_path, "nan_borders"))
    found = measure(plate.fields[0]).whole("Phase")
    array = plate.fields[0][:, 0]
    assert found.num_invalid == np.isnan(array).sum()
    assert found.statistics()["mean"] == pytest.approx(np.nanmean(array, dtype=float))


def test_a_constant_channel_has_no_spread_and_no_foreground(tmp_path):
    (plate,) = open_plates(odd_plate(tmp_path, "constant"))
    found = measure(plate.fields[0], foreground=["Nuclei"])
    numbers = found.whole("Nuclei").statistics()
    assert (numbers["std"], numbers["iqr"], numbers["otsu_threshold"]) == (0, 0, 100)
    assert not found.foreground("Nuclei").any()


def test_fields_of_other_shapes_make_one_data_set(tmp_path):
    (plate,) = open_plates(odd_plate(tmp_path, "ragged"))
    whole = np.concatenate([field[:, 0].ravel() for field in plate.fields])
    assert dataset_statistics(map(measure, plate.fields), "Phase").statistics()["p99"] == np.percentile(whole, 99)


def test_squares_are_means_whatever_the_chunks(tmp_path):
    array = pixels((1, 2, 2, 45, 61))
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=2)
    write_image(group, array, chunks=(1, 1, 1, 13, 20))
    image = OmeImage(tmp_path / "x.zarr")
    blocks = image.levels[0].blocks
    image.levels[0].blocks = lambda channels: blocks(channels, limit=1)
    low = measure(image, foreground=["Nuclei"]).low["Nuclei"]
    assert low.shape == (1, 2, 6, 8)
    assert low[0, 1, 2, 3] == pytest.approx(array[0, 1, 1, 16:24, 24:32].mean())
    assert low[0, 1, 5, 7] == pytest.approx(array[0, 1, 1, 40:, 56:].mean())


@pytest.fixture(scope="module")
def cells():
    return next(iter(render_field(np.random.default_rng(0), draw_well(0, "A/1"), 1, 256)))


def test_the_foreground_is_where_the_nuclei_are(tmp_path, cells):
    image, labels = cells
    foreground = measure(image_of(tmp_path / "x", image[None, :2]), foreground=["Nuclei"]).foreground("Nuclei")[0, 2]
    share = (labels > 0).reshape(32, 8, 32, 8).mean((1, 3))
    assert np.corrcoef(foreground.ravel(), share.ravel())[0, 1] > 0.65
    assert foreground[share == 1].mean() > 3 * foreground[share == 0].mean()


def test_an_empty_field_has_no_foreground_of_its_own(tmp_path, cells):
    noise = np.random.default_rng(0).poisson(100, (1, 2, 1, 256, 256)).astype(np.uint16)
    empty = measure(image_of(tmp_path / "e", noise), foreground=["Nuclei"])
    full = measure(image_of(tmp_path / "f", cells[0][None, :2]), foreground=["Nuclei"])
    assert empty.whole("Nuclei").contrast < EMPTY_CONTRAST < full.whole("Nuclei").contrast
    dataset = dataset_statistics([empty, full], "Nuclei")
    assert not empty.foreground("Nuclei", dataset).any()
    np.testing.assert_array_equal(full.foreground("Nuclei", dataset), full.foreground("Nuclei"))


def test_statistics_are_kept_beside_the_data_and_refused_when_pixels_changed(tmp_path):
    (plate,) = open_plates(odd_plate(tmp_path, "pool_a"))
    field, before = plate.fields[0], digest(plate.path)
    path = statistics_path(tmp_path / "side", plate.name, field.name)
    with pytest.raises(FileNotFoundError, match="task=preprocess"):
        load(path, field)
    found = measure(field, foreground=["Nuclei"])
    save(found, path)
    assert digest(plate.path) == before
    again = load(path, field)
    assert again.whole("Phase").statistics() == found.whole("Phase").statistics()
    np.testing.assert_array_equal(again.foreground("Nuclei"), found.foreground("Nuclei"))
    shutil.copytree(plate.path, tmp_path / "copy", copy_function=shutil.copyfile)  # other times, the same pixels
    load(path, open_plates(tmp_path / "copy")[0].fields[0])
    set_attributes(field.path, {"note": 1})
    load(path, field)
    zarr.open_array(field.path / "0", mode="r+")[0, 0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="taken from other pixels"):
        load(path, field)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        load(path, field)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_normalisation_attributes_are_those_of_viscy(tmp_path, version):
    image = image_of(tmp_path / "x", pixels(SHAPE), version)
    found = measure(image)
    about = normalization(found, {name: found.whole(name) for name in CHANNELS})
    assert set(about["normalization"]["Phase"]) == {"dataset_statistics", "fov_statistics", "timepoint_statistics"}
    numbers = "mean std median iqr min max p1 p5 p95 p99 p95_p5 p99_p1 otsu_threshold".split()
    assert set(about["normalization"]["Phase"]["timepoint_statistics"]["1"]) == set(numbers)
    assert set(normalization(None, {"Phase": found.whole("Phase")})["normalization"]["Phase"]) == {"dataset_statistics"}
    assert known_statistics(image.attributes, "Phase") is None
    assert are_stale(image) is None
    set_attributes(image.path, about)
    image = OmeImage(image.path)
    assert image.channels == CHANNELS
    assert known_statistics(image.attributes, "Phase")["median"] == np.median(pixels(SHAPE)[:, 0])
    assert known_statistics(image.attributes, "Nuclei", "timepoint_statistics", 1)["max"] == pixels(SHAPE)[1, 1].max()
    assert are_stale(image) is False
    chunk = max((path for path in (image.path / "0").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert are_stale(image) is True


def test_real_fields_are_measured_exactly(data_folder):
    for plate in open_plates([data_folder / f"plates/plate_faim9987_tczyx_v{version}.zarr" for version in ("0.4", "0.5")]):
        field = plate.fields[0]
        found = measure(field, ["w2"]).whole("w2").statistics()
        array = field[:, 1]
        assert [found["p1"], found["iqr"]] == [np.percentile(array, 1), np.subtract(*np.percentile(array, [75, 25]))]
        assert found["std"] == pytest.approx(array.std(), rel=1e-9)


def test_measuring_takes_the_memory_of_a_block(tmp_path):
    shape = (1, 1, 60, 512, 512)
    with ImageWriter(tmp_path / "x", shape, np.uint16, ["a"]) as image:
        for z in range(60):
            image.write(np.full(shape[3:], z), 0, 0, z)
    tracemalloc.start()
    assert measure(OmeImage(tmp_path / "x")).whole("a").mean == 29.5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * np.prod(shape) * 2


@pytest.mark.slow
def test_measuring_costs_at_most_about_twice_reading(tmp_path):
    array = np.random.default_rng(0).poisson(300, (1, 2, 4, 2048, 2048)).astype(np.uint16)
    image = image_of(tmp_path / "x", array)

    def seconds(work):
        return min(_timed(work) for _ in range(4))

    def read():
        for box in image.levels[0].blocks():
            image[box]

    assert seconds(lambda: measure(image, foreground=["Nuclei"])) < 2.5 * seconds(read)


def _timed(work):
    begun = time.process_time()
    work()
    return time.process_time() - begun
