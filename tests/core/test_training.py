"""The loop: what a run leaves, and that going on, repeating and failing are exact."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from microlatent import checkpoint, resume, run, settling, training, validation
from microlatent.command import carry_out
from microlatent.experiment import load_trained
from microlatent.losses import Losses
from microlatent.signals import Interrupted
from microlatent.tracking import NullTracker, differing_history
from microlatent.training_state import FiniteGuard
from microlatent.validation import leave_figures
from tests.conftest import composed

pytestmark = pytest.mark.usefixtures("without_figures")

ROOT = Path(__file__).parents[2]
SMALL = (
    *("model.latent_dim=4", "model.num_residual_hiddens=4", "model.num_codes=8", "trainer.batch_size=16"),
    *("trainer.num_reconstructions=0", "logger=csv"),
)


@pytest.fixture
def arguments(stores_folder, tmp_path):
    """Return overrides of a run that takes a second."""
    return [f"data.store={stores_folder}", f"outputs={tmp_path / 'outputs'}", "name=test", *SMALL]


@pytest.fixture
def fit(compose, arguments):
    """Return a function that trains in this process and returns the run folder."""

    def fitted(*overrides: str) -> Path:
        settings = compose("train", *arguments, *overrides)
        return carry_out(settings, list(overrides))[1]

    return fitted


@pytest.fixture(scope="module")
def trained(without_figures, stores_folder, tmp_path_factory) -> Path:
    """Train for an epoch, with seed 5, for tests that only read the run."""
    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    typed = [f"data.store={stores_folder}", f"outputs={outputs}", "trainer.epochs=1", "seed=5", *SMALL]
    return carry_out(composed("train", *typed), typed)[1]


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


def test_run_folder_is_complete_and_its_status_true(fit, monkeypatch):
    monkeypatch.setattr(validation, "leave_figures", leave_figures)
    folder = fit("trainer.epochs=2", "trainer.checkpoint_every=1", "trainer.num_reconstructions=3")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        *(
            "config.yaml",
            "provenance.json",
            "status.json",
            "split.csv",
            "history.csv",
            "summary.csv",
            "log.txt",
            ".hydra/overrides.yaml",
        ),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/epoch0001.ckpt", "checkpoints/epoch0002.ckpt"),
        *("figures/history.png", "figures/reconstructions.png"),
    }
    assert not [name for name in names if "partial" in name]
    status = run.read_status(folder)
    assert status["state"] == "completed"
    assert status["epoch"] == 2
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["epochs"] == 2


def test_checkpoint_carries_its_provenance(trained):
    provenance = checkpoint.load(trained / "checkpoints" / "best.ckpt")["birth"]
    assert provenance["seed"] == provenance["config"]["seed"] == 5
    assert provenance["data"]["channels"] == ["phase", "stain"]
    assert set(provenance["data"]["fingerprints"]) == {"A1.h5", "B2.h5"}
    assert len(provenance["data"]["normaliser"]["mean"]) == 2
    assert len(provenance["data"]["split_hash"]) == 32
    assert provenance["versions"]["torch"] == torch.__version__
    assert set(provenance["git"]) == {"commit", "diff", "untracked"}


@pytest.mark.slow
def test_loss_falls(fit):
    losses = history(fit("trainer.epochs=12", "trainer.lr=0.01"))
    assert losses["val_recon"].iloc[-1] < 0.6 * losses["val_recon"].iloc[0]


@pytest.mark.slow
def test_same_seed_gives_the_same_history_and_another_seed_another(fit):
    folders = [fit("trainer.epochs=2", f"seed={seed}") for seed in (3, 3, 4)]
    assert differing_history(folders[0] / "history.csv", folders[1] / "history.csv") is None
    assert differing_history(folders[0] / "history.csv", folders[2] / "history.csv") is not None


def stop_after(monkeypatch, batches: int) -> None:
    """Ask the loop to stop by a real signal after a number of batches."""
    original, seen = training.Sums.add, []

    def counted(self, *args):
        seen.append(1)
        if len(seen) == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(training.Sums, "add", counted)


@pytest.mark.parametrize("batches", [pytest.param(3, marks=pytest.mark.slow), 11, pytest.param(20, marks=pytest.mark.slow)])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(fit, monkeypatch, batches, compose):
    options = ["trainer.epochs=3", "trainer.warmup_steps=5", "model.revive_dead_codes=true"]
    whole = fit(*options)
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        with pytest.raises(Interrupted):
            fit(*options)
    stopped = next(path for path in whole.parent.iterdir() if run.read_status(path)["state"] == "interrupted")
    settings = settling.settle({**run.read_config(stopped), "resume": str(stopped)}, "train")
    carry_out(settings, [], resumed=stopped)
    assert differing_history(whole / "history.csv", stopped / "history.csv") is None
    one, other = (checkpoint.load(folder / "checkpoints" / "last.ckpt") for folder in (whole, stopped))
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    for key, value in one["optimiser"]["state"].items():
        assert all(torch.equal(value[name], other["optimiser"]["state"][key][name]) for name in value)
    assert run.read_status(stopped)["state"] == "completed"


def test_resumed_run_with_more_epochs_says_so_in_its_config(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    settings = settling.settle({**run.read_config(folder), "resume": str(folder)}, "train")
    settings.trainer.epochs = 2
    carry_out(settings, [], resumed=folder)
    assert run.read_config(folder)["trainer"]["epochs"] == len(history(folder)) == 2
    assert run.read_config(folder)["resume"] is None


@pytest.mark.slow
def test_last_batch_smaller_than_its_pieces_is_taken(fit):
    assert len(history(fit("trainer.epochs=1", "trainer.batch_size=30", "trainer.accumulate=16"))) == 1


@pytest.mark.parametrize(("step", "steps"), [(5, 20), (25, 30)])
def test_deferred_guard_names_the_step_that_was_not_finite(step, steps):
    guard = FiniteGuard(np.array(["a", "b"]), torch.device("cuda"))
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    sums, position = training.Sums(), training.Position()

    def run_steps():
        for position.step in range(steps):
            value = torch.tensor(float("nan") if position.step == step else float(position.step))
            sums.add(Losses({"total": value}, {}), 1, 1)
            guard.check(sums, optimiser, position, np.array([0, 1]))
        guard.look(sums.names, 0)

    with pytest.raises(ValueError, match=rf"at step {step} .*'total': nan.*'total': {step - 1}.0"):
        run_steps()
    assert float(optimiser.found_inf) == 1


def test_resume_refuses_a_changed_scientific_setting_and_shows_it(trained):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    typed = [f"resume={trained}", "trainer.lr=0.5", "trainer.epochs=2", "data.order=random"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra_compose("train", typed)
    with pytest.raises(
        ValueError, match=r"trainer.lr: 0.001 in the run, 0.5 now\n  data.order: tracks in the run, random now"
    ) as error:
        resume.continued(cfg, typed, trained)
    assert "trainer.epochs" not in str(error.value)
    assert resume.continued(cfg, [f"resume={trained}", "trainer.epochs=2"], trained).trainer.epochs == 2


def test_store_that_changed_is_refused_by_resume_and_by_inference(fit, compose, stores_folder, tmp_path):
    from tests.specimen import write_store

    stores = Path(shutil.copytree(stores_folder, tmp_path / "stores"))
    folder = fit("trainer.epochs=1", f"data.store={stores}")
    write_store(stores / "B2.h5", "B2", num_frames=6, patch_px=16, seed=9)
    settings = settling.settle({**run.read_config(folder), "resume": str(folder)}, "train")
    settings.trainer.epochs = 2
    with pytest.raises(ValueError, match="data changed since this run began"):
        training.run(settings, folder, NullTracker())
    settings = compose("infer", "task=process", f"run={folder}", f"data.store={stores}")
    with pytest.raises(ValueError, match=r"B2\.h5 in .* changed after the run was trained"):
        load_trained(settings, torch.device("cpu"))
    shutil.copytree(stores, tmp_path / "moved")
    settings = compose("infer", "task=process", f"run={folder}", f"data.store={tmp_path / 'moved'}")
    assert len(load_trained(settings, torch.device("cpu"))[0]) == 142


def test_rerun_repeats_a_run_from_its_folder_and_says_identical(trained, tmp_path, caplog):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"rerun": str(trained), "outputs": str(tmp_path), "name": None, "check": False})
    folder, settings = resume.repeated(cfg, [])
    again = carry_out(settings, [])[1]
    with pytest.raises(ValueError, match=r"trainer.batch_size=8 has no effect"):
        resume.repeated(cfg, ["trainer.batch_size=8"])
    with caplog.at_level("INFO", logger="microlatent"):
        resume.compare(folder, again)
    assert again.is_relative_to(tmp_path)
    assert f"The history of {again} is identical to that of {trained}" in caplog.text


def test_check_of_inference_reads_a_batch_and_writes_nothing(trained, compose, stores_folder, capsys):
    before = set(trained.rglob("*"))
    settings = compose("infer", "task=process", f"run={trained}", "check=true", f"data.store={stores_folder}")
    assert carry_out(settings, []) == (None, None)
    assert "latents.h5ad" in capsys.readouterr().out
    assert set(trained.rglob("*")) == before


def test_non_finite_loss_stops_before_the_step_and_names_it(fit, arguments, compose, tmp_path):
    settings = compose("train", *arguments, "trainer.epochs=50", "trainer.lr=1e30", "data.augment=false")
    with pytest.raises(
        ValueError, match=r"not finite at step \d+ .*Last finite values: \{'total'.*Rows of the batch: \[\d+.*No step was taken"
    ):
        carry_out(settings, [])
    folder = next((tmp_path / "outputs" / "test").iterdir())
    status = run.read_status(folder)
    assert status["state"] == "failed"
    assert "not finite" in status["reason"]


def test_accumulated_pieces_give_the_gradient_of_the_whole_batch(trained):
    # Batch statistics differ between pieces, so the claim holds for a model in evaluation mode.
    model, source, _ = _parts(trained)
    model.eval()
    rows = source.rows["train"][:16]
    grads = []
    for pieces in (1, 4):
        model.zero_grad()
        for piece in np.array_split(rows, pieces):
            batch = source.batch(piece, torch.device("cpu"))
            (model.loss(batch, 0).terms["recon"] * len(piece) / len(rows)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def _parts(folder):
    settings = settling.settle(run.read_config(folder), "train")
    settings.model.matching = "none"  # which compares the patches of a batch with each other
    source = training.open_data(settings)
    return training.build_model(settings, source), source, settings


def test_evaluation_leaves_weights_and_statistics_alone(trained):
    model, source, settings = _parts(trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (validation.evaluate(settings, model, source, torch.device("cpu")) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.clip_norm=0.1", "trainer.lr_schedule=cosine"],
        pytest.param(["trainer.precision=bf16"], marks=pytest.mark.slow),
        pytest.param(["trainer.weight_decay=0.1"], marks=pytest.mark.slow),
    ],
)
def test_options_of_the_loop_train(fit, options):
    losses = history(fit("trainer.epochs=3", "trainer.lr=0.01", *options))
    assert losses["train_recon"].iloc[-1] < losses["train_recon"].iloc[0]
    if "trainer.lr_schedule=cosine" in options:
        assert losses["lr"].iloc[-1] < 0.1 * losses["lr"].iloc[0]


def test_monitored_term_chooses_the_best_epoch(fit):
    folder = fit("trainer.epochs=3", "trainer.lr=0.01", "trainer.monitor=recon", "model.commitment_weight=0.01")
    best = int(history(folder)["val_recon"].idxmin()) + 1
    assert checkpoint.load(folder / "checkpoints" / "best.ckpt")["position"]["epoch"] == best


@pytest.mark.parametrize("more", [[], ["check=true"]])
def test_wrong_monitored_term_is_refused_before_the_model_is_trained(fit, caplog, more):
    with pytest.raises(ValueError, match=r"trainer.monitor=recno is no loss term .* Did you mean 'recon'"):
        fit("trainer.epochs=1", "trainer.monitor=recno", *more)
    assert "parameters; patches" not in caplog.text


def test_looking_for_the_monitored_term_changes_no_epoch(compose, stores_folder, tmp_path):
    losses = []
    for monitor in ("total", "recon"):
        options = ["model=vae_gauss", f"data.store={stores_folder}", "trainer.epochs=2", "trainer.num_reconstructions=0"]
        options += [f"outputs={tmp_path}", f"name={monitor}", f"trainer.monitor={monitor}", "logger=csv"]
        _, folder = carry_out(compose("train", *options), options)
        losses.append(history(folder).drop(columns=["seconds", "patches_per_s"]))
    pd.testing.assert_frame_equal(*losses, check_exact=True)  # of a model that draws its latents


def test_likelihood_without_test_patches_is_refused_by_a_check_too(compose, stores_folder):
    options = ["model=vae_gauss", f"data.store={stores_folder}", "trainer.likelihood_samples=2", "check=true", "logger=csv"]
    with pytest.raises(ValueError, match=r"data\.test_share=0 holds none out"):
        carry_out(compose("train", *options), options)


@pytest.mark.slow
def test_early_stopping_counts_epochs_without_improvement(fit):
    folder = fit("trainer.epochs=40", "trainer.patience=2", "trainer.lr=1e-12")
    losses = history(folder)
    best = losses["val_total"].idxmin()
    assert len(losses) == best + 3 < 40
    # as if killed before its last numbers
    settings = settling.settle(
        {**run.read_config(folder), "resume": str(folder)}, "train"
    )  # as if killed before its last numbers
    carry_out(settings, [], resumed=folder)
    assert len(history(folder)) == len(losses)


def test_epochs_zero_keeps_given_weights_as_a_run(fit, trained):
    kept = fit("trainer.epochs=0", f"init_from={trained}")
    one, other = (checkpoint.load(folder / "checkpoints" / "best.ckpt")["model"] for folder in (trained, kept))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_another_shape_are_refused_by_name(fit, trained):
    with pytest.raises(ValueError, match=r"init_from=.*vq\.w\.weight is \(8, 4\), not \(4, 4\)"):
        fit("trainer.epochs=1", "model.num_codes=4", f"init_from={trained}")


@pytest.mark.slow
def test_killed_run_is_shown_as_lost_and_its_last_checkpoint_is_whole(arguments, stores_folder, tmp_path):
    line = [sys.executable, str(ROOT / "train.py"), *arguments, "trainer.epochs=100000", "trainer.threads=1"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while time.time() < deadline and not list(tmp_path.glob("outputs/test/*/history.csv")):
        time.sleep(0.2)
    process.kill()
    process.wait()
    folder = next((tmp_path / "outputs" / "test").iterdir())
    assert json.loads((folder / "status.json").read_text())["state"] == "running"
    assert run.read_status(folder)["state"] == "lost"
    assert checkpoint.load(folder / "checkpoints" / "last.ckpt")["position"]["epoch"] >= 1


def test_learning_rate_warms_up_and_falls_to_zero(compose):
    trainer = compose("train", "data.root=demo", "trainer.lr=1", "trainer.warmup_steps=10", "trainer.lr_schedule=cosine").trainer
    rates = [training.learning_rate(trainer, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1
    assert rates[-1] < 1e-3
    assert math.isclose(rates[60], 0.5, abs_tol=0.01)
