"""Hydra's ``-m hydra/sweeper=study``: trials that Optuna asks for, each a run of its own, all in one folder with one index."""

from __future__ import annotations

import logging
from typing import Any

from microlatent.schemas.sweeper import StudyConfig
from microlatent.sweeps import sweeper

logger = logging.getLogger("microlatent")


class StudySweeper(sweeper.JobSweeper):
    """A search; started again with ``resume=<sweep folder>``, also while it runs, it goes on to the total number of trials."""

    def __init__(self, **options: Any) -> None:
        super().__init__(None, options["params"])
        self.options = options

    def sweep(self, arguments: list[str]) -> None:
        """Check what is asked for, join the study, and run trials until there are enough of them."""
        from microlatent.sweeps import search, study
        from microlatent.sweeps.launching import Pool
        from microlatent.sweeps.trials import Trials

        config = StudyConfig(**self.options)
        if self.entry != "train":
            raise ValueError(
                f"hydra/sweeper=study searches for the best training. Type: python train.py -m ..., not {self.entry}.py."
            )
        fixed, swept = sweeper.split(arguments, self.context.config_loader, self.params)
        space, probes = self._space(fixed, swept)
        description = study.describe(config, epochs=max(one.trainer.epochs for one in self.checked(probes)))
        if description["pruner"] != config.pruner:
            logger.warning("hydra.sweeper.pruner=%s is off: %s.", config.pruner, study.cannot_prune(config.objectives))
        if description["storage"]:
            study.open_storage(description["storage"])  # or it would fail with the folder already made
        if self.config.check:
            self.preflight(probes)
            return
        typed = [*fixed, *(override.input_line for override in swept)]
        folder = self.begin({}, study=description, arguments=typed).folder
        opened = study.join(study.agree(folder, description), folder, config.seed)
        trials = Trials(opened, space, config.n_trials, folder)
        search.run_trials(trials, Pool(self.launcher, config.n_jobs), fixed, config.max_failures)
        search.conclude(trials)

    def _space(self, fixed: list[str], swept: list[Any]) -> tuple[dict[str, Any], list[list[str]]]:
        """Return the distributions of what is swept, and jobs that hold every choice and every end of a range."""
        from microlatent import config
        from microlatent.sweeps import search_space

        first = [f"{one.get_key_element()}={next(one.sweep_string_iterator())}" for one in swept if one.is_discrete_sweep()]
        (settings,) = self.checked([[*fixed, *first]])
        space = search_space.distributions(swept, config.flat(config.plain(settings)))
        return space, [[*fixed, *search_space.overrides(values)] for values in search_space.probes(space)]
