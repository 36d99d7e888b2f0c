"""Assembling, loading and the training loop on a synthetic well; prints JSON. The commands run as a user runs them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.assembling import write_specimen
from benchmarks.network import build
from benchmarks.reference import augment_one_by_one
from benchmarks.timing import ROOT, alternate
from microlatent import allocator
from microlatent.data.batch import Batch
from microlatent.data.source import PatchSource
from microlatent.data.split import Split
from microlatent.data.store import Store

BATCH = 64
# A process of its own, because the peak memory of children is the largest of all of them.
WATCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
if done.returncode:
    raise SystemExit(done.stdout + done.stderr)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([time.perf_counter() - started, peak / (2**20 if sys.platform == "darwin" else 2**10)]))
"""


def watch(folder: Path, threads: int, *command: str) -> tuple[float, float]:
    """Run a command in a folder; return seconds and peak memory in MB."""
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": str(threads)}
    line = [sys.executable, "-c", WATCH, sys.executable, *command]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def assemble(folder: Path, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Run both ways in turn, from the warm page cache."""
    (folder / "reference").mkdir()
    commands = {
        "reference": ["-m", "benchmarks.assembling", str(folder / "supp"), str(folder / "reference")],
        "ours": [str(ROOT / "infer.py"), "task=assemble", "data=wells", f"data.root={folder / 'supp'}", "logger=csv"],
    }
    commands["ours"] += [f"data.store={folder / 'stores'}"]
    found = {name: {"seconds": [], "peak_mb": []} for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds, peak = watch(folder, threads, *command)
            found[name]["seconds"].append(seconds)
            found[name]["peak_mb"].append(peak)
    return found


def open_source(folder: Path) -> PatchSource:
    """Open the assembled store for training on all of it."""
    source = PatchSource([Store.open(folder / "stores" / "A1.h5")], None, order="tracks", augment=True)
    source.use_split(Split.draw("trajectory", source.groups("trajectory"), 0.0, 0))
    source.fit_normaliser("dataset")
    return source


def load(source: PatchSource, rounds: int) -> dict[str, list[float]]:
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
            source.batch(rows, torch.device("cpu"), augment_seed=number, relations=True)

    seconds = alternate({"reference, all patches in memory as float64": reference, "ours, from the store": ours}, rounds)
    return {name: [len(order) / s for s in values] for name, values in seconds.items()}


def steps_alone(source: PatchSource, rounds: int) -> list[float]:
    """Time the network's step on batches that lie ready."""
    model = build()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    plan = source.plan("train", 0, BATCH, 0)
    batches: list[Batch] = [source.batch(rows, torch.device("cpu"), relations=True) for rows in plan]

    def epoch() -> None:
        for batch in batches:
            optimiser.zero_grad()
            model.train().loss(batch, 0).terms["total"].backward()
            optimiser.step()

    return [sum(map(len, plan)) / s for s in alternate({"ours": epoch}, rounds)["ours"]]


def loop(folder: Path, threads: int, epochs: int) -> list[float]:
    """Return the patches per second of the epochs of a training run, less the first."""
    command = [str(ROOT / "train.py"), "data=wells", f"data.store={folder / 'stores'}", "data.val_share=0", "logger=csv"]
    watch(folder, threads, *command, f"trainer.epochs={epochs}", f"trainer.batch_size={BATCH}", f"trainer.threads={threads}")
    (history,) = folder.glob("outputs/*/*/history.csv")
    return pd.read_csv(history)["patches_per_s"].tolist()[1:]


def main() -> None:
    """Measure everything in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--cells", type=int, default=20, help="per frame; 4.2 MB each in the temporary folder")
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
        facts["loop"] = loop(folder, arguments.threads, arguments.rounds + 1)
        facts["steps"] = steps_alone(source, arguments.rounds)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
