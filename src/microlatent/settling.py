"""From a composed configuration to checked settings: what makes no sense is refused here, before anything is read.

Which combinations make sense, the declarations in the registry say (``config.register``).
"""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from microlatent import config, contract
from microlatent.overrides import texts
from microlatent.record import is_sweep
from microlatent.run import find, read_config
from microlatent.schemas import Settings

logger = logging.getLogger(__name__)


def settled(entry: str, cfg: Any, overrides: list[str]) -> Settings:
    """Return the checked settings of a composed configuration, with the data of the run that it stands on.

    Raises
    ------
    ValueError, FileNotFoundError
        A key, a value or a combination makes no sense, or there is no such run.
    """
    check_origin(cfg, entry)
    run_config = None
    if cfg.run and config.choice("task", cfg.task.name).reviews:
        folder = Path(cfg.run).absolute()
        cfg.run = str(folder if is_sweep(folder) else find(cfg.run, cfg.outputs, cfg.name))
    elif cfg.run:
        cfg.run = str(find(cfg.run, cfg.outputs, cfg.name))
        run_config = read_config(Path(cfg.run))
        config.load_plugins(run_config["plugins"])
        cfg = with_run_data(cfg, overrides, run_config)
    container: Any = OmegaConf.to_container(cfg, resolve=True)
    settings = settle(container, entry, overrides)
    if run_config:
        refuse_incapable(settings, run_config)
    return settings


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
            raise ValueError(f"{key} is no setting. {config.nearest(key, known)}")
    if entry != "train" and "model" not in texts(overrides):
        for key in container.get("model") or {}:
            if key not in config.model_keys():
                raise ValueError(f"model.{key} is no setting of any model. {config.nearest(key, config.model_keys())}")
        container["model"] = None
    prefer_typed(container, overrides)
    named = (container.get("task") or {}).get("name")
    if named in config.REGISTRY["task"] and config.REGISTRY["task"][named].reviews:
        container["data"] = None  # what runs left behind is all that such a task reads
    data = (container.get("data") or {}).get("name")
    groups = {group: config.build(group, container[group], data) for group in config.GROUPS if container.get(group) is not None}
    settings = Settings(**{**container, **groups})
    task = config.task_choice(settings.task.name, data)
    if task.entry != entry:
        raise ValueError(
            f"task={task.name} is not a task of {entry}.py. Type: python {task.entry}.py task={task.name} ..."
            + ("" if entry != "train" else " (train.py fits models and needs no task).")
        )
    check_combination(settings, entry, task)
    if entry == "train":
        settle_normalisation(settings)
    return settings


def prefer_typed(container: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> None:
    """Let the values of a choice that was typed win over those of the experiment: ``trainer=smoke`` is short in every recipe."""
    typed = texts(overrides)
    for group in config.GROUPS:
        path = config.CONF / group / f"{typed.get(group)}.yaml"
        if group in typed and path.is_file() and container.get(group):
            values: Any = OmegaConf.to_container(OmegaConf.load(path))
            for key in [key for key in values if key != "defaults" and f"{group}.{key}" not in typed]:
                if container[group][key] != values[key] and key != "name":
                    logger.info("%s=%s sets %s.%s=%s.", group, typed[group], group, key, values[key])
                container[group][key] = values[key]


def settle_normalisation(settings: Settings) -> None:
    """Set ``data.normalise``, and what else a kind of data takes from the model, where not given; refuse what does not fit."""
    model, data = settings.model, settings.data
    if hasattr(data, "settle"):
        data.settle(model)
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


def check_combination(settings: Settings, entry: str, task: config.Choice) -> None:
    """Refuse what makes sense in no command, before any data are read."""
    if entry == "train" and settings.model is None:
        raise ValueError(
            f"train.py needs a model. {config.nearest('', config.REGISTRY['model'])} For example: python train.py model=vqvae_z16"
        )
    if settings.data is None and not task.reviews:
        raise ValueError(
            f"{entry}.py needs data. {config.nearest('', config.REGISTRY['data'])} For example: data=wells data.root=<folder>"
        )
    if entry != "train" and settings.model is not None:
        raise ValueError(
            f"model={settings.model.name} has no effect in {entry}.py: the model comes from run=<folder of a training run>. "
            "Leave model out."
        )
    if getattr(settings.model, "freeze", None) and not settings.init_from:
        raise ValueError(
            f"model.freeze={settings.model.freeze} keeps what init_from gives, but nothing is given: it would stay at random. "
            "Add init_from=<run>, or leave model.freeze out."
        )
    if settings.seed < 0:
        raise ValueError(f"seed is {settings.seed}, but must be at least 0.")
    trainer = settings.trainer
    if entry == "train" and trainer.accumulate > trainer.batch_size:
        raise ValueError(
            f"trainer.accumulate is {trainer.accumulate}, but cannot cut a batch of trainer.batch_size={trainer.batch_size} "
            "patches into more pieces than it has."
        )
    # A task may work on a plugin's kind of data that its declaration cannot know; one that is ours is known not to fit.
    if task.data and settings.data.name not in task.data and settings.data.name in config.SYSTEMS:
        there = ", ".join(f"task={name}" for name in config.tasks(entry, settings.data.name))
        why = "" if settings.run else " (data=wells stands where neither data nor run is typed)"
        raise ValueError(
            f"task={task.name} is for data={' and data='.join(task.data)}, not for data={settings.data.name}{why}. "
            f"Name the data that it is for, or choose a task for these: {there}."
        )
    check_needs(settings, entry, task)


def check_needs(settings: Settings, entry: str, task: config.Choice) -> None:
    """Refuse a task that was not given what it declares to need."""
    needs, run, data = task.needs, settings.run, settings.data
    has_root = data is not None and "root" in config.choice("data", data.name).settings  # what a plugin reads may have none
    if has_root and data.root is None and ("root" in needs or ("data" in needs and data.store is None)):
        raise ValueError(
            f"data.root is not set. Name the folder of your files, data.root=<folder>, or try the simulated specimen: "
            f"python {entry}.py task={task.name} data.root=demo"
        )
    if "run" in needs and not run:
        what = "a trained model: add run=<folder of a training run>"
        if task.reviews:
            what = "what it is about: add run=<folder of a run or a sweep>"
        raise ValueError(f"task={task.name} needs {what} or run=latest.")
    if "runs" in needs and not settings.task.runs:
        raise ValueError(f"task={task.name} needs runs: add task.runs=<folder of a sweep>, or task.runs=[<run>,<run>].")
    if "runs" in needs and run:
        raise ValueError(f"run={run} has no effect on task={task.name}. Name the runs: task.runs=[{run},...].")


def refuse_incapable(settings: Settings, run_config: dict[str, Any]) -> None:
    """Refuse a task that wants of a run's model what its class cannot do; the class is imported, no weights are read.

    A task that reads a latents table wants nothing of the model once there is one.

    Raises
    ------
    ValueError
        The model lacks a capability; the message says which tasks work on the run.
    """
    task, model = config.task_choice(settings.task.name, settings.data.name), (run_config.get("model") or {}).get("name")
    reads_table = "latents" in task.settings
    if reads_table and (settings.task.latents is not None or (Path(str(settings.run)) / "process" / "latents.h5ad").is_file()):
        return
    if not task.wants or model not in config.REGISTRY["model"]:  # which is said where the model is loaded
        return
    built = config.choice("model", model).load()
    if missing := contract.lacking(built, task.wants, run_config["model"]):
        able = [
            f"task={name}"
            for name, one in config.tasks(data=run_config["data"]["name"]).items()
            if not {"root", "data"} & {*one.needs} and not contract.lacking(built, one.wants, run_config["model"])
        ]
        raise ValueError(
            f"task={task.name} needs a model that can {' and '.join(missing)}, but model={model} of run={settings.run} cannot. "
            f"Tasks that work on this run: {', '.join([*able, 'task=report'])}."
        )


def with_run_data(cfg: DictConfig, overrides: list[str], run_config: dict[str, Any]) -> DictConfig:
    """Take the data settings of a trained run, except those that the user typed."""
    cfg = cfg.copy()
    typed = texts(overrides)
    same = cfg.data is not None and cfg.data.get("name") == run_config["data"]["name"]
    if "data" in typed and not same:
        return cfg  # the user names another kind of data: channels and shape are checked when it is opened
    schema = config.choice("data", run_config["data"]["name"]).schema
    data = OmegaConf.merge(OmegaConf.structured(schema), run_config["data"])
    for key in typed:
        if key.startswith("data.") and same:
            OmegaConf.update(data, key.removeprefix("data."), OmegaConf.select(cfg, key))
            if key == "data.root" and "data.store" not in typed and "store" in data:
                data.store = None  # another root has another store
    cfg.data = data
    return cfg
