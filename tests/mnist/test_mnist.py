"""Digits come out of idx files as they went in, whatever the files are called, and damaged files are named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from microlatent.data.folders import raw_folder
from microlatent.data.store import Store
from microlatent.schemas import Settings
from microlatent.systems.mnist import assemble
from microlatent.systems.mnist.schema import AssembleMnistConfig, MnistConfig
from microlatent.systems.mnist.source import find_digits
from microlatent.tracking import NullTracker

RNG = np.random.default_rng(0)
PIXELS, DIGITS = RNG.integers(0, 256, (25, 6, 5)).astype(np.uint8), RNG.integers(0, 10, 25).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    magic = 2048 + array.ndim
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write(folder: Path, name: str, pixels=PIXELS, digits=DIGITS, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if packed else bytes
    (folder / name.format("images")).write_bytes(pack(idx(pixels)))
    if digits is not None:
        (folder / name.format("labels").replace("idx3", "idx1")).write_bytes(pack(idx(digits)))
    return folder


@pytest.mark.parametrize("name", ["train-{}-idx3-ubyte", "my_{}.bin", "T10K-{}.idx3-ubyte.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_digits_are_read_whether_packed_or_not_and_whatever_the_name_says(tmp_path, name, packed):
    (part,) = find_digits(write(tmp_path, name, packed=packed))
    np.testing.assert_array_equal(part.images, PIXELS)
    np.testing.assert_array_equal(part.labels, DIGITS)
    assert part.part_of == name.split("{")[0].strip("-_")


def settings(root: Path, out: Path, **task) -> Settings:
    return Settings(
        data=MnistConfig(name="mnist", root=str(root)), task=AssembleMnistConfig(name="assemble", **task), outputs=str(out)
    )


def test_the_store_has_every_digit_of_every_file_with_its_label_as_a_name(tmp_path):
    raw = write(tmp_path / "digits", "train-{}-idx3-ubyte.gz", packed=True)
    write(raw, "t10k-{}-idx3-ubyte", PIXELS[:7], DIGITS[:7])
    numbers = assemble.run(settings(raw, tmp_path / "out"), tmp_path / "run", NullTracker())
    assert numbers == {"digits": 32, "files": 2, "labelled": 32}
    store = Store.open(tmp_path / "out" / "stores" / "mnist-digits" / "mnist.h5")
    assert (store.name, store.channels, store.images.shape, store.images.dtype) == (
        "mnist",
        ["intensity"],
        (32, 1, 6, 5),
        np.uint8,
    )
    np.testing.assert_array_equal(store.images[:, 0], np.concatenate([PIXELS[:7], PIXELS]))
    assert store.table["true_digit"].tolist() == [str(digit) for digit in [*DIGITS[:7], *DIGITS]]
    assert store.table["part_of"].tolist() == ["t10k"] * 7 + ["train"] * 25
    assert store.table["key"].tolist() == store.table["image"].tolist() == [f"{number:05d}" for number in range(32)]
    counts = pd.read_csv(tmp_path / "run" / "tables" / "digits.csv")
    assert counts["digits"].tolist() == [7, 25]
    np.testing.assert_array_equal(counts.filter(regex=r"^of_\d").sum(1), [7, 25])
    other = write(tmp_path / "other" / "digits", "train-{}")
    with pytest.raises(ValueError, match=r"mnist.h5 was assembled from .*task.overwrite=true"):
        assemble.run(settings(other, tmp_path / "out"), tmp_path / "run", NullTracker())
    assemble.run(settings(other, tmp_path / "out", overwrite=True), tmp_path / "run", NullTracker())


def test_images_without_labels_have_the_empty_digit(tmp_path):
    raw = write(tmp_path / "digits", "train-{}", digits=None)
    chosen = settings(raw, tmp_path / "out")
    plan = assemble.preflight(chosen, tmp_path / "run")
    assert plan.reads == [f"{raw / 'train-images'}: 25 images of 6 x 5 px, without labels"]
    assert not (tmp_path / "out").exists()
    assert assemble.run(chosen, tmp_path / "run", NullTracker())["labelled"] == 0
    assert set(Store.open(tmp_path / "out" / "stores" / "mnist-digits" / "mnist.h5").table["true_digit"]) == {""}


def damage(folder: Path, case: str):
    images, labels = folder / "train-images", folder / "train-labels"
    write(folder, "train-{}", packed=case == "cut gzip")
    if case in ("cut", "cut gzip"):
        images.write_bytes(images.read_bytes()[:-20])
    elif case == "head alone":
        images.write_bytes(images.read_bytes()[:9])
    elif case == "longer":
        images.write_bytes(images.read_bytes() + b"x")
    elif case == "swapped":
        images.write_bytes(labels.read_bytes() + bytes(16))
    elif case == "no idx":
        labels.write_bytes(b"label\n1\n2\n3\n")
    elif case == "fewer labels":
        write(folder, "train-{}", digits=DIGITS[:20])
    elif case == "no partner":
        write(folder, "t10k-{}", digits=None)
    elif case == "sizes":
        write(folder, "zz-{}", PIXELS[:, :5])
    elif case == "no images":
        images.unlink()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("cut", r"train-images says that it holds 25 x 6 x 5 bytes, 750 in all, but has 730. It is cut short"),
        ("cut gzip", r"train-images cannot be unpacked"),
        ("head alone", r"train-images has 9 bytes"),
        ("longer", r"train-images .* longer than it says"),
        ("swapped", r"train-images begins with the number 2049 of labels, but an idx file of images begins with 2051"),
        ("no idx", r"train-labels begins with the number \d+, but an idx file of labels begins with 2049"),
        ("fewer labels", r"train-labels has 20 labels, but .*train-images has 25 images"),
        ("no partner", r"t10k-images has no file of labels"),
        ("sizes", r"zz-images has images of 5 x 5 px, but .*train-images of 6 x 5 px"),
        ("no images", r"holds train-labels, but no file with 'images' in its name"),
    ],
)
def test_damaged_and_unpaired_files_are_named(tmp_path, case, message):
    damage(tmp_path, case)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_digits(tmp_path)


def test_there_is_no_specimen_of_digits(tmp_path):
    with pytest.raises(ValueError, match="no simulated specimen of data=mnist"):
        raw_folder(MnistConfig(name="mnist", root="demo"), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_digits(tmp_path / "none")


def test_real_digits_are_read(data_folder):
    (part,) = find_digits(data_folder / "partitions" / "mnist")
    assert part.images.shape == (10000, 28, 28)
    assert sorted(set(part.labels)) == list(range(10))
    ones = part.images[part.labels == 1]
    assert ones.mean() < part.images[part.labels == 0].mean()  # a one has less ink than a zero
