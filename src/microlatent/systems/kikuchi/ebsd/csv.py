"""Maps as CSV: x and y, and any of band contrast, phases, elements, PCA or cNMF features, clusters, or columns of one's own.

Names of columns are taken without regard to spaces around them, capitals and spaces within: "Band Contrast" is bandcontrast. A
chemical symbol is an element (Fe, "Fe wt%" with its unit, or "Fe Ka1" of a line): element_Fe. An y is a coordinate; beside it, Y
is yttrium. No is a running number, and no nobelium.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from microlatent.systems.kikuchi.ebsd.elements import ATOMIC_NUMBER
from microlatent.systems.kikuchi.ebsd.grid import map_around, refuse_doubled, whole_numbers
from microlatent.systems.kikuchi.ebsd.scan import Scan, grid_points

logger = logging.getLogger(__name__)
ALIASES = {"x_indice": "x", "y_indice": "y", "phase_id": "phase", "band_contrast": "bandcontrast", "bc": "bandcontrast"}
FEATURE = re.compile(r"(pca|cnmf)_(\d+)", re.IGNORECASE)
ELEMENT = re.compile(r"([A-Z][a-z]?)(?:[ _]+([KLM][ab]?\d*))?(?:[ _(]+((?i:wt ?%|at ?%|cps|counts))\)?)?")


def open_csv(path: Path) -> Scan:
    """Return the map of a file of one scan; it reaches from x = 0, y = 0 to the largest coordinates.

    Raises
    ------
    ValueError
        The columns x and y are missing, or coordinates are doubled or no columns and rows.
    """
    table, units = read_csv(path)
    if "scan" in table and table["scan"].nunique() > 1:
        raise ValueError(
            f"{path} is of {table['scan'].nunique()} scans, but a map of one. Give it as data.maps, the scans as data.root."
        )
    shape = map_around(path, table["y"].to_numpy(), table["x"].to_numpy())
    columns = {name: table[name].to_numpy() for name in table if name not in ("x", "y", "scan")}
    points, _ = grid_points(path, shape, None, columns, y=table["y"].to_numpy(), x=table["x"].to_numpy())
    return Scan(name=path.stem, path=path, format="CSV", map_shape=shape, points=points, elements=units)


def read_csv(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the columns under their normalised names, and the units of the elements.

    Rows with text where a number should be are dropped with a count; empty cells become NaN, and columns of text are left out.

    Raises
    ------
    ValueError
        The columns x and y are missing, rows have more fields than the headers, or coordinates are doubled or no whole numbers.
    """
    headers, table, separator, first_line = read_fields(path)
    names, units = _names(path, headers)
    table.columns = names
    missing = [name for name in ("x", "y") if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no column {' and no '.join(missing)}; it has {names}. A map needs x and y, columns and rows from 0, "
            "such as x, y, bandcontrast: rename its headers."
        )
    table = _numeric(path, table, decimal_comma=separator != ",", first_line=first_line)
    if table.empty:
        raise ValueError(f"{path} has no row of numbers below its headers {names}. Write the map again.")
    for axis in "xy":
        table[axis] = whole_numbers(path, axis, table[axis].to_numpy())
    for _, rows in table.groupby("scan") if "scan" in table else [("", table)]:
        refuse_doubled(path, rows)
    return table, {name: unit for name, unit in units.items() if name in table}


def read_fields(path: Path) -> tuple[list[str], pd.DataFrame, str, int]:
    """Read the headers of a CSV, the fields below them as pandas takes them, what separates them, and the first row's line."""
    raw = path.read_bytes()
    utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")  # Excel's "Unicode text"
    lines = raw.decode("utf-16" if utf16 else "utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    begin = 0
    while begin < len(lines) - 1 and re.match(r"\s*(#|sep=.\s*$|$)", lines[begin]):  # comments, and what Excel writes for itself
        begin += 1
    separator = max(",;\t", key=lines[begin].count)
    headers = [name.strip() for name in next(csv.reader([lines[begin]], delimiter=separator, skipinitialspace=True), [])]
    # No row has more fields than separators and one; those without a header are looked at, never taken for an index.
    most = max(len(headers), max(line.count(separator) for line in lines[begin:]) + 1)
    try:
        table = pd.read_csv(
            io.StringIO("\n".join(lines[begin + 1 :])),
            sep=separator,
            header=None,
            names=range(most),
            index_col=False,
            skipinitialspace=True,
            low_memory=False,
            converters={at: str.strip for at, name in enumerate(headers) if name.lower() == "scan"},  # 001 is no number
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no table with one line of headers ({error}). Write the map again as CSV.") from error
    unnamed = [at for at in range(1, most) if at >= len(headers) or not headers[at]]
    surplus = table[unnamed].notna().any(axis=1).to_numpy()
    if surplus.any():
        first = int(np.flatnonzero(surplus)[0])
        raise ValueError(
            f"{path}: {int(surplus.sum())} of {len(table)} rows have more fields than headers "
            f"({', '.join(name for name in headers if name)}), the first is line {begin + 2 + first}. A decimal comma may part a "
            "number: write decimal points, or separate fields by semicolons."
        )
    named = [at for at, name in enumerate(headers) if name]  # without a header, a first column is the number of the row
    return [headers[at] for at in named], table[named], separator, begin + 2


def _names(path: Path, headers: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return our names of the columns, and the units of those that are elements."""
    names, units = [], {}
    has_y = any(header in ("y", "y_indice") for header in headers)
    for header in headers:
        name, element, feature = re.sub(r"\s+", "_", header.lower()), ELEMENT.fullmatch(header), FEATURE.fullmatch(header)
        if element and element[1] in ATOMIC_NUMBER and (header != "Y" or has_y) and header != "No":
            name = f"element_{element[1]}"
            if element[2] and name in names:  # another line of that element
                name = f"{name}_{element[2]}"
            units[name] = (element[3] or "").replace(" ", "").lower()
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


def _numeric(path: Path, table: pd.DataFrame, decimal_comma: bool, first_line: int) -> pd.DataFrame:
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
            int(np.flatnonzero(bad)[0]) + first_line,
        )
        table = table[~bad].reset_index(drop=True)
    if "scan" in table:
        table["scan"] = table["scan"].astype(str).str.strip()
    # A column that was text for the sake of its dropped rows is of whole numbers again where all are.
    whole = {name: np.int64 for name in table if table[name].dtype.kind == "f" and (table[name] % 1 == 0).all()}
    return table.astype(whole)
