"""All that a training run must remember: how far it is, what it has added up, and how that gets into a checkpoint and back."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from microlatent import checkpoint, distributed
from microlatent.losses import Losses


@dataclass
class Position:
    """How far a run has come; all of it is in every checkpoint."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch done
    step: int = 0  # optimiser steps done
    best: float = math.inf  # lowest validation loss
    since_best: int = 0  # epochs
    seconds: float = 0.0  # of the current epoch so far
    history: list[dict[str, float]] = field(default_factory=list)


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
        self.recent: deque[np.ndarray] = deque(maxlen=self.LOOK_EVERY)
        self.num_lost: Tensor | float = 0.0
        self.finite: Tensor | None = None

    def check(self, sums: Sums, optimiser: torch.optim.Optimizer, position: Position, rows: np.ndarray) -> None:
        """Look at the sums after a batch; a non-finite term of any of its pieces and processes is in them for good.

        Raises
        ------
        ValueError
            The loss is not finite; the message has the step, the batch's rows and the last finite values.
        """
        self.recent.append(rows)
        is_finite = torch.isfinite(sums.terms[0])
        if self.is_deferred:
            optimiser.found_inf = (~is_finite).float()
            self.num_lost = self.num_lost + optimiser.found_inf
            if (position.step + 1) % self.LOOK_EVERY or not float(self.num_lost):
                return
        elif is_finite:
            self.finite = sums.latest
            return
        rows = np.concatenate(self.recent) if self.is_deferred else rows
        shown = [
            dict(zip(sums.names, (round(v, 6) for v in terms.tolist()), strict=True))
            for terms in (sums.latest, self.finite)
            if terms is not None
        ]
        raise ValueError(
            f"The loss is not finite at step {position.step} (epoch {position.epoch + 1}): {shown[0]}. "
            f"Last finite values: {shown[1] if len(shown) > 1 else 'none in this run'}. Rows of the batch: {rows[:8].tolist()}"
            f"{' ...' if len(rows) > 8 else ''}, for example {self.keys[rows[:3]].tolist()}. No step was taken on it. "
            "Lower trainer.lr, set trainer.clip_norm=1, or look at these patches."
        )


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position, sums: Sums, born: dict) -> None:
    """Write a checkpoint: all that the loop needs to go on, and the birth certificate that inference reads."""
    if distributed.rank() > 0:
        return
    content = {
        "birth": born,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "position": vars(position),
        "sums": vars(sums),
        "random": {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []},
    }
    checkpoint.save(path, content)


def restore(saved: dict, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device) -> tuple[Position, Sums]:
    """Put everything back as it was when the checkpoint was written."""
    checkpoint.load_state(model, saved["model"], "last.ckpt")
    optimiser.load_state_dict(saved["optimiser"])
    torch.set_rng_state(saved["random"]["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state_all([state.cpu() for state in saved["random"]["cuda"]])
    sums = Sums()
    for name, value in saved["sums"].items():
        setattr(sums, name, value)
    return Position(**saved["position"]), sums
