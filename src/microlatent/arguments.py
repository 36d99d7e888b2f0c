"""What was typed, before Hydra sees it: completed with what the folders know that it names, refused where it means nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path


def completed(entry: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command as if everything had been typed that follows from the folders they name.

    Raises
    ------
    ValueError
        They contradict such a folder, or have no effect.
    FileNotFoundError
        There is no latest or best run.
    """
    arguments = _sweep_again(entry, [*arguments, *_data_of_run(arguments)])
    if are_of_a_sweep(arguments):
        arguments = _with_named_runs(arguments)
    _refuse_where_it_runs(arguments)
    return arguments


def are_of_a_sweep(arguments: list[str]) -> bool:
    """Return whether several jobs are asked for."""
    return bool({"-m", "--multirun"} & set(arguments))


def plugins(arguments: list[str]) -> list[str]:
    """Read plugins=[a,b] before anything is composed: what they register must be there by then."""
    typed = next((a.split("=", 1)[1] for a in arguments if a.lstrip("+").startswith("plugins=")), "")
    return [name.strip(" '\"") for name in typed.strip("[]").split(",") if name.strip()]


def _data_of_run(arguments: list[str]) -> list[str]:
    """Return data=<name> of the run where the user leaves it out, and the plugins that know it: maps and cluster depend on it.

    Raises
    ------
    ValueError
        The runs of a sweep were trained on different kinds of data.
    """
    from microlatent import config, run

    typed = {key.lstrip("+"): value for key, _, value in (argument.partition("=") for argument in arguments)}
    if "run" not in typed or typed.keys() & {"data", "experiment"} or typed.get("task") == "report":
        return []
    try:
        folders = [run.find(one, typed.get("outputs", "outputs"), typed.get("name")) for one in typed["run"].split(",")]
        found = [run.read_config(folder) for folder in folders]
        names = list(dict.fromkeys(one["data"]["name"] for one in found))
    except (ValueError, OSError):
        return []  # said again, with its reason, when the run is opened
    if len(names) > 1:
        raise ValueError(f"run={typed['run']} names runs on different data: {', '.join(names)}. Sweep those of each kind apart.")
    own = [] if names[0] in config.REGISTRY["data"] or "plugins" in typed else found[0]["plugins"]
    return [f"data={names[0]}", *([f"plugins=[{','.join(own)}]"] if own else [])]


def _quoted(path: str | Path) -> str:
    """Return a path as Hydra reads it back."""
    text = str(path)
    return text if re.fullmatch(r"[\w./+-]+", text, re.ASCII) else "'" + text.replace("'", "\\'") + "'"


def _with_named_runs(arguments: list[str]) -> list[str]:
    """Return the arguments of a sweep with folders for run=latest and run=best: they must mean the same when it goes on."""
    from microlatent import run
    from microlatent.command import run_name

    typed = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    names = typed.get("run", "").split(",")
    if not {"latest", "best"} & set(names):
        return arguments
    found = {
        one: run_name(run.find(one, typed.get("outputs", "outputs"), typed.get("name")))
        for one in names
        if one in ("latest", "best")
    }
    named = ",".join(_quoted(found[one]) if one in found else one for one in names)
    return [f"run={named}" if argument.startswith("run=") else argument for argument in arguments]


def _refuse_where_it_runs(arguments: list[str]) -> None:
    """Refuse what says how jobs are started where there is one run, and several processes where there are jobs.

    Raises
    ------
    ValueError
        What was typed would have no effect, or the effect of something else.
    """
    of_sweeps = [
        one for one in arguments if one.startswith(("hydra/launcher=", "hydra/sweeper=", "hydra.launcher.", "hydra.sweeper."))
    ]
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
    from microlatent import slurm
    from microlatent.sweeps import sweep

    others = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    folder = next((Path(argument.split("=", 1)[1]) for argument in others if argument.startswith("resume=")), None)
    if folder is None or not sweep.is_sweep(folder):
        return arguments
    plan = sweep.read_plan(folder)
    if waiting := slurm.queued(folder):
        raise ValueError(
            f"resume={folder}: jobs {', '.join(waiting)} of this sweep are in SLURM's queue and go on by themselves. Wait, or "
            f"end them first: scancel {' '.join(waiting)}"
        )
    if plan.entry != entry:
        raise ValueError(f"resume={folder} is a sweep of {plan.entry}.py. Type: python {plan.entry}.py resume={folder}")
    changes = [argument for argument in others if not argument.startswith("resume=")]
    if refused := [argument for argument in changes if not argument.startswith(("hydra.", "hydra/launcher="))]:
        raise ValueError(
            f"resume={folder} goes on with that sweep as it was asked for, so {', '.join(refused)} cannot be changed. Leave it "
            "out (hydra/launcher, hydra.sweeper.n_jobs and hydra.sweeper.n_trials may change), or start a new sweep."
        )
    return [*plan.arguments, *changes, f"hydra.sweep.dir={_quoted(plan.folder)}", "-m"]
