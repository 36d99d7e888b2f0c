"""From what was typed after ``-m`` to jobs: what both of Hydra's sweepers, the grid and the study, have in common."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from microlatent.overrides import key_of, parse
from microlatent.record import SWEEP, is_sweep
from microlatent.sweeps import index, sweep

ON_THIS_MACHINE = ("BasicLauncher", "LocalLauncher")  # those that would start jobs one by one, and all at once
DEFERRED = "deferred"  # tag of a value that looks swept to Hydra, and is not


def deferred(arguments: list[str]) -> list[str]:
    """Return the arguments of a sweep so that each is checked against the jobs' own choices, not against the defaults.

    Hydra composes once without what is swept, and would refuse ``model=vae_bern,vae_gauss model.beta=2`` because the default
    model has no beta (its issue 2888). A choice of one value is left to the jobs.
    """
    from microlatent.config import GROUPS

    out, parser = [], OverridesParser.create()
    for argument in arguments:
        typed = parse(argument)
        is_inside = typed and typed.group in GROUPS and typed.key != typed.group
        if typed and typed.text and is_inside and not parser.parse_override(argument).is_sweep_override():
            value = QuotedString(typed.text, Quote.single).with_quotes()
            argument = f"{typed.sign}{typed.key}=tag({DEFERRED},choice({value}))"
        out.append(argument)
    return out


def split(arguments: list[str], config_loader: Any, params: dict[str, str]) -> tuple[list[str], list[Override]]:
    """Return what is the same in all jobs, as typed, and what is swept; what was typed wins over ``params``."""
    fixed: dict[str, str] = {}
    swept: dict[str, Override] = {}
    typed = [f"{key}={value}" for key, value in params.items()] + arguments
    for override in OverridesParser.create(config_loader=config_loader).parse_overrides(typed):
        key, value = override.get_key_element(), override.value()
        fixed.pop(key, None), swept.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
        elif isinstance(value, ChoiceSweep) and DEFERRED in value.tags:
            fixed[key] = f"{key}={value.list[0]}"
        elif override.is_discrete_sweep() and len(values := list(override.sweep_string_iterator())) == 1:
            fixed[key] = f"{key}={values[0]}"
        else:
            swept[key] = override
    return list(fixed.values()), list(swept.values())


class JobSweeper(Sweeper):
    """What the grid and the study share: the launcher, the folder with its plan, the look at jobs before the first begins."""

    config: DictConfig  # from setup on

    def __init__(self, n_jobs: int | None, params: dict[str, str] | None = None) -> None:
        if n_jobs is not None and n_jobs < 1:
            raise ValueError(f"hydra.sweeper.n_jobs is {n_jobs}, but must be at least 1 job at a time. Leave it out, or set 1.")
        self.n_jobs, self.params = n_jobs, dict(params or {})

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Take Hydra's context; the launcher is made when the folder is known."""
        self.context, self.task_function, self.config = hydra_context, task_function, config

    @property
    def entry(self) -> str:
        """The command: train, infer or analyze."""
        return self.config.hydra.job.config_name

    def preflight(self, jobs: Iterable[list[str]]) -> None:
        """Check every job, here and now; what it needs for that is removed again."""
        launcher = BasicLauncher()
        launcher.setup(hydra_context=self.context, task_function=self.task_function, config=self.config)
        plan = sweep.Plan(Path(self.config.hydra.sweep.dir).absolute(), self.entry, [], dict(enumerate(jobs)))
        if is_sweep(plan.folder):
            raise ValueError(f"{plan.folder} holds a sweep already. To check this one leave hydra.sweep.dir out.")
        made = [folder for folder in (plan.folder, *plan.folder.parents) if not folder.exists()]
        try:
            plan.write()  # a job looks there whether others stand on the same run
            for number, overrides in plan.jobs.items():
                (done,) = launcher.launch([overrides], initial_job_idx=number)
                if done.status.name != "COMPLETED":
                    raise done._return_value
        finally:
            (plan.folder / SWEEP).unlink(missing_ok=True)
            for folder in (*(plan.folder / str(number) for number in plan.jobs), *made):  # Hydra makes a job's folder
                with suppress(OSError):  # not there, or another command has begun to use it
                    folder.rmdir()

    def begin(self, jobs: dict[int, list[str]], study: dict[str, Any] | None = None, arguments: Iterable[str] = ()) -> sweep.Plan:
        """Claim the folder, write the plan and the index, and make the launcher."""
        hydra = self.config.hydra
        typed = [one for one in hydra.overrides.hydra if key_of(one) not in ("hydra.mode", "hydra.sweep.dir")]
        named = "hydra.sweep.dir" in map(key_of, hydra.overrides.hydra)
        folder = Path(hydra.sweep.dir).absolute()
        plan = sweep.Plan(folder, self.entry, [*arguments, *typed], jobs, study)
        plan = sweep.claim(plan, anew=not named)
        OmegaConf.update(self.config, "hydra.sweep.dir", str(plan.folder).replace("$", "\\$"))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=self.config
        )
        index.write(plan.folder)
        return plan

    @property
    def jobs_at_a_time(self) -> int | None:
        """Jobs that are started one by one; None hands them all to the launcher at once."""
        kind = type(self.launcher).__name__
        if self.n_jobs is None and kind in ON_THIS_MACHINE:
            return 1 if kind == "BasicLauncher" else max(1, (os.cpu_count() or 1) // self.config.hydra.launcher.cpus_per_task)
        return self.n_jobs

    def checked(self, jobs: Iterable[list[str]]) -> list[Any]:
        """Compose every job before the first begins, and return their checked settings.

        Raises
        ------
        ValueError
            A job makes no sense, such as a key that one of the swept choices lacks.
        """
        from microlatent import manual, settling
        from microlatent.progress import track

        jobs = [list(overrides) for overrides in jobs]
        common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        settings = []
        for number, overrides in enumerate(track(jobs, "Checking jobs")):
            try:
                cfg = self.context.config_loader.load_sweep_config(self.config, overrides)
                own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
                for key in ("resume", "rerun"):
                    if own[key]:
                        raise ValueError(f"{key}={own[key]} is for one run, and -m makes several. Leave -m out.")
                settings.append(settling.settled(self.entry, own, overrides))
            except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
                user_error = isinstance(error, (ValueError, OSError)) and not isinstance(error, OmegaConfBaseException)
                reason = str(error) if user_error else manual.explain(error, overrides, self.entry)
                which = " ".join(one for one in overrides if one not in common) or "as typed"
                remedy = (
                    " Where only some choices have a key, sweep those apart, and look at all of them together: python analyze.py "
                    "task=compare task.runs=[<one sweep>,<the other>]"
                )
                raise ValueError(
                    f"{reason}\nThis is job {number} of {len(jobs)} of the sweep ({which}). Nothing was started."
                    + remedy * ("is a setting of" in reason)
                ) from error
        return settings


def grid(fixed: list[str], swept: list[Override]) -> dict[int, list[str]]:
    """Return the overrides of every combination of what is swept.

    Raises
    ------
    ValueError
        A key has an interval, of which a grid cannot take every value.
    """
    values = []
    for override in swept:
        key = override.get_key_element()
        if not override.is_discrete_sweep():
            raise ValueError(
                f"{override.input_line} is an interval, and a grid needs single values. Name them ({key}=1,2,3), or search: "
                "hydra/sweeper=study."
            )
        values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    return {number: [*fixed, *chosen] for number, chosen in enumerate(itertools.product(*values))}
