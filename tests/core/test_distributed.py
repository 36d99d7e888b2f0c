"""Two processes started by torchrun do what one does."""

import numpy as np
import pandas as pd
import pytest

from microlatent import distributed
from microlatent.command import carry_out
from tests.core.test_training import SMALL

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517")


@pytest.fixture
def histories(stores_folder, command, compose):
    """Histories of the same run by one process and by two."""
    options = [f"data.store={stores_folder}", "trainer.epochs=2", "trainer.batch_size=20", *SMALL]
    one = carry_out(compose("train", *options, "name=one", f"outputs={command.folder / 'outputs'}"), [])[1]
    command("train", *options, "name=two", launcher=TORCHRUN, OMP_NUM_THREADS="1")
    return [[pd.read_csv(path) for path in one.parents[1].glob(f"{name}/*/history.csv")] for name in ("one", "two")]


@pytest.mark.slow
def test_two_processes_equal_one_and_share_one_run_folder(histories, command):
    (one,), (two,) = histories
    assert len(list(command.folder.glob("outputs/two/*"))) == 1
    assert one["step"].tolist() == two["step"].tolist()
    terms = [name for name in one.columns if name.startswith(("train_", "val_"))]
    np.testing.assert_allclose(one[terms], two[terms], rtol=1e-5, atol=1e-6)


def test_parts_of_a_batch_cover_it_once(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for num in (3, 7, 64):
        rows = []
        for rank in range(3):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            rows += list(range(num))[distributed.shard(num)]
        assert rows == list(range(num))


def test_task_that_cannot_share_its_work_is_refused_under_torchrun(compose, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"torchrun shares the work of train.py alone"):
        carry_out(compose("infer", "task=process", f"run={tmp_path}"), [])
    assert not list(tmp_path.iterdir())
