"""Fixtures for the real and golden data, and one thread per test process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.browser import browser, browser_driver  # noqa: F401  (fixtures)
from tests.forks import in_fork

ROOT = Path(__file__).parents[1]


def folder_or_skip(variable: str, default: str) -> Path:
    """Return the folder an environment variable names, or skip the test with the reason."""
    path = Path(os.environ.get(variable) or ROOT / default).resolve()
    if not path.is_dir():
        pytest.skip(f"{path} is absent; set {variable} to the folder that holds the data")
    return path


def pytest_collection_finish() -> None:
    """Find Hydra's plugins once, and tell the garbage collector that what is loaded by now stays.

    Commands run in forks of this process (``command``). They need not load it again, and a collector that walks over a million
    objects would copy the pages they lie on.
    """
    import hydra.compose  # noqa: F401
    from hydra.core.plugins import Plugins

    Plugins.instance()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Numbers computed by the references once."""
    return folder_or_skip("MICROLATENT_GOLDEN", "../shared/golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets."""
    return folder_or_skip("MICROLATENT_DATA", "../shared/data")


@pytest.fixture(scope="session")
def stores_folder(tmp_path_factory) -> Path:
    """Two wells of twelve trajectories; read only."""
    from tests.specimen import write_store

    folder = tmp_path_factory.mktemp("stores")
    for seed, well in enumerate(("A1", "B2")):
        write_store(folder / f"{well}.h5", well, num_frames=6, patch_px=16, seed=seed, pixel_um=0.5, frame_min=10.0)
    return folder


@pytest.fixture(scope="module")
def without_figures():
    """Let training runs draw nothing, which is most of the time of a small one; core/test_training.py looks at the figures."""
    from microlatent import validation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "leave_figures", lambda *_: None)
        yield


def composed(entry: str, *overrides: str):
    """Return checked settings from an entry point and overrides, as the command line composes them."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from microlatent import settling

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra_compose(entry, list(overrides))
    return settling.settle(OmegaConf.to_container(cfg, resolve=True), entry, overrides)


@pytest.fixture
def compose():
    """Return ``composed``."""
    return composed


@pytest.fixture
def command(tmp_path):
    """Return a function that runs one of the three commands in an empty folder, with arguments as a user types them.

    The command runs in a fork of this process, which has loaded torch and pandas already: a process of its own would spend
    seconds on that, and there are many commands. With a launcher it gets one.
    """

    def run(entry: str, *arguments: str, check: bool = True, launcher: tuple[str, ...] = (), **environment: str):
        env = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HOME": str(tmp_path / "home"), **environment}
        if launcher:
            line = [sys.executable, *launcher, str(ROOT / f"{entry}.py"), *arguments]
            done = subprocess.run(line, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, timeout=300)
        else:
            done = in_fork(entry, arguments, tmp_path, env)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    run.folder = tmp_path
    return run
