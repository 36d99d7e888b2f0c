"""Outcomes from latents: the classifier is right, chance looks like chance, and what was planted is found and shown."""

import logging
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ortho_group
from torch import nn

from microlatent.analysis.statistics import interval
from microlatent.data.normalise import Normaliser
from microlatent.data.store import StoreWriter
from microlatent.experiment import Trained
from microlatent.schemas import Settings
from microlatent.systems.partitions import conditional, logistic, outcome_images, prediction, subjects
from microlatent.systems.partitions import outcome as task
from microlatent.systems.partitions.outcome_input import Space
from microlatent.systems.partitions.outcomes import read_outcomes
from microlatent.systems.partitions.schema import OutcomeConfig, PartitionsConfig
from microlatent.tracking import NullTracker

CHANNELS = ["red", "green", "blue"]


def together(num_subjects=16, num_rows=60, correlation=0.7, seed=0):
    """Return rows (N, 4) whose first two columns go together in outcome 1 and not in outcome 0, codes, outcomes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(num_subjects) % 2
    rows = rng.normal(size=(num_subjects, num_rows, 4))
    sign = np.where(labels == 1, 1, -1)[:, None]
    rows[..., 1] = sign * correlation * rows[..., 0] + np.sqrt(1 - correlation**2) * rows[..., 1]
    rows += 0.3 * rng.normal(size=(num_subjects, 1, 4))  # staining varies, whatever the outcome
    return rows.reshape(-1, 4), np.repeat(np.arange(num_subjects), num_rows), labels


# ------------------------------------------------------------------------------------------------------ classifier


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_the_classifier_is_that_of_sklearn(strength):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(21, 6)), (np.arange(21) % 3 == 0).astype(int)
    weights, left_out = logistic.fit(z, labels[None], np.array([100.0, strength]))
    options = {"C": 1 / strength, "class_weight": "balanced", "tol": 1e-10, "max_iter": 10_000}
    model = LogisticRegression(**options).fit(z, labels)
    assert weights[0, 1, :-1] == pytest.approx(model.coef_[0], abs=1e-4)
    assert weights[0, 1, -1] == pytest.approx(model.intercept_[0], abs=1e-4)
    if strength >= 1:  # the weaker the penalty, the more one subject matters
        refitted = [
            LogisticRegression(**options).fit(np.delete(z, i, 0), np.delete(labels, i)).decision_function(z[i : i + 1])[0]
            for i in range(21)
        ]
        assert np.corrcoef(refitted, left_out[0, 1])[0, 1] > 0.99


def test_separable_outcomes_and_weak_penalties_converge():
    z = np.linspace(-1, 1, 12)[:, None] * [1.0, 50.0]
    weights, _ = logistic.fit(z, (z[:, :1].T > 0).astype(int), np.array([1.0, 1e-4]))
    score = z @ weights[0, 1, :-1] + weights[0, 1, -1]
    chance = 1 / (1 + np.exp(-score))
    gradient = (chance - (z[:, 0] > 0)) @ z + 1e-4 * weights[0, 1, :-1]
    assert np.abs(gradient).max() < 1e-3


@pytest.mark.parametrize(("num", "folds"), [(9, "loo"), (25, "loo"), (26, "loo"), (301, "loo"), (12, "4"), (11, "5")])
def test_every_subject_is_held_out_as_often_and_never_alone_or_doubled(num, folds):
    sets = prediction.draw_held_out(num, folds, np.random.default_rng(0))
    times = np.bincount(np.concatenate(sets), minlength=num)
    assert np.ptp(times) == 0
    assert all(len(np.unique(held)) == len(held) >= 2 for held in sets)
    if num == 9:
        assert {tuple(held) for held in sets} == set(combinations(range(9), 2))


@pytest.mark.parametrize("num", [9, 25, 26, 60, 301, 700])
def test_leaving_out_compares_every_two_subjects_of_any_cohort_with_at_most_300_models(num):
    sets = prediction.draw_held_out(num, "loo", np.random.default_rng(0))
    together = np.zeros((num, num), int)
    for held in sets:
        together[np.ix_(held, held)] += 1
    assert together.min() >= 1
    assert len(sets) <= 300
    assert max(len(held) for held in sets) <= max(2, 2 * -(-num // 25))  # the others, 9 of 10 or more, are learned from


@pytest.mark.parametrize(
    ("num", "folds", "models", "text"),
    [
        (12, "loo", 66, "two subjects held out at a time, all pairs"),
        (60, "loo", 300, "25 folds of 2-3 subjects, two held out at a time, all pairs"),
        (11, "5", 50, "5 folds of 2-3 subjects, drawn 10 times"),
        (12, "4", 40, "4 folds of 3 subjects, drawn 10 times"),
    ],
)
def test_the_caption_says_what_is_held_out(num, folds, models, text):
    assert prediction.describe_folds(num, folds) == text
    assert len(prediction.draw_held_out(num, folds, np.random.default_rng(0))) == models


@pytest.mark.parametrize("folds", ["6", "40"])
def test_folds_of_fewer_than_two_subjects_are_refused(folds):
    with pytest.raises(
        ValueError, match=rf"task.folds is {folds}, but there are 11 subjects .* Choose task.folds from 2 to 5, or loo"
    ):
        prediction.predict({"mean": np.eye(11)}, np.arange(11) % 2, folds, 19, 19)


@pytest.mark.slow
def test_more_than_300_subjects_are_told_apart():
    labels = (np.arange(310) < 30).astype(int)
    block = {"mean": labels[:, None] + 0.3 * np.random.default_rng(0).normal(size=(310, 2))}
    result = prediction.predict(block, labels, num_permutations=19, num_bootstraps=50)
    assert result.auc > 0.97
    assert result.p_permutation == pytest.approx(1 / 20)
    assert result.pairs_compared == 1
    assert np.isfinite(result.scores).all()


def test_without_a_comparison_there_is_an_error_and_no_p_value():
    with pytest.raises(ValueError, match="For the subjects nothing could be compared: of 11 of one outcome and 1 of the other"):
        prediction.predict({"mean": np.random.default_rng(0).normal(size=(12, 2))}, np.arange(12) == 3, "loo", 19, 19)
    with pytest.raises(ValueError, match="For 2 of 19 permutations of the subjects nothing"):
        prediction.refuse_nothing(np.array([3] * 18 + [0, 0]), np.arange(12) % 2, "6")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.12])
def test_the_auc_of_a_large_cohort_hardly_depends_on_the_seed(share):
    labels = (np.arange(60) < 60 * share).astype(int)
    block = {"mean": np.random.default_rng(5).normal(size=(60, 3)) + 0.6 * labels[:, None]}
    found = [prediction.predict(block, labels, "loo", 1, 19, seed) for seed in range(5)]
    assert np.ptp([result.auc for result in found]) < 0.06
    assert all(result.pairs_compared == 1 for result in found)


def test_small_folds_of_an_unbalanced_cohort_say_how_little_they_compare(caplog):
    labels = (np.arange(50) < 5).astype(int)
    block = {"mean": np.random.default_rng(0).normal(size=(50, 2)) + labels[:, None]}
    result = prediction.predict(block, labels, "25", 19, 200)
    assert result.pairs_compared < 0.25
    assert np.isnan(result.scores).any()  # never held out with a subject of the other outcome: no score, not a score of zero
    assert 0 <= result.auc_lo <= result.auc <= result.auc_hi <= 1
    assert 0 <= result.balanced_accuracy_lo <= result.balanced_accuracy <= 1
    task.report({"latents": result}, ("no", "yes"))
    assert "task.folds=loo compares all" in caplog.text


def test_pairs_that_are_often_held_out_together_weigh_no_more(monkeypatch):
    """Subjects of one fold are compared by 24 models, those of two folds by one."""
    monkeypatch.setattr(
        prediction, "held_out_scores", lambda blocks, every, held: np.tile(blocks["mean"][held, 0], (len(every), 1))
    )
    rng, labels = np.random.default_rng(0), np.arange(70) % 2
    block = {"mean": rng.normal(size=(70, 1)) + 0.5 * labels[:, None]}
    gap = block["mean"][labels == 1] - block["mean"][labels == 0].T
    assert prediction.predict(block, labels, "loo", 1, 19).auc == pytest.approx((gap > 0).mean())


def test_a_held_out_subject_has_no_part_in_its_own_model():
    rng = np.random.default_rng(0)
    blocks = {"mean": rng.normal(size=(14, 5)), "spread": rng.normal(size=(14, 9))}
    labels, held = np.arange(14) % 2, np.array([3, 8])
    scores = prediction.held_out_scores(blocks, labels[None], held)
    swapped = labels.copy()
    swapped[held] = labels[held[::-1]]
    assert prediction.held_out_scores(blocks, swapped[None], held) == pytest.approx(scores)
    changed = {name: block.copy() for name, block in blocks.items()}
    for block in changed.values():
        block[3] = 100.0
    assert prediction.held_out_scores(changed, labels[None], held)[0, 1] == pytest.approx(scores[0, 1])


def test_the_auc_counts_pairs_that_one_model_has_not_seen():
    rng = np.random.default_rng(1)
    block, labels = {"mean": rng.normal(size=(11, 3))}, np.arange(11) % 2
    block["mean"][labels == 1] += 0.8
    wins = []
    for one, other in combinations(range(11), 2):
        if labels[one] != labels[other]:
            scores = prediction.held_out_scores(block, labels[None], np.array([one, other]))[0]
            wins.append((scores[0] > scores[1]) == (labels[one] > labels[other]))
    result = prediction.predict(block, labels, num_permutations=19, num_bootstraps=50)
    assert result.auc == pytest.approx(np.mean(wins))
    assert result.auc_lo <= result.auc <= result.auc_hi


@pytest.mark.parametrize(("labels", "folds"), [(np.arange(12) % 2, "loo"), (np.arange(15) < 5, "loo"), (np.arange(16) % 2, "4")])
def test_without_an_effect_the_auc_is_one_half(labels, folds):
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        block = {"mean": rng.normal(size=(len(labels), 4))}
        found.append(prediction.predict(block, labels, folds, num_permutations=79, num_bootstraps=19, seed=seed).auc_permuted)
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_p_values_of_shuffled_outcomes_are_spread_out():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(15):
        block = {"mean": rng.normal(size=(10, 2))}
        p.append(prediction.predict(block, rng.permutation(10) % 2, "5", 19, 19, seed).p_permutation)
    assert min(p) < 0.25
    assert max(p) > 0.75
    assert np.mean(p) == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_shuffled_outcomes_are_called_significant_no_more_often_than_they_should():
    """Two hundred shuffles of a simulated cohort's outcomes; each p-value from the whole nested procedure."""
    rows, subject, labels = together(16, num_rows=30)
    scores = subjects.fit_components(rows, subject).transform(rows)
    blocks = subjects.summarise(scores, subject, 4)
    rng = np.random.default_rng(0)
    p = [prediction.predict(blocks, rng.permutation(labels), "4", 99, 19, seed).p_permutation for seed in range(200)]
    assert np.mean(np.array(p) < 0.05) <= 0.07
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.12)


@pytest.mark.slow
def test_shuffled_outcomes_are_called_significant_no_more_often_with_the_default_settings():
    """Leaving two subjects out and 999 permutations, as ``task=outcome`` does unless told otherwise."""
    rows, subject, labels = together(10, num_rows=30)
    scores = subjects.fit_components(rows, subject).transform(rows)
    blocks = subjects.summarise(scores, subject, OutcomeConfig.num_clusters)
    rng = np.random.default_rng(0)
    p = np.array([prediction.predict(blocks, rng.permutation(labels), seed=seed).p_permutation for seed in range(80)])
    assert np.mean(p < 0.05) <= 0.1  # 5 % and 2 standard errors
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.15)


def test_complete_separation_does_not_make_the_interval_vanish():
    wins = np.ones((12, 12))
    low, high = prediction.auc_interval(wins, wins, prediction.bootstrap_auc(wins, wins, 100))
    assert high == 1
    assert 0.7 < low < 0.95  # between the Wilson bounds for 12 and for 24 of as many, roughly
    assert prediction.auc_interval(0 * wins, wins, np.zeros(100)) == pytest.approx((0.0, 1 - low))
    mean, low, high = prediction.balanced_accuracy(np.array([-1.0, -2, -1, 1, 2, 3]), np.array([0, 0, 0, 1, 1, 1]))
    assert (mean, high) == (1.0, 1.0)
    assert low < 0.7


def test_resamples_without_a_tried_pair_are_undefined_and_not_zero():
    trials = np.diag(np.ones(6))  # every subject was tried with one other: many resamples have no pair
    draws = prediction.bootstrap_auc(trials, trials, 400)
    assert np.isnan(draws).any()
    assert (draws[np.isfinite(draws)] == 1).all()
    full = np.ones((6, 6))
    assert np.isfinite(prediction.bootstrap_auc(full, full, 100)).all()


def test_where_few_pairs_were_tried_the_interval_is_wide_and_finite():
    wins, trials = np.diag([1.0, 1, 1, 1, 0, 0]), np.diag(np.ones(6))
    low, high = prediction.auc_interval(wins, trials, np.full(100, np.nan))
    assert low < 0.35
    assert high > 0.9
    assert prediction.auc_interval(trials - wins, trials, np.full(100, np.nan)) == pytest.approx((1 - high, 1 - low))
    every = np.kron(wins.max(1), np.ones((6, 1))).T  # as many wins, of all pairs
    narrower = prediction.auc_interval(every, np.ones((6, 6)), np.full(100, np.nan))
    assert narrower[1] - narrower[0] < high - low
    assert interval(np.array([np.nan] + [0.5] * 99), most_undefined=0.05) == (0.5, 0.5)
    assert np.isnan(interval(np.array([np.nan] * 6 + [0.5] * 94), most_undefined=0.05)).all()


# ---------------------------------------------------------------------------------------------- summaries, conditional


def test_what_goes_together_is_recovered_where_the_means_say_nothing():
    rows, subject, labels = together()
    mixed = rows @ ortho_group.rvs(4, random_state=0)
    scores = subjects.fit_components(mixed, subject, share=1.0).transform(mixed)
    blocks = subjects.summarise(scores, subject, 8)
    result = prediction.predict(blocks, labels, "4", 39, 50)
    assert result.auc > 0.9
    assert result.p_permutation == pytest.approx(1 / 40)
    assert prediction.predict({"mean": blocks["mean"]}, labels, "4", 39, 50).auc < 0.8


def test_components_give_subjects_the_same_weight():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(10, 3)) * [5, 1, 1], rng.normal(size=(1000, 3)) * [1, 2, 1]
    x, subject = np.concatenate([few, many]), np.repeat([0, 1], [10, 1000])
    components = subjects.fit_components(x, subject)
    assert abs(components.axes[0]) @ [1, 0, 0] > 0.9
    assert components.invert(components.transform(x)) == pytest.approx(x, abs=6.0)
    with pytest.raises(ValueError, match="are the same"):
        subjects.fit_components(np.ones((20, 3)), np.arange(20) % 2)


def test_too_many_clusters_are_refused():
    with pytest.raises(ValueError, match=r"task.num_clusters is 50, but there are only 20"):
        subjects.summarise(np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2, 50)


def test_the_way_turns_one_outcome_into_the_other():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 3, 3))
    pair = conditional.Gaussians(rng.normal(size=(2, 3)), root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3))
    matrix = conditional.transport(pair)
    assert matrix @ pair.covariance[0] @ matrix.T == pytest.approx(pair.covariance[1])
    assert matrix == pytest.approx(matrix.T)  # no other map to the same end moves less
    assert conditional.displace(pair, pair.mean[:1])[0] == pytest.approx(pair.mean[1] - pair.mean[0])
    steps = conditional.walk(pair, pair.mean[:1], 5)
    assert steps[0, 0] == pytest.approx(np.zeros(3))
    assert np.diff(steps[0], axis=0) == pytest.approx(np.tile((pair.mean[1] - pair.mean[0]) / 4, (4, 1)))


def test_the_direction_is_the_difference_of_the_means_where_nothing_else_differs():
    shift = np.array([1.0, -2.0, 0.5])
    pair = conditional.Gaussians(np.array([np.zeros(3), shift]), np.tile(np.diag([1.0, 4.0, 2.0]), (2, 1, 1)))
    assert conditional.direction(pair) == pytest.approx(shift / np.linalg.norm(shift))


def test_outcomes_between_which_nothing_differs_are_drawn_together():
    rows, subject, labels = together(correlation=0.0)
    apart, same = together(correlation=0.7), (rows, subject, labels)
    moved = []
    for values, codes, outcomes in (apart, same):
        pair = conditional.condition(conditional.subject_moments(values, codes), outcomes)
        moved.append(np.sqrt((conditional.displace(pair, values) ** 2).mean()))
    assert moved[1] < 0.25 * moved[0]


def test_counterparts_are_of_the_other_outcome_and_no_subject_is_shown_twice():
    rows, subject, labels = together()
    pair = conditional.condition(conditional.subject_moments(rows, subject), labels)
    first, second = conditional.counterparts(pair, rows, subject, labels, 6)
    assert len(first) == len(second) == 6
    assert (labels[subject[first]] == 0).all()
    assert (labels[subject[second]] == 1).all()
    assert len(np.unique(subject[np.concatenate([first, second])])) == 12
    assert conditional.evidence(pair, rows[first[:3]]).max() < conditional.evidence(pair, rows[second[3:]]).min()
    assert np.mean(rows[first[:3], 0] * rows[first[:3], 1]) < 0 < np.mean(rows[second[3:], 0] * rows[second[3:], 1])


@pytest.mark.parametrize("size", [8, 16, 21, 5])
def test_coarsening_averages_blocks(size):
    images = np.random.default_rng(0).normal(size=(2, 3, size, size))
    got = conditional.coarsen(images)
    edges = np.linspace(0, size, min(8, size) + 1).astype(int)
    want = [images[:, :, a:b, c:d].mean((2, 3)) for a, b in pairwise(edges)
            for c, d in pairwise(edges)]  # fmt: skip
    assert got == pytest.approx(np.stack(want, -1))


@pytest.mark.parametrize(("ones", "num"), [(12, 24), (5, 10), (5, 30)])
def test_intervals_of_all_differences_hold_together(ones, num):
    """Of 7 x 7 true differences of zero one is outside in 5 % of cohorts; 9 % is 2.6 standard errors more."""
    rng, labels = np.random.default_rng(0), (np.arange(num) < ones).astype(int)
    missed = 0
    for seed in range(200):
        _, low, high = conditional.compare(rng.normal(size=(num, 7, 7)), labels, 200, seed)
        missed += bool(((low > 0) | (high < 0)).any())
    assert missed <= 18


# --------------------------------------------------------------------------------------------------------- the file


def csv(folder, text):
    path = folder / "outcomes.csv"
    path.write_text(text)
    return path


NAMES = [f"s{number}" for number in range(10)]
GOOD = "subject,outcome\n" + "".join(f"{name},{'yes' if number % 2 else 'no'}\n" for number, name in enumerate(NAMES))


def test_outcomes_are_matched_by_name(tmp_path, caplog):
    text = "\ufeffsubject, outcome ,age\n" + "".join(f" {line} ,1\n" for line in reversed(GOOD.splitlines()[1:])) + "s99,yes,1\n"
    path = csv(tmp_path, text)
    found = read_outcomes(path, NAMES, 5)
    assert found.names == ("no", "yes")
    assert found.labels.tolist() == [0, 1] * 5
    assert "s99" in caplog.text


def test_a_subject_of_unknown_outcome_is_left_out(tmp_path, caplog):
    found = read_outcomes(csv(tmp_path, GOOD + "s10,\n"), [*NAMES, "s10"], 5)
    assert found.subjects == NAMES
    assert "left out: s10" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "s3,yes\n", r"names s3 more than once"),
        (GOOD.replace("s3,yes\n", ""), r"has no outcome for s3 of the latents table"),
        (GOOD.replace("outcome", "response"), r"has no column outcome; it has subject, response"),
        (GOOD.replace(",", ";"), r"has no column subject and no column outcome"),
        (GOOD.replace("s3,yes", "s3,maybe"), r"has 3 for the subjects .*'maybe' \(1 subject\), 'no' \(5 subjects\)"),
        (GOOD.replace("yes", "no"), r"has 1 for the subjects .*'no' \(10 subjects\)"),
        (GOOD.replace("s3,yes", "s3,no"), r"too few subjects .*'no' \(6 subjects\), 'yes' \(4 subjects\).* at least 5 of each"),
        ('subject,outcome\n"s0,yes\n', "cannot be read as CSV"),
    ],
)
def test_bad_outcomes_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_outcomes(csv(tmp_path, text), NAMES, 5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv \(from task.outcomes\)"):
        read_outcomes(tmp_path / "none.csv", NAMES, 5)


# --------------------------------------------------------------------------------------------------------- the task


class Linear(nn.Module):
    """Decode components of the pixels: the best decoder there is of its width."""

    def __init__(self, mean, axes, shape):
        super().__init__()
        self.mean, self.axes, self.shape = torch.tensor(mean).float(), torch.tensor(axes).float(), shape

    def decode(self, z_BD):
        """Return images."""
        return (self.mean + z_BD @ self.axes).unflatten(1, self.shape)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Fourteen subjects: red and green share their places in responders and avoid each other in others; blue is anywhere."""
    from anndata import AnnData

    folder, rng, tables, images = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0), [], []
    labels = rng.permutation(14) % 2
    for number, label in enumerate(labels):
        name, size = f"s{number:02d}", 16
        row, col = np.repeat(np.arange(4) * size, 4), np.tile(np.arange(4) * size, 4)
        half = np.arange(size) < size // 2
        red = np.where(rng.random((16, 1)) < 0.5, half, ~half)[:, :, None] * np.ones(size)
        green = red if label else 1 - red
        blue = rng.random((16, 1, 1)) < 0.5
        planes = np.stack([red, green, blue * np.ones_like(red)], 1) * rng.lognormal(4, 0.2, (1, 3, 1, 1))
        pixels = rng.poisson(planes + 5).astype(np.uint16)
        keys = [f"{name}/i1/{r}_{c}" for r, c in zip(row, col, strict=True)]
        table = pd.DataFrame({"key": keys, "subject": name, "image": "i1", "row_px": row, "col_px": col, "foreground": 1.0})
        path = folder / "stores" / f"{name}.h5"
        about = {"shape_px": [64, 64], "dtype": "uint16", "file": f"{name}/i1.tif"}
        origin = {"root": str(folder), "data_root": "demo", "images": {"i1": about}, "size": 16, "overlap": 0}
        with StoreWriter(path, np.uint16) as writer:
            writer.append(pixels, table)
            writer.finish(table, name=name, channels=CHANNELS, origin=origin, pixel_um=1.0, patch_pixel_um=1.0)
        tables.append(table.assign(row=np.arange(16), store=str(path), part="train" if number else "val", group=name))
        images.append(pixels)
    pixels = np.concatenate(images).astype(np.float64)
    normaliser = Normaliser("dataset", CHANNELS, pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist())
    flat = normaliser.apply(torch.from_numpy(pixels).float()).flatten(1).double().numpy()
    axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:6]
    x = ((flat - flat.mean(0)) @ axes.T).astype(np.float32)
    obs = pd.concat(tables, ignore_index=True)
    obs.index = obs["key"].to_numpy()
    (folder / "process").mkdir()
    AnnData(x, obs=obs, uns={"birth": "{}"}).write_h5ad(folder / "process" / "latents.h5ad")
    answers = [f"s{number:02d},{'good' if label else 'bad'}\n" for number, label in enumerate(labels)]
    (folder / "outcomes.csv").write_text("subject,outcome\n" + "".join(answers))
    model = Linear(flat.mean(0), axes, (3, 16, 16)).eval()
    return folder, Trained(model, normaliser, CHANNELS, 16, {"checkpoint": "best.ckpt"})


def settings_of(folder, **options):
    options = {"num_permutations": 19, "num_bootstraps": 50, "folds": "4", "num_steps": 3, "num_samples": 4} | options
    config = OutcomeConfig(name="outcome", latents=str(folder / "process" / "latents.h5ad"), **options)
    return Settings(data=PartitionsConfig(name="partitions"), task=config)


@pytest.mark.slow
def test_the_task_predicts_and_without_a_run_leaves_the_images_out(cohort, tmp_path, caplog):
    folder, _ = cohort
    numbers = task.run(settings_of(folder), tmp_path, NullTracker())
    assert numbers["auc"] > 0.95
    assert numbers["marker_auc"] < 0.8
    assert "run is not set" in caplog.text
    table = pd.read_csv(tmp_path / "tables" / "prediction.csv").set_index("features")
    assert table.loc["latents", "auc"] == pytest.approx(numbers["auc"])
    gain = table.loc["latents less marker means"]
    assert gain["auc_lo"] <= gain["auc"] == pytest.approx(numbers["auc"] - numbers["marker_auc"])
    people = pd.read_csv(tmp_path / "tables" / "subjects.csv")
    assert people["part"].value_counts().to_dict() == {"train": 13, "val": 1}
    assert people.groupby("outcome")["score_latents_nats"].mean().is_monotonic_increasing
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["prediction.png"]


@pytest.mark.slow
def test_the_task_shows_which_markers_changed_places(cohort, tmp_path, monkeypatch):
    folder, trained = cohort
    monkeypatch.setattr(task, "load_decoder", lambda settings, opened: trained)
    settings = settings_of(folder)
    preflight = task.preflight(settings, tmp_path)
    task.run(settings, tmp_path, NullTracker())
    written = {str(path) for kind in ("figures", "tables") for path in (tmp_path / kind).iterdir()}
    assert written == set(preflight.writes)
    table = pd.read_csv(tmp_path / "tables" / "marker_differences.csv")
    assert set(table["marker"][:2]) == {"red", "green"}
    assert set(table["partner"][:2]) == {"red", "green"}
    assert (table["local_correlation_change_lo"][:2] > 0).all()
    assert (table["pixels_local_correlation_change_lo"][:2] > 0).all()
    assert table["local_correlation_change"].abs().is_monotonic_decreasing
    assert (table["mean_change_lo"] <= 0).all()  # no more of any marker
    assert (table["mean_change_hi"] >= 0).all()
    assert table["transport_rms"][:2].min() > 3 * table["transport_rms_permuted"][:2].max()


def test_samples_of_outcomes_between_which_nothing_differs_are_alike(cohort):
    folder, _ = cohort
    settings = settings_of(folder)
    opened = task.open_all(settings)
    space = Space.of(opened)
    pair = conditional.condition(conditional.subject_moments(space.scores, opened.subject), opened.outcomes.labels)
    same = conditional.Gaussians(np.repeat(pair.mean[:1], 2, 0), np.repeat(pair.covariance[:1], 2, 0))
    first, second = outcome_images.draw_samples(same, space, settings)
    assert first == pytest.approx(second)


def test_a_wrong_run_and_too_many_folds_fail_before_the_permutations(cohort, tmp_path, monkeypatch):
    from microlatent import experiment

    folder, trained = cohort
    monkeypatch.setattr(prediction, "predict", lambda *_: pytest.fail("the permutations were begun"))
    monkeypatch.setattr(task, "marker_means", lambda *_: pytest.fail("the pixels were read"))
    with pytest.raises(ValueError, match=r"task.folds is 8, but there are 14 subjects"):
        task.run(settings_of(folder, folds="8"), tmp_path, NullTracker())
    with pytest.raises(ValueError, match=r"task.folds is 8, but there are 14 subjects"):
        task.preflight(settings_of(folder, folds="8"), tmp_path)
    settings = settings_of(folder)
    settings.run = str(tmp_path)
    monkeypatch.setattr(experiment, "load_model", lambda *_: trained._replace(channels=["red", "blue"]))
    with pytest.raises(ValueError, match="Give the run that the latents are of"):
        task.run(settings, tmp_path, NullTracker())


def test_data_without_subjects_and_runs_of_other_channels_are_refused(cohort, tmp_path, monkeypatch):
    from microlatent import experiment
    from tests.specimen import write_latents

    path = write_latents(tmp_path, wells=("A1",), num_tracks=4, num_frames=4, patch_px=8)
    with pytest.raises(ValueError, match="needs the columns subject"):
        task.run(Settings(task=OutcomeConfig(name="outcome", latents=str(path))), tmp_path, NullTracker())
    folder, trained = cohort
    settings = settings_of(folder)
    settings.run = str(tmp_path)
    monkeypatch.setattr(experiment, "load_model", lambda *_: trained._replace(channels=["red", "blue"]))
    with pytest.raises(ValueError, match=r"is of \['red', 'blue'\]"):
        task.run(settings, tmp_path, NullTracker())


def test_a_model_that_cannot_decode_leaves_the_images_out(cohort, monkeypatch, caplog):
    from microlatent import experiment

    folder, trained = cohort
    settings = settings_of(folder)
    settings.run = str(folder)
    monkeypatch.setattr(experiment, "load_model", lambda *_: trained._replace(model=nn.Identity()))
    with caplog.at_level(logging.WARNING):
        assert task.load_decoder(settings, task.open_all(settings)) is None
    assert "does not decode" in caplog.text


@pytest.mark.slow
def test_the_planted_pattern_is_found_from_raw_files_to_figures(command):
    """The whole way on the simulated tissue: CD8 cells enter the nests of responders, and nothing else differs."""
    demo = ("experiment=partitions_demo", "logger=csv")
    command("infer", "task=assemble", *demo)
    command("train", *demo)
    command("infer", "task=process", "run=latest", "logger=csv", "name=partitions-demo")
    command("analyze", "task=outcome", "run=latest", "task.num_permutations=199", "logger=csv", "name=partitions-demo")
    (out,) = command.folder.glob("outputs/partitions-demo/*/outcome")
    table = pd.read_csv(out / "tables" / "prediction.csv").set_index("features")
    assert table.loc["latents", "auc_lo"] > 0.5
    assert table.loc["latents", "p_permutation"] < 0.01
    assert table.loc["latents", "auc"] > table.loc["marker means", "auc"] + 0.1
    differences = pd.read_csv(out / "tables" / "marker_differences.csv")
    assert set(differences["marker"][:2]) == {"CD8", "Cytokeratins"}
    assert (differences["local_correlation_change_lo"][:2] > 0).all()
