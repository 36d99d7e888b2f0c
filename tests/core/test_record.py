"""Run folders as they may be found: whatever is damaged is named by every reader, ends none, and is not taken for a run."""

import json
import shutil

import pytest
import yaml

from microlatent import config, run
from microlatent.arguments import completed
from microlatent.dashboard.inventory import Inventory
from microlatent.record import Record
from microlatent.report import page
from microlatent.schemas import CompareConfig
from microlatent.sweeps import index, sweep
from microlatent.tasks.compare_result import compare
from microlatent.tasks.compare_runs import gather
from tests.conftest import composed

FILES = ("status.json", "config.yaml", "provenance.json", ".hydra/overrides.yaml")
DAMAGE = {
    "empty": b"",
    "cut": b'{"state": "comple',
    "no text": b"\xff\xfe\x00",
    "another type": b"5",
    "nothing": b"null",
    "nested": b"[" * 100_000,
    "nested and whole": b'{"data": ' * 3000 + b"1" + b"}" * 3000,
    "nested mappings": b"".join(b" " * i + b"a:\n" for i in range(150)),
}
MISTYPED = {
    "status.json": {"state": "completed", "started": 7, "updated": [], "seconds": "x", "metrics": [1], "epoch": {}, "reason": {}},
    "config.yaml": {"model": [1], "data": {"name": ["wells"]}, "task": 3, "trainer": "x", "plugins": "p", "seed": "s"},
    "provenance.json": {"data": [1], "git": 3, "hardware": "x", "versions": [], "command": "train.py"},
    ".hydra/overrides.yaml": [1, ["a"], {"b": 1}],
}
FEW = ("cut", "nested", "mistyped")  # for what takes long
METRICS = {"best_score": 0.5, "best_val_total": 0.5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a finished training run as its folder holds it, but without weights. Read only."""
    folder = run.RunFolder(tmp_path_factory.mktemp("outputs") / "cells" / "20260102-030405")
    settings = config.plain(composed("train", "model=vqvae_z16", "data=wells", "data.root=demo"))
    about = {"data": {"fingerprints": {"A1.h5": "f"}, "channels": ["a"], "shape_px": [8, 8]}, "git": {}, "command": ["train.py"]}
    folder.describe(settings, about, ["seed=0"])
    folder.set("completed", metrics=METRICS, started="2026-01-02T03:04:05+00:00")
    for name, text in (("checkpoints/last.ckpt", "x"), ("summary.csv", "metric,value\nbest_score,0.5\n")):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text(text)
    return folder.path


def damaged(whole, folder, name: str, kind: str):
    """Copy the run with one of its files damaged."""
    shutil.copytree(whole, folder)
    path = folder / name
    path.unlink()
    if kind == "mistyped":
        path.write_text(json.dumps(MISTYPED[name]))
    elif kind != "absent":
        path.write_bytes(DAMAGE[kind])
    return folder


def compared(*folders):
    """Compare runs as the task does."""
    chosen = CompareConfig(name="compare", runs=[str(folder) for folder in folders])
    return compare(gather(chosen.runs, "outputs")[0], chosen, {}).runs.set_index("run")


def test_whole_run_has_no_problem_and_is_the_same_to_every_reader(whole):
    assert Record(whole).problems == []
    assert "cannot be read" not in page.render(whole)
    (row,) = Inventory(whole.parents[1]).changes()["rows"]
    assert (row["state"], row["score"]) == ("completed", 0.5)
    assert compared(whole)[["state", "counts", "best_score"]].to_numpy().tolist() == [["completed", True, 0.5]]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [*DAMAGE, "mistyped"])
def test_damage_is_named_and_the_other_files_are_read(whole, tmp_path, name, kind):
    record, sound = Record(damaged(whole, tmp_path / "run", name, kind)), Record(whole)
    assert record.problems or (name.endswith("overrides.yaml") and kind in ("empty", "nothing")), "nothing was typed"
    assert all(problem.startswith(f"{name} cannot be read: ") for problem in record.problems)
    attributes = dict(zip(FILES, ("status", "config", "provenance", "overrides"), strict=True))
    for file, attribute in attributes.items():
        assert type(getattr(record, attribute)) is type(getattr(sound, attribute))
        assert (getattr(record, attribute) == getattr(sound, attribute)) == (file != name)
    assert record.state == ("lost" if name == "status.json" and kind != "mistyped" else "completed")
    assert record.metrics == ({"best_score": 0.5} if name == "status.json" else METRICS), "the summary is there too"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", FEW)
def test_damage_is_named_by_every_reader_and_ends_none(whole, tmp_path, name, kind):
    folder = damaged(whole, tmp_path / "runs" / "20260101-000000", name, kind)
    assert f"{name} cannot be read" in page.render(folder)
    (row,) = Inventory(tmp_path).changes()["rows"]
    assert row["state"] == Record(folder).state
    found = compared(whole, folder).loc[str(folder)]
    assert (found["state"], found["counts"]) == ("damaged", False)
    assert f"{name} cannot be read" in found["reason"]
    assert run.find("latest", str(tmp_path)) == folder, "it is the only one"
    if name in ("config.yaml", "provenance.json"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read: .* must be as the run wrote it"):
            {"config.yaml": run.read_config, "provenance.json": run.read_provenance}[name](folder)
    assert completed("infer", [f"run={folder}"])[0] == f"run={folder}", "Hydra has not begun yet: it is refused later"


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_not_there_says_nothing_and_ends_no_reader(whole, tmp_path, name):
    folder = damaged(whole, tmp_path / "runs" / "20260101-000000", name, "absent")
    assert Record(folder).problems == []
    assert "<html" in page.render(folder)
    assert len(Inventory(tmp_path).changes()["rows"]) == (name != "status.json")
    if name == "config.yaml":
        with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config\.yaml"):
            run.read_config(folder)
    else:
        assert str(folder) in compared(whole, folder).index


def test_configuration_that_was_cut_between_two_lines_is_refused(whole, tmp_path):
    folder = damaged(whole, tmp_path / "run", "config.yaml", "absent")
    lines = (whole / "config.yaml").read_text().splitlines(keepends=True)
    (folder / "config.yaml").write_text("".join(lines[:12]))
    with pytest.raises(ValueError, match=r"config\.yaml cannot be read: it lacks"):
        run.read_config(folder)


@pytest.mark.parametrize("kind", FEW)
def test_sweep_lists_a_job_whose_status_is_damaged(whole, tmp_path, kind):
    sweep.Plan(tmp_path / "s", "train", [], {0: ["seed=0"], 1: ["seed=1"]}).write()
    damaged(whole, tmp_path / "s" / "0", "status.json", kind)
    assert list(index.read(tmp_path / "s")["state"]) == ["completed" if kind == "mistyped" else "lost", "pending"]
    assert "status.json cannot be read" in page.render(tmp_path / "s")
    assert Inventory(tmp_path).changes()["rows"][0]["total"] == 2


@pytest.mark.parametrize("text", ["{", "[1]", '{"folder": 3}', "[" * 100_000])
def test_job_whose_pointer_is_damaged_is_listed_as_not_begun(tmp_path, text):
    sweep.Plan(tmp_path, "analyze", [], {0: ["seed=0"]}).write()
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").write_text(text)
    assert list(index.read(tmp_path)["state"]) == ["pending"]


@pytest.mark.parametrize("kind", [*DAMAGE, "mistyped"])
def test_plan_that_is_damaged_is_refused_by_name(tmp_path, kind):
    (tmp_path / "sweep.yaml").write_bytes(DAMAGE.get(kind) or yaml.safe_dump({"entry": [], "arguments": 3, "jobs": 1}).encode())
    with pytest.raises(ValueError, match=r"sweep.yaml (cannot be read|is damaged)"):
        sweep.read_plan(tmp_path)


def test_final_numbers_are_the_status_then_the_summary_then_the_table_of_old_runs(tmp_path):
    folder = run.RunFolder.claim(tmp_path / "a")
    assert Record(folder.path).metrics == {}
    (folder.path / "metrics.csv").write_text("well,rmse,value\nA1,1,2\n")
    assert Record(folder.path).metrics == {}, "an evaluation's table is no training's numbers"
    (folder.path / "metrics.csv").write_text("metric,value\nbest_score,3\n")
    assert Record(folder.path).metrics == {"best_score": 3}
    (folder.path / "summary.csv").write_text("metric,value\nbest_score,2\n")
    assert Record(folder.path).metrics == {"best_score": 2}
    folder.set("completed", metrics={"best_score": 1, "words": "no number"})
    assert Record(folder.path).metrics == {"best_score": 1}


def test_best_run_is_found_beside_one_whose_loss_was_no_number(tmp_path):
    for name, score in (("a", "0.5"), ("b", ""), ("c", "0.25")):
        folder = run.RunFolder.claim(tmp_path / name).path
        (folder / "summary.csv").write_text(f"metric,value\nbest_score,{score}\n")
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").write_text("x")
    assert run.find("best", str(tmp_path)).name == "c"
