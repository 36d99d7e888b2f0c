"""The metadata of zarr groups: read without opening anything, written whole."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from microlatent.files import write_json

AXES = "TCZYX"
VERSIONS = ("0.5", "0.4")  # that are written
OWN_KEYS = ("multiscales", "omero", "image-label", "plate", "well", "labels", "bioformats2raw.layout")  # of NGFF, in 0.4
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, struct.error, zlib.error)


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a zarr group or array."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def zarrs_in(folder: Path) -> list[Path]:
    """Return the zarr groups and arrays right below a folder, by name; hidden ones are passed over."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir() and is_zarr(path))


def read_attributes(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the NGFF version, the NGFF metadata, and the other attributes of a group.

    Raises
    ------
    ValueError
        The folder is no zarr group, or its metadata cannot be read.
    """
    try:
        if (folder / "zarr.json").is_file():
            attributes = json.loads((folder / "zarr.json").read_text(encoding="utf-8")).get("attributes") or {}
        elif (folder / ".zgroup").is_file():
            attributes = json.loads((folder / ".zattrs").read_text("utf-8")) if (folder / ".zattrs").is_file() else {}
        else:
            raise ValueError("it has neither zarr.json nor .zgroup")
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    if "ome" in attributes:
        about = attributes["ome"]
        return str(about.get("version", "0.5")), about, {key: value for key, value in attributes.items() if key != "ome"}
    about = {key: attributes[key] for key in OWN_KEYS if key in attributes}
    inner = about.get("plate") or about.get("well") or (about.get("multiscales") or [{}])[0]
    foreign = {key: value for key, value in attributes.items() if key not in OWN_KEYS}
    return str(inner.get("version", "0.4")), about, foreign


def damaged(path: Path, error: Exception) -> ValueError:
    """Return the error that names what cannot be read."""
    return ValueError(f"{path} cannot be read ({error}). It may be damaged or cut short: copy it again.")


def write_group(path: Path, version: str, about: dict[str, Any] | None = None, attributes: dict[str, Any] | None = None) -> None:
    """Write the metadata of a group: NGFF's, and other attributes; what is there already is not touched."""
    if version not in VERSIONS:
        raise ValueError(f"NGFF {version} cannot be written. Known: {', '.join(VERSIONS)}.")
    about, attributes = about or {}, attributes or {}
    if version == "0.5":
        attributes = {"ome": {"version": version, **about}, **attributes} if about else attributes
        files = {"zarr.json": {"attributes": attributes, "zarr_format": 3, "node_type": "group"}}
    else:
        files = {".zattrs": {**about, **attributes}, ".zgroup": {"zarr_format": 2}}
    for name, content in files.items():
        if content and not (path / name).exists():
            write_json(content, path / name)


def set_attributes(path: Path, attributes: dict[str, Any]) -> None:
    """Set attributes of a group that is there, of either version, and leave the others as they are.

    Raises
    ------
    ValueError
        The folder is no zarr group.
    """
    read_attributes(path)
    is_v3 = (path / "zarr.json").is_file()
    file = path / ("zarr.json" if is_v3 else ".zattrs")
    content = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if is_v3:
        content["attributes"] = content.get("attributes", {}) | attributes
    else:
        content |= attributes
    write_json(content, file)
