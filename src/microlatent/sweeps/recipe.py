"""A run as a recipe: its settings as a file for ``experiment=``."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from microlatent import config, settling
from microlatent.files import write_text
from microlatent.schemas import MISSING, Settings

CHOSEN = ("model", "data", "trainer", "logger")  # groups that train.py lets one choose
OF_THE_COMMAND = ("run", "resume", "rerun", "check", "plugins", "outputs", "task", *CHOSEN)


def write(settings: dict[str, Any], always: set[str], about: str, path: Path) -> None:
    """Write a recipe that composes to the settings of a training run.

    Parameters
    ----------
    settings
        As ``config.yaml`` holds them.
    always
        Dotted keys that the file has even where their values are the defaults.
    about
        One line on where the settings come from.
    """
    plugins = f" plugins=[{','.join(settings['plugins'])}]" if settings.get("plugins") else ""
    use = f"python train.py --config-dir {path.parent.parent} experiment={path.stem}{plugins}"
    content = _nested(_own(settings, always))
    defaults = {"defaults": [{f"override /{group}": settings[group]["name"]} for group in CHOSEN]}
    text = yaml.safe_dump(defaults, sort_keys=False) + (yaml.safe_dump(content, sort_keys=False) if content else "")
    write_text(f"# @package _global_\n# {about}\n# {use}\n{text}", path)


def _own(settings: dict[str, Any], always: set[str]) -> dict[str, Any]:
    """Return the dotted keys of a run that are not what its choices give by themselves, and those in ``always``."""
    plain = asdict(Settings())
    found = {
        key: value for key, value in settings.items() if key not in OF_THE_COMMAND and (value != plain.get(key) or key in always)
    }
    required = {f"{group}.{key}" for group in CHOSEN for key in _required(group, settings[group]["name"])}
    given = config.flat({group: settings[group] for group in CHOSEN})
    chosen = Settings(**{group: config.build(group, _values(group, settings[group])) for group in CHOSEN})
    settling.settle_normalisation(chosen)
    defaults = config.flat({group: asdict(getattr(chosen, group)) for group in CHOSEN})
    kept = always | required
    return found | {
        key: value for key, value in given.items() if not key.endswith(".name") and (key in kept or value != defaults.get(key))
    }


def _required(group: str, name: str) -> list[str]:
    """Return the settings of a choice that have no default; none of ours, but a plugin's may."""
    return [one.name for one in fields(config.choice(group, name).schema) if one.default == MISSING and one.name != "name"]


def _values(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a choice gives by itself; those of a plugin are all in its schema."""
    name = settings["name"]
    path = config.CONF / group / f"{name}.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    must = {key: settings[key] for key in _required(group, name)}
    return must | {"name": name, **{key: value for key, value in values.items() if key != "defaults"}}


def _nested(dotted: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, leaf = key.split(".")
        inner = out
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return out
