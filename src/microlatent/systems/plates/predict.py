"""``infer.py task=predict``: plates through a trained model, to ``<run>/prediction.zarr``.

The prediction is a plate as the input is, or a single image, with every time point, plane and pixel of it. Its channels are
called ``<channel>_prediction``; scale, translation and units are the input's. Nothing is written into the input.

A field appears under its name when it is whole, and says which pixels it was made from: that is the mark that it is done. So a
command that was stopped goes on where it stopped when it is given again, and several may work on one plate. A plate says how it
was made. One that was made otherwise is set aside under another name, never mixed with.

``predict/`` holds what any task leaves: settings, log, and ``tables/fields.csv``.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from microlatent import config as registry
from microlatent import run as runs
from microlatent.data.folders import preflight_outputs
from microlatent.data.io.ome_zarr.image import OmeImage
from microlatent.data.io.ome_zarr.metadata import is_zarr, read_attributes, write_group
from microlatent.data.io.ome_zarr.plate import Plate
from microlatent.data.io.ome_zarr.writer import ImageWriter, create_plate, remove_partials_of
from microlatent.progress import track
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.signals import raise_on_signals
from microlatent.systems.plates.fields import (
    Field,
    open_fields,
    plate_map,
    refuse_stale_attributes,
    statistics_folder,
    statistics_of,
)
from microlatent.systems.plates.normalise import StainNormaliser, line_of_attributes
from microlatent.systems.plates.statistics import fingerprint_of_files, known_statistics
from microlatent.systems.plates.tiles import Network, Tiling, averaged, predict_field

if TYPE_CHECKING:
    from microlatent.systems.plates.network import Stainer

logger = logging.getLogger(__name__)

KEY = "microlatent"  # attribute of the prediction that says how it was made
OTHER_SCALE = 1.1  # pixel sizes that differ by more are warned of
STATISTICS = ("normalization", "normalization_origin")  # attributes that hold of the input's pixels alone


class Job(NamedTuple):
    """A field, and where its prediction goes."""

    field: Field
    path: Path  # of the predicted image
    store: Path  # of the plate; of a single image the image itself
    made: dict[str, Any]  # how: what the store says of itself

    @property
    def is_done(self) -> bool:
        """Whether the field was predicted, from the pixels that it has now."""
        return is_zarr(self.path) and _said(self.path).get("input") == fingerprint_of_files(self.field.image)

    @property
    def lock(self) -> FileLock:
        """A lock that ends with the process that holds it."""
        return FileLock(_locks(self.store) / f"{self.field.image.name.replace('/', '_')}.lock", timeout=0)


class PredictInput(NamedTuple):
    """What is predicted, by which model, and how."""

    stainer: Stainer
    plates: list[Plate]
    fields: list[Field]  # of the chosen wells
    jobs: list[Job]  # of this command
    tiling: Tiling
    notes: list[str]


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Predict every field that is not there yet."""
    opened = open_all(settings, settings.outputs)
    results = results_of(out, tracker)
    for note in opened.notes:
        logger.warning("%s", note)
    for store in dict.fromkeys(job.store for job in opened.jobs):
        begin(store, opened)
    there = {job.path for job in opened.jobs if job.is_done}
    if there:
        logger.info("%d of %d fields are there already.", len(there), len(opened.jobs))
    started = time.perf_counter()
    waiting = [job for job in opened.jobs if job.path not in there]
    if settings.task.workers > 1 and len(waiting) > 1:
        share(settings, min(settings.task.workers, len(waiting)))
    else:
        for job in track(waiting, "Predicting"):
            predict(job, opened, settings)
    seconds = time.perf_counter() - started
    left = [job.field.name for job in opened.jobs if not job.is_done]
    if left:
        logger.warning("Another process is at work on %s; %d fields are left to it.", ", ".join(left[:6]), len(left))
    table = pd.DataFrame(
        {"field": job.field.name, **dict(zip("tczyx", job.field.image.shape, strict=True)), "prediction": str(job.path)}
        | {"is_new": job.path not in there}
        for job in opened.jobs
    )
    results.table("fields", table)
    pixels = sum(np.prod([*job.field.image.shape[:1], *job.field.image.shape[2:]]) for job in waiting)
    logger.info("%d fields -> %s", len(opened.jobs), ", ".join({str(job.store): 0 for job in opened.jobs}))
    return {"fields": len(opened.jobs), "new_fields": len(waiting), "mpx_per_s": round(float(pixels) / 1e6 / seconds, 3)}


def results_of(out: Path, tracker: Any = None) -> Results:
    """Declare the files beside the prediction itself."""
    return Results(out, tracker, tables=["fields"])


# ------------------------------------------------------------------------------------------------------ what and how


def open_all(settings: Settings, outputs: str) -> PredictInput:
    """Load the model, open the plates and match the channels by name.

    Raises
    ------
    ValueError, FileNotFoundError
        A channel, a well or a pixel size is not there, or tiles would show seams.
    """
    from microlatent.systems.plates.network import load_stainer

    stainer, task = load_stainer(settings), settings.task
    fields, plates = open_fields(settings.data, outputs)
    if any(field.held_out for field in fields):  # of a project folder
        fields = [field for field in fields if field.held_out]
    wells = _chosen(task.wells, fields, "task.wells", lambda field: {field.well, field.well.replace("/", "")})
    shared = _chosen(task.fields, wells, "task.fields", lambda field: {field.name, field.image.name})
    for field in wells:
        for channel in stainer.channels:
            field.image.channel(channel)
    tiling = tiling_of(stainer, settings, wells)
    kept = [plate for plate in plates if any(field.plate == plate.name for field in wells)]
    jobs = [_job(field, wells, kept, stainer, tiling, settings) for field in shared]
    return PredictInput(stainer, kept, wells, jobs, tiling, notes_of(stainer, tiling, wells, settings))


def _chosen(names: Sequence[str] | None, fields: list[Field], key: str, of: Callable[[Field], set[str]]) -> list[Field]:
    for name in names or []:
        if not any(name in of(field) for field in fields):
            there = list(dict.fromkeys(max(of(field), key=len) for field in fields))
            raise ValueError(f"{key} names {name!r}, but there is no such one. {registry.nearest(name, there)}")
    return [field for field in fields if names is None or of(field) & set(names)]


def tiling_of(stainer: Stainer, settings: Settings, fields: Sequence[Field]) -> Tiling:
    """Choose tiles that do not show.

    Raises
    ------
    ValueError
        The model does not state its receptive field, and frames are larger than a tile; or windows would leave planes out.
    """
    task, needed = settings.task, None if stainer.receptive_field is None else stainer.receptive_field // 2
    halo = needed if task.halo_px is None else task.halo_px
    tile = task.tile_px or (512 if (halo or 0) <= 64 else 1024)
    side = max(max(field.image.shape[3:]) for field in fields)
    if halo is None and side > tile:
        raise ValueError(
            f"The model of run={settings.run} does not state its receptive_field (px), so tiles of frames of {side} px would "
            "show seams. Give task.halo_px, half of the receptive field, or task.tile_px of the frame's size."
        )
    step = task.z_step or max(1, stainer.planes // 2)
    if stainer.all_planes and step > stainer.planes:
        raise ValueError(f"task.z_step is {step}, but the model's windows have {stainer.planes} planes. Set it to that or less.")
    return Tiling(tile, halo or 0, stainer.stride, stainer.planes, stainer.all_planes, step, task.batch_size)


def notes_of(stainer: Stainer, tiling: Tiling, fields: Sequence[Field], settings: Settings) -> list[str]:
    """Return what a user should know before."""
    notes, task, before = [], settings.task, tiling.planes // 2
    if stainer.receptive_field and tiling.halo_px < stainer.receptive_field // 2:
        notes.append(
            f"task.halo_px={tiling.halo_px} is below half of the model's receptive field of {stainer.receptive_field} px: seams "
            "show."
        )
    if stainer.all_planes and (short := [field.name for field in fields if field.image.shape[2] < tiling.planes]):
        notes.append(f"{short[0]} has fewer planes than the model's {tiling.planes}: it is mirrored at its first and last plane.")
    elif before and not stainer.all_planes:
        notes.append(f"The first and last {before} planes of a stack are predicted with planes that are mirrored at its ends.")
    for field in fields:
        ratios = ratio_of(field.image, stainer, settings)
        sizes = [(stainer.pixel_um, max(ratios, key=lambda one: abs(np.log(one))), "pixels", "um")] if ratios else []
        if stainer.z_um and (z_um := settings.data.z_um or field.image.z_um) and field.image.shape[2] > 1 and tiling.planes > 1:
            sizes.append((stainer.z_um, z_um / stainer.z_um, "planes", "um apart"))
        for trained, ratio, what, unit in sizes:
            if abs(np.log(ratio)) > np.log(OTHER_SCALE) and not (task.rescale and what == "pixels"):
                remedy = "resample with task.rescale=true." if what == "pixels" else "planes are not resampled."
                notes.append(
                    f"{field.name} has {what} of {trained * ratio:.3g} {unit}, but the model was trained on {trained:.3g} "
                    f"{unit}: {remedy}"
                )
        if notes and len(notes) > 4:
            break
    return notes


def ratio_of(image: OmeImage, stainer: Stainer, settings: Settings) -> tuple[float, float] | None:
    """Return the size of the image's pixels, rows and columns, in those that the model was trained on; None if one is unknown."""
    own = settings.data.pixel_um or image.pixel_um
    if own and stainer.pixel_um:
        return own / stainer.pixel_um * image.scale[3] / image.scale[4], own / stainer.pixel_um
    if settings.task.rescale:
        whose = f"of {image.path}" if not own else f"that run={settings.run} was trained on"
        raise ValueError(
            f"task.rescale=true needs the pixel size {whose}, which is not known. Give data.pixel_um, or leave it out."
        )
    return None


def _job(field: Field, fields: list[Field], plates: list[Plate], stainer: Stainer, tiling: Tiling, settings: Settings) -> Job:
    """Say where a field's prediction goes, and all that decides its pixels."""
    (plate,) = (one for one in plates if one.name == field.plate)
    own = [one for one in fields if one.plate == plate.name]
    store = Path(settings.run) / ("prediction.zarr" if len(plates) == 1 else f"prediction_{plate.name}.zarr")
    task = settings.task
    made = {key: getattr(task, key) for key in ("units", "tta", "rescale", "version")} | vars(tiling) | stainer.identity
    made |= {"input": str(plate.path.resolve()), "channels": stainer.channels, "fields": [one.image.name for one in own]}
    made |= {"normalise": stainer.normaliser.mode, "statistics": settings.data.statistics, "pixel_um": settings.data.pixel_um}
    made |= {"precision": settings.trainer.precision, "device": settings.trainer.device.partition(":")[0]}
    is_single = not plate.is_plate and len(plate.fields) == 1
    return Job(field, store if is_single else store / field.image.name, store, made)


# ---------------------------------------------------------------------------------------------------------- the store


def _said(path: Path) -> dict[str, Any]:
    """Return what a store or an image says of how it was predicted."""
    return read_attributes(path)[2].get(KEY) or {}


def _locks(store: Path) -> Path:
    folder = store.with_name(f".{store.stem}")
    folder.mkdir(exist_ok=True)
    return folder


def begin(store: Path, opened: PredictInput) -> None:
    """Create a plate, or go on with it; one that was made otherwise gets another name.

    Raises
    ------
    ValueError
        Another process is at work on one that was made otherwise.
    """
    jobs = [job for job in opened.jobs if job.store == store]
    made = json.loads(json.dumps(jobs[0].made))
    (plate,) = (plate for plate in opened.plates if plate.name == jobs[0].field.plate)
    with FileLock(_locks(store) / "store.lock", timeout=60):
        if is_zarr(store) and _said(store).get("made") != made:
            _refuse_busy(store)
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(store.stat().st_mtime))
            kept = store.rename(runs.free_name(store.with_name(f"{store.stem}-{stamp}.zarr")))
            logger.warning("%s was made from other data or with other settings; it is now %s.", store, kept.name)
        if jobs[0].path == store:
            return
        if plate.is_plate:
            places = [field.image.place for field in opened.fields if field.plate == plate.name]
            about = {"attributes": {KEY: {"made": made}}, **_rows_and_columns(plate)}
            create_plate(store, [place[:2] for place in places], made["version"], plate.name, **about)
        else:
            write_group(store, made["version"], {"bioformats2raw.layout": 3}, {KEY: {"made": made}})


def _rows_and_columns(plate: Plate) -> dict[str, list[str]]:
    """Return the names of all rows and columns of the input, so that a well lies where it lay."""
    about = read_attributes(plate.path)[1].get("plate") or {}
    return {key: [str(one["name"]) for one in about.get(key, [])] for key in ("rows", "columns")}


def _refuse_busy(store: Path) -> None:
    for path in _locks(store).glob("*.lock"):
        if path.name != "store.lock":
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                raise ValueError(
                    f"{store} is being written by another process, from other data or with other settings. Wait for it, or "
                    "stop it."
                ) from None


def predict(job: Job, opened: PredictInput, settings: Settings) -> None:
    """Predict a field, unless it is done or another process is at it."""
    try:
        with job.lock:
            if job.is_done:
                return
            remove_partials_of(job.path)
            if job.path.exists():
                logger.warning("%s has other pixels than when it was predicted; it is predicted again.", job.field.name)
                shutil.rmtree(job.path)
            write_field(job, opened, settings)
    except Timeout:
        logger.info("%s is left to another process.", job.field.name)


def write_field(job: Job, opened: PredictInput, settings: Settings) -> None:
    """Predict a field and write it."""
    stainer, image, task = opened.stainer, job.field.image, settings.task
    marks = {"input": fingerprint_of_files(image)} | ({"made": job.made} if job.path == job.store else {})
    places = [image.channel(name) for name in stainer.channels]
    times = written_times(image, places)
    if len(times) < image.shape[0]:
        logger.warning("%s: nothing was written of %d time points; they stay empty.", job.field.name, image.shape[0] - len(times))
    in_counts = task.units == "counts"
    dtype = image.dtype if in_counts and image.dtype.kind in "iu" else np.dtype(np.float32)
    lines = source_lines(job.field, stainer.normaliser, settings)
    centre, scale = (np.array(stainer.normaliser.target, np.float32)[:, k, None, None] for k in (0, 1))
    ratio = (ratio_of(image, stainer, settings) if task.rescale else None) or (1.0, 1.0)
    with ImageWriter(
        job.path,
        (image.shape[0], len(stainer.target_channels), *image.shape[2:]),
        dtype,
        [f"{name}_prediction" for name in stainer.target_channels],
        version=task.version,
        scale=image.scale,
        translation=image.translation,
        units=image.units,
        windows=[window_of(image, name) if in_counts else None for name in stainer.target_channels],
        attributes={key: value for key, value in image.attributes.items() if key not in STATISTICS} | {KEY: marks},
    ) as writer:

        def write(y: np.ndarray, t: int, z: int, row: int, column: int) -> None:
            y = as_type(y * scale + centre if in_counts else y, dtype)
            for c, plane in enumerate(y):
                writer.write(plane, t, c, z, row, column)

        network = network_of(stainer, image, settings)
        predict_field(image, places, network, lines, write, opened.tiling, ratio=ratio, times=times)


def network_of(stainer: Stainer, image: OmeImage, settings: Settings) -> Network:
    """Return the network, averaged over copies if so wanted."""
    if settings.task.tta == "none":
        return stainer.network
    is_square = settings.task.rescale or abs(image.scale[3] / image.scale[4] - 1) < 0.01
    return averaged(stainer.network, settings.task.tta, stainer.stride, is_square=is_square)


def as_type(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values of a type; whole numbers are the nearest that it has."""
    if dtype.kind == "f":
        return y.astype(dtype, copy=False)
    about = np.iinfo(dtype)
    return np.rint(y, dtype=np.float64).clip(about.min, about.max).astype(dtype)


def window_of(image: OmeImage, channel: str) -> tuple[float, float] | None:
    """Return the display window of a channel of the input, if it has one."""
    names = image.channels or []
    return image.windows[names.index(channel)] if names.count(channel) == 1 else None


def written_times(image: OmeImage, channels: Sequence[int]) -> list[int]:
    """Return the time points of which anything was written, in every channel."""
    stored = image.levels[0].stored.any((2, 3, 4))
    return [t for t in range(image.shape[0]) if all(stored[t // image.chunks[0], c // image.chunks[1]] for c in channels)]


def source_lines(field: Field, normaliser: StainNormaliser, settings: Settings) -> np.ndarray:
    """Return centre and scale of the source (T, C, 2) in a field: of the field as a whole, never of a tile."""
    config, times = settings.data, range(field.image.shape[0])
    if normaliser.mode not in ("field", "time"):
        return np.stack([normaliser.lines(None, t) for t in times])
    if config.statistics == "attributes":
        refuse_stale_attributes(field)
        level = "timepoint_statistics" if normaliser.mode == "time" else "fov_statistics"
        known = [[known_statistics(field.image.attributes, name, level, t) for name in normaliser.channels] for t in times]
        if any(not one or "median" not in one for row in known for one in row):
            raise ValueError(
                f"data.statistics=attributes, but {field.image.path} has no {level} of {', '.join(normaliser.channels)} in its "
                "attribute normalization. Use data.statistics=measured."
            )
        return np.array([[line_of_attributes(one) for one in row] for row in known], np.float32)
    found = statistics_of(field, statistics_folder(config, settings.outputs), normaliser.channels)
    return np.stack([normaliser.lines(found, t) for t in times])


# ---------------------------------------------------------------------------------------------------- several processes


def share(settings: Settings, num: int) -> None:
    """Let processes share the fields and the threads; each takes the next field that nobody has.

    Raises
    ------
    RuntimeError
        One of them failed.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not live on in a fork
    container = registry.plain(settings)
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // num)
    before = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, str(threads)))
    try:
        workers = [context.Process(target=_work, args=(container, number), daemon=True) for number in range(num)]
        for worker in workers:
            worker.start()
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
    try:
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            worker.join(10)
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise RuntimeError(
            f"{len(failed)} of {num} processes failed (exit code {failed[0]}); their messages stand above. What is done stays: "
            "give the command again to go on."
        )


def _work(container: dict[str, Any], number: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # nobody waits for the result
    raise_on_signals()
    logging.basicConfig(format="%(message)s")
    registry.load_plugins([*container["plugins"], *runs.read_config(Path(container["run"]))["plugins"]])
    data = container["data"]["name"]
    groups = {group: registry.build(group, container[group], data) for group in registry.GROUPS if container[group]}
    settings = Settings(**container | groups)
    opened = open_all(settings, settings.outputs)
    for job in opened.jobs[number:] + opened.jobs[:number]:
        predict(job, opened, settings)


# ---------------------------------------------------------------------------------------------------------- a rehearsal


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open everything, put one tile through the network, and estimate the rest."""
    import psutil

    task = settings.task
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        opened = open_all(settings, outputs)
        stainer, tiling, jobs = opened.stainer, opened.tiling, opened.jobs
        side = min(tiling.tile_px + 2 * tiling.halo_px, max(max(job.field.image.shape[3:]) for job in jobs))
        x = np.zeros((1, len(stainer.channels), tiling.planes, side, side), np.float32)
        network = network_of(stainer, jobs[0].field.image, settings)
        network(x)
        started = time.perf_counter()
        network(x)
        seconds = (time.perf_counter() - started) / side**2 / task.workers
        done = [job for job in jobs if job.is_done and _said(job.store).get("made") == json.loads(json.dumps(job.made))]
        seconds *= sum(_network_pixels(job.field.image, tiling) for job in jobs if job not in done)
        reads = plate_map([job.field for job in jobs], opened.plates)
        images = [job.field.image for job in jobs]
        size = 4 if task.units == "normalised" else max(image.dtype.itemsize for image in images)
        num_bytes = len(stainer.target_channels) * size
        volume = sum(np.prod([image.shape[0], *image.shape[2:]], dtype=float) for image in images)
        held = 3 * max(image.shape[2] for image in images) * num_bytes * tiling.tile_px**2  # of the pyramid in the making
    peak = _peak_bytes() or psutil.Process().memory_info().rss
    return Preflight(
        reads=[*reads, str(Path(settings.run) / "checkpoints")],
        writes=[*dict.fromkeys(str(job.store) for job in jobs), *results_of(out).writes],
        memory_mb=task.workers * (peak + held) / 1e6,
        disk_mb=volume * num_bytes * 4 / 3 / 1e6,
        seconds=seconds,
        notes=[f"{len(done)} of {len(jobs)} fields are there already."] * bool(done) + opened.notes,
    )


def _network_pixels(image: OmeImage, tiling: Tiling) -> float:
    """Return how many px pass through the network, with halos and overlapping windows."""
    t, _, z, *frame = image.shape
    tiled = [side + 2 * tiling.halo_px * -(-side // tiling.tile_px) * (side > tiling.tile_px) for side in frame]
    num_windows = max(1, -(-(z - tiling.planes) // tiling.z_step) + 1) if tiling.all_planes else z
    return float(t * num_windows * np.prod(tiled, dtype=float))


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
