"""Kikuchi patterns: background removal as a loop of scipy over patterns, and ours; training steps of the network.

``python -m benchmarks.patterns`` prints JSON: seconds of each way, and the greatest difference of their results.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.timing import alternate
from microlatent.contract import Batch
from microlatent.data.normalise import EPS
from microlatent.models.kikuchi_cnn import KikuchiCNN
from microlatent.schemas import KikuchiCNNConfig
from microlatent.systems.kikuchi import preprocessing

SIZES = {(60, 60): 2048, (400, 500): 64}  # pattern, and how many
BATCH = 64


def by_loop(raw: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Subtract the static background and each pattern's blur, and z-score, one pattern after the other."""
    out = np.empty(raw.shape, np.float32)
    for number, pattern in enumerate(raw):
        flat = pattern.astype(np.float32) - background
        flat -= gaussian_filter(flat, raw.shape[2] / 8, mode="reflect", truncate=4)
        out[number] = (flat - flat.mean()) / (flat.std() + EPS)
    return out


def at_once(raw: np.ndarray, background: torch.Tensor) -> np.ndarray:
    """Do the same with all of them."""
    x = preprocessing.remove_static(torch.from_numpy(raw).float(), background, "subtract")
    x = preprocessing.remove_dynamic(x, raw.shape[2] / 8, "subtract")
    x -= x.mean((1, 2), keepdim=True)
    return (x / (x.square().mean((1, 2), keepdim=True).sqrt() + EPS)).numpy()


def step(model: KikuchiCNN, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """Take one training step."""
    optimiser.zero_grad()
    model.loss(batch, 0).terms["total"].backward()
    optimiser.step()


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random, removal, training = np.random.default_rng(0), {}, {}
    for size, num in SIZES.items():
        raw = random.integers(40, 200, (num, *size), np.uint8)
        background = random.uniform(80, 120, size).astype(np.float32)
        ways = {"scipy": partial(by_loop, raw, background), "ours": partial(at_once, raw, torch.from_numpy(background))}
        difference = float(np.abs(ways["scipy"]() - ways["ours"]()).max())
        seconds = alternate(ways, arguments.rounds)
        removal["x".join(map(str, size))] = {"patterns": num, "difference": difference, **seconds}
    for size in ((30, 30), (60, 60), (120, 120)):
        model = KikuchiCNN(KikuchiCNNConfig(name="kikuchi_cnn"), 1, size)
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        batch = Batch(torch.randn(BATCH, 1, *size))
        seconds = alternate({"ours": partial(step, model, optimiser, batch)}, 4 * arguments.rounds)["ours"]
        training["x".join(map(str, size))] = [BATCH / second for second in seconds]
    print(json.dumps({"removal": removal, "training": training}))


if __name__ == "__main__":
    main()
