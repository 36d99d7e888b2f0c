"""Maps without patterns, and how their columns join the points of a scan."""

import numpy as np
import pandas as pd
import pytest

from microlatent.systems.kikuchi.ebsd import find_scans, join_maps, read_map
from microlatent.systems.kikuchi.ebsd.grid import steps
from tests import ebsd_files as files


def grid(rows=3, cols=4):
    y, x = (axis.ravel() for axis in np.indices((rows, cols)))
    return pd.DataFrame({"x": x, "y": y})


def write_ctf(path, rows=3, cols=4, step=0.5, decimal="."):
    lines = ["Channel Text File", "Prj\tdemo", "JobMode\tGrid", f"XCells\t{cols}", f"YCells\t{rows}", f"XStep\t{step}"]
    lines += [f"YStep\t{step}", "Phases\t2", "2.87;2.87;2.87\t90;90;90\tIron bcc\t11\t229", "4.3;4.3;4.3\t90;90;90\tFeO\t11\t225"]
    lines += ["Phase\tX\tY\tBands\tError\tEuler1\tEuler2\tEuler3\tMAD\tBC\tBS"]
    for point in grid(rows, cols).itertuples():
        lines.append(f"1\t{point.x * step}\t{point.y * step}\t8\t0\t90.0\t45.0\t180.0\t0.5\t{10 * point.y + point.x}\t3")
    text = "\n".join(lines)
    path.write_text(text if decimal == "." else text.replace(".", decimal))
    return path


def write_ang(path, rows=3, cols=4, kind="SqrGrid", step=0.5):
    lines = ["# Phase 1", "# MaterialName  \tIron bcc", f"# GRID: {kind}", f"# XSTEP: {step}", f"# YSTEP: {step}"]
    lines += [f"# NCOLS_ODD: {cols}", f"# NCOLS_EVEN: {cols}", f"# NROWS: {rows}", "#"]
    for point in grid(rows, cols).itertuples():
        lines.append(
            f"  1.5  0.7  3.1  {point.x * step:.5f}  {point.y * step:.5f}  {10 * point.y + point.x}.5  0.9  1  20000  1.2"
        )
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("decimal", [".", ","])
def test_ctf_becomes_columns_and_rows(decimal, tmp_path):
    (scan,) = find_scans(write_ctf(tmp_path / "a.ctf", decimal=decimal))
    assert scan.map_shape == (3, 4)
    assert scan.step_um == (0.5, 0.5)
    assert scan.phases == {1: "Iron bcc", 2: "FeO"}
    assert scan.quality == "bandcontrast"
    assert (scan.points["bandcontrast"] == 10 * scan.points["y"] + scan.points["x"]).all()
    assert np.allclose(scan.points[["phi1_rad", "Phi_rad", "phi2_rad"]], np.radians([90, 45, 180]))
    assert np.allclose(scan.points["mad_rad"], np.radians(0.5))


def test_ang_becomes_columns_and_rows(tmp_path):
    (scan,) = find_scans(write_ang(tmp_path / "a.ang"))
    assert scan.map_shape == (3, 4)
    assert scan.phases == {1: "Iron bcc"}
    assert scan.quality == "iq"
    assert np.allclose(scan.points["iq"], 10 * scan.points["y"] + scan.points["x"] + 0.5)
    assert np.allclose(scan.points["phi1_rad"], 1.5)  # radians already


def test_hexagonal_or_short_maps_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"GRID is 'HexGrid', but only square grids are read"):
        read_map(write_ang(tmp_path / "a.ang", kind="HexGrid"))
    path = write_ctf(tmp_path / "a.ctf")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]))
    with pytest.raises(ValueError, match=r"has 10 points, but its header says 3 x 4. It may be cut short"):
        read_map(path)
    fields = lines[-3].split("\t")
    fields[1] = "0.75"
    path.write_text("\n".join([*lines[:-3], "\t".join(fields), *lines[-2:]]))
    with pytest.raises(ValueError, match=r"X is 0.75 in row 9 \(from 0\) and off a grid with the step 0.5 um in 1 of 12 rows"):
        read_map(path)
    path.write_text("nothing of this kind")
    with pytest.raises(ValueError, match="no line of column names with Phase, X and Y"):
        read_map(path)


@pytest.mark.parametrize("ending", [".cpr", ".crc"])
def test_real_superalloy_map_is_read(ending, data_folder):
    (scan,) = find_scans(data_folder / "kikuchi/defdap_ni_superalloy" / f"testDataEBSD{ending}")
    assert scan.map_shape == (243, 359)
    assert scan.step_um == (0.12, 0.12)
    assert (scan.points["bandcontrast"].min(), scan.points["bandcontrast"].max()) == (30, 171)
    assert scan.phases == {1: "Ni-superalloy"}
    indexed = scan.points["phase"] > 0
    assert scan.points.loc[indexed, "phi1_rad"].between(0, 2 * np.pi).all()
    assert 0 < np.degrees(scan.points.loc[indexed, "mad_rad"]).median() < 2


def test_crc_of_another_size_or_alone_is_refused(tmp_path, data_folder):
    source = data_folder / "kikuchi/defdap_ni_superalloy"
    text = (source / "testDataEBSD.cpr").read_text()
    (tmp_path / "a.cpr").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"is one of a pair, but a.crc is not beside it"):
        read_map(tmp_path / "a.cpr")
    (tmp_path / "a.crc").write_bytes((source / "testDataEBSD.crc").read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"has 2180918 bytes, but 243 x 359 points of 25 bytes are 2180925. It may be cut short"):
        read_map(tmp_path / "a.crc")
    (tmp_path / "a.cpr").write_text(text.replace("Field9=12", "Field9=99"))
    with pytest.raises(ValueError, match="lists the field 99, but known are"):
        read_map(tmp_path / "a.cpr")


def test_eds_windows_of_a_crc_are_elements(tmp_path):
    record = np.dtype([("phase", "u1"), ("bc", "u1"), ("mad", "<f4"), ("fe", "<f4"), ("sum", "<f4")])
    table = np.zeros(12, record)
    table["fe"], table["bc"], table["mad"] = np.arange(12) * 10, np.arange(12), 1.0
    (tmp_path / "a.crc").write_bytes(table.tobytes())
    (tmp_path / "a.cpr").write_text(
        "[Job]\nxCells=4\nyCells=3\nGridDistX=0.5\nGridDistY=0.5\n[Fields]\nCount=4\nField1=7\nField2=6\nField3=101\n"
        "Field4=102\n[EDX Windows]\nCount=2\nWindow1=Fe Ka1\nWindow2=Total sum\n"
    )
    (scan,) = find_scans(tmp_path)
    assert scan.elements == {"element_Fe": "counts"}
    assert np.array_equal(scan.points["element_Fe"], np.arange(12) * 10)
    assert np.allclose(scan.points["mad_rad"], np.radians(1))
    assert "total_sum" in scan.points


def test_csv_headers_are_taken_as_people_write_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        " X , Y,Band Contrast,Fe,O wt%,pca_1,cNMF_02,Cluster Label,KAM\n0,0,12,70,30,0.5,1,2,0.1\n1,0,13,71,29,,1,2,0.1\n"
    )
    table = read_map(path)
    assert list(table) == ["x", "y", "bandcontrast", "element_Fe", "element_O", "PCA_1", "cNMF_2", "cluster_label", "kam"]
    assert table["bandcontrast"].tolist() == [12, 13]
    assert np.isnan(table["PCA_1"][1])  # an empty cell, not a bad row
    assert find_scans(path)[0].elements == {"element_Fe": "", "element_O": "wt%"}


def test_phases_of_the_reference_are_read_and_y_may_be_yttrium(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x_indice;y_indice;phase_id;Y\n3;4;-1;0,5\n")
    assert read_map(path).to_dict("records") == [{"x": 3, "y": 4, "phase": -1, "element_Y": 0.5}]


def test_rows_of_text_are_dropped_with_a_count(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("x,y,bandcontrast,note\n0,0,12,a\n1,0,n/a?,a\nx,y,bandcontrast,note\n2,0,14,b\n")
    assert read_map(path)["bandcontrast"].tolist() == [12, 14]
    assert "2 of 4 rows hold text where numbers should be, or no coordinates, and are dropped; the first is line 3" in caplog.text
    assert "columns ['note'] hold no numbers and are left out" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "col,row,bandcontrast\n0,0,1\n",
            r"has no column x and no y; it has \['col', 'row', 'bandcontrast'\].*rename its headers",
        ),
        ("x,y,bc\n0,0,1\n1,0,2\n0,0,3\n", "1 of 3 rows repeat the coordinates of another, the first x=0, y=0"),
        ("x,y,bc\n0,0,1\n0.5,0,2\n", r"x is 0.5 in row 1 \(from 0\) and off the grid in 1 of 2 rows"),
        ("x,y,bc,Band Contrast\n0,0,1,1\n", r"more than one column \['bandcontrast'\]"),
        ("x,y,bc\nno,no,no\n", "no row of numbers below its headers"),
        (
            "x,y,bc\n0,0,1,5,6,7\n1,1\n0,0,1,5,6,7,8,9\n",
            r"2 of 3 rows have more fields than headers \(x, y, bc\), the first is line 2. A decimal comma",
        ),
    ],
)
def test_other_csv_files_are_refused(text, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_map(path)


def test_maps_join_by_place_and_points_they_lack_get_nan(tmp_path, caplog):
    table = grid().assign(Fe=np.arange(12.0)).sample(frac=1, random_state=0)
    table[table["x"] > 0].to_csv(tmp_path / "a.csv", index=False)
    joined = join_maps(grid(), [str(tmp_path / "a.csv"), str(write_ctf(tmp_path / "b.ctf"))])
    assert np.array_equal(joined["element_Fe"], np.where(joined["x"] > 0, np.arange(12.0), np.nan), equal_nan=True)
    assert (joined["bandcontrast"] == 10 * joined["y"] + joined["x"]).all()
    assert joined["bandcontrast"].dtype.kind == "i"  # all points have one: no NaN, no float
    assert "has 9 of the scan's 12 points; the others get NaN" in caplog.text


def test_maps_that_do_not_belong_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    points = grid().assign(bandcontrast=np.arange(12))
    points.to_csv(path, index=False)
    assert join_maps(points, [str(path)]).equals(points)  # the same once more does no harm
    points.assign(bandcontrast=np.arange(12) + (points["x"] == 2)).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"gives a column bandcontrast, which .* have already, and 3 of 12 values differ \(the first: 2 "
    ):
        join_maps(points, [str(path)])
    points.assign(x=points["x"] + 100).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match="has no point in common with the scan: its x is 100 to 103 and y 0 to 2, the scan's x 0 to 3"
    ):
        join_maps(points, [str(path)])
    with pytest.raises(FileNotFoundError, match=r"data.maps names .*absent.csv, but there is no such file"):
        join_maps(points, [str(tmp_path / "absent.csv")])


def test_a_csv_of_several_scans_gives_each_its_own(tmp_path):
    path = tmp_path / "a.csv"
    pd.concat([grid().assign(scan=name, score=number) for number, name in enumerate("ab")]).to_csv(path, index=False)
    assert join_maps(grid(), [str(path)], "b")["score"].eq(1).all()
    with pytest.raises(ValueError, match=r"has no rows of the scan c; its column scan names \['a', 'b'\]"):
        join_maps(grid(), [str(path)], "c")


def test_a_map_is_a_scan_only_where_no_file_has_patterns(tmp_path):
    write_ctf(tmp_path / "a.ctf")
    assert [scan.format for scan in find_scans(tmp_path)] == ["HKL ctf"]
    files.oxford(tmp_path, files.some_patterns())
    assert [scan.format for scan in find_scans(tmp_path)] == ["Oxford H5OINA 7.0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x,y,bandcontrast,Fe\n0,0,50,9,\n1,0,61,8,\n", {"bandcontrast": [50, 61], "element_Fe": [9, 8]}),
        ("x;y;bc;\n0;0;50,5;\n1;0;60;\n", {"bandcontrast": [50.5, 60]}),
        (",x,y,bc\n17,0,0,50\n18,1,0,60\n", {"bandcontrast": [50, 60]}),  # pandas wrote its index
        ("sep=;\nx;y;bc\n0;0;50\n1;0;60\n", {"bandcontrast": [50, 60]}),
        ("# of today\n\nx,y,bc\n0,0,50\n1,0,60\n", {"bandcontrast": [50, 60]}),
        ('"x","y","note, long, and more","bc"\n0,0,"a, b",50\n1,0,"c",60\n', {"bandcontrast": [50, 60]}),
        ("No,x,y,N,Fe Wt%,O (at%)\n1,0,0,3,4,5\n2,1,0,3,4,5\n", {"no": [1, 2], "element_N": [3, 3], "element_Fe": [4, 4]}),
        ("x,y,Fe Ka1,Fe L\n0,0,5,3\n1,0,6,4\n", {"element_Fe": [5, 6], "element_Fe_L": [3, 4]}),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_csv_columns_stay_under_their_headers(text, expected, encoding, tmp_path):
    (tmp_path / "a.csv").write_text(text, encoding=encoding)
    table = read_map(tmp_path / "a.csv")
    assert table["x"].tolist() == [0, 1]
    for name, values in expected.items():
        assert table[name].tolist() == values


def test_a_map_of_lengths_is_not_joined_and_one_of_every_second_point_is(tmp_path, caplog):
    (grid() * 2).assign(kam=1.0).to_csv(tmp_path / "a.csv", index=False)
    assert join_maps(grid(5, 7), [str(tmp_path / "a.csv")])["kam"].notna().sum() == 12
    with pytest.raises(ValueError, match="x goes in steps of 2 and y in steps of 2, up to x 6 and y 4, beyond"):
        join_maps(grid(), [str(tmp_path / "a.csv")])


def test_a_map_must_say_of_which_of_several_scans_it_is(tmp_path):
    grid().assign(Fe=1).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"a.csv does not say of which scan its points are, but there are several. Add a"):
        join_maps(grid(), [str(tmp_path / "a.csv")], "b", of_several=True)
    grid().assign(Fe=1, scan="b").to_csv(tmp_path / "a.csv", index=False)
    assert join_maps(grid(), [str(tmp_path / "a.csv")], "b", of_several=True)["element_Fe"].eq(1).all()


@pytest.mark.parametrize("stated", ["true", 0.0263, 0.026, None])
@pytest.mark.parametrize("decimals", [2, 4])
@pytest.mark.parametrize("columns", [40, 495])
def test_a_rounded_step_does_not_add_up_over_the_map(stated, decimals, columns):
    true = 0.02634
    number, step = steps("a", "X", np.tile(np.arange(columns) * true, 2).round(decimals), true if stated == "true" else stated)
    assert np.array_equal(number, np.tile(np.arange(columns), 2))
    assert step == pytest.approx(true, rel=0.015)


def test_a_map_that_begins_elsewhere_is_column_zero_and_says_so(tmp_path, caplog):
    path = write_ctf(tmp_path / "a.ctf")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    begin = next(row for row, line in enumerate(lines) if line[0] == "Phase") + 1
    for line in lines[begin:]:
        line[1] = str(float(line[1]) + 3)
    path.write_text("\n".join("\t".join(line) for line in lines))
    assert read_map(path)["x"].max() == 3
    assert "X begins at 3 um, which is taken as column or row 0" in caplog.text
    assert "Y begins" not in caplog.text


def test_what_is_no_number_in_a_ctf_is_not_indexed_or_unknown(tmp_path):
    path = write_ctf(tmp_path / "a.ctf")
    lines = path.read_text().splitlines()
    lines[-1] = lines[-1].replace("1\t", "nan\t", 1).rsplit("\t", 2)[0] + "\tNaN\t3"
    path.write_text("\n".join(lines))
    table = read_map(path)
    assert table["phase"].tolist() == [1] * 11 + [0]
    assert np.array_equal(np.isnan(table["bandcontrast"]), np.arange(12) == 11)


def test_ang_may_write_decimal_commas_and_its_only_phase_as_zero(tmp_path):
    path = write_ang(tmp_path / "a.ang")
    text = path.read_text()
    path.write_text(text.replace(".", ",").replace("  0,9  1  ", "  0,9  0  "))
    (scan,) = find_scans(path)
    assert scan.step_um == (0.5, 0.5)
    assert np.allclose(scan.points["iq"], 10 * scan.points["y"] + scan.points["x"] + 0.5)
    assert set(scan.points["phase"]) == set(scan.phases) == {1}


def test_windows_of_one_element_and_decimal_commas_of_a_crc_are_read(tmp_path):
    record = np.zeros(4, [("phase", "u1"), ("k", "<f4"), ("l", "<f4")])
    record["k"], record["l"] = 1, 2
    record.tofile(tmp_path / "a.crc")
    (tmp_path / "a.cpr").write_text(
        "[Job]\nxCells=2\nyCells=2\nGridDistX=0,5\nGridDistY=0,25\nkV=\n[Fields]\nCount=2\nField1=101\nField2=102\n"
        "[EDX Windows]\nWindow1=Fe K\nWindow2=Fe L\n"
    )
    (scan,) = find_scans(tmp_path / "a.cpr")
    assert scan.step_um == (0.25, 0.5)
    assert scan.points[["element_Fe", "element_Fe_L"]].drop_duplicates().values.tolist() == [[1, 2]]
