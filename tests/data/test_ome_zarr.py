"""OME-Zarr of every kind is read as (T, C, Z, Y, X) or refused by name, and what is written is what readers demand."""

import json
import os
import shutil
import signal
import tracemalloc

import numpy as np
import pytest
import zarr
from numcodecs import Blosc

from microlatent.data.io.image_files import open_image
from microlatent.data.io.images import find_fields
from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.data.io.ome_zarr.metadata import read_attributes, set_attributes
from microlatent.data.io.ome_zarr.plate import open_plates
from microlatent.data.io.ome_zarr.writer import ImageWriter, create_plate, remove_partials
from tests.odd_plates import CHANNELS, edit, odd_plate, pixels, write_image, write_plate

SHAPE = (2, 2, 5, 24, 32)
STORED = {
    "0.4": {"version": "0.4", "chunks": (1, 1, 2, 10, 32)},
    "0.4 dots": {"version": "0.4", "chunks": (1, 2, 1, 10, 16), "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "0.5": {"version": "0.5", "chunks": (1, 1, 2, 10, 32)},
    "0.5 shards": {"version": "0.5", "chunks": (1, 1, 1, 8, 16), "shards": (1, 2, 2, 16, 32)},
}


def image_at(folder, array, **about):
    version = about.get("version", "0.4")
    group = zarr.create_group(folder / "x.zarr", zarr_format=2 if version == "0.4" else 3)
    write_image(group, array, **about)
    return OmeImage(folder / "x.zarr")


# Reading


@pytest.mark.parametrize("kind", STORED)
def test_an_image_is_indexed_as_an_array_is(tmp_path, kind):
    array = pixels(SHAPE)
    image = image_at(tmp_path, array, **STORED[kind])
    assert (image.shape, image.dtype) == (SHAPE, np.uint16)
    for index in [
        (1, 0, 3),
        (0, 1, slice(1, 4), slice(3, 9), slice(20, None)),
        (slice(None), -1),
        (0, 0, -1, 4, 5),
        (0, 0, slice(2, 2)),
    ]:
        np.testing.assert_array_equal(image[index], array[index])
    np.testing.assert_array_equal(image[1], array[1])
    for wrong in ((2,), (0, 0, 0, slice(0, 9, 2)), (0, 0, -6)):
        with pytest.raises(IndexError, match=r"x\.zarr"):
            image[wrong]


@pytest.mark.parametrize("axes", ["yx", "zyx", "cyx", "tyx", "czyx", "tcyx", "tzyx", "tcxyz"])
def test_axes_that_are_not_stored_have_length_one(tmp_path, axes):
    size = dict(zip("tczyx", SHAPE, strict=True))
    array = pixels([size[axis] for axis in axes])
    image = image_at(tmp_path, array, axes=axes, scale=[size[axis] for axis in axes], channels=None)
    assert image.shape == tuple(size[axis] if axis in axes else 1 for axis in "tczyx")
    assert image.scale == tuple(size[axis] if axis in axes else 1 for axis in "tczyx")
    want = np.einsum(f"{axes}->{''.join(axis for axis in 'tczyx' if axis in axes)}", array).reshape(image.shape)
    np.testing.assert_array_equal(image[:], want)
    assert image.levels[0].stored.all()
    assert image[0, 0, 0, 2:4].shape == (2, 32)


@pytest.mark.parametrize("kind", STORED)
def test_missing_chunks_are_told_from_zeros(tmp_path, kind):
    image = image_at(tmp_path, np.zeros(SHAPE, np.uint16), **STORED[kind], config={"write_empty_chunks": True})
    assert image.levels[0].stored.all()
    assert image.levels[0].present((slice(None),) * 5) is None
    other = tmp_path / "missing"
    group = zarr.create_group(other, zarr_format=2 if kind.startswith("0.4") else 3)
    about = {"channels": None} | STORED[kind]
    write_image(group, np.zeros(SHAPE, np.uint16), **about)  # zarr leaves out chunks of the fill value
    array = zarr.open_array(other / "0", mode="r+", config={"write_empty_chunks": True})
    assert not OmeImage(other).levels[0].stored.any()
    array[1, 0, 2, 8:12, :16] = 7
    present = OmeImage(other).levels[0].present((slice(None),) * 5)
    step = STORED[kind]["chunks"]
    want = np.zeros(SHAPE, bool)
    for y in (8, 11):
        box = tuple(slice(at // n * n, at // n * n + n) for at, n in zip((1, 0, 2, y, 0), step, strict=True))
        want[box] = True
    if kind == "0.4":
        want[1, 0, 2:4, :20] = True
    np.testing.assert_array_equal(present, want)


@pytest.mark.parametrize("kind", STORED)
def test_blocks_cover_every_pixel_once_and_cut_no_chunk(tmp_path, kind):
    level = image_at(tmp_path, pixels(SHAPE), **STORED[kind]).levels[0]
    for limit in (1, 3000, 1 << 30):
        seen = np.zeros(SHAPE, int)
        for box in level.blocks(limit=limit):
            seen[box] += 1
            assert all(part.start % step == 0 for part, step in zip(box, level.chunks, strict=True))
        assert (seen == 1).all()
    assert all(box[1].stop == 2 for box in level.blocks([1]))


def test_sizes_come_with_their_units(tmp_path):
    image = image_at(tmp_path, pixels(SHAPE), scale=[30, 1, 0.5, 0.1, 0.2], global_scale=[2, 1, 1, 1, 2])
    assert image.scale == (60, 1, 0.5, 0.1, 0.4)
    assert (image.pixel_um, image.z_um, image.frame_min) == (0.4, 0.5, None)
    edit(image.path / ".zattrs", lambda about: about["multiscales"][0]["axes"][0].update(unit="second"))
    assert OmeImage(image.path).frame_min == pytest.approx(1)


def test_channels_are_found_by_name(tmp_path):
    image = image_at(tmp_path, pixels(SHAPE))
    assert [image.channel(name) for name in CHANNELS] == [0, 1]
    with pytest.raises(ValueError, match=r"'nuclei' is not in .*it has Phase, Nuclei. Is 'Nuclei' meant"):
        image.channel("nuclei")
    edit(image.path / ".zattrs", lambda about: about["omero"]["channels"][1].update(label="Phase"))
    with pytest.raises(ValueError, match="'Phase' is twice"):
        OmeImage(image.path).channel("Phase")


ODD = "sparse ragged named single unnamed_channels pool_a pool_b czyx cyx bigendian_dots nan_borders constant".split()


@pytest.mark.parametrize("name", ODD)
def test_odd_plates_are_read_to_the_last_pixel(tmp_path, name):
    (plate,) = open_plates(odd_plate(tmp_path, name), CHANNELS)
    first = plate.fields[0]
    assert (plate.name, plate.is_plate) == (name, name != "single")
    assert first.name == {"named": "A/1/Site12", "single": "0", "czyx": "A/1/0", "cyx": "A/1/0"}.get(name, "A/1/000")
    want = pixels((1, 2, 5, 24, 32), "f4" if name == "nan_borders" else "u2")
    want = want[:, :, :1] if name == "cyx" else want
    for channel, c in zip(CHANNELS, (0, 1), strict=True):
        found = first[:, first.channel(channel)]
        assert found.dtype.isnative
        if name == "nan_borders":
            assert np.isnan(found[..., :4, :]).all()
            found, want[:, c, ..., :4, :] = np.nan_to_num(found), 0
        want[:, 1] = 100 if name == "constant" else want[:, 1]
        np.testing.assert_array_equal(found, want[:, c])


def test_wells_and_fields_that_are_absent_are_named_once(tmp_path, caplog):
    path = odd_plate(tmp_path, "sparse")
    (plate,) = open_plates(path)
    assert [field.name for field in plate.fields] == ["A/1/000", "A/2/000"]
    (note,) = plate.notes
    assert "lists the field A/2/001, the well B/3" in note or "lists the well B/3, the field A/2/001" in note
    shutil.rmtree(path / "A/2/000/0")
    assert "the pixels of A/2/000 (0)" in open_plates(path)[0].notes[0]
    shutil.rmtree(path / "A/1")
    with pytest.raises(FileNotFoundError, match="none of it is there"):
        open_plates(path)


def test_fields_keep_their_own_shapes(tmp_path):
    (plate,) = open_plates(odd_plate(tmp_path, "ragged"))
    assert [field.shape for field in plate.fields] == [(1, 2, 5, 24, 32), (2, 2, 3, 20, 25)]


def test_nameless_channels_take_the_names_that_are_given(tmp_path):
    path = odd_plate(tmp_path, "unnamed_channels")
    with pytest.raises(ValueError, match=r"names no channels.*data.channel_names=\[...\]"):
        open_plates(path)[0].fields[0].channel("Phase")
    with pytest.raises(ValueError, match=r"2 channels.*data.channel_names has 3"):
        open_plates(path, ["a", "b", "c"])[0].fields[0].channel("a")
    assert open_plates(odd_plate(tmp_path, "pool_a"), ["x", "y"])[0].fields[0].channels == CHANNELS  # names that stand hold


def test_a_pool_of_plates_keeps_wells_of_the_same_name_apart(tmp_path):
    paths = [odd_plate(tmp_path, name) for name in ("pool_a", "pool_b")]
    a, b = open_plates(paths)
    assert [plate.name for plate in open_plates(tmp_path)] == ["pool_a", "pool_b"]
    np.testing.assert_array_equal(a["A/2/000"][0, 0], b["A/2/000"][0, b["A/2/000"].channel("Phase")])
    for kind in ("train", "test"):
        shutil.copytree(paths[0], tmp_path / kind / "same.zarr")
    both = open_plates([tmp_path / "train", tmp_path / "test" / "same.zarr"])
    assert [plate.name for plate in both] == ["train-same", "test-same"]
    with pytest.raises(ValueError, match="have the same name"):
        open_plates([paths[0], paths[0]])


def test_a_field_and_a_well_can_be_named_alone(tmp_path):
    path = odd_plate(tmp_path, "pool_a")
    for inside in ("A/2", "A/2/000"):
        (plate,) = open_plates(path / inside)
        assert (plate.name, plate.is_plate, [field.name for field in plate.fields]) == ("pool_a", True, ["A/2/000"])


def test_a_store_of_several_images_is_read(tmp_path):
    root = zarr.create_group(tmp_path / "b.zarr", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for k in (0, 1):
        write_image(root.create_group(str(k)), pixels(SHAPE, seed=k))
    (plate,) = open_plates(tmp_path / "b.zarr")
    assert [field.name for field in plate.fields] == ["0", "1"]
    np.testing.assert_array_equal(plate["1"][:], pixels(SHAPE, seed=1))


def damage_json(path):
    (path / "A/1/000/.zattrs").write_text('{"multiscales": [')


def drop_multiscales(path):
    edit(path / "A/1/000/.zattrs", lambda about: about.pop("multiscales"))


def one_axis_less(path):
    edit(path / "A/1/000/.zattrs", lambda about: about["multiscales"][0]["axes"].pop(0))


def angle(path):
    edit(path / "A/1/000/.zattrs", lambda about: about["multiscales"][0]["axes"][0].update(name="angle", type="other"))


def newer(path):
    edit(path / "A/1/000/.zattrs", lambda about: about["multiscales"][0].update(version="0.6", axes=None))


def no_images(path):
    edit(path / "A/1/.zattrs", lambda about: about["well"].update(images=[{}]))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_json, r"A/1/000 cannot be read"),
        (drop_multiscales, r"A/1/000 has no multiscales.*holds 0"),
        (one_axis_less, r"A/1/000 has a scale of 5 numbers"),
        (angle, r"A/1/000 has the axes angle, c, z, y, x"),
        (newer, r"A/1/000 is of NGFF 0.6"),
        (no_images, r"cannot be read"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, says):
    path = write_plate(tmp_path / "p.zarr", {("A/1", "000"): pixels(SHAPE)})
    damage(path)
    with pytest.raises(ValueError, match=says):
        open_plates(path)[0].fields[0][:]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("codec", ["zstd", "blosc", "shards"])
def test_a_chunk_that_was_cut_short_is_named(tmp_path, version, codec):
    """Blosc itself decodes what lies behind the end in memory."""
    blosc = Blosc("zstd") if version == "0.4" else zarr.codecs.BloscCodec()
    about = {"compressors": blosc} if codec == "blosc" else {"shards": SHAPE} if codec == "shards" and version == "0.5" else {}
    image = image_at(tmp_path, pixels(SHAPE), version=version, chunks=SHAPE, **about)
    np.testing.assert_array_equal(image[:], pixels(SHAPE))
    chunk = max((path for path in image.path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"x\.zarr/0 cannot be read.*copy it again"):
        OmeImage(image.path)[0, 0]


def test_what_is_no_ome_zarr_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_plates(tmp_path / "none")
    with pytest.raises(ValueError, match="is no OME-Zarr plate or image, and holds none"):
        open_plates(tmp_path)
    zarr.create_group(tmp_path / "empty.zarr")
    with pytest.raises(FileNotFoundError, match="neither plate nor image"):
        open_plates(tmp_path / "empty.zarr")


def test_wells_read_plates_through_the_same_room(tmp_path, caplog):
    path = write_plate(
        tmp_path / "p.zarr", {("A/1", "0"): pixels((2, 2, 24, 32)), ("B/1", "0"): pixels((2, 2, 24, 32))}, axes="tcyx"
    )
    shutil.rmtree(path / "B")
    (fov,) = find_fields(tmp_path, "p.zarr", "task.images").values()
    assert (fov.well, fov.site, fov.channels, fov.pixel_um) == ("A1", "A1-0", CHANNELS, 1)
    np.testing.assert_array_equal(fov.frame(1), pixels((2, 2, 24, 32))[1])
    assert "lists the well B/1, which are not there" in caplog.text
    image = open_image(odd_plate(tmp_path, "cyx") / "A/1/0")
    np.testing.assert_array_equal(image.read(0), pixels((1, 2, 5, 24, 32))[0, :, 0])


def test_real_plates_are_read(data_folder):
    faim = open_plates([data_folder / f"plates/plate_faim9987_tczyx_v{version}.zarr" for version in ("0.4", "0.5")])
    assert [[field.name for field in plate.fields] for plate in faim] == [["B/2/0", "B/2/1", "B/3/0", "B/3/1"]] * 2
    assert [plate.fields[0].shape for plate in faim] == [(1, 3, 3, 256, 256), (2, 2, 1, 256, 256)]
    for plate in faim:
        for field in plate.fields:
            assert field.levels[0].stored.all()
            np.testing.assert_array_equal(field[:], zarr.open_array(field.path / "0", mode="r")[...])
    assert faim[0].fields[0].windows[0] == (328, 5061)
    neurons = open_plates(data_folder / "plates/virtual_staining/datasets/test")[0]["A/4/001"]
    assert neurons.channels == ["Phase", "DAPI", "MAP2", "NFH"]
    assert neurons.levels[1].translation[3:] == (0.5, 0.5)


# Writing


def stored(path, level=0):
    """Return what zarr alone reads."""
    return zarr.open_group(path, mode="r")[str(level)][...]


def write(path, array, version="0.5", **about):
    with ImageWriter(path, array.shape, array.dtype, [f"c{k}" for k in range(array.shape[1])], version=version, **about) as image:
        for t, c in np.ndindex(array.shape[:2]):
            image.write(array[t, c], t, c)
    return OmeImage(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "f4"])
def test_pieces_in_any_order_make_the_same_image(tmp_path, version, dtype):
    array = pixels((1, 2, 2, 601, 530), "u2").astype(dtype)
    corners = [(t, c, z, y, x) for t, c, z in np.ndindex(1, 2, 2) for y in range(0, 601, 200) for x in range(0, 530, 130)]
    with ImageWriter(tmp_path / "b", array.shape, dtype, CHANNELS, version=version) as image:
        for t, c, z, y, x in np.random.default_rng(0).permutation(corners):
            image.write(array[t, c, z, y : y + 200, x : x + 130], t, c, z, y, x)
    image = write(tmp_path / "a", array, version)
    for path in ("a", "b"):
        np.testing.assert_array_equal(stored(tmp_path / path), array)
        for n in (1, 2):
            assert stored(tmp_path / path, n).shape == (1, 2, 2, 601 >> n, 530 >> n)
            np.testing.assert_array_equal(stored(tmp_path / path, n), stored(tmp_path / "a", n))
    means = array[..., :600, :].reshape(1, 2, 2, 300, 2, 265, 2).astype(float).mean((4, 6))
    assert np.abs(image.levels[1][:] - means).max() <= (0.5 if dtype != "f4" else 1e-3)
    assert image.levels[0].stored.all()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_planes_that_were_never_written_stay_missing(tmp_path, version):
    with ImageWriter(tmp_path / "x", (2, 1, 3, 40, 50), np.uint16, ["a"], version=version) as image:
        image.write(np.zeros((40, 50)), 1, 0, 2)
    stored_chunks = OmeImage(tmp_path / "x").levels[0].stored
    assert stored_chunks.sum() == 1
    assert stored_chunks[1].any()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_large_image_is_few_files(tmp_path, version):
    plane = np.zeros((2048, 2048), np.uint16)
    with ImageWriter(tmp_path / "x", (1, 1, 20, *plane.shape), plane.dtype, ["a"], version=version) as image:
        chunks = image.levels[0].array.chunks
        image.write(np.broadcast_to(plane, (20, *plane.shape)), 0, 0)
    files = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]
    pixel_files = [path for path in files if path.name not in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
    num_fields, num_t, of_the_plate = 4, 3, 14
    assert num_fields * (num_t * len(pixel_files) + len(files) - len(pixel_files)) + of_the_plate < 200
    assert np.prod(chunks) * 2 <= 64 << 20
    assert version == "0.5" or chunks[2] == 20


def test_a_frame_is_written_in_the_memory_of_its_tiles(tmp_path):
    tile = np.ones((512, 512), np.float32)
    with ImageWriter(tmp_path / "x", (1, 1, 1, 4096, 4096), np.float32, ["a"]) as image:
        tracemalloc.start()
        for y in range(0, 4096, 512):
            for x in range(0, 4096, 512):
                image.write(tile, 0, 0, 0, y, x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 0.2 * 4096 * 4096 * 4
    assert (OmeImage(tmp_path / "x")[0, 0, 0, ::1, 4000:] == 1).all()


def test_a_dot_lies_at_the_same_place_in_every_level(tmp_path):
    array = np.zeros((1, 1, 1, 1100, 1100), np.float32)
    array[..., 612, 805] = 4096
    image = write(tmp_path / "x", array, scale=(1, 1, 1, 0.1, 0.1), translation=(0, 0, 0, 5.0, 7.0))
    for n, level in enumerate(image.levels):
        _, _, _, y, x = np.unravel_index(level[:].argmax(), level.shape)
        shift, step = level.translation[3:], level.scale[3:]
        assert np.abs(np.array([y, x]) * step + shift - [5 + 61.2, 7 + 80.5]).max() <= step[0] / 2
        assert shift[0] == pytest.approx(5 + 0.1 * (2**n - 1) / 2)
    assert len(image.levels) == 4


def test_label_pyramids_invent_no_label(tmp_path):
    labels = pixels((1, 1, 2, 600, 700)) * (pixels((1, 1, 2, 600, 700), seed=1) > 2000)
    labels[..., :300, :300] = 5
    with ImageWriter(tmp_path / "x", labels.shape, np.uint16, ["a"]) as image:
        image.write(labels[0, 0], 0, 0)
        with image.labels("nuclei", np.uint16) as mask:
            mask.write(labels[0, 0], 0, 0)
    found = OmeImage(tmp_path / "x").labels("nuclei")
    assert len(found.levels) == len(OmeImage(tmp_path / "x").levels) == 3
    for n, level in enumerate(found.levels):
        assert set(np.unique(level[:])) <= set(np.unique(labels))
        assert (level[:][..., : 300 >> n, : 300 >> n] == 5).all()
    with pytest.raises(ValueError, match="no labels 'cells'; it has nuclei"):
        OmeImage(tmp_path / "x").labels("cells")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_plate_lists_the_wells_that_are_given_alone(tmp_path, version):
    path = tmp_path / "p.zarr"
    places = [("B/4", "000"), ("A/10", "000"), ("A/2", "Site1"), ("A/2", "Site0")]
    create_plate(path, places, version)
    create_plate(path, places, version)  # another process begins with the same plate
    for well, field in places:
        write(path / well / field, pixels((1, 1, 1, 8, 9)), version)
    about = read_attributes(path)[1]["plate"]
    assert [row["name"] for row in about["rows"]] == ["A", "B"]
    assert [column["name"] for column in about["columns"]] == ["2", "4", "10"]
    assert about["wells"][0] == {"path": "B/4", "rowIndex": 1, "columnIndex": 1}
    (plate,) = open_plates(path)
    assert [field.name for field in plate.fields] == ["/".join(place) for place in [*places[:2], *places[2:]]]
    assert not plate.notes
    with pytest.raises(ValueError, match="holds another plate"):
        create_plate(path, places[:1], version)
    with pytest.raises(ValueError, match="'B4' is not a row and a column"):
        create_plate(tmp_path / "q.zarr", [("B4", "0")])


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_display_windows_come_from_the_data(tmp_path, dtype):
    array = np.random.default_rng(0).normal(1000, 100, (1, 2, 2, 200, 300)).astype(dtype)
    image = write(tmp_path / "x", array, windows=[None, (3, 9)])
    start, end = image.windows[0]
    assert start == pytest.approx(np.percentile(array[:, 0], 1), abs=5)
    assert end == pytest.approx(np.percentile(array[:, 0], 99.8), abs=20)
    assert image.windows[1] == (3, 9)
    window = image.omero["channels"][0]["window"]
    assert (window["min"], window["max"]) == ((0, 65535) if dtype == "u2" else (array[:, 0].min(), array[:, 0].max()))
    constant = write(tmp_path / "y", np.zeros((1, 1, 1, 9, 9), dtype))
    assert constant.windows[0][1] > constant.windows[0][0]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_metadata_are_what_readers_demand(tmp_path, version):
    with ImageWriter(
        *(tmp_path / "x", (1, 2, 1, 300, 300), np.uint16, CHANNELS),
        **{"version": version, "scale": (60, 1, 2, 0.5, 0.5), "units": {"T": "second", "X": "micrometer"}},
        attributes={"normalization": {"Phase": {}}},
    ) as image:
        with image.labels("nuclei") as mask:
            mask.write(np.ones((300, 300)), 0, 0)
    image = OmeImage(tmp_path / "x")
    assert (image.version, image.channels, image.attributes) == (version, CHANNELS, {"normalization": {"Phase": {}}})
    assert (image.frame_min, image.pixel_um, image.z_um) == (1, 0.5, None)
    assert set(image.omero["rdefs"]) == {"defaultT", "defaultZ", "model", "projection"}
    assert image.labels("nuclei").colors[0]["label-value"] == 1
    array = json.loads((tmp_path / "x/0" / ("zarr.json" if version == "0.5" else ".zarray")).read_text())
    assert array.get("dimension_names") == list("tczyx") if version == "0.5" else array["dimension_separator"] == "/"
    set_attributes(tmp_path / "x", {"mine": 1})
    assert OmeImage(tmp_path / "x").attributes == {"normalization": {"Phase": {}}, "mine": 1}
    assert OmeImage(tmp_path / "x").channels == CHANNELS


def test_an_image_appears_whole_or_not_at_all(tmp_path):
    create_plate(tmp_path / "p.zarr", [("A/1", "0")])
    path, shape = tmp_path / "p.zarr/A/1/0", (1, 1, 1, 8, 8)
    with pytest.raises(ZeroDivisionError):
        write_half(path, shape)
    assert [one.name for one in path.parent.iterdir()] == ["zarr.json"]
    write(path, np.ones(shape, np.uint8))
    with pytest.raises(ValueError, match=r"exists\. Remove it"):
        ImageWriter(path, shape, np.uint8, ["a"])
    with pytest.raises(ValueError, match="1 channels, but 2 names"):
        ImageWriter(tmp_path / "y", shape, np.uint8, ["a", "b"])
    with (
        pytest.raises(ValueError, match=r"were to be put at \(0, 0, 0, 4, 0\)"),
        ImageWriter(tmp_path / "z", shape, "u1", ["a"]) as image,
    ):
        image.write(np.ones((8, 8)), 0, 0, 0, 4)


def test_what_a_killed_process_left_is_not_seen_and_can_be_removed(tmp_path):
    create_plate(tmp_path / "p.zarr", [("A/1", "0"), ("A/1", "1")])
    write(tmp_path / "p.zarr/A/1/0", pixels((1, 1, 1, 8, 8)))
    pid = os.fork()
    if not pid:
        image = ImageWriter(tmp_path / "p.zarr/A/1/1", (1, 1, 2, 8, 8), np.uint16, ["a"])
        image.write(np.ones((8, 8)), 0, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(list((tmp_path / "p.zarr/A/1").glob(".1.*.partial"))) == 1
    (plate,) = open_plates(tmp_path / "p.zarr")
    assert ([field.name for field in plate.fields], plate.missing) == (["A/1/0"], ["the field A/1/1"])
    remove_partials(tmp_path / "p.zarr")
    assert sorted(path.name for path in (tmp_path / "p.zarr/A/1").iterdir()) == ["0", "zarr.json"]
    write(tmp_path / "p.zarr/A/1/1", pixels((1, 1, 1, 8, 8)))
    assert not open_plates(tmp_path / "p.zarr")[0].notes


def write_half(path, shape):
    with ImageWriter(path, shape, np.uint8, ["a"]) as image:
        image.write(np.ones(shape[3:]), 0, 0)
        with pytest.raises(FileNotFoundError, match="the field A/1/0"):
            open_plates(path.parents[2])
        raise ZeroDivisionError
