"""Preprocessing leaves tables, statistics and a picture, and the plates as they were unless attributes are asked for."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr

from microlatent import training
from microlatent.command import carry_out
from microlatent.data.io.ome_zarr.plate import open_plates
from microlatent.systems.plates import preprocess
from microlatent.systems.plates.simulate import simulate
from tests.conftest import composed
from tests.odd_plates import odd_plate, pixels, write_plate


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    """Three wells of a small specimen; read only."""
    wells = ("A/1", "A/2", "B/2")
    return simulate(tmp_path_factory.mktemp("specimen") / "demo", wells=wells, test_wells=("B/2",), side_px=64)


@pytest.fixture
def preprocessed(tmp_path):
    """Return a function that preprocesses a plate and returns the folder and the table of fields."""

    def done(root, *options):
        typed = ("task=preprocess", "data=plates", f"data.root={root}", f"outputs={tmp_path / 'outputs'}", "logger=csv", *options)
        folder = carry_out(composed("infer", *typed), list(typed))[1]
        return folder, pd.read_csv(folder / "tables" / "fields.csv", dtype={"fov": str})

    return done


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_plates_are_measured_and_stay_as_they_were(preprocessed, specimen):
    before = digest(specimen)
    folder, table = preprocessed(specimen)
    assert digest(specimen) == before
    assert list(table["channel"].unique()) == ["Phase", "Nuclei", "Membrane"]
    image = open_plates(specimen / "datasets/train")[0]["A/1/000"]
    row = table[(table["well"] == "A/1") & (table["channel"] == "Nuclei")].iloc[0]
    assert row["median"] == np.median(image[:, 1])
    assert row["p99"] == pytest.approx(np.percentile(image[:, 1], 99))
    assert 0.02 < row["foreground"] < 0.4
    assert len(list((folder / "figures").glob("plate_*.png"))) == 2
    kept = sorted(folder.parents[1].glob("stores/plates-demo/statistics/*/*.npz"))
    assert len(kept) == 3
    times = [path.stat().st_mtime_ns for path in kept]
    preprocessed(specimen)
    assert [path.stat().st_mtime_ns for path in kept] == times  # an interrupted run goes on where it was


@pytest.mark.slow
def test_attributes_are_written_when_asked_and_read_in_training(preprocessed, specimen, tmp_path):
    root = shutil.copytree(specimen, tmp_path / "copy")
    _, table = preprocessed(root, "task.write_attributes=true")
    field = next(root.glob("datasets/train/*.zarr/A/1/000"))
    known = json.loads((field / "zarr.json").read_text())["attributes"]["normalization"]["Phase"]
    row = table[(table["well"] == "A/1") & (table["channel"] == "Phase")].iloc[0]
    assert known["fov_statistics"]["median"] == row["median"]
    pooled = np.concatenate([open_plates(root / "datasets/train")[0][f"A/{k}/000"][:, 0].ravel() for k in (1, 2)])
    assert known["dataset_statistics"]["median"] == np.median(pooled)  # of the training wells alone
    train = [
        "model=stain_unet",
        "data=plates",
        f"data.root={root}",
        "data.source_channels=[Phase]",
        "data.target_channels=[Nuclei]",
    ]
    train += ["data.crop_px=16", "data.crops=4", f"outputs={tmp_path / 'o'}", "data.val_share=0"]
    one, other = (training.open_data(composed("train", *train, f"data.statistics={how}")) for how in ("measured", "attributes"))
    np.testing.assert_allclose(one.levels(0).lines, other.levels(0).lines)
    assert preprocessed(root)[1]["attributes"].unique().tolist() == ["current"]
    with pytest.raises(ValueError, match=r"have an attribute normalization already.*task\.overwrite=true"):
        preprocessed(root, "task.write_attributes=true")
    zarr.open_array(field / "0", mode="r+")[0, 0, 0, :4, :4] = 9
    assert set(preprocessed(root)[1]["attributes"]) == {"current", "stale"}
    with pytest.raises(ValueError, match=r"normalization of .*A/1/000 was taken from other pixels"):
        training.open_data(composed("train", *train, "data.statistics=attributes", f"data.store={tmp_path / 'new'}"))


def test_gaps_are_counted_and_not_taken_for_zeros(preprocessed, tmp_path):
    path = write_plate(tmp_path / "gaps.zarr", {("A/1", "0"): pixels((1, 2, 3, 32, 32)), ("B/2", "0"): pixels((1, 2, 3, 32, 32))})
    shutil.rmtree(path / "A/1/0/0/0/1")
    _, table = preprocessed(path)
    row = table[(table["well"] == "A/1") & (table["channel"] == "Nuclei")].iloc[0]
    assert row["missing_frames"] == 1
    assert row["unknown_share"] == 1
    assert np.isnan(row["median"])
    assert table["missing_frames"].sum() == 1


def test_absent_wells_are_in_the_picture_and_named(preprocessed, tmp_path, caplog):
    folder, table = preprocessed(odd_plate(tmp_path, "sparse"))
    assert (folder / "figures" / "plate_sparse.png").is_file()
    assert set(table["well"]) == {"A/1", "A/2"}
    assert "the well B/3" in caplog.text


@pytest.mark.parametrize("options", [[], ["task.write_attributes=true"]])
def test_a_check_says_what_would_be_written_and_writes_nothing(tmp_path, specimen, options):
    before = digest(specimen)
    settings = composed("infer", "task=preprocess", "data=plates", f"data.root={specimen}", f"outputs={tmp_path / 'o'}", *options)
    plan = preprocess.preflight(settings, tmp_path / "run")
    assert not (tmp_path / "o").exists()
    assert digest(specimen) == before
    assert any("fields.csv" in line for line in plan.writes)
    assert any("attribute normalization" in line for line in plan.writes) == bool(options)


def test_channels_without_names_are_refused_with_how_to_name_them(preprocessed, tmp_path):
    path = odd_plate(tmp_path, "unnamed_channels")
    with pytest.raises(ValueError, match=r"data\.channel_names=\[\.\.\.\]"):
        preprocessed(path)
    assert set(preprocessed(path, "data.channel_names=[Phase,Nuclei]")[1]["channel"]) == {"Phase", "Nuclei"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["task.channels=[phase]"], r"'phase' is not in"),
        (["task.overwrite=true"], r"no effect without task\.write_attributes=true"),
        (["data.root=/nowhere"], r"no such folder"),
    ],
)
def test_what_cannot_be_done_is_refused(preprocessed, specimen, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        preprocessed(specimen, *options)
