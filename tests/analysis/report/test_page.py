"""The files of a report: the page is whole and readable without seeing it, and nothing is replaced unasked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ramses_d2.analysis.report.build import Report, build_report
from ramses_d2.analysis.report.data import WeighedBatches, find_batches, read_run
from ramses_d2.analysis.report.page import write_report
from ramses_d2.errors import RamsesError
from tests.analysis.report.hand_made import MINIMAL, OPTIONS, Page, make_run, write_batches

ROOT = Path(__file__).parents[3]


def test_page_is_whole_and_asks_for_nothing(made: tuple[Path, Report]) -> None:
    path = made[0] / "report.html"
    page, source = Page(path), path.read_text()
    assert set(re.findall(r"http[^\"']*", source)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert source.startswith("<!DOCTYPE html>\n") and source.endswith("</html>\n")
    assert "<script" not in source and "@import" not in source
    assert not re.search(r'(?:src|href)="(?!data:|#)', source) and not re.search(r"url\((?!#)", source)
    ids = [element.get("id") for element in page.root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    pointers = re.findall(r'(?:href="|url\()#([^")]+)', source)
    pointers += [name for element in page.root.iter() for name in element.get("aria-labelledby", "").split()]
    assert pointers and not set(pointers) - set(ids)


def test_page_can_be_read_without_seeing_it(made: tuple[Path, Report]) -> None:
    root = Page(made[0] / "report.html").root
    images, charts, cells = (list(root.iter(tag)) for tag in ("img", "{http://www.w3.org/2000/svg}svg", "th"))
    assert root.get("lang") == "en" and len(images) == 9 and len(charts) == 5 and cells
    assert all(len(image.get("alt")) > 20 for image in images)
    assert all(chart.get("role") == "img" and chart.get("aria-labelledby") for chart in charts)
    assert all(cell.get("scope") in ("col", "row") for cell in cells)
    assert all(table[0].tag == "caption" and table[0].text for table in root.iter("table"))
    headings = [element.tag for element in root.iter() if element.tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1" and headings.count("h1") == 1


def test_head_and_provenance_are_escaped(made: tuple[Path, Report]) -> None:
    source, text = (made[0] / "report.html").read_text(), Page(made[0] / "report.html").text
    assert "<title>Pit 7 &lt;8/16&gt; &amp; more</title>" in source and "<8/16>" not in source
    assert "line &lt;scan&gt;" in source and "&amp;lt;" not in source
    d50 = made[1].grading.sizes.set_index("name").loc["D50"]
    shown = "∞" if d50["high"] == float("inf") else f"{d50['high']:.2f}"
    for words in (
        *("A. Smith", "S1", "2026-01-02", "Resolution2 px/mm", "c0ffee", "score_threshold 0.3", "torch 2.15.0"),
        *("tools/predict.py --weights model.pth", "report.py run --output report.html"),
        "not a test according to EN 933-1",
        f"D50 {d50['value']:.2f} mm {d50['low']:.2f} – {shown} mm",
        "95 %, Bayesian bootstrap over particles, 200 replicates, seed 0",
        "120 × 90 px",
    ):
        assert words in text, words


def test_same_run_same_bytes(made: tuple[Path, Report], tmp_path: Path) -> None:
    run = read_run(made[0] / "run")
    for path in write_report(build_report(run, OPTIONS, find_batches(run)), tmp_path / "report.html"):
        assert path.read_bytes() == (made[0] / path.name).read_bytes(), path.name


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Report]:
    """A report without grading and gallery, with and without a comparison."""
    folder = tmp_path_factory.mktemp("short")
    run = read_run(make_run(folder, columns=MINIMAL))
    path = write_batches(folder, [{"image_names": ["belt_000.png"], "mass": {"Rb01": 3}}])
    options = replace(OPTIONS, gallery=0)
    return build_report(run, options, find_batches(run, path)), build_report(run, options, WeighedBatches(None, []))


def test_nothing_is_replaced_unasked_and_stale_tables_go(short: tuple[Report, Report], tmp_path: Path) -> None:
    page = tmp_path / "new/report.html"
    first = write_report(short[0], page)
    assert sorted(page.parent.iterdir()) == sorted(first)
    (page.parent / "report_notes.txt").write_text("mine")
    with pytest.raises(RamsesError, match=r"report.html exists"):
        write_report(short[0], page)
    second = write_report(short[1], page, force=True)
    names = ("comparison", "batches", "batch_classes")
    assert set(first) - set(second) == {page.with_name(f"report_{name}.csv") for name in names}
    assert set(page.parent.iterdir()) == {*second, page.parent / "report_notes.txt"}
    page.unlink()
    with pytest.raises(RamsesError, match=r"report.json exists"):
        write_report(short[1], page)


def test_a_report_never_takes_the_place_of_another_file(short: tuple[Report, Report], tmp_path: Path) -> None:
    """RUN/run.html would write RUN/run.json, the record of the run."""
    (tmp_path / "run.json").write_text('{"format": "ramses-run"}')
    for force in (False, True):
        with pytest.raises(RamsesError, match=r"run.json is not of a report"):
            write_report(short[1], tmp_path / "run.html", force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_failure_leaves_nothing_behind(short: tuple[Report, Report], tmp_path: Path) -> None:
    (tmp_path / "report_composition.csv").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(RamsesError, match="report_composition.csv"):
        write_report(short[1], tmp_path / "report.html", force=True)
    assert not (tmp_path / "report.html").exists() and not list(tmp_path.glob("*unfinished*"))
    with pytest.raises(RamsesError, match=r"report.pdf: give the name of an .html file"):
        write_report(short[1], tmp_path / "report.pdf")


def test_templates_are_part_of_the_installed_package(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "ramses_d2", tmp_path / "ramses_d2", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    templates = Path("ramses_d2/analysis/report/templates")
    packed = sorted((tmp_path / "built" / templates).iterdir())
    assert [path.name for path in packed] == ["charts.mplstyle", "report.css", "report.html.j2"]
    assert all(path.read_bytes() == (ROOT / templates / path.name).read_bytes() for path in packed)
