"""The example of docs/plugins.md, run as it stands there."""

import re
from pathlib import Path

import anndata
import pytest

pytestmark = pytest.mark.usefixtures("without_figures")
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


def test_documented_plugin_trains_encodes_and_is_checked(command, stores_folder):
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    package = command.folder / "my_package"
    package.mkdir()
    (package / "my_models.py").write_text(code)
    root = Path(__file__).parents[2]
    paths = {"PYTHONPATH": f"{root / 'src'}:{command.folder}"}
    options = ["plugins=[my_package.my_models]", "model=linear_ae", f"data.store={stores_folder}", "logger=csv", "name=mine"]
    done = command("train", *options, "model.latent_dmi=3", check=False, **paths)
    assert "Did you mean 'latent_dim'" in done.stderr
    command("train", *options, "model.latent_dim=3", "trainer.epochs=1", **paths)
    command("infer", "task=process", "run=latest", "logger=csv", **paths)
    table = anndata.read_h5ad(next(command.folder.glob("outputs/mine/*/process/latents.h5ad")))
    assert table.shape == (142, 3)
