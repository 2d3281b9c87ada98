"""Read and check ``annotations.csv``: one row per particle, every wrong value named with its row.

Row numbers in messages are those of a text editor or spreadsheet: the header is row 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

# What becomes of wrong values: (rows of the column that are wrong, the column, what would put them right)
Reject = Callable[[pd.Series, pd.Series, str], None]

REQUIRED_COLUMNS = ("label", "baseimg", "class", "res")
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
MAX_LABEL = 65535  # of a 16-bit label image
_SIZE_COLUMNS = ("height", "width")
_NUMBER_COLUMNS = ("label", "res", "mass", "area", *_SIZE_COLUMNS, *BOX_COLUMNS)
_UNKNOWN = ("", "nan", "na", "none", "null")
_TRUTH = dict.fromkeys(("true", "1", "1.0"), True) | dict.fromkeys(("false", "0", "0.0", *_UNKNOWN), False)


def read_annotations(path: Path) -> pd.DataFrame:
    """Read an ``annotations.csv`` (reference section 6.2) with the right type in every column.

    Args:
        path: the file.

    Returns:
        table indexed by CSV row number, with at least the columns ``label`` (int), ``baseimg`` (str),
        ``class`` (str), ``res`` (px/mm), ``mass`` (g, NaN = unknown), ``gt_mass`` (bool), ``area`` (px, NaN =
        unknown). ``x0 y0 x1 y1`` (as in the file), ``height`` and ``width`` (px, NaN where blank) only if the
        file has them.

    Raises:
        RamsesError: file missing or not a CSV; column missing; a value that cannot be used.
    """
    table = read_text_table(path)
    missing = missing_columns(table)
    if missing:
        raise RamsesError(
            f"{path}: column {', '.join(missing)} is missing (found: {', '.join(table.columns) or 'none'}); "
            f"add it, see datasets/README.md"
        )
    table = convert_columns(table, partial(_raise_first, path))
    table["label"] = table["label"].astype(np.int64)
    return table


def missing_columns(table: pd.DataFrame) -> list[str]:
    """The columns that every ``annotations.csv`` must have and this one lacks."""
    return [name for name in REQUIRED_COLUMNS if name not in table.columns]


def convert_columns(table: pd.DataFrame, reject: Reject) -> pd.DataFrame:
    """Give every column its type.

    Args:
        table: from :func:`read_text_table`, with the required columns.
        reject: called with the values that cannot be used, perhaps twice for one value; where it returns, they become
            NaN, "" or False.

    Returns:
        the columns that :func:`read_annotations` describes; ``label`` is float.
    """
    table = table.copy()
    for name in _NUMBER_COLUMNS:
        if name in table.columns:
            table[name] = _numbers(table[name], reject)
    for name in ("mass", "area"):
        if name not in table.columns:
            table[name] = np.nan
    table["gt_mass"] = _truths(table["gt_mass"], reject) if "gt_mass" in table.columns else False

    reject(table["baseimg"] == "", table["baseimg"], "give the image's base name")
    reject(table["class"] == "", table["class"], "give the class name")
    label, res, mass = table["label"], table["res"], table["mass"]
    for column, wrong, remedy in (
        (label, ~(label.between(1, MAX_LABEL) & (label % 1 == 0)), f"a label is a whole number from 1 to {MAX_LABEL}"),
        (res, ~(res > 0) | np.isinf(res), "the resolution is px per mm, above 0"),
        (mass, (mass <= 0) | np.isinf(mass), "a mass is in grams, above 0, or NaN where unknown"),
    ):
        reject(wrong, column, remedy)
        table[column.name] = column.mask(wrong)
    for name in (name for name in _SIZE_COLUMNS if name in table.columns):
        wrong = (table[name] < 1) | np.isinf(table[name])
        reject(wrong, table[name], "the size of the image is in px, 1 or more, or blank")
        table[name] = table[name].mask(wrong)
    return table


def reject_duplicates(table: pd.DataFrame, path: Path) -> None:
    """Stop when two rows name the same object, that is the same ``baseimg`` and ``label``.

    Raises:
        RamsesError: with the row of the second one.
    """
    duplicated = table.duplicated(["baseimg", "label"])
    if duplicated.any():
        row = duplicated.idxmax()
        raise RamsesError(
            f"{path}, row {row}: label {table.at[row, 'label']} of image {table.at[row, 'baseimg']} "
            f"appears a second time; one row per object"
        )


def read_text_table(path: Path, content: str | None = None) -> pd.DataFrame:
    """All cells as stripped text, blank lines dropped, index = row number in the file.

    Args:
        path: the file.
        content: read this instead of the file's content.

    Raises:
        RamsesError: file missing or not a comma-separated table; a column is there twice.
    """
    if not path.is_file():
        raise RamsesError(f"{path}: no such file; a RAMSES folder holds annotations.csv, images/ and labels/")
    try:
        table, header = (_read_cells(path, content, **rows) for rows in ({}, {"header": None, "nrows": 1}))
    except pd.errors.EmptyDataError:
        raise RamsesError(f"{path}: the file is empty; it needs at least the header row") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise RamsesError(f"{path}: not a comma-separated UTF-8 table ({' '.join(str(error).split())})") from None
    if any(";" in name for name in table.columns):
        raise RamsesError(f"{path}: separated by semicolons; save it with commas between cells and points in numbers")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells for row names
        raise RamsesError(f"{path}: rows have more cells than the header; numbers need a decimal point, not a comma")
    names = header.iloc[0].fillna("").str.strip()  # as written: pandas calls a second "mass" "mass.1"
    twice = names[names.duplicated() & (names != "")]
    if len(twice):
        raise RamsesError(f"{path}: column {twice.iloc[0]} is there twice; remove or rename one")
    table.columns = table.columns.str.strip()
    table.index += 2
    table = table.fillna("").apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)].copy()


def _read_cells(path: Path, content: str | None, **rows: Any) -> pd.DataFrame:
    """All cells of a CSV, or those of the rows that pandas is told to read."""
    source = path if content is None else StringIO(content)
    text = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
    return pd.read_csv(source, **text, **rows)


def describe_value(name: str, value: str | float, remedy: str) -> str:
    """What is wrong with a value of column ``name``, and what to do."""
    return f"{name} is {f'{value:g}' if isinstance(value, float) else repr(value)}; {remedy}"


def _numbers(column: pd.Series, reject: Reject) -> pd.Series:
    """Text to float; an unknown value ("", "NaN" ...) becomes NaN."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    reject(numbers.isna() & ~column.str.lower().isin(_UNKNOWN), column, "write a number, with a decimal point")
    return numbers


def _truths(column: pd.Series, reject: Reject) -> pd.Series:
    truths = column.str.lower().map(_TRUTH)
    reject(truths.isna(), column, "write True or False")
    return truths.eq(True)


def _raise_first(path: Path, wrong: pd.Series, column: pd.Series, remedy: str) -> None:
    """Raise for the first row in which ``wrong`` is true."""
    if wrong.any():
        row = wrong.idxmax()
        raise RamsesError(f"{path}, row {row}: {describe_value(column.name, column[row], remedy)}")
