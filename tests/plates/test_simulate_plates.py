"""The simulated plate has what was planted, in the project folder that users of virtual staining have."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from microlatent.data.io.ome_zarr.plate import open_plates
from microlatent.systems.plates.files import find_project, frame_name
from microlatent.systems.plates.simulate import CHANNELS, SPECIMENS, draw_well, render_field, simulate

DIGEST_WELLS = ("A/1", "B/2")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return SPECIMENS["demo"](tmp_path_factory.mktemp("plates") / "demo")


@pytest.fixture(scope="module")
def fields(demo):
    return {field.name: field for plate in open_plates(find_project(demo).plates) for field in plate.fields}


def test_the_demo_is_a_project_folder(demo):
    project = find_project(demo)
    train, test = open_plates(project.plates)
    assert [field.place.well for field in train.fields] == ["A/1", "A/2", "A/3", "B/1", "B/3"]
    assert [field.place.well for field in test.fields] == ["A/4", "B/2", "B/4"]
    assert project.truth == {"20260101_demo": demo / "datasets/ground_truth/20260101_demo_gt"}
    field = train.fields[0]
    assert (field.shape, field.dtype, field.channels) == ((1, 3, 5, 256, 256), np.uint16, CHANNELS)
    assert (field.pixel_um, field.z_um, field.frame_min) == (0.325, 1.0, 10.0)


def test_masks_labels_and_table_say_the_same(demo, fields):
    truth = pd.read_csv(demo / "truth.csv").set_index("well")
    folder = next(iter(find_project(demo).truth.values()))
    for field in fields.values():
        frame = frame_name(field.place.well, field.place.field)
        mask = np.asarray(Image.open(folder / f"{frame}_mask.png"))
        labels = field.labels("nuclei")[0, 0]
        assert (labels == mask).all()
        assert len(np.unique(mask)) - 1 == truth.num_nuclei[field.place.well] > 40
        np.testing.assert_array_equal(tifffile.imread(folder / f"{frame}.tif"), field[0, 1, 2])


def test_stains_light_up_where_they_should(fields):
    for field in fields.values():
        _, nuclei, membrane = field[0, :, 2].astype(float)
        inside = field.labels("nuclei")[0, 0, 2] > 0
        core = ndimage.binary_erosion(inside, iterations=3)
        background = ~ndimage.binary_dilation(inside, iterations=4)
        assert nuclei[core].mean() > 3 * nuclei[background].mean()
        assert membrane[core].mean() < 0.7 * membrane[background].mean()


def test_some_nuclei_have_twice_the_dna(fields):
    """What no image of phase can know: a second group of brighter nuclei."""
    means = []
    for field in fields.values():
        labels = field.labels("nuclei")[0, 0, 2]
        mean = ndimage.mean(field[0, 1, 2].astype(float), labels, np.unique(labels)[1:])
        means.append(mean / np.median(mean))
    assert 0.12 < np.mean(np.concatenate(means) > 1.45) < 0.4


def test_the_dropped_well_is_out_of_focus_and_no_other(fields):
    def detail(field):
        plane = field[0, 0, 2].astype(float)
        return np.std(ndimage.gaussian_filter(plane, 0.7) - ndimage.gaussian_filter(plane, 1.5))

    details = {field.place.well: detail(field) for field in fields.values()}
    assert details.pop("B/4") < 0.5 * min(details.values())


def test_the_same_seed_gives_the_same_plate_and_wells_do_not_depend_on_each_other(tmp_path, fields):
    folder = simulate(tmp_path / "a", wells=DIGEST_WELLS)
    for plate in open_plates(find_project(folder).plates):
        for field in plate.fields:
            np.testing.assert_array_equal(field[:], fields[field.name][:])
    assert simulate(folder, wells=DIGEST_WELLS) == folder
    with pytest.raises(ValueError, match="holds a simulated specimen of"):
        simulate(folder, seed=1, wells=DIGEST_WELLS)


def test_cells_move_a_little_between_time_points(tmp_path):
    (plate,) = open_plates(find_project(simulate(tmp_path / "t", wells=("A/1",), times=2, version="0.4")).plates)
    field = plate.fields[0]
    assert (field.shape[0], field.version) == (2, "0.4")
    first, second = field.labels("nuclei")[:, 0, 2]
    both = np.unique(first)[1:]
    moved = np.array(ndimage.center_of_mass(first > 0, first, both)) - ndimage.center_of_mass(second > 0, second, both)
    assert 0.5 < np.nanmedian(np.abs(moved)) < 3
    assert (tmp_path / "t/datasets/ground_truth/20260101_demo_gt/A_1_000_t1_mask.png").is_file()


def test_a_field_of_another_size_has_cells_of_the_same_size():
    images = {side: next(iter(render_field(np.random.default_rng(0), draw_well(0, "A/1"), 1, side))) for side in (128, 256)}
    area = {side: np.bincount(labels.ravel())[1:] for side, (_, labels) in images.items()}
    assert np.median(area[128][area[128] > 0]) == pytest.approx(np.median(area[256][area[256] > 0]), rel=0.25)


def test_the_project_folder_of_real_data_is_understood(data_folder):
    project = find_project(data_folder / "plates/virtual_staining")
    assert [path.parent.name for path in project.plates] == ["train", "test"]
    assert set(project.truth) == {"20151005_isl_neurons"}
    assert [path.name for path in project.unmatched] == ["20180101_dsb2018_gt"]


def test_a_folder_without_data_sets_is_no_project(tmp_path):
    assert find_project(tmp_path) is None
    (tmp_path / "datasets/train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no plate in train or test"):
        find_project(tmp_path)
