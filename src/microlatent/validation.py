"""What a model is worth: its loss terms on held-out samples, the numbers that runs are compared by, and their figures."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from microlatent import config, contract, distributed, metrics
from microlatent.contract import Batch, HasLikelihood, Model, Predicts, Reconstructs, Row, Source
from microlatent.drawing import training as drawing
from microlatent.files import write_csv
from microlatent.progress import track
from microlatent.schemas import Settings, TrainerConfig
from microlatent.training_state import Position, Sums

logger = logging.getLogger(__name__)


def batch_options(model: nn.Module, trainer: TrainerConfig) -> dict[str, Any]:
    """Return what the batches of a model must hold."""
    return {"channels_last": trainer.channels_last, "needs": contract.needs(model)}


def autocast_for(trainer: TrainerConfig, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=trainer.precision == "bf16")


@torch.no_grad()
def evaluate(
    settings: Settings, model: nn.Module, source: Source, device: torch.device, part: str = "val", *, final: bool = False
) -> Row:
    """Mean loss terms over a part, in evaluation mode, without augmentation; empty if there is none.

    With them come the metrics that are measured after every epoch or, at the end of training (``final``), all.
    """
    trainer = settings.trainer
    plan = limited(source.plan(part, 0, trainer.batch_size, settings.seed), trainer)
    if not plan:
        return {}
    model.eval()
    sums, able = Sums(), contract.capabilities(model)
    measured = [one for one in metrics.METRICS.values() if any(one.applies(able, when) for when in ("epoch", "end")[: 1 + final])]
    for rows in plan:
        batch = source.batch(rows, device, **batch_options(model, trainer))
        with autocast_for(trainer, device):
            losses = cast(Model, model).loss(batch, 0)
            values = {one.name: one.values(model, batch).float().mean() for one in measured}
        sums.add(losses._replace(terms=losses.terms | values), len(batch.x), len(rows))
    health, _ = contract.end_epoch(model, sums.tallies, training=False)
    return sums.means(part) | {f"{part}_{name}": value for name, value in health.items()}


def limited(plan: list[np.ndarray], trainer: TrainerConfig) -> list[np.ndarray]:
    """Leave at most ``trainer.max_batches`` batches of an epoch."""
    return plan[: trainer.max_batches] if trainer.max_batches else plan


# ------------------------------------------------------------------------------------------------- history, metrics


def scalars(row: Row) -> dict[str, float]:
    """Return the numbers of an epoch that are one number."""
    return {key: value for key, value in row.items() if not isinstance(value, list)}


def write_history(history: list[Row], out: Path) -> None:
    """Write ``history.csv``, and ``history_<name>.csv`` with a column for each latent dimension where a term has them."""
    write_csv(pd.DataFrame([scalars(row) for row in history]), out / "history.csv")
    for name in dict.fromkeys(key for row in history for key, value in row.items() if isinstance(value, list)):
        table = pd.DataFrame([row[name] for row in history if name in row])
        table.insert(0, "epoch", [row["epoch"] for row in history if name in row])
        write_csv(table, out / f"history_{name}.csv")


def monitored(row: Row, name: str) -> float:
    """Return the metric that chooses the best epoch: of the validation part, or of the training part where nothing is held out.

    Raises
    ------
    ValueError
        The model has no such metric.
    """
    row = scalars(row)
    for key in (f"val_{name}", f"train_{name}"):
        if key in row:
            return row[key]
    terms = sorted({key.split("_", 1)[1] for key in row if key.startswith(("val_", "train_"))})
    if not terms:  # given weights (epochs=0) and nothing held out
        return math.nan
    raise ValueError(f"trainer.monitor={name} is no loss term of this model. {config.nearest(name, terms)}")


def refuse_monitor(settings: Settings, model: nn.Module, source: Source, device: torch.device) -> None:
    """Refuse a ``trainer.monitor`` that the model does not have, before it is trained: one batch is evaluated, nothing changes.

    Raises
    ------
    ValueError
        The model has no such metric.
    """
    trainer = settings.trainer
    if trainer.monitor == "total":  # which every model has
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        brief = replace(settings, trainer=replace(trainer, max_batches=1))
        for part in ("val", "train"):
            if row := evaluate(brief, model, source, device, part):
                monitored(row, trainer.monitor)
                return


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def final_numbers(position: Position, monitor: str, parameters: int) -> dict[str, float]:
    """Numbers that runs are compared by: the best epoch's, and cost."""
    best = min(position.history, key=lambda row: metrics.sign(monitor) * monitored(row, monitor))
    kept = {f"best_{key}": value for key, value in scalars(best).items() if key.startswith(("val_", "train_"))}
    seconds = round(sum(row.get("seconds", 0.0) for row in position.history), 1)
    return {
        "best_epoch": best["epoch"],
        metrics.SCORE: monitored(best, monitor),
        "epochs": position.epoch,
        **kept,
        "parameters": parameters,
        "seconds": seconds,
    }


def held_out_numbers(settings: Settings, model: nn.Module, source: Source, device: torch.device) -> dict[str, float]:
    """Return what the final weights reach on the test part, and on both held-out parts what is measured at the end alone."""
    numbers = scalars(evaluate(settings, model, source, device, "test", final=True))
    late = {one.name for one in metrics.METRICS.values() if one.measure and one.when == "end"}
    if late:
        row = scalars(evaluate(settings, model, source, device, "val", final=True))
        numbers |= {key: value for key, value in row.items() if key.removeprefix("val_") in late}
    for part in ("val", "test"):
        numbers |= explained_variance(settings, model, source, device, part)
    return numbers


@torch.no_grad()
def explained_variance(
    settings: Settings, model: nn.Module, source: Source, device: torch.device, part: str = "val"
) -> dict[str, float]:
    """Return the share of a part's variance that the model explains, a number that model families can be compared by.

    For each channel 1 - sum (x - x_hat)^2 / sum (x - mean)^2 over all pixels of all samples, where the mean is the part's own
    mean sample, pixel by pixel; then the mean over channels. ``x`` is the input and ``x_hat`` its reconstruction, or the target
    and what was predicted, weighted as the data say. 0 is what the mean sample explains, without any latents; 1 is perfect; a
    bad reconstruction is below 0. Pixels are in normalised units, but each channel's share is the same under every
    normalisation that scales and shifts a channel as a whole (``dataset``, ``gauss``, ``none``). Of zeros and ones (``bern``)
    it is a Brier skill score: of the probabilities against each pixel's frequency.

    A channel that is the same in all samples has no share and is left out; empty if there is none, if the part is empty, or if
    the model neither reconstructs its input nor predicts the target.
    """
    plan = limited(source.plan(part, 0, settings.trainer.batch_size, settings.seed), settings.trainer)
    way = what_is_made(model, source)
    if not plan or not way:
        return {}
    model.eval()
    sums: list[Tensor] = []  # over samples, (K, *space): weights, values, their squares, squared errors
    for rows in plan:
        truth, made, weight = compared(model, source.batch(rows, device), way)
        weight = torch.ones_like(truth) if weight is None else weight.expand_as(truth)
        truth, error, weight = truth.double(), (truth - made).double(), weight.double()
        parts = [weight.sum(0), (weight * truth).sum(0), (weight * truth.square()).sum(0), (weight * error.square()).sum(0)]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    num, pixels, squares, errors = (distributed.total(one).flatten(1) for one in sums)
    errors, variance = errors.sum(1), (squares - pixels.square() / num.clamp(min=1e-12)).sum(1)
    varies = variance > 1e-12 * squares.sum(1)  # below that, it is the rounding of the sums
    return {f"{part}_explained_variance": float((1 - errors / variance)[varies].mean())} if varies.any() else {}


def what_is_made(model: nn.Module, source: Source) -> str:
    """Return how a model's output is compared with the data: ``predict``, ``reconstruct``, or "" where it makes no images."""
    ways = ("reconstruct",) if source.target_channels is None else ("predict", "reconstruct")
    return next((way for way in ways if not contract.lacking(model, [way])), "")


def compared(model: nn.Module, batch: Batch, way: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what a model should have made of a batch, what it made, and the weight of the difference."""
    if way == "predict":
        assert batch.y is not None
        return batch.y, cast(Predicts, model).predict(batch.x), batch.weight
    return batch.x, cast(Reconstructs, model).reconstruct(batch.x), None


@torch.no_grad()
def log_likelihood(settings: Settings, model: nn.Module, source: Source, device: torch.device) -> dict[str, float]:
    """Return the test patches' evidence lower bound and importance-weighted log-likelihood, nats per patch.

    Both are means over the test part of log (1/K sum of p(x, z) / q(z | x)) over draws z of the posterior, with K = 1 and
    K = ``trainer.likelihood_samples``. Source: Burda et al. 2016, arXiv:1509.00519, eq. 8.
    """
    samples = settings.trainer.likelihood_samples
    random, sums = torch.Generator(device).manual_seed(settings.seed), torch.zeros(2, dtype=torch.float64)
    model.eval()
    plan = limited(source.plan("test", 0, settings.trainer.batch_size, settings.seed), settings.trainer)
    for rows in track(plan, "Log-likelihood"):
        x = source.batch(rows, device, alone=True).x
        sums += torch.stack([cast(HasLikelihood, model).log_likelihood(x, k, random).double().sum().cpu() for k in (1, samples)])
    elbo, weighted = (sums / sum(map(len, plan))).tolist()
    return {"test_elbo": elbo, "test_log_likelihood": weighted}


def refuse_likelihood(model: nn.Module, source: Source, settings: Settings) -> None:
    """Refuse ``trainer.likelihood_samples`` without test patches, before the model is trained; say where it has no effect."""
    if not settings.trainer.likelihood_samples:
        return
    if contract.lacking(model, ["log_likelihood"]):
        logger.warning(
            "trainer.likelihood_samples=%d has no effect on model=%s, which has no posterior to draw from.",
            settings.trainer.likelihood_samples,
            settings.model.name,
        )
    elif not len(source.rows["test"]):
        raise ValueError(
            f"trainer.likelihood_samples={settings.trainer.likelihood_samples} is measured on test patches, but "
            "data.test_share=0 holds none out. Set data.test_share=0.1."
        )


# ---------------------------------------------------------------------------------------------------------- figures


@torch.no_grad()
def draw_epoch(model: nn.Module, source: Source, out: Path, epoch: int, device: torch.device) -> Path:
    """Draw a held-out sample beside what the model makes of it, by channel; the same sample in every epoch."""
    rows = source.examples(1)
    title = f"Epoch {epoch}: {source.names().iloc[rows[0]]}"
    return drawing.one_sample(_shown(model, source, rows, device), title, out / "figures" / "epochs" / f"epoch{epoch:04d}.png")


@torch.no_grad()
def leave_figures(settings: Settings, model: nn.Module, source: Source, out: Path, tracker: Any, device: torch.device) -> None:
    """Draw the learning curves, and held-out samples beside what the model makes of them."""
    history = pd.read_csv(out / "history.csv")
    tracker.image("history", drawing.curves(history, contract.labels(model), out / "figures" / "history.png"))
    way = what_is_made(model, source)
    if not way or not settings.trainer.num_reconstructions:
        return
    rows = source.examples(settings.trainer.num_reconstructions)
    name = "predictions" if way == "predict" else "reconstructions"
    tracker.image(name, drawing.samples(_shown(model, source, rows, device), out / "figures" / f"{name}.png"))


def _shown(model: nn.Module, source: Source, rows: np.ndarray, device: torch.device) -> drawing.Shown:
    """Return what is drawn of rows; of volumes the plane in the middle."""
    batch, way = source.batch(rows, device, alone=True), what_is_made(model, source)
    *pair, _ = compared(model, batch, way)
    planes = (one[:, :, one.shape[2] // 2] if one.ndim == 5 else one for one in (*pair, batch.x))
    truth, made, x = (one.float().cpu().numpy() for one in planes)
    if way == "reconstruct":
        return drawing.Shown(truth, made, source.channels, "reconstructed", source.pixel_um)
    return drawing.Shown(truth, made, source.target_channels or [], "predicted", source.pixel_um, x, source.channels)
