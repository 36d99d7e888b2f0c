"""A run's model as the tiles want it: numpy in, numpy out, always with an axis of planes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from microlatent import contract
from microlatent.device import choose_device, layout, set_layout
from microlatent.experiment import load_model
from microlatent.schemas import Settings
from microlatent.systems.plates.normalise import StainNormaliser
from microlatent.systems.plates.tiles import Network


class Stainer(NamedTuple):
    """A network, and what there is to know of it to put a plate through it."""

    network: Network
    channels: list[str]
    target_channels: list[str]
    planes: int
    all_planes: bool  # it predicts all of them, not the middle one alone
    receptive_field: int | None  # side in px; None: it does not say
    stride: int  # px of its grid
    normaliser: StainNormaliser
    pixel_um: float | None  # that it was trained on
    z_um: float | None
    identity: dict[str, str | int]  # of its weights


def load_stainer(settings: Settings) -> Stainer:
    """Load the model of ``run`` and try it on a few pixels.

    Raises
    ------
    ValueError
        It was not trained on plates to predict a target, or takes samples of one size alone.
    """
    device = choose_device(settings.trainer.device)
    trained = load_model(Path(settings.run), settings.task.checkpoint, device)
    path, known = trained.provenance["checkpoint"], trained.provenance["data"]
    if not isinstance(trained.normaliser, StainNormaliser):
        raise ValueError(
            f"{path} was trained on data={trained.provenance['config']['data']['name']}, but task=predict needs a run that was "
            "trained on data=plates. Name another run."
        )
    if contract.has_fixed_shape(trained.model):
        raise ValueError(
            f"The model of {path} takes samples of {' x '.join(map(str, trained.shape))} px alone, so it cannot predict whole "
            "fields. Train a convolutional model, such as model=stain_unet."
        )
    set_layout(trained.model, channels_last=True)
    is_flat, stride = len(trained.shape) == 2, int(getattr(trained.model, "stride", 1))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16")

    def network(x: np.ndarray) -> np.ndarray:
        x_in = torch.from_numpy(x[:, :, 0] if is_flat else x).to(device)
        with torch.inference_mode(), autocast:
            y = trained.model.predict(x_in.contiguous(memory_format=layout(x_in.ndim, True)))
        return (y if y.ndim == 5 else y[:, :, None]).float().cpu().numpy()

    planes = 1 if is_flat else trained.shape[0]
    num_targets, num_planes = network(np.zeros((1, len(trained.channels), planes, 2 * stride, 2 * stride), np.float32)).shape[1:3]
    targets = list(known.get("target_channels") or [])
    if num_targets != len(targets) or num_planes not in (1, planes):
        raise ValueError(
            f"The model of {path} gives {num_targets} channels of {num_planes} planes, but {len(targets)} targets were trained "
            f"({', '.join(targets) or 'none'}). Masked pre-training learns no stain: fine-tune the run with init_from first."
        )
    return Stainer(
        network,
        trained.channels,
        targets,
        planes,
        num_planes == planes > 1,
        getattr(trained.model, "receptive_field", None),
        stride,
        trained.normaliser,
        known.get("pixel_um"),
        known.get("z_um"),
        {"weights": xxhash.xxh3_128_hexdigest(Path(path).read_bytes()), "epoch": trained.provenance["epoch"]},
    )
