"""The report's command line, and the page in a real browser."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from ramses_d2.analysis.report.build import ReportOptions, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.page import write_report
from tests.analysis.report.hand_made_run import make_run, write_batches
from tests.tools.browser import Visit, find_browser
from tests.tools.command_line import ROOT, error_of, run_process

report = partial(run_process, "report.py")
BATCHES = [{"image_names": [f"belt_{index:03d}.png"], "mass": {"Ru01": 2.5 + 0.5 * index}} for index in range(3)]


def run_here(monkeypatch: pytest.MonkeyPatch, cwd: Path, *arguments: str) -> None:
    """The tool in this process, which need not load everything again."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    runpy.run_path(str(ROOT / "tools/report.py"), run_name="__main__")


def test_calibrate_then_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    write_batches(tmp_path, BATCHES, res=2.0)
    run_here(monkeypatch, tmp_path, "calibrate", "run", "--output", "factors.yaml", "--replicates", "200")
    said = capsys.readouterr().out
    factor = (2.5 + 3.0 + 3.5) / (0.01 * 20 * (14 + 15 + 16))
    assert f"{factor:.4g}" in said and "wrote factors.yaml: 1 factors from 3 batches" in said
    content = yaml.safe_load((tmp_path / "factors.yaml").read_text())
    assert content["factors"]["Ru01"]["factor"] == pytest.approx(factor) and content["origin"]["run"] == "run"

    (tmp_path / "map.yaml").write_text("Ru01: Rc\n")
    options = (
        "--title T --date 2026-01-02 --factors factors.yaml --range 4 63 --sieves 4,8,16 --size inscribed"
        " --size-factor 0.9 --weight count --gallery 1 --bootstrap pictures --replicates 200 --map map.yaml"
        " --coin Coin 22.25 4"
    )
    result = report("run", "--output", "out/r.html", "--sample", "S 1", *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "16 particles in 4 images" in result.stdout and "wrote out/r.html, r.json and" in result.stdout
    assert "warning: 1 particle of unknown mass" in result.stderr
    assert "computed from the very batches" in result.stderr
    figures = json.loads((tmp_path / "out/r.json").read_text())
    assert figures["command"].startswith("report.py run --output out/r.html --sample 'S 1' --title T")
    assert figures["options"]["day"] == "2026-01-02" and figures["grading"]["weight"] == "count"
    assert figures["grading"]["size"] == {"measure": "inscribed", "factor": 0.9}
    assert [row["sieve_mm"] for row in figures["grading"]["sieves"]] == [4, 8, 16]
    assert figures["composition"]["resampling"]["over"] == "pictures"
    assert figures["composition"]["map_source"] == "map.yaml"
    assert figures["coins"][0]["from_area"] == pytest.approx(2.1 * 21.25 / 22.25)
    assert figures["factors"]["classes"]["Ru01"]["factor"] == pytest.approx(factor)
    assert figures["comparison"]["error"] == pytest.approx(0, abs=1e-6)
    assert sorted(path.name for path in run.iterdir()) == [
        "annotations.csv",
        "labels",
        "run.json",
    ]


def test_help_has_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    example = "python tools/report.py calibrate predictions --batch metadata.json --output factors.yaml"
    for arguments in (["--help"], ["calibrate", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            run_here(monkeypatch, tmp_path, *arguments)
        assert example in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--output", "there.html"], "there.html exists"),
        (["run", "--output", "new.txt"], "give the name of an .html file"),
        (["nowhere", "--output", "new.html"], "nowhere/annotations.csv: no such file"),
        (["run", "--output", "new.html", "--batch", "nothing.json"], "nothing.json: no such file"),
        (["run", "--output", "new.html", "--batch", "empty.json"], "empty.json: no batches in it"),
        (["run", "--output", "new.html", "--factors", "nothing.yaml"], "nothing.yaml: not a readable file of factors"),
        (["run", "--output", "new.html", "--sieves", "4,x"], "sieves '4,x'"),
        (["run", "--output", "new.html", "--size", "length"], "sieve size from 'length'"),
        (["run", "--output", "new.html", "--coin", "Coin", "x", "4"], "--coin Coin x 4: give class, diameter"),
        (["run", "--output", "new.html", "--gallery", "-1"], "--gallery -1"),
        (["run", "--output", "new.html", "--range", "63", "4"], "size range (63.0, 4.0)"),
        (["run", "--output", "new.html", "--replicates", "10"], "10 bootstrap replicates"),
        (["calibrate", "run", "--output", "there.yaml"], "there.yaml exists"),
        (["calibrate", "run", "--output", "new.yaml", "--batch", "empty.json"], "empty.json: no batches in it"),
        (["calibrate", "run", "--output", "new.yaml"], "no metadata.json"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, image_files=2, coin=False)
    (tmp_path / "empty.json").write_text('{"images": []}')
    for name in ("there.html", "there.yaml"):
        (tmp_path / name).write_text("mine")
    assert message in error_of("report.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not list(tmp_path.glob("new*")) and (tmp_path / "there.html").read_text() == "mine"


# ---- a real browser

TABLES = """JSON.stringify({
  tables: Object.fromEntries([...document.querySelectorAll("table")].map(
    table => [table.id, [...table.rows].map(row => [...row.cells].map(cell => cell.textContent))])),
  images: [...document.images].map(image => image.naturalWidth),
  charts: [...document.querySelectorAll("figure > svg")].map(chart => chart.getBoundingClientRect().width),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth})"""


@pytest.fixture(scope="module")
def browse() -> Callable[[Path, str], Visit]:
    found = find_browser()
    if found is None:
        pytest.skip("no browser: needs chromium or google-chrome on PATH, or a WebEngine (see tests/tools/browser.py)")
    return found


def test_the_browser_would_tell(browse: Callable[[Path, str], Visit], tmp_path: Path) -> None:
    """A page that complains and asks for something is caught, so that silence means something."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<img src='http://127.0.0.1:1/a.png'><link rel=stylesheet href=http://127.0.0.1:1/b.css><script>oh.no()</script>"
    )
    visit = browse(page, "JSON.stringify(document.images.length)")
    assert any("oh is not defined" in message or "Uncaught" in message for message in visit.console)
    assert sorted(visit.requests) == ["http://127.0.0.1:1/a.png", "http://127.0.0.1:1/b.css"]
    assert visit.value == 1


def test_report_in_a_browser(browse: Callable[[Path, str], Visit], tmp_path: Path) -> None:
    """No console error, no request, every image shown, and the figures on the page are those of the CSV files."""
    run = read_run(make_run(tmp_path))
    path = write_batches(tmp_path, BATCHES, res=2.0)
    page = tmp_path / "report.html"
    write_report(build_report(run, ReportOptions(gallery=2), find_batches(run, path)), page)
    visit = browse(page, TABLES)
    assert visit.console == [] and visit.requests == []
    assert len(visit.value["images"]) == 6 and all(width == 440 for width in visit.value["images"])
    assert len(visit.value["charts"]) == 5 and all(width > 300 for width in visit.value["charts"])
    assert visit.value["overflow"] <= 0
    for name, key, cell in (("composition", "percent", 3), ("grading", "passing_percent", 1), ("sizes", "value", 1)):
        csv = pd.read_csv(tmp_path / f"report_{name}.csv")
        shown = [row[cell] for row in visit.value["tables"][f"table-{name}"][1 : 1 + len(csv)]]
        decimals = 2 if name == "sizes" else 1
        expected = ["–" if np.isnan(value) else f"{value:.{decimals}f}" for value in csv[key]]
        assert shown == expected, name


def test_empty_report_in_a_browser(browse: Callable[[Path, str], Visit], tmp_path: Path) -> None:
    (tmp_path / "run/labels").mkdir(parents=True)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "run/labels/a.png")
    (tmp_path / "run/annotations.csv").write_text("baseimg,label,class\n")
    run = read_run(tmp_path / "run")
    write_report(build_report(run, ReportOptions(), find_batches(run)), tmp_path / "report.html")
    visit = browse(tmp_path / "report.html", TABLES)
    assert visit.console == [] and visit.requests == [] and visit.value["charts"] == []
    assert visit.value["tables"]["table-composition"][1][3:5] == ["–", "–"]
