"""Studies: what is searched, several processes on one storage, kills, pruning from the loop, the recipe of the best."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from microlatent import config, manual, run
from microlatent.schemas.sweeper import StudyConfig
from microlatent.sweeps import index, pruning, recipe, search, search_space, study, sweep
from microlatent.sweeps.launching import Finished
from microlatent.sweeps.trials import Trials
from tests.conftest import ROOT
from tests.core.test_training import SMALL

SPACE = {"a": optuna.distributions.FloatDistribution(0, 1), "b": optuna.distributions.CategoricalDistribution(["8", "16"])}
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def described(tmp_path):
    """Return a function that describes a study in a sweep's folder."""

    def describe(**options) -> dict:
        folder = tmp_path / "sweep"
        folder.mkdir(exist_ok=True)
        description = study.describe(StudyConfig(**options), epochs=9)
        if not sweep.is_sweep(folder):
            sweep.Plan(folder, "train", [], study=description).write()
        return study.agree(folder, description)

    describe.folder = tmp_path / "sweep"
    return describe


@pytest.fixture
def trials(described):
    """Return a function that joins the study as one more process does."""

    def join(total: int = 4, **options) -> Trials:
        opened = study.join(described(**options), described.folder, 0)
        return Trials(opened, SPACE, total, described.folder)

    return join


def worker(description: dict, folder: Path, total: int) -> None:
    """Be one of several processes: an objective instead of a training, and a run folder with its status."""
    mine = Trials(study.join(description, folder, 0), SPACE, total, folder)
    while asked := mine.ask():
        number, values = asked
        claimed = run.RunFolder.claim(folder / str(number))
        assert claimed.path.name == str(number), "another process runs this trial"
        time.sleep(0.005)
        claimed.set("completed", metrics={"best_score": values["a"]})
        mine.tell(Finished(number, {"best_score": values["a"]}, None))


def killed_in_a_trial(description: dict, folder: Path) -> None:
    """Ask for a trial, begin its run, and die."""
    mine = Trials(study.join(description, folder, 0), SPACE, 4, folder)
    run.RunFolder.claim(folder / str(mine.ask()[0]))
    os.kill(os.getpid(), signal.SIGKILL)


def in_processes(target, *arguments, number: int = 1) -> None:
    processes = [FORK.Process(target=target, args=arguments) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)


# ------------------------------------------------------------------------------------------------- what is searched


def space_of(*overrides: str, **settings) -> dict:
    return search_space.distributions([OverridesParser.create().parse_override(one) for one in overrides], settings)


def test_every_kind_of_sweep_is_searched():
    space = space_of("a=8,16,null", "b=interval(0,1)", "c=tag(log,interval(1e-4,1e-2))", "d=range(1,10,3)", d=1)
    assert space["a"].choices == ("8", "16", "null")
    assert space["b"] == optuna.distributions.FloatDistribution(0, 1)
    assert space["c"] == optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    assert space["d"] == optuna.distributions.IntDistribution(1, 7, step=3)


def test_interval_of_a_whole_number_draws_whole_numbers():
    assert space_of("a=interval(8,32)", a=16)["a"] == optuna.distributions.IntDistribution(8, 32)
    assert space_of("a=interval(0,1)", a=0.5)["a"] == optuna.distributions.FloatDistribution(0, 1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("a=interval(2,1)", "lower end, 2.0, is above"),
        ("a=tag(log,interval(0,1))", "low >= 1"),
        ("a=tag(lag,interval(1,2))", "Did you mean 'log'"),
        ("a=1,1", "different"),
        ("a=interval(8.5,9)", "whole number"),
    ],
)
def test_range_that_makes_no_sense_is_refused(override, words):
    with pytest.raises(ValueError, match=words):
        space_of(override, a=1)


def test_number_is_read_back_as_it_was_drawn():
    for value in (1e-05, 0.1, 2.5e-07, 16, 1e22):
        (text,) = search_space.overrides({"a": value})
        read = OverridesParser.create().parse_override(text).value()
        assert read == value
        assert yaml.safe_load(text.partition("=")[2]) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "tpee"}, "sampler is 'tpee'.* Did you mean 'tpe'"),
        ({"pruner": "medium"}, "pruner is 'medium'.* Did you mean 'median'"),
        ({"objectives": {"best_score": "minimise"}}, "objectives.best_score is 'minimise'.* Did you mean 'minimize'"),
        ({"objectives": "best_score"}, "must say what to do with each final metric"),
        ({"n_trials": 0}, "hydra.sweeper.n_trials is 0"),
    ],
)
def test_bad_value_is_refused_with_the_nearest(options, words):
    with pytest.raises(ValueError, match=words):
        StudyConfig(**options)


def test_misspelt_key_of_a_study_is_refused_with_the_nearest(compose):
    typed = ["hydra/sweeper=study", "hydra.sweeper.n_trails=4"]
    with pytest.raises(HydraException) as refused:
        compose("train", *typed)
    assert "Did you mean 'n_trials'" in manual.explain(refused.value, typed, "train")


# ------------------------------------------------------------------------------------------------ several processes


@pytest.mark.parametrize("storage", [None, pytest.param("sqlite", marks=pytest.mark.slow)])
def test_processes_share_a_study_and_no_trial_is_run_twice(described, trials, storage):
    options = {"storage": f"sqlite:///{described.folder}/study.db"} if storage else {}
    in_processes(worker, described(**options), described.folder, 12, number=3)
    known = trials(12, **options)
    assert known.counts() == {"complete": 12, "pruned": 0, "failed": 0, "interrupted": 0}
    values = [trial.params["a"] for trial in known.in_states("COMPLETE")]
    assert len(set(values)) == 12, "two processes drew the same values"


def test_trial_asked_for_beyond_the_total_is_given_back(trials):
    one, other = trials(2), trials(2)
    asked = [one.ask(), other.ask(), one.ask(), other.ask()]
    assert [number for number, _ in filter(None, asked)] == [0, 1]
    late = one.study.ask(SPACE)  # as a process does that had looked before the others asked
    assert late.number == 2
    one.close(late.number, "FAIL", surplus=True)
    assert one.counts()["failed"] == 0


def test_no_values_are_tried_twice_and_a_study_ends_when_all_have_been(described):
    space = space_of("model.latent_dim=8,16", "model.num_codes=32,64,128")
    mine = Trials(study.join(described(startup_trials=2), described.folder, 0), space, 10, described.folder)
    seen = []
    while asked := mine.ask():
        number, values = asked
        seen.append(tuple(values.values()))
        mine.tell(Finished(number, {"best_score": float(values["model.latent_dim"])}, None))  # draws one of them to itself
    assert len(seen) == len(set(seen)) == 6
    assert not mine.is_wanting
    assert mine.counts() == {"complete": 6, "pruned": 0, "failed": 0, "interrupted": 0}


def test_values_not_tried_yet_are_as_near_as_there_are():
    space = space_of("model.latent_dim=8,16", "model.num_codes=32,64", "trainer.lr=range(1,3)")
    best = {"model.latent_dim": "8", "model.num_codes": "32", "trainer.lr": 1}
    fresh = search_space.untried(space, [best], best)
    assert sum(fresh[key] != best[key] for key in best) == 1
    assert search_space.untried(space_of("trainer.lr=interval(0.1,0.2)"), [{"trainer.lr": 0.15}], {"trainer.lr": 0.15})


def test_lone_process_repeats_itself_and_joining_ones_do_not_repeat_it(trials, described, tmp_path):
    first, second = trials().ask()[1], trials().ask()[1]
    again = study.join(described() | {"name": "again"}, described.folder, 0)
    assert Trials(again, SPACE, 4, described.folder).ask()[1] == first
    assert second != first


def test_trial_of_a_killed_process_is_lost_and_its_values_are_tried_once_more(trials, described):
    in_processes(killed_in_a_trial, described(), described.folder)
    after = trials()
    number, values = after.ask()
    lost = after.opened.trial(0)
    assert (number, values) == (1, lost.params)
    assert lost.user_attrs["lost"].startswith("lost")
    after._give_back(after.opened.trial(number), {"state": "lost"})
    assert after.ask()[1] != values, "they may be what kills it"


def test_trial_that_never_began_leaves_no_pending_row(trials, described):
    def dies_before_its_run() -> None:
        number, _ = Trials(study.join(described(), described.folder, 0), SPACE, 4, described.folder).ask()
        sweep.add_job(described.folder, number, ["seed=1"])
        os.kill(os.getpid(), signal.SIGKILL)

    in_processes(dies_before_its_run)
    assert list(index.read(described.folder)["state"]) == ["pending"]
    assert trials().ask()[0] == 1, "its values are tried again"
    assert len(index.read(described.folder)) == 0


def test_interrupted_trial_goes_on_under_its_new_number(trials):
    mine = trials()
    number, values = mine.ask()
    mine.opened.report(number, 1, 0.5)
    sweep.add_job(mine.folder, number, [])
    claimed = run.RunFolder.claim(mine.folder / str(number))
    claimed.describe({}, {})
    (claimed.path / "checkpoints").mkdir()
    (claimed.path / "checkpoints" / "last.ckpt").touch()
    claimed.set("interrupted")
    mine.tell(Finished(number, None, "stopped by SIGINT"))
    assert mine.ask() == (1, values)
    assert mine.opened.trial(1).intermediate_values == {1: 0.5}
    assert run.read_status(mine.folder / "1")["state"] == "interrupted"
    assert not (mine.folder / "0").exists()
    assert sweep.read_plan(mine.folder).jobs == {}


def test_trial_that_had_ended_when_its_sweep_was_killed_keeps_its_result(trials, described):
    def dies_before_telling() -> None:
        number, _ = Trials(study.join(described(), described.folder, 0), SPACE, 4, described.folder).ask()
        run.RunFolder.claim(described.folder / str(number)).set("completed", metrics={"best_score": 0.25})
        os.kill(os.getpid(), signal.SIGKILL)

    in_processes(dies_before_telling)
    after = trials()
    after.collect()
    assert after.study.best_value == 0.25


def test_running_trial_of_a_living_process_is_left_alone(trials):
    one, other = trials(), trials()
    number, _ = one.ask()
    run.RunFolder.claim(one.folder / str(number)).set("interrupted")  # its sweep will see to it
    assert not other.collect()
    assert [trial.number for trial in other.elsewhere()] == [number]


def test_failures_are_counted_and_do_not_count_as_trials(trials):
    mine = trials(2)
    while asked := mine.ask():
        mine.tell(Finished(asked[0], None, "ValueError: no") if asked[0] < 2 else Finished(asked[0], {"best_score": 1.0}, None))
    assert mine.counts() == {"complete": 2, "pruned": 0, "failed": 2, "interrupted": 0}
    assert (mine.failures, mine.last_error) == (2, "ValueError: no")


def test_unknown_objective_says_which_numbers_a_run_has(trials):
    mine = trials(objectives={"best_vall_recon": "minimize"})
    number, _ = mine.ask()
    with pytest.raises(ValueError, match="Did you mean 'best_val_recon'"):
        mine.tell(Finished(number, {"best_val_recon": 1.0, "seconds": 2.0}, None))


def test_another_space_or_other_objectives_do_not_join(trials, described):
    trials().ask()
    opened = study.join(described(), described.folder, 0)
    with pytest.raises(ValueError, match="searches b among 8, 16, but this command among 4"):
        Trials(opened, SPACE | {"b": optuna.distributions.CategoricalDistribution(["4"])}, 4, described.folder)
    with pytest.raises(ValueError, match="has the objectives"):
        study.join(described() | {"objectives": {"seconds": "minimize"}}, described.folder, 0)


# ---------------------------------------------------------------------------------------------------------- pruning


def test_only_a_trial_of_a_study_that_prunes_reports(described):
    assert pruning.trial_of(described.folder / "elsewhere") is None
    described(pruner="none")
    assert pruning.trial_of(described.folder / "0") is None
    description = study.describe(StudyConfig(objectives={"best_score": "minimize", "seconds": "minimize"}), epochs=9)
    assert description["pruner"] == "none"


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trial_worse_than_the_others_is_stopped_and_no_epoch_is_reported_twice(trials, pruner):
    mine = trials(20, pruner=pruner, startup_trials=2, warmup_epochs=2)
    stopped = {}
    for level in (1.0, 1.1, *[5.0] * 8):  # hyperband spares some trials of each bracket
        number, _ = mine.ask()
        reporting = pruning.trial_of(mine.folder / str(number))
        rows = [({"epoch": epoch, "val_recon": 0.0}, level / epoch) for epoch in range(1, 9)]
        stopped[number] = next((row["epoch"] for row, score in rows if reporting.is_hopeless(row, score)), None)
        assert not reporting.is_hopeless(rows[0][0], 99.0) or stopped[number]
        assert mine.opened.trial(number).intermediate_values[1] == level
        mine.tell(Finished(number, {"pruned": True} if stopped[number] else {"best_score": level}, None))
    assert stopped[0] is None
    assert sum(epoch is not None for epoch in stopped.values()) >= 4
    assert all(epoch >= 2 for epoch in stopped.values() if epoch)


def test_objective_that_no_epoch_knows_cannot_prune(trials, described):
    number, _ = (mine := trials(objectives={"best_val_totall": "minimize"})).ask()
    with pytest.raises(ValueError, match="Did you mean 'best_val_total'"):
        pruning.trial_of(mine.folder / str(number)).is_hopeless({"epoch": 1, "val_total": 1.0}, 1.0)
    assert study.describe(StudyConfig(objectives={"test_total": "minimize"}), epochs=9)["pruner"] == "none"


def test_a_study_that_asks_for_the_worst_of_what_is_monitored_is_refused(trials):
    number, _ = (mine := trials()).ask()
    with pytest.raises(ValueError, match=r"trainer.monitor=explained_variance is better when higher.*\{best_score:maximize\}"):
        pruning.trial_of(mine.folder / str(number), "explained_variance")


def test_training_goes_on_when_its_storage_does_not_answer(trials, monkeypatch):
    monkeypatch.setattr(study, "LOCKED_S", 0.1)
    number, _ = (mine := trials()).ask()
    (mine.folder / study.JOURNAL).unlink()
    (mine.folder / study.JOURNAL).mkdir()
    assert not pruning.trial_of(mine.folder / str(number)).is_hopeless({"epoch": 1}, 1.0)


# --------------------------------------------------------------------------------------------------------- the best


def test_recipe_composes_to_the_settings_it_was_made_from(compose, tmp_path):
    typed = ["model=vae_gauss", "data=partitions", "data.store=here", "trainer=smoke", "model.latent_dim=8", "logger=csv"]
    before = config.plain(compose("train", *typed))
    path = tmp_path / "experiment" / "best.yaml"
    recipe.write(before, {"seed"}, "A line.", path)
    assert config.plain(compose("train", f"hydra.searchpath=[file://{tmp_path}]", "experiment=best")) == before
    content = yaml.safe_load(path.read_text())
    assert content["model"] == {"latent_dim": 8}
    assert content["seed"] == 0


def test_trials_that_no_other_beats_have_a_recipe_each(trials, compose):
    mine = trials(3, objectives={"best_score": "minimize", "seconds": "minimize"})
    settings = config.plain(compose("train", "data.store=here"))
    for score, seconds in ((1.0, 3.0), (2.0, 1.0), (3.0, 3.0)):
        number, _ = mine.ask()
        run.RunFolder.claim(mine.folder / str(number)).describe(settings, {})
        mine.tell(Finished(number, {"best_score": score, "seconds": seconds}, None))
        search.write_best(mine)
    assert {path.name for path in (mine.folder / "experiment").iterdir()} == {"best_trial0.yaml", "best_trial1.yaml"}


def small_study(stores_folder: Path, *options: str) -> list[str]:
    """Return a study of trainings of a second each; one of its two learning rates learns nothing."""
    values = ["trainer.lr=0.01,1e-9", "seed=interval(0,99)", "trainer.threads=1"]
    pruning = ["sampler=random", "seed=6", "startup_trials=1", "warmup_epochs=1"]  # this seed draws the good rate first
    keys = [f"hydra.sweeper.{one}" for one in (*pruning, *options)]
    return ["-m", "hydra/sweeper=study", f"data.store={stores_folder}", *SMALL, *values, *keys]


def only_study(folder: Path) -> Path:
    (found,) = sweep.find_sweeps(folder / "outputs")
    return found


@pytest.mark.usefixtures("without_figures")
def test_study_prunes_real_trainings_and_its_best_composes(command, compose, stores_folder):
    done = command("train", *small_study(stores_folder, "n_trials=2"), "trainer.epochs=2")
    assert "2 of 2 trials (1 complete, 1 pruned)" in done.stdout
    table = pd.read_csv(only_study(command.folder) / index.INDEX)
    assert list(table["state"]) == ["completed", "pruned"]
    assert {"seed", "best_score"} <= set(table)
    pruned, whole = (only_study(command.folder) / str(number) for number in (1, 0))
    assert run.read_status(pruned)["reason"].startswith("pruned after epoch 1")
    assert len(pd.read_csv(pruned / "history.csv")) == 1
    assert (pruned / "checkpoints" / "last.ckpt").is_file()
    settings = compose("train", f"hydra.searchpath=[file://{only_study(command.folder)}]", "experiment=best")
    assert config.plain(settings) == run.read_config(whole)


@pytest.mark.slow
def test_study_goes_on_to_a_higher_total_and_its_best_is_trained_again(command, stores_folder):
    command("train", *small_study(stores_folder, "n_trials=2"), "trainer.epochs=2")
    folder = only_study(command.folder)
    done = command("train", f"resume={folder}", "hydra.sweeper.n_trials=4")
    assert "2 of 4 trials are finished" in done.stderr
    assert len(pd.read_csv(folder / index.INDEX)) == 4
    best = pd.read_csv(folder / index.INDEX)["best_score"].min()
    command("train", "--config-dir", str(folder), "experiment=best", "name=again")
    (again,) = run.training_runs(command.folder / "outputs" / "again")
    assert run.read_status(again)["metrics"]["best_score"] == best


@pytest.mark.slow
def test_two_objectives_in_a_database_leave_a_recipe_for_every_trade(command, compose, stores_folder):
    objectives = "hydra.sweeper.objectives={best_val_recon:minimize,parameters:minimize}"
    options = ["n_trials=4", "sampler=nsga2", "startup_trials=2", "pruner=median", "storage=sqlite:///study.db"]
    small = [one for one in small_study(stores_folder, *options) if "sampler=random" not in one and "startup_trials=1" not in one]
    values = [objectives, "model.num_residual_hiddens=4,8", "trainer.epochs=1"]
    done = command("train", *small, *values)
    assert "Optuna cannot prune a study of several objectives" in done.stderr
    assert "4 of 4 trials (4 complete)" in done.stdout
    table = pd.read_csv(only_study(command.folder) / index.INDEX)
    recipes = sorted((only_study(command.folder) / "experiment").iterdir())
    assert recipes
    for path in recipes:
        row = table.set_index("job").loc[int(path.stem.removeprefix("best_trial"))]
        beaten = (table["best_val_recon"] < row["best_val_recon"]) & (table["parameters"] <= row["parameters"])
        assert not beaten.any()
    assert (command.folder / "study.db").is_file()


@pytest.mark.slow
def test_failed_trials_are_tolerated_up_to_a_limit(command, stores_folder):
    done = command("train", *small_study(stores_folder, "n_trials=3", "max_failures=1"), "data.wells=[ZZ]", check=False)
    assert done.returncode == 2
    assert "2 trials failed, more than hydra.sweeper.max_failures=1" in done.stderr
    assert "data.wells names ['ZZ']" in done.stderr
    assert list(pd.read_csv(only_study(command.folder) / index.INDEX)["state"]) == ["failed", "failed"]


@pytest.fixture
def begin(tmp_path):
    """Return a function that starts train.py in a process of its own, as a shell does."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
        line = [sys.executable, str(ROOT / "train.py"), *arguments]
        started.append(subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until(is_so, seconds: float = 240.0) -> None:
    deadline = time.time() + seconds
    while not is_so():
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_study_goes_on_and_loses_at_most_the_trial_in_flight(begin, stores_folder, tmp_path):
    options = [*small_study(stores_folder, "n_trials=2", "pruner=none"), "trainer.epochs=8"]
    first = begin(*options)
    wait_until(lambda: list(tmp_path.glob("outputs/sweeps/*/1/history.csv")))
    first.kill()
    first.wait()
    folder = only_study(tmp_path)
    again = begin(*(f"resume={folder}",))
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "2 of 2 trials (2 complete, 1 interrupted)" in output
    table = pd.read_csv(folder / index.INDEX)
    assert list(table["job"]) == [0, 2], "trial 1 has got another number"
    assert list(table["state"]) == ["completed"] * 2
    for number in table["job"]:
        assert list(pd.read_csv(folder / str(number) / "history.csv")["epoch"]) == list(range(1, 9))
    assert "Trial 1 goes on as trial" in output


@pytest.mark.slow
def test_second_shell_helps_a_study_that_runs(begin, stores_folder, tmp_path):
    first = begin(*small_study(stores_folder, "n_trials=5", "pruner=none"), "trainer.epochs=6")
    wait_until(lambda: list(tmp_path.glob("outputs/sweeps/*/0/history.csv")))
    folder = only_study(tmp_path)
    second = begin(f"resume={folder}")
    outputs = [process.communicate(timeout=400)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert any("5 of 5 trials (5 complete)" in output for output in outputs)
    ran = [
        {line.split(":")[0] for line in output.splitlines() if line.startswith("trial ") and ": trainer.lr" in line}
        for output in outputs
    ]
    assert ran[0] | ran[1] == {f"trial {number}" for number in range(5)}
    assert not ran[0] & ran[1]
    assert ran[1], "the second process ran some"
