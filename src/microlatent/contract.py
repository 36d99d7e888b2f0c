"""What the loop and the tasks may expect of a model, of a source of data, and of a batch.

Shapes: B samples, C channels, *space the axes of a sample (Y, X or Z, Y, X), D latent dimensions. Everything here is a Protocol:
a model or a source of a plugin need not inherit from anything of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import Tensor

    from microlatent.losses import Losses


class Batch(NamedTuple):
    """Samples of one step, with what the loss must know about them."""

    x: Tensor  # (B, C, *space) float32, normalised
    y: Tensor | None = None  # (B, K, *space) the target; None where the input is its own
    weight: Tensor | None = None  # float32, broadcastable to the target: cell mask, foreground, validity of affinities
    relations: Tensor | None = None  # (B, B) int8: 2 adjacent frames or self, 1 same trajectory, 0 otherwise


class Source(Protocol):
    """Data as the loop sees them: parts of rows, and batches of them.

    Stores of patches are one kind (``data/source.py``); fields of a plate or boxes of a volume may be others.
    """

    channels: list[str]
    shape: tuple[int, ...]  # *space of a sample
    rows: dict[str, np.ndarray]  # of train, val, test and all
    fingerprints: dict[str, str]  # of the data, by file

    def plan(self, part: str, epoch: int, batch_size: int, seed: int) -> list[np.ndarray]:
        """Return the rows of every batch of an epoch, a function of the arguments alone."""
        ...

    def batch(self, rows: np.ndarray, device: torch.device, **options: Any) -> Batch:
        """Return this process's part of a global batch, on the device."""
        ...

    def names(self) -> pd.Series:
        """Return the name of every row, for messages and tables."""
        ...


class Model(Protocol):
    """What training needs; the capabilities below are what tasks need."""

    def loss(self, batch: Batch, step: int) -> Losses:
        """Return named loss terms, means per sample; ``total`` is minimised."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A model that turns samples into latents."""

    def encode(self, x: Tensor, norm: str = "eval") -> dict[str, Tensor]:
        """Return latents (B, D) by name; the first becomes ``X`` of the latents table."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A model that gives its input back."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return (B, C, *space), in the units of the input."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A model that turns latents into samples."""

    def decode(self, z: Tensor) -> Tensor:
        """Return (B, C, *space) of latents (B, D)."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A model whose output is another image than its input: stains, affinities."""

    def predict(self, x: Tensor) -> Tensor:
        """Return (B, K, *space) as the target is, after the last activation."""
        ...


CAPABILITIES: dict[str, type] = {"encode": Encodes, "reconstruct": Reconstructs, "decode": Decodes, "predict": Predicts}


def capabilities(model: Any) -> set[str]:
    """Return what a model, or the class of one, can do: names of ``CAPABILITIES``."""
    return {name for name in CAPABILITIES if callable(getattr(model, name, None))}


def lacking(model: Any, wanted: Iterable[str]) -> list[str]:
    """Return the capabilities that a task wants and a model, or its class, does not have."""
    return sorted(set(wanted) - capabilities(model))
