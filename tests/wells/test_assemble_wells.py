"""Raw wells to stores: the reference's numbers, the order of rows, and what happens to bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from microlatent.data.folders import refuse_foreign
from microlatent.data.io import pickles
from microlatent.data.relations import RelationTable, label, reference_order, relate
from microlatent.data.store import Store
from microlatent.files import write_json, write_pickle
from microlatent.schemas import Settings
from microlatent.systems.wells.assemble import run
from microlatent.systems.wells.files import find_wells
from microlatent.systems.wells.schema import AssembleWellsConfig, WellsConfig
from microlatent.systems.wells.source import assembly_folder
from microlatent.tracking import NullTracker


def settings_for(root: Path, store: Path, task: dict | None = None, **data: object) -> Settings:
    names = data.pop("channel_names", ["phase", "retardance"])
    config = WellsConfig(name="wells", root=str(root), store=str(store), channel_names=names, **data)
    return Settings(data=config, task=AssembleWellsConfig(name="assemble", **(task or {})))


def assembled(root: Path, out: Path, well: str = "A1", task: dict | None = None, **data: object) -> Store:
    run(settings_for(root, out, task, wells=[well], **data), out, NullTracker())
    return Store.open(out / f"{well}.h5")


@pytest.fixture
def raw_copy(golden_folder, tmp_path):
    """Copy the golden wells' raw files, so that a test may damage them."""
    return Path(shutil.copytree(golden_folder / "wells" / "supp", tmp_path / "supp"))


@pytest.mark.parametrize("well", ["A1", "B2"])
@pytest.mark.parametrize("part", ["file_paths", "static_patches", "static_patches_relations", "static_patches_labels"])
def test_reference_files_equal_the_references(golden_folder, tmp_path, well, part):
    assembled(golden_folder / "wells" / "supp", tmp_path, well, {"reference_files": True})
    ours = pickles.load(tmp_path / "reference" / f"{well}_{part}.pkl")
    golden = pickles.load(golden_folder / "wells" / "raw" / f"{well}_{part}.pkl")
    if isinstance(golden, np.ndarray):
        assert ours.dtype == golden.dtype
        np.testing.assert_allclose(ours, golden, rtol=1e-14)
    else:
        assert list(ours) == list(golden)
        assert ours == golden


def test_unmasked_patches_equal_the_references(golden_folder, tmp_path):
    store = assembled(golden_folder / "wells" / "supp", tmp_path, "A1", {"patch_type": "mat"})
    golden = pickles.load(golden_folder / "wells" / "raw_mat" / "A1_static_patches.pkl")
    np.testing.assert_allclose(store.images, golden[:, :, 0], rtol=1e-6)


def test_wells_that_the_reference_assembled_become_the_same_store(golden_folder, tmp_path):
    store = assembled(golden_folder / "wells" / "raw", tmp_path / "static")
    ours = assembled(golden_folder / "wells" / "supp", tmp_path / "stacks")
    np.testing.assert_array_equal(store.images, ours.images)
    np.testing.assert_array_equal(store.relations, ours.relations)
    np.testing.assert_array_equal(store.table["label"], ours.table["label"])
    assert store.table["key"].tolist() == ours.table["key"].tolist()


def test_relations_and_order_equal_the_references(golden_folder):
    golden = np.load(golden_folder / "golden_preprocess.npz")
    pairs = np.column_stack([golden["rel_pairs"], golden["rel_vals"]])
    table = RelationTable(pairs, 12)
    np.testing.assert_array_equal(reference_order(table, 12), golden["reorder_seed123_order"])
    order = golden["reorder_seed123_order"]
    np.testing.assert_array_equal(table.among(order), golden["reorder_seed123_mat"])


def test_later_trajectory_never_weakens_a_pair():
    both = [(np.array([1, 2]), np.array([0, 1])), (np.array([1, 5]), np.array([0, 1])), (np.array([4, 9]), np.array([2, 1]))]
    codes = {(i, j): code for i, j, code in relate(both, 4).tolist()}
    assert codes[0, 1] == codes[1, 0] == 2
    assert codes[2, 1] == 1
    assert (0, 2) not in codes
    assert label(both, 4).tolist() == [1, 2, 2, 3]


def test_masks_are_stored_beside_their_patches(golden_folder, tmp_path):
    store = assembled(golden_folder / "wells" / "supp", tmp_path, "A1", {"masks": True})
    assert store.masks.shape == (40, 1, 128, 128)
    assert set(np.unique(store.masks)) == {0, 1}


def test_missing_trajectory_patch_is_skipped_and_counted(raw_copy, tmp_path, caplog):
    path = raw_copy / "A1-supps" / "A1-Site_0" / "cell_traj.pkl"
    cells, positions = pickles.load(path)
    cells[0][11] = 77
    write_pickle([cells, positions], path)
    with caplog.at_level("WARNING", logger="microlatent"):
        store = assembled(raw_copy, tmp_path / "stores")
    assert "A1-Site_0/0 frame 11 cell 77" in caplog.text
    assert store.trajectory_lengths["A1-Site_0/0"] == 4
    assert (store.table["trajectory"] == "A1-Site_0/0").sum() == 3


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        content = pickles.load(path)
        entry = next(iter(content.values()))
        for variant in ("mat", "masked_mat"):
            if how == "channels":
                entry[variant] = entry[variant][1:]
            else:
                entry[variant][0, 0, 0, 0] = np.nan
        write_pickle(content, path)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("cell_traj.pkl", "missing", "There is no file .*cell_traj.pkl"),
        ("stacks_9.pkl", "truncated", "stacks_9.pkl.*cut short"),
        ("stacks_9.pkl", "channels", "stacks_9.pkl has a patch whose masked_mat is .3, 1, 32, 32., but .4, 1, 32, 32."),
    ],
)
def test_damaged_raw_file_is_named_and_no_store_is_left(raw_copy, tmp_path, name, how, words):
    damage(raw_copy / "A1-supps" / "A1-Site_0" / name, how)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        assembled(raw_copy, tmp_path / "stores")
    assert not list(tmp_path.glob("stores/*"))


def test_patch_with_nan_is_skipped_with_its_name_or_refused(raw_copy, tmp_path, caplog):
    damage(raw_copy / "A1-supps" / "A1-Site_0" / "stacks_9.pkl", "nan")
    with caplog.at_level("WARNING", logger="microlatent"):
        assert len(assembled(raw_copy, tmp_path / "stores")) == 39
    assert "1 patches hold NaN" in caplog.text
    with pytest.raises(ValueError, match=r"bad_patches=skip"):
        assembled(raw_copy, tmp_path / "stores", bad_patches="refuse")


def test_wrong_channel_names_say_what_there_is(golden_folder, tmp_path):
    root = golden_folder / "wells" / "supp"
    with pytest.raises(ValueError, match=r"channel_names gives 3 names"):
        assembled(root, tmp_path, channel_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"\['GFP'\].*\['phase', 'retardance'\]"):
        assembled(root, tmp_path, channels=["GFP"])


def test_site_of_another_well_is_refused(golden_folder):
    with pytest.raises(ValueError, match=r"\['B2-Site_0'\].*belongs to one well"):
        find_wells(golden_folder / "wells" / "supp", ["A1"], ["A1-Site_0", "B2-Site_0"], None)


def test_whole_counts_round_with_a_stated_error(golden_folder, tmp_path, caplog):
    with caplog.at_level("WARNING", logger="microlatent"):
        store = assembled(golden_folder / "wells" / "supp", tmp_path, "A1", {"dtype": "uint16"})
    assert store.images.dtype == np.uint16
    assert "root mean square error is 0.2" in caplog.text


def test_store_of_another_root_is_neither_replaced_nor_trained_on(golden_folder, raw_copy, tmp_path):
    store = assembled(golden_folder / "wells" / "supp", tmp_path / "stores")
    settings = settings_for(raw_copy, tmp_path / "stores")
    with pytest.raises(ValueError, match=r"task\.overwrite=true"):
        run(settings, tmp_path, NullTracker())
    with pytest.raises(ValueError, match=r"was assembled from .*, not from data\.root="):
        refuse_foreign([store], settings.data)


def test_patches_of_another_folder_of_the_same_name_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "movie").mkdir(parents=True)
    write_json({"root": str(tmp_path / "one" / "movie")}, tmp_path / "outputs" / "patches" / "movie" / "made_from.json")
    ours = assembly_folder(WellsConfig(name="wells", root=str(tmp_path / "one" / "movie")), str(tmp_path / "outputs"))
    assert ours == tmp_path / "outputs" / "patches" / "movie"
    with pytest.raises(ValueError, match="two folders have the same name"):
        assembly_folder(WellsConfig(name="wells", root=str(tmp_path / "two" / "movie")), str(tmp_path / "outputs"))


def test_store_keeps_the_folder_spelling_of_its_keys(golden_folder, tmp_path):
    store = assembled(golden_folder / "wells" / "supp", tmp_path)
    assert store.table["key"][0] == "supp/A1-supps/A1-Site_0/10_0.h5"
    assert json.dumps(store.origin)
