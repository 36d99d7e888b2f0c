"""The examples of docs/plugins.md, run as they stand there, and the least that a plugin may be."""

import os
import re
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("without_figures")
DOCS = ROOT / "docs" / "plugins.md"
LEAST = """
from dataclasses import dataclass

import torch

from microlatent.config import register
from microlatent.data.source import PatchSource
from microlatent.data.store import Store
from microlatent.losses import Losses


@dataclass(kw_only=True)
class BareConfig:
    name: str = "bare"
    channels: list[str] | None = None
    normalise: str | None = None
    split_by: str = "patch"
    val_share: float = 0.2


@dataclass(kw_only=True)
class BlindConfig:
    name: str = "blind"


class Blind(torch.nn.Module):
    def __init__(self, config, channels, shape):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(channels, 1, 1))

    def loss(self, batch, step):
        recon = (batch.x - self.level).square().mean()
        return Losses({"total": recon, "recon": recon}, {})


def open_source(settings):
    return PatchSource([Store.open("stores/A1.h5")], settings.data.channels)


register("data", "bare", BareConfig, "least:open_source")
register("model", "blind", BlindConfig, "least:Blind")
"""
DREAMS = """
from microlatent.config import register
from microlatent.schemas.command import TaskConfig

register("task", "dream", TaskConfig, "dreams", "analyze", needs=("run",), wants=("decode",))
"""


@pytest.fixture
def plugin(command):
    """Return a function that runs a command where the modules of the documentation and the least one can be imported."""
    package = command.folder / "my_package"
    package.mkdir()
    for name, code in re.findall(r"`my_package/(\w+\.py)`:\s+```python\n(.*?)```", DOCS.read_text(), re.DOTALL):
        (package / name).write_text(code)
    (command.folder / "least.py").write_text(LEAST)
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", command.folder)))}
    return lambda entry, *typed, check=True: command(entry, *typed, "logger=csv", check=check, **paths)


def shared_files():
    """Return every file of the project that a plugin might be tempted to touch, with what it holds."""
    folders = ("src", "conf")
    return {
        path: path.read_bytes()
        for folder in folders
        for path in (ROOT / folder).rglob("*.*")
        if path.parent.name != "__pycache__"
    }


def test_documented_model_trains_encodes_and_is_checked(plugin, command, stores_folder):
    options = ["plugins=[my_package.my_models]", "model=linear_ae", f"data.store={stores_folder}", "name=mine"]
    done = plugin("train", *options, "model.latent_dmi=3", check=False)
    assert "Did you mean 'latent_dim'" in done.stderr
    plugin("train", *options, "model.latent_dim=3", "trainer.epochs=1")
    plugin("infer", "task=process", "run=latest")
    table = anndata.read_h5ad(next(command.folder.glob("outputs/mine/*/process/latents.h5ad")))
    assert table.shape == (142, 3)


def test_documented_data_task_and_section_touch_no_shared_file(plugin, command):
    before = shared_files()
    raw, mine = command.folder / "raw", "plugins=[my_package.my_data]"
    raw.mkdir()
    for seed, name in enumerate(("a", "b")):
        np.save(raw / name, np.random.default_rng(seed).random((40, 16, 16)))
    assert "task.latents" in plugin("analyze", mine, "--help").stdout
    plugin("infer", "task=assemble", mine, "data=stacks", "data.root=raw")
    models = "plugins=[my_package.my_data,my_package.my_models]"
    plugin("train", models, "data=stacks", "data.root=raw", "model=linear_ae", "trainer.epochs=2", "name=mine")
    plugin("infer", "task=process", "run=latest")
    assert "would write" in plugin("analyze", "task=cluster", "run=latest", "check=true").stdout
    for task in ("match", "maps"):
        assert plugin("analyze", f"task={task}", "run=latest", check=False).returncode == 2
    assert "task=spread" in plugin("analyze", "task=spread", "data=wells", mine, check=False).stderr
    plugin("analyze", "task=spread", "run=latest")
    (command.folder / "dreams.py").write_text(DREAMS)
    done = plugin("analyze", "task=dream", "run=latest", "plugins=[dreams]", check=False)  # beside those that the run knows
    assert "Tasks that work on this run: task=process, task=embed, task=cluster, task=spread, task=report." in done.stderr
    pages = []
    for typed in ([mine], []):
        plugin("analyze", "task=report", "run=latest", *typed)
        (page,) = command.folder.glob("outputs/mine/*/report/report.html")
        pages.append(page.read_text())
    assert ["2 stacks were compared" in page for page in pages] == [True, False]
    assert "Spread of the stacks" in pages[0]
    assert "Table: spread" in pages[1]
    assert shared_files() == before


def test_documented_metric_is_measured_monitored_and_reported(plugin, command, stores_folder):
    options = [
        "plugins=[my_package.my_models,my_package.my_metrics]",
        "model=linear_ae",
        f"data.store={stores_folder}",
        "name=mine",
    ]
    plugin("train", *options, "trainer.epochs=2", "trainer.monitor=worst_pixel")
    (folder,) = command.folder.glob("outputs/mine/*")
    history, numbers = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "summary.csv", index_col="metric")["value"]
    assert numbers["best_score"] == pytest.approx(history["val_worst_pixel"].min())
    plugin("analyze", "task=report", "run=latest", "plugins=[my_package.my_metrics]")
    assert "largest error of a pixel" in (folder / "report" / "report.html").read_text()


def test_kind_of_data_with_the_fewest_settings_is_trained_on_and_encoded(plugin, command, stores_folder):
    shutil.copytree(stores_folder, command.folder / "stores")
    options = ["plugins=[least,my_package.my_models]", "data=bare", "model=linear_ae", "trainer.epochs=1", "name=bare"]
    plugin("train", *options)
    plugin("infer", "task=process", "run=latest")
    assert "would write" in plugin("analyze", "task=embed", "run=latest", "check=true").stdout


def test_task_that_the_model_cannot_serve_is_refused_before_anything_is_read(plugin, command, stores_folder):
    shutil.copytree(stores_folder, command.folder / "stores")
    plugin("train", "plugins=[least]", "data.store=stores", "model=blind", "trainer.epochs=1", "name=blind")
    shutil.rmtree(command.folder / "stores")
    for weights in command.folder.glob("outputs/blind/*/checkpoints/*"):
        weights.write_bytes(b"")
    for entry, *typed in (("infer", "task=process", "check=true"), ("infer", "task=process"), ("analyze", "task=cluster")):
        done = plugin(entry, *typed, "run=latest", check=False)
        assert done.returncode == 2
        assert f"{typed[0]} needs a model that can encode, but model=blind of run=" in done.stderr
        assert "Tasks that work on this run: task=report." in done.stderr
    assert not list(command.folder.glob("outputs/blind/*/*/status.json"))
