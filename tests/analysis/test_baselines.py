"""Linear baselines: as good as fitted at once, however the rows come."""

import numpy as np
import pytest
from sklearn.decomposition import NMF, PCA

from microlatent.analysis import baselines


def rows(num=900, width=3, pixels=24, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = rng.gamma(1.0, 1.0, (num, width)) @ rng.gamma(0.5, 1.0, (width, pixels))
    return (parts + 0.05 * rng.normal(size=parts.shape)).astype(np.float32)


def cut(x, size):
    return lambda: (x[start : start + size] for start in range(0, len(x), size))


def share(model, x) -> float:
    error, variance = baselines.squares(x, model.restore(model.transform(x)), x.mean(0))
    return 1 - error / variance


def test_incremental_pca_explains_what_pca_at_once_explains():
    x = rows()
    whole = PCA(3).fit(x)
    assert share(baselines.fit("pca", cut(x, 100), 3, len(x), 0), x) == pytest.approx(whole.explained_variance_ratio_.sum(), 1e-3)


def test_factors_are_not_negative_and_explain_as_much_as_factors_of_all_rows_at_once():
    x = rows(1500, 6)
    model = baselines.fit("nmf", cut(x, 100), 6, len(x), 0)
    assert min(model.components.min(), model.transform(x).min()) >= 0
    whole = NMF(6, init="nndsvda", random_state=0, max_iter=500).fit(x - x.min())
    error, variance = baselines.squares(x - x.min(), whole.inverse_transform(whole.transform(x - x.min())), x.mean(0) - x.min())
    assert share(model, x) > 1 - error / variance - 0.01


@pytest.mark.parametrize("name", ["pca", "nmf"])
def test_baselines_do_not_depend_on_how_the_rows_are_cut(name):
    x = rows()
    first, second = (baselines.fit(name, cut(x, size), 3, len(x), 0).transform(x) for size in (64, 333))
    np.testing.assert_array_equal(first, second)


def test_width_is_at_most_the_number_of_rows():
    assert len(baselines.fit("pca", cut(rows(9), 4), 16, 9, 0).components) == 9


def test_pooling_averages_whole_squares_of_any_shape():
    x = np.arange(2 * 1 * 6 * 9, dtype=np.float32).reshape(2, 1, 6, 9)
    pooled = baselines.pool(x, 3)
    assert pooled.shape == (2, 3 * 4)
    assert pooled[0, 0] == x[0, 0, :2, :2].mean()
    assert baselines.pool(x, 64).shape == (2, 54)
