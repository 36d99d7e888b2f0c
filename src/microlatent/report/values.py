"""Numbers, names and times as a reader wants them: three to four significant digits, units from the name, aligned columns."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from microlatent.figures import UNITS
from microlatent.metrics import metric

PARTS = {"train": "training", "val": "validation", "test": "test"}
PROBABILITY = re.compile(r"(^|_)(p|q)([_, ]|$)")
NONE = "\N{EN DASH}"
DIGITS = 4


def number(value: Any) -> str:
    """Return a value by itself: four significant digits, thousands grouped, a true minus sign."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return signed(_digits(value))
    return str(value)


def _digits(value: float) -> str:
    size = abs(value)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, int) or (value == int(value) and size < 1e12):
        return f"{int(value):,}" if size >= 10_000 else f"{int(value)}"
    if size >= 1000:
        return f"{value:,.0f}" if size >= 10_000 else f"{value:.0f}"
    return _short(f"{value:.3g}") if size < 1e-4 else f"{value:.{DIGITS}g}"


def _short(text: str) -> str:
    return re.sub(r"e([+-])0*(\d)", r"e\1\2", text)


def signed(text: str) -> str:
    """Return a number's text with a minus sign as wide as the digits."""
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def two(value: float) -> str:
    """Return a number with two decimals and a true minus sign."""
    return signed(f"{round(value, 2) + 0.0:.2f}") if value == value else NONE


def decimals(name: str, values: Sequence[Any]) -> int | None:
    """Return the decimals that a column of numbers shows; None where each value is better shown by itself."""
    finite = [abs(v) for v in values if isinstance(v, int | float) and math.isfinite(v) and v]
    if not finite or PROBABILITY.search(name):
        return None
    if all(v == int(v) for v in finite):
        return 0
    top = max(finite)
    if top < 1e-3 or top / min(finite) > 1e6:
        return None
    places = min(max(0, DIGITS - 1 - math.floor(math.log10(top))), DIGITS)
    # Beside losses of thousands those of another family, of less than one, would be shown as 0.
    coarse = sum(v * 10**places < 10 for v in finite)
    return None if coarse > len(finite) / 10 else places


def probability(value: Any) -> str:
    """Return a p or q value: two digits say all."""
    return number(value) if value is None or not math.isfinite(value) else _short(f"{value:.2g}")


def fixed(value: Any, places: int | None) -> str:
    """Return a number with so many decimals."""
    if value is None or places is None or not math.isfinite(value):
        return number(value) if value is None or abs(value) >= 1e-3 or not value else signed(_short(f"{value:.2g}"))
    return signed(f"{value:,.{places}f}")


def label(column: str) -> str:
    """Return a column's name in words, with the unit that it ends in: ``lag_min`` gives "lag (min)"."""
    if column.startswith("best_"):
        return label(column.removeprefix("best_")) if column.split("_")[1] in PARTS else column.replace("_", " ")
    part, _, term = column.partition("_")
    if part in PARTS and term:
        return f"{PARTS[part]} {metric(term).title}"
    words = [word for word in column.split("_") if word]
    unit = ""
    if len(words) > 3 and words[-2] == "per" and words[-1] in UNITS and words[-3] in UNITS:
        unit, words = f" ({UNITS[words[-3]]}/{UNITS[words[-1]]})", words[:-3]
    elif len(words) > 1 and words[-1] in UNITS and words[0] != "num" and words[-2] != "per":
        unit, words = f" ({UNITS[words[-1]]})", words[:-1]
    return " ".join(words) + unit or column


def seconds(value: float | None) -> str:
    """Return a duration: 43 s, 4 min 12 s, 2 h 5 min."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(text: str | None) -> str:
    """Return an ISO time without its letters and zone digits: 2026-11-20 17:31."""
    return str(text or "")[:16].replace("T", " ")


def plural(count: int, word: str) -> str:
    """Return "1 epoch", "3 epochs"."""
    many = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return f"{count:,} {word if count == 1 else many}"
