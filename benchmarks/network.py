"""One process of the network's benchmark on a CPU, under one allocator setting: prints patches per second as JSON."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.reference import ReferenceVQVAE, augment_one_by_one, process_one_by_one
from benchmarks.timing import alternate
from microlatent import allocator
from microlatent.contract import Batch
from microlatent.data.augment import dihedral, draw
from microlatent.models.vqvae import VQVAE
from microlatent.schemas import VQVAEConfig

TRACK = 20  # frames of a trajectory


def relations(num: int) -> torch.Tensor:
    """Relation codes of a batch of whole trajectories."""
    i = torch.arange(num)
    same, near = i[:, None] // TRACK == i // TRACK, (i[:, None] - i).abs() <= 1
    return (same.to(torch.int8) + (same & near).to(torch.int8)).contiguous()


def reference_step(model: ReferenceVQVAE, x: torch.Tensor, codes: torch.Tensor) -> Callable[[], None]:
    """One training step as the reference takes it."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    rng, codes = np.random.RandomState(0), codes.float()

    def step() -> None:
        _, terms = model.train()(augment_one_by_one(x, rng).to(x.device), codes)
        terms["total"].backward()
        optimiser.step()
        model.zero_grad()

    return step


def our_step(objective: Callable, model: VQVAE, x: torch.Tensor, codes: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """One training step of ours: augmentation, loss terms, gradients, Adam."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        batch = Batch(dihedral(x, draw(len(x), generator)), relations=codes)
        model.train()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            terms = objective(batch, 0).terms
        terms["total"].backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def build(device: str = "cpu") -> VQVAE:
    """Return a model with fixed weights, its codes drawn from its own latents, so that all are in use."""
    torch.manual_seed(0)
    model = VQVAE(VQVAEConfig(name="vqvae_z16"), 2, (128, 128))
    with torch.no_grad():
        z = model.eval()(torch.randn(8, 2, 128, 128)).z.permute(0, 2, 3, 1).flatten(0, 2)
        model.vq.w.weight.copy_(z[torch.randperm(len(z))[:64]])
    return model.to(device)


def measure(batch_size: int, rounds: int, with_compile: bool) -> dict[str, dict[str, list[float]]]:
    """Return patches per second of every way in every round, by what is done."""
    torch.manual_seed(0)
    x, codes = torch.randn(batch_size, 2, 128, 128), relations(batch_size)
    reference, model = ReferenceVQVAE(), build()
    reference.load_state_dict(model.state_dict())

    def coarse_encode() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return model.encode(x)

    trainers = {"reference": reference_step(reference, x, codes), "ours": our_step((m := build()).loss, m, x, codes, False)}
    trainers["ours, bf16"] = our_step((m := build()).loss, m, x, codes, True)
    if with_compile and shutil.which("g++"):
        for name, bf16 in (("ours, compiled", False), ("ours, compiled, bf16", True)):
            trainers[name] = our_step(torch.compile((m := build()).loss), m, x, codes, bf16)
    encoders = {
        "reference": lambda: process_one_by_one(reference, x),
        "ours": lambda: model.encode(x, "instance"),
    }
    evaluators = {"reference": encoders["reference"], "ours": lambda: model.encode(x, "eval"), "ours, bf16": coarse_encode}
    sections = {"training step": trainers, "encode, instance": encoders, "encode, eval": evaluators}
    rates = {}
    for title, ways in sections.items():
        seconds = alternate(ways, rounds if title == "training step" else 2 * rounds)
        rates[title] = {name: [batch_size / s for s in values] for name, values in seconds.items()}
    # A latent vector after the quantiser differs where its code does.
    exact, coarse = (latents["after"].view(batch_size, 16, -1) for latents in (model.encode(x), coarse_encode()))
    return rates | {"codes changed by bf16": {"share": [float((exact != coarse).any(1).float().mean())]}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("allocator", choices=["default", "tuned"])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.allocator == "tuned":
        allocator.tune()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments.batch_size, arguments.rounds, arguments.compile)))
