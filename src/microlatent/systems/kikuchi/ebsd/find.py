"""EBSD scans found by what their files hold."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py

from microlatent.data.io.paths import natural
from microlatent.systems.kikuchi.ebsd.bruker import open_bruker
from microlatent.systems.kikuchi.ebsd.ebsp import open_ebsp
from microlatent.systems.kikuchi.ebsd.edax import apex_groups, open_edax
from microlatent.systems.kikuchi.ebsd.emsoft import PATTERNS, open_emsoft
from microlatent.systems.kikuchi.ebsd.h5 import find, open_h5, text
from microlatent.systems.kikuchi.ebsd.images import ENDINGS, images_by_scan, open_images
from microlatent.systems.kikuchi.ebsd.kikuchipy import open_kikuchipy
from microlatent.systems.kikuchi.ebsd.maps import MAPS
from microlatent.systems.kikuchi.ebsd.nordif import is_nordif, open_nordif
from microlatent.systems.kikuchi.ebsd.oxford import open_oxford
from microlatent.systems.kikuchi.ebsd.reference import open_reference
from microlatent.systems.kikuchi.ebsd.scan import Scan
from microlatent.systems.kikuchi.ebsd.up import open_up

logger = logging.getLogger(__name__)
VENDORS = {"oxford": open_oxford, "edax": open_edax, "bruker": open_bruker, "kikuchipy": open_kikuchipy}  # the name begins so
RAW: dict[str, Callable[[Path], Scan]] = {".up1": open_up, ".up2": open_up, ".ebsp": open_ebsp, ".uebsp": open_ebsp}
H5_ENDINGS = (".h5", ".hdf5", ".h5oina", ".oh5", ".edaxh5", ".h5ebsd")
NOT_H5 = {*ENDINGS, *MAPS, ".txt", ".json"}  # files of a folder that need not be opened to know it
FORMATS = (
    "H5OINA, EDAX h5 / UP1 / UP2, Bruker h5, kikuchipy h5, EMsoft h5, .ebsp, a NORDIF folder, HDF5 with /images and /coords, "
    "images named x_<i>_y_<j>, and maps without patterns (.ctf, .cpr with .crc, .ang, .csv)"
)


def find_scans(root: str | Path, patterns: str = "processed", names: list[str] | None = None) -> list[Scan]:
    """Return the scans of a file or folder, in natural order of their names; no pattern is read.

    Parameters
    ----------
    root
        A scan's file, a folder of such files, a NORDIF folder, or a folder of images named by position. In a folder, maps without
        patterns are taken where no file has patterns, and CSV files never: they belong to data.maps.
    patterns
        processed or unprocessed, where a file holds both.
    names
        Scans to take; default: all.

    Raises
    ------
    FileNotFoundError
        There is no such file or folder, or nothing in it is a scan.
    ValueError
        A file is damaged, of a kind that is not read, or a name is unknown.
    """
    root = Path(os.path.abspath(root))  # of . as well the name is known; links stay
    if not root.exists():
        raise FileNotFoundError(
            f"data.root is {root}, but there is no such file or folder. Give a scan's file, or a folder of them."
        )
    refused: list[ValueError] = []
    scans = _in_folder(root, patterns, refused) if root.is_dir() else _open(root, patterns)
    if refused and names is None:
        raise ValueError(f"{refused[0]} Or choose other scans of {root} with data.scans.") from refused[0]
    doubled = {name for name, times in Counter(scan.name for scan in scans).items() if times > 1}
    for scan in scans:
        if scan.name in doubled:  # such as a.up1 and a.ang
            scan.name = f"{scan.name}_{scan.path.suffix[1:].lower() or 'images'}"
    scans.sort(key=lambda scan: (natural(scan.name), scan.name))
    there = [scan.name for scan in scans]
    if len(set(there)) < len(there):
        raise ValueError(f"{root} has several scans of one name: {there}. Rename the files, so that each scan has its own.")
    absent = [name for name in names or [] if name not in there]
    if absent or names == []:
        more = f" Other files cannot be read: {refused[0]}" if refused else ""
        raise ValueError(f"data.scans names {absent}, but {root} has {there}. Take names from there.{more}")
    return [scan for scan in scans if names is None or scan.name in names]


def _in_folder(folder: Path, patterns: str, refused: list[ValueError]) -> list[Scan]:
    """Return the scans of a folder; errors of files that are refused are added to a list."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    scans, foreign = [open_nordif(folder)] if is_nordif(folder) else [], []
    for path in files:
        try:
            if path.suffix.lower() in RAW:
                scans += _open(path, patterns)
            elif path.suffix.lower() in H5_ENDINGS or (path.suffix.lower() not in NOT_H5 and h5py.is_hdf5(path)):
                found, holds = _in_h5(path, patterns)
                scans += found or []
                foreign += [f"{path.name} ({holds})"] if found is None else []
        except ValueError as error:
            refused.append(error)
    if images_by_scan(folder):
        scans += open_images(folder)
    if not scans and not refused:
        maps = [path for path in files if path.suffix.lower() in MAPS and path.suffix.lower() not in (".crc", ".csv")]
        scans = [MAPS[path.suffix.lower()](path) for path in maps]
    if not scans and not refused:
        there = ", ".join(foreign or [path.name for path in sorted(folder.iterdir())][:8]) or "nothing"
        num_images = sum(path.suffix.lower() in ENDINGS for path in files)
        there += f": {num_images} images, none of which is named by its position" if num_images else ""
        raise FileNotFoundError(f"data.root is {folder}, where no scan was found. It holds {there}. Known are {FORMATS}.")
    if foreign:
        logger.warning("%s: these HDF5 files are no scans and are passed over: %s.", folder, ", ".join(foreign))
    return scans


def _open(path: Path, patterns: str) -> list[Scan]:
    """Return the scans of one file, whose kind its content says, or its ending where the content does not."""
    ending = path.suffix.lower()
    if h5py.is_hdf5(path) or ending in H5_ENDINGS:
        scans, holds = _in_h5(path, patterns)
        if scans is None:
            raise ValueError(f"{path} is HDF5, but no scan that is known: it holds {holds}. Known are {FORMATS}.")
        return scans
    if ending in RAW:
        return [RAW[ending](path)]
    if ending in MAPS:
        return [MAPS[ending](path)]
    if ending == ".dat":
        return [open_nordif(path)]
    raise ValueError(f"data.root is {path}, a kind of file that is not read. Known are {FORMATS}.")


def _in_h5(path: Path, patterns: str) -> tuple[list[Scan] | None, str]:
    """Return the scans of an HDF5 file, None if it is of another kind, and what it holds."""
    with open_h5(path) as file:
        try:
            opener = _h5_opener(file)
            return (opener(path, file, patterns) if opener else None), _holds(file)
        except (OSError, KeyError, RuntimeError) as error:  # of h5py, where bytes are damaged
            raise ValueError(f"{path} cannot be read ({error}). It may be damaged: copy it again.") from error


def _h5_opener(file: h5py.File) -> Callable[[Path, h5py.File, str], list[Scan]] | None:
    """Return what opens an HDF5 file, by the manufacturer that it names, or by what it holds; None: nothing does."""
    vendor = text(find(file, "Manufacturer")).lower()
    for begin, opener in VENDORS.items():
        if vendor.startswith(begin):
            return opener
    if find(file, PATTERNS) is not None:
        return open_emsoft
    if apex_groups(file):
        return open_edax
    return open_reference if "images" in file or "coords" in file else None


def _holds(file: h5py.File) -> str:
    vendor = text(find(file, "Manufacturer"))
    named = ", ".join(sorted(map(str, file))[:8]) or "nothing"
    return f"{named} of the manufacturer {vendor!r}" if vendor else named
