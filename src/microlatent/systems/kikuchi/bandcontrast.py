"""``analyze.py task=bandcontrast data=kikuchi``: histogram and maps of the patterns' quality, and which points to keep.

Needs no run. Reads scans with or without patterns, and the files of ``data.maps``. The quantity is what the vendor measured (band
contrast, IQ or Radon quality, which are not one quantity under three names), else the image quality computed from the patterns.

Writes ``kept_coords.csv`` (scan, x, y and the quantity), which ``data.keep`` takes, ``kept_coords.npy`` ((n, 2) x, y),
``valid_pixels.csv`` (every point: scan, x, y, value, valid), ``valid_pixels.npy`` (rows x columns, bool),
``tables/bandcontrast.csv`` and the figures of each scan. Of several scans, the NPY files are in a folder for each.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd

from microlatent import figures
from microlatent.analysis.threshold import otsu
from microlatent.config import nearest
from microlatent.data.folders import preflight_outputs, raw_folder
from microlatent.drawing.sheet import HOLE
from microlatent.files import atomic, write_csv
from microlatent.results import Preflight, Results
from microlatent.schemas import Settings
from microlatent.systems.kikuchi import draw_bandcontrast as drawing
from microlatent.systems.kikuchi.draw_maps import Window, draw_map
from microlatent.systems.kikuchi.ebsd import Scan, find_scans, join_maps
from microlatent.systems.kikuchi.ebsd.scan import COMPUTED, QUALITIES
from microlatent.systems.kikuchi.scans import ScanMap
from microlatent.systems.kikuchi.schema import AssembleKikuchiConfig, BandContrastConfig

if TYPE_CHECKING:
    from microlatent.systems.kikuchi.patterns import Preprocessing

log = logging.getLogger(__name__)

WORDS = {
    "bandcontrast": "band contrast",
    "iq": "IQ (EDAX)",
    "radon_quality": "Radon quality (Bruker)",
    "image_quality": "image quality (computed)",
    "neighbour_similarity": "similarity to neighbours (computed)",
}
FIGURES = ("histogram", "grey", "heat", "kept")
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
PIXELS_PER_S = 1.5e7  # of patterns whose image quality is computed


class Chosen(NamedTuple):
    """One scan, its points with the columns of ``data.maps``, and the column to look at."""

    scan: Scan
    points: pd.DataFrame
    quantity: str

    @property
    def place(self) -> ScanMap:
        """Return where the points lie; no store stands behind them yet."""
        x, y = (self.points[name].to_numpy(np.int64) for name in ("x", "y"))
        return ScanMap(self.scan.name, None, np.arange(len(x)), x, y, self.scan.map_shape)

    @property
    def is_computed(self) -> bool:
        """Return whether the quantity is measured from the patterns, and not read."""
        return self.quantity not in self.points

    @property
    def label(self) -> str:
        """Return what the quantity is called in words and figures."""
        known = self.quantity in WORDS and self.is_computed == (self.quantity in COMPUTED)
        return WORDS[self.quantity] if known else figures.axis_label(self.quantity)

    def values(self) -> np.ndarray:
        """Return the quantity (n,) of every point, NaN where there is none."""
        return computed(self.scan, self.quantity) if self.is_computed else self.points[self.quantity].to_numpy(float)


class Decision(NamedTuple):
    """Which points of a scan are kept, and why."""

    inside: np.ndarray  # (n,) in the region
    threshold: float | None
    kept: np.ndarray  # (n,)


def run(settings: Settings, out: Path, tracker: Any) -> dict[str, float]:
    """Look at every chosen scan, and write which points to keep."""
    if settings.data.keep:
        log.warning("data.keep=%s has no effect on task=bandcontrast, which looks at every point.", settings.data.keep)
    chosen = open_all(settings, raw_folder(settings.data, settings.outputs))
    results = results_of(chosen, out, tracker)
    rows, kept, valid, found = [], [], [], []
    for one in chosen:
        values = one.values()
        decision = decide(one.place, values, settings.task)
        found.append((values, decision))
        rows.append(summary(one, values, decision))
        log.info(in_words(rows[-1], one.label, settings.task))
        points = one.points[["x", "y"]].assign(value=values, valid=decision.kept)
        points.insert(0, "scan", one.scan.name)
        valid.append(points)
        kept.append(points.loc[decision.kept, ["scan", "x", "y", "value"]].rename(columns={"value": one.quantity}))
        write_arrays(one.place, decision.kept, folder_of(one, chosen), results)
    scales = common_scales(chosen, found)
    for one, (values, decision) in zip(chosen, found, strict=True):
        draw(one, values, decision, scales[one.quantity], settings.task, results)
    write_csv(pd.concat(kept, ignore_index=True), results.path("kept_coords.csv"))
    write_csv(pd.concat(valid, ignore_index=True), results.path("valid_pixels.csv"))
    table = pd.DataFrame(rows)
    results.table("bandcontrast", table)
    numbers = {"scans": len(table)} | {name: int(table[name].sum()) for name in ("points", "in_region", "kept")}
    numbers["kept_share"] = numbers["kept"] / numbers["in_region"]
    return numbers | ({"threshold": rows[0]["threshold"]} if len(rows) == 1 and np.isfinite(rows[0]["threshold"]) else {})


def results_of(chosen: list[Chosen], out: Path, tracker: Any = None) -> Results:
    """Declare the files."""
    arrays = [f"{folder_of(one, chosen)}{name}.npy" for one in chosen for name in ("kept_coords", "valid_pixels")]
    drawn = [figure_name(kind, one) for one in chosen for kind in FIGURES]
    files = ["kept_coords.csv", "valid_pixels.csv", *arrays]
    return Results(out, tracker, files=files, tables=["bandcontrast"], figures=drawn)


def preflight(settings: Settings, out: Path) -> Preflight:
    """Open the scans, check the settings, and list what would be written."""
    with preflight_outputs(settings.data, settings.outputs) as outputs:
        chosen = open_all(settings, raw_folder(settings.data, outputs))
    num = sum(len(one.points) for one in chosen)
    pixels = sum(len(one.points) * np.prod(one.scan.pattern_shape) for one in chosen if one.is_computed)
    needed = [steps_of(one.scan).memory_mb(one.quantity != COMPUTED[0]) for one in chosen if one.is_computed]
    return Preflight(
        reads=[str(path) for one in chosen for path in one.scan.files] + list(settings.data.maps),
        writes=results_of(chosen, out).writes,
        memory_mb=max([300, *needed]) + num * 4e-4,
        disk_mb=num * 8e-5 + 0.1 * len(FIGURES) * len(chosen),
        seconds=3 + 2 * len(chosen) + pixels / PIXELS_PER_S,
    )


def open_all(settings: Settings, root: Path) -> list[Chosen]:
    """Find the scans, join the maps to their points, and settle the quantity of each.

    Raises
    ------
    ValueError
        A scan lacks the quantity, the region holds none of its points, or the threshold keeps none of those whose value is read.
    """
    chosen, scans = [], find_scans(root, settings.data.patterns, settings.data.scans)
    for scan in scans:
        points = join_maps(scan.points, settings.data.maps, scan.name, of_several=len(scans) > 1)
        one = Chosen(scan, points, quantity_of(scan, points, settings.task.quantity))
        one.place.inside(settings.task.roi_xrange, settings.task.roi_yrange)
        if not one.is_computed:  # else it is only known once the patterns are measured
            decide(one.place, one.values(), settings.task)
        chosen.append(one)
    return chosen


def folder_of(one: Chosen, chosen: list[Chosen]) -> str:
    """Return the folder of a scan's arrays, with its slash: one scan needs none."""
    return f"{figures.file_word(one.scan.name)}/" if len(chosen) > 1 else ""


def quantity_of(scan: Scan, points: pd.DataFrame, asked: str | None) -> str:
    """Return the column to look at: the one asked for, else the vendor's, else the image quality.

    Raises
    ------
    ValueError
        The scan has no such column of numbers, or nothing that says how good its patterns are.
    """
    known = [name for name in points.select_dtypes("number") if name not in ("x", "y")]
    known += [name for name in COMPUTED if scan.pattern_shape is not None and name not in known]
    if asked is not None and asked not in known:
        what = nearest(asked, known) if known else "It has no column of numbers."
        raise ValueError(
            f"task.quantity is {asked!r}, which {scan.path} does not hold: join a map that does with data.maps. {what}"
        )
    found = asked or next((name for name in (*QUALITIES, COMPUTED[0]) if name in known), None)
    if found is None:
        raise ValueError(
            f"{scan.path} ({scan.format}) has neither patterns nor any of {', '.join(QUALITIES)}. Name a column with "
            f"task.quantity ({', '.join(known) or 'there is none'}), or join a map that has one with data.maps."
        )
    return found


def steps_of(scan: Scan) -> Preprocessing:
    """Return what is done to patterns before they are measured: what ``task=assemble`` does by default."""
    from microlatent.systems.kikuchi.patterns import Preprocessing

    return Preprocessing(scan, AssembleKikuchiConfig(name="assemble"))


def computed(scan: Scan, quantity: str) -> np.ndarray:
    """Measure every pattern (n,) after the backgrounds are removed as ``task=assemble`` does by default; NaN where it is bad."""
    from microlatent.progress import track

    steps, found = steps_of(scan), np.full(len(scan.points), np.nan)
    done = steps.describe()
    log.info(
        "%s: %s is computed from the patterns, after static (%s) and dynamic (%s, %g px) background.",
        *(scan.name, WORDS[quantity], done["static_background"], done["dynamic_background"], done["dynamic_std_px"]),
    )
    if quantity == COMPUTED[0]:
        parts, num = steps.image_qualities(), steps.num_pieces
    else:
        num = -(-len(found) // 2048)
        parts = ((positions, extra[quantity].to_numpy()) for positions, _, extra in steps.blocks(2048))
    for positions, values in track(parts, f"Measuring {scan.name}", num):
        found[positions] = values
    return found


def decide(place: ScanMap, values: np.ndarray, task: BandContrastConfig) -> Decision:
    """Find the threshold among the points of the region, and which of these are kept.

    Raises
    ------
    ValueError
        No point of the region has a value, or none is kept.
    """
    inside = place.inside(task.roi_xrange, task.roi_yrange)
    known = inside & np.isfinite(values)
    if not known.any():
        raise ValueError(f"{place.name}: none of the {int(inside.sum())} points in the region has a value of the quantity.")
    if task.quantile is not None:
        threshold = float(np.quantile(values[known], 1 - task.quantile if task.keep_below else task.quantile))
    elif task.threshold == "none":
        return Decision(inside, None, known)
    else:
        threshold = otsu(values[known]) if task.threshold == "otsu" else float(task.threshold)
    kept = known.copy()
    kept[known] = values[known] < threshold if task.keep_below else values[known] >= threshold
    if not kept.any():
        side, low, high = "below" if task.keep_below else "at or above", values[known].min(), values[known].max()
        raise ValueError(
            f"{place.name}: no point of the region is {side} the threshold {threshold:g}: values are {low:g} to {high:g}. "
            "Choose task.threshold among them."
        )
    return Decision(inside, threshold, kept)


def summary(one: Chosen, values: np.ndarray, decision: Decision) -> dict[str, Any]:
    """Return the numbers of one scan; mean and percentiles are of the region."""
    inside, kept = int(decision.inside.sum()), int(decision.kept.sum())
    known = values[decision.inside & np.isfinite(values)]
    return {
        "scan": one.scan.name,
        "quantity": one.quantity,
        "points": len(values),
        "in_region": inside,
        "without_value": inside - len(known),
        "threshold": np.nan if decision.threshold is None else decision.threshold,
        "kept": kept,
        "kept_share": kept / inside,
        "mean": float(known.mean()),
        "std": float(known.std()),
        "min": float(known.min()),
        "max": float(known.max()),
    } | {f"p{share}": float(value) for share, value in zip(PERCENTILES, np.percentile(known, PERCENTILES), strict=True)}


def in_words(row: dict[str, Any], words: str, task: BandContrastConfig) -> str:
    """Say what is kept and what is not, and by what rule."""
    below = row["in_region"] - row["without_value"] - row["kept"]
    region = f" in the region ({row['points']} in all)" if row["in_region"] < row["points"] else ""
    if task.quantile is not None:
        rule = f"{row['threshold']:.4g}, the quantile {task.quantile:g}"
    else:
        rule = f"{row['threshold']:.4g}" + (", by Otsu's method" if task.threshold == "otsu" else "")
    side = ("or above", "at") if task.keep_below else ("", "below")
    if task.threshold == "none" and task.quantile is None:
        left = "no threshold was asked for"
    elif below:
        left = f"{below} {' '.join(side[::-1]).strip()} the threshold ({rule}) are left out"
    else:
        left = f"the threshold ({rule}) leaves nothing out"
    empty = f"; {row['without_value']} have no value" if row["without_value"] else ""
    return (
        f"{row['scan']}: {words} {row['min']:.4g} to {row['max']:.4g}, mean {row['mean']:.4g}. {row['kept']} of the "
        f"{row['in_region']} points{region} are kept ({row['kept_share']:.1%}): {left}{empty}."
    )


def write_arrays(place: ScanMap, kept: np.ndarray, folder: str, results: Results) -> None:
    """Write the kept points as arrays."""
    valid = np.zeros(place.map_shape, bool)
    valid[place.y, place.x] = kept
    arrays = {"kept_coords": np.stack([place.x[kept], place.y[kept]], -1), "valid_pixels": valid}
    for name, array in arrays.items():
        with atomic(results.path(f"{folder}{name}.npy")) as temporary:
            np.save(temporary, array)


def figure_name(kind: str, one: Chosen) -> str:
    """Return the name of a scan's figure."""
    return f"{kind}_{figures.file_word(one.scan.name)}"


def common_scales(chosen: list[Chosen], found: list[tuple[np.ndarray, Decision]]) -> dict[str, tuple[float, float]]:
    """Return the ends of the colours of each quantity, the same for all scans that have it."""
    shown: dict[str, list[np.ndarray]] = {}
    for one, (values, decision) in zip(chosen, found, strict=True):
        shown.setdefault(one.quantity, []).append(values[decision.inside])
    return {quantity: figures.limits(np.concatenate(values)) for quantity, values in shown.items()}


def draw(
    one: Chosen, values: np.ndarray, decision: Decision, scale: tuple[float, float], task: BandContrastConfig, results: Results
) -> None:
    """Draw the region of one scan: histogram, grey map, heat map, and what is kept."""
    label, name = one.label, one.scan.name
    window = Window.of(one.place, task.roi_xrange, task.roi_yrange, one.scan.step_um)
    known = decision.inside & np.isfinite(values)
    picture, kept = window.grid(values), window.grid(decision.kept) == 1
    shown = values[known], decision.kept[known], decision.threshold, label, name
    results.figure(figure_name("histogram", one), drawing.draw_histogram, *shown)
    for kind, cmap in (("grey", figures.INTENSITY), ("heat", "inferno")):
        colours = matplotlib.colormaps[cmap].with_extremes(bad=HOLE)
        results.figure(figure_name(kind, one), draw_map, picture, window, scale, colours, label, name)
    title = f"{name}: {decision.kept.sum() / decision.inside.sum():.1%} kept by {label}"
    results.figure(figure_name("kept", one), drawing.draw_kept, np.isfinite(picture), kept, window, title)
