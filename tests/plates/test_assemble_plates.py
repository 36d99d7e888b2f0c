"""A plate made from images has every pixel where its name says, and reads back in both versions."""

import numpy as np
import pytest
import tifffile

from microlatent.command import carry_out
from microlatent.data.io.ome_zarr.plate import open_plates
from microlatent.systems.plates import assemble
from tests.conftest import composed

RNG = np.random.default_rng(0)


@pytest.fixture
def assembled(tmp_path):
    """Return a function that makes a plate of a folder of images and returns it opened."""

    def made(root, *options):
        typed = ("task=assemble", "data=plates", f"data.root={root}", f"outputs={tmp_path / 'outputs'}", "logger=csv", *options)
        carry_out(composed("infer", *typed), list(typed))
        (plate,) = open_plates(tmp_path / "outputs" / "plates" / f"{root.name}.zarr")
        return plate

    return made


def image(shape=(20, 24)):
    return RNG.integers(0, 4000, shape).astype(np.uint16)


@pytest.mark.parametrize("version", ["0.5", pytest.param("0.4", marks=pytest.mark.slow)])
def test_a_file_per_plane_channel_and_time_point(tmp_path, assembled, version):
    root, want = tmp_path / "raw", {}
    root.mkdir()
    for well in ("A01", "B12"):
        for t in (1, 2):
            for z in (0, 1, 10):
                for channel in ("BF", "DAPI"):
                    want[well, t, z, channel] = image()
                    tifffile.imwrite(root / f"{well}_s3_t{t}_z{z}_{channel}.tif", want[well, t, z, channel])
    plate = assembled(
        root, "task.images='{well}_{site}_t{frame}_z{z}_{channel}.tif'", f"task.version={version}", "data.pixel_um=0.5"
    )
    assert plate.version == version
    assert [field.name for field in plate.fields] == ["A/01/s3", "B/12/s3"]
    for field, well in zip(plate.fields, ("A01", "B12"), strict=True):
        assert field.shape == (2, 2, 3, 20, 24)
        assert field.channels == ["BF", "DAPI"]
        assert field.pixel_um == 0.5
        for (name, t, z, channel), pixels in want.items():
            if name == well:
                np.testing.assert_array_equal(field[t - 1, field.channel(channel), (0, 1, 10).index(z)], pixels)


def test_stacks_and_hyperstacks_say_their_axes_or_are_told(tmp_path, assembled):
    root = tmp_path / "stacks"
    root.mkdir()
    stack, other = image((5, 20, 24)), image((5, 20, 24))
    tifffile.imwrite(root / "A1_0_BF.tif", stack, photometric="minisblack")
    tifffile.imwrite(root / "A1_0_DAPI.tif", other, photometric="minisblack")
    field = assembled(root)["A/1/0"]
    np.testing.assert_array_equal(field[0, 1], other)
    hyper = image((2, 5, 3, 20, 24))
    (tmp_path / "hyper").mkdir()
    tifffile.imwrite(tmp_path / "hyper" / "C3.tif", hyper, imagej=True, metadata={"axes": "TZCYX"})
    field = assembled(tmp_path / "hyper", "task.images='{well}.tif'", "data.channel_names=[BF,DAPI,GFP]")["C/3/000"]
    np.testing.assert_array_equal(field[1, 2], hyper[1, :, 2])


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        (["A1_0_BF", "A1_0_DAPI", "A2_0_BF"], [], r"fields differ in their channels"),
        (
            ["A1_0_t0_BF", "A1_0_t1_BF", "A1_0_t1_DAPI"],
            ["task.images='{well}_{site}_t{frame}_{channel}.tif'"],
            r"3 files were found.*make 4",
        ),
        (["well_0_BF"], [], r"finds the well 'well', but a well is a row and a column"),
        (["A1_0_BF"], ["task.images='{well}_{field}.tif'"], r"the field {field}"),
        (["A1_0_BF"], ["task.images='{well}.png'"], r"matches nothing"),
        (["A1_0_BF"], ["data.root=demo"], r"is no folder of images"),
        (["A1_0_BF"], ["task.version=0.3"], r"task\.version is '0\.3', which is not one of its values"),
    ],
)
def test_incomplete_files_are_refused_before_anything_is_written(tmp_path, assembled, files, options, words):
    (tmp_path / "raw").mkdir()
    for name in files:
        tifffile.imwrite(tmp_path / "raw" / f"{name}.tif", image())
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        assembled(tmp_path / "raw", *options)
    assert not (tmp_path / "outputs" / "plates").exists()


def test_a_plate_is_replaced_when_asked_alone(tmp_path, assembled):
    root = tmp_path / "raw"
    root.mkdir()
    tifffile.imwrite(root / "A1_0_BF.tif", image())
    assembled(root)
    with pytest.raises(ValueError, match=r"raw\.zarr exists\. .*task\.overwrite=true"):
        assembled(root)
    tifffile.imwrite(root / "A2_0_BF.tif", image())
    assert len(assembled(root, "task.overwrite=true").fields) == 2
    assert [path.name for path in (tmp_path / "outputs" / "plates").iterdir()] == ["raw.zarr"]


def test_a_check_tells_the_plate_and_writes_nothing(tmp_path):
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "A1_0_BF.tif", image((5, 20, 24)), photometric="minisblack")
    settings = composed("infer", "task=assemble", "data=plates", f"data.root={tmp_path / 'raw'}", f"outputs={tmp_path / 'o'}")
    plan = assemble.preflight(settings, tmp_path / "run")
    assert any("raw.zarr: NGFF 0.5" in line for line in plan.writes)
    assert "T, C, Z, Y, X: (1, 1, 5, 20, 24)" in plan.notes
    assert not (tmp_path / "o").exists()
