"""OME-Zarr as other programs write it, made with zarr alone: any axes, names, byte order and chunk keys."""

import json
import shutil

import numpy as np
import zarr

CHANNELS = ["Phase", "Nuclei"]
KINDS = {"t": "time", "c": "channel"}


def pixels(shape, dtype="u2", seed=0):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


def attrs(group, version, about):
    group.attrs.update(about if version == "0.4" else {"ome": {"version": version, **about}})


def write_image(
    group, array, version="0.4", axes="tczyx", channels=CHANNELS, name="0", scale=None, units=True, global_scale=None, **options
):
    """Write an image of one level; ``options`` go to zarr."""
    transforms = [{"type": "scale", "scale": list(scale or [1.0] * array.ndim)}]
    about = {
        "axes": [
            {"name": axis, "type": KINDS.get(axis, "space")} | ({"unit": "micrometer"} if units and axis in "zyx" else {})
            for axis in axes
        ],
        "datasets": [{"path": name, "coordinateTransformations": transforms}],
    }
    if global_scale:
        about["coordinateTransformations"] = [{"type": "scale", "scale": global_scale}]
    omero = {"omero": {"channels": [{"label": channel, "color": "FFFFFF"} for channel in channels]}} if channels else {}
    attrs(group, version, {"multiscales": [about | ({"version": version} if version == "0.4" else {})], **omero})
    keys = {} if version == "0.5" else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    options = {"chunks": (1,) * (array.ndim - 3) + array.shape[-3:] if array.ndim > 3 else array.shape} | keys | options
    group.create_array(name, shape=array.shape, dtype=options.pop("dtype", array.dtype), **options)[...] = array


def write_plate(path, fields, version="0.4", **about):
    """Write a plate of {(well, field): array}."""
    root = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    wells = list(dict.fromkeys(well for well, _ in fields))
    rows, columns = (sorted({well.split("/")[k] for well in wells}) for k in (0, 1))
    listed = [
        {"path": well, "rowIndex": rows.index(well.split("/")[0]), "columnIndex": columns.index(well.split("/")[1])}
        for well in wells
    ]
    names = {"rows": [{"name": row} for row in rows], "columns": [{"name": column} for column in columns]}
    attrs(root, version, {"plate": {**names, "wells": listed, "version": version}})
    for well in wells:
        group = root.require_group(well)
        attrs(group, version, {"well": {"images": [{"path": field} for one, field in fields if one == well]}})
    for (well, field), array in fields.items():
        write_image(root.create_group(f"{well}/{field}"), array, version, **about)
    return path


def odd_plate(folder, name):
    """Write one of the odd plates that people have, and return its path."""
    path, usual = folder / f"{name}.zarr", (1, 2, 5, 24, 32)
    two = {("A/1", "000"): pixels(usual), ("A/2", "000"): pixels(usual, seed=1)}
    if name == "sparse":  # wells and fields that the metadata list but that were not copied
        write_plate(path, two | {("B/3", "000"): pixels(usual), ("A/2", "001"): pixels(usual)})
        shutil.rmtree(path / "B")
        shutil.rmtree(path / "A/2/001")
    elif name == "ragged":
        write_plate(path, {("A/1", "000"): pixels(usual), ("A/2", "000"): pixels((2, 2, 3, 20, 25))})
    elif name == "named":
        write_plate(path, {("A/1", "Site12"): pixels(usual)}, name="s0")
    elif name == "single":
        write_image(zarr.create_group(path, zarr_format=2), pixels(usual))
    elif name == "unnamed_channels":
        write_plate(path, two, channels=None)
    elif name == "pool_a":
        write_plate(path, two, "0.5")
    elif name == "pool_b":
        write_plate(path, {place: array[:, ::-1] for place, array in two.items()}, "0.5", channels=CHANNELS[::-1])
    elif name == "czyx":
        write_plate(path, {("A/1", "0"): pixels(usual)[0]}, axes="czyx")
    elif name == "cyx":
        write_plate(path, {("A/1", "0"): pixels(usual)[0, :, 0]}, axes="cyx")
    elif name == "bigendian_dots":
        write_plate(path, two, dtype=">u2", chunk_key_encoding={"name": "v2", "separator": "."})
    elif name == "nan_borders":
        array = pixels(usual, "f4")
        array[..., :4, :] = np.nan
        write_plate(path, {("A/1", "000"): array}, "0.5")
    elif name == "constant":
        array = pixels(usual)
        array[:, 1] = 100
        write_plate(path, {("A/1", "000"): array})
    return path


def edit(path, change):
    """Change a JSON file in place."""
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
