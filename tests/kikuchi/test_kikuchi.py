"""Scans as training data: spatial blocks with a gap, keep lists, maps of other files, full-field latents."""

import h5py
import numpy as np
import pandas as pd
import pytest

from microlatent.command import carry_out
from microlatent.data.latents import Latents
from microlatent.data.split import Split
from microlatent.data.store import Store
from microlatent.menu.draft import settle
from microlatent.systems.kikuchi.ebsd.write import write_h5oina
from microlatent.systems.kikuchi.scans import scan_maps
from microlatent.systems.kikuchi.schema import KikuchiConfig
from microlatent.systems.kikuchi.source import KikuchiPatterns, kept_rows, with_maps
from tests.specimen import write_scan_latents

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One scan of 20 x 24 points, 60 of them without a pattern."""
    path = tmp_path_factory.mktemp("scan")
    write_scan_latents(path, holes=60)
    return path


def opened(folder, **settings) -> KikuchiPatterns:
    store = Store.open(folder / "stores" / "demo.h5")
    source = KikuchiPatterns([store], KikuchiConfig(name="kikuchi", **settings))
    groups = source.groups("block")[source.rows["all"]]
    source.use_split(Split.draw("block", groups, 0.25, 0.0, 0))
    return source


def places(source, part) -> np.ndarray:
    return source.table[["x", "y"]].to_numpy()[source.rows[part]]


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_training_points_keep_the_gap_to_held_out_blocks(folder, gap):
    source = opened(folder, block_points=6, gap_points=gap)
    apart = np.abs(places(source, "train")[:, None] - places(source, "val")[None]).max(-1).min()
    assert apart == gap + 1
    blocks = {part: set(source.groups("block")[source.rows[part]]) for part in ("train", "val")}
    assert not blocks["train"] & blocks["val"]


def test_points_of_the_gap_are_in_no_part_and_all_points_stay_to_be_encoded(folder):
    source = opened(folder, block_points=6, gap_points=2)
    used = np.concatenate([source.rows[part] for part in ("train", "val", "test")])
    assert len(used) < len(source.rows["all"]) == len(source) == 420


@pytest.mark.parametrize("kind", ["run", "csv", "csv with scan", "valid pixels", "npy"])
def test_a_keep_list_leaves_the_named_points_alone(folder, tmp_path, kind):
    table = Store.open(folder / "stores" / "demo.h5").table
    kept = table.loc[table["x"] < 9, ["x", "y"]]
    kept.to_csv(tmp_path / "kept_coords.csv", index=False)
    kept.assign(scan="demo").to_csv(tmp_path / "named.csv", index=False)
    table[["scan", "x", "y"]].assign(valid=table["x"] < 9).to_csv(tmp_path / "valid_pixels.csv", index=False)
    np.save(tmp_path / "kept.npy", kept.to_numpy())
    keep = {"run": tmp_path, "csv": tmp_path / "kept_coords.csv", "csv with scan": tmp_path / "named.csv"}
    keep["valid pixels"] = tmp_path / "valid_pixels.csv"
    source = opened(folder, keep=str(keep.get(kind, tmp_path / "kept.npy")))
    assert set(source.table["x"].iloc[source.rows["all"]]) == set(range(9))
    assert set(source.table["x"].iloc[source.rows["train"]]) <= set(range(9))


def test_bad_keep_lists_say_what_is_wrong(folder, tmp_path):
    table = Store.open(folder / "stores" / "demo.h5").table
    with pytest.raises(FileNotFoundError, match=r"data\.keep=.*task=bandcontrast"):
        kept_rows(table, str(tmp_path))
    pd.DataFrame({"col": [1], "row": [2]}).to_csv(tmp_path / "kept_coords.csv", index=False)
    with pytest.raises(ValueError, match=r"has the columns \['col', 'row'\], but lacks x, y"):
        kept_rows(table, str(tmp_path))
    pd.DataFrame({"x": [100], "y": [2]}).to_csv(tmp_path / "kept_coords.csv", index=False)
    with pytest.raises(ValueError, match="none of them is one of the scan's 420 patterns"):
        kept_rows(table, str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,0\n0.7,1.2\n", r"data\.keep: .* 1 rows whose x, y are no map column and row .*line 3: \[0\.7, 1\.2\]"),
        ("x,y\n1,0\n,3\n", r"line 3: \[nan, 3\.0\]"),
        ("x,y\n1,0\n1,0\n", r"lists 1 points more than once, the first x=1, y=0"),
        ("X,Y,x\n1,0,1\n", r"columns \['X', 'Y', 'x'\], two of which mean the same"),
    ],
)
def test_keep_lists_of_points_that_are_none_are_refused(folder, tmp_path, text, message):
    (tmp_path / "kept.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        kept_rows(Store.open(folder / "stores" / "demo.h5").table, str(tmp_path / "kept.csv"))


def test_keep_lists_may_have_headers_in_capitals_but_arrays_have_two_columns(folder, tmp_path):
    table = Store.open(folder / "stores" / "demo.h5").table
    x, y = table[["x", "y"]].iloc[7]
    (tmp_path / "kept.csv").write_text(f"X, Y\n{x},{y}.0\n")
    assert np.flatnonzero(kept_rows(table, str(tmp_path / "kept.csv"))).tolist() == [7]
    np.save(tmp_path / "kept.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"data\.keep: .* holds an array of shape \(3, 3\), float64, but must hold x and y"):
        kept_rows(table, str(tmp_path / "kept.npy"))


def test_a_scan_whose_name_is_a_number_keeps_its_points_and_no_other_scan_s(tmp_path):
    table = pd.DataFrame({"scan": ["001", "001", "002", "NA"], "x": [0, 1, 1, 1], "y": 0})
    (tmp_path / "kept_coords.csv").write_text("scan,x,y,bandcontrast\n001,1,0,6\nNA,1,0,7\n")
    assert kept_rows(table, str(tmp_path)).tolist() == [False, True, False, True]
    (tmp_path / "kept_coords.csv").write_text("x,y\n1,0\n")
    with pytest.raises(ValueError, match=r"does not say of which scan its points are, but there are \['001', '002', 'NA'\]"):
        kept_rows(table, str(tmp_path))


def test_columns_of_other_files_join_by_place_and_are_missing_where_the_file_is_silent(folder, tmp_path):
    table = Store.open(folder / "stores" / "demo.h5").table
    other = table[["x", "y"]].assign(PCA_1=table["x"] * 10 + table["y"]).sample(frac=0.5, random_state=0)
    other.to_csv(tmp_path / "features.csv", index=False)
    joined = with_maps(table, KikuchiConfig(name="kikuchi", maps=[str(tmp_path / "features.csv")]))
    known = joined["PCA_1"].notna()
    assert known.sum() == len(other)
    assert (joined["PCA_1"] == table["x"] * 10 + table["y"])[known].all()
    assert (joined["key"] == table["key"]).all()


def test_a_map_of_a_scan_lies_where_its_points_do(folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    (scan,) = scan_maps(latents, list(latents.stores()))
    grid = scan.grid(scan.x + 100 * scan.y)
    assert grid.shape == (20, 24)
    assert np.isnan(grid).sum() == 60
    assert all(grid[y, x] == x + 100 * y for x, y in zip(scan.x, scan.y, strict=True))
    inside = scan.inside([3, 5], [0, 2])
    assert set(scan.x[inside]) <= {3, 4}
    with pytest.raises(ValueError, match=r"task\.roi_xrange=\[90, 95\].*x is 0 to 23"):
        scan.inside([90, 95], None)


def test_full_field_files_hold_every_place_once_and_nan_where_nothing_was_encoded(folder, tmp_path):
    source = opened(folder)
    rows = np.sort(np.random.default_rng(0).permutation(source.rows["all"])[:200])
    latents = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    with h5py.File(tmp_path / "latents.h5ad", "w") as file:
        file["X"] = latents
    source.write_extra_files(tmp_path, rows)
    coords = pd.read_csv(tmp_path / "coords.csv")
    full, roi = np.load(tmp_path / "latents_full.npy"), np.load(tmp_path / "latents_roi.npy")
    assert len(coords) == len(full) == 480
    assert (coords["y"].diff().fillna(0) >= 0).all()
    np.testing.assert_array_equal(np.isfinite(full).all(1), coords["encoded"])
    np.testing.assert_array_equal(full[coords["encoded"]], roi)
    place = source.table[["x", "y"]].iloc[rows[17]]
    line = coords[(coords["x"] == place["x"]) & (coords["y"] == place["y"])].index[0]
    np.testing.assert_array_equal(full[line], latents[17])


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    """Write an H5OINA file of 12 x 10 patterns of two kinds, its truth, and a keep list of the lower ten rows."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    y, x = (axis.ravel() for axis in np.indices((12, 10)))
    kinds = rng.normal(0, 30, (2, 16, 14))
    patterns = np.clip(120 + kinds[(x > 4).astype(int)] + rng.normal(0, 10, (120, 16, 14)), 0, 255).astype(np.uint8)
    write_h5oina(
        folder / "007.h5oina", patterns, (12, 10), step_um=(0.5, 0.5), columns={"bandcontrast": (x * 20).astype(np.uint8)}
    )
    pd.DataFrame({"x": x, "y": y, "true_grain": (x > 4).astype(int)}).to_csv(folder / "007.truth.csv", index=False)
    pd.DataFrame({"scan": "007", "x": x, "y": y})[y >= 2].to_csv(folder / "kept_coords.csv", index=False)
    return folder / "007.h5oina"


def test_a_scan_is_assembled_trained_on_and_encoded_as_its_keep_list_says(scan_file, tmp_path, capsys):
    def act(entry, *overrides):
        typed = ["data=kikuchi", f"outputs={tmp_path / 'outputs'}", "logger=csv", *overrides]
        return carry_out(settle(entry, typed), typed)[1]

    act("infer", "task=assemble", f"data.root={scan_file}")
    data = (f"data.root={scan_file}", "data.block_points=4", f"data.keep={scan_file.parent}")
    small = ("model=kikuchi_cnn", "model.latent_dim=3", "model.width=4", "trainer=smoke", "trainer.num_reconstructions=0")
    run = act("train", *data, *small)
    process = ("infer", "task=process", f"run={run}")
    act(*process, "check=true")
    told = capsys.readouterr().out
    assert "100 of 120 patches are encoded" in told.replace("\n", " ")
    act(*process)
    latents = Latents.open(run / "process" / "latents.h5ad")
    assert all(str(run / "process" / name) in told.replace("\n", "") for name in ("coords.csv", "latents_full.npy"))
    assert latents.obs["y"].min() == 2
    assert set(latents.obs["true_grain"]) == {"0", "1"}
    full = np.load(run / "process" / "latents_full.npy")
    np.testing.assert_array_equal(np.isnan(full).all(1), np.arange(120) < 20)
    assert {name: x.shape for name, x in latents.matrices("baseline_").items()} == {
        "baseline_nmf": (100, 3),
        "baseline_pca": (100, 3),
    }
    explained = pd.read_csv(run / "process" / "tables" / "explained_variance.csv").set_index(["part", "source"])[
        "explained_variance"
    ]
    assert explained["train", "pca"] > 0.5

    with pytest.raises(ValueError, match=r"data\.block_points=5(?s:.*)data\.block_points=4, which says what was held out"):
        act(*process, "data.block_points=5")
    act(*process, "data.keep=null")
    everything = Latents.open(run / "process" / "latents.h5ad").obs
    assert len(everything) == 120
    assert set(everything["part"][everything["y"] < 2]) == {""}


def test_a_map_of_another_scan_is_not_joined(folder, tmp_path):
    table = Store.open(folder / "stores" / "demo.h5").table
    table[["x", "y"]].assign(scan="other", PCA_1=1.0).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ValueError, match="no rows of the scan demo"):
        with_maps(table, KikuchiConfig(name="kikuchi", maps=[str(tmp_path / "other.csv")]))
