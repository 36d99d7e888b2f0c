"""All that a training run must remember: how far it is, what it has added up, and how that gets into a checkpoint and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

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

    def add(self, losses: Losses, num_local: int, num_global: int) -> Tensor:
        """Add a batch's losses; return its terms as means over the global batch, in the order of ``names``."""
        self.names = list(losses.terms)
        batch = torch.stack([value.detach().double() for value in losses.terms.values()]) * (num_local / num_global)
        batch = distributed.total(batch)
        self.terms = batch * num_global if self.terms is None else self.terms + batch * num_global
        for name, counts in losses.tallies.items():
            counts = distributed.total(counts)
            self.tallies[name] = counts if name not in self.tallies else self.tallies[name] + counts
        self.patches += num_global
        return batch

    def means(self, prefix: str) -> dict[str, float]:
        """Mean of every term over the patches so far."""
        assert self.terms is not None
        return {f"{prefix}_{name}": value for name, value in zip(self.names, (self.terms / self.patches).tolist(), strict=True)}


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position, sums: Sums, born: dict) -> None:
    """Write a checkpoint: all that the loop needs to go on, and the birth certificate that inference reads."""
    if distributed.rank() > 0:
        return
    content = {
        "birth": born,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "position": {key: value for key, value in vars(position).items() if key != "last_finite"},
        "sums": {"terms": sums.terms, "names": sums.names, "tallies": sums.tallies, "patches": sums.patches},
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
