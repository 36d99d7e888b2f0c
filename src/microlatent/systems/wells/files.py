"""Raw files of wells behind one interface: the reference's pickles, or the patches that ``task=patch`` cut.

Three layouts are recognised by what a folder holds::

    <root>/<well>-supps/<site>/stacks_<t>.pkl, cell_traj.pkl     the reference's single-cell stacks
    <root>/<well>-supps/<site>/patches.h5, tracks.csv            ours
    <root>/<well>_static_patches.pkl, <well>_file_paths.pkl, _relations, _labels    wells that the reference assembled

Rows come in the reference's order, the plain string order of ``<site folder>/<frame>_<cell>.h5``: its patch indices are ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from microlatent.data.folders import read_unfinished
from microlatent.data.io import pickles
from microlatent.data.io.paths import natural

Trajectory = tuple[str, list[tuple[int, int]]]  # name <site>/<i>, and its (frame, cell_id) in increasing frame


class RawFrame(NamedTuple):
    """Cells of one site in one frame."""

    table: pd.DataFrame  # n rows: key, well, site, frame, cell_id, y_px, x_px, and what else is known of each cell
    images: np.ndarray  # (n, C, W, W)
    masks: np.ndarray | None  # (n, 1, W, W), 1 on the cell's enlarged mask


def channel_names(given: list[str] | None, known: list[str] | None, count: int, source: Path | str) -> list[str]:
    """Return the names of the image channels: from data.channel_names, else from the file, else channel_0, channel_1 ..."""
    names = list(given or known or [f"channel_{number}" for number in range(count)])
    if len(names) != count:
        raise ValueError(
            f"data.channel_names gives {len(names)} names ({names}), but {source} has {count} image channels. Name each of them, "
            "in the files' order."
        )
    return names


def _identity(well: str, site: str, frame: int, cells: list[int], folder: str, **columns: Any) -> pd.DataFrame:
    keys = [f"{folder}/{frame}_{cell}.h5" for cell in cells]
    rows = {"key": keys, "well": well, "site": site, "frame": frame, "cell_id": cells, **columns}
    return pd.DataFrame(rows).astype({"frame": np.int64, "cell_id": np.int64})


class StacksWell:
    """The reference's ``stacks_<t>.pkl``: {key: {"mat", "masked_mat"}}, float64 (C + 2, 1, W, W), the last two cell masks."""

    pixel_um = frame_min = relations = labels = None
    camera_dtype = None  # the reference stores float64 whatever the camera gave

    def __init__(self, name: str, sites: list[Path], given: list[str] | None) -> None:
        self.name = name
        self.sites = {site: self._stacks(site) for site in sorted(sites, key=lambda path: path.name + "/")}
        first = next((key for site in self.sites.values() for file in site.values() for key in [self._first(file)] if key), None)
        if first is None:
            raise ValueError(f"Well {name} has no cell in any of its {len(sites)} sites below {sites[0].parent}.")
        self.window_px = first.shape[-1]
        self.channels = channel_names(given, None, first.shape[0] - 2, sites[0])
        self.files = [path for site, stacks in self.sites.items() for path in [*stacks.values(), site / "cell_traj.pkl"]]
        self.positions: dict[tuple[str, int, int], np.ndarray] = {}
        self.trajectories = [
            trajectory for site in sorted(sites, key=lambda path: natural(path.name)) for trajectory in self._trajectories(site)
        ]

    @staticmethod
    def _stacks(site: Path) -> dict[int, Path]:
        found = {int(match[1]): path for path in site.glob("stacks_*.pkl") if (match := re.fullmatch(r"stacks_(\d+)", path.stem))}
        if not found:
            raise FileNotFoundError(
                f"{site} has no stacks_<frame>.pkl. Cut patches first: python infer.py task=patch data.root=<images>"
            )
        return {frame: found[frame] for frame in sorted(found, key=lambda frame: f"{frame}_")}

    @staticmethod
    def _first(path: Path) -> pickles.LazyArray | None:
        entry = next(iter(_entries(path).values()), {"mat": None})
        if "mat" not in entry:
            raise ValueError(f"{path} has a patch with {sorted(entry)}, but 'mat' and 'masked_mat' were expected.")
        return entry["mat"]

    def _trajectories(self, site: Path) -> Iterator[Trajectory]:
        content = pickles.load(site / "cell_traj.pkl")
        if not (isinstance(content, list | tuple) and len(content) == 2 and len(content[0]) == len(content[1])):
            raise ValueError(
                f"{site / 'cell_traj.pkl'} must hold two lists of equal length, trajectories and positions. "
                "Write it again with the reference's build_trajectories or with task=patch."
            )
        for number, (cells, positions) in enumerate(zip(*content, strict=True)):
            steps = sorted((int(frame), int(cell)) for frame, cell in cells.items())
            for frame, cell in steps:
                if frame in positions:
                    self.positions[site.name, frame, cell] = np.asarray(positions[frame], float)
            yield f"{site.name}/{number}", steps

    def frames(self, channels: list[int], patch_type: str, masks: bool) -> Iterator[RawFrame]:
        """Read one file after the other; only the wanted bytes of each array."""
        for site, stacks in self.sites.items():
            for frame, path in stacks.items():
                entries = _entries(path)
                if not entries:
                    continue
                cells = {self._cell(key, frame, path): (key, entry) for key, entry in entries.items()}
                order = sorted(cells, key=lambda cell: f"{cell}.h5")
                found = [cells[cell][1] for cell in order]
                images = self._read(found, patch_type, channels, path)
                enlarged = self._read(found, patch_type, [-1], path) if masks else None
                centre = np.array([self.positions.get((site.name, frame, cell), (np.nan, np.nan)) for cell in order])
                table = _identity(self.name, site.name, frame, order, "", y_px=centre[:, 0], x_px=centre[:, 1])
                table["key"] = [cells[cell][0] for cell in order]  # the folder's spelling when the patches were cut
                yield RawFrame(table, images, enlarged)

    @staticmethod
    def _cell(key: str, frame: int, path: Path) -> int:
        match = re.fullmatch(r"(\d+)_(\d+)\.h5", key.replace("\\", "/").rsplit("/", 1)[-1])
        if not match or int(match[1]) != frame:
            raise ValueError(f"{path} names a patch {key!r}, but <folder>/{frame}_<cell>.h5 was expected.")
        return int(match[2])

    def _read(self, entries: list[dict[str, pickles.LazyArray]], patch_type: str, channels: list[int], path: Path) -> np.ndarray:
        """Read planes of every patch straight to their place in one array (n, C, W, W)."""
        shape = (len(self.channels) + 2, 1, self.window_px, self.window_px)
        arrays = [entry.get(patch_type) for entry in entries]
        array = next((array for array in arrays if array is None or array.shape != shape or array.dtype != np.float64), arrays[0])
        if array is None or array.shape != shape or array.dtype != np.float64:
            raise ValueError(
                f"{path} has a patch whose {patch_type} is {None if array is None else array.shape}, but {shape} was expected "
                f"({len(self.channels)} image channels and two masks in float64, as in the well's first patch)."
            )
        planes = np.empty((len(arrays), len(channels), *shape[2:]))
        for place, array in zip(planes, arrays, strict=True):
            array.read(channels, out=place)
        return planes


def _entries(path: Path) -> dict[str, dict[str, pickles.LazyArray]]:
    content = pickles.load_lazily(path)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(entry, dict) for key, entry in content.items()
    ):
        raise ValueError(f"{path} must hold a dictionary of patches, each with 'mat' and 'masked_mat'; it holds something else.")
    return content


class PatchesWell:
    """Our own ``patches.h5`` and ``tracks.csv`` of each site."""

    relations = labels = None

    def __init__(self, name: str, sites: list[Path], given: list[str] | None) -> None:
        self.name = name
        self.sites = sorted(sites, key=lambda path: path.name + "/")
        known = []
        for site in self.sites:
            with _open_patches(site / "patches.h5") as file:
                known.append((list(file.attrs["channels"]), file["mat"].shape[-1], file["mat"].dtype))
                self.pixel_um, self.frame_min = (
                    float(file.attrs[key]) if key in file.attrs else None for key in ("pixel_um", "frame_min")
                )
        if any(one != known[0] for one in known):
            raise ValueError(f"The sites of well {name} differ in channels, window or dtype: {known}. Cut them again in one go.")
        self.channels = channel_names(given, known[0][0], len(known[0][0]), sites[0])
        self.window_px, self.camera_dtype = known[0][1:]
        self.files = [site / name for site in self.sites for name in ("patches.h5", "tracks.csv")]
        self.trajectories = [t for site in sorted(sites, key=lambda path: natural(path.name)) for t in self._trajectories(site)]

    @staticmethod
    def _trajectories(site: Path) -> Iterator[Trajectory]:
        tracks = pd.read_csv(site / "tracks.csv")
        for number, rows in tracks.groupby("trajectory"):
            steps = rows.sort_values("frame")
            yield f"{site.name}/{number}", list(zip(steps["frame"].tolist(), steps["cell_id"].tolist(), strict=True))

    def frames(self, channels: list[int], patch_type: str, masks: bool) -> Iterator[RawFrame]:
        """Read the rows of one frame after the other."""
        for site in self.sites:
            with _open_patches(site / "patches.h5") as file:
                table = pd.DataFrame({name: column[:] for name, column in file["table"].items()})
                for frame in sorted(table["frame"].unique(), key=lambda frame: f"{frame}_"):
                    rows = np.flatnonzero(table["frame"] == frame)  # contiguous: the file is ordered by frame
                    here = slice(rows[0], rows[-1] + 1)
                    part = table.iloc[rows]
                    turn = np.argsort([f"{cell}.h5" for cell in part["cell_id"]])
                    part = part.iloc[turn]
                    rest = {name: part[name].to_numpy() for name in part.columns if name not in ("frame", "cell_id")}
                    folder = f"{self.name}-supps/{site.name}"
                    identity = _identity(self.name, site.name, int(frame), part["cell_id"].tolist(), folder, **rest)
                    enlarged = file["enlarged_mask"][here][turn][:, None] if masks else None
                    yield RawFrame(identity, file[patch_type][here][turn][:, channels], enlarged)


def _open_patches(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no {path}. Cut patches first: python infer.py task=patch data.root=<images>"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({error}). It may be cut short; cut the patches again.") from error
    if not file.attrs.get("complete", False):
        file.close()
        raise ValueError(f"{path} was left unfinished. Cut the patches again: python infer.py task=patch ...")
    return file


class StaticWell:
    """A well that the reference assembled: ``<well>_static_patches.pkl`` (N, C, 1, Y, X) float64 and its companions."""

    pixel_um = frame_min = camera_dtype = None

    def __init__(self, name: str, root: Path, given: list[str] | None) -> None:
        self.name = name
        self.files = [root / f"{name}_{part}.pkl" for part in ("static_patches", "file_paths")]
        optional = [root / f"{name}_static_patches_{part}.pkl" for part in ("relations", "labels")]
        self.files += [path for path in optional if path.is_file()]
        self.patches = pickles.load_lazily(self.files[0])
        self.keys = list(pickles.load(self.files[1]))
        if len(self.keys) != len(self.patches) or len(self.patches.shape) != 5 or self.patches.shape[2] != 1:
            raise ValueError(
                f"{self.files[0]} is {self.patches.shape}, but ({len(self.keys)}, channels, 1, rows, columns) was expected "
                f"from the {len(self.keys)} names in {self.files[1].name}."
            )
        self.window_px = self.patches.shape[-1]
        self.channels = channel_names(given, None, self.patches.shape[1], self.files[0])
        names = [re.fullmatch(r"(?:.*/)?([^/]+)/(\d+)_(\d+)\.h5", key) for key in self.keys]
        if not all(names):
            raise ValueError(f"{self.files[1]} must name patches <site folder>/<frame>_<cell>.h5, but holds {self.keys[:2]}.")
        self.identity = [(match[1], int(match[2]), int(match[3])) for match in names]
        relations = pickles.load(optional[0]) if optional[0].is_file() else {}
        self.relations = np.array([(*pair, code) for pair, code in relations.items()], np.int32).reshape(-1, 3)
        self.labels = (
            np.asarray(pickles.load(optional[1]), np.int32)
            if optional[1].is_file()
            else np.arange(len(self.keys), dtype=np.int32)
        )
        self.trajectories = list(self._trajectories())

    def _trajectories(self) -> Iterator[Trajectory]:
        counter: dict[str, int] = {}
        for label in np.unique(self.labels):
            steps = sorted(self.identity[row][1:] for row in np.flatnonzero(self.labels == label))
            if len(steps) > 1:  # a patch alone may be an orphan or a trajectory of one frame: the labels do not say
                site = self.identity[np.argmax(self.labels == label)][0]
                counter[site] = counter.get(site, -1) + 1
                yield f"{site}/{counter[site]}", steps

    def frames(self, channels: list[int], patch_type: str, masks: bool) -> Iterator[RawFrame]:
        """Read blocks of rows; the reference kept one variant of each patch and no masks."""
        if masks:
            raise ValueError(f"task.masks=true needs cell masks, but {self.files[0]} has none. Assemble from the stacks instead.")
        for start in range(0, len(self.keys), 64):
            rows = list(range(start, min(start + 64, len(self.keys))))
            site, frame, cell = zip(*(self.identity[row] for row in rows), strict=True)
            table = pd.DataFrame(
                {"key": self.keys[start : rows[-1] + 1], "well": self.name, "site": site, "frame": frame, "cell_id": cell}
            )
            yield RawFrame(table.assign(y_px=np.nan, x_px=np.nan), self.patches.read(rows)[:, channels, 0], None)


RawWell = StacksWell | PatchesWell | StaticWell


def find_wells(root: Path, wells: list[str] | None, sites: list[str] | None, given: list[str] | None) -> list[RawWell]:
    """Open the raw files of every well below a folder, or of the named ones.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or nothing in it that is known.
    ValueError
        A named well or site is absent, or its files disagree.
    """
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        raise FileNotFoundError(f"data.root={root} is no folder that can be read. Check its name and its permissions.")
    folders = {path.name.removesuffix("-supps"): path for path in sorted(root.glob("*-supps")) if path.is_dir()}
    static = {path.name.removesuffix("_static_patches.pkl"): path for path in sorted(root.glob("*_static_patches.pkl"))}
    known = sorted({*folders, *static}, key=natural)
    if not known:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"data.root={root} holds neither <well>-supps folders nor <well>_static_patches.pkl files; it holds {there}. "
            "For images and masks, cut patches first: python infer.py task=patch data.root=..."
        )
    missing = [well for well in wells or [] if well not in known]
    if missing:
        raise ValueError(f"data.wells names {missing}, but {root} holds {known}.")
    chosen = wells or known
    uncut = [name for name in read_unfinished(root) if _is_of(name, chosen, sites)]
    if uncut:
        raise ValueError(
            f"{root} is half cut: the last task=patch ended before {', '.join(uncut)}. Run task=patch again, or choose what is "
            "whole with data.wells or data.sites."
        )
    opened = []
    found_sites: set[str] = set()
    for well in chosen:
        if well not in folders:
            opened.append(StaticWell(well, root, given))
            continue
        there = [path for path in folders[well].iterdir() if path.is_dir() and (sites is None or path.name in sites)]
        found_sites |= {path.name for path in there}
        if there:
            kind = PatchesWell if all((site / "patches.h5").exists() for site in there) else StacksWell
            opened.append(kind(well, there, given))
    absent = [site for site in sites or [] if site not in found_sites]
    if not opened and not sites:
        raise ValueError(
            f"{', '.join(f'{well}-supps' for well in chosen)} in {root} hold no folder of a site. Cut patches first: task=patch."
        )
    if absent or not opened:
        raise ValueError(
            f"data.sites names {absent or sites}, which are not among the sites of {', '.join(chosen)} in {root}. "
            "A site belongs to one well: name that well in data.wells too."
        )
    return opened


def _is_of(name: str, wells: list[str], sites: list[str] | None) -> bool:
    """Return whether <well>/<site> is among those that were chosen."""
    well, _, site = name.partition("/")
    return well in wells and (sites is None or site in sites)
