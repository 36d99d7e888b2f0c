"""Statistics over seeds: what a paired difference can tell, which configurations may be the best, and the Pareto front."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from microlatent.analysis import comparison


def table(values: dict[str, list[float]], metric: str = "score") -> pd.DataFrame:
    """Return runs of configurations, a value per seed; NaN where a seed was not run."""
    rows = [(name, "", seed, value) for name, column in values.items() for seed, value in enumerate(column)]
    return pd.DataFrame(rows, columns=["configuration", "data", "seed", metric]).dropna()


def test_difference_and_interval_are_those_of_the_paired_t_test_over_shared_seeds():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 6))
    found = comparison.differences(table({"a": [*a, np.nan, 9], "b": [*b, 7, np.nan]}), ["score"]).iloc[0]
    known = stats.ttest_rel(a, b)
    low, high = known.confidence_interval(comparison.CONFIDENCE)
    assert found["num_seeds"] == 6
    np.testing.assert_allclose(found[["difference", "low", "high", "p"]].astype(float), [(a - b).mean(), low, high, known.pvalue])
    turned = comparison.against(comparison.differences(table({"a": a, "b": b}), ["score"]), "a").iloc[0]
    np.testing.assert_allclose(turned[["difference", "low", "high"]].astype(float), [(b - a).mean(), -high, -low])


def test_a_shift_of_all_runs_of_a_seed_changes_no_difference():
    rng = np.random.default_rng(2)
    a, b, shift = rng.normal(size=(3, 5))
    plain, shifted = (comparison.differences(table({"a": a + s, "b": b + s}), ["score"]) for s in (0, 10 * shift))
    pd.testing.assert_frame_equal(plain, shifted)
    assert comparison.summarise(table({"a": a + 10 * shift}), ["score"])["std"][0] > 2 * a.std(ddof=1)


def test_one_shared_seed_has_a_difference_but_no_interval_and_none_has_no_row():
    found = comparison.differences(table({"a": [1.0, np.nan], "b": [3.0, 5.0], "c": [np.nan, 1.0]}), ["score"])
    pairs = found.set_index(["configuration", "other"])
    assert list(pairs.index) == [("a", "b"), ("b", "c")]
    assert pairs["difference"].tolist() == [-2.0, 4.0]
    assert pairs[["low", "high", "p", "p_holm"]].isna().all(axis=None)


def test_what_no_seed_changes_is_not_tested():
    found = comparison.differences(table({"a": [10.0] * 3, "b": [30.0] * 3}), ["score"]).iloc[0]
    assert (found["difference"], found["low"], found["high"]) == (-20, -20, -20)
    assert np.isnan(found["p"])


def test_runs_on_different_data_are_never_paired():
    runs = table({"a": [1, 2, 3], "b": [2, 3, 5]})
    runs.loc[runs["configuration"] == "b", "data"] = "2"
    assert comparison.differences(runs, ["score"]).empty


def test_p_is_corrected_for_all_pairs_or_for_those_with_a_reference():
    rng = np.random.default_rng(3)
    runs = table({name: rng.normal(place, 1, 8) for place, name in enumerate("abcd")})
    for reference, pairs in ((None, 6), ("b", 3)):
        found = comparison.differences(runs, ["score"], reference)
        assert len(found) == pairs
        p = np.sort(found["p"])
        stepped = np.minimum(1, np.maximum.accumulate(p * np.arange(pairs, 0, -1)))
        np.testing.assert_allclose(np.sort(found["p_holm"]), stepped)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_intervals_cover_the_true_difference_as_often_as_they_say(seeds):
    rng, covered, trials = np.random.default_rng(seeds), 0, 4000
    for _ in range(trials):
        split = rng.normal(0, 3, seeds)  # what both share
        found = comparison.paired(split + rng.normal(0.5, 1, seeds), split + rng.normal(0, 0.3, seeds))
        covered += found["low"] <= 0.5 <= found["high"]
    assert abs(covered / trials - comparison.CONFIDENCE) < 4 * np.sqrt(0.05 * 0.95 / trials)


def test_of_two_configurations_the_worse_is_not_the_best_as_surely_as_the_one_sided_test_says():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=6), rng.normal(1, 1, 6)
    chances = comparison.could_be_best(comparison.differences(table({"a": a, "b": b}), ["score"]), "maximize")
    assert chances["a"] == pytest.approx(stats.ttest_rel(b, a, alternative="greater").pvalue)
    assert chances["b"] == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("lead", [0.0, 0.3])
def test_confidence_set_holds_the_true_best_as_often_as_it_says(lead):
    rng, missed, trials = np.random.default_rng(4), 0, 250
    for _ in range(trials):
        split = rng.normal(0, 2, 5)
        runs = table({name: split + rng.normal(lead * (name == "a"), 1, 5) for name in "abcdef"})
        missed += comparison.could_be_best(comparison.differences(runs, ["score"]), "maximize")["a"] < comparison.ALPHA
    assert missed / trials < comparison.ALPHA + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_front_holds_what_nothing_beats_on_all_objectives():
    means = pd.DataFrame({"quality": [3, 2, 1, 3, np.nan], "cost": [5, 1, 2, 5, 0]}, index=list("abcde"))
    front = comparison.pareto(means, {"quality": "maximize", "cost": "minimize"})
    assert list(front[front].index) == ["a", "b", "d"]  # equals stay together; what lacks an objective is not on it
    assert comparison.best(means["quality"], "maximize") == "a"
    assert comparison.best(means["cost"], "minimize") == "e"
