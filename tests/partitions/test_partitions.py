"""Tissue of every format becomes the same partitions; what does not fit together is named, and every pixel is covered."""

import logging
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from microlatent.analysis.threshold import otsu
from microlatent.data.source import PatchSource
from microlatent.data.store import Store
from microlatent.schemas import Settings
from microlatent.systems.partitions import assemble as task_module
from microlatent.systems.partitions.files import find_images
from microlatent.systems.partitions.schema import AssemblePartitionsConfig, PartitionsConfig
from microlatent.systems.partitions.source import cut
from microlatent.tracking import NullTracker
from tests.specimen import write_partition_store

NAMES = ["CD8", "DAPI", "Ki-67", "Foxp3"]
PIXELS = np.random.default_rng(0).integers(0, 60000, (4, 40, 50)).astype(np.uint16)


def config(root, **options) -> PartitionsConfig:
    return PartitionsConfig(name="partitions", root=str(root), **options)


def find(root, **options):
    return find_images(root, config(root, **options))


def write_ome(path: Path, pixels=PIXELS, names=NAMES, pixel_um=0.5, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"axes": "CYX", "Channel": {"Name": list(names)}, "PhysicalSizeX": pixel_um, "PhysicalSizeXUnit": "\u00b5m"}
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=about, **options)
    return path


def write_pages(path: Path, pixels=PIXELS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack", **options)
    return path


def write_files(folder: Path, pixels=PIXELS, names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, plane in zip(names, pixels, strict=True):
        tifffile.imwrite(folder / f"{name}_Xx123.tiff", plane)


def write_kind(root: Path, kind: str) -> dict:
    """Write one image of subject S1 in a format, and return the settings that read it."""
    path = root / "S1" / "im1.tif"
    if kind == "files":
        write_files(root / "S1" / "im1")
        return {"images": "{subject}/{image}/{channel}_*.tiff"}
    if kind == "ome":
        write_ome(path.with_name("im1.ome.tif"))
    elif kind == "compressed":
        write_ome(path, tile=(16, 16), compression="zlib")
    elif kind == "imagej":
        path.parent.mkdir()
        about = {"axes": "CYX", "Labels": NAMES, "unit": "um"}
        tifffile.imwrite(path, PIXELS, imagej=True, resolution=(2, 2), metadata=about)
    elif kind == "inform":
        path.parent.mkdir()
        with tifffile.TiffWriter(path) as file:
            for name, plane in zip(NAMES, PIXELS, strict=True):
                text = f"<PerkinElmer-QPI-ImageDescription><Name>{name}</Name></PerkinElmer-QPI-ImageDescription>"
                file.write(plane, description=text, software="PerkinElmer-QPI", metadata=None, contiguous=False)
    else:
        if kind == "big-endian":
            write_pages(path, byteorder=">")
        elif kind == "bigtiff":
            write_pages(path, bigtiff=True)
        elif kind == "npy":
            path.parent.mkdir()
            np.save(path.with_suffix(".npy"), PIXELS)
        else:
            write_pages(path)
        return {"channel_names": NAMES}
    return {}


@pytest.mark.parametrize("kind", ["pages", "big-endian", "bigtiff", "ome", "compressed", "imagej", "inform", "npy", "files"])
def test_every_format_gives_the_same_image(tmp_path, kind):
    (image,) = find(tmp_path, **write_kind(tmp_path, kind))
    assert (image.subject, image.image, image.channels) == ("S1", "im1", sorted(NAMES) if kind == "files" else NAMES)
    assert (image.shape_px, image.dtype) == ((40, 50), np.uint16)
    np.testing.assert_array_equal(image.read(), PIXELS[[NAMES.index(name) for name in image.channels]])
    assert image.pixel_um == (0.5 if kind in ("ome", "compressed", "imagej") else None)


def test_channels_are_matched_by_name_whatever_their_order(tmp_path):
    write_ome(tmp_path / "S1" / "a.tif")
    write_ome(tmp_path / "S2" / "b.tif", PIXELS[::-1], NAMES[::-1])
    for options in ({}, {"channels": ["Foxp3", "CD8"]}, {"drop_channels": ["DAPI"]}):
        one, other = find(tmp_path, **options)
        assert (
            one.channels
            == other.channels
            == options.get("channels", [n for n in NAMES if n not in options.get("drop_channels", [])])
        )
        np.testing.assert_array_equal(one.read(), other.read())
        np.testing.assert_array_equal(one.read()[0], PIXELS[NAMES.index(one.channels[0])])


def test_pages_without_names_are_numbered_and_one_can_be_dropped(tmp_path):
    write_pages(tmp_path / "S1" / "a.tif")
    (image,) = find(tmp_path, drop_channels=["page_3"])
    assert image.channels == ["page_0", "page_1", "page_2"]
    np.testing.assert_array_equal(image.read(), PIXELS[:3])


def test_a_coloured_composite_among_the_pages_is_left_out_only_when_the_config_says_so(tmp_path):
    (tmp_path / "S1").mkdir()
    with tifffile.TiffWriter(tmp_path / "S1" / "a.tif") as file:
        for plane in PIXELS:
            file.write(plane, metadata=None, contiguous=False)
        file.write(np.zeros((40, 50, 3), np.uint8), photometric="rgb", metadata=None)
        file.write(np.zeros((4, 5, 3), np.uint8), photometric="rgb", metadata=None)  # a thumbnail
    with pytest.raises(ValueError, match=r"page_4 is another kind.*colours.*data.drop_channels=\[page_4\]"):
        find(tmp_path)
    (image,) = find(tmp_path, drop_channels=["page_4"])
    np.testing.assert_array_equal(image.read(), PIXELS)


def test_names_of_subjects_and_images_come_from_the_path(tmp_path):
    for name in ("P10/im2", "P10/im10", "P2/s.1", "P2/s.2"):
        write_ome(tmp_path / f"{name}.ome.tif")
    assert [image.name for image in find(tmp_path)] == ["P2/s.1", "P2/s.2", "P10/im2", "P10/im10"]
    assert [image.name for image in find(tmp_path, subjects=["P10"])] == ["P10/im2", "P10/im10"]
    shutil.copytree(tmp_path / "P10", tmp_path / "flat" / "deep")
    assert [image.name for image in find(tmp_path / "flat", images="deep/{subject}.ome.tif")] == ["im2/im2", "im10/im10"]
    with pytest.raises(ValueError, match=r"data.subjects names \['P3'\], but .* has \['P2', 'P10'\]"):
        find(tmp_path, subjects=["P2", "P3"])
    with pytest.raises(ValueError, match=r"has no \{subject\}"):
        find(tmp_path, images="{image}.tif")


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for subject in ("b", "a", "c"):
        for image in ("3", "1", "20"):
            write_pages(tmp_path / subject / f"{image}.tif", PIXELS[:1])
    there = [image.name for image in find(tmp_path)]
    listed = Path.iterdir
    for seed in range(3):
        rng = np.random.default_rng(seed)
        monkeypatch.setattr(Path, "iterdir", lambda self, rng=rng: iter(rng.permutation(list(listed(self)))))
        assert [image.name for image in find(tmp_path)] == there == [f"{s}/{i}" for s in "abc" for i in ("1", "3", "20")]


def test_files_that_are_no_images_are_passed_over_and_named(tmp_path, caplog):
    write_ome(tmp_path / "S1" / "a.tif")
    for name in ("S1/notes.txt", "S1/.hidden.tif", "S1/README"):
        (tmp_path / name).write_text("x")
    with caplog.at_level(logging.WARNING):
        assert len(find(tmp_path)) == 1
    assert len(caplog.records) == 1
    assert "S1/README" in caplog.text
    assert "notes.txt" in caplog.text
    assert "hidden" not in caplog.text


def test_no_subject_at_all_is_refused_with_the_list(tmp_path):
    write_ome(tmp_path / "S1" / "a.tif")
    chosen = config(tmp_path)
    chosen.subjects = []
    with pytest.raises(ValueError, match=r"data.subjects is \[\], but .* has \['S1'\].*leave it out to take all"):
        find_images(tmp_path, chosen)


@pytest.mark.parametrize("dtypes", [("u2", "u1", "u1"), ("u1", "u1", "u1"), ("u2", "u4", "u2"), ("f4", "f8", "f4")], ids=str)
def test_integers_of_different_width_are_mixed_with_one_warning_that_names_examples(tmp_path, caplog, dtypes):
    for number, dtype in enumerate(dtypes):
        write_ome(tmp_path / f"S{number}" / "a.tif", (PIXELS // 256).astype(dtype))
    assert [image.dtype for image in find(tmp_path)] == [np.dtype(dtype) for dtype in dtypes]
    if dtypes[0] == dtypes[1] or "f4" in dtypes:
        assert not caplog.records
    else:
        (record,) = caplog.records
        for number in (0, 1):
            assert f"{np.dtype(dtypes[number])} in S{number}/a" in record.message
        assert "do not compare unless they were scaled alike" in record.message


def wrong(root: Path, case: str) -> dict:
    """Write images that do not fit together, or one that is damaged, and return the settings that read them."""
    good, bad = root / "S1" / "good.tif", root / "S2" / "bad.tif"
    write_ome(good)
    if case == "missing channel":
        write_ome(bad, PIXELS[:3], NAMES[:3])
    elif case == "further channel":
        write_ome(bad, PIXELS[[0, 1, 2, 3, 0]], [*NAMES, "IDO"])
    elif case == "doubled channel":
        write_ome(bad, names=["CD8", "DAPI", "CD8", "Foxp3"])
    elif case == "doubled label":
        bad.parent.mkdir()
        tifffile.imwrite(bad, PIXELS, imagej=True, metadata={"axes": "CYX", "Labels": ["CD8", "DAPI", "CD8", "Foxp3"]})
    elif case == "other kind of numbers":
        write_ome(bad, PIXELS.astype(np.float32))
    elif case == "colours":
        bad.parent.mkdir()
        tifffile.imwrite(bad, np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    elif case == "time points":
        bad.parent.mkdir()
        tifffile.imwrite(bad, PIXELS[:, None], imagej=True, metadata={"axes": "TCYX"})
    elif case == "complex":
        bad.parent.mkdir()
        np.save(bad.with_suffix(".npy"), PIXELS.astype(complex))
        return {"channel_names": NAMES}
    elif case == "number of names":
        write_pages(bad, PIXELS[:2])
        return {"channel_names": NAMES}
    elif case == "twice":
        write_ome(bad)
        np.save(bad.with_suffix(".npy"), PIXELS)
    elif case == "missing file":
        write_files(root / "S1" / "im")
        write_files(root / "S2" / "im", PIXELS[:3], NAMES[:3])
        return {"images": "{subject}/{image}/{channel}_*.tiff"}
    elif case == "sizes":
        write_files(root / "S2" / "im")
        tifffile.imwrite(root / "S2" / "im" / "CD8_Xx123.tiff", PIXELS[0, :30])
        return {"images": "{subject}/{image}/{channel}_*.tiff"}
    elif case == "channel in pattern":
        return {"images": "{subject}/{channel}.tif"}
    return {
        "absent dropped": {"drop_channels": ["composite"]},
        "absent chosen": {"channels": ["CD8", "CD4"]},
        "all dropped": {"drop_channels": NAMES},
    }.get(case, {})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing channel", r"S2/bad.*\['CD8', 'DAPI', 'Ki-67'\], but S1/good.*\['Foxp3'\] is missing"),
        ("further channel", r"S2/bad.*\['IDO'\] is more.*data.channels"),
        ("doubled channel", r"bad.tif has more than one channel named \['CD8'\]"),
        ("doubled label", r"bad.tif has more than one channel named \['CD8'\]"),
        ("other kind of numbers", r"S2/bad .*bad.tif\) holds numbers of type float32, but S1/good .*uint16"),
        ("colours", r"bad.tif is a coloured picture.*a page or a file for every marker"),
        ("time points", r"bad.tif has 4 time points"),
        ("complex", r"bad.npy holds numbers of type complex128"),
        ("number of names", r"data.channel_names has 4 names.*bad.tif has 2 pages"),
        ("twice", r"bad.npy and .*bad.tif are both image bad of subject S2"),
        ("missing file", r"S2/im .*\['Foxp3'\] is missing \(the other has it in .*S1/im/Foxp3_Xx123.tiff"),
        ("sizes", r"S2/im.*30 x 50 px.*40 x 50|DAPI.*40 x 50 px, but .*CD8.*30 x 50"),
        ("channel in pattern", r"good.tif holds 4 channels, but \{channel\}"),
        ("absent dropped", r"data.drop_channels names \['composite'\], but the images have \['CD8', 'DAPI', 'Ki-67', 'Foxp3'\]"),
        ("absent chosen", r"data.channels names \['CD4'\], but S1/good"),
        ("all dropped", "leaves no channel"),
    ],
)
def test_images_that_do_not_agree_are_named(tmp_path, case, message):
    options = wrong(tmp_path, case)
    with pytest.raises(ValueError, match=message):
        find(tmp_path, **options)


@pytest.mark.parametrize("kind", ["pages", "bigtiff", "ome", "compressed", "imagej", "inform", "npy", "files"])
@pytest.mark.parametrize("share", [0.97, 0.5])
def test_a_truncated_file_is_named_and_never_read_as_fewer_channels(tmp_path, kind, share):
    options = write_kind(tmp_path, kind)
    path = sorted(path for path in tmp_path.rglob("*") if path.is_file())[-1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read.*cut short: copy it again"):
        find(tmp_path, **options)[0].read()


def test_pixels_that_a_decoder_chokes_on_are_named(tmp_path):
    path = write_ome(tmp_path / "S1" / "a.tif", compression="zlib")
    with tifffile.TiffFile(path) as file:
        start = file.pages[2].dataoffsets[0]
    raw = bytearray(path.read_bytes())
    raw[start + 50 : start + 250] = bytes(200)
    path.write_bytes(raw)
    (image,) = find(tmp_path)
    with pytest.raises(ValueError, match=r"a.tif cannot be read"):
        image.read()


def test_pixels_that_are_not_finite_are_refused_with_their_place(tmp_path):
    pixels = PIXELS.astype(np.float32)
    pixels[1, 3, 7] = np.nan
    write_ome(tmp_path / "S1" / "a.tif", pixels)
    with pytest.raises(ValueError, match=r"a.tif, channel DAPI: 1 pixels are NaN.*row 3, column 7"):
        find(tmp_path)[0].read()
    (image,) = find(tmp_path, drop_channels=["DAPI"])
    np.testing.assert_array_equal(image.read(), np.delete(pixels, 1, 0))


@given(st.integers(8, 60), st.integers(8, 60), st.integers(4, 24), st.integers(0, 23))
@settings(max_examples=60, deadline=None)
def test_shifted_squares_cover_every_pixel_and_none_comes_twice(height, width, size, overlap):
    size = min(size, height, width)
    overlap = min(overlap, size - 1)
    corners = cut((height, width), size, overlap)
    covered = np.zeros((height, width), int)
    for row, col in corners:
        assert 0 <= row <= height - size
        assert 0 <= col <= width - size
        covered[row : row + size, col : col + size] += 1
    assert covered.min() > 0
    assert len(np.unique(corners, axis=0)) == len(corners)
    if overlap == 0 and height % size == 0 and width % size == 0:
        assert covered.max() == 1
    dropped = cut((height, width), size, overlap, "drop")
    assert set(map(tuple, dropped)) <= set(map(tuple, corners))
    if overlap == 0:
        assert len(dropped) == (height // size) * (width // size)  # as the reference counts them
    assert (np.diff(dropped[:, 0]) >= 0).all()


def test_images_smaller_than_a_partition_are_refused():
    with pytest.raises(ValueError, match="40 x 50 px is smaller than a partition of 48"):
        cut((40, 50), 48)


def assemble(root: Path, out: Path, task=None, **options):
    """Run the task and return its numbers and the stores by subject."""
    task = AssemblePartitionsConfig(name="assemble", **({"size": 16} | (task or {})))
    chosen = Settings(data=config(root, store=str(out / "stores"), **options), task=task, outputs=str(out))
    numbers = task_module.run(chosen, out, NullTracker())
    return numbers, {path.stem: Store.open(path) for path in sorted((out / "stores").glob("*.h5"))}


def test_partitions_are_the_pixels_at_their_corners_in_the_cameras_type(tmp_path):
    write_ome(tmp_path / "raw" / "S1" / "a.tif")
    write_ome(tmp_path / "raw" / "S1" / "b.tif", PIXELS[:, ::-1, :33])
    write_ome(tmp_path / "raw" / "S2" / "a.tif", (PIXELS // 256).astype(np.uint8))  # a subject with one image
    numbers, stores = assemble(tmp_path / "raw", tmp_path / "out", {"overlap": 4}, drop_channels=["DAPI"])
    assert numbers == {"subjects": 2, "images": 3, "partitions": 12 + 9 + 12, "left_out": 0}
    kept = [0, 2, 3]
    originals = {("S1", "a"): PIXELS[kept], ("S1", "b"): PIXELS[kept][:, ::-1, :33], ("S2", "a"): PIXELS[kept] // 256}
    for subject, store in stores.items():
        assert store.name == subject
        assert store.channels == ["CD8", "Ki-67", "Foxp3"]
        assert store.images.dtype == (np.uint16 if subject == "S1" else np.uint8)
        assert store.pixel_um == store.patch_pixel_um == 0.5
        assert store.table["key"].is_unique
        for row, (image, y, x) in enumerate(zip(*(store.table[c] for c in ("image", "row_px", "col_px")), strict=True)):
            np.testing.assert_array_equal(store.images[row], originals[subject, image][:, y : y + 16, x : x + 16])
            assert store.table["key"][row] == f"{subject}/{image}/{y}_{x}"
        assert (store.origin["size"], store.origin["overlap"]) == (16, 4)
    assert stores["S1"].origin["images"]["b"]["shape_px"] == [40, 33]
    summary = pd.read_csv(tmp_path / "out" / "tables" / "subjects.csv")
    assert summary["partitions"].tolist() == [21, 12]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"S1": (0.5, 0.5), "S2": (0.502,)}, []),
        ({"S1": (0.5, 0.5), "S2": (0.65,), "S3": (0.25,)}, [r"subject S3 measure 0.25 um, those of S2 0.65 um"]),
        ({"S1": (0.5, 1.0), "S2": (0.5,)}, [r"S1: the pixels of its images measure from 0.5 to 1 um"]),
    ],
    ids=["alike", "between subjects", "within a subject"],
)
def test_pixels_of_different_size_are_warned_of_once_between_subjects_and_within_them(tmp_path, caplog, sizes, said):
    for subject, here in sizes.items():
        for number, pixel_um in enumerate(here):
            write_ome(tmp_path / "raw" / subject / f"{number}.tif", pixel_um=pixel_um)
    _, stores = assemble(tmp_path / "raw", tmp_path / "out")
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING and "pixels of" in record.message]
    assert len(warned) == len(said)
    assert all(re.search(pattern, text) for pattern, text in zip(said, warned, strict=True))
    assert all(stores[name].pixel_um == (here[0] if len(set(here)) == 1 else None) for name, here in sizes.items())
    caplog.clear()
    assemble(tmp_path / "raw", tmp_path / "other", pixel_um=0.5)
    assert not [record for record in caplog.records if "pixels of" in record.message]


@pytest.mark.parametrize(("sizes", "expected"), [([0.5, 0.5], 0.5), ([0.5, 0.65], None), ([0.5, None], None), ([None], None)])
def test_scale_bars_need_one_size_of_a_pixel_in_all_stores(sizes, expected, tmp_path):
    for number, size in enumerate(sizes):
        write_partition_store(tmp_path / f"{number}.h5", f"s{number}", 1, patch_pixel_um=size)
    source = PatchSource([Store.open(path) for path in sorted(tmp_path.iterdir())], None)
    assert source.pixel_um == expected


def test_the_reference_files_hold_its_partitions_and_the_manifest_says_whose(tmp_path):
    write_ome(tmp_path / "raw" / "S2" / "b.tif")
    write_ome(tmp_path / "raw" / "S10" / "a.tif", PIXELS[:, :33])
    assemble(tmp_path / "raw", tmp_path / "out", {"remainder": "drop", "reference_files": True})
    manifest = pd.read_csv(tmp_path / "out" / "reference" / "manifest.csv")
    assert manifest[["i", "subject", "image", "rows", "columns", "partitions"]].values.tolist() == [
        [0, "S2", "b", 40, 50, 6],
        [1, "S10", "a", 33, 50, 6],
    ]
    partitions = np.load(tmp_path / "out" / "reference" / "data_partition_0.npy")
    assert partitions.dtype == np.float64
    rows_last = PIXELS[:, :32, :48].transpose(1, 2, 0)  # whole tiles, row by row, channels last
    expected = rows_last.reshape(2, 16, 3, 16, 4).swapaxes(1, 2).reshape(6, 16, 16, 4)
    np.testing.assert_array_equal(partitions, expected)


def half_tissue(rng) -> np.ndarray:
    """Return an image whose left 24 of 50 columns hold tissue."""
    pixels = rng.poisson(3, (4, 40, 50)).astype(np.uint16)
    pixels[:, :, :24] += rng.poisson(60, (4, 40, 24)).astype(np.uint16)
    return pixels


def test_background_is_left_out_when_asked_for(tmp_path):
    pixels = half_tissue(np.random.default_rng(1))
    write_ome(tmp_path / "raw" / "S1" / "a.tif", pixels)
    _, stores = assemble(tmp_path / "raw", tmp_path / "all", {"size": 10})
    table = stores["S1"].table
    truth = np.clip(24 - table["col_px"], 0, 10) / 10
    np.testing.assert_allclose(table["foreground"], truth, atol=0.06)  # the smoothing moves the border by less than a pixel
    for task in ({"min_foreground": 0.2}, {"min_foreground": 0.2, "foreground_counts": 30.0}):
        numbers, stores = assemble(tmp_path / "raw", tmp_path / "some", {"size": 10, "overwrite": True, **task})
        assert numbers["left_out"] == 8
        assert sorted(set(stores["S1"].table["col_px"])) == [0, 10, 20]
    with pytest.raises(ValueError, match=r"Subject S1: all 20 partitions have less foreground than task.min_foreground=0.5"):
        assemble(tmp_path / "raw", tmp_path / "none", {"size": 10, "min_foreground": 0.5, "foreground_counts": 500.0})
    assert not list((tmp_path / "none").rglob("*.h5"))


def test_too_small_images_are_named_before_anything_is_written(tmp_path):
    write_ome(tmp_path / "raw" / "S1" / "a.tif")
    write_ome(tmp_path / "raw" / "S2" / "b.tif", PIXELS[:, :12])
    with pytest.raises(ValueError, match=r"S2/b .*b.tif\) has 12 x 50 px, but a partition has 16 x 16 px. Choose task.size=8"):
        assemble(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out" / "stores").exists()


def test_a_store_of_another_folder_is_not_replaced(tmp_path):
    for name in ("one", "two"):
        write_ome(tmp_path / name / "S1" / "a.tif")
    assemble(tmp_path / "one", tmp_path / "out")
    with pytest.raises(ValueError, match=r"assembled from .*one, not from data.root=.*two.*task.overwrite=true"):
        assemble(tmp_path / "two", tmp_path / "out")
    _, stores = assemble(tmp_path / "two", tmp_path / "out", {"overwrite": True})
    assert stores["S1"].origin["data_root"] == str(tmp_path / "two")


def test_memory_is_flat_in_the_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr("microlatent.data.store.COPY_BYTES", 1 << 16)
    pixels = np.random.default_rng(0).integers(0, 9, (4, 128, 128)).astype(np.uint16)
    first = write_ome(tmp_path / "raw" / "S1" / "0.tif", pixels)
    for number in range(1, 24):
        shutil.copyfile(first, first.with_name(f"{number}.tif"))
    peaks = []
    for num in (4, 24):
        for path in (tmp_path / "raw" / "S1").iterdir():
            if int(path.stem) >= num:
                path.rename(tmp_path / path.name)
        tracemalloc.start()
        assemble(tmp_path / "raw", tmp_path / f"out{num}", {"size": 64})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        for path in tmp_path.glob("*.tif"):
            path.rename(tmp_path / "raw" / "S1" / path.name)
    assert peaks[1] < peaks[0] + 4 * pixels.nbytes  # twenty images more


def test_a_check_says_what_would_be_written_and_writes_nothing(tmp_path):
    for number in range(8):
        write_ome(tmp_path / "raw" / f"S{number}" / "a.tif")
    chosen = Settings(
        data=config(tmp_path / "raw"), task=AssemblePartitionsConfig(name="assemble", size=16), outputs=str(tmp_path / "out")
    )
    plan = task_module.preflight(chosen, tmp_path / "out")
    assert "S0: 1 images of 40 x 50 px, 12 partitions" in plan.reads
    assert plan.writes[-1] == "... 8 stores in all"
    assert plan.disk_mb == pytest.approx(2 * 8 * 12 * 4 * 16 * 16 * 2 / 1e6)
    assert not (tmp_path / "out").exists()


@given(st.floats(0.1, 100), st.floats(-50, 50), st.floats(0.2, 0.8))
@settings(max_examples=25, deadline=None)
def test_otsus_threshold_parts_two_groups_and_moves_with_them(scale, shift, share):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < share, rng.normal(10, 1, 4000), rng.normal(0, 1, 4000))
    assert 3.0 < otsu(values) < 7.0
    assert otsu(values * scale + shift) == pytest.approx(otsu(values) * scale + shift, abs=0.02 * scale)
    assert otsu([*values, np.nan]) == otsu(values)


def test_nothing_of_a_constant_image_is_above_its_threshold():
    assert not (np.full((4, 4), 7.0) > otsu(np.full((4, 4), 7.0))).any()


def test_real_spleen_is_read_by_marker(data_folder, tmp_path):
    root = data_folder / "partitions" / "spectre_imc_spleen"
    options = {"images": "ROIs/{subject}/{channel}_*.tiff", "drop_channels": ["140Ce", "80ArAr"]}
    one, two = find(root, **options)
    assert (one.name, two.name) == ("ROI002/ROI002", "ROI004/ROI004")
    assert len(one.channels) == 13
    assert one.channels == two.channels
    assert (one.shape_px, two.shape_px) == ((501, 500), (500, 501))
    collagen = tifffile.imread(root / "ROIs" / "ROI004" / "CollagenI_Tm169.tiff")
    np.testing.assert_array_equal(two.read()[two.channels.index("CollagenI")], collagen)
    numbers, stores = assemble(root, tmp_path, {"size": 64, "overlap": 16}, **options)
    assert numbers["partitions"] == 242
    rebuilt = np.zeros((13, 500, 501), np.uint16)
    table, images = stores["ROI004"].table, stores["ROI004"].images
    for row, (y, x) in enumerate(zip(table["row_px"], table["col_px"], strict=True)):
        rebuilt[:, y : y + 64, x : x + 64] = images[row]
    np.testing.assert_array_equal(rebuilt, two.read())
