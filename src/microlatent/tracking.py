"""Metrics, images, tables and artifacts of a run: W&B when asked, offline by default, never outside the run folder.

The run's own CSV files are written by those who make the numbers; this file adds the dashboard. ``identity.py`` says what the
run is called there, ``scripts/sync.py`` uploads what was logged offline.
"""

from __future__ import annotations

import csv
import logging
import netrc
import os
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from microlatent.identity import artifact_name, identity
from microlatent.record import Record
from microlatent.schemas import LoggerConfig, Settings

logger = logging.getLogger(__name__)
CLOCK_COLUMNS = ("seconds", "patches_per_s")  # differ between identical runs
PER_EPOCH = ("train_*", "val_*", "lr", "step", *CLOCK_COLUMNS)
PLACES = "places.txt"  # where the run folder was when it logged: W&B knows staged artifacts by that path (scripts/sync.py)
STAGED = Path("wandb", "data", "artifacts", "staging")
MOST_ROWS = 1000  # of a table in W&B; the whole is in the run folder
QUIET = {"x_disable_stats": True, "console": "off", "disable_git": True, "save_code": False}


class NullTracker:
    """Take everything and keep nothing: ``logger=csv``, and all processes of torchrun but the first."""

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Add scalars at a step."""

    def summarise(self, numbers: dict[str, float]) -> None:
        """Set numbers that runs are compared by, as far as they are known."""

    def image(self, name: str, path: Path) -> None:
        """Add a figure."""

    def table(self, name: str, table: Any) -> None:
        """Add a pandas table."""

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """Add a file under a kind such as model or latents."""

    def finish(self, numbers: dict[str, float]) -> None:
        """Add the final numbers."""

    def close(self) -> None:
        """End the run."""


class Tracker(NullTracker):
    """One W&B run whose files all lie in the run folder.

    Parameters
    ----------
    config
        ``logger.mode=online`` uploads as it goes when there is a key; else ``make sync`` does so later.
    folder
        The run folder.
    settings
        Shown as the run's configuration; group, job type, name and tags follow from it.
    resumed
        Continue under the id of the interrupted run.
    """

    def __init__(self, config: LoggerConfig, folder: Path, settings: Settings, *, resumed: bool = False) -> None:
        self.run = None
        if config.name == "csv":
            return
        home = folder / "wandb"
        home.mkdir(exist_ok=True)
        # Artifacts are staged and logs written below these; by default that is HOME, and a copied run would sync without them.
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ[variable] = str(home / variable.split("_")[1].lower())
        os.environ["WANDB_SILENT"] = "true"
        with open(home / PLACES, "a") as file:
            file.write(f"{folder}\n")
        import wandb

        self.wandb, self.folder, self.started = wandb, folder, time.perf_counter()
        mode = self._mode(config)
        if mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # or it looks its host up in spite of offline
        options: dict[str, Any] = {
            **identity(settings, folder),
            "dir": str(folder),
            "reinit": "finish_previous",
            "id": self._id(home, resumed=resumed),
            "resume": "allow" if mode == "online" else None,
        }
        try:
            self.run = wandb.init(mode=mode, settings=wandb.Settings(init_timeout=config.timeout_s, **QUIET), **options)
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            logger.warning(
                "W&B cannot be reached within %.0f s (%s). Logging offline; upload later with: make sync", config.timeout_s, error
            )
            os.environ["WANDB_ERROR_REPORTING"] = "false"
            options |= {"resume": None, "id": self._id(home, resumed=False)}  # the failed attempt keeps its id in use
            self.run = wandb.init(mode="offline", settings=wandb.Settings(**QUIET), **options)
        parent = options["config"].get("parent") or {}
        self.parent = {key: parent[key] for key in ("folder", "id")} if parent else None
        if settings.task.name == "train":
            # W&B would show the last epoch's values as the run's. Ours are the best epoch's, set by summarise and finish.
            self.run.define_metric("epoch", summary="none")
            for name in PER_EPOCH:
                self.run.define_metric(name, step_metric="epoch", summary="none")

    @staticmethod
    def _mode(config: LoggerConfig) -> str:
        if config.mode == "online" and not has_key():
            logger.warning("logger.mode=online, but there is no W&B key (wandb login, or WANDB_API_KEY). Logging offline.")
            return "offline"
        return config.mode

    @staticmethod
    def _id(home: Path, *, resumed: bool) -> str:
        path = home / "run_id.txt"
        if not (resumed and path.is_file()):
            path.write_text(uuid.uuid4().hex[:8])
        return path.read_text().strip()

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Add scalars at an optimiser step."""
        if self.run is not None:
            self.run.log(values, step=step)

    def summarise(self, numbers: dict[str, float]) -> None:
        """Set numbers of the summary: a run that is stopped or pruned has those of its best epoch so far."""
        if self.run is not None:
            self.run.summary.update(numbers)

    def image(self, name: str, path: Path) -> None:
        """Add a figure from its file, under ``figures/``; one name in all runs puts them side by side."""
        if self.run is not None:
            # A dot would begin a level of its own in the summary.
            self.run.log({f"figures/{name.replace('.', '_')}": self.wandb.Image(str(path), caption=path.stem)})

    def table(self, name: str, table: Any) -> None:
        """Add the first rows of a pandas table, under ``tables/``; text columns stay text."""
        if self.run is not None:
            head = table.head(MOST_ROWS).astype(object).rename(columns=str)  # W&B sorts the names, and 0 is not less than "well"
            self.run.log({f"tables/{name.replace('.', '_')}": self.wandb.Table(dataframe=head.where(head.notna(), None))})

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """Add a file with its kind (model, latents, table), its folder, and the run that it stands on."""
        if self.run is not None:
            about = {"folder": str(self.folder), "run": self.run.id, "parent": self.parent}
            artifact = self.wandb.Artifact(artifact_name(self.folder, name), type=kind, metadata=about)
            artifact.add_file(str(path))
            self.run.log_artifact(artifact)

    def finish(self, numbers: dict[str, float]) -> None:
        """Write the final numbers, and the seconds of a task that does not count its own."""
        self.summarise({"seconds": round(time.perf_counter() - self.started, 1)} | numbers if self.run is not None else numbers)

    def close(self) -> None:
        """End the run as its status says, and wait for its files."""
        if self.run is not None:
            state = Record(self.folder).state
            self.summarise({"state": state})
            self.run.finish(exit_code=int(state in ("failed", "interrupted")))
            self.run = None


def has_key() -> bool:
    """Return whether there is a key for the W&B host in use: in the environment, or left by ``wandb login``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    own = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return own in hosts if own else any("wandb" in host or "coreweave" in host for host in hosts)


def differing_history(first: Path, second: Path) -> str | None:
    """Return the first difference between two histories, apart from the clock, or None."""
    tables = []
    for path in (first, second):
        with open(path) as file:
            tables.append([{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in csv.DictReader(file)])
    if len(tables[0]) != len(tables[1]):
        return f"{len(tables[0])} and {len(tables[1])} epochs"
    for one, other in zip(*tables, strict=True):
        for key in one:
            if one[key] != other.get(key):
                return f"epoch {one.get('epoch')}, {key}: {one[key]} and {other.get(key)}"
    return None
