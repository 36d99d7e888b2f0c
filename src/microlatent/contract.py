"""What the loop and the tasks may expect of a batch, of a source of data, and of a model.

Shapes: B samples, C channels, K target channels, *space the axes of a sample (Y, X or Z, Y, X), D latent dimensions. All are
Protocols: a model or a source of a plugin need not inherit from anything of ours. What a model may leave out is asked for here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import Tensor

    from microlatent.data.normalise import Normaliser
    from microlatent.data.split import Split
    from microlatent.losses import Losses

Row = dict[str, Any]  # numbers by name: a float, or a list with one for every latent dimension


class Batch(NamedTuple):
    """Samples of one step, with what the loss must know about them."""

    x: Tensor  # (B, C, *space) float32, normalised
    y: Tensor | None = None  # (B, K, *space) the target; None where the input is its own
    weight: Tensor | None = None  # float32, broadcastable to the target: cell mask, foreground, validity of affinities
    relations: Tensor | None = None  # (B, B) int8: 2 adjacent frames or self, 1 same trajectory, 0 otherwise


class Source(Protocol):
    """Data as the loop sees them: named samples, the rows of a table, and batches of them.

    ``data/source.py`` has most of it for samples that are rows of a table; a kind of data adds how its rows are read.
    """

    channels: list[str]
    target_channels: list[str] | None  # None where the input is its own target
    shape: tuple[int, ...]  # *space of a sample
    pixel_um: float | None  # of a sample's Y and X, for scale bars
    z_um: float | None  # from plane to plane
    rows: dict[str, np.ndarray]  # of train, val, test and all
    augment: bool  # whether training batches are given seeds
    fingerprints: dict[str, str]  # of the data, by file
    split: Split | None  # set by prepare, or as a trained run left it
    normaliser: Normaliser | None  # the same
    nbytes: int  # of all samples

    def prepare(self, data: Any, seed: int) -> None:
        """Draw the split from the seed and fit the normalisation to the training part; ``data`` are the settings."""
        ...

    def use_split(self, split: Split) -> None:
        """Set which rows are train, val and test."""
        ...

    def rows_used_by(self, provenance: dict[str, Any]) -> np.ndarray:
        """Return which rows (N,) a run of this provenance took, as far as its split does not say."""
        ...

    def plan(self, part: str, epoch: int, batch_size: int, seed: int) -> list[np.ndarray]:
        """Return the rows of every batch of an epoch, a function of the arguments alone; no process is left without rows."""
        ...

    def batch(
        self,
        rows: np.ndarray,
        device: torch.device,
        *,
        needs: Collection[str] = (),
        augment_seed: tuple[int, ...] | None = None,
        channels_last: bool = False,
        alone: bool = False,
    ) -> Batch:
        """Return this process's part of a global batch on the device; all of it where the process is ``alone``.

        ``needs`` is what the model asks for besides the samples (``needs`` below). The seed decides the augmentation of the
        whole batch, the same for the input, its target and its weight.
        """
        ...

    def make_resident(self, device: torch.device) -> None:
        """Keep all samples in the device's memory."""
        ...

    def names(self) -> pd.Series:
        """Return the name of every row, for messages and titles."""
        ...

    def examples(self, num: int) -> np.ndarray:
        """Return at most ``num`` held-out rows to draw, the same each time."""
        ...

    def contents(self) -> list[str]:
        """Return a line for each file: what is in it."""
        ...


# ------------------------------------------------------------------------------------------------------------- models


class Model(Protocol):
    """What training needs; the capabilities below are what tasks need.

    It is built as ``Model(config, channels, shape)``; a class that can ``predict`` as ``Model(config, channels, shape,
    target_channels)``, the numbers of channels.
    """

    def loss(self, batch: Batch, step: int) -> Losses:
        """Return named loss terms, means per sample; ``total`` is minimised."""
        ...


class Encodes(Model, Protocol):
    """A model that turns samples into latents."""

    def encode(self, x: Tensor, norm: str = "eval") -> dict[str, Tensor]:
        """Return latents (B, D) by name; the first becomes ``X`` of the latents table."""
        ...


class Reconstructs(Model, Protocol):
    """A model that gives its input back."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return (B, C, *space), in the units of the input."""
        ...


class Decodes(Model, Protocol):
    """A model that turns latents into samples."""

    def decode(self, z: Tensor) -> Tensor:
        """Return (B, C, *space) of latents (B, D)."""
        ...


class Predicts(Model, Protocol):
    """A model whose output is another image than its input: stains, affinities."""

    def predict(self, x: Tensor) -> Tensor:
        """Return (B, K, *space) as the target is, after the last activation."""
        ...


class HasLikelihood(Model, Protocol):
    """A model with a posterior to draw from."""

    def log_likelihood(self, x: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return the importance-weighted log-likelihood of every sample, (B,) nats."""
        ...


CAPABILITIES: dict[str, type] = {
    "encode": Encodes,
    "reconstruct": Reconstructs,
    "decode": Decodes,
    "predict": Predicts,
    "log_likelihood": HasLikelihood,
}


def capabilities(model: Any, settings: Mapping[str, Any] | None = None) -> set[str]:
    """Return what a model can do, or the class of one under some settings: names of ``CAPABILITIES``.

    Where that depends on the settings, the class says ``capable_if = {"predict": {"objective": "translate"}}``.
    """
    chosen = getattr(getattr(model, "config", None), "__dict__", {}) if settings is None else settings
    conditions = getattr(model, "capable_if", {})
    able = (name for name in CAPABILITIES if callable(getattr(model, name, None)))
    return {name for name in able if all(chosen.get(key, value) == value for key, value in conditions.get(name, {}).items())}


def lacking(model: Any, wanted: Iterable[str], settings: Mapping[str, Any] | None = None) -> list[str]:
    """Return the capabilities that a task wants and a model, or its class under some settings, does not have."""
    return sorted(set(wanted) - capabilities(model, settings))


def needs(model: Any) -> set[str]:
    """Return what else a model wants in its batches: ``relations``, ``mask`` or what a source of its own offers."""
    return set(getattr(model, "needs", ()))


def labels(model: Any) -> dict[str, str]:
    """Return a model's own words for its loss terms; ``metrics.py`` knows the others."""
    return dict(getattr(model, "labels", {}))


def has_fixed_shape(model: Any) -> bool:
    """Return whether a model takes samples of the shape alone that it was built for: it says ``fixed_shape = True``."""
    return bool(getattr(model, "fixed_shape", False))


def takes_what_fits(model: Any) -> bool:
    """Return whether a model may start from weights of which some are absent or of another shape: ``takes_what_fits = True``."""
    return bool(getattr(model, "takes_what_fits", False))


def end_epoch(model: Any, tallies: dict[str, Tensor], *, training: bool) -> tuple[Row, list[str]]:
    """Ask a model for its health (codes in use, active units) and for warnings, if it has any to give."""
    return model.end_epoch(tallies, training) if callable(getattr(model, "end_epoch", None)) else ({}, [])
