"""Real patterns: every container of the data folder gives the same nine of nickel, bit for bit."""

import shutil

import numpy as np
import pytest
from PIL import Image

from microlatent.systems.kikuchi.ebsd import find_scans

NINE = {
    "ccby/ni_small_kikuchipy.h5": (3, 3),
    "vendor_containers_gpl/ni_small_edax.h5": (3, 3),
    "vendor_containers_gpl/ni_small_bruker.h5": (3, 3),
    "vendor_containers_gpl/ni_small_oxford.ebsp": (3, 3),  # its table does not begin with the first pattern of the file
    "vendor_containers_gpl/edax_binary.up1": (1, 9),
    "vendor_containers_gpl/nordif": (3, 3),
}


@pytest.fixture(scope="module")
def folder(data_folder):
    return data_folder / "kikuchi"


@pytest.fixture(scope="module")
def nickel(folder):
    """Return the nine patterns and their static background."""
    scan = find_scans(folder / "ccby/ni_small_kikuchipy.h5")[0]
    return scan.read(np.arange(9)), scan.static_background


@pytest.mark.parametrize("name", NINE)
def test_every_container_gives_the_nine_patterns(name, folder, nickel):
    for scan in find_scans(folder / name):
        assert scan.map_shape == NINE[name]
        assert scan.pattern_shape == (60, 60)
        assert np.array_equal(scan.read(np.arange(9)), nickel[0])
        assert scan.static_background is None or np.array_equal(scan.static_background, nickel[1])
        assert NINE[name] == (1, 9) or scan.step_um == (1.5, 1.5)


def test_oxford_holds_them_without_their_background(folder, nickel):
    (scan,) = find_scans(folder / "vendor_containers_gpl/ni_small_oxford_v5.h5oina")
    assert scan.background_corrected
    assert np.array_equal(scan.static_background, nickel[1])
    without = nickel[0].astype(float) - nickel[1]
    low, high = (edge(without, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    assert np.array_equal(scan.read(np.arange(9)), ((without - low) / (high - low) * 255).astype(np.uint8))


def test_bruker_region_lies_where_the_file_says(folder, nickel):
    (scan,) = find_scans(folder / "vendor_containers_gpl/ni_small_bruker_roi.h5")
    assert scan.map_shape == (3, 2)
    stored = nickel[0][[1, 2, 4, 5, 7, 8]]
    assert np.array_equal(scan.read(np.arange(6)), stored[[1, 2, 0, 3, 4, 5]])  # IY is 1 0 0 1 2 2, IX 1 1 2 2 1 2


def test_hexagonal_up2_is_refused_and_its_square_twin_read(folder, nickel, tmp_path, caplog):
    source = folder / "vendor_containers_gpl/edax_binary.up2"
    with pytest.raises(ValueError, match=r"edax_binary.up2 was scanned on a hexagonal grid \(3 rows of 3\)"):
        find_scans(source)
    raw = bytearray(source.read_bytes())
    raw[25] = 0
    (tmp_path / "square.up2").write_bytes(raw)
    (scan,) = find_scans(tmp_path)
    assert scan.dtype == np.uint16
    assert np.array_equal(scan.read(np.arange(9)), nickel[0])
    assert "7200 bytes behind its 9 patterns" in caplog.text  # the tenth is blank


def test_folder_passes_over_what_is_no_scan(folder, caplog):
    scans = find_scans(folder / "ccby")
    assert [scan.name for scan in scans] == [
        "ni_small_kikuchipy_1",
        "ni_small_kikuchipy_2",
        "si_in",
        "si_out5mm",
        "si_out10mm",
    ]
    assert "ni_master_emsoft_20kv_401.h5" in caplog.text
    silicon = [scan.read(np.array([0]))[0] for scan in scans[2:]]
    assert all(pattern.shape == (480, 480) and pattern.std() > 10 for pattern in silicon)
    assert not np.array_equal(silicon[0], silicon[1])


def test_simulated_h5oina_gives_patterns_band_contrast_elements_and_phases(folder):
    (scan,) = find_scans(folder / "synthetic")
    assert (scan.format, scan.map_shape, scan.pattern_shape) == ("Oxford H5OINA 7.0", (24, 32), (40, 40))
    assert scan.elements == dict.fromkeys(("element_Al", "element_Fe", "element_O"), "wt%")
    assert scan.phases == {1: "Fe", 2: "FeO", 3: "Fe3O4"}
    assert np.corrcoef(scan.points["element_Fe"], scan.points["phase"] == 1)[0, 1] > 0.9  # iron has the most iron
    (raw,) = find_scans(folder / "synthetic", patterns="unprocessed")
    assert raw.dtype == np.int16
    assert not raw.background_corrected
    assert np.allclose(raw.read(np.arange(768)).mean(0), raw.static_background, atol=2)


def test_hkl_images_are_read_once_they_are_named_by_position(folder, tmp_path):
    source = folder / "hkl_patterns_gpl/Project19"
    with pytest.raises(FileNotFoundError, match="4 images, none of which is named by its position"):
        find_scans(source)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, tmp_path / f"x_{number % 2}_y_{number // 2}{path.suffix}")
    (scan,) = find_scans(tmp_path)
    assert (scan.map_shape, scan.pattern_shape) == ((2, 2), (256, 336))
    expected = np.stack([np.asarray(Image.open(path)) for path in sorted(source.iterdir())])
    assert np.array_equal(scan.read(np.arange(4)), expected)
