"""Read ``annotations.csv`` as far as possible and collect everything that is wrong in it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from ramses_d2.data.folder import convert_columns, describe_value, missing_columns, read_text_table
from ramses_d2.errors import RamsesError


@dataclass(frozen=True)
class CsvProblem:
    """Something wrong in an ``annotations.csv``.

    Attributes:
        row: row in the file, None for the whole file.
        column: its column, None for the whole row.
        message: what is wrong and what to do.
    """

    row: int | None
    column: str | None
    message: str


@dataclass(frozen=True)
class AnnotationScan:
    """An ``annotations.csv`` as far as it can be read.

    Attributes:
        text: the cells as stripped text, index = row, without the rows in ``surplus``.
        table: the same rows with the types and columns of :func:`ramses_d2.data.folder.read_annotations`, but
            ``label`` is float, and a value that cannot be used is NaN, "" or False.
        surplus: row -> cells, of the rows with more cells than the header.
        problems: sorted by row.
    """

    text: pd.DataFrame
    table: pd.DataFrame
    surplus: dict[int, list[str]]
    problems: list[CsvProblem]


def scan_annotations(path: Path) -> AnnotationScan:
    """Read an ``annotations.csv`` without stopping at the first wrong value.

    Args:
        path: the file.

    Raises:
        RamsesError: nothing can be read: file missing, no comma-separated table, no column ``label`` or ``baseimg``.
    """
    text, surplus = _read_text(path)
    missing = missing_columns(text)
    if {"label", "baseimg"} & set(missing):
        raise RamsesError(f"{path}: column {', '.join(missing)} is missing; add it, see datasets/README.md")
    problems = {(None, name): CsvProblem(None, name, f"column {name} is missing; add it") for name in missing}
    width = len(text.columns)
    for row, cells in surplus.items():
        message = f"has {len(cells)} cells, the header has {width}; numbers need a decimal point, not a comma"
        problems[row, None] = CsvProblem(row, None, message)

    def collect(wrong: pd.Series, column: pd.Series, remedy: str) -> None:
        for row, value in column[wrong].items():
            if column.name not in missing:  # the first reason counts: "x" is no number, and so no label either
                message = describe_value(column.name, value, remedy)
                problems.setdefault((row, column.name), CsvProblem(row, column.name, message))

    table = convert_columns(text.assign(**dict.fromkeys(missing, "")), collect)
    return AnnotationScan(text, table, surplus, sorted(problems.values(), key=lambda problem: problem.row or 0))


def _read_text(path: Path) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    """The text table, and the rows that must be left out for it to be one."""
    try:
        return read_text_table(path), {}
    except RamsesError:
        rows = _read_cells(path)
        surplus = {number: cells for number, cells in enumerate(rows, start=1) if len(cells) > len(rows[0])}
        if not surplus:
            raise
    kept = StringIO()
    # A blank line in its place keeps the numbers of the rows behind
    csv.writer(kept).writerows([] if number in surplus else cells for number, cells in enumerate(rows, start=1))
    return read_text_table(path, kept.getvalue()), surplus


def _read_cells(path: Path) -> list[list[str]]:
    """All cells; no rows where the file is no table at all."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
