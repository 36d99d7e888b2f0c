"""A small store of moving cells and its latents table, for tests of what comes after training."""

from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.data.relations import relate
from microlatent.data.store import StoreWriter


def cells(
    num_tracks: int, num_frames: int, patch_px: int, rng: np.random.Generator
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Simulate elliptic cells: patches (N, 2, Y, X) uint16, their table by frame, and the planted factors (N, 3)."""
    grid = (np.arange(patch_px) - patch_px / 2 + 0.5) / patch_px
    size, stretch, peak = (np.repeat(rng.normal(size=(num_tracks, 1)), num_frames, 1) for _ in range(3))
    factors = np.stack([part + 0.25 * rng.normal(size=part.shape).cumsum(1) * 0.5 for part in (size, stretch, peak)], -1)
    centre = rng.uniform(100, 900, (num_tracks, 1, 2)) + rng.normal(0, 6, (num_tracks, num_frames, 2)).cumsum(1)
    angle = rng.uniform(0, np.pi, (num_tracks, 1)) + rng.normal(0, 0.2, (num_tracks, num_frames)).cumsum(1)
    patches, records = [], []
    for frame in range(num_frames):
        for track in range(num_tracks):
            f, a = factors[track, frame], angle[track, frame]
            along = grid[:, None] * np.sin(a) + grid[None] * np.cos(a)
            across = grid[:, None] * np.cos(a) - grid[None] * np.sin(a)
            radius, ratio = 0.17 * np.exp(0.25 * f[0]), np.exp(0.25 * f[1])
            distance = np.hypot(along / ratio, across * ratio) / radius
            body = 1 / (1 + np.exp((distance - 1) * 8))
            rim = np.exp(-((distance - 1.1) ** 2) * 30)
            phase = 30000 - 3500 * rim + 5000 * np.exp(0.3 * f[2]) * body * (1.2 - np.minimum(distance, 1.2))
            stain = 400 + 6000 * np.exp(-(distance**2) * 3) * np.exp(0.4 * f[2])
            plane = np.stack([phase, stain]) + rng.normal(0, 1, (2, patch_px, patch_px)) * [[[400]], [[150]]]
            patches.append(np.clip(plane, 0, 65535).astype(np.uint16))
            row = {"frame": frame, "cell_id": track, "y_px": centre[track, frame, 0], "x_px": centre[track, frame, 1]}
            records.append(row | {"track": track, "true_size": f[0], "true_stretch": f[1], "true_peak": f[2]})
    table = pd.DataFrame(records)
    return np.stack(patches), table, table[["true_size", "true_stretch", "true_peak"]].to_numpy()


def write_store(
    path: Path, well: str = "A1", num_tracks: int = 12, num_frames: int = 10, patch_px: int = 32, seed: int = 0, **scale
):
    """Write one well; the last track is incomplete and misses a frame, every tenth patch of no track is loose."""
    rng = np.random.default_rng(seed)
    patches, table, factors = cells(num_tracks, num_frames, patch_px, rng)
    site = f"{well}-Site_0"
    table.insert(
        0, "key", [f"supp/{well}-supps/{site}/{t}_{c}.h5" for t, c in zip(table["frame"], table["cell_id"], strict=True)]
    )
    table.insert(1, "well", well)
    table.insert(2, "site", site)
    lengths = {f"{site}/{i}": num_frames for i in range(num_tracks)}
    loose = table["track"] == num_tracks - 1  # the last cell was never tracked
    del lengths[f"{site}/{num_tracks - 1}"]
    table["trajectory"] = np.where(loose, "", site + "/" + table["track"].astype(str))
    table["label"] = np.where(loose, num_tracks + np.arange(len(table)), table["track"])
    keep = ~((table["track"] == 0) & (table["frame"] == 3)).to_numpy()  # track 0 lacks a patch
    table = table[keep].drop(columns="track").reset_index(drop=True)
    with StoreWriter(path, np.uint16) as writer:
        writer.append(patches[keep], table)
        named = table["trajectory"] != ""
        tracks = [np.flatnonzero(table["trajectory"] == name) for name in table["trajectory"][named].unique()]
        frames = table["frame"].to_numpy()
        relations = relate([(frames[rows], rows) for rows in tracks], len(table))
        about = {"name": well, "channels": ["phase", "stain"], "origin": {"root": "simulated"}}
        writer.finish(table, relations=relations, trajectory_lengths=lengths, **about, **scale)
    return table, factors[keep]


def write_latents(folder: Path, wells: tuple[str, ...] = ("A1", "B2"), dims: int = 40, seed: int = 0, **options) -> Path:
    """Write stores and a latents table whose latents hold the planted factors linearly beside noise."""
    from anndata import AnnData

    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(dims, 3)))[0].T * [[4], [3], [2]]
    tables, blocks = [], []
    for number, well in enumerate(wells):
        path = folder / "stores" / f"{well}.h5"
        table, factors = write_store(path, well, seed=seed + number, **options)
        part = np.where(table["label"] % 4 == 3, "val", "train")
        group = well + "/" + table["label"].astype(str)
        tables.append(table.assign(row=np.arange(len(table)), store=str(path), part=part, group=group))
        blocks.append(factors @ mixing + 0.5 * rng.normal(size=(len(table), dims)))
    obs = pd.concat(tables, ignore_index=True)
    obs.index = obs["site"] + "/" + obs["frame"].astype(str) + "_" + obs["cell_id"].astype(str)
    x = np.concatenate(blocks).astype(np.float32)
    path = folder / "process" / "latents.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)
    AnnData(x, obs=obs, obsm={"after": np.round(x)}, uns={"birth": "{}"}).write_h5ad(path)
    return path


MARKERS = ("DAPI", "CD8", "Cytokeratins")
LEVELS = np.array([[300, 60, 40], [260, 40, 700], [420, 500, 30]])  # counts of each marker in each neighbourhood


def tissue(shape_px: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Simulate three neighbourhoods: each pixel's class (Y, X), the nearest seed's, and markers (3, Y, X) uint16."""
    place = np.stack(np.indices(shape_px), -1)
    seeds = rng.uniform(0, 1, (9, 2)) * shape_px
    kind = np.arange(9)[((place[:, :, None] - seeds) ** 2).sum(-1).argmin(-1)] % 3
    counts = rng.poisson(LEVELS[kind] * rng.gamma(4, 0.25, (*shape_px, 1))) + 20
    return kind, np.moveaxis(counts, -1, 0).astype(np.uint16)


def corners(length_px: int, size: int, overlap: int) -> list[int]:
    """Return where partitions begin along one axis; the last one is shifted inwards so that all is covered."""
    begin = list(range(0, length_px - size + 1, size - overlap))
    return begin if begin[-1] == length_px - size else [*begin, length_px - size]


def write_partition_store(
    path: Path,
    subject: str = "s1",
    num_images: int = 3,
    shape_px: tuple[int, int] = (100, 84),
    size: int = 12,
    overlap: int = 0,
    seed: int = 0,
    **scale,
) -> pd.DataFrame:
    """Write one subject's partitions; ``true_neighbourhood`` is the class of most pixels, ``true_share`` its share of them."""
    rng, images, blocks, records = np.random.default_rng(seed), {}, [], []
    for image in (f"i{number + 1}" for number in range(num_images)):
        kind, pixels = tissue(shape_px, rng)
        images[image] = {"shape_px": list(shape_px), "dtype": "uint16", "file": f"{subject}/{image}.tif"}
        for row in corners(shape_px[0], size, overlap):
            for col in corners(shape_px[1], size, overlap):
                part = np.s_[row : row + size, col : col + size]
                blocks.append(pixels[:, *part])
                share = np.bincount(kind[part].ravel(), minlength=3) / size**2
                record = {"key": f"{subject}/{image}/{row}_{col}", "subject": subject, "image": image}
                record |= {"row_px": row, "col_px": col, "foreground": 1.0}
                records.append(record | {"true_neighbourhood": "abc"[share.argmax()], "true_share": share.max()})
    table = pd.DataFrame(records)
    origin = {"root": "simulated", "images": images, "size": size, "overlap": overlap, "remainder": "shift"}
    with StoreWriter(path, np.uint16) as writer:
        writer.append(np.stack(blocks), table)
        writer.finish(table, name=subject, channels=list(MARKERS), origin=origin, **scale)
    return table


def write_partition_latents(
    folder: Path, subjects: tuple[str, ...] = ("s1", "s2", "s3"), dims: int = 12, seed: int = 0, **options
) -> Path:
    """Write stores and a latents table whose latents hold the planted neighbourhood linearly beside noise.

    Dimension 0 is noise that varies most, so that the widest dimension is not the one that knows. The last subject is held out.
    """
    from anndata import AnnData

    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(dims - 1, 3)))[0].T * 6  # orthogonal, equally far from each other
    tables, blocks = [], []
    for number, subject in enumerate(subjects):
        path = folder / "stores" / f"{subject}.h5"
        table = write_partition_store(path, subject, seed=seed + number, **options)
        part = "val" if subject == subjects[-1] else "train"
        tables.append(table.assign(row=np.arange(len(table)), store=str(path), part=part, group=subject))
        known = centres[[("abc").index(name) for name in table["true_neighbourhood"]]]
        noise = rng.normal(size=(len(table), dims)) * [3.0, *([0.7] * (dims - 1))]
        blocks.append(noise + np.column_stack([np.zeros(len(table)), known]))
    obs = pd.concat(tables, ignore_index=True)
    obs.index = obs["key"].to_numpy()
    path = folder / "process" / "latents.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)
    AnnData(np.concatenate(blocks).astype(np.float32), obs=obs, uns={"birth": "{}"}).write_h5ad(path)
    return path


def write_scan_latents(
    folder: Path, map_shape: tuple[int, int] = (20, 24), dims: int = 6, holes: int = 0, pattern_px=(12, 10), seed: int = 0
) -> Path:
    """Write the store of one EBSD scan and its latents: four grains; latent 0 is band contrast, 1 oxygen, others noise.

    ``holes`` points of the map have no pattern. The baseline of PCA is the latents turned; element_Al belongs to nothing.
    """
    from anndata import AnnData
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)

    def smooth(sigma: float = 3.0) -> np.ndarray:
        field = gaussian_filter(rng.normal(size=map_shape), sigma, mode="wrap")
        return (field - field.mean()) / field.std()

    y, x = (axis.ravel() for axis in np.indices(map_shape))
    seeds = rng.uniform(0, 1, (4, 2)) * map_shape
    grain = ((np.stack([y, x], -1)[:, None] - seeds) ** 2).sum(-1).argmin(-1)
    quality, oxygen, latents = smooth(), smooth(), np.stack([smooth().ravel() for _ in range(dims)], -1)
    latents[:, 0] = quality.ravel() + 0.3 * latents[:, 0]
    latents[:, 1] = oxygen.ravel() + 0.3 * latents[:, 1]
    keep = np.ones(len(x), bool)
    keep[rng.choice(len(x), holes, replace=False)] = False
    table = pd.DataFrame(
        {
            "key": [f"demo/{a}_{b}" for a, b in zip(x, y, strict=True)],
            "scan": "demo",
            "x": x,
            "y": y,
            "x_um": x * 0.5,
            "y_um": y * 0.5,
            "bandcontrast": np.clip(128 + 40 * quality.ravel(), 0, 255).astype(np.uint8),
            "image_quality": 0.4 + 0.05 * quality.ravel(),
            "phase": grain % 2 + 1,
            "element_O": np.clip(20 + 5 * oxygen.ravel(), 0, None),
            "element_Fe": np.clip(80 - 5 * oxygen.ravel(), 0, None),
            "element_Al": np.clip(2 + smooth().ravel(), 0, None),
            "true_grain": grain,
        }
    )[keep].reset_index(drop=True)
    planes = np.stack([np.full(pattern_px, 50.0 + 10 * number) for number in range(4)])
    patterns = planes[table["true_grain"]] + rng.normal(0, 5, (len(table), *pattern_px))
    path = folder / "stores" / "demo.h5"
    with StoreWriter(path, np.float32) as writer:
        writer.append(patterns[:, None].astype(np.float32), table)
        origin = {
            "map_shape": list(map_shape),
            "step_um": [0.5, 0.5],
            "quality": "bandcontrast",
            "elements": {name: "wt%" for name in table if name.startswith("element_")},
            "phases": {"1": "Fe", "2": "FeO"},
            "format": "simulated",
            "metadata": {},
        }
        writer.finish(table, name="demo", channels=["pattern"], origin=origin)
    block = "demo/" + (table["y"] // 8).astype(str) + "_" + (table["x"] // 8).astype(str)
    part = np.where(table["x"] // 8 == 2, "val", "train")
    obs = table.assign(row=np.arange(len(table)), store=str(path), part=part, group=block)
    obs.index = table["key"].rename("patch")
    values = latents[keep].astype(np.float32)
    turned = (values @ np.linalg.qr(rng.normal(size=(dims, dims)))[0]).astype(np.float32)
    target = folder / "process" / "latents.h5ad"
    target.parent.mkdir(parents=True, exist_ok=True)
    AnnData(values, obs=obs, obsm={"baseline_pca": turned}, uns={"birth": "{}"}).write_h5ad(target)
    return target
