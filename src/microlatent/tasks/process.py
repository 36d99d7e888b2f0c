"""``infer.py task=process``: encode every patch of the stores with a trained run, into the latents table."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch

from microlatent import config
from microlatent.data.source import PatchSource
from microlatent.device import choose_device
from microlatent.experiment import Trained, load_trained
from microlatent.files import atomic, write_pickle
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.tasks.process_baselines import write_baselines

logger = logging.getLogger(__name__)

TABLE = "latents.h5ad"


class ProcessInput(NamedTuple):
    """What is encoded, and with what."""

    source: PatchSource
    trained: Trained
    widths: dict[str, int]  # of the latents by name; the first become X of the table


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Stream the stores through the encoder and write ``latents.h5ad``; memory does not grow with the number of patches."""
    device = choose_device(settings.trainer.device)
    opened = open_all(settings, device)
    (source, trained, widths), results = opened, results_of(opened, settings, out, tracker)
    rows = source.rows["all"]
    latents = results.path(TABLE)
    started = time.perf_counter()
    with atomic(latents) as temporary:
        write_latents(temporary, opened, settings, device)
    seconds = time.perf_counter() - started
    if source.baselines:
        results.table("explained_variance", write_baselines(latents, source, rows, trained, settings, device))
    source.write_extra_files(out, rows)
    if settings.task.reference_files:
        _write_reference_files(latents, results, source)
    results.artifact("latents", "latents", TABLE)
    width = next(iter(widths.values()))
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


def open_all(settings: Settings, device: torch.device) -> ProcessInput:
    """Open the data and the model, and encode two patches: what cannot be encoded, or written, is refused before all are.

    Raises
    ------
    ValueError
        The model has no such latents as ``task.norm`` or ``task.reference_files`` ask for.
    """
    source, trained = load_trained(settings, device)
    some = source.batch(source.rows["all"][:2], device)
    with torch.no_grad():
        widths = {name: z.shape[1] for name, z in trained.model.encode(some.x, settings.task.norm).items()}
    if settings.task.reference_files and not ("after" in widths and "well" in source.table):
        lacks = "these data have no wells" if "after" in widths else "this model has no quantiser"
        raise ValueError(
            f"task.reference_files=true writes for each well the latents before and after a quantiser, but {lacks} "
            f"(run={settings.run}, data={settings.data.name}). Leave task.reference_files out: latents.h5ad holds all latents."
        )
    return ProcessInput(source, trained, widths)


def results_of(opened: ProcessInput, settings: Settings, out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    source = opened.source
    files = [TABLE, *(str(path.relative_to(out)) for path in source.extra_files(out))]
    if settings.task.reference_files:
        wells = pd.unique(source.table["well"].iloc[source.rows["all"]])
        files += [f"reference/{well}_latent_space{kind}.pkl" for well in wells for kind in ("", "_after")]
    return Results(out, tracker, files=files, tables=["explained_variance"] if source.baselines else [])


@torch.no_grad()
def write_latents(path: Path, opened: ProcessInput, settings: Settings, device: torch.device) -> None:
    """Write the AnnData file block by block: ``X`` and ``obsm`` contiguous, ``obs`` the identity of every patch."""
    from anndata import AnnData
    from anndata.io import write_elem

    (source, trained, widths), task = opened, settings.task
    rows, keys = source.rows["all"], {name: "X" if number == 0 else f"obsm/{name}" for number, name in enumerate(widths)}
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.trainer.precision == "bf16")
    provenance = json.dumps(trained.provenance | {"process": config.plain(settings)}, default=str)
    AnnData(obs=_identity(source, rows), uns={"birth": provenance}).write_h5ad(path)
    with h5py.File(path, "a") as file:
        if "X" in file:
            del file["X"]
        for name, width in widths.items():
            data = file.create_dataset(keys[name], (len(rows), width), np.float32)
            data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for start in track(range(0, len(rows), task.batch_size), "Encoding"):
            here = rows[start : start + task.batch_size]
            batch = source.batch(here, device, channels_last=settings.trainer.channels_last)
            with autocast:
                latents = trained.model.encode(batch.x, task.norm)
            for name, key in keys.items():
                file[key][start : start + len(here)] = latents[name].float().cpu().numpy()
        if "var" in file:
            del file["var"]
        first = next(iter(widths))
        var = pd.DataFrame(index=[f"{first}_{number}" for number in range(widths[first])])
        write_elem(file, "var", var)


def _identity(source: PatchSource, rows: np.ndarray) -> pd.DataFrame:
    table = source.table.assign(part=source.parts(), group=source.groups(source.independent_unit)).iloc[rows]
    return table.set_index(source.names().iloc[rows].rename("patch"))


def _write_reference_files(latents: Path, results: Results, source: PatchSource) -> None:
    """Write ``<well>_latent_space.pkl`` and ``<well>_latent_space_after.pkl``: float32 (N, D) in the order of the store."""
    wells = source.table["well"].to_numpy()[source.rows["all"]]
    with h5py.File(latents) as file:
        for well in pd.unique(wells):
            here = np.flatnonzero(wells == well)
            block = slice(here[0], here[-1] + 1)  # wells follow one another
            for kind, key in (("", "X"), ("_after", "obsm/after")):
                write_pickle(file[key][block], results.path(f"reference/{well}_latent_space{kind}.pkl"))


def preflight(settings: Settings, out: Path) -> Preflight:
    """Load the model, match the channels, encode one batch, and estimate the rest."""
    import psutil

    device = choose_device(settings.trainer.device)
    opened = open_all(settings, device)
    source, rows = opened.source, opened.source.rows["all"]
    batch = source.batch(rows[: settings.task.batch_size], device)
    started = time.perf_counter()
    opened.trained.model.encode(batch.x, settings.task.norm)
    passes = 1 + (6 if source.baselines else 0)  # the pixels are read again and again to fit them
    seconds = passes * (time.perf_counter() - started) / len(batch.x) * len(rows)
    return Preflight(
        reads=source.contents(),
        notes=[f"{len(rows)} of {len(source)} patches are encoded."] if len(rows) < len(source) else [],
        writes=results_of(opened, settings, out).writes,
        memory_mb=psutil.Process().memory_info().rss / 1e6,
        disk_mb=len(rows) * sum(opened.widths.values()) * 4 / 1e6,
        seconds=seconds,
    )
