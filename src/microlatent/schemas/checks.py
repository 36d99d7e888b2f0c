"""Refusals that every schema uses: the key and its value, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MISSING = "???"
NORMALISATIONS = ("dataset", "patch", "zero_one", "minus_one_one", "gauss", "bern", "none")  # of data.normalise


def at_least(key: str, value: float | None, low: float, *, strictly: bool = False) -> None:
    """Refuse a number below ``low`` (or equal to it, if ``strictly``); None passes."""
    if value is not None and not (low <= value < float("inf") and (value > low or not strictly)):
        raise ValueError(f"{key} is {value}, but must be {'above' if strictly else 'at least'} {low}.")


def within(key: str, value: float | None, low: float, high: float) -> None:
    """Refuse a number outside the closed range; None passes."""
    if value is not None and not low <= value <= high:
        raise ValueError(f"{key} is {value}, but must lie between {low} and {high}.")


def distinct(key: str, names: list[str] | None) -> None:
    """Refuse an empty list and one that names something twice; None passes."""
    if names is not None and not names:
        raise ValueError(f"{key} is empty, so nothing is chosen. Leave it out to take all.")
    twice = sorted({name for name in names or [] if names.count(name) > 1})
    if twice:
        raise ValueError(f"{key} names {twice} more than once. Name each once.")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not in the list, naming the nearest one."""
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}, which is not one of its values. {nearest(str(value), allowed)}")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return "Did you mean ...?" for the closest allowed word, and the list of all."""
    allowed = sorted(allowed)
    close = get_close_matches(word, allowed, n=1, cutoff=0.5)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"Allowed: {', '.join(allowed)}."
