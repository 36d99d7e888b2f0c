"""What can be done with each kind of data, in the order in which it is done, from the registry and conf/experiment/."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from microlatent import config, manual
from microlatent.schemas.sweeper import GridConfig, StudyConfig

USUAL = {"launcher": "basic", "sweeper": "grid"}  # Hydra's own launcher: one job after another; every combination
SWEEPERS = {"grid": GridConfig, "study": StudyConfig}


@dataclass
class Step:
    """One thing to do: the command's beginning, and what must be picked before its settings are looked at."""

    name: str
    meaning: str
    entry: str
    fixed: list[str] = field(default_factory=list)
    picks: str = (
        ""  # recipe, run, weights (of a run), stopped (a run or sweep to go on with), review (run or sweep), runs (several)
    )


def systems() -> dict[str, str]:
    """Return each kind of data with its meaning."""
    return {name: summary(choice.schema) for name, choice in config.REGISTRY["data"].items()}


def pipeline(data: str) -> list[Step]:
    """Return the steps for a kind of data."""
    steps = []
    for name, task in config.tasks(data=data).items():
        picks = "recipe" if {"root", "data"} & {*task.needs} else "run"
        fixed = [f"data={data}"] if name == "train" else [f"task={name}", f"data={data}"]
        steps.append(Step(name, summary(task.schema), task.entry, fixed, picks))
        if name == "train":
            steps.append(Step("fine-tune", "Fit on from the weights of a trained run", "train", [f"data={data}"], "weights"))
    return steps


def tools() -> list[Step]:
    """Return what is done with runs of any system; dashboard and sync are commands of their own."""
    steps = [Step("resume", "Go on with a run or sweep that was stopped", "train", picks="stopped")]
    for name, task in config.tasks().items():
        if task.reviews:
            picks = "runs" if "runs" in task.needs else "review"
            steps.append(Step(name, summary(task.schema), task.entry, [f"task={name}"], picks))
    steps.append(Step("dashboard", "All runs and sweeps in a browser, until Ctrl-C", "dashboard"))
    steps.append(Step("sync", "Upload to W&B what was logged offline", "sync"))
    return steps


def recipes(data: str) -> dict[str, str]:
    """Return the recipes of conf/experiment/ for a kind of data, each with the first line that says what it is."""
    found = {}
    for path in sorted((config.CONF / "experiment").glob("*.yaml")):
        text = path.read_text()
        of = re.search(r"override /data: (\w+)", text)
        if (of.group(1) if of else "wells") == data:
            comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
            found[path.stem] = comments[0] if comments else ""
    return found


def launchers() -> dict[str, str]:
    """Return the ways to run the jobs of a sweep, each with what it is."""
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in _files("hydra/launcher")}


def hydra_settings(group: str, name: str) -> dict[str, str]:
    """Return the settings of a launcher or sweeper with their meanings, those that it takes over from another first."""
    path = config.CONF / "hydra" / group / f"{name}.yaml"
    if not path.exists():
        return {}  # Hydra's own
    found = manual.meanings(SWEEPERS[name]) if group == "sweeper" else {}
    for base in re.findall(r"^  - (\w+)", path.read_text(), re.MULTILINE):
        found |= hydra_settings(group, base)
    found |= dict(re.findall(r"^(\w+): .*?  # (.*)$", path.read_text(), re.MULTILINE))
    return {key: meaning for key, meaning in found.items() if key not in ("_target_", "params")}


def _files(group: str) -> list[Path]:
    return sorted((config.CONF / group).glob("*.yaml"))


def summary(schema: type) -> str:
    """Return the first line of a schema's description, without the file it is for."""
    line = (schema.__doc__ or "").strip().splitlines()[0]
    return re.sub(r"\s*\(``.*?``\)", "", line).rstrip(".")
