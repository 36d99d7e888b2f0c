"""``infer.py task=assemble data=wells``: the raw files of each well to one store, streaming frame by frame."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xxhash
from torch.nn.functional import interpolate

from microlatent.data.assembling import Plan, Unit, Written, as_task, origin
from microlatent.data.relations import label, relate
from microlatent.data.store import StoreWriter
from microlatent.files import write_pickle
from microlatent.progress import track
from microlatent.schemas import Settings
from microlatent.systems.wells.files import RawFrame, RawWell, find_wells
from microlatent.systems.wells.schema import AssembleWellsConfig, WellsConfig
from microlatent.systems.wells.source import assembly_folder

logger = logging.getLogger(__name__)


class Fractional(Exception):
    """A patch turned out to hold fractions of a count after the store had begun with whole numbers."""


def plan(settings: Settings, outputs: str, out: Path) -> Plan:
    """Find the chosen wells, and read the first frame of each."""
    data, root = settings.data, assembly_folder(settings.data, outputs)
    wells = find_wells(root, data.wells, data.sites, data.channel_names)
    reference = out / "reference" if settings.task.reference_files else None
    return Plan(
        units=[_unit(well, root, settings, reference) for well in wells],
        table="wells",
        sums=("patches", "skipped", "trajectories"),
        whole=data.wells is None and data.sites is None,
        writes=[str(reference / f"{well.name}_*.pkl") for well in wells] if reference else [],
    )


run, preflight = as_task(plan)


def _unit(well: RawWell, root: Path, settings: Settings, reference: Path | None) -> Unit:
    task, channels = settings.task, _chosen_channels(well, settings.data)
    frame = next(well.frames(channels, task.patch_type, task.masks), None)
    if frame is None:
        raise ValueError(f"Well {well.name} in {root} has no cell in any of its {len(well.files)} files.")
    frames = max(1, sum(file.suffix == ".pkl" and file.stem.startswith("stacks") for file in well.files))
    patches = max(sum(len(steps) for _, steps in well.trajectories), len(frame.table) * frames)
    return Unit(
        name=well.name,
        reads=[
            f"{well.name}: {len(well.files)} files, channels {well.channels}, window {well.window_px} px, about {patches} patches"
        ],
        write=partial(assemble, well, root=root, settings=settings, reference=reference),
        size_mb=patches * len(channels) * task.patch_px**2 * _dtype(well, task).itemsize / 1e6,
        memory_mb=200 + 4 * frame.images.nbytes / 1e6,
        seconds=patches / 2000,
    )


def _chosen_channels(well: RawWell, data: WellsConfig) -> list[int]:
    """Return where the channels of ``data.channels`` lie in a well's files.

    Raises
    ------
    ValueError
        The well lacks one.
    """
    names = data.channels or well.channels
    missing = [name for name in names if name not in well.channels]
    if missing or not names:
        raise ValueError(
            f"data.channels names {missing or names}, but well {well.name} has {well.channels}. Name the raw channels in their "
            "order with data.channel_names=[...]."
        )
    return [well.channels.index(name) for name in names]


def assemble(well: RawWell, path: Path, *, root: Path, settings: Settings, reference: Path | None = None) -> Written:
    """Write one well's store; the folder ``reference`` receives the reference's pickles if it is given."""
    dtype = _dtype(well, settings.task)
    try:
        return _assemble(well, path, root, settings, reference, dtype)
    except Fractional:
        return _assemble(well, path, root, settings, reference, np.dtype(np.float32))


def _dtype(well: RawWell, task: AssembleWellsConfig) -> np.dtype:
    if task.dtype != "auto":
        return np.dtype(task.dtype)
    if well.window_px != task.patch_px:
        return np.dtype(np.float32)  # resampling makes fractions
    return np.dtype(well.camera_dtype or np.uint16)


def _assemble(well: RawWell, path: Path, root: Path, settings: Settings, reference: Path | None, dtype: np.dtype) -> Written:
    task, data, channels = settings.task, settings.data, _chosen_channels(well, settings.data)
    skipped, rounding, exact = [], [], []
    digest = xxhash.xxh3_128()  # blake2b would take a third of the time of assembling
    with StoreWriter(path, dtype) as writer:
        for frame in track(well.frames(channels, task.patch_type, task.masks), f"Assembling {well.name}", total=len(well.files)):
            images = resample(frame.images, task.patch_px)
            good = np.isfinite(images).all((1, 2, 3)) & (images.max((2, 3)) > images.min((2, 3))).any(1)
            skipped += frame.table["key"][~good].tolist()
            if not good.all() and data.bad_patches == "refuse":
                raise ValueError(
                    f"{skipped[0]} of well {well.name} holds NaN or is constant in every channel. "
                    "Mend the raw images, or leave such patches out with data.bad_patches=skip."
                )
            images, table = images[good], frame.table[good]
            if not len(images):
                continue
            if reference:
                exact.append(images)
            if dtype.kind == "u":
                images = _rounded(images, dtype, task, rounding)
            digest.update(np.ascontiguousarray(images).data)
            writer.append(images, table, _masks(frame, task, good))
        if not writer.tables:
            raise ValueError(
                f"Well {well.name} in {root} has no usable cell: {len(skipped)} patches are NaN or constant, no other exists."
            )
        table = writer.table
        if table["key"].duplicated().any():
            raise ValueError(f"Well {well.name} has two patches named {table['key'][table['key'].duplicated()].iloc[0]}.")
        table, relations, lengths = _join(well, table, bool(skipped))
        pixel_um = data.pixel_um or well.pixel_um
        writer.finish(
            table,
            name=well.name,
            relations=relations,
            trajectory_lengths=lengths,
            channels=[well.channels[channel] for channel in channels],
            pixel_um=pixel_um,
            frame_min=data.frame_min or well.frame_min,
            patch_pixel_um=pixel_um * well.window_px / task.patch_px if pixel_um else None,
            origin=origin(settings, root)
            | {
                "files": len(well.files),
                "bytes": sum(file.stat().st_size for file in well.files),
                "digest": digest.hexdigest(),
                "skipped": skipped[:100],
            },
        )
    _report(well, skipped, rounding)
    if reference:
        write_reference_files(reference, well.name, np.concatenate(exact), table, relations)
    row = {"well": well.name, "patches": len(table), "channels": len(channels), "trajectories": len(lengths)}
    row |= {"relations": len(relations) - len(table), "skipped": len(skipped)}
    return [row], f"{well.name}: {len(table)} patches of {len(channels)} channels, {len(lengths)} trajectories"


def resample(images: np.ndarray, side: int) -> np.ndarray:
    """Resample square patches (n, C, W, W) bilinearly with half-pixel centres, as the reference does."""
    if images.shape[-1] == side:
        return images
    working = images if images.dtype in (np.float32, np.float64) else images.astype(np.float32)
    return interpolate(torch.from_numpy(working), (side, side), mode="bilinear", align_corners=False).numpy()


def _rounded(images: np.ndarray, dtype: np.dtype, task: AssembleWellsConfig, rounding: list[float]) -> np.ndarray:
    if images.dtype == dtype:
        return images
    limit = np.iinfo(dtype).max
    if images.min() < 0 or images.max() > limit:
        if task.dtype == "auto":
            raise Fractional
        raise ValueError(
            f"task.dtype={dtype} holds 0 to {limit} counts, but the patches reach from {images.min():.6g} to {images.max():.6g}. "
            "Use task.dtype=float32."
        )
    whole = np.rint(images)
    error = float(np.square(images - whole).mean())
    if error > 0 and task.dtype == "auto":
        raise Fractional
    rounding.append(error)
    return whole.astype(dtype)


def _masks(frame: RawFrame, task: AssembleWellsConfig, good: np.ndarray) -> np.ndarray | None:
    if frame.masks is None:
        return None
    return (resample(frame.masks[good].astype(np.float32), task.patch_px) >= 0.5).astype(np.uint8)


def _join(well: RawWell, table: pd.DataFrame, some_skipped: bool) -> tuple[pd.DataFrame, np.ndarray, dict[str, int]]:
    """Add label and trajectory of every row; return the table, the relations, and the frames of every raw trajectory."""
    identity = zip(table["site"], table["frame"], table["cell_id"], strict=True)
    row_of = {one: row for row, one in enumerate(identity)}
    trajectories, names, lost = [], np.full(len(table), "", dtype=object), []
    for name, steps in well.trajectories:
        site = name.rsplit("/", 1)[0]
        found = [(frame, row_of[site, frame, cell]) for frame, cell in steps if (site, frame, cell) in row_of]
        lost += [f"{name} frame {frame} cell {cell}" for frame, cell in steps if (site, frame, cell) not in row_of]
        frames, rows = (np.array(part, np.int64) for part in (zip(*found, strict=True) if found else ((), ())))
        trajectories.append((frames, rows))
        names[rows] = name
    if lost:
        logger.warning(
            "%s: %d of %d patches that trajectories name are missing (%s%s). They are skipped; task=match keeps a trajectory if "
            "enough of it was found.",
            well.name,
            len(lost),
            sum(len(steps) for _, steps in well.trajectories),
            ", ".join(lost[:3]),
            " ..." if len(lost) > 3 else "",
        )
    own = well.relations is not None and not some_skipped  # else the rows that a file's relations name have moved
    relations = well.relations if own else relate(trajectories, len(table))
    labels = well.labels if own else label(trajectories, len(table))
    lengths = {name: len(steps) for name, steps in well.trajectories}
    return table.assign(label=labels, trajectory=names), relations, lengths


def _report(well: RawWell, skipped: list[str], rounding: list[float]) -> None:
    if skipped:
        logger.warning(
            "%s: %d patches hold NaN or are constant and were skipped, the first %s.", well.name, len(skipped), skipped[0]
        )
    if any(rounding):
        rms = float(np.sqrt(np.mean(rounding)))
        logger.warning(
            "%s: task.dtype=uint16 rounded to whole counts; the root mean square error is %.3f counts.", well.name, rms
        )


def write_reference_files(folder: Path, well: str, patches: np.ndarray, table: pd.DataFrame, relations: np.ndarray) -> None:
    """Write the reference's four pickles; unlike the store they are written, and were always read, whole."""
    write_pickle(table["key"].tolist(), folder / f"{well}_file_paths.pkl")
    write_pickle(patches[:, :, None].astype(np.float64), folder / f"{well}_static_patches.pkl")
    pairs = {(first, second): code for first, second, code in relations.tolist()}
    write_pickle(pairs, folder / f"{well}_static_patches_relations.pkl")
    write_pickle(table["label"].to_numpy(np.int32), folder / f"{well}_static_patches_labels.pkl")
