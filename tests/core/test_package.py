"""What ``pip install .`` installs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from hatchling.build import build_wheel

ROOT = Path(__file__).parents[2]


def test_an_installed_package_finds_its_configuration_and_the_sweepers(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    wheel = build_wheel(str(tmp_path))
    site = tmp_path / "site"
    zipfile.ZipFile(tmp_path / wheel).extractall(site)
    code = (
        "import hydra_plugins.study_sweeper; from microlatent import config, provenance as p; print(config.CONF, p.git_state())"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    conf, *git = done.stdout.split(maxsplit=1)
    assert Path(conf) == site / "microlatent" / "conf", done.stderr
    assert "'commit': None" in git[0]
    known = {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.relative_to(site / "microlatent") for path in Path(conf).rglob("*.yaml")} == known
    assert (site / "microlatent" / "report" / "page.js").is_file()
