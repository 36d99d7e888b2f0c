"""Hydra's ``-m``: every combination of the swept values, each a run of its own, all in one folder with one index."""

from __future__ import annotations

from microlatent.sweeps import running, sweeper


class GridSweeper(sweeper.JobSweeper):
    """Every combination; started again with ``resume=<sweep folder>`` it runs what is missing."""

    def sweep(self, arguments: list[str]) -> None:
        """Check all jobs, then run those that are not done."""
        fixed, swept = sweeper.split(arguments, self.context.config_loader, self.params)
        jobs = sweeper.grid(fixed, swept)
        self.checked(jobs.values())
        if self.config.check:
            return self.preflight(jobs.values())
        plan = self.begin(jobs, arguments=[*fixed, *(override.input_line for override in swept)])
        running.run_missing(plan, self.launcher, self.jobs_at_a_time)
        return running.conclude(plan.folder)
