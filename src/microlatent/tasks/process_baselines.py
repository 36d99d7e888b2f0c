"""What ``task=process`` fits beside the latents: principal components and non-negative factors of the same patches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch

from microlatent.analysis import baselines
from microlatent.analysis.statistics import explained
from microlatent.contract import lacking
from microlatent.data.source import PatchSource
from microlatent.experiment import Trained
from microlatent.progress import track
from microlatent.schemas import Settings

SIDE_PX = 64  # patches are averaged to about this, because the components are as large


@torch.no_grad()
def write_baselines(
    path: Path, source: PatchSource, rows: np.ndarray, trained: Trained, settings: Settings, device: torch.device
) -> pd.DataFrame:
    """Add to the table ``obsm/baseline_pca`` and ``obsm/baseline_nmf``, as wide as the latents, fitted to the training part.

    They see what the model sees, averaged to about 64 pixels a side. Returns the share of the pixels' variance about the training
    mean that the model and each baseline explain, in each part.
    """
    train = source.rows["train"] if len(source.rows["train"]) else rows

    def pixels(some: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for start in range(0, len(some), settings.task.batch_size):
            x = source.batch(some[start : start + settings.task.batch_size], device, alone=True).x
            yield baselines.pool(x.cpu().numpy(), SIDE_PX), x

    mean = sum(flat.sum(0, dtype=np.float64) for flat, _ in pixels(train)) / len(train)
    with h5py.File(path, "a") as file:
        width = file["X"].shape[1]
        fitted = [
            baselines.fit(name, lambda: (flat for flat, _ in pixels(train)), width, len(train), settings.seed)
            for name in track(source.baselines, "Fitting baselines")
        ]
        for model in fitted:
            data = file.create_dataset(f"obsm/baseline_{model.name}", (len(rows), len(model.components)), np.float32)
            data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        sums: dict[tuple[str, str], np.ndarray] = {}
        part_of, start = source.parts()[rows], 0
        for flat, x in track(pixels(rows), "Baselines", -(-len(rows) // settings.task.batch_size)):
            here = slice(start, start + len(flat))
            restored = {}
            if not lacking(trained.model, ["reconstruct"]):
                restored["model"] = baselines.pool(trained.model.reconstruct(x).float().cpu().numpy(), SIDE_PX)
            for model in fitted:
                z = model.transform(flat)
                file[f"obsm/baseline_{model.name}"][here] = z
                restored[model.name] = model.restore(z)
            for part in set(part_of[here]):
                of = part_of[here] == part
                for name, values in restored.items():
                    found = baselines.squares(flat[of], values[of], mean)
                    sums[part, name] = sums.get((part, name), np.zeros(2)) + found
            start += len(flat)
    return pd.DataFrame(
        {"part": part or "none", "source": name, "explained_variance": float(explained(error, variance)), "width": width}
        for (part, name), (error, variance) in sorted(sums.items())
    )
