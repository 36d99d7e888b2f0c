"""Jobs of a sweep in processes of their own: several at a time, each told apart from the others when it ends.

A process is forked for each job and hands that job alone to Hydra's launcher, whichever it is. So the next job starts when one
ends and not when the slowest of a batch does, a job that is killed ends nothing but itself, and memory is given back.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from microlatent.provenance import cores
from microlatent.record import Record
from microlatent.signals import Interrupted, jobs_first

CONSOLE = "console.txt"  # what a job prints while others print too
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class Finished(NamedTuple):
    """How a job ended."""

    number: int
    value: dict[str, Any] | None  # what it returned
    error: str | None  # first line of why it did not


class Pool:
    """At most ``num_jobs`` processes, one for each job.

    Parameters
    ----------
    launcher
        Hydra's launcher, set up.
    num_jobs
        Jobs at a time. Above 1 each has its share of the cores, and prints into ``console.txt`` of its folder.
    """

    def __init__(self, launcher: Any, num_jobs: int) -> None:
        self.launcher, self.num_jobs = launcher, num_jobs
        self.running: dict[int, tuple[Any, Any]] = {}  # number -> process, end of its pipe
        self.results: dict[int, tuple[Any, Any]] = {}  # number -> value and error of a job that has told them and goes on to end

    @property
    def free(self) -> int:
        """Jobs that can be started now."""
        return self.num_jobs - len(self.running)

    def start(self, number: int, overrides: list[str], folder: Path) -> None:
        """Start a job in a process of its own; its results go to ``folder``."""
        assert self.free > 0
        folder.mkdir(parents=True, exist_ok=True)
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=self._job, args=(number, overrides, folder, theirs, os.getpid()))
        process.start()
        theirs.close()
        self.running[number] = process, ours

    def wait(self) -> list[Finished]:
        """Wait until a job says or does something, if any runs; return those that have ended."""
        if not self.running:
            return []
        sentinels = [process.sentinel for process, _ in self.running.values()]
        unread = [pipe for number, (_, pipe) in self.running.items() if number not in self.results]
        multiprocessing.connection.wait([*sentinels, *unread])
        ended = []
        for number, (process, pipe) in list(self.running.items()):
            is_alive = process.is_alive()  # asked first: what it said before its end is in the pipe by then
            if number not in self.results and pipe.poll():  # read at once: a job with much to say cannot end before
                with suppress(EOFError):
                    self.results[number] = pipe.recv()
            if not is_alive:
                process.join()
                value, error = self.results.pop(number, None) or (None, _last_words(process.exitcode))
                pipe.close()
                del self.running[number]
                ended.append(Finished(number, value, error))
        return ended

    def stop(self, number: int) -> list[Finished]:
        """Ask every job to stop, by a signal's number, and wait until all have: they save what they have."""
        for process, _ in self.running.values():
            if process.is_alive():
                os.kill(process.pid, number)
        ended = []
        while self.running:
            ended += self.wait()
        return ended

    def _job(self, number: int, overrides: list[str], folder: Path, pipe: Any, parent: int) -> None:
        """Be the process of one job."""
        os.setpgid(0, 0)  # Ctrl-C reaches the sweep, which passes it on once
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(one, signal.SIG_DFL)
        _stop_with(parent)
        if self.num_jobs > 1:
            _print_into(folder / CONSOLE)
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.num_jobs)))
        try:
            with jobs_first(lambda: Record(folder).state == "running"):
                (done,) = self.launcher.launch([[*overrides, f"hydra.sweep.subdir={number}"]], initial_job_idx=number)
        except Interrupted as stop:
            pipe.send((None, f"stopped by {stop}"))
            sys.exit(stop.exit_code)
        value = done._return_value
        if done.status.name == "COMPLETED":
            pipe.send((value, None))
        else:
            pipe.send((None, first_line(value)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error, with its kind where that is not plain from the words."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


def _last_words(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed ({signal.Signals(-code).name})"
    return f"its process ended without a word (exit code {code})"


def _stop_with(parent: int) -> None:
    """Ask to be stopped, with everything saved, when the sweep's process dies (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def _print_into(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(file, 1), os.dup2(file, 2)
