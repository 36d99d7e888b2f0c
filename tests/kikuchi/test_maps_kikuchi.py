"""task=maps of EBSD scans: values at their points, holes as holes, and what the model makes of patterns."""

import json
import shutil
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from scipy.ndimage import gaussian_filter
from torch import nn

from microlatent import checkpoint, config
from microlatent.data.latents import Latents
from microlatent.data.normalise import Normaliser
from microlatent.data.store import Store
from microlatent.schemas import MISSING, Settings
from microlatent.systems.kikuchi import draw_maps as drawing
from microlatent.systems.kikuchi import maps, maps_patterns, scan_maps
from microlatent.systems.kikuchi.schema import KikuchiConfig, MapsKikuchiConfig
from microlatent.tracking import NullTracker
from tests.specimen import write_scan_latents

SHAPE, PATTERN, DIMS = (20, 24), (12, 10), 6


def holed_map(seed=0, share=0.3):
    """Return x, y of a map of which a share is missing, in no order."""
    rng = np.random.default_rng(seed)
    y, x = (axis.ravel() for axis in np.indices((9, 7)))
    kept = rng.permutation(len(x))[: round((1 - share) * len(x))]
    return x[kept], y[kept]


# ---------------------------------------------------------------------------------------------------------- analysis


@pytest.mark.parametrize("neighbours", [4, 8])
def test_kernel_spread_is_the_mean_distance_to_the_neighbours_that_there_are(neighbours):
    x, y = holed_map()
    z = np.random.default_rng(1).normal(size=(len(x), 5))
    want = []
    for i in range(len(x)):
        far = np.maximum(abs(x - x[i]), abs(y - y[i])) if neighbours == 8 else abs(x - x[i]) + abs(y - y[i])
        distances = np.linalg.norm(z[far == 1] - z[i], axis=1)
        want.append(distances.mean() if len(distances) else np.nan)
    got = scan_maps.kernel_spread(z, scan_maps.neighbour_pairs(x, y, neighbours))
    assert got == pytest.approx(np.array(want), nan_ok=True)


def test_kernel_spread_of_a_lonely_point_is_unknown_and_does_not_depend_on_the_order():
    x, y = np.array([0, 1, 5]), np.array([0, 0, 5])
    z = np.array([[0.0, 0], [3, 4], [9, 9]])
    assert scan_maps.kernel_spread(z, scan_maps.neighbour_pairs(x, y)) == pytest.approx([5, 5, np.nan], nan_ok=True)
    x, y = holed_map()
    z, order = np.random.default_rng(1).normal(size=(len(x), 3)), np.random.default_rng(2).permutation(len(x))
    first = scan_maps.kernel_spread(z, scan_maps.neighbour_pairs(x, y))
    second = scan_maps.kernel_spread(z[order], scan_maps.neighbour_pairs(x[order], y[order]))
    assert second == pytest.approx(first[order], nan_ok=True)


def test_correlation_leaves_out_unknown_points_and_constant_latents():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    x[:, 3] = 7.0
    values = x[:, 0] - x[:, 17] + rng.normal(size=300)
    values[::5] = np.nan
    known = np.isfinite(values)
    want = [np.corrcoef(column[known], values[known])[0, 1] if column.std() else np.nan for column in x.T]
    assert scan_maps.correlations(x, values) == pytest.approx(np.array(want), nan_ok=True)
    assert np.isnan(scan_maps.correlations(x, np.full(300, np.nan))).all()


def test_moran_i_is_high_for_smooth_maps_and_its_p_finds_noise():
    y, x = (axis.ravel() for axis in np.indices((30, 30)))
    rng = np.random.default_rng(0)
    smooth = [gaussian_filter(rng.normal(size=(30, 30)), 2).ravel() for _ in range(2)]
    values = np.column_stack([*smooth, *rng.normal(size=(18, 900))])  # more than one block of dimensions
    found = scan_maps.autocorrelation(values, np.zeros(900, int), scan_maps.neighbour_pairs(x, y, 4))
    assert (found.moran_i[:2] > 0.8).all()
    assert (abs(found.moran_i[2:]) < 0.1).all()
    assert (found.p_permutation[:2] == 1 / (scan_maps.MOST_PERMUTATIONS + 1)).all()
    assert (found.p_permutation[2:] < 0.05).sum() <= 4


def test_dimensions_are_active_by_their_variance_unless_all_are_small():
    assert scan_maps.active_dims(np.array([1.0, 0.009, 0.011, 0.0])).tolist() == [0, 2]
    assert scan_maps.active_dims(np.array([1e-6, 0.0, 1e-3])).tolist() == [0, 2]


def test_shared_borders_count_pairs_of_neighbours_in_different_clusters():
    labels = np.array([[0, 0, 1], [2, -1, 1]])
    y, x = (axis.ravel() for axis in np.indices(labels.shape))
    got = scan_maps.shared_borders(labels.ravel(), scan_maps.neighbour_pairs(x, y, 4), 3)
    assert got.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_steps_of_a_traversal_move_one_dimension_about_the_mean():
    mean, std = np.array([1.0, 2, 3]), np.array([0.5, 1, 2])
    codes = maps_patterns.codes_along(mean, std, [2, 0])
    assert codes[:, 3] == pytest.approx(np.tile(mean, (2, 1)))
    assert codes[0, :, 2] == pytest.approx([-3, -1, 1, 3, 5, 7, 9])
    assert codes[1, :, 0] == pytest.approx([-0.5, 0, 0.5, 1, 1.5, 2, 2.5])
    assert (codes[0, :, :2] == mean[:2]).all()


# -------------------------------------------------------------------------------------------------------------- task


@dataclass(kw_only=True)
class PlanesConfig:
    """A model that is known."""

    name: str = MISSING
    latent_dim: int = DIMS


class Planes(nn.Module):
    """Decode latents linearly: sixty plus a sum of fixed planes."""

    def __init__(self, config, channels, shape_px) -> None:
        super().__init__()
        self.planes = nn.Parameter(torch.zeros(config.latent_dim, channels, *shape_px))

    def decode(self, z):
        """Return patterns (n, C, Y, X)."""
        return 60 + torch.einsum("nd,dcyx->ncyx", z, self.planes)


@pytest.fixture(scope="module", autouse=True)
def planes():
    """Make it a model for the time of these tests, as a plugin would."""
    kept = dict(config.REGISTRY["model"])
    config.REGISTRY["model"]["planes"] = config.Choice("planes", PlanesConfig, "tests.kikuchi.test_maps_kikuchi:Planes")
    yield
    config.REGISTRY["model"] = kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a run whose model is known, and its latents: 60 points have no pattern."""
    path = tmp_path_factory.mktemp("run")
    write_scan_latents(path, SHAPE, DIMS, holes=60, pattern_px=PATTERN)
    save_checkpoint(path / "checkpoints" / "best.ckpt", epoch=1)
    save_checkpoint(path / "checkpoints" / "last.ckpt", epoch=2)
    made_by(path / "process" / "latents.h5ad", path / "checkpoints" / "best.ckpt", path / "process" / "latents.h5ad")
    return path


def save_checkpoint(path, epoch, seed=0):
    """Write a checkpoint of the known model; every epoch has other weights."""
    fitted = Normaliser("none", ["pattern"], [60.0], [10.0])
    data = {"channels": ["pattern"], "shape_px": PATTERN, "normaliser": fitted.state()}
    config = {"model": {"name": "planes", "latent_dim": DIMS}, "data": {"name": "kikuchi"}, "seed": seed}
    weights = {"planes": torch.randn(DIMS, 1, *PATTERN, generator=torch.Generator().manual_seed(epoch)) * 3}
    provenance = {"config": config, "time": "2026-01-01T00:00:00", "data": data}
    checkpoint.save(path, {"model": weights, "birth": provenance, "position": {"epoch": epoch}})


def made_by(table, which, target, normalise=None):
    """Write a table anew as task=process would with a checkpoint."""
    saved = checkpoint.load(which)
    provenance = saved["birth"] | {"checkpoint": str(which), "epoch": saved["position"]["epoch"]}
    with_provenance = anndata.read_h5ad(table)
    with_provenance.uns["birth"] = json.dumps(provenance | {"process": {"task": {"normalise": normalise}}})
    with_provenance.write_h5ad(target)
    return str(target)


def settings(folder, run=True, data=None, **task):
    latents = {} if run else {"latents": str(folder / "process" / "latents.h5ad")}
    return Settings(
        run=str(folder) if run else None,
        data=KikuchiConfig(name="kikuchi", **(data or {})),
        task=MapsKikuchiConfig(name="maps", **latents, **task),
    )


@pytest.fixture(scope="module")
def done(folder):
    chosen = settings(folder, num_pixels=2, num_traverse=1)
    return maps.run(chosen, folder / "maps", NullTracker()), folder / "maps"


def written(out):
    return {str(path.relative_to(out)) for path in out.rglob("*.*")}


def test_every_dimension_has_its_map_in_the_folder_of_the_reference(done):
    names = written(done[1])
    assert {name for name in names if name.startswith("latent_maps")} == {
        f"latent_maps_dim_6/latent{dim}.png" for dim in range(6)
    }
    assert {"figures/contact.png", "figures/contact_baseline_pca.png", "figures/traversals.png"} <= names


@pytest.mark.parametrize(
    ("task", "data", "name"),
    [
        ({}, {}, "latent_maps_dim_6"),
        ({"dims": [4]}, {}, "latent_maps_selected_dim_6"),
        (
            {"dims": [4], "roi_xrange": [2, 9], "roi_yrange": [3, 11]},
            {"keep": "list.csv"},
            "latent_maps_filtered_selected_dim_6_x_2_9_y_3_11",
        ),
        ({"roi_yrange": [3, 11]}, {}, "latent_maps_dim_6_x_0_24_y_3_11"),
    ],
)
def test_folders_are_named_by_what_was_chosen(folder, task, data, name):
    chosen = settings(folder, run=False, **task)
    opened = maps.open_all(chosen)
    chosen.data = KikuchiConfig(name="kikuchi", **data)
    assert maps.folder_name(chosen, opened) == name


def test_table_says_which_latent_is_band_contrast_and_which_is_oxygen(done):
    table = pd.read_csv(done[1] / "tables" / "dims.csv").set_index("dim")
    assert table["r_bandcontrast"].idxmax() == 0
    assert table["r_bandcontrast"][0] > 0.9
    assert table["r_element_O"].idxmax() == 1
    assert table["variance_share"].sum() == pytest.approx(1)
    assert not [name for name in table if name.startswith("p_") and name != "p_permutation"]  # correlations have none


def test_error_map_is_the_error_of_each_pattern_at_its_place(done, folder):
    latents, store = Latents.open(folder / "process" / "latents.h5ad"), Store.open(folder / "stores" / "demo.h5")
    weights = checkpoint.load(folder / "checkpoints" / "best.ckpt")["model"]["planes"].numpy()
    decoded = 60 + np.tensordot(np.asarray(latents.x), weights, 1)
    error = ((decoded - store.images[:]) ** 2).mean((1, 2, 3))
    got = np.load(done[1] / "reconstruction_error.npy")
    assert got.shape == SHAPE
    assert np.isnan(got).sum() == 60
    assert got[latents.obs["y"], latents.obs["x"]] == pytest.approx(error, rel=1e-5)
    assert done[0]["reconstruction_error_median"] == pytest.approx(np.median(error), rel=1e-5)


def test_spread_is_in_standard_deviations_of_the_training_points(done, folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    x, y = latents.obs["x"].to_numpy(), latents.obs["y"].to_numpy()
    z = latents.x / latents.x[latents.training_rows()].std(0)
    want = scan_maps.kernel_spread(z, scan_maps.neighbour_pairs(x, y))
    points = pd.read_csv(done[1] / "tables" / "points.csv")
    assert points["kernel_spread"].to_numpy() == pytest.approx(want, rel=1e-4)
    assert np.load(done[1] / "kernel_spread.npy")[y, x] == pytest.approx(want, rel=1e-4)


def test_check_lists_what_the_run_writes(done, folder, tmp_path):
    plan = {name.removeprefix(f"{tmp_path}/") for name in maps.preflight(settings(folder), tmp_path).writes}
    assert plan == written(done[1])
    assert list(tmp_path.iterdir()) == []


def test_without_a_run_maps_are_drawn_and_patterns_are_not(folder, tmp_path, caplog):
    caplog.set_level("INFO", "microlatent")
    chosen = settings(folder, run=False, dims=[0], roi_xrange=[4, 9])
    maps.run(chosen, tmp_path, NullTracker())
    assert {"figures/contact.png", "kernel_spread.npy", "latent_maps_selected_dim_6_x_4_9_y_0_20/latent0.png"} <= written(
        tmp_path
    )
    assert not any("reconstruction" in name or "traversals" in name for name in written(tmp_path))
    assert "Without run=<folder> there is no model" in caplog.text
    plan = {name.removeprefix(f"{tmp_path}/") for name in maps.preflight(chosen, tmp_path).writes}
    assert plan == written(tmp_path)


def test_holes_are_drawn_in_the_chosen_colour_and_the_region_is_half_open(folder):
    opened = maps.open_all(settings(folder, run=False, roi_xrange=[4, 9], roi_yrange=[2, 5]))
    window = opened.windows[0]
    picture = window.grid(np.ones(len(opened.latents)))
    assert picture.shape == (3, 5)
    assert window.extent == (3.5, 8.5, 4.5, 1.5)
    cmap = drawing.colours("viridis", "black")
    assert cmap(np.ma.masked_invalid([np.nan]))[0, :3].tolist() == list(to_rgb("black"))
    assert drawing.missing(np.array([[np.nan]]), cmap) == " (black: no value)"
    assert drawing.missing(np.array([[1.0]]), cmap) == ""


def test_default_points_span_the_errors_and_named_ones_are_found(folder):
    opened = maps.open_all(settings(folder, run=False))
    error = np.random.default_rng(0).random(len(opened.latents))
    error[:100] = np.nan
    rows = maps_patterns.spread_points(error, 3)
    assert error[rows].tolist() == [np.nanmin(error), error[rows[1]], np.nanmax(error)]
    assert abs(np.nanmedian(error) - error[rows[1]]) < 0.01
    x, y = opened.latents.obs[["x", "y"]].iloc[200]
    task = MapsKikuchiConfig(name="maps", pixels=[[int(x), int(y)]])
    assert maps_patterns.named_points(opened.latents, opened.windows, task).tolist() == [200]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"dims": [0, 6]}, r"task\.dims is \[0, 6\].*from 0 to 5.*\[6\]"),
        ({"traverse": [9]}, r"task\.traverse is \[9\].*0 to 5"),
        ({"cmap": "viridi"}, r"task\.cmap is 'viridi'.*viridis"),
        ({"bad_color": "whit"}, r"task\.bad_color is 'whit'.*white, black"),
        ({"roi_xrange": [50, 60]}, r"roi_xrange=\[50, 60\].*hold none of the 420 points of demo, whose x is 0 to 23.*half-open"),
    ],
)
def test_what_is_not_there_is_refused_by_a_check_too(folder, tmp_path, task, message):
    for call in (maps.run, lambda s, out, _: maps.preflight(s, out)):
        with pytest.raises(ValueError, match=message):
            call(settings(folder, **task), tmp_path, NullTracker())


def test_points_without_a_pattern_and_patterns_without_a_model_are_refused(folder):
    with pytest.raises(ValueError, match=r"task\.pixels names \[99, 0\].*x 0 to 23, y 0 to 19"):
        maps.open_all(settings(folder, pixels=[[99, 0]]))
    with pytest.raises(ValueError, match=r"task\.pixels ask for patterns, but without run there is no model"):
        maps.open_all(settings(folder, run=False, pixels=[[1, 1]]))


def test_latents_of_another_model_are_refused(folder, tmp_path):
    table = anndata.read_h5ad(folder / "process" / "latents.h5ad")[:, :4].copy()
    table.write_h5ad(tmp_path / "narrow.h5ad")
    chosen = settings(folder)
    chosen.task.latents = str(tmp_path / "narrow.h5ad")
    with pytest.raises(ValueError, match=r"has 4 latent dimensions, but the model of .* has 6"):
        maps.open_all(chosen)


def decoded_by(chosen):
    return maps.open_all(chosen).pictures.trained.provenance["epoch"]


def test_patterns_are_decoded_by_the_checkpoint_that_made_the_latents(folder, tmp_path):
    table, chosen = folder / "process" / "latents.h5ad", settings(folder)
    assert decoded_by(chosen) == 1
    chosen.task.latents = made_by(table, folder / "checkpoints" / "last.ckpt", tmp_path / "last.h5ad")
    assert decoded_by(chosen) == 2
    save_checkpoint(tmp_path / "elsewhere.ckpt", epoch=3)
    chosen.task.latents = made_by(table, tmp_path / "elsewhere.ckpt", tmp_path / "elsewhere.h5ad")
    assert decoded_by(chosen) == 3


def test_a_run_that_was_moved_still_decodes_its_latents(folder, tmp_path):
    shutil.copytree(folder / "checkpoints", tmp_path / "old" / "checkpoints")
    chosen = settings(folder)
    chosen.task.latents = made_by(
        folder / "process" / "latents.h5ad", tmp_path / "old" / "checkpoints" / "last.ckpt", tmp_path / "latents.h5ad"
    )
    shutil.rmtree(tmp_path / "old")
    assert decoded_by(chosen) == 2


@pytest.mark.parametrize("other", ["seed", "checkpoint", "epoch"])
def test_latents_as_wide_of_another_model_are_refused(folder, tmp_path, other):
    table, chosen, mine = folder / "process" / "latents.h5ad", settings(folder), tmp_path / "checkpoints" / "best.ckpt"
    if other == "checkpoint":
        chosen.task.checkpoint = "last"
    else:
        save_checkpoint(mine, epoch=1, seed=int(other == "seed"))
        chosen.task.latents = made_by(table, mine, tmp_path / "other.h5ad")
        if other == "epoch":  # training went on after task=process
            save_checkpoint(mine, epoch=5)
            chosen.run = str(tmp_path)
    with pytest.raises(
        ValueError, match=r"was made with .*best\.ckpt \(epoch 1, .* is another model \(epoch .*task=process again"
    ):
        maps.open_all(chosen)


def test_patterns_are_normalised_as_they_were_for_the_latents(folder, tmp_path):
    chosen = settings(folder)
    chosen.task.latents = made_by(
        folder / "process" / "latents.h5ad", folder / "checkpoints" / "best.ckpt", tmp_path / "table.h5ad", "minus_one_one"
    )
    pictures = maps.open_all(chosen).pictures
    assert pictures.unit == "\u22121 to 1 in each pattern"
    seen = maps_patterns.normalised(pictures, np.arange(5))
    assert seen.amin((1, 2, 3)).tolist() == [-1] * 5
    assert seen.amax((1, 2, 3)).tolist() == [1] * 5


def test_under_a_region_both_maps_and_the_table_hold_the_region_alone(folder, tmp_path, monkeypatch):
    for name in ("draw_latents", "draw_contacts", "draw_patterns"):  # they take most of the time
        monkeypatch.setattr(maps, name, lambda *_: [])
    maps.run(settings(folder, roi_xrange=[4, 9]), tmp_path, NullTracker())
    points = pd.read_csv(tmp_path / "tables" / "points.csv")
    assert set(points["x"]) == set(range(4, 9))
    for name in ("kernel_spread", "reconstruction_error"):
        known = np.isfinite(np.load(tmp_path / f"{name}.npy"))
        assert known.sum() == len(points)
        assert set(np.nonzero(known)[1]) == set(range(4, 9))


def test_a_keep_list_that_the_latents_were_made_without_is_refused(folder, tmp_path):
    (tmp_path / "kept.csv").write_text("x,y\n0,0\n1,1\n2,2\n")
    chosen = settings(folder, run=False, data={"keep": str(tmp_path / "kept.csv")})
    with pytest.raises(ValueError, match=r"holds 420 points, but data\.keep=.* keeps \d of them: .*made without it"):
        maps.open_all(chosen)


@pytest.mark.slow
def test_the_command_draws_the_same_files_twice(command, folder):
    line = ["task=maps", "data=kikuchi", "data.root=x", f"task.latents={folder / 'process' / 'latents.h5ad'}"]
    line += ["task.dims=[0,1]", "logger=csv"]
    outputs = []
    for name in ("first", "second"):
        command("analyze", *line, f"name={name}")
        outputs.append(next((command.folder / "outputs" / name).iterdir()))
    files = [path.relative_to(outputs[0]) for path in outputs[0].rglob("*") if path.suffix in (".png", ".npy")]
    assert len(files) == 6
    assert all((outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes() for name in files)
