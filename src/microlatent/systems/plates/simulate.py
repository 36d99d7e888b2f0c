"""A simulated plate for virtual staining, with known truth: a stack of phase, and the stain of nuclei and of membranes.

Cells are caps on the bottom of the well, with a nucleus, nucleoli and granules, each of its own refractive index. The phase
channel is what a quantitative phase microscope would see of that, the two stains what a widefield microscope would. Granules are
the confuser: bright in phase, dark in both stains. How bright a nucleus is (its DNA doubles before it divides) no phase can tell.
Wells differ in stain, offset, contrast, tilt and focus. One well was dropped: it is far out of focus.

Shapes: n cells, J planes of the stain, Z planes, Y rows, X columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from scipy import fft, ndimage
from scipy.spatial import cKDTree
from scipy.special import expit

from microlatent.data.io.ome_zarr.writer import ImageWriter, create_plate
from microlatent.data.specimen import write_once
from microlatent.files import write_csv
from microlatent.systems.plates.files import TRUTH_SUFFIX, frame_name

CHANNELS = ["Phase", "Nuclei", "Membrane"]
DATASET = "20260101_demo"
PIXEL_UM, PLANE_UM, FRAME_S = 0.325, 1.0, 600.0
WAVELENGTH_UM = 0.55
SIDE_PX, PLANES = 256, 5
WELLS = tuple(f"{row}/{column}" for row in "AB" for column in range(1, 5))
TEST_WELLS = ("A/4", "B/2", "B/4")
DROP_WELL, DROP_UM, DROP_CONTRAST = "B/4", 2.6, 0.8
SPACING_PX = 24.0
CELLS = (50, 72)  # in a field of 256 x 256 px
# Refractive index above the medium.
CELL_INDEX, NUCLEUS_INDEX, NUCLEOLUS_INDEX, GRANULE_INDEX = 0.020, -0.007, 0.016, 0.020
GRANULES_PER_CELL = 3
STEP_PX = 1.5  # of a cell between time points, each way


@dataclass
class Well:
    """How a well differs from the next."""

    gain: float
    offset: float
    contrast: float
    tilt_rad: float
    defocus_um: float


@dataclass
class Cells:
    """The cells of a field, each property (n,) or (n, 2)."""

    centre_px: np.ndarray
    radius_px: np.ndarray
    height_um: np.ndarray
    nucleus_offset_px: np.ndarray
    nucleus_axes_px: np.ndarray  # long and short
    nucleus_angle: np.ndarray
    nucleus_z_um: np.ndarray
    nucleus_height_um: np.ndarray
    brightness: np.ndarray
    nucleoli: list[np.ndarray]  # (1 to 3, 3): z in um and y, x in px, from the nucleus's centre


@dataclass
class Objects:
    """What is in a field, each (Z, Y, X) between 0 and 1, but brightness up to a few, and the nuclei's labels (Y, X)."""

    cell: np.ndarray
    nucleus: np.ndarray
    dna: np.ndarray
    nucleoli: np.ndarray
    membrane: np.ndarray
    labels: np.ndarray


def simulate(
    folder: str | Path,
    seed: int = 0,
    wells: tuple[str, ...] = WELLS,
    test_wells: tuple[str, ...] = TEST_WELLS,
    fields: int = 1,
    times: int = 1,
    side_px: int = SIDE_PX,
    version: str = "0.5",
) -> Path:
    """Write the specimen as a project folder of virtual staining, and return the folder; one of the same numbers is kept.

    ``datasets/{train,test}/20260101_demo.zarr`` hold the wells for training and for testing, each field with its label image
    ``labels/nuclei``: the outlines of the nuclei, the same in every plane. ``datasets/ground_truth/20260101_demo_gt`` has them
    as ``<frame>_mask.png`` beside the stain's middle plane, and ``truth.csv`` what was planted in every well.

    Raises
    ------
    ValueError
        If the folder exists and holds anything else.
    """
    wanted = {"seed": seed, "wells": list(wells), "test_wells": list(test_wells), "fields": fields, "times": times}
    wanted |= {"side_px": side_px, "version": version}

    def write(partial: Path) -> None:
        specimen(partial, seed, wells, test_wells, fields, times, side_px, version)

    return write_once(folder, wanted, write)


def specimen(
    folder: Path,
    seed: int,
    wells: tuple[str, ...],
    test_wells: tuple[str, ...],
    fields: int,
    times: int,
    side_px: int,
    version: str,
) -> None:
    """Write the project folder and its truth."""
    names = [f"{k:03d}" for k in range(fields)]
    parts = {kind: [well for well in wells if (well in test_wells) == (kind == "test")] for kind in ("train", "test")}
    truth = []
    for kind, members in parts.items():
        plate = folder / "datasets" / kind / f"{DATASET}.zarr"
        if members:
            create_plate(plate, [(well, name) for well in members for name in names], version)
        for well in members:
            planted = draw_well(seed, well)
            for k, name in enumerate(names):
                shots = list(render_field(np.random.default_rng([seed, *_place(well), k]), planted, times, side_px))
                _write_field(plate, well, name, shots, version)
                _write_truth(folder / "datasets" / "ground_truth" / f"{DATASET}{TRUTH_SUFFIX}", well, name, shots)
                for t, (_, labels) in enumerate(shots):
                    about = {"part": kind, "well": well, "fov": name, "t": t, "num_nuclei": len(np.unique(labels)) - 1}
                    truth.append(about | {f"true_{key}": value for key, value in vars(planted).items()})
    write_csv(pd.DataFrame(truth), folder / "truth.csv")


def draw_well(seed: int, well: str) -> Well:
    """Draw what sets a well apart; the dropped one is out of focus."""
    rng = np.random.default_rng([seed, *_place(well), 99])
    found = Well(
        gain=float(np.exp(rng.normal(0, 0.25))),
        offset=float(rng.uniform(0, 40)),
        contrast=float(rng.uniform(0.85, 1.2)),
        tilt_rad=float(rng.uniform(-0.08, 0.08)),
        defocus_um=float(rng.normal(0, 0.15)),
    )
    if well == DROP_WELL:
        found.defocus_um, found.contrast = DROP_UM, found.contrast * DROP_CONTRAST
    return found


def render_field(rng: np.random.Generator, well: Well, times: int, side_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for every time point, the image (C, Z, Y, X) uint16 and the labels of the nuclei (Y, X) uint16."""
    num_cells = round(rng.integers(*CELLS) * (side_px / 256) ** 2)
    cells = draw_cells(rng, num_cells, side_px)
    warp = 3.0 * smooth_noise(rng, (2, side_px, side_px), 9)  # makes the outlines irregular
    for _ in range(times):
        found = place_objects(cells, warp, side_px)
        index = refractive_index(rng, found)
        yield np.stack([phase_counts(rng, index, well), *stain_counts(rng, found, well)]), found.labels
        cells.centre_px = cells.centre_px + rng.normal(0, STEP_PX, cells.centre_px.shape)


def draw_cells(rng: np.random.Generator, num_cells: int, side_px: int) -> Cells:
    """Draw the cells of a field; centres keep their distance, and some lie beyond the edge."""
    centres = np.empty((0, 2))
    for candidate in rng.uniform(-6, side_px + 6, (num_cells * 40, 2)):
        if len(centres) < num_cells and (((centres - candidate) ** 2).sum(1) > SPACING_PX**2).all():
            centres = np.vstack([centres, candidate])
    n = len(centres)
    long = rng.uniform(8.5, 12.5, n)
    return Cells(
        centre_px=centres,
        radius_px=rng.uniform(22, 30, n),
        height_um=rng.uniform(3.0, 4.6, n),
        nucleus_offset_px=rng.normal(0, 2.5, (n, 2)),
        nucleus_axes_px=np.stack([long, long * rng.uniform(0.68, 1, n)], 1),
        nucleus_angle=rng.uniform(0, np.pi, n),
        nucleus_z_um=rng.uniform(1.6, 2.4, n),
        nucleus_height_um=rng.uniform(1.3, 2.0, n),
        brightness=np.exp(rng.normal(0, 0.18, n)) * np.where(rng.random(n) < 0.3, 1.7, 1.0),
        nucleoli=[
            rng.uniform(-1, 1, (count, 3)) * [0.4, 0.45 * axis, 0.45 * axis]
            for axis, count in zip(long, rng.integers(1, 4, n), strict=True)
        ],
    )


def place_objects(cells: Cells, warp: np.ndarray, side_px: int) -> Objects:
    """Put the cells into the field: territories between the centres, caps over them, nuclei inside."""
    z = np.arange(PLANES, dtype=np.float32)[:, None, None] * np.float32(PLANE_UM)
    grid = np.mgrid[:side_px, :side_px].astype(np.float32)
    distance, owner = cKDTree(cells.centre_px).query(np.moveaxis(grid + warp, 0, -1), k=2, workers=1)
    nearest, second, owner = *np.moveaxis(distance.astype(np.float32), -1, 0), owner[..., 0]
    touch, radius = second - nearest, cells.radius_px[owner].astype(np.float32)
    rim = np.clip(np.minimum((radius - nearest) / 8, touch / 10), 0, 1)  # 0 at the border, 1 inside
    is_cell = (nearest < radius) & (touch > 1.2)
    height = np.where(is_cell, cells.height_um[owner] * np.sqrt(rim), 0).astype(np.float32)
    cell = expit((height - z) / 0.35) * is_cell
    border = np.exp(-((touch / 2.2) ** 2)) * (nearest < 1.05 * radius)  # where cells meet, and where one ends
    border += np.exp(-(((nearest - radius) / 1.6) ** 2)) * (touch > 2)
    membrane = 0.35 * np.exp(-(((height - z) / 0.7) ** 2)) * is_cell + border * (0.75 * height.max() > z)
    found = Objects(cell, *(np.zeros((PLANES, side_px, side_px), np.float32) for _ in range(3)), membrane, np.zeros(0))
    found.labels = _place_nuclei(cells, grid, warp, z, found)
    return found


def _place_nuclei(cells: Cells, grid: np.ndarray, warp: np.ndarray, z: np.ndarray, found: Objects) -> np.ndarray:
    """Add the nuclei, each in a window of its own, and return their labels: a pixel is of the nucleus it is deepest in."""
    labels, depth = np.zeros(grid.shape[1:], np.uint16), np.ones(grid.shape[1:], np.float32)
    for k, centre in enumerate(cells.centre_px + cells.nucleus_offset_px):
        window = tuple(slice(max(0, int(at) - 18), max(0, int(at) + 19)) for at in centre)
        dy, dx = (grid + 0.4 * warp)[:, *window] - centre[:, None, None]
        if not dy.size:
            continue
        cos, sin = np.cos(cells.nucleus_angle[k]), np.sin(cells.nucleus_angle[k])
        long, short = cells.nucleus_axes_px[k]
        flat = ((cos * dx + sin * dy) / long) ** 2 + ((cos * dy - sin * dx) / short) ** 2
        inside = flat < depth[window]
        labels[window][inside], depth[window][inside] = k + 1, flat[inside]
        body = expit(9 * (1 - flat - ((z - cells.nucleus_z_um[k]) / cells.nucleus_height_um[k]) ** 2))
        volume = (slice(None), *window)
        np.maximum(found.nucleus[volume], body, out=found.nucleus[volume])
        np.maximum(found.dna[volume], body * cells.brightness[k], out=found.dna[volume])
        for at_z, at_y, at_x in cells.nucleoli[k]:
            spot = np.exp(-((dy - at_y) ** 2 + (dx - at_x) ** 2) / (2 * 1.6**2))
            found.nucleoli[volume] += spot * np.exp(-((z - cells.nucleus_z_um[k] - at_z) ** 2) / (2 * 0.6**2))
    np.minimum(found.nucleoli, 1, out=found.nucleoli)
    return labels


def refractive_index(rng: np.random.Generator, found: Objects) -> np.ndarray:
    """Return the refractive index above the medium's (Z, Y, X): cells, nuclei, nucleoli and granules."""
    shape = found.cell.shape
    index = CELL_INDEX * found.cell * (1 + 0.10 * smooth_noise(rng, shape, 1.5))
    index += NUCLEUS_INDEX * found.nucleus + NUCLEOLUS_INDEX * found.nucleoli
    num_granules = GRANULES_PER_CELL * int(found.labels.max())
    at = tuple(rng.integers(0, size, num_granules) for size in shape)
    drops = np.zeros(shape, np.float32)
    drops[at] = found.cell[at] > 0.5
    drops = ndimage.gaussian_filter(drops, (0, 1.1, 1.1)) * 2 * np.pi * 1.1**2
    return index + GRANULE_INDEX * np.minimum(drops, 1.2)


def phase_counts(rng: np.random.Generator, index: np.ndarray, well: Well) -> np.ndarray:
    """Return the phase channel (Z, Y, X) in counts: what lies a plane away is seen blurred and fainter.

    Blur, halo (high pass) and the objective's cut-off are one product in Fourier space.
    """
    planes, rows, columns = index.shape
    k = np.hypot(2 * np.pi * fft.fftfreq(rows)[:, None], 2 * np.pi * fft.rfftfreq(columns)).astype(np.float32)
    z = np.arange(planes) * PLANE_UM
    away = np.abs(z[:, None] + well.defocus_um - z)[..., None, None].astype(np.float32)  # (Z, J, 1, 1), um
    transfer = np.exp(-(away**2) / (2 * 1.6**2)) * np.exp(-(((0.5 + 0.9 * away) * k) ** 2) / 2)
    spectrum = np.einsum("zjyx,jyx->zyx", transfer, fft.rfft2(index))
    band = (12 * k) ** 2 / (1 + (12 * k) ** 2) * np.exp(-((0.7 * k) ** 2) / 2)
    phase = fft.irfft2(spectrum * band, s=(rows, columns)) * 2 * np.pi / WAVELENGTH_UM * PLANE_UM * well.contrast
    phase += 0.012 * rng.standard_normal(phase.shape) + 0.01 * smooth_noise(rng, (rows, columns), 30)
    phase += well.tilt_rad * np.linspace(-1, 1, columns)
    return _counts(32768 + 20000 * phase)


def stain_counts(rng: np.random.Generator, found: Objects, well: Well) -> list[np.ndarray]:
    """Return the stains of nuclei and membranes, each (Z, Y, X) in counts."""
    planes, rows, columns = found.cell.shape
    chromatin = 1 + 0.12 * smooth_noise(rng, (planes, rows, columns), 2.0)
    patchy = 1 + 0.12 * smooth_noise(rng, (rows, columns), 6)
    y, x = np.linspace(-0.5, 0.5, rows)[:, None], np.linspace(-0.5, 0.5, columns)
    shading = 1 - 0.25 * 2 * (y**2 + x**2)
    images = []
    for emitted, photons, background in (
        (found.dna * chromatin * (1 - 0.4 * found.nucleoli), 900, 60),
        (found.membrane * patchy, 500, 90),
    ):
        seen = ndimage.gaussian_filter(emitted.astype(np.float32), (0.8, 1.2, 1.2))
        expected = (photons * well.gain * seen + background + well.offset) * shading
        images.append(_counts(2.0 * rng.poisson(expected) + 100 + rng.normal(0, 3, seen.shape)))
    return images


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> np.ndarray:
    """Return noise smooth over ``sigma_px`` in the last two axes, of standard deviation 1 in each plane."""
    ky, kx = 2 * np.pi * fft.fftfreq(shape[-2])[:, None], 2 * np.pi * fft.rfftfreq(shape[-1])
    white = rng.standard_normal(shape, np.float32)
    noise = fft.irfft2(fft.rfft2(white) * np.exp(-(sigma_px**2) * (ky**2 + kx**2) / 2).astype(np.float32), s=shape[-2:])
    return noise / noise.std((-2, -1), keepdims=True)


def _write_field(plate: Path, well: str, name: str, shots: list[tuple[np.ndarray, np.ndarray]], version: str) -> None:
    shape = (len(shots), *shots[0][0].shape)
    sizes = {"scale": (FRAME_S, 1.0, PLANE_UM, PIXEL_UM, PIXEL_UM)}
    units = {"T": "second"} | dict.fromkeys("ZYX", "micrometer")
    with ImageWriter(plate / well / name, shape, np.uint16, CHANNELS, version=version, units=units, **sizes) as image:
        for t, (pixels, _) in enumerate(shots):
            for c, planes in enumerate(pixels):
                image.write(planes, t, c)
        with image.labels("nuclei", np.uint16) as mask:
            for t, (pixels, labels) in enumerate(shots):
                mask.write(np.broadcast_to(labels, pixels.shape[1:]), t, 0)


def _write_truth(folder: Path, well: str, name: str, shots: list[tuple[np.ndarray, np.ndarray]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, (pixels, labels) in enumerate(shots):
        frame = frame_name(well, name, t if len(shots) > 1 else None)
        tifffile.imwrite(folder / f"{frame}.tif", pixels[CHANNELS.index("Nuclei"), PLANES // 2], photometric="minisblack")
        Image.fromarray(labels).save(folder / f"{frame}_mask.png")


def _place(well: str) -> tuple[int, int]:
    row, column = well.split("/")
    return ord(row), int(column)


def _counts(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 65535)).astype(np.uint16)


SPECIMENS = {"demo": simulate}  # by the value of data.root
