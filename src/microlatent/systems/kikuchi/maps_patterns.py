"""What ``task=maps`` asks of the model of a run: the error of every pattern, reconstructions, traversals. Runs on the CPU."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from microlatent.analysis import latent_maps
from microlatent.contract import lacking
from microlatent.data.latents import Latents, Patches
from microlatent.progress import track
from microlatent.results import Results
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import draw_maps as drawing
from microlatent.systems.kikuchi.draw_maps import Window
from microlatent.systems.kikuchi.schema import MapsKikuchiConfig

if TYPE_CHECKING:
    from microlatent.data.normalise import Normaliser
    from microlatent.experiment import Trained

log = logging.getLogger(__name__)
STEPS = np.linspace(-3, 3, 7)  # of a traversal, standard deviations


class Pictures(NamedTuple):
    """The model that made the latents, and the patterns it made them of."""

    trained: Trained
    patches: Patches
    normaliser: Normaliser  # of the model's input as the latents were made

    @property
    def unit(self) -> str:
        """Return what the model's pixels are measured in."""
        words = {
            "patch": "standard deviations of each pattern",
            "dataset": "standard deviations",
            "minus_one_one": "\u22121 to 1 in each pattern",
            "zero_one": "0 to 1 in each pattern",
            "none": "counts",
        }
        return words.get(self.normaliser.mode, "normalised units")


class MapsInput(NamedTuple):
    """What the task starts from: latents, the drawn part of every scan, and the model."""

    latents: Latents
    windows: list[Window]
    dims: list[int]  # mapped
    pictures: Pictures | None  # the model and its patterns; None without a run

    @property
    def rows(self) -> np.ndarray:
        """Return the positions in the table of the points of the chosen scans."""
        return np.concatenate([window.scan.rows for window in self.windows])

    def train(self) -> np.ndarray:
        """Return the training points of the chosen scans; all of them where these are of no training part."""
        train = np.intersect1d(self.latents.training_rows(), self.rows)
        return train if len(train) > 1 else self.rows


def load_decoder(settings: Settings, latents: Latents) -> Pictures:
    """Load the model of the run and the patterns behind the table; without ``task.checkpoint``, as the table was made.

    Raises
    ------
    ValueError
        The model has no decoder, or the latents are not its own.
    """
    import torch

    from microlatent.data.normalise import Normaliser
    from microlatent.experiment import load_model

    which = settings.task.checkpoint or its_checkpoint(latents, Path(settings.run))
    trained = load_model(Path(settings.run), which, torch.device("cpu"))
    if lacking(trained.model, ["decode"]):
        raise ValueError(
            f"The model of {settings.run} has no decoder for its latents, so it makes no patterns. Give "
            f"task.latents={latents.path} without run to draw the maps alone."
        )
    width = trained.provenance["config"]["model"].get("latent_dim")
    if width != latents.x.shape[1]:
        raise ValueError(
            f"{latents.path} has {latents.x.shape[1]} latent dimensions, but the model of {settings.run} has {width}. Give the "
            "run that the latents were made with, or task.latents without run."
        )
    made, now = latents.provenance, trained.provenance
    if not made:
        log.warning(f"{latents.path} does not say which model made it. If that is not {now['checkpoint']}, errors mean nothing.")
    elif identity(made) != identity(now):
        raise ValueError(
            f"{latents.path} was made with {made['checkpoint']} (epoch {made['epoch']}, of a run begun {made['time']}), but "
            f"{now['checkpoint']} is another model (epoch {now['epoch']}, begun {now['time']}). Give the run and the "
            "task.checkpoint that the latents were made with, or task.latents without run. If training went on since, run "
            "task=process again."
        )
    patches = Patches(latents, list(latents.stores(settings.data.store)), trained.channels)
    return Pictures(trained, patches, Normaliser(**latents.normaliser) if made else trained.normaliser)


def its_checkpoint(latents: Latents, run: Path) -> str:
    """Return the checkpoint that made the latents: that of its name in the run, which may have been moved, else where it was."""
    if not latents.provenance:
        return "best"
    path = Path(latents.provenance["checkpoint"])
    own = run / "checkpoints" / path.name
    return str(own if own.is_file() else path)


def identity(provenance: dict[str, Any]) -> str:
    """Return what tells a checkpoint from others wherever it lies: its run's beginning and settings, and the epoch."""
    kept = {key: provenance[key] for key in ("time", "config", "epoch")}
    return json.dumps(json.loads(json.dumps(kept, default=str)), sort_keys=True)  # as a file of latents gives it back


def normalised(pictures: Pictures, rows: np.ndarray) -> Any:
    """Return the patterns (n, 1, Y, X) of some rows of the table as the model sees them."""
    import torch

    return pictures.normaliser.apply(torch.from_numpy(pictures.patches.read(rows)))


def reconstruction_error(latents: Latents, pictures: Pictures, rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the mean squared error (N,) of the patterns of some rows, decoded from the table's latents; NaN for the others."""
    import torch

    error = np.full(len(latents), np.nan)
    with torch.inference_mode():
        for start in track(range(0, len(rows), batch_size), "Reconstructing"):
            here = rows[start : start + batch_size]
            decoded = pictures.trained.model.decode(torch.from_numpy(np.asarray(latents.x[here], np.float32)))
            error[here] = (decoded - normalised(pictures, here)).square().mean((1, 2, 3)).numpy()
    return error


def divergence(latents: Latents, rows: np.ndarray) -> np.ndarray | None:
    """Return the mean KL divergence (D,) of each dimension's posterior from the prior, nats; None where the table has no std.

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    std = latents.matrices("std").get("std")
    if std is None:
        return None
    total = np.zeros(latents.x.shape[1])
    for start in range(0, len(rows), latent_maps.CHUNK):
        here = rows[start : start + latent_maps.CHUNK]
        mu, scale = np.asarray(latents.x[here], np.float64), np.asarray(std[here], np.float64)
        total += 0.5 * (mu**2 + scale**2 - 1 - 2 * np.log(scale)).sum(0)
    return total / len(rows)


def draw_patterns(
    opened: MapsInput, error: np.ndarray, train: np.ndarray, variance: np.ndarray, settings: Settings, results: Results
) -> None:
    """Draw the chosen patterns beside their reconstruction, and the patterns along the chosen dimensions."""
    import torch

    task: MapsKikuchiConfig = settings.task
    latents, windows, pictures = opened.latents, opened.windows, opened.pictures
    model, share = pictures.trained.model, variance / (variance.sum() or 1.0)
    rows = spread_points(error, task.num_pixels) if task.pixels is None else named_points(latents, windows, task)
    rows = rows[np.argsort(error[rows], kind="stable")]
    with torch.inference_mode():
        inputs = normalised(pictures, rows)[:, 0].numpy()
        outputs = model.decode(torch.from_numpy(np.asarray(latents.x[rows], np.float32)))[:, 0].numpy()
        dims = task.traverse or latent_maps.most_varying(variance, task.num_traverse)
        mean = np.asarray(latents.x[train], np.float64).mean(0)
        codes = codes_along(mean, np.sqrt(variance), dims)
        decoded = model.decode(torch.from_numpy(codes.reshape(-1, len(mean)).astype(np.float32)))[:, 0].numpy()
    at, scans = latents.obs[["x", "y"]].to_numpy(), latents.obs["scan"].to_numpy()
    names = [
        f"x {x}, y {y}\nerror {value:.3g}" + (f"\n{scan}" if len(windows) > 1 else "")
        for (x, y), value, scan in zip(at[rows], error[rows], scans[rows], strict=True)
    ]
    results.figure("reconstructions", drawing.draw_reconstructions, inputs, outputs, names, pictures.unit)
    words = [f"latent {dim}\n{share[dim]:.1%} of variance" for dim in dims]
    patterns = decoded.reshape(len(dims), len(STEPS), *decoded.shape[1:])
    if len(dims):
        results.figure("traversals", drawing.draw_traversals, patterns, words, STEPS, pictures.unit)


def codes_along(mean: np.ndarray, std: np.ndarray, dims: list[int]) -> np.ndarray:
    """Return latent vectors (R, S, D): along each of R dimensions in steps of its standard deviation, all others at the mean."""
    codes = np.tile(mean, (len(dims), len(STEPS), 1))
    for line, dim in zip(codes, dims, strict=True):
        line[:, dim] += STEPS * std[dim]
    return codes


def named_points(latents: Latents, windows: list[Window], task: MapsKikuchiConfig) -> np.ndarray:
    """Return the rows of ``task.pixels``, of the first scan that has them.

    Raises
    ------
    ValueError
        A point has no pattern, or lies outside the region.
    """
    rows = []
    for x, y in task.pixels:
        scans = [window.scan for window in windows]
        found = [scan.rows[(scan.x == x) & (scan.y == y) & scan.inside(task.roi_xrange, task.roi_yrange)] for scan in scans]
        if not any(map(len, found)):
            raise ValueError(
                f"task.pixels names [{x}, {y}], where there is no pattern with a latent in the drawn region. Name points "
                f"[x, y] of {latents.path}: x {latents.obs['x'].min()} to {latents.obs['x'].max()}, "
                f"y {latents.obs['y'].min()} to {latents.obs['y'].max()}."
            )
        rows.append(np.concatenate(found)[0])
    return np.array(rows)


def spread_points(error: np.ndarray, num: int) -> np.ndarray:
    """Return rows from the least to the greatest error (N,), evenly spread over their order; those of NaN do not count."""
    order = np.argsort(error, kind="stable")[: int(np.isfinite(error).sum())]
    return order[np.unique(np.linspace(0, len(order) - 1, num).round().astype(int))]
