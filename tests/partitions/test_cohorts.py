"""Stores of subjects: only what belongs together is trained on, and nothing new passes for trained on."""

import anndata
import numpy as np
import pytest
import tifffile

from microlatent.command import carry_out
from microlatent.data.latents import Latents
from microlatent.experiment import open_data
from microlatent.schemas import Settings
from microlatent.systems.partitions.schema import PartitionsConfig
from tests.conftest import composed

NAMES = ["CD8", "DAPI", "grey"]

pytestmark = pytest.mark.usefixtures("without_figures")


def write_cohort(folder, subjects=("s1", "s2", "s3"), seed=0):
    rng = np.random.default_rng(seed)
    for subject in subjects:
        pixels = rng.poisson(rng.uniform(5, 50, (3, 1, 1)), (3, 48, 32)).astype(np.uint16)
        (folder / subject).mkdir(parents=True)
        about = {"axes": "CYX", "Channel": {"Name": NAMES}}
        tifffile.imwrite(folder / subject / "im.ome.tif", pixels, ome=True, photometric="minisblack", metadata=about)
    return folder


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path / "raw")


@pytest.fixture
def act(tmp_path, cohort):
    """Return a function that carries out a command on the cohort and returns its folder."""

    def do(entry, *overrides, root=cohort):
        given = ["data=partitions", f"data.root={root}", f"outputs={tmp_path / 'outputs'}", "logger=csv", *overrides]
        return carry_out(composed(entry, *given), given)[1]

    return do


def assemble(act, *overrides, **options):
    return act("infer", "task=assemble", "task.size=16", *overrides, **options)


def opened(cohort, tmp_path, **data):
    chosen = PartitionsConfig(name="partitions", root=str(cohort), normalise="gauss", **data)
    return open_data(Settings(outputs=str(tmp_path / "outputs"), data=chosen))


def test_a_subject_that_was_renamed_is_not_there_twice(act, cohort, tmp_path, caplog):
    assemble(act)
    (cohort / "s3").rename(cohort / "patient3")
    assemble(act)
    assert set(opened(cohort, tmp_path).table["subject"]) == {"patient3", "s1", "s2"}
    assert "s3.h5.stale" in caplog.text


def test_a_half_assembled_folder_is_refused_until_it_is_whole(act, cohort, tmp_path):
    assemble(act)
    path = cohort / "s3" / "im.ome.tif"
    pixels, about = tifffile.imread(path), {"axes": "CYX", "Channel": {"Name": NAMES}}
    for subject in ("s1", "s2", "s3"):  # of real numbers, so that one may be NaN
        broken = pixels.astype(np.float32)
        broken[0, 0, 0] = np.nan if subject == "s3" else 0
        tifffile.imwrite(cohort / subject / path.name, broken, ome=True, photometric="minisblack", metadata=about)
    with pytest.raises(ValueError, match="NaN"):
        assemble(act)
    with pytest.raises(ValueError, match=r"half assembled.*before s3.*task=assemble again"):
        opened(cohort, tmp_path)
    assert len(opened(cohort, tmp_path, subjects=["s1", "s2"])) == 12
    assemble(act, "data.subjects=[s1]")
    with pytest.raises(ValueError, match=r"half assembled.*before s3"):  # one subject made anew does not mend another
        opened(cohort, tmp_path)
    tifffile.imwrite(path, pixels.astype(np.float32), ome=True, photometric="minisblack", metadata=about)
    assemble(act)
    assert len(opened(cohort, tmp_path)) == 18


@pytest.mark.slow
def test_stores_that_were_cut_differently_are_refused(act, cohort, tmp_path):
    assemble(act)
    assemble(act, "data.subjects=[s1]", "task.overlap=8")
    with pytest.raises(ValueError, match=r"different task\.overlap \(s1: 8, s2: 0"):
        opened(cohort, tmp_path)


def test_a_channel_that_no_one_knows_cannot_be_dropped(act, cohort, tmp_path):
    assemble(act, "data.drop_channels=[grey]")
    assert opened(cohort, tmp_path, drop_channels=["grey"]).channels == ["CD8", "DAPI"]
    with pytest.raises(ValueError, match=r"data\.drop_channels names \['gray'\]"):
        opened(cohort, tmp_path, drop_channels=["gray"])


def test_subjects_of_the_same_name_in_another_cohort_were_not_trained_on(act, tmp_path):
    assemble(act)
    small = ("model=ae_gauss", "model.width=4", "model.latent_dim=2", "trainer.epochs=1", "trainer.num_reconstructions=0")
    run = act("train", *small, "data.drop_channels=[grey]")
    own = Latents.open(act("infer", "task=process", f"run={run}", "data.drop_channels=[grey]") / "latents.h5ad")
    assert set(own.obs["part"]) == {"train", "val"}
    assert own.channels == ["CD8", "DAPI"]  # what later tasks show and compare is what the model saw
    other = write_cohort(tmp_path / "second", seed=1)
    assemble(act, root=other)
    table = anndata.read_h5ad(act("infer", "task=process", f"run={run}", root=other) / "latents.h5ad")
    assert set(table.obs["subject"]) == {"s1", "s2", "s3"}
    assert set(table.obs["part"]) == {""}
