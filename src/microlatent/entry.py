"""``train.py``, ``infer.py`` and ``analyze.py`` from what was typed to an exit code, with every error in a user's words."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Any

from microlatent import arguments
from microlatent.signals import Interrupted, hand_over, raise_on_signals

JOBS_FAILED, BAD_INPUT = 1, 2
USER_ERRORS = (ValueError, OSError)


def main(entry: str, doc: str) -> None:
    """Run one of the three commands with the arguments of this process."""
    raise_on_signals()
    try:
        _command(entry, doc)
    except Interrupted as stop:
        sys.exit(stop.exit_code)


def _command(entry: str, doc: str) -> None:
    try:
        sys.argv[1:] = typed = arguments.completed(entry, sys.argv[1:])
    except USER_ERRORS as error:
        sys.exit(_say(error, debugging=False))
    plugins, sweeps = arguments.plugins(typed), arguments.are_of_a_sweep(typed)
    if {"--help", "-h"} & set(typed):
        from microlatent import config, manual

        config.load_plugins(plugins)
        print(doc.strip() + "\n\n" + manual.manual(entry))
        return
    # Hydra prints its own account of an error unless it may raise it; we say it in the user's words.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from microlatent import command, config, manual
    from microlatent.sweeps.running import JobsFailed
    from microlatent.sweeps.sweeper import deferred

    script = sys.argv[0]

    def job(cfg: Any) -> dict[str, float] | None:
        config.load_plugins(plugins)  # a launcher may have begun a process of its own
        sys.argv[:] = [script, *typed]  # what provenance says was typed
        try:
            return command.execute(entry, cfg)
        except Interrupted as stop:
            hand_over(stop)  # to a cluster's launcher that waits for this signal
            raise
        except USER_ERRORS as error:
            if sweeps:
                raise  # the sweeper counts it and goes on
            sys.exit(_say(error, debugging))

    try:
        config.load_plugins(plugins)
        if sweeps:
            command.log_to_console()
            sys.argv[1:] = deferred(typed)
        hydra.main(config_path=str(config.CONF), config_name=entry, version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {manual.explain(error, [a for a in typed if not a.startswith('-')], entry)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except JobsFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        sys.exit(JOBS_FAILED)
    except USER_ERRORS as error:
        sys.exit(_say(error, debugging))


def _say(error: Exception, debugging: bool) -> int:
    """Say what went wrong, in one line unless HYDRA_FULL_ERROR=1 asks for the traceback; return the exit code."""
    if debugging:
        traceback.print_exc()
    print(f"error: {_in_words(error)}", file=sys.stderr)
    return BAD_INPUT


def _in_words(error: Exception) -> str:
    """Add to an error of the operating system what to do."""
    code = getattr(error, "errno", None)
    filename = getattr(error, "filename", None)
    where = f" ({filename})" if filename else ""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full{where}: {error}. Nothing was half-written, and what was whole still is. Free some space, or "
            "write elsewhere with outputs=<folder> (data.store=<folder> for stores)."
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"Permission denied{where}. Ask for the right to read or write it, or name another folder."
    return str(error)
