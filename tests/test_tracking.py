"""W&B runs as they lie on disk, read back with W&B's own reader."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microlatent.tracking import Tracker
from tests.forks import in_fork
from tests.test_training import SMALL


@pytest.fixture(scope="module")
def tracked(stores_folder, tmp_path_factory):
    """Train and encode, logged offline, with HOME in an empty folder."""
    folder = tmp_path_factory.mktemp("wandb")
    (folder / "home").mkdir()
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "HOME": str(folder / "home")}
    options = [option for option in SMALL if not option.startswith("logger")]
    train = [
        "train",
        f"data.store={stores_folder}",
        "name=tracked",
        "trainer.epochs=2",
        "logger.tags=[test]",
        *options,
        "trainer.num_reconstructions=2",
    ]
    for entry, *arguments in (train, ["infer", "task=process", "run=latest"]):
        done = in_fork(entry, tuple(arguments), folder, env)
        assert done.returncode == 0, done.stderr
    return folder


def records(folder: Path) -> list[dict]:
    """Every record of an offline run."""
    path = next(folder.glob("wandb/offline-run-*/run-*.wandb"))
    line = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(path)]
    env = os.environ | {"WANDB_ERROR_REPORTING": "false", "HOME": str(folder)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]


@pytest.mark.slow
def test_offline_run_holds_config_metrics_images_and_checkpoint(tracked):
    text = json.dumps(records(next(tracked.glob("outputs/tracked/*"))))
    for word in ("num_codes", "val_total", "reconstructions", "checkpoint", "best_val_recon", '"train"', "test"):
        assert word in text, word


@pytest.mark.slow
def test_tasks_of_one_experiment_share_a_group_and_differ_in_job_type(tracked):
    run = next(tracked.glob("outputs/tracked/*"))
    texts = [json.dumps(records(folder)) for folder in (run, run / "process")]
    assert all("tracked" in text for text in texts)
    assert "process" in texts[1]
    assert "latents" in texts[1]


@pytest.mark.slow
def test_nothing_is_written_outside_the_run(tracked):
    home = tracked / "home"
    assert not [path for path in home.rglob("*") if "wandb" in str(path.relative_to(home)).lower()]
    assert list(tracked.glob("outputs/tracked/*/wandb/data/**/*.ckpt")) or list(
        tracked.glob("outputs/tracked/*/wandb/**/artifacts/**/*")
    )


@pytest.mark.slow
def test_offline_run_tries_no_network(stores_folder, tmp_path):
    if not Path("/usr/bin/strace").exists():
        pytest.skip("strace is not installed, so connections cannot be watched")
    root = Path(__file__).parents[1]
    options = [option for option in SMALL if not option.startswith("logger")]
    line = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=connect,sendto",
        "-o",
        str(tmp_path / "trace"),
        sys.executable,
        str(root / "train.py"),
    ]
    env = os.environ | {"PYTHONPATH": str(root / "src"), "HOME": str(tmp_path)}
    subprocess.run(
        [*line, f"data.store={stores_folder}", "trainer.epochs=1", *options], cwd=tmp_path, env=env, check=True, timeout=300
    )
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
