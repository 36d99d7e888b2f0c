"""The network of Kikuchi patterns: any size, its objective in nats, its decoder on its own."""

import pytest
import torch

from microlatent.contract import Batch
from microlatent.losses import LOG_2PI
from microlatent.models.kikuchi_cnn import KikuchiCNN
from microlatent.schemas import KikuchiCNNConfig


def build(shape=(30, 30), seed=0, **settings) -> KikuchiCNN:
    torch.manual_seed(seed)
    return KikuchiCNN(KikuchiCNNConfig(name="kikuchi_cnn", **({"width": 4} | settings)), 1, shape)


def batch(shape=(30, 30), num=5) -> Batch:
    x = torch.randn(num, 1, *shape, generator=torch.Generator().manual_seed(1))
    return Batch(x)


@pytest.mark.parametrize("shape", [(30, 30), (60, 60), (40, 50), (33, 71), (2, 7)])
def test_the_decoder_returns_patterns_of_the_size_that_went_in(shape):
    model = build(shape, latent_dim=3)
    assert model.decode(torch.randn(4, 3)).shape == (4, 1, *shape)
    assert model.encode(batch(shape).x)["mu"].shape == (5, 3)


def test_the_reference_size_has_the_reference_layers():
    model = build((400, 500), latent_dim=2, width=32)
    assert model.network.sizes[-1] == (13, 16)
    assert model.network.to_mu.in_features == 512 * 13 * 16 == 106_496
    assert [layer.out_channels for layer in model.network.down] == [32, 64, 128, 256, 512]


def test_the_decoder_works_before_anything_was_encoded_and_does_not_depend_on_it():
    model = build()
    z = torch.randn(2, 16)
    before = model.decode(z)
    model.encode(batch((30, 30)).x)
    assert torch.equal(before, model.decode(z))


def test_every_weight_is_known_to_an_optimiser_before_the_first_batch_and_moves():
    model = build()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model.loss(batch(), 0).terms["total"].backward()
    optimiser.step()
    assert all((weight != before[name]).any() for name, weight in model.named_parameters())


def test_sum_is_half_the_squared_error_and_the_divergence_per_pattern():
    model, data = build(beta=2.0, kl_warmup_steps=0).eval(), batch()
    terms = model.loss(data, 0).terms
    mu, std = model.network.encode(data.x)
    error = (data.x - model.network.decode(mu).x_hat).square().flatten(1).sum(1)
    kl = 0.5 * (mu**2 + std**2 - 1 - 2 * std.log()).sum(1)
    torch.testing.assert_close(terms["total"], (0.5 * error + 2 * kl).mean() + 450 * LOG_2PI)


def test_mean_mean_is_the_reference_objective():
    model, data = build(loss_reduction="mean_mean", kl_warmup_steps=0).eval(), batch()
    terms = model.loss(data, 0).terms
    mu, std = model.network.encode(data.x)
    kl = -0.5 * (1 + 2 * std.log() - mu**2 - std**2)
    expected = (data.x - model.network.decode(mu).x_hat).square().mean() + kl.mean()
    torch.testing.assert_close(terms["total"], expected)


def test_dimensions_cost_their_free_bits_at_least():
    model, data = build(free_bits=1e6, kl_warmup_steps=0).eval(), batch()
    terms = model.loss(data, 0).terms
    assert terms["total"] == terms["recon"] + 16e6
    assert build(free_bits=1e-9, kl_warmup_steps=0).eval().loss(data, 0).terms["total"] == terms["recon"] + terms["kl"]


def test_explained_variance_is_one_for_a_perfect_and_zero_for_the_mean_pattern():
    model, data = build(), batch(num=40)
    perfect = {"pixels": data.x.double().sum(0), "pixel_squares": data.x.double().square().sum(), "errors": torch.zeros(())}
    mean = data.x.mean(0, keepdim=True)
    of_mean = perfect | {"errors": (data.x - mean).double().square().sum()}
    known = {"mu": torch.zeros(16), "mu_squares": torch.ones(16), "kl": torch.zeros(16), "patches": torch.tensor(40.0)}
    assert model.end_epoch(known | perfect, False)[0]["explained_variance"] == pytest.approx(1.0)
    assert model.end_epoch(known | of_mean, False)[0]["explained_variance"] == pytest.approx(0.0, abs=1e-6)


def test_collapse_is_said_with_the_remedy():
    model = build(loss_reduction="mean_mean")
    tallies = {"mu": torch.zeros(16), "mu_squares": torch.zeros(16), "kl": torch.zeros(16), "patches": torch.tensor(4.0)}
    tallies |= {"pixels": torch.zeros(1, 2, 2), "pixel_squares": torch.ones(()), "errors": torch.ones(())}
    warning = model.end_epoch(tallies, True)[1][0]
    assert "0 of 16 latent dimensions carry information" in warning
    assert "model.loss_reduction=mean_mean that is expected: take sum" in warning


@pytest.mark.parametrize(("mode", "head", "low"), [("minus_one_one", "tanh", -1), ("zero_one", "sigmoid", 0)])
def test_the_head_follows_the_normalisation_and_stays_within_its_range(mode, head, low):
    config = KikuchiCNNConfig(name="kikuchi_cnn", width=4)
    config.refuse_normalisation(mode)
    assert config.head == head
    x = KikuchiCNN(config, 1, (32, 32)).decode(100 * torch.randn(50, 16))
    assert low <= x.min() < x.max() <= 1


def test_bad_settings_say_what_works():
    with pytest.raises(ValueError, match=r"model\.head=tanh does not reach the values of data\.normalise=patch"):
        KikuchiCNNConfig(name="kikuchi_cnn", head="tanh").refuse_normalisation("patch")
    with pytest.raises(ValueError, match=r"one pixel wide after 4 halvings\. Set model\.num_down=4"):
        build((16, 12), num_down=5)
    with pytest.raises(ValueError, match=r"no effect on model\.loss_reduction=mean_mean"):
        KikuchiCNNConfig(name="kikuchi_cnn", free_bits=0.1, loss_reduction="mean_mean")
