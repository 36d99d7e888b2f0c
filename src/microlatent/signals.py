"""Being asked to stop: what raises at once, what waits for a good moment, and the exit codes."""

from __future__ import annotations

import signal
from types import FrameType

STOPPED = 75  # exit code after SIGTERM or SIGUSR1 with everything saved: start again with resume= (EX_TEMPFAIL of sysexits.h)
CTRL_C = 130
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LOOK_EVERY = 20  # batches between two looks that several processes take together


class Interrupted(BaseException):
    """A signal asked the command to stop; what could be saved is saved. No Exception, so that a sweep stops too."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = CTRL_C if number == signal.SIGINT else STOPPED


def raise_on_signals() -> None:
    """Make SIGTERM, SIGUSR1 and Ctrl-C raise Interrupted wherever the program is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in SIGNALS:
        signal.signal(number, interrupt)


class StopSignals:
    """SIGTERM, SIGUSR1 and Ctrl-C ask for a stop; a loop obeys between two steps, when its state is whole."""

    def __enter__(self) -> StopSignals:
        self.asked = 0
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def obey(self, batch: int) -> int:
        """Return the signal to obey after this batch, or 0; several processes look together, every few batches."""
        from microlatent import distributed  # here, because the commands that need no torch import this file too

        if distributed.world_size() == 1:
            return self.asked
        return distributed.largest(self.asked) if batch % LOOK_EVERY == 0 else 0
