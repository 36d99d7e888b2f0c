"""Patches hold their cell, the right pixels of it, and nothing of its neighbours."""

import logging
import pickle
import shutil
import tracemalloc
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from microlatent.data.io.images import find_fields
from microlatent.schemas import Settings
from microlatent.systems.wells import cells as cutting
from microlatent.systems.wells import linking, patch
from microlatent.systems.wells.files import find_wells
from microlatent.systems.wells.patches import Frame, write_site
from microlatent.systems.wells.schema import PatchConfig, WellsConfig
from microlatent.systems.wells.simulate import SPECIMENS, specimen
from tests.links import score_links


def discs(centres, radius=6, shape=(100, 120), seed=0):
    """Return an image of two channels and its mask, whose cells are discs with labels 1, 2, ..."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    rows, columns = np.indices(shape)
    for n, (y, x) in enumerate(centres):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = n + 1
    return rng.integers(100, 60000, (2, *shape)).astype(np.uint16), labels


@settings(max_examples=40, deadline=None)
@given(
    centres=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 119)), min_size=1, max_size=6),
    window=st.sampled_from([8, 20, 64]),
)
def test_every_patch_is_its_window_of_the_padded_image(centres, window):
    image, labels = discs(centres)
    found = cutting.find_cells(labels)
    patches = cutting.cut(image, labels, found, window)
    padded = np.pad(image, ((0, 0), (window, window), (window, window)))
    padded_labels = np.pad(labels, window)
    for n, (top, left) in enumerate(cutting.window_corners(found, window) + window):
        box = slice(top, top + window), slice(left, left + window)
        np.testing.assert_array_equal(patches.mat[n], padded[:, box[0], box[1]])
        np.testing.assert_array_equal(patches.mask[n], padded_labels[box] == found.cell_id[n])


def test_masked_patches_follow_the_rule_pixel_by_pixel():
    image, labels = discs([(30, 30), (34, 46), (60, 110), (5, 5)], radius=8)
    found = cutting.find_cells(labels)
    patches = cutting.cut(image, labels, found, 40, dilate_cell_px=7, dilate_neighbour_px=5)
    fill = np.median(image[:, labels == 0], axis=1)
    points = np.argwhere(labels > 0)
    for n, (top, left) in enumerate(cutting.window_corners(found, 40)):
        for y, x in np.random.default_rng(n).integers(0, 40, (150, 2)):
            distance = np.hypot(*(points - (y + top, x + left)).T)
            own = labels[tuple(points.T)] == found.cell_id[n]
            outside = not (0 <= y + top < 100 and 0 <= x + left < 120)
            enlarged = distance[own].min() < 7
            replaced = outside or (not enlarged and distance[~own].min() <= 5)
            assert patches.enlarged_mask[n, y, x] == enlarged
            np.testing.assert_array_equal(
                patches.masked_mat[n, :, y, x], fill.astype(np.uint16) if replaced else patches.mat[n, :, y, x]
            )


def test_a_lone_cell_inside_is_the_same_masked_or_not():
    image, labels = discs([(50, 60)])
    patches = cutting.cut(image, labels, cutting.find_cells(labels), 32)
    np.testing.assert_array_equal(patches.masked_mat, patches.mat)
    assert patches.mat.dtype == image.dtype


def test_centres_and_areas_are_those_of_the_pixels():
    _, labels = discs([(20, 30), (70, 90)])
    labels[labels == 2] = 4000
    found = cutting.find_cells(labels)
    assert found.cell_id.tolist() == [1, 4000]
    for n, cell_id in enumerate(found.cell_id):
        rows, columns = np.nonzero(labels == cell_id)
        assert (found.y_px[n], found.x_px[n], found.area_px[n]) == pytest.approx((rows.mean(), columns.mean(), len(rows)))
    assert cutting.find_cells(labels, min_area_px=10**6).cell_id.size == 0


def test_an_image_full_of_cells_still_has_a_background():
    image, labels = discs([])
    assert cutting.background(image, labels + 1).tolist() == np.median(image, axis=(1, 2)).astype(np.uint16).tolist()


NAMES = {"well": "A1", "site": "A1-s", "channels": ["phase", "retardance"]}


def test_a_site_is_written_in_order_and_whole(tmp_path):
    movie = [Frame(t, *discs([(20 + t, 30), (60, 80 - t)], seed=t)) for t in range(5)]
    movie[2] = Frame(2, movie[2].image, np.zeros_like(movie[2].labels))
    truth = pd.DataFrame({"frame": [4], "cell_id": [2], "true_size_um": [7.0]})
    cut = write_site(tmp_path, iter(movie), PatchConfig(name="patch", window_px=32), **NAMES, pixel_um=0.5, truth=truth)
    with h5py.File(tmp_path / "patches.h5") as file:
        table = pd.DataFrame({name: file[f"table/{name}"][:] for name in file["table"]})
        assert table["frame"].tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
        assert table["cell_id"].tolist() == [1, 2] * 4
        assert table["true_size_um"].dropna().tolist() == [7.0]
        assert file["mat"].dtype == np.uint16
        np.testing.assert_array_equal(
            file["mat"][4], cutting.cut(movie[3].image, movie[3].labels, cutting.find_cells(movie[3].labels), 32).mat[0]
        )
        assert file.attrs["complete"]
        assert "frame_min" not in file.attrs
    assert cut.tracks.groupby("trajectory").size().tolist() == [4, 4]
    assert cut.linked_by == "ids"


def test_an_interrupted_site_leaves_nothing(tmp_path):
    def frames():
        yield Frame(0, *discs([(20, 30)]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site(tmp_path, frames(), PatchConfig(name="patch"), **NAMES)
    assert list(tmp_path.iterdir()) == []


def test_cells_at_the_boundary_are_skipped_when_asked(tmp_path):
    movie = [Frame(t, *discs([(10, 50), (50, 50)])) for t in range(3)]
    cut = write_site(tmp_path, movie, PatchConfig(name="patch", window_px=32, boundary="skip"), **NAMES)
    assert cut.num_skipped == 3
    assert set(cut.cells["cell_id"]) == set(cut.tracks["cell_id"]) == {2}


def test_cells_larger_than_their_window_are_counted(tmp_path):
    movie = [Frame(t, *discs([(50, 60)], radius=30)) for t in range(3)]
    cut = write_site(tmp_path, movie, PatchConfig(name="patch", window_px=32), **NAMES)
    assert cut.num_cropped == 3
    assert write_site(tmp_path, movie, PatchConfig(name="patch", window_px=cut.enough_px), **NAMES).num_cropped == 0


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(0, np.zeros((3, 9, 9)), np.ones((9, 9), int)), r"\(3, 9, 9\).*2 channels \(phase, retardance\)"),
        (Frame(0, np.zeros((2, 9, 9)), np.ones((9, 8), int)), r"image has \(9, 9\).*mask \(9, 8\)"),
        (Frame(0, np.zeros((2, 9, 9)), np.zeros((9, 9), int)), r"none of its 1 frames has a cell"),
    ],
)
def test_a_site_that_does_not_fit_says_why(tmp_path, frame, message):
    with pytest.raises(ValueError, match=message):
        write_site(tmp_path, [frame], PatchConfig(name="patch"), **NAMES)


def test_reference_files_have_the_references_layout(tmp_path):
    movie = [Frame(t, *discs([(20 + t, 30), (60, 80 - t)], seed=t)) for t in range(3)]
    write_site(tmp_path, movie, PatchConfig(name="patch", window_px=16, reference_files=True), **NAMES)
    with open(tmp_path / "stacks_1.pkl", "rb") as file:
        stacks = pickle.load(file)
    assert list(stacks) == [f"{tmp_path}/1_1.h5", f"{tmp_path}/1_2.h5"]
    array = stacks[f"{tmp_path}/1_2.h5"]["masked_mat"]
    assert (array.shape, array.dtype) == ((4, 1, 16, 16), np.float64)
    assert set(np.unique(array[2:])) <= {0.0, 1.0}
    with open(tmp_path / "cell_traj.pkl", "rb") as file:
        trajectories, positions = pickle.load(file)
    assert trajectories == [{0: 1, 1: 1, 2: 1}, {0: 2, 1: 2, 2: 2}]
    assert positions[0][2].tolist() == [22, 30]


TRACKER = SimpleNamespace(table=lambda name, table: None, image=lambda name, path: None)


def settings_for(root, out, data=None, **task):
    task = {"window_px": 64, "out": str(out)} | task
    return Settings(task=PatchConfig(name="patch", **task), data=WellsConfig(name="wells", root=str(root), **(data or {})))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    specimen(folder, wells=("A1", "B2"), sites=1, frames=4, cells=6, size_px=256)
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, most of the time, where nobody looks at them."""
    monkeypatch.setattr(patch, "draw", lambda *_: None)


def test_raw_files_become_patches_tracks_tables_and_a_figure(raw, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    numbers = patch.run(settings_for(raw, tmp_path / "p"), tmp_path / "run", TRACKER)
    truth = pd.read_csv(raw / "truth.csv")
    assert numbers["cells"] == len(truth)
    with h5py.File(tmp_path / "p/B2-supps/B2-Site_0/patches.h5") as file:
        here = truth[truth["well"] == "B2"].sort_values(["frame", "cell_id"])
        np.testing.assert_array_equal(file["table/true_texture"][:], here["true_texture"])
        assert (file.attrs["pixel_um"], list(file.attrs["channels"])) == (pytest.approx(0.65), ["phase", "retardance"])
    assert {path.name for path in (tmp_path / "run").rglob("*.*")} == {"A1.png", "B2.png", "sites.csv", "cells_per_frame.csv"}
    assert f"python infer.py task=assemble data.root={tmp_path / 'p'}" in caplog.text


def test_check_reads_and_writes_nothing(raw, tmp_path):
    preflight = patch.preflight(settings_for(raw, tmp_path / "p"), tmp_path / "run")
    assert len(preflight.writes) == 4
    assert preflight.disk_mb > 0
    assert not list(tmp_path.iterdir())


def test_wells_and_channel_names_are_checked(raw, tmp_path):
    for data, message in (
        ({"wells": ["C3"]}, r"data.wells names \['C3'\].*\['A1', 'B2'\]"),
        ({"channel_names": ["phase"]}, r"1 names \(\['phase'\]\).*2 image channels"),
        ({"wells": ["A1"], "sites": ["B2-Site_0"]}, "Leave one of them away"),
    ):
        with pytest.raises(ValueError, match=message):
            patch.run(settings_for(raw, tmp_path / "p", data), tmp_path / "run", TRACKER)


def test_patches_of_two_folders_are_not_mixed(raw, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "made_from.json").write_text('{"root": "/other"}')
    with pytest.raises(ValueError, match=r"patches of /other.*task.out"):
        patch.run(settings_for(raw, tmp_path / "p"), tmp_path / "run", TRACKER)


@pytest.mark.usefixtures("undrawn")
def test_a_site_that_cannot_be_cut_is_refused_before_any_is_cut(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    patch.run(settings_for(tmp_path / "raw", tmp_path / "p"), tmp_path / "run", TRACKER)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*.*")}
    for mask in (tmp_path / "raw" / "masks").glob("B2-*"):
        tifffile.imwrite(mask, tifffile.imread(mask)[:100])
    for act in (patch.preflight, lambda *given: patch.run(*given, TRACKER)):
        with pytest.raises(ValueError, match=r"B2-Site_0, frame 0: .*its mask \(100, 256\)"):
            act(settings_for(tmp_path / "raw", tmp_path / "p", window_px=32), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*.*")} == before


@pytest.mark.usefixtures("undrawn")
def test_wells_that_were_not_cut_to_the_end_are_not_assembled(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    broken = sorted((tmp_path / "raw" / "masks").glob("B2-*"))[-1]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        patch.run(settings_for(tmp_path / "raw", tmp_path / "p"), tmp_path / "run", TRACKER)
    with pytest.raises(ValueError, match="half cut: the last task=patch ended before B2/B2-Site_0"):
        find_wells(tmp_path / "p", None, None, None)
    assert len(find_wells(tmp_path / "p", ["A1"], None, None)) == 1
    broken.write_bytes(whole)
    patch.run(settings_for(tmp_path / "raw", tmp_path / "p", {"wells": ["B2"]}), tmp_path / "run", TRACKER)
    assert len(find_wells(tmp_path / "p", None, None, None)) == 2


@pytest.mark.usefixtures("undrawn")
def test_check_of_the_specimen_is_not_refused_for_where_it_simulates_it(tmp_path, monkeypatch):
    monkeypatch.setitem(
        SPECIMENS, "demo", lambda folder: specimen(folder, wells=("A1",), sites=1, frames=3, cells=3, size_px=128)
    )
    settings = settings_for("demo", tmp_path / "p")
    settings.outputs = str(tmp_path)
    patch.run(settings, tmp_path / "run", TRACKER)
    assert patch.preflight(settings, tmp_path / "run").writes


@pytest.mark.usefixtures("undrawn")
def test_tracks_can_come_from_a_table(raw, tmp_path):
    table = pd.read_csv(raw / "truth.csv")[["well", "site", "frame", "cell_id"]].assign(
        track_id=lambda rows: rows["cell_id"] + 50
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    patch.run(settings_for(raw, tmp_path / "p", {"wells": ["A1"]}, tracks=str(tmp_path / "t.csv")), tmp_path / "run", TRACKER)
    tracks = pd.read_csv(tmp_path / "p/A1-supps/A1-Site_0/tracks.csv")
    assert (tracks.groupby("trajectory")["cell_id"].nunique() == 1).all()


@pytest.mark.usefixtures("undrawn")
def test_a_foreground_mask_is_warned_about(tmp_path, caplog):
    for kind, pixels in zip(("images", "masks"), discs([(20, 30), (60, 80)]), strict=True):
        (tmp_path / kind).mkdir()
        plane = (pixels > 0).astype(np.uint8) * 255 if kind == "masks" else pixels[0]
        tifffile.imwrite(tmp_path / kind / "A1-s_t0.tif", plane)
    patch.run(settings_for(tmp_path, tmp_path / "p", min_track_frames=1), tmp_path / "run", TRACKER)
    assert "255, in 2 separate pieces" in caplog.text


@pytest.mark.usefixtures("undrawn")
def test_an_empty_site_is_left_out_and_said(tmp_path, caplog):
    image, labels = discs([(20, 30)])
    for kind, planes in (("images", (image, image)), ("masks", (labels, 0 * labels))):
        (tmp_path / kind).mkdir()
        for site, plane in zip("ab", planes, strict=True):
            tifffile.imwrite(tmp_path / kind / f"A1-{site}_t0.tif", plane, photometric="minisblack")
    patch.run(settings_for(tmp_path, tmp_path / "p", min_track_frames=1), tmp_path / "run", TRACKER)
    assert "A1-b: none of its 1 frames has a cell" in caplog.text
    assert [path.name for path in (tmp_path / "p/A1-supps").iterdir()] == ["A1-a"]


def test_more_frames_take_no_more_memory(tmp_path):
    peaks = []
    for num_frames in (5, 25):
        movie = (Frame(t, *discs([(30, 30), (60, 80)], seed=t)) for t in range(num_frames))
        tracemalloc.start()
        write_site(tmp_path, movie, PatchConfig(name="patch", window_px=128), **NAMES)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.slow
def test_real_cells_become_patches_with_their_tracks(data_folder, tmp_path):
    root = data_folder / "wells" / "usiigaci_T98G"
    masks = "*_Exp_*/Id_masks_per_frame/id_masks_{frame}.png"
    files = {"images": "T98G_sample/*t{frame}.tif", "masks": masks, "mask_frame_offset": 1, "window_px": 256}
    numbers = patch.run(settings_for(root, tmp_path / "p", {"pixel_um": 0.87}, **files), tmp_path / "run", TRACKER)
    assert numbers == {"frames": 12, "cells": 853, "tracks": 74, "skipped": 0}
    folder = tmp_path / "p/A1-supps/A1-Site_0"
    (fov,) = find_fields(root, masks, "task.masks").values()
    with h5py.File(folder / "patches.h5") as file:
        last = file["table/frame"][:] == 12
        found = cutting.find_cells(fov.labels(11))
        np.testing.assert_array_equal(file["table/area_px"][last], found.area_px)
        cells = pd.DataFrame({name: file[f"table/{name}"][:] for name in file["table"]})
    recall, precision = score_links(linking.link(cells), pd.read_csv(folder / "tracks.csv"))
    assert recall > 0.98
    assert precision > 0.98
