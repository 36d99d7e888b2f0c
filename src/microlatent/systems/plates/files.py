"""The project folder of virtual staining: which plates are for training, which for testing, and where their ground truth lies.

::

    <root>/datasets/train/<yyyymmdd_name>.zarr
    <root>/datasets/test/<yyyymmdd_name>.zarr
    <root>/datasets/ground_truth/<yyyymmdd_name>_gt/<frame>.tif, <frame>_mask.png

A frame is named by well, field and, where there are several, time point and plane: ``A_4_001``, ``A_4_001_t2_z5``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from microlatent.data.io.ome_zarr.metadata import zarrs_in

TRUTH_SUFFIX = "_gt"


@dataclass
class Project:
    """What a project folder holds: ``truth`` by the name of the data set, ``unmatched`` are truth folders of no data set."""

    train: list[Path]
    test: list[Path]
    truth: dict[str, Path]
    unmatched: list[Path] = field(default_factory=list)

    @property
    def plates(self) -> list[Path]:
        """All plates, those for training first."""
        return [*self.train, *self.test]


def find_project(root: str | Path) -> Project | None:
    """Return what the project folder holds, or None if it is none: it has neither datasets/train nor datasets/test.

    Raises
    ------
    FileNotFoundError
        The folders are there, but no plate is in them.
    """
    folder = Path(root) / "datasets"
    kinds = {kind: folder / kind for kind in ("train", "test", "ground_truth")}
    if not (kinds["train"].is_dir() or kinds["test"].is_dir()):
        return None
    train, test = (zarrs_in(kinds[kind]) if kinds[kind].is_dir() else [] for kind in ("train", "test"))
    if not train and not test:
        raise FileNotFoundError(
            f"{folder} has no plate in train or test. Put OME-Zarr plates there: {kinds['train']}/<name>.zarr."
        )
    names = {path.name.removesuffix(".zarr") for path in [*train, *test]}
    truth, unmatched = {}, []
    for path in sorted(kinds["ground_truth"].iterdir()) if kinds["ground_truth"].is_dir() else []:
        name = path.name.removesuffix(TRUTH_SUFFIX)
        if path.is_dir() and not path.name.startswith("."):
            if name in names and name != path.name:
                truth[name] = path
            else:
                unmatched.append(path)
    return Project(train, test, truth, unmatched)


def frame_name(well: str, fov: str, t: int | None = None, z: int | None = None) -> str:
    """Return the name of a frame's ground truth, such as A_4_001_t2: time and plane only where there are several."""
    return f"{well.replace('/', '_')}_{fov}" + (f"_t{t}" if t is not None else "") + (f"_z{z}" if z is not None else "")
