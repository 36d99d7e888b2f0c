"""A command that is being composed: its overrides, its settings as Hydra composes them, and what is wrong with it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from microlatent import config, manual
from microlatent.menu import pipelines
from microlatent.overrides import key_of, quoted, read, several, texts
from microlatent.schemas import Settings

ROOT = config.CONF.parent
GENERAL = "general"
CHOSEN = ("check", "resume", "rerun", *config.GROUPS)  # of Settings; the menu asks for these in other ways


class Row(NamedTuple):
    """One setting: its section, its key as typed, its value now, its meaning and its type."""

    section: str
    key: str
    value: Any
    meaning: str
    kind: str
    is_typed: bool = False  # the value is text as it was typed: that of a sweep

    @property
    def text(self) -> str:
        """The value as it is typed."""
        return self.value if self.is_typed else quoted(self.value)


@dataclass
class Draft:
    """A command before it runs.

    Parameters
    ----------
    entry
        train, infer or analyze.
    fixed
        Overrides that the choice of a step, recipe or run gave.
    changes
        Value by key, as typed; several values make a sweep.
    """

    entry: str
    fixed: list[str] = field(default_factory=list)
    changes: dict[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """Everything that is typed after the command's name."""
        kept = [one for one in self.fixed if key_of(one) not in self.changes]
        return [*kept, *(f"{key}={value}" for key, value in self.changes.items())]

    @property
    def is_sweep(self) -> bool:
        """Whether the command needs -m: several values, a search, or jobs that a launcher takes elsewhere."""
        return any(key.startswith("hydra/") for key in self.changes) or any(map(several, self.overrides))

    @property
    def is_study(self) -> bool:
        """Whether the values are searched by a study, rather than combined."""
        return self.changes.get("hydra/sweeper") == "study"

    @property
    def goes_on(self) -> bool:
        """Whether it continues something, which stays as it was asked for."""
        return "resume" in texts(self.fixed)

    def command(self, *more: str) -> list[str]:
        """Return the command as a list of words, with this interpreter."""
        return [interpreter(), nearby(ROOT / f"{self.entry}.py"), *(["-m"] if self.is_sweep else []), *self.overrides, *more]

    def problems(self) -> list[str]:
        """Say what the command would refuse before it reads any data; of a sweep for each value."""
        found = []
        for overrides in [] if self.goes_on else self.variants():
            try:
                settle(self.entry, overrides)
            except Refused as refusal:
                found.append(str(refusal))
        return list(dict.fromkeys(found)) or ([] if self.goes_on else self._refused_sweep())

    def _refused_sweep(self) -> list[str]:
        """Say what the sweeper would refuse: a grid intervals; a study its own settings, ranges, or that nothing is searched."""
        if not self.is_sweep:
            return []
        from microlatent.schemas.sweeper import StudyConfig
        from microlatent.sweeps import search_space, sweeper

        _, swept = sweeper.split(self.overrides, None, {})
        first = self.variants()[0]
        try:
            if self.is_study:
                StudyConfig(**composed(self.entry, tuple(first), whole=True).hydra.sweeper)
                search_space.distributions(swept, config.flat(config.plain(settle(self.entry, first))))
            else:
                sweeper.grid([], [one for one in swept if not one.is_discrete_sweep()])
        except ValueError as error:
            return [str(error)]
        return []

    def variants(self) -> list[list[str]]:
        """Return overrides that show every value of a sweep once, the others at their first: all combinations may be many."""
        values = {override: several(override) or [override] for override in self.overrides}
        first = {override: options[0] for override, options in values.items()}
        out = [list(first.values())]
        for override, options in values.items():
            out += [list((first | {override: option}).values()) for option in options[1:]]
        return out

    def change(self, key: str, text: str) -> None:
        """Take a value as typed; an empty text takes the change back. What Hydra's grammar cannot read is put in quotes.

        Raises
        ------
        Refused
            The command would refuse it. What was wrong before the change is no reason.
        """
        try:
            read(f"{key}={text}")
        except ValueError:
            text = quoted(text)
        after = {one: value for one, value in self.changes.items() if one != key}
        # The settings of the choice before mean nothing for the new one.
        if key in (*config.GROUPS, "hydra/launcher", "hydra/sweeper"):
            prefix = f"{key.replace('/', '.')}."
            after = {one: value for one, value in after.items() if not one.startswith(prefix)}
        after |= {key: text} if text else {}
        if text and key != "hydra/sweeper":  # a study may be chosen before there is anything to search
            known = self.problems()
            if found := [one for one in Draft(self.entry, self.fixed, after).problems() if one not in known]:
                raise Refused(found[0])
        self.changes = after

    def rows(self) -> list[Row]:
        """Return every setting with its value now; of a sweep what is typed where several values are."""
        values = settings_of(self.entry, self.variants()[0])
        typed = texts(one for one in self.overrides if several(one))
        rows = [row(GENERAL, one, one.name, values, typed) for one in fields(Settings) if one.name not in CHOSEN]
        for group in config.GROUPS:
            inside = values.get(group)
            if not inside:
                continue
            schema = config.choice(group, inside["name"]).schema if group != "task" else task_schema(inside, values)
            for one in fields(schema):
                key = group if one.name == "name" else f"{group}.{one.name}"
                if one.name in inside and (group != "task" or one.name != "name"):
                    rows.append(row(group, one, key, inside, typed, schema))
        return rows

    def hydra_rows(self, group: str) -> list[Row]:
        """Return the settings of the launcher or sweeper that stands, with their values now."""
        from omegaconf import OmegaConf

        name = self.changes.get(f"hydra/{group}", pipelines.USUAL[group])
        node = composed(self.entry, tuple(self.variants()[0]), whole=True).hydra[group]
        values, kind = OmegaConf.to_container(node, resolve=False), f"as hydra/{group}={name} takes it"
        meanings = pipelines.hydra_settings(group, name)
        return [Row("hydra", f"hydra.{group}.{key}", values.get(key), meanings[key], kind) for key in meanings]


def row(section: str, one: Any, key: str, values: dict[str, Any], typed: dict[str, str], schema: type = Settings) -> Row:
    """Describe one setting of a schema."""
    choices = " | ".join(config.REGISTRY[section]) if one.name == "name" and section != GENERAL else ""
    kind = choices or str(one.type).replace("None", "null")
    meaning = "" if choices else manual.meanings(schema).get(one.name, "")
    return Row(section, key, typed.get(key, values.get(one.name)), meaning, kind, key in typed)


def task_schema(task: dict[str, Any], values: dict[str, Any]) -> type:
    """Return the schema of a task; some depend on the data."""
    return config.task_choice(task["name"], (values.get("data") or {}).get("name")).schema


def like(run_config: dict[str, Any]) -> list[str]:
    """Return overrides that give the model of a trained run: its name, and what differs from that name's defaults."""
    model = run_config["model"]
    name = [f"model={model['name']}"]
    defaults = settings_of("train", name)["model"]
    return name + [f"model.{key}={quoted(value)}" for key, value in model.items() if defaults.get(key) != value]


# ------------------------------------------------------------------------------------------------------ composition


class Refused(ValueError):
    """What a command would answer to its arguments."""


def settle(entry: str, overrides: list[str]) -> Any:
    """Return checked settings, as the command itself makes them.

    Raises
    ------
    Refused
        A key, a value or a combination makes no sense.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from microlatent import settling

    try:
        return settling.settled(entry, composed(entry, tuple(overrides)).copy(), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(manual.explain(error, overrides, entry)) from error
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from error


@lru_cache(maxsize=64)
def composed(entry: str, overrides: tuple[str, ...], *, whole: bool = False) -> Any:
    """Compose a configuration as the command does, ``whole`` with Hydra's own part; it takes a third of a second."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose(entry, list(overrides), return_hydra_config=whole)


def settings_of(entry: str, overrides: list[str]) -> dict[str, Any]:
    """Return the settings as plain values; those that were composed where something is still missing."""
    from omegaconf import OmegaConf

    try:
        return config.plain(settle(entry, overrides))
    except Refused:
        return OmegaConf.to_container(composed(entry, tuple(overrides)), resolve=True)


# ---------------------------------------------------------------------------------------------------------- writing


def interpreter() -> str:
    """Return how this Python is called: ``python`` where that is this one, else its path."""
    found = shutil.which("python")
    if found and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    return nearby(Path(sys.executable))


def nearby(path: Path) -> str:
    """Return a path as it is typed from here: relative where it lies below, else whole."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def shown(words: list[str]) -> str:
    """Return a command as one would type it into a shell."""
    return shlex.join(words)
