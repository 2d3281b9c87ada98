"""The report's command line, and the page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from ramses_d2.analysis.report.build import ReportOptions, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.page import write_report
from tests.analysis.report.hand_made import make_run, write_batches
from tests.tools.browser import Visit, find_browser, visit
from tests.tools.command_line import error_of, run_process

report = partial(run_process, "report.py")
BATCHES = [{"image_names": [f"belt_{index:03d}.png"], "mass": {"Ru01": 2.5 + 0.5 * index}} for index in range(3)]


def test_calibrate_then_report(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_batches(tmp_path, BATCHES, res=2.0)
    made = report("calibrate", "run", "--output", "factors.yaml", "--replicates", "200", cwd=tmp_path)
    factor = (2.5 + 3.0 + 3.5) / (0.01 * 20 * (14 + 15 + 16))
    assert f"{factor:.4g}" in made.stdout and "wrote factors.yaml: 1 factors from 3 batches" in made.stdout, made.stderr
    content = yaml.safe_load((tmp_path / "factors.yaml").read_text())
    assert content["factors"]["Ru01"]["factor"] == pytest.approx(factor) and content["origin"]["run"] == "run"

    (tmp_path / "map.yaml").write_text("Ru01: Rc\n")
    options = (
        "--title T --operator O --date 2026-01-02 --factors factors.yaml --range 4 63 --sieves 4,8,16 --size inscribed"
        " --size-factor 0.9 --weight count --gallery 1 --bootstrap pictures --replicates 200 --confidence 0.9 --seed 3"
        " --map map.yaml --foreign X --coin Coin 22.25 4 --pictures data/images --batch data"
    )
    result = report("run", "--output", "out/r.html", "--sample", "S 1", *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "16 particles in 4 images" in result.stdout and "wrote out/r.html, r.json and" in result.stdout
    assert "warning: 1 particle of unknown mass" in result.stderr
    assert "computed from the very batches" in result.stderr
    values = json.loads((tmp_path / "out/r.json").read_text())
    assert values["command"].startswith("report.py run --output out/r.html --sample 'S 1' --title T")
    bootstrap = {"over": "pictures", "replicates": 200, "confidence": 0.9, "seed": 3}
    assert values["options"] == {
        **{"title": "T", "sample": "S 1", "operator": "O", "day": "2026-01-02", "size_range": [4, 63]},
        **{"sieves": "4,8,16", "size": {"measure": "inscribed", "factor": 0.9}, "weight": "count"},
        "resampling": bootstrap,
    }
    assert values["grading"]["weight"] == "count" and values["grading"]["size"] == values["options"]["size"]
    assert [row["sieve_mm"] for row in values["grading"]["sieves"]] == [4, 8, 16]
    assert values["composition"]["resampling"] == bootstrap and values["composition"]["map_source"] == "map.yaml"
    assert values["coins"][0]["from_area"] == pytest.approx(2.1 * 21.25 / 22.25)
    assert values["coins"][0]["mass_ratio"] == pytest.approx(9 / 4)
    assert values["factors"]["classes"]["Ru01"]["factor"] == pytest.approx(factor)
    assert values["comparison"]["error"] == pytest.approx(0, abs=1e-6)
    assert sorted(path.name for path in run.iterdir()) == ["annotations.csv", "labels", "run.json"]


def test_help_has_examples(tmp_path: Path) -> None:
    example = "python tools/report.py calibrate predictions --batch metadata.json --output factors.yaml"
    assert example in report("calibrate", "--help", cwd=tmp_path).stdout


REPORT, CALIBRATE = ["run", "--output", "new.html"], ["calibrate", "run", "--output", "new.yaml"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--output", "there.html"], "there.html exists"),
        (["run", "--output", "new.txt"], "new.txt"),
        (["nowhere", "--output", "new.html"], "nowhere/annotations.csv: no such file"),
        ([*REPORT, "--batch", "nothing.json"], "nothing.json: no such file"),
        ([*REPORT, "--batch", "empty.json"], "empty.json: no batches in it"),
        ([*REPORT, "--factors", "nothing.yaml"], "nothing.yaml"),
        ([*REPORT, "--sieves", "4,x"], "sieves '4,x'"),
        ([*REPORT, "--size", "length"], "'length'"),
        ([*REPORT, "--coin", "Coin", "x", "4"], "--coin Coin x 4"),
        ([*REPORT, "--gallery", "-1"], "--gallery -1"),
        ([*REPORT, "--range", "63", "4"], "(63.0, 4.0)"),
        ([*REPORT, "--replicates", "10"], "10 bootstrap replicates"),
        (["calibrate", "run", "--output", "there.yaml"], "there.yaml exists"),
        ([*CALIBRATE, "--batch", "empty.json"], "empty.json: no batches in it"),
        (CALIBRATE, "no metadata.json"),
    ],
)
def test_wrong_input(arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, number=2, coin=False)
    (tmp_path / "empty.json").write_text('{"images": []}')
    for name in ("there.html", "there.yaml"):
        (tmp_path / name).write_text("mine")
    assert named in error_of("report.py", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert not list(tmp_path.glob("new*")) and (tmp_path / "there.html").read_text() == "mine"


# ---- a real browser

SHOWN = """({
  tables: Object.fromEntries([...document.querySelectorAll("table")].map(
    table => [table.id, [...table.rows].map(row => [...row.cells].map(cell => cell.textContent))])),
  images: [...document.images].map(image => image.naturalWidth),
  charts: [...document.querySelectorAll("figure > svg")].map(chart => chart.getBoundingClientRect().width),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth})"""


@pytest.fixture(scope="module")
def browse() -> Callable[[Path, str], Visit]:
    browser = find_browser()
    if browser is None:
        pytest.skip("no browser: needs chromium or google-chrome on PATH")
    return partial(visit, browser)


def test_the_browser_would_tell(browse: Callable[[Path, str], Visit], tmp_path: Path) -> None:
    """A page that complains and asks for something is caught, so that silence means something."""
    page, here = tmp_path / "bad.html", "http://127.0.0.1:1"
    page.write_text(
        f"<head><link rel=stylesheet href={here}/b.css></head><img src={here}/a.png><script src={here}/c.js></script>"
        f"<p style='background: url({here}/d.png)'>x</p><script>console.warn('careful'); oh.no()</script>"
    )
    seen = browse(page, "document.images.length")
    assert any("oh is not defined" in message for message in seen.console) and "careful" in seen.console
    assert set(seen.requests) == {f"{here}/{name}" for name in ("a.png", "b.css", "c.js", "d.png")}
    assert seen.value == 1


def test_report_in_a_browser(browse: Callable[[Path, str], Visit], tmp_path: Path) -> None:
    """No console error, no request, every image shown, and the values on the page are those of the CSV files."""
    run = read_run(make_run(tmp_path))
    path = write_batches(tmp_path, BATCHES, res=2.0)
    write_report(build_report(run, ReportOptions(gallery=2), find_batches(run, path)), tmp_path / "report.html")
    seen = browse(tmp_path / "report.html", SHOWN)
    assert seen.console == [] and seen.requests == [] and seen.value["overflow"] <= 0
    assert seen.value["images"] == [440] * 6
    assert len(seen.value["charts"]) == 5 and min(seen.value["charts"]) > 300
    for name, key, cell, form in (
        ("composition", "percent", 3, "{:.1f}"),
        ("grading", "passing_percent", 1, "{:.1f}"),
        ("sizes", "value", 1, "{:.2f}"),
    ):
        expected = pd.read_csv(tmp_path / f"report_{name}.csv")[key].map(form.format).replace("nan", "–")
        shown = [row[cell] for row in seen.value["tables"][f"table-{name}"][1 : 1 + len(expected)]]
        assert shown == list(expected), name


def test_empty_report_in_a_browser(browse: Callable[[Path, str], Visit], tmp_path: Path) -> None:
    (tmp_path / "run/labels").mkdir(parents=True)
    Image.new("I;16", (9, 9)).save(tmp_path / "run/labels/a.png")
    (tmp_path / "run/annotations.csv").write_text("baseimg,label,class\n")
    run = read_run(tmp_path / "run")
    write_report(build_report(run, ReportOptions(), find_batches(run)), tmp_path / "report.html")
    seen = browse(tmp_path / "report.html", SHOWN)
    assert seen.console == [] and seen.requests == [] and seen.value["charts"] == []
    assert seen.value["tables"]["table-composition"][1][3:5] == ["–", "–"]
