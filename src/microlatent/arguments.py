"""What was typed, before Hydra sees it: completed with what the folders know that it names, refused where it means nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from microlatent import slurm
from microlatent.overrides import key_of, quoted, texts, value, values
from microlatent.record import Record, is_sweep
from microlatent.run import find, run_name


def completed(entry: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command as if everything had been typed that follows from the folders they name.

    Raises
    ------
    ValueError
        They contradict such a folder, or have no effect.
    FileNotFoundError
        There is no latest or best run.
    """
    arguments = _sweep_again(entry, _with_data_of_run(arguments))
    if are_of_a_sweep(arguments):
        arguments = _with_named_runs(arguments)
    _refuse_where_it_runs(arguments)
    return arguments


def are_of_a_sweep(arguments: list[str]) -> bool:
    """Return whether several jobs are asked for."""
    return bool({"-m", "--multirun"} & set(arguments))


def plugins(arguments: list[str]) -> list[str]:
    """Read plugins=[a,b] before anything is composed: what they register must be there by then."""
    try:
        names = value(texts(arguments).get("plugins", "[]"))
    except ValueError:
        return []  # said by Hydra
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _with_data_of_run(arguments: list[str]) -> list[str]:
    """Return the arguments with data=<name> of the run where it was left out, and the plugins that know it beside those typed.

    What maps and cluster are depends on the data.

    Raises
    ------
    ValueError
        The runs of a sweep were trained on different kinds of data.
    """
    typed = texts(arguments)
    if "run" not in typed or typed.keys() & {"data", "experiment"} or typed.get("task") == "report":
        return arguments
    try:
        records = [Record(_find(one, typed)) for one in values(typed["run"])]
        names = list(dict.fromkeys(record.get("data", "name") for record in records))
    except (ValueError, OSError):
        return arguments  # said again, with its reason, when the run is opened
    if None in names:
        return arguments
    if len(names) > 1:
        raise ValueError(f"run={typed['run']} names runs on different data: {', '.join(names)}. Sweep those of each kind apart.")
    from microlatent import config

    arguments = [*arguments, f"data={names[0]}"]
    if names[0] in config.REGISTRY["data"] or not (own := records[0].get("plugins")):
        return arguments
    others = [argument for argument in arguments if key_of(argument) != "plugins"]
    return [*others, f"plugins={quoted(list(dict.fromkeys([*own, *plugins(arguments)])))}"]


def _with_named_runs(arguments: list[str]) -> list[str]:
    """Return the arguments of a sweep with folders for run=latest and run=best: they must mean the same when it goes on."""
    typed = texts(arguments)
    try:
        names = values(typed["run"]) if "run" in typed else []
    except ValueError:
        return arguments  # said by Hydra
    if not {"latest", "best"} & set(map(str, names)):
        return arguments
    named = [run_name(_find(one, typed)) if one in ("latest", "best") else one for one in names]
    run = f"run={','.join(map(quoted, named))}"
    return [run if key_of(argument) == "run" else argument for argument in arguments]


def _find(name: Any, typed: dict[str, str]) -> Path:
    """Return the folder of a run, looked for where the command will."""
    outputs, experiment = (value(typed[key]) if key in typed else None for key in ("outputs", "name"))
    return find(str(name), str(outputs or "outputs"), experiment and str(experiment))


def _refuse_where_it_runs(arguments: list[str]) -> None:
    """Refuse what says how jobs are started where there is one run, and several processes where there are jobs.

    Raises
    ------
    ValueError
        What was typed would have no effect, or the effect of something else.
    """
    of_sweeps = [one for one in arguments if key_of(one).replace("/", ".").startswith(("hydra.launcher", "hydra.sweeper"))]
    sweeps = are_of_a_sweep(arguments)
    if of_sweeps and not sweeps:
        raise ValueError(f"{of_sweeps[0]} is for sweeps, and this is one run here and now. Add -m: it may be a sweep of one job.")
    if sweeps and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "torchrun starts several processes for one run, and each of them would run this whole sweep. Run the sweep with "
            "python (hydra.sweeper.n_jobs=2 runs two jobs at a time), or the runs one by one with torchrun."
        )


def _sweep_again(entry: str, arguments: list[str]) -> list[str]:
    """Return the arguments of the sweep that ``resume=`` names, which runs what it lacks; else the arguments as they are.

    Raises
    ------
    ValueError
        Something else was typed that would change what the sweep is.
    """
    others = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    try:
        folder = Path(str(value(texts(others)["resume"])))
    except (KeyError, ValueError):
        return arguments  # not typed, or not readable, which Hydra says
    if not is_sweep(folder):
        return arguments
    from microlatent.sweeps import sweep

    plan = sweep.read_plan(folder)
    if waiting := slurm.queued(folder):
        raise ValueError(
            f"resume={folder}: jobs {', '.join(waiting)} of this sweep are in SLURM's queue and go on by themselves. Wait, or "
            f"end them first: scancel {' '.join(waiting)}"
        )
    if plan.entry != entry:
        raise ValueError(f"resume={folder} is a sweep of {plan.entry}.py. Type: python {plan.entry}.py resume={folder}")
    changes = [argument for argument in others if key_of(argument) != "resume"]
    if refused := [argument for argument in changes if not key_of(argument).startswith(("hydra.", "hydra/launcher"))]:
        raise ValueError(
            f"resume={folder} goes on with that sweep as it was asked for, so {', '.join(refused)} cannot be changed. Leave it "
            "out (hydra/launcher, hydra.sweeper.n_jobs and hydra.sweeper.n_trials may change), or start a new sweep."
        )
    return [*plan.arguments, *changes, f"hydra.sweep.dir={quoted(plan.folder)}", "-m"]
