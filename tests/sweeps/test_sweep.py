"""Sweeps as a user runs them: what is refused before the first job, the index, failures, kills, and going on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from microlatent import run
from microlatent.arguments import completed
from microlatent.files import write_text
from microlatent.sweeps import index, launching, sweep
from microlatent.sweeps.running import run_missing
from microlatent.sweeps.sweeper import deferred, grid, split
from microlatent.tracking import differing_history
from tests.conftest import ROOT
from tests.core.test_training import SMALL

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def begin(stores_folder, tmp_path):
    """Return a function that starts a command in a process of its own, as a shell does."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        line = [sys.executable, str(ROOT / "train.py"), *arguments]
        env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
        with open(tmp_path / "said.txt", "a") as said:
            process = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=said, stderr=said)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def only_sweep(folder: Path) -> Path:
    """Return the one sweep below a folder's outputs."""
    (found,) = sweep.find_sweeps(folder / "outputs")
    return found


def wait_for_history(folder: Path) -> None:
    """Wait until the first job of a sweep has an epoch behind it."""
    deadline = time.time() + 120
    while not list(folder.glob("outputs/sweeps/*/0/history.csv")):
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def swept(without_figures, stores_folder, tmp_path_factory):
    """Sweep two families by two seeds, two jobs at a time, of which one fails: the wells it names do not exist."""
    from tests.forks import in_fork

    folder = tmp_path_factory.mktemp("sweep")
    env = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HOME": str(folder / "home")}
    arguments = [f"data.store={stores_folder}", "model=vqvae_z16,vae_gauss", "data.wells=null,[ZZ]", "trainer.epochs=1"]
    small = [one for one in SMALL if not one.startswith("model.")]
    done = in_fork("train", ("-m", *arguments, *small, "model.latent_dim=4", "hydra.sweeper.n_jobs=2"), folder, env)
    return folder, done


def test_jobs_of_a_sweep_are_runs_and_the_index_says_how_each_ended(swept):
    folder, _ = swept
    table = pd.read_csv(only_sweep(folder) / index.INDEX)
    assert list(table["model"]) == ["vqvae_z16", "vqvae_z16", "vae_gauss", "vae_gauss"]
    assert list(table["state"]) == ["completed", "failed"] * 2
    for row in table[table["state"] == "completed"].itertuples():
        path = only_sweep(folder) / str(row.folder)
        numbers = run.read_status(path)["metrics"]
        assert row.best_score == pytest.approx(numbers["best_score"])
        assert 0 < row.duration_s < 300
        assert (path / "checkpoints" / "best.ckpt").is_file()
        assert run.read_config(path)["model"]["latent_dim"] == 4
        assert "model.latent_dim=4" in run.read_provenance(path)["command"]


def test_failed_jobs_are_listed_at_the_end_and_in_the_exit_code(swept):
    folder, done = swept
    assert done.returncode == 1
    assert "2 of 4 jobs did not finish" in done.stderr
    assert "job 1 (failed): FileNotFoundError: data.wells names ['ZZ']" in done.stderr
    errors = pd.read_csv(only_sweep(folder) / index.INDEX).set_index("state")["error"]
    assert errors["failed"].str.contains("data.wells names").all()
    assert errors["completed"].isna().all()


def test_label_is_what_tells_a_job_from_the_others(swept):
    folder, _ = swept
    assert sweep.label(only_sweep(folder) / "2") == "vae_gauss wells=null"
    assert sweep.label(folder) == ""


def test_going_on_runs_what_is_missing_and_nothing_twice(swept, command, stores_folder, tmp_path):
    import shutil

    folder, _ = swept
    shutil.copytree(folder / "outputs", tmp_path / "outputs")
    path = only_sweep(tmp_path)
    before = {number: run.read_status(path / number)["updated"] for number in ("0", "2")}
    plan = sweep.read_plan(path)
    plan.jobs = {number: [one.replace("[ZZ]", "[A1]") for one in plan.jobs[number]] for number in (0, 1, 2)}
    plan.write()  # as if the missing well had been put in its place, and job 3 had never been asked for
    done = command("train", f"resume={path}")
    assert "2 of 3 jobs are done; 1 are to run" in done.stderr
    assert {number: run.read_status(path / number)["updated"] for number in before} == before
    assert list(pd.read_csv(path / index.INDEX)["state"]) == ["completed"] * 3
    assert run.read_status(path / "1-failed")["state"] == "failed"


def test_a_sweep_goes_on_as_it_was_asked_for(swept, command):
    folder, _ = swept
    done = command("train", f"resume={only_sweep(folder)}", "trainer.lr=1", check=False)
    assert done.returncode == 2
    assert "trainer.lr=1 cannot be changed" in done.stderr
    done = command("infer", f"resume={only_sweep(folder)}", check=False)
    assert f"Type: python train.py resume={only_sweep(folder)}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=vqvae_z16,vae_gauss", "model.num_codes=16,32"], ["num_codes is a setting of", "task=compare", "job 2 of 4"]),
        (["model=vqvae_z16,vae_gauss", "model.beta=2"], ["model.beta=2: beta is a setting of", "job 0 of 2"]),
        (["trainer.batch_size=0,8"], ["trainer.batch_size is 0", "job 0 of 2"]),
        (["trainer.lr=interval(0.1,1)"], ["is an interval", "hydra/sweeper=study"]),
        (["seed=1,2", "hydra.sweeper.n_jobs=two"], ["hydra.sweeper.n_jobs=two: Value 'two'", "Integer"]),
        (["seed=1,2", "hydra.sweeper.njobs=2"], ["a grid has no setting 'njobs'", "Did you mean 'n_jobs'"]),
        (["seed=1,2", "hydra.sweeper.n_trials=2"], ["n_trials is a setting of a study", "hydra/sweeper=study"]),
        (["seed=1,2", "hydra.sweeper.n_jobs=0"], ["hydra.sweeper.n_jobs is 0"]),
        (["seed=1,2", "rerun=there"], ["rerun=there is for one run"]),
        (["seed=1,2", "name=é"], ["name=é cannot be read", "\"name='é'\""]),
    ],
)
def test_what_some_job_cannot_run_is_refused_before_the_first(command, arguments, words):
    done = command("train", "-m", "data.root=demo", "data.store=here", *arguments, check=False)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(command.folder.glob("outputs/**/*.yaml"))


TYPED = (
    *("model.beta=2", "model.beta=1e-3", "data.wells=null", "data.wells=[A1,'B 2']", "data.wells=[]", "data.store='a, b'"),
    *('data.store="it\'s"', "data.store='1'", "data.store=/a folder/b", "+data.x={a:1}", "data.store=${oc.env:HOME}/x"),
)


@pytest.mark.parametrize("typed", TYPED)
def test_value_reaches_the_jobs_as_it_was_typed_also_when_the_sweep_goes_on(typed):
    """Hydra must not look at it before the jobs' choices are known, so it wears a disguise, which is taken off again."""
    arguments = [typed, "seed=1,2"]
    for _ in range(2):  # the second time as resume= does
        hidden = deferred(arguments)
        assert OverridesParser.create().parse_override(hidden[0]).is_sweep_override()
        assert hidden[1] == "seed=1,2"
        fixed, swept = split(hidden, None, {})
        assert grid(fixed, swept) == {0: [typed, "seed=1"], 1: [typed, "seed=2"]}
        arguments = [*fixed, *(override.input_line for override in swept)]


def test_what_is_swept_and_what_every_choice_has_is_left_to_hydra():
    typed = ["model=a,b", "seed=3", "model.latent_dim=4,8", "name='a,b'"]
    assert deferred(typed) == typed


def test_latest_run_of_a_sweep_is_the_same_when_it_goes_on(tmp_path):
    folder = run.RunFolder.claim(tmp_path / "x" / "20260101-000000")
    folder.describe({}, {})
    write_text("", folder.path / "checkpoints" / "last.ckpt")
    typed = ["task=embed", "run=latest,other", f"outputs={tmp_path}"]
    assert completed("analyze", ["-m", *typed])[2] == f"run={folder.path},other"
    assert completed("analyze", ["-m", "run=other"]) == ["-m", "run=other"]


def test_runs_on_different_data_are_not_swept_together(tmp_path):
    for name in ("wells", "partitions"):
        run.RunFolder.claim(tmp_path / name).describe({"data": {"name": name}}, {})
    both = f"run={tmp_path / 'wells'},{tmp_path / 'partitions'}"
    assert completed("infer", ["-m", f"run={tmp_path / 'wells'},{tmp_path / 'wells'}"])[-1] == "data=wells"
    with pytest.raises(ValueError, match="names runs on different data: wells, partitions"):
        completed("infer", ["-m", both])
    assert completed("analyze", ["-m", "task=report", both]) == ["-m", "task=report", both]


def test_torchrun_does_not_run_a_sweep_in_each_of_its_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert completed("train", ["seed=1"]) == ["seed=1"]
    with pytest.raises(ValueError, match="torchrun"):
        completed("train", ["-m", "seed=1,2"])


@pytest.mark.parametrize("typed", ["hydra/launcher=slurm", "hydra/sweeper=study", "hydra.sweeper.n_jobs=2"])
def test_what_starts_jobs_is_refused_where_there_are_none(typed):
    with pytest.raises(ValueError, match="Add -m"):
        completed("train", [typed, "seed=1"])


@pytest.mark.slow
def test_sweep_of_one_run_keeps_every_result(command, stores_folder):
    command("train", f"data.store={stores_folder}", "trainer.epochs=0", "name=x", *SMALL)
    command("infer", "task=process", "run=latest", "logger=csv", "trainer.threads=1")
    twice = ("-m", "task=embed", "run=latest", "task.components=2,3", "task.umap=false", "logger=csv", "task.probes=[]")
    said = command("analyze", *twice, "check=true").stdout
    assert "/0/latents.h5ad" in said
    assert not (command.folder / "outputs" / "sweeps").exists()
    command("analyze", *twice)
    path = only_sweep(command.folder)
    table = pd.read_csv(path / index.INDEX)
    assert list(table["components"]) == [2, 3]
    assert all((path / str(number) / "latents.h5ad").is_file() for number in table["job"])
    assert "latest" not in " ".join(sweep.read_plan(path).arguments), "another run may be the latest when it goes on"
    command("analyze", "-m", "task=report", f"run={path / '0'},{path}", "hydra.sweep.dir=reports")
    assert list(index.read(command.folder / "reports")["state"]) == ["completed"] * 2


def test_index_is_true_while_jobs_run_and_after_they_are_gone(tmp_path):
    plan = sweep.Plan(tmp_path, "train", ["seed=1,2,3"], {n: [f"seed={n}"] for n in range(3)})
    plan.write()
    run.RunFolder(tmp_path / "1").path.mkdir()
    run.RunFolder(tmp_path / "1").set("running")
    assert list(index.read(tmp_path)["state"]) == ["pending", "running", "pending"]
    status = json.loads((tmp_path / "1" / "status.json").read_text())
    (tmp_path / "1" / "status.json").write_text(json.dumps(status | {"process_started": 1.0}))  # another process of that number
    assert list(index.read(tmp_path)["state"]) == ["pending", "lost", "pending"]


class Talkative:
    """A launcher whose job returns more than a pipe holds, or dies without a word."""

    def launch(self, job_overrides, initial_job_idx):
        """Be one job, by its number."""
        if initial_job_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        done = JobReturn(status=JobStatus.COMPLETED)
        done.return_value = {f"metric_{n}": float(n) for n in range(20_000)}
        return [done]


def test_job_with_much_to_say_ends_and_one_that_dies_is_told_apart(tmp_path):
    pool = launching.Pool(Talkative(), 2)
    for number in (0, 1):
        pool.start(number, [], tmp_path / str(number))
    ended = {}
    while pool.running:
        ended |= {one.number: one for one in pool.wait()}
    assert len(ended[0].value) == 20_000
    assert (ended[1].value, ended[1].error) == (None, "its process was killed (SIGKILL)")


@pytest.mark.parametrize("damage", [{"jobs": [1]}, {"jobs": {"a": "b"}}, {"study": "x"}, {"arguments": None}, {"unknown": 1}])
def test_damaged_plan_is_named(tmp_path, damage):
    plan = {"entry": "train", "arguments": [], "jobs": {0: ["seed=1"]}} | damage
    (tmp_path / sweep.SWEEP).write_text(yaml.safe_dump(plan))
    with pytest.raises(ValueError, match=r"sweep.yaml (is damaged|cannot be read)"):
        sweep.read_plan(tmp_path)


def test_two_sweeps_of_one_second_do_not_share_a_folder(tmp_path):
    first, second = (sweep.claim(sweep.Plan(tmp_path / "now", "train", [f"seed={n}"], {}), anew=True).folder for n in (1, 2))
    assert first != second
    with pytest.raises(ValueError, match="holds another sweep"):
        sweep.claim(sweep.Plan(first, "train", ["seed=3"], {}), anew=False)
    assert sweep.claim(sweep.Plan(first, "train", ["seed=1", "hydra.sweeper.n_jobs=2"], {}), anew=False).folder == first


class Recorder:
    """A launcher whose jobs take a moment, and note that they ran."""

    def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run one job as a command does: its folder is claimed, and says how it ended."""
        folder = Path(batch[0][0].partition("=")[2])
        with open(folder / "ran.txt", "a") as ran:
            claimed = run.RunFolder.claim(folder / str(initial_job_idx), exactly=True)
            ran.write(f"{initial_job_idx}\n")
        time.sleep(0.1)
        claimed.set("completed", metrics={})
        return [JobReturn(status=JobStatus.COMPLETED, _return_value={})]


def test_two_processes_on_one_sweep_run_every_job_once(tmp_path):
    plan = sweep.Plan(tmp_path, "train", [], {number: [f"name={tmp_path}"] for number in range(4)})
    plan.write()
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=run_missing, args=(plan, Recorder(), 1)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert sorted((tmp_path / "ran.txt").read_text().split()) == ["0", "1", "2", "3"]
    assert list(index.read(tmp_path)["state"]) == ["completed"] * 4
    assert not list(tmp_path.glob("*_2"))


def test_job_whose_claim_was_cut_short_begins_anew(tmp_path):
    """As a file system without hard links may leave it."""
    sweep.Plan(tmp_path, "train", [], {0: []}).write()
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "status.json").touch()
    assert list(index.read(tmp_path)["state"]) == ["lost"]
    sweep.clear(tmp_path / "0")
    assert run.RunFolder.claim(tmp_path / "0", exactly=True).path == tmp_path / "0"


def test_results_below_a_run_are_found_when_the_outputs_were_moved(tmp_path):
    job, results = tmp_path / "old" / "sweeps" / "x" / "0", tmp_path / "old" / "wells" / "y" / "process"
    for folder in (job, results):
        folder.mkdir(parents=True)
    sweep.point(job, results)
    (tmp_path / "old").rename(tmp_path / "new")
    assert sweep.job_folder(tmp_path / "new" / "sweeps" / "x", 0) == tmp_path / "new" / "wells" / "y" / "process"


def test_jobs_go_on_when_their_index_cannot_be_written(tmp_path, monkeypatch, caplog):
    sweep.Plan(tmp_path, "train", [], {0: []}).write()
    monkeypatch.setattr(index, "write_csv", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    index.write(tmp_path)
    assert "could not be written ([Errno 28] No space left on device)" in caplog.text


def test_sweep_goes_on_with_its_plugins(command, stores_folder, tmp_path):
    (tmp_path / "own.py").write_text(
        "from microlatent import config, schemas\nconfig.register('model', 'mine', schemas.VQVAEConfig, 'own:none')\n"
    )
    arguments = ["plugins=[own]", "model=mine", f"data.store={stores_folder}", "seed=1"]
    sweep.Plan(folder := tmp_path / "sweep", "train", arguments, {0: arguments}).write()
    run.RunFolder.claim(folder / "0").set("completed", metrics={})
    done = command("train", f"resume={folder}", PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}{os.pathsep}{tmp_path}")
    assert "1 of 1 jobs are done; 0 are to run" in done.stderr


@pytest.mark.slow
def test_interrupted_check_of_the_jobs_ends_at_once_and_leaves_nothing(begin, tmp_path):
    process = begin("-m", "data.root=demo", "seed=range(0,2000)")
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "Traceback" not in (tmp_path / "said.txt").read_text()
    assert not list(tmp_path.glob("outputs/**/*.yaml"))


TWO_JOBS = ("-m", "trainer.epochs=40,1", *SMALL)  # the first lasts long enough to be stopped, the second not longer than it must


@pytest.fixture(scope="module")
def uninterrupted(stores_folder, tmp_path_factory):
    """Return the history that the first job of ``TWO_JOBS`` ends with when nothing stops it."""
    from tests.forks import in_fork

    folder = tmp_path_factory.mktemp("uninterrupted")
    env = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HOME": str(folder / "home")}
    done = in_fork("train", (f"data.store={stores_folder}", "trainer.epochs=40", *SMALL), folder, env)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("outputs/*/*/history.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_sweep_saves_its_job_and_goes_on_from_there(begin, stores_folder, uninterrupted, tmp_path, how):
    process = begin(*TWO_JOBS, f"data.store={stores_folder}")
    wait_for_history(tmp_path)
    process.send_signal(how)
    code = process.wait(60)
    assert code == {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[how]
    path = only_sweep(tmp_path)
    deadline = time.time() + 60  # a killed sweep's job is told by the system, saves, and writes the index
    while list(pd.read_csv(path / index.INDEX)["state"]) != ["interrupted", "pending"] and time.time() < deadline:
        time.sleep(0.05)
    assert list(index.read(path)["state"]) == ["interrupted", "pending"]
    assert list(pd.read_csv(path / index.INDEX)["state"]) == ["interrupted", "pending"]

    done = begin(f"resume={path}")
    assert done.wait(240) == 0, (tmp_path / "said.txt").read_text()
    assert list(index.read(path)["state"]) == ["completed"] * 2
    assert differing_history(uninterrupted, path / "0" / "history.csv") is None


@pytest.mark.slow
def test_killed_job_is_lost_alone_and_is_continued(begin, stores_folder, tmp_path):
    process = begin(*TWO_JOBS, f"data.store={stores_folder}")
    wait_for_history(tmp_path)
    path = only_sweep(tmp_path)
    os.kill(run.read_status(path / "0")["pid"], signal.SIGKILL)
    assert process.wait(240) == 1
    assert "job 0 (lost): its process was killed (SIGKILL)" in (tmp_path / "said.txt").read_text()
    assert list(index.read(path)["state"]) == ["lost", "completed"]
    again = begin(f"resume={path}")
    assert again.wait(240) == 0, (tmp_path / "said.txt").read_text()
    assert len(pd.read_csv(path / "0" / "history.csv")) == 40
    assert not list(path.glob("0-*"))
