"""W&B runs as they lie on disk, read back with W&B's own reader, and their upload with W&B's own command."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from microlatent.identity import artifact_name, identity
from microlatent.tracking import Tracker, has_key
from tests.core.test_training import SMALL
from tests.forks import in_fork
from tests.wandb_host import host

ROOT = Path(__file__).parents[2]
LOGGED = [option for option in SMALL if not option.startswith("logger")]


# ------------------------------------------------------------------------------------------------ what a run is called


def plan(folder: Path, **more: object) -> Path:
    """Write the plan of a sweep over two families and two seeds, and the folder of its last job."""
    jobs = {job: [f"model={model}", f"seed={seed}"] for job, (model, seed) in enumerate([("vae_gauss", 1), ("vqvae_z16", 2)])}
    container = {"entry": "train", "arguments": [], "jobs": jobs, "study": None, "created": "now", **more}
    job = folder / "sweeps" / "20261120-120000" / "1"
    job.mkdir(parents=True)
    (job.parent / "sweep.yaml").write_text(yaml.safe_dump(container))
    return job


def described(job: Path, settings: object) -> None:
    """Leave what a trained run leaves that is looked up from it."""
    from microlatent.config import plain

    (job / "config.yaml").write_text(yaml.safe_dump(plain(settings)))
    (job / "status.json").write_text(json.dumps({"state": "completed", "metrics": {"best_val_recon": 0.5}}))
    (job / "wandb").mkdir()
    (job / "wandb" / "run_id.txt").write_text("abc12345")


def test_job_of_a_sweep_is_named_by_what_was_varied_and_tagged_by_its_choices(compose, tmp_path):
    job = plan(tmp_path, study={"name": "s", "objectives": {"best_score": "minimize"}})
    made = identity(compose("train", "data.root=demo", "logger.tags=[mine]"), job)
    assert (made["group"], made["job_type"], made["name"]) == ("20261120-120000", "train", "vqvae_z16 seed=2")
    assert made["tags"] == ["vqvae_z16", "wells", "cpu", "20261120-120000", "study", "mine"]


def test_numbers_that_a_study_draws_are_short_in_names(compose, tmp_path):
    jobs = {0: ["trainer.lr=0.5", "model.beta=2"], 1: ["trainer.lr=0.00044303752452182633", "model.beta=1.2345678e-07"]}
    job = plan(tmp_path, jobs=jobs)
    assert identity(compose("train", "data.root=demo"), job)["name"] == "lr=0.000443 beta=1.23e-07"


def test_run_outside_sweeps_has_the_name_of_its_folder_and_the_group_of_its_experiment(compose, tmp_path):
    made = identity(compose("train", "data.root=demo"), tmp_path / "wells-demo" / "20261120-120000")
    assert (made["group"], made["name"]) == ("wells-demo", "wells-demo/20261120-120000")
    assert "parent" not in made["config"]


def test_task_on_a_job_belongs_to_the_sweep_and_knows_the_model_and_its_run(compose, tmp_path):
    job = plan(tmp_path)
    trained = compose("train", "data.root=demo", "seed=2", "model.latent_dim=4")
    described(job, trained)
    made = identity(compose("analyze", "task=embed", "data.root=demo", f"run={job}"), job / "embed")
    assert (made["group"], made["job_type"], made["name"]) == ("20261120-120000", "embed", "vqvae_z16 seed=2: embed")
    assert made["config"]["model"]["latent_dim"] == 4
    assert "vqvae_z16" in made["tags"]
    parent = made["config"]["parent"]
    assert (parent["folder"], parent["id"], parent["seed"]) == (str(job), "abc12345", 2)
    assert parent["metrics"] == {"best_val_recon": 0.5}


def test_run_that_starts_from_the_weights_of_another_names_it_as_its_parent(compose, tmp_path):
    job = plan(tmp_path)
    described(job, compose("train", "data.root=demo"))
    for origin in (job, job / "checkpoints" / "best.ckpt"):
        made = identity(compose("train", "data.root=demo", f"init_from={origin}"), tmp_path / "fine" / "20261120-130000")
        assert made["config"]["parent"]["id"] == "abc12345"
        assert (made["group"], made["name"]) == ("fine", "fine/20261120-130000")


def test_artifact_is_named_after_its_run_in_letters_that_are_allowed():
    assert artifact_name(Path("outputs/my wells/20261120-120000"), "checkpoint") == "my-wells-20261120-120000-checkpoint"


# -------------------------------------------------------------------------------------------------- the offline files


@pytest.fixture(scope="module")
def tracked(stores_folder, tmp_path_factory):
    """Three jobs of a sweep, one of them encoded, logged offline with HOME in an empty folder; read only."""
    folder = tmp_path_factory.mktemp("wandb")
    (folder / "home").mkdir()
    env = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HOME": str(folder / "home")}
    train = ["-m", f"data.store={stores_folder}", "trainer.epochs=2", "logger.tags=[test]", *LOGGED]
    train += ["seed=1,2,3", "trainer.num_reconstructions=2", "trainer.threads=1", "hydra.sweep.dir=outputs/sweeps/three"]
    for entry, *arguments in (["train", *train], ["infer", "task=process", "run=outputs/sweeps/three/0"]):
        done = in_fork(entry, tuple(arguments), folder, env)
        assert done.returncode == 0, done.stderr
    return folder


def inspect(folder: Path, *options: str) -> str:
    """Return what W&B's reader says of the only offline run in a run folder."""
    path = next(folder.glob("wandb/offline-run-*/run-*.wandb"))
    line = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(path)]
    env = os.environ | {"WANDB_ERROR_REPORTING": "false", "HOME": str(folder)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def summary(folder: Path) -> dict:
    return json.loads(inspect(folder, "--summary"))


def records(folder: Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in inspect(folder).splitlines()]
    return [row[kind] for row in rows if row["type"] == kind]


def metrics(folder: Path) -> dict[str, float]:
    with open(folder / "summary.csv") as file:
        return {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_sweep_of_three_jobs_is_three_runs_in_one_group_with_their_settings_and_numbers(tracked):
    jobs = [tracked / "outputs" / "sweeps" / "three" / str(number) for number in range(3)]
    assert len({(job / "wandb" / "run_id.txt").read_text() for job in jobs}) == 3
    for seed, job in enumerate(jobs, 1):
        (run,) = records(job, "run")
        assert (run["run_group"], run["job_type"], run["display_name"]) == ("three", "train", f"seed={seed}")
        assert run["tags"] == ["vqvae_z16", "wells", "cpu", "three", "test"]
        said = summary(job)
        assert (said["config"]["seed"], said["config"]["model"]["num_codes"]) == (seed, 8)
        assert (said["state"], said["summary"]["state"]) == ("finished", "completed")
        numbers = {key: value for key, value in said["summary"].items() if key in metrics(job)}
        assert numbers == pytest.approx(metrics(job))
        assert numbers.keys() >= {"best_val_recon", "best_val_codes_used", "val_explained_variance", "seconds", "parameters"}


@pytest.mark.slow
def test_summary_holds_the_best_epoch_and_the_curves_have_epochs_below_them(tracked):
    job = tracked / "outputs" / "sweeps" / "three" / "1"
    assert not {"val_total", "train_total", "epoch", "lr"} & summary(job)["summary"].keys()
    assert [row["item"]["epoch"] for row in records(job, "history") if "val_total" in row["item"]] == [1, 2]
    axes = {row.get("name", row.get("glob_name")): row.get("step_metric") for row in records(job, "metric")}
    assert axes["val_*"] == axes["train_*"] == "epoch"


@pytest.mark.slow
def test_figures_tables_and_artifacts_are_there_and_name_the_run_they_stand_on(tracked):
    job = tracked / "outputs" / "sweeps" / "three" / "0"
    shown = summary(job)["summary"]
    assert {key: value["_type"] for key, value in shown.items() if key.startswith("figures/")} == {
        "figures/history": "image-file",
        "figures/reconstructions": "image-file",
    }
    assert [found["name"] for found in records(job, "artifact")] == ["three-0-checkpoint"]
    said, (latents,) = summary(job / "process"), records(job / "process", "artifact")
    assert said["config"]["parent"]["id"] == (job / "wandb" / "run_id.txt").read_text()
    assert said["name"] == "seed=1: process"
    assert said["config"]["model"]["num_codes"] == 8
    assert (latents["name"], latents["type"]) == ("three-0-process-latents", "latents")
    assert json.loads(latents["metadata"])["parent"]["folder"] == str(job)


def test_table_with_numbers_among_the_names_of_its_columns_is_logged(compose, tmp_path):
    settings = compose("train", "data.root=demo", *LOGGED)
    tracker = Tracker(settings.logger, tmp_path, settings)
    tracker.table("spread", pd.DataFrame({"stack": ["a"], 0: [0.5]}))
    tracker.close()
    (path,) = tmp_path.glob("wandb/**/spread*.table.json")
    assert json.loads(path.read_text())["columns"] == ["stack", "0"]


@pytest.mark.slow
def test_nothing_is_written_outside_the_runs(tracked):
    home = tracked / "home"
    assert not [path for path in home.rglob("*") if "wandb" in str(path.relative_to(home)).lower()]
    assert {path.name for path in tracked.iterdir()} <= {"home", "outputs"}
    assert len(list(tracked.glob("outputs/sweeps/three/*/wandb/data/artifacts/staging/*"))) == 3


@pytest.mark.slow
def test_run_that_failed_says_so(compose, stores_folder, tmp_path):
    from microlatent.command import carry_out

    options = [f"data.store={stores_folder}", f"outputs={tmp_path}", "name=bad", "trainer.monitor=nothing", *LOGGED]
    with pytest.raises(ValueError, match="no loss term"):
        carry_out(compose("train", *options), [])
    said = summary(next(tmp_path.glob("bad/*")))
    assert (said["state"], said["summary"]["state"]) == ("failed", "failed")


@pytest.mark.slow
def test_offline_run_tries_no_network(stores_folder, tmp_path):
    if not Path("/usr/bin/strace").exists():
        pytest.skip("strace is not installed, so connections cannot be watched")
    line = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(tmp_path / "trace")]
    line += [sys.executable, str(ROOT / "train.py"), f"data.store={stores_folder}", "trainer.epochs=1", *LOGGED]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    subprocess.run(line, cwd=tmp_path, env=env, check=True, timeout=300)
    trace = (tmp_path / "trace").read_text()
    outside = [row for row in trace.splitlines() if "AF_INET" in row and '"127.0.0.1"' not in row and '"::1"' not in row]
    assert not outside


@pytest.mark.slow
def test_online_without_a_key_says_so_and_logs_offline(compose, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    settings = compose("train", "data.root=demo", "logger.mode=online")
    tracker = Tracker(settings.logger, tmp_path, settings)
    tracker.close()
    assert "there is no W&B key" in caplog.text
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.slow
def test_unreachable_server_falls_back_to_offline_in_time_and_says_so(compose, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    settings = compose("train", "data.root=demo", "logger.mode=online", "logger.timeout_s=2")
    started = time.perf_counter()
    tracker = Tracker(settings.logger, tmp_path, settings)
    tracker.log({"val_total": 0.5}, step=1)
    tracker.close()
    assert time.perf_counter() - started < 60  # W&B alone waits for more than a minute and a half, and then fails
    assert "W&B cannot be reached within 2 s" in caplog.text
    assert list(tmp_path.glob("wandb/offline-run-*"))


# ----------------------------------------------------------------------------------------------------------- uploading


def sync(outputs: Path, *options: str, code: int = 0, **environment: str) -> str:
    """Run ``scripts/sync.py`` and return what it prints."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    env |= {"HOME": str(outputs), "PYTHONPATH": str(ROOT / "src"), **environment}
    line = [sys.executable, str(ROOT / "scripts" / "sync.py"), "--outputs", str(outputs), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=env, cwd=outputs)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def with_key(url: str) -> dict[str, str]:
    return {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url}


@pytest.fixture
def outputs(tracked, tmp_path):
    """Copy the tracked runs: W&B knows them by the folder in which they logged."""
    shutil.copytree(tracked / "outputs", tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_without_a_key_uploading_lists_the_commands_and_leaves_running_runs_alone(tmp_path):
    for name, state in (("old", "completed"), ("new", "running")):
        log = tmp_path / name / "wandb" / f"offline-run-20261120_12000{len(state)}-{name}" / f"run-{name}.wandb"
        log.parent.mkdir(parents=True)
        log.write_bytes(bytes(100))
        (tmp_path / name / "status.json").write_text(json.dumps({"state": state, "host": "elsewhere"}))
    said = sync(tmp_path, "--project", "mine", "--entity", "lab")
    folder = tmp_path / "old" / "wandb" / "offline-run-20261120_120009-old"
    assert f"-m wandb sync --project mine --entity lab {folder}" in said
    assert "there is no W&B key" in said
    assert f"still running, left alone: {tmp_path / 'new'}" in said
    (folder / "run-old.wandb.synced").touch()
    assert "0 runs" in sync(tmp_path)


def test_key_counts_for_its_own_host_alone(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.institute.org")
    assert not has_key()


@pytest.mark.slow
def test_failed_upload_is_reported_and_the_others_go_on_once(outputs):
    ids = {job.parent.parent.name: job.read_text() for job in outputs.glob("sweeps/three/?/wandb/run_id.txt")}
    with host(ids["1"]) as server:
        said = sync(outputs, code=1, **with_key(server.url))
        assert "3 runs uploaded, 1 failed" in said
        assert "failed: ERROR permission denied" in said
        assert server.runs.keys() >= {ids["0"], ids["2"]}
        assert ids["1"] not in server.runs
        assert server.runs[ids["2"]]["displayName"] == "seed=3"
    with host() as server:
        assert "1 runs uploaded, 0 failed" in sync(outputs, "--project", "mine", **with_key(server.url))
        assert {run: about["project"] for run, about in server.runs.items()} == {ids["1"]: "mine"}
        assert "0 runs below" in sync(outputs, **with_key(server.url))


@pytest.mark.slow
def test_artifacts_of_runs_that_were_moved_arrive_and_the_old_place_stays_clean(tracked, outputs):
    shutil.move(tracked / "outputs", tracked / "away")
    try:
        with host() as server:
            sync(outputs, **with_key(server.url))
        assert sorted(server.committed) == sorted(["three-0-process-latents", *(f"three-{job}-checkpoint" for job in range(3))])
        assert not (tracked / "outputs").exists()
    finally:
        shutil.move(tracked / "away", tracked / "outputs")


@pytest.mark.slow
def test_run_that_was_resumed_offline_arrives_as_one_run_with_one_curve(compose, tmp_path):
    settings, folder = compose("train", "data.root=demo"), tmp_path / "run"
    folder.mkdir()
    for epoch in (1, 2):
        tracker = Tracker(settings.logger, folder, settings, resumed=epoch == 2)
        tracker.log({"epoch": epoch, "val_total": 1.0 / epoch}, step=10 * epoch)
        tracker.close()
        time.sleep(1)  # W&B names a log by its second
    with host() as server:
        sync(tmp_path, **with_key(server.url))
        (lines,) = server.lines.values()
    assert [line["epoch"] for line in lines] == [1, 2]


@pytest.mark.slow
def test_log_of_a_killed_run_is_uploaded_as_far_as_it_goes_and_an_empty_one_not_at_all(compose, tmp_path):
    settings = compose("train", "data.root=demo")
    for name, left in (("cut", 0.95), ("empty", 0.0)):
        (tmp_path / name).mkdir()
        tracker = Tracker(settings.logger, tmp_path / name, settings)
        for epoch in range(20):
            tracker.log({"epoch": epoch}, step=epoch)
        tracker.close()
        tracker.wandb.teardown()  # waits until all is on disk
        log = next(tmp_path.glob(f"{name}/wandb/offline-run-*/run-*.wandb"))
        os.truncate(log, max(7, int(left * log.stat().st_size)))  # W&B writes a header of 7 bytes at once, the rest by and by
    with host() as server:
        said = sync(tmp_path, **with_key(server.url))
        assert "1 runs uploaded, 0 failed" in said
        assert "cut off" in said
        assert [len(lines) > 10 for lines in server.lines.values()] == [True]
        assert "0 runs below" in sync(tmp_path, **with_key(server.url))


@pytest.mark.slow
def test_host_that_does_not_answer_ends_the_upload_at_once(outputs):
    started = time.perf_counter()
    assert "does not answer" in sync(outputs, code=1, **with_key("http://127.0.0.1:9"))
    assert time.perf_counter() - started < 20
