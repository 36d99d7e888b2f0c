"""Splits: whole groups, a share for each part, the same whatever the order of the rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microlatent.data.split import Split


def rows(num_groups: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat([f"s{number}" for number in range(num_groups)], rng.integers(5, 20, num_groups)).astype(object)


@given(st.integers(3, 40), st.floats(0.05, 0.4), st.floats(0.0, 0.4), st.integers(0, 99))
def test_parts_are_whole_groups_and_none_is_empty(num_groups, val, test, seed):
    groups = rows(num_groups, seed)
    parts = Split.draw("subject", groups, val, test, seed).parts(groups)
    assert all(len(set(parts[groups == name])) == 1 for name in set(groups))
    assert set(parts) == {"train", "val", *(["test"] if test > 0 else [])}


def test_shares_are_met_to_one_group():
    groups = rows(60)
    parts = Split.draw("subject", groups, 0.2, 0.1, 0).parts(groups)
    for part, share in (("val", 0.2), ("test", 0.1)):
        assert share <= (parts == part).mean() <= share + 20 / len(groups)


def test_a_test_part_leaves_the_validation_part_as_it_was():
    groups = rows(30)
    alone, both = (Split.draw("subject", groups, 0.2, share, 3).parts(groups) == "val" for share in (0.0, 0.3))
    np.testing.assert_array_equal(alone, both)


def test_the_order_of_the_rows_does_not_matter():
    groups = rows(20)
    turn = np.random.default_rng(1).permutation(len(groups))
    one, other = Split.draw("subject", groups, 0.2, 0.2, 0), Split.draw("subject", groups[turn], 0.2, 0.2, 0)
    assert one.hash == other.hash


def test_too_few_groups_say_what_to_do():
    with pytest.raises(ValueError, match=r"finds 2 group\(s\) \(a, b\).*val and test.*data\.val_share=0 and data\.test_share=0"):
        Split.draw("subject", np.array(["a", "b"], object), 0.2, 0.2, 0)
