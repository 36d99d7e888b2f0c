"""The models of virtual staining: what an output pixel sees, any size, their objectives, and training by the loop."""

import logging
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from microlatent import checkpoint, config, contract, metrics, run, settling, training
from microlatent.command import carry_out
from microlatent.contract import Batch
from microlatent.device import set_layout
from microlatent.models.stain_next import StainNext
from microlatent.models.stain_unet import StainUNet
from microlatent.schemas import StainNextConfig, StainUNetConfig
from tests.conftest import composed
from tests.core.test_distributed import TORCHRUN

KINDS = {"stain_unet": (StainUNet, StainUNetConfig), "stain_next": (StainNext, StainNextConfig)}
SMALL = {"stain_unet": {"width": 4, "depth": 1}, "stain_next": {"width": 8, "depth": 1, "stem_px": 2}}
NAMES, DIMS = tuple(KINDS), ("2", "2.5", "3")


def build(name="stain_unet", dims="2", channels=1, targets=2, side_px=32, **settings):
    torch.manual_seed(0)
    kind, schema = KINDS[name]
    settings = {**SMALL[name], "planes": 1 if dims == "2" else 3, **settings}
    made = schema(name=name, dims=dims, **settings)
    shape = (side_px, side_px) if dims == "2" else (made.planes, side_px, side_px)
    return kind(made, channels, shape, targets)


def images(dims="2", channels=1, space=(32, 32), num=2):
    planes = () if dims == "2" else (3,)
    return torch.randn(num, channels, *planes, *space, generator=torch.Generator().manual_seed(1))


def settled(model):
    """Give the norms statistics of their own, as training would."""
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return model.eval()


# ------------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("space", [(32, 32), (33, 47), (2, 5)])
def test_prediction_has_the_size_of_the_frame_and_the_planes_that_the_settings_say(name, dims, space):
    model = build(name, dims, channels=2, targets=3).eval()
    planes = (3,) if dims == "3" else ()
    assert model.predict(images(dims, 2, space)).shape == (2, 3, *planes, *space)
    assert model.config.predicts_all_planes == (dims == "3")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dims", "norm"), [("2", "batch"), ("2.5", "layer"), ("3", "batch")])
def test_an_output_pixel_sees_its_receptive_field_to_the_border_and_nothing_beyond(name, dims, norm):
    model = settled(build(name, dims, norm=norm).double())
    halo, stride = model.receptive_field // 2, model.stride
    start = -(-halo // stride) * stride
    x = images(dims, space=(2 * start + stride, 2 * stride), num=4).double().requires_grad_()
    reached = []
    for offset in range(stride):
        y = start + offset
        made = getattr(model, model.head_name)(model.network(x))  # forward rounds to float32
        (gradient,) = torch.autograd.grad(made[..., y, 0].sum(), x)
        rows = torch.nonzero(gradient.abs().amax((*range(gradient.ndim - 2), -1)))[:, 0]
        reached += [y - int(rows.min()), int(rows.max()) - y]
    assert max(reached) == halo


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dims", "norm"), [("2", "layer"), ("2.5", "batch"), ("3", "batch")])
def test_tiles_at_multiples_of_the_stride_with_half_the_window_around_them_equal_the_frame(name, dims, norm):
    model = settled(build(name, dims, norm=norm))
    stride = model.stride
    halo = -(-(model.receptive_field // 2) // stride) * stride
    frame = images(dims, space=(3 * halo + 9, 2 * halo + 5))
    whole, tile = model.predict(frame), 2 * stride
    pieces = []
    for y in range(0, frame.shape[-2], tile):
        first = max(0, y - halo)
        pieces.append(model.predict(frame[..., first : y + tile + halo, :])[..., y - first : y - first + tile, :])
    assert (torch.cat(pieces, -2) - whole).abs().max() < 1e-5 * whole.std()


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_before_a_norm_have_no_bias_and_every_other_weight_moves(name):
    model = build(name, "2.5")
    before = {key: weight.clone() for key, weight in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    model.loss(Batch(images("2.5", num=4), torch.randn(4, 2, 32, 32)), 0).terms["total"].backward()
    optimiser.step()
    assert all((weight != before[key]).any() for key, weight in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", DIMS)
def test_memory_layout_changes_no_number(name, dims):
    model, x = settled(build(name, dims)), images(dims)
    plain = model.predict(x)
    set_layout(model, True)
    torch.testing.assert_close(model.predict(x), plain, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- objectives


def test_total_is_the_weighted_sum_of_the_terms_that_were_chosen():
    x, y, weight = images(side := "2"), torch.randn(2, 2, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()
    plain = build(dims=side, weight_foreground=2.0)
    terms = plain.loss(Batch(x, y, weight), 0).terms
    torch.testing.assert_close(terms["total"], terms["mse"] + 2 * terms["foreground_mse"])
    assert contract.needs(plain) == {"foreground"}
    mixed = build(dims=side, loss="l1_msssim", msssim_scales=2, weight_l1=0.25)
    terms = mixed.loss(Batch(x, y), 0).terms
    torch.testing.assert_close(terms["total"], 0.25 * terms["l1"] + 0.5 * terms["msssim"])
    with pytest.raises(ValueError, match=r"model\.weight_foreground=2\.0 needs to know where the foreground is"):
        plain.loss(Batch(x, y), 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", DIMS)
def test_hidden_squares_are_told_from_what_is_around_them_alone(name, dims):
    model = settled(build(name, dims, channels=2, objective="masked", mask_px=8))
    x = images(dims, 2)
    told = model.reconstruct(x)
    assert told.shape == x.shape
    other = x.clone()
    other[..., 8:16, 16:24] += 5  # one square
    changed = (model.reconstruct(other) - told).abs().amax((0, 1)).reshape(-1, 32, 32).amax(0) > 1e-6
    assert not changed[8:16, 16:24].any()
    assert changed.any()


def test_masked_loss_is_of_hidden_squares_alone_drawn_anew_in_training_and_the_same_in_evaluation():
    model = build(objective="masked", mask_px=8, mask_ratio=0.25)
    mask = model._hidden(images(), lambda num: torch.arange(num) < 4)
    assert mask.sum() == 4 * 64
    assert mask[0, 0, :8].all()  # the first four of a row of squares
    batch = Batch(images())
    for mode in (True, False):
        first, second = (model.train(mode).loss(batch, 0).terms["masked_mse"] for _ in range(2))
        assert (first != second) == mode


@pytest.mark.parametrize("name", NAMES)
def test_a_model_can_do_what_its_objective_has_taught_it(name):
    for objective, able in (("translate", {"predict"}), ("masked", {"reconstruct"})):
        assert contract.capabilities(build(name, objective=objective)) == able
        assert contract.capabilities(KINDS[name][0], {"objective": objective}) == able


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_encoder_keeps_its_weights_and_the_statistics_of_its_norms(name):
    model = build(name, norm="batch", freeze="encoder").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = training.make_optimiser(model, config.build("trainer", {"name": "cpu", "weight_decay": 0.1}))
    model.loss(Batch(images(num=4), torch.randn(4, 2, 32, 32)), 0).terms["total"].backward()
    optimiser.step()
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"decoder", "head"}
    assert len(optimiser.state) == sum(not key.startswith("encoder") for key, _ in model.named_parameters())


# ----------------------------------------------------------------------------------------------------------- refusals


def test_bad_settings_say_what_works():
    for settings, message in (
        ({"dims": "2", "planes": 3}, r"model\.planes is 3, but model\.dims=2 is of one plane"),
        ({"dims": "2.5", "planes": 4}, r"model\.planes is 4, but model\.dims=2\.5 needs an odd number"),
        ({"freeze": "encoder", "objective": "masked"}, r"model\.freeze=encoder keeps what model\.objective=masked is to train"),
        ({"freeze": "head"}, r"model\.freeze is 'head', .* Allowed: encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            StainUNetConfig(name="stain_unet", **settings)
    made = StainUNetConfig(name="stain_unet", dims="2.5", planes=5)
    with pytest.raises(ValueError, match=r"samples are 3 x 8 x 8, but .* takes 5 planes of Y x X px"):
        StainUNet(made, 1, (3, 8, 8), 2)


def test_freezing_what_was_not_given_is_refused_before_the_data_are_read(compose):
    with pytest.raises(ValueError, match=r"model\.freeze=encoder keeps what init_from gives, but nothing is given"):
        compose("train", "model=stain_unet", "data.root=demo", "model.freeze=encoder")


# ---------------------------------------------------------------------------------------------------------- the loop

PLUGIN = "plugins=[tests.models.stacks]"
OPTIONS = (PLUGIN, "logger=csv", "name=stain", "trainer.batch_size=8", "trainer.epochs=1", "trainer.lr=0.01")


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """Load the plugin in this process, and forget it afterwards."""
    before = {id(known): (known, dict(known)) for known in (metrics.METRICS, config.REGISTRY["model"], config.REGISTRY["data"])}
    config.load_plugins(["tests.models.stacks"])
    yield
    for known, values in before.values():
        known.clear()
        known.update(values)
    del sys.modules["tests.models.stacks"]


@pytest.fixture
def fit(tmp_path, without_figures):
    """Return a function that trains a small model in this process and returns the run folder."""

    def fitted(name: str, *overrides: str, data: str = "toy_stacks", dims: str = "2.5"):
        small = [f"model.{key}={value}" for key, value in SMALL[name].items()]
        chosen = (
            f"data={data}",
            f"model={name}",
            f"model.dims={dims}",
            f"model.planes={1 if dims == '2' else 3}",
            *small,
            f"outputs={tmp_path / 'outputs'}",
        )
        typed = [*OPTIONS, *chosen, *overrides]
        return carry_out(composed("train", *typed), typed)[1]

    return fitted


def numbers(folder):
    return pd.read_csv(folder / "summary.csv", index_col="metric")["value"]


def weights(folder):
    return checkpoint.load(folder / "checkpoints" / "last.ckpt")["model"]


@pytest.mark.parametrize(
    ("name", "dims"), [("stain_unet", "2.5"), pytest.param("stain_unet", "3", marks=pytest.mark.slow), ("stain_next", "3")]
)
def test_the_target_is_learnt_and_the_correlation_with_it_chooses_the_best_epoch(fit, name, dims):
    folder = fit(name, "trainer.monitor=pearson", "trainer.epochs=12", dims=dims)
    history = pd.read_csv(folder / "history.csv")
    assert history["val_mse"].iloc[-1] < 0.8 * history["val_mse"].iloc[0]
    assert numbers(folder)["best_score"] == pytest.approx(history["val_pearson"].max())
    assert history["val_pearson"].max() > 0.4
    each = pd.read_csv(folder / "history_val_pearson_per_target.csv")
    np.testing.assert_allclose(each.iloc[:, 1:].mean(1), history["val_pearson"])
    assert numbers(folder)["val_explained_variance"] > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_fine_tuning_takes_the_encoder_of_a_masked_run_without_targets_and_the_log_says_what_it_took(fit, name, caplog):
    masked = fit(name, "model.objective=masked", "model.mask_px=8", "model.norm=batch", data="toy_unstained")
    assert "val_masked_mse" in pd.read_csv(masked / "history.csv")
    assert "val_explained_variance" in numbers(masked).index
    caplog.set_level(logging.INFO)
    tuned = fit(name, f"init_from={masked}", "model.freeze=encoder", "model.norm=batch", "trainer.epochs=2")
    one, other = weights(masked), weights(tuned)
    assert all(torch.equal(value, other[key]) for key, value in one.items() if key.startswith("encoder"))
    assert any(not torch.equal(value, other[key]) for key, value in one.items() if key.startswith("decoder"))
    assert "encoder.0 (" in caplog.text
    assert "absent there, so it starts at random: head." in caplog.text
    assert "not taken, because this model has no such tensor: source_head." in caplog.text


def test_weights_that_do_not_fit_are_told_apart_and_what_is_frozen_must_fit(fit, caplog):
    first = fit("stain_unet", dims="2")
    caplog.set_level(logging.INFO)
    fit("stain_unet", f"init_from={first}")
    assert "of another shape, so it starts at random: encoder.0.0.weight ((4, 1, 3, 3) there, (4, 3, 3, 3) here)." in caplog.text
    with pytest.raises(ValueError, match=r"init_from=.* does not fit what model\.freeze keeps: encoder\.0\.0\.weight"):
        fit("stain_unet", f"init_from={first}", "model.freeze=encoder")
    with pytest.raises(ValueError, match=r"init_from=.* does not fit this model: .* is \("):
        fit("stain_unet", f"init_from={first}", dims="3")


@pytest.mark.parametrize(("name", "is_tuned"), [("stain_unet", False), ("stain_next", True)])
def test_a_run_goes_on_bit_for_bit_with_masks_drawn_or_an_encoder_frozen(fit, name, is_tuned):
    options = ["model.freeze=encoder", f"init_from={fit(name)}"] if is_tuned else ["model.objective=masked"]
    whole, half = fit(name, *options, "trainer.epochs=2"), fit(name, *options)
    settings = settling.settle({**run.read_config(half), "resume": str(half)}, "train")
    settings.trainer.epochs = 2
    other = weights(carry_out(settings, [], resumed=half)[1])
    assert all(torch.equal(value, other[key]) for key, value in weights(whole).items())


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("stain_unet", "3"),
        *(pytest.param(*which, marks=pytest.mark.slow) for which in (("stain_unet", "2"), ("stain_next", "3"))),
    ],
)
def test_half_precision_and_layout_change_little_and_pieces_of_a_batch_nothing(fit, name, dims):
    norm = "model.norm=layer"  # statistics of a piece would not be those of the batch
    plain, pieces, fast = (
        pd.read_csv(fit(name, norm, *options, dims=dims) / "history.csv")[["train_mse", "val_mse"]]
        for options in (
            [],
            ["trainer.accumulate=2", "data.augment=false"],
            ["trainer.precision=bf16", "trainer.channels_last=true"],
        )
    )
    np.testing.assert_allclose(fast, plain, rtol=0.05)
    whole = pd.read_csv(fit(name, norm, "data.augment=false", dims=dims) / "history.csv")[["train_mse", "val_mse"]]
    np.testing.assert_allclose(pieces, whole, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dims", "norm"), [("stain_unet", "2.5", "batch"), ("stain_unet", "3", "batch"), ("stain_next", "3", "layer")]
)
def test_two_processes_equal_one(command, name, dims, norm):
    small = [f"model.{key}={value}" for key, value in SMALL[name].items()]
    options = [*OPTIONS, "data=toy_stacks", f"model={name}", f"model.dims={dims}", "model.planes=3", f"model.norm={norm}", *small]
    options += ["trainer.batch_size=10", "trainer.epochs=2"]
    command("train", *options, "name=one")
    command("train", *options, "name=two", launcher=TORCHRUN, OMP_NUM_THREADS="1")
    one, two = (pd.read_csv(next(command.folder.glob(f"outputs/{which}/*/history.csv"))) for which in ("one", "two"))
    terms = ["train_mse", "val_mse", "val_pearson"]
    np.testing.assert_allclose(one[terms], two[terms], rtol=1e-3)  # rounding, after some steps of Adam
