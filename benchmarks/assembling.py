"""The reference's way from single-cell pickles to a training set, written anew, and ours; ``python -m`` times one of them.

The reference's: everything in memory, in double precision.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.nn.functional import interpolate

from benchmarks.timing import peak_mb

WINDOW = 256


def write_specimen(folder: Path, *, sites: int, frames: int, cells: int, seed: int = 0) -> int:
    """Write one well as the reference's pickles: two image channels and two masks in double precision; return the cells."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:WINDOW, :WINDOW] - WINDOW / 2
    for number in range(sites):
        site = folder / "A1-supps" / f"A1-Site_{number}"
        site.mkdir(parents=True)
        tracks, positions = [{} for _ in range(cells)], [{} for _ in range(cells)]
        for frame in range(frames):
            stack = {}
            for cell in range(cells):
                radius = rng.uniform(20, 60)
                inside = (np.hypot(y, x) < radius).astype(float)
                images = rng.integers(500, 2000, (2, WINDOW, WINDOW)) + 8000 * inside
                patch = np.stack([*images, inside, inside])[:, None]
                stack[str(site / f"{frame}_{cell}.h5")] = {"mat": patch, "masked_mat": patch.copy()}
                tracks[cell][frame], positions[cell][frame] = cell, np.array([WINDOW, WINDOW])
            with open(site / f"stacks_{frame}.pkl", "wb") as file:
                pickle.dump(stack, file, protocol=4)
        with open(site / "cell_traj.pkl", "wb") as file:
            pickle.dump([tracks, positions], file, protocol=4)
    return sites * frames * cells


def assemble(supp: Path, out: Path) -> None:
    """Read every pickle of a well whole, resize every plane, stack, and write the set with its relations and labels."""
    patches, names, tracks = {}, [], []
    for site in sorted((supp / "A1-supps").iterdir()):
        for path in sorted(site.glob("stacks*")):
            with open(path, "rb") as file:
                stack = pickle.load(file)
            for key, entry in stack.items():
                planes = np.asarray(entry["masked_mat"])[[0, 1]].astype(np.float64)
                half = interpolate(torch.from_numpy(planes), (128, 128), mode="bilinear", align_corners=False)
                patches[key] = half.numpy()
        with open(site / "cell_traj.pkl", "rb") as file:
            tracks += [(site, track) for track in pickle.load(file)[0]]
    names = sorted(patches)
    data = np.stack([patches[name] for name in names])
    index = {name: number for number, name in enumerate(names)}
    relations = {(number, number): 2 for number in range(len(names))}
    labels = np.full(len(names), -1, np.int32)
    for number, (site, track) in enumerate(tracks):
        rows = {frame: index[str(site / f"{frame}_{cell}.h5")] for frame, cell in track.items()}
        for frame, row in rows.items():
            labels[row] = number
            for other, partner in rows.items():
                if other != frame:
                    relations[row, partner] = 2 if abs(other - frame) == 1 else 1
    for name, value in (("patches", data), ("file_paths", names), ("relations", relations), ("labels", labels)):
        with open(out / f"A1_{name}.pkl", "wb") as file:
            pickle.dump(value, file, protocol=4)


def assemble_ours(supp: Path, out: Path) -> None:
    """Write the store of the same well."""
    from microlatent.schemas import Settings
    from microlatent.systems.wells.assemble import assemble
    from microlatent.systems.wells.files import find_wells
    from microlatent.systems.wells.schema import AssembleWellsConfig, WellsConfig

    settings = Settings(data=WellsConfig(name="wells", root=str(supp)), task=AssembleWellsConfig(name="assemble"))
    (well,) = find_wells(supp, None, None, None)
    assemble(well, out / "A1.h5", root=supp, settings=settings)


def main() -> None:
    """Run one way and print its seconds, its peak memory, and how much of that came after the imports, in MB."""
    from microlatent import allocator
    from microlatent.systems.wells import assemble as _  # noqa: F401  both import the same, so that their memory compares

    way, supp, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if way == "ours":
        allocator.tune()
    before, started = psutil.Process().memory_info().rss / 2**20, time.perf_counter()
    (assemble_ours if way == "ours" else assemble)(supp, out)
    seconds = time.perf_counter() - started
    peak = peak_mb()
    print(json.dumps([seconds, peak, peak - before]))


if __name__ == "__main__":
    main()
