"""A sweep's jobs on the cores of a machine and on a cluster: values, threads, how many at a time, signals, going on."""

import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from microlatent import run, signals, slurm
from microlatent.sweeps import index
from microlatent.tracking import differing_history
from tests.conftest import ROOT
from tests.core.test_training import SMALL


def launcher_of(name: str, *overrides: str):
    """Return the launcher that a file of conf/hydra/launcher makes."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"hydra/launcher={name}", "hydra.sweep.dir=sweep", *overrides], return_hydra_config=True)
    return instantiate(cfg.hydra.launcher)


# ------------------------------------------------------------------------------------------------------------- fast


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("joblib", "JoblibLauncher", {"n_jobs": 2, "pre_dispatch": "n_jobs", "batch_size": "1"}),
        ("submitit_local", "LocalLauncher", {"submitit_folder": "sweep/.submitit/%j", "stderr_to_stdout": True}),
        ("slurm", "SlurmLauncher", {"cpus_per_task": 4, "array_parallelism": 16, "additional_parameters": {"requeue": True}}),
        ("slurm_gpu", "SlurmLauncher", {"gpus_per_node": 1, "cpus_per_task": 8, "max_num_timeout": 20}),
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")  # Hydra's, of a file with the name of a schema
def test_our_values_win_over_the_plugins(name, kind, values):
    launcher = launcher_of(name)
    made = launcher.joblib if name == "joblib" else launcher.params
    assert type(launcher).__name__ == kind
    assert {key: made[key] for key in values} == values


def test_launchers_value_of_a_wrong_type_is_refused():
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match="two"):
        launcher_of("joblib", "hydra.launcher.n_jobs=two")


@pytest.fixture
def launchers_signal(monkeypatch):
    """Stand in for a launcher that waits for SIGUSR2; return the list of what it was told, and put all handlers back."""
    told, before = [], {number: signal.getsignal(number) for number in (*signals.SIGNALS, signal.SIGUSR2)}
    monkeypatch.setattr(signals, "_launchers", {})
    signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def test_launcher_hears_its_signal_after_the_loop_has_stopped_and_not_before(launchers_signal):
    signals.raise_on_signals()
    with signals.StopSignals() as stop:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):  # a preemption may send both, in any order
            os.kill(os.getpid(), number)
        assert stop.obey(1) == signal.SIGUSR2
    assert launchers_signal == []
    with pytest.raises(SystemExit):
        signals.hand_over(signals.Interrupted(signal.SIGUSR2))
    assert launchers_signal == [signal.SIGUSR2]


def test_launcher_is_not_told_of_signals_it_does_not_wait_for(launchers_signal):
    signals.raise_on_signals()
    with pytest.raises(SystemExit, match=str(signals.STOPPED)):
        signals.hand_over(signals.Interrupted(signal.SIGTERM))
    assert launchers_signal == []


def test_without_a_launcher_nothing_is_handed_over(monkeypatch):
    monkeypatch.setattr(signals, "_launchers", {})
    assert signals.hand_over(signals.Interrupted(signal.SIGTERM)) is None


def test_second_signal_of_the_same_wish_does_not_disturb_the_saving(launchers_signal):
    signals.raise_on_signals()
    with pytest.raises(signals.Interrupted, match="SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)


def test_interruption_crosses_from_a_worker_whole():
    crossed = pickle.loads(pickle.dumps(signals.Interrupted(signal.SIGINT)))
    assert (str(crossed), crossed.number, crossed.exit_code) == ("SIGINT", signal.SIGINT, signals.CTRL_C)


@pytest.mark.parametrize("environment", [{}, {"OMP_NUM_THREADS": "64"}])
def test_slurm_job_takes_the_cores_it_was_given(environment):
    code = "import os; from microlatent.command import _limit_threads; _limit_threads(None); print(os.environ['OMP_NUM_THREADS'])"
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | environment
    env |= {"PYTHONPATH": str(ROOT / "src"), "SLURM_CPUS_PER_TASK": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def test_earlier_life_of_the_same_slurm_job_is_over(monkeypatch):
    for key, value in {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(key, value)
    first = slurm.here()
    assert first == {"slurm_job": "7_2", "slurm_restarts": 0}
    assert not slurm.is_gone(first)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm.is_gone(first)
    assert not slurm.is_gone({"state": "running"})  # no SLURM job wrote it


# ------------------------------------------------------------------------------------------------------------- slow


@pytest.fixture
def begin(stores_folder, tmp_path):
    """Return a function that starts a sweep in a process of its own, and returns that and the sweep's folder."""
    started = []

    def start(*arguments: str, **environment: str) -> tuple[subprocess.Popen, Path]:
        line = [sys.executable, str(ROOT / "train.py"), "-m", f"data.store={stores_folder}", *SMALL, *arguments]
        env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path / "home")} | environment
        with open(tmp_path / "said.txt", "w") as said:
            process = subprocess.Popen(
                [*line, "hydra.sweep.dir=sweep"], cwd=tmp_path, env=env, stdout=said, stderr=said, start_new_session=True
            )
        started.append(process)
        return process, tmp_path / "sweep"

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)


def wait_for(number: int, pattern: str, folder: Path) -> None:
    """Wait until so many files of a pattern are there."""
    deadline = time.time() + 180
    while len(list(folder.glob(pattern))) < number:
        assert time.time() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.05)


def at_once(folder: Path) -> int:
    """Return how many jobs of a sweep were at work together at most, from the times in their status files."""
    spans = pd.DataFrame([run.read_status(path.parent) for path in folder.glob("*/status.json")])[["started", "updated"]]
    spans = spans.apply(pd.to_datetime)
    return max(int(((spans["started"] <= begun) & (spans["updated"] > begun)).sum()) for begun in spans["started"])


def said(folder: Path) -> str:
    return (folder.parent / "said.txt").read_text()


@pytest.mark.slow
def test_joblib_runs_two_jobs_that_share_the_cores(begin, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    sweep_of_three, folder = begin("hydra/launcher=joblib", "seed=1,2,3", "trainer.epochs=5")
    wait_for(2, "*/config.yaml", folder)
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert {psutil.Process(run.read_status(folder / name)["pid"]).environ()["OMP_NUM_THREADS"] for name in "01"} == {share}
    assert sweep_of_three.wait(timeout=300) == 0, said(folder)
    assert at_once(folder) == 2


@pytest.mark.slow
def test_submitit_local_never_runs_more_jobs_than_asked_for(begin):
    sweep_of_three, folder = begin("hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2", "seed=1,2,3", "trainer.epochs=5")
    assert sweep_of_three.wait(timeout=300) == 0, said(folder)
    assert at_once(folder) == 2
    assert list(index.read(folder)["state"]) == ["completed"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "stop", "number", "code"),
    [
        (["hydra/launcher=joblib"], os.killpg, signal.SIGINT, signals.CTRL_C),  # as the terminal does, which tells everyone
        (["hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2"], os.kill, signal.SIGTERM, signals.STOPPED),
    ],
)
def test_jobs_have_saved_when_a_sweep_that_was_stopped_ends(begin, launcher, stop, number, code):
    stopped, folder = begin(*launcher, "seed=1,2", "trainer.epochs=3000")
    wait_for(2, "*/history.csv", folder)
    stop(stopped.pid, number)
    assert stopped.wait(timeout=60) == code, said(folder)
    assert [run.read_status(folder / name)["state"] for name in "01"] == ["interrupted"] * 2
    assert all(run.can_continue(folder / name) for name in "01")


@pytest.fixture
def uninterrupted(stores_folder, command, tmp_path):
    """Return the history of the run that those below must end with."""
    command("train", f"data.store={stores_folder}", *SMALL, "trainer.epochs=30", "seed=1", "name=whole")
    return next(tmp_path.glob("outputs/whole/*/history.csv"))


@pytest.mark.slow
def test_preempted_local_job_goes_on_by_itself(begin, uninterrupted):
    preempted, folder = begin("hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=1", "seed=1", "trainer.epochs=30")
    wait_for(1, "0/history.csv", folder)
    first = run.read_status(folder / "0")["pid"]
    os.kill(first, signal.SIGUSR2)
    assert preempted.wait(timeout=300) == 0, said(folder)
    assert run.read_status(folder / "0")["pid"] != first
    assert "Stopped by SIGUSR2" in (folder / "0" / "log.txt").read_text()
    assert differing_history(folder / "0" / "history.csv", uninterrupted) is None


SBATCH = """#!/bin/sh
# Run the jobs of an array, or the one job, at once, and again as often as scontrol asks for it.
last=$(sed -n 's/.*--array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 ${last:-0}); do
  (
    export SLURM_JOB_ID=$((100 + task)) SLURM_CPUS_PER_TASK=1 SLURM_PROCID=0
    [ "$last" ] && export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task
    for restart in 0 1 2 3; do
      [ $restart = 0 ] || export SLURM_RESTART_COUNT=$restart
      rm -f requeue.7_$task
      sh "$1"
      [ -e requeue.7_$task ] || break
    done
  ) > sbatch.$task.txt 2>&1 &
done
cp "$1" submitted.sh
echo Submitted batch job $([ "$last" ] && echo 7 || echo 100)
"""
SRUN = """#!/bin/sh
while [ "${1#/*/python}" = "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
touch requeue.$2
"""
SILENT = """#!/bin/sh
exit 1
"""


@pytest.fixture
def pocket_slurm(tmp_path):
    """Return a PATH with so much of SLURM as a sweep needs: it runs arrays here, and a job again that asks for it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "sacct": SILENT, "squeue": SILENT}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
def test_slurm_gets_one_array_and_a_requeued_job_goes_on(begin, uninterrupted, pocket_slurm):
    swept, folder = begin("hydra/launcher=slurm_gpu", "seed=1,2", "trainer.epochs=30", PATH=pocket_slurm)
    wait_for(1, "0/history.csv", folder)
    os.kill(run.read_status(folder / "0")["pid"], signal.SIGUSR2)
    assert swept.wait(timeout=300) == 0, said(folder)
    asked = (folder.parent / "submitted.sh").read_text()
    assert all(f"#SBATCH --{line}\n" in asked for line in ("array=0-1%2", "gpus-per-node=1", "requeue", "signal=USR2@120"))
    ended = run.read_status(folder / "0")
    assert (ended["slurm_job"], ended["slurm_restarts"]) == ("7_0", 1)
    assert differing_history(folder / "0" / "history.csv", uninterrupted) is None
