"""Being asked to stop: what raises at once, what waits for a good moment, who is told afterwards, and the exit codes.

A cluster's launcher (submitit) has a handler of its own for SIGUSR2, which comes before a time limit: it asks SLURM to start the
job again. Ours stands before it: first everything is saved, then ``hand_over`` calls the launcher's.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75  # exit code after SIGTERM or SIGUSR1 with everything saved: start again with resume= (EX_TEMPFAIL of sysexits.h)
CTRL_C = 130
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
OF_LAUNCHERS = (signal.SIGUSR1, signal.SIGUSR2)  # submitit's default is SIGUSR2; SUBMITIT_PREEMPT_SIGNAL=USR1 changes it
LOOK_EVERY = 20  # batches between two looks that several processes take together
SAME_S = 1.0  # a second signal so soon is the same wish by another way: from the terminal, and from the sweep
PATIENCE_S = 120.0  # for jobs to save, before the process that started them ends

_launchers: dict[int, Callable[[int, FrameType | None], object]] = {}  # handlers that ours stand before
_heard = -SAME_S  # when a signal came


class Interrupted(BaseException):
    """A signal asked the command to stop; what could be saved is saved. No Exception, so that a sweep stops too."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = CTRL_C if number == signal.SIGINT else STOPPED

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        """Let it cross from a launcher's worker: by default it would be rebuilt from its message."""
        return Interrupted, (self.number,)


def _raise(number: int, frame: FrameType | None) -> None:
    if not _again():
        raise Interrupted(number)


def _again() -> bool:
    """Note that a signal came; say whether it repeats one that is being obeyed, and would only disturb the saving."""
    global _heard
    before, _heard = _heard, time.monotonic()
    return _heard - before < SAME_S


def raise_on_signals() -> None:
    """Make SIGTERM, SIGUSR1, Ctrl-C and the signal that a launcher waits for raise Interrupted wherever the program is."""
    global _heard
    _heard = -SAME_S
    for number in OF_LAUNCHERS:
        handler = signal.getsignal(number)
        if callable(handler) and getattr(handler, "__module__", None) != __name__:
            _launchers[number] = handler
    for number in {*SIGNALS, *_launchers}:
        signal.signal(number, _raise)


def hand_over(stop: Interrupted) -> None:
    """In a process of such a launcher let it do its part, if it waits for this signal, and exit; elsewhere return.

    Everything must be saved and said before: SLURM kills the job as soon as it is asked to start it again.
    """
    if _launchers:
        for number in {*SIGNALS, *_launchers}:
            signal.signal(number, signal.SIG_IGN)  # also in the launcher's scontrol, which SLURM's SIGTERM would hit half-way
        if stop.number in _launchers:
            _launchers[stop.number](stop.number, None)
        sys.exit(stop.exit_code)


@contextmanager
def jobs_first(working: Callable[[], bool]) -> Iterator[None]:
    """Let a signal reach the processes that a launcher started here, and this one when their jobs have saved.

    A launcher that is stopped first kills its processes (joblib), or leaves them behind (submitit_local).

    Parameters
    ----------
    working
        Whether a job is still at work.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        import psutil

        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        children = psutil.Process().children()
        for child in children:
            child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        while children and working() and time.monotonic() < deadline:
            time.sleep(0.1)
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """The same signals ask for a stop; a loop obeys between two steps, when its state is whole."""

    def __enter__(self) -> StopSignals:
        self.asked = 0
        self.before = {number: signal.signal(number, self._ask) for number in {*SIGNALS, *_launchers}}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        _again()
        if not self.asked or number in _launchers:  # a SIGTERM before or after does not undo a launcher's wish to go on later
            self.asked = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def obey(self, step: int) -> int:
        """Return the signal to obey after so many steps of the run, or 0; several processes look together, every few steps."""
        from microlatent import distributed  # here, because the commands that need no torch import this file too

        if distributed.world_size() == 1:
            return self.asked
        return distributed.largest(self.asked) if step % LOOK_EVERY == 0 else 0
