"""Comparison of runs: what tells them apart, what their seeds can tell, and that nothing is compared or dropped in silence."""

import logging

import numpy as np
import pandas as pd
import pytest
import yaml

from microlatent import config, figures, metrics
from microlatent.analysis import comparison, configurations
from microlatent.command import carry_out
from microlatent.run import RunFolder
from microlatent.schemas import CompareConfig
from microlatent.tasks import compare as task
from microlatent.tasks import compare_text
from microlatent.tasks.compare_result import compare
from microlatent.tasks.compare_runs import gather
from microlatent.tracking import NullTracker

VQVAE = {"model": {"name": "vqvae_z16", "latent_dim": 16, "num_codes": 64}, "data": {"name": "wells", "normalise": "dataset"}}
VAE = {
    "model": {"name": "vae_gauss", "family": "vae", "likelihood": "gauss", "latent_dim": 16, "beta": 1.0, "width": 24},
    "data": {"name": "wells", "normalise": "gauss"},
}


def settings(base: dict, seed: int = 0, **changes) -> dict:
    """Return flat settings of a run, with some of them changed: ``model__latent_dim=8``."""
    common = {
        "seed": seed,
        "name": None,
        "outputs": "outputs",
        "task": {"name": "train"},
        "trainer": {"monitor": "recon", "lr": 0.1},
    }
    flat = config.flat(common | {"logger": {"name": "csv"}, **base})
    return flat | {key.replace("__", "."): value for key, value in changes.items()}


def write_run(folder, base: dict, seed: int, metrics: dict | None, state: str = "completed", fingerprint: str = "f1", **changes):
    """Write what a run leaves, without training it."""
    values: dict = {}
    for key, value in settings(base, seed, **changes).items():
        *path, leaf = key.split(".")
        inner = values
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = value
    data = {"fingerprints": {"A1.h5": fingerprint}, "channels": ["phase"], "shape_px": [16, 16], "split_hash": f"split{seed}"}
    one = RunFolder(folder)
    one.describe(values, {"data": data, "hardware": {"processor": "cpu"}}, [])
    one.set(state, **({"metrics": metrics} if metrics else {"reason": "ValueError: the loss is not finite\nmore"}))
    return folder


@pytest.fixture
def two_families(tmp_path):
    """Return a folder of two families by three seeds, a failed and a running run."""
    rng, folder = np.random.default_rng(0), tmp_path / "runs"
    for seed in (1, 2, 3):
        split = rng.normal(0, 0.1)
        for name, base, level in (("vqvae", VQVAE, 0.5), ("vae", VAE, 0.7)):
            metrics = {"best_score": 10 * level, "val_explained_variance": level + split + rng.normal(0, 0.01)}
            write_run(folder / f"{name}{seed}", base, seed, metrics | {"parameters": int(1000 * level), "seconds": 3.0 + seed})
    write_run(folder / "broken", VAE, 4, None, "failed", trainer__lr=1e30)
    write_run(folder / "busy", VAE, 5, None, "running")
    return folder


def compared(*specs, **options):
    """Compare folders as the task does."""
    chosen = CompareConfig(name="compare", runs=[str(spec) for spec in specs], **options)
    runs, study = gather(chosen.runs, "outputs")
    return compare(runs, chosen, study)


# -------------------------------------------------------------------------------------------------- configurations


def test_runs_are_named_by_what_was_varied_and_not_by_what_follows_from_a_choice():
    runs = [settings(base, seed, model__latent_dim=dim) for base in (VQVAE, VAE) for dim in (8, 32) for seed in (1, 2)]
    keys = configurations.naming(runs)
    assert keys == ["model.name", "model.latent_dim"]  # data.normalise and model.family follow from the model
    names = configurations.names(runs, keys)
    assert names[::2] == [
        "vqvae_z16 latent_dim=8",
        "vqvae_z16 latent_dim=32",
        "vae_gauss latent_dim=8",
        "vae_gauss latent_dim=32",
    ]
    assert names[::2] == names[1::2]


def test_a_typed_setting_is_named_even_if_each_choice_has_its_own():
    runs = [settings(VQVAE, data__normalise="patch"), settings(VAE)]
    assert configurations.naming(runs) == ["model.name"]
    assert configurations.naming(runs, {"data.normalise"}) == ["model.name", "data.normalise"]
    runs = [settings(VQVAE, trainer__lr=0.01), settings(VAE, trainer__lr=0.02)]
    assert "trainer.lr" in configurations.naming(runs)  # no choice of a model sets it


def test_where_a_run_is_does_not_tell_configurations_apart():
    places = {"outputs": "elsewhere", "name": "other", "data__store": "b", "logger__name": "wandb", "trainer__threads": 2}
    assert configurations.varied([settings(VAE, 1, data__store="a"), settings(VAE, 2, **places)]) == []


def test_equal_names_are_equal_settings_and_numbers_are_in_order():
    runs = [settings(VAE, trainer__lr=lr) for lr in (0.1, 0.00123456, 0.00123457, 0.02)]
    keys = configurations.naming(runs)
    assert len(set(configurations.names(runs, keys))) == 4
    assert [runs[place]["trainer.lr"] for place in configurations.in_order(runs, keys)] == [0.00123456, 0.00123457, 0.02, 0.1]


@pytest.mark.parametrize(
    ("metric", "changes", "why"),
    [
        ("best_score", {"model__beta": 4.0}, []),  # the reconstruction was monitored
        ("best_val_total", {"model__beta": 4.0}, ["model.beta"]),
        ("best_val_recon", {"data__normalise": "bern"}, ["data.normalise"]),
        ("best_score", {"trainer__monitor": "total"}, ["trainer.monitor"]),
        ("val_explained_variance", {"data__normalise": "dataset"}, []),
        ("val_explained_variance", {"data__normalise": "patch"}, ["data.normalise"]),
        ("parameters", {"data__normalise": "patch", "model__beta": 4.0}, []),
    ],
)
def test_a_number_is_compared_only_where_it_has_one_unit(metric, changes, why):
    assert metrics.unlike(metric, [settings(VAE), settings(VAE, **changes)]) == why


def test_losses_of_two_families_are_two_quantities():
    assert metrics.unlike("best_score", [settings(VQVAE), settings(VAE)])[0] == "model family"
    assert metrics.unlike("val_explained_variance", [settings(VQVAE), settings(VAE)]) == []


# --------------------------------------------------------------------------------------------------------- the task


def test_planted_difference_is_found_with_the_seeds_behind_it(two_families):
    found = compared(two_families)
    assert found.keys == ["model.name"]
    assert found.objectives == {"val_explained_variance": "maximize", "parameters": "minimize"}
    assert found.best["val_explained_variance", ""] == "vae_gauss"
    assert sorted(found.front) == ["vae_gauss", "vqvae_z16"]
    row = comparison.against(found.differences, "vae_gauss").set_index("metric").loc["val_explained_variance"]
    assert row["num_seeds"] == 3
    assert row["low"] < -0.2 < row["high"] < 0
    summary = found.summary.set_index(["configuration", "metric"]).loc[("vae_gauss", "val_explained_variance")]
    values = found.counted.loc[found.counted["configuration"] == "vae_gauss", "val_explained_variance"]
    assert (summary["mean"], summary["std"], summary["num_seeds"]) == (values.mean(), values.std(), 3)


def test_runs_that_did_not_finish_are_listed_with_their_state_and_do_not_count(two_families):
    found = compared(two_families)
    assert len(found.counted) == 6
    rest = found.runs[~found.runs["counts"]].set_index("state")["reason"]
    assert rest.to_dict() == {"failed": "ValueError: the loss is not finite", "running": "ValueError: the loss is not finite"}
    text = compare_text.write(found)
    assert "2 runs not counted" in text
    assert "broken | vae_gauss lr=1e+30 | failed |" in text  # named by what it alone has; the others are not


def test_one_lucky_seed_is_not_the_best(two_families):
    lucky = {"best_score": 1.0, "val_explained_variance": 0.99, "parameters": 1}
    write_run(two_families / "lucky", VAE, 1, lucky, model__latent_dim=64)
    found = compared(two_families)
    assert found.best["val_explained_variance", ""] == "vae_gauss latent_dim=16"
    assert "vae_gauss latent_dim=64" in found.summary["configuration"].to_numpy()
    assert any("do not all have the same seeds" in note for note in found.notes)


def test_one_lucky_seed_is_not_the_best_where_other_seeds_lack_the_number(two_families):
    for seed in (1, 2, 3):
        metrics = {"val_explained_variance": 0.99} if seed == 1 else {}
        write_run(two_families / f"half{seed}", VAE, seed, metrics | {"best_score": 7.0, "parameters": 1}, model__latent_dim=64)
    found = compared(two_families, objectives={"val_explained_variance": "maximize", "parameters": "minimize"})
    assert found.best["val_explained_variance", ""] == "vae_gauss latent_dim=16"
    assert "vae_gauss latent_dim=64" not in found.front
    assert "0.99 (n = 1)" in compare_text.write(found)


def test_what_shares_no_seed_with_the_best_is_not_ruled_out(tmp_path):
    levels = {8: (0.9, (1, 2, 3)), 16: (0.5, (4, 5, 6)), 32: (0.7, (4, 5, 6))}
    for dim, (level, seeds) in levels.items():
        for seed in seeds:
            metrics = {"val_explained_variance": level + 0.001 * seed, "best_score": 1.0}
            write_run(tmp_path / "runs" / f"{dim}_{seed}", VAE, seed, metrics, model__latent_dim=dim)
    found = compared(tmp_path / "runs", objectives={"val_explained_variance": "maximize"})
    assert found.best["val_explained_variance", ""] == "latent_dim=8"
    assert "These seeds do not rule out that any other is the best" in compare_text.ranking(found)


def test_a_best_mean_over_lucky_seeds_is_not_said_to_be_the_best(tmp_path):
    split = {1: 0.1, 2: 0.11, 3: 0.09, 4: 0.5, 5: 0.5, 6: 0.5}  # the last three are easy, and dim 16 was run on them alone
    for dim, seeds in ((8, range(1, 6)), (16, (3, 4, 5, 6))):
        for seed in seeds:
            metrics = {"val_explained_variance": split[seed] + (0.01 + 0.0001 * seed if dim == 8 else 0), "best_score": 1.0}
            write_run(tmp_path / "runs" / f"{dim}_{seed}", VAE, seed, metrics, model__latent_dim=dim)
    found = compared(tmp_path / "runs", objectives={"val_explained_variance": "maximize"})
    assert found.best["val_explained_variance", ""] == "latent_dim=16"
    assert "on the seeds that they share another is better" in compare_text.ranking(found)


def test_pruned_runs_do_not_count_and_what_that_does_to_means_is_said(two_families):
    write_run(two_families / "cut", VAE, 6, None, "pruned")
    found = compared(two_families)
    assert len(found.counted) == 6
    assert any("1 of the runs was pruned" in note and "only its good seeds count" in note for note in found.notes)


def test_names_with_bars_do_not_break_the_table(tmp_path):
    for place, word in enumerate(("a|b", "c")):
        write_run(tmp_path / "runs" / word[0], VAE, 1, {"best_score": float(place)}, model__skip=word)
    rows = [line for line in compare_text.write(compared(tmp_path / "runs")).splitlines() if line.startswith("| skip=")]
    assert {row.replace("\\|", "").count("|") for row in rows[:2]} == {4}


def test_only_finished_runs_are_compared_or_nothing_is(tmp_path):
    write_run(tmp_path / "runs" / "a", VAE, 1, None, "failed")
    with pytest.raises(ValueError, match=r"None of 1 runs is completed.*a: failed"):
        compared(tmp_path / "runs")


def test_different_data_are_said_and_not_set_against_each_other(two_families):
    for seed in (1, 2):
        metrics = {"best_score": 1.0, "val_explained_variance": 0.9 + 0.01 * seed, "parameters": 5}
        write_run(two_families / f"other{seed}", VAE, seed, metrics, fingerprint="f2")
    found = compared(two_families)
    assert any("different data" in note and "A1.h5 (f2)" in note for note in found.notes)
    assert found.best["val_explained_variance", "1"].startswith("vae_gauss [data")
    assert set(found.counted["data"]) == {"1", "2"}
    names = found.differences[["configuration", "other"]].agg(set, axis=1)
    assert all(len({name[-2] for name in pair}) == 1 for pair in names)


def test_a_repeat_of_a_run_is_no_further_seed(two_families):
    again = write_run(two_families / "vae1b", VAE, 1, {"val_explained_variance": 0.7, "best_score": 7.0, "parameters": 700})
    found = compared(two_families)
    assert found.summary["num_seeds"].max() == 3
    assert f"{again} repeats it (vae_gauss, seed 1)" in " ".join(found.notes)
    assert "repeated by" in found.runs.set_index("run").loc[str(two_families / "vae1"), "reason"]


def test_best_score_across_families_is_compared_only_when_asked_for_and_never_in_silence(two_families):
    found = compared(two_families, objectives={"best_score": "minimize"})
    assert any(note.startswith("best_score is not one quantity") and "model family" in note for note in found.notes)
    assert not compared(two_families).notes
    within = compared(*(two_families / f"vae{seed}" for seed in (1, 2, 3)))
    assert list(within.objectives) == ["best_score"]


def test_explained_variance_decides_between_families_even_if_some_runs_lack_it(two_families):
    write_run(two_families / "old", VQVAE, 7, {"best_score": 4.0, "parameters": 500})
    found = compared(two_families)
    assert next(iter(found.objectives)) == "val_explained_variance"
    assert any(note.startswith("1 of 7 runs has no val_explained_variance") for note in found.notes)


def test_unknown_names_are_refused_with_the_nearest(two_families):
    with pytest.raises(ValueError, match=r"task.objectives names val_explained_varience.*Did you mean 'val_explained_variance'"):
        compared(two_families, objectives={"val_explained_varience": "maximize"})
    with pytest.raises(ValueError, match=r"task.metrics names secnds.*Did you mean 'seconds'"):
        compared(two_families, metrics=["secnds"])
    with pytest.raises(ValueError, match=r"task.reference=vae_gaus is no configuration.*Did you mean 'vae_gauss'"):
        compared(two_families, reference="vae_gaus")
    with pytest.raises(ValueError, match=r"task.objectives.seconds is 'min'.*minimize"):
        compared(two_families, objectives={"seconds": "min"})
    with pytest.raises(ValueError, match=r"task.objectives is seconds, but must say .* which way is better"):
        compared(two_families, objectives="seconds")


def test_numbers_of_tasks_below_a_run_are_its_numbers_too(two_families):
    for seed in (1, 2, 3):
        RunFolder(two_families / f"vae{seed}" / "embed").path.mkdir()
        RunFolder(two_families / f"vae{seed}" / "embed").set("completed", metrics={"r2_latent_size": 0.1 * seed})
    found = compared(two_families, metrics=["embed.r2_latent_size"])
    rows = found.summary[found.summary["metric"] == "embed.r2_latent_size"]
    assert (rows["configuration"].tolist(), rows["num_seeds"].tolist()) == (["vae_gauss"], [3])
    analysis = write_run(two_families / "vae1" / "match", VAE, 1, {"x": 1}, task__name="match")
    with pytest.raises(ValueError, match="a run of task=match, but task=compare takes training runs"):
        compared(analysis)


def test_task_leaves_tables_and_figures_that_agree(two_families, compose, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 50)
    given = ["task=compare", f"task.runs=[{two_families}]", f"outputs={tmp_path / 'outputs'}"]
    chosen = compose("analyze", *given, "task.objectives={val_explained_variance: maximize, seconds: minimize}")
    with caplog.at_level(logging.INFO, logger="microlatent"):
        numbers, out = carry_out(chosen, [])
    assert numbers == {"runs": 6, "not_counted": 2, "configurations": 2, "seeds": 3}
    assert {str(path) for path in [*out.glob("tables/*"), *out.glob("figures/*")]} == set(task.preflight(chosen, out).writes)
    summary = pd.read_csv(out / "tables" / "compare.csv")
    runs = pd.read_csv(out / "tables" / "runs.csv")
    means = runs[runs["counts"]].groupby("configuration")["val_explained_variance"].mean()
    written = summary[summary["metric"] == "val_explained_variance"].set_index("configuration")["mean"]
    pd.testing.assert_series_equal(written.sort_index(), means.sort_index(), check_names=False)
    assert summary.loc[summary["metric"] == "best_score", "not_comparable_across"].str.contains("model family").all()
    assert "val_explained_variance (higher is better): vae_gauss" in caplog.text


def test_nothing_of_an_earlier_comparison_stays_beside_a_later_one(two_families, compose, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(figures, "DPI", 30)
    caplog.set_level(logging.INFO, logger="microlatent")
    plan = {"entry": "train", "arguments": [], "jobs": {number: [f"seed={number}"] for number in (1, 2, 3)}}
    (two_families / "sweep.yaml").write_text(yaml.safe_dump(plan))
    for number in (1, 2, 3):
        (two_families / f"vae{number}").rename(two_families / str(number))
    given = ["task=compare", f"task.runs=[{two_families}]", f"outputs={tmp_path / 'outputs'}"]
    _, out = carry_out(compose("analyze", *given), [])
    assert "best_score (lower" in (out / "log.txt").read_text()
    carry_out(compose("analyze", *given, "task.objectives={seconds: minimize}"), [])
    assert "best_score (lower" not in (out / "log.txt").read_text()
    with pytest.raises(ValueError, match=r"task\.reference"):
        carry_out(compose("analyze", *given, "task.reference=other"), [])
    assert not list(out.glob("tables/*"))


@pytest.mark.slow
def test_a_number_that_none_of_those_drawn_has_leaves_its_panel_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    for dim in range(30):  # of more than 24 those are drawn that are best on the first objective
        metrics = {"best_score": 1.0 + dim} | ({"best_val_active_units": float(dim)} if dim > 25 else {})
        write_run(tmp_path / "runs" / str(dim), VAE, 1, metrics, model__latent_dim=dim)
    found = compared(tmp_path / "runs")
    assert found.shown == ["best_score", "best_val_active_units"]
    task.draw(found, task.results_of(tmp_path, NullTracker()))
    assert (tmp_path / "figures" / "compare.png").is_file()


def test_sweep_jobs_that_have_not_begun_are_listed(two_families, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    jobs = {number: ["model=vae_gauss", f"seed={number}"] for number in range(3)}
    plan = {
        "entry": "train",
        "arguments": ["model=vae_gauss"],
        "jobs": jobs,
        "study": {"objectives": {"best_val_kl": "minimize"}},
    }
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(plan))
    for number in (0, 1):
        write_run(sweep / str(number), VAE, number, {"best_val_kl": 3.0 + number, "best_score": 1.0})
    found = compared(sweep)
    assert found.objectives == {"best_val_kl": "minimize"}  # of the study
    assert found.runs[["state", "reason"]].iloc[-1].tolist() == ["pending", "seed=2"]  # what tells it from its siblings
