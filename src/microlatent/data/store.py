"""One HDF5 file per well, subject or scan: patches ready to train, with the identity of every row.

Layout of ``<name>.h5``::

    images                 (N, C, Y, X)  contiguous, uncompressed, camera dtype or float32
    masks                  (N, 1, Y, X)  uint8, enlarged cell masks, where they were asked for
    table/<column>         (N,)          identity of each row: key, and what its kind of data has: well, site, frame, cell_id,
                                         label, trajectory ...; subject, image, row_px, col_px ...
    relations              (M, 3)        int32 (row, row, code): 2 self or adjacent frames, 1 same trajectory; or empty
    trajectories/{name,length}           every raw trajectory and its number of frames, with or without a patch
    moments/{mean,std,low,high}  (N, C)  float64, of each patch: the statistics of any group follow from them
    attributes             format, name, channels, pixel_um, patch_pixel_um, frame_min, fingerprint, origin

Images are contiguous so that training maps them by their offset in the file (``numpy.memmap``), which is over a hundred
times faster than h5py's fancy indexing, while every HDF5 tool reads the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from microlatent.files import atomic

FORMAT = 2
COPY_BYTES = 1 << 24
NO_RELATIONS = np.empty((0, 3), np.int32)


class Moments(NamedTuple):
    """What is known of every patch without its pixels, each (N, C) float64."""

    mean: np.ndarray
    std: np.ndarray  # population standard deviation
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> Moments:
        """Measure patches (n, C, Y, X)."""
        flat = images.reshape(*images.shape[:2], -1)
        low, high = flat.min(2).astype(np.float64), flat.max(2).astype(np.float64)
        return cls(flat.mean(2, dtype=np.float64), flat.std(2, dtype=np.float64), low, high)

    @classmethod
    def join(cls, parts: list[Moments]) -> Moments:
        """Put blocks of rows one after the other."""
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def take(self, rows: Any) -> Moments:
        """Return some rows, or, by a tuple of indices, some rows and channels."""
        return Moments(*(part[rows] for part in self))


class Store:
    """Read an assembled store; images stay on disk until they are indexed.

    Attributes: ``images`` (N, C, Y, X) memory map, ``masks`` the same or None, ``table`` one row per patch, ``relations`` (M, 3),
    ``trajectory_lengths`` frames of every raw trajectory, ``moments`` of every patch, ``name`` of the well or subject,
    ``channels``, ``pixel_um`` of the raw image, ``patch_pixel_um`` of the patches, ``frame_min`` (None where unknown),
    ``fingerprint``, ``origin``.
    """

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open and verify a store.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is no store, was written by a newer version, is cut short, or its contents do not match its fingerprint.
        """
        self = cls()
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"There is no store {self.path}. Make it with: python infer.py task=assemble data.root=<raw files>"
            )
        try:
            with h5py.File(self.path, "r") as file:
                if "format" not in file.attrs:
                    raise ValueError(f"{self.path} is an HDF5 file but no store of microlatent (it has no attribute 'format').")
                if file.attrs["format"] > FORMAT:
                    raise ValueError(
                        f"{self.path} has store format {file.attrs['format']}, but this version reads up to {FORMAT}. "
                        "Update microlatent or assemble the store again with this version."
                    )
                if file.attrs["format"] < FORMAT:
                    raise ValueError(
                        f"{self.path} has store format {file.attrs['format']}, but this version reads {FORMAT}. "
                        "Assemble it again from the raw files."
                    )
                self._read(file)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read as HDF5 ({error}). It may be cut short; assemble it again.") from error
        self._verify()
        return self

    def _read(self, file: h5py.File) -> None:
        attributes = file.attrs
        self.name = str(attributes["name"])
        self.channels = list(json.loads(attributes["channels"]))
        self.pixel_um, self.patch_pixel_um, self.frame_min = (
            float(attributes[key]) if key in attributes else None for key in ("pixel_um", "patch_pixel_um", "frame_min")
        )
        self.fingerprint = str(attributes["fingerprint"])
        self.origin = json.loads(attributes["origin"])
        self.images = self._map(file["images"])
        self.masks = self._map(file["masks"]) if "masks" in file else None
        columns = {name: file["table"][name] for name in file["table"].attrs["order"]}
        self.table = pd.DataFrame(
            {name: data.asstr()[:] if data.dtype.kind == "O" else data[:] for name, data in columns.items()}
        )
        self.relations = file["relations"][:]
        names, lengths = file["trajectories/name"].asstr()[:], file["trajectories/length"][:]
        self.trajectory_lengths = dict(zip(names, lengths.tolist(), strict=True))
        self.moments = Moments(*(file[f"moments/{part}"][:] for part in Moments._fields))

    def _map(self, data: h5py.Dataset) -> np.ndarray:
        offset = data.id.get_offset()
        if offset is None or data.chunks is not None:
            raise ValueError(
                f"{self.path}: {data.name} is chunked or compressed, but must be contiguous to be mapped. Assemble it again."
            )
        if offset + data.nbytes > os.path.getsize(self.path):
            raise ValueError(f"{self.path} is cut short: {data.name} reaches beyond its end. Assemble the store again.")
        return np.memmap(self.path, data.dtype, "r", offset, data.shape)

    def _verify(self) -> None:
        expected = fingerprint(self.table, self.moments, self.images.shape, self.channels)
        rows = np.unique(np.linspace(0, len(self) - 1, 16).astype(int))
        means = np.stack([self.images[row].mean((1, 2), dtype=np.float64) for row in rows])
        if expected != self.fingerprint or not np.allclose(means, self.moments.mean[rows], rtol=1e-6, atol=1e-9):
            raise ValueError(
                f"{self.path} was changed after it was assembled: its contents no longer match its fingerprint "
                f"{self.fingerprint[:12]}. Assemble it again from {self.origin.get('root')}."
            )

    def __len__(self) -> int:
        return len(self.images)


class StoreWriter:
    """Write a store block by block; nothing appears under its name until it is whole.

    ``with StoreWriter(path) as writer: writer.append(...); writer.finish(...)``. Memory holds one block. The blocks go to a
    temporary file of plain pixels first, because a contiguous HDF5 data set must know its length when it is made.
    """

    def __init__(self, path: str | Path, dtype: np.dtype) -> None:
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.tables: list[pd.DataFrame] = []
        self.moments: list[Moments] = []
        self.shape: tuple[int, ...] | None = None
        self.num_masks = 0

    def __enter__(self) -> StoreWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.pixels = tempfile.TemporaryFile(dir=self.path.parent, prefix=f".{self.path.stem}.")
        self.mask_pixels = tempfile.TemporaryFile(dir=self.path.parent, prefix=f".{self.path.stem}.")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pixels.close()  # unnamed files: closing is removing
        self.mask_pixels.close()

    def append(self, images: np.ndarray, table: pd.DataFrame, masks: np.ndarray | None = None) -> None:
        """Add patches (n, C, Y, X) with their identity (n rows) and, for all blocks or none, masks (n, 1, Y, X) of 0 and 1."""
        images = np.ascontiguousarray(images, self.dtype)
        self.shape = self.shape or images.shape[1:]
        assert images.shape[1:] == self.shape, (images.shape, self.shape)
        self.moments.append(Moments.of(images))
        self.tables.append(table)
        self.pixels.write(images.data)
        if masks is not None:
            self.num_masks += len(masks)
            self.mask_pixels.write(np.ascontiguousarray(masks, np.uint8).data)

    @property
    def table(self) -> pd.DataFrame:
        """Identity of all rows appended so far."""
        return pd.concat(self.tables, ignore_index=True)

    def finish(
        self,
        table: pd.DataFrame,
        *,
        name: str,
        channels: list[str],
        origin: dict[str, Any],
        relations: np.ndarray = NO_RELATIONS,
        trajectory_lengths: dict[str, int] | None = None,
        pixel_um: float | None = None,
        patch_pixel_um: float | None = None,
        frame_min: float | None = None,
    ) -> str:
        """Bring everything into the HDF5 file, rename it to its final name and return its fingerprint."""
        num = len(table)
        assert self.shape is not None
        assert len(channels) == self.shape[0], (channels, self.shape)
        assert self.num_masks in (0, num), (self.num_masks, num)
        moments, lengths = Moments.join(self.moments), trajectory_lengths or {}
        shape = (num, *self.shape)
        digest = fingerprint(table, moments, shape, channels)
        with atomic(self.path) as temporary, h5py.File(temporary, "w") as file:
            self._copy(self.pixels, file.create_dataset("images", shape, self.dtype))
            if self.num_masks:
                self._copy(self.mask_pixels, file.create_dataset("masks", (num, 1, *self.shape[1:]), np.uint8))
            columns = file.create_group("table")
            columns.attrs["order"] = list(table.columns)
            for column in table.columns:
                values = table[column].to_numpy()
                columns[column] = values.astype(h5py.string_dtype()) if values.dtype.kind in "OUT" else values
            file["relations"] = relations.astype(np.int32)
            file["trajectories/name"] = np.array(list(lengths), dtype=h5py.string_dtype())
            file["trajectories/length"] = np.array(list(lengths.values()), np.int64)
            for part, values in moments._asdict().items():
                file[f"moments/{part}"] = values
            numbers = {"pixel_um": pixel_um, "patch_pixel_um": patch_pixel_um, "frame_min": frame_min}
            file.attrs.update({key: value for key, value in numbers.items() if value is not None})
            file.attrs.update(
                format=FORMAT,
                name=name,
                channels=json.dumps(channels),
                fingerprint=digest,
                origin=json.dumps(origin, default=str),
            )
        return digest

    @staticmethod
    def _copy(source: Any, target: h5py.Dataset) -> None:
        source.seek(0)
        row_bytes = max(1, target.nbytes // max(1, len(target)))
        step = max(1, COPY_BYTES // row_bytes)
        for start in range(0, len(target), step):
            count = min(step, len(target) - start)
            block = np.frombuffer(source.read(count * row_bytes), target.dtype).reshape(count, *target.shape[1:])
            target.write_direct(block, dest_sel=np.s_[start : start + count])


def fingerprint(table: pd.DataFrame, moments: Moments, shape: tuple[int, ...], channels: list[str]) -> str:
    """Return a digest of the contents that costs no pass over the pixels: identity of the rows and moments of their patches."""
    digest = hashlib.blake2b(repr((tuple(shape), list(channels))).encode(), digest_size=16)
    for name in table.columns:
        values = table[name].to_numpy()
        digest.update(name.encode())
        digest.update(
            "\0".join(map(str, values)).encode() if values.dtype.kind in "OUT" else np.ascontiguousarray(values).tobytes()
        )
    for part in moments:
        digest.update(np.ascontiguousarray(part, np.float64).tobytes())
    return digest.hexdigest()
