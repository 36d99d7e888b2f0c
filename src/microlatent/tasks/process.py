"""``infer.py task=process``: encode every patch of the stores with a trained run, into the latents table."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from microlatent import config
from microlatent.data.source import PatchSource
from microlatent.device import choose_device
from microlatent.experiment import Trained, load_trained
from microlatent.files import atomic, write_csv, write_pickle
from microlatent.progress import track
from microlatent.results import Preflight
from microlatent.schemas import Settings
from microlatent.tasks.process_baselines import EXPLAINED, write_baselines

logger = logging.getLogger(__name__)


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Stream the stores through the encoder and write ``latents.h5ad``; memory does not grow with the number of patches."""
    device = choose_device(settings.trainer.device)
    source, trained = load_trained(settings, device)
    rows = source.rows["all"]
    started = time.perf_counter()
    with atomic(out / "latents.h5ad") as temporary:
        write_latents(temporary, source, rows, trained, settings, device)
    seconds = time.perf_counter() - started
    if source.baselines:
        table = write_baselines(out / "latents.h5ad", source, rows, trained, settings, device)
        write_csv(table, out / EXPLAINED)
        tracker.table("explained_variance", table)
    source.write_extra_files(out, rows)
    if settings.task.reference_files:
        _write_reference_files(out, source, rows)
    tracker.artifact("latents", "latents", out / "latents.h5ad")
    with h5py.File(out / "latents.h5ad") as file:
        width = file["X"].shape[1]
    logger.info(
        "%d patches -> %d latents each, task.norm=%s, normalisation %s",
        len(rows),
        width,
        settings.task.norm,
        source.normaliser.mode,
    )
    return {
        "patches": len(rows),
        "latents": width,
        "patches_per_s": round(len(rows) / seconds, 1),
    }


@torch.no_grad()
def write_latents(
    path: Path, source: PatchSource, rows: np.ndarray, trained: Trained, settings: Settings, device: torch.device
) -> None:
    """Write the AnnData file block by block: ``X`` and ``obsm`` contiguous, ``obs`` the identity of every patch."""
    from anndata import AnnData
    from anndata.io import write_elem

    task, names = settings.task, None
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16")
    provenance = json.dumps(trained.provenance | {"process": config.plain(settings)}, default=str)
    AnnData(obs=_identity(source, rows), uns={"birth": provenance}).write_h5ad(path)
    with h5py.File(path, "a") as file:
        if "X" in file:
            del file["X"]
        for start in track(range(0, len(rows), task.batch_size), "Encoding"):
            here = rows[start : start + task.batch_size]
            batch = source.batch(here, device, channels_last=settings.trainer.channels_last)
            with autocast:
                latents = trained.model.encode(batch.x, task.norm)
            if names is None:
                names = list(latents)
                for number, name in enumerate(names):
                    shape = (len(rows), latents[name].shape[1])
                    data = file.create_dataset("X" if number == 0 else f"obsm/{name}", shape, np.float32)
                    data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for number, name in enumerate(names):
                data = file["X" if number == 0 else f"obsm/{name}"]
                data[start : start + len(here)] = latents[name].float().cpu().numpy()
        if "var" in file:
            del file["var"]
        var = pd.DataFrame(index=[f"{names[0]}_{number}" for number in range(file["X"].shape[1])])
        write_elem(file, "var", var)


def _identity(source: PatchSource, rows: np.ndarray) -> pd.DataFrame:
    table = source.table.assign(part=source.parts(), group=source.groups(source.independent_unit)).iloc[rows]
    return table.set_index(source.names().iloc[rows].rename("patch"))


def _write_reference_files(out: Path, source: PatchSource, rows: np.ndarray) -> None:
    """Write ``<well>_latent_space.pkl`` and ``<well>_latent_space_after.pkl``: float32 (N, D) in the order of the store."""
    with h5py.File(out / "latents.h5ad") as file:
        if "after" not in file.get("obsm", {}):
            raise ValueError(
                "task.reference_files=true writes latents before and after a quantiser, but this model has none. The table "
                f"itself is whole: {out / 'latents.h5ad'}. Leave task.reference_files out."
            )
        wells = source.table["well"].to_numpy()[rows]
        for well in pd.unique(wells):
            here = np.flatnonzero(wells == well)
            block = slice(here[0], here[-1] + 1)  # wells follow one another
            write_pickle(file["X"][block], out / "reference" / f"{well}_latent_space.pkl")
            write_pickle(file["obsm/after"][block], out / "reference" / f"{well}_latent_space_after.pkl")


def preflight(settings: Settings, out: Path) -> Preflight:
    """Load the model, match the channels, encode one batch, and estimate the rest."""
    import psutil

    device = choose_device(settings.trainer.device)
    source, trained = load_trained(settings, device)
    rows = source.rows["all"]
    batch = source.batch(rows[: settings.task.batch_size], device)
    trained.model.encode(batch.x, settings.task.norm)
    started = time.perf_counter()
    width = sum(latent.shape[1] for latent in trained.model.encode(batch.x, settings.task.norm).values())
    passes = 1 + (6 if source.baselines else 0)  # the pixels are read again and again to fit them
    seconds = passes * (time.perf_counter() - started) / len(batch.x) * len(rows)
    files = [out / "latents.h5ad", *([out / EXPLAINED] if source.baselines else []), *source.extra_files(out)]
    return Preflight(
        reads=[f"{store.path}: {len(store)} patches, channels {store.channels}" for store in source.stores],
        notes=[f"{len(rows)} of {len(source)} patches are encoded."] if len(rows) < len(source) else [],
        writes=[str(file) for file in files],
        memory_mb=psutil.Process().memory_info().rss / 1e6,
        disk_mb=len(rows) * width * 4 / 1e6,
        seconds=seconds,
    )
