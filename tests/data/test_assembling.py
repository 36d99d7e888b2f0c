"""Stores are replaced together or not at all, in every system: what is refused changes nothing, what is killed is noticed."""

import json
import os
import shutil
import signal
import struct
from dataclasses import asdict
from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from microlatent import config
from microlatent.data.assembling import Plan, Unit, as_task, origin
from microlatent.data.folders import open_stores, raw_folder, resolved
from microlatent.data.store import Store, StoreWriter
from microlatent.systems.kikuchi.ebsd.write import write_h5oina
from microlatent.systems.wells.simulate import specimen
from microlatent.tracking import NullTracker
from tests.conftest import composed

RNG = np.random.default_rng(0)
NAMES = {"wells": ["A1", "B2"], "partitions": ["s1", "s2"], "kikuchi": ["a", "b"], "mnist": ["mnist"]}
CHANGE = {"wells": "task.patch_px=16", "partitions": "task.size=16", "kikuchi": "task.bin=2", "mnist": "task.overwrite=false"}
# A setting that the second store alone cannot meet, and what is said of it.
UNMET = {
    "wells": ("data.channels=[phase]", r"data.channels names \['phase'\], but well B2 has \['dic', 'retardance'\]"),
    "partitions": ("task.size=24", r"s2/im .* has 16 x 40 px, but a partition has 24 x 24 px"),
    "kikuchi": ("task.crop=[0,12,0,12]", r"task.crop is \[0, 12, 0, 12\] .*/b.h5oina have 8 rows"),
}


def write_raw(kind, root):
    """Write the raw files of two units; the second has smaller images, or names its channels otherwise."""
    root.mkdir()
    if kind == "wells":
        specimen(root, wells=("A1", "B2"), sites=1, frames=3, cells=3, size_px=128, patches=True)
        with h5py.File(root / "B2-supps" / "B2-Site_0" / "patches.h5", "r+") as file:
            file.attrs["channels"] = ["dic", "retardance"]
    elif kind == "partitions":
        for name, height in (("s1", 32), ("s2", 16)):
            (root / name).mkdir()
            tifffile.imwrite(root / name / "im.tif", RNG.integers(0, 99, (2, height, 40)).astype("u2"), photometric="minisblack")
    elif kind == "kikuchi":
        for name, side in (("a", 12), ("b", 8)):
            patterns = RNG.integers(0, 255, (20, side, side)).astype(np.uint8)
            write_h5oina(root / f"{name}.h5oina", patterns, (4, 5), step_um=(1.0, 1.0))
    else:
        (root / "train-images").write_bytes(struct.pack(">4I", 2051, 9, 8, 8) + RNG.bytes(9 * 64))


@pytest.fixture(scope="module", params=NAMES)
def raw(request, tmp_path_factory):
    """Return a kind of data, and a folder of its raw files."""
    root = tmp_path_factory.mktemp(request.param) / "raw"
    write_raw(request.param, root)
    return request.param, root


@pytest.fixture
def act(raw, tmp_path):
    """Return a function that assembles the raw files of a kind of data, or only describes it, and its kind."""
    kind, root = raw

    def do(*overrides, check=False):
        given = [f"data={kind}", f"data.root={root}", f"data.store={tmp_path / 'stores'}", f"outputs={tmp_path}"]
        small = ["task.size=8"] if kind == "partitions" else []
        task = config.task_choice("assemble", kind).load()
        settings = composed("infer", "task=assemble", *given, *small, *overrides)
        if check:
            return task.preflight(settings, tmp_path / "run")
        return task.run(settings, tmp_path / "run", NullTracker())

    do.kind, do.root, do.stores = kind, root, tmp_path / "stores"
    return do


def state(folder):
    """Return what a folder holds: names, contents, and when each was written."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_plan_says_what_a_run_then_writes(act):
    plan = act(check=True)
    assert not act.stores.exists()
    act()
    assert [path.stem for path in sorted(act.stores.iterdir())] == NAMES[act.kind]
    assert plan.writes == [str(act.stores / f"{name}.h5") for name in NAMES[act.kind]]


def test_a_store_of_another_root_is_refused_before_any_is_replaced(act):
    act()
    path = act.stores / f"{NAMES[act.kind][-1]}.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["origin"] = json.dumps(json.loads(file.attrs["origin"]) | {"data_root": "/other"})
    before = state(act.stores)
    for check in (True, False):
        with pytest.raises(ValueError, match=rf"{path.name} was assembled from /other.*task\.overwrite=true"):
            act(CHANGE[act.kind], check=check)
    assert state(act.stores) == before
    act("task.overwrite=true")
    assert Store.open(path).origin["data_root"] != "/other"


def test_a_setting_that_the_last_store_cannot_meet_is_refused_before_any_is_replaced(act):
    if act.kind not in UNMET:
        pytest.skip("there is one store")
    override, message = UNMET[act.kind]
    act()
    before = state(act.stores)
    for check in (True, False):
        with pytest.raises(ValueError, match=message):
            act(override, check=check)
    assert state(act.stores) == before


def test_opening_stores_leaves_the_settings_alone(act, tmp_path):
    act()
    where = [f"data={act.kind}", f"data.root={act.root}", f"data.store={act.stores}", "model=ae_gauss"]
    settings = composed("train", *where, f"outputs={tmp_path}", *(["data.channels=[retardance]"] * (act.kind == "wells")))
    if act.kind == "kikuchi":
        settings.data.scans, settings.data.keep = ["a"], None
    if act.kind == "partitions":
        settings.data.subjects = ["s1"]
    before = asdict(settings)
    config.choice("data", act.kind).load()(settings)
    assert asdict(settings) == before


def test_paths_that_stay_on_record_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["data=kikuchi", "data.root=scans", "data.maps=[a.csv]", "data.keep=kept", "model=kikuchi_cnn"]
    settings = composed("train", *options)
    data = resolved(settings).data
    assert (data.root, data.store) == (str(tmp_path / "scans"), str(tmp_path / "outputs" / "stores" / "kikuchi-scans"))
    assert (data.maps, data.keep) == ([str(tmp_path / "a.csv")], str(tmp_path / "kept"))
    assert (settings.data.root, settings.data.store, settings.data.maps) == ("scans", None, ["a.csv"])


def write_number(name, path, *, settings, root, value):
    """Write a store of one patch; a value below 0 is a damaged file."""
    if value < 0:
        raise ValueError(f"{name} is damaged")
    with StoreWriter(path, np.uint8) as writer:
        writer.append(np.full((1, 1, 2, 2), value, np.uint8), pd.DataFrame({"key": [name]}))
        writer.finish(writer.table, name=name, channels=["x"], origin=origin(settings, root))
    return [{"number": name, "patches": 1}], name


def assemble_numbers(settings, out, **values):
    """Assemble stores of numbers, as a plugin's kind of data would."""

    def plan(settings, outputs, out):
        root = raw_folder(settings.data, outputs)
        write = {name: partial(write_number, name, settings=settings, root=root, value=value) for name, value in values.items()}
        units = [Unit(name=name, reads=[], write=write[name], size_mb=0, memory_mb=0, seconds=0) for name in values]
        return Plan(units=units, table="numbers", sums=("patches",), whole=True)

    run, _ = as_task(plan)
    return run(settings, out, NullTracker())


@pytest.fixture
def numbers(tmp_path):
    return composed("infer", "task=assemble", "data=mnist", "data.root=x", f"data.store={tmp_path / 'stores'}")


def test_an_assembly_that_fails_in_its_first_store_has_changed_nothing(numbers, tmp_path):
    assemble_numbers(numbers, tmp_path, a=1, b=1)
    before = state(tmp_path / "stores")
    with pytest.raises(ValueError, match="a is damaged"):
        assemble_numbers(numbers, tmp_path, a=-1, b=2)
    assert state(tmp_path / "stores") == before
    with pytest.raises(ValueError, match="b is damaged"):
        assemble_numbers(numbers, tmp_path, a=2, b=-1)
    with pytest.raises(ValueError, match=r"half assembled.*before b,"):
        open_stores(numbers.data, numbers.outputs)
    assert assemble_numbers(numbers, tmp_path, a=2, b=2) == {"numbers": 2, "patches": 2}
    assert len(open_stores(numbers.data, numbers.outputs)) == 2


def killed_before(number, act):
    """Carry out something in a child process that is killed before its nth change of a name; return whether it was."""
    child = os.fork()
    if child == 0:
        left = number

        def or_die(change):
            def changed(*arguments, **options):
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **options)

            return changed

        for name in ("replace", "rename", "unlink"):
            setattr(os, name, or_die(getattr(os, name)))
        act()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_wherever_an_assembly_is_killed_its_stores_never_open_as_a_mixture(numbers, tmp_path):
    assemble_numbers(numbers, tmp_path, a=1, b=1, gone=1)
    shutil.copytree(tmp_path / "stores", tmp_path / "old")
    seen = set()
    for number in range(100):
        shutil.rmtree(tmp_path / "stores")
        shutil.copytree(tmp_path / "old", tmp_path / "stores")
        if not killed_before(number, lambda: assemble_numbers(numbers, tmp_path, a=2, b=2, c=2)):
            break
        try:
            seen.add(tuple(int(store.images[0, 0, 0, 0]) for store in open_stores(numbers.data, numbers.outputs)))
        except ValueError as error:
            seen.add("half assembled" in str(error))
    assert number > 5
    assert seen == {(1, 1, 1), True, (2, 2, 2)}


def test_two_raw_files_of_one_name_are_refused(numbers, tmp_path):
    def plan(settings, outputs, out):
        unit = Unit(name="a", reads=[], write=lambda path: None, size_mb=0, memory_mb=0, seconds=0)
        return Plan(units=[unit, unit], table="numbers", sums=(), whole=True)

    with pytest.raises(ValueError, match=r"more than one of numbers named \['a'\]"):
        as_task(plan)[0](numbers, tmp_path, NullTracker())
