"""Trajectories: the rule of the match, honest comparison of step sizes, recovered motion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microlatent.systems.wells import trajectories


def walk(num_tracks=20, num_frames=30, spread=5.0, step=1.0, seed=0):
    """Random walks: latents (N, 4), frame, track, and rows by name."""
    rng = np.random.default_rng(seed)
    start = rng.normal(0, spread, (num_tracks, 1, 4))
    path = start + rng.normal(0, step, (num_tracks, num_frames, 4)).cumsum(1)
    frame, track = np.tile(np.arange(num_frames), num_tracks), np.repeat(np.arange(num_tracks), num_frames)
    rows = {f"s/{i}": np.flatnonzero(track == i) for i in range(num_tracks)}
    return path.reshape(-1, 4), frame, track, rows


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=8))
def test_kept_trajectories_miss_less_than_a_twentieth(cases):
    found = {name: list(range(num)) for name, (num, _) in cases.items()}
    lengths = {name: num + missing for name, (num, missing) in cases.items()}
    kept = trajectories.match(found, lengths)
    assert list(kept) == [name for name in lengths if len(found[name]) > 0.95 * lengths[name]]


def test_one_missing_patch_of_forty_is_skipped_and_one_of_ten_drops_the_trajectory():
    found = {"s/0": range(39), "s/1": range(9), "s/2": range(10)}
    assert list(trajectories.match(found, {"s/0": 40, "s/1": 10, "s/2": 10})) == ["s/0", "s/2"]


def test_trajectory_without_frames_or_patches_is_dropped():
    assert trajectories.match({"s/0": []}, {"s/0": 0, "s/1": 5}) == {}


def test_steps_join_neighbouring_frames_of_a_track_only():
    latents, frame, track, _ = walk(3, 5)
    keep = frame != 2
    pairs = trajectories.steps(latents[keep], frame[keep], track[keep], np.zeros(keep.sum(), int))
    assert len(pairs.step) == 3 * 2
    assert frame[keep][pairs.anchor].tolist() == [0, 3] * 3


def test_random_pairs_are_of_other_tracks_of_the_same_well():
    latents, frame, track, _ = walk(6, 10)
    well = track // 3
    pairs = trajectories.steps(latents, frame, track, well)
    assert (pairs.track != pairs.partner).all()
    assert (pairs.track // 3 == pairs.partner // 3).all()


def test_well_with_a_single_track_forms_no_pair():
    latents, frame, track, _ = walk(1, 10)
    comparison = trajectories.compare(trajectories.steps(latents, frame, track, np.zeros(10, int)))
    assert comparison.num_steps == 0
    assert np.isnan(comparison.ratio)


def test_slow_cells_step_less_than_random_pairs():
    latents, frame, track, _ = walk(spread=8.0, step=0.5)
    result = trajectories.compare(trajectories.steps(latents, frame, track, np.zeros(len(track), int)))
    assert result.ratio_lo < result.ratio < result.ratio_hi < 0.2
    assert result.shorter_lo > 0.95


def test_shuffled_latents_show_no_difference():
    latents, frame, track, _ = walk()
    shuffled = np.random.default_rng(1).permutation(latents)
    result = trajectories.compare(trajectories.steps(shuffled, frame, track, np.zeros(len(track), int)))
    assert result.shorter_lo < 0.5 < result.shorter_hi
    assert result.ratio_lo < 1 < result.ratio_hi


def test_repeating_every_frame_does_not_narrow_the_interval():
    latents, frame, track, _ = walk(10, 10)
    pairs = trajectories.steps(latents, frame, track, np.zeros(len(track), int))
    tenfold = trajectories.Steps(*(np.repeat(part, 10) for part in pairs))
    once, often = trajectories.compare(pairs), trajectories.compare(tenfold)
    assert often.shorter_hi - often.shorter_lo == pytest.approx(once.shorter_hi - once.shorter_lo)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 4)), min_size=1).filter(lambda pairs: any(w for _, w in pairs)))
def test_weighted_median_is_the_median_of_repeated_values(pairs):
    value, weight = np.array(sorted(pairs), float).T
    assert trajectories.weighted_median(value, weight) == np.median(np.repeat(value, weight.astype(int)))


def test_distances_do_not_depend_on_the_chunk(monkeypatch):
    latents = np.random.default_rng(0).normal(size=(50, 7))
    first, second = np.arange(49), np.arange(1, 50)
    monkeypatch.setattr(trajectories, "CHUNK", 8)
    expected = np.linalg.norm(latents[first] - latents[second], axis=1)
    assert trajectories.distances(latents, first, second) == pytest.approx(expected, rel=1e-5)


def test_straight_motion_has_its_speed_in_physical_units():
    frame = np.array([0, 1, 2, 4, 5])  # a gap counts with its time
    centre = np.column_stack([frame * 3.0, frame * 4.0])
    row = trajectories.motion({"s/0": range(5)}, frame, centre, pixel_um=0.5, frame_min=2.0).iloc[0]
    assert row["mean_speed_um_per_min"] == pytest.approx(5 * 0.5 / 2)
    assert row["net_displacement_um"] == pytest.approx(12.5)
    assert row["straightness"] == pytest.approx(1)
    assert row["duration_min"] == 10


def test_unknown_scale_gives_pixels_per_frame_and_unknown_centres_give_nan():
    table = trajectories.motion({"s/0": [0, 1]}, np.array([0, 1]), np.full((2, 2), np.nan))
    assert np.isnan(table["mean_speed_px_per_frame"].item())
    assert table["duration_frames"].item() == 1


@pytest.mark.parametrize(("kind", "exponent"), [("diffusion", 1.0), ("straight", 2.0)])
def test_msd_recovers_the_law_of_motion(kind, exponent):
    latents, frame, _, rows = walk(200, 40, step=1.0, spread=0.0)
    centre = latents[:, :2] if kind == "diffusion" else np.column_stack([frame * 2.0, frame * 0.0])
    result = trajectories.mean_squared_displacement(rows, frame, centre, max_lag=10)
    assert result.exponent == pytest.approx(exponent, abs=0.06)
    assert result.table["msd_px2"][0] == pytest.approx(2.0 if kind == "diffusion" else 4.0, rel=0.05)


def test_msd_skips_gaps_and_keeps_lags_of_three_tracks():
    frame = np.tile([0, 1, 3], 3)
    rows = {str(i): np.arange(3) + 3 * i for i in range(3)}
    table = trajectories.mean_squared_displacement(rows, frame, np.column_stack([frame, frame]).astype(float)).table
    assert table[["lag_frames", "msd_px2", "num_pairs"]].to_numpy().tolist() == [[1, 2, 3]]


def test_msd_of_nothing_is_empty():
    result = trajectories.mean_squared_displacement({}, np.array([], int), np.empty((0, 2)))
    assert result.table.empty
    assert np.isnan(result.exponent)
