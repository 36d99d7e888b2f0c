"""The provenance of every run, checkpoint and table: what made it, from what, on what machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "umap-learn",
    "h5py",
    "anndata",
    "pandas",
    "hydra-core",
    "omegaconf",
    "wandb",
)
DIFF_LIMIT = 1_000_000  # characters of the uncommitted diff that are kept


def _git(*arguments: str) -> str | None:
    if not (ROOT / "pyproject.toml").is_file():
        return None  # installed as a wheel: a repository around it is another's
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository: recorded as unknown
    return done.stdout


@cache
def git_state() -> dict[str, Any]:
    """Commit, uncommitted changes as a diff, and files that git does not track yet."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "diff": None, "untracked": None}
    diff = _git("diff", "HEAD") or ""
    cut = f"\n[cut: {len(diff)} characters in all]" if len(diff) > DIFF_LIMIT else ""
    untracked = (_git("ls-files", "--others", "--exclude-standard") or "").split()
    return {"commit": commit.strip(), "diff": diff[:DIFF_LIMIT] + cut, "untracked": untracked}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPU (where torch is already loaded)."""
    import psutil

    info: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def collect_provenance(
    config: dict[str, Any], *, data: dict[str, Any] | None = None, parent: str | None = None
) -> dict[str, Any]:
    """Collect what made a run, a checkpoint or a table.

    Parameters
    ----------
    config
        The resolved configuration.
    data
        What is known of the data: fingerprints, channels, normalisation, split hash.
    parent
        Folder of the run whose results this one stands on.
    """
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": config.get("seed"),
        "config": config,
        "git": git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "data": data or {},
        "parent": parent,
    }
