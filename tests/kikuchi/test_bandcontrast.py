"""task=bandcontrast: what is kept is what the rule says, in the files as in the words."""

import json

import numpy as np
import pandas as pd
import pytest

from microlatent.schemas import Settings
from microlatent.systems.kikuchi import bandcontrast
from microlatent.systems.kikuchi.bandcontrast import decide
from microlatent.systems.kikuchi.draw_bandcontrast import bins
from microlatent.systems.kikuchi.ebsd.write import write_h5oina
from microlatent.systems.kikuchi.scans import ScanMap
from microlatent.systems.kikuchi.schema import BandContrastConfig, KikuchiConfig
from microlatent.tracking import NullTracker
from tests.ebsd_files import write_kikuchipy

SHAPE = (9, 12)


def config(**keys):
    return BandContrastConfig(name="bandcontrast", **keys)


def contrast(seed=0):
    """Return a map of two kinds of points (rows, cols) uint8: about 40 and about 150."""
    rng = np.random.default_rng(seed)
    good = rng.random(SHAPE) > 0.3
    return np.where(good, 150, 40).astype(np.uint8) + rng.integers(0, 20, SHAPE, np.uint8)


def place(shape=SHAPE):
    y, x = (axis.ravel() for axis in np.indices(shape))
    return ScanMap("map", None, np.arange(len(x)), x, y, shape)


@pytest.fixture
def scan(tmp_path):
    """Return a file with patterns and band contrast; the band contrast too."""
    values = contrast()
    patterns = np.random.default_rng(1).integers(0, 255, (values.size, 10, 10), np.uint8)
    write_h5oina(tmp_path / "oxide.h5oina", patterns, SHAPE, step_um=(0.5, 0.5), columns={"bandcontrast": values})
    return tmp_path / "oxide.h5oina", values


@pytest.fixture
def look(tmp_path, caplog, monkeypatch):
    """Return a function that runs the task; it returns the folder and what was said. Figures take most of the time."""

    def run(root, maps=(), figures=False, **keys):
        if not figures:
            monkeypatch.setattr(bandcontrast, "draw", lambda *_: [])
        data = KikuchiConfig(name="kikuchi", root=str(root), maps=[str(path) for path in maps])
        with caplog.at_level("INFO", logger="microlatent"):
            bandcontrast.run(Settings(data=data, task=config(**keys)), tmp_path / "out", NullTracker())
        return tmp_path / "out", caplog.text

    return run


# -------------------------------------------------------------------------------------------------------- decisions


def test_otsu_parts_two_kinds_and_a_threshold_is_kept_at_its_value():
    values = contrast().ravel().astype(float)
    assert (decide(place(), values, config()).kept == (values > 100)).all()
    exact = np.sort(values)[30]
    found = decide(place(), values, config(threshold=str(exact)))
    assert (found.threshold, found.kept.tolist()) == (exact, (values >= exact).tolist())
    below = decide(place(), values, config(threshold=str(exact), keep_below=True))
    assert (below.kept == ~found.kept).all()
    assert decide(place(), values, config(threshold="none")).kept.all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.9])
def test_a_quantile_leaves_out_its_share(share):
    values = np.random.default_rng(0).permutation(np.prod(SHAPE)) / 7
    for below in (False, True) if share else (False,):
        found = decide(place(), values, config(quantile=share, keep_below=below))
        assert (~found.kept).mean() == pytest.approx(share, abs=1.01 / values.size)


def test_region_is_half_open_and_alone_counts_for_the_threshold():
    values = contrast().ravel().astype(float)
    values[place().x >= 6] += 1000
    found = decide(place(), values, config(roi_xrange=[2, 6], roi_yrange=[0, 8]))
    inside = (place().x >= 2) & (place().x < 6) & (place().y < 8)
    assert (found.inside == inside).all()
    assert (found.kept == (inside & (values > 100))).all()
    assert 60 < found.threshold < 150


def test_points_without_value_are_never_kept():
    values = contrast().ravel().astype(float)
    values[::5] = np.nan
    for keys in ({}, {"threshold": "none"}, {"quantile": 0.2}, {"threshold": "100", "keep_below": True}):
        assert not decide(place(), values, config(**keys)).kept[::5].any()


def test_equal_values_are_all_kept_by_otsu():
    assert decide(place(), np.full(108, 7.0), config()).kept.all()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"threshold": "300"}, r"no point of the region is at or above the threshold 300: values are 40 to 169. Choose"),
        ({"threshold": "3", "keep_below": True}, r"is below the threshold 3: values are 40 to 169"),
        ({"roi_xrange": [12, 20]}, r"hold none of the 108 points of map, whose x is 0 to 11 and y 0 to 8"),
    ],
)
def test_nothing_left_is_refused(keys, words):
    values = contrast().ravel().astype(float)
    values[:2] = 40, 169
    with pytest.raises(ValueError, match=words):
        decide(place(), values, config(**keys))
    with pytest.raises(ValueError, match="none of the 108 points in the region has a value"):
        decide(place(), np.full(108, np.nan), config())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"threshold": "high"}, "task.threshold is 'high', but must be a number, otsu or none"),
        ({"threshold": "45", "quantile": 0.1}, r"task.threshold=45 has no effect beside task.quantile=0.1. Give one"),
        ({"threshold": "none", "keep_below": True}, r"task.keep_below has no effect on task.threshold=none"),
        ({"quantile": 1.5}, "task.quantile"),
        ({"roi_yrange": [5, 5]}, r"task.roi_yrange is \[5, 5\], but must be"),
    ],
)
def test_settings_without_sense_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        config(**keys)


@pytest.mark.parametrize("values", [np.arange(256.0), np.array([3.0, 3.0]), np.random.default_rng(0).normal(size=500) + 0.5])
@pytest.mark.parametrize("threshold", [None, 0.3, 30.0, 31.5, -400.0, 900.0])
def test_no_bin_holds_points_of_either_side_and_all_are_counted(values, threshold):
    edges = bins(values, threshold)
    assert np.histogram(values, edges)[0].sum() == len(values)
    assert len(edges) < 200
    place = np.digitize(values, edges)
    if threshold is not None:
        assert not set(place[values >= threshold]) & set(place[values < threshold])
    if (values == np.rint(values)).all():
        assert (np.diff(edges) % 1 == 0).all()
        assert len(np.unique(np.diff(edges))) == 1


def test_scans_of_one_quantity_are_drawn_on_one_scale():
    scans = [bandcontrast.Chosen(None, None, name) for name in ("iq", "iq", "bandcontrast")]
    found = [(np.linspace(low, low + 1, 101), decide(place(), np.zeros(108), config())) for low in (0, 9, 50)]
    found = [(values, decision._replace(inside=np.ones(101, bool))) for values, decision in found]
    scales = bandcontrast.common_scales(scans, found)
    assert scales["iq"] == pytest.approx((0.02, 9.98), abs=0.01)
    assert scales["bandcontrast"] == pytest.approx((50.01, 50.99), abs=0.001)


# ------------------------------------------------------------------------------------------------------- whole scans


def test_files_agree_with_each_other_and_with_the_words(command, scan):
    path, values = scan
    given = (f"data.root={path}", "task.roi_xrange=[2,11]", "task.threshold=100", "name=look", "logger=csv")
    done = command("analyze", "task=bandcontrast", "data=kikuchi", *given)
    (folder,) = (command.folder / "outputs" / "look").iterdir()
    kept = values >= 100
    kept[:, :2] = kept[:, 11:] = False
    coords = pd.read_csv(folder / "kept_coords.csv")
    assert coords.columns.tolist() == ["scan", "x", "y", "bandcontrast"]
    assert set(coords["scan"]) == {"oxide"}
    assert (coords[["y", "x"]].to_numpy() == np.argwhere(kept)).all()
    assert (coords["bandcontrast"] == values[kept]).all()
    array = np.load(folder / "kept_coords.npy")
    assert (array == coords[["x", "y"]].to_numpy()).all()
    assert array.dtype.kind == "i"
    valid = np.load(folder / "valid_pixels.npy")
    assert valid.dtype == bool
    assert (valid == kept).all()
    points = pd.read_csv(folder / "valid_pixels.csv")
    assert points.columns.tolist() == ["scan", "x", "y", "value", "valid"]
    assert (points["valid"].to_numpy() == kept.ravel()).all()
    assert (points["value"].to_numpy() == values.ravel()).all()
    row = pd.read_csv(folder / "tables" / "bandcontrast.csv").iloc[0]
    assert (row["quantity"], row["points"], row["in_region"], row["kept"]) == ("bandcontrast", 108, 81, kept.sum())
    assert row["mean"] == pytest.approx(values[:, 2:11].mean())
    assert row["p50"] == np.median(values[:, 2:11])
    assert f"{kept.sum()} of the 81 points in the region (108 in all) are kept" in done.stderr
    assert f"{81 - kept.sum()} below the threshold (100) are left out" in done.stderr
    assert json.loads((folder / "status.json").read_text())["metrics"]["kept"] == kept.sum()


def test_nothing_left_out_is_said(look, scan):
    _, said = look(scan[0], threshold="1")
    assert "108 of the 108 points are kept (100.0%): the threshold (1) leaves nothing out." in said


def test_without_a_vendors_quality_it_is_computed_and_never_called_band_contrast(look, tmp_path):
    x = np.indices((10, 10)).sum(0)[None] * np.arange(1, 109)[:, None, None] % 251
    x[5] = 7  # a blank pattern
    write_kikuchipy(tmp_path / "nine.h5", x.astype(np.uint8), SHAPE, step_um=(1.0, 1.0))
    folder, said = look(tmp_path / "nine.h5", threshold="none")
    points = pd.read_csv(folder / "valid_pixels.csv")
    assert points["value"].isna().to_numpy().nonzero()[0].tolist() == [5]
    assert not points["valid"][5]
    assert "image_quality" in pd.read_csv(folder / "kept_coords.csv")
    assert "107 of the 108 points are kept (99.1%): no threshold was asked for; 1 have no value." in said
    assert "band contrast" not in said


def test_several_scans_have_a_folder_each(look, scan):
    path, values = scan
    patterns = np.random.default_rng(1).integers(0, 255, (6, 10, 10), np.uint8)
    write_h5oina(path.with_name("b.h5oina"), patterns, (2, 3), step_um=(1, 1), columns={"bandcontrast": np.arange(6) * 40})
    folder, _ = look(path.parent)
    table = pd.read_csv(folder / "tables" / "bandcontrast.csv").set_index("scan")
    assert table["points"].to_dict() == {"b": 6, "oxide": values.size}
    for name, shape in (("b", (2, 3)), ("oxide", SHAPE)):
        assert np.load(folder / name / "valid_pixels.npy").shape == shape
        assert len(np.load(folder / name / "kept_coords.npy")) == table.loc[name, "kept"]
    assert not (folder / "kept_coords.npy").exists()
    assert pd.read_csv(folder / "kept_coords.csv")["scan"].value_counts().to_dict() == table["kept"].to_dict()


def test_a_joined_map_gives_the_quantity(look, scan):
    y, x = np.indices(SHAPE)
    table = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "sharpness": np.arange(108)})
    table.iloc[:100].to_csv(scan[0].with_name("other.csv"), index=False)
    folder, _ = look(scan[0], [scan[0].with_name("other.csv")], quantity="sharpness", quantile=0.5)
    assert pd.read_csv(folder / "kept_coords.csv")["sharpness"].tolist() == list(range(50, 100))


def test_a_map_without_patterns_is_read_with_its_own_columns(look, tmp_path):
    y, x = (axis.ravel() for axis in np.indices(SHAPE))
    pd.DataFrame({"x": x, "y": y, "bandcontrast": contrast().ravel()}).to_csv(tmp_path / "map.csv", index=False)
    folder, _ = look(tmp_path / "map.csv")
    assert (np.load(folder / "valid_pixels.npy") == (contrast() > 100)).all()
    pd.DataFrame({"x": x, "y": y, "sharpness": y}).to_csv(tmp_path / "map.csv", index=False)
    with pytest.raises(ValueError, match=r"has neither patterns nor any of bandcontrast, iq, .*task.quantity \(sharpness\)"):
        look(tmp_path / "map.csv")


def test_a_quantity_that_is_not_there_is_answered_with_what_is(look, scan):
    with pytest.raises(ValueError, match=r"task.quantity is 'bandcontrst', .*Did you mean 'bandcontrast'\? .*image_quality"):
        look(scan[0], quantity="bandcontrst")


def test_a_check_names_what_a_run_writes(look, scan, tmp_path):
    settings = Settings(data=KikuchiConfig(name="kikuchi", root=str(scan[0])), task=config())
    named = bandcontrast.preflight(settings, tmp_path / "out").writes
    assert not (tmp_path / "out").exists()
    folder, _ = look(scan[0], figures=True)
    assert sorted(named) == sorted(str(path) for path in folder.rglob("*") if path.is_file())


def test_real_superalloy_is_read_filtered_and_drawn(look, data_folder):
    folder, said = look(data_folder / "kikuchi" / "defdap_ni_superalloy" / "testDataEBSD.cpr", figures=True, threshold="100")
    valid = np.load(folder / "valid_pixels.npy")
    points = pd.read_csv(folder / "valid_pixels.csv")
    assert valid.shape == (243, 359)
    assert (points["value"].min(), points["value"].max()) == (30, 171)
    assert (valid.ravel() == (points["value"] >= 100)).all()
    assert "band contrast 30 to 171" in said


def test_a_quality_that_was_read_is_not_called_computed(look, scan):
    y, x = (axis.ravel() for axis in np.indices(SHAPE))
    pd.DataFrame({"x": x, "y": y, "image_quality": np.arange(108)}).to_csv(scan[0].with_name("q.csv"), index=False)
    folder, said = look(scan[0], [scan[0].with_name("q.csv")], quantity="image_quality", threshold="50")
    assert pd.read_csv(folder / "kept_coords.csv")["image_quality"].tolist() == list(range(50, 108))
    assert "computed" not in said


def test_a_map_for_several_scans_must_name_them(look, scan):
    path, _ = scan
    write_h5oina(path.with_name("b.h5oina"), np.ones((6, 4, 4), np.uint8), (2, 3), step_um=(1, 1))
    pd.DataFrame({"x": [0, 1], "y": [0, 0], "kam": [1.0, 2.0]}).to_csv(path.with_name("kam.csv"), index=False)
    with pytest.raises(ValueError, match=r"kam.csv does not say of which scan its points are"):
        look(path.parent, [path.with_name("kam.csv")], quantity="kam")


def test_image_quality_needs_no_more_memory_for_a_wider_map(scan, tmp_path):
    def said(quantity, columns):
        patterns = (np.zeros((columns, 64, 64), np.uint8) for _ in range(2))
        write_kikuchipy(tmp_path / "wide.h5", patterns, (2, columns), step_um=(1, 1))
        data = KikuchiConfig(name="kikuchi", root=str(tmp_path / "wide.h5"))
        return bandcontrast.preflight(Settings(data=data, task=config(quantity=quantity)), tmp_path / "out").memory_mb

    assert said("image_quality", 2000) < said("image_quality", 1000) + 5
    assert said("neighbour_similarity", 2000) > said("neighbour_similarity", 1000) + 3 * 1000 * 64 * 64 * 4e-6
