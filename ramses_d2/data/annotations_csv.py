"""Read and check ``annotations.csv``: one row per particle, every wrong value named with its row.

Row numbers in messages are those of a text editor or spreadsheet: the header is row 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

REQUIRED_COLUMNS = ("label", "baseimg", "class", "res")
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
MAX_LABEL = 65535  # of a 16-bit label image
_NUMBER_COLUMNS = ("label", "res", "mass", "area", "height", "width", *BOX_COLUMNS)
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
    table = _read_text_table(path)
    missing = [name for name in REQUIRED_COLUMNS if name not in table.columns]
    if missing:
        raise RamsesError(
            f"{path}: column {', '.join(missing)} is missing (found: {', '.join(table.columns) or 'none'}); "
            f"add it, see datasets/README.md"
        )
    for name in _NUMBER_COLUMNS:
        if name in table.columns:
            table[name] = _numbers(table[name], path)
    for name in ("mass", "area"):
        if name not in table.columns:
            table[name] = np.nan
    table["gt_mass"] = _truths(table["gt_mass"], path) if "gt_mass" in table.columns else False

    _reject(table["baseimg"] == "", table["baseimg"], path, "give the image's base name")
    _reject(table["class"] == "", table["class"], path, "give the class name")
    label = table["label"]
    is_label = label.between(1, MAX_LABEL) & (label % 1 == 0)
    _reject(~is_label, label, path, f"a label is a whole number from 1 to {MAX_LABEL}")
    _reject(
        ~(table["res"] > 0) | np.isinf(table["res"]),
        table["res"],
        path,
        "the resolution is px per mm, above 0",
    )
    mass = table["mass"]
    _reject((mass <= 0) | np.isinf(mass), mass, path, "a mass is in grams, above 0, or NaN where unknown")
    table["label"] = label.astype(np.int64)
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


def _read_text_table(path: Path) -> pd.DataFrame:
    """All cells as stripped text, blank lines dropped, index = row number in the file."""
    if not path.is_file():
        raise RamsesError(f"{path}: no such file; a RAMSES folder holds annotations.csv, images/ and labels/")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        raise RamsesError(f"{path}: the file is empty; it needs at least the header row") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise RamsesError(f"{path}: not a comma-separated UTF-8 table ({' '.join(str(error).split())})") from None
    if any(";" in name for name in table.columns):
        raise RamsesError(f"{path}: separated by semicolons; save it with commas between cells and points in numbers")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells for row names
        raise RamsesError(f"{path}: rows have more cells than the header; numbers need a decimal point, not a comma")
    table.columns = table.columns.str.strip()
    table.index += 2
    table = table.fillna("").apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)].copy()


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """Text to float; an unknown value ("", "NaN" ...) becomes NaN."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    _reject(
        numbers.isna() & ~column.str.lower().isin(_UNKNOWN),
        column,
        path,
        "write a number, with a decimal point",
    )
    return numbers


def _truths(column: pd.Series, path: Path) -> pd.Series:
    truths = column.str.lower().map(_TRUTH)
    _reject(truths.isna(), column, path, "write True or False")
    return truths.astype(bool)


def _reject(wrong: pd.Series, column: pd.Series, path: Path, remedy: str) -> None:
    """Raise for the first row in which ``wrong`` is true."""
    if wrong.any():
        row = wrong.idxmax()
        value = f"{column[row]:g}" if isinstance(column[row], float) else repr(column[row])
        raise RamsesError(f"{path}, row {row}: {column.name} is {value}; {remedy}")
