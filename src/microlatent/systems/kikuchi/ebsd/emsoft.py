"""EMsoft's simulated patterns: a list of orientations without a map.

Source: EMsoft wiki, EMEBSD; pattern centre of EMsoft 5 (Jackson et al. 2019, doi 10.1007/s40192-019-00137-4).
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from microlatent.systems.kikuchi.ebsd.h5 import find, need, number, text
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points
from microlatent.systems.kikuchi.ebsd.stacks import H5Stack

logger = logging.getLogger(__name__)
PATTERNS = "EMData/EBSD/EBSDPatterns"


def open_emsoft(path: Path, file: h5py.File, patterns: str) -> list[Scan]:
    """Return the one scan of a file: a map of one row.

    Raises
    ------
    ValueError
        There are no patterns, as in a file of master patterns.
    """
    stack = H5Stack.open(path, need(path, file, PATTERNS))
    logger.warning("%s: EMsoft's patterns have no places; they are taken as one row of %d.", path, stack.num)
    columns, settings = {}, find(file, "NMLparameters/EBSDNameList")
    euler = find(file, "EMData/EBSD/EulerAngles")
    if isinstance(euler, h5py.Dataset) and euler.shape == (stack.num, 3):
        columns = dict(zip(("phi1_rad", "Phi_rad", "phi2_rad"), euler[()].T, strict=True))
    x, y, length, pixel, binning = (
        number(find(settings, key)) if isinstance(settings, h5py.Group) else None
        for key in ("xpc", "ypc", "L", "delta", "binning")
    )
    if None not in (x, y, length, pixel) and pixel:
        # Offsets in unbinned pixels from the centre, distance and pixel in micrometres.
        height, width = (side * (binning or 1) for side in stack.shape)
        centre = (0.5 - x / width, 0.5 - y / height, length / (height * pixel))
        columns |= {key: np.full(stack.num, value) for key, value in zip(("pcx", "pcy", "pcz"), centre, strict=True)}
    points, order = grid_points(path, (1, stack.num), None, columns)
    about = {
        "beam_kv": number(find(file, "NMLparameters/EBSDNameList/energymax")),
        "crystal": text(find(file, "EMData/EBSD/xtalname")),
    }
    about["detector_tilt_deg"] = number(find(file, "NMLparameters/EBSDNameList/thetac"))
    return [
        Scan(
            name=path.stem,
            path=path,
            format="EMsoft h5",
            map_shape=(1, stack.num),
            points=points,
            stack=stack,
            order=order,
            metadata={key: value for key, value in about.items() if value not in (None, "")},
        )
    ]
