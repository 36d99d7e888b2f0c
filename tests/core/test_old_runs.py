"""What users have on disk keeps working: runs of the code before its modules and files moved (``tests/old_runs``).

The runs name their stores relative to the working folder, so they open wherever they are unpacked; that of partitions names its
store by its whole path, which is no longer there.
"""

import json
import os
import tarfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from microlatent.dashboard.inventory import Inventory
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("without_figures")

ARCHIVES = Path(__file__).parents[1] / "old_runs"
MADE_IN = "/data/microlatent-runs"
CLOCK = ["seconds", "patches_per_s"]
MOVED = {"partitions": ["data.store=stores/partitions"]}  # what a user types whose stores are no longer where a run names them

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("partitions", "kikuchi")]


@pytest.fixture
def unpack(command):
    """Return a function that unpacks archives where commands run."""

    def unpacked(*names: str) -> Path:
        for name in names:
            with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
                archive.extractall(command.folder, filter="data")
        return command.folder

    return unpacked


@pytest.fixture
def old_run(unpack):
    """Return a function that unpacks a run by the name of its experiment and returns its folder."""

    def found(name: str) -> Path:
        folder = unpack(*{"whole": ["wells"], "stopped": ["wells"], "plugin": ["wells", "plugin"]}.get(name, [name]))
        (run,) = (folder / "outputs" / name).iterdir()
        return run

    return found


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def assert_same_history(path: Path, truth: Path) -> None:
    now, then = (pd.read_csv(one) for one in (path, truth))
    columns = [name for name in then if name not in CLOCK]
    assert len(now) == len(then)
    np.testing.assert_allclose(now[columns], then[columns], rtol=1e-3, atol=1e-6)


def last_of(text: str, word: str) -> str:
    """Return what stands behind the last ``word`` in what a command said."""
    return text.rpartition(word)[2].split()[0]


# ----------------------------------------------------------------------------------------------------------- one run


@pytest.mark.parametrize("name", ["whole", "plugin", *SLOW])
def test_latents_are_what_they_were(old_run, command, name):
    run = old_run(name)
    plugins = os.pathsep.join(map(str, (ROOT / "src", ROOT, command.folder)))  # the user's own module lies in the folder
    command("infer", "task=process", f"run={run}", "logger=csv", *MOVED.get(name, []), PYTHONPATH=plugins)
    now = anndata.read_h5ad(run / "process" / "latents.h5ad")
    (then,) = (anndata.read_h5ad(path / "latents.h5ad") for path in run.glob("process-*"))  # set aside, not overwritten
    np.testing.assert_allclose(now.X, np.load(command.folder / "truth" / f"latents_of_{name}.npy"), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(then.X, np.load(command.folder / "truth" / f"latents_of_{name}.npy"))
    pd.testing.assert_frame_equal(now.obs.drop(columns="store"), then.obs.drop(columns="store"))


def test_stopped_run_goes_on_to_where_it_would_have_come(old_run, command):
    stopped, whole = old_run("stopped"), old_run("whole")
    assert len(pd.read_csv(stopped / "history.csv")) == 1
    command("train", f"resume={stopped}")
    assert_same_history(stopped / "history.csv", whole / "history.csv")
    now, then = (read_json(path / "status.json") for path in (stopped, whole))
    assert now["state"] == "completed"
    assert {key: now["metrics"][key] for key in then["metrics"] if key not in CLOCK} == pytest.approx(
        {key: value for key, value in then["metrics"].items() if key not in CLOCK}, rel=1e-3
    )


@pytest.mark.slow
def test_run_is_repeated_from_its_folder(old_run, command):
    whole = old_run("whole")
    done = command("train", f"rerun={whole}", "outputs=again")
    assert f"that of {whole}" in done.stderr
    (again,) = command.folder.glob("again/whole/*")
    assert_same_history(again / "history.csv", whole / "history.csv")


@pytest.mark.slow
def test_finished_run_goes_on_for_more_epochs(old_run, command):
    whole = old_run("whole")
    before = pd.read_csv(whole / "history.csv")
    command("train", f"resume={whole}", "trainer.epochs=4")
    after = pd.read_csv(whole / "history.csv")
    assert list(after["epoch"]) == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(after.iloc[:3], before)
    assert read_json(whole / "status.json")["metrics"]["epochs"] == 4


@pytest.mark.slow
def test_run_whose_store_was_moved_goes_on_when_its_config_names_the_new_place(old_run, command):
    run = old_run("partitions")
    done = command("train", f"resume={run}", "trainer.epochs=4", check=False)
    assert done.returncode == 2
    assert f"{MADE_IN}/stores/partitions" in done.stderr
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(MADE_IN, str(command.folder)))
    command("train", f"resume={run}", "trainer.epochs=4")
    assert len(pd.read_csv(run / "history.csv")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [
        *(("whole", "cluster"), ("whole", "match"), ("whole", "embed")),
        *(("partitions", "cluster"), ("kikuchi", "cluster"), ("kikuchi", "maps")),
    ],
)
def test_task_on_the_old_latents_gives_the_old_numbers(old_run, command, name, task):
    run = old_run(name)
    then = read_json(run / task / "status.json")["metrics"]
    typed = yaml.safe_load((run / task / ".hydra" / "overrides.yaml").read_text())
    command("analyze", *typed, *MOVED.get(name, []))
    now = read_json(run / task / "status.json")["metrics"]
    assert len(list(run.glob(f"{task}-*"))) == 1
    assert {key: now[key] for key in then} == pytest.approx(then, rel=0.02, abs=0.02, nan_ok=True)


# ------------------------------------------------------------------------------------------------- what reviews runs


@pytest.mark.parametrize("name", ["whole", *SLOW])
def test_page_of_a_run_has_its_numbers(old_run, command, name):
    run = old_run(name)
    numbers = read_json(run / "status.json")["metrics"]
    command("analyze", "task=report", f"run={run}", "logger=csv")
    (page,) = (run / "report").glob("*.html")
    for key in ("best_score", "best_val_recon", "best_train_total"):
        assert f"{numbers[key]:.4g}" in page.read_text()


@pytest.mark.slow
def test_page_of_a_sweep_has_the_numbers_of_its_jobs(unpack, command):
    folder = unpack("wells") / "outputs" / "sweeps" / "whole"
    command("analyze", "task=report", f"run={folder}", "logger=csv")
    (page,) = (folder / "report").glob("*.html")
    for job in ("0", "1"):
        assert f"{read_json(folder / job / 'status.json')['metrics']['best_val_total']:.4g}" in page.read_text()


def test_comparison_has_the_numbers_that_it_had(unpack, command):
    folder = unpack("wells")
    runs = "task.runs=[outputs/whole,outputs/stopped,outputs/sweeps/whole]"
    command("analyze", "task=compare", runs, "outputs=compared", "logger=csv")
    (written,) = folder.glob("compared/**/compare.csv")
    now, then = (pd.read_csv(path).set_index(["configuration", "metric"]) for path in (written, folder / "truth" / "compare.csv"))
    pd.testing.assert_frame_equal(now.loc[then.index, then.columns], then)


@pytest.mark.parametrize("word", ["best", "latest"])
def test_old_runs_are_found_by_a_word(unpack, command, word):
    folder = unpack("wells")
    found = last_of(command("analyze", "task=report", f"run={word}", "check=true").stdout, "reads:")
    statuses = {path.parent: read_json(path) for path in (folder / "outputs").rglob("status.json")}
    runs = {path: status for path, status in statuses.items() if (path / "checkpoints" / "last.ckpt").is_file()}
    if word == "best":
        scored = {path: status["metrics"]["best_score"] for path, status in runs.items() if "metrics" in status}
        assert Path(found) == min(scored, key=scored.get)
    else:
        assert Path(found) == max(runs, key=lambda path: runs[path]["started"])


def test_dashboard_lists_old_runs_and_sweeps(unpack):
    folder = unpack("wells", "plugin", "partitions", "kikuchi")
    rows = {row["key"]: row for row in Inventory(folder / "outputs").changes()["rows"]}
    named = {key.partition("/")[0]: row for key, row in rows.items() if not key.startswith("sweeps/")}
    assert {name: row["state"] for name, row in named.items()} == {
        **dict.fromkeys(("whole", "plugin", "partitions", "kikuchi"), "completed"),
        "stopped": "interrupted",
    }
    assert (named["whole"]["model"], named["whole"]["data"], named["whole"]["total"]) == ("vqvae_z16", "wells", 3)
    assert [step["name"] for step in named["whole"]["steps"]] == ["process", "cluster", "match", "embed"]
    for name in ("whole", "plugin", "partitions", "kikuchi"):
        (path,) = (folder / "outputs" / name).iterdir()
        assert named[name]["score"] == read_json(path / "status.json")["metrics"]["best_score"]
    states = {key: rows[f"sweeps/{key}"]["state"] for key in ("whole", "whole/1", "stopped", "stopped/0", "stopped/1")}
    assert list(states.values()) == ["completed", "completed", "interrupted", "interrupted", "pending"]


# ------------------------------------------------------------------------------------------------------------ sweeps


@pytest.mark.slow
def test_stopped_sweep_goes_on(unpack, command):
    folder = unpack("wells")
    sweep = folder / "outputs" / "sweeps" / "stopped"
    command("train", f"resume={sweep}")
    assert list(pd.read_csv(sweep / "sweep.csv")["state"]) == ["completed"] * 2
    for job in (0, 1):
        assert_same_history(sweep / str(job) / "history.csv", folder / "truth" / f"history_of_job_{job}.csv")


@pytest.mark.slow
def test_finished_sweep_has_nothing_left_to_do(unpack, command):
    unpack("wells")
    assert "2 of 2 jobs are done; 0 are to run" in command("train", "resume=outputs/sweeps/whole").stderr
