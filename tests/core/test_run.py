"""The run folder: one owner, a true status, found by name."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from microlatent import run
from microlatent.command import _claim as _claim_of_command
from microlatent.command import carry_out
from microlatent.files import atomic, write_text
from microlatent.sweeps import index, sweep

pytestmark = pytest.mark.usefixtures("without_figures")


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


def _go_on(path: Path, barrier, queue) -> None:
    barrier.wait()
    try:
        queue.put(_claim_of_command(path, path).path)
        barrier.wait()  # alive until the others have looked
    except ValueError as error:
        queue.put(str(error))
        barrier.wait()


def test_two_that_go_on_with_a_run_in_the_same_second_do_not_both_write_into_it(tmp_path):
    folder = run.RunFolder.claim(tmp_path / "a")
    folder.set("interrupted")
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_go_on, args=(folder.path, barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    said = [queue.get(timeout=20) for _ in processes]
    for process in processes:
        process.join(20)
    assert said.count(folder.path) == 1
    assert sum("is still running" in str(one) for one in said) == 2


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
    with pytest.raises(ValueError, match="being written by another process"):
        run.set_aside(tmp_path / "process")
    folder.set("completed")
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


def test_check_reads_and_estimates_but_writes_nothing(compose, stores_folder, tmp_path, capsys):
    options = [f"data.store={stores_folder}", "check=true", "model.num_codes=8", f"outputs={tmp_path / 'outputs'}"]
    assert carry_out(compose("train", *options), []) == (None, None)
    said = capsys.readouterr().out
    assert "nothing was written" in said
    assert "A1.h5: 71 patches, channels ['phase', 'stain']" in said
    assert "the first is (64, 2, 16, 16)" in said
    assert not list(tmp_path.iterdir())


def test_failed_repeat_leaves_the_good_result_in_its_place(compose, stores_folder, tmp_path):
    common = [f"data.store={stores_folder}", "logger=csv", f"outputs={tmp_path}"]
    options = ["trainer.epochs=0", "model.latent_dim=4", "trainer.num_reconstructions=0", "name=x"]
    trained = carry_out(compose("train", *options, *common), [])[1]
    carry_out(compose("infer", "task=process", f"run={trained}", *common), [])
    good = (trained / "process" / "latents.h5ad").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"data.sites names \['typo'\]"):
        carry_out(compose("infer", "task=process", f"run={trained}", "data.sites=[typo]", *common), [])
    assert (trained / "process" / "latents.h5ad").stat().st_mtime_ns == good
    assert [run.read_status(path)["state"] for path in trained.glob("process-failed-*")] == ["failed"]

    job = tmp_path / "sweeps" / "x" / "0"
    sweep.Plan(job.parent, "infer", [], {0: [f"run={trained}", "data.sites=[typo]"]}).write()
    with pytest.raises(ValueError, match="typo"):
        carry_out(compose("infer", "task=process", f"run={trained}", "data.sites=[typo]", *common), [], sweep_job=job)
    assert index.read(job.parent)[["state", "error"]].values.tolist()[0][0] == "failed", "the good result is not this job's"


def test_full_disk_is_said_in_words_and_old_checkpoint_stays(monkeypatch, tmp_path, capsys):
    import errno

    import torch

    from microlatent import checkpoint, entry

    path = tmp_path / "last.ckpt"
    checkpoint.save(path, {"model": {"w": torch.ones(3)}})

    def full(content, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left") as error:
        checkpoint.save(path, {"model": {"w": torch.zeros(3)}})
    assert entry._say(error.value, debugging=False) == 2
    assert "The disk is full" in capsys.readouterr().err
    assert checkpoint.load(path)["model"]["w"].sum() == 3
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_checkpoint_of_a_newer_version_and_a_hostile_one_are_refused(tmp_path):
    import torch

    from microlatent import checkpoint

    torch.save({"version": 99, "model": {}}, tmp_path / "new.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint version 99.*reads up to 1"):
        checkpoint.load(tmp_path / "new.ckpt")

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"version": 1, "model": Hostile()}, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match="more than tensors and plain containers"):
        checkpoint.load(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "new.ckpt").read_bytes()[:300])
    with pytest.raises(ValueError, match="cut short"):
        checkpoint.load(tmp_path / "cut.ckpt")


@pytest.mark.slow
def test_sigterm_stops_a_whole_sweep(stores_folder, tmp_path):
    import signal
    import subprocess
    import sys

    root = Path(__file__).parents[2]
    line = [
        sys.executable,
        str(root / "train.py"),
        "-m",
        "seed=1,2",
        "trainer.epochs=100000",
        f"data.store={stores_folder}",
        "logger=csv",
    ]
    process = subprocess.Popen(line, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root / "src")})
    deadline = time.time() + 120
    while time.time() < deadline and not list(tmp_path.glob("outputs/sweeps/*/0/history.csv")):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert [run.read_status(path)["state"] for path in tmp_path.glob("outputs/sweeps/*/*/") if path.is_dir()] == ["interrupted"]
