"""Texts of tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.report.build import many, percent_text, sentence
from ramses_d2.analysis.report.tables import NOTHING, page_table


@pytest.mark.parametrize(
    ("form", "data", "texts"),
    [
        (",.?f", [1234.5, -3.25, np.nan], ["1\u202f234", "\u22123", NOTHING]),
        (",.?f", [12.345, 0.1], ["12.35", "0.10"]),
        (",.?f", [100.0, 99.0], ["100.0", "99.0"]),
        (",.?f", [0.1234, 0.0], ["0.123", "0.000"]),
        (",.?f", [0.0, np.nan], ["0", NOTHING]),
        ("+,.1f", [0.04, 2.0, -2.0, np.inf], ["0.0", "+2.0", "\u22122.0", "\u221e"]),
        (",.0f", [1000, None], ["1\u202f000", NOTHING]),
        ("g", [0.063, 31.5, 4.0], ["0.063", "31.5", "4"]),
        ("text", ["", "x", None], ["", "x", NOTHING]),
        ("list", ["Rb10- 1 %; Rb30- 9 %"], ["Rb10\u2011\u00a01\u00a0% · Rb30\u2011\u00a09\u00a0%"]),
    ],
)
def test_texts(form: str, data: list[Any], texts: list[str]) -> None:
    is_number = form not in ("text", "list")
    rows = page_table(pd.DataFrame({"a": data}), [("a", "size, mm", form)], {})
    assert rows == [[(text, is_number)] for text in ["size,\u00a0mm", *texts]]


def test_range_total_and_columns_without_text() -> None:
    data = pd.DataFrame({"name": ["x", "y"], "low": [1.0, np.nan], "high": [2.5, np.nan], "note": ["", ""]})
    columns = [("name", "n", "text"), ("low high", "r", ",.1f"), ("note", "e", "text"), ("absent", "a", ",.1f")]
    assert page_table(data, columns, {"name": "all", "note": "?"}) == [
        [("n", False), ("r", True)],
        [("x", False), ("1.0\u00a0–\u00a02.5", True)],
        [("y", False), (NOTHING, True)],
        [("all", False), ("", True)],
    ]


def test_words() -> None:
    assert sentence("unknown mass: 2 particles (0.2% by number, 5 % by area)") == (
        "Unknown mass: 2 particles (0.2\u00a0% by number, 5\u00a0% by area)."
    )
    assert percent_text(0.95) == "95\u00a0%" and percent_text(-0.0123, 1, sign=True) == "\u22121.2\u00a0%"
    assert [many(1, "batch", "batches"), many(2, "batch", "batches"), many(0, "image")] == [
        "1 batch",
        "2 batches",
        "0 images",
    ]
