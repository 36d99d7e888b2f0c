"""From what a user typed to checked settings: the registry of choices, and validation that names the nearest match.

A choice of a group is a name with a schema (a dataclass that holds every setting) and a target (``module:attribute``, imported
only when it is used). ``conf/<group>/<choice>.yaml`` holds its values. Nothing here imports torch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from microlatent import schemas
from microlatent.schemas import MISSING, Settings
from microlatent.schemas.sweeper import GridConfig, StudyConfig

logger = logging.getLogger(__name__)

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("model", "data", "task", "trainer", "logger")
SYSTEMS = ("wells", "partitions", "mnist", "kikuchi")  # each a folder below systems/ that registers what it has


@dataclass
class Choice:
    """One name of a group: its schema and where the code that takes it stands."""

    schema: type
    target: str | None = None  # "module:attribute"
    entry: str | None = None  # for tasks: the command they belong to
    specimens: str | None = None  # for data: module whose SPECIMENS simulate raw files, by the value of data.root

    def load(self) -> Any:
        """Import and return the target."""
        assert self.target is not None
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute) if attribute else import_module(module)


BY_DATA = ("assemble", "maps", "cluster")  # tasks that are another one for each kind of data: groups task/<name>
REGISTRY: dict[str, dict[str, Choice]] = {group: {} for group in (*GROUPS, *(f"task/{name}" for name in BY_DATA))}


def register(
    group: str,
    name: str,
    schema: type,
    target: str | None = None,
    entry: str | None = None,
    *,
    yaml: bool = False,
    specimens: str | None = None,
) -> None:
    """Add a choice to a group; a plugin calls this at import.

    Parameters
    ----------
    group
        model, data, task, trainer or logger; task/assemble (task/maps, task/cluster) for what that task does with the data of
        that name.
    name
        What a user types: ``<group>=<name>``.
    schema
        Dataclass with a field ``name``; its defaults are the choice's values.
    target
        ``module:attribute`` of the model class or data source, ``module`` of a task (with ``run`` and ``preflight``).
    entry
        For tasks: ``train``, ``infer`` or ``analyze``.
    specimens
        For data: ``module`` whose ``SPECIMENS`` hold, by the value of ``data.root``, functions that
        simulate raw files in a folder.
    yaml
        The values come from ``conf/<group>/<name>.yaml``, which names the schema; plugins leave it False.
    """
    if group not in REGISTRY:
        raise ValueError(f"{group!r} is no config group. {nearest(group, REGISTRY)}")
    REGISTRY[group][name] = Choice(schema, target, entry, specimens)
    store = ConfigStore.instance()
    if group.startswith("task/"):
        store.store(group=group, name=name, node=schema)  # conf/task/<task>.yaml gives the name
    elif yaml:
        store.store(group=group, name=schema.__name__, node=schema)
    else:
        store.store(group=group, name=name, node=schema(name=name))


register("model", "vqvae_z16", schemas.VQVAEConfig, "microlatent.models.vqvae:VQVAE", yaml=True)
register("model", "vqvae_z32", schemas.VQVAEConfig, "microlatent.models.vqvae:VQVAE", yaml=True)
for _name in ("ae_bern", "ae_gauss"):
    register("model", _name, schemas.AEConfig, "microlatent.models.autoencoder:Autoencoder", yaml=True)
for _name in ("vae_bern", "vae_gauss"):
    register("model", _name, schemas.VAEConfig, "microlatent.models.autoencoder:VariationalAutoencoder", yaml=True)
register("model", "kikuchi_cnn", schemas.KikuchiCNNConfig, "microlatent.models.kikuchi_cnn:KikuchiCNN", yaml=True)
register("task", "train", schemas.TrainConfig, "microlatent.training", "train", yaml=True)
register("task", "process", schemas.ProcessConfig, "microlatent.tasks.process", "infer", yaml=True)
register("task", "embed", schemas.EmbedConfig, "microlatent.tasks.embed", "analyze", yaml=True)
for _name in ("wells", "partitions", "mnist"):
    register("task/cluster", _name, schemas.ClusterConfig, "microlatent.tasks.cluster", "analyze")
register("task", "compare", schemas.CompareConfig, "microlatent.tasks.compare", "analyze", yaml=True)
register("task", "report", schemas.ReportConfig, "microlatent.tasks.report", "analyze", yaml=True)
for _name in ("cpu", "gpu", "smoke"):
    register("trainer", _name, schemas.TrainerConfig, yaml=True)
for _name in ("wandb", "csv"):
    register("logger", _name, schemas.LoggerConfig, yaml=True)
ConfigStore.instance().store(name="Settings", node=Settings)
for _schema in (GridConfig, StudyConfig):
    ConfigStore.instance().store(group="hydra/sweeper", name=_schema.__name__, node=_schema)
for _name in SYSTEMS:
    import_module(f"microlatent.systems.{_name}")


def load_plugins(modules: list[str]) -> None:
    """Import the user's modules, which register their choices."""
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name and not module.startswith(error.name):
                raise  # the plugin is there, but something that it imports is not
            raise ValueError(
                f"plugins names {module!r}, but there is no such module. It must be importable: put its folder on PYTHONPATH, "
                "or install it into this environment."
            ) from error


def nearest(word: str, allowed: Any) -> str:
    """Return "Did you mean ...?" for the closest allowed word, and the list of all."""
    allowed = sorted(allowed)
    close = get_close_matches(word, allowed, n=1, cutoff=0.5)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"Allowed: {', '.join(allowed)}."


def choice(group: str, name: str | None) -> Choice:
    """Look a choice up by name.

    Raises
    ------
    ValueError
        The group has no such choice; the message gives the nearest.
    """
    if name not in REGISTRY[group]:
        raise ValueError(f"{group}={name} does not exist. {nearest(str(name), REGISTRY[group])}")
    return REGISTRY[group][str(name)]


def task_choice(name: str | None, data: str | None) -> Choice:
    """Look a task up by name; what ``assemble``, ``maps`` and ``cluster`` are depends on the data.

    Raises
    ------
    ValueError
        There is no such task, or it is not for this kind of data.
    """
    if name not in BY_DATA:
        return choice("task", name)
    kinds = REGISTRY[f"task/{name}"]
    if data not in kinds:
        raise ValueError(f"task={name} does not know data={data}. {nearest(str(data), kinds)}")
    return kinds[str(data)]


def build(group: str, values: dict[str, Any], data: str | None = None) -> Any:
    """Turn the values of one group into its dataclass, refusing unknown and missing keys; a task may depend on the data."""
    if values.get("name") in (None, MISSING):
        raise ValueError(f"{group} has no name. Choose one: {', '.join(f'{group}={name}' for name in sorted(REGISTRY[group]))}.")
    schema = (task_choice(values["name"], data) if group == "task" else choice(group, values["name"])).schema
    known = {field.name for field in fields(schema)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{group}.{key}={value} is no setting of {group}={values['name']}. {nearest(key, known)}")
        if value == MISSING:
            raise ValueError(f"{group}.{key} must be given for {group}={values['name']}: add {group}.{key}=... to the command.")
    return schema(**values)


def settle(container: dict[str, Any], entry: str, overrides: list[str] | tuple[str, ...] = ()) -> Settings:
    """Turn a composed configuration into checked settings for one of the three commands.

    ``overrides`` are what the user typed: the model that an experiment chooses is for training, one that was typed is a mistake
    elsewhere.

    Raises
    ------
    ValueError
        A key, a value, or a combination makes no sense; nothing has been read yet.
    """
    container = dict(container)
    container.pop("experiment", None)
    known = {field.name for field in fields(Settings)}
    for key in container:
        if key not in known:
            raise ValueError(f"{key} is no setting. {nearest(key, known)}")
    if entry != "train" and not any(override.lstrip("+~").startswith("model=") for override in overrides):
        for key in container.get("model") or {}:
            if key not in model_keys():
                raise ValueError(f"model.{key} is no setting of any model. {nearest(key, model_keys())}")
        container["model"] = None
    prefer_typed(container, overrides)
    if reviews((container.get("task") or {}).get("name")):
        container["data"] = None  # what runs left behind is all that such a task reads
    data = (container.get("data") or {}).get("name")
    groups = {group: build(group, container[group], data) for group in GROUPS if container.get(group) is not None}
    settings = Settings(**{**container, **groups})
    belongs = task_choice(settings.task.name, data).entry
    if belongs != entry:
        raise ValueError(
            f"task={settings.task.name} is not a task of {entry}.py. Type: python {belongs}.py task={settings.task.name} ..."
            + ("" if entry != "train" else " (train.py fits models and needs no task).")
        )
    check_combination(settings, entry)
    if entry == "train":
        settle_normalisation(settings)
    return settings


def prefer_typed(container: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> None:
    """Let the values of a choice that was typed win over those of the experiment: ``trainer=smoke`` is short in every recipe."""
    typed = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    for group in GROUPS:
        path = CONF / group / f"{typed.get(group)}.yaml"
        if group in typed and path.is_file() and container.get(group):
            values = OmegaConf.to_container(OmegaConf.load(path))
            for key in [key for key in values if key != "defaults" and f"{group}.{key}" not in typed]:
                if container[group][key] != values[key] and key != "name":
                    logger.info("%s=%s sets %s.%s=%s.", group, typed[group], group, key, values[key])
                container[group][key] = values[key]


def settle_normalisation(settings: Settings) -> None:
    """Set ``data.normalise`` to what the model wants where it is not given; refuse what it cannot be trained on."""
    model, data = settings.model, settings.data
    if data.normalise is None:
        data.normalise = getattr(model, "normalise", "dataset")
    if hasattr(model, "refuse_normalisation"):
        model.refuse_normalisation(data.normalise)


def check_origin(cfg: Any, entry: str) -> None:
    """Refuse keys that say where a command starts from, where they exclude each other or mean nothing."""
    given = [key for key in ("resume", "rerun", "init_from") if cfg[key]]
    if given and entry != "train":
        raise ValueError(f"{given[0]} belongs to train.py. For {entry}.py name the trained run: run={cfg[given[0]]}")
    if entry == "train" and cfg.run:
        raise ValueError(
            f"run={cfg.run} has no effect in train.py. To continue a run: resume={cfg.run}; to start from its weights: "
            f"init_from={cfg.run}."
        )
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: give one of them.")


def check_combination(settings: Settings, entry: str) -> None:
    """Refuse what makes sense in no command, before any data are read."""
    if entry == "train" and settings.model is None:
        raise ValueError(f"train.py needs a model. {nearest('', REGISTRY['model'])} For example: python train.py model=vqvae_z16")
    if settings.data is None and not reviews(settings.task.name):
        raise ValueError(f"{entry}.py needs data. {nearest('', REGISTRY['data'])} For example: data=wells data.root=<folder>")
    if entry != "train" and settings.model is not None:
        raise ValueError(
            f"model={settings.model.name} has no effect in {entry}.py: the model comes from run=<folder of a training run>. "
            "Leave model out."
        )
    if settings.seed < 0:
        raise ValueError(f"seed is {settings.seed}, but must be at least 0.")
    trainer, task = settings.trainer, settings.task.name
    if entry == "train" and trainer.accumulate > trainer.batch_size:
        raise ValueError(
            f"trainer.accumulate is {trainer.accumulate}, but cannot cut a batch of trainer.batch_size={trainer.batch_size} "
            "patches into more pieces than it has."
        )
    reads_files = entry == "train" or task in ("patch", "assemble")
    if reads_files and getattr(settings.data, "root", "") is None and (task == "patch" or settings.data.store is None):
        raise ValueError(
            f"data.root is not set. Name the folder of your files, data.root=<folder>, or try the simulated specimen: "
            f"python {entry}.py task={task} data.root=demo"
        )
    if task == "report" and not settings.run:
        raise ValueError("task=report needs what it is about: add run=<folder of a run or a sweep> or run=latest.")
    if task == "compare" and not settings.task.runs:
        raise ValueError("task=compare needs runs: add task.runs=<folder of a sweep>, or task.runs=[<run>,<run>].")
    if task == "compare" and settings.run:
        raise ValueError(f"run={settings.run} has no effect on task=compare. Name the runs: task.runs=[{settings.run},...].")
    if task in ("process", "reconstruct") and not settings.run:
        raise ValueError(f"task={task} needs a trained model: add run=<folder of a training run> or run=latest.")


def reviews(task: str | None) -> bool:
    """Return whether a task looks at what runs left behind, and so needs no data."""
    return task in REGISTRY["task"] and getattr(REGISTRY["task"][str(task)].schema, "reviews", False)


def plain(settings: Settings) -> dict[str, Any]:
    """Return settings as nested plain containers, as config.yaml and checkpoints hold them."""
    from dataclasses import asdict

    return asdict(settings)


def flat(container: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested settings."""
    out: dict[str, Any] = {}
    for key, value in container.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def with_run_data(cfg: DictConfig, overrides: list[str], run_config: dict[str, Any]) -> DictConfig:
    """Take the data settings of a trained run, except those that the user typed."""
    cfg = cfg.copy()
    typed = {override.lstrip("+~").split("=")[0]: override for override in overrides}
    same = cfg.data is not None and cfg.data.get("name") == run_config["data"]["name"]
    if "data" in typed and not same:
        return cfg  # the user names another kind of data: channels and shape are checked when it is opened
    schema = choice("data", run_config["data"]["name"]).schema
    data = OmegaConf.merge(OmegaConf.structured(schema), run_config["data"])
    for key in typed:
        if key.startswith("data.") and same:
            OmegaConf.update(data, key.removeprefix("data."), OmegaConf.select(cfg, key))
            if key == "data.root" and "data.store" not in typed:
                data.store = None  # another root has another store
    cfg.data = data
    return cfg


def keys_of(one: Choice) -> set[str]:
    """Return the settings of a choice."""
    return {field.name for field in fields(one.schema)}


def model_keys() -> set[str]:
    """Return the settings that any model has."""
    return set().union(*map(keys_of, REGISTRY["model"].values()))
