"""Runs and sweeps to pick from, the latest first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import questionary
from rich.text import Text

from microlatent.dashboard.inventory import Inventory
from microlatent.menu.questions import STYLE, answer, choose, clip
from microlatent.menu.terminal import console


def is_stopped(row: dict[str, Any]) -> bool:
    """Return whether a run or sweep can go on."""
    return is_reviewed(row) and row["state"] in ("interrupted", "lost", "failed", "pending")


def is_reviewed(row: dict[str, Any]) -> bool:
    """Return whether there can be a report about it."""
    return row["task"] == "train" or (row["kind"] == "sweep" and row["task"] is not None)  # a damaged sweep has none


def found_runs(outputs: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, tuple[str, str]]:
    """Return lines for runs and sweeps, the latest first."""
    rows = Inventory(Path(outputs)).changes()["rows"] if Path(outputs).is_dir() else []
    rows = sorted(filter(wanted, rows), key=lambda row: row["started"] or 0, reverse=True)
    lines = {}
    for row in rows:
        score = "" if row["score"] is None else f"{row['monitor']} {row['score']:.4g}"
        lines[f"{outputs}/{row['key']}"] = (row["key"], f"{row['state']}  {row['model'] or ''} {row['label']}  {score}")
    return lines


def is_trained_on(data: str) -> Callable[[dict[str, Any]], bool]:
    """Return a test for training runs of a kind of data."""
    return lambda row: row["kind"] == "run" and row["task"] == "train" and row["data"] == data


def pick_run(question: str, outputs: str, wanted: Callable[[dict[str, Any]], bool], none: str = "") -> str:
    """Let the user pick a run, or none where that is possible."""
    lines = found_runs(outputs, wanted)
    if not lines and not none:
        console.print(
            Text(f"There is none below {outputs}/ for this. Train one, or start the menu with --outputs.", style="yellow")
        )
    return choose(question, {**lines, **({"": ("none", none)} if none else {})}, search=bool(lines))


def pick_runs(outputs: str) -> list[str]:
    """Let the user pick several runs or sweeps."""
    lines = found_runs(outputs, is_reviewed)
    if not lines:
        console.print(Text(f"There is nothing to compare below {outputs}/.", style="yellow"))
        choose("Nothing to pick.", {})
    choices = [
        questionary.Choice(clip(f"{title}  {meaning}", console.width - 10), key) for key, (title, meaning) in lines.items()
    ]
    question = questionary.checkbox(
        "Which runs? A sweep stands for all its jobs.",
        choices,
        instruction="(space picks, Enter ends)",
        qmark="",
        style=STYLE,
        validate=lambda picked: bool(picked) or "Pick at least one with the space bar.",
    )
    return answer(question)
