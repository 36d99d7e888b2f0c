"""task=embed: PCA without leaks, planted factors found, every figure and table written."""

from fnmatch import fnmatch

import anndata
import numpy as np
import pandas as pd
import pytest

from microlatent.analysis.components import fit_pca
from microlatent.data.latents import Latents, Patches
from microlatent.schemas import EmbedConfig, Settings
from microlatent.systems.wells.schema import WellsConfig
from microlatent.tasks import embed
from microlatent.tracking import NullTracker
from tests.specimen import write_latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_latents(path, num_tracks=25, num_frames=6, patch_px=16)
    return path


def settings(folder, **task):
    task = {"umap": False, "components": 3, "num_exemplars": 3, "quantiles": 3, "max_components_shown": 2} | task
    task = {"colour_by": ["well", "true_size"]} | task
    return Settings(run=str(folder), data=WellsConfig(name="wells"), task=EmbedConfig(name="embed", **task))


@pytest.fixture(scope="module")
def done(folder):
    numbers = embed.run(settings(folder), folder / "embed", NullTracker())
    return folder / "embed", numbers


def test_scores_are_of_the_components_of_the_training_part(done, folder):
    table, before = (anndata.read_h5ad(path) for path in (done[0] / "latents.h5ad", folder / "process" / "latents.h5ad"))
    pca = fit_pca(before.X, np.flatnonzero(before.obs["part"] == "train"), 3)
    assert table.obsm["X_pca"] == pytest.approx(pca.transform(before.X))
    assert table.varm["PCs"] == pytest.approx(pca.components.T)
    assert table.uns["pca"]["variance_ratio"] == pytest.approx(pca.ratio)


def test_table_keeps_all_it_had(done, folder):
    table, before = (anndata.read_h5ad(path) for path in (done[0] / "latents.h5ad", folder / "process" / "latents.h5ad"))
    assert (table.X == before.X).all()
    assert (table.obsm["after"] == before.obsm["after"]).all()
    pd.testing.assert_frame_equal(table.obs, before.obs)


def test_planted_factors_are_read_out_of_latents_and_not_of_permuted_tracks(done):
    probes = pd.read_csv(done[0] / "tables" / "probes.csv").set_index("column")
    assert set(probes.index) == {"true_size", "true_stretch", "true_peak"}
    assert (probes["lo_latent"] > 0.8).all()
    assert (probes["r2_permuted_latent"] < 0.05).all()
    assert (probes["p_holm_latent"] < 0.05).all()


def test_rotated_stretch_is_beyond_linear_pixels(done):
    # Cells lie in any direction, so no pixel's mean depends on how stretched they are.
    stretch = pd.read_csv(done[0] / "tables" / "probes.csv").set_index("column").loc["true_stretch"]
    assert stretch["lo_difference"] > 0.3


def test_exemplars_join_back_to_the_table(done):
    table = pd.read_csv(done[0] / "tables" / "exemplars.csv")
    obs = anndata.read_h5ad(done[0] / "latents.h5ad").obs
    assert table["patch"].isin(obs.index).all()
    assert len(table) == 2 * 3 * 3


@pytest.mark.slow
def test_same_seed_gives_the_same_files(done, folder, tmp_path):
    embed.run(settings(folder), tmp_path, NullTracker())
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.suffix in (".png", ".csv")]
    assert len(files) == 13
    assert all((tmp_path / name).read_bytes() == (done[0] / name).read_bytes() for name in files)


@pytest.mark.slow
def test_saved_components_are_applied_to_other_latents(done, tmp_path):
    write_latents(tmp_path, ("C3",), num_tracks=6, num_frames=4, patch_px=8)
    embed.run(settings(tmp_path, pca=str(done[0] / "pca.npz")), tmp_path / "embed", NullTracker())
    first, second = (anndata.read_h5ad(path / "latents.h5ad") for path in (done[0], tmp_path / "embed"))
    assert (first.varm["PCs"] == second.varm["PCs"]).all()


def test_components_of_another_model_are_refused(done, tmp_path):
    write_latents(tmp_path, ("C3",), dims=9, num_tracks=6, num_frames=4, patch_px=8)
    with pytest.raises(ValueError, match=r"40 latent dimensions.*has 9"):
        embed.run(settings(tmp_path, pca=str(done[0] / "pca.npz")), tmp_path / "embed", NullTracker())


def test_table_without_a_training_part_is_fitted_whole_and_says_so(folder, caplog):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    latents.obs["part"] = ""
    assert len(latents.training_rows()) == len(latents)
    assert "no patches of the training part" in caplog.text


def test_misspelt_column_is_refused_with_the_nearest(folder, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'true_size'"):
        embed.run(settings(folder, colour_by=["true_szie"]), tmp_path, NullTracker())


def test_probe_of_names_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"task\.probes names 'key'.*labels of at most 50 kinds"):
        embed.run(settings(folder, probes=["key"]), tmp_path, NullTracker())


@pytest.mark.parametrize("components", [2.5, 0.0])
def test_number_of_components_is_a_share_or_whole(components):
    with pytest.raises(ValueError, match=r"task\.components"):
        EmbedConfig(name="embed", components=components)


def test_pixels_are_normalised_by_the_training_part(folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    patches, train = Patches(latents, list(latents.stores())), np.arange(100)
    features = patches.features(train, train, None).reshape(100, 2, -1)
    assert features.mean((0, 2)) == pytest.approx(0, abs=1e-4)
    assert features.std((0, 2)) == pytest.approx(1, abs=1e-4)


def test_channels_are_read_by_name(folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    stores, rows = list(latents.stores()), np.array([3, 160, 7])
    both, one = Patches(latents, stores).read(rows), Patches(latents, stores, ["stain"]).read(rows)
    assert (both[:, 1:] == one).all()
    with pytest.raises(ValueError, match="GFP"):
        Patches(latents, stores, ["GFP"])


def test_check_writes_nothing_and_lists_what_the_run_writes(done, folder, tmp_path):
    plan = {name.removeprefix(f"{tmp_path}/") for name in embed.preflight(settings(folder), tmp_path).writes}
    written = {str(path.relative_to(done[0])) for path in done[0].rglob("*.*")}
    assert {name for name in plan if "*" not in name} == {name for name in written if "exemplars_PC" not in name}
    assert all(any(fnmatch(name, known) for known in plan) for name in written)
    assert list(tmp_path.iterdir()) == []


def test_pixel_baseline_sees_what_the_model_saw(folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    assert (latents.channels, latents.normaliser) == (None, None)
    state = {"mode": "dataset", "channels": ["stain"], "mean": [0.0], "std": [1.0], "cofactor": 5.0}
    latents.provenance = {"data": {"channels": ["stain"], "normaliser": state}, "process": {"task": {"normalise": "none"}}}
    patches, rows = Patches(latents, list(latents.stores()), latents.channels), np.arange(3)
    features = patches.features(rows, rows, latents.normaliser).reshape(patches.read(rows).shape)
    np.testing.assert_allclose(features, np.arcsinh(patches.read(rows) / 5), rtol=1e-6)


@pytest.mark.slow
def test_umap_columns_are_written_and_drawn(folder, tmp_path):
    embed.run(settings(folder, umap=True), tmp_path, NullTracker())
    assert anndata.read_h5ad(tmp_path / "latents.h5ad").obsm["X_umap"].shape == (298, 2)
