"""Run a command as a user types it, in a fork of the tests' process, which has loaded torch and pandas already."""

import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def in_fork(entry: str, arguments: tuple[str, ...], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run an entry point in a fork of this process and return its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            code = 70  # unless it ends as a command does
            try:
                os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                signal.alarm(300)
                code = as_command(entry, arguments, folder, env)
            finally:
                if code == 70:
                    traceback.print_exc()
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess([entry, *arguments], code, out.read(), err.read())


def as_command(entry: str, arguments: tuple[str, ...], folder: Path, env: dict[str, str]) -> int:
    """Become what ``python <entry>.py <arguments>`` is, as far as a fork can, and return the exit code."""
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
    sys.argv = [str(ROOT / f"{entry}.py"), *arguments]
    logging.getLogger("microlatent").handlers.clear()  # the tests' own
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0
