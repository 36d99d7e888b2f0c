"""Plates and what else a path may name: wells, fields, single images, and folders of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microlatent.data.io.ome_zarr.image import OmeImage, Place
from microlatent.data.io.ome_zarr.metadata import damaged, is_zarr, read_attributes, zarrs_in


@dataclass
class Plate:
    """The fields of a plate that are there, in the order of its metadata; a single image is a plate of one field.

    ``name`` tells plates apart: the folder's name without ``.zarr``. ``missing`` says what is listed but absent.
    """

    path: Path
    name: str
    version: str
    is_plate: bool  # else one image or several without wells
    fields: list[OmeImage]
    missing: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> OmeImage:
        """Return a field by its well and name, such as A/1/000."""
        for one in self.fields:
            if one.name == name:
                return one
        raise KeyError(f"{self.path} has no field {name!r}; it has {', '.join(one.name for one in self.fields[:6])} ...")

    @property
    def notes(self) -> list[str]:
        """What a user should know before this plate is used: one sentence, or none."""
        some = ", ".join(self.missing[:6]) + (f" and {len(self.missing) - 6} more" if len(self.missing) > 6 else "")
        return [f"{self.path} lists {some}, which are not there; the other fields are used."] if self.missing else []


def open_plates(roots: str | Path | Sequence[str | Path], channel_names: Sequence[str] | None = None) -> list[Plate]:
    """Open what one or several paths name: plates, wells, fields, single images, or folders of them.

    Parameters
    ----------
    channel_names
        Names of the channels of images whose metadata give none.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or nothing of a plate is there.
    ValueError
        It is not OME-Zarr or damaged, or two plates cannot be told apart by name.
    """
    paths: list[Path] = []
    for root in [roots] if isinstance(roots, str | Path) else roots:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"data.root names {root}, but there is no such folder. Give an OME-Zarr plate or image.")
        paths += [root] if is_zarr(root) else zarrs_in(root)
        if not paths:
            raise ValueError(f"{root} is no OME-Zarr plate or image, and holds none. Give one, or the folder that holds them.")
    plates = [_open_plate(path, channel_names) for path in paths]
    doubled = {name for name, times in Counter(plate.name for plate in plates).items() if times > 1}
    for plate in plates:
        plate.name = f"{plate.path.resolve().parent.name}-{plate.name}" if plate.name in doubled else plate.name
    names = Counter(plate.name for plate in plates)
    if len(names) < len(plates):
        same = [str(plate.path) for plate in plates if names[plate.name] > 1]
        raise ValueError(f"{' and '.join(same)} have the same name, so their fields cannot be told apart. Rename a folder.")
    return plates


def places(path: Path) -> tuple[list[Place], list[str]]:
    """Return the places of a plate's, a well's or a bioformats2raw store's images that are there, and what is listed but absent.

    Both are empty for anything else.
    """
    _, about, _ = read_attributes(path)
    try:
        if "plate" in about:
            return _places_of_wells({str(well["path"]): path / str(well["path"]) for well in about["plate"]["wells"]})
        if "well" in about:
            return _places_of_wells({_well_name(path): path})
    except (KeyError, TypeError) as error:
        raise damaged(path, error) from error
    if "bioformats2raw.layout" in about:
        listed = read_attributes(path / "OME")[1].get("series") if is_zarr(path / "OME") else None
        listed = listed or sorted((one.name for one in path.iterdir() if one.name.isdecimal() and is_zarr(one)), key=int)
        return [Place("", str(name), path / str(name)) for name in listed], []
    return [], []


def _open_plate(path: Path, channel_names: Sequence[str] | None) -> Plate:
    version, about, _ = read_attributes(path)
    found, missing = places(path)
    is_plate, whole = "plate" in about or "well" in about, path
    if "well" in about:
        whole = path.parents[_well_name(path).count("/")]
    elif "multiscales" in about:
        well = path.parent
        if is_zarr(well) and "well" in read_attributes(well)[1]:  # a field of a plate keeps its names
            is_plate, whole = True, well.parents[_well_name(well).count("/")]
            found = [Place(_well_name(well), path.name, path)]
        else:
            found = [Place("", "0", path)]
    if not found:
        listed = f"lists {', '.join(missing[:6])}, but none of it is there" if missing else "has neither plate nor image in it"
        raise FileNotFoundError(f"{path} {listed}. Give an OME-Zarr plate, a field or an image.")
    images = []
    for place in found:
        image = OmeImage(place, channel_names)
        if is_zarr(image.levels[0].path):
            images.append(image)
        else:
            missing.append(f"the pixels of {place.name} ({image.levels[0].path.name})")
    if not images:
        raise FileNotFoundError(f"{path} lists {', '.join(missing[:6])}, but none of it is there. Copy the plate again.")
    return Plate(path, whole.name.removesuffix(".zarr").removesuffix(".ome"), version, is_plate, images, missing)


def _places_of_wells(wells: dict[str, Path]) -> tuple[list[Place], list[str]]:
    found, missing = [], []
    for name, folder in wells.items():
        if not is_zarr(folder):
            missing.append(f"the well {name}")
            continue
        for image in read_attributes(folder)[1].get("well", {}).get("images", []):
            place = Place(name, str(image["path"]), folder / str(image["path"]))
            if is_zarr(place.path):
                found.append(place)
            else:
                missing.append(f"the field {place.name}")
    return found, missing


def _well_name(folder: Path) -> str:
    """Return a well's name as its plate has it: the path below the nearest folder that is a plate."""
    folder = folder.resolve()
    for above in folder.parents[:3]:
        if is_zarr(above) and "plate" in read_attributes(above)[1]:
            return folder.relative_to(above).as_posix()
    return "/".join(folder.parts[-2:])
