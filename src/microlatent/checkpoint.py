"""Checkpoints: weights, optimiser, position and provenance in one file, written whole, safe to load from a stranger."""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from microlatent import contract
from microlatent.files import atomic

logger = logging.getLogger(__name__)

VERSION = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write plain containers and tensors under a temporary name, then rename: an old checkpoint stays whole until then."""
    with atomic(path) as temporary:
        torch.save({"version": VERSION, **content}, temporary)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything that it may contain.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is cut short, not a checkpoint of ours, holds more than data, or was written by a newer version.
    """
    content = _read(path, device)
    if not isinstance(content, dict) or "version" not in content or "model" not in content:
        raise ValueError(
            f"{path} holds weights but no checkpoint of microlatent. To start from its weights use init_from={path}."
        )
    if content["version"] > VERSION:
        raise ValueError(
            f"{path} has checkpoint version {content['version']}, but this version of microlatent reads up to {VERSION}. "
            f"Update microlatent (it was made at commit {content.get('birth', {}).get('git', {}).get('commit')})."
        )
    return content


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights alone, from a checkpoint of ours or from a plain state dict such as the reference's ``model.pt``."""
    content = _read(path, "cpu")
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(
            f"init_from={path} holds no state dict (names and tensors). Save one with torch.save(model.state_dict(), ...)."
        )
    return weights


def _read(path: Path, device: str | torch.device) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} asks for more than tensors and plain containers, so it was not loaded: {str(error)[:300]}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({str(error)[:200]}). It may be cut short; use another checkpoint of the run."
        ) from error


def on_device(content: Any, device: torch.device) -> Any:
    """Return plain containers with their tensors on a device."""
    if isinstance(content, dict):
        return {key: on_device(value, device) for key, value in content.items()}
    return content.to(device) if isinstance(content, torch.Tensor) else content


def load_state(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: Path | str) -> None:
    """Load weights strictly.

    Raises
    ------
    ValueError
        Names or shapes differ; the message names the first.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        own = model.state_dict()
        shapes = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
        parts = [f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}" for name in shapes[:3]]
        for what, names in (("missing", own.keys() - weights.keys()), ("surplus", weights.keys() - own.keys())):
            parts += [f"{what} {sorted(names)[:3]}"] if names else []
        raise ValueError(
            f"{source} does not fit this model: {'; '.join(parts)}. Use the model settings it was trained with (model=..., "
            "model.latent_dim, model.num_codes, data.channels)."
        ) from error


def start_from(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: Path | str) -> None:
    """Load the weights that a new run starts from: strictly, or what fits where the model says so; the log tells which.

    Raises
    ------
    ValueError
        Names or shapes differ, or no layer fits, or one that is frozen does not.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    has_layer = any(value.ndim > 1 for value in fitting.values())  # numbers and vectors may fit by chance
    if not contract.takes_what_fits(model) or not has_layer or len(fitting) == len(own) == len(weights):
        load_state(model, weights, source)
        return
    shapes = {name: tuple(weights[name].shape) for name in own.keys() & weights.keys() - fitting.keys()}
    other = [f"{name} ({shape} there, {tuple(own[name].shape)} here)" for name, shape in sorted(shapes.items())]
    absent, unused = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if lost := sorted(frozen - fitting.keys()):
        raise ValueError(
            f"{source} does not fit what model.freeze keeps: {', '.join(lost[:3])}{' ...' * (len(lost) > 3)} would stay at "
            f"random. Other shape: {', '.join(other[:3]) or 'none'}; absent there: {', '.join(absent[:3]) or 'none'}. Use the "
            "model settings and channels that it was trained with, or leave model.freeze out."
        )
    model.load_state_dict({**own, **fitting})
    parts = Counter(".".join(name.split(".")[:2]) for name in fitting)
    taken = ", ".join(f"{name} ({num})" for name, num in parts.items())
    logger.info("%s: %d of %d tensors taken: %s.", source, len(fitting), len(own), taken)
    for what, names in (("of another shape", other), ("absent there", absent)):
        if names:
            logger.info("%s: not taken, %s, so it starts at random: %s.", source, what, ", ".join(names))
    if unused:
        logger.info("%s: not taken, because this model has no such tensor: %s.", source, ", ".join(unused))
