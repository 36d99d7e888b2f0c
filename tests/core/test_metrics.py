"""What is declared of a metric holds wherever it is told: under each of its names, and for loss terms that nobody declared."""

import subprocess
import sys

import pytest

from microlatent import metrics
from microlatent.drawing import comparison
from microlatent.report import values


@pytest.mark.parametrize("column", ["mse", "val_mse", "best_val_mse", "test_mse", "best_train_mse"])
def test_a_metric_is_known_under_all_names_of_its_numbers(column):
    assert metrics.metric(column) is metrics.METRICS["mse"]


@pytest.mark.parametrize(
    ("column", "monitor", "way"),
    [
        ("best_val_explained_variance", "total", "maximize"),
        ("best_score", "explained_variance", "maximize"),
        ("best_score", "recon", "minimize"),
        ("val_of_my_own", "total", "minimize"),
        ("patches_per_s", "total", "maximize"),
    ],
)
def test_which_way_is_better_follows_from_the_metric_and_of_the_score_from_what_was_monitored(column, monitor, way):
    assert metrics.direction(column, monitor) == way


def test_words_of_a_plugins_metric_are_those_of_the_report_and_of_the_figures(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    metrics.register_metric("ssim", "structural similarity", better="higher", unit="1")
    assert values.label("best_val_ssim") == "validation structural similarity (1)"
    assert comparison.label("best_val_ssim").replace("\n", " ") == "structural similarity (1)"
    assert values.label("val_of_my_own") == "validation of my own"
    with pytest.raises(ValueError, match="better of the metric ssim is 'up'"):
        metrics.register_metric("ssim", better="up")


def test_declarations_load_no_torch():
    code = "import sys, microlatent.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
