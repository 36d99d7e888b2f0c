"""What ``task=predict`` writes is the input's plate with predicted channels, however often it is stopped and shared."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from microlatent import config
from microlatent.command import carry_out
from microlatent.data.io.ome_zarr.metadata import read_attributes
from microlatent.data.io.ome_zarr.plate import open_plates
from microlatent.data.io.ome_zarr.writer import ImageWriter, create_plate
from microlatent.experiment import load_model
from microlatent.systems.plates import predict
from microlatent.systems.plates.network import load_stainer
from microlatent.systems.plates.tiles import averaged
from tests.conftest import ROOT, composed

PLUGIN = "plugins=[tests.plates.hourglass]"
FIELDS = {
    ("A/1", "000"): (2, 3, 70, 50),
    ("A/1", "001"): (1, 1, 40, 90),
    ("A/2", "000"): (1, 4, 48, 48),
    ("B/4", "f2"): (1, 5, 33, 41),
}
SHAPE = (1, 2, 600, 530)


def write_image(path, shape, seed=0, version="0.5", pixel_um=0.5, channels=("Nuclei", "Phase"), dtype=np.uint16, times=None):
    """Write an image (T, Z, Y, X) of two channels whose stain goes with the phase."""
    rng = np.random.default_rng(seed)
    with ImageWriter(
        path,
        (shape[0], 2, *shape[1:]),
        dtype,
        channels,
        version=version,
        scale=(600.0 + seed, 1.0, 2.0, pixel_um, pixel_um),
        translation=(0.0, 0.0, 3.0, 100.0 * seed, 7.0),
        units={"T": "second", "Z": "micrometer", "Y": "micrometer", "X": "micrometer"},
        windows=[(50.0, 900.0 + seed), None],
        attributes={"stage": {"z": seed}, "normalization": {"Phase": {}}},
    ) as writer:
        for t in range(shape[0]) if times is None else times:
            phase = rng.gamma(4.0, 500.0, shape[1:])
            stain = 200 + 0.3 * (phase + np.roll(phase, 1, 1) + np.roll(phase, 1, 2))
            for c, pixels in enumerate((stain, phase)):
                writer.write(pixels.clip(0, 65535).astype(dtype), t, c)
    return path


def write_plate(path, fields=FIELDS, **options):
    """Write a plate of images of any shapes."""
    create_plate(path, list(fields), options.get("version", "0.5"))
    for seed, ((well, name), shape) in enumerate(fields.items()):
        write_image(path / well / name, shape, seed, **options)
    return path


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """Load the plugin in this process, and forget it afterwards."""
    before = dict(config.REGISTRY["model"])
    config.load_plugins(["tests.plates.hourglass"])
    yield
    config.REGISTRY["model"].clear()
    config.REGISTRY["model"].update(before)
    sys.modules.pop("tests.plates.hourglass", None)


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """Return the path of a plate of four fields of unequal shapes."""
    return write_plate(tmp_path_factory.mktemp("plates") / "p.zarr")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, plate):
    """Return a function that returns a run folder of a model with so many planes; each is trained once."""
    folder, known = tmp_path_factory.mktemp("runs"), {}

    def fit(planes=1, all_planes=False):
        if (planes, all_planes) not in known:
            typed = [PLUGIN, "data=plates", f"data.root={plate}", "data.source_channels=[Phase]", "data.target_channels=[Nuclei]"]
            typed += ["data.crop_px=32", "data.crops=8", "trainer.epochs=1", "trainer.num_reconstructions=0", "logger=csv"]
            typed += ["model=hourglass", f"model.planes={planes}", f"model.all_planes={all_planes}", "data.split_by=fov"]
            typed += [f"outputs={folder}", f"name=p{planes}{all_planes}"]
            known[planes, all_planes] = carry_out(composed("train", *typed), typed)[1]
        return known[planes, all_planes]

    return fit


@pytest.fixture
def run_of(trained, tmp_path):
    """Return a function that returns a copy of such a run."""

    def copied(*about, **options):
        return Path(shutil.copytree(trained(*about, **options), tmp_path / "run"))

    return copied


def predicted(run, root, *typed):
    """Predict in this process and return the plate."""
    predict_all(run, root, *typed)
    return open_plates(run / "prediction.zarr")[0]


def predict_all(run, root, *typed):
    """Predict in this process."""
    typed = [
        PLUGIN,
        f"run={run}",
        f"data.root={root}",
        "data=plates",
        "task=predict",
        f"outputs={run.parent}",
        "logger=csv",
        *typed,
    ]
    carry_out(settings_of(run, *typed), typed)


def settings_of(run, *typed):
    """Compose the settings, with the data of the run."""
    from hydra import compose, initialize_config_dir

    from microlatent import settling

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("infer", list(typed))
    return settling.settled("infer", cfg, list(typed))


def content(folder):
    """Return the files below a folder with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def whole(run, image, planes=1, all_planes=False, step=1):
    """Return a field's prediction (T, K, Z, Y, X) in normalised units, window by window of whole frames."""
    trained = load_model(run, "best", torch.device("cpu"))
    values = image[:, image.channel("Phase")].astype(np.float32)
    centre, scale = np.float32(np.median(values)), np.float32(np.subtract(*np.percentile(values, [75, 25])))
    out = np.zeros((image.shape[0], 1, *image.shape[2:]), np.float32)
    weight = np.zeros(image.shape[2])
    last = max(0, image.shape[2] - planes)
    starts = sorted({*range(0, last, step), last}) if all_planes else range(image.shape[2])
    for start in starts:
        first = start if all_planes else start - planes // 2
        chosen = np.pad(np.arange(image.shape[2]), planes, mode="reflect")[first + planes : first + 2 * planes]
        x = torch.from_numpy((values[:, chosen] - centre) / scale)[:, None]
        y = trained.model.predict(x[:, :, 0] if planes == 1 else x).numpy()
        for q in range(planes if all_planes else 1):
            share = min(q + 1, planes - q) if all_planes else 1
            out[:, :, start + q] += share * (y[:, :, q] if all_planes else y)
            weight[start + q] += share
    return out / weight[:, None, None]


# What is predicted


@pytest.mark.parametrize("about", [(), *(pytest.param(about, marks=pytest.mark.slow) for about in ((3,), (3, True)))])
def test_every_time_point_and_plane_has_the_values_of_the_whole_frame(run_of, plate, about):
    run, source = run_of(*about), open_plates(plate)[0]
    if about[1:]:
        source.fields = [image for image in source.fields if image.shape[2] >= 3]
    fields = "[" + ",".join(image.name for image in source.fields) + "]"
    found = predicted(run, plate, f"task.fields={fields}", "task.units=normalised", "task.tile_px=32")
    assert [image.name for image in found.fields] == [image.name for image in source.fields]
    for image, made in zip(source.fields, found.fields, strict=True):
        assert (made.shape, made.dtype) == ((image.shape[0], 1, *image.shape[2:]), np.float32)
        expected = whole(run, image, *about)
        assert np.abs(made[:] - expected).max() <= 1e-5 * expected.std()


def test_counts_are_of_the_camera_and_come_back_by_the_targets_of_training(run_of, plate):
    run, source = run_of(), open_plates(plate)[0]
    ((median, scale),) = load_model(run, "best", torch.device("cpu")).normaliser.target
    for image, made in zip(source.fields, predicted(run, plate).fields, strict=True):
        assert made.dtype == np.uint16
        np.testing.assert_allclose(made[:], whole(run, image) * scale + median, atol=0.51)


def test_floats_stay_floats(run_of, tmp_path):
    path = write_image(tmp_path / "x.zarr", (1, 1, 40, 50), dtype=np.float32)
    found = predicted(run_of(), path).fields[0]
    assert found.dtype == np.float32
    assert np.isfinite(found[:]).all()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_the_metadata_say_of_a_field_is_said_of_its_prediction(run_of, tmp_path, version):
    path = write_plate(tmp_path / "p.zarr", version=version)
    source, found = open_plates(path)[0], predicted(run_of(), path, f"task.version={version}")
    for image, made in zip(source.fields, found.fields, strict=True):
        assert made.channels == ["Nuclei_prediction"]
        for word in ("scale", "translation", "units", "version"):
            assert getattr(made, word) == getattr(image, word)
        assert made.windows == image.windows[:1]
        assert made.attributes["stage"] == image.attributes["stage"]
        assert "normalization" not in made.attributes


def test_a_large_frame_has_a_pyramid_and_no_seam(run_of, tmp_path):
    run, path = run_of(), write_image(tmp_path / "x.zarr", SHAPE)
    made = predicted(run, path, "task.units=normalised").fields[0]
    assert [level.shape[3:] for level in made.levels] == [(600, 530), (300, 265), (150, 132)]
    expected = whole(run, open_plates(path)[0].fields[0])
    assert np.abs(made[:] - expected).max() <= 1e-5 * expected.std()


def test_chosen_wells_alone_are_listed_where_they_lie_on_the_plate(run_of, plate):
    found = predicted(run_of(), plate, "task.wells=[B4]")
    about = read_attributes(found.path)[1]["plate"]
    assert [image.name for image in found.fields] == ["B/4/f2"]
    (well,) = about["wells"]
    assert (well["path"], well["rowIndex"], about["rows"][1]["name"]) == ("B/4", 1, "B")
    assert about["columns"][well["columnIndex"]]["name"] == "4"


def test_an_image_alone_a_well_and_a_field_are_predicted_as_what_they_are(run_of, plate, tmp_path):
    run = run_of()
    single = write_image(tmp_path / "single.zarr", (1, 2, 30, 40))
    for path, is_plate, names in (
        (single, False, ["0"]),
        (plate / "A" / "1", True, ["A/1/000", "A/1/001"]),
        (plate / "A" / "1" / "001", True, ["A/1/001"]),
    ):
        found = predicted(run, path)
        assert (found.is_plate, [image.name for image in found.fields]) == (is_plate, names)
    assert len(list(run.glob("prediction-*.zarr"))) == 2  # those before


def test_plates_of_a_list_have_a_prediction_each(run_of, tmp_path):
    run, fields = run_of(), {("A/1", "0"): (1, 1, 40, 40)}
    paths = [write_plate(tmp_path / "a.zarr", fields), write_plate(tmp_path / "b.zarr", fields, channels=("Phase", "Nuclei"))]
    predict_all(run, f"[{paths[0]},{paths[1]}]")
    made = [open_plates(run / f"prediction_{name}.zarr")[0].fields[0] for name in "ab"]
    for path, image in zip(paths, made, strict=True):
        expected = whole(run, open_plates(path)[0].fields[0])
        assert np.corrcoef(image[:].ravel(), expected.ravel())[0, 1] > 0.999


def test_time_points_that_were_never_written_stay_empty_and_are_named(run_of, tmp_path, caplog):
    path = write_image(tmp_path / "x.zarr", (3, 1, 40, 40), times=[0, 2])
    stored = predicted(run_of(), path).fields[0].levels[0].stored
    assert stored.any((1, 2, 3, 4)).tolist() == [True, False, True]
    assert "nothing was written of 1 time points" in caplog.text


@pytest.mark.slow
def test_copies_are_averaged(run_of, plate):
    run, image = run_of(), open_plates(plate)[0]["A/1/001"]
    made = predicted(run, plate, "task.units=normalised", "task.tta=mean", "task.tile_px=32")["A/1/001"][:]
    stainer = load_stainer(settings_of(run, PLUGIN, f"run={run}", f"data.root={plate}", "data=plates", "task=predict"))
    phase = image[0, 1].astype(np.float32)
    x = (phase - np.median(phase)) / np.subtract(*np.percentile(phase, [75, 25]))
    expected = averaged(stainer.network, "mean", stainer.stride)(x[None, None].astype(np.float32))
    assert np.abs(made[0] - expected[0]).max() <= 1e-5 * expected.std()


def test_another_pixel_size_is_warned_of_and_resampled_if_so_wanted(run_of, tmp_path, caplog):
    run, path = run_of(), write_image(tmp_path / "x.zarr", (1, 1, 80, 60), pixel_um=0.25)
    raw = predicted(run, path).fields[0]
    without = raw[:]
    assert "has pixels of 0.25 um, but the model was trained on 0.5 um" in caplog.text
    caplog.clear()
    made = predicted(run, path, "task.rescale=true").fields[0]
    assert "pixels of" not in caplog.text
    assert (made.shape, made.scale) == (raw.shape, raw.scale)
    assert not np.array_equal(made[:], without)


# Stopped, continued, shared


def in_fork(do, *arguments):
    """Call a function in a fork of this process and return the process's id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do(*arguments)
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.parametrize("moment", [19, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (0, 9, 11))])
def test_a_prediction_killed_at_any_moment_goes_on_to_the_same_files(run_of, plate, tmp_path, monkeypatch, moment):
    run = run_of()
    expected = content(predicted(run, plate, "task.tile_px=32").path)
    shutil.rmtree(run / "prediction.zarr")
    count = iter(range(1000))

    def dies(original):
        def call(*args):
            if next(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "_finish"):
            patch.setattr(ImageWriter, name, dies(getattr(ImageWriter, name)))
        child = in_fork(predicted, run, plate, "task.tile_px=32")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in (run / "prediction.zarr").glob("?/?/*/zarr.json")}
    found = predicted(run, plate, "task.tile_px=32")
    assert content(found.path) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_commands_that_share_a_plate_make_what_one_makes(run_of, plate, tmp_path):
    run = run_of()
    expected = content(predicted(run, plate).path)
    shutil.rmtree(run / "prediction.zarr")
    typed = [PLUGIN, f"run={run}", f"data.root={plate}", "data=plates", "task=predict", f"outputs={run.parent}", "logger=csv"]

    class Nobody:
        def table(self, *_):
            pass

    settings = settings_of(run, *typed)
    children = [in_fork(predict.run, settings, tmp_path / f"{number}", Nobody()) for number in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert content(run / "prediction.zarr") == expected


def test_a_share_of_the_fields_leaves_the_others_to_other_commands(run_of, plate):
    run = run_of()
    found = predicted(run, plate, "task.fields=[A/1/001]")
    assert len(read_attributes(found.path)[1]["plate"]["wells"]) == 3
    assert [image.name for image in found.fields] == ["A/1/001"]
    assert len(predicted(run, plate, "task.fields=[A/1/000,A/2/000,B/4/f2]").fields) == 4


def test_one_made_otherwise_is_set_aside_and_never_mixed_with(run_of, plate, caplog):
    run = run_of()
    first = content(predicted(run, plate, "task.fields=[A/1/000]").path)
    predicted(run, plate, "task.units=normalised", "task.fields=[A/1/001]")
    (kept,) = run.glob("prediction-*.zarr")
    assert content(kept) == first
    assert [image.name for image in open_plates(run / "prediction.zarr")[0].fields] == ["A/1/001"]
    assert f"it is now {kept.name}" in caplog.text


def test_one_that_another_command_is_writing_is_not_set_aside(run_of, plate, tmp_path):
    run = run_of()
    predicted(run, plate, "task.fields=[A/1/000]")
    opened = predict.open_all(
        settings_of(run, PLUGIN, f"run={run}", f"data.root={plate}", "data=plates", "task=predict"), str(tmp_path)
    )
    with opened.jobs[0].lock, pytest.raises(ValueError, match="is being written by another process"):
        predicted(run, plate, "task.units=normalised")
    assert not list(run.glob("prediction-*.zarr"))


def test_a_field_whose_pixels_changed_is_predicted_again(run_of, plate, tmp_path):
    run, path = run_of(), Path(shutil.copytree(plate, tmp_path / "q.zarr"))
    predicted(run, path, "data.normalise=dataset")
    before = content(run / "prediction.zarr")
    shutil.rmtree(path / "A" / "2" / "000")
    write_image(path / "A" / "2" / "000", (1, 4, 48, 48), seed=9)
    shutil.rmtree(run.parent / "stores", ignore_errors=True)
    after = content(predicted(run, path, "data.normalise=dataset").path)
    changed = {name for name in after if after[name] != before[name]}
    assert changed
    assert all(name.startswith("A/2/000") for name in changed)


def test_the_input_is_not_touched(run_of, plate):
    before = {path: path.stat().st_mtime_ns for path in plate.rglob("*")}
    pixels = content(plate)
    predicted(run_of(), plate)
    assert {path: path.stat().st_mtime_ns for path in plate.rglob("*")} == before
    assert content(plate) == pixels


# Told before


def test_a_check_writes_nothing_and_says_what_would_be(run_of, plate, capsys):
    run = run_of()
    before = content(run.parent)
    typed = [
        PLUGIN,
        f"run={run}",
        f"data.root={plate}",
        "data=plates",
        "task=predict",
        f"outputs={run.parent}",
        "logger=csv",
        "check=true",
    ]
    carry_out(settings_of(run, *typed), typed)
    assert content(run.parent) == before
    said = capsys.readouterr().out
    for words in ("4 fields", "prediction.zarr", "fields.csv", "T 2, C 2 (Nuclei, Phase), Z 3, Y 70, X 50", "memory"):
        assert words in said


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("task.wells=[A/3]", "task.wells names 'A/3'.*Allowed: A/1, A/2, B/4"),
        ("task.fields=[A/1/7]", "task.fields names 'A/1/7'"),
        ("task.units=pixels", "task.units is 'pixels'.*counts, normalised"),
        ("task.tta=max", "task.tta is 'max'"),
        ("task.tile_px=0", "task.tile_px is 0"),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_name(trained, plate, typed, message):
    typed = [PLUGIN, f"run={trained()}", f"data.root={plate}", "data=plates", "task=predict", typed]
    with pytest.raises(ValueError, match=message):
        predict.open_all(settings_of(trained(), *typed), str(plate.parent))


def test_a_halo_below_the_receptive_field_is_taken_only_if_typed(trained, plate, monkeypatch):
    def opened(*typed):
        typed = [PLUGIN, f"run={trained()}", f"data.root={plate}", "data=plates", "task=predict", *typed]
        return predict.open_all(settings_of(trained(), *typed), str(plate.parent))

    assert opened().tiling.halo_px == 28
    assert not opened().notes
    assert "task.halo_px=10 is below half of the model's receptive field of 57 px" in opened("task.halo_px=10").notes[0]
    monkeypatch.delattr("tests.plates.hourglass.Hourglass.receptive_field")
    with pytest.raises(ValueError, match="does not state its receptive_field"):
        opened("task.tile_px=32")
    assert opened("task.tile_px=32", "task.halo_px=28").tiling.halo_px == 28
    assert opened().tiling.halo_px == 0  # frames are smaller than a tile


# Slow


@pytest.mark.slow
def test_two_workers_make_what_one_makes(run_of, plate, command):
    run = run_of()
    expected = content(predicted(run, plate, "task.tile_px=32", "trainer.threads=1").path)
    shutil.rmtree(run / "prediction.zarr")
    typed = (PLUGIN, f"run={run}", f"data.root={plate}", "data=plates", "task=predict", f"outputs={run.parent}", "logger=csv")
    command("infer", *typed, "task.tile_px=32", "task.workers=2", "trainer.threads=2", launcher=("-u",))
    assert content(run / "prediction.zarr") == expected


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frame(tmp_path):
    measure = """
import sys
import numpy as np
import torch
from benchmarks.timing import peak_mb
from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.data.io.ome_zarr.writer import ImageWriter
from microlatent.device import set_layout
from microlatent.models.stain_unet import StainUNet
from microlatent.schemas import StainUNetConfig
from microlatent.systems.plates.tiles import Tiling, predict_field

torch.set_num_threads(1)
side, folder = int(sys.argv[1]), sys.argv[2]
if sys.argv[3:] == ["make"]:
    with ImageWriter(f"{folder}/{side}", (1, 1, 1, side, side), np.uint16, ["a"]) as writer:
        for y, x in np.ndindex(side // 512, side // 512):
            writer.write(np.random.default_rng(0).integers(0, 4000, (512, 512)), 0, 0, 0, y * 512, x * 512)
else:
    model = StainUNet(StainUNetConfig(name="stain_unet", width=8), 1, (64, 64), 2).eval()
    set_layout(model, channels_last=True)
    last = torch.channels_last
    network = lambda x: model.predict(torch.from_numpy(x[:, :, 0]).contiguous(memory_format=last)).numpy()[:, :, None]
    image = OmeImage(f"{folder}/{side}")
    tiling = Tiling(512, model.receptive_field // 2, model.stride)
    with ImageWriter(f"{folder}/{side}_out", (1, 2, 1, side, side), np.uint16, ["a", "b"]) as writer:
        write = lambda y, t, z, row, column: [writer.write(p, t, c, z, row, column) for c, p in enumerate(y)]
        predict_field(image, [0], network, np.float32([[[0, 1]]]), write, tiling)
    print(peak_mb())
"""
    needed = []
    for side in (1024, 4096):
        for how in (["make"], []):
            line = [sys.executable, "-c", measure, str(side), str(tmp_path), *how]
            paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
            done = subprocess.run(line, capture_output=True, text=True, env=os.environ | paths, check=False)
            assert done.returncode == 0, done.stderr
        needed.append(float(done.stdout))
    assert needed[1] <= 1.2 * needed[0]
