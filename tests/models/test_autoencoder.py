"""Autoencoders of partitions: the reference's layers, likelihoods that are likelihoods, and properties of any patches."""

import math
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from microlatent import losses
from microlatent.contract import Batch
from microlatent.models.autoencoder import Autoencoder, VariationalAutoencoder
from microlatent.models.compact import CompactNetwork
from microlatent.models.decoded import Decoded
from microlatent.models.reference_autoencoder import ReferenceNetwork, bilinear_matrix, max_pool, pad_same, upsample
from microlatent.schemas import AEConfig, VAEConfig

FAMILIES = list(product(("ae", "vae"), ("bern", "gauss")))
MOST = [(arch, *pair) for arch in ("compact", "2") for pair in FAMILIES]


def build(family="vae", likelihood="gauss", arch="compact", channels=2, patch_px=16, seed=0, **settings):
    torch.manual_seed(seed)
    small = {"latent_dim": 4} | ({"width": 4} if arch == "compact" else {})
    settings = small | settings
    make, schema = (VariationalAutoencoder, VAEConfig) if family == "vae" else (Autoencoder, AEConfig)
    config = schema(name=f"{family}_{likelihood}", family=family, likelihood=likelihood, arch=arch, **settings)
    return make(config, channels, (patch_px, patch_px))


def patches(likelihood="gauss", num=6, channels=2, patch_px=16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(num, channels, patch_px, patch_px, generator=generator)
    return Batch((x > 0.5).float() if likelihood == "bern" else 10 * x)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "numbers"),
    [("1", (38_759_117, 40_760_117, 41_190_205, 41_161_532)), ("2", (33_494_103, 35_495_103, 35_925_191, 35_896_518))],
)
def test_architectures_have_the_references_number_of_parameters(arch, numbers):
    made = [("ae", "gauss", {}), ("vae", "bern", {}), ("vae", "gauss", {}), ("vae", "gauss", {"full_var": True})]
    with torch.device("meta"):
        models = [build(f, p, arch, channels=7, patch_px=64, latent_dim=1000, **settings) for f, p, settings in made]
        bern = build("ae", "bern", arch, channels=7, patch_px=64, latent_dim=1000)
    assert tuple(map(count, models)) == numbers
    assert count(bern) == numbers[0]


@pytest.mark.parametrize(
    ("likelihood", "is_variational", "number"), [("bern", False, 50_387), ("bern", True, 50_995), ("gauss", True, 54_133)]
)
def test_network_for_digits_has_the_references_number_of_parameters(likelihood, is_variational, number):
    network = ReferenceNetwork(
        1, 28, 8, [(5, 3), (3, 3)], [100, 75], likelihood=likelihood, is_variational=is_variational, full_var=False
    )
    assert count(network) == number
    assert network.decode(network.encode(torch.rand(2, 1, 28, 28))[0]).x_hat.shape == (2, 1, 28, 28)


def test_compact_costs_a_tenth_of_the_reference():
    config = AEConfig(name="ae_gauss")
    with FlopCounterMode(display=False) as counter:
        Autoencoder(config, 7, (64, 64)).reconstruct(torch.rand(1, 7, 64, 64))
    assert counter.get_total_flops() / 2 <= 60e6


def test_reference_weights_are_drawn_as_in_tensorflow():
    network = build("ae", "gauss", "2", latent_dim=100).network
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 10_000:
            std = math.sqrt(1.3 / ((module.in_features + module.out_features) / 2))
            assert module.weight.abs().max() <= 2 * std
            assert float(module.weight.detach().std()) == pytest.approx(0.88 * std, rel=0.02)  # 0.88: of a normal cut off at 2
            assert not module.bias.any()


def test_max_pool_pads_as_tensorflow():
    for size in (4, 7, 8, 9):
        x = torch.randn(1, 1, size, size) - 10  # zeros of padding would win
        out = -(-size // 2)
        before = max(0, (out - 1) * 2 + 3 - size) // 2
        y = max_pool(x)
        assert y.shape[-1] == out
        for i, j in product(range(out), repeat=2):
            rows, columns = (slice(max(0, 2 * k - before), 2 * k - before + 3) for k in (i, j))
            assert y[0, 0, i, j] == x[0, 0, rows, columns].max()


def test_even_kernels_are_padded_as_tensorflow():
    x, weight = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 4, 4)
    y = F.conv2d(pad_same(x, 4), weight)
    assert y.shape == x.shape
    assert float(y[0, 0, 0, 0]) == pytest.approx(float((x[0, 0, :3, :3] * weight[0, 0, 1:, 1:]).sum()), abs=1e-5)


def test_upsampling_is_the_legacy_bilinear_one():
    x = torch.randn(2, 3, 5, 5)
    y = upsample(x, bilinear_matrix(5))
    for i, j in product(range(10), repeat=2):
        rows, columns = ([k // 2, min(4, k // 2 + k % 2)] for k in (i, j))
        assert torch.allclose(y[:, :, i, j], x[:, :, rows][:, :, :, columns].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("shape", [None, (6, 1, 1, 1), (6, 2, 4, 4)])
def test_gaussian_nll_is_that_of_torch_distributions(shape):
    x, mean = torch.randn(2, 6, 2, 4, 4)
    std = None if shape is None else torch.rand(shape) + 0.2
    theirs = -Normal(mean, torch.ones(()) if std is None else std).log_prob(x).sum((1, 2, 3))
    assert torch.allclose(losses.gaussian_nll(x, mean, std), theirs, rtol=1e-5)


def test_bernoulli_nll_is_that_of_torch_distributions():
    logits, x = torch.randn(5, 2, 4, 4), torch.rand(5, 2, 4, 4).round()
    theirs = -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    assert torch.allclose(losses.bernoulli_nll_of_logits(x, logits), theirs, rtol=1e-5)
    assert torch.allclose(losses.bernoulli_nll(x, logits.sigmoid()), theirs, rtol=1e-4)
    certain = torch.full((1, 1, 1, 1), 200.0)
    assert losses.bernoulli_nll_of_logits(torch.zeros_like(certain), certain) == 200
    assert losses.bernoulli_nll(torch.zeros_like(certain), certain.sigmoid()) < 15


def test_kl_is_that_of_torch_distributions():
    mu, std = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    theirs = kl_divergence(Normal(mu, std), Normal(0.0, 1.0))
    assert torch.allclose(losses.kl_to_standard_normal(mu, std), theirs, atol=1e-5)


@pytest.mark.parametrize(("arch", "family", "likelihood"), [*MOST, ("1", "vae", "gauss")])
def test_every_model_takes_a_step_with_all_of_its_weights(arch, family, likelihood):
    """A weight without gradient would stop training on several processes."""
    model, batch = build(family, likelihood, arch), patches(likelihood)
    torch.use_deterministic_algorithms(True)
    try:
        terms = model.loss(batch, 0).terms
        terms["total"].backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert list(terms) == (["total", "recon", "kl", "mse"] if family == "vae" else ["total", "recon", "mse"])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("settings", [{}, {"full_var": True}])
@pytest.mark.parametrize("arch", ["compact", "2"])
def test_terms_are_nats_per_patch(arch, settings):
    model, batch = build("vae", "gauss", arch, **settings).eval(), patches()
    with torch.no_grad():
        (mu, std), terms = model.network.encode(batch.x), model.loss(batch, 0).terms
        decoded = model.network.decode(mu)
    assert decoded.std.shape == (batch.x.shape if settings else (6, 1, 1, 1))
    assert decoded.std.min() >= 0.1
    recon = -Normal(decoded.x_hat, decoded.std).log_prob(batch.x).sum() / 6
    kl = kl_divergence(Normal(mu, std), Normal(0.0, 1.0)).sum() / 6
    assert float(terms["recon"]) == pytest.approx(float(recon), rel=1e-5)
    assert float(terms["kl"]) == pytest.approx(float(kl), rel=1e-5)
    assert float(terms["total"]) == pytest.approx(float(recon + kl), rel=1e-5)
    assert float(terms["mse"]) == pytest.approx(float((decoded.x_hat - batch.x).square().mean()), rel=1e-5)


@pytest.mark.parametrize(("arch", "family", "likelihood"), MOST)
def test_loss_does_not_depend_on_the_batch_size(arch, family, likelihood):
    model, x = build(family, likelihood, arch).eval(), patches(likelihood).x
    with torch.no_grad():
        whole = model.loss(Batch(x), 0).terms
        ones = [model.loss(Batch(x[i : i + 1]), 0).terms for i in range(len(x))]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(one[name]) for one in ones) / len(x), rel=1e-5), name


def test_beta_warms_up_in_training_and_is_whole_in_evaluation():
    model, batch = build(beta=2.0, kl_warmup_steps=10), patches()

    def weight(step):
        terms = {name: value.detach() for name, value in model.loss(batch, step).terms.items()}
        return float((terms["total"] - terms["recon"]) / terms["kl"])

    assert weight(0) == pytest.approx(0.2, rel=1e-2)
    assert weight(4) == pytest.approx(1.0, rel=1e-2)
    assert weight(50) == pytest.approx(2.0, rel=1e-2)
    model.eval()
    assert weight(0) == pytest.approx(2.0, rel=1e-2)


@pytest.mark.parametrize("arch", ["compact", "2"])
def test_evaluation_is_deterministic_and_training_is_not(arch):
    batch = patches()
    for family, dropout, varies in (("vae", 0.0, True), ("ae", 0.2, True), ("ae", 0.0, False)):
        model = build(family, "gauss", arch, dropout=dropout)
        first, second = (float(model.loss(batch, 0).terms["total"].detach()) for _ in range(2))
        assert (first != second) == varies
        model.eval()
        first, second = (float(model.loss(batch, 0).terms["total"].detach()) for _ in range(2))
        assert first == second


@pytest.mark.parametrize(("arch", "family", "likelihood"), MOST)
def test_encoding_leaves_the_model_alone_and_dropout_out(arch, family, likelihood):
    model, x = build(family, likelihood, arch, dropout=0.5), patches(likelihood).x
    before = deepcopy(model.state_dict())
    latents, x_hat = model.encode(x), model.reconstruct(x)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    first = next(iter(latents.values()))
    assert all(torch.equal(a, b) for a, b in zip(latents.values(), model.encode(x).values(), strict=True))
    assert list(latents) == (["mu", "std"] if family == "vae" else ["z"])
    assert first.shape == (6, 4)
    assert torch.equal(model.decode(first), x_hat)
    assert likelihood != "bern" or (x_hat.min() >= 0 and x_hat.max() <= 1)
    assert x_hat.shape == x.shape
    assert first.dtype == x_hat.dtype == torch.float32
    assert not first.requires_grad


def test_there_are_no_batch_statistics_to_choose():
    with pytest.raises(ValueError, match=r"'instance'.*Leave task\.norm out"):
        build().encode(patches().x, norm="instance")


@pytest.mark.parametrize(("family", "likelihood"), FAMILIES)
def test_overfits_four_patches(family, likelihood):
    model = build(family, likelihood, patch_px=8, latent_dim=8, width=8)
    batch = patches(likelihood, num=4, patch_px=8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(80):
        optimiser.zero_grad()
        model.loss(batch, step).terms["total"].backward()
        optimiser.step()
    error = (model.reconstruct(batch.x) - batch.x).square().mean()
    assert error < 0.05 * (batch.x - batch.x.mean((0, 2, 3), keepdim=True)).square().mean()


def test_compact_is_indifferent_to_units():
    """In counts or z-scores, the first step is the same but for the unit."""
    one, other = (build("ae", dropout=0.0) for _ in range(2))
    x = patches().x
    mse = one.loss(Batch(x), 0).terms["mse"]
    scaled = other.loss(Batch(x * 7 - 3), 0).terms["mse"]
    assert float(scaled.detach()) == pytest.approx(49 * float(mse.detach()), rel=1e-3)
    assert float(mse.detach()) == pytest.approx(float(x.var()), rel=0.3)


def test_weights_round_trip_and_keep_their_scale(tmp_path):
    model, batch = build(), patches()
    model.loss(batch, 0)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(seed=1)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    other.train()
    other.loss(Batch(batch.x * 100), 0)  # other data do not move the scale of weights that were trained
    assert all(torch.equal(a, b) for a, b in zip(model.encode(batch.x).values(), other.encode(batch.x).values(), strict=True))


@pytest.mark.parametrize("patch_px", [8, 12, 20, 28, 32, 64])
def test_compact_takes_any_side_that_divides_by_four(patch_px):
    network = CompactNetwork(1, patch_px, 3, 4, likelihood="gauss")
    side = network.grid[1]
    assert side <= 4 or side % 2
    assert network.decode(network.encode(torch.rand(1, 1, patch_px, patch_px))[0]).x_hat.shape == (1, 1, patch_px, patch_px)


@pytest.mark.parametrize(
    ("arch", "patch_px", "remedy"), [("1", 28, "task.size=32"), ("2", 30, "task.size=32"), ("compact", 30, "task.size=32")]
)
def test_bad_side_names_value_and_remedy(arch, patch_px, remedy):
    with pytest.raises(ValueError, match=f"{patch_px} pixels wide.*{remedy}"):
        build("ae", "gauss", arch, patch_px=patch_px)


@pytest.mark.parametrize("arch", ["compact", "2"])
def test_bf16_autocast_comes_close(arch):
    model, batch = build("vae", "gauss", arch).eval(), patches()
    with torch.no_grad():
        exact = model.loss(batch, 0).terms
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model.loss(batch, 0).terms
    for name, value in coarse.items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(exact[name]), rel=0.05), name


def test_kl_per_dimension_and_active_units_describe_the_epoch():
    model, batch = build().eval(), patches()
    out = [model.loss(Batch(part), 0) for part in batch.x.split(4)]
    tallies = {name: out[0].tallies[name] + out[1].tallies[name] for name in out[0].tallies}
    numbers, _ = model.end_epoch(tallies, training=False)
    mu = model.encode(batch.x)["mu"]
    assert numbers["active_units"] == float((mu.var(0, correction=0) > 0.01).sum())
    assert len(numbers["kl_per_dimension"]) == 4
    assert sum(numbers["kl_per_dimension"]) == pytest.approx(float(model.loss(batch, 0).terms["kl"].detach()), rel=1e-4)


def test_collapsed_posterior_is_warned_of():
    model, batch = build(latent_dim=8), patches()
    with torch.no_grad():
        model.network.mu.weight.zero_()
    numbers, warnings = model.end_epoch(model.loss(batch, 0).tallies, training=True)
    assert numbers["active_units"] == 0
    assert "0 of 8 latent dimensions" in warnings[0]
    assert "kl_warmup_steps" in warnings[0]
    assert not model.end_epoch(model.loss(batch, 0).tallies, training=False)[1]


class LinearGaussian(nn.Module):
    """p(z) = N(0, 1), p(x | z) = N(W z, 0.5^2) with orthogonal columns W: posterior and evidence are known."""

    def __init__(self, is_exact: bool):
        super().__init__()
        self.weight = torch.linalg.qr(torch.randn(32, 4))[0] * torch.tensor([0.5, 1.0, 2.0, 3.0])
        self.precision = 1 + self.weight.square().sum(0) / 0.25
        self.is_exact = is_exact

    def encode(self, x):
        """Posterior mean and standard deviation; both a little wrong unless exact."""
        mu = x.flatten(1) @ self.weight / 0.25 / self.precision
        std = self.precision.rsqrt().expand_as(mu)
        return (mu, std) if self.is_exact else (0.9 * mu, 1.2 * std)

    def decode(self, z):
        """Return the likelihood."""
        return Decoded((z @ self.weight.T).view(-1, 2, 4, 4), torch.full((len(z), 1, 1, 1), 0.5))

    def log_evidence(self, x):
        """Log-density of x with the latents integrated out."""
        covariance = self.weight @ self.weight.T + 0.25 * torch.eye(32)
        return torch.distributions.MultivariateNormal(torch.zeros(32), covariance).log_prob(x.flatten(1))


def test_log_likelihood_is_exact_where_the_posterior_is():
    model, x = build(), torch.randn(5, 2, 4, 4)
    model.network = LinearGaussian(is_exact=True)
    assert torch.allclose(model.log_likelihood(x, 2), model.network.log_evidence(x), atol=1e-3)


def test_log_likelihood_tightens_with_samples():
    model, x = build(), torch.randn(5, 2, 4, 4)
    model.network = LinearGaussian(is_exact=False)
    truth = float(model.network.log_evidence(x).mean())
    elbo, some, many = (float(model.log_likelihood(x, k, torch.Generator().manual_seed(0)).mean()) for k in (1, 20, 2000))
    assert elbo < some < truth + 0.1
    assert many == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("likelihood", ["bern", "gauss"])
def test_log_likelihood_of_one_sample_is_the_evidence_lower_bound(likelihood):
    model, x = build("vae", likelihood).eval(), patches(likelihood, num=2).x
    generator = torch.Generator().manual_seed(0)
    elbos = torch.stack([model.log_likelihood(x, 1, generator) for _ in range(100)])
    with torch.no_grad():
        mu, std = model.network.encode(x)
        draws = [model.nll(x, model.network.decode(mu + std * torch.randn_like(mu))) for _ in range(100)]
    bound = -(torch.stack(draws).mean(0) + losses.kl_to_standard_normal(mu, std).sum(1))
    assert torch.allclose(elbos.mean(0), bound, atol=6 * float(elbos.std(0).max()) / 10)


def test_log_likelihood_does_not_depend_on_how_memory_is_saved(monkeypatch):
    model, x = build(), patches().x
    whole = model.log_likelihood(x, 3, torch.Generator().manual_seed(0))
    monkeypatch.setattr("microlatent.models.autoencoder.MOST_PIXELS", x[0].numel() * 4)
    assert torch.allclose(model.log_likelihood(x, 3, torch.Generator().manual_seed(0)), whole, rtol=1e-5)


def test_channel_that_is_constant_at_first_is_not_blown_up_later():
    model, x = build("ae"), patches().x
    first = x.clone()
    first[:, 1] = 0
    model.loss(Batch(first), 0)
    assert torch.isfinite(model.reconstruct(x)).all()
    assert model.network.scale.min() >= 0.02 * model.network.scale.max()
