"""Images to partitions: the reference's way (everything in one array, in double precision), written anew, and ours.

``python -m benchmarks.partitioning`` runs each size in a process of its own and prints JSON: seconds, and the peak of memory
above what the imports take. ``python -m benchmarks.partitioning <way> <folder> <out>`` runs one.

The images are names of a few files, because 400 of them would fill the disk; every name is opened, read and cut.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile

from benchmarks.timing import in_process, peak_mb

SIZE_PX, SIDE_PX, NUM_CHANNELS = 64, 1000, 7
NUM_FILES, IMAGES_PER_SUBJECT = 4, 10
MARKERS = ["GITR", "IDO", "Ki-67", "Foxp3", "CD8", "DAPI", "Cytokeratins"]


def write_files(folder: Path, seed: int = 0) -> list[Path]:
    """Write a few images of seven markers as an instrument does: uint16 OME-TIFF, with a long tail of bright pixels."""
    rng, files = np.random.default_rng(seed), []
    for number in range(NUM_FILES):
        pixels = np.minimum(rng.gamma(0.5, 400, (NUM_CHANNELS, SIDE_PX, SIDE_PX)), 65535).astype(np.uint16)
        files.append(folder / f"file{number}.tif")
        about = {"axes": "CYX", "Channel": {"Name": MARKERS}}
        tifffile.imwrite(files[-1], pixels, ome=True, photometric="minisblack", metadata=about)
    return files


def name_images(files: list[Path], folder: Path, count: int) -> Path:
    """Give the files ``count`` names, as images of subjects."""
    for number in range(count):
        subject = folder / f"S{number // IMAGES_PER_SUBJECT + 1:02d}"
        subject.mkdir(parents=True, exist_ok=True)
        os.link(files[number % len(files)], subject / f"im{number % IMAGES_PER_SUBJECT + 1}.tif")
    return folder


def theirs(folder: Path, out: Path) -> int:
    """Cut every image into whole tiles in double precision, keep a file of each, and load all of them into one array."""
    paths = sorted(folder.rglob("*.tif"))
    for number, path in enumerate(paths):
        image = tifffile.imread(path).transpose(1, 2, 0)
        rows, columns = image.shape[0] // SIZE_PX, image.shape[1] // SIZE_PX
        tiles = image[: rows * SIZE_PX, : columns * SIZE_PX].reshape(rows, SIZE_PX, columns, SIZE_PX, -1).swapaxes(1, 2)
        np.save(out / f"data_partition_{number}.npy", tiles.reshape(-1, SIZE_PX, SIZE_PX, image.shape[2]).astype(np.float64))
    parts = [np.load(out / f"data_partition_{number}.npy") for number in range(len(paths))]
    return len(np.concatenate(parts))


def ours(folder: Path, out: Path) -> int:
    """Write the stores of the same images: the remainder is covered too, and the statistics of every partition are kept."""
    from microlatent.schemas import Settings
    from microlatent.systems.partitions.assemble import run
    from microlatent.systems.partitions.schema import AssemblePartitionsConfig, PartitionsConfig
    from microlatent.tracking import NullTracker

    data = PartitionsConfig(name="partitions", root=str(folder), store=str(out / "stores"))
    settings = Settings(data=data, task=AssemblePartitionsConfig(name="assemble", size=SIZE_PX), outputs=str(out))
    return int(run(settings, out, NullTracker())["partitions"])


def one(way: str, folder: Path, out: Path) -> dict[str, float]:
    """Run one way and return its partitions, seconds and peak memory, and how much of that came after the imports, in MB."""
    from microlatent import allocator
    from microlatent.systems.partitions import assemble as _  # noqa: F401  both import the same, so that their memory compares

    if way == "ours":
        allocator.tune()
    before, started = psutil.Process().memory_info().rss / 2**20, time.perf_counter()
    partitions = (ours if way == "ours" else theirs)(folder, out)
    seconds = time.perf_counter() - started
    peak = peak_mb()
    return {
        "partitions": partitions,
        "seconds": seconds,
        "peak_mb": peak,
        "above_imports_mb": peak - before,
    }


def all_sizes(counts: list[int], reference_counts: list[int]) -> dict:
    """Run both ways at several numbers of images, each in its own process; what they write is removed at once."""
    results: dict[str, dict[str, dict[str, float]]] = {"ours": {}, "reference": {}}
    with tempfile.TemporaryDirectory() as name:
        per_image = (-(-SIDE_PX // SIZE_PX)) ** 2 * SIZE_PX**2 * NUM_CHANNELS * 2
        needed, free = 2.2 * max(counts) * per_image, shutil.disk_usage(name).free  # the pixels stand twice for a moment
        if free < needed:
            raise SystemExit(f"{max(counts)} images need {needed / 1e9:.1f} GB below {name}, but {free / 1e9:.1f} GB are free.")
        files = write_files(Path(name))
        for way, sizes in (("reference", reference_counts), ("ours", counts)):
            for count in sizes:
                with tempfile.TemporaryDirectory(dir=name) as work:
                    folder, out = name_images(files, Path(work) / "images", count), Path(work) / "out"
                    out.mkdir()
                    results[way][str(count)] = in_process("benchmarks.partitioning", way, str(folder), str(out))
    tile_bytes = (SIDE_PX // SIZE_PX) ** 2 * SIZE_PX**2 * NUM_CHANNELS * 8
    # Its parts and their concatenation stand side by side; measured growth per image says the same.
    return results | {"reference_formula_mb_per_image": 2 * tile_bytes / 2**20}


def main() -> None:
    """Run one way if it is named, else all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", nargs="?", choices=["ours", "reference"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--reference-counts", type=int, nargs="+", default=[10, 20, 40])
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(one(arguments.way, arguments.folder, arguments.out)))
    else:
        print(json.dumps(all_sizes(arguments.counts, arguments.reference_counts)))


if __name__ == "__main__":
    main()
