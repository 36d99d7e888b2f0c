"""Pickles of other people: what is data comes back exactly, what is a program never runs."""

import builtins
import functools
import io
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from microlatent.data.io import pickles


def written(folder: Path, data: bytes) -> Path:
    path = folder / "value.pkl"
    path.write_bytes(data)
    return path


def saved(folder: Path, value: object, protocol: int = 4) -> Path:
    return written(folder, pickle.dumps(value, protocol=protocol))


def same(a: object, b: object) -> bool:
    if isinstance(a, pickles.LazyArray):
        a = a.read()
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(b, dict):
        return type(a) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


plain_arrays = arrays_of.arrays(
    st.sampled_from(["<f8", ">f4", "<u2", "|u1", "<i8", "|b1", "<c16", "<U3", "|S2"]),
    arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)
values = st.recursive(
    st.one_of(plain_arrays, st.integers(), st.text(max_size=4), st.binary(max_size=4), st.none(), st.booleans(), st.just(2.5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.tuples(st.integers(), st.integers())), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(value=values, protocol=st.integers(0, 5))
def test_every_table_of_arrays_comes_back_exactly(tmp_path_factory, value, protocol):
    path = saved(tmp_path_factory.getbasetemp(), value, protocol)
    assert same(pickles.load(path), value)
    assert same(pickles.load_lazily(path), value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F", "mixed"])
def test_rows_of_a_large_array_equal_numpys(tmp_path, protocol, order):
    array = np.random.default_rng(0).normal(size=(4, 1, 70, 80))
    array = {
        "C": array,
        "F": np.asfortranarray(array),
        "mixed": np.ascontiguousarray(array.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    }[order]
    lazy = pickles.load_lazily(saved(tmp_path, {"a": array, "again": array}, protocol))
    assert lazy["a"].shape == array.shape
    assert lazy["a"] is lazy["again"]
    np.testing.assert_array_equal(lazy["a"].read([2, 0, -1]), array[[2, 0, -1]])
    np.testing.assert_array_equal(lazy["a"].read(), array)


def test_large_arrays_are_skipped_and_not_read(tmp_path, monkeypatch):
    path = saved(tmp_path, {i: {"mat": np.full((3, 100, 100), i, float)} for i in range(20)})
    read = 0

    class Counting(io.FileIO):
        def read(self, n=-1):
            nonlocal read
            data = super().read(n)
            read += len(data)
            return data

    monkeypatch.setattr(builtins, "open", lambda path, mode: Counting(path, mode))
    lazy = pickles.load_lazily(path)
    assert all(stack["mat"].is_lazy for stack in lazy.values())
    assert read < 0.01 * path.stat().st_size


def test_numbers_sets_and_ordered_dictionaries_come_back(tmp_path):
    value = {"n": np.int64(3), "f": np.float32(0.5), "yes": np.bool_(True), "s": {1, 2}, "o": OrderedDict(b=1, a=2), "c": 1j}
    for protocol in range(6):
        back = pickles.load(saved(tmp_path, value, protocol))
        assert back == value
        assert type(back["n"]) is np.int64
        assert list(back["o"]) == ["b", "a"]


def test_arrays_of_python_2_and_numpy_1_are_read(tmp_path):
    text = pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(pickles.load(written(tmp_path, text)), np.arange(3.0))
    python2 = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    python2 += b"S'\\x05" + 7 * b"\\x00" + b"'\ntR."
    assert pickles.load(written(tmp_path, python2)) == 5


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile(mark: Path) -> dict[str, bytes]:
    """Programs that create the file ``mark`` in a plain unpickler, one per way to call a function."""
    code = f"open({str(mark)!r}, 'w').close()"
    shell = f"touch {mark}"
    text = code.encode()
    return {
        "os.system": pickle.dumps(Call(__import__("os").system, shell)),
        "eval": pickle.dumps(Call(eval, code), 2),
        "exec, protocol 0": pickle.dumps(Call(exec, code), 0),
        "functools.partial": pickle.dumps(Call(functools.partial, exec, code)),
        "numpy runner": b"cnumpy.testing._private.utils\nrunstring\n(S'" + text.replace(b"'", b'"') + b"'\n}tR.",
        "inside an array's state": pickle.dumps(np.array([Call(exec, code)], dtype=object)),
        "deep in a table": pickle.dumps({"a": [(1, {"b": Call(exec, code)})], "x": np.zeros(3)}),
        "as a key": pickle.dumps({(1, Call(exec, code)): 1}),
        "INST": b"(S'" + text.replace(b"'", b'"') + b"'\nibuiltins\nexec\n.",
        "OBJ": b"(cbuiltins\nexec\nS'" + text.replace(b"'", b'"') + b"'\no.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93X" + len(text).to_bytes(4, "little") + text + b"\x85R.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93X"
        + len(shell).to_bytes(4, "little")
        + shell.encode()
        + b"\x85R.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(]X" + len(shell).to_bytes(4, "little") + shell.encode() + b"at\x81.",
        "BUILD of an allowed name": b"\x80\x02c_codecs\nencode\nN}U\x04callK\x01s\x86b.",
        "EXT": b"\x80\x02\x82\x01.",
        "persistent id": b"Pid\n.",
        "attribute of an allowed module": b"cnumpy\nload\n(S'x'\ntR.",
        "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'__init__'\ntR.",
        "ndarray built directly": b"cnumpy\nndarray\n((I9\ntS'O'\ntR.",
        "memory through bytearray": b"cbuiltins\nbytearray\n(I99999999999\ntR.",
        "other codec": b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        "the function itself": b"c_codecs\nencode\n.",
    }


@pytest.mark.parametrize("way", list(hostile(Path("mark"))))
def test_no_program_runs(tmp_path, way):
    mark = tmp_path / "mark"
    path = written(tmp_path, hostile(mark)[way])
    for read in (pickles.load, pickles.load_lazily):
        with pytest.raises(ValueError, match=r"value\.pkl"):
            read(path)
    assert not mark.exists()


def test_the_hostile_examples_would_run_in_a_plain_unpickler(tmp_path):
    for way in ("os.system", "eval", "INST", "OBJ", "STACK_GLOBAL", "deep in a table"):
        mark = tmp_path / way.replace(" ", "_").replace(".", "_")
        pickle.loads(hostile(mark)[way])
        assert mark.exists()


def test_the_refusal_names_what_was_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"posix\.system.*nothing in it was run"):
        pickles.load(written(tmp_path, pickle.dumps(Call(__import__("os").system, "true"))))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    data=st.one_of(
        st.binary(min_size=1, max_size=60),
        st.lists(
            st.sampled_from([bytes([ord(o.code)]) for o in pickletools.opcodes] + [b"\x01", b"\n", b"numpy", b"os"]),
            min_size=1,
            max_size=25,
        ).map(b"".join),
    )
)
def test_random_bytes_give_data_or_a_value_error(tmp_path_factory, data):
    path = written(tmp_path_factory.getbasetemp(), data)
    try:
        value = pickles.load(path)
    except ValueError as error:
        value = str(error)
        assert str(path) in value
    assert isinstance(value, (*pickles.PLAIN, dict, list, tuple, np.ndarray))


@settings(max_examples=100, deadline=None)
@given(position=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_flipped_byte_never_raises_anything_else(tmp_path_factory, position, byte):
    data = bytearray(pickle.dumps({"a": np.arange(5), "b": [np.float32(1), (2, "x")]}))
    data[int(position * (len(data) - 1))] = byte
    try:
        pickles.load(written(tmp_path_factory.getbasetemp(), bytes(data)))
    except ValueError:
        pass


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_a_file_cut_short_is_refused(tmp_path, protocol, share):
    whole = pickle.dumps([np.zeros((100, 200)), np.ones((100, 200))], protocol)
    path = written(tmp_path, whole[: int(share * len(whole))])
    for read in (pickles.load, pickles.load_lazily):
        with pytest.raises(ValueError, match=r"value\.pkl.*(cut short|empty|damaged)"):
            read(path)


def test_a_file_cut_after_opening_is_found_when_read(tmp_path):
    path = saved(tmp_path, np.zeros((100, 200)))
    lazy = pickles.load_lazily(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cut short"):
        lazy.read([99])


def test_object_and_structured_arrays_are_refused(tmp_path):
    for array in (np.array([1, "a"], dtype=object), np.zeros(2, dtype=[("a", int), ("b", float)])):
        with pytest.raises(ValueError, match=r"objects|structured|type"):
            pickles.load(saved(tmp_path, array))


def test_too_large_and_missing_files_say_so(tmp_path):
    with pytest.raises(ValueError, match="at most 10 are read"):
        pickles.load(saved(tmp_path, list(range(100))), max_bytes=10)
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        pickles.load(tmp_path / "none.pkl")


def test_nested_and_repeated_containers_end(tmp_path):
    bomb = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    pickles.load(saved(tmp_path, bomb))
    with pytest.raises(ValueError, match="nested"):
        pickles.load(written(tmp_path, b"]" * 5000 + b"a" * 4999 + b"."))


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"K\x01s.", b"K\x01u.", b"\x90.", b"\x91.", b"K\x01d."])
def test_endless_keys_do_not_end_the_process(tmp_path, end):
    opening = {b"s": b"}", b"u": b"}(", b"\x90": b"\x8f(", b"\x91": b"(", b"d": b"("}[end[-2:-1]]
    with pytest.raises(ValueError, match="as a key"):
        pickles.load(written(tmp_path, opening + b"K\x01" + 100_000 * b"\x85" + end))


def test_reference_files_equal_plain_unpickling(golden_folder):
    files = sorted((golden_folder / "wells").rglob("*.pkl"))
    assert files
    for path in files:
        with open(path, "rb") as file:
            expected = pickle.load(file)
        assert same(pickles.load(path), expected)
        assert same(pickles.load_lazily(path), expected)


def test_nested_tuple_as_a_key_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({((((1,),),),): 1}))
    with pytest.raises(ValueError, match="as a key"):
        pickles.load(tmp_path / "x.pkl")
