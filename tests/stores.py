"""Small stores of moving blobs, for tests of what stands on a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.data.relations import label, relate
from microlatent.data.store import StoreWriter


def write_store(
    path: Path,
    *,
    tracks: int = 12,
    frames: int = 6,
    side: int = 16,
    channels: tuple[str, ...] = ("phase", "retardance"),
    seed: int = 0,
) -> Path:
    """Write a store of ``tracks`` trajectories of ``frames`` patches (camera counts, uint16) and one orphan."""
    random = np.random.default_rng(seed)
    well = path.stem
    num = tracks * frames + 1
    y, x = np.mgrid[:side, :side] / side - 0.5
    size = np.repeat(random.uniform(0.1, 0.3, tracks), frames)
    size = np.append(size * random.uniform(0.95, 1.05, len(size)), 0.2)
    blob = np.exp(-(x**2 + y**2) / size[:, None, None] ** 2)
    images = np.stack([1000 + 8000 * blob, 500 + 3000 * blob**2], 1)[:, : len(channels)]
    images = (images + random.normal(0, 50, images.shape)).clip(0).astype(np.uint16)
    track = np.append(np.repeat(np.arange(tracks), frames), -1)
    frame = np.append(np.tile(np.arange(frames), tracks), 0)
    cell = np.append(np.repeat(np.arange(tracks), frames), tracks)
    site = [f"{well}-Site_{t % 2}" if t >= 0 else f"{well}-Site_0" for t in track]
    members = [(frame[track == t], np.flatnonzero(track == t)) for t in range(tracks)]
    names = [f"{well}-Site_{t % 2}/{t // 2}" for t in range(tracks)]
    table = pd.DataFrame(
        {
            "key": [f"supp/{s}/{f}_{c}.h5" for s, f, c in zip(site, frame, cell, strict=True)],
            "well": well,
            "site": site,
            "frame": frame,
            "cell_id": cell,
            "y_px": random.uniform(0, 500, num),
            "x_px": random.uniform(0, 500, num),
            "true_size_um": size,
            "label": label(members, num),
            "trajectory": [names[t] if t >= 0 else "" for t in track],
        }
    )
    with StoreWriter(path, np.dtype(np.uint16)) as writer:
        for start in range(0, num, 20):
            writer.append(images[start : start + 20], table[start : start + 20])
        writer.finish(
            table,
            relate(members, num),
            dict.fromkeys(names, frames),
            well=well,
            channels=list(channels),
            origin={"root": "test"},
            pixel_um=0.5,
            patch_pixel_um=1.0,
            frame_min=10.0,
        )
    return path
