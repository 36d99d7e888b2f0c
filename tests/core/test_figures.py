"""Figures: labels with units, honest bars, files whole or absent."""

import numpy as np
import pytest
from PIL import Image

from microlatent import figures


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("true_size_px", "true size (px)"),
        ("mean_speed_um_per_min", "mean speed (\u00b5m/min)"),
        ("num_frames", "number of frames"),
        ("frame", "frame"),
        ("intensity", "intensity"),
    ],
)
def test_axis_label_takes_the_unit_from_the_suffix(column, label):
    assert figures.axis_label(column) == label


@pytest.mark.parametrize(("value", "expected"), [(37.0, 20.0), (0.06, 0.05), (10.0, 10.0), (1.99, 1.0)])
def test_round_below_is_the_next_round_number(value, expected):
    assert figures.round_below(value) == pytest.approx(expected)


@pytest.mark.parametrize(("pixel_um", "text"), [(0.5, "10 \u00b5m"), (None, "20 px")])
def test_scale_bar_spans_the_length_it_names(pixel_um, text):
    _fig, ax = figures.new()
    figures.image(ax, np.zeros((100, 100)), 0, 1)
    figures.scale_bar(ax, pixel_um)
    assert np.ptp(ax.lines[0].get_xdata()) == pytest.approx(20)
    assert ax.texts[0].get_text() == text


def test_figure_has_its_print_size(tmp_path):
    fig, _ = figures.new(width_mm=89, height_mm=50)
    with Image.open(figures.save(fig, tmp_path / "a" / "b.png")) as picture:
        assert picture.size == pytest.approx((89 / 25.4 * figures.DPI, 50 / 25.4 * figures.DPI), abs=1)


def test_same_numbers_give_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        fig, ax = figures.new()
        figures.colour_points(ax, np.arange(50), np.arange(50) % 7, np.arange(50.0), "size_um")
        figures.save(fig, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_failed_figure_leaves_no_file(tmp_path):
    fig, _ = figures.new()
    with pytest.raises(ValueError, match="not supported"):
        figures.save(fig, tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


def test_many_groups_keep_seven_colours_and_name_the_rest():
    _fig, ax = figures.new()
    figures.colour_points(ax, np.arange(40), np.arange(40), [f"w{i % 10}" for i in range(40)], "well")
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "3 others"


def test_missing_values_are_drawn_grey():
    _fig, ax = figures.new()
    figures.colour_points(ax, [0, 1, 2], [0, 1, 2], [1.0, np.nan, 3.0], "size")
    assert ax.collections[0].get_offsets().tolist() == [[1, 1]]


def test_limits_never_have_zero_width():
    assert figures.limits([3.0, 3.0, np.nan]) == (2.5, 3.5)
    assert figures.limits([np.nan]) == (0.0, 1.0)
