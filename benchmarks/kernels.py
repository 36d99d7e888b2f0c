"""One process of the autoencoders' benchmark on a CPU: huge kernels in Fourier space against direct ones; prints JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import alternate
from microlatent import allocator
from microlatent.contract import Batch
from microlatent.models.autoencoder import Autoencoder
from microlatent.models.fourier import FourierConvTranspose
from microlatent.schemas import AEConfig

CHANNELS, PATCH_PX = 7, 64
# Maps in and out and side of the transposed convolutions of architecture 1; architecture 2 has the last two.
STAGES = [(56, 28, 8), (28, 14, 16), (14, 7, 32)]


class DirectConvTranspose(FourierConvTranspose):
    """The same layer, computed as the reference did."""

    def forward(self, x_BCYX: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Convolve with torch's own transposed convolution."""
        weight, bias = (self.weight, self.bias) if weight is None else (weight, bias)
        return F.conv_transpose2d(x_BCYX, weight, bias, padding=(self.kernel - 1) // 2)[:, :, : self.size, : self.size]


def ways_of(stage: tuple[int, int, int], batch_size: int, *, backward: bool) -> dict[str, Callable[[], None]]:
    """Return one pass through a stage, computed directly and in Fourier space."""
    maps, maps_out, size = stage
    x = torch.randn(batch_size, maps, size, size, requires_grad=backward)
    grad = torch.randn(batch_size, maps_out, size, size)

    def passing(layer: FourierConvTranspose) -> Callable[[], None]:
        def do() -> None:
            with torch.set_grad_enabled(backward):
                y = layer(x)
            if backward:
                torch.autograd.grad(y, (x, layer.weight, layer.bias), grad)

        return do

    layers = {"direct": DirectConvTranspose, "ours": FourierConvTranspose}
    return {name: passing(layer(maps, maps_out, size, 2 * size)) for name, layer in layers.items()}


def training_step(arch: str, batch_size: int, *, direct: bool = False) -> Callable[[], None]:
    """Return one training step of the Gaussian autoencoder with its default width: loss, gradients, Adam."""
    torch.manual_seed(0)
    model = Autoencoder(AEConfig(name="ae_gauss", arch=arch), CHANNELS, (PATCH_PX, PATCH_PX))
    if direct:
        for module in model.modules():
            if type(module) is FourierConvTranspose:
                module.__class__ = DirectConvTranspose
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batch = Batch(100 * torch.rand(batch_size, CHANNELS, PATCH_PX, PATCH_PX))

    def step() -> None:
        model.loss(batch, 0).terms["total"].backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def measure(batch_size: int, rounds: int, direct_models: bool) -> dict[str, dict]:
    """Return seconds of every stage, by pass and way, and training patches per second of whole models."""
    torch.manual_seed(0)
    stages: dict[str, dict] = {}
    for stage in STAGES:
        maps, maps_out, size = stage
        for title, backward in (("forward", False), ("forward and backward", True)):
            seconds = alternate(ways_of(stage, batch_size, backward=backward), rounds)
            stages.setdefault(f"{maps} to {maps_out} maps of {size} px", {})[title] = seconds
    steps = {f"arch {arch}": training_step(arch, batch_size) for arch in ("1", "2", "compact")}
    models = {name: [batch_size / s for s in values] for name, values in alternate(steps, rounds).items()}
    if direct_models:  # most of a minute for one step
        few = min(batch_size, 8)
        steps = {f"arch {arch}, direct": training_step(arch, few, direct=True) for arch in ("1", "2")}
        models |= {name: [few / s for s in values] for name, values in alternate(steps, 1).items()}
    return {"stages": stages, "models": models}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--direct-models", action="store_true", help="also whole models with direct convolutions")
    arguments = parser.parse_args()
    allocator.tune()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments.batch_size, arguments.rounds, arguments.direct_models)))
