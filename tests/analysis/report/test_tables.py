"""Texts of tables, and that a page shows the values of the CSV files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.report.build import Report, many, percent_text, sentence
from ramses_d2.analysis.report.tables import NOTHING, TABLE_NAMES, page_table, report_tables
from tests.analysis.report.hand_made import Page


@pytest.mark.parametrize(
    ("form", "data", "texts"),
    [
        (",.?f", [1234.5, -3.25, np.nan], ["1\u202f234", "\u22123", NOTHING]),
        (",.?f", [1000.0], ["1\u202f000"]),
        (",.?f", [100.0, 99.0], ["100.0", "99.0"]),
        (",.?f", [12.345, 0.1], ["12.35", "0.10"]),
        (",.?f", [10.0, 9.0], ["10.00", "9.00"]),
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
    rows = page_table(pd.DataFrame({"a": data}), [("a", "size, mm", form)], {})
    assert rows == [[(text, form not in ("text", "list"))] for text in ["size,\u00a0mm", *texts]]


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
    assert [many(1, "batch"), many(2, "batch", "batches"), many(0, "image")] == ["1 batch", "2 batches", "0 images"]


# The columns of the CSV file that a table on the page shows, in order; / joins the ends of a range
SHARES = "mass_g percent low_percent/high_percent particles"
GRAMS = "weighed_g predicted_g error_g error_percent particles"
SHOWN = {
    "composition": f"constituent description {SHARES} remark",
    "sums": f"constituent description {SHARES}",
    "classes": f"class constituent {SHARES}",
    "left_out": "reason class particles particle_percent area_percent mass_g",
    "categories": "group percent category certainty_percent certain_category certainties remark",
    "grading": "sieve_mm passing_percent low_percent/high_percent retained_percent retained_amount retained_particles",
    "tails": "name limit_mm percent low_percent/high_percent amount particles remark",
    "sizes": "name value low/high Rc Ru Rb X",
    "passing_by_constituent": "sieve_mm Rc Ru Rb X",
    "comparison": f"class {GRAMS} batches",
    "batches": f"batch pictures {GRAMS}",
    "coins": "picture coins usable given from_area deviation_percent mass_ratio",
    "pictures": "picture px_per_mm particles mass_g edge_cut unknown_mass scale_objects",
}


def test_values_on_the_page_are_those_of_the_csv_files(made: tuple[Path, Report]) -> None:
    folder, report = made
    tables, data, checked = Page(folder / "report.html").tables, report_tables(report), 0
    assert set(tables) == {f"table-{name}" for name in SHOWN} and set(data) <= set(TABLE_NAMES)
    for name, columns in SHOWN.items():
        csv = pd.read_csv(folder / f"report_{name}.csv", keep_default_na=False, na_values=[""])
        rows = tables[f"table-{name}"][1:]
        assert len(rows) == len(csv) + (name in ("composition", "classes", "comparison"))
        assert list(csv) == list(data[name])
        for place, keys in enumerate(columns.split()):
            for row, values in zip(rows, csv[keys.split("/")].to_numpy(), strict=False):
                for cell, value in zip(row[place].split("\u00a0–\u00a0"), values, strict=False):
                    if isinstance(value, str):
                        said, written = (re.sub(r"[\s\u2011·;-]", "", text) for text in (cell, value))
                        assert said == written
                    elif pd.isna(value):
                        assert cell in ("", NOTHING), (name, keys, cell)
                    elif value == np.inf:
                        assert cell == "∞"
                    else:
                        number = float(cell.replace("\u202f", "").replace("\u2212", "-"))
                        decimals = len(cell.partition(".")[2])
                        assert abs(number - value) <= 0.501 * 10.0**-decimals, (name, keys, cell, value)
                        checked += 1
    assert checked > 150
    total = tables["table-composition"][-1]
    assert total[0] == "Total" and total[2:4] == [f"{report.composition.mass_g:.2f}", "100.0"] and total[5] == "15"
    summed = report.comparison.classes[["weighed_g", "predicted_g"]].sum()
    last = tables["table-comparison"][-1]
    assert last[1:3] == [f"{grams:.2f}" for grams in summed] and last[5:] == ["8", "1"]
    assert last[4] == f"{100 * (summed['predicted_g'] / summed['weighed_g'] - 1):+.1f}".replace("-", "\u2212")
