"""What the commands tell a user: every setting there is, and composition errors in the words that were typed."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields

from microlatent.config import CONF, GROUPS, REGISTRY, model_keys, nearest, tasks
from microlatent.overrides import key_of, parse, read, texts
from microlatent.schemas import Settings
from microlatent.schemas.sweeper import GridConfig, StudyConfig


def explain(error: Exception, overrides: list[str], entry: str) -> str:
    """Say a composition error in the user's words: key, value, what is allowed, nearest match."""
    text = str(error)
    cause = str(error.__cause__ or "")
    if typed := _unreadable(overrides):
        one = parse(typed)
        if one is None or one.text is None:
            return f"{typed} is no setting. Settings are written key=value, such as seed=1."
        return (
            f"{typed} cannot be read. A value with brackets, equals signs or letters beyond a-z stands in quotes, those of the "
            f'shell around all of it: "{one.sign}{one.key}=\'{one.text}\'". A list is written so: "{one.key}=[a,b]".'
        )
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Error merging override '?([^'\s=]+)", text):
        key = key_of(match.group(1))
        group, _, leaf = key.partition(".")
        typed = next((o for o in overrides if key_of(o) == key), key)
        if "Error merging" in text or "could not be converted" in cause:
            reason = cause.splitlines()[0] if cause else text
            return f"{typed}: {reason}."
        if group == "model" and leaf in model_keys() and entry != "train":
            return f"{typed} has no effect here: the model comes from run=<folder of a training run>. Leave it out."
        if group in REGISTRY and leaf:
            typed_names = texts(overrides)
            name, data = typed_names.get(group), typed_names.get("data", "wells")
            if group == "task" and data in REGISTRY.get(f"task/{name}", ()):
                chosen = [REGISTRY[f"task/{name}"][data]]
                group = f"task={name} data={data}"
            else:
                chosen = [REGISTRY[group][name]] if name in REGISTRY[group] else list(REGISTRY[group].values())
            known = set().union(*(one.settings for one in chosen))
            having = [f"{group}={other}" for other, one in REGISTRY.get(group, {}).items() if leaf in one.settings]
            if having:
                return f"{typed}: {leaf} is a setting of {', '.join(having)} alone. {nearest(leaf, known)}"
            return f"{typed}: {group} has no setting {leaf!r}. {nearest(leaf, known)}"
        if key.startswith("hydra.sweeper."):
            of_grid, of_study = ({field.name for field in fields(one)} - {"_target_"} for one in (GridConfig, StudyConfig))
            leaf, is_study = key.rpartition(".")[2], texts(overrides).get("hydra/sweeper") == "study"
            if leaf in of_study and not is_study:
                return f"{typed}: {leaf} is a setting of a study. Add hydra/sweeper=study, or leave it out."
            what, known = ("a study", of_study) if is_study else ("a grid", of_grid)
            return f"{typed}: {what} has no setting {leaf!r}. {nearest(leaf, known)}"
        return (
            f"{typed}: there is no setting {key!r}. {nearest(key, {*GROUPS, 'experiment', *(f.name for f in fields(Settings))})}"
        )
    if match := re.search(r"In 'experiment/(\w+)'.*Key '(\w+)' not in '(\w+)'\s+full_key: (\S+)", text, re.DOTALL):
        recipe, key, schema, full_key = match.groups()
        group = full_key.split(".")[0]
        having = [f"{group}={name}" for name, one in REGISTRY.get(group, {}).items() if key in one.settings]
        chosen = next((o for o in overrides if key_of(o) == group), schema)
        return f"experiment={recipe} sets {full_key}, which {chosen} does not have. The recipe is for {', '.join(having)}."
    if match := re.search(r"Could not find '([\w/]+)/([^'/]+)'", text):
        group, name = match.groups()
        if group.startswith("task/"):
            taken = "" if "data" in texts(overrides) else " (which stands where neither data nor run is typed)"
            return f"task={group.removeprefix('task/')} does not know data={name}{taken}. {nearest(name, REGISTRY[group])}"
        allowed = set(REGISTRY.get(group, {})) or {path.stem for path in (CONF / group).glob("*.yaml")}
        own = " A choice of your own needs plugins=[your.module] on the same command line."
        hint = own if group in ("model", "data", "task") else ""
        return f"{group}={name} does not exist. {nearest(name, allowed)}{hint}"
    return text + (f"\n{cause}" if cause and cause not in text else "")


def _unreadable(overrides: list[str]) -> str | None:
    """Return the first override that is not of Hydra's grammar."""
    for override in overrides:
        try:
            read(override)
        except ValueError:
            return override
    return None


def meanings(schema: type) -> dict[str, str]:
    """Return what each setting of a schema means, from the comments beside its fields."""
    source = "".join(inspect.getsource(one) for one in reversed(schema.__mro__[:-1]))
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))


def manual(entry: str) -> str:
    """List every choice and setting of a command, from the schemas themselves."""

    def describe(schema: type, prefix: str) -> list[str]:
        notes, lines = meanings(schema), []
        for one in fields(schema):
            if one.name in (*GROUPS, "_target_") or (prefix and one.name == "name"):
                continue
            value = one.default if one.default_factory is MISSING else one.default_factory()
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")
            lines.append(f"  {prefix + one.name + '=' + str(shown):<38} {notes.get(one.name, '')}".rstrip())
        return lines

    parts = ["Settings (key=default)", "", *describe(Settings, "")]
    for group in GROUPS:
        if group == "model" and entry != "train":
            continue
        chosen = tasks(entry) if group == "task" else REGISTRY[group]
        parts += ["", f"{group}=" + " | ".join(chosen)]
        kinds = [list(REGISTRY.get(f"task/{name}", {name: one}).values()) for name, one in chosen.items()]
        for schema in dict.fromkeys(one.schema for several in kinds for one in several):
            summary = (schema.__doc__ or "").strip().splitlines()[0]
            parts += [f" {summary}", *describe(schema, f"{group}.")]
    parts += ["", "-m key=a,b runs every combination: hydra.sweeper.n_jobs=2 two at a time, hydra/launcher=slurm on a cluster"]
    if entry == "train":
        summary = (StudyConfig.__doc__ or "").splitlines()[0]
        parts += ["-m hydra/sweeper=study", f" {summary}", *describe(StudyConfig, "hydra.sweeper.")]
    return "\n".join(parts)
