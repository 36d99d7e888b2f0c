"""task=match: from a latents table and its stores to trajectories."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest

from microlatent.schemas import Settings
from microlatent.systems.wells import match
from microlatent.systems.wells.schema import AssembleWellsConfig, MatchConfig, WellsConfig
from microlatent.tracking import NullTracker
from tests.specimen import write_latents, write_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_latents(path, num_tracks=7, num_frames=10, patch_px=16, pixel_um=0.5, patch_pixel_um=1.0, frame_min=9.0)
    return path


def settings(folder, store=None, **task):
    task = {"num_examples": 2} | task
    return Settings(run=str(folder), data=WellsConfig(name="wells", store=store), task=MatchConfig(name="match", **task))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, most of the time, where nobody looks at them."""
    monkeypatch.setattr(match, "draw", lambda *_: [])


@pytest.fixture(scope="module")
def done(folder):
    numbers = match.run(settings(folder, reference_files=True), folder / "match", NullTracker())
    return folder / "match", numbers


def test_trajectories_hold_their_rows_of_the_store_in_increasing_frame(done, folder):
    table, _ = write_store(folder / "again.h5", "B2", num_tracks=7, num_frames=10, patch_px=16, seed=1)
    for name, rows in json.loads((done[0] / "trajectories.json").read_text())["B2"].items():
        assert rows == np.flatnonzero(table["trajectory"] == name).tolist()
        assert table["frame"][rows].is_monotonic_increasing


def test_reference_pickle_holds_the_same_as_the_json(done):
    with open(done[0] / "A1_trajectories.pkl", "rb") as file:
        assert pickle.load(file) == json.loads((done[0] / "trajectories.json").read_text())["A1"]


def test_trajectory_that_misses_a_tenth_of_its_patches_is_dropped(done):
    assert "A1-Site_0/0" not in json.loads((done[0] / "trajectories.json").read_text())["A1"]
    assert done[1]["matched"] == 10
    assert done[1]["trajectories"] == 12


@pytest.mark.slow
def test_lower_share_keeps_it(folder, tmp_path):
    assert match.run(settings(folder, min_found=0.85), tmp_path, NullTracker())["matched_share"] == 1


def test_share_that_nothing_can_exceed_is_refused():
    with pytest.raises(ValueError, match="must be below 1"):
        MatchConfig(name="match", min_found=1.0)


def test_tables_are_in_physical_units_where_the_store_knows_them(done):
    table = pd.read_csv(done[0] / "tables" / "trajectories.csv")
    path, duration = table["path_um"], table["duration_min"]
    assert table["mean_speed_um_per_min"].to_numpy() == pytest.approx((path / duration).to_numpy())
    assert (duration == 81).all()
    assert "msd_um2" in pd.read_csv(done[0] / "tables" / "msd.csv")


def test_cells_that_change_slowly_step_less_than_random_pairs(done):
    assert done[1]["median_step_ratio"] < 0.8
    assert done[1]["step_shorter_probability"] > 0.8


@pytest.mark.slow
def test_same_seed_gives_the_same_files(done, folder, tmp_path):
    match.run(settings(folder, reference_files=True), tmp_path, NullTracker())
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(files) == 11
    assert all((tmp_path / name).read_bytes() == (done[0] / name).read_bytes() for name in files)


def test_check_lists_the_files_and_writes_none(done, folder, tmp_path):
    plan = match.preflight(settings(folder, reference_files=True), tmp_path)
    written = {str(path.relative_to(done[0])) for path in done[0].rglob("*.*")}
    assert {name.removeprefix(f"{tmp_path}/") for name in plan.writes} == written
    assert list(tmp_path.iterdir()) == []


def test_missing_latents_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"infer\.py task=process run="):
        match.run(settings(tmp_path), tmp_path, NullTracker())


def test_neither_run_nor_latents_is_refused():
    with pytest.raises(ValueError, match="run=latest"):
        match.run(Settings(data=WellsConfig(name="wells"), task=MatchConfig(name="match")), None, NullTracker())


@pytest.mark.usefixtures("undrawn")
def test_moved_store_is_found_through_data_store(tmp_path):
    write_latents(tmp_path, ("A1",), num_tracks=6, num_frames=4, patch_px=8)
    shutil.move(tmp_path / "stores", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"set data\.store"):
        match.run(settings(tmp_path), tmp_path / "match", NullTracker())
    assert match.run(settings(tmp_path, str(tmp_path / "elsewhere")), tmp_path / "match", NullTracker())["trajectories"] == 5


def test_store_of_other_patches_is_refused(tmp_path):
    write_latents(tmp_path, ("A1",), num_tracks=6, num_frames=4, patch_px=8)
    write_store(tmp_path / "stores" / "A1.h5", "A1", num_tracks=5, num_frames=4, patch_px=8)
    with pytest.raises(ValueError, match="no longer holds the patches"):
        match.run(settings(tmp_path), tmp_path / "match", NullTracker())


def test_truncated_table_is_refused(folder, tmp_path):
    path = tmp_path / "latents.h5ad"
    path.write_bytes((folder / "process" / "latents.h5ad").read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut short"):
        match.run(settings(folder, latents=str(path)), tmp_path, NullTracker())


def test_pickled_latents_of_another_length_are_refused(folder, tmp_path):
    with open(tmp_path / "A1_latent_space.pkl", "wb") as file:
        pickle.dump(np.zeros((3, 4), np.float32), file)
    with pytest.raises(ValueError, match=r"\(3, 4\).*69 patches"):
        match.run(
            settings(folder, str(folder / "stores"), latents=str(tmp_path / "A1_latent_space.pkl")), tmp_path, NullTracker()
        )


@pytest.mark.parametrize("well", ["A1", "B2"])
@pytest.mark.usefixtures("undrawn")
def test_golden_trajectories_follow_from_raw_files_and_the_references_latents(golden_folder, tmp_path, well):
    from microlatent.systems.wells import assemble

    golden = golden_folder / "wells"
    data = WellsConfig(name="wells", root=str(golden / "supp"), store=str(tmp_path / "stores"), wells=[well])
    assemble.run(Settings(data=data, task=AssembleWellsConfig(name="assemble")), tmp_path / "assemble", NullTracker())
    task = MatchConfig(name="match", latents=str(golden / f"raw/golden_z16/{well}_latent_space.pkl"), reference_files=True)
    match.run(Settings(data=data, task=task), tmp_path, NullTracker())
    ours, theirs = (pickle.loads((path / f"{well}_trajectories.pkl").read_bytes()) for path in (tmp_path, golden / "raw"))
    assert list(ours.items()) == list(theirs.items())
