"""The simulated specimen is what it says it is."""

import hashlib

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from microlatent.systems.wells import linking
from microlatent.systems.wells import simulate as simulated
from tests.links import score_links

SMALL = {"sites": 1, "frames": 8, "cells": 10, "size_px": 320}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return simulated.simulate(tmp_path_factory.mktemp("demo") / "wells", seed=3, **SMALL)


def table_of(folder, well="B2"):
    with h5py.File(folder / f"{well}-supps/{well}-Site_0/patches.h5") as file:
        return pd.DataFrame({name: file[f"table/{name}"][:] for name in file["table"]}), file["mat"][:], file["mask"][:]


@pytest.mark.slow
def test_a_seed_gives_the_same_specimen_and_another_seed_another(tmp_path, folder):
    def digest(path):
        return hashlib.sha256((path / "truth.csv").read_bytes() + (path / "images/A1-Site_0_t003.tif").read_bytes()).hexdigest()

    assert digest(simulated.simulate(tmp_path / "same", seed=3, **SMALL)) == digest(folder)
    assert digest(simulated.simulate(tmp_path / "other", seed=4, **SMALL)) != digest(folder)


def test_an_interrupted_simulation_leaves_nothing(tmp_path, monkeypatch):
    original = simulated.render

    def stops(*args):
        yield next(original(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated, "render", stops)
    with pytest.raises(KeyboardInterrupt):
        simulated.simulate(tmp_path / "wells", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path, folder):
    assert simulated.simulate(folder, seed=3, **SMALL) == folder
    with pytest.raises(ValueError, match="a simulated specimen of"):
        simulated.simulate(folder, seed=5, **SMALL)
    (tmp_path / "mine.tif").touch()
    with pytest.raises(ValueError, match="other files"):
        simulated.simulate(tmp_path, seed=3)


@pytest.mark.parametrize("well", ["A1", "B2"])
def test_planted_properties_can_be_measured_in_the_pixels(folder, well):
    table, mat, mask = table_of(folder, well)
    inside = np.where(mask[:, None], mat, np.nan).astype(float)
    phase, retardance = np.nanpercentile(inside[:, 0], 97, axis=(1, 2)), inside[:, 1]
    granularity = np.nanstd(retardance, axis=(1, 2)) / np.nanmean(retardance, axis=(1, 2))
    diameter = 2 * np.sqrt(table["area_px"] / np.pi) * simulated.PIXEL_UM
    assert np.corrcoef(diameter, table["true_size_um"])[0, 1] > 0.98
    assert np.corrcoef(phase, table["true_brightness"])[0, 1] > 0.95
    assert np.corrcoef(granularity, table["true_texture"])[0, 1] > 0.85


def test_elongation_is_that_of_the_mask(folder):
    table, _, mask = table_of(folder)
    ratio = []
    for cell in mask:
        width = np.linalg.eigvalsh(np.cov(np.argwhere(cell).T))
        ratio.append(np.sqrt(width[1] / width[0]))
    assert np.corrcoef(ratio, table["true_elongation"])[0, 1] > 0.95


def test_the_wells_differ_in_their_mix_of_states(folder):
    truth = pd.read_csv(folder / "truth.csv")
    share = truth.groupby("well")["true_state"].mean()
    assert share["B2"] - share["A1"] > 0.25


def test_properties_change_slowly(folder):
    truth = pd.read_csv(folder / "truth.csv").sort_values(["site", "cell_id", "frame"])
    for name in ("true_size_um", "true_elongation", "true_brightness", "true_texture"):
        step = truth.groupby(["site", "cell_id"])[name].diff().std()
        assert step < 0.35 * truth[name].std()


def test_tracks_are_the_ids_and_the_tracker_finds_them(folder):
    table, _, _ = table_of(folder)
    true = pd.read_csv(folder / "B2-supps/B2-Site_0/tracks.csv")
    assert (true.groupby("trajectory")["cell_id"].nunique() == 1).all()
    recall, precision = score_links(linking.link(table, max_step_px=40), true)
    assert recall > 0.97
    assert precision > 0.97


def test_raw_files_are_as_a_lab_writes_them(folder):
    image = tifffile.imread(folder / "images/A1-Site_0_t000.tif")
    labels = tifffile.imread(folder / "masks/A1-Site_0_t000.tif")
    truth = pd.read_csv(folder / "truth.csv").query("site == 'A1-Site_0' and frame == 0")
    assert (image.shape, image.dtype, labels.shape) == ((2, 320, 320), np.uint16, (320, 320))
    assert set(np.unique(labels)) - {0} == set(truth["cell_id"])
    assert image.max() < 65535
