"""The simulated tissue is what it says it is."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from microlatent.data.io.image_files import open_image
from microlatent.systems.partitions import simulate as simulated

SMALL = {"subjects": 8, "images": 1, "size_px": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return simulated.simulate(tmp_path_factory.mktemp("demo") / "tissue", seed=3, **SMALL)


@pytest.fixture(scope="module")
def cells(folder):
    outcome = pd.read_csv(folder / "outcomes.csv")
    return pd.read_csv(folder / "cells.csv").merge(outcome, on="subject")


def twins(size_px=192):
    """Return the cells of a subject who does not respond and of the same one who does, and their images."""
    for infiltration in (0.15, 0.75):
        rng = np.random.default_rng(0)
        subject = simulated.Subject("S01", "", infiltration, 1.0, 1.0, np.ones(7))
        table = simulated.populate(rng, subject, size_px)
        yield table, simulated.render(rng, table, subject.staining, size_px)


@pytest.mark.slow
def test_a_seed_gives_the_same_tissue_and_another_seed_another(tmp_path, folder):
    def digest(path):
        return hashlib.sha256((path / "cells.csv").read_bytes() + (path / "S03/roi1.tif").read_bytes()).hexdigest()

    assert digest(simulated.simulate(tmp_path / "same", seed=3, **SMALL)) == digest(folder)
    assert digest(simulated.simulate(tmp_path / "other", seed=4, **SMALL)) != digest(folder)


def test_an_interrupted_simulation_leaves_nothing(tmp_path, monkeypatch):
    def stops(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated, "render", stops)
    with pytest.raises(KeyboardInterrupt):
        simulated.simulate(tmp_path / "tissue", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path, folder):
    assert simulated.simulate(folder, seed=3, **SMALL) == folder
    with pytest.raises(ValueError, match="a simulated specimen of"):
        simulated.simulate(folder, seed=5, **SMALL)
    (tmp_path / "mine.tif").touch()
    with pytest.raises(ValueError, match="other files"):
        simulated.simulate(tmp_path)


def test_files_are_as_a_lab_writes_them(folder):
    image = open_image(folder / "S01/roi1.tif", pages="C")
    assert image.channels == ["GITR", "IDO", "Ki-67", "Foxp3", "CD8", "DAPI", "Cytokeratins"]
    assert image.pixel_um == pytest.approx(simulated.PIXEL_UM)
    pixels = image.read(0)
    image.close()
    assert (pixels.shape, pixels.dtype) == ((7, 128, 128), np.uint16)
    assert json.loads((folder / "specimen.json").read_text())["infiltration"] == [0.15, 0.75]


def test_half_of_the_subjects_respond(folder):
    outcome = pd.read_csv(folder / "outcomes.csv")
    assert list(outcome.columns) == ["subject", "outcome"]
    assert outcome["outcome"].value_counts().to_dict() == {"responder": 4, "non-responder": 4}


def test_cytotoxic_cells_are_where_the_outcome_says(cells):
    share = cells[cells["type"] == "cytotoxic"].groupby(["outcome", "subject"])["in_nest"].mean()
    assert share["responder"].mean() == pytest.approx(0.75, abs=0.06)
    assert share["non-responder"].mean() == pytest.approx(0.15, abs=0.06)
    assert share["responder"].min() > share["non-responder"].max() + 0.3


def test_tumour_cells_make_the_nests_and_all_others_stay_outside(cells):
    share = cells.groupby("type")["in_nest"].mean()
    assert share["tumour"] > 0.999
    assert share[["stroma", "regulatory", "myeloid"]].max() < 0.001


def test_the_outcome_changes_no_number_of_cells():
    counts = [table["type"].value_counts().to_dict() for table, _ in twins()]
    assert counts[0] == counts[1]
    assert set(counts[0]) == set(simulated.TYPES)


def test_the_outcome_changes_no_marker_mean_but_which_markers_share_a_place():
    (_, first), (_, second) = twins()
    assert second.mean((1, 2)) == pytest.approx(first.mean((1, 2)), rel=0.05)
    cd8, cytokeratins = (simulated.MARKERS.index(name) for name in ("CD8", "Cytokeratins"))
    places = [image.reshape(7, 24, 8, 24, 8).mean((2, 4)).reshape(7, -1) for image in (first, second)]
    before, after = (np.corrcoef(part[cd8], part[cytokeratins])[0, 1] for part in places)
    assert after > before + 0.25


def test_markers_light_up_their_own_cells(folder, cells):
    own = {"Cytokeratins": "tumour", "CD8": "cytotoxic", "Foxp3": "regulatory", "GITR": "regulatory", "IDO": "myeloid"}
    found = cells[cells["subject"] == "S02"]
    image = tifffile.imread(folder / "S02/roi1.tif").astype(float)
    inside = found[found[["y_px", "x_px"]].map(lambda at: 4 <= at < 124).all(axis=1)]
    windows = np.array([image[:, int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5].mean((1, 2)) for y, x in
                        inside[["y_px", "x_px"]].to_numpy()])  # fmt: skip
    for marker, kind in own.items():
        mean = pd.Series(windows[:, simulated.MARKERS.index(marker)]).groupby(inside["type"].to_numpy()).mean()
        assert mean.idxmax() == kind
        assert mean[kind] > 1.5 * mean.drop(kind).mean()


def test_what_else_varies_between_subjects_does_not_depend_on_the_outcome():
    people = simulated.draw_subjects(0, 400, (0.15, 0.75))
    responds = np.array([one.outcome == "responder" for one in people])
    for values in (
        *np.log([one.staining for one in people]).T,
        np.log([one.density for one in people]),
        np.log([one.nest_scale for one in people]),
    ):
        assert values.std() > 0.08
        assert abs(values[responds].mean() - values[~responds].mean()) < 4 * values.std() / 10  # four standard errors
