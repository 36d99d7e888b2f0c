"""Tracks: found again where they are known, and unharmed by empty frames."""

import numpy as np
import pandas as pd
import pytest

from microlatent.data.io.images import find_fields
from microlatent.systems.wells import linking
from microlatent.systems.wells.cells import find_cells
from tests.links import score_links


def walkers(num_cells=15, num_frames=12, step=6.0, seed=0):
    """Cells on a jittered grid that walk less than half of its spacing, numbered anew in every frame."""
    rng = np.random.default_rng(seed)
    start = np.stack(np.unravel_index(np.arange(num_cells), (4, 4)), 1) * 80.0 + rng.normal(0, 5, (num_cells, 2))
    path = start + np.cumsum(rng.normal(0, step / 2, (num_frames, num_cells, 2)), axis=0)
    area = rng.uniform(200, 400, num_cells)
    parts = []
    for t in range(num_frames):
        order = rng.permutation(num_cells)
        columns = {"frame": t, "cell_id": np.arange(num_cells) + 1, "y_px": path[t, order, 0], "x_px": path[t, order, 1]}
        parts.append(pd.DataFrame(columns | {"area_px": area[order], "trajectory": order}))
    return pd.concat(parts, ignore_index=True)


def test_well_separated_walkers_are_tracked_without_an_error():
    true = walkers()
    assert score_links(linking.link(true, max_step_px=60), true) == (1.0, 1.0)


def test_the_order_of_cells_does_not_matter():
    cells = walkers()
    pd.testing.assert_frame_equal(linking.link(cells), linking.link(cells.sample(frac=1, random_state=0)))


def test_a_frame_without_cells_breaks_no_track():
    true = walkers()
    true = true[true["frame"] != 5]
    found = linking.link(true, max_step_px=60)
    assert score_links(found, true) == (1.0, 1.0)
    without_gaps = linking.link(true, max_step_px=60, max_gap_frames=0)
    assert without_gaps["trajectory"].nunique() == 2 * true["trajectory"].nunique()


def test_a_cell_missing_for_two_frames_is_the_same_cell():
    true = walkers()
    true = true[~((true["trajectory"] == 3) & true["frame"].isin([4, 5]))]
    assert score_links(linking.link(true, max_step_px=60), true) == (1.0, 1.0)
    found = linking.link(true, max_step_px=60, max_gap_frames=1)
    assert found["trajectory"].nunique() == 16


def test_no_link_is_longer_than_allowed():
    cells = walkers(step=40.0)
    tracks = linking.link(cells, max_step_px=30, min_track_frames=1)
    step = tracks.groupby("trajectory")[["y_px", "x_px"]].diff().pow(2).sum(axis=1).pow(0.5)
    assert step.max() < 30


def test_a_cell_is_in_one_track_only():
    tracks = linking.link(walkers(step=40.0), min_track_frames=1)
    assert not tracks.duplicated(["frame", "cell_id"]).any()
    assert not tracks.duplicated(["trajectory", "frame"]).any()


def test_size_decides_between_two_equally_near():
    position, following = np.array([[0.0, 0.0], [0.0, 20.0]]), np.array([[0.0, 10.0], [0.0, 10.0]])
    i, j = linking.link_frames(position, np.array([100.0, 300.0]), following, np.array([310.0, 105.0]), 100)
    assert dict(zip(i, j, strict=True)) == {0: 1, 1: 0}


def test_short_tracks_are_dropped_and_numbers_have_no_gap():
    cells = walkers()
    cells = cells[~((cells["trajectory"] == 0) & (cells["frame"] > 1))]
    tracks = linking.link(cells, max_step_px=30, min_track_frames=3)
    assert tracks["trajectory"].unique().tolist() == list(range(14))
    assert tracks.groupby("trajectory").size().min() >= 3


def test_lasting_ids_are_told_from_numbers_that_begin_anew():
    cells = walkers()
    assert linking.share_of_lasting_ids(cells.assign(cell_id=cells["trajectory"])) == 1.0
    assert linking.share_of_lasting_ids(cells) < 0.3


def test_tracks_from_ids_follow_the_values():
    cells = walkers().assign(cell_id=lambda cells: 10 * cells["trajectory"] + 7)
    tracks = linking.tracks_from_ids(cells)
    assert (tracks["cell_id"] == 10 * tracks["trajectory"] + 7).all()


def test_a_table_of_positions_finds_its_cells():
    cells = walkers()
    table = cells.rename(columns={"trajectory": "particle", "y_px": "y", "x_px": "x"}).drop(columns="cell_id")
    assert score_links(linking.tracks_from_table(table, cells.drop(columns="trajectory")), cells) == (1.0, 1.0)
    in_um = table.assign(y_um=table["y"] * 0.87, x_um=table["x"] * 0.87).drop(columns=["y", "x"])
    tracks = linking.tracks_from_table(in_um, cells.drop(columns="trajectory"), pixel_um=0.87)
    assert score_links(tracks, cells) == (1.0, 1.0)


def test_a_table_in_other_units_is_refused():
    cells = walkers()
    table = cells.assign(y_px=cells["y_px"] * 0.5, x_px=cells["x_px"] * 0.5).drop(columns="cell_id")
    with pytest.raises(ValueError, match="Positions may be in um"):
        linking.tracks_from_table(table, cells.drop(columns="trajectory"))
    with pytest.raises(ValueError, match="needs trajectory"):
        linking.tracks_from_table(cells[["frame", "cell_id"]], cells)


def test_scores_count_links_not_cells():
    true = pd.DataFrame({"trajectory": 0, "frame": range(5), "cell_id": 1})
    found = true.assign(trajectory=[0, 0, 0, 1, 1])
    assert score_links(found, true) == (0.75, 1.0)
    assert score_links(true, found) == (1.0, 0.75)


def test_real_cells_are_tracked_as_people_did(data_folder):
    # T98G glioblastoma cells, tracks checked by hand: 2641 cells in 37 frames. Measured: 0.985 of links found, 0.989 true.
    pattern = "*_Exp_*/Id_masks_per_frame/id_masks_{frame}.png"
    (fov,) = find_fields(data_folder / "wells" / "usiigaci_T98G", pattern, "task.masks").values()
    cells = pd.concat([pd.DataFrame({"frame": t, **find_cells(fov.labels(t))._asdict()}) for t in fov.frames])
    assert linking.share_of_lasting_ids(cells) > 0.95
    recall, precision = score_links(linking.link(cells, min_track_frames=1), linking.tracks_from_ids(cells))
    assert recall > 0.975
    assert precision > 0.98
