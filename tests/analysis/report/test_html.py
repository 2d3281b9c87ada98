"""The page of a report: whole, readable without seeing it, and with the figures of the CSV files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.report.build import Report, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.page import write_report
from ramses_d2.analysis.report.tables import NOTHING, report_tables
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
    tables, checked = Page(folder / "report.html").tables, 0
    assert set(tables) == {f"table-{name}" for name in SHOWN}
    for name, columns in SHOWN.items():
        csv = pd.read_csv(folder / f"report_{name}.csv", keep_default_na=False, na_values=[""])
        rows = tables[f"table-{name}"][1:]
        assert len(rows) == len(csv) + (name in ("composition", "classes", "comparison"))
        assert list(csv) == list(report_tables(report)[name])
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
                        decimals = len(cell.partition(".")[2])
                        assert abs(plain_number(cell) - value) <= 0.501 * 10.0**-decimals, (name, keys, cell, value)
                        checked += 1
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
