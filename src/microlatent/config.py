"""The registry of choices: what there is of every group, and what each task says of itself.

A choice of a group is a name with a schema (a dataclass that holds every setting) and a target (``module:attribute``, imported
only when it is used). Where ``conf/<group>/<choice>.yaml`` exists it holds values that differ from the schema's defaults.
``settling.py`` checks what was typed against all this. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from microlatent import schemas
from microlatent.contract import CAPABILITIES
from microlatent.schemas import Settings
from microlatent.schemas.checks import MISSING, nearest
from microlatent.schemas.sweeper import GridConfig, StudyConfig

CONF = next(path for up in (0, 2) for path in [Path(__file__).parents[up] / "conf"] if path.is_dir())  # of a wheel; of a checkout
GROUPS = ("model", "data", "task", "trainer", "logger")
SYSTEMS = ("wells", "partitions", "mnist", "kikuchi", "plates")  # each a folder below systems/ that registers what it has
ENTRIES = ("train", "infer", "analyze")
NEEDS = (
    "root",  # raw files: data.root
    "data",  # assembled stores, or raw files that they are known by: data.store or data.root
    "run",  # a trained run
    "runs",  # runs to be told apart: task.runs
)
# Settings that shared code reads, and what they are for a kind of data whose schema does not have them.
OPTIONAL = {
    "root": None,
    "store": None,
    "test_share": 0.0,
    "arcsinh_cofactor": None,
    "clip_percentile": None,
    "pixel_um": None,
}


@dataclass
class Choice:
    """One name of a group: its schema, where the code that takes it stands, and what a task says of itself (``register``)."""

    name: str
    schema: type
    target: str | None = None
    entry: str = ""
    specimens: str | None = None
    normaliser: str = "microlatent.data.normalise:Normaliser"
    data: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    title: str = ""
    order: int = 100
    section: str | None = None

    def __post_init__(self) -> None:
        self.title = self.title or self.name.replace("_", " ").capitalize()
        for what, words, allowed in (("needs", self.needs, NEEDS), ("wants", self.wants, CAPABILITIES)):
            for word in words:
                if word not in allowed:
                    raise ValueError(f"{self.name} is registered with {what}={words}. {nearest(word, allowed)}")

    @property
    def reviews(self) -> bool:
        """Whether a task reads what runs left behind, and no data."""
        return self.data == ()

    @property
    def settings(self) -> set[str]:
        """The names of its settings."""
        return {field.name for field in fields(self.schema)}

    def load(self) -> Any:
        """Import and return the target."""
        return load(self.target)


def load(target: str | None) -> Any:
    """Import ``module`` or ``module:attribute``."""
    assert target is not None
    module, _, attribute = target.partition(":")
    found = _imported(module, f"what is registered as {target}")
    return getattr(found, attribute) if attribute else found


def _imported(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise  # the module is there, but something that it imports is not
        raise ValueError(
            f"{what} names {module!r}, but there is no such module. It must be importable: put its folder on PYTHONPATH, "
            "or install it into this environment."
        ) from error


REGISTRY: dict[str, dict[str, Choice]] = {group: {} for group in GROUPS}


def register(
    group: str, name: str, schema: type, target: str | None = None, entry: str = "", *, by_data: bool = False, **declared: Any
) -> None:
    """Add a choice to a group; a plugin calls this at import.

    Parameters
    ----------
    group
        model, data, task, trainer or logger; task/assemble (task/maps, task/cluster) for what that task does with the data of
        that name, which takes over whatever it does not declare itself.
    name
        What a user types: ``<group>=<name>``.
    schema
        Dataclass with a field ``name``; its defaults are the choice's values.
    target
        ``module:attribute`` of the model class or data source, ``module`` of a task (with ``run`` and ``preflight``).
    entry
        Of a task: ``train``, ``infer`` or ``analyze``, the command that it belongs to.
    by_data
        The task is another one for each kind of data: the group task/<name> is there for those that have their own. The others
        take this one, unless it has no target.
    declared
        ``specimens``: of data, a module whose ``SPECIMENS`` hold functions that simulate raw files in a folder, by the value of
        ``data.root``; ``normaliser``, the class that its checkpoints keep. All others are of a task. ``data``: the kinds of
        data that it is for; default: every kind; ``()``: it reviews what runs left behind and reads no data. ``needs``: words
        of ``NEEDS``, without which it is refused. ``wants``: what the run's model must be able to do
        (``contract.CAPABILITIES``). ``title``: its heading in a report. ``order``: its place in lists, after smaller numbers.
        ``section``: ``module:function`` of its part of a report, ``function(folder, album) -> (blocks, names of the tables
        and figures that they show)``.

    Raises
    ------
    ValueError
        There is no such group, or the declaration has a word that means nothing.
    """
    if group not in REGISTRY:
        raise ValueError(f"{group!r} is no config group. {nearest(group, REGISTRY)}")
    if task := group.partition("/")[2]:
        given = {"schema": schema, "target": target, **({"entry": entry} if entry else {}), **declared}
        _store(group, name, replace(REGISTRY["task"][task], **given))
        return
    if group == "task" and entry not in ENTRIES:
        raise ValueError(f"task={name} is registered for the command {entry!r}. {nearest(entry, ENTRIES)}")
    one = Choice(name, schema, target, entry, **declared)
    if by_data:
        REGISTRY[f"task/{name}"] = {}
    _store(group, name, one)
    for task, shared in REGISTRY["task"].items():  # every kind of data has those that are for all, whichever came first
        if shared.target and (kinds := REGISTRY.get(f"task/{task}")) is not None:
            for kind in [one for one in REGISTRY["data"] if one not in kinds]:
                _store(f"task/{task}", kind, shared)


def _store(group: str, name: str, one: Choice) -> None:
    """Put a choice where the code finds it, and where Hydra does."""
    REGISTRY[group][name] = one
    key, node = name, OmegaConf.structured(one.schema)
    if f"{group}/{name}" in REGISTRY:
        node = {"defaults": [{f"{name}@_here_": "${data}"}, "_self_"], "name": name}
    elif (CONF / group / f"{name}.yaml").is_file():
        key = one.schema.__name__  # the file begins with it
    elif group in GROUPS:  # else the task has the name
        node.name = name
    ConfigStore.instance().store(group=group, name=key, node=node)


def load_plugins(modules: list[str]) -> None:
    """Import the user's modules, which register their choices."""
    for module in modules:
        _imported(module, "plugins")


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
    """Look a task up by name; what some are depends on the data.

    Raises
    ------
    ValueError
        There is no such task, or it is not for this kind of data.
    """
    one = choice("task", name)
    if f"task/{name}" not in REGISTRY:
        return one
    kinds = REGISTRY[f"task/{name}"]
    if data not in kinds:
        raise ValueError(f"task={name} does not know data={data}. {nearest(str(data), kinds)}")
    return kinds[str(data)]


def tasks(entry: str | None = None, data: str | None = None) -> dict[str, Choice]:
    """Return the tasks of a command that are for a kind of data, in their order; of any command or any kind where not given.

    Of one that is another for each kind of data, ``data`` gives what it is for that kind.
    """
    found = {}
    for name, one in sorted(REGISTRY["task"].items(), key=lambda item: item[1].order):
        kinds = REGISTRY.get(f"task/{name}")
        fits = data is None or (data in kinds if kinds is not None else one.data is None or data in one.data)
        if fits and entry in (None, one.entry):
            found[name] = kinds[data] if kinds is not None and data is not None else one
    return found


def build(group: str, values: dict[str, Any], data: str | None = None) -> Any:
    """Turn the values of one group into its dataclass, refusing unknown and missing keys; a task may depend on the data."""
    if values.get("name") in (None, MISSING):
        raise ValueError(f"{group} has no name. Choose one: {', '.join(f'{group}={name}' for name in sorted(REGISTRY[group]))}.")
    one = task_choice(values["name"], data) if group == "task" else choice(group, values["name"])
    for key, value in values.items():
        if key not in one.settings:
            raise ValueError(f"{group}.{key}={value} is no setting of {group}={values['name']}. {nearest(key, one.settings)}")
        if value == MISSING:
            raise ValueError(f"{group}.{key} must be given for {group}={values['name']}: add {group}.{key}=... to the command.")
    absent = OPTIONAL.keys() - one.settings if group == "data" else ()
    # Class attributes are no fields: config.yaml does not hold them, and a copy by dataclasses.replace still has them.
    schema = type(one.schema.__name__, (one.schema,), {key: OPTIONAL[key] for key in absent}) if absent else one.schema
    return schema(**values)


def plain(settings: Settings) -> dict[str, Any]:
    """Return settings as nested plain containers, as config.yaml and checkpoints hold them."""
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


def model_keys() -> set[str]:
    """Return the settings that any model has."""
    return set().union(*(one.settings for one in REGISTRY["model"].values()))


for _name in ("cpu", "gpu", "smoke"):
    register("trainer", _name, schemas.TrainerConfig)
for _name in ("wandb", "csv"):
    register("logger", _name, schemas.LoggerConfig)
ConfigStore.instance().store(name="Settings", node=Settings)
for _schema in (GridConfig, StudyConfig):
    ConfigStore.instance().store(group="hydra/sweeper", name=_schema.__name__, node=_schema)
for _name in ("models", "tasks", *(f"systems.{system}" for system in SYSTEMS)):
    import_module(f"microlatent.{_name}")  # they register what they have
