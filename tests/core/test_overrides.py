"""What is typed as key=value: taken apart as Hydra does, and written so that Hydra reads the same back."""

import pytest
import yaml

from microlatent import overrides
from microlatent.arguments import completed, plugins
from microlatent.run import RunFolder

TYPED = "a=1 +a=1 ++a.b=x a/b=c a@p=c a@p.q='x=y' a='k=v' a=[1,2] a={b:c} a= a.b=x,2 ~a=1".split()


@pytest.mark.parametrize("typed", TYPED)
def test_key_is_what_hydra_takes_for_the_key(typed):
    assert overrides.key_of(typed) == overrides.read(typed).key_or_group


def test_deletion_has_a_key_and_a_flag_has_none():
    assert [overrides.key_of(typed) for typed in ("~a.b", "-m", "--config-dir", "--help")] == ["a.b", "", "", ""]
    assert overrides.texts(["-m", "a=1", "+b='x=y'", "~c", "a=2"]) == {"a": "2", "b": "'x=y'", "c": ""}


VALUES = [
    None, True, 3, 1e-05, 2.5, "", "plain", "a b", "a  b", "null and void", "k=v", "[x]", "it's", "back\\slash", "end\\", "\\'",
    "a,b", "${x}", "/J\xfcrgen/x", "x: y", "# no comment", ["a", "b c", None], {"k": [1, "v=w"]}, "(x)", '"', "/data/run (1)/a=b",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_what_is_quoted_is_read_back(value):
    assert overrides.value(overrides.quoted(value)) == value
    assert overrides.values(overrides.quoted(value)) == [value], "a comma in quotes is no sweep"


def test_numbers_are_numbers_to_yaml_too():
    assert yaml.safe_load(overrides.quoted(1e-05)) == 1e-05


def test_values_of_a_sweep_are_single():
    assert overrides.values("1,'a,b',x y") == [1, "a,b", "x y"]
    assert overrides.values("range(1,4)") == [1, 2, 3]
    assert overrides.values("[1,2]") == [[1, 2]]
    with pytest.raises(ValueError, match="has no single values"):
        overrides.values("interval(1,2)")
    with pytest.raises(ValueError, match=r"token|mismatched|missing"):
        overrides.value("a=b")


@pytest.mark.parametrize("typed", ["plugins=[one.a,two]", "+plugins=['one.a', 'two']", "plugins=[ one.a , two ]"])
def test_plugins_are_known_before_anything_is_composed(typed):
    assert plugins(["-m", typed]) == ["one.a", "two"]


def test_run_whose_name_needs_quotes_gives_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder.claim(tmp_path / "a=b, (c)").describe({"data": {"name": "kikuchi"}}, {})
    named = f"run={overrides.quoted('a=b, (c)')}"
    assert completed("infer", [named]) == [named, "data=kikuchi"]
    assert completed("infer", ["-m", f"{named},{overrides.quoted('a=b, (c)')}"])[-1] == "data=kikuchi"
