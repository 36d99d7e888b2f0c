"""The share of the validation pixels' variance that a reconstruction explains, by which model families are compared."""

import numpy as np
import pytest
import torch

from microlatent import run, training, validation
from microlatent.command import carry_out

pytestmark = pytest.mark.usefixtures("without_figures")


class Reconstructs(torch.nn.Module):
    """A model that reconstructs by a given rule."""

    def __init__(self, rule):
        super().__init__()
        self.reconstruct = rule


@pytest.fixture
def opened(compose, stores_folder):
    """Return a function that gives settings and data with a normalisation and a batch size."""

    def settle(normalise: str = "dataset", batch_size: int = 7):
        given = [f"data.store={stores_folder}", f"data.normalise={normalise}", f"trainer.batch_size={batch_size}", "logger=csv"]
        chosen = compose("train", "model=vqvae_z16", *given)
        return chosen, training.open_data(chosen)

    return settle


def explained(opened, rule) -> float:
    chosen, source = opened
    found = validation.explained_variance(chosen, Reconstructs(rule), source, torch.device("cpu"))
    return found["val_explained_variance"]


def test_explained_variance_is_that_of_all_validation_patches_at_once(opened):
    _, source = opened()
    x = source.batch(source.rows["val"], torch.device("cpu")).x.double().numpy()
    rule = lambda x: 0.8 * x + 0.1  # noqa: E731
    share = [1 - ((x - rule(x))[:, c] ** 2).sum() / ((x - x.mean(0))[:, c] ** 2).sum() for c in range(x.shape[1])]
    for batch_size in (7, 1000):
        assert explained(opened(batch_size=batch_size), rule) == pytest.approx(np.mean(share), rel=1e-5)


def test_mean_patch_explains_nothing_and_the_patch_itself_all(opened):
    _, source = opened()
    mean = source.batch(source.rows["val"], torch.device("cpu")).x.mean(0)
    assert explained(opened(), lambda x: mean.expand_as(x)) == pytest.approx(0, abs=1e-5)
    assert explained(opened(), lambda x: x) == 1


def test_explained_variance_is_the_same_under_normalisations_that_scale_a_channel(opened):
    shares = []
    for mode in ("dataset", "gauss"):
        chosen, source = opened(mode)
        still = source.batch(source.rows["val"][:1], torch.device("cpu")).x  # one patch: a rule that scales with the pixels
        shares.append(explained((chosen, source), lambda x, still=still: 0.7 * x + 0.3 * still))
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)


def test_model_that_does_not_reconstruct_and_data_without_validation_have_no_share(opened):
    chosen, source = opened()
    assert validation.explained_variance(chosen, torch.nn.Identity(), source, torch.device("cpu")) == {}
    source.rows["val"] = source.rows["val"][:0]
    assert validation.explained_variance(chosen, Reconstructs(lambda x: x), source, torch.device("cpu")) == {}


@pytest.mark.parametrize(
    "model", ["ae_gauss", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vqvae_z16", "vae_gauss", "kikuchi_cnn"))]
)
def test_each_family_ends_in_one_quality_and_one_measure_of_health(compose, stores_folder, tmp_path, model):
    small = {"vqvae_z16": "model.num_codes=8", "kikuchi_cnn": "model.num_down=2"}.get(model, "model.width=4")
    given = [f"model={model}", small, "model.latent_dim=4", f"data.store={stores_folder}", f"outputs={tmp_path}", "logger=csv"]
    _, folder = carry_out(compose("train", *given, "trainer.epochs=1", "trainer.max_batches=3", "trainer.threads=1"), [])
    metrics = run.read_status(folder)["metrics"]
    assert metrics["val_explained_variance"] < 1
    assert len({"best_val_active_units", "best_val_codes_used"} & set(metrics)) == 1


@pytest.mark.slow
def test_explained_variance_of_one_channel_is_what_the_kikuchi_model_says_of_itself(compose, stores_folder, tmp_path):
    given = [
        "model=kikuchi_cnn",
        "model.num_down=2",
        "data.channels=[phase]",
        f"data.store={stores_folder}",
        f"outputs={tmp_path}",
    ]
    _, folder = carry_out(compose("train", *given, "trainer.epochs=2", "trainer.threads=1", "logger=csv"), [])
    metrics = run.read_status(folder)["metrics"]
    assert metrics["val_explained_variance"] == pytest.approx(metrics["best_val_explained_variance"], abs=1e-6)
