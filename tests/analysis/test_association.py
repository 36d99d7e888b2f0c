"""analysis of associations: metrics equal their definitions, nulls hold on smooth maps, partitions agree as scikit-learn says."""

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from microlatent.analysis import agreement, association, dependence, statistics, surrogates
from microlatent.analysis.association import Null, associate

METRICS = ["pearson", "spearman", "kendall", "mi", "dcorr", "hsic", "pp_spatial"]


def samples(n=150, seed=0):
    """Return latents (n, 5) of several kinds and integer grey values (n,) with many ties."""
    rng = np.random.default_rng(seed)
    y = np.round(rng.normal(size=n) * 3)
    x = [y + rng.normal(size=n), rng.normal(size=n), np.round(rng.normal(size=n)), y**2 + rng.normal(size=n), -1e6 - y]
    return np.stack(x, 1), y


def distances(x):
    return np.abs(x[:, None] - x)


def naive_dcorr(x, y):
    """Return the V-statistic and the bias-corrected one from double-centred matrices."""
    found = []
    for centre in (double_centred, u_centred):
        a, b = centre(distances(x)), centre(distances(y))
        found.append((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    return np.sqrt(found[0]), found[1]


def double_centred(d):
    return d - d.mean(0) - d.mean(1)[:, None] + d.mean()


def u_centred(d):
    n = len(d)
    out = d - d.sum(0) / (n - 2) - d.sum(1)[:, None] / (n - 2) + d.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0)
    return out


def naive_hsic(x, y):
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = (np.exp(-(d**2) / (2 * np.median(d[d > 0]) ** 2)) for d in map(distances, (x, y)))
    both, own, other = (np.trace(a @ centre @ b @ centre) / (n - 1) ** 2 for a, b in ((k, m), (k, k), (m, m)))
    return both, both / np.sqrt(own * other)


def naive_mi(x, y, k):
    """Return equation 8 of Kraskov et al. from all distances."""
    from scipy.special import digamma

    dx, dy = distances(x / x.std()), distances(y / y.std())
    radius = np.sort(np.maximum(dx, dy), 1)[:, k]  # the nearest is the point itself
    nx, ny = ((d < radius[:, None]).sum(1) for d in (dx, dy))
    return max(0.0, digamma(len(x)) + digamma(k) - (digamma(nx) + digamma(ny)).mean())


def score(metric, x, y, neighbours=7, columns=None, rows=None, degree=1):
    """Return a metric of every dimension, as ``associate`` takes it."""
    if metric in association.LINEAR:
        left, right = (association.linear_form(metric, part, columns, rows, degree) for part in (x, y[:, None]))
        return dependence.pearson(left, right[:, 0])
    return dependence.hsic(x, y)[0] if metric == "hsic" else dependence.Paired(metric, y, neighbours).scores(x)


# ---------------------------------------------------------------------------------------------------------- metrics


def test_correlations_are_those_of_scipy():
    x, y = samples()
    for metric, theirs in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        assert score(metric, x, y) == pytest.approx([theirs(column, y)[0] for column in x.T], abs=1e-10)


def test_distance_correlations_are_those_of_centred_matrices():
    x, y = samples()
    expected = np.array([naive_dcorr(column, y) for column in x.T])
    assert score("dcorr", x, y) == pytest.approx(expected[:, 0], abs=1e-8)
    assert score("dcorr_corrected", x, y) == pytest.approx(expected[:, 1], abs=1e-8)


def test_hsic_is_the_trace_of_centred_kernels():
    x, y = samples()
    expected = np.array([naive_hsic(column, y) for column in x.T])
    for got, column in zip(dependence.hsic(x, y), expected.T, strict=True):
        assert got == pytest.approx(column, rel=1e-5)


@pytest.mark.parametrize(("sigma", "error"), [(0.5, 1e-5), (1.0, 1e-3), (2.0, 1e-2)])
def test_hsic_holds_with_heavy_tails(sigma, error):
    rng = np.random.default_rng(0)
    both = rng.normal(size=(600, 1)) + rng.normal(size=(600, 2))
    x, y = np.exp(sigma * both / np.sqrt(2)).T
    assert [float(value[0]) for value in dependence.hsic(x[:, None], y)] == pytest.approx(naive_hsic(x, y), rel=error)


@pytest.mark.parametrize("k", [3, 7])
def test_mutual_information_is_equation_8_and_that_of_scikit_learn(k):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = np.sin(2 * x[:, 0]) + 0.3 * rng.normal(size=400)
    got = score("mi", x, y, k)
    assert got == pytest.approx([naive_mi(column, y, k) for column in x.T], abs=1e-9)
    assert got == pytest.approx(mutual_info_regression(x, y, n_neighbors=k, random_state=0), abs=1e-9)


def test_mutual_information_of_grey_values_is_that_of_scikit_learn_but_for_its_noise():
    x, y = samples(600)
    assert score("mi", x, y)[:4] == pytest.approx(mutual_info_regression(x[:, :4], y, n_neighbors=7, random_state=0), abs=0.04)


def test_mutual_information_of_a_normal_distribution_gives_its_correlation_back():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 1))
    y = 0.6 * x[:, 0] + 0.8 * rng.normal(size=5000)
    assert dependence.information_coefficient(score("mi", x, y)) == pytest.approx(0.6, abs=0.04)


def test_trend_is_removed_as_a_partial_correlation_removes_it():
    rng = np.random.default_rng(0)
    rows, columns = (axis.ravel().astype(float) for axis in np.indices((15, 20)))
    x, y = rng.normal(size=(300, 2)) + columns[:, None], rng.normal(size=300) + columns - 2 * rows
    design = np.column_stack([np.ones(300), columns, rows])
    rest = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (x, y)]
    assert score("pp_spatial", x, y, columns=columns, rows=rows) == pytest.approx(
        [stats.pearsonr(one, rest[1])[0] for one in rest[0].T], abs=1e-10
    )
    cubic = (columns / 10) ** 3 * 5 + rows * columns
    assert np.isnan(score("pp_spatial", cubic[:, None], y, columns=columns, rows=rows, degree=3)).all()


def test_median_distance_is_exact_and_ignores_zeros():
    from microlatent.analysis.pairs import median_distance

    for x in (np.random.default_rng(0).normal(size=80), samples(81)[1], samples(80)[1], np.array([1.0, 1.0, 4.0])):
        d = distances(x)
        assert median_distance(np.sort(x)) == pytest.approx(np.median(d[d > 0]), abs=1e-12)
    assert median_distance(np.ones(5)) == 0


@pytest.mark.parametrize("metric", ["pearson", "spearman", "kendall", "mi", "dcorr", "hsic"])
def test_constant_or_unknown_dimensions_have_no_score_and_integers_are_numbers(metric):
    x, y = samples()
    x[:, 1], x[3, 2] = 5.0, np.nan
    got = score(metric, x, y.astype(np.uint8))
    assert np.isnan(got).tolist() == [False, True, True, False, False]
    assert score(metric, x, y.astype(np.uint8).astype(float))[[0, 3]] == pytest.approx(got[[0, 3]])
    assert np.isnan(score(metric, x, np.ones(len(y)))).all()


# -------------------------------------------------------------------------------------------------------- surrogates


def smooth(rng, sigma, side=40):
    """Return a map cut out of a larger smooth one, as a region is cut out of a specimen."""
    pad = int(4 * sigma)
    return gaussian_filter(rng.normal(size=(side + 2 * pad,) * 2), sigma)[pad : pad + side, pad : pad + side].ravel()


def places(holes=0, side=40, rng=None):
    """Return x and y of a square map with a share of holes, and which points are there."""
    y, x = (axis.ravel() for axis in np.indices((side, side)))
    keep = np.ones(len(x), bool)
    if holes:
        keep[rng.choice(len(x), int(holes * len(x)), replace=False)] = False
    return x[keep], y[keep], keep


@pytest.mark.parametrize("holes", [0, 0.2])
def test_all_shifts_at_once_are_shifts_one_by_one(holes):
    rng = np.random.default_rng(0)
    x, y, _ = places(holes, 8, rng)
    latents, target = rng.normal(size=(len(x), 2)), rng.normal(size=len(x))
    box = surrogates.bounding_box(x, y)
    ((_, got),) = surrogates.shifted_correlations(latents, target, box)
    assert got[:, 0] == pytest.approx(dependence.pearson(latents, target))
    mirrored = surrogates.mirrored(box.grid(target, np.nan))
    for shift in (1, 5, 37, 200):
        moved = np.roll(mirrored, divmod(shift, 16), (0, 1))[:8, :8].ravel()[box.flat]
        both = np.isfinite(moved)
        assert got[:, shift] == pytest.approx([stats.pearsonr(column[both], moved[both])[0] for column in latents.T])


def test_shift_surrogates_are_the_mirrored_map_elsewhere_with_its_holes():
    rng = np.random.default_rng(0)
    x, y, _ = places(0.2, 10, rng)
    target = rng.normal(size=len(x))
    blocks = np.concatenate(list(surrogates.shift_surrogates(target, surrogates.bounding_box(x, y), 50, 0)))
    assert blocks.shape == (50, len(x))
    assert np.isin(blocks[np.isfinite(blocks)], target).all()
    assert 0.5 <= np.isfinite(blocks).mean() < 0.9
    assert len({tuple(row) for row in np.nan_to_num(blocks)}) == 50


@pytest.mark.parametrize("holes", [0, 0.2])
def test_phase_surrogates_have_the_values_and_the_smoothness_of_the_map_and_not_its_places(holes):
    rng = np.random.default_rng(1)
    x, y, keep = places(holes, 40, rng)
    target, box = np.exp(2 * smooth(rng, 3)[keep]), surrogates.bounding_box(x, y)
    blocks = np.concatenate(list(surrogates.phase_surrogates(target, box, 40, 0)))
    assert (np.sort(blocks, 1) == np.sort(target)).all()

    def neighbours(values):
        grid = box.grid(values, np.nan)
        a, b = grid[:, 1:].ravel(), grid[:, :-1].ravel()
        both = np.isfinite(a) & np.isfinite(b)
        return np.corrcoef(stats.rankdata(a[both]), stats.rankdata(b[both]))[0, 1]

    assert np.mean([neighbours(row) for row in blocks]) == pytest.approx(neighbours(target), abs=0.05)
    assert abs(np.mean([np.corrcoef(row, target)[0, 1] for row in blocks])) < 0.15


def test_grain_surrogates_deal_the_means_of_grains_and_leave_the_rest_in_place():
    rng = np.random.default_rng(0)
    grains = rng.integers(0, 9, 200)
    y = rng.normal(size=9)[grains] + 0.1 * rng.normal(size=200)
    means = np.array([y[grains == number].mean() for number in range(9)])
    blocks = np.concatenate(list(surrogates.grain_surrogates(y, grains, 70, 0)))
    assert blocks.shape == (70, 200)
    for row in blocks:
        dealt = np.array([row[grains == number].mean() for number in range(9)])
        assert np.sort(dealt) == pytest.approx(np.sort(means))
        assert row - dealt[grains] == pytest.approx(y - means[grains])
    assert len({tuple(row) for row in blocks.round(9)}) == 70


def test_nearest_spectrum_keeps_the_variance_and_what_is_valid():
    power = np.array([[5.0, -1.0], [0.5, 2.0]])
    got = surrogates.nearest_spectrum(power)
    assert got.sum() == pytest.approx(power.sum())
    assert (got >= 0).all()
    assert surrogates.nearest_spectrum(np.abs(power)) == pytest.approx(np.abs(power))


def test_benjamini_hochberg_is_that_of_scipy_and_counts_what_was_not_tested():
    p = np.array([0.01, 0.04, 0.03, 0.2, 0.005])
    assert statistics.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    got = statistics.benjamini_hochberg(np.array([0.01, np.nan, 0.03, np.nan]))
    assert got == pytest.approx(stats.false_discovery_control([0.01, 1, 0.03, 1]))


def test_hsic_of_all_shifts_is_hsic_of_each():
    rng = np.random.default_rng(0)
    x, y, _ = places(0, 8)
    latents, target = np.cumsum(rng.normal(size=(64, 1)), 0), np.cumsum(rng.normal(size=64))
    box = surrogates.bounding_box(x, y)
    exceed, num = association.hsic_null(latents, target, box)
    moved = np.concatenate(list(surrogates.shift_surrogates(target, box, 255, 0)))
    null = [dependence.hsic(latents, row)[1][0] for row in moved]
    assert num == 255
    assert exceed == pytest.approx(
        sum(null >= dependence.hsic(latents, target)[1]), abs=4
    )  # the kernel's width is each one's own


# ------------------------------------------------------------------------------------------------------ associations


def planted(holes=0, seed=0):
    """Return four latents, of which the second goes with the target, on a map."""
    rng = np.random.default_rng(seed)
    x, y, keep = places(holes, 24, rng)
    target, *latents = (smooth(rng, 2, 24)[keep] for _ in range(5))
    latents[1] = target + 0.3 * latents[1]
    return np.stack(latents, 1), target, x, y


@pytest.mark.parametrize("kind", ["shift", "phase"])
@pytest.mark.parametrize("holes", [0, 0.2])
def test_every_metric_finds_what_is_planted_and_calls_it_alone_significant(kind, holes):
    latents, target, x, y = planted(holes)
    found = associate(latents, target, x, y, METRICS, Null(kind, 99, 2, seed=1))
    for metric in METRICS:
        assert found.table[f"rank_{metric}"].idxmin() == 1
        assert (found.table[f"q_{metric}"] < 0.05).tolist() == [False, True, False, False], metric
    assert found.table["combined_rank"].tolist()[1] == 1
    assert found.table["mean_reciprocal_rank"].max() == 1
    assert found.tested["mi"] == 2
    assert found.tested["pearson"] == 4


def grain_map(rng, num, side):
    """Return a map of grains (side^2,): the points nearest to each of ``num`` random places."""
    seeds, (y, x) = rng.uniform(0, side, (num, 2)), np.indices((side, side))
    return np.hypot(y[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1]).argmin(-1).ravel()


def test_what_goes_with_grains_beyond_sharing_them_is_told_from_what_shares_them():
    rng = np.random.default_rng(3)
    x, y, _ = places(0, 24)
    grains = grain_map(rng, 30, 24)
    value, *others = rng.normal(size=(3, grains.max() + 1))
    latents = np.stack([each[grains] + 0.1 * rng.normal(size=len(x)) for each in (others[0], value, others[1])], 1)
    target = value[grains] + 0.3 * rng.normal(size=len(x))
    grains[:40] -= 1000  # without one: left out
    found = associate(latents, target, x, y, METRICS, Null("grains", 99, 3, 1, grains))
    assert found.num_points == len(x) - 40
    for metric in METRICS:
        assert (found.table[f"q_{metric}"] < 0.05).tolist() == [False, True, False], metric
    shifted = associate(latents, target, x, y, ["mi"], Null("shift", 99, 3, 1))
    assert (shifted.table["q_mi"] < 0.05).all()  # all three share its boundaries


@pytest.mark.parametrize("share", [0.35, 0.2])
def test_points_scattered_over_less_than_half_of_their_box_are_tested(share):
    rng = np.random.default_rng(2)
    x, y, keep = places(1 - share, 40, rng)
    target, other = smooth(rng, 2)[keep], smooth(rng, 2)[keep]
    found = associate(np.stack([other, target + 0.3 * other], 1), target, x, y, ["pearson", "kendall", "hsic"], Null(num=99))
    for metric in ("pearson", "kendall", "hsic"):
        assert (found.table[f"q_{metric}"] < 0.05).tolist() == [False, True]


def test_scores_do_not_know_where_points_lie_and_points_without_a_value_are_left_out():
    latents, target, x, y = planted()
    first = associate(latents, target, x, y, ["pearson", "dcorr"], Null(num=19)).table
    target[::7] = np.nan
    known = np.isfinite(target)
    second = associate(latents, target, x, y, ["pearson", "dcorr"], Null(num=19))
    third = associate(latents[known], target[known], x[known], y[known], ["pearson", "dcorr"], Null(num=19))
    assert second.num_points == known.sum()
    assert second.table.equals(third.table)
    assert first["pearson"].tolist() == pytest.approx(dependence.pearson(latents, planted()[1]).tolist())


def test_fewer_points_are_seen_by_costly_metrics_alone():
    latents, target, x, y = planted()
    whole, part = (associate(latents, target, x, y, ["pearson", "mi"], Null(num=19), max_points=m).table for m in (None, 200))
    assert (whole["pearson"] == part["pearson"]).all()
    assert (whole["mi"] != part["mi"]).all()
    assert part["rank_mi"].idxmin() == 1


def test_lowest_q_is_that_of_all_tested_dimensions_together():
    assert association.least_q(512, 999, 10) == pytest.approx(0.0512)
    assert association.least_q(512, 19599, 512) == pytest.approx(1 / 19600)
    assert association.least_q(4, 0, 0) == 1


def test_synthetic_maps_are_scaled_sums_and_luminance():
    elements = np.array([[0.0, 10.0], [1.0, 30.0], [4.0, 20.0]])
    assert association.synthetic_map("sum", elements).values == pytest.approx([0, 0.625, 0.75])
    assert association.synthetic_map("sum", elements, np.array([3, 1])).values == pytest.approx([0, 0.4375, 0.875])
    two = association.synthetic_map("rgb", elements)
    assert two.colours[1] == pytest.approx([0.25, 1, 0.625])
    assert two.values[1] == pytest.approx(0.2126 * 0.25 + 0.7152 + 0.0722 * 0.625)
    one = association.synthetic_map("rgb", elements[:, :1])
    assert one.colours[1] == pytest.approx([0.25] * 3)
    assert one.values == pytest.approx([0, 0.25, 1])
    with pytest.raises(ValueError, match=r"task\.synth_weights \[1\.0, -1\.0\] sum to zero"):
        association.synthetic_map("sum", elements, np.array([1, -1]))


# --------------------------------------------------------------------------------------------------------- partitions


@pytest.mark.parametrize(("kind", "theirs"), [("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)])
def test_agreement_and_that_of_every_shift_are_those_of_scikit_learn(kind, theirs):
    rng = np.random.default_rng(0)
    x, y, _ = places(0.2, 9, rng)
    first, second = rng.integers(0, 3, len(x)), rng.integers(0, 4, len(x))
    box = surrogates.bounding_box(x, y)
    assert agreement.agreement(first, second, kind) == pytest.approx(theirs(first, second))
    got = agreement.shifted_agreement(first, second, box, kind)
    assert got[0] == pytest.approx(theirs(first, second))
    mirrored = surrogates.mirrored(box.grid(second, -1))
    for shift in (3, 100):
        moved = np.roll(mirrored, divmod(shift, 18), (0, 1))[:9, :9].ravel()[box.flat]
        both = moved >= 0
        assert got[shift] == pytest.approx(theirs(first[both], moved[both]))


def test_mixtures_find_the_number_of_clusters_from_one():
    rng = np.random.default_rng(0)
    assert agreement.mixture_labels(rng.normal(size=(300, 1)), 4, "bic", 0).max() == 0
    truth = rng.choice(3, 300, p=[0.5, 0.3, 0.2])
    labels = agreement.mixture_labels(truth[:, None] * 8.0 + rng.normal(size=(300, 1)), 5, "aic", 0)
    assert adjusted_rand_score(truth, labels) > 0.97
    wide = np.eye(3)[truth] @ rng.normal(size=(3, 40)) * 4 + rng.normal(size=(300, 40))
    assert adjusted_rand_score(truth, agreement.mixture_labels(wide, 5, "bic", 0)) > 0.97


# ------------------------------------------------------------------------------------------- rates of false positives

TRIALS = 200


def rates(sigma, holes, kind, metrics, num, side=40, seed=0):
    """Return the share of independent smooth maps that each metric calls significant at 5 %."""
    rng, hits = np.random.default_rng((seed, int(10 * sigma), int(100 * holes))), dict.fromkeys(metrics, 0)
    for trial in range(TRIALS):
        x, y, keep = places(holes, side, rng)
        latent, target = smooth(rng, sigma, side)[keep], smooth(rng, sigma, side)[keep]
        found = associate(latent[:, None], target, x, y, metrics, Null(kind, num, 1, trial))
        for metric in metrics:
            hits[metric] += found.table[f"p_{metric}"][0] <= 0.05
    return {metric: count / TRIALS for metric, count in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize("holes", [0, 0.2])
@pytest.mark.parametrize("sigma", [2, 4])
@pytest.mark.parametrize("kind", ["shift", "phase"])
def test_independent_smooth_maps_are_called_significant_as_often_as_the_level_says(kind, sigma, holes):
    metrics = [metric for metric in METRICS if (kind, metric, bool(holes)) != ("phase", "mi", True)]  # 12 to 16 %: see the docs
    found = rates(sigma, holes, kind, metrics, 59)
    assert all(0.02 <= rate <= 0.1 for rate in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("num_grains", [20, 60])
def test_values_drawn_for_each_grain_are_called_significant_as_often_as_the_level_says(num_grains):
    rng, metrics, side = np.random.default_rng((2, num_grains)), ["pearson", "dcorr", "hsic", "mi"], 24
    x, y, _ = places(0, side)
    grains, hits = grain_map(rng, num_grains, side), dict.fromkeys(metrics, 0)
    for trial in range(TRIALS):
        latent, target = (rng.normal(size=num_grains)[grains] + 0.1 * rng.normal(size=len(x)) for _ in range(2))
        found = associate(latent[:, None], target, x, y, metrics, Null("grains", 39, 1, trial, grains))
        for metric in metrics:
            hits[metric] += found.table[f"p_{metric}"][0] <= 0.05
    assert all(0.02 <= count / TRIALS <= 0.1 for count in hits.values()), hits


@pytest.mark.slow
@pytest.mark.parametrize("holes", [0, 0.2])
@pytest.mark.parametrize("sigma", [2, 4])
def test_independent_partitions_are_called_alike_as_often_as_the_level_says(sigma, holes):
    rng, hits = np.random.default_rng((1, sigma, int(100 * holes))), 0
    for _ in range(3 * TRIALS):
        x, y, keep = places(holes, 40, rng)
        first, second = (
            np.digitize(values, np.quantile(values, [0.3, 0.7])) for values in (smooth(rng, sigma), smooth(rng, sigma))
        )
        p, _ = agreement.agreement_null(first[keep], second[keep], surrogates.bounding_box(x, y), "ari")
        hits += p <= 0.05
    assert 0.02 <= hits / (3 * TRIALS) <= 0.1
