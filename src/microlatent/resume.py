"""Go on with an interrupted run, or repeat a whole one, from its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from microlatent import config, overrides, run, settling
from microlatent.schemas import Settings
from microlatent.tracking import differing_history

logger = logging.getLogger(__name__)

# Settings that change how long or where a run goes on, not what it is.
FREE = (
    "trainer.epochs",
    "trainer.patience",
    "trainer.checkpoint_every",
    "trainer.threads",
    "trainer.device",
    "trainer.resident",
    "logger.",
)
ABOUT_THE_COMMAND = ("resume", "rerun", "name", "outputs", "check", "plugins", "hydra")


def continued(cfg: Any, typed: list[str], folder: Path) -> Settings:
    """Return an interrupted run's own settings, with those changes of the user that leave it the same experiment.

    Raises
    ------
    ValueError
        A scientific setting that the user typed differs; every difference is shown.
    """
    stored = run.read_config(folder)
    if "experiment" in overrides.texts(typed):
        raise ValueError(f"resume={folder} continues that run with its own settings. Leave experiment=... out.")
    old = config.flat(stored)
    now = {key: value for override in typed for key, value in _typed(cfg, override).items()}
    changes = {key: value for key, value in now.items() if old.get(key) != value}
    free = FREE if stored["trainer"]["lr_schedule"] == "constant" else FREE[1:]  # a cosine's length is part of the experiment
    refused = [f"  {key}: {old.get(key)} in the run, {value} now" for key, value in changes.items() if not key.startswith(free)]
    if refused:
        raise ValueError(
            f"resume={folder} continues the same experiment, but these settings differ:\n"
            + "\n".join(refused)
            + "\nLeave them out to continue, or start a new run (init_from=<checkpoint> takes its weights)."
        )
    for key, value in changes.items():
        *path, leaf = key.split(".")
        container = stored
        for part in path:
            container = container[part]
        container[leaf] = value
    config.load_plugins(stored["plugins"])
    return settling.settle({**stored, "resume": str(folder), "check": bool(cfg.check)}, "train")


def _typed(cfg: Any, override: str) -> dict[str, Any]:
    """Return the settings that one override names: a key, or the name of a group's choice."""
    if _is_about_the_command(override):
        return {}
    key = overrides.key_of(override)
    value = OmegaConf.select(cfg, key)
    if key in config.GROUPS:
        return {f"{key}.name": value.name}
    return {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value}


def _is_about_the_command(override: str) -> bool:
    return overrides.key_of(override).partition(".")[0] in ABOUT_THE_COMMAND


def repeated(cfg: Any, typed: list[str]) -> tuple[Path, Settings]:
    """Return the folder and the settings of the run that ``rerun`` names.

    Raises
    ------
    ValueError
        Something else was typed: a repeat takes everything from the run.
    """
    folder = run.find(cfg.rerun, cfg.outputs, cfg.name, "rerun")
    others = [override for override in typed if not _is_about_the_command(override)]
    if others:
        raise ValueError(
            f"rerun={folder} repeats that run with its own settings, so {', '.join(others)} has no effect. Leave it out, or "
            "start a new run."
        )
    stored = run.read_config(folder)
    config.load_plugins(stored["plugins"])
    fresh = {"resume": None, "rerun": None, "check": bool(cfg.check), "name": folder.parent.name, "outputs": cfg.outputs}
    return folder, settling.settle({**stored, **fresh}, "train")


def compare(original: Path, repeat: Path) -> None:
    """Say whether a repeated run has the same history."""
    difference = differing_history(original / "history.csv", repeat / "history.csv")
    verdict = "identical to" if difference is None else f"different ({difference}) from"
    logger.info("The history of %s is %s that of %s.", repeat, verdict, original)
