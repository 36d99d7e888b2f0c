"""task=maps and analysis/latent_maps: values at their places, holes as holes, structure told from noise."""

import anndata
import numpy as np
import pandas as pd
import pytest

from microlatent.analysis import latent_maps
from microlatent.data.latents import Latents, Patches
from microlatent.data.sections import choose, marker_images, sections
from microlatent.schemas import Settings
from microlatent.systems.partitions import maps
from microlatent.systems.partitions.schema import MapsConfig, PartitionsConfig
from microlatent.tracking import NullTracker
from tests.specimen import corners, tissue, write_latents, write_partition_latents

LATTICES = [((64, 48), 16, 0), ((70, 50), 16, 0), ((70, 50), 16, 8), ((33, 60), 20, 13)]


def places(shape_px, size, overlap):
    pairs = np.array([(row, col) for row in corners(shape_px[0], size, overlap) for col in corners(shape_px[1], size, overlap)])
    return pairs[:, 0], pairs[:, 1]


def painted(values, row, col, size, shape_px, step):
    """Return what a map must be: pixels painted one by one, then averaged by cell."""
    total, count = np.zeros(shape_px), np.zeros(shape_px)
    for value, top, left in zip(values, row, col, strict=True):
        total[top : top + size, left : left + size] += value
        count[top : top + size, left : left + size] += 1
    cells = [np.add.reduceat(np.add.reduceat(part, range(0, shape_px[0], step), 0), range(0, shape_px[1], step), 1)
             for part in (total, count)]  # fmt: skip
    return cells[0] / np.where(cells[1], cells[1], np.nan)


@pytest.mark.parametrize(("shape_px", "size", "overlap"), LATTICES)
def test_map_is_the_mean_of_what_covers_each_cell(shape_px, size, overlap):
    row, col = places(shape_px, size, overlap)
    values = np.random.default_rng(0).normal(size=len(row))
    got = latent_maps.tissue_map(values, row, col, size, shape_px, size - overlap)
    assert got == pytest.approx(painted(values, row, col, size, shape_px, size - overlap))


def test_without_overlap_every_cell_is_its_partition():
    row, col = places((64, 48), 16, 0)
    values = np.arange(12.0)
    assert (latent_maps.tissue_map(values, row, col, 16, (64, 48), 16) == values.reshape(4, 3)).all()


def test_shifted_last_row_keeps_its_value_and_shares_the_row_above():
    # Partitions at rows 0, 16 and 24 of 40: the last covers the last cell alone, and half of the second.
    got = latent_maps.tissue_map(np.array([1.0, 2.0, 5.0]), np.array([0, 16, 24]), np.zeros(3, int), 16, (40, 16), 16)
    assert got[:, 0] == pytest.approx([1, (16 * 2 + 8 * 5) / 24, 5])


def test_order_of_the_places_does_not_matter():
    row, col = places((70, 50), 16, 8)
    rng = np.random.default_rng(0)
    values, order = rng.normal(size=len(row)), rng.permutation(len(row))
    first, second = (latent_maps.tissue_map(values[o], row[o], col[o], 16, (70, 50), 8) for o in (order, np.arange(len(row))))
    assert first == pytest.approx(second, abs=1e-12)


def test_missing_partitions_and_missing_values_are_holes():
    row, col = places((64, 48), 16, 0)
    values = np.arange(12.0)
    values[5] = np.nan
    got = latent_maps.tissue_map(values[1:], row[1:], col[1:], 16, (64, 48), 16)
    assert np.argwhere(np.isnan(got)).tolist() == [[0, 0], [1, 2]]


def test_labels_lie_where_they_cover_most():
    # The second cell is covered twice by either label, the third by label 1 twice and by label 0 once, the others by none.
    row, col = np.zeros(4, int), np.array([0, 8, 8, 8])
    got = latent_maps.label_map(np.array([0, 0, 1, 1]), row, col, 16, (16, 40), 8)
    assert got.tolist() == [[0, 0, 1, -1, -1]] * 2


@pytest.mark.parametrize(("shape_px", "size", "overlap"), LATTICES)
def test_markers_are_put_together_as_the_image_was(shape_px, size, overlap):
    _, image = tissue(shape_px, np.random.default_rng(0))
    row, col = places(shape_px, size, overlap)
    canvas = latent_maps.Canvas(3, shape_px, 1)
    canvas.add([image[:, top : top + size, left : left + size] for top, left in zip(row, col, strict=True)], row, col)
    assert (canvas.mean() == image).all()


def test_blocks_of_an_image_are_means_of_its_pixels():
    _, image = tissue((64, 48), np.random.default_rng(0))
    row, col = places((64, 48), 16, 0)
    canvas = latent_maps.Canvas(3, (64, 48), 5)  # blocks straddle partitions
    canvas.add([image[:, top : top + 16, left : left + 16] for top, left in zip(row, col, strict=True)], row, col)
    blocks = canvas.mean()
    assert blocks.shape == (3, 13, 10)
    assert blocks[:, 6, 6] == pytest.approx(image[:, 30:35, 30:35].mean((1, 2)))
    assert blocks[:, -1, -1] == pytest.approx(image[:, 60:64, 45:48].mean((1, 2)))


# --------------------------------------------------------------------------------------------- how latents vary


def test_spread_tells_apart_what_varies_between_subjects_and_inside_images():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 500)
    images = np.repeat(np.arange(12), 250)
    marker = rng.normal(size=(3000, 1)) + 10 * (images % 2)[:, None]
    by_subject, by_marker = np.repeat(rng.normal(size=6), 500), marker[:, 0] - 10 * (images % 2)
    x = np.column_stack([1000 + by_subject, by_marker, rng.normal(size=3000), np.full(3000, 7.0)])
    found = latent_maps.spread(x, np.arange(1000), groups, images, marker)
    assert found.variance == pytest.approx(x[:1000].var(0, ddof=1), rel=1e-6)
    assert found.between_groups[:3] == pytest.approx([1, 0, 0], abs=0.01)
    assert found.correlation[1:3, 0] == pytest.approx([1, 0], abs=0.05)
    assert np.isnan(found.between_groups[3])
    assert np.isnan(found.correlation[3, 0])
    assert latent_maps.most_varying(found.variance, 4) == np.argsort(-x[:1000].var(0))[:3].tolist()


def test_latents_that_are_not_numbers_are_refused():
    x = np.ones((10, 2))
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        latent_maps.spread(x, np.arange(10), np.zeros(10, int), np.zeros(10, int), x[:, :1])


def test_overlapping_partitions_are_thinned_to_those_apart():
    row, col = places((70, 50), 16, 8)
    kept = latent_maps.apart(row, col, 16)
    taken = {(row[at], col[at]) for at in kept}
    assert taken == {(top, left) for top in (0, 16, 32, 48) for left in (0, 16, 32)}


def test_neighbours_share_a_side():
    row, col = places((48, 48), 16, 0)
    pairs = {tuple(sorted(pair)) for pair in latent_maps.neighbours(row, col, 16).tolist()}
    assert len(pairs) == 12
    assert {(0, 1), (0, 3), (4, 7)} <= pairs


def planes(num_images: int, rng) -> tuple:
    row, col = places((160, 160), 16, 0)
    pairs = latent_maps.neighbours(row, col, 16)
    images = np.repeat(np.arange(num_images), len(row))
    return row, col, images, np.concatenate([pairs + number * len(row) for number in range(num_images)])


def test_moran_i_of_a_gradient_is_high_and_of_a_chessboard_minus_one():
    row, col, images, pairs = planes(2, np.random.default_rng(0))
    board = np.tile((-1.0) ** ((row + col) // 16), 2)
    found = latent_maps.autocorrelation(np.column_stack([np.tile(row, 2), board]).astype(float), images, pairs, 99)
    assert found.moran_i == pytest.approx([8 / 9, -1.0])  # rows 0 to 9: their covariance at distance one, by hand
    assert found.p_permutation == pytest.approx([0.01, 1.0])


def test_images_of_different_level_have_no_structure_by_that():
    rng = np.random.default_rng(1)
    _, _, images, pairs = planes(4, rng)
    values = images[:, None] * 100.0 + rng.normal(size=(len(images), 1))
    assert abs(latent_maps.autocorrelation(values, images, pairs, 99).moran_i[0]) < 0.1


def test_p_of_noise_is_uniform():
    rng = np.random.default_rng(2)
    _, _, images, pairs = planes(2, rng)
    p = latent_maps.autocorrelation(rng.normal(size=(len(images), 400)), images, pairs, 99).p_permutation
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.035)  # three standard errors
    assert p.mean() == pytest.approx(0.5, abs=0.05)


def test_result_does_not_depend_on_the_order_of_the_images_rows():
    rng = np.random.default_rng(3)
    _, _, images, pairs = planes(2, rng)
    values, order = rng.normal(size=(len(images), 2)), rng.permutation(len(images))
    place = np.argsort(order)
    first = latent_maps.autocorrelation(values, images, pairs, 19)
    second = latent_maps.autocorrelation(values[order], images[order], place[pairs], 19)
    assert second.moran_i == pytest.approx(first.moran_i)


# --------------------------------------------------------------------------------------------------------- task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_partition_latents(path, num_images=2, pixel_um=0.5)
    return path


def settings(folder, **task):
    return Settings(run=str(folder), data=PartitionsConfig(name="partitions"), task=MapsConfig(name="maps", **task))


@pytest.fixture(scope="module")
def done(folder):
    return maps.run(settings(folder, images=["s2/i1"]), folder / "maps", NullTracker()), folder / "maps"


def test_structured_latents_are_told_from_the_one_that_varies_most(done):
    numbers, out = done
    table = pd.read_csv(out / "tables" / "dims.csv").set_index("dim")
    assert len(table) == 12
    assert table["drawn"].sum() == 6
    drawn = table[table["drawn"]]
    assert drawn["variance"].idxmax() == 0
    assert drawn["p_holm"][0] > 0.05  # planted: noise without any place
    assert (drawn["p_holm"].drop(0) < 0.05).all()
    assert drawn.drop(0)["r_Cytokeratins"].abs().max() > 0.7
    assert numbers["moran_i_latent0"] == pytest.approx(drawn["moran_i"][0])


def test_check_lists_what_the_run_writes(done, folder, tmp_path):
    plan = {name.removeprefix(f"{tmp_path}/") for name in maps.preflight(settings(folder, images=["s2/i1"]), tmp_path).writes}
    assert plan == {str(path.relative_to(done[1])) for path in done[1].rglob("*.*")}
    assert list(tmp_path.iterdir()) == []


def test_same_seed_gives_the_same_files(done, folder, tmp_path):
    maps.run(settings(folder, images=["s2/i1"]), tmp_path, NullTracker())
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    assert len(files) == 3
    assert all((tmp_path / name).read_bytes() == (done[1] / name).read_bytes() for name in files)


def test_sections_hold_their_own_pixels(folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    found = sections(latents, list(latents.stores()))
    assert [one.name for one in found] == ["s1/i1", "s1/i2", "s2/i1", "s2/i2", "s3/i1", "s3/i2"]
    one = found[3]
    assert (latents.obs["key"].iloc[one.rows].str.startswith("s2/i2/")).all()
    picture = marker_images(one, ["CD8"])
    at = one.row_px[5], one.col_px[5]
    patch = Patches(latents, list(latents.stores()), ["CD8"]).read(one.rows[5:6])[0]
    assert (picture[:, at[0] : at[0] + 12, at[1] : at[1] + 12] == patch).all()


@pytest.mark.slow
def test_shuffled_table_gives_the_same_table(done, folder, tmp_path):
    table = anndata.read_h5ad(folder / "process" / "latents.h5ad")
    table[np.random.default_rng(0).permutation(len(table))].copy().write_h5ad(tmp_path / "mixed.h5ad")
    maps.run(settings(folder, latents=str(tmp_path / "mixed.h5ad"), images=["s2/i1"]), tmp_path / "maps", NullTracker())
    first, second = (pd.read_csv(path / "tables" / "dims.csv") for path in (done[1], tmp_path / "maps"))
    columns = [name for name in first if not name.startswith("p_")]  # other permutations are drawn
    pd.testing.assert_frame_equal(first[columns], second[columns], rtol=1e-6)


def test_unknown_image_is_named_with_the_list(folder, tmp_path):
    with pytest.raises(ValueError, match=r"task\.images names 's2/i7'.*s1/i1, s1/i2.*Did you mean s2/i"):
        maps.run(settings(folder, images=["s2/i7"]), tmp_path, NullTracker())


def test_no_image_at_all_is_refused_with_the_list(folder):
    latents = Latents.open(folder / "process" / "latents.h5ad")
    found = sections(latents, list(latents.stores()))
    with pytest.raises(ValueError, match=r"task\.images is \[\], .*s1/i1, s1/i2.*leave it out to take all"):
        choose(found, [])
    assert choose(found, None) == found


def test_unknown_marker_is_named_with_the_list(folder, tmp_path):
    with pytest.raises(ValueError, match=r"task\.markers names 'CD88'.*Did you mean 'CD8'.*CD8, Cytokeratins, DAPI"):
        maps.run(settings(folder, markers=["CD88"]), tmp_path, NullTracker())


def test_dimension_out_of_range_is_refused_by_a_check_too(folder, tmp_path):
    for call in (lambda s: maps.run(s, tmp_path, NullTracker()), lambda s: maps.preflight(s, tmp_path)):
        with pytest.raises(ValueError, match=r"task\.dims is \[0, 12\].*from 0 to 11.*\[12\]"):
            call(settings(folder, dims=[0, 12]))


def test_wells_are_refused_with_what_works(tmp_path):
    write_latents(tmp_path, ("A1",), num_tracks=4, num_frames=3, patch_px=8)
    with pytest.raises(ValueError, match=r"subject, image, row_px, col_px.*task=embed"):
        maps.run(settings(tmp_path), tmp_path / "maps", NullTracker())
