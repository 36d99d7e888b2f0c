"""Fit a model: the loop, in the order set lr, load, step, evaluate, checkpoint, log, stop.

``run`` brings data and model together; ``fit`` is the loop. What both know of data and model stands in ``contract.py``: batches
of inputs and targets, and a loss. A batch is ``trainer.batch_size`` samples over all processes. Every
random draw is a function of the seed and of the position (epoch, step), or of a generator whose state is in the checkpoint, so
a resumed run continues bit for bit on CPU.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from microlatent import checkpoint, config, contract, distributed, metrics, validation
from microlatent.contract import Batch, Model, Source
from microlatent.data.folders import resolved
from microlatent.data.split import PARTS
from microlatent.device import choose_device, set_layout
from microlatent.experiment import build_model, open_data, refuse_changed_data, run_provenance
from microlatent.files import write_csv
from microlatent.losses import Losses
from microlatent.progress import track
from microlatent.results import Preflight
from microlatent.run import RunFolder, find
from microlatent.schemas import Settings, TrainerConfig
from microlatent.signals import Interrupted, StopSignals
from microlatent.sweeps import pruning
from microlatent.training_state import FiniteGuard, Position, Sums, restore, save

logger = logging.getLogger(__name__)


class Objective(nn.Module):
    """A model whose forward pass is its loss: what several processes and compilation wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, step: int) -> Losses:
        """Return the model's loss terms."""
        return cast(Model, self.model).loss(batch, step)


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Open the data, build or restore the model, fit it, and leave the figures and the final numbers."""
    trainer: TrainerConfig = settings.trainer
    device = choose_device(trainer.device)
    _seed(settings.seed, device)
    saved = checkpoint.load(out / "checkpoints" / "last.ckpt") if settings.resume else None
    source, settings = open_data(settings), resolved(settings)
    if saved:
        refuse_changed_data(saved, source)
    model = build_model(settings, source).to(device)
    validation.refuse_likelihood(model, source, settings)
    validation.refuse_monitor(settings, model, source, device)
    if settings.init_from and not saved:
        path = Path(settings.init_from)
        path = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
        checkpoint.start_from(model, checkpoint.load_weights(path), f"init_from={settings.init_from}")
    if device.type == "cuda" and trainer.resident and source.nbytes < 0.6 * torch.cuda.mem_get_info(device)[0]:
        source.make_resident(device)
    if distributed.rank() == 0:
        assert source.split is not None
        source.split.write(out / "split.csv")
    provenance = run_provenance(settings, source)
    if distributed.rank() == 0:
        RunFolder(out).describe(config.plain(settings) | {"resume": None}, provenance)
    parameters = validation.num_parameters(model)
    parts = ", ".join(f"{len(source.rows[part])} {part}" for part in PARTS if len(source.rows[part]))
    logger.info("%s: %d parameters; patches: %s; channels: %s", settings.model.name, parameters, parts, source.channels)
    position = fit(settings, model, source, out, tracker, saved, provenance, device)
    numbers = validation.final_numbers(position, trainer.monitor, parameters)
    distributed.share(None)  # the best checkpoint is written
    checkpoint.load_state(model, checkpoint.load(out / "checkpoints" / "best.ckpt", device)["model"], "best.ckpt")
    numbers |= validation.held_out_numbers(settings, model, source, device)
    if distributed.rank() == 0:
        if trainer.likelihood_samples and not contract.lacking(model, ["log_likelihood"]):
            numbers |= validation.log_likelihood(settings, model, source, device)
        write_csv(pd.DataFrame(numbers.items(), columns=["metric", "value"]), out / "summary.csv")
        validation.leave_figures(settings, model.eval(), source, out, tracker, device)
        tracker.artifact("checkpoint", "model", out / "checkpoints" / "best.ckpt")
    return numbers


def fit(
    settings: Settings,
    model: nn.Module,
    source: Source,
    out: Path,
    tracker: Any,
    saved: dict | None,
    provenance: dict,
    device: torch.device,
) -> Position:
    """Run the loop from the beginning or from a checkpoint to the last epoch; return where it ended."""
    trainer, options = settings.trainer, validation.batch_options(model, settings.trainer)
    set_layout(model, trainer.channels_last)
    optimiser = make_optimiser(model, trainer)
    position, sums = restore(saved, model, optimiser, device) if saved else (Position(), Sums())
    objective: nn.Module = Objective(distributed.with_global_batch_norm(model))
    if distributed.world_size() > 1:
        objective = nn.parallel.DistributedDataParallel(objective, broadcast_buffers=False)
    if trainer.compile:
        objective = cast(nn.Module, torch.compile(objective))
    autocast = validation.autocast_for(trainer, device)
    train_batches = len(validation.limited(source.plan("train", 0, trainer.batch_size, settings.seed), trainer))
    guard = FiniteGuard(source.names().to_numpy(), device)
    trial = pruning.trial_of(out, trainer.monitor) if distributed.world_size() == 1 else None

    if trainer.epochs == 0 and not position.history:  # a run of given weights, so that all that stands on runs works with them
        position.history.append({"epoch": 0, "step": 0, **validation.evaluate(settings, model, source, device)})
        save([out / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")], model, optimiser, position, sums, provenance)
        validation.write_history(position.history, out)
        return position

    with StopSignals() as stop:
        for epoch in range(position.epoch, trainer.epochs):
            if trainer.patience and position.since_best >= trainer.patience:  # asked here, so that a run that goes on stops too
                logger.info("No improvement for %d epochs: stopped after epoch %d.", trainer.patience, position.epoch)
                break
            model.train()
            started = time.perf_counter() - position.seconds
            plan = validation.limited(source.plan("train", epoch, trainer.batch_size, settings.seed), trainer)
            for rows in track(plan[position.batch :], f"Epoch {epoch + 1}/{trainer.epochs}"):
                # lr
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(trainer, position.step, trainer.epochs * train_batches)

                # load and step
                optimiser.zero_grad(set_to_none=True)
                pieces = np.array_split(rows, max(1, min(trainer.accumulate, len(rows) // distributed.world_size())))
                for number, piece in enumerate(pieces):
                    seed = (settings.seed, position.step, number) if source.augment else None
                    batch = source.batch(piece, device, augment_seed=seed, **options)
                    with autocast:
                        losses = objective(batch, position.step)
                    share = len(batch.x) * distributed.world_size() / len(rows)  # processes are averaged: undo unequal parts
                    (losses.terms["total"] * share).backward()
                    sums.add(losses, len(batch.x), len(piece))
                guard.check(sums, optimiser, position, rows)
                if trainer.clip_norm:
                    nn.utils.clip_grad_norm_(model.parameters(), trainer.clip_norm)
                optimiser.step()
                position.step += 1
                position.batch += 1

                # stop when asked
                if number := stop.obey(position.step):
                    guard.look(sums.names, epoch)
                    position.seconds = time.perf_counter() - started
                    save([out / "checkpoints" / "last.ckpt"], model, optimiser, position, sums, provenance)
                    raise Interrupted(number)

            guard.look(sums.names, epoch)

            # evaluate; a run that goes on after the last batch of an epoch begins here, so all comes from what a checkpoint holds
            lr = optimiser.param_groups[0]["lr"]
            row = {"epoch": epoch + 1, "step": position.step, "lr": lr, **sums.means("train")}
            health, warnings = contract.end_epoch(model, sums.tallies, training=True)
            row |= {f"train_{name}": value for name, value in health.items()}
            row |= validation.evaluate(settings, model, source, device)
            seconds = time.perf_counter() - started
            row |= {"seconds": round(seconds, 3), "patches_per_s": round(sums.patches / seconds, 1)}
            score = validation.monitored(row, trainer.monitor)
            if not math.isfinite(score):
                raise ValueError(
                    f"{trainer.monitor} of epoch {epoch + 1} is {score} on the validation samples. Lower trainer.lr, or look at "
                    "those samples."
                )
            cost = metrics.sign(trainer.monitor) * score
            improved, position.best = cost < position.best, min(cost, position.best)
            position.since_best = 0 if improved else position.since_best + 1
            position.history.append(row)
            position.epoch, position.batch, position.seconds, sums = epoch + 1, 0, 0.0, Sums()

            # checkpoint, log
            if distributed.rank() == 0:
                folder = out / "checkpoints"
                kept = [folder / "best.ckpt"] * improved
                if trainer.checkpoint_every and position.epoch % trainer.checkpoint_every == 0:
                    kept.append(folder / f"epoch{position.epoch:04d}.ckpt")
                # last.ckpt is named last, because a run goes on from it and must find the others written.
                save([*kept, folder / "last.ckpt"], model, optimiser, position, sums, provenance)
                validation.write_history(position.history, out)
                tracker.log(validation.scalars(row), step=position.step)
                tracker.summarise(validation.final_numbers(position, trainer.monitor, validation.num_parameters(model)))
                if trainer.figure_every and position.epoch % trainer.figure_every == 0 and validation.what_is_made(model, source):
                    tracker.image("epoch", validation.draw_epoch(model, source, out, position.epoch, device))
                report(out, row, warnings)

            # stop
            if trial and trial.is_hopeless(row, score) and position.epoch < trainer.epochs:
                raise pruning.Pruned(position.epoch)
    return position


def learning_rate(trainer: TrainerConfig, step: int, num_steps: int) -> float:
    """Return the rate of a step: linear warm-up, then constant or half a cosine down to zero at the last step."""
    if step < trainer.warmup_steps:
        return trainer.lr * (step + 1) / trainer.warmup_steps
    if trainer.lr_schedule == "constant":
        return trainer.lr
    done = (step - trainer.warmup_steps) / max(1, num_steps - trainer.warmup_steps)
    return trainer.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimiser(model: nn.Module, trainer: TrainerConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW with weight decay, in one fused kernel."""
    kind = torch.optim.AdamW if trainer.weight_decay else torch.optim.Adam
    parameters = [p for p in model.parameters() if p.requires_grad]
    return kind(parameters, lr=trainer.lr, weight_decay=trainer.weight_decay, fused=True)


def report(out: Path, row: dict[str, float], warnings: list[str]) -> None:
    """Say the epoch in one line, and keep the status true."""
    parts = [
        f"{key} {value:.4g}" for key, value in row.items() if key in ("train_total", "val_total", "val_recon", "val_codes_used")
    ]
    logger.info("epoch %d: %s, %.0f patches/s", row["epoch"], ", ".join(parts), row["patches_per_s"])
    for warning in warnings:
        logger.warning("epoch %d: %s", row["epoch"], warning)
    RunFolder(out).set("running", epoch=row["epoch"], step=row["step"])


def _seed(seed: int, device: torch.device) -> None:
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore  # or every new tensor would be written twice


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the data, read one batch per part, take one step on a throw-away model, and estimate the run."""
    import psutil

    trainer = settings.trainer
    device = choose_device(trainer.device)
    _seed(settings.seed, device)
    if settings.resume:
        find(settings.resume, settings.outputs, settings.name, "resume")
    source = open_data(settings)
    model = build_model(settings, source).to(device)
    validation.refuse_likelihood(model, source, settings)
    validation.refuse_monitor(settings, model, source, device)
    found = Preflight(reads=source.contents())
    for part in PARTS:
        plan = validation.limited(source.plan(part, 0, trainer.batch_size, settings.seed), trainer)
        if not plan:
            continue
        batch = source.batch(plan[0], device, **validation.batch_options(model, trainer))
        found.notes.append(f"{part}: {len(source.rows[part])} patches, {len(plan)} batches; the first is {tuple(batch.x.shape)}")
        if part == "train":
            for _ in range(2):  # the first pays for set-up
                started = time.perf_counter()
                Objective(model)(batch, 0).terms["total"].backward()
                found.seconds = (time.perf_counter() - started) * len(plan) * trainer.epochs * 1.2
    size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    kept = 2 + (trainer.epochs // trainer.checkpoint_every if trainer.checkpoint_every else 0)
    found.disk_mb = kept * 3 * size / 1e6 + 1
    found.memory_mb = psutil.Process().memory_info().rss / 1e6
    found.notes.append(f"{settings.model.name}: {validation.num_parameters(model)} parameters on {device}")
    names = "config.yaml provenance.json status.json split.csv history.csv summary.csv checkpoints/ figures/"
    found.writes = [str(out / name) for name in names.split()]
    return found
