"""Make the archives beside this file: runs as microlatent left them before its modules and files moved.

Run it at commit 3eb0ecd, in whose code they are meant to be made, from the root of the repository::

    git checkout 3eb0ecd
    git checkout old-runs -- tests/old_runs   # this folder
    PYTHONPATH=src:. OMP_NUM_THREADS=1 python tests/old_runs/make.py /data/microlatent-runs

Runs are made in a folder of a neutral name, as a user makes them: the commands are typed there, with stores named relative to it,
but for the partitions, whose store is named by its whole path. The machine is given a neutral name too.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np

from microlatent import evaluation, provenance, training
from microlatent.data.store import Store, StoreWriter
from tests.forks import ROOT, in_fork
from tests.specimen import write_partition_store, write_scan_latents, write_store

HERE = Path(__file__).parent
COMMIT = "3eb0ecd04149823194c7c5576f49435dfee8c30a"
COMMON = ("logger=csv", "trainer.batch_size=16", "trainer.num_reconstructions=0")
VQVAE = ("model.latent_dim=4", "model.num_residual_hiddens=4", "model.num_codes=8")
WELLS = ("data.store=stores/wells", "trainer.monitor=recon", *COMMON)
UNUSED = {"figures", ".png", "__pycache__", ".lock", "home"}  # nothing reads them again
PRIVATE = [str(path).encode() for path in (ROOT.parent, Path.home(), tempfile.gettempdir())]  # no file may name them


def be_anywhere() -> None:
    """Let runs say nothing of this machine and of files that git does not know; commands run in forks of this process."""
    same = ["git", "-C", str(ROOT), "diff", "--quiet", COMMIT, "--", "src", "conf", "hydra_plugins"]
    assert not subprocess.run(same).returncode, f"these runs are to be made by the code of {COMMIT}"
    state = {"commit": COMMIT, "diff": "", "untracked": []}
    provenance.git_state = lambda: state
    provenance.hardware = lambda: {"machine": "x86_64", "processor": "a processor", "cores": 2, "memory_gb": 8.0}
    socket.gethostname = lambda: "lab"
    evaluation.leave_figures = lambda *_: None


def command(entry: str, *arguments: str, code: int = 0) -> None:
    """Type a command in the working folder."""
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(Path.cwd())]), "HOME": str(Path.cwd() / "home")}
    done = in_fork(entry, arguments, Path.cwd(), env)
    assert done.returncode == code, done.stdout + done.stderr


@contextmanager
def stopped_at(batch: int, whom=os.getpid):
    """Ask a process to stop, by SIGTERM, at a batch of a training run; the run itself obeys after that batch."""
    add, seen = training.Sums.add, []

    def counted(self, *arguments):
        seen.append(1)
        if len(seen) == batch:
            os.kill(whom(), signal.SIGTERM)
            time.sleep(2)  # the sweep that was asked passes it on
        return add(self, *arguments)

    training.Sums.add = counted
    yield
    training.Sums.add = add


def make_wells() -> None:
    """Make two wells, a whole run with what tasks make of it, one that was stopped, a whole sweep, one that was stopped."""
    for seed, well in enumerate(("A1", "B2")):
        write_store(Path("stores", "wells", f"{well}.h5"), well, 6, 4, 16, seed, pixel_um=0.5, frame_min=10.0)
    train = ("train", *WELLS, *VQVAE, "trainer.epochs=3")
    with stopped_at(6):
        command(*train, "name=stopped", code=75)
    command(*train, "name=whole")
    latents_of("whole")
    (run,) = Path("outputs", "whole").iterdir()
    common = (f"run={run}", "logger=csv")
    command("analyze", "task=cluster", *common, "task.num_clusters=2", "task.num_exemplars=2")
    command("analyze", "task=match", *common, "task.num_examples=2")
    command("analyze", "task=embed", *common, "task.umap=false", "task.components=2")
    sweep = ("train", "-m", *WELLS, *VQVAE, "trainer.epochs=2")
    command(*sweep, "model.commitment_weight=0.25,1.0", "hydra.sweep.dir=outputs/sweeps/whole")
    with stopped_at(2, os.getppid):
        command(*sweep, "seed=1,2", "hydra.sweep.dir=outputs/sweeps/stopped", code=75)
    compare = ("task.runs=[outputs/whole,outputs/stopped,outputs/sweeps/whole]", "outputs=compared", "logger=csv")
    command("analyze", "task=compare", *compare)
    shutil.copy(next(Path("compared").rglob("compare.csv")), "truth")
    shutil.rmtree("compared")
    for seed in (1, 2):
        command("train", *WELLS, *VQVAE, "trainer.epochs=2", f"seed={seed}", "outputs=uninterrupted", "name=x")
        shutil.copy(next(Path("uninterrupted").rglob("history.csv")), f"truth/history_of_job_{seed - 1}.csv")
        shutil.rmtree("uninterrupted")


def make_plugin() -> None:
    """Make a run of the model of docs/plugins.md as it stood there, on the wells of the other archive."""
    code = (ROOT / "docs" / "plugins.md").read_text().split("```python\n")[1].split("```")[0]
    Path("my_package").mkdir()
    Path("my_package", "my_models.py").write_text(code)
    model = ("plugins=[my_package.my_models]", "model=linear_ae", "model.latent_dim=2", "data.channels=[phase]")
    command("train", *model, *WELLS, "name=plugin", "trainer.epochs=2")
    latents_of("plugin")


def make_partitions() -> None:
    """Make three subjects, whose store is named by its whole path, and a run with its clusters."""
    for seed in range(3):
        path = Path("stores", "partitions", f"s{seed + 1}.h5")
        write_partition_store(path, f"s{seed + 1}", 1, (32, 32), 8, seed=seed, pixel_um=0.5, patch_pixel_um=0.5)
    store = f"data.store={Path('stores', 'partitions').absolute()}"
    model = ("data=partitions", "model=vae_gauss", "model.width=4", "model.latent_dim=4", "data.val_share=0.3")
    command("train", *model, store, *COMMON, "name=partitions", "trainer.epochs=3")
    latents_of("partitions")
    command("analyze", "task=cluster", "run=latest", "name=partitions", "logger=csv", "task.num_clusters=2")


def make_kikuchi() -> None:
    """Make a scan, and a run with its clusters and maps."""
    with tempfile.TemporaryDirectory() as folder:
        write_scan_latents(Path(folder), (12, 12), holes=6, pattern_px=(10, 8))
        scan = Store.open(Path(folder, "stores", "demo.h5"))
        with StoreWriter("stores/kikuchi/demo.h5", np.float32) as writer:
            writer.append(np.round(scan.images), scan.table)  # whole numbers take less room in an archive
            writer.finish(scan.table, name="demo", channels=scan.channels, origin=scan.origin)
    model = ("data=kikuchi", "model=kikuchi_cnn", "model.width=4", "model.max_width=8", "model.latent_dim=4", "model.beta=0.01")
    store = ("data.store=stores/kikuchi", "data.block_points=4")
    command("train", *model, *store, *COMMON, "name=kikuchi", "trainer.epochs=3", "trainer.lr=0.01")
    latents_of("kikuchi")
    (run,) = Path("outputs", "kikuchi").iterdir()
    command("analyze", "task=cluster", f"run={run}", "logger=csv", "task.num_clusters=2")
    command("analyze", "task=maps", f"run={run}", "logger=csv", "task.num_pixels=1", "task.num_traverse=1")


def latents_of(name: str) -> None:
    """Encode the patches, and keep the latents as the truth."""
    command("infer", "task=process", "run=latest", f"name={name}", "logger=csv")
    (table,) = Path("outputs", name).glob("*/process/latents.h5ad")
    np.save(Path("truth", f"latents_of_{name}.npy"), anndata.read_h5ad(table).X)


def pack(name: str, known: set[Path]) -> set[Path]:
    """Write what is new in the working folder into an archive, and return all that is there."""
    now = {path for path in Path().rglob("*") if path.is_file() and not UNUSED & {*path.parts, path.suffix}}
    for path in now - known:
        found = [word for word in PRIVATE if word in path.read_bytes()]
        assert not found, (path, found)

    def nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(HERE / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(now - known, key=lambda path: (path.suffix, path.name, str(path))):  # like beside like
            archive.add(path, filter=nobody)
    print(name, f"{(HERE / f'{name}.tar.xz').stat().st_size / 1e3:.0f} kB,", len(now - known), "files")
    return now


def main(folder: str) -> None:
    """Make all kinds in a new folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    assert not any(Path().iterdir()), f"{folder} is not empty"
    Path("truth").mkdir()
    be_anywhere()
    known: set[Path] = set()
    for make in (make_wells, make_plugin, make_partitions, make_kikuchi):
        make()
        known = pack(make.__name__.removeprefix("make_"), known)


if __name__ == "__main__":
    main(sys.argv[1])
