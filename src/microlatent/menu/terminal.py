"""The terminal: whether it will do, and a command that runs in it until it ends or Ctrl-C stops it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import termios
from types import FrameType

from rich.console import Console
from rich.text import Text

from microlatent.menu.draft import shown

FEWEST_COLUMNS, FEWEST_LINES = 80, 24
STOPPED = (130, 75, -signal.SIGINT)  # exit codes of commands that were told to stop, see microlatent/signals.py

console = Console(highlight=False)


def unfit() -> str | None:
    """Say why the menu cannot be shown here, or None."""
    otherwise = "The commands need none of that: python train.py --help"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return f"the menu asks questions, but there is no terminal to ask in. {otherwise}"
    term = os.environ.get("TERM", "")
    if term in ("", "dumb", "unknown"):
        return f"the menu moves the cursor, but this terminal (TERM={term or 'not set'}) cannot. {otherwise}"
    columns, lines = shutil.get_terminal_size()
    if columns < FEWEST_COLUMNS or lines < FEWEST_LINES:
        return (
            f"the terminal has {columns} x {lines} characters, but the menu needs {FEWEST_COLUMNS} x {FEWEST_LINES}. Make the "
            f"window larger or its letters smaller. {otherwise}"
        )
    return None


def header(*path: str) -> None:
    """Clear the screen and say where we are."""
    console.clear()
    console.rule(Text(" > ".join(("microlatent", *path)), style="bold"), align="left")


def run(words: list[str]) -> int:
    """Print a command, run it in this terminal, say how it ended, and wait for Enter; return its exit code."""
    console.print(Text("$ " + shown(words), style="bold cyan"), soft_wrap=True)

    def leave_to_child(number: int, frame: FrameType | None) -> None:
        """Ctrl-C goes to all that runs in the terminal: the command saves and ends, the menu stays."""

    before = signal.signal(signal.SIGINT, leave_to_child)
    try:
        code = subprocess.run(words, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
        console.show_cursor()  # a progress bar that was cut off leaves it hidden
    if code == 0:
        console.print("done.", style="bold green")
    elif code in STOPPED:
        console.print("stopped. What could be saved is saved; tools > resume goes on with a training run.", style="bold yellow")
    else:
        console.print(f"ended with exit code {code}; the reason stands above.", style="bold red")
    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # keys pressed while it ran are no answer
    console.print("Enter goes back to the menu.", style="dim")
    try:
        input()
    except (EOFError, KeyboardInterrupt):
        pass  # as good as Enter
    return code
