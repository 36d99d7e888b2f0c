"""Results: a check tells of all files, and a run writes no other."""

import pandas as pd
import pytest

from microlatent.results import Results
from microlatent.tracking import NullTracker


class Told(NullTracker):
    """Remembers what it is told of."""

    def __init__(self):
        self.names = []

    def table(self, name, table):
        """Take its name."""
        self.names.append(name)

    def image(self, name, path):
        """Take its name, and whether it is there."""
        self.names.append((name, path.is_file()))


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path, Told(), tables=["scores"], figures=["map", "pair_*"], files=["sub/found.json"])


def test_all_that_is_declared_is_told_and_nothing_is_written(results, tmp_path):
    names = ["sub/found.json", "tables/scores.csv", "figures/map.png", "figures/pair_*.png"]
    assert results.writes == [str(tmp_path / name) for name in names]
    assert not list(tmp_path.iterdir())


def test_what_is_not_declared_cannot_be_written(results):
    for name in ("found.json", "figures/maps.png", "tables/map.csv"):
        with pytest.raises(AssertionError, match="written but not declared"):
            results.path(name)
    assert results.path("figures/pair_3.png").name == "pair_3.png"


def test_names_with_the_signs_of_patterns_are_names(tmp_path):
    assert Results(tmp_path, files=["a[1]/b.tif"]).path("a[1]/b.tif") == tmp_path / "a[1]" / "b.tif"


def test_tables_and_figures_are_written_and_told_to_the_tracker(results, tmp_path):
    results.table("scores", pd.DataFrame({"a": [1]}))
    results.table("scores", pd.DataFrame({"a": [2]}), track=False)
    (tmp_path / "figures").mkdir()
    results.figure("map", lambda word, path, sign: path.write_text(word + sign), "drawn", sign="!")
    assert (tmp_path / "tables" / "scores.csv").read_text() == "a\n2\n"
    assert (tmp_path / "figures" / "map.png").read_text() == "drawn!"
    assert results.tracker.names == ["scores", ("map", True)]
