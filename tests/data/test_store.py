"""The store: what is written is read back, whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from microlatent.data import store as store_module
from microlatent.data.store import Store, StoreWriter
from tests import specimen

ROOT = Path(__file__).parents[2]


def write_store(path: Path, seed: int = 0) -> Path:
    """Write a small store and return its path."""
    specimen.write_store(path, path.stem, num_frames=6, patch_px=16, seed=seed)
    return path


@pytest.fixture
def path(tmp_path):
    return write_store(tmp_path / "A1.h5")


def test_images_are_mapped_and_any_hdf5_tool_reads_the_same(path):
    store = Store.open(path)
    assert isinstance(store.images, np.memmap)
    with h5py.File(path) as file:
        assert file["images"].chunks is None
        np.testing.assert_array_equal(file["images"][:], store.images)


def test_moments_are_of_each_patch(path):
    store = Store.open(path)
    np.testing.assert_allclose(store.moments.mean, store.images.mean((2, 3)))
    np.testing.assert_allclose(store.moments.std, store.images.std((2, 3)))


def test_fingerprint_depends_on_pixels_and_identity_not_on_the_block_size(tmp_path, path):
    first = Store.open(path).fingerprint
    assert Store.open(write_store(tmp_path / "again" / "A1.h5")).fingerprint == first
    assert Store.open(write_store(tmp_path / "other" / "A1.h5", seed=1)).fingerprint != first
    assert Store.open(write_store(tmp_path / "B2.h5")).fingerprint != first


def edit(path: Path, change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def test_store_changed_after_assembly_is_refused(path):
    def brighten(file):
        file["images"][:] = file["images"][:] + 1

    edit(path, brighten)
    with pytest.raises(ValueError, match=r"changed after it was assembled.*Assemble it again"):
        Store.open(path)


def test_store_of_a_newer_version_is_refused(path):
    edit(path, lambda file: file.attrs.update(format=99))
    with pytest.raises(ValueError, match=r"store format 99.*reads up to 2"):
        Store.open(path)


def test_truncated_foreign_and_absent_files_are_named(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"A1.h5.*cut short"):
        Store.open(path)
    h5py.File(tmp_path / "foreign.h5", "w").close()
    with pytest.raises(ValueError, match=r"no store of microlatent"):
        Store.open(tmp_path / "foreign.h5")
    with pytest.raises(FileNotFoundError, match=r"task=assemble"):
        Store.open(tmp_path / "absent.h5")


def test_full_disk_leaves_the_old_store_whole_and_no_other_file(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoreWriter, "_copy", staticmethod(full))
    with pytest.raises(OSError, match=r"No space left"):
        write_store(path, seed=3)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["A1.h5"]


def test_killed_writer_leaves_the_old_store_whole(path):
    before = Store.open(path).fingerprint
    code = (
        "import time; from pathlib import Path; from microlatent.data import store\n"
        "from tests.data.test_store import write_store\n"
        "original = store.StoreWriter._copy\n"
        "def slow(source, target): original(source, target); print('writing', flush=True); time.sleep(60)\n"
        "store.StoreWriter._copy = staticmethod(slow)\n"
        f"write_store(Path({str(path)!r}), seed=3)"
    )
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "writing"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Store.open(path).fingerprint == before
    assert [store.name for store in path.parent.glob("*.h5") if not store.name.startswith(".")] == ["A1.h5"]


def test_copy_in_small_blocks_is_the_same(tmp_path, path, monkeypatch):
    monkeypatch.setattr(store_module, "COPY_BYTES", 1000)
    np.testing.assert_array_equal(Store.open(write_store(tmp_path / "x" / "A1.h5")).images, Store.open(path).images)
