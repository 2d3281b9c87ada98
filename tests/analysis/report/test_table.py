"""Texts of tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.report.table import NOTHING, ReportTable, count, items, number, plain, span, text
from ramses_d2.analysis.report.words import many, percent_text, sentence


@pytest.mark.parametrize(
    ("column", "data", "texts"),
    [
        (number("a", "a"), [1234.5, -3.25, np.nan], ["1\u202f234", "\u22123", NOTHING]),
        (number("a", "a"), [12.345, 0.1], ["12.35", "0.10"]),
        (number("a", "a"), [0.1234, 0.0], ["0.123", "0.000"]),
        (number("a", "a"), [0.0, np.nan], ["0", NOTHING]),
        (number("a", "a", 1, sign=True), [0.04, 2.0, -2.0], ["0.0", "+2.0", "\u22122.0"]),
        (count("a", "a"), [1000, None], ["1\u202f000", NOTHING]),
        (plain("a", "a"), [0.063, 31.5, 4.0], ["0.063", "31.5", "4"]),
        (text("a", "a"), ["", "x", None], ["", "x", NOTHING]),
        (items("a", "a"), ["Rb10- 1 %; Rb30- 9 %"], ["Rb10\u2011\u00a01\u00a0% · Rb30\u2011\u00a09\u00a0%"]),
    ],
)
def test_texts(column: Any, data: list[Any], texts: list[str]) -> None:
    assert column.texts(pd.DataFrame({"a": data})) == texts


def test_range_and_total() -> None:
    data = pd.DataFrame({"name": ["x", "y"], "low": [1.0, np.nan], "high": [2.5, np.nan], "note": ["", ""]})
    table = ReportTable(
        "t", "c", data, [text("name", "n"), span("low", "high", "r", 1), text("note", "e")], {"name": "all"}
    )
    assert table.rows() == [[("x", False), ("1.0\u00a0–\u00a02.5", True)], [("y", False), (NOTHING, True)]]
    assert table.total_row() == [("all", False), ("", True)]


def test_words() -> None:
    assert sentence("unknown mass: 2 particles (0.2% by number, 5 % by area)") == (
        "Unknown mass: 2 particles (0.2\u00a0% by number, 5\u00a0% by area)."
    )
    assert percent_text(0.95) == "95\u00a0%" and percent_text(-0.0123, 1, sign=True) == "\u22121.2\u00a0%"
    assert [many(1, "batch", "batches"), many(2, "batch", "batches"), many(0, "picture")] == [
        "1 batch",
        "2 batches",
        "0 pictures",
    ]
