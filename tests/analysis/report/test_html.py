"""The page of a report: whole, readable without seeing it, and with the figures of the CSV files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.report.build import Report, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.files import write_report
from ramses_d2.analysis.report.table import NOTHING
from ramses_d2.analysis.report.tables import report_tables
from tests.analysis.report.hand_made_report import OPTIONS, make_report
from tests.analysis.report.page import Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A folder with a run, its images, a weighed batch and the report of it, and the report's figures."""
    folder = tmp_path_factory.mktemp("report")
    return folder, make_report(folder)


def plain_number(cell: str) -> float:
    return float(cell.replace("\u202f", "").replace("\u2212", "-"))


def test_page_is_whole_and_asks_for_nothing(made: tuple[Path, Report]) -> None:
    path = made[0] / "report.html"
    page, source = Page(path), path.read_text()
    assert set(re.findall(r"http[^\"']*", source)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in source and "@import" not in source
    assert not re.search(r'(?:src|href)="(?!data:|#)', source) and not re.search(r"url\((?!#)", source)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pointers = re.findall(r'(?:href="|url\()#([^")]+)', source)
    pointers += [name for _, a in page.tags for name in (a.get("aria-labelledby") or "").split()]
    assert pointers and not set(pointers) - set(ids)


def test_page_can_be_read_without_seeing_it(made: tuple[Path, Report]) -> None:
    page = Page(made[0] / "report.html")
    assert ("html", {"lang": "en"}) in page.tags
    assert page.attributes("img") and all(len(image["alt"]) > 20 for image in page.attributes("img"))
    assert len(page.attributes("svg")) == 5
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in page.attributes("svg"))
    assert page.attributes("th") and all(cell.get("scope") in ("col", "row") for cell in page.attributes("th"))
    assert len(page.attributes("caption")) == len(page.attributes("table"))
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1" and headings.count("h1") == 1


def test_values_are_escaped(made: tuple[Path, Report]) -> None:
    source = (made[0] / "report.html").read_text()
    assert "<title>Pit 7 &lt;8/16&gt; &amp; more</title>" in source and "<8/16>" not in source
    assert "line &lt;scan&gt;" in source


def test_numbers_on_the_page_are_those_of_the_csv_files(made: tuple[Path, Report]) -> None:
    folder, report = made
    page = Page(folder / "report.html")
    checked = 0
    for name, table in report_tables(report).items():
        csv = pd.read_csv(folder / f"report_{name}.csv")
        assert len(csv) == len(table.data) and list(csv) == list(table.data)
        if not table.on_page:
            continue
        rows = page.tables[f"table-{name}"]
        assert rows[0] == [column.heading.replace(", ", ",\u00a0") for column in table.columns]
        assert len(rows) == 1 + len(csv) + bool(table.totals)
        for row, (_, figures) in zip(rows[1:], csv.iterrows(), strict=False):
            for cell, column in zip(row, table.columns, strict=True):
                for shown, value in zip(cell.split("\u00a0–\u00a0"), figures[list(column.keys)], strict=False):
                    if value == np.inf:
                        assert shown == "∞"
                    elif column.is_number and pd.notna(value):
                        decimals = len(shown.partition(".")[2])
                        assert abs(plain_number(shown) - value) <= 0.501 * 10.0**-decimals, (name, column, shown, value)
                        checked += 1
                    elif column.is_number:
                        assert shown == NOTHING
    assert checked > 150


def test_head_and_provenance(made: tuple[Path, Report]) -> None:
    content = Page(made[0] / "report.html").text
    for words in (
        "A. Smith",
        "S1",
        "2026-01-02",
        "tools/predict.py --weights model.pth",
        "c0ffee",
        "score_threshold 0.3",
    ):
        assert words in content
    assert "report.py run --output report.html" in content and "no test after EN 933-1" in content


def test_same_run_same_bytes(made: tuple[Path, Report], tmp_path: Path) -> None:
    folder, _ = made
    run = read_run(folder / "run")
    for path in write_report(build_report(run, OPTIONS, find_batches(run)), tmp_path / "report.html"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_charts_hold_text(made: tuple[Path, Report]) -> None:
    """Labels are text, which can be searched and read aloud."""
    source = (made[0] / "report.html").read_text()
    chart = source[source.index('id="composition-chart-title"') :]
    chart = chart[: chart.index("</svg>")]
    assert all(f">{name}</text>" in chart for name in ("Rc", "Ru", "Rb", "Ra", "Rg", "X"))
    share = 100 * made[1].composition.constituents["fraction"][0]
    assert f">{share:.1f} %</text>" in chart
