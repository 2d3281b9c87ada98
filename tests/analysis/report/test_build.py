"""The report: its figures and files, on a run whose every particle is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.calibration import ClassFactor, Factors
from ramses_d2.analysis.composition import categorise, compose
from ramses_d2.analysis.grading import grade, grade_groups
from ramses_d2.analysis.report.build import Report, build_report
from ramses_d2.analysis.report.data import WeighedBatches, find_batches, read_particles, read_run
from ramses_d2.analysis.report.page import write_report
from ramses_d2.analysis.report.tables import NOTHING, TABLE_NAMES, report_tables
from ramses_d2.analysis.sample import load_map
from ramses_d2.errors import RamsesError
from tests.analysis.report.hand_made_report import MINIMAL, OPTIONS, make_report
from tests.analysis.report.hand_made_run import make_run, write_batches
from tests.analysis.report.page import Page

NO_BATCHES = WeighedBatches(None, [])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A folder with a run, its images, a weighed batch and the report of it, and the report's figures."""
    folder = tmp_path_factory.mktemp("report")
    return folder, make_report(folder)


# ---- figures


def test_figures_are_those_of_the_composition_and_grading_functions(made: tuple[Path, Report]) -> None:
    folder, _ = made
    table = read_particles(folder / "run/annotations.csv")
    composition = compose(table, resampling=OPTIONS.resampling)
    grading = grade(table, (4, 8, 16, 31.5), resampling=OPTIONS.resampling)
    figures = json.loads((folder / "report.json").read_text())
    assert figures["composition"].pop("pictures") == composition.images
    assert figures["composition"].items() <= composition.to_json().items()
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
    # Rc, label 1: (12 + p) x 18 px in images 0 to 2, unknown in image 0; label 5: (20 + p) x 26, not in image 1
    grams = 0.01 * (13 * 18 + 14 * 18 + 20 * 26 + 22 * 26)
    csv = pd.read_csv(folder / "report_composition.csv", index_col="constituent")
    assert csv.loc["Rc", "mass_g"] == pytest.approx(grams) and csv.loc["Rc", "particles"] == 4
    left_out = pd.read_csv(folder / "report_left_out.csv", index_col="reason")
    assert left_out.loc["scale object", ["class", "particles", "mass_g"]].tolist() == ["Coin", 1, 9.0]
    assert left_out.loc["unknown mass", ["class", "particles"]].tolist() == ["Rc", 1]
    assert report.mass_g == pytest.approx(csv["mass_g"].sum())
    images = pd.read_csv(folder / "report_pictures.csv", index_col="picture")
    assert images["particles"].tolist() == [6, 4, 6, 0] and images["edge_cut"].tolist() == [2, 2, 2, 0]
    assert images["scale_objects"].tolist() == [0, 1, 0, 0]
    assert images["mass_g"].sum() == pytest.approx(report.mass_g)  # without the coin's 9 g
    assert images["unknown_mass"].tolist() == [1, 0, 0, 0] and set(images["camera"]) == {"line <scan>"}


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
    assert "1 particle of unknown mass (6.2\u00a0% of all)" in joined  # of 16: the coin is none
    assert "6 particles cut by the edge of the image" in joined
    assert "Coin: belt_001.png: the coin says 2.10 px/mm, which differs by +5.0\u00a0% from the given 2" in joined
    assert len(made[1].warnings) == 3


def test_resolution_that_metadata_contradicts(tmp_path: Path) -> None:
    run = make_run(tmp_path, coin=False)
    write_batches(tmp_path, [], res=2.2)
    read = read_run(run)
    report = build_report(read, OPTIONS, find_batches(read))
    assert any("4 images predicted with another resolution" in warning for warning in report.warnings)
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


def test_particles_are_counted_without_coins(made: tuple[Path, Report]) -> None:
    """Wherever a number of particles stands: 6 + 4 + 6, and a coin."""
    folder, report = made
    assert len(report.run.table) == 17 and len(report.table) == 16
    figures = json.loads((folder / "report.json").read_text())
    assert (figures["particles"], figures["scale_objects"]) == (16, 1)
    shown = " ".join(Page(folder / "report.html").text.split())
    assert "Particles 16 in 4 images, without coins Mass" in shown and "g without coins Composition" in shown
    cut = "6 particles cut by the edge of the image (37.5\u00a0% of the number"  # 6 of 16
    assert cut in "\n".join(report.warnings)
    run = read_run(folder / "run")
    run.table.loc[run.table["class"] == "Coin", ["edge", "mass"]] = ["left", np.nan]
    warnings = "\n".join(build_report(run, OPTIONS, find_batches(run)).warnings)
    assert cut in warnings and "1 particle of unknown mass (6.2\u00a0% of all)" in warnings


def test_sizes_that_en_933_11_leaves_out_are_said(made: tuple[Path, Report], tmp_path: Path) -> None:
    run = read_run(made[0] / "run")
    assert made[1].size_note == ""  # all between 6 and 63 mm
    known = run.table["mass"].notna() & (run.table["class"] != "Coin")
    first, second = run.table.index[known][:2]
    run.table.loc[[first, second], "feret_min_mm"] = [4.0, 63.1]  # 4 mm passes the sieve of 4 mm
    share = run.table.loc[[first, second], "mass"].sum() / run.table.loc[known, "mass"].sum()
    report = build_report(run, OPTIONS, find_batches(run))
    assert report.size_note == (
        "all sizes; EN 933-11 takes 4 to 63 mm: --range 4 63 would leave out"
        f" {2 / 15:.1%} of the number and {share:.1%} of the mass"
    )
    write_report(report, tmp_path / "report.html")
    assert "All sizes; EN 933-11 takes 4 to 63 mm: --range 4 63" in Page(tmp_path / "report.html").text
    assert json.loads((tmp_path / "report.json").read_text())["size_note"] == report.size_note
    assert build_report(run, replace(OPTIONS, size_range=(4, 63)), find_batches(run)).size_note == ""


def test_coins_are_judged_by_uncorrected_grams(made: tuple[Path, Report]) -> None:
    run = read_run(made[0] / "run")
    factors = Factors({"Rc": ClassFactor(2.0), "Coin": ClassFactor(3.92 / 9)})
    report = build_report(run, OPTIONS, find_batches(run), factors)
    assert report.coins[0].mass_ratio == made[1].coins[0].mass_ratio == pytest.approx(9 / 3.92)


def test_images_of_two_folders_with_one_name_and_other_resolutions(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    other = run.table[run.table["class"] != "Coin"].assign(res=3.0)
    report = build_report(replace(run, table=pd.concat([run.table, other], ignore_index=True)), OPTIONS, NO_BATCHES)
    # The coin lies in the image of 2 px/mm and says 2.1
    assert [(coin.image, coin.given, coin.coins) for coin in report.coins] == [("belt_001.png", 2.0, 1)]
    assert report.coins[0].deviation == pytest.approx(0.05)
    write_report(report, tmp_path / "report.html")
    assert len(Page(tmp_path / "report.html").tables["table-coins"]) == 2


@pytest.mark.parametrize("empty", [np.nan, None, "nan"])
def test_edges_that_came_back_as_nan(made: tuple[Path, Report], tmp_path: Path, empty: object) -> None:
    run = read_run(made[0] / "run")
    run.table["edge"] = run.table["edge"].astype(object).where(run.table["edge"] != "", empty)
    report = build_report(run, OPTIONS, find_batches(run))
    assert report.warnings == made[1].warnings and report.coins == made[1].coins
    write_report(report, tmp_path / "report.html")
    images = pd.read_csv(tmp_path / "report_pictures.csv")
    assert images["edge_cut"].tolist() == [2, 2, 2, 0]
    run.table["edge"] = np.nan
    warnings = build_report(run, OPTIONS, find_batches(run)).warnings
    assert not any("cut by the edge" in warning for warning in warnings)


# ---- parts that are missing


def test_few_columns(tmp_path: Path) -> None:
    """What predict.py wrote before it measured: no sizes, no edges, no run.json, images not found."""
    run = make_run(tmp_path, columns=MINIMAL, run_json=False)
    read = read_run(run)
    report = build_report(read, OPTIONS, find_batches(read))
    write_report(report, tmp_path / "report.html")
    content = Page(tmp_path / "report.html").text
    assert report.grading is None and "no sizes for feret_min: it needs feret_min_mm" in content
    assert report_tables(report)["pictures"]["edge_cut"].isna().all()  # unknown is not 0
    assert "No check of the resolution with coins: annotations.csv has no axis_major_length" in content
    assert "no metadata.json with weighed batches was given or found" in content
    assert "3 of 3 cannot be shown: their image or label image was not found" in content
    assert "No column edge in annotations.csv tells them" in content
    assert "unknown: the run has no run.json" in content
    assert not (tmp_path / "report_grading.csv").exists()
    assert [image.file_name for image in read.images] == [f"belt_{i:03d}.png" for i in range(3)] + ["belt_003"]


@pytest.mark.parametrize("with_run_json", [True, False])
def test_run_without_particles(tmp_path: Path, with_run_json: bool) -> None:
    make_run(tmp_path, image_files=2, run_json=with_run_json)
    run = tmp_path / "run"
    lines = (run / "annotations.csv").read_text().splitlines()
    (run / "annotations.csv").write_text(lines[0] + "\n")
    read = read_run(run)
    report = build_report(read, replace(OPTIONS, size_range=(4, 63)), find_batches(read))
    write_report(report, tmp_path / "report.html")
    content = Page(tmp_path / "report.html").text
    assert report.warnings == ["No particle was found: there are no values."]
    assert "Left out: there are no particles" in content and "No chart: there is no particle" in content
    assert len(read.images) == 2
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
    images = report_tables(report)["pictures"].set_index("picture")["mass_g"]
    assert images.isna().tolist() == [True, True, True, False] and images["belt_003.png"] == 0  # it shows nothing
    assert "3 images of unknown resolution" in " ".join(report.warnings)
    assert "16 particles of unknown mass (100.0\u00a0% of all)" in " ".join(report.warnings)
    assert report.no_grading == "no particle has a size in mm, because the resolution of the images is unknown"
    assert report.no_comparison.startswith("no metadata.json")


def test_heavy_batches_are_written_out(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    run.table["mass"] *= 12_345 / run.table["mass"].sum()
    path = write_batches(tmp_path, [{"image_names": ["belt_000.png"], "mass": {"Rb01": 12_000}}])
    report = build_report(run, OPTIONS, find_batches(run, path))
    write_report(report, tmp_path / "report.html")
    text = " ".join(Page(tmp_path / "report.html").text.split())
    assert " kg without coins" in text and "against 12000 g weighed" in text and "e+" not in text


def test_run_that_is_not_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path, coin=False)
    record = json.loads((run / "run.json").read_text())
    record |= {"complete": False, "failed": [{"path": "x/broken.jpg", "error": "truncated"}]}
    (run / "run.json").write_text(json.dumps(record))
    read = read_run(run)
    warnings = " ".join(build_report(read, OPTIONS, find_batches(read)).warnings)
    assert "had not finished" in warnings and "1 image could not be predicted: x/broken.jpg: truncated" in warnings


def test_wrong_options_are_errors_and_no_missing_part(made: tuple[Path, Report]) -> None:
    run = read_run(made[0] / "run")
    with pytest.raises(RamsesError, match="sieves 'coarse'"):
        build_report(run, replace(OPTIONS, sieves="coarse"), find_batches(run))
    run.table.loc[0, "class"] = "Granite"
    with pytest.raises(RamsesError, match="no constituent is known for class Granite"):
        build_report(run, OPTIONS, find_batches(run))


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
    assert not [path.name for path in tmp_path.iterdir() if "unfinished" in path.name]
    with pytest.raises(RamsesError, match=r"give the name of an .html file"):
        write_report(short[1], tmp_path / "report.pdf")


def test_every_table_is_known_by_name(made: tuple[Path, Report]) -> None:
    assert set(report_tables(made[1])) <= set(TABLE_NAMES)


def test_what_the_run_and_the_map_have_to_say(made: tuple[Path, Report], tmp_path: Path) -> None:
    run = made[1].run
    (tmp_path / "map.yaml").write_text("Ru01: Ru\nBeton: Rc\n")
    noted = replace(run, record={**run.record, "notes": ["1 frame is missing between a and b: the belt is cut there"]})
    report = build_report(noted, replace(OPTIONS, mapping=load_map(tmp_path / "map.yaml")), find_batches(noted))
    assert "1 frame is missing between a and b: the belt is cut there." in report.warnings
    (warning,) = [text for text in report.warnings if "Beton" in text]
    assert "Ru01" not in warning and "count as usual" in warning


def test_a_data_set_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(RamsesError, match="is a data set, not a run"):
        read_run(tmp_path)
