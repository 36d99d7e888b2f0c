"""EBSD files that cannot be read are refused in words that say what is wrong, where, and what to do."""

import h5py
import numpy as np
import pytest
from PIL import Image

from microlatent.systems.kikuchi.ebsd import find_scans
from tests import ebsd_files as files
from tests.ebsd_files import MAP_SHAPE, some_patterns

PATTERNS = some_patterns()
HOLES = np.ones(MAP_SHAPE, bool)
HOLES[1, 2] = HOLES[3, 0] = False


def refused(path, *texts, error=ValueError, read=False):
    """Check that a scan is refused in these words."""

    def open_and_read():
        scans = find_scans(path)
        return scans[0].read(np.arange(20)) if read else scans

    with pytest.raises(error) as caught:
        open_and_read()
    for text in texts:
        assert text in str(caught.value)


def test_truncated_hdf5_is_refused_with_its_sizes(tmp_path):
    path = files.oxford(tmp_path, PATTERNS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, f"{path} is cut short: it has {len(whole) // 2} bytes, but says that it has {len(whole)}. Copy it again.")


def test_file_that_only_has_the_name_is_refused(tmp_path):
    (tmp_path / "a.h5oina").write_text("no HDF5")
    refused(tmp_path / "a.h5oina", "cannot be opened as HDF5", "copy it again")


@pytest.mark.parametrize(
    ("write", "needed", "has"),
    [
        (lambda f: files.up(f, PATTERNS), 42 + 20 * 48, 42 + 20 * 48 - 5),
        (lambda f: files.up(f, PATTERNS, 1), 16 + 20 * 48, 16 + 20 * 48 - 5),
        (lambda f: files.nordif(f, PATTERNS), 20 * 48, 20 * 48 - 5),
        (lambda f: files.ebsp(f, PATTERNS, 0), 20 * (8 + 16 + 48), 20 * (8 + 16 + 48) - 5),
    ],
)
def test_truncated_raw_files_are_refused_with_their_sizes(write, needed, has, tmp_path):
    root = write(tmp_path)
    path = root / "Pattern.dat" if root.is_dir() else root
    path.write_bytes(path.read_bytes()[:-5])
    refused(root, f"is cut short: it has {has} bytes", str(needed), "Copy it again")


@pytest.mark.parametrize(
    ("write", "name", "text"),
    [
        (files.oxford, "1/EBSD/Header/X Cells", "no data set 'X Cells' in /1/EBSD/Header, which every file of this format has"),
        (files.kikuchipy, "Scan 1/EBSD/Data/patterns", "no data set 'patterns' in /Scan 1/EBSD/Data, which every file of this"),
        (files.edax, "Scan 1/EBSD/Header/nRows", "no data set 'nRows' in /Scan 1/EBSD/Header"),
        (files.table, "coords", "no data set 'coords' in /, which every file of this format has. It has 'images'."),
        (files.table, "images", "no data set 'images' in /, which every file of this format has. It has 'coords'."),
        (files.oxford, "1/EBSD/Header", "no group with EBSD/Data and EBSD/Header, where this format keeps a scan. It has '1', "),
    ],
)
def test_missing_data_set_is_named_with_what_is_there(write, name, text, tmp_path):
    path = write(tmp_path, PATTERNS)
    with h5py.File(path, "r+") as file:
        del file[name]
    refused(path, text)


@pytest.mark.parametrize("write", [files.apex, lambda folder: files.edax(folder, None, name="scan.oh5")])
def test_edax_without_patterns_is_a_map_and_says_where_they_are(write, tmp_path, caplog):
    (scan,) = find_scans(write(tmp_path))
    assert scan.pattern_shape is None
    assert scan.dtype is None
    assert scan.step_um == (0.5, 0.25)
    assert list(scan.points["iq"]) == list(range(20))
    assert "holds no patterns: a map alone" in caplog.text
    with pytest.raises(ValueError, match=r"holds no patterns. EDAX keeps patterns of newer scans in a .up1 or .up2 file"):
        scan.read(np.arange(3))


def test_h5oina_without_patterns_is_a_map_and_says_since_when_it_holds_them(tmp_path):
    path = files.oxford(tmp_path, PATTERNS)
    with h5py.File(path, "r+") as file:
        del file["1/EBSD/Data/Processed Patterns"]
    refused(path, "holds no patterns. H5OINA holds patterns since 5.0, if they were stored; this file is 7.0.", read=True)


def test_fewer_patterns_than_points_are_refused(tmp_path):
    path = files.edax(tmp_path, PATTERNS[:3])
    refused(path, "/Scan 1/EBSD/Data/Pattern holds 15 patterns, but the map of 4 x 5 has 20 points", "export it again")


def test_doubled_coordinates_are_refused(tmp_path):
    coords = np.argwhere(np.ones(MAP_SHAPE))[:, ::-1].copy()
    coords[7] = coords[11] = coords[3]
    refused(files.table(tmp_path, PATTERNS, coords=coords), "2 of 20 rows repeat the coordinates of another, the first x=3, y=0")
    files.images(tmp_path, PATTERNS)
    Image.fromarray(PATTERNS[0, 0]).save(tmp_path / "x_01_y_2.png")
    (tmp_path / "scan.h5").unlink()
    refused(tmp_path, "1 of 21 rows repeat the coordinates of another, the first x=1, y=2")


@pytest.mark.parametrize("value", [-1.0, 2.5, np.nan])
def test_coordinates_off_the_grid_are_refused(value, tmp_path):
    coords = np.argwhere(np.ones(MAP_SHAPE))[:, ::-1].astype(float)
    coords[7, 1] = value
    path = files.table(tmp_path, PATTERNS, coords=coords)
    refused(path, f"/coords[:, 1] is {value} in row 7 (from 0) and off the grid in 1 of 20 rows", "whole numbers from 0")
    refused(files.table(tmp_path, PATTERNS, coords=coords[:, :1]), "/coords has the shape (20, 1), but /images holds 20 patterns")


def test_eds_grid_unlike_the_ebsd_grid_is_refused_with_both(tmp_path):
    path = files.oxford(tmp_path, PATTERNS, elements={"Fe": np.ones(20)})
    with h5py.File(path, "r+") as file:
        file["1/EDS/Header/X Cells"][:] = 10
    refused(path, "the EDS map of /1/EDS has 4 x 10 points, but the EBSD map 4 x 5. Both must have the same grid")


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path):
    hexagonal = "only square grids"
    refused(files.edax(tmp_path, PATTERNS, "HexGrid"), "Grid Type is 'HexGrid'", hexagonal, "Convert the scan to a square grid")
    refused(files.apex(tmp_path, "HexGrid"), "Sample/Grid Type is 'HexGrid'", hexagonal)
    refused(files.up(tmp_path, PATTERNS, is_hex=1), "scanned on a hexagonal grid (4 rows of 5)", hexagonal)
    refused(files.up(tmp_path, PATTERNS, 2), "is of version 2, whose layout is not known")
    refused(files.ebsp(tmp_path, PATTERNS, compressed=1), "20 of 20 patterns are compressed, which only AZtec can undo", "H5OINA")
    refused(files.bruker(tmp_path, PATTERNS, HOLES), "18 patterns lie in a region of 4 x 5 points", "Only rectangular regions")
    files.write_tree(tmp_path / "b.h5", {"nothing": 1, "Manufacturer": "Someone"})
    refused(tmp_path / "b.h5", "is HDF5, but no scan that is known: it holds Manufacturer, nothing of the manufacturer 'Someone'")
    refused(tmp_path / "absent", "there is no such file or folder", error=FileNotFoundError)


def test_images_are_refused_where_names_or_pixels_disagree(tmp_path):
    Image.fromarray(PATTERNS[0, 0]).save(tmp_path / "pattern1.png")
    refused(tmp_path, "1 images, none of which is named by its position", error=FileNotFoundError)
    files.images(tmp_path, PATTERNS)
    Image.fromarray(PATTERNS[0, 0, :3]).save(tmp_path / "x_1_y_2.png")
    refused(tmp_path, "x_1_y_2.png has (3, 8) px of uint8, but", "(6, 8) of uint8", read=True)
    Image.fromarray(np.arange(144, dtype=np.uint8).reshape(6, 8, 3)).save(tmp_path / "x_1_y_2.png")
    refused(tmp_path, "has the shape (6, 8, 3) of uint8, but a pattern is one grey image", read=True)
    Image.fromarray(PATTERNS[0, 0]).save(tmp_path / "3_4.png")
    refused(tmp_path, "Name all patterns in one way")


def test_a_refused_file_does_not_hide_the_scan_that_was_chosen(tmp_path):
    files.oxford(tmp_path, PATTERNS)
    files.up(tmp_path, PATTERNS, is_hex=1).rename(tmp_path / "hex.up1")
    refused(tmp_path, "hexagonal", "choose other scans of", "with data.scans")
    assert find_scans(tmp_path, names=["scan"])[0].format == "Oxford H5OINA 7.0"
    with pytest.raises(ValueError, match=r"data.scans names \['hex'\], but .* has \['scan'\].*hexagonal"):
        find_scans(tmp_path, names=["hex"])
    (tmp_path / "hex.up1").rename(tmp_path / "other.txt")
    files.up(tmp_path, PATTERNS)
    assert [scan.name for scan in find_scans(tmp_path)] == ["scan_h5oina", "scan_up1"]  # two files of one name


def test_places_of_another_number_than_patterns_are_refused(tmp_path):
    path = files.bruker(tmp_path, PATTERNS)
    with h5py.File(path, "r+") as file:
        for name in ("IX", "IY"):
            values = file[f"Scan 0/EBSD/SEM/{name}"][:-3]
            del file[f"Scan 0/EBSD/SEM/{name}"]
            file[f"Scan 0/EBSD/SEM/{name}"] = values
    refused(path, "/Scan 0/EBSD/SEM/IY has 17", "but there are 20 patterns", "not known which is of which point")


def test_coordinates_that_are_lengths_are_refused_with_their_step(tmp_path):
    coords = np.argwhere(np.ones(MAP_SHAPE))[:, ::-1]
    path = files.table(tmp_path, PATTERNS, coords=coords * [5, 7])
    refused(path, "x goes in steps of 5 and y in steps of 7", "a map of 22 x 21 would be empty", "divide them by the steps")
    path = files.table(tmp_path, PATTERNS, coords=coords * 26300)
    refused(path, "x goes in steps of 26300")
    coords[-1] = 30000, 20001
    path = files.table(tmp_path, PATTERNS, coords=coords)
    refused(path, "20 points with x up to 30000 and y up to 20001 would fill 3.3e-08 of a map", "divide lengths by the step")
    path.unlink()
    files.images(tmp_path, PATTERNS[:2, :3], "x_{x}0_y_{y}0.png")
    refused(tmp_path, "x goes in steps of 10 and y in steps of 10")


def test_few_points_of_a_map_are_no_lengths(tmp_path):
    coords = np.random.default_rng(0).permutation(400)[:20]
    path = files.table(tmp_path, PATTERNS, coords=np.stack([coords, coords % 90], -1))
    assert len(find_scans(path)[0].points) == 20
    (tmp_path / "two").mkdir()
    files.images(tmp_path / "two", PATTERNS[:1, :2], "x_{x}0_y_3.png")
    assert find_scans(tmp_path / "two")[0].map_shape == (4, 11)


def test_a_map_of_another_size_beside_up_of_version_one_is_refused(tmp_path):
    from tests.kikuchi.test_ebsd_maps import write_ang

    write_ang(tmp_path / "scan.ang", 3, 4)
    refused(files.up(tmp_path, PATTERNS, 1), "has 20 patterns, but scan.ang, which would say their map, 3 x 4 points")
