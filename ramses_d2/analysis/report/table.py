"""A table of the report: the same numbers as a CSV file, and rounded as text for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

NOTHING = "–"
_TEXT, _LIST, _COUNT, _PLAIN, _DECIMALS = "text", "list", "count", "plain", "decimals"


@dataclass(frozen=True)
class Column:
    """A column of a table on a page.

    Attributes:
        keys: columns of the data; two are the ends of a range, shown as "low – high".
        heading: with the unit.
        kind: "text", "count" (whole numbers), "plain" (as short as possible, for openings), "decimals", or
            "list" (text, parted by "; ").
        decimals: how many are shown; None = as many as give the largest value of the column four digits.
        sign: show + as well as -.
    """

    keys: tuple[str, ...]
    heading: str
    kind: str = _TEXT
    decimals: int | None = None
    sign: bool = False

    @property
    def is_number(self) -> bool:
        return self.kind not in (_TEXT, _LIST)

    def texts(self, data: pd.DataFrame) -> list[str]:
        """One text per row."""
        decimals = self._decimals(data)
        parts = [[self._text(value, decimals) for value in data[key]] for key in self.keys]
        return [
            NOTHING if set(texts) == {NOTHING} else f"\u00a0{NOTHING}\u00a0".join(texts)
            for texts in zip(*parts, strict=True)
        ]

    def text_of(self, value: Any, data: pd.DataFrame) -> str:
        """The text of one more value of this column, with as many decimals as its rows."""
        return self._text(value, self._decimals(data))

    def _decimals(self, data: pd.DataFrame) -> int:
        if self.kind != _DECIMALS or self.decimals is not None:
            return self.decimals or 0
        largest = pd.to_numeric(data[list(self.keys)].stack(), errors="coerce").abs().max()
        return next(
            (places for places, limit in enumerate((1000, 100, 10)) if largest >= limit), 3 if largest > 0 else 0
        )

    def _text(self, value: Any, decimals: int) -> str:
        if value is None or value is pd.NA or value != value:
            return NOTHING
        if value == math.inf:  # an interval without an upper end
            return "\u221e"
        if self.kind == _TEXT:
            return str(value)
        if self.kind == _LIST:  # lines break between the parts only
            parts = str(value).replace(" ", "\u00a0").replace("-", "\u2011").split(";\u00a0")
            return " · ".join(parts)
        if self.kind == _PLAIN:
            return f"{value:g}"
        # A minus sign as long as a plus; thousands apart by a space that does not break
        text = f"{value:{'+' if self.sign else ''},.{decimals}f}"
        zero = not any(digit in text for digit in "123456789")
        return text.lstrip("+-") if zero else text.replace(",", "\u202f").replace("-", "\u2212")


def text(key: str, heading: str) -> Column:
    """A column of text."""
    return Column((key,), heading)


def items(key: str, heading: str) -> Column:
    """A column of several short texts each, parted by "; "."""
    return Column((key,), heading, _LIST)


def count(key: str, heading: str) -> Column:
    """A column of whole numbers."""
    return Column((key,), heading, _COUNT)


def plain(key: str, heading: str) -> Column:
    """A column of numbers that are no measurements, such as openings."""
    return Column((key,), heading, _PLAIN)


def number(key: str, heading: str, decimals: int | None = None, *, sign: bool = False) -> Column:
    """A column of numbers."""
    return Column((key,), heading, _DECIMALS, decimals, sign)


def span(low: str, high: str, heading: str, decimals: int | None = None) -> Column:
    """A column of ranges."""
    return Column((low, high), heading, _DECIMALS, decimals)


@dataclass(frozen=True)
class ReportTable:
    """A table.

    Attributes:
        name: of its CSV file, after the report's name.
        caption: says what it shows.
        data: all columns of the CSV file, unrounded.
        columns: what a page shows, in order; the first names the row, and columns without any text are left out.
        totals: values of a last row on the page, by key of ``data``.
        on_page: False = too long for a page, the CSV file only.
    """

    name: str
    caption: str
    data: pd.DataFrame
    columns: Sequence[Column]
    totals: dict[str, Any] = field(default_factory=dict)
    on_page: bool = True

    def __post_init__(self) -> None:
        kept = [column for column in self.columns if column.is_number or any(map(str, self.data[column.keys[0]]))]
        object.__setattr__(self, "columns", kept)

    def headings(self) -> list[tuple[str, bool]]:
        """Heading of each column, and whether it holds numbers."""
        # A unit stays with its name
        return [(column.heading.replace(", ", ",\u00a0"), column.is_number) for column in self.columns]

    def rows(self) -> list[list[tuple[str, bool]]]:
        """Texts of each row, each with whether it is a number."""
        texts = [column.texts(self.data) for column in self.columns]
        return [
            [(cell, column.is_number) for cell, column in zip(cells, self.columns, strict=True)]
            for cells in zip(*texts, strict=True)
        ]

    def total_row(self) -> list[tuple[str, bool]]:
        """Texts of the last row, with as many decimals as its column; empty without totals."""
        if not self.totals:
            return []
        texts = [
            column.text_of(self.totals[column.keys[0]], self.data) if column.keys[0] in self.totals else ""
            for column in self.columns
        ]
        return [(cell, column.is_number) for cell, column in zip(texts, self.columns, strict=True)]

    def to_csv(self) -> str:
        """The text of its CSV file: unknown figures are empty, six digits."""
        return self.data.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def percent(table: pd.DataFrame, **renamed: str) -> pd.DataFrame:
    """A copy in which fractions became percentages under a new name: ``percent(table, low="low_percent")``."""
    scaled = table.copy()
    for name in renamed:
        scaled[name] = 100 * scaled[name].astype(float)
    return scaled.rename(columns=renamed)
