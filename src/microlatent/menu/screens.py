"""What the menu asks, screen by screen; Ctrl-C at a question goes back one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import questionary
from rich.table import Table
from rich.text import Text

from microlatent import config, run
from microlatent.menu import pipelines, terminal
from microlatent.menu.draft import ROOT, Draft, Refused, Row, interpreter, like, nearby, shown
from microlatent.menu.picking import is_reviewed, is_stopped, is_trained_on, pick_run, pick_runs
from microlatent.menu.pipelines import Step
from microlatent.menu.questions import STYLE, answer, choose, clip, screen
from microlatent.menu.terminal import console, header
from microlatent.overrides import key_of, quoted
from microlatent.record import DAMAGE, is_sweep
from microlatent.sweeps import sweep

BAD_INPUT = 2
HERE, GRID = pipelines.USUAL.values()
SWEEPERS = {GRID: (GRID, "every combination of the values"), "study": ("study", "a search: what did well says what is tried")}


def main(doc: str) -> None:
    """Show the menu until the user leaves it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--outputs", default="outputs", help="folder of runs and sweeps (default: outputs)")
    outputs = parser.parse_args().outputs
    if reason := terminal.unfit():
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    screen(choose_system, lambda name: screen(lambda: choose_step(name), lambda step: go(step, name, outputs)))
    console.print("bye.")


def choose_system() -> str:
    """Choose a kind of data, or the tools."""
    header()
    lines = {name: (name, meaning) for name, meaning in pipelines.systems().items()}
    lines["tools"] = ("tools", "resume, compare, report, dashboard, sync")
    return choose("What are your data?", lines, back="leave the menu")


def choose_step(name: str) -> Step:
    """Choose a step of a pipeline, or a tool."""
    header(name)
    known = {step.name: step for step in (pipelines.tools() if name == "tools" else pipelines.pipeline(name))}
    return known[choose("What is to be done?", {key: (key, step.meaning) for key, step in known.items()})]


def go(step: Step, name: str, outputs: str) -> None:
    """Go through with a step: pick what it stands on, then change, check and run its command."""
    header(name, step.name)
    if step.entry in ("dashboard", "sync"):
        script = ["-m", "microlatent.dashboard"] if step.entry == "dashboard" else [nearby(ROOT / "scripts" / "sync.py")]
        terminal.run([interpreter(), *script, "--outputs", outputs])
        return
    from hydra.errors import HydraException

    path = (name, step.name)
    try:
        draft = begin(step, name, outputs)
    except (HydraException, *DAMAGE) as error:
        complain(f"it cannot be used: {error}")
        return
    screen(lambda: choose_action(draft, path), lambda action: carry_out(action, draft, path))


def begin(step: Step, data: str, outputs: str) -> Draft:
    """Pick what a step stands on: a recipe or a run."""
    here = [] if outputs == "outputs" else [f"outputs={quoted(outputs)}"]
    fixed, entry = list(step.fixed), step.entry
    if step.picks == "recipe":
        lines = {name: (name, meaning) for name, meaning in pipelines.recipes(data).items()}
        recipe = choose("Which recipe?", {"": ("none", "settings of your own, from the defaults"), **lines}) if lines else ""
        if recipe:  # it says what the data are; data= typed beside it would win over what it sets
            fixed = [*(one for one in fixed if key_of(one) != "data"), f"experiment={recipe}"]
        elif step.entry == "train":
            fixed.append(f"model={choose('Which model?', models())}")
    elif step.picks == "weights":
        folder = pick_run("Whose weights?", outputs, is_trained_on(data))
        fixed += [*like(run.read_config(Path(folder))), f"init_from={quoted(folder)}"]
    elif step.picks == "run":
        folder = pick_run("Which run?", outputs, is_trained_on(data), none="its tables are named by hand (task.latents ...)")
        fixed += [f"run={quoted(folder)}"] if folder else []
    elif step.picks == "stopped":
        folder = pick_run("Which run or sweep?", outputs, is_stopped)
        fixed.append(f"resume={quoted(folder)}")
        entry = sweep.read_plan(Path(folder)).entry if is_sweep(Path(folder)) else entry
    elif step.picks == "review":
        fixed.append(f"run={quoted(pick_run('About which run or sweep?', outputs, is_reviewed))}")
    elif step.picks == "runs":
        fixed.append(f"task.runs={quoted(pick_runs(outputs))}")
    return Draft(entry, fixed if step.picks == "stopped" else fixed + here)  # what goes on stays where it is


def choose_action(draft: Draft, path: tuple[str, ...]) -> str:
    """Show the command and choose what to do with it."""
    header(*path)
    console.print(Text(shown(draft.command()), style="cyan"), soft_wrap=True)  # in one line, to be copied
    lines = {"run": ("run", "start the command above")}
    problems = draft.problems()
    if problems:
        console.print(Text(f"not ready: {problems[0]}", style="yellow"))
    if not draft.goes_on:
        lines |= {
            "check": ("check", "open the data, estimate memory, disk and time, write nothing"),
            "change": ("change", "look at the settings of a section, and change some"),
            "show": ("show", "the whole configuration as a table"),
            "where": ("where", f"device, threads, cluster (now: {place(draft)})"),
        }
        if draft.entry == "train":
            now = draft.changes.get("hydra/sweeper", GRID)
            lines["search"] = ("search", f"of several values not all, but what seems best (now: {now})")
    return choose("What now?", lines, chosen="change" if problems else None)


def carry_out(action: str, draft: Draft, path: tuple[str, ...]) -> None:
    """Do what was chosen for a command."""
    header(*path)
    if action == "run":
        terminal.run(draft.command())
    elif action == "check":
        terminal.run(draft.command("check=true"))
    elif action == "change":
        screen(
            lambda: choose_section(draft, path),
            lambda section: screen(lambda: choose_setting(draft, section, path), lambda row: ask_value(draft, row, path)),
        )
    elif action == "show":
        show(draft, path)
    elif action == "where":
        screen(lambda: choose_resource(draft, path), lambda row: change_resource(draft, row, path))
    elif action == "search":
        screen(lambda: choose_search(draft, path), lambda row: change_resource(draft, row, path))


def models() -> dict[str, tuple[str, str]]:
    """Return lines for the models."""
    return {name: (name, pipelines.summary(one.schema)) for name, one in config.REGISTRY["model"].items()}


# --------------------------------------------------------------------------------------------------------- settings


def choose_section(draft: Draft, path: tuple[str, ...]) -> str:
    """Choose one of the sections of a configuration."""
    header(*path, "change")
    sections: dict[str, list[Row]] = {}
    for row in draft.rows():
        sections.setdefault(row.section, []).append(row)
    lines = {name: (name, ", ".join(short(row) for row in rows if row.key != name)) for name, rows in sections.items()}
    return choose("Which section?", lines)


def choose_setting(draft: Draft, section: str, path: tuple[str, ...]) -> Row:
    """Choose a setting of a section."""
    header(*path, "change", section)
    rows = {row.key: row for row in draft.rows() if row.section == section}
    wide = max(len(short(row)) for row in rows.values())
    lines = {key: (f"{short(row):<{wide}}  {clip(row.text, 16):<16}", row.meaning or row.kind) for key, row in rows.items()}
    return rows[choose("Which setting? Letters narrow the list.", lines, search=True)]


def ask_value(draft: Draft, row: Row, path: tuple[str, ...]) -> None:
    """Ask for a value until the command would take it."""
    header(*path, row.key)
    console.print(Text(f"{row.key}: {row.meaning or row.kind}", style="bold"))
    values = ", or interval(from,to), are searched" if draft.is_study else " make a sweep"
    hint = "" if row.section == "hydra" else f" Several values with commas{values}."
    console.print(Text(f"type: {row.kind}.{hint} Empty: the default.", style="dim"))
    text = before = row.text
    while True:
        text = answer(questionary.text(f"{row.key}=", default=text, qmark="", style=STYLE)).strip()
        try:
            if text != before:
                draft.change(row.key, text)
            return
        except Refused as refusal:
            console.print(Text(f"no: {refusal}", style="red"))


def show(draft: Draft, path: tuple[str, ...]) -> None:
    """Print the configuration: section, parameter, value, meaning."""
    header(*path, "configuration")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name, most in (("section", 8), ("parameter", 22), ("value", 16), ("meaning", None)):
        table.add_column(name, overflow="fold", max_width=most)
    section = None
    for row in draft.rows():
        value = Text(row.text, style="bold cyan" if row.key in draft.changes else "")
        table.add_row("" if row.section == section else row.section, short(row), value, row.meaning or row.kind)
        section = row.section
    console.print(table)
    answer(questionary.text("Scroll up for the beginning. Enter goes back.", qmark="", style=STYLE))


# -------------------------------------------------------------------------------------------------------- resources


def place(draft: Draft) -> str:
    """Say where a command runs, in a few words."""
    values = {row.key: row.value for row in draft.rows()}
    threads = values["trainer.threads"] or "all"
    launcher = launcher_of(draft)
    return f"{values['trainer.device']}, {threads} threads, {'this machine' if launcher == HERE else launcher}"


def launcher_of(draft: Draft) -> str:
    """Return who runs the jobs."""
    return draft.changes.get("hydra/launcher", HERE)


def choose_resource(draft: Draft, path: tuple[str, ...]) -> Row:
    """Choose among device, threads, who runs the jobs, and that launcher's own settings."""
    header(*path, "where")
    rows = [row for row in draft.rows() if row.key in ("trainer", "trainer.device", "trainer.threads")]
    rows.append(Row("hydra", "hydra/launcher", launcher_of(draft), "who runs the jobs of a sweep", ""))
    return choose_row([*rows, *draft.hydra_rows("launcher")])


def choose_search(draft: Draft, path: tuple[str, ...]) -> Row:
    """Choose among every combination or a search, and the settings of either."""
    header(*path, "search")
    now = Row("hydra", "hydra/sweeper", draft.changes.get("hydra/sweeper", GRID), "every combination, or a search", "")
    return choose_row([now, *draft.hydra_rows("sweeper")])


def choose_row(rows: list[Row]) -> Row:
    """Choose one of these settings."""
    found = {row.key: row for row in rows}
    lines = {
        key: (f"{key.removeprefix('hydra.'):<28} {clip(row.text, 12):<12}", row.meaning or row.kind) for key, row in found.items()
    }
    return found[choose("What is to change?", lines)]


def change_resource(draft: Draft, row: Row, path: tuple[str, ...]) -> None:
    """Give a resource another value."""
    if row.key not in ("hydra/launcher", "hydra/sweeper"):
        ask_value(draft, row, path)
        return
    header(*path, row.key)
    if row.key == "hydra/launcher":
        others = {name: (name, meaning) for name, meaning in pipelines.launchers().items()}
        chosen = choose("Who runs the jobs?", {HERE: (HERE, "this machine, one job after another"), **others})
    else:
        chosen = choose("Which of the values?", SWEEPERS)
    try:
        draft.change(row.key, "" if chosen in (HERE, GRID) else chosen)
    except Refused as refusal:
        complain(f"no: {refusal}")


def complain(reason: str) -> None:
    """Say why not, until Enter."""
    console.print(Text(reason, style="red"))
    answer(questionary.text("Enter goes back.", qmark="", style=STYLE))


def short(row: Row) -> str:
    """Return a setting's name without its section."""
    return row.key.partition(".")[2] or row.key
