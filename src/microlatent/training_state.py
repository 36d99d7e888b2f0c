"""All that a training run must remember: how far it is, what it has added up, and how that gets into a checkpoint and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from microlatent import checkpoint, distributed
from microlatent.contract import Row
from microlatent.files import same_file
from microlatent.losses import Losses


@dataclass
class Position:
    """How far a run has come; all of it is in every checkpoint."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch done
    step: int = 0  # optimiser steps done
    best: float = math.inf  # lowest monitored value so far; the negative of one that is better when higher
    since_best: int = 0  # epochs
    seconds: float = 0.0  # of the current epoch so far
    history: list[Row] = field(default_factory=list)


class Sums:
    """Loss terms and tallies added up over an epoch, on the device, over all processes."""

    def __init__(self) -> None:
        self.terms: Tensor | None = None
        self.names: list[str] = []
        self.tallies: dict[str, Tensor] = {}
        self.patches = 0
        self.latest: Tensor | None = None

    def add(self, losses: Losses, num_local: int, num_global: int) -> None:
        """Add the losses of this process's part of a batch; ``latest`` are the terms of the whole batch."""
        self.names = list(losses.terms)
        batch = torch.stack([value.detach().double() for value in losses.terms.values()]) * (num_local / num_global)
        batch = distributed.total(batch)
        self.terms = batch * num_global if self.terms is None else self.terms + batch * num_global
        for name, counts in losses.tallies.items():
            counts = distributed.total(counts)
            self.tallies[name] = counts if name not in self.tallies else self.tallies[name] + counts
        self.patches += num_global
        self.latest = batch

    def means(self, prefix: str) -> dict[str, float]:
        """Mean of every term over the patches so far."""
        assert self.terms is not None
        return {f"{prefix}_{name}": value for name, value in zip(self.names, (self.terms / self.patches).tolist(), strict=True)}


class FiniteGuard:
    """Stop before the optimiser takes a step on a non-finite loss.

    On a GPU the fused optimiser skips the step by a flag that stays on the device; the flag is read every few steps, so that
    no step waits for the device.

    Parameters
    ----------
    keys
        Name of every row of the data, for the message.
    """

    LOOK_EVERY = 20  # steps

    def __init__(self, keys: np.ndarray, device: torch.device) -> None:
        self.keys, self.is_deferred = keys, device.type == "cuda"
        self.waiting: list[tuple[int, np.ndarray, Tensor]] = []  # step, rows, terms: not looked at yet
        self.finite: Tensor | None = None  # the last terms that were finite

    def check(self, sums: Sums, optimiser: torch.optim.Optimizer, position: Position, rows: np.ndarray) -> None:
        """Take a batch's terms, all its pieces and processes together, before the optimiser's step."""
        assert sums.terms is not None
        assert sums.latest is not None
        self.waiting.append((position.step, rows, sums.latest))
        if self.is_deferred:
            # A non-finite term stays in the sums of the epoch, so every later step is skipped too.
            optimiser.found_inf = (~torch.isfinite(sums.terms[0])).float()  # type: ignore[attr-defined]
        if not self.is_deferred or len(self.waiting) == self.LOOK_EVERY:
            self.look(sums.names, position.epoch)

    def look(self, names: list[str], epoch: int) -> None:
        """Look at all terms that were not looked at yet.

        Raises
        ------
        ValueError
            A loss is not finite; the message has the step, the batch's rows and the last finite values.
        """
        for step, rows, terms in self.waiting:
            if torch.isfinite(terms[0]):
                self.finite = terms
                continue
            now, before = (
                None if values is None else dict(zip(names, (round(v, 6) for v in values.tolist()), strict=True))
                for values in (terms, self.finite)
            )
            raise ValueError(
                f"The loss is not finite at step {step} (epoch {epoch + 1}): {now}. Last finite values: {before}. Rows of "
                f"the batch: {rows[:8].tolist()}{'...' * (len(rows) > 8)}, such as {self.keys[rows[:3]].tolist()}. No step "
                "was taken on it. Lower trainer.lr, set trainer.clip_norm=1, or look at these patches."
            )
        self.waiting.clear()


def save(
    paths: list[Path], model: nn.Module, optimiser: torch.optim.Optimizer, position: Position, sums: Sums, provenance: dict
) -> None:
    """Write a checkpoint under all of the names: what the loop needs to go on, and the provenance for inference."""
    if distributed.rank() > 0:
        return
    content = {
        "birth": provenance,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "position": vars(position),
        "sums": vars(sums),
        "random": {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []},
    }
    checkpoint.save(paths[0], content)
    for path in paths[1:]:  # hundreds of megabytes are not written twice
        same_file(paths[0], path)


def restore(saved: dict, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device) -> tuple[Position, Sums]:
    """Put everything back as it was when the checkpoint was written."""
    checkpoint.load_state(model, saved["model"], "last.ckpt")
    optimiser.load_state_dict(saved["optimiser"])
    torch.set_rng_state(saved["random"]["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state_all([state.cpu() for state in saved["random"]["cuda"]])
    sums = Sums()
    for name, value in checkpoint.on_device(saved["sums"], device).items():
        setattr(sums, name, value)
    return Position(**saved["position"]), sums
