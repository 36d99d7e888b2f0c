"""The run folder: one owner, a true status, found by name."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from microlatent import run
from microlatent.command import carry_out
from microlatent.files import atomic, write_text


def _claim(path: Path, barrier, queue) -> None:
    barrier.wait()
    queue.put(run.RunFolder.claim(path).path)


def test_two_runs_in_the_same_second_never_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_claim, args=(tmp_path / "x" / "20260101-000000", barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    folders = {queue.get(timeout=20) for _ in processes}
    for process in processes:
        process.join()
    assert len(folders) == 4
    assert {path.name for path in folders} == {f"20260101-000000{suffix}" for suffix in ("", "_2", "_3", "_4")}


def test_running_status_of_a_living_process_stays_running(tmp_path):
    folder = run.RunFolder.claim(tmp_path / "a")
    assert run.read_status(folder.path)["state"] == "running"


def test_running_status_of_a_reused_pid_is_lost(tmp_path):
    import json

    folder = run.RunFolder.claim(tmp_path / "a")
    status = json.loads((folder.path / "status.json").read_text())
    (folder.path / "status.json").write_text(json.dumps(status | {"process_started": status["process_started"] - 100}))
    assert run.read_status(folder.path)["state"] == "lost"


def test_latest_and_best_find_runs_and_absence_names_the_remedy(tmp_path):
    for name, score in (("20260101-000000", 0.5), ("20260101-000001", 0.7)):
        folder = run.RunFolder.claim(tmp_path / "exp" / name)
        time.sleep(1.1 if score == 0.5 else 0)
        write_text("x", folder.path / "checkpoints" / "last.ckpt")
        write_text(f"metric,value\nbest_score,{score}\n", folder.path / "metrics.csv")
    assert run.find("latest", str(tmp_path)).name == "20260101-000001"
    assert run.find("best", str(tmp_path)).name == "20260101-000000"
    with pytest.raises(FileNotFoundError, match=r"run=latest: there is no training run below .*python train\.py"):
        run.find("latest", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"run=nowhere: there is no such folder. Recent runs: .*20260101-000000"):
        run.find("nowhere", str(tmp_path))


def test_earlier_results_are_set_aside_not_overwritten(tmp_path):
    folder = run.RunFolder.claim(tmp_path / "process")
    write_text("old", folder.path / "latents.txt")
    run.set_aside(tmp_path / "process")
    kept = [path for path in tmp_path.iterdir() if path.name.startswith("process-2")]
    assert [path.joinpath("latents.txt").read_text() for path in kept] == ["old"]
    assert not (tmp_path / "process").exists()


def test_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text("old", path)

    def write_half():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_failed_command_says_why_in_its_status(compose, stores_folder, tmp_path):
    settings = compose(
        "train", f"data.store={stores_folder}", "data.channels=[GFP]", "logger=csv", "name=x", f"outputs={tmp_path}"
    )
    with pytest.raises(ValueError, match=r"Channels \['GFP'\] are needed"):
        carry_out(settings, [])
    folder = next(tmp_path.glob("x/*"))
    status = run.read_status(folder)
    assert status["state"] == "failed"
    assert "Channels ['GFP'] are needed" in status["reason"]
    assert "Traceback" in (folder / "log.txt").read_text()


def test_unreadable_folder_is_named(command):
    done = command("infer", "task=assemble", "data.root=no/such/folder", "logger=csv", check=False)
    assert done.returncode == 2
    assert "data.root=no/such/folder is no folder" in done.stderr


def test_rehearsal_reads_and_estimates_but_writes_nothing(compose, stores_folder, tmp_path, capsys):
    options = [f"data.store={stores_folder}", "check=true", "model.num_codes=8", f"outputs={tmp_path / 'outputs'}"]
    assert carry_out(compose("train", *options), []) == (None, None)
    said = capsys.readouterr().out
    assert "nothing was written" in said
    assert "A1.h5: 71 patches, channels ['phase', 'stain']" in said
    assert "the first is (64, 2, 16, 16)" in said
    assert not list(tmp_path.iterdir())
