"""A simulated multiplexed tissue with known truth: subjects whose treatment outcome changes where the CD8 cells stand.

Five types of cells live in neighbourhoods: nests of tumour cells (Cytokeratins, some Ki-67), and around them stroma with
cytotoxic T cells (CD8), regulatory T cells (Foxp3 and GITR) and patches of myeloid cells (IDO); every nucleus has DAPI.
In responders most CD8 cells have entered the nests, in non-responders most stand around them. The number of cells of every
type does not depend on the outcome, and a cell's stain is spread over its pixels so that its sum is the cell's own: marker
means say nothing about the outcome, however crowded a place is. Staining, cell density and the size of nests vary between
subjects, whatever their outcome.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from microlatent.data.specimen import write_once
from microlatent.files import write_csv

MARKERS = ["GITR", "IDO", "Ki-67", "Foxp3", "CD8", "DAPI", "Cytokeratins"]
OUTCOMES = ("non-responder", "responder")
PIXEL_UM = 1.0  # as imaging mass cytometry
NEST_SHARE = 0.35  # of the area
NEST_REACH_PX = 32.0  # scale of the nests' outline
GATHERING_PX = 14.0  # scale of the places where cytotoxic and myeloid cells are many
BACKGROUND = 1.5  # mean counts without any cell


class CellType(NamedTuple):
    """Cells per square millimetre, half axes in um, and mean counts of each marker over the place where it sits."""

    per_mm2: float
    long_um: float
    short_um: float
    stains: dict[str, tuple[str, float, float]]  # marker: place in the cell, counts, share of the cells that have it


TYPES = {
    "tumour": CellType(
        3600.0,
        *(5.6, 4.8),
        {"Cytokeratins": ("cytoplasm", 60.0, 1.0), "Ki-67": ("nucleus", 55.0, 0.25), "DAPI": ("nucleus", 70.0, 1.0)},
    ),
    "stroma": CellType(2600.0, 6.2, 3.0, {"DAPI": ("nucleus", 80.0, 1.0), "Ki-67": ("nucleus", 45.0, 0.04)}),
    "cytotoxic": CellType(2200.0, 4.1, 3.7, {"CD8": ("membrane", 75.0, 1.0), "DAPI": ("nucleus", 110.0, 1.0)}),
    "regulatory": CellType(
        500.0,
        *(4.1, 3.7),
        {"Foxp3": ("nucleus", 60.0, 1.0), "GITR": ("membrane", 45.0, 1.0), "DAPI": ("nucleus", 110.0, 1.0)},
    ),
    "myeloid": CellType(600.0, 5.4, 4.4, {"IDO": ("cytoplasm", 45.0, 1.0), "DAPI": ("nucleus", 75.0, 1.0)}),
}


class Subject(NamedTuple):
    """What all images of a subject share."""

    name: str
    outcome: str
    infiltration: float  # share of the CD8 cells that are inside nests
    density: float  # of cells, relative to TYPES
    nest_scale: float  # of NEST_REACH_PX
    staining: NDArray  # gain of each marker


def simulate(
    folder: str | Path,
    seed: int = 0,
    subjects: int = 24,
    images: int = 2,
    size_px: int = 320,
    infiltration: tuple[float, float] = (0.15, 0.75),
) -> Path:
    """Write the specimen and return its folder; an existing one of the same arguments is kept.

    ``<subject>/<image>.tif`` (7, Y, X) uint16 with channel names and pixel size; ``outcomes.csv`` (subject, outcome);
    ``cells.csv``, the truth: subject, image, y_px, x_px, type, in_nest; ``specimen.json``, the arguments. The folder appears
    whole or not at all: it is made under another name and renamed at the end.

    Parameters
    ----------
    subjects
        Half of them respond; the order is random.
    infiltration
        Planted share of the CD8 cells inside nests, in non-responders and in responders; subjects scatter by 0.05.

    Raises
    ------
    ValueError
        If the folder exists and holds anything else.
    """
    wanted = {"seed": seed, "subjects": subjects, "images": images, "size_px": size_px, "infiltration": list(infiltration)}
    return write_once(folder, wanted, lambda partial: _write(partial, seed, subjects, images, size_px, infiltration))


def _write(folder: Path, seed: int, subjects: int, images: int, size_px: int, infiltration: tuple[float, float]) -> None:
    about: dict[str, Any] = {"axes": "CYX", "unit": "um", "Labels": MARKERS}
    people, tables = draw_subjects(seed, subjects, infiltration), []
    for number, subject in enumerate(people):
        (folder / subject.name).mkdir(parents=True)
        for image in range(images):
            rng = np.random.default_rng([seed, number, image])
            cells = populate(rng, subject, size_px)
            name = f"roi{image + 1}"
            pixels_per_um = (1 / PIXEL_UM, 1 / PIXEL_UM)
            pixels = render(rng, cells, subject.staining, size_px)
            tifffile.imwrite(folder / subject.name / f"{name}.tif", pixels, imagej=True, resolution=pixels_per_um, metadata=about)
            truth = cells[["y_px", "x_px", "type", "in_nest"]].round(2)
            truth.insert(0, "subject", subject.name)
            truth.insert(1, "image", name)
            tables.append(truth)
    write_csv(pd.concat(tables, ignore_index=True), folder / "cells.csv")
    write_csv(pd.DataFrame([{"subject": one.name, "outcome": one.outcome} for one in people]), folder / "outcomes.csv")


def draw_subjects(seed: int, subjects: int, infiltration: tuple[float, float]) -> list[Subject]:
    """Draw outcomes in random order, and what else varies between subjects, independently of them."""
    rng = np.random.default_rng([seed, subjects])
    responds = rng.permutation(subjects) < subjects // 2
    return [
        Subject(
            name=f"S{number + 1:0{max(2, len(str(subjects)))}d}",
            outcome=OUTCOMES[int(response)],
            infiltration=float(np.clip(infiltration[int(response)] + 0.05 * rng.normal(), 0, 1)),
            density=float(np.exp(0.1 * rng.normal())),
            nest_scale=float(np.exp(0.15 * rng.normal())),
            staining=np.exp(0.15 * rng.normal(size=len(MARKERS))),
        )
        for number, response in enumerate(responds)
    ]


def populate(rng: np.random.Generator, subject: Subject, size_px: int) -> pd.DataFrame:
    """Place the cells of an image: y_px, x_px, type, in_nest, half axes long_px and short_px, angle."""
    field = _smooth(rng, size_px, NEST_REACH_PX * subject.nest_scale)
    nest = field > np.quantile(field, 1 - NEST_SHARE)
    outside_px, inside_px = ndimage.distance_transform_edt(~nest), ndimage.distance_transform_edt(nest)
    patches, gathering = (np.exp(1.5 * _smooth(rng, size_px, GATHERING_PX)) for _ in range(2))
    # Where each type likes to be; T cells outside gather at the nests, and inside keep off the rim by about a cell.
    stroma = np.where(outside_px > 2, 1.0, 0.0)
    places = {
        "tumour": np.where(inside_px > 2, 1.0, 0.0),
        "stroma": stroma,
        "cytotoxic": stroma * np.exp(-outside_px / 20.0) * gathering,
        "regulatory": stroma * np.exp(-outside_px / 30.0),
        "myeloid": stroma * patches,
    }
    area_mm2 = (size_px * PIXEL_UM / 1000) ** 2
    points, kinds = [], []
    for kind, about in TYPES.items():
        count = round(about.per_mm2 * area_mm2 * subject.density)
        within = round(subject.infiltration * count) if kind == "cytotoxic" else 0
        points += [_sample(rng, places[kind], count - within), _sample(rng, np.where(inside_px > 4, gathering, 0.0), within)]
        kinds += [kind] * count
    place, kind = np.concatenate(points), np.array(kinds)
    long_um = np.array([TYPES[name].long_um for name in kind])
    short_um = np.array([TYPES[name].short_um for name in kind])
    return pd.DataFrame(
        dict(zip(("y_px", "x_px"), _relax(rng, place, np.sqrt(long_um * short_um) / PIXEL_UM, nest).T, strict=True))
        | {"type": kind, "in_nest": nest[tuple(place.astype(int).T)]}
        | {"long_px": long_um / PIXEL_UM, "short_px": short_um / PIXEL_UM, "angle": rng.uniform(0, np.pi, len(kind))}
    )


def _smooth(rng: np.random.Generator, size_px: int, reach_px: float) -> NDArray:
    """Return a smooth random field (Y, X) of mean 0 and standard deviation 1; drawn on a coarse grid, which is faster."""
    step = max(1, int(reach_px / 4))
    side = -(-size_px // step) + 2
    field = ndimage.gaussian_filter(rng.normal(size=(side, side)), reach_px / step, mode="wrap")
    place = np.arange(size_px) / step
    low = place.astype(int)
    share = place - low
    field = field[low] * (1 - share)[:, None] + field[low + 1] * share[:, None]
    field = field[:, low] * (1 - share) + field[:, low + 1] * share
    return (field - field.mean()) / field.std()


def _sample(rng: np.random.Generator, weight: NDArray, count: int) -> NDArray:
    """Draw points (count, 2) with probability proportional to a map."""
    total = np.cumsum(weight.ravel())
    at = np.searchsorted(total, rng.uniform(0, total[-1], count), side="right")
    return np.stack(np.divmod(at, weight.shape[1]), axis=1) + rng.uniform(0, 1, (count, 2))


def _relax(rng: np.random.Generator, place: NDArray, radius_px: NDArray, nest: NDArray) -> NDArray:
    """Push cells apart; a step that would take a cell over the rim of a nest or of the image is not made."""
    size_px, home = len(nest), nest[tuple(place.astype(int).T)]
    for _ in range(25):
        first, second = cKDTree(place).query_pairs(2 * radius_px.max(), output_type="ndarray").T
        gap = place[first] - place[second]
        distance = np.maximum(np.linalg.norm(gap, axis=1), 1e-6)
        overlap = np.clip(0.95 * (radius_px[first] + radius_px[second]) - distance, 0, None)
        push = (0.35 * overlap / distance)[:, None] * gap
        step = np.zeros_like(place)
        for axis in (0, 1):
            step[:, axis] = np.bincount(first, push[:, axis], len(place)) - np.bincount(second, push[:, axis], len(place))
        # Half of the refused steps are tried along one axis alone, so that cells slide along the rim.
        for kept in ((1, 1), (1, 0), (0, 1)):
            moved = place + step * kept
            allowed = ((moved >= 2) & (moved < size_px - 2)).all(1)
            allowed[allowed] = nest[tuple(moved[allowed].astype(int).T)] == home[allowed]
            place = np.where(allowed[:, None], moved, place)
            step[allowed] = 0
    return place


def render(rng: np.random.Generator, cells: pd.DataFrame, staining: NDArray, size_px: int) -> NDArray:
    """Return the counts (7, Y, X) uint16 of an image: each pixel belongs to one cell or to none."""
    owner, depth = _territories(rng, cells, size_px)
    grain = 1 + 0.25 * rng.normal(size=owner.shape)
    nucleus = np.clip(4.0 * (0.62 - depth), 0, 1)
    edge = np.exp(-(((1 - depth) / 0.3) ** 2))
    profiles = {"nucleus": nucleus * grain, "cytoplasm": 0.25 + 0.5 * edge + (1 - nucleus), "membrane": edge}
    inside = owner >= 0
    kind = cells["type"].to_numpy()
    long_px, short_px = cells["long_px"].to_numpy(), cells["short_px"].to_numpy()
    # Mean counts times the area of an undisturbed cell make the sum of its stain, which crowding leaves as it is.
    budget = np.pi * long_px * short_px
    image = np.zeros((len(MARKERS), size_px, size_px))
    for name in pd.unique(kind):
        for marker, (place, counts, share) in TYPES[name].stains.items():
            amount = counts * budget * {"nucleus": 0.35, "cytoplasm": 0.8, "membrane": 0.5}[place]
            amount = amount * np.exp(0.25 * rng.normal(size=len(cells)) - 0.03) * (kind == name)
            amount *= rng.permutation(len(cells)) < share * len(cells) if share < 1 else 1.0
            profile = np.maximum(profiles[place], 0) * inside
            whole = np.bincount(owner[inside], profile[inside], len(cells))
            # A cell of which hardly a pixel is left, at the image's edge, does not glare.
            spread = amount / np.maximum(whole, 0.3 * np.median(whole[kind == name]))
            image[MARKERS.index(marker)][inside] += spread[owner[inside]] * profile[inside]
    image = ndimage.gaussian_filter(image, (0, 0.7, 0.7), mode="nearest")
    image = image * staining[:, None, None] + BACKGROUND * np.exp(0.2 * _smooth(rng, size_px, 20.0))
    return np.minimum(rng.poisson(image), 65535).astype(np.uint16)


def _territories(rng: np.random.Generator, cells: pd.DataFrame, size_px: int) -> tuple[NDArray, NDArray]:
    """Return the cell each pixel belongs to (-1 for none), and how far it is from the centre (0) to the cell's edge (1).

    A pixel is of the cell whose ellipse it lies deepest in; where cells touch, the edge is half way between them.
    """
    wobble = np.stack([_smooth(rng, size_px, 4.0) for _ in range(2)])
    pixels = np.moveaxis(np.mgrid[:size_px, :size_px] + 0.5 + 0.9 * wobble, 0, -1).reshape(-1, 2)
    centre = cells[["y_px", "x_px"]].to_numpy()
    near = cKDTree(centre).query(pixels, k=3)[1]
    offset = pixels[:, None] - centre[near]
    cos, sin = np.cos(cells["angle"].to_numpy()), np.sin(cells["angle"].to_numpy())
    along = cos[near] * offset[..., 1] + sin[near] * offset[..., 0]
    across = cos[near] * offset[..., 0] - sin[near] * offset[..., 1]
    reach = np.hypot(along / cells["long_px"].to_numpy()[near], across / cells["short_px"].to_numpy()[near])
    order = np.argsort(reach, axis=1)[:, :2]
    first, second = np.take_along_axis(reach, order, 1).T
    depth = np.maximum(first, 1 - (second - first) / 2 * 1.2)
    owner = np.where(first < 1, near[np.arange(len(near)), order[:, 0]], -1)
    shape = (size_px, size_px)
    return owner.reshape(shape), np.minimum(depth, 1).reshape(shape)


SPECIMENS = {"demo": simulate}  # by the value of data.root
