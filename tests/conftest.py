"""Fixtures for the real and golden data, and one thread per test process."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).parents[1]


def folder_or_skip(variable: str, default: str) -> Path:
    """Return the folder an environment variable names, or skip the test with the reason."""
    path = Path(os.environ.get(variable) or ROOT / default).resolve()
    if not path.is_dir():
        pytest.skip(f"{path} is absent; set {variable} to the folder that holds the data")
    return path


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Numbers computed by the references once."""
    return folder_or_skip("MICROLATENT_GOLDEN", "../shared/golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets."""
    return folder_or_skip("MICROLATENT_DATA", "../shared/data")
