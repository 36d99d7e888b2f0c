"""Questions: lists to choose from and texts to type, in the width that there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import questionary

from microlatent.menu.terminal import console

STYLE = questionary.Style(
    [("highlighted", "bold fg:ansicyan"), ("pointer", "bold fg:ansicyan"), ("instruction", "fg:ansibrightblack")]
)
BACK = "back"  # the value of the last line of every list


class GoBack(Exception):
    """The user wants the screen before."""


LEAVING = (GoBack, KeyboardInterrupt)  # Ctrl-C may come between two questions too


def screen(ask: Callable[[], Any], act: Callable[[Any], None]) -> None:
    """Ask and act again and again, until the user goes back from the question; who goes back while acting is asked again."""
    while True:
        try:
            chosen = ask()
        except LEAVING:
            return
        with suppress(*LEAVING):
            act(chosen)


def choose(
    question: str, lines: dict[str, tuple[str, str]], *, back: str = "back", chosen: str | None = None, search: bool = False
) -> str:
    """Ask for one line of a list: a title and a meaning each, cut to the terminal's width; the last goes back."""
    wide = max([len(title) for title, _ in lines.values()] + [len(back)])
    choices = [
        questionary.Choice(clip(f"{title:<{min(wide, 44)}}  {meaning}", console.width - 4), key)
        for key, (title, meaning) in lines.items()
    ]
    choices.append(questionary.Choice(back, BACK))
    options: dict[str, Any] = {"use_search_filter": True, "use_jk_keys": False} if search else {}
    picked = answer(questionary.select(question, choices, default=chosen, qmark="", style=STYLE, **options))
    if picked == BACK:
        raise GoBack
    return picked


def answer(question: questionary.Question) -> Any:
    """Ask; Ctrl-C and the end of input go back."""
    try:
        return question.unsafe_ask()
    except (KeyboardInterrupt, EOFError):
        raise GoBack from None


def clip(text: str, length: int) -> str:
    """Cut a text that is longer than the place for it."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
