"""What a page is made of: sections of notes, facts, tables, plots and pictures. ``page.html`` has a macro for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from microlatent.report.values import PROBABILITY, decimals, fixed, label, number, probability, two

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS, MAX_COLUMNS = 200, 60  # of a table in the page; the file has them all


@dataclass
class Note:
    """A sentence to the reader."""

    kind: ClassVar[str] = "note"
    text: str
    tone: str = "plain"  # plain, warning, error
    detail: str = ""  # a log's lines, for example


@dataclass
class Code:
    """Something to copy into a terminal, or a log."""

    kind: ClassVar[str] = "code"
    text: str
    name: str = "Command"


@dataclass
class Facts:
    """Terms and what they are."""

    kind: ClassVar[str] = "facts"
    items: list[tuple[str, str]]
    large: bool = False  # the numbers at the head of the page


@dataclass
class Cell:
    """What a table shows, and what it is sorted by."""

    text: str
    value: float | str | None = None

    def __post_init__(self) -> None:
        if self.value is None:
            self.value = self.text
        elif isinstance(self.value, float) and not math.isfinite(self.value):
            self.value = ""


@dataclass
class Table:
    """Columns that sort; ``numeric`` says which of them are numbers."""

    kind: ClassVar[str] = "table"
    columns: list[str]
    rows: list[list[Cell]]
    numeric: list[bool]
    caption: str = ""
    search: bool = False  # a field above that filters rows by their words

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str = "", limit: int = MAX_ROWS, labels: dict[str, str] | None = None) -> Table:
        """Return a table of a data frame's first rows; columns without any value are left out."""
        whole, wide = len(frame), frame.shape[1]
        frame = frame.loc[:, [name for name in frame if frame[name].notna().any()]].iloc[:limit, :MAX_COLUMNS]
        columns, numeric = [], []
        for name in frame:
            values = list(frame[name])
            if isinstance(values[0], Cell):
                columns.append(values)
                numeric.append(True)
                continue
            # Object columns may hold numbers beside words: they are numbers only if every value is one.
            is_number = all(isinstance(value, int | float) or value is None for value in (plain(v) for v in values))
            is_number &= frame[name].dtype != bool
            places = decimals(str(name), [plain(v) for v in values]) if is_number else None
            values = [plain(v) for v in values]
            if is_number and PROBABILITY.search(str(name)):
                columns.append([Cell(probability(v), v) for v in values])
            else:
                columns.append([Cell(fixed(v, places), v) if is_number else Cell(number(v)) for v in values])
            numeric.append(bool(is_number))
        if wide > MAX_COLUMNS:
            caption = f"{caption + '. ' if caption else ''}The first {MAX_COLUMNS} of {wide:,} columns"
        if whole > limit:
            caption = f"{caption + '. ' if caption else ''}The first {limit} of {whole:,} rows"
        names = [(labels or {}).get(str(name)) or label(str(name)) for name in frame]
        return cls(names, [list(row) for row in zip(*columns, strict=True)], numeric, caption, search=len(frame) > 12)


@dataclass
class Plot:
    """A figure that the page draws with Plotly, or by one of its own scripts (``draw``)."""

    kind: ClassVar[str] = "plot"
    key: str
    spec: dict[str, Any]
    alt: str
    title: str = ""
    caption: str = ""
    height: int = 260  # CSS pixels
    draw: str = "plotly"


@dataclass
class Picture:
    """A figure of the run folder; ``src`` is filled in when all pictures of the page are known."""

    kind: ClassVar[str] = "picture"
    alt: str
    caption: str = ""
    src: str = ""
    width: int = 0
    height: int = 0


@dataclass
class Grid:
    """Blocks side by side where there is room."""

    kind: ClassVar[str] = "grid"
    blocks: list[Any]
    size: str = "medium"  # small, medium: the least width of a cell
    legend: list[tuple[str, str]] = field(default_factory=list)  # (class, words) over all plots
    scale: bool = False  # a switch to logarithmic axes


@dataclass
class Folded:
    """Blocks behind a title that opens them; print shows them open."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: list[Any]
    printed: bool = True


@dataclass
class Widget:
    """A place that the page's script fills, such as the parallel coordinates of a sweep."""

    kind: ClassVar[str] = "widget"
    key: str
    alt: str


@dataclass
class Section:
    """A part of the page under its own heading."""

    key: str
    title: str
    blocks: list[Any] = field(default_factory=list)
    lead: str = ""


def plain(value: Any) -> Any:
    """Return a value of a data frame as Python has it; missing ones as None."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or (isinstance(value, float) and math.isnan(value)) or value != value else value


def with_interval(values: Any, lows: Any, highs: Any) -> list[Cell]:
    """Return "0.93 [0.91, 0.95]" for every row, sorted by its first number."""
    rows = zip(values, lows, highs, strict=True)
    texts = [f"{two(v)} [{two(low)}, {two(high)}]" if low == low else two(v) for v, low, high in rows]
    return [Cell(text, float(value)) for text, value in zip(texts, values, strict=True)]
