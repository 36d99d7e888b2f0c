"""From the reference's files and weights to its latents, through the three commands."""

import anndata
import numpy as np
import pytest
import torch

from microlatent.command import carry_out
from microlatent.data.io import pickles
from microlatent.experiment import load_trained
from microlatent.systems.wells import assemble
from microlatent.tracking import NullTracker
from tests.conftest import composed
from tests.specimen import write_store


@pytest.fixture(scope="module")
def imported(without_figures, golden_folder, tmp_path_factory):
    """Assemble the golden wells, make the reference's weights a run, and encode."""
    folder = tmp_path_factory.mktemp("golden")
    wells, common = golden_folder / "wells", [f"outputs={folder / 'outputs'}", "logger=csv"]
    common += [f"data.root={wells / 'supp'}", "data.channel_names=[phase,retardance]"]
    carry_out(composed("infer", "task=assemble", *common), [])
    weights = [f"init_from={wells / 'weights/golden_z16/model.pt'}", "trainer.epochs=0", "name=golden"]
    run = carry_out(composed("train", *weights, *common), [])[1]
    options = ["task.norm=instance", "task.normalise=patch", "task.reference_files=true"]
    carry_out(composed("infer", "task=process", f"run={run}", *options, *common), [])
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


def test_channels_match_by_name_and_a_missing_one_is_named(imported, golden_folder, tmp_path, compose):
    raw = ["data.wells=[A1]", f"data.root={golden_folder / 'wells' / 'supp'}", "data.channel_names=[retardance,phase]"]
    for name, channels in (("swapped", "[retardance,phase]"), ("single", "[retardance]")):
        stores = [f"data.store={tmp_path / name}", f"data.channels={channels}"]
        assemble.run(compose("infer", "task=assemble", *raw, *stores), tmp_path / "assembled", NullTracker())
    run = next(imported.glob("outputs/golden/*"))

    def opened(store, *overrides):
        settings = compose("infer", "task=process", f"run={run}", f"data.store={tmp_path / store}", *overrides)
        return load_trained(settings, torch.device("cpu"))[0]

    store = opened("swapped").stores[0]
    np.testing.assert_array_equal(opened("swapped").read(np.array([3])), store.images[[3]][:, [1, 0]])
    with pytest.raises(ValueError, match=r"Channels \['phase'\] are needed but .* has \['retardance'\]"):
        opened("single")
    with pytest.raises(
        ValueError, match=r"trained on channels \['phase', 'retardance'\], but data.channels asks for \['phase'\]"
    ):
        opened("swapped", "data.channels=[phase]")


def test_reference_files_of_a_model_without_a_quantiser_are_refused_before_anything_is_encoded(command, tmp_path):
    for number, well in enumerate(("A1", "B2")):
        write_store(tmp_path / "stores" / f"{well}.h5", well, num_frames=6, patch_px=16, seed=number)
    common = ["logger=csv", f"outputs={tmp_path / 'outputs'}"]
    options = ["model=vae_gauss", "model.latent_dim=4", "trainer.epochs=1", "trainer.num_reconstructions=0", "name=t"]
    command("train", *options, f"data.store={tmp_path / 'stores'}", *common)
    run = next((tmp_path / "outputs" / "t").iterdir())
    for check in ("true", "false"):
        done = command("infer", "task=process", f"run={run}", "task.reference_files=true", f"check={check}", *common, check=False)
        assert done.returncode != 0
        assert "task.reference_files=true" in done.stderr + done.stdout
        assert "this model has no quantiser" in done.stderr + done.stdout
        assert not list(run.glob("process*/latents.h5ad"))
