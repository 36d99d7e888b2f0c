"""task=cluster of EBSD scans: planted clusters, one set of colours, files that fit one another or are refused."""

import json
from itertools import combinations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from microlatent.analysis import clustering, stability
from microlatent.analysis.clustering import NOISE
from microlatent.report.latents import read_points
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import cluster, fields, scan_clusters
from microlatent.systems.kikuchi import draw_clusters as drawing
from microlatent.systems.kikuchi.coordinates import read_region
from microlatent.systems.kikuchi.draw_maps import Window
from microlatent.systems.kikuchi.scans import ScanMap
from microlatent.systems.kikuchi.schema import ClusterKikuchiConfig, KikuchiConfig
from microlatent.tracking import NullTracker
from tests.specimen import write_scan_latents

METHODS = ["gmm", "kmeans", "dbscan", "hdbscan"]
SHAPE = (20, 24)


def task(**values) -> ClusterKikuchiConfig:
    return ClusterKikuchiConfig(name="cluster", **values)


def stripes(num=400, seed=0):
    """Return two clusters that differ in the latent alone, beside a band contrast of counts that says nothing."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1], num // 2)
    return np.column_stack([truth * 1.2 + rng.normal(0, 0.1, num), rng.normal(128, 40, num)]), truth


# --------------------------------------------------------------------------------------------------------- clustering


@pytest.mark.parametrize("method", METHODS)
def test_standardised_features_are_separated_where_unscaled_ones_are_not(method):
    z, truth = stripes()
    found = {}
    for standardize in (True, False):
        scaled, known = scan_clusters.features(z[:, :1], z[:, 1], standardize)
        assert known.all()
        chosen = task(method=method, **({"num_clusters": 2} if method in ("gmm", "kmeans") else {}), standardize=standardize)
        found[standardize] = adjusted_rand_score(truth, scan_clusters.fit(scaled, cluster.options(chosen), 0).labels)
    assert found[True] > 0.9
    if method != "gmm":  # whose covariances stretch with the data: it depends on where they begin
        assert abs(found[False]) < 0.05


def test_one_gaussian_is_one_cluster_by_either_criterion():
    z = np.random.default_rng(0).normal(size=(500, 2)) * [1, 3]
    for criterion in ("bic", "aic"):
        assert scan_clusters.fit(z, cluster.options(task(criterion=criterion, max_clusters=3)), 0).num == 1


def test_the_criterion_that_is_asked_for_chooses():
    z = np.random.default_rng(1).standard_t(4, size=(400, 2))  # heavy tails: AIC takes more clusters than BIC
    num = {}
    for criterion in ("bic", "aic"):
        found = scan_clusters.fit(z, cluster.options(task(criterion=criterion, max_clusters=5)), 0)
        sound = found.criterion[found.criterion["sound"]]
        assert sound.loc[sound[criterion].idxmin(), "chosen"]
        num[criterion] = found.num
    assert num["bic"] <= num["aic"]


def test_kmeans_makes_three_clusters_unless_told():
    z, _ = stripes()
    assert scan_clusters.fit(z, cluster.options(task(method="kmeans")), 0).num == 3
    assert scan_clusters.fit(z, cluster.options(task(method="kmeans", num_clusters=5)), 0).num == 5


def test_usual_reach_is_the_reference_s_quantile_of_the_eighth_neighbour():
    z = np.random.default_rng(0).normal(size=(300, 2))
    eighth = NearestNeighbors(n_neighbors=8).fit(z).kneighbors(z)[0][:, -1]  # the point is its own first
    assert clustering.usual_reach(z) == pytest.approx(np.quantile(eighth, 0.98))
    assert clustering.usual_reach(np.repeat(z[:10], 30, 0)) > 0


@pytest.mark.parametrize("eps", [None, 0.2])
def test_dbscan_is_scikit_learn_s_in_the_units_of_the_features(eps):
    z = np.concatenate([np.random.default_rng(0).normal(size=(200, 2)), [[30.0, 30.0]]]) * [1, 5]
    found = clustering.cluster(z, np.arange(len(z)), "dbscan", eps=eps, min_samples=6)
    used = found.criterion["eps"][0]
    assert eps is None or used == pytest.approx(eps)
    want = DBSCAN(eps=used, min_samples=6).fit(z).labels_
    assert ((found.labels == NOISE) == (want == NOISE)).all()
    assert adjusted_rand_score(want, found.labels) == pytest.approx(1)
    assert found.labels[-1] == NOISE


def test_seeds_agree_on_real_clusters_and_disagree_on_a_cut_cloud():
    rng = np.random.default_rng(0)
    apart = np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 9])
    cloud, everything = rng.normal(size=(200, 2)), np.arange(200)
    ari = [
        stability.seed_stability(
            z, clustering.cluster(z, everything, "kmeans", num), everything, "kmeans", 5, num_starts=1
        ).mean()
        for z, num in ((apart, 2), (cloud, 7))
    ]
    assert ari[0] == 1
    assert ari[1] < 0.9


def test_refits_from_other_seeds_see_the_rows_of_the_fit(monkeypatch):
    monkeypatch.setattr(stability, "FIT_ROWS", 300)
    monkeypatch.setattr(stability, "REFIT_ROWS", 100)
    seen, fit = [], clustering._scan_kmeans
    monkeypatch.setattr(clustering, "_scan_kmeans", lambda y, *rest: seen.append(y / y.std()) or fit(y, *rest))
    z, everything = stripes(1000)[0], np.arange(1000)
    found = clustering.cluster(z, everything, "kmeans", 2, seed=5, fit_rows=300)
    stability.seed_stability(z, found, everything, "kmeans", 3, seed=5, num_starts=1)
    assert [len(rows) for rows in seen] == [300] * 4
    assert all(rows == pytest.approx(seen[0]) for rows in seen)


@pytest.mark.parametrize("min_samples", [5, 50])
def test_hdbscan_is_scikit_learn_s_with_the_samples_that_are_asked_for(min_samples):
    z = np.concatenate([np.random.default_rng(seed).normal(size=(150, 2)) + 4 * seed for seed in range(3)])
    z = z[np.lexsort(z.T[::-1])]  # ties are broken by the order
    found = clustering.cluster(z, np.arange(len(z)), "hdbscan", min_cluster_size=20, min_samples=min_samples)
    assert found.criterion["min_samples"].tolist() == [min_samples]
    want = HDBSCAN(min_cluster_size=20, min_samples=min_samples, copy=True).fit(z).labels_
    assert adjusted_rand_score(want, found.labels) == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method": "kmeans", "max_clusters": 5},
            r"task\.max_clusters is 5, but has no effect on task\.method=kmeans, only on gmm",
        ),
        ({"method": "dbscan", "criterion": "aic"}, r"task\.criterion is aic, but has no effect on task\.method=dbscan"),
        ({"min_samples": 99}, r"task\.min_samples is 99, .*task\.method=gmm, only on dbscan and hdbscan\. Leave it out"),
        ({"method": "dbscan", "min_cluster_size": 9}, r"task\.min_cluster_size is 9, .*task\.method=dbscan, only on hdbscan"),
        ({"method": "hdbscan", "num_clusters": 3}, r"task\.num_clusters is 3, .*task\.method=hdbscan, only on gmm and kmeans"),
        ({"eps": 0.5}, r"task\.eps is 0\.5, .*task\.method=gmm, only on dbscan"),
        ({"num_clusters": 3, "max_clusters": 5}, r"task\.max_clusters is 5, .*task\.num_clusters=3\. Give one of the two"),
    ],
)
def test_settings_without_effect_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        task(**values)


def test_columns_are_labels_where_they_hold_few_whole_numbers():
    assert fields.labels_of(pd.Series([0, 1, 2] * 5), "phase")[:3] == pytest.approx([np.nan, 1, 2], nan_ok=True)
    assert fields.labels_of(pd.Series([0, 1, np.nan] * 5), "true_grain")[:2].tolist() == [0, 1]
    assert fields.labels_of(pd.Series(np.linspace(0, 1, 15)), "true_quality") is None
    assert fields.labels_of(pd.Series(np.arange(15)), "true_index") is None


# ------------------------------------------------------------------------------------------------------------ colours


def scene(num=6, missing=0, seed=0):
    """Return points of a map with as many clusters as columns, and the window that shows them."""
    rng = np.random.default_rng(seed)
    y, x = (axis.ravel() for axis in np.indices((10, num)))
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    labels, latent = x.copy(), rng.normal(size=len(x))
    labels[y == 0] = NOISE
    known = np.ones(len(x), bool)
    lost = rng.choice(len(x), missing, replace=False)
    known[lost], labels[lost], latent[lost] = False, NOISE, np.nan
    scan = ScanMap("toy", None, np.arange(len(x)), x, y, (10, num))
    points = drawing.Points(labels, known, latent, rng.normal(size=len(x)), "latent 0 (no unit)", "band contrast")
    return points, Window.of(scan, None, None, (0.5, 0.5)), drawing.hues(np.zeros((num, num)))


@pytest.mark.parametrize(("num", "missing"), [(3, 0), (6, 7), (12, 9)])
def test_every_point_has_the_same_colour_in_the_map_and_in_the_scatter(num, missing):
    points, window, (hue, chroma) = scene(num, missing)
    fig = drawing.compose(points, window, hue, chroma, "toy")
    assert fig.axes[0].get_xlabel() == "x (map column)"
    picture = fig.axes[0].images[0].get_array()
    shown = fig.axes[1].collections[0]
    colours, at = shown.get_facecolors()[:, :3], np.asarray(shown.get_offsets())
    place = {(a, b): row for row, (a, b) in enumerate(zip(points.latent, points.other, strict=True))}
    rows = np.array([place[tuple(one)] for one in at])
    assert len(rows) == points.known.sum()
    in_map = picture[window.scan.y[rows], window.scan.x[rows]]
    assert np.asarray(in_map) == pytest.approx(colours)
    noise = points.labels[rows] == NOISE
    assert {to_hex(colour) for colour in colours[noise]} == {drawing.NOISE_COLOUR.lower()}
    lost = ~points.known
    assert (picture[window.scan.y[lost], window.scan.x[lost]] == 1).all()  # white


def test_brighter_means_higher_among_its_cluster():
    points, _, (hue, chroma) = scene(4)
    light = drawing.point_colours(points, hue, chroma) @ [0.2126, 0.7152, 0.0722]
    for number in range(4):
        rows = np.flatnonzero(points.labels == number)
        rows = rows[np.argsort(points.latent[rows])]
        assert (np.diff(light[rows]) >= -1e-9).all()
        assert light[rows[-1]] - light[rows[0]] > 0.5


@pytest.mark.parametrize("num", [1, 2, 4, 8, 24])
def test_clusters_have_colours_of_their_own(num):
    hue, chroma = drawing.hues(np.ones((num, num)) - np.eye(num))
    colours = drawing.base_colours(hue, chroma)
    assert len(set(colours)) == num
    rgb = drawing.shades(hue, chroma, np.full(num, 0.5))
    if num > 1:
        assert min(np.linalg.norm(a - b) for a, b in combinations(rgb, 2)) > (0.3 if num < 8 else 0.08)


def test_clusters_side_by_side_are_given_colours_far_apart():
    num = 24
    ring = np.roll(np.eye(num), 1, 1) + np.roll(np.eye(num), -1, 1)
    rgb = drawing.shades(*drawing.hues(ring), np.full(num, 0.5))
    beside = np.linalg.norm(rgb - np.roll(rgb, 1, 0), axis=1)
    assert beside.min() > 0.25


@given(st.floats(0, 1), st.floats(0, 360))
@settings(max_examples=60, deadline=None)
def test_colours_are_colours(brightness, hue):
    colour = drawing.shades(np.array([hue]), np.array([drawing.SATURATED]), np.array([brightness]))
    assert (0 <= colour).all()
    assert (colour <= 1).all()
    grey = drawing.oklch(np.array([brightness]), np.zeros(1), np.array([hue]))[0]
    assert grey == pytest.approx(np.full(3, grey.mean()), abs=1e-3)


def test_lightness_one_is_white_and_red_is_red():
    assert drawing.oklch(np.ones(1), np.zeros(1), np.zeros(1))[0] == pytest.approx([1, 1, 1], abs=1e-3)
    assert drawing.oklch(np.array([0.62796]), np.array([0.25768]), np.array([29.23]))[0] == pytest.approx([1, 0, 0], abs=2e-3)


# -------------------------------------------------------------------------------------------------- reference's files


@pytest.fixture
def files(tmp_path):
    """Write coordinates of a full field of 8 x 6 points in no order, latents of a region of it, band contrast."""
    y, x = (axis.ravel() for axis in np.indices((8, 6)))
    order = np.random.default_rng(0).permutation(48)
    x, y = x[order], y[order]
    pd.DataFrame({" X": x, "Y ": y, "Bandcontrast": x * 10.0 + y}).to_csv(tmp_path / "coords.csv", index=False)
    inside = (x >= 1) & (x < 4) & (y >= 2) & (y < 8)
    np.save(tmp_path / "latent.npy", (100 * x + y)[inside].astype(np.float32))
    return tmp_path, x[inside], y[inside], x, y


ROI = [1, 4], [2, 8]


def read(files, latent="latent.npy", bandcontrast=None, roi=ROI):
    folder = files[0]
    return read_region(str(folder / "coords.csv"), str(folder / latent), bandcontrast and str(folder / bandcontrast), *roi)


def test_region_is_half_open_and_in_the_order_of_the_coordinates(files):
    region = read(files)
    _, x, y, *_ = files
    assert len(region.x) == 3 * 6
    assert (region.x == x).all()
    assert (region.y == y).all()
    assert (region.latents[:, 0] == 100 * x + y).all()
    assert (region.bandcontrast == 10 * x + y).all()
    assert region.map_shape == (8, 6)


@pytest.mark.parametrize("kind", ["full.npy", "roi.npy", "full.csv", "named.csv"])
def test_band_contrast_may_be_of_the_region_or_of_the_full_field(files, kind):
    folder, x, y, full_x, full_y = files
    values = {"full": 7.0 * full_x + full_y, "roi": 7.0 * x + y, "named": 7.0 * full_x + full_y}[kind.split(".")[0]]
    if kind == "named.csv":
        pd.DataFrame({"x": full_x, "y": full_y, "bc": values}).to_csv(folder / kind, index=False)
    elif kind.endswith("csv"):
        np.savetxt(folder / kind, values)
    else:
        np.save(folder / kind, values)
    assert (read(files, bandcontrast=kind).bandcontrast == 7 * x + y).all()


def test_lengths_that_differ_are_both_named(files):
    folder, *_ = files
    np.save(folder / "short.npy", np.zeros(17))
    with pytest.raises(ValueError, match=r"short\.npy holds 17 values, but the region of .* has 18 points"):
        read(files, "short.npy")
    np.save(folder / "whole.npy", np.zeros(48))
    with pytest.raises(ValueError, match=r"holds 48 values, .* has 18 points\. It has as many as the full field: cut"):
        read(files, "whole.npy")
    with pytest.raises(ValueError, match=r"holds 17 values, but the region has 18 points and the full field of .* 48"):
        read(files, bandcontrast="short.npy")


def test_order_is_checked_where_the_file_names_its_points(files):
    folder, x, y, *_ = files
    table = pd.DataFrame({"x": x, "y": y, "latent": 100.0 * x + y})
    table.to_csv(folder / "named.csv", index=False)
    assert (read(files, "named.csv").latents == read(files).latents).all()
    table.iloc[::-1].to_csv(folder / "turned.csv", index=False)
    with pytest.raises(ValueError, match=r"another order than task\.coords_csv: row 1 is x=.*instead of x=.*Sort it alike"):
        read(files, "turned.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,z\n1,2\n", r"has the columns \['x', 'z'\], but lacks y"),
        ("x,y\n1,2\n1,2\n", r"lists 1 points more than once, the first x=1, y=2"),
        ("x,y\n1,2\n1.5,2\n", r"1 rows whose x, y are no map column and row .*line 3: \[1\.5, 2\.0\]"),
        ("x,y\n1,2\n1,a\n", r"line 3: \[1\.0, nan\]"),
        ("x,y\n30,2\n", r"hold none of the 1 points of .*whose x is 30 to 30.*half-open"),
    ],
)
def test_coordinates_that_are_none_are_refused(files, text, message):
    (files[0] / "coords.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(files)


@pytest.mark.parametrize("header", [True, False])
def test_an_index_that_pandas_wrote_is_no_latent(files, caplog, header):
    want = read(files).latents
    pd.DataFrame(want, columns=["dim_1"]).to_csv(files[0] / "indexed.csv", header=header)
    assert (read(files, "indexed.csv").latents == want).all()
    assert "counts its rows, so it is left out" in caplog.text
    pd.DataFrame(want, columns=["dim_1"], index=np.arange(len(want)) + 5).to_csv(files[0] / "cut.csv")
    with pytest.raises(ValueError, match=r"has 1 columns without a header beside dim_1\. Delete .*index=False"):
        read(files, "cut.csv")


def test_latents_that_begin_with_a_missing_point_have_no_header(files):
    np.savetxt(files[0] / "missing.csv", np.r_[np.nan, read(files).latents[1:, 0]])
    assert np.isnan(read(files, "missing.csv").latents).ravel().tolist() == [True] + [False] * 17


@pytest.mark.parametrize("header", ["Band Contrast", "band_contrast", "BC"])
def test_band_contrast_is_known_under_its_usual_headers(files, header):
    path, want = files[0] / "coords.csv", read(files).bandcontrast
    path.write_text("\ufeff" + path.read_text().replace("Bandcontrast", header), encoding="utf-8")
    assert (read(files).bandcontrast == want).all()


@pytest.mark.parametrize(
    "given",
    [
        {"run": "x"},
        {"data": {"scans": ["a"]}},
        {"data": {"keep": "x"}},
        {"data": {"maps": ["m.csv"]}},
        {"task": {"latents": "x"}},
    ],
)
def test_settings_that_name_other_points_are_refused_beside_coordinates(files, given):
    paths = {"coords_csv": str(files[0] / "coords.csv"), "latent_roi": str(files[0] / "latent.npy")}
    data = KikuchiConfig(name="kikuchi", **given.get("data", {}))
    chosen = Settings(run=given.get("run"), data=data, task=task(**paths, **given.get("task", {})))
    kind, value = next(iter(given.items()))
    key = kind if kind == "run" else f"{kind}.{next(iter(value))}"
    with pytest.raises(ValueError, match=rf"^{key} and task\.coords_csv=.* each say which points to cluster"):
        fields.open_field(chosen)


def test_files_that_are_not_there_or_hold_words_are_refused(files):
    with pytest.raises(FileNotFoundError, match=r"task\.latent_roi=.*gone\.npy: there is no such file"):
        read(files, "gone.npy")
    (files[0] / "words.csv").write_text("latent\n1.0\nhigh\n")
    with pytest.raises(ValueError, match=r"words\.csv holds 'high' in column latent, which is no number"):
        read(files, "words.csv")


def test_files_are_clustered_with_missing_rows_left_out(files, tmp_path):
    folder, x, _, *_ = files
    values = np.load(folder / "latent.npy")
    values[[3, 5]] = np.nan
    np.save(folder / "latent.npy", values)
    given = {"coords_csv": str(folder / "coords.csv"), "latent_roi": str(folder / "latent.npy")}
    chosen = Settings(
        data=KikuchiConfig(name="kikuchi"),
        task=task(**given, roi_xrange=[1, 4], roi_yrange=[2, 8], num_clusters=2, num_refits=0),
    )
    numbers = cluster.run(chosen, tmp_path / "out", NullTracker())
    assert numbers["missing"] == 2
    table = pd.read_csv(tmp_path / "out" / "cluster_assignments__gmm_k2_x_1_4_y_2_8.csv")
    assert list(table) == ["x", "y", "latent", "bandcontrast", "cluster"]
    assert (table["x"] == x).all()
    assert table["cluster"][[3, 5]].tolist() == [-1, -1]
    assert (table["cluster"].drop([3, 5]) >= 0).all()


def test_band_contrast_that_is_nowhere_is_asked_for(files):
    folder = files[0]
    pd.read_csv(folder / "coords.csv").iloc[:, :2].to_csv(folder / "coords.csv", index=False)
    given = {"coords_csv": str(folder / "coords.csv"), "latent_roi": str(folder / "latent.npy")}
    given |= {"roi_xrange": [1, 4], "roi_yrange": [2, 8]}
    with pytest.raises(ValueError, match=r"has no column bandcontrast.*task\.use_bandcontrast=false"):
        fields.from_files(task(**given))
    assert fields.from_files(task(**given, use_bandcontrast=False)).quality is None


# --------------------------------------------------------------------------------------------------------------- task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_scan_latents(path, SHAPE, 6, holes=60)
    return path


def run_settings(folder, **values):
    values = {"num_refits": 2} | values
    return Settings(
        data=KikuchiConfig(name="kikuchi"), task=task(latents=str(folder / "process" / "latents.h5ad"), **values), seed=3
    )


@pytest.fixture(scope="module")
def done(folder):
    chosen = run_settings(folder, dims=[0], num_clusters=3, roi_xrange=[2, 20])
    return cluster.run(chosen, folder / "cluster", NullTracker()), folder / "cluster"


TAG = "d0_gmm_k3_x_2_20"


def test_report_and_table_agree(done):
    numbers, out = done
    table = pd.read_csv(out / f"cluster_assignments__{TAG}.csv")
    report = json.loads((out / f"cluster_report__{TAG}.json").read_text())
    assert list(table) == ["x", "y", "latent", "bandcontrast", "cluster"]
    assert report["method"] == "gmm"
    assert report["k"] == 3
    assert report["scores"]["criterion"] == "bic"
    assert report["scores"]["value"] == report["scores"]["tried"]["3"]
    assert report["n_points"] == len(table) == numbers["points"]
    assert report["counts"] == {str(key): count for key, count in table["cluster"].value_counts().items()}
    assert report["roi"] == {"x_range": [2, 20], "y_range": None, "half_open": True}
    assert table["x"].min() == 2
    assert table["x"].max() == 19
    assert set(report["cluster_colors"]) == {"0", "1", "2"}
    assert report["features"] == ["latent 0", "bandcontrast"]
    assert {report["figure"], report["assignments_csv"]} <= {path.name for path in out.iterdir()}
    assert report["silhouette"] == pytest.approx(numbers["silhouette"])
    sizes = pd.read_csv(out / "tables" / "clusters.csv")
    assert sizes["size"].tolist() == [report["counts"][str(number)] for number in range(3)]
    assert sizes["colour"].tolist() == list(report["cluster_colors"].values())


def test_baselines_and_band_contrast_stand_beside_the_latents(done):
    table = pd.read_csv(done[1] / "tables" / "agreement.csv")
    assert set(table["column"]) == {"phase", "true_grain"}
    assert set(table["clusters_of"]) == {"latents", "baseline_pca", "bandcontrast"}
    assert (table["num_clusters"] == 3).all()
    assert table.groupby("clusters_of")["num_features"].first().to_dict() == {"latents": 2, "baseline_pca": 2, "bandcontrast": 1}
    found = pd.read_csv(done[1] / f"cluster_assignments__{TAG}.csv")
    assert table["num_points"].eq(len(found)).all()
    stable = pd.read_csv(done[1] / "tables" / "stability.csv")
    assert stable.groupby("kind").size().to_dict() == {"other seeds": 2, "resampled blocks": 2}


def test_check_lists_what_the_run_writes(done, folder, tmp_path):
    plan = cluster.preflight(run_settings(folder, dims=[0], num_clusters=3, roi_xrange=[2, 20]), tmp_path).writes
    assert {name.removeprefix(f"{tmp_path}/") for name in plan} == {
        str(path.relative_to(done[1])) for path in done[1].rglob("*.*")
    }


def test_latents_table_gains_the_clusters_of_the_points_that_were_clustered(done, folder):
    table = anndata.read_h5ad(done[1] / "latents.h5ad")
    before = anndata.read_h5ad(folder / "process" / "latents.h5ad")
    assert (table.X == before.X).all()
    assert list(table.obs) == [*before.obs, "cluster"]
    found = pd.read_csv(done[1] / f"cluster_assignments__{TAG}.csv").set_index(["x", "y"])["cluster"]
    at = pd.MultiIndex.from_frame(table.obs[["x", "y"]])
    want = found.reindex(at).to_numpy()
    assert table.obs["cluster"].isna().tolist() == np.isnan(want).tolist()  # outside the region
    inside = table.obs["cluster"].notna().to_numpy()
    assert table.obs["cluster"][inside].astype(int).tolist() == want[inside].tolist()
    assert table.uns["cluster"]["tag"] == TAG


def test_noise_is_a_word_and_no_number(folder, tmp_path):
    cluster.run(run_settings(folder, dims=[0, 1], method="dbscan", eps=0.3, num_refits=0), tmp_path, NullTracker())
    column = anndata.read_h5ad(tmp_path / "latents.h5ad").obs["cluster"]
    found = pd.read_csv(next(tmp_path.glob("cluster_assignments__*.csv")))["cluster"]
    assert (column == "noise").sum() == (found == -1).sum()
    assert 0 < (column == "noise").sum() < len(column)
    assert column.notna().all()


def test_report_colours_the_latent_space_by_cluster(done, folder):
    points = read_points(folder / "process" / "latents.h5ad", 10_000, 0, done[1] / "latents.h5ad")
    assert points.first == "cluster"
    assert set(points.columns["cluster"]) == {"0", "1", "2", "none"}


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        ({"dims": [3], "num_clusters": 4}, "d3_gmm_k4"),
        ({"dims": [3]}, "d3_gmm_k*"),
        ({"method": "kmeans"}, "all_kmeans_k3"),
        ({"dims": [0, 2], "method": "dbscan", "eps": 0.30625}, "d0-2_dbscan_eps0.306_m10"),
        ({"dims": [0, 2], "use_bandcontrast": True, "method": "hdbscan"}, "d0-2_bc_hdbscan_mcs20"),
        ({"dims": [1], "standardize": False, "roi_yrange": [0, 9], "num_clusters": 2}, "d1_gmm_k2_unscaled_y_0_9"),
    ],
)
def test_names_say_what_was_clustered_and_how(folder, values, tag):
    chosen = run_settings(folder, **values)
    assert cluster.tag_of(chosen.task, fields.open_field(chosen), None) == tag


def test_a_tag_stays_a_part_of_the_names(folder):
    chosen = run_settings(folder, tag="../../x y")
    assert cluster.tag_of(chosen.task, fields.open_field(chosen), None) == "x_y"


@pytest.mark.parametrize("method", ["dbscan", "hdbscan"])
def test_methods_that_find_noise_or_nothing_still_write_everything(folder, tmp_path, method):
    for name, values in {
        "some": {},
        "none": {"min_samples": 400, **({"min_cluster_size": 400} if method == "hdbscan" else {})},
    }.items():
        numbers = cluster.run(run_settings(folder, dims=[0, 2], method=method, **values), tmp_path / name, NullTracker())
        report = json.loads(next((tmp_path / name).glob("cluster_report__*.json")).read_text())
        table = pd.read_csv(tmp_path / name / report["assignments_csv"])
        assert numbers["noise_share"] == pytest.approx((table["cluster"] == NOISE).mean())
        assert report["k"] == table["cluster"].max() + 1
        assert "min_samples" in report
        assert report["latent"].startswith("PC1 of 2 standardised latents")
    assert numbers["noise_share"] == 1


def test_latents_that_are_idle_are_left_out_unless_named(tmp_path):
    import anndata

    path = write_scan_latents(tmp_path, (10, 12), 4)
    table = anndata.read_h5ad(path)
    table.X[:, 2] *= 0.01
    table.obsm["baseline_pca"] = np.arange(1, 5) * np.random.default_rng(0).normal(size=(len(table), 4))
    table.write_h5ad(path)
    field = fields.open_field(run_settings(tmp_path))
    assert field.dims == [0, 1, 3]
    assert (field.baselines["baseline_pca"] == table.obsm["baseline_pca"][:, 1:]).all()  # as many, those that vary most
    assert fields.open_field(run_settings(tmp_path, dims=[2, 3])).dims == [2, 3]


def test_too_few_points_and_wrong_dimensions_are_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"of the region's \d points have latent 0 and bandcontrast, but clusters need at least 10"
    ):
        cluster.run(run_settings(folder, dims=[0], roi_xrange=[0, 3], roi_yrange=[0, 3]), tmp_path, NullTracker())
    with pytest.raises(ValueError, match=r"task\.dims is \[6\].*0 to 5"):
        cluster.preflight(run_settings(folder, dims=[6]), tmp_path)
    with pytest.raises(ValueError, match=r"task\.num_clusters is 400, but the \d+ rows to fit clusters to allow at most"):
        cluster.preflight(run_settings(folder, num_clusters=400), tmp_path)


@pytest.mark.slow
def test_the_command_writes_the_same_files_twice(command, folder):
    line = ["task=cluster", "data=kikuchi", "data.root=x", f"task.latents={folder / 'process' / 'latents.h5ad'}", "logger=csv"]
    outputs = []
    for name in ("first", "second"):
        command("analyze", *line, "task.dims=[0]", "task.max_clusters=4", "task.num_refits=2", f"name={name}")
        outputs.append(next((command.folder / "outputs" / name).iterdir()))
    names = [
        path.relative_to(outputs[0]) for path in outputs[0].rglob("*") if "cluster_" in path.name or "stability" in path.name
    ]
    assert len(names) == 5
    assert all((outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes() for name in names)
