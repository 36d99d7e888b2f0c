"""What a model is worth: its loss terms on held-out patches, the numbers that runs are compared by, and their figures."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from microlatent import config, distributed
from microlatent.data.source import PatchSource
from microlatent.drawing import training as drawing
from microlatent.files import write_csv
from microlatent.progress import track
from microlatent.schemas import Settings, TrainerConfig
from microlatent.training_state import Position, Sums

logger = logging.getLogger(__name__)

Row = dict[str, float | list[float]]  # one epoch: scalars, and what has a value for every latent dimension


def batch_options(model: nn.Module, trainer: TrainerConfig) -> dict[str, bool]:
    """Return what the batches of a model must hold."""
    needs = getattr(model, "needs", set())
    return {"channels_last": trainer.channels_last, "relations": "relations" in needs, "masks": "mask" in needs}


def autocast_for(trainer: TrainerConfig, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=trainer.precision == "bf16")


@torch.no_grad()
def evaluate(settings: Settings, model: nn.Module, source: PatchSource, device: torch.device, part: str = "val") -> Row:
    """Mean loss terms over a part, in evaluation mode, without augmentation; empty if there is none."""
    trainer = settings.trainer
    plan = limited(source.plan(part, 0, trainer.batch_size, settings.seed), trainer)
    if not plan:
        return {}
    model.eval()
    sums = Sums()
    for rows in plan:
        batch = source.batch(rows, device, **batch_options(model, trainer))
        with autocast_for(trainer, device):
            sums.add(model.loss(batch, 0), len(batch.x), len(rows))
    health, _ = summarise(model, sums.tallies, training=False)
    return sums.means(part) | {f"{part}_{name}": value for name, value in health.items()}


def summarise(model: nn.Module, tallies: dict[str, Tensor], *, training: bool) -> tuple[Row, list[str]]:
    """Ask the model for its health (codes in use, active units) and for warnings, if it has any to give."""
    return model.end_epoch(tallies, training) if hasattr(model, "end_epoch") else ({}, [])


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
    """Return the term that chooses the best epoch: on the validation part, or on the training part where nothing is held out.

    Raises
    ------
    ValueError
        The model has no such term.
    """
    row = scalars(row)
    for key in (f"val_{name}", f"train_{name}"):
        if key in row:
            return row[key]
    terms = sorted({key.split("_", 1)[1] for key in row if key.startswith(("val_", "train_"))})
    if not terms:  # given weights (epochs=0) and nothing held out
        return math.nan
    raise ValueError(f"trainer.monitor={name} is no loss term of this model. {config.nearest(name, terms)}")


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def final_numbers(position: Position, monitor: str, parameters: int) -> dict[str, float]:
    """Numbers that runs are compared by: the best epoch's, and cost."""
    best = min(position.history, key=lambda row: monitored(row, monitor))
    kept = {f"best_{key}": value for key, value in scalars(best).items() if key.startswith(("val_", "train_"))}
    seconds = round(sum(row.get("seconds", 0.0) for row in position.history), 1)
    return {
        "best_epoch": best["epoch"],
        "best_score": monitored(best, monitor),
        "epochs": position.epoch,
        **kept,
        "parameters": parameters,
        "seconds": seconds,
    }


@torch.no_grad()
def explained_variance(
    settings: Settings, model: nn.Module, source: PatchSource, device: torch.device, part: str = "val"
) -> dict[str, float]:
    """Return the share of a part's variance that the reconstruction explains, a number that model families can be compared by.

    For each channel 1 - sum (x - x_hat)^2 / sum (x - mean)^2 over all pixels of all patches, where the mean is the part's own
    mean patch, pixel by pixel; then the mean over channels. 0 is what the mean patch explains, without any latents; 1 is
    perfect; a bad reconstruction is below 0. Pixels are in normalised units, but each channel's share is the same under every
    normalisation that scales and shifts a channel as a whole (``dataset``, ``gauss``, ``none``). Of zeros and ones
    (``bern``) it is a Brier skill score: of the probabilities against each pixel's frequency.

    A channel that is the same in all patches has no share and is left out; empty if there is none, if the part is empty, or if
    the model does not reconstruct.
    """
    plan = limited(source.plan(part, 0, settings.trainer.batch_size, settings.seed), settings.trainer)
    if not plan or not hasattr(model, "reconstruct"):
        return {}
    model.eval()
    shape = (len(source.channels), *source.shape_px)
    pixels, squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
    errors = torch.zeros(shape[0], dtype=torch.float64, device=device)
    for rows in plan:
        x = source.batch(rows, device).x
        x, error = x.double(), (x - model.reconstruct(x)).double()
        pixels += x.sum(0)
        squares += x.square().sum(0)
        errors += error.square().sum((0, 2, 3))
    pixels, squares, errors = (distributed.total(sums) for sums in (pixels, squares, errors))
    variance = (squares - pixels.square() / sum(map(len, plan))).sum((1, 2))
    varies = variance > 1e-12 * squares.sum((1, 2))  # below that, it is the rounding of the sums
    return {f"{part}_explained_variance": float((1 - errors / variance)[varies].mean())} if varies.any() else {}


@torch.no_grad()
def log_likelihood(settings: Settings, model: nn.Module, source: PatchSource, device: torch.device) -> dict[str, float]:
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
        sums += torch.stack([model.log_likelihood(x, k, random).double().sum().cpu() for k in (1, samples)])
    elbo, weighted = (sums / sum(map(len, plan))).tolist()
    return {"test_elbo": elbo, "test_log_likelihood": weighted}


def has_likelihood(model: nn.Module) -> bool:
    """Return whether a model has a posterior, and so a likelihood to estimate."""
    return getattr(model, "log_likelihood", None) is not None


def refuse_likelihood(model: nn.Module, source: PatchSource, settings: Settings) -> None:
    """Refuse ``trainer.likelihood_samples`` without test patches, before the model is trained; say where it has no effect."""
    if not settings.trainer.likelihood_samples:
        return
    if not has_likelihood(model):
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
def draw_epoch(model: nn.Module, source: PatchSource, out: Path, epoch: int, device: torch.device) -> Path:
    """Draw the held-out patch of most contrast beside its reconstruction, by channel; the same patch in every epoch."""
    contrast = source.moments.std[_shown(source)] / np.maximum(source.moments.std.mean(0), 1e-12)
    row = _shown(source)[[contrast.mean(1).argmax()]]
    x = source.batch(row, device, alone=True).x
    return drawing.reconstruction(
        x[0].cpu().numpy(),
        model.reconstruct(x)[0].cpu().numpy(),
        source.channels,
        f"Epoch {epoch}: {source.names().iloc[row[0]]}",
        _patch_pixel_um(source),
        out / "figures" / "epochs" / f"epoch{epoch:04d}.png",
    )


@torch.no_grad()
def leave_figures(
    settings: Settings, model: nn.Module, source: PatchSource, out: Path, tracker: Any, device: torch.device
) -> None:
    """Draw the learning curves, and held-out patches beside their reconstructions."""
    history, labels = pd.read_csv(out / "history.csv"), getattr(model, "labels", {})
    tracker.image("history", drawing.curves(history, labels, out / "figures" / "history.png"))
    if not hasattr(model, "reconstruct") or not settings.trainer.num_reconstructions:
        return
    rows = _shown(source)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, settings.trainer.num_reconstructions).astype(int))]
    x = source.batch(rows, device, alone=True).x
    path = drawing.reconstructions(
        x.cpu().numpy(),
        model.reconstruct(x).cpu().numpy(),
        source.channels,
        _patch_pixel_um(source),
        out / "figures" / "reconstructions.png",
    )
    tracker.image("reconstructions", path)


def _patch_pixel_um(source: PatchSource) -> float | None:
    """Return the size of a patch's pixel for scale bars; None where unknown or not the same in all stores."""
    sizes = {store.patch_pixel_um for store in source.stores}
    return sizes.pop() if len(sizes) == 1 else None


def _shown(source: PatchSource) -> np.ndarray:
    return source.rows["val"] if len(source.rows["val"]) else source.rows["train"]
