"""Whole images: a model that changes nothing gives them back exactly, and what is written says what it is."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from microlatent import checkpoint, config
from microlatent.data.io.image_files import open_image
from microlatent.data.normalise import Normaliser
from microlatent.data.split import Split
from microlatent.experiment import load_model
from microlatent.run import RunFolder
from microlatent.schemas import MISSING, Settings, TrainerConfig
from microlatent.systems.partitions import reconstruct
from microlatent.systems.partitions.schema import PartitionsConfig, ReconstructConfig
from microlatent.systems.partitions.source import cut, gather
from microlatent.systems.partitions.stitching import Mosaic, window
from microlatent.tracking import NullTracker

NAMES = ["CD8", "DAPI", "Ki-67"]
PATCH_PX = 16


@dataclass(kw_only=True)
class MirrorConfig:
    """A model that returns what it sees, up to a factor."""

    name: str = MISSING
    factor: float = 1.0


class Mirror(nn.Module):
    """Return the input; batches and places leave no trace in it."""

    def __init__(self, config: MirrorConfig, channels: int, shape_px: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.shape_px = channels, shape_px
        self.factor = nn.Parameter(torch.tensor(config.factor))

    def reconstruct(self, x):
        """Return the input times the factor."""
        assert x.shape[1:] == (self.channels, *self.shape_px)
        return x * self.factor


@pytest.fixture(autouse=True)
def mirror(monkeypatch):
    """Make the mirror a model for the time of a test, as a plugin would."""
    monkeypatch.setitem(
        config.REGISTRY["model"], "mirror", config.Choice("mirror", MirrorConfig, "tests.partitions.test_reconstruct:Mirror")
    )


def write_image(path: Path, pixels, names=NAMES):
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"axes": "CYX", "Channel": {"Name": list(names)}, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "\u00b5m"}
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=about)


def skewed(seed: int, shape, dtype=np.uint16) -> np.ndarray:
    """Return counts with a long tail up to the end of the camera's range."""
    limit = np.iinfo(dtype).max
    pixels = np.minimum(np.random.default_rng(seed).gamma(0.5, limit / 20, (3, *shape)), limit)
    pixels[:, 0, 0] = limit
    return pixels.astype(dtype)


def trained_run(folder: Path, mode="gauss", factor=1.0, split_by="subject", groups=("S1", "S2"), **normaliser) -> Path:
    """Write what a training run leaves: configuration, split, and a checkpoint with its provenance."""
    run = RunFolder.claim(folder / "run")
    held = Split(split_by, pd.DataFrame({"group": groups, "part": ["train", "val"], "num_patches": [3, 2]}))
    held.write(run.path / "split.csv")
    fitted = Normaliser(
        mode,
        NAMES,
        [900.0, 800.0, 700.0],
        [50.0, 40.0, 30.0],
        low=[0.0, 3.0, 0.0],
        high=[65535.0, 60000.0, 50000.0],
        **normaliser,
    )
    model = {"name": "mirror", "factor": factor}
    data = {"channels": NAMES, "shape_px": [PATCH_PX, PATCH_PX], "normaliser": fitted.state(), "split_by": split_by}
    trained_on = {"name": "partitions", "root": str((folder / "raw").resolve())}
    provenance = {"config": {"model": model, "data": trained_on}, "data": data | {"split_hash": held.hash, "fingerprints": {}}}
    run.describe({"model": model, "data": trained_on}, provenance)
    weights = Mirror(MirrorConfig(**model), 3, PATCH_PX).state_dict()
    checkpoint.save(run.path / "checkpoints" / "best.ckpt", {"model": weights, "birth": provenance, "position": {"epoch": 1}})
    return run.path


def run_task(run: Path, root: Path, out: Path, data=None, **task):
    chosen = Settings(
        data=PartitionsConfig(name="partitions", root=str(root), **(data or {})),
        task=ReconstructConfig(name="reconstruct", **({"overlap": 4} | task)),
        trainer=TrainerConfig(name="cpu"),
        run=str(run),
        outputs=str(out),
    )
    numbers = reconstruct.run(chosen, out, NullTracker())
    return numbers, pd.read_csv(out / "tables" / "errors.csv", keep_default_na=False)


@pytest.mark.parametrize(
    ("overlap", "treatment"),
    [(0, {"mode": "gauss"}), (5, {"mode": "gauss"}), (5, {"mode": "dataset"}), (3, {"mode": "none", "cofactor": 5.0})],
    ids=str,
)
def test_an_identity_model_gives_every_image_back_exactly(tmp_path, overlap, treatment):
    images = {"S1/a": skewed(0, (41, 50)), "S1/b": skewed(1, (16, 33)), "S2/a": skewed(2, (32, 48), np.uint8)}
    for name, pixels in images.items():
        write_image(tmp_path / "raw" / f"{name}.tif", pixels)
    run = trained_run(tmp_path, **treatment)
    _, errors = run_task(run, tmp_path / "raw", tmp_path / "out", overlap=overlap, batch_size=5)
    for name, pixels in images.items():
        written = tifffile.imread(tmp_path / "out" / f"{name}.tif")
        assert written.dtype == pixels.dtype
        np.testing.assert_array_equal(written, pixels)
        assert (tmp_path / "out" / f"{name}.png").is_file()
    assert errors["channel"].tolist() == NAMES * 3
    assert (errors["rmse_counts"].astype(float) < 0.2).all()
    assert (errors["r2"].astype(float) > 1 - 1e-9).all()
    assert errors["part"].tolist() == ["train"] * 6 + ["val"] * 3


def test_what_is_written_can_be_read_as_the_original(tmp_path):
    write_image(tmp_path / "raw" / "S1" / "a.tif", skewed(0, (30, 40))[::-1], NAMES[::-1])
    run = trained_run(tmp_path)
    run_task(run, tmp_path / "raw", tmp_path / "out", overlap=4)
    again, before = open_image(tmp_path / "out" / "S1" / "a.tif", "C"), open_image(tmp_path / "raw" / "S1" / "a.tif", "C")
    assert (again.shape, again.dtype, again.axes, again.pixel_um) == (before.shape, before.dtype, before.axes, 0.5)
    assert again.channels == NAMES  # the model's order, by name
    np.testing.assert_array_equal(again.read(0), before.read(0)[::-1])


def test_errors_are_those_of_the_written_image(tmp_path):
    pixels = skewed(0, (41, 50))
    write_image(tmp_path / "raw" / "S9" / "a.tif", pixels)
    run = trained_run(tmp_path, "none", factor=0.4)
    numbers, errors = run_task(run, tmp_path / "raw", tmp_path / "out", overlap=4)
    written = tifffile.imread(tmp_path / "out" / "S9" / "a.tif")
    np.testing.assert_array_equal(written, np.rint(pixels * 0.4))
    for number, row in errors.iterrows():
        plane = pixels[number].astype(float)
        assert row["part"] == ""  # a subject that the run does not know
        assert float(row["rmse_counts"]) == pytest.approx(np.sqrt(np.mean((0.6 * plane) ** 2)), rel=1e-5)
        assert float(row["correlation"]) == pytest.approx(1)
        assert float(row["r2"]) == pytest.approx(1 - np.mean((0.6 * plane) ** 2) / plane.var(), rel=1e-4)
        assert numbers[f"r2_{NAMES[number]}"] == pytest.approx(float(row["r2"]), abs=1e-4)


def test_values_outside_of_the_cameras_range_are_cut_off(tmp_path):
    pixels = skewed(0, (20, 20), np.uint8)
    write_image(tmp_path / "raw" / "S1" / "a.tif", pixels)
    for factor in (3.0, -1.0):
        run_task(trained_run(tmp_path, "none", factor=factor), tmp_path / "raw", tmp_path / "out")
        expected = np.clip(pixels * factor, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "S1" / "a.tif"), expected)


def test_a_bernoulli_model_gives_a_probability_and_a_map(tmp_path):
    pixels = skewed(0, (41, 50))
    write_image(tmp_path / "raw" / "S1" / "a.tif", pixels)
    run = trained_run(tmp_path, "bern", factor=0.8, split_by="image", groups=("S1/b", "S1/a"))
    numbers, errors = run_task(run, tmp_path / "raw", tmp_path / "out", overlap=4)
    target = pixels > np.array([900, 800, 700])[:, None, None]
    probability = tifffile.imread(tmp_path / "out" / "S1" / "a_probability.tif")
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, 0.8 * target, rtol=1e-5)
    above = tifffile.imread(tmp_path / "out" / "S1" / "a_map.tif")
    assert above.dtype == np.uint8
    np.testing.assert_array_equal(above, target)
    assert open_image(tmp_path / "out" / "S1" / "a_map.tif", "C").channels == NAMES
    assert not (tmp_path / "out" / "S1" / "a.tif").exists()
    assert errors["part"].tolist() == ["val"] * 3
    entropies = -target.mean((1, 2)) * np.log(0.8)  # certain and right where there is nothing
    np.testing.assert_allclose(errors["cross_entropy_nats_per_pixel"].astype(float), entropies, rtol=1e-4)
    assert (errors["dice"].astype(float) == 1).all()
    assert (errors["accuracy"].astype(float) == 1).all()
    assert numbers["dice_CD8"] == 1
    _, errors = run_task(run, tmp_path / "raw", tmp_path / "other", overlap=4, threshold=0.9)
    assert not tifffile.imread(tmp_path / "other" / "S1" / "a_map.tif").any()
    assert (errors["dice"].astype(float) == 0).all()


@given(st.integers(4, 14), st.integers(0, 30), st.integers(0, 30), st.integers(0, 13))
@settings(max_examples=40, deadline=None)
def test_equal_values_stay_what_they_are_whatever_the_overlap(size, more_rows, more_columns, overlap):
    shape = size + more_rows, size + more_columns
    image = np.random.default_rng(0).uniform(-5, 60000, (2, *shape)).astype(np.float32)
    corners = cut(shape, size, min(overlap, size - 1))
    mosaic = Mosaic(2, shape, size)
    mosaic.add(corners, gather(image, corners, size))
    np.testing.assert_allclose(mosaic.blend(), image, rtol=5e-6)
    assert window(size).min() > 0


def test_seams_are_blended_and_gaps_refused():
    mosaic = Mosaic(1, (8, 12), 8)
    mosaic.add(np.array([[0, 0]]), np.zeros((1, 1, 8, 8)))
    mosaic.add(np.array([[0, 4]]), np.ones((1, 1, 8, 8)))
    row = mosaic.blend()[0, 3]
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 0.45  # no step
    assert row[3] == 0
    assert row[8] == 1
    gap = Mosaic(1, (8, 12), 8)
    gap.add(np.array([[0, 0]]), np.zeros((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="32 pixels of the image are under no square"):
        gap.blend()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"task": {"images": ["S1/aa"]}}, r"task.images names \['S1/aa'\].*Did you mean 'S1/a'"),
        ({"task": {"overlap": 16}}, r"task.overlap is 16, but must be below the model's partitions of 16 px"),
        ({"mode": "patch"}, r"data.normalise=patch"),
        ({"data": {"channels": ["DAPI"]}}, r"trained on channels .*CD8.*but data.channels asks for \['DAPI'\]"),
        ({"names": ["CD8", "DAPI", "IDO"]}, r"names \['Ki-67'\], but S1/a .*has \['CD8', 'DAPI', 'IDO'\]"),
        ({"shape": (12, 50)}, r"S1/a .*has 12 x 50 px, but a partition has 16 x 16 px.*task.images"),
    ],
    ids=str,
)
def test_what_cannot_be_reconstructed_is_refused(tmp_path, case, message):
    write_image(tmp_path / "raw" / "S1" / "a.tif", skewed(0, case.get("shape", (20, 20))), case.get("names", NAMES))
    run = trained_run(tmp_path, case.get("mode", "gauss"))
    with pytest.raises(ValueError, match=message):
        run_task(run, tmp_path / "raw", tmp_path / "out", data=case.get("data"), **case.get("task", {}))
    assert not list(tmp_path.glob("out/S1/*"))


def test_a_check_reconstructs_a_batch_writes_nothing_and_lists_what_the_run_writes(tmp_path):
    write_image(tmp_path / "raw" / "S1" / "a.tif", skewed(0, (40, 50)))
    write_image(tmp_path / "raw" / "S2" / "b.tif", skewed(0, (40, 50)))
    chosen = Settings(
        data=PartitionsConfig(name="partitions", root=str(tmp_path / "raw")),
        task=ReconstructConfig(name="reconstruct", overlap=4, images=["S2/b"]),
        trainer=TrainerConfig(name="cpu"),
        run=str(trained_run(tmp_path)),
        outputs=str(tmp_path / "outputs"),
    )
    plan = reconstruct.preflight(chosen, tmp_path / "out")
    assert "1 images, the first S2/b" in plan.reads[0]
    assert "12 partitions of 16 px, 12 px apart" in plan.reads[0]
    assert not (tmp_path / "out").exists()
    reconstruct.run(chosen, tmp_path / "out", NullTracker())
    assert sorted(plan.writes) == sorted(str(path) for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_checkpoint_that_knows_one_side_of_its_patches_is_still_read(tmp_path):
    run = trained_run(tmp_path)
    path = run / "checkpoints" / "best.ckpt"
    saved = checkpoint.load(path)
    saved["birth"]["data"]["patch_px"] = saved["birth"]["data"].pop("shape_px")[0]
    checkpoint.save(path, saved)
    assert load_model(run, "best", torch.device("cpu")).shape == (PATCH_PX, PATCH_PX)


@pytest.mark.parametrize("patch_px", [8, 16, 17, 32])
def test_overlap_is_a_quarter_of_the_partition_unless_it_is_given(patch_px):
    trained = SimpleNamespace(shape=(patch_px, patch_px))
    for overlap, expected in ((None, patch_px // 4), (0, 0), (5, 5)):
        chosen = Settings(task=ReconstructConfig(name="reconstruct", overlap=overlap))
        assert reconstruct.overlap_px(chosen, trained) == expected < patch_px


def test_a_model_of_small_partitions_needs_no_overlap_to_be_given(tmp_path):
    pixels = skewed(0, (41, 50))
    write_image(tmp_path / "raw" / "S1" / "a.tif", pixels)
    run = trained_run(tmp_path)
    run_task(run, tmp_path / "raw", tmp_path / "out", overlap=None)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "S1" / "a.tif"), pixels)
    chosen = Settings(
        data=PartitionsConfig(name="partitions", root=str(tmp_path / "raw")),
        task=ReconstructConfig(name="reconstruct"),
        trainer=TrainerConfig(name="cpu"),
        run=str(run),
        outputs=str(tmp_path / "outputs"),
    )
    assert "partitions of 16 px, 12 px apart" in reconstruct.preflight(chosen, tmp_path / "out").reads[0]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ae_gauss", "vae_bern"])
def test_the_commands_lead_from_images_to_reconstructions(command, model):
    for subject in range(3):
        write_image(command.folder / "raw" / f"S{subject}" / "a.tif", skewed(subject, (40, 72)))
    data = ["data=partitions", "data.root=raw", "logger=csv", "trainer.device=cpu"]
    command("infer", "task=assemble", "task.size=32", "data.drop_channels=[DAPI]", *data)
    command("train", f"model={model}", "trainer.epochs=1", "data.drop_channels=[DAPI]", "name=t", *data)
    command("infer", "task=reconstruct", "task.overlap=8", "run=latest", "logger=csv")
    (out,) = command.folder.glob("outputs/t/*/reconstruct")
    for subject in range(3):
        names = ["a.tif"] if model == "ae_gauss" else ["a_map.tif", "a_probability.tif"]
        assert sorted(path.name for path in (out / f"S{subject}").iterdir()) == sorted(["a.png", *names])
        for name in names:
            image = open_image(out / f"S{subject}" / name, "C")
            assert (image.channels, image.shape) == (["CD8", "Ki-67"], (1, 2, 40, 72))
    errors = pd.read_csv(out / "tables" / "errors.csv")
    assert len(errors) == 6
    assert set(errors["part"]) == {"train", "val"}
