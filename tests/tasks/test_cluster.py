"""task=cluster and analysis/clustering: planted classes found, one Gaussian left whole, baselines beside the result."""

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from microlatent.analysis import clustering, stability
from microlatent.analysis.agreement import agreement_with
from microlatent.data.latents import Latents, add_clusters
from microlatent.drawing import clusters as drawing
from microlatent.schemas import ClusterConfig, Settings
from microlatent.systems.partitions.schema import PartitionsConfig
from microlatent.systems.wells.schema import WellsConfig
from microlatent.tasks import cluster
from microlatent.tracking import NullTracker
from tests.specimen import write_latents, write_partition_latents

METHODS = ["gmm", "kmeans", "hdbscan"]


def clouds(num: int, sizes=(150, 100, 60), distance=9.0, seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(truth), num)) + distance * np.eye(len(sizes), num)[truth], truth


@pytest.mark.parametrize("method", METHODS)
def test_planted_clusters_are_found_and_numbered_by_size(method):
    z, truth = clouds(4)
    order = np.random.default_rng(1).permutation(len(z))
    found = clustering.cluster(z[order], np.arange(len(z)), method, max_clusters=4)
    assert found.num == 3
    assert adjusted_rand_score(truth[order], found.labels) > 0.95
    assert (np.diff(np.bincount(found.labels[found.labels >= 0])) < 0).all()
    assert found.criterion["chosen"].sum() == 1


def test_one_gaussian_is_one_cluster_by_bic():
    for seed in range(4):
        z = np.random.default_rng(seed).normal(size=(200, 4)) * [3, 2, 1, 0.2]
        assert clustering.cluster(z, np.arange(200), "gmm", max_clusters=3).num == 1


@pytest.mark.parametrize("method", METHODS)
def test_result_does_not_depend_on_the_order_of_rows(method):
    z, _ = clouds(3, distance=3.5)
    order = np.random.default_rng(0).permutation(len(z))
    train = np.arange(0, len(z), 2)
    first = clustering.cluster(z, train, method, max_clusters=4)
    second = clustering.cluster(z[order], np.flatnonzero(np.isin(order, train)), method, max_clusters=4)
    assert (second.labels == first.labels[order]).all()


@pytest.mark.parametrize("method", ["gmm", "kmeans"])
def test_rows_held_out_are_assigned_and_do_not_move_clusters(method):
    z, truth = clouds(4)
    train = np.random.default_rng(0).permutation(len(z))[:200]
    found = clustering.cluster(z, train, method, max_clusters=5)
    assert found.num_fitted == 200
    assert adjusted_rand_score(truth, found.labels) > 0.95
    far = np.concatenate([z, np.full((50, 4), 1e3)])  # nobody fits to these
    assert adjusted_rand_score(found.labels, clustering.cluster(far, train, method, max_clusters=5).labels[: len(z)]) == 1


def test_scale_of_the_latents_does_not_matter():
    z, _ = clouds(4)
    first, second = (clustering.cluster(z * scale, np.arange(len(z)), "gmm", max_clusters=4).labels for scale in (1, 1e4))
    assert (first == second).all()


def test_large_data_are_thinned_before_they_are_fitted():
    z, truth = clouds(3, sizes=(900, 600, 500))
    found = clustering.cluster(z, np.arange(len(z)), "gmm", max_clusters=4, fit_rows=200)
    assert found.num_fitted == 200
    assert adjusted_rand_score(truth, found.labels) > 0.95


def test_patches_that_are_all_alike_make_no_cluster_of_their_few():
    z = np.random.default_rng(0).normal(size=(200, 4))
    z[:3] = z[0] + 1e-9  # three copies would be fitted without end
    found = clustering.cluster(z, np.arange(200), "gmm", max_clusters=6)
    assert found.num == 1


def test_too_few_rows_and_too_many_clusters_are_refused():
    z, _ = clouds(3)
    with pytest.raises(ValueError, match=r"at least 10 training patches, but there are 4"):
        clustering.cluster(z, np.arange(4), "gmm")
    with pytest.raises(ValueError, match=r"task\.num_clusters is 30.*at most 10"):
        clustering.cluster(z, np.arange(20), "kmeans", 30)


def test_hdbscan_leaves_out_what_is_dense_nowhere():
    z, _ = clouds(2, sizes=(150, 100))
    z = np.concatenate([z, np.random.default_rng(0).uniform(-60, 60, (12, 2))])
    found = clustering.cluster(z, np.arange(100), "hdbscan", min_cluster_size=20)
    assert (found.labels[-12:] == clustering.NOISE).sum() > 8
    assert found.num_fitted == len(z)


# ------------------------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize("method", METHODS)
def test_real_clusters_are_stable_and_a_cut_cloud_is_not(method):
    z, _ = clouds(4)
    groups = np.random.default_rng(0).integers(0, 12, len(z))
    options = {"min_cluster_size": 15} if method == "hdbscan" else {}
    found = clustering.cluster(z, np.arange(len(z)), method, max_clusters=4, **options)
    stable = stability.stability(z, found, np.arange(len(z)), groups, method, num_refits=4, **options)
    assert stable.num_groups == 12
    assert stable.ari.min() > 0.9
    assert stable.jaccard.min() > 0.9
    if method != "hdbscan":
        cloud = np.random.default_rng(0).normal(size=(300, 4))
        cut = clustering.cluster(cloud, np.arange(300), method, 4)
        assert stability.stability(cloud, cut, np.arange(300), groups[:300], method, num_refits=4).ari.mean() < 0.6


def test_overlap_is_one_of_the_same_clusters_under_other_numbers():
    labels = np.array([0, 0, 0, 1, 1, -1])
    assert stability.overlap(labels, np.array([2, 2, 2, 0, 0, 1]), 2).tolist() == [1, 1]
    assert stability.overlap(labels, np.array([0, 0, 1, 1, 1, 1]), 2) == pytest.approx([2 / 3, 1 / 2])


def test_agreement_is_of_words_and_of_numbers():
    labels = np.array([0, 0, 1, 1])
    assert agreement_with(labels, np.array(["x", "x", "y", "y"]))["ari"] == 1
    numbers = agreement_with(labels, np.array([1.0, 1.0, 3.0, np.nan]))
    assert numbers["eta2"] == 1
    assert np.isnan(numbers["ari"])
    assert agreement_with(labels, np.array([1.0, 2.0, 1.0, 2.0]))["eta2"] == 0


def test_exemplars_are_nearest_and_from_many_images():
    z = np.arange(12.0)[:, None]
    found = clustering.Clustering(np.repeat([0, 1], 6), np.ones(12), np.array([[0.0], [11.0]]), pd.DataFrame(), 12)
    units = np.array([0, 0, 0, 1, 1, 1] * 2)
    first, second = clustering.exemplars(z, found, units, 4)
    assert first.tolist() == [0, 1, 3, 4]
    assert second.tolist() == [11, 10, 8, 7]


def test_colours_are_distinct_until_they_cannot_be():
    names = [str(number + 1) for number in range(14)] + ["noise"]
    assert len(set(drawing.colours(names)[:12])) == 12
    entries = drawing.legend_entries(names)
    assert entries[-2:] == [(drawing.OTHER_COLOUR, "clusters 13 to 14"), (drawing.NOISE_COLOUR, "noise")]
    assert len(entries) == 14


# --------------------------------------------------------------------------------------------------------- task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_partition_latents(path, num_images=2, pixel_um=0.5, patch_pixel_um=0.5)
    return path


def settings(folder, **task):
    task = {"max_clusters": 4, "num_exemplars": 3, "images": ["s2/i1"]} | task
    return Settings(run=str(folder), data=PartitionsConfig(name="partitions"), task=ClusterConfig(name="cluster", **task))


@pytest.fixture(scope="module")
def done(folder):
    return cluster.run(settings(folder), folder / "cluster", NullTracker()), folder / "cluster"


def read(done, name) -> pd.DataFrame:
    return pd.read_csv(done[1] / "tables" / f"{name}.csv", dtype={"cluster": str})


def test_planted_neighbourhoods_are_found_beyond_both_baselines(done):
    assert done[0]["clusters"] == 3
    table = read(done, "agreement").set_index(["column", "clusters_of"])["ari"]["true_neighbourhood"]
    assert table["latents"] > 0.95
    assert table["latents"] > table[["marker_means", "pca_pixels"]].max()


def test_table_keeps_all_it_had_and_gains_the_clusters(done, folder):
    table, before = (anndata.read_h5ad(path) for path in (done[1] / "latents.h5ad", folder / "process" / "latents.h5ad"))
    assert (table.X == before.X).all()
    pd.testing.assert_frame_equal(table.obs.drop(columns="cluster"), before.obs)
    assert list(table.obs.columns) == [*before.obs.columns, "cluster"]
    assert table.obs["cluster"].value_counts()["1"] == read(done, "clusters")["size"][0]
    assert (table.obs["cluster"].to_numpy(str) == read(done, "assignments")["cluster"]).all()


def test_clustering_again_replaces_the_column(done, tmp_path):
    latents = Latents.open(done[1] / "latents.h5ad")
    add_clusters(latents, tmp_path / "again.h5ad", pd.Categorical(["9"] * len(latents)), {"method": "kmeans"})
    table = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert list(table.obs.columns) == list(latents.obs.columns)
    assert set(table.obs["cluster"]) == {"9"}
    assert dict(table.uns["cluster"]) == {"method": "kmeans"}


def test_marker_means_name_the_planted_markers(done, folder):
    means = read(done, "marker_means").pivot(index="cluster", columns="marker", values="z")
    found = anndata.read_h5ad(done[1] / "latents.h5ad").obs
    cluster_of = found.groupby("true_neighbourhood", observed=True)["cluster"].agg(lambda part: part.mode()[0])
    assert means["Cytokeratins"].idxmax() == cluster_of["b"]
    assert means["CD8"].idxmax() == cluster_of["c"]


def test_composition_and_shares_add_up(done):
    composition = read(done, "composition")
    assert composition[["1", "2", "3"]].sum(1).to_numpy() == pytest.approx(1)
    assert composition["num_patches"].sum() == done[0]["patches"]
    assert read(done, "clusters")["share"].sum() == pytest.approx(1)


def test_exemplars_are_of_their_cluster(done):
    assigned = read(done, "assignments").set_index("patch")["cluster"]
    table = read(done, "exemplars")
    assert (assigned[table["patch"]].to_numpy() == table["cluster"]).all()
    assert len(table) == 3 * 3


def test_check_lists_what_the_run_writes(done, folder, tmp_path):
    plan = {name.removeprefix(f"{tmp_path}/") for name in cluster.preflight(settings(folder), tmp_path).writes}
    assert plan == {str(path.relative_to(done[1])) for path in done[1].rglob("*.*")}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_same_seed_gives_the_same_files(done, folder, tmp_path):
    cluster.run(settings(folder), tmp_path, NullTracker())
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.suffix in (".png", ".csv")]
    assert len(files) == 16
    assert all((tmp_path / name).read_bytes() == (done[1] / name).read_bytes() for name in files)


def test_too_few_subjects_are_resampled_by_image_or_by_part_of_one_and_it_is_said(folder, caplog):
    opened = cluster.open_all(settings(folder))
    everything, first = np.arange(len(opened.latents)), np.flatnonzero(opened.images == 0)
    assert (cluster.resampled_groups(opened._replace(train=everything)) == opened.images).all()  # six images of three subjects
    assert "over images" in caplog.text
    parts = cluster.resampled_groups(opened._replace(train=first))[first]
    assert len(np.unique(parts)) == 16
    assert "over sixteenths of images" in caplog.text
    assert "(1, needed 5)" in caplog.text
    corner = opened.latents.obs.iloc[first][["row_px", "col_px"]].to_numpy() < 20
    assert len(np.unique(parts[corner.all(1)])) == 1


def test_unknown_image_is_named_with_the_list(folder, tmp_path):
    with pytest.raises(ValueError, match=r"task\.images names 'i1'.*s1/i1"):
        cluster.run(settings(folder, images=["i1"]), tmp_path, NullTracker())


@pytest.mark.slow
def test_wells_are_clustered_without_a_tissue_map(tmp_path):
    write_latents(tmp_path, num_tracks=12, num_frames=4, patch_px=12)
    task = ClusterConfig(name="cluster", method="kmeans", max_clusters=3, num_exemplars=2)
    numbers = cluster.run(Settings(run=str(tmp_path), data=WellsConfig(name="wells"), task=task), tmp_path / "c", NullTracker())
    written = {path.name for path in (tmp_path / "c" / "figures").iterdir()}
    assert written == {"criterion.png", "scatter.png", "marker_means.png", "composition.png", "exemplars_phase.png",
                       "exemplars_stain.png"}  # fmt: skip
    assert numbers["patches"] == len(pd.read_csv(tmp_path / "c" / "tables" / "assignments.csv"))
    assert set(pd.read_csv(tmp_path / "c" / "tables" / "agreement.csv")["column"]) == {"true_size", "true_stretch", "true_peak"}


def test_images_of_a_table_without_places_are_refused(tmp_path):
    write_latents(tmp_path, ("A1",), num_tracks=4, num_frames=3, patch_px=8)
    task = ClusterConfig(name="cluster", images=["A1/Site_0"])
    with pytest.raises(ValueError, match=r"subject, image, row_px, col_px.*Leave task\.images out"):
        cluster.run(Settings(run=str(tmp_path), data=WellsConfig(name="wells"), task=task), tmp_path / "c", NullTracker())
