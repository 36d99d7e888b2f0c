"""What a run is called in W&B: its group, job type, name, tags and configuration, and the run that it stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microlatent import run
from microlatent.config import plain
from microlatent.record import Record
from microlatent.schemas import Settings
from microlatent.sweeps import sweep

LONGEST_TAG = 64  # characters; W&B refuses longer ones


def identity(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the arguments of ``wandb.init`` that say what a run is.

    A sweep is one group, and what was made from its runs belongs to it; elsewhere the experiment is the group. A task has the
    model of its run in its configuration and its tags, so that probe scores can be grouped by latent dimensions as losses can.
    """
    own = folder if sweep.of_job(folder) or not settings.run else Path(settings.run)
    within, task, parent = sweep.of_job(own), settings.task.name, parent_run(settings)
    config = plain(settings)
    if settings.run:
        config["model"] = run.read_config(Path(settings.run))["model"]
    if parent is not None:
        config["parent"] = parent
    name = sweep.label(own) or f"{own.parent.name}/{own.name}"
    tags = [(config[group] or {}).get("name") for group in ("model", "data", "trainer")]
    if within is not None:
        tags += [within.name, "study" if sweep.read_plan(within).study else None]
    return {
        "project": settings.logger.project,
        "entity": settings.logger.entity,
        "group": settings.logger.group or own.parent.name,
        "job_type": task,
        "name": name if own == folder else f"{name}: {task}",
        "tags": list(dict.fromkeys(tag[:LONGEST_TAG] for tag in [*tags, *settings.logger.tags] if tag)),
        "config": config,
    }


def parent_run(settings: Settings) -> dict[str, Any] | None:
    """Return the run that a command stands on: its folder, W&B id, seed, loop and final numbers; None where there is none.

    Artifacts cannot be linked to the run that made them without a network, so the run is named in them and in the configuration.
    """
    folder = Path(settings.run) if settings.run else origin(settings.init_from)
    if folder is None:
        return None
    config, id_file = run.read_config(folder), folder / "wandb" / "run_id.txt"
    return {
        "folder": str(folder),
        "id": id_file.read_text().strip() if id_file.is_file() else None,
        "seed": config["seed"],
        "trainer": config["trainer"],
        "metrics": Record(folder).metrics,
    }


def origin(init_from: str | None) -> Path | None:
    """Return the run folder that weights were taken from; None for weights of others."""
    path = Path(init_from).absolute() if init_from else None
    candidates = [] if path is None else [path, *path.parents[:2]]  # the run, or a file of its checkpoints/
    return next((candidate for candidate in candidates if (candidate / "config.yaml").is_file()), None)


def artifact_name(folder: Path, name: str) -> str:
    """Return a name that is one run's alone, in the letters that W&B allows: a later version of it is a later attempt."""
    depth = 3 if (folder.parent / "config.yaml").is_file() else 2  # below the run that it stands on, or a run of its own
    words = "-".join((*folder.parts[-depth:], name))
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in words)[-128:]
