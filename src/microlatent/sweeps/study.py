"""A study in its storage: opened by the sweep that asks for trials, and by each trial that reports its epochs.

``sweep.yaml`` describes a study under ``study``, so that a trial finds it from its run folder; the storage holds its trials, and
several processes may use it at once.
"""

from __future__ import annotations

import binascii
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from microlatent.schemas.sweeper import StudyConfig
from microlatent.sweeps import sweep

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
LOCKED_S = 60.0  # a storage that is busy for longer than this is broken
PROCESS = "process "  # user_attrs of a study that begin so are the processes that have joined it
REDUCTION = 3  # hyperband: one in three goes on

Result = TypeVar("Result")


def describe(config: StudyConfig, epochs: int) -> dict[str, Any]:
    """Return what ``sweep.yaml`` says about a study; the name and the storage may still be left to the sweep's folder.

    Parameters
    ----------
    epochs
        The longest that a trial trains.
    """
    return {
        "name": config.study_name,
        "storage": None if config.storage is None else whole_url(config.storage),
        "objectives": config.objectives,
        "sampler": config.sampler,
        "pruner": "none" if cannot_prune(config.objectives) else config.pruner,
        "startup_trials": config.startup_trials,
        "warmup_epochs": config.warmup_epochs,
        "epochs": epochs,
    }


def cannot_prune(objectives: dict[str, str]) -> str | None:
    """Return why trials with these objectives cannot be judged before their end, or None where they can."""
    if len(objectives) > 1:
        return "Optuna cannot prune a study of several objectives"
    (objective,) = objectives
    if objective != "best_score" and not objective.startswith(("best_val_", "best_train_")):
        return f"{objective} is known at the end of a run alone; best_score and best_val_<term> are known after each epoch"
    return None


def whole_url(storage: str) -> str:
    """Return where a storage is, independent of the current folder.

    Raises
    ------
    ValueError
        It would vanish with this process.
    """
    scheme, separator, rest = storage.partition("://")
    if not separator or scheme == "journal":
        return "journal:///" + str(Path(rest[1:] if separator else storage).absolute()).lstrip("/")
    if scheme.startswith("sqlite"):
        if rest.strip("/") in ("", ":memory:"):
            raise ValueError(
                f"hydra.sweeper.storage={storage} is the memory of this process, which its trials cannot reach. Name a file: "
                "sqlite:////<folder>/study.db, or leave it out."
            )
        return f"{scheme}:////{str(Path(rest[1:]).absolute()).lstrip('/')}"
    return storage


def open_storage(url: str) -> Any:
    """Open a journal file or a database.

    Raises
    ------
    ValueError
        The database is of no known kind, or does not answer.
    """
    if url.startswith("journal:"):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path = Path("/" + url.removeprefix("journal:///").lstrip("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    import sqlalchemy
    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage

    # No connection is kept between two requests: trials are forks of this process and must not inherit one.
    options: dict[str, Any] = {"poolclass": sqlalchemy.pool.NullPool}
    if url.startswith("sqlite"):
        Path(url.partition(":///")[2]).parent.mkdir(parents=True, exist_ok=True)
        options["connect_args"] = {"timeout": LOCKED_S}
    for attempts_left in (2, 1, 0):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, OptunaError) as error:
            if not attempts_left:
                raise ValueError(
                    f"hydra.sweeper.storage={url} cannot be opened ({str(error).splitlines()[0]}). Expected a path for a journal "
                    "file, or a database that runs and whose driver is installed, such as sqlite:////<folder>/study.db."
                ) from error
        time.sleep(0.3)  # another process may be making the tables


def make_sampler(description: dict[str, Any], seed: int | None) -> optuna.samplers.BaseSampler:
    """Return what chooses the next trial's values."""
    from optuna import samplers

    startup = description["startup_trials"]
    if description["sampler"] == "random":
        return samplers.RandomSampler(seed=seed)
    if description["sampler"] == "nsga2":
        return samplers.NSGAIISampler(population_size=startup, seed=seed)
    return samplers.TPESampler(n_startup_trials=startup, seed=seed)


def make_pruner(description: dict[str, Any]) -> optuna.pruners.BasePruner:
    """Return what stops trials early; the same in every process, so that hyperband's brackets are."""
    from optuna import pruners

    startup, warmup = description["startup_trials"], description["warmup_epochs"]
    if description["pruner"] == "median":
        return pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    if description["pruner"] == "hyperband":
        most = max(warmup, description["epochs"])
        return pruners.HyperbandPruner(min_resource=warmup, max_resource=most, reduction_factor=REDUCTION)
    return pruners.NopPruner()


class OpenStudy:
    """A study and its trials, by number.

    Parameters
    ----------
    description
        As ``sweep.yaml`` holds it.
    folder
        The sweep's; the journal is there unless the description names another storage.
    create
        Make the study where it does not exist.
    """

    def __init__(self, description: dict[str, Any], folder: Path, *, create: bool = False) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.description, self.objectives = description, dict(description["objectives"])
        url = description["storage"] or whole_url(str(folder / JOURNAL))
        self.storage = open_storage(url)
        options = {
            "study_name": description["name"],
            "storage": self.storage,
            "pruner": make_pruner(description),
        }
        if create:
            self.study = optuna.create_study(**options, directions=list(self.objectives.values()), load_if_exists=True)
            self._agree_on_objectives(url)
        else:
            self.study = optuna.load_study(**options)
        self.id = self.storage.get_study_id_from_name(description["name"])

    def _agree_on_objectives(self, url: str) -> None:
        if self.study.user_attrs.get("objectives", self.objectives) != self.objectives:
            raise ValueError(
                f"study {self.study.study_name} in {url} has the objectives {self.study.user_attrs['objectives']}, but "
                f"hydra.sweeper.objectives is {self.objectives}. Leave it out to join that study, or name another: "
                "hydra.sweeper.study_name=<new name>."
            )
        if "objectives" not in self.study.user_attrs:
            self.study.set_user_attr("objectives", self.objectives)

    def trial(self, number: int) -> optuna.trial.FrozenTrial:
        """Return a trial as it is now."""
        return self.storage.get_trial(self._id_of(number))

    def annotate(self, number: int, **facts: Any) -> None:
        """Add facts to a running trial."""
        for key, value in facts.items():
            self.storage.set_trial_user_attr(self._id_of(number), key, value)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Add what a running trial has reached by the end of an epoch."""
        self.storage.set_trial_intermediate_value(self._id_of(number), epoch, value)

    def _id_of(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.id, number)


def agree(folder: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Write the description into ``sweep.yaml``, with the name that the study has or gets there, and return it.

    How it samples and prunes may change when a study goes on, what it is may not.

    Raises
    ------
    ValueError
        The study of this folder has another name or another storage.
    """
    with sweep.lock(folder):
        plan = sweep.read_plan(folder)
        there = plan.study or description
        for key, option in (("name", "study_name"), ("storage", "storage")):
            if description[key] not in (None, there[key]):
                raise ValueError(
                    f"hydra.sweeper.{option}={description[key]}, but the study of {folder} has {there[key] or 'its own'}. Leave "
                    "it out to go on with that study, or leave resume and hydra.sweep.dir out to begin another."
                )
        plan.study = description | {"name": there["name"] or folder.name, "storage": there["storage"]}
        plan.write()
    return plan.study


def join(description: dict[str, Any], folder: Path, seed: int | None) -> OpenStudy:
    """Open a study to run trials of it, making it where it does not exist.

    A process that is alone draws as the seed says; every other that joins draws from a random stream of its own, so that two do
    not try the same values.
    """
    opened = OpenStudy(description, folder, create=True)
    key = f"{PROCESS}{uuid.uuid4().hex}"  # databases return keys in no certain order, so the first of many is not known
    patiently(lambda: opened.study.set_user_attr(key, socket.gethostname()))
    signed = [name for name in patiently(lambda: opened.study.user_attrs) if name.startswith(PROCESS)]
    stream = 0 if signed == [key] else binascii.crc32(key.encode())
    opened.study.sampler = make_sampler(description, None if seed is None else (seed + stream) % 2**32)
    return opened


def patiently(action: Callable[[], Result]) -> Result:
    """Do something with a storage, again and again while it is locked, for a minute."""
    from optuna.exceptions import StorageInternalError

    until, pause_s = time.monotonic() + LOCKED_S, 0.05
    while True:
        try:
            return action()
        except (StorageInternalError, OSError):
            if time.monotonic() > until:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)
