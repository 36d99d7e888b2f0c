"""Where tensors live."""

from __future__ import annotations

import os

import torch

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
