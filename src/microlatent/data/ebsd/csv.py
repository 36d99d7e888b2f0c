"""Maps as CSV: x and y, and any of band contrast, phases, elements, PCA or cNMF features, clusters, or columns of one's own.

Names of columns are taken without regard to spaces around them, capitals and spaces within: "Band Contrast" is bandcontrast. A
chemical symbol is an element (Fe, or "Fe wt%" with its unit): element_Fe. An y is a coordinate; beside it, Y is yttrium.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.data.ebsd.elements import ATOMIC_NUMBER
from microlatent.data.ebsd.scan import Scan, grid_points, refuse_doubled, whole_numbers

logger = logging.getLogger(__name__)
ALIASES = {"x_indice": "x", "y_indice": "y", "phase_id": "phase", "band_contrast": "bandcontrast", "bc": "bandcontrast"}
FEATURE = re.compile(r"(pca|cnmf)_(\d+)", re.IGNORECASE)
ELEMENT = re.compile(r"([A-Z][a-z]?)(?:[ _(]+(wt ?%|at ?%|cps|counts)\)?)?")


def open_csv(path: Path) -> Scan:
    """Return the map of a file of one scan; it reaches from x = 0, y = 0 to the largest coordinates.

    Raises
    ------
    ValueError
        The columns x and y are missing, or coordinates are doubled or no whole numbers.
    """
    table, units = read_csv(path)
    if "scan" in table and table["scan"].nunique() > 1:
        raise ValueError(
            f"{path} is of {table['scan'].nunique()} scans, but a map of one. Give it as data.maps, the scans as data.root."
        )
    shape = int(table["y"].max()) + 1, int(table["x"].max()) + 1
    columns = {name: table[name].to_numpy() for name in table if name not in ("x", "y", "scan")}
    points, _ = grid_points(path, shape, None, columns, y=table["y"].to_numpy(), x=table["x"].to_numpy())
    return Scan(name=path.stem, path=path, format="CSV", map_shape=shape, points=points, elements=units)


def read_csv(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the columns under their normalised names, and the units of the elements.

    Rows with text where a number should be are dropped with a count; empty cells become NaN, and columns of text are left out.

    Raises
    ------
    ValueError
        The columns x and y are missing, or coordinates are doubled or no whole numbers.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        separator = max(",;\t", key=file.readline().count)
    try:
        table = pd.read_csv(
            path, sep=separator, encoding="utf-8-sig", encoding_errors="replace", skipinitialspace=True, low_memory=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no table with one line of headers ({error}). Write the map again as CSV.") from error
    names, units = _names(path, [str(name).strip() for name in table.columns])
    table.columns = names
    missing = [name for name in ("x", "y") if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no column {' and no '.join(missing)}; it has {names}. A map needs x and y, columns and rows from 0, "
            "such as x, y, bandcontrast: rename its headers."
        )
    table = _numeric(path, table, decimal_comma=separator != ",")
    if table.empty:
        raise ValueError(f"{path} has no row of numbers below its headers {names}. Write the map again.")
    for axis in "xy":
        table[axis] = whole_numbers(path, axis, table[axis].to_numpy())
    for _, rows in table.groupby("scan") if "scan" in table else [("", table)]:
        refuse_doubled(path, rows)
    return table, {name: unit for name, unit in units.items() if name in table}


def _names(path: Path, headers: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return our names of the columns, and the units of those that are elements."""
    names, units = [], {}
    has_y = any(header in ("y", "y_indice") for header in headers)
    for header in headers:
        name, element, feature = re.sub(r"\s+", "_", header.lower()), ELEMENT.fullmatch(header), FEATURE.fullmatch(header)
        if element and element[1] in ATOMIC_NUMBER and (header != "Y" or has_y):
            name = f"element_{element[1]}"
            units[name] = (element[2] or "").replace(" ", "")
        elif feature:
            name = f"{'PCA' if feature[1].lower() == 'pca' else 'cNMF'}_{int(feature[2])}"
        elif re.fullmatch(r"element_[A-Z][a-z]?", header):
            name = header
            units[name] = ""
        names.append(ALIASES.get(name, name))
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"{path} has more than one column {doubled}: its headers are {headers}. Rename or remove one of them.")
    return names, units


def _numeric(path: Path, table: pd.DataFrame, decimal_comma: bool) -> pd.DataFrame:
    """Return the table as numbers, without rows that hold text, and without columns of text alone."""
    bad, texts = np.zeros(len(table), bool), []
    for name in table.columns.drop("scan", errors="ignore"):
        if table[name].dtype.kind in "iuf":
            continue
        written = table[name].astype("string").str.strip()
        numbers = pd.to_numeric(written.str.replace(",", ".") if decimal_comma else written, errors="coerce")
        is_text = (numbers.isna() & written.notna() & (written != "")).to_numpy()
        if numbers.isna().all() and is_text.any() and name not in ("x", "y"):
            texts.append(name)
            continue
        bad |= is_text
        table[name] = numbers.astype(float)
    if texts:
        logger.warning("%s: columns %s hold no numbers and are left out.", path, texts)
        table = table.drop(columns=texts)
    bad |= table[["x", "y"]].isna().any(axis=1).to_numpy()
    if bad.any():
        logger.warning(
            "%s: %d of %d rows hold text where numbers should be, or no coordinates, and are dropped; the first is line %d.",
            path,
            int(bad.sum()),
            len(table),
            int(np.flatnonzero(bad)[0]) + 2,
        )
        table = table[~bad].reset_index(drop=True)
    if "scan" in table:
        table["scan"] = table["scan"].astype(str).str.strip()
    # A column that was text for the sake of its dropped rows is of whole numbers again where all are.
    whole = {name: np.int64 for name in table if table[name].dtype.kind == "f" and (table[name] % 1 == 0).all()}
    return table.astype(whole)
