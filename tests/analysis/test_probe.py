"""Linear probes: a planted property is found, a permuted one is not, and no track helps to predict itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microlatent.analysis import probe


def tracks(num_tracks=60, num_frames=8, num_features=40, seed=0):
    """Features of tracks that hardly change over time, the track of each row, and a property in the strongest direction."""
    rng = np.random.default_rng(seed)
    factor = np.repeat(rng.normal(size=(num_tracks, 3)) * [4, 3, 2], num_frames, 0)
    groups = np.repeat(np.arange(num_tracks), num_frames)
    features = factor @ np.linalg.qr(rng.normal(size=(num_features, 3)))[0].T + 0.3 * rng.normal(size=(len(groups), num_features))
    return features, groups, factor


def run(features, target, groups, **options):
    return probe.probe(probe.reduce(features, groups, num_components=8), target, groups, **options)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=5, max_size=30), st.integers(0, 5))
def test_no_group_is_in_two_folds(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    folds = probe.assign_folds(groups, 5, seed)
    assert all(len(set(folds[groups == group])) == 1 for group in range(len(sizes)))
    assert set(folds) == set(range(5))


def test_planted_linear_property_is_read_out():
    features, groups, factor = tracks()
    result = run(features, 2 * factor[:, 0] - factor[:, 1] + 7, groups)
    assert result.lo > 0.97
    assert result.p_permutation == pytest.approx(1 / 200)


def test_permuted_groups_are_not_read_out():
    features, groups, factor = tracks()
    target = probe.permute_groups(factor[:, 0], groups, np.random.default_rng(3))
    result = run(features, target, groups)
    assert result.r2 < 0.1
    assert result.p_permutation > 0.02
    assert result.r2_permuted < 0.05


def test_label_of_the_track_itself_is_not_read_out():
    # Each track has features and a random number of its own: plain folds over frames would find R2 near 1.
    features, groups, _ = tracks(num_tracks=25)
    own = np.random.default_rng(5).normal(size=25)[groups]
    leaky = run(features, own, np.arange(len(groups)), num_permutations=1)
    assert run(features, own, groups, num_permutations=1).r2 < 0.2
    assert leaky.r2 > run(features, own, groups, num_permutations=1).r2


def test_interval_is_over_tracks_not_frames():
    features, groups, factor = tracks()
    target = factor[:, 0] + np.random.default_rng(0).normal(0, 3, 60)[groups]
    once = run(features, target, groups, num_permutations=1)
    often = run(np.repeat(features, 5, 0), np.repeat(target, 5), np.repeat(groups, 5), num_permutations=1)
    assert often.hi - often.lo == pytest.approx(once.hi - once.lo, rel=0.1)


def test_equal_features_do_not_differ():
    features, groups, factor = tracks()
    first = run(features, factor[:, 0], groups, num_permutations=1)
    assert probe.difference(first, first) == (0, 0, 0)


def test_missing_values_are_left_out():
    features, groups, factor = tracks()
    target = np.where(groups % 3 == 0, np.nan, factor[:, 0])
    result = run(features, target, groups, num_permutations=9)
    assert result.r2 > 0.97
    assert len(result.error) == 40


def test_probe_is_the_same_each_time():
    features, groups, factor = tracks()
    first, second = (run(features, factor[:, 1], groups, num_permutations=9) for _ in range(2))
    assert first[:5] == second[:5]


def test_ridge_solves_its_normal_equations():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    weights = probe.ridge_path(z, y)
    expected = np.linalg.solve(z.T @ z + probe.ALPHAS[7] * 50 * np.eye(4), z.T @ y)
    assert weights[7] == pytest.approx(expected)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(0, 99))
def test_permuting_groups_keeps_every_value(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    target = np.arange(len(groups), dtype=float)
    assert sorted(probe.permute_groups(target, groups, np.random.default_rng(seed))) == target.tolist()


def test_too_few_tracks_are_refused():
    with pytest.raises(ValueError, match="at least 5 trajectories"):
        probe.reduce(np.zeros((8, 3)), np.repeat([0, 1], 4))


def few_tracks(*labels: str, num_frames: int = 6) -> tuple:
    """Return reduced noise, the label of each row, and its group; every label is one group's."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(len(labels)), num_frames)
    return probe.reduce(rng.normal(size=(len(groups), 10)), groups, 4), np.array(labels)[groups], groups


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("aaaaaaaab", "fewer than two of its labels"),
        ("abcdefghi", "fewer than two of its labels"),
        ("aaaaaaaaa", "one value alone"),
        (["a", "", "a", "a", "a", "", "b", "a"], "fewer than two of its labels"),
    ],
    ids=str,
)
def test_label_that_no_features_could_read_is_told_with_the_reason(labels, reason):
    assert reason in probe.unreadable(*few_tracks(*labels))


def test_property_that_a_training_fold_does_not_know_is_told():
    folds, _, groups = few_tracks(*"aabbaabbaabb")
    rows = np.arange(len(groups))
    held = np.isin(rows, folds[0].test)
    together = np.where(held, np.where(rows % 2, "b", "a"), "")
    assert "does not know it" in probe.unreadable(folds, together, groups)
    assert "does not know it" in probe.unreadable(folds, np.where(held, groups, np.nan), groups)
    both_held = np.where(held, "b", "a")
    assert "has only 'a'" in probe.unreadable(folds, both_held, groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=5, max_size=12), st.integers(0, 9))
@pytest.mark.slow
def test_what_is_readable_is_read_without_fail(labels, seed):
    folds, label, groups = few_tracks(*labels, num_frames=3)
    if not probe.unreadable(folds, label, groups):
        found = probe.classify(folds, label, groups, seed)
        assert found.count.sum() == (label != "").sum()
        assert 0 <= found.accuracy <= 1
    number = np.where(label == "", np.nan, np.arange(len(label)) % 7)
    if not probe.unreadable(folds, number, groups):
        assert np.isfinite(probe.probe(folds, number, groups, num_permutations=3).r2)


def test_label_that_latents_hold_is_read_and_a_shuffled_one_is_not():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 400)
    features = np.eye(12)[kind] * 3 + rng.normal(size=(400, 12))
    groups = np.arange(400)
    folds = probe.reduce(features, groups, 8)
    names = np.array(["a", "b", "c", "d"])
    found = probe.classify(folds, names[kind], groups)
    assert found.lo > 0.8
    shuffled = probe.classify(folds, rng.permutation(names[kind]), groups)
    assert shuffled.lo < 0.3
    unknown = np.where(np.arange(400) < 100, "", names[kind])
    assert probe.compare(folds, folds, unknown, groups, 0)["n"] == 300
