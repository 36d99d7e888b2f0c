"""Outcomes of subjects, from a CSV with the columns subject and outcome, matched by name to the subjects of a latents table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microlatent.data.store import Store

logger = logging.getLogger(__name__)


class Outcomes(NamedTuple):
    """A binary outcome of subjects."""

    subjects: list[str]  # those whose outcome is known, in the order they were asked for
    labels: NDArray  # (S,) 0 or 1
    names: tuple[str, str]  # of 0 and 1, in alphabetical order


def find_outcomes(path: str | None, stores: Sequence[Store]) -> Path:
    """Return the file of outcomes: ``task.outcomes``, else the one that comes with the simulated tissue.

    Raises
    ------
    ValueError
        It is not named, and the stores are not of the simulated tissue.
    """
    if path is not None:
        return Path(path)
    about = stores[0].origin
    if about.get("data_root") == "demo":
        return Path(about["root"]) / "outcomes.csv"
    raise ValueError(
        "task=outcome needs to know the outcomes, but task.outcomes is not set. Give task.outcomes=<file.csv> with the columns "
        "subject, outcome and a row for each subject."
    )


def read_outcomes(path: Path, subjects: Sequence[str], fewest: int) -> Outcomes:
    """Read the outcomes of the subjects.

    A subject whose outcome is left empty is left out; one that the file does not name is refused, since its name may be
    misspelt.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file lacks a column, names a subject twice or not at all, holds other than two outcomes, or too few subjects of one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} (from task.outcomes). It needs the columns subject and outcome.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(
            f"{path} (from task.outcomes) cannot be read as CSV: {error}. Save it as comma-separated UTF-8."
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in ("subject", "outcome") if name not in table]
    if missing:
        raise ValueError(
            f"{path} (from task.outcomes) has no column {' and no column '.join(missing)}; it has {', '.join(table.columns)}. "
            "Name its columns subject and outcome, separated by a comma."
        )
    table = table[["subject", "outcome"]].apply(lambda column: column.str.strip())
    twice = table["subject"][table["subject"].duplicated()].unique()
    if len(twice):
        raise ValueError(f"{path} names {listed(twice)} more than once. Leave one row for each subject.")
    known = dict(zip(table["subject"], table["outcome"], strict=True))
    absent = [name for name in subjects if name not in known]
    if absent:
        raise ValueError(
            f"{path} has no outcome for {listed(absent)} of the latents table; it names {listed(list(known))}. Add a row for "
            "each, with an empty outcome where it is not known."
        )
    extra = [name for name in known if name not in set(subjects)]
    if extra:
        logger.warning(f"{path} also names {listed(extra)}, of which the latents table has no partition: not used.")
    used = [name for name in subjects if known[name]]
    if len(used) < len(subjects):
        logger.warning(f"Subjects without an outcome are left out: {listed([name for name in subjects if not known[name]])}.")
    counts = pd.Series([known[name] for name in used], dtype=str).value_counts().sort_index()
    found = ", ".join(f"{name!r} ({number} subject{'s' if number > 1 else ''})" for name, number in counts.items()) or "none"
    if len(counts) != 2:
        raise ValueError(
            f"task=outcome tells two outcomes apart, but {path} has {len(counts)} for the subjects of the latents table: "
            f"{found}. Join outcomes into two, or leave the outcome of subjects empty that shall not count."
        )
    if counts.min() < fewest:
        raise ValueError(
            f"There are too few subjects to learn an outcome from: {path} has {found}, and at least {fewest} of each are needed. "
            "With fewer, a held-out subject leaves too little to learn from, and no result could be told from chance."
        )
    names = tuple(str(name) for name in counts.index)
    return Outcomes(used, np.array([names.index(known[name]) for name in used]), names)


def listed(names: Sequence[str]) -> str:
    """Return up to ten names in a row."""
    return ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
