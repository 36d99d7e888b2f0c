"""Images of every format come back as the same frames, and only belong together when that is certain."""

import tracemalloc

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from microlatent.data.io.image_files import open_image
from microlatent.data.io.images import find_fields, join

MOVIE = np.random.default_rng(0).integers(0, 60000, (4, 2, 6, 7)).astype(np.uint16)  # T C Y X
OME = {"axes": "TCYX", "Channel": {"Name": ["phase", "ret"]}, "PhysicalSizeX": 650.0, "PhysicalSizeXUnit": "nm"}
OME |= {"TimeIncrement": 2.0, "TimeIncrementUnit": "min"}
IMAGEJ = {"axes": "TCYX", "unit": "um", "finterval": 120}


def ngff(path, version):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=MOVIE[:, :, None], chunks=(1, 1, 1, 6, 7))
    units = {"t": "minute", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    about = {
        "multiscales": [
            {
                "axes": [{"name": axis} | ({"unit": units[axis]} if axis in units else {}) for axis in "tczyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2, 1, 1, 0.65, 0.65]}]}],
            }
        ],
        "omero": {"channels": [{"label": "phase"}, {"label": "ret"}]},
    }
    group.attrs.update(about if version == "0.4" else {"ome": about | {"version": version}})


def write_movie(folder, kind):
    if kind == "ome":
        tifffile.imwrite(folder / "m.ome.tif", MOVIE, metadata=OME)
    elif kind == "imagej":
        tifffile.imwrite(folder / "m.tif", MOVIE, imagej=True, resolution=(1 / 0.65, 1 / 0.65), metadata=IMAGEJ)
    elif kind == "npy":
        np.save(folder / "m.npy", MOVIE[:, :, None])
    else:
        ngff(folder / "m.zarr", kind)


@pytest.mark.parametrize("kind", ["ome", "imagej", "npy", "0.4", "0.5"])
def test_a_movie_in_one_file_gives_its_frames(tmp_path, kind):
    write_movie(tmp_path, kind)
    (fov,) = find_fields(tmp_path, "m.*", "task.images").values()
    assert (fov.num_frames, fov.num_channels, fov.shape_px) == (4, 2, (6, 7))
    for t in (3, 0):
        np.testing.assert_array_equal(fov.frame(t), MOVIE[t])
    assert fov.frame(1).dtype == np.uint16
    assert fov.channels == (None if kind in ("npy", "imagej") else ["phase", "ret"])
    if kind != "npy":
        assert fov.pixel_um == pytest.approx(0.65, rel=1e-5)
        assert fov.frame_min == pytest.approx(2)


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_files_per_frame_give_the_same_frames(tmp_path, suffix):
    for t, image in enumerate(MOVIE):
        tifffile.imwrite(tmp_path / f"A1-s_t{t}.tif", image, photometric="minisblack")
        np.save(tmp_path / f"A1-s_t{t}.npy", image)
    (fov,) = find_fields(tmp_path, f"{{well}}-{{site}}_t{{frame}}.{suffix}", "task.images").values()
    assert (fov.well, fov.site, fov.frames) == ("A1", "A1-s", [0, 1, 2, 3])
    np.testing.assert_array_equal(fov.frame(2), MOVIE[2])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_files_per_channel_are_joined_in_the_order_of_names(tmp_path, suffix):
    for t, image in enumerate(MOVIE):
        for c, plane in zip(("ch2", "ch10"), image, strict=True):
            if suffix == "png":
                Image.fromarray(plane).save(tmp_path / f"t{t}_{c}.png")
            else:
                tifffile.imwrite(tmp_path / f"t{t}_{c}.tif", plane)
    (fov,) = find_fields(tmp_path, f"t{{frame}}_{{channel}}.{suffix}", "task.images").values()
    assert fov.channels == ["ch2", "ch10"]
    np.testing.assert_array_equal(fov.frame(3), MOVIE[3])


def test_frames_and_sites_come_in_natural_order(tmp_path):
    for name in ("B2-p10", "B2-p9", "A10-p1", "A2-p1"):
        for t in (2, 10):
            tifffile.imwrite(tmp_path / f"{name}_{t}.tif", np.full((6, 7), t, np.uint8))
    fields = find_fields(tmp_path, "{well}-{site}_*.tif", "task.images")
    assert list(fields) == [("A2", "A2-p1"), ("A10", "A10-p1"), ("B2", "B2-p9"), ("B2", "B2-p10")]
    assert [int(fields["A2", "A2-p1"].frame(t)[0, 0, 0]) for t in (0, 1)] == [2, 10]


@pytest.mark.parametrize("suffix", ["ome.tif", "npy"])
def test_reading_a_frame_takes_the_memory_of_a_frame(tmp_path, suffix):
    movie = np.zeros((60, 1, 1, 256, 256), np.uint16)
    path = tmp_path / f"m.{suffix}"
    np.save(path, movie) if suffix == "npy" else tifffile.imwrite(path, movie[:, :, 0], metadata={"axes": "TCYX"})
    (fov,) = find_fields(tmp_path, path.name, "task.images").values()
    fov.frame(next(iter(fov.frames)))  # imports the reader, which is no memory of a frame
    tracemalloc.start()
    for t in fov.frames:
        fov.frame(t)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.15 * movie.nbytes


def test_planes_in_z_are_refused(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((2, 1, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"3 planes in z.*projection"):
        open_image(tmp_path / "m.npy")


@pytest.mark.parametrize("name", ["m.tif", "m.png", "m.npy"])
@pytest.mark.parametrize("content", [b"", b"II*\0nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        open_image(tmp_path / name)


def test_an_npy_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "m.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        open_image(tmp_path / "m.npy")


def test_unclear_axes_are_refused(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((2, 2, 4, 4)))
    with pytest.raises(ValueError, match="does not say which axis is time"):
        open_image(tmp_path / "m.npy")


def test_a_pattern_that_matches_nothing_shows_what_is_there(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "scan_1.tif").touch()
    with pytest.raises(FileNotFoundError, match=r"task.images='\*.png'.*raw/scan_1.tif"):
        find_fields(tmp_path, "*.png", "task.images")
    with pytest.raises(ValueError, match=r"\{wel\}.*\{well\}"):
        find_fields(tmp_path, "{wel}.tif", "task.images")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_fields(tmp_path / "none", "*.tif", "task.images")


def test_two_files_of_one_frame_are_refused(tmp_path):
    for name in ("a_t1.tif", "b_t1.tif"):
        tifffile.imwrite(tmp_path / name, MOVIE[0, 0])
    with pytest.raises(ValueError, match=r"a_t1.tif and .*b_t1.tif are both frame 1"):
        find_fields(tmp_path, "*_t{frame}.tif", "task.images")


def frames(folder, kind, numbers):
    (folder / kind).mkdir(parents=True)
    for number in numbers:
        tifffile.imwrite(folder / kind / f"t{number:02d}.tif", np.full((6, 7), number, np.uint8))
    return find_fields(folder, f"{kind}/t{{frame}}.tif", f"task.{kind}")


def test_fewer_images_than_masks_use_what_both_have(tmp_path):
    pairs, notes = join(frames(tmp_path, "images", range(5)), frames(tmp_path, "masks", range(9)))
    assert pairs[0].frames == [(t, t) for t in range(5)]
    assert "5 images and 9 masks, 5 frames have both" in notes[0]


def test_numbers_that_begin_differently_need_a_word(tmp_path):
    images, masks = frames(tmp_path, "images", range(1, 4)), frames(tmp_path, "masks", range(5))
    with pytest.raises(ValueError, match=r"task.mask_frame_offset=1 if both begin"):
        join(images, masks)
    assert join(images, masks, 1)[0][0].frames == [(1, 0), (2, 1), (3, 2)]
    assert join(images, masks, 0)[0][0].frames == [(1, 1), (2, 2), (3, 3)]
    with pytest.raises(ValueError, match="no frame has both"):
        join(images, masks, 50)


def test_counted_frames_must_be_as_many(tmp_path):
    masks = frames(tmp_path, "masks", range(5))
    frames(tmp_path, "images", range(4))
    with pytest.raises(ValueError, match="counted in the order of names"):
        join(find_fields(tmp_path, "images/*.tif", "task.images"), masks)


def test_sites_without_a_partner_are_named(tmp_path):
    for name in ("images/A1-s", "masks/A1-s", "images/A2-s"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"{name}.tif", MOVIE[0, 0])
    images, masks = (find_fields(tmp_path, f"{kind}/{{well}}-{{site}}.tif", "task.x") for kind in ("images", "masks"))
    pairs, notes = join(images, masks)
    assert [pair.images.site for pair in pairs] == ["A1-s"]
    assert notes == ["A2-s has images but no masks and is left out."]
    del images["A1", "A1-s"]
    with pytest.raises(ValueError, match=r"No site has both.*Images: A2-s. Masks: A1-s"):
        join(images, masks)


def test_labels_are_whole_numbers_of_one_channel(tmp_path):
    mask = np.array([[0, 1.0, np.nan], [-1, 2, 2]])
    np.save(tmp_path / "m.npy", mask)
    (fov,) = find_fields(tmp_path, "m.npy", "task.masks").values()
    np.testing.assert_array_equal(fov.labels(0), [[0, 1, 0], [0, 2, 2]])
    np.save(tmp_path / "m.npy", mask + 0.5)
    with pytest.raises(ValueError, match="fractions"):
        find_fields(tmp_path, "m.npy", "task.masks")["A1", "A1-Site_0"].labels(0)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="3 channels"):
        find_fields(tmp_path, "m.png", "task.masks")["A1", "A1-Site_0"].labels(0)


def test_real_plates_are_found_by_their_metadata(data_folder):
    plates = data_folder / "plates"
    fields = find_fields(plates, "plate_faim9987_tczyx_v0.5.zarr", "task.images")
    assert [site for _, site in fields] == ["B2-0", "B2-1", "B3-0", "B3-1"]
    direct = find_fields(plates, "*_v0.5.zarr/{row}/{column}/{site}", "task.images")
    np.testing.assert_array_equal(direct["B3", "B3-1"].frame(1), fields["B3", "B3-1"].frame(1))
    with pytest.raises(ValueError, match="3 planes in z"):
        find_fields(plates, "plate_faim9987_tczyx_v0.4.zarr", "task.images")
