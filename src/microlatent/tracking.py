"""Metrics, images, tables and artifacts of a run: W&B when asked, offline by default, never outside the run folder.

The run's own CSV files are written by those who make the numbers; this file adds the dashboard.
"""

from __future__ import annotations

import csv
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from microlatent.schemas import LoggerConfig, Settings

logger = logging.getLogger(__name__)
CLOCK_COLUMNS = ("seconds", "patches_per_s")  # differ between identical runs


class NullTracker:
    """Take everything and keep nothing: ``logger=csv``, and all processes of torchrun but the first."""

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Add scalars at a step."""

    def image(self, name: str, path: Path) -> None:
        """Add a figure."""

    def table(self, name: str, table: Any) -> None:
        """Add a pandas table."""

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """Add a file under a kind such as model or latents."""

    def finish(self, numbers: dict[str, float]) -> None:
        """Add the summary."""

    def close(self) -> None:
        """End the run."""


class Tracker(NullTracker):
    """One W&B run whose files all lie in the run folder.

    Parameters
    ----------
    config
        ``logger.mode=online`` uploads as it goes when there is a key; else ``wandb sync <run>/wandb/offline-*`` does so later.
    folder
        The run folder.
    settings
        Shown as the run's configuration; group, job type and tags follow from it.
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
        import wandb

        self.wandb = wandb
        mode = self._mode(config)
        if mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # or it looks its host up in spite of offline
        names = [getattr(settings, group).name for group in ("model", "data", "trainer") if getattr(settings, group) is not None]
        from microlatent.config import plain

        options: dict[str, Any] = {
            "project": config.project,
            "entity": config.entity,
            "group": config.group or (Path(settings.run).parent.name if settings.run else folder.parent.name),
            "job_type": settings.task.name,
            "name": f"{folder.parent.name}/{folder.name}",
            "tags": [*names, *config.tags],
            "config": plain(settings),
            "dir": str(folder),
            "reinit": "finish_previous",
            "id": self._id(home, resumed=resumed),
            "resume": "allow" if mode == "online" else None,
        }
        quiet = {"x_disable_stats": True, "console": "off", "disable_git": True, "save_code": False}
        try:
            self.run = wandb.init(mode=mode, settings=wandb.Settings(init_timeout=config.timeout_s, **quiet), **options)
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            logger.warning(
                "W&B cannot be reached within %.0f s (%s). Logging offline; upload later with: wandb sync <run>/wandb/offline-*",
                config.timeout_s,
                error,
            )
            os.environ["WANDB_ERROR_REPORTING"] = "false"
            options |= {"resume": None, "id": self._id(home, resumed=False)}  # the failed attempt keeps its id in use
            self.run = wandb.init(mode="offline", settings=wandb.Settings(**quiet), **options)

    @staticmethod
    def _mode(config: LoggerConfig) -> str:
        if config.mode == "online" and not _has_key():
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

    def image(self, name: str, path: Path) -> None:
        """Add a figure from its file."""
        if self.run is not None:
            self.run.log({name: self.wandb.Image(str(path))})

    def table(self, name: str, table: Any) -> None:
        """Add a pandas table; text columns stay text."""
        if self.run is not None:
            self.run.log(
                {name: self.wandb.Table(dataframe=table.head(1000).astype(object).where(table.head(1000).notna(), None))}
            )

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """Add a file with its kind: model, latents, table."""
        if self.run is not None:
            artifact = self.wandb.Artifact(f"{self.run.group}-{name}".replace("/", "-"), type=kind)
            artifact.add_file(str(path))
            self.run.log_artifact(artifact)

    def finish(self, numbers: dict[str, float]) -> None:
        """Write the summary numbers."""
        if self.run is not None:
            self.run.summary.update(numbers)

    def close(self) -> None:
        """End the run and wait for its files."""
        if self.run is not None:
            self.run.finish()
            self.run = None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host or "coreweave" in host for host in hosts)


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
