"""Crops are the same pixels of source and target, the same again after a stop, and never of what is not known."""

import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from microlatent import run, settling, training
from microlatent.command import carry_out
from microlatent.data.io.ome_zarr.writer import ImageWriter
from microlatent.experiment import load_model
from microlatent.signals import Interrupted
from microlatent.systems.plates.fields import open_fields, statistics_of
from microlatent.systems.plates.places import mirrored
from microlatent.systems.plates.registration import shift_between, shift_of_stains
from microlatent.systems.plates.simulate import draw_well, render_field, simulate
from microlatent.systems.plates.source import open_source
from microlatent.tracking import differing_history
from tests.conftest import composed
from tests.core.test_targets import stop_after
from tests.odd_plates import odd_plate, pixels, write_plate

CPU = torch.device("cpu")
TRAIN = ("model=stain_unet", "model.width=2", "model.depth=2", "data=plates", "logger=csv", "trainer.batch_size=8")
ODD = ("data.source_channels=[Phase]", "data.target_channels=[Nuclei]", "data.crop_px=16", "data.crops=6", "data.val_share=0")
SETS = [[], ["model.dims=2.5", "model.planes=3"], ["model.dims=3", "model.planes=3"]]


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    """Four wells of a small specimen, two time points; read only."""
    wells = ("A/1", "A/2", "B/1", "B/2")
    return simulate(tmp_path_factory.mktemp("specimen") / "demo", wells=wells, test_wells=("B/2",), times=2, side_px=96)


@pytest.fixture
def settings(tmp_path, specimen):
    """Return a function that composes settings of training on the specimen."""

    def made(*overrides):
        root = [] if any(one.startswith("data.root") for one in overrides) else [f"data.root={specimen}"]
        channels = (
            []
            if any("channels" in one for one in overrides)
            else ["data.source_channels=[Phase]", "data.target_channels=[Nuclei,Membrane]"]
        )
        outputs = tmp_path if "check=true" in overrides else specimen.parent / "outputs"
        typed = [] if any(one.startswith("outputs") for one in overrides) else [f"outputs={outputs}"]
        return composed("train", *TRAIN, *root, *channels, *typed, "data.crop_px=32", *overrides)

    return made


@pytest.fixture
def source(settings):
    """Return a function that opens the specimen for training."""
    return lambda *overrides: training.open_data(settings("data.crops=8", *overrides))


def odd(tmp_path, name, *overrides):
    path = odd_plate(tmp_path, name)
    return training.open_data(composed("train", *TRAIN, f"data.root={path}", f"outputs={tmp_path / 'outputs'}", *ODD, *overrides))


@pytest.mark.parametrize("options", SETS)
def test_crops_are_the_pixels_of_the_plate_in_the_units_said(source, options):
    made = source(*options)
    rows = np.arange(len(made))[::7]
    batch = made.batch(rows, CPU)
    counts = made.normaliser.invert_target(batch.y)
    for k, row in enumerate(rows):
        place, field = made.fixed_place(row), made.fields[made.field_of_row[row]]
        at = np.s_[place.y : place.y + 32, place.x : place.x + 32]
        z = mirrored(np.arange(3) + place.z - (0 if made.all_planes else 1), 5) if made.places.planes == 3 else place.z
        lines = made.levels(made.field_of_row[row]).lines[place.t]
        phase = (field.image[place.t, 0][z][..., at[0], at[1]].astype(np.float32) - lines[0, 0]) / lines[0, 1]
        np.testing.assert_allclose(batch.x[k, 0], phase, rtol=1e-5, atol=1e-5)
        stain = field.image[place.t, 1:][:, z if made.all_planes else place.z][..., at[0], at[1]]
        np.testing.assert_allclose(counts[k], stain, rtol=1e-4, atol=0.02)


def test_a_step_has_the_crops_it_had_and_another_has_others(source):
    rows = source().plan("train", 3, 8, 0)[1]
    one, again, other = (source().batch(rows, CPU, augment_seed=(0, step, 0)) for step in (17, 17, 18))
    assert torch.equal(one.x, again.x)
    assert torch.equal(one.y, again.y)
    assert not torch.equal(one.x, other.x)


def test_a_crop_does_not_depend_on_which_process_cuts_it(source, monkeypatch):
    made, rows = source(), np.arange(10)
    whole = made.batch(rows, CPU, augment_seed=(0, 1, 0), needs={"foreground"})
    for part in (slice(0, 5), slice(5, 10)):
        monkeypatch.setattr("microlatent.distributed.shard", lambda num, part=part: part)
        for name in ("x", "y", "weight"):
            assert torch.equal(
                getattr(made.batch(rows, CPU, augment_seed=(0, 1, 0), needs={"foreground"}), name), getattr(whole, name)[part]
            )


def test_source_and_target_share_every_draw_and_contrast_alone_is_the_sources(settings):
    same = settings(
        "data.crops=8",
        "data.source_channels=[Nuclei]",
        "data.target_channels=[Nuclei]",
        "data.normalise=dataset",
        "data.jitter=1.3",
    )
    made = training.open_data(same)
    made.normaliser.source = made.normaliser.target
    batch = made.batch(np.arange(16), CPU, augment_seed=(0, 1, 0))
    ratio = (batch.x * batch.y).sum((1, 2, 3)) / batch.y.square().sum((1, 2, 3))
    torch.testing.assert_close(batch.x, batch.y * ratio[:, None, None, None], rtol=1e-4, atol=1e-4)
    assert 1 / 1.31 < float(ratio.min()) < 0.95
    assert 1.05 < float(ratio.max()) < 1.31


def test_crops_are_drawn_where_foreground_is(source):
    share = []
    for foreground in (0, 1):
        made = source(f"data.foreground={foreground}", "data.augment=false")
        made.config.crop_px = 16
        made.shape = (16, 16)
        rows = np.tile(made.rows["train"], 20)
        share.append(float(made.batch(rows, CPU, augment_seed=(0, 1, 0), needs={"foreground"}).weight[:, 0].mean()))
    assert share[1] > 1.4 * share[0]


def test_training_fields_alone_make_the_level_of_the_data_set(source):
    made = source("data.val_share=0.3")
    parts = made.split.groups.set_index("group")["part"]
    assert parts.value_counts().to_dict() == {"train": 2, "val": 1, "test": 1}
    assert parts[next(name for name in parts.index if "B/2" in name)] == "test"
    assert made.split.by == "well"
    train = np.concatenate([made.fields[k].image[:, 1].ravel() for k in np.unique(made.field_of_row[made.rows["train"]])])
    median, bright = np.percentile(train, [50, 99])
    assert made.normaliser.target[0] == pytest.approx([median, (bright - median) / 3])


def test_per_time_and_per_field_lines_are_those_of_the_pixels(source):
    for mode, of in (("time", lambda image, t: image[t, 0]), ("field", lambda image, t: image[:, 0])):
        made = source(f"data.normalise={mode}")
        for t in (0, 1):
            low, median, high = np.percentile(of(made.fields[0].image, t), [25, 50, 75])
            assert made.levels(0).lines[t, 0].tolist() == pytest.approx([median, high - low])


@pytest.mark.parametrize(
    "name", ["sparse", "ragged", "named", "single", "pool_a", "czyx", "cyx", "bigendian_dots", "nan_borders"]
)
def test_odd_plates_give_crops_without_unknown_pixels(tmp_path, name):
    made = odd(tmp_path, name)
    batch = made.batch(np.arange(len(made)), CPU, augment_seed=(0, 0, 0))
    assert torch.isfinite(batch.x).all()
    assert torch.isfinite(batch.y).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unnamed_channels", r"names no channels.*data\.channel_names"),
        ("constant", r"Channel Nuclei is constant in all training fields"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_by_name(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        odd(tmp_path, name)


def test_pooled_plates_are_joined_by_the_names_of_channels(tmp_path):
    a, b = odd_plate(tmp_path, "pool_a"), odd_plate(tmp_path, "pool_b")
    made = training.open_data(composed("train", *TRAIN, f"data.root=[{a},{b}]", f"outputs={tmp_path / 'outputs'}", *ODD))
    batch = made.batch(np.arange(len(made)), CPU)
    first, second = (batch.x[made.table["plate"].to_numpy() == name] for name in ("pool_a", "pool_b"))
    assert set(made.groups("fov")) == {f"{plate}/{well}/000" for plate in ("pool_a", "pool_b") for well in ("A/1", "A/2")}
    assert len(first) == len(second)
    for name, field in ((field.plate, field) for field in made.fields):
        position = ["Phase", "Nuclei"].index("Phase") if name == "pool_a" else 1
        assert made.pixels(made.fields.index(field)).values[0, 0, 0, 0, 0] == field.image[0, position, 0, 0, 0]


def test_chunks_that_were_never_written_are_not_learnt_as_zeros(tmp_path):
    path = write_plate(
        tmp_path / "gaps.zarr", {("A/1", "000"): pixels((1, 2, 3, 64, 64)), ("A/2", "000"): pixels((1, 2, 3, 64, 64))}
    )
    image = path / "A/1/000"
    array = zarr.open_group(image, mode="r+")
    values = array["0"][...]
    del array["0"]
    array.create_array(
        "0", shape=values.shape, dtype="u2", chunks=(1, 1, 1, 32, 32), chunk_key_encoding={"name": "v2", "separator": "/"}
    )[...] = values
    (image / "0/0/1/1/0/0").unlink()
    shutil.rmtree(image / "0/0/1/2")
    made = training.open_data(
        composed(
            "train", *TRAIN, f"data.root={path}", f"outputs={tmp_path / 'outputs'}", *ODD, "model.dims=2.5", "model.planes=3"
        )
    )
    assert made.levels(0).otsu[0] > 0
    assert "frames lack chunks" in " ".join(made.contents())
    assert {place[1] for place in made.places.whole(0).tolist()} == {0}  # the last plane is in the other windows
    made.places.planes, made.shape = 1, (16, 16)
    made.places._valid.clear()
    batch = made.batch(np.repeat(made.rows["all"][:6], 20), CPU, augment_seed=(0, 0, 0))
    assert float(made.normaliser.invert_target(batch.y).min()) >= 0.5
    assert {place[1] for place in made.places.whole(0).tolist()} == {0, 1}


def test_a_field_without_any_pixels_is_named_and_left_out(tmp_path, caplog):
    path = write_plate(
        tmp_path / "empty.zarr", {("A/1", "000"): pixels((1, 2, 3, 32, 32)), ("A/2", "000"): pixels((1, 2, 3, 32, 32))}
    )
    shutil.rmtree(path / "A/2/000/0/0")
    with caplog.at_level(logging.WARNING):
        made = training.open_data(composed("train", *TRAIN, f"data.root={path}", f"outputs={tmp_path / 'outputs'}", *ODD))
    assert len(made.fields) == 1
    assert "empty/A/2/000: nothing was written of Phase or Nuclei" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.source_channels=[phase]"], r"'phase' is not in .*Is 'Phase' meant"),
        (["data.crop_px=128"], r"is 96 x 96 px, but data\.crop_px is 128"),
        (["data.test_share=0.2"], r"has plates in datasets/test"),
        (["data.planes=4"], r"data\.planes is 4, but must be odd"),
        (["data.split_by=plate"], r"data\.split_by=plate finds 1 group"),
        (["data.split_by=site"], r"not one of its values"),
        (["data.root=/nowhere", "data.source_channels=[Phase]"], r"no such folder"),
        (["data.target_channels=[Nuclei]"], r"data\.source_channels is not set.*Phase, Nuclei, Membrane"),
        (["data.statistics=attributes"], r"no fov_statistics of Phase"),
    ],
)
def test_bad_settings_are_refused_with_what_to_do(settings, overrides, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        training.open_data(settings(*overrides))


@pytest.mark.slow
def test_pixels_are_staged_once_and_again_when_they_change(tmp_path, specimen, monkeypatch):
    root = shutil.copytree(specimen, tmp_path / "copy")

    def opened():
        made = training.open_data(
            composed(
                "train",
                *TRAIN,
                f"data.root={root}",
                f"outputs={tmp_path / 'o'}",
                "data.source_channels=[Phase]",
                "data.target_channels=[Nuclei]",
                "data.crop_px=32",
                "data.crops=4",
            )
        )
        made.batch(np.arange(4), CPU)
        return made

    opened()
    (path, *others) = sorted((tmp_path / "o/stores/plates-copy/pixels").glob("train*.raw"))
    assert not others
    when = path.stat().st_mtime_ns
    opened()
    assert path.stat().st_mtime_ns == when
    field = next((root / "datasets/train").glob("*.zarr/A/1/000"))
    array = zarr.open_array(field / "0", mode="r+")
    array[0, 0, 0, :8, :8] = 7
    with pytest.raises(ValueError, match=r"taken from other pixels .* task=preprocess"):
        opened()
    shutil.rmtree(tmp_path / "o/stores/plates-copy/statistics")
    made = opened()
    assert path.stat().st_mtime_ns != when
    number = [one.name for one in made.fields].index(next(one.name for one in made.fields if one.image.path == field))
    assert (made.pixels(number).values[0, 0, 0, :8, :8] == 7).all()


def test_nothing_is_written_by_a_check_nor_ever_into_the_plate(settings, specimen, tmp_path):
    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in specimen.rglob("*")}

    before = files()
    plan = training.preflight(settings("check=true", "data.crops=8"), tmp_path / "run")
    assert not list(tmp_path.iterdir())
    assert any("2 wells" in line or "3 wells" in line for line in plan.reads)
    assert any("T 2, C 3 (Phase, Nuclei, Membrane), Z 5, Y 96, X 96" in line for line in plan.reads)
    training.open_data(settings("data.crops=8")).batch(np.arange(8), CPU)
    assert files() == before


def test_a_run_keeps_how_to_get_back_to_camera_units(settings, without_figures):
    done = settings(
        "data.crops=8",
        "trainer.epochs=1",
        "model.weight_foreground=0.5",
        "data.target_channels=[Nuclei]",
        "data.source_channels=[Phase]",
    )
    folder = carry_out(done, list(TRAIN))[1]
    trained = load_model(folder, "best", CPU)
    assert trained.channels == ["Phase"]
    made = training.open_data(done)
    assert trained.normaliser == made.normaliser
    y = torch.rand(2, 1, 4, 4) * 500
    torch.testing.assert_close(trained.normaliser.invert_target(trained.normaliser.apply_target(y)), y)
    assert set(pd.read_csv(folder / "split.csv")["part"]) == {"train", "val", "test"}


def test_memory_does_not_grow_with_the_plate(tmp_path):
    import tracemalloc

    peaks = []
    for num in (2, 8):
        fields = {("A/1", f"{k:03d}"): pixels((1, 2, 2, 256, 256), seed=k) for k in range(num)}
        path = write_plate(tmp_path / f"large{num}.zarr", fields)
        made = training.open_data(composed("train", *TRAIN, f"data.root={path}", f"outputs={tmp_path / 'o'}", *ODD))
        made.batch(np.arange(4), CPU)  # staged
        tracemalloc.start()
        for step in range(10):
            made.batch(np.arange(0, len(made), 3), CPU, augment_seed=(0, step, 0))
        peaks.append(tracemalloc.get_traced_memory()[1] / len(range(0, len(made), 3)))
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize("shift", [(3, -5), *(pytest.param(shift, marks=pytest.mark.slow) for shift in ((0, 0), (-7, 2)))])
def test_shift_between_channels_is_found_within_half_a_pixel(shift):
    from scipy import ndimage

    fields = []
    for seed, well in enumerate(("A/1", "A/2", "B/3")):
        ((image, _),) = render_field(np.random.default_rng(seed), draw_well(0, well), 1, 256)
        moved = [ndimage.shift(image[c, 2].astype(float), shift, order=1, mode="nearest") for c in (1, 2)]
        fields.append((image[0, 2], moved))
        assert np.hypot(*np.subtract(shift_between(image[2, 2], moved[1]), shift)) < 0.1
    assert np.hypot(*np.subtract(shift_of_stains(fields), shift)) < 0.5


def test_a_check_warns_of_channels_that_do_not_lie_on_each_other(tmp_path, caplog):
    ((image, _),) = render_field(np.random.default_rng(0), draw_well(0, "A/1"), 1, 256)
    for name, shift in (("straight", (0, 0)), ("shifted", (3, -5))):
        path = tmp_path / f"{name}.zarr"
        with ImageWriter(path, (1, 3, 1, 256, 256), np.uint16, ["Phase", "Nuclei", "Membrane"]) as writer:
            for c in range(3):
                writer.write(np.roll(image[c, 2], shift if c else (0, 0), (0, 1)), 0, c)
        typed = composed(
            "train",
            *TRAIN,
            "check=true",
            f"data.root={path}",
            "data.source_channels=[Phase]",
            "data.target_channels=[Nuclei,Membrane]",
        )
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            open_source(typed)
        assert ("Nuclei and Membrane lies" in caplog.text) == (name == "shifted")


def test_windows_beyond_the_ends_are_mirrored():
    assert mirrored(np.arange(-2, 3), 5).tolist() == [2, 1, 0, 1, 2]
    assert mirrored(np.arange(2, 7), 5).tolist() == [2, 3, 4, 3, 2]
    assert mirrored(np.arange(-2, 3), 1).tolist() == [0] * 5
    assert mirrored(np.arange(-2, 3), 2).tolist() == [0, 1, 0, 1, 0]


def test_statistics_that_lack_a_channel_are_completed(settings, tmp_path):
    made = settings()
    fields, _ = open_fields(made.data, made.outputs)
    folder = tmp_path / "statistics"
    assert set(statistics_of(fields[0], folder, ["Phase"]).histograms) == {"Phase"}
    both = statistics_of(fields[0], folder, ["Nuclei"], ["Nuclei"])
    assert set(both.histograms) == {"Phase", "Nuclei"}
    assert set(both.low) == {"Nuclei"}


def test_a_run_that_was_stopped_goes_on_with_the_crops_it_would_have_taken(settings, specimen, monkeypatch, without_figures):
    options = ["data.crops=8", "trainer.epochs=2", f"outputs={specimen.parent / 'runs'}"]
    whole = carry_out(settings(*options, "name=whole"), [])[1]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            carry_out(settings(*options, "name=stopped"), [])
    (folder,) = (specimen.parent / "runs" / "stopped").iterdir()
    goes_on = settling.settle({**run.read_config(folder), "resume": str(folder)}, "train")
    assert differing_history(whole / "history.csv", carry_out(goes_on, [], resumed=folder)[1] / "history.csv") is None
