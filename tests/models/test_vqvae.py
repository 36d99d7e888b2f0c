"""The vector-quantised autoencoder: the reference's numbers, and properties that any patches must show."""

import socket
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.reference import BroadcastQuantiser, ReferenceVQVAE, Residual, process_one_by_one
from microlatent.contract import Batch
from microlatent.models.phases import from_blocks, to_blocks
from microlatent.models.quantiser import nearest
from microlatent.models.vqvae import VQVAE
from microlatent.schemas import VQVAEConfig

TERMS = {
    "total": "total_loss",
    "recon": "recon_loss",
    "commitment": "commitment_loss",
    "matching": "time_matching_loss",
    "perplexity": "perplexity",
}
CFG100 = {"weight_matching": 100.0, "matching_adjacent": 1.0, "matching_track": 0.5, "matching_margin": 1.0}
# golden case, settings of the model
CASES = [
    ("z16/train/plain", {}),
    ("z16/train/time", {}),
    ("z16/train/mask", {}),
    ("z16/train/time_mask", {}),
    ("z16/train/time_cfg100", CFG100),
    ("z16/train/channel_var", {"channel_var": True}),
    ("z16/eval", {}),
    ("old/train/plain", {"matching": "sum"}),
    ("old/train/time", {"matching": "sum"}),
    ("old/train/time_mask", {"matching": "sum"}),
]
WITH_GRADIENTS = ["z16/train/time", "z16/train/time_mask", "old/train/time"]


@pytest.fixture(scope="module")
def golden(golden_folder):
    with np.load(golden_folder / "golden_vqvae.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "meta"}


def build(name="vqvae_z16", channels=2, patch_px=128, **settings) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(VQVAEConfig(name=name, **settings), channels, (patch_px, patch_px))


def golden_model(golden, case="z16/train/plain", settings=None) -> VQVAE:
    settings = dict(settings or {})
    variance = golden[f"{case}/channel_var"].float() if settings.pop("channel_var", False) else None
    model = build(**settings)
    model.load_state_dict({key[7:]: value for key, value in golden.items() if key.startswith("z16/sd/")})
    if variance is not None:
        model.channel_var.data = variance.view(1, -1, 1, 1)
    return model.train("eval" not in case)


def golden_batch(golden, case) -> Batch:
    relations = golden["relation_codes"].to(torch.int8) if "time" in case or "eval" in case else None
    return Batch(golden["x"], relations=relations, weight=golden["batch_mask"] if "mask" in case else None)


def some_batch(num=6, channels=2, patch_px=32) -> Batch:
    torch.manual_seed(1)
    track = torch.arange(num) // 3
    relations = (track[:, None] == track).to(torch.int8) + torch.eye(num, dtype=torch.int8)
    return Batch(torch.randn(num, channels, patch_px, patch_px), relations=relations)


def test_references_weights_load_strictly(golden_folder):
    weights = torch.load(golden_folder / "wells/weights/golden_z16/model.pt", weights_only=True)
    model = build()
    model.load_state_dict(weights, strict=True)
    assert list(model.state_dict()) == list(weights)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_latents_codes_and_reconstruction_equal_the_references(golden, mode):
    model = golden_model(golden, f"z16/{mode}")
    out = model(golden["x"])
    recon = golden["z16/eval/recon" if mode == "eval" else "z16/train/plain/recon"]
    assert torch.allclose(
        out.z, golden[f"z16/{mode}/z_before"], rtol=1e-5, atol=2e-5
    )  # theirs is 1e-5 off double precision, ours 7e-6
    assert torch.equal(out.codes, golden[f"z16/{mode}/indices"])
    assert torch.allclose(out.z_after, golden[f"z16/{mode}/z_after"], atol=1e-5)
    assert torch.allclose(from_blocks(model.head(out.features)), recon, atol=1e-5)


@pytest.mark.parametrize(("case", "settings"), CASES)
def test_loss_terms_equal_the_references(golden, case, settings):
    terms = golden_model(golden, case, settings).loss(golden_batch(golden, case), 0).terms
    for ours, theirs in TERMS.items():
        assert float(terms[ours].detach()) == pytest.approx(float(golden[f"{case}/{theirs}"]), rel=1e-5), ours


@pytest.mark.parametrize("case", WITH_GRADIENTS)
def test_gradients_equal_the_references(golden, case):
    model = golden_model(golden, case, dict(CASES)[case])
    model.loss(golden_batch(golden, case), 0).terms["total"].backward()
    for name, parameter in model.named_parameters():
        theirs = golden.get(f"{case}/grad/{name}")
        if theirs is not None and parameter.requires_grad:
            assert (parameter.grad - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-6, name
        elif theirs is not None:  # a bias before batch normalisation, which we leave alone: rounding noise there
            assert theirs.abs().max() < 1e-5, name


@pytest.mark.parametrize("case", WITH_GRADIENTS[:2])
def test_weights_after_one_adam_step_equal_the_references(golden, case):
    model = golden_model(golden, case)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.loss(golden_batch(golden, case), 0).terms["total"].backward()
    optimiser.step()
    for name, ours in model.state_dict().items():
        gradient = golden.get(f"{case}/grad/{name}", torch.ones_like(ours))
        # Adam divides a gradient by its own size, so one that is rounding noise moves its weight by any amount.
        counts = gradient.abs() > 1e-5
        assert torch.allclose(ours[counts].float(), golden[f"{case}/sd_after_adam_lr1e-3/{name}"][counts].float(), atol=1e-4), (
            name
        )


def test_instance_latents_equal_the_references_inference(golden):
    latents = golden_model(golden).encode(golden["x"], norm="instance")
    assert torch.allclose(latents["before"], golden["z16/process_style/latent_space"], rtol=1e-5, atol=2e-5)
    assert torch.allclose(latents["after"], golden["z16/process_style/latent_space_after"], atol=1e-5)


@pytest.mark.parametrize("norm", ["eval", "instance"])
@pytest.mark.parametrize("training", [True, False])
def test_encoding_is_deterministic_and_leaves_the_model_alone(norm, training):
    model, x = build(patch_px=32).train(training), some_batch().x
    before = deepcopy(model.state_dict())
    assert torch.equal(model.encode(x, norm)["before"], model.encode(x, norm)["before"])
    assert model.training is training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("norm", ["eval", "instance"])
def test_a_patch_is_encoded_alike_in_any_company(norm):
    model, x = build(patch_px=32), some_batch().x
    assert torch.allclose(model.encode(x, norm)["before"][2:3], model.encode(x[2:3], norm)["before"], atol=1e-5)


def test_instance_encoding_equals_the_reference_network_in_training_mode_one_patch_at_a_time():
    theirs, x = ReferenceVQVAE(), some_batch().x
    ours = build(patch_px=32)
    ours.load_state_dict(theirs.state_dict())
    before, after = process_one_by_one(theirs, x)
    latents = ours.encode(x, "instance")
    assert np.allclose(latents["before"], before, atol=1e-4)
    assert np.allclose(latents["after"], after, atol=1e-5)


@pytest.mark.parametrize("name", ["vqvae_z16", "vqvae_z32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_channels_trains(name, channels):
    model, batch = build(name, channels, 32), some_batch(channels=channels)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    recon = []
    for step in range(12):
        optimiser.zero_grad()
        terms = model.loss(batch, step).terms
        terms["total"].backward()
        optimiser.step()
        recon.append(float(terms["recon"].detach()))
    assert recon[-1] < recon[0]
    assert model.reconstruct(batch.x).shape == batch.x.shape


def test_loss_equals_the_reference_network_on_other_sizes_and_channels():
    torch.manual_seed(3)
    theirs, batch = ReferenceVQVAE(channels=3), some_batch(channels=3, patch_px=40)
    ours = build(channels=3, patch_px=40)
    ours.load_state_dict(theirs.state_dict())
    _, terms = theirs(batch.x, batch.relations)
    for name, value in ours.loss(batch, 0).terms.items():
        assert float(value.detach()) == pytest.approx(float(terms[name].detach()), rel=1e-5), name


def test_z32_has_the_references_size_and_grid():
    model = build("vqvae_z32")
    assert sum(p.numel() for p in model.parameters()) == 26_788
    assert model.encode(torch.randn(1, 2, 128, 128))["after"].shape == (1, 16 * 32 * 32)


@pytest.mark.parametrize("training", [True, False])
def test_z32_equals_its_layers_applied_one_by_one(training):
    ours, x = build("vqvae_z32", channels=3, patch_px=32).train(training), some_batch(channels=3).x
    enc = [
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, 2, 1),
        nn.BatchNorm2d(16),
        Residual(16, 32, 2),
    ]
    dec = [
        Residual(16, 32, 2),
        nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
    ]
    plain = nn.ModuleDict({"enc": nn.Sequential(*enc), "vq": BroadcastQuantiser(64, 16), "dec": nn.Sequential(*dec)})
    weights = {key: value for key, value in ours.state_dict().items() if key != "channel_var"}
    plain.load_state_dict(weights, strict=True)
    plain.train(training)
    z = plain["enc"](x)
    x_hat = plain["dec"](plain["vq"](z)[0])
    out = ours(x)
    assert torch.allclose(out.z, z, atol=1e-4)
    assert torch.allclose(from_blocks(ours.head(out.features)), x_hat, atol=1e-4)


def test_z32_matches_latents_after_the_quantiser():
    model, batch = build("vqvae_z32", patch_px=32), some_batch()
    z = model.eval().encode(batch.x)["after"]
    similarity = (z[:, None] - z[None]).square().mean(-1)
    expected = torch.where(batch.relations == 2, 1.1, torch.where(batch.relations == 1, 0.1, -0.5)) * similarity
    expected = torch.where(batch.relations == 0, (expected + 0.5).clamp_min(0), expected).mean()
    assert float(model.loss(batch, 0).terms["matching"].detach()) == pytest.approx(float(expected), rel=1e-4)


def test_terms_do_not_depend_on_repetition_of_the_batch():
    model, batch = build(patch_px=32).eval(), some_batch()
    once = model.loss(batch, 0).terms
    twice = model.loss(Batch(batch.x.repeat(2, 1, 1, 1), relations=batch.relations.repeat(2, 2)), 0).terms
    for name in once:
        assert float(twice[name].detach()) == pytest.approx(float(once[name].detach()), rel=1e-4), name


def test_matching_is_zero_without_relations():
    batch = some_batch()._replace(relations=None)
    assert float(build(patch_px=32).loss(batch, 0).terms["matching"].detach()) == 0


def test_pixels_outside_the_mask_count_a_quarter():
    model, batch = build(patch_px=32).eval(), some_batch()
    half = batch._replace(weight=torch.full((6, 1, 32, 32), 0.5))
    whole, quarter = (float(model.loss(b, 0).terms["recon"].detach()) for b in (batch, half))
    assert quarter == pytest.approx(whole / 4, rel=1e-5)


def test_blocks_hold_each_pixel_once_and_zeros_around():
    x = torch.randn(2, 3, 8, 12)
    blocks = to_blocks(x)
    assert torch.equal(from_blocks(blocks), x)
    assert float(blocks.sum()) == pytest.approx(float(x.sum()), rel=1e-4)


@pytest.mark.parametrize(("name", "patch_px", "remedy"), [("vqvae_z16", 100, "patch_px=96"), ("vqvae_z32", 50, "patch_px=48")])
def test_a_size_that_does_not_divide_is_refused_with_a_remedy(name, patch_px, remedy):
    with pytest.raises(ValueError, match=f"{patch_px} pixels.*task.{remedy}"):
        build(name, patch_px=patch_px)


def test_channel_variances_must_match_the_channels():
    with pytest.raises(ValueError, match=r"channel_var has 3 values.*2 channels"):
        build(channel_var=[1.0, 1.0, 1.0])


def test_bf16_latents_are_near_those_of_fp32():
    model, x = build(patch_px=32), some_batch().x
    exact = model.encode(x)["before"]
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model.encode(x)["before"]
        model.loss(some_batch(), 0).terms["total"].backward()
    assert coarse.dtype == torch.float32
    assert (coarse - exact).norm() < 0.05 * exact.norm()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_nearest_code_is_the_first_of_the_smallest():
    distance = torch.randn(500, 64).round(decimals=1)  # with ties
    assert torch.equal(nearest(distance.clone()), torch.from_numpy(distance.numpy().argmin(1)))


def test_few_codes_in_use_warn_with_the_remedy():
    counts = torch.zeros(64, dtype=torch.long).index_fill_(0, torch.arange(8), 100)
    columns, warnings = build(patch_px=32).end_epoch({"codes": counts}, training=True)
    assert columns["codes_used"] == 8
    assert columns["perplexity"] == pytest.approx(8, rel=1e-4)
    assert "only 8 of 64 codes" in warnings[0]
    assert "model.revive_dead_codes=true" in warnings[0]


def test_dead_codes_are_revived_by_encoder_outputs():
    model = build(patch_px=32, revive_dead_codes=True)
    with torch.no_grad():
        model.vq.w.weight[5:] = 1e3  # nothing is near
    tallies = model.loss(some_batch(), 0).tallies
    dead = tallies["codes"] == 0
    z = model(some_batch().x).z.permute(0, 2, 3, 1).flatten(0, 2)
    model.end_epoch(tallies, training=True)
    assert int(dead.sum()) >= 59
    assert all(torch.isclose(z, code, atol=1e-5).all(1).any() for code in model.vq.w.weight[dead])
    assert int((model.loss(some_batch(), 0).tallies["codes"] > 0).sum()) > 5


def test_revival_resumes_from_the_state_and_still_loads_the_references_weights():
    model, resumed, reference = (build(patch_px=32, revive_dead_codes=True) for _ in range(3))
    tallies = model.loss(some_batch(), 0).tallies
    resumed.load_state_dict(model.state_dict())
    model.end_epoch(tallies, training=True)
    resumed.end_epoch(tallies, training=True)
    assert torch.equal(model.vq.w.weight, resumed.vq.w.weight)
    reference.load_state_dict(build(patch_px=32).state_dict(), strict=True)


def share_of_two(rank: int, port: int, folder: str) -> None:
    """Compute the loss and gradients of half of a batch, as one of two processes."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, batch = build(patch_px=32), some_batch()
    half = slice(3 * rank, 3 * rank + 3)
    terms = model.loss(Batch(batch.x[half], relations=batch.relations), 0).terms
    terms["total"].backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    numbers = torch.stack([terms[name].detach() for name in ("total", "recon", "commitment", "matching")])
    both = torch.cat([numbers, grads])
    torch.distributed.all_reduce(both)
    if rank == 0:
        torch.save((both / 2, model.enc[2].running_var), f"{folder}/both.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(share_of_two, (port, str(tmp_path)), nprocs=2)
    both, variance = torch.load(tmp_path / "both.pt", weights_only=True)
    model = build(patch_px=32)
    terms = model.loss(some_batch(), 0).terms
    terms["total"].backward()
    numbers = torch.stack([terms[name].detach() for name in ("total", "recon", "commitment", "matching")])
    grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    assert torch.allclose(both[:4], numbers, rtol=1e-5)
    assert (both[4:] - grads).abs().max() <= 1e-4 * grads.abs().max()
    assert torch.allclose(variance, model.enc[2].running_var, rtol=1e-5)
