"""Models of a plugin that predict a target, in two and in three dimensions: what the loop does for them."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from microlatent import checkpoint, config, contract, distributed, metrics, run, settling, training
from microlatent.command import carry_out
from microlatent.data.normalise import Normaliser
from microlatent.data.store import Moments
from microlatent.device import set_layout
from microlatent.experiment import load_trained
from microlatent.signals import LOOK_EVERY, Interrupted
from microlatent.tracking import differing_history
from tests.conftest import composed
from tests.core.test_distributed import TORCHRUN

PLUGIN = "plugins=[tests.core.toys]"
KINDS = ("toy_images", "toy_volumes")
TOY = (PLUGIN, "model=toy_net", "logger=csv", "name=toy", "trainer.batch_size=8", "trainer.lr=0.05", "trainer.epochs=2")


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """Load the plugin in this process, and forget it afterwards."""
    before = {id(known): (known, dict(known)) for known in (metrics.METRICS, config.REGISTRY["model"], config.REGISTRY["data"])}
    config.load_plugins(["tests.core.toys"])
    yield
    for known, values in before.values():
        known.clear()
        known.update(values)
    del sys.modules["tests.core.toys"]


@pytest.fixture
def fit(tmp_path, without_figures):
    """Return a function that trains in this process and returns the run folder; the same settings are composed once."""
    known = {}

    def fitted(kind: str, *overrides: str) -> Path:
        typed = (*TOY, f"data={kind}", f"outputs={tmp_path / 'outputs'}", *overrides)
        if typed not in known:
            known[typed] = composed("train", *typed)
        return carry_out(known[typed], list(typed))[1]

    return fitted


def stop_after(monkeypatch, steps: int) -> None:
    """Ask the loop to stop by a real signal after a number of optimiser steps."""
    original, seen = training.FiniteGuard.check, []

    def counted(self, *args):
        seen.append(1)
        if len(seen) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(training.FiniteGuard, "check", counted)


def resumed(folder: Path) -> Path:
    settings = settling.settle({**run.read_config(folder), "resume": str(folder)}, "train")
    return carry_out(settings, [], resumed=folder)[1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("toy_images", ["trainer.lr_schedule=cosine", "trainer.accumulate=2", "trainer.patience=1"]),
        ("toy_volumes", ["trainer.max_batches=2", "trainer.monitor=likeness"]),
        ("toy_images", ["trainer.batch_size=64", "trainer.epochs=3"]),  # one batch is an epoch
    ],
)
def test_a_run_stopped_after_any_batch_goes_on_as_if_it_had_not_been(fit, monkeypatch, kind, options):
    whole = fit(kind, *options)
    steps = int(pd.read_csv(whole / "history.csv")["step"].iloc[-1])
    for step in range(1, steps + 1):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            with pytest.raises(Interrupted):
                fit(kind, *options, "name=stopped")
        stopped = resumed(max((whole.parents[1] / "stopped").iterdir(), key=lambda path: run.read_status(path)["started"]))
        assert differing_history(whole / "history.csv", stopped / "history.csv") is None, step
        one, other = (checkpoint.load(folder / "checkpoints" / "last.ckpt") for folder in (whole, stopped))
        assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items()), step
        assert one["position"]["since_best"] == other["position"]["since_best"]


def test_epochs_of_few_batches_stop_too_where_several_processes_look_together_every_few_steps(fit, monkeypatch):
    monkeypatch.setattr(training.StopSignals, "obey", lambda self, step: self.asked if step % LOOK_EVERY == 0 else 0)
    stop_after(monkeypatch, 1)
    with pytest.raises(Interrupted):
        fit("toy_images", f"trainer.epochs={LOOK_EVERY}")


def test_given_weights_kept_as_a_run_go_on_with_the_history_they_had(fit):
    folder = fit("toy_images", "trainer.epochs=0")
    assert len(pd.read_csv(resumed(folder) / "history.csv")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_learnt_and_told_by_what_it_explains(fit, kind):
    folder = fit(kind, "trainer.epochs=30", "model.width=12")
    history, numbers = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "summary.csv", index_col="metric")["value"]
    assert history["val_mse"].iloc[-1] < 0.7 * history["val_mse"].iloc[0]
    assert 0.3 < numbers["val_explained_variance"] < 1  # by weight: the pixels that say nothing would be all of it


def test_metric_of_a_plugin_is_measured_when_it_says_and_chooses_the_best_epoch(fit):
    folder = fit("toy_images", "trainer.monitor=likeness", "trainer.epochs=4")
    history, numbers = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "summary.csv", index_col="metric")["value"]
    assert "val_worst" not in history
    assert "train_likeness" not in history
    assert {"val_worst", "test_worst", "test_likeness"} <= set(numbers.index)
    best = history["val_likeness"].max()  # higher is better
    assert numbers["best_score"] == pytest.approx(best)
    kept = checkpoint.load(folder / "checkpoints" / "best.ckpt")["position"]
    assert kept["epoch"] == history["val_likeness"].idxmax() + 1 == numbers["best_epoch"]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_layout_is_that_of_each_layer(fit, kind):
    plain, other = (fit(kind, "trainer.epochs=1", f"trainer.channels_last={value}") for value in ("false", "true"))
    one, two = (pd.read_csv(folder / "history.csv")["train_total"] for folder in (plain, other))
    np.testing.assert_allclose(one, two, rtol=1e-4)
    model = nn_of(other)
    set_layout(model, True)
    layout = torch.channels_last if kind == "toy_images" else torch.channels_last_3d
    assert model.layers[0].weight.is_contiguous(memory_format=layout)


def nn_of(folder: Path) -> torch.nn.Module:
    settings = settling.settle(run.read_config(folder), "train")
    return training.build_model(settings, training.open_data(settings))


def test_target_and_weight_are_turned_with_the_input():
    settings = composed("train", *TOY, "data=toy_images", "data.normalise=none")
    source, rows = training.open_data(settings), np.arange(40)
    source.y = source.x[:, :1].copy()
    source.weight = source.x[:, 1:].copy()
    batch = source.batch(rows, torch.device("cpu"), augment_seed=(1, 2))
    assert torch.equal(batch.x[:, :1], batch.y)
    assert torch.equal(batch.x[:, 1:], batch.weight)
    assert not torch.equal(batch.x, source.batch(rows, torch.device("cpu")).x)
    source.x = np.random.default_rng(0).random((40, 1, 3, 8, 8), np.float32)
    source.y, source.weight = source.x.copy(), source.x[:, :, :1].copy()
    batch = source.batch(rows, torch.device("cpu"), augment_seed=(1, 2))
    assert torch.equal(batch.x, batch.y)
    assert torch.equal(batch.x[:, :, :1], batch.weight)


def test_model_that_predicts_is_refused_on_data_without_targets(stores_folder, tmp_path):
    typed = [*TOY, f"data.store={stores_folder}", f"outputs={tmp_path}"]
    with pytest.raises(ValueError, match=r"model=toy_net predicts a target .* data=wells has none"):
        carry_out(composed("train", *typed), typed)


def test_only_a_model_that_says_so_refuses_another_shape(fit, monkeypatch, compose):
    folder = fit("toy_images", "trainer.epochs=1")
    task = "task=process", f"run={folder}", PLUGIN, "data=toy_images", "data.split_by=sample"
    settings = composed("infer", *task)
    from tests.core import toys

    original = toys.open_images

    def larger(settings):
        source = original(settings)
        source.shape = (16, 24)
        return source

    monkeypatch.setattr(toys, "open_images", larger)
    assert load_trained(settings, torch.device("cpu"))[0].shape == (16, 24)
    monkeypatch.setattr(toys.ToyNet, "fixed_shape", True, raising=False)
    with pytest.raises(ValueError, match=r"trained on patches of 8 x 8 px, but the stores have 16 x 24 px"):
        load_trained(settings, torch.device("cpu"))


def test_capabilities_are_those_of_the_class_too():
    from tests.core.toys import ToyNet

    assert contract.capabilities(ToyNet) == {"predict"}
    assert contract.lacking(ToyNet, ["encode", "predict"]) == ["encode"]


# ------------------------------------------------------------------------------------------------- several processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_and_both_are_drawn(command, kind):
    options = [*TOY, f"data={kind}", "trainer.batch_size=10", "trainer.figure_every=1"]
    command("train", *options, "name=one")
    command("train", *options, "name=two", launcher=TORCHRUN, OMP_NUM_THREADS="1")
    (one,), (two,) = (list(command.folder.glob(f"outputs/{name}/*")) for name in ("one", "two"))
    for file, columns in (("history.csv", ["train_mse", "val_mse", "val_likeness"]), ("summary.csv", ["value"])):
        ours, theirs = (pd.read_csv(folder / file).set_index(pd.read_csv(folder / file).columns[0]) for folder in (one, two))
        kept = ours.index.drop("seconds", errors="ignore")
        np.testing.assert_allclose(ours.loc[kept, columns], theirs.loc[kept, columns], rtol=2e-4, atol=1e-6)
    command("analyze", "task=report", f"run={two}", PLUGIN)
    page = (two / "report" / "report.html").read_text()
    assert (two / "figures" / "predictions.png").is_file()
    assert len(list((two / "figures" / "epochs").glob("*.png"))) == 2
    assert "each target above its prediction" in page
    assert "Figure Predictions." not in page  # it is there once
    assert "likeness to the target" in page


@pytest.mark.parametrize(("kind", "shape"), [(torch.nn.BatchNorm1d, (6, 3)), (torch.nn.BatchNorm3d, (6, 3, 2, 4, 5))])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
def test_global_statistics_are_torchs_own_on_any_axes(monkeypatch, kind, shape, options):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "differentiable_sum", lambda sums: 2 * sums)  # the other process has the same samples
    ours, theirs = kind(3, **options), kind(3, **options)
    distributed.with_global_batch_norm(ours)
    for number in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        torch.testing.assert_close(ours(x), theirs(torch.cat([x, x]))[:6], rtol=1e-4, atol=1e-5)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["dataset", "patch", "zero_one", "minus_one_one", "gauss", "bern", "none"])
def test_volumes_are_normalised_as_images_of_all_their_voxels(mode):
    x = np.random.default_rng(0).gamma(2.0, size=(6, 2, 3, 4, 5)).astype(np.float32)
    volumes, planes = (
        Normaliser.fit(mode, ["a", "b"], Moments.of(one), lambda one=one: iter([one])).apply(torch.from_numpy(one.copy()))
        for one in (x, x.reshape(6, 2, 12, 5))
    )
    torch.testing.assert_close(volumes.flatten(2, 3), planes)


@pytest.mark.parametrize("kind", KINDS)
def test_check_reads_a_batch_of_each_part_and_lists_what_the_run_leaves(fit, tmp_path, kind):
    plan = training.preflight(composed("train", *TOY, f"data={kind}"), tmp_path / "run")
    left = {path.name for path in fit(kind, "trainer.epochs=1").iterdir()}
    assert {Path(name).name for name in plan.writes} <= left | {"figures"}
    assert "summary.csv" in left
    assert sum("batches; the first is" in note for note in plan.notes) == 3
