"""Assembling, loading and the training loop on a synthetic well; prints JSON. The commands run as a user runs them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from benchmarks.assembling import write_specimen
from benchmarks.network import build
from benchmarks.reference import augment_one_by_one
from benchmarks.timing import ROOT, alternate
from microlatent import allocator, training
from microlatent.contract import Batch
from microlatent.data.split import Split
from microlatent.data.store import Store
from microlatent.losses import Losses
from microlatent.run import RunFolder
from microlatent.schemas import LoggerConfig, Settings, TrainConfig, TrainerConfig
from microlatent.systems.wells.schema import WellsConfig
from microlatent.systems.wells.source import WellPatches
from microlatent.tracking import NullTracker

BATCH = 64


def command(folder: Path, threads: int, *arguments: str) -> str:
    """Run Python with arguments in a folder and return what it printed last."""
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout.splitlines()[-1]


def assemble(folder: Path, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Run both ways in turn, from the warm page cache, each in a process of its own."""
    found = {name: {"seconds": [], "peak_mb": [], "above_imports_mb": []} for name in ("reference", "ours")}
    for name in found:
        (folder / name).mkdir()
    for _ in range(rounds):
        for name, part in found.items():
            line = command(folder, threads, "-m", "benchmarks.assembling", name, str(folder / "supp"), str(folder / name))
            for values, value in zip(part.values(), json.loads(line), strict=True):
                values.append(value)
    return found


def open_source(folder: Path) -> WellPatches:
    """Open the assembled store for training on all of it."""
    source = WellPatches([Store.open(folder / "ours" / "A1.h5")], None, order="tracks", augment=True)
    source.use_split(Split.draw("trajectory", source.groups("trajectory"), 0.0, 0.0, 0))
    source.fit_normaliser("dataset")
    return source


def load(source: WellPatches, rounds: int) -> dict[str, list[float]]:
    """Make the batches of one epoch from memory as the reference takes them, and from the mapped store."""
    plan = source.plan("train", 0, BATCH, 0)
    order = np.concatenate(plan)
    images = source.read(order).astype(np.float64)
    mean, std = images.mean((0, 2, 3), keepdims=True), images.std((0, 2, 3), keepdims=True)
    held, rng = (images - mean) / std, np.random.RandomState(0)

    def reference() -> None:
        for start in range(0, len(held), BATCH):
            augment_one_by_one(torch.from_numpy(held[start : start + BATCH]).float(), rng)

    def ours() -> None:
        for number, rows in enumerate(plan):
            source.batch(rows, torch.device("cpu"), augment_seed=(number,), needs={"relations"})

    def plain() -> None:
        for rows in plan:
            source.batch(rows, torch.device("cpu"))

    def pixels() -> None:
        for rows in plan:
            source.read(rows)

    ways = {
        "reference: patches in memory as float64, augmented one by one": reference,
        "ours: from the store, normalised, augmented, with relations": ours,
        "ours: from the store, normalised": plain,
        "ours: the store's pixels as they are": pixels,
    }
    seconds = alternate(ways, rounds)
    return {name: [len(order) / s for s in values] for name, values in seconds.items()}


class Nothing(nn.Module):
    """A model that costs nothing, to see what a step costs without one."""

    needs: ClassVar = {"relations"}

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def loss(self, batch: Batch, step: int) -> Losses:
        """Return as many terms as the real model, and its counts."""
        total = self.w.sum()
        zero = torch.zeros(())
        terms = {"total": total, "recon": zero, "commitment": zero, "matching": zero, "perplexity": zero}
        return Losses(terms, {"codes": torch.zeros(64, dtype=torch.long)})


def loop(source: WellPatches, model: nn.Module, folder: Path, epochs: int, *, ready: bool = False) -> list[float]:
    """Return milliseconds per step of the training loop, epoch by epoch, less the first; ``ready``: the batches cost nothing."""
    task = TrainConfig(name="train"), TrainerConfig(name="cpu", epochs=epochs, batch_size=BATCH), LoggerConfig(name="csv")
    settings = Settings(task=task[0], trainer=task[1], logger=task[2], data=WellsConfig(name="wells"))
    out = RunFolder.claim(folder / "runs" / "x").path
    original = source.batch
    if ready:
        at_hand = original(source.plan("train", 0, BATCH, 0)[0], torch.device("cpu"), needs={"relations"})
        source.batch = lambda *_, **__: at_hand
    try:
        position = training.fit(settings, model, source, out, NullTracker(), None, {}, torch.device("cpu"))
    finally:
        source.batch = original
    steps = len(source.plan("train", 0, BATCH, 0))
    return [1000 * row["seconds"] / steps for row in position.history[1:]]


def main() -> None:
    """Measure everything in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--cells", type=int, default=40, help="per frame; 4.2 MB each in the temporary folder")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    allocator.tune()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = {"cells": write_specimen(folder / "supp", sites=arguments.sites, frames=arguments.frames, cells=arguments.cells)}
        facts["gigabytes"] = sum(path.stat().st_size for path in (folder / "supp").rglob("*.pkl")) / 1e9
        facts["assemble"] = assemble(folder, arguments.threads, arguments.rounds)
        source = open_source(folder)
        facts["load"] = load(source, arguments.rounds)
        epochs = arguments.rounds + 1
        facts["loop"] = {
            "everything": loop(source, build(), folder, epochs),
            "the network alone, on a batch at hand": loop(source, build(), folder, epochs, ready=True),
            "loading alone, no network": loop(source, Nothing(), folder, epochs),
            "bookkeeping alone, neither loading nor network": loop(source, Nothing(), folder, epochs, ready=True),
        }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
