"""From the reference's files and weights to its latents, through the three commands."""

import anndata
import numpy as np
import pytest

from microlatent.data import pickles

NAMES = "data.channel_names=[phase,retardance]"


@pytest.fixture(scope="module")
def imported(golden_folder, tmp_path_factory):
    """Assemble the golden wells, make the reference's weights a run, and encode."""
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).parents[1]
    folder = tmp_path_factory.mktemp("golden")

    def run(entry, *arguments):
        line = [sys.executable, str(root / f"{entry}.py"), *arguments, "logger=csv"]
        done = subprocess.run(
            line, cwd=folder, env={"PYTHONPATH": str(root / "src")}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done

    wells = golden_folder / "wells"
    run("infer", "task=assemble", f"data.root={wells / 'supp'}", NAMES)
    run(
        "train",
        f"data.root={wells / 'supp'}",
        f"init_from={wells / 'weights/golden_z16/model.pt'}",
        "trainer.epochs=0",
        "name=golden",
    )
    run("infer", "task=process", "run=latest", "task.norm=instance", "task.normalise=patch", "task.reference_files=true")
    return folder


@pytest.mark.parametrize("well", ["A1", "B2"])
@pytest.mark.parametrize("part", ["latent_space", "latent_space_after"])
def test_latents_equal_the_references(imported, golden_folder, well, part):
    ours = pickles.load(next(imported.glob(f"outputs/golden/*/process/reference/{well}_{part}.pkl")))
    golden = pickles.load(golden_folder / "wells" / "raw" / "golden_z16" / f"{well}_{part}.pkl")
    assert ours.dtype == golden.dtype
    np.testing.assert_allclose(ours, golden, rtol=1e-5, atol=3e-5)  # the store holds float32, the reference float64


def test_table_joins_back_to_the_raw_files(imported, golden_folder):
    table = anndata.read_h5ad(next(imported.glob("outputs/golden/*/process/latents.h5ad")))
    assert table.X.shape == table.obsm["after"].shape == (47, 4096)
    keys = pickles.load(golden_folder / "wells" / "raw" / "A1_file_paths.pkl")
    assert table.obs["key"][table.obs["well"] == "A1"].tolist() == keys
    assert set(table.obs["part"]) == {"train", "val"}
    assert '"task": {"name": "process", "checkpoint": "best", "norm": "instance"' in table.uns["birth"]


def test_channels_match_by_name_and_a_missing_one_is_named(imported, golden_folder, command):
    run = next(imported.glob("outputs/golden/*"))
    arguments = ["task=process", f"run={run}", "logger=csv"]
    other = imported / "outputs" / "stores" / "wells-supp"
    command(
        "infer",
        "task=assemble",
        f"data.root={golden_folder / 'wells' / 'supp'}",
        "data.channel_names=[retardance,GFP]",
        "logger=csv",
    )
    done = command("infer", *arguments, f"data.store={command.folder / 'outputs/stores/wells-supp'}", check=False)
    assert done.returncode == 2
    assert "Channels ['phase'] are needed" in done.stderr
    assert "['retardance', 'GFP']" in done.stderr
    assert (
        "trained on channels" in command("infer", *arguments, f"data.store={other}", "data.channels=[phase]", check=False).stderr
    )
