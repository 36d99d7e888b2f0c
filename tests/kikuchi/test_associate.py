"""task=associate: what is planted is found with baselines beside it, what is not is not, and files fit one another."""

import json
from fnmatch import fnmatch

import numpy as np
import pandas as pd
import pytest
import yaml

from microlatent.analysis import agreement
from microlatent.data.latents import Latents
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import associate
from microlatent.systems.kikuchi.associate_targets import grains_of, latent_norm
from microlatent.systems.kikuchi.schema import METRICS, AssociateConfig, KikuchiConfig
from microlatent.tracking import NullTracker
from tests.specimen import write_scan_latents

FEW = ("task.num_surrogates=199", "task.num_top=1")


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """Latents of one map without holes, read only."""
    return write_scan_latents(tmp_path_factory.mktemp("scan"))


@pytest.fixture
def settings(latents):
    """Return a function that takes overrides, as they are typed, without composing all of the configuration for each."""

    def make(*overrides, path=latents):
        given = {"": {}, "task": {"latents": str(path)}, "data": {"root": "x"}}
        for override in (*FEW, *overrides):
            key, _, value = override.partition("=")
            group, _, name = key.rpartition(".")
            given[group][name] = yaml.safe_load(value)
        data, task = KikuchiConfig(name="kikuchi", **given["data"]), AssociateConfig(name="associate", **given["task"])
        return Settings(data=data, task=task, **given[""])

    return make


def found(settings):
    """Return the scores of every target, and the targets, without drawing."""
    opened = associate.open_all(settings)
    return {
        target.tag: (associate.labels_findings if target.is_labels else associate.findings)(target, opened, settings).table
        for target in opened.targets
    }, opened.targets


def significant(table, metric, source="latent"):
    mine = table[table["source"] == source]
    return mine["dim"][mine[f"q_{metric}"] < 0.05].tolist()


@pytest.mark.slow
def test_planted_latents_are_found_and_the_unrelated_element_is_not(command, latents):
    arguments = ("task=associate", "data=kikuchi", f"task.latents={latents}", "data.root=x", "logger=csv", *FEW)
    command("analyze", *arguments, "task.metrics=[pearson,dcorr]", "task.targets=[element_O,element_Al]")
    (out,) = (command.folder / "outputs" / "kikuchi-associate").iterdir()
    oxygen, unrelated = (pd.read_csv(out / name / "scores.csv") for name in ("element_O", "element_Al"))
    for metric in ("pearson", "dcorr"):
        assert significant(oxygen, metric) == [1]
    assert set(oxygen["source"]) == {"latent", "baseline_pca", "latent_norm"}
    assert (unrelated.filter(like="q_") >= 0.05).all(axis=None)
    together = pd.read_csv(out / "tables" / "associations.csv")
    assert together.groupby("target", sort=False).size().to_dict() == {"element_O": 13, "element_Al": 13}
    assert (out / "figures" / "associations.png").is_file()


@pytest.mark.slow
def test_default_targets_are_band_contrast_and_every_element_each_found_by_every_metric(settings):
    tables, _ = found(settings("task.num_surrogates=120", "task.num_ranked=2"))
    assert list(tables) == ["bandcontrast", "element_O", "element_Fe", "element_Al"]
    for target, dim in (("bandcontrast", 0), ("element_O", 1), ("element_Fe", 1)):
        for metric in METRICS:
            assert significant(tables[target], metric) == [dim], (target, metric)
    assert [significant(tables["element_Al"], metric) for metric in METRICS] == [[]] * len(METRICS)


@pytest.mark.slow
def test_files_of_the_highest_dimension_fit_one_another(settings, tmp_path):
    region = ("task.roi_xrange=[2,20]", "task.roi_yrange=[1,19]")
    made = settings("task.targets=[bandcontrast]", "task.metrics=[pearson,hsic]", *region)
    preflight = associate.preflight(made, tmp_path)
    assert not list(tmp_path.iterdir())
    associate.run(made, tmp_path, NullTracker())
    written = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert all(any(fnmatch(path, known) for path in written) for known in preflight.writes)
    assert all(any(fnmatch(path, known) for known in preflight.writes) for path in written)
    folder = tmp_path / "bandcontrast"
    scores = pd.read_csv(folder / "scores.csv").iloc[0]
    assert {path.name for path in folder.iterdir()} == {
        "scores.csv",
        "report_bandcontrast_multi_metric.json",
        "bandcontrast_gray_roi.png",
        f"latent_vs_bandcontrast_d0_pearson{scores['pearson']:.3f}.png",
        "latent_d0_roi_vs_bandcontrast_pearson.npy",
        "latent_full_bandcontrast_d0.png",
        "latent_full_bandcontrast_d0.csv",
    }
    values = np.load(folder / "latent_d0_roi_vs_bandcontrast_pearson.npy")
    full = pd.read_csv(folder / "latent_full_bandcontrast_d0.csv")
    inside = full[full["x"].between(2, 19) & full["y"].between(1, 18)]
    assert len(full) == 20 * 24
    assert values == pytest.approx(inside["latent"].to_numpy(), abs=1e-6)
    report = json.loads((folder / "report_bandcontrast_multi_metric.json").read_text())
    assert report["roi"] == {"x_range": [2, 20], "y_range": [1, 19], "n": 18 * 18}
    first = report["rankings"]["pearson"][0]
    assert (first["dim"], first["score"], first["q"]) == pytest.approx((0, scores["pearson"], scores["q_pearson"]), abs=1e-8)
    assert report["significance"]["latent"]["surrogates"]["pearson"] == 4 * 18 * 18 - 1
    assert report["synth_mode"] is None
    assert report["provenance"]["format"] == "simulated"


@pytest.mark.slow
@pytest.mark.parametrize("null", ["shift", "phase"])
def test_holes_and_unknown_values_are_left_out(settings, tmp_path, null):
    path = write_scan_latents(tmp_path, holes=60)
    table = pd.DataFrame({"x": np.arange(24), "y": 5, "element_Cr": np.arange(24.0)})
    table.to_csv(tmp_path / "more.csv", index=False)
    options = ("task.targets=[bandcontrast,element_Cr]", "task.metrics=[pearson,kendall]", f"task.null={null}")
    made = settings(*options, f"data.maps=[{tmp_path / 'more.csv'}]", path=path)
    tables, targets = found(made)
    assert significant(tables["bandcontrast"], "pearson") == significant(tables["bandcontrast"], "kendall") == [0]
    about = associate.findings(targets[1], associate.open_all(made), made).about
    assert 15 < about["latent"]["num_points"] <= 24


def test_dims_are_named_as_in_the_table_and_baselines_stay_whole(settings):
    tables, _ = found(settings("task.dims=[1,4]", "task.metrics=[spearman]", "task.targets=[element_O]"))
    assert tables["element_O"].groupby("source")["dim"].apply(list).to_dict() == {
        "latent": [1, 4],
        "baseline_pca": list(range(6)),
        "latent_norm": [0],
    }
    assert significant(tables["element_O"], "spearman") == [1]


def test_quality_that_shrinks_all_latents_alike_shows_in_their_norm(tmp_path):
    rng = np.random.default_rng(0)
    quality, grain = rng.uniform(0.2, 1, 400), rng.integers(0, 12, 400)
    x = quality[:, None] * rng.choice([-1.0, 1.0], (12, 5))[grain]
    obs = pd.DataFrame({"part": "train", "row": 0, "store": "", "key": "", "group": ""}, index=range(400))
    norm = latent_norm(Latents(tmp_path, obs, x - x.mean(0)))
    assert np.corrcoef(norm[:, 0], quality)[0, 1] > 0.9
    assert np.abs(np.corrcoef(np.column_stack([quality, x]).T)[0, 1:]).max() < 0.5


SYNTHETIC = [
    (("rgb", "[Fe,O]", None), "rgb-Fe_O", None),
    (("sum", None, None), "sum-auto", [1 / 3, 1 / 3, 1 / 3]),
    (("sum", "[O,Al]", "[3,1]"), "sum-3.000_1.000-O_Al", [3, 1]),
]


@pytest.mark.parametrize(("asked", "tag", "weights"), SYNTHETIC, ids=[case[1] for case in SYNTHETIC])
def test_synthetic_maps_have_tags_that_keep_runs_apart(settings, asked, tag, weights):
    given = zip(("synth_mode", "synth_elements", "synth_weights"), asked, strict=True)
    made = settings("task.targets=[bandcontrast]", "task.metrics=[pearson]", *(f"task.{k}={v}" for k, v in given if v))
    tables, (_, target) = found(made)
    assert target.tag == tag
    assert target.about["weights"] == (None if weights is None else pytest.approx(weights))
    assert associate.output.report_name(target) == f"report_elements_multi_metric__{tag}.json"
    if tag != "sum-auto":  # oxygen and iron are each other's mirror image: their sum is the unrelated element
        assert significant(tables[tag], "pearson") == [1]


@pytest.fixture
def clustered(latents, tmp_path):
    """Write features whose clusters are those of latent 5."""
    from microlatent.data.latents import Latents

    table = Latents.open(latents)
    group = agreement.mixture_labels(table.x[:, [5]], 3, "bic", 0)
    noise = np.random.default_rng(0).normal(size=(len(group), 2))
    features = pd.DataFrame(np.column_stack([10 * group, -5 * group]) + noise, columns=["PCA_1", "PCA_2"])
    pd.concat([table.obs[["x", "y"]].reset_index(drop=True), features], axis=1).to_csv(tmp_path / "pca.csv", index=False)
    return ("task.targets=[bandcontrast]", "task.metrics=[pearson]", "task.features=PCA", f"data.maps=[{tmp_path / 'pca.csv'}]")


@pytest.mark.parametrize("kind", ["ari", "nmi"])
def test_labels_by_reference_features_are_those_of_the_latent_it_was_made_from(settings, clustered, kind):
    tables, _ = found(settings(*clustered, f"task.agreement={kind}", "task.max_clusters=3", "task.num_ranked=6"))
    table = tables["cluster-PCA"]
    assert significant(table, kind) == [5]
    assert table.loc[5, [f"rank_{kind}", "k_ref"]].tolist() == [1, 3]


@pytest.mark.slow
def test_pictures_and_reports_of_partitions_and_of_elements_in_colours_are_written(settings, clustered, tmp_path):
    made = settings(*clustered, "task.max_clusters=3", "task.synth_mode=rgb", "task.synth_elements=[Fe,O,Al]")
    numbers = associate.run(made, tmp_path / "out", NullTracker())
    assert numbers["dim_cluster-PCA"] == 5
    report = json.loads((tmp_path / "out" / "cluster-PCA" / "report_cluster__PCA.json").read_text())
    assert report["top_latent_by_cluster"][0].keys() == {"dim", "score", "k_lat", "k_ref", "p", "q"}
    assert report["null_hypothesis"].startswith("The maps are independent")
    for name in ("figures/agreements.png", "figures/associations.png", "rgb-Fe_O_Al/element_rgb_rgb-Fe_O_Al.png"):
        assert (tmp_path / "out" / name).is_file()


def test_several_scans_are_taken_one_by_one(settings, tmp_path):
    import anndata
    import h5py

    paths = [write_scan_latents(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    tables, store = [anndata.read_h5ad(path) for path in paths], tmp_path / "b" / "stores" / "demo.h5"
    with h5py.File(store, "a") as file:
        file.attrs["name"] = "other"
    tables[1].obs["scan"] = "other"
    tables[1].obs_names = "other " + tables[1].obs_names
    anndata.concat(tables).write_h5ad(tmp_path / "both.h5ad")
    scores, _ = found(settings("task.metrics=[pearson]", "task.targets=[element_O]", path=tmp_path / "both.h5ad"))
    assert list(scores) == ["demo__element_O", "other__element_O"]
    assert all(significant(table, "pearson") == [1] for table in scores.values())


def test_same_seed_gives_the_same_numbers(settings):
    options = ("task.targets=[element_O]", "task.metrics=[pearson,mi]", "task.num_surrogates=19")
    first, again, other = (found(settings(*options, f"seed={seed}"))[0]["element_O"] for seed in (0, 0, 1))
    assert first.equals(again)
    assert first["pearson"].equals(other["pearson"])
    assert not first["p_mi"].equals(other["p_mi"])


def grains_file(latents, folder):
    """Write a column of grains, squares of four by four points of which the first has no label, and values of each."""
    obs = Latents.open(latents).obs
    number = (obs["y"] // 4 * 6 + obs["x"] // 4).to_numpy()
    value = np.random.default_rng(5).normal(size=number.max() + 1)[number]
    table = pd.DataFrame({"x": obs["x"].to_numpy(), "y": obs["y"].to_numpy(), "grain": np.where(number, number, np.nan)})
    table.assign(**{"value/of_grain": value}).to_csv(folder / "grains.csv", index=False)
    return f"data.maps=[{folder / 'grains.csv'}]"


def test_grains_are_labels_and_points_without_one_are_left_out(settings, latents, tmp_path, caplog):
    maps = grains_file(latents, tmp_path)
    options = (
        "task.null=grains",
        "task.grains=grain",
        "task.targets=[value/of_grain,bandcontrast]",
        "task.metrics=[pearson,hsic]",
    )
    with caplog.at_level("INFO"):
        tables, targets = found(settings(*options, maps, "task.num_surrogates=99"))
    assert [target.tag for target in targets] == ["value-of_grain", "bandcontrast"]
    assert "16 of 480 points have no grain" in caplog.text
    assert 0 in significant(tables["bandcontrast"], "pearson")  # smooth, so squares of it are not exchangeable: others may be too
    assert significant(tables["value-of_grain"], "hsic") == []
    made = settings("task.null=grains", "task.grains=grain", "task.metrics=[pearson]", maps)
    opened = associate.open_all(made)
    scored = associate.findings(opened.targets[0], opened, made)
    report = associate.output.report(opened.targets[0], scored, {}, opened.latents, made)
    assert (report["null"], report["grains"], report["roi"]["n"]) == ("grains", "grain", 464)
    assert "beyond sharing grains" in report["null_hypothesis"]


def test_grains_may_be_words_and_negative_numbers_are_none():
    table = pd.DataFrame({"word": ["a", "b", None, "a", ""], "number": [7, -1, 3, np.nan, 7]})
    assert grains_of(table, "word", None).tolist() == [0, 1, -1, 0, -1]
    assert grains_of(table, "number", None).tolist() == [0, -1, 1, -1, 0]


def test_tags_are_safe_and_their_own(settings, tmp_path):
    table = pd.DataFrame({"x": np.arange(24), "y": 5, "a/b": np.arange(24.0), "a+b": np.arange(24.0), "tables": np.arange(24.0)})
    table.to_csv(tmp_path / "more.csv", index=False)
    for targets, words in (("[a/b,a+b]", "folder 'a-b', but 2 targets share it"), ("[tables]", "'tables', but the task writes")):
        with pytest.raises(ValueError, match=words):
            associate.open_all(settings(f"task.targets={targets}", f"data.maps=[{tmp_path / 'more.csv'}]"))


def test_synthetic_map_alone_is_compared_and_says_its_range_where_it_is_true(settings):
    for weights, unit in (("[3,1]", "(0 to 1)"), ("[3,-1]", "(no unit)")):
        synthetic = ("task.synth_mode=sum", "task.synth_elements=[O,Al]", f"task.synth_weights={weights}")
        (target,) = associate.open_all(settings("task.targets=[]", *synthetic)).targets
        assert target.label.endswith(unit)
    with pytest.raises(ValueError, match=r"task\.targets is empty"):
        settings("task.targets=[]")


def test_phases_of_maps_of_grains_are_warned_of(settings, caplog):
    associate.open_all(settings("task.null=phase", "task.metrics=[pearson,mi]"))
    assert "task.null=phase is for smooth maps: on maps of grains mi call" in caplog.text


def test_points_that_never_meet_are_said(settings, tmp_path, caplog):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.permutation(24)[:20], "y": rng.permutation(20), "few": rng.normal(size=20)})
    table.to_csv(tmp_path / "few.csv", index=False)
    found(settings("task.targets=[few]", "task.metrics=[pearson]", f"data.maps=[{tmp_path / 'few.csv'}]"))
    assert "few, pearson: no dimension could be tested, so every q is 1." in caplog.text


def test_too_few_surrogates_are_said(settings, caplog):
    found(settings("task.targets=[element_O]", "task.metrics=[kendall]", "task.num_surrogates=19", "task.num_ranked=2"))
    assert "no q can be below 0.15" in caplog.text
    assert "task.num_surrogates above 60" in caplog.text


REFUSED = [
    (("task.targets=[O]",), r"task\.targets names 'O'.*Did you mean 'element_O'"),
    (("task.targets=[scan]",), r"'scan', which holds words"),
    (("task.dims=[6]",), r"task\.dims is \[6\].*from 0 to 5. Leave \[6\] out"),
    (("task.roi_xrange=[0,3]", "task.roi_yrange=[0,3]"), r"hold 9 points of demo.*at least 20"),
    (("task.roi_xrange=[90,93]",), r"hold none of the 480 points"),
    (("task.synth_elements=[O]",), r"no effect without task\.synth_mode"),
    (("task.synth_mode=rgb",), r"one to three elements, but task\.synth_elements is None"),
    (("task.synth_mode=sum", "task.synth_elements=[Oo]"), r"names 'Oo'.*Did you mean 'O'"),
    (("task.synth_mode=sum", "task.synth_elements=[O,Fe]", "task.synth_weights=[1]"), r"1 numbers for the 2 elements O, Fe"),
    (("task.synth_mode=sum", "task.synth_elements=[O,Fe]", "task.synth_weights=[1,-1]"), r"sum to zero"),
    (("task.synth_mode=rgb", "task.synth_elements=[O]", "task.synth_weights=[1]"), r"no effect on task\.synth_mode=rgb"),
    (("task.synth_mode=sum", "task.synth_elements=[O,O]"), r"task\.synth_elements names \['O'\] more than once"),
    (("task.synth_mode=sum", "task.synth_elements=[]"), r"task\.synth_elements is empty"),
    (("task.synth_mode=sum", "task.synth_elements=[O,Fe]", "task.synth_weights=[1,0]"), r"a weight of 0 takes no part"),
    (("task.null=grains",), r"task\.null=grains needs the column of grains"),
    (("task.grains=true_grain",), r"task\.grains=true_grain has no effect on task\.null=shift"),
    (("task.null=grains", "task.grains=true_grain"), r"tells 4 grains among the points of bandcontrast.*at least 8"),
    (("task.null=grains", "task.grains=element_O"), r"'element_O', whose values are no whole numbers"),
    (("task.null=grains", "task.grains=row"), r"tells 480 grains among 480 points of bandcontrast.*no labels of grains"),
    (("task.null=grains", "task.grains=true_grains"), r"names 'true_grains'.*Did you mean 'true_grain'"),
    (("task.mi_neighbours=480",), r"task\.mi_neighbours is 480, but bandcontrast has 480 points"),
    (("task.features=cNMF",), r"needs columns cNMF_1"),
    (("task.targets=[x]", "task.roi_xrange=[2,3]"), r"nothing to compare"),
]


@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=[case[0][0] for case in REFUSED])
def test_bad_settings_are_refused_with_the_remedy(settings, tmp_path, overrides, words):
    with pytest.raises(ValueError, match=words):
        associate.preflight(settings(*overrides), tmp_path)
