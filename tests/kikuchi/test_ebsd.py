"""Readers and writers of EBSD scans: known patterns come back from every container, a few at a time, or an error says why not."""

import tracemalloc

import h5py
import numpy as np
import pytest

from microlatent.systems.kikuchi.ebsd import find_scans
from microlatent.systems.kikuchi.ebsd.write import write_h5oina
from tests import ebsd_files as files
from tests.ebsd_files import MAP_SHAPE, STEP_UM, flat, some_patterns

PATTERNS = some_patterns()
HOLES = np.ones(MAP_SHAPE, bool)
HOLES[1, 2] = HOLES[3, 0] = False

CONTAINERS = {
    "Oxford H5OINA 5.0": lambda folder: files.oxford(folder, PATTERNS, version="5.0"),
    "Oxford H5OINA 8.0": lambda folder: files.oxford(folder, PATTERNS, version="8.0"),
    "kikuchipy h5": lambda folder: files.kikuchipy(folder, PATTERNS),
    "EDAX h5": lambda folder: files.edax(folder, PATTERNS),
    "EDAX UP1": lambda folder: files.up(folder, PATTERNS),
    "EDAX UP2": lambda folder: files.up(folder, PATTERNS.astype(np.uint16)),
    "Bruker h5": lambda folder: files.bruker(folder, PATTERNS),
    "NORDIF": lambda folder: files.nordif(folder, PATTERNS),
    "pattern table h5": lambda folder: files.table(folder, PATTERNS, HOLES),
    "pattern images": lambda folder: files.images(folder, PATTERNS, keep=HOLES),
} | {f"Oxford ebsp v{version}": lambda folder, v=version: files.ebsp(folder, PATTERNS, v) for version in range(1, 7)}


def only(root, **options):
    (scan,) = find_scans(root, **options)
    return scan


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_each_point_its_pattern(kind, tmp_path):
    scan = only(CONTAINERS[kind](tmp_path))
    assert scan.format == kind
    assert scan.map_shape == MAP_SHAPE
    y, x = scan.points["y"].to_numpy(), scan.points["x"].to_numpy()
    whole = np.ones(MAP_SHAPE, bool) if len(y) == PATTERNS[..., 0, 0].size else HOLES
    assert np.array_equal(np.stack([y, x], -1), np.argwhere(whole))
    rows = np.random.default_rng(0).integers(0, len(y), 30)  # any order, some twice
    patterns = scan.read(rows)
    assert patterns.dtype == scan.dtype
    assert np.array_equal(patterns, PATTERNS[y[rows], x[rows]])
    if scan.step_um and kind != "NORDIF":
        assert scan.step_um == pytest.approx(STEP_UM)
        assert np.allclose(scan.points["x_um"], x * STEP_UM[1])


@pytest.mark.parametrize(
    "write", [lambda f: files.up(f, PATTERNS, 1), lambda f: files.emsoft(f, PATTERNS), lambda f: files.ebsp(f, PATTERNS, 0)]
)
def test_patterns_without_places_are_one_row(write, tmp_path, caplog):
    scan = only(write(tmp_path))
    assert scan.map_shape == (1, 20)
    assert "one row of 20" in caplog.text or "20 patterns are taken as one row" in caplog.text
    assert np.array_equal(scan.read(np.arange(20)), flat(PATTERNS))


@pytest.mark.parametrize("name", ["{y}_{x}.tif", "scan3_x_{x}_y_{y}.bmp", "X_{x}_Y_{y}.png"])
def test_images_are_named_by_position(name, tmp_path):
    scan = only(files.images(tmp_path, PATTERNS, name))
    assert scan.name == ("scan3" if name.startswith("scan3") else tmp_path.name)
    assert np.array_equal(scan.read(np.arange(20)), flat(PATTERNS))


def test_ebsp_of_sixteen_bits_is_read(tmp_path):
    patterns = some_patterns(np.uint16) * 200
    scan = only(files.ebsp(tmp_path, patterns, 4))  # from an odd byte on
    assert scan.dtype == np.uint16
    assert np.array_equal(scan.read(np.arange(20)), flat(patterns))


def test_missing_patterns_of_an_ebsp_are_holes(tmp_path):
    scan = only(files.ebsp(tmp_path, PATTERNS, missing=(0, 8)))
    place = scan.points["y"] * MAP_SHAPE[1] + scan.points["x"]
    assert list(place) == [number for number in range(20) if number not in (0, 8)]
    assert np.array_equal(scan.read(np.arange(18)), flat(PATTERNS)[place])


def test_bruker_columns_follow_their_patterns(tmp_path):
    scan = only(files.bruker(tmp_path, PATTERNS))
    assert np.array_equal(scan.points["radon_quality"], scan.points["y"] * 100 + scan.points["x"])
    assert np.allclose(scan.points["phi1_rad"], np.pi / 2)
    assert scan.quality == "radon_quality"


def test_oxford_keeps_all_that_is_known_of_points(tmp_path):
    num, rng = 20, np.random.default_rng(0)
    columns = {
        "bandcontrast": np.arange(num),
        "phase": np.arange(num) % 3,
        "phi1_rad": rng.random(num),
        "mad_rad": rng.random(num),
    }
    elements = {"Fe": rng.random(num) * 100, "O": rng.random(num) * 100}
    centre = np.stack([np.linspace(0.4, 0.6, num), np.full(num, 0.2), np.full(num, 0.5)], -1)
    raw = (PATTERNS.astype(np.int16) * 7)[::-1]
    background = PATTERNS[0, 0]
    path = files.oxford(
        tmp_path, PATTERNS, columns=columns, elements=elements, phases={1: "Fe", 2: "FeO"}, pattern_centre=centre, beam_kv=15.0,
        unprocessed=flat(raw), static_background=background, unprocessed_static_background=background * 7, detector_tilt_deg=3.5,
    )  # fmt: skip
    scan = only(path)
    for name, values in columns.items():
        assert np.allclose(scan.points[name], values)
    assert scan.elements == {"element_Fe": "wt%", "element_O": "wt%"}
    assert np.allclose(scan.points["element_O"], elements["O"])
    assert np.allclose(scan.points[["pcx", "pcy", "pcz"]], centre, atol=1e-6)  # Bruker's convention, there and back
    assert scan.phases == {1: "Fe", 2: "FeO"}
    about = {key: scan.metadata[key] for key in ("beam_kv", "sample_tilt_deg", "detector_tilt_deg", "patterns")}
    assert about == {"beam_kv": 15.0, "sample_tilt_deg": 70.0, "detector_tilt_deg": 3.5, "patterns": "processed"}
    assert np.array_equal(scan.static_background, background)
    unprocessed = only(path, patterns="unprocessed")
    assert unprocessed.dtype == np.int16
    assert np.array_equal(unprocessed.read(np.arange(num)), flat(raw))
    assert np.array_equal(unprocessed.static_background, background * 7)


def test_oxford_pattern_centre_is_counted_in_widths_from_below(tmp_path):
    scan = only(files.oxford(tmp_path, PATTERNS, pattern_centre=(0.4, 0.2, 0.6)))
    with h5py.File(scan.path) as file:
        stored = [file[f"1/EBSD/Data/{name}"][0] for name in ("Pattern Center X", "Pattern Center Y", "Detector Distance")]
    assert np.allclose(stored, [0.4, 0.8 * 6 / 8, 0.6 * 6 / 8])


def test_edax_pattern_centre_is_counted_from_below(tmp_path):
    scan = only(files.edax(tmp_path, PATTERNS))
    assert np.allclose(scan.points[["pcx", "pcy", "pcz"]].iloc[0], [0.5, 0.3, 0.8])
    assert scan.quality == "iq"


def test_h5oina_values_may_have_any_shape_and_case(tmp_path):
    path = files.oxford(tmp_path, PATTERNS, columns={"bandcontrast": np.arange(20)}, version="6.0")
    with h5py.File(path, "r+") as file:
        for group, name, shape in (("Data", "Band Contrast", (20, 1)), ("Header", "X Cells", ()), ("Header", "Y Cells", (1, 1))):
            values = file[f"1/EBSD/{group}/{name}"][()]
            del file[f"1/EBSD/{group}/{name}"]
            file[f"1/EBSD/{group}/{name}"] = values.reshape(shape)
        file.move("1/EBSD/Data/Processed Patterns", "1/EBSD/Data/processed patterns ")
        file.move("Manufacturer", " MANUFACTURER")
    scan = only(path)
    assert list(scan.points["bandcontrast"]) == list(range(20))
    assert np.array_equal(scan.read(np.arange(20)), flat(PATTERNS))


def test_points_outside_an_irregular_area_are_not_there(tmp_path):
    path = files.oxford(tmp_path, PATTERNS)
    with h5py.File(path, "r+") as file:
        file["1/EBSD/Data/X"][3] = np.nan
    scan = only(path)
    assert len(scan.points) == 19
    assert np.array_equal(scan.read(np.array([3])), flat(PATTERNS)[[4]])


def test_a_file_of_several_scans_names_them(tmp_path):
    path = files.oxford(tmp_path, PATTERNS)
    with h5py.File(path, "r+") as file:
        file.copy("1", "2")
        file.copy("1", "10")
    assert [scan.name for scan in find_scans(path)] == ["scan_1", "scan_2", "scan_10"]
    assert [scan.name for scan in find_scans(tmp_path, names=["scan_10"])] == ["scan_10"]


def test_patterns_are_written_in_blocks(tmp_path):
    write_h5oina(tmp_path / "a.h5oina", (flat(PATTERNS)[i : i + 3] for i in range(0, 20, 3)), MAP_SHAPE, step_um=STEP_UM)
    assert np.array_equal(only(tmp_path).read(np.arange(20)), flat(PATTERNS))
    with pytest.raises(ValueError, match="Processed Patterns are 15 patterns, but the map has 20 points"):
        write_h5oina(tmp_path / "b.h5oina", flat(PATTERNS)[:15], MAP_SHAPE, step_um=STEP_UM)
    assert not (tmp_path / "b.h5oina").exists()  # whole or not at all


def test_kikuchipy_keeps_columns_of_any_name(tmp_path):
    columns = {"phase": np.arange(20) % 2 - 1, "bandcontrast": np.arange(20.0), "phi1_rad": np.linspace(0, 1, 20)}
    scan = only(files.kikuchipy(tmp_path, PATTERNS, columns=columns, phases={0: "ni"}, pattern_centre=(0.4, 0.2, 0.6)))
    for name, values in columns.items():
        assert np.array_equal(scan.points[name], values)
    assert np.allclose(scan.points[["pcx", "pcy", "pcz"]], (0.4, 0.2, 0.6))
    assert scan.phases == {0: "ni"}
    assert scan.quality == "bandcontrast"


def test_writers_refuse_what_has_no_place(tmp_path):
    for options, text in (
        ({"columns": {"iq": np.ones(20)}}, r"columns \['iq'\] have no place in H5OINA. It has \['bandcontrast'"),
        ({"columns": {"error": np.ones(19)}}, "error has 19 values, but the map has 20 points"),
        ({"elements": {"Iron": np.ones(20)}}, r"elements are named \['Iron'\], which are no chemical symbols"),
        ({"static_background": np.ones((8, 6))}, r"A static background has \(8, 6\) px, but patterns have \(6, 8\)"),
        ({"version": "4.0"}, "version is '4.0', but H5OINA holds patterns in 5.0 to 8.0"),
    ):
        with pytest.raises(ValueError, match=text):
            files.oxford(tmp_path, PATTERNS, **options)
    assert not list(tmp_path.iterdir())


def test_reading_touches_only_the_patterns_asked_for(tmp_path, monkeypatch):
    scan_path = files.oxford(tmp_path, PATTERNS)
    touched, get = [], h5py.Dataset.__getitem__

    def spy(dataset, key, *rest):
        if "Patterns" in dataset.name:
            touched.append(key)
        return get(dataset, key, *rest)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    scan = only(scan_path)
    assert touched == []
    scan.read(np.array([9, 3, 4, 5, 17, 4]))
    assert touched == [slice(3, 6), slice(9, 10), slice(17, 18)]


@pytest.mark.parametrize("kind", ["h5oina", "up1"])
def test_memory_is_that_of_the_block(kind, tmp_path):
    patterns = np.random.default_rng(0).integers(0, 255, (40, 50, 100, 100), np.uint8)  # 20 MB
    path = files.oxford(tmp_path, patterns, version="8.0") if kind == "h5oina" else files.up(tmp_path, patterns)
    expected = flat(patterns)[500:550].copy()
    del patterns
    tracemalloc.start()
    block = only(path).read(np.arange(500, 550))  # 0.5 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(block, expected)
    assert peak < 4e6


def test_window_integrals_stand_in_for_composition(tmp_path):
    path = files.oxford(tmp_path, PATTERNS, elements={"Fe": np.arange(20)})
    with h5py.File(path, "r+") as file:
        file.move("1/EDS/Data/Composition/Fe", "1/EDS/Data/Window Integral/Fe Ka1")
        del file["1/EDS/Data/Composition"]
    assert only(path).elements == {"element_Fe": "cps"}


def test_rectangular_region_of_bruker_is_read(tmp_path):
    keep = np.zeros(MAP_SHAPE, bool)
    keep[1:3, 2:5] = True
    scan = only(files.bruker(tmp_path, PATTERNS, keep))
    assert scan.map_shape == (2, 3)
    assert np.array_equal(scan.read(np.arange(6)), PATTERNS[keep])


def rewrite(path, values, drop=()):
    """Replace data sets of a file."""
    with h5py.File(path, "r+") as file:
        for name in (*values, *drop):
            if name in file:
                del file[name]
        for name, value in values.items():
            file[name] = value
    return path


def test_bruker_without_places_says_that_its_order_may_be_another(tmp_path, caplog):
    path = rewrite(files.bruker(tmp_path, PATTERNS), {}, ["Scan 0/EBSD/SEM"])
    assert only(path).map_shape == MAP_SHAPE
    assert "does not say the places of its patterns" in caplog.text
    assert "they are taken row by row" in caplog.text


def test_flags_angles_and_backgrounds_may_be_wrapped_in_any_way(tmp_path):
    path = files.oxford(tmp_path, PATTERNS, static_background=PATTERNS[0, 0])
    header = "1/EBSD/Header"
    for flag in (True, False):
        rewrite(path, {f"{header}/Static Background Correction": flag, f"{header}/Processed Static Background": PATTERNS[0, :1]})
        scan = only(rewrite(path, {f"{header}/Detector Orientation Euler": np.float32([1.5])}))
        assert scan.background_corrected == flag
        assert np.array_equal(scan.static_background, PATTERNS[0, 0])
        assert "detector_tilt_deg" not in scan.metadata


@pytest.mark.parametrize(
    ("write", "name", "not_indexed"),
    [
        (files.oxford, "1/EBSD/Data/Phase", 0),
        (
            lambda f, p: files.kikuchipy(f, p, columns={"phase": np.ones(20)}),
            "Scan 1/EBSD/CrystalMap/crystal_map/data/phase_id",
            -1,
        ),
        (files.edax, "Scan 1/EBSD/Data/Phase", 0),
        (files.bruker, "Scan 0/EBSD/Data/Phase", 0),
    ],
)
def test_a_phase_that_is_no_number_was_not_indexed(write, name, not_indexed, tmp_path):
    phase = np.arange(20, dtype=np.float32)
    phase[7] = np.nan
    scan = only(rewrite(write(tmp_path, PATTERNS), {name: phase}))
    assert sorted(scan.points["phase"]) == sorted([not_indexed, *np.delete(np.arange(20), 7)])


def test_the_only_phase_of_edax_is_number_one_also_where_it_is_written_as_zero(tmp_path):
    group = "Scan 1/EBSD"
    one = {f"{group}/Data/Phase": np.zeros(20, np.int32), f"{group}/Header/Phase/1/MaterialName": "Nickel"}
    path = rewrite(files.edax(tmp_path, PATTERNS), one)
    assert set(only(path).points["phase"]) == set(only(path).phases) == {1}
    rewrite(path, {f"{group}/Header/Phase/2/MaterialName": "Iron"})
    assert set(only(path).points["phase"]) == {0}  # none of the two was found


def test_lines_of_an_element_are_all_kept_and_an_empty_group_hides_none(tmp_path):
    path = files.oxford(tmp_path, PATTERNS, elements={"Fe": np.arange(20)})
    lines = {"Fe Ka1": np.arange(20.0), "Fe La1": np.arange(20.0)[::-1], "Al Ka1": np.ones(20)}
    rewrite(path, {f"1/EDS/Data/Window Integral/{line}": values for line, values in lines.items()}, ["1/EDS/Data/Composition/Fe"])
    scan = only(path)
    assert scan.elements == dict.fromkeys(("element_Al", "element_Fe", "element_Fe_La1"), "cps")
    assert np.array_equal(scan.points["element_Fe_La1"], np.arange(20)[::-1])


def test_what_is_measured_here_and_what_a_file_calls_so_have_two_names(tmp_path):
    scan = only(files.kikuchipy(tmp_path, PATTERNS, columns={"image_quality": np.arange(20.0), "scores": np.ones(20)}))
    assert "image_quality" not in scan.points
    assert list(scan.points["file_image_quality"]) == list(range(20))


@pytest.mark.parametrize(("written", "step"), [("0,25", 0.25), ("1,25", 1.25), ("0", None), ("0,0", None)])
def test_nordif_may_write_decimal_commas_and_no_step(written, step, tmp_path):
    files.nordif(tmp_path, PATTERNS)
    path = tmp_path / "Setting.txt"
    path.write_bytes(path.read_bytes().replace(b"0.25", written.encode()))
    assert only(tmp_path).step_um == (step and (step, step))


def test_nordif_does_not_hide_the_other_scans_of_its_folder(tmp_path):
    files.kikuchipy(files.nordif(tmp_path, PATTERNS), PATTERNS)
    assert {scan.format for scan in find_scans(tmp_path)} == {"NORDIF", "kikuchipy h5"}


def test_this_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(files.images(tmp_path, PATTERNS))
    assert only(".").name == only("../" + tmp_path.name).name == tmp_path.name


def test_up_of_version_one_takes_its_map_from_the_file_beside_it(tmp_path, caplog):
    from tests.kikuchi.test_ebsd_maps import write_ang

    path = files.up(tmp_path, PATTERNS, 1)
    write_ang(tmp_path / "scan.ang", *MAP_SHAPE)
    scan = only(path)
    assert (scan.map_shape, scan.step_um) == (MAP_SHAPE, (0.5, 0.5))
    assert np.array_equal(scan.read(np.arange(20)), flat(PATTERNS))
    (tmp_path / "scan.ang").unlink()
    files.edax(tmp_path, None, name="scan.oh5")
    assert only(path).map_shape == MAP_SHAPE
    assert "taken as one row" not in caplog.text
