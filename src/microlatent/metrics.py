"""Every number that tells how good a run is: its words, its unit, which way is better, and what it may be compared across.

A column of ``history.csv`` is ``<part>_<metric>``; a final number is ``best_<part>_<metric>`` (at the best epoch) or
``<part>_<metric>``. Nothing here imports torch, because the report reads it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

PREFIX = re.compile(r"^(best_)?((train|val|test)_)?")


@dataclass(frozen=True)
class Metric:
    """A number, as it is told, drawn and compared; a loss term that nobody declared is lower, in a unit of its own.

    ``measure`` names a function ``(model, batch) -> (B,)`` as ``module:function``. Its mean over a part is taken in evaluation
    mode: over the validation part after every epoch, or over validation and test part at the end, of models that have the
    capabilities in ``wants``. Without it the number comes from the loop or from the model itself.
    """

    name: str
    label: str = ""  # in words; default: the name's
    better: str | None = "lower"  # lower, higher; None where neither is
    unit: str = ""
    kind: str = "loss"  # loss, quality, health (how much of the latents is used), cost
    depends: tuple[str, ...] = ()  # settings that give it another unit or meaning
    measure: str | None = None
    when: str = "epoch"  # epoch or end
    wants: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its words and its unit."""
        return (self.label or self.name.replace("_", " ")) + (f" ({self.unit})" if self.unit else "")

    def applies(self, capabilities: Iterable[str], when: str) -> bool:
        """Return whether it is measured at that time on a model with these capabilities."""
        return self.measure is not None and self.when == when and set(self.wants) <= set(capabilities)

    def values(self, model: Any, batch: Any) -> Any:
        """Return the numbers (B,) of a batch."""
        module, _, function = str(self.measure).partition(":")
        return getattr(import_module(module), function)(model, batch)


METRICS: dict[str, Metric] = {}


def register_metric(name: str, label: str = "", **options: Any) -> None:
    """Declare a metric; ``options`` are the fields of :class:`Metric`. A plugin calls this at import.

    Raises
    ------
    ValueError
        ``better`` or ``when`` is none of the words above.
    """
    metric = Metric(name, label, **options)
    for key, allowed in (("better", ("lower", "higher", None)), ("when", ("epoch", "end"))):
        if getattr(metric, key) not in allowed:
            raise ValueError(f"{key} of the metric {name} is {getattr(metric, key)!r}, but must be one of {allowed}.")
    METRICS[name] = metric


PIXELS = ("data.normalise", "data.arcsinh_cofactor", "data.clip_percentile")
LIKELIHOOD = ("model family", "model.likelihood", "model.full_var", "model.channel_var", "model.masked_loss", *PIXELS)
MATCHING = tuple(f"model.matching{part}" for part in ("", "_adjacent", "_track", "_unrelated", "_margin"))
WEIGHTS = (
    *("model.beta", "model.free_bits", "model.loss_reduction"),
    *("model.weight_recon", "model.weight_commitment", "model.weight_matching", "model.commitment_weight", *MATCHING),
    *("model.objective", "model.loss", "model.weight_mse", "model.weight_l1", "model.weight_msssim", "model.weight_foreground"),
)
FAMILY = ("model family",)  # what counts as active needs a prior, or does without

register_metric("total", "total loss", depends=(*LIKELIHOOD, *WEIGHTS))
register_metric("recon", "reconstruction", depends=LIKELIHOOD)
register_metric("mse", "mean squared error", depends=PIXELS)
register_metric("kl", "KL divergence", unit="nats")
register_metric("commitment", "commitment loss", depends=("model.commitment_weight",))
register_metric("matching", "matching loss", depends=MATCHING)
register_metric("l1", "mean absolute error", depends=PIXELS)
register_metric("msssim", "1 - MS-SSIM", depends=(*PIXELS, "model.msssim_scales"))
register_metric("foreground_mse", "mean squared error in the foreground", depends=PIXELS)
register_metric("masked_mse", "mean squared error of hidden squares", depends=(*PIXELS, "model.mask_ratio", "model.mask_px"))
register_metric("pearson", "Pearson correlation", better="higher", kind="quality")
register_metric("explained_variance", "explained variance", better="higher", kind="quality", depends=PIXELS)
register_metric("log_likelihood", "log-likelihood", better="higher", unit="nats", kind="quality", depends=LIKELIHOOD)
register_metric("elbo", "evidence lower bound", better="higher", unit="nats", kind="quality", depends=LIKELIHOOD)
register_metric("codes_used", "codes in use", better="higher", kind="health")
register_metric("perplexity", "perplexity", better="higher", unit="codes", kind="health")
register_metric("active_units", "active latent dimensions", better="higher", kind="health", depends=FAMILY)
register_metric("score", "best score (monitored metric)", better=None)
register_metric("parameters", "parameters", kind="cost")
register_metric("seconds", "training time", unit="s", kind="cost")
register_metric("patches_per_s", "patches per second", better="higher", kind="cost")
OURS = frozenset(METRICS)

SCORE = "best_score"  # of the metric that was monitored
QUALITY = (SCORE, "val_explained_variance")  # the first that is one quantity in all runs is the objective
# These scale and shift a channel as a whole, which leaves the explained share of its variance as it is.
LINEAR = ("dataset", "gauss", "none")


def metric(column: str) -> Metric:
    """Return what is known of a column of the history, of a final number, or of a metric by its bare name."""
    name = column if column in METRICS else PREFIX.sub("", column)
    return METRICS.get(name) or Metric(name)


def title(column: str) -> str | None:
    """Return the words and the unit of a column or a final number, without its part; None where nobody declared it."""
    found = metric(column)
    return found.title if found.name in METRICS else None


def direction(column: str, monitor: str = "total") -> str:
    """Return minimize or maximize; of the best score that of the metric that was monitored."""
    return "maximize" if metric(monitor if column == SCORE else column).better == "higher" else "minimize"


def sign(column: str, monitor: str = "total") -> int:
    """Return the factor with which the best value of a number is the lowest: 1 or -1."""
    return -1 if direction(column, monitor) == "maximize" else 1


def best(values: Iterable[float], column: str) -> float:
    """Return the lowest or the highest of some values of a column, as it is better."""
    return max(values) if direction(column) == "maximize" else min(values)


def of_plugins() -> list[Metric]:
    """Return the metrics that plugins declared."""
    return [METRICS[name] for name in METRICS if name not in OURS]


def unlike(column: str, runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the settings that give a number another unit or meaning in some of the runs; none if it may be compared.

    A loss depends on the family (squared error, or nats), on the normalisation of the pixels and, in total, on the weights of
    its terms. ``runs`` are flat settings, ``{"model.latent_dim": 16, ...}``.
    """
    runs = list(runs)
    if column == SCORE:
        monitors = {str(run.get("trainer.monitor")) for run in runs}
        if len(monitors) > 1:
            return ["trainer.monitor"]
        column = monitors.pop() if monitors else column
    name, found = metric(column).name, []
    for key in metric(column).depends:
        values = {repr(_meaning(run, key, name)) for run in runs if key in run or key in FAMILY}
        if len(values) > 1:
            found.append(key)
    return found


def _meaning(run: Mapping[str, Any], key: str, name: str) -> Any:
    if key in FAMILY:
        return run.get("model.family") or str(run.get("model.name")).partition("_")[0]
    if key == "data.normalise" and name == "explained_variance" and run[key] in LINEAR:
        return "linear"
    return run[key]
