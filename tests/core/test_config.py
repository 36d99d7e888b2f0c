"""What a user may type, and what each mistake is answered with."""

import re
import resource
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml

from microlatent import config, schemas
from microlatent.menu.draft import Refused, settle
from microlatent.report.pictures import Album
from microlatent.report.task_sections import task_sections

ROOT = Path(__file__).parents[2]
ENTRIES = ("train", "infer", "analyze")


def test_every_file_of_values_is_a_choice_s_and_says_which_schema_it_feeds():
    for group in config.GROUPS:
        for path in (config.CONF / group).glob("*.yaml"):
            text, schema = path.read_text(), config.choice(group, path.stem).schema
            values = yaml.safe_load(text)
            assert schema.__name__ in text.splitlines()[0]
            assert (values.pop("defaults"), values.pop("name")) == ([schema.__name__, "_self_"], path.stem)
            assert values  # one that says no more than its schema needs no file
            assert set(values) <= config.choice(group, path.stem).settings


def test_every_task_is_declared_once_and_completely():
    for data in (None, *config.REGISTRY["data"]):
        for name, task in config.tasks(data=data).items():
            assert task.entry in config.ENTRIES
            assert (task.title, task.order) != (config.Choice(name, task.schema).title, config.Choice(name, task.schema).order)
            assert set(task.data or ()) <= set(config.REGISTRY["data"])
            assert task.section is None or callable(config.load(task.section))
            if data is not None:
                assert {"run", "preflight"} <= set(vars(task.load()))


def test_report_gives_what_every_task_left_its_title_analyses_first(tmp_path):
    for name in config.tasks():
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "tables" / "numbers.csv").write_text("a\n1\n")
    titles = [section.title for section in task_sections(list(tmp_path.iterdir()), tmp_path, Album(100))]
    assert titles == [one.title for entry in ("analyze", "infer", "train") for one in config.tasks(entry).values()]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_task_and_experiment_composes_and_validates(entry, compose):
    needs = {"root": "data.root=x", "data": "data.root=x", "run": "run=x", "runs": "task.runs=x"}
    for data in config.REGISTRY["data"]:
        for name, task in config.tasks(entry, data).items():
            settings = compose(entry, f"task={name}", f"data={data}", *(needs[one] for one in task.needs))
            assert (settings.task.name, type(settings.task)) == (name, task.schema)
    for name, task in config.tasks(entry).items():
        if task.reviews:
            assert compose(entry, f"task={name}", *(needs[one] for one in task.needs)).data is None
    for path in (config.CONF / "experiment").glob("*.yaml"):
        task = re.search(r"override /task: (\w+)", path.read_text())
        if entry == (config.choice("task", task.group(1)).entry if task else "train"):
            assert compose(entry, f"experiment={path.stem}").data.root
        if entry == "infer" and "override /task" not in path.read_text():
            assert compose(entry, "task=assemble", f"experiment={path.stem}").model is None


def test_a_model_sets_the_normalisation_that_its_likelihood_needs(compose):
    given = ("data=partitions", "data.root=somewhere")
    assert compose("train", "model=vae_bern", *given).data.normalise == "bern"
    assert compose("train", "model=ae_gauss", *given).data.normalise == "gauss"
    assert compose("train", "model=vqvae_z16", *given).data.normalise == "dataset"
    assert compose("train", "model=ae_gauss", *given, "data.normalise=dataset").data.normalise == "dataset"


def test_a_choice_that_is_typed_wins_over_the_experiment_and_a_value_that_is_typed_over_both(compose):
    assert compose("train", "experiment=partitions_all").trainer.epochs == 250
    assert compose("train", "experiment=partitions_all", "trainer=smoke").trainer.epochs == 3
    assert compose("train", "experiment=partitions_all", "trainer=smoke", "trainer.epochs=5").trainer.epochs == 5


def test_every_model_trainer_and_logger_composes(compose):
    groups = ("model", "trainer", "logger")
    for names in zip_longest(*(config.REGISTRY[group] for group in groups)):  # as many at once as there are
        chosen = {group: name for group, name in zip(groups, names, strict=True) if name}
        made = compose("train", *map("=".join, chosen.items()), "data=partitions", "data.root=somewhere")
        assert {group: getattr(made, group).name for group in chosen} == chosen


def test_every_setting_of_every_schema_is_explained():
    source = "".join(path.read_text() for path in sorted(Path(schemas.__file__).parent.glob("*.py")))
    silent = []
    for block in re.split(r"^@dataclass", source, flags=re.MULTILINE)[1:]:
        for line in block.splitlines():
            if re.match(r"    (?!name: str = MISSING|model\b|data\b|task\b|trainer\b|logger\b)\w+: ", line) and "#" not in line:
                silent.append(line.strip())
    assert not silent


@pytest.mark.parametrize(
    ("entry", "arguments", "words"),
    [
        ("train", ["+model.latent_dmi=4"], ["model.latent_dmi=4", "Did you mean 'latent_dim'", "num_codes"]),
        ("train", ["trainer.epoch=4"], ["trainer.epoch=4", "Did you mean 'epochs'"]),
        ("train", ["trainer.lr=abc"], ["trainer.lr=abc", "Float"]),
        ("train", ["trainer.lr=-1"], ["trainer.lr is -1.0", "above 0"]),
        ("train", ["data.normalise=datset"], ["data.normalise is 'datset'", "Did you mean 'dataset'"]),
        ("train", ["experiment=wells_dem"], ["experiment=wells_dem", "Did you mean 'wells_demo'"]),
        ("train", ["modle=vqvae_z16"], ["modle", "Did you mean 'model'"]),
        ("train", ["task=match"], ["python analyze.py task=match"]),
        ("infer", ["task=assemble", "model=vqvae_z16", "data.root=demo"], ["model=vqvae_z16 has no effect"]),
        ("analyze", ["task=embed", "resume=latest"], ["resume belongs to train.py", "run=latest"]),
        ("train", ["trainer.batch_size=2", "trainer.accumulate=4"], ["trainer.accumulate is 4", "trainer.batch_size=2"]),
        ("train", [], ["data.root is not set", "data.root=demo"]),
        ("train", ["trainer.lr=nan"], ["trainer.lr is nan"]),
        ("infer", ["task=assemble", "data.root=demo", "+model.latent_dmi=4"], ["model.latent_dmi", "Did you mean 'latent_dim'"]),
        ("infer", ["task=assemble", "data.root=demo", "model.latent_dim=4"], ["model.latent_dim=4 has no effect here"]),
        (
            "train",
            ["model=vae_bern", "data.root=x"],
            ["data.normalise=dataset does not fit model=vae_bern", "Set data.normalise=bern"],
        ),
        ("train", ["model=ae_gauss", "model.beta=2"], ["of model=vae_bern, model=vae_gauss, model=kikuchi_cnn alone"]),
        ("infer", ["task=assemble", "data=partitions", "task.patch_px=64"], ["task=assemble data=partitions", "size"]),
        (
            "train",
            ["model=vae_bern", "model.arch=2", "model.width=8", "data.root=x"],
            ["model.width=8 has no effect on model.arch=2"],
        ),
        ("infer", ["task=assemble", "data=partitions", "data.root=x", "data.subjects=[a,a]"], ["data.subjects names ['a'] more"]),
        ("infer", ["task=assemble", "data=partitions", "data.root=x", "data.channels=[]"], ["data.channels is empty"]),
        ("analyze", ["task=report"], ["add run=<folder of a run or a sweep>"]),
        ("analyze", ["task=match", "data=kikuchi"], ["task=match is for data=wells, not for data=kikuchi", "task=associate"]),
        ("analyze", ["task=bandcontrast", "data.root=x"], ["is for data=kikuchi", "where neither data nor run is typed"]),
        ("analyze", ["task=maps", "data=mnist"], ["task=maps does not know data=mnist"]),
        ("analyze", ["task=compare"], ["add task.runs=<folder of a sweep>"]),
        ("train", ["experiment=kikuchi_demo", "model=ae_gauss"], ["kikuchi_demo sets model.beta, which model=ae_gauss"]),
    ],
)
def test_mistake_is_refused_with_the_nearest_thing_that_works(entry, arguments, words):
    with pytest.raises(Refused) as refusal:
        settle(entry, arguments)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("entry", "arguments", "words"),
    [
        ("train", ["model.latent_dmi=4"], ["model.latent_dmi=4", "Did you mean 'latent_dim'", "num_codes"]),  # by Hydra
        ("train", ["model=vqvae_z61"], ["model=vqvae_z61", "Did you mean 'vqvae_z16'"]),
        ("infer", ["task=process"], ["run=latest"]),  # by the settings
        ("train", ["resume=a", "rerun=b"], ["resume and rerun exclude each other"]),
        ("train", ["run=outputs/x"], ["run=outputs/x has no effect", "resume=outputs/x"]),
        ("train", ["plugins=[no_such_module]"], ["no_such_module", "PYTHONPATH"]),  # before there are settings
        ("train", ["data.root=/nowhere", "logger=csv"], ["no store", "task=assemble"]),  # in the run
    ],
)
def test_mistake_ends_a_command_in_words_and_code_2(command, entry, arguments, words):
    done = command(entry, *arguments, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not list(command.folder.glob("outputs/**/history.csv"))


def test_help_is_a_manual_that_imports_nothing_heavy():
    code = f"""if True:
        import runpy, sys
        for entry in {ENTRIES}:
            sys.argv = [entry + ".py", "--help"]
            runpy.run_path("{ROOT}/" + entry + ".py", run_name="__main__")
            print("HEAVY", [m for m in ("torch", "wandb", "sklearn", "pandas", "numpy") if m in sys.modules])
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    manuals = done.stdout.split("HEAVY []")
    assert len(manuals) == len(ENTRIES) + 1
    assert all("data.root" in text for text in manuals[:-1])
    for entry, text in zip(ENTRIES, manuals[:-1], strict=True):
        assert f"task={' | '.join(config.tasks(entry))}\n" in text
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    )  # 0.5 s of CPU when measured; generous, machines differ
