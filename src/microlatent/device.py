"""Where tensors live, and how they lie in memory."""

from __future__ import annotations

import os

import torch
from torch import nn

from microlatent import distributed


def choose_device(name: str) -> torch.device:
    """Return the device that ``trainer.device`` names; among several processes, this one's own GPU.

    Raises
    ------
    ValueError
        A GPU was asked for and there is none, or the name is no device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"trainer.device={name}, but torch sees no GPU here. Use trainer=cpu, or look at nvidia-smi.")
        if name == "cuda" and distributed.world_size() > 1:
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(name)
    elif name != "cpu":
        raise ValueError(f"trainer.device is {name!r}, but must be cpu, cuda, cuda:<index> or auto.")
    return torch.device(name)


def layout(num_axes: int, channels_last: bool) -> torch.memory_format:
    """Return the memory layout of images (B, C, Y, X) and volumes (B, C, Z, Y, X); other tensors have one alone."""
    known = {4: torch.channels_last, 5: torch.channels_last_3d}
    return known.get(num_axes, torch.contiguous_format) if channels_last else torch.contiguous_format


def set_layout(model: nn.Module, channels_last: bool) -> None:
    """Lay out the weights of every convolution as its images or volumes are."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)):
            module.to(memory_format=layout(module.weight.ndim, channels_last))
