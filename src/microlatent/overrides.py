"""What is typed as ``key=value``, taken apart and put together in this one place, by Hydra's grammar.

A key holds neither ``=`` nor quotes, so it is split off as text. A value is read by Hydra's own parser, which is imported only
where a value is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

OVERRIDE = re.compile(r"(?P<sign>~|\+{0,2})(?P<key>[^-+~=@][^=@]*)(?:@(?P<package>[^=]*))?(?:=(?P<text>.*))?", re.DOTALL)
PLAIN = re.compile(r"[\w./:+-]*( [\w./:+-]+)*", re.ASCII)  # text that means itself without quotes


class Override(NamedTuple):
    """One override as typed: ``++model.lr=0.1`` has the sign ``++``, the key ``model.lr`` and the text ``0.1``."""

    sign: str  # "", "+", "++", or "~" where the key is taken out
    key: str  # without the package behind ``@``
    text: str | None  # the value as typed; None without ``=``

    @property
    def group(self) -> str:
        """The first part of the key: ``model`` of ``model.lr``."""
        return self.key.partition(".")[0]


def parse(typed: str) -> Override | None:
    """Take one word of a command apart; None for a flag such as ``-m``."""
    found = OVERRIDE.fullmatch(typed)
    return Override(found["sign"], found["key"], found["text"]) if found else None


def key_of(typed: str) -> str:
    """Return the key that an override sets, also of ``+key=``, ``~key`` and ``key@package=``; empty for a flag."""
    found = parse(typed)
    return found.key if found else ""


def texts(words: Iterable[str]) -> dict[str, str]:
    """Return the values as typed, by key; of a key that is typed twice the last, as in Hydra. Flags are left out."""
    return {found.key: found.text or "" for found in map(parse, words) if found}


def read(override: str) -> Any:
    """Read an override by Hydra's grammar.

    Raises
    ------
    ValueError
        It is not of that grammar.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ValueError(str(error)) from error


def value(text: str) -> Any:
    """Return the value that a text stands for: ``'a b'`` is a text without its quotes, ``[1,2]`` a list, ``null`` None.

    Raises
    ------
    ValueError
        It is not of Hydra's grammar.
    """
    return read(f"key={text}").value()


def values(text: str) -> list[Any]:
    """Return the single values that a text stands for: those of a sweep such as ``1,2`` or ``range(1,3)``, else the one.

    Raises
    ------
    ValueError
        It is not of Hydra's grammar, or has no single values, as an interval.
    """
    parsed = read(f"key={text}")
    return [value(one) for one in _singles(parsed)] if parsed.is_sweep_override() else [parsed.value()]


def several(override: str) -> list[str]:
    """Return the single overrides that one with several values stands for, of an interval its ends; empty where it has one."""
    try:
        parsed = read(override)
        key, swept = parsed.get_key_element(), parsed.is_sweep_override()
        if swept and parsed.is_interval_sweep():
            return [f"{key}={parsed.value().start:g}", f"{key}={parsed.value().end:g}"]
        return [f"{key}={one}" for one in _singles(parsed)] if swept else []
    except ValueError:
        return []  # said when it is composed


def _singles(parsed: Any) -> list[str]:
    from hydra.errors import HydraException

    try:
        return list(parsed.sweep_string_iterator())
    except HydraException as error:
        raise ValueError(f"{parsed.input_line} has no single values: {error}.") from error


def quoted(value: Any) -> str:
    """Return a value as it is typed, so that Hydra (and YAML, which takes 1e-05 for a word) read the same back."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(quoted, value))}]"
    text = str(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    if PLAIN.fullmatch(text):
        return text
    # In quotes a backslash stands for itself, but before a quote it is doubled.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text) + "'"
