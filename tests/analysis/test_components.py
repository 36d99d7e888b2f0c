"""Components: exact, deterministic, without leaks; exemplars differ along their component alone."""

import numpy as np
import pytest
from sklearn.decomposition import PCA as Reference

from microlatent.analysis import components


def cloud(num=300, dims=20, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num, dims)) * np.linspace(5, 0.5, dims)) @ np.linalg.qr(rng.normal(size=(dims, dims)))[0] + 3


@pytest.mark.parametrize(("num", "dims"), [(300, 20), (20, 300)])
def test_pca_agrees_with_scikit_learn(num, dims, monkeypatch):
    monkeypatch.setattr(components, "CHUNK", 64)
    x = cloud(num, dims)
    ours, theirs = components.fit_pca(x, np.arange(num), 5), Reference(5).fit(x)
    assert ours.ratio == pytest.approx(theirs.explained_variance_ratio_)
    assert ours.spectrum[:5] == pytest.approx(theirs.explained_variance_)
    assert np.abs(ours.transform(x)) == pytest.approx(np.abs(theirs.transform(x)), abs=1e-4)


def test_share_of_variance_takes_the_fewest_components_that_reach_it():
    x = cloud()
    pca = components.fit_pca(x, np.arange(300), 0.5)
    assert pca.ratio.sum() >= 0.5 > pca.ratio[:-1].sum()
    assert len(pca.ratio) == Reference(0.5).fit(x).n_components_


def test_components_do_not_depend_on_rows_outside_the_fit():
    x, rows = cloud(), np.arange(0, 300, 2)
    changed = x.copy()
    changed[1::2] += 100
    assert (components.fit_pca(x, rows).components == components.fit_pca(changed, rows).components).all()


def test_signs_do_not_depend_on_the_order_of_patches():
    x = cloud()
    first, second = (components.fit_pca(x[order], np.arange(300), 5) for order in (slice(None), slice(None, None, -1)))
    assert first.components == pytest.approx(second.components)
    assert (np.take_along_axis(first.components, np.abs(first.components).argmax(1)[:, None], 1) > 0).all()


def test_pca_survives_its_file(tmp_path):
    x = cloud()
    pca = components.fit_pca(x, np.arange(300), 4)
    pca.save(tmp_path / "pca.npz")
    assert (components.PCA.load(tmp_path / "pca.npz").transform(x) == pca.transform(x)).all()


def test_collapsed_latents_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="collapsed"):
        components.fit_pca(np.full((30, 5), 2.5), np.arange(30))


def test_latents_with_nan_are_refused():
    x = cloud()
    x[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        components.fit_pca(x, np.arange(300))


def test_no_more_components_than_the_data_have():
    x = np.outer(np.arange(30.0), np.ones(5))
    assert components.fit_pca(x, np.arange(30), 4).components.shape == (1, 5)


@pytest.mark.slow
def test_umap_is_the_same_each_time_and_keeps_groups_apart():
    x = np.concatenate([np.zeros((40, 4)), np.full((40, 4), 20.0)]) + cloud(80, 4) / 10
    rows = np.arange(0, 80, 2)
    first, second = (components.umap(x, rows, neighbours=8, seed=3) for _ in range(2))
    assert (first == second).all()
    centre = first[:40].mean(0), first[40:].mean(0)
    assert (np.linalg.norm(first[:40] - centre[0], axis=1) < np.linalg.norm(first[:40] - centre[1], axis=1)).all()


def test_exemplars_hold_the_other_components_near_their_median():
    scores = np.random.default_rng(0).normal(size=(20000, 4))
    chosen = components.exemplars(scores, 0, [0, 1, 2])
    low, high = np.quantile(scores[:, 1:3], (0.4, 0.6), axis=0)
    gallery = scores[np.concatenate(chosen.gallery)]
    assert chosen.bands == [(0.4, 0.6)] * 5
    assert ((gallery[:, 1:3] >= low - 1e-3) & (gallery[:, 1:3] <= high + 1e-3)).all()


def test_exemplars_lie_in_their_quantile():
    scores = np.random.default_rng(0).normal(size=(500, 3))
    chosen = components.exemplars(scores, 1, [0, 1, 2], num_quantiles=4)
    for number, rows in enumerate(chosen.gallery):
        assert len(rows) == 8
        assert ((scores[rows, 1] >= chosen.edges[number]) & (scores[rows, 1] <= chosen.edges[number + 1])).all()


def test_few_patches_widen_the_band_and_say_so():
    chosen = components.exemplars(np.random.default_rng(0).normal(size=(60, 3)), 0, [0, 1, 2])
    assert all(band != (0.4, 0.6) for band in chosen.bands)
    assert [len(rows) for rows in chosen.gallery] == [8] * 5


def test_gallery_shows_different_cells_where_there_are_any():
    scores, cells = np.random.default_rng(0).normal(size=(2000, 2)), np.arange(2000) // 100
    for rows in components.exemplars(scores, 0, [0, 1], cells=cells).gallery:
        assert len(set(cells[rows])) == 8
