"""What latents are compared with: columns of the table, maps made of elements, clusters of the reference's features."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from microlatent import figures
from microlatent.analysis import agreement
from microlatent.analysis.association import FEWEST_POINTS, synthetic_map
from microlatent.analysis.surrogates import varying
from microlatent.config import nearest
from microlatent.data.latents import BASELINE, Latents
from microlatent.schemas import Settings
from microlatent.systems.kikuchi.scans import ELEMENT, ScanMap, open_points
from microlatent.systems.kikuchi.schema import AssociateConfig

log = logging.getLogger(__name__)
LATENT, NORM = "latent", "latent_norm"
FEWEST_GRAINS = 8  # of fewer there are too few ways to deal their means
OWN_FOLDERS = ("figures", "tables")  # of the task, beside those of targets
BOUNDARIES_MISLEAD = ("mi", "hsic", "dcorr")
ROWS = 65536  # of the latents in memory at a time


class Target(NamedTuple):
    """What latents of one scan are compared with, at the points of the region."""

    tag: str  # in names of files and folders
    label: str  # in figures, with the unit
    scan: ScanMap
    inside: np.ndarray  # (rows of the scan,) bool
    values: np.ndarray  # (n,) float, NaN where unknown; or int labels of clusters, -1 where unknown
    colours: np.ndarray | None = None  # (n, 3)
    about: dict[str, Any] = {}  # noqa: RUF012  for the report; never changed
    is_labels: bool = False
    grains: np.ndarray | None = None  # (n,) of null=grains: whole numbers from 0, -1 where a point has none

    @property
    def known(self) -> np.ndarray:
        """Return which points (n,) are compared: those that have a value, and of null=grains a grain."""
        known = self.values >= 0 if self.is_labels else np.isfinite(self.values)
        return known if self.grains is None else known & (self.grains >= 0)

    @property
    def rows(self) -> np.ndarray:
        """Return the positions (n,) in the latents table."""
        return self.scan.rows[self.inside]

    @property
    def num(self) -> int:
        """Return the number of points."""
        return len(self.values)

    @property
    def x(self) -> np.ndarray:
        """Return the map columns (n,)."""
        return self.scan.x[self.inside]

    @property
    def y(self) -> np.ndarray:
        """Return the map rows (n,)."""
        return self.scan.y[self.inside]

    def full(self, values: np.ndarray) -> np.ndarray:
        """Return values (n, ...) of the region for every row of the scan, NaN outside."""
        out = np.full((len(self.inside), *values.shape[1:]), np.nan)
        out[self.inside] = values
        return out


class AssociateInput(NamedTuple):
    """Latents, what stands beside them, and what they are compared with."""

    latents: Latents
    sources: dict[str, np.ndarray]  # latent, baselines (N, D) and latent_norm (N, 1)
    dims: list[int]  # of the latents
    targets: list[Target]


def open_all(settings: Settings) -> AssociateInput:
    """Open the latents and their scans, and find the targets.

    Raises
    ------
    ValueError
        A dimension, column or element does not exist, settings contradict each other, or nothing is left to compare with.
    """
    task: AssociateConfig = settings.task
    check_synthetic(task)
    if task.null == "phase" and (misled := [metric for metric in BOUNDARIES_MISLEAD if metric in task.metrics]):
        log.warning(
            f"task.null=phase is for smooth maps: on maps of grains {', '.join(misled)} call up to all independent maps "
            "associated. Use task.null=shift, or task.null=grains."
        )
    latents, scans = open_points(settings, "associate")
    width = latents.x.shape[1]
    latents.require_dims("task.dims", task.dims)
    targets = []
    for scan in scans:
        inside = scan.inside(task.roi_xrange, task.roi_yrange)
        if inside.sum() < FEWEST_POINTS:
            raise ValueError(
                f"task.roi_xrange={task.roi_xrange}, task.roi_yrange={task.roi_yrange} hold {inside.sum()} points of "
                f"{scan.name}, but associations need at least {FEWEST_POINTS}. Widen them; they are half-open."
            )
        targets += targets_of(scan, inside, latents, settings, tag=f"{scan.name}__" if len(scans) > 1 else "")
    if not targets:
        raise ValueError(
            f"There is nothing to compare the latents with: {latents.path} has no element, and no quality varies. "
            "Name columns in task.targets, or files that hold some in data.maps."
        )
    check_targets(targets, task)
    sources = {LATENT: latents.x, **latents.matrices(BASELINE), NORM: latent_norm(latents)}
    return AssociateInput(latents, sources, task.dims or list(range(width)), targets)


def check_targets(targets: list[Target], task: AssociateConfig) -> None:
    """Refuse targets that would write to one folder, and settings that want more points or grains than these have."""
    for tag, count in Counter(target.tag for target in targets).items():
        if count > 1 or tag in OWN_FOLDERS:
            whose = f"{count} targets share it" if count > 1 else "the task writes there itself"
            raise ValueError(
                f"Results of a target would go to the folder {tag!r}, but {whose}. In names of columns and scans, what is not a "
                "letter, digit, '.', '_' or '-' becomes '-'. Rename the column in the file of data.maps, or leave it out."
            )
    for target in targets:
        num = min(target.known.sum(), task.max_points or len(target.known))
        if "mi" in task.metrics and not target.is_labels and task.mi_neighbours >= num:
            raise ValueError(
                f"task.mi_neighbours is {task.mi_neighbours}, but {target.tag} has {num} points to find them among. Set fewer."
            )
        if target.grains is None:
            continue
        without = int((target.grains < 0).sum())
        if without:
            log.info(f"{target.tag}: {without} of {target.num} points have no {task.grains}, left out.")
        found = len(np.unique(target.grains[target.known]))
        if 2 * found > target.known.sum():  # then points would be dealt, and neighbours are alike
            raise ValueError(
                f"task.grains={task.grains} tells {found} grains among {target.known.sum()} points of {target.tag}, so these are "
                "no labels of grains. Name a column in which the points of a grain have one label."
            )
        if found < FEWEST_GRAINS:
            raise ValueError(
                f"task.grains={task.grains} tells {found} grains among the points of {target.tag}, but task.null=grains needs at "
                f"least {FEWEST_GRAINS}. Widen the region, or use task.null=shift."
            )


def latent_norm(latents: Latents) -> np.ndarray:
    """Return every point's distance (N, 1) from the mean latent of the training points.

    Poor patterns are drawn to the mean in all dimensions at once, whatever their grain, so quality shows here before it shows in
    any single dimension.
    """
    train = latents.training_rows()
    parts = np.array_split(train, -(-len(train) // ROWS))
    centre = sum(np.asarray(latents.x[part]).sum(0, dtype=np.float64) for part in parts) / len(train)
    norm = np.empty((len(latents), 1))
    for start in range(0, len(latents), ROWS):
        part = slice(start, start + ROWS)
        norm[part, 0] = np.linalg.norm(np.asarray(latents.x[part], np.float64) - centre, axis=1)
    return norm


def check_synthetic(task: AssociateConfig) -> None:
    """Refuse settings of a synthetic map that have no effect or contradict each other."""
    if task.synth_mode is None and (task.synth_elements is not None or task.synth_weights is not None):
        raise ValueError(
            "task.synth_elements and task.synth_weights have no effect without task.synth_mode. Set it to sum or rgb."
        )
    if task.synth_mode == "rgb":
        if task.synth_weights is not None:
            raise ValueError("task.synth_weights has no effect on task.synth_mode=rgb. Leave it out, or use sum.")
        if not 1 <= len(task.synth_elements or []) <= 3:
            raise ValueError(
                f"task.synth_mode=rgb takes one to three elements, but task.synth_elements is {task.synth_elements}. "
                "Name them in the order red, green, blue, such as [Fe,O]."
            )


def targets_of(scan: ScanMap, inside: np.ndarray, latents: Latents, settings: Settings, tag: str) -> list[Target]:
    """Return what the latents of a scan are compared with; columns that do not vary are left out, and said."""
    task: AssociateConfig = settings.task
    obs = latents.obs.iloc[scan.rows[inside]]
    elements = {name.removeprefix(ELEMENT): name for name in obs if name.startswith(ELEMENT)}
    names = task.targets if task.targets is not None else [scan.quality, *elements.values()]
    grains = None if task.grains is None else grains_of(obs, task.grains, latents)
    targets = []
    for name in names:
        if name not in obs:
            known = [column for column in obs if is_number(obs[column])]
            hint = f" Did you mean {elements[name]!r}?" if name in elements else ""
            raise ValueError(f"task.targets names {name!r}, which {latents.path} does not hold.{hint} {nearest(name, known)}")
        if not is_number(obs[name]):
            raise ValueError(f"task.targets names {name!r}, which holds words. Name columns of numbers.")
        targets.append(Target(safe(f"{tag}{name}"), in_words(name, scan), scan, inside, obs[name].to_numpy(float)))
    if task.synth_mode is not None:
        targets.append(synthetic_target(scan, inside, obs, elements, task, tag))
    targets = [target for target in (target._replace(grains=grains) for target in targets) if varies(target)]
    if task.features is not None:
        found = labels_target(scan, inside, obs, latents, settings, tag)
        targets += [found] if found.values.max() > 0 else []
    return targets


def safe(name: str) -> str:
    """Return a name as files and folders may have it: what is not a letter, digit, '.', '_' or '-' becomes '-'."""
    return re.sub(r"[^\w.-]|^\.", "-", name)


def grains_of(obs: pd.DataFrame, name: str, latents: Latents) -> np.ndarray:
    """Return each point's grain (n,), from 0; -1 where it has no label, or a negative number, which means none."""
    if name not in obs:
        raise ValueError(f"task.grains names {name!r}, which {latents.path} does not hold. {nearest(name, list(obs))}")
    labels = obs[name]
    if is_number(labels):
        labels = labels.astype(float)
        labels = labels.where(labels >= 0)
        if (labels.dropna() % 1 != 0).any():
            raise ValueError(f"task.grains names {name!r}, whose values are no whole numbers. Name a column of labels of grains.")
    return pd.factorize(labels.where(labels != ""))[0]


def is_number(column: pd.Series) -> bool:
    """Return whether a column holds numbers."""
    return is_numeric_dtype(column) and not is_bool_dtype(column)


def varies(target: Target) -> bool:
    """Return whether enough points of a target are known and differ; say so where not."""
    known = target.values[target.known]
    if len(known) >= FEWEST_POINTS and varying(known):
        if without := int((~np.isfinite(target.values)).sum()):
            log.info(f"{target.tag}: {without} of {target.num} points have no value, left out.")
        return True
    log.warning(f"{target.tag} is left out: {len(known)} of its points have a value, and these do not vary enough to compare.")
    return False


def synthetic_target(
    scan: ScanMap, inside: np.ndarray, obs: pd.DataFrame, elements: dict[str, str], task: AssociateConfig, tag: str
) -> Target:
    """Return the map made of several elements."""
    names = task.synth_elements or list(elements)
    if not elements:
        raise ValueError(f"task.synth_mode={task.synth_mode} needs elements, but {scan.name} has none. Add a file in data.maps.")
    for name in names:
        if name not in elements:
            raise ValueError(f"task.synth_elements names {name!r}, which {scan.name} does not hold. {nearest(name, elements)}")
    if task.synth_weights is not None and len(task.synth_weights) != len(names):
        raise ValueError(
            f"task.synth_weights holds {len(task.synth_weights)} numbers for the {len(names)} elements {', '.join(names)}. "
            "Give one for each."
        )
    weights = None if task.synth_weights is None else np.array(task.synth_weights, float)
    made = synthetic_map(task.synth_mode, obs[[elements[name] for name in names]].to_numpy(float), weights)
    chosen = "" if task.synth_elements is None else "-" + "_".join(names)
    if task.synth_mode == "rgb":
        word, label, unit = f"rgb{chosen}", f"luminance of {', '.join(names)}", "0 to 1"
    else:
        by = "auto" if weights is None else "_".join(f"{weight:.3f}" for weight in task.synth_weights)
        word, label = f"sum-{by}{chosen}", f"weighted sum of {', '.join(names)}"
        unit = "no unit" if weights is not None and (weights < 0).any() else "0 to 1"  # differences leave this range
    about = {
        "synth_mode": task.synth_mode,
        "synth_tag": word,
        "elements": names,
        "rgb_elements": names if task.synth_mode == "rgb" else None,
        "weights": None if task.synth_mode == "rgb" else list(task.synth_weights or [1 / len(names)] * len(names)),
    }
    return Target(safe(f"{tag}{word}"), f"{label} ({unit})", scan, inside, made.values, made.colours, about)


def labels_target(scan: ScanMap, inside: np.ndarray, obs: pd.DataFrame, latents: Latents, settings: Settings, tag: str) -> Target:
    """Return the clusters of the reference's features; -1 where one of them is unknown."""
    task: AssociateConfig = settings.task
    columns = [name for name in obs if name.startswith(f"{task.features}_")]
    if not columns:
        raise ValueError(
            f"task.features={task.features} needs columns {task.features}_1 ..., but {latents.path} has "
            f"{', '.join(obs.columns)}. Name the CSV that holds them in data.maps."
        )
    values = obs[columns].to_numpy(float)
    known = np.isfinite(values).all(1)
    labels = np.full(len(values), -1)
    if known.sum() >= FEWEST_POINTS:
        labels[known] = agreement.mixture_labels(values[known], task.max_clusters, task.criterion, settings.seed)
    num = int(labels.max()) + 1
    if num < 2:
        log.warning(f"{task.features} of {scan.name} is left out: its {known.sum()} known points fall into {num} cluster.")
    about = {"features": columns, "criterion": task.criterion, "k_ref": num}
    words = f"cluster of {task.features} (number)"
    return Target(safe(f"{tag}cluster-{task.features}"), words, scan, inside, labels, None, about, is_labels=True)


def in_words(name: str, scan: ScanMap) -> str:
    """Return a column's label with its unit."""
    if name.startswith(ELEMENT):
        unit = scan.elements.get(name, "")
        return name.removeprefix(ELEMENT) + (f" ({unit})" if unit else "")
    return {"bandcontrast": "band contrast (grey value)"}.get(name, figures.axis_label(name))
