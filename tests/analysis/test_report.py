"""The report: its figures, files and page, on a run whose every particle is known."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ramses_d2.analysis.bootstrap import Resampling
from ramses_d2.analysis.calibration import ClassFactor, Factors
from ramses_d2.analysis.categories import categorise
from ramses_d2.analysis.composition import compose
from ramses_d2.analysis.grading import grade, grade_groups
from ramses_d2.analysis.report import Report, ReportOptions, build_report
from ramses_d2.analysis.report_data import WeighedBatches, find_batches, read_particles, read_run
from ramses_d2.analysis.report_files import write_report
from ramses_d2.analysis.report_gallery import cut_out, make_gallery
from ramses_d2.analysis.report_table import NOTHING, ReportTable, count, items, number, plain, span, text
from ramses_d2.analysis.report_tables import TABLE_NAMES, report_tables
from ramses_d2.errors import RamsesError

from .hand_made_run import COLORS, make_run, write_batches

MINIMAL = ["baseimg", "label", "res", "class", "x0", "x1", "y0", "y1", "area", "mass", "score"]
OPTIONS = ReportOptions(
    title="Pit 7 <8/16> & more",
    sample="S1",
    operator="A. Smith",
    day="2026-01-02",
    command="report.py run --output report.html",
    sieves=(4, 8, 16, 31.5),
    resampling=Resampling(replicates=200),
    gallery=3,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A folder with a run, its pictures, a weighed batch and the report of it, and the report's figures."""
    folder = tmp_path_factory.mktemp("report")
    make_run(folder)
    grams = {"Rc": 22.0, "Ru01": 10.0, "Rb01": None}
    names = [f"belt_{index:03d}.png" for index in range(4)]
    write_batches(folder, [{"image_names": names, "mass": grams}], res=2.0, camera="line <scan>")
    run = read_run(folder / "run")
    report = build_report(run, OPTIONS, find_batches(run))
    write_report(report, folder / "report.html")
    return folder, report


class Page(HTMLParser):
    """What a page holds: tables by id, links, ids, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self._cell: list[str] | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def plain_number(cell: str) -> float:
    return float(cell.replace("\u202f", "").replace("\u2212", "-"))


# ---- figures


def test_figures_are_those_of_the_composition_and_grading_functions(made: tuple[Path, Report]) -> None:
    folder, _ = made
    table = read_particles(folder / "run/annotations.csv")
    composition = compose(table, resampling=OPTIONS.resampling)
    grading = grade(table, (4, 8, 16, 31.5), resampling=OPTIONS.resampling)
    figures = json.loads((folder / "report.json").read_text())
    assert figures["composition"] == composition.to_json()
    assert figures["categories"] == categorise(composition).to_json()
    assert figures["grading"] == grading.to_json()
    assert set(figures["gradings"]) == {"Rc", "Ru", "Rb", "X"}

    csv = pd.read_csv(folder / "report_composition.csv", index_col="constituent")
    expected = composition.constituents.set_index("constituent")
    np.testing.assert_allclose(csv["percent"], 100 * expected["fraction"], rtol=1e-5)
    np.testing.assert_allclose(csv["low_percent"], 100 * expected["low"], rtol=1e-5)
    np.testing.assert_allclose(csv["mass_g"], expected["mass_g"], rtol=1e-5)
    assert csv.loc["FL", "remark"] == "not visible in pictures" and np.isnan(csv.loc["FL", "percent"])
    sieves = pd.read_csv(folder / "report_grading.csv")
    np.testing.assert_allclose(sieves["passing_percent"], 100 * grading.sieves["passing"], rtol=1e-5)
    np.testing.assert_allclose(sieves["high_percent"], 100 * grading.sieves["high"], rtol=1e-5)
    sizes = pd.read_csv(folder / "report_sizes.csv", index_col="name")
    np.testing.assert_allclose(sizes["value"], grading.sizes["value"], rtol=1e-5)
    ru = grade_groups(table, "constituent", (4, 8, 16, 31.5), resampling=None)["Ru"]
    np.testing.assert_allclose(sizes["Ru"], ru.sizes["value"], rtol=1e-5)
    passing = pd.read_csv(folder / "report_passing_by_constituent.csv")
    np.testing.assert_allclose(passing["Ru"], 100 * ru.sieves["passing"], rtol=1e-5)

    shown = Page(folder / "report.html").tables
    shares = [NOTHING if np.isnan(share) else f"{100 * share:.1f}" for share in expected["fraction"]]
    assert [row[3] for row in shown["table-composition"][1:-1]] == shares
    assert [row[1] for row in shown["table-grading"][1:]] == [f"{100 * p:.1f}" for p in grading.sieves["passing"]]
    assert [row[1] for row in shown["table-sizes"][1:]] == [f"{value:.2f}" for value in grading.sizes["value"]]


def test_masses_by_hand(made: tuple[Path, Report]) -> None:
    """The coin and the particle of unknown mass are in no share, and are listed."""
    folder, report = made
    # Rc, label 1: (12 + p) x 18 px in pictures 0 to 2, unknown in picture 0; label 5: (20 + p) x 26, not in picture 1
    grams = 0.01 * (13 * 18 + 14 * 18 + 20 * 26 + 22 * 26)
    csv = pd.read_csv(folder / "report_composition.csv", index_col="constituent")
    assert csv.loc["Rc", "mass_g"] == pytest.approx(grams) and csv.loc["Rc", "particles"] == 4
    left_out = pd.read_csv(folder / "report_left_out.csv", index_col="reason")
    assert left_out.loc["scale object", ["class", "particles", "mass_g"]].tolist() == ["Coin", 1, 4.0]
    assert left_out.loc["unknown mass", ["class", "particles"]].tolist() == ["Rc", 1]
    assert report.mass_g == pytest.approx(csv["mass_g"].sum())
    pictures = pd.read_csv(folder / "report_pictures.csv", index_col="picture")
    assert pictures["particles"].tolist() == [6, 5, 6, 0] and pictures["edge_cut"].tolist() == [2, 2, 2, 0]
    assert pictures["unknown_mass"].tolist() == [1, 0, 0, 0] and set(pictures["camera"]) == {"line <scan>"}


def test_comparison_with_a_weighed_batch(made: tuple[Path, Report]) -> None:
    folder, report = made
    csv = pd.read_csv(folder / "report_comparison.csv", index_col="class")
    ru01 = 0.01 * 20 * (14 + 15 + 16)
    assert list(csv.index) == ["Rc", "Ru01"]  # Rb01 was not weighed; most grams first
    assert csv.loc["Ru01", "predicted_g"] == pytest.approx(ru01)
    assert csv.loc["Ru01", "error_percent"] == pytest.approx(100 * (ru01 / 10 - 1), rel=1e-5)
    assert csv.loc["Rc", "unknown_mass"] == 1
    assert report.comparison.not_weighed["Rb01"] == pytest.approx(0.01 * 22 * (16 + 17 + 18))
    page = (folder / "report.html").read_text()
    assert "32 g weighed" in page and "1 particle of unknown mass counted as 0 g" in page


def test_warnings(made: tuple[Path, Report]) -> None:
    joined = "\n".join(made[1].warnings)
    assert "1 particle of unknown mass (5.9\u00a0% of all)" in joined
    assert "6 particles cut by the edge of the picture" in joined
    assert "Coin: belt_001.png: the coin says 2.10 px/mm, which differs by +5.0\u00a0% from the given 2" in joined
    assert len(made[1].warnings) == 3


def test_resolution_that_metadata_contradicts(tmp_path: Path) -> None:
    run = make_run(tmp_path, coin=False)
    write_batches(tmp_path, [], res=2.2)
    read = read_run(run)
    report = build_report(read, OPTIONS, find_batches(read))
    assert any("4 pictures predicted with another resolution" in warning for warning in report.warnings)
    assert "no weighed batches" in report.no_comparison
    write_batches(tmp_path, [], res=2.001)
    assert not any("another resolution" in w for w in build_report(read_run(run), OPTIONS, find_batches(read)).warnings)


def test_factors_are_applied_and_named(made: tuple[Path, Report], tmp_path: Path) -> None:
    run = read_run(made[0] / "run")
    factors = Factors({"Rc": ClassFactor(2.0, 1.9, 2.1, 3, 20.0, 10.0, 7)}, name="my-factors.yaml")
    report = build_report(run, OPTIONS, find_batches(run), factors)
    before, after = (r.composition.constituents.set_index("constituent")["mass_g"] for r in (made[1], report))
    assert after["Rc"] == pytest.approx(2 * before["Rc"]) and after["Ru"] == before["Ru"]
    write_report(report, tmp_path / "corrected.html")
    page = Page(tmp_path / "corrected.html")
    assert page.tables["table-factors"][1] == ["Rc", "2.000", "1.900\u00a0–\u00a02.100", "3", "20.00", "10.00", "5"]
    assert page.text.count("my-factors.yaml") >= 2
    assert any("No correction factor for Rb01, Ru01, Ru02, X01" in warning for warning in report.warnings)
    csv = pd.read_csv(tmp_path / "corrected_comparison.csv", index_col="class")
    assert csv.loc["Rc", "uncorrected_g"] == pytest.approx(csv.loc["Rc", "predicted_g"] / 2)


# ---- the page


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
                    if column.is_number and pd.notna(value):
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


def test_charts_hold_text_and_patterns(made: tuple[Path, Report]) -> None:
    """Labels are text, and each bar has a pattern of its own."""
    source = (made[0] / "report.html").read_text()
    chart = source[source.index('id="composition-chart-title"') :]
    chart = chart[: chart.index("</svg>")]
    assert all(f">{name}</text>" in chart for name in ("Rc", "Ru", "Rb", "Ra", "Rg", "X"))
    assert len(set(re.findall(r"fill: url\(#([^)]*)\)", chart))) == 6
    share = 100 * made[1].composition.constituents["fraction"][0]
    assert f">{share:.1f} %</text>" in chart


# ---- parts that are missing


def test_few_columns(tmp_path: Path) -> None:
    """What predict.py wrote before it measured: no sizes, no edges, no run.json, pictures not found."""
    run = make_run(tmp_path, columns=MINIMAL, run_json=False)
    read = read_run(run)
    report = build_report(read, OPTIONS, find_batches(read))
    write_report(report, tmp_path / "report.html")
    content = Page(tmp_path / "report.html").text
    assert report.grading is None and "no sizes for feret_min: it needs feret_min_mm" in content
    assert "No check of the resolution with coins: annotations.csv has no axis_major_length" in content
    assert "no metadata.json with weighed batches was given or found" in content
    assert "3 of 3 cannot be shown: their picture or label image was not found" in content
    assert "No column edge in annotations.csv tells them" in content
    assert "unknown: the run has no run.json" in content
    assert not (tmp_path / "report_grading.csv").exists()
    assert [picture.file_name for picture in read.pictures] == [f"belt_{i:03d}.png" for i in range(3)] + ["belt_003"]


@pytest.mark.parametrize("with_run_json", [True, False])
def test_run_without_particles(tmp_path: Path, with_run_json: bool) -> None:
    make_run(tmp_path, pictures=2, run_json=with_run_json)
    run = tmp_path / "run"
    lines = (run / "annotations.csv").read_text().splitlines()
    (run / "annotations.csv").write_text(lines[0] + "\n")
    read = read_run(run)
    report = build_report(read, replace(OPTIONS, size_range=(4, 63)), find_batches(read))
    write_report(report, tmp_path / "report.html")
    content = Page(tmp_path / "report.html").text
    assert report.warnings == ["No particle was found: there are no figures."]
    assert "Left out: there are no particles" in content and "No chart: there is no particle" in content
    assert len(read.pictures) == 2
    assert json.loads((tmp_path / "report.json").read_text())["particles"] == 0


def test_run_without_masses_and_resolution(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    table = pd.read_csv(run / "annotations.csv", keep_default_na=False)
    unknown = [name for name in table if name in ("mass", "res") or name.endswith(("_mm", "_mm2"))]
    table[unknown] = "nan"
    table.to_csv(run / "annotations.csv", index=False)
    read = read_run(run)
    report = build_report(read, OPTIONS, find_batches(read))
    write_report(report, tmp_path / "report.html")
    assert "3 pictures of unknown resolution" in " ".join(report.warnings)
    assert "17 particles of unknown mass (100.0\u00a0% of all)" in " ".join(report.warnings)
    assert report.no_grading == "no particle has a size in mm, because the resolution of the pictures is unknown"
    assert report.no_comparison.startswith("no metadata.json")


def test_run_that_is_not_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path, coin=False)
    record = json.loads((run / "run.json").read_text())
    record |= {"complete": False, "failed": [{"path": "x/broken.jpg", "error": "truncated"}]}
    (run / "run.json").write_text(json.dumps(record))
    read = read_run(run)
    warnings = " ".join(build_report(read, OPTIONS, find_batches(read)).warnings)
    assert "had not finished" in warnings and "1 picture could not be predicted: x/broken.jpg: truncated" in warnings


def test_wrong_options_are_errors_and_no_missing_part(made: tuple[Path, Report]) -> None:
    run = read_run(made[0] / "run")
    with pytest.raises(RamsesError, match="sieves 'coarse'"):
        build_report(run, replace(OPTIONS, sieves="coarse"), find_batches(run))
    run.table.loc[0, "class"] = "Granite"
    with pytest.raises(RamsesError, match="no constituent is known for class Granite"):
        build_report(run, OPTIONS, find_batches(run))


# ---- reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no such file; give the --output folder"),
        ("label,class\n1,Rc\n", r"no column baseimg"),
        ("baseimg,label,class,mass\na.jpg,1,Rc,1.0\na.jpg,2,Rc,heavy\n", r"row 3: mass is 'heavy'"),
    ],
)
def test_broken_annotations(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "annotations.csv").write_text(content)
    with pytest.raises(RamsesError, match=message):
        read_run(tmp_path)


def test_text_columns_stay_text(tmp_path: Path) -> None:
    """pandas would read the class NA and the picture 007 as something else."""
    (tmp_path / "annotations.csv").write_text(
        "baseimg,label,class,edge,mass\n007,1,NA,,nan\n007,2,None,left,2\nb,1,X,nan,\n"
    )
    table = read_run(tmp_path).table
    assert table["class"].tolist() == ["NA", "None", "X"] and table["baseimg"].tolist() == ["007", "007", "b"]
    assert table["edge"].tolist() == ["", "left", ""]
    assert table["mass"].isna().tolist() == [True, False, True] and table["mass"][1] == 2


def test_pictures_are_found_where_they_have_been_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    assert not any(picture.path for picture in read_run(run).pictures)
    assert all(picture.path for picture in read_run(run, tmp_path / "elsewhere").pictures)
    with pytest.raises(RamsesError, match="no such folder of pictures"):
        read_run(run, tmp_path / "nowhere")


# ---- gallery


def decoded(source: str) -> np.ndarray:
    head, data = source.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_gallery(made: tuple[Path, Report]) -> None:
    run = made[1].run
    largest, doubtful, cut = make_gallery(run, 3, {"Coin"})
    grams = run.table[run.table["class"] != "Coin"]["mass"].nlargest(3)
    assert [f"{mass:.3g} g" in item.name for mass, item in zip(grams, largest.cut_outs, strict=True)] == [True] * 3
    scores = run.table["score"].nsmallest(3)
    assert [item.name.rpartition(" ")[2] for item in doubtful.cut_outs] == [f"{score:.2f}" for score in scores]
    assert [item.place for item in cut.cut_outs] == ["belt_002.png no. 4", "belt_001.png no. 4", "belt_000.png no. 4"]
    assert cut.explanation == "the largest of 6"
    for item in (*largest.cut_outs, *doubtful.cut_outs, *cut.cut_outs):
        middle = decoded(item.source)
        value = COLORS[item.name.split(" ")[0]]
        assert (np.abs(middle.astype(int) - value) <= 3).all(axis=2).mean() > 0.15  # the particle itself, not bleached


@pytest.mark.parametrize("scale", [1, 3], ids=["picture", "enlarged overlay"])
@pytest.mark.parametrize("size", [(30, 40), (400, 600)], ids=["small", "large"])
def test_cut_out_shows_the_particle(size: tuple[int, int], scale: int) -> None:
    labels = np.zeros((3 * size[0], 3 * size[1]), np.uint16)
    rows, columns = slice(size[0], 2 * size[0]), slice(0, size[1])
    labels[rows, columns] = 5
    labels[:5, :5] = 4
    image = np.where(labels == 5, 200, np.where(labels == 4, 250, 20)).astype(np.uint8)
    image = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    row = pd.Series({"label": 5.0, "x0": size[0], "x1": 2 * size[0], "y0": 0, "y1": size[1]})
    picture = decoded(cut_out(np.dstack([image] * 3), labels, row))
    assert max(picture.shape) == 440 and picture.shape[0] == picture.shape[1]
    inside = np.abs(picture.astype(int) - 200).max(axis=2) < 8
    side = round(1.5 * size[1])
    assert inside.mean() == pytest.approx(size[0] * size[1] / side**2, rel=0.15)  # less the outline
    assert inside[:, :20].any() and not inside[:, -20:].any()  # it lies at the left edge
    dark = np.abs(picture.astype(int) - (20 + 255) // 2).max(axis=2) < 8
    assert dark.mean() > 0.3  # the surroundings are bleached by half
    yellow = (picture[:, :, 0].astype(int) - picture[:, :, 2]) > 60
    assert yellow.mean() > 0.002
    assert cut_out(np.dstack([image] * 3), labels, row.replace(5.0, 6.0)) is None  # not what the label image holds


def test_overlay_stands_in_for_a_lost_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "overlays").mkdir()
    for path in (tmp_path / "data/images").iterdir():
        image = Image.open(path)
        image.resize((2 * image.width, 2 * image.height), Image.NEAREST).save(run / "overlays" / f"{path.stem}.jpg")
        path.unlink()
    largest = make_gallery(read_run(run), 2)[0]
    assert len(largest.cut_outs) == 2 and not largest.missing


# ---- files


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
    with pytest.raises(RamsesError, match=r"report.html exists: choose another --output, or replace it with --force"):
        write_report(short[0], page)
    second = write_report(short[1], page, force=True)
    names = ("comparison", "batches", "batch_classes")
    assert set(first) - set(second) == {page.with_name(f"report_{name}.csv") for name in names}
    assert set(page.parent.iterdir()) == {*second, page.parent / "report_notes.txt"}
    page.unlink()
    with pytest.raises(RamsesError, match=r"report.json exists"):
        write_report(short[1], page)


def test_a_failure_leaves_nothing_behind(short: tuple[Report, Report], tmp_path: Path) -> None:
    (tmp_path / "report_composition.csv").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(RamsesError, match="cannot be written"):
        write_report(short[1], tmp_path / "report.html", force=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and path.name.startswith(".")] == []
    with pytest.raises(RamsesError, match=r"give the name of an .html file"):
        write_report(short[1], tmp_path / "report.pdf")


def test_every_table_is_known_by_name(made: tuple[Path, Report]) -> None:
    assert set(report_tables(made[1])) <= set(TABLE_NAMES)


# ---- texts of tables


@pytest.mark.parametrize(
    ("column", "data", "texts"),
    [
        (number("a", "a"), [1234.5, -3.25, np.nan], ["1\u202f234", "\u22123", NOTHING]),
        (number("a", "a"), [12.345, 0.1], ["12.35", "0.10"]),
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
