"""The values of a report, on a run whose every particle is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.calibration import ClassFactor, Factors
from ramses_d2.analysis.composition import categorise, compose
from ramses_d2.analysis.grading import grade, grade_groups
from ramses_d2.analysis.report.build import Report, build_report
from ramses_d2.analysis.report.data import Run, WeighedBatches, find_batches, read_particles, read_run
from ramses_d2.analysis.report.page import write_report
from ramses_d2.analysis.report.tables import report_tables
from ramses_d2.analysis.sample import load_map
from ramses_d2.data.batch_masses import Batch
from ramses_d2.errors import RamsesError
from tests.analysis.report.hand_made import MINIMAL, OPTIONS, Page, make_run, write_batches

Made = tuple[Path, Report]
SIEVES, NO_BATCHES = OPTIONS.sieves, WeighedBatches(None, [])


def report_of(folder: Path, **options: object) -> Report:
    run = read_run(folder)
    return build_report(run, replace(OPTIONS, **options), find_batches(run))


def text_of(report: Report, folder: Path) -> str:
    write_report(report, folder / "report.html")
    return Page(folder / "report.html").text


def csv_of(made: Made, name: str, index: str) -> pd.DataFrame:
    return pd.read_csv(made[0] / f"report_{name}.csv", index_col=index)


def test_values_are_those_of_the_composition_and_grading_functions(made: Made) -> None:
    table = read_particles(made[0] / "run/annotations.csv")
    composition, grading = (
        compose(table, resampling=OPTIONS.resampling),
        grade(table, SIEVES, resampling=OPTIONS.resampling),
    )
    groups = grade_groups(table, sieves=SIEVES, resampling=None)
    values = json.loads((made[0] / "report.json").read_text())
    assert values["composition"].pop("pictures") == 3
    assert values["composition"].items() <= composition.to_json().items()
    assert values["categories"] == categorise(composition).to_json() and values["grading"] == grading.to_json()
    assert values["gradings"] == {name: groups[name].to_json() for name in ("Rc", "Ru", "Rb", "X")}
    expected = composition.constituents.set_index("constituent")
    constituents, sieves = csv_of(made, "composition", "constituent"), csv_of(made, "grading", "sieve_mm")
    sizes, passing = csv_of(made, "sizes", "name"), csv_of(made, "passing_by_constituent", "sieve_mm")
    for found, wanted in (
        (constituents["percent"], 100 * expected["fraction"]),
        (constituents["low_percent"], 100 * expected["low"]),
        (constituents["mass_g"], expected["mass_g"]),
        (sieves["passing_percent"], 100 * grading.sieves["passing"]),
        (sieves["high_percent"], 100 * grading.sieves["high"]),
        (sizes["value"], grading.sizes["value"]),
        (sizes["Ru"], groups["Ru"].sizes["value"]),
        (passing["Ru"], 100 * groups["Ru"].sieves["passing"]),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert constituents.loc["FL", "remark"] and np.isnan(constituents.loc["FL", "percent"])


def test_masses_by_hand(made: Made) -> None:
    """The coin and the particle of unknown mass are in no share, and are listed."""
    report, constituents = made[1], csv_of(made, "composition", "constituent")
    # Rc, label 1: (12 + p) x 18 px in images 0 to 2, unknown in image 0; label 5: (20 + p) x 26, not in image 1
    grams = 0.01 * (13 * 18 + 14 * 18 + 20 * 26 + 22 * 26)
    assert constituents.loc["Rc", "mass_g"] == pytest.approx(grams) and constituents.loc["Rc", "particles"] == 4
    left_out = csv_of(made, "left_out", "reason")
    assert left_out.loc["scale object", ["class", "particles", "mass_g"]].tolist() == ["Coin", 1, 9.0]
    assert left_out.loc["unknown mass", ["class", "particles"]].tolist() == ["Rc", 1]
    assert report.mass_g == pytest.approx(constituents["mass_g"].sum())
    images = csv_of(made, "pictures", "picture")
    assert images["particles"].tolist() == [6, 4, 6, 0] and images["edge_cut"].tolist() == [2, 2, 2, 0]
    assert images["scale_objects"].tolist() == [0, 1, 0, 0] and images["unknown_mass"].tolist() == [1, 0, 0, 0]
    assert images["mass_g"].sum() == pytest.approx(report.mass_g)  # without the coin's 9 g
    assert set(images["camera"]) == {"line <scan>"}
    # Shares and grams of the sample do not depend on the range, which the composition is of
    assert report_of(made[0] / "run", size_range=(4, 9)).mass_g == pytest.approx(report.mass_g)


def test_comparison_with_a_weighed_batch(made: Made) -> None:
    csv, ru01 = csv_of(made, "comparison", "class"), 0.01 * 20 * (14 + 15 + 16)
    assert list(csv.index) == ["Rc", "Ru01"]  # Rb01 was not weighed; most grams first
    assert csv.loc["Ru01", "predicted_g"] == pytest.approx(ru01)
    assert csv.loc["Ru01", "error_percent"] == pytest.approx(100 * (ru01 / 10 - 1), rel=1e-5)
    assert csv.loc["Rc", "unknown_mass"] == 1
    assert made[1].comparison.not_weighed["Rb01"] == pytest.approx(0.01 * 22 * (16 + 17 + 18))
    text = Page(made[0] / "report.html").text
    assert "32 g weighed" in text and "1 particle of unknown mass counted as 0 g" in text and "Rb01 11.2 g" in text


def test_particles_are_counted_without_coins(made: Made) -> None:
    """Wherever a number of particles stands: 6 + 4 + 6, and a coin."""
    folder, report = made
    assert len(report.run.table) == 17 and len(report.table) == 16
    values = json.loads((folder / "report.json").read_text())
    assert (values["pictures"], values["particles"], values["scale_objects"]) == (4, 16, 1)
    text = Page(folder / "report.html").text
    assert "Particles 16 in 4 images, without coins Mass" in text and "g without coins Composition" in text
    run = read_run(folder / "run")
    run.table.loc[run.table["class"] == "Coin", ["edge", "mass"]] = ["left", np.nan]
    # The coin is cut then, and tells no resolution
    assert build_report(run, OPTIONS, NO_BATCHES).warnings == report.warnings[1:] and len(report.warnings) == 3


def test_factors_are_applied_and_named(made: Made, tmp_path: Path) -> None:
    run = read_run(made[0] / "run")
    classes = {"Rc": ClassFactor(2.0, 1.9, 2.1, 3, 20.0, 10.0, 7), "Coin": ClassFactor(3.92 / 9)}
    batches = hashlib.sha256((made[0] / "data/metadata.json").read_bytes()).hexdigest()
    origin = {"weights": {"sha256": "other"}, "batches_sha256": batches}
    factors = Factors(classes, origin=origin, name="my-factors.yaml")
    report = build_report(run, OPTIONS, find_batches(run), factors)
    before, after = (r.composition.constituents.set_index("constituent")["mass_g"] for r in (made[1], report))
    assert after["Rc"] == pytest.approx(2 * before["Rc"]) and after["Ru"] == before["Ru"]
    # Coins are judged by uncorrected grams
    assert report.coins[0].mass_ratio == made[1].coins[0].mass_ratio == pytest.approx(9 / 3.92)
    assert text_of(report, tmp_path).count("my-factors.yaml") >= 2
    shown = Page(tmp_path / "report.html").tables["table-factors"][1]
    assert shown == ["Rc", "2.000", "1.900\u00a0–\u00a02.100", "3", "20.00", "10.00", "5"]
    warnings = " ".join(report.warnings)
    assert "No correction factor for Rb01, Ru01, Ru02, X01" in warnings and "come from other weights" in warnings
    assert "the very batches" in warnings
    csv = pd.read_csv(tmp_path / "report_comparison.csv", index_col="class")
    assert csv.loc["Rc", "uncorrected_g"] == pytest.approx(csv.loc["Rc", "predicted_g"] / 2)
    error = csv_of(made, "comparison", "class")["error_percent"]
    assert csv["uncorrected_error_percent"].tolist() == pytest.approx(error.tolist())


def test_sizes_that_en_933_11_leaves_out_are_said(made: Made, tmp_path: Path) -> None:
    run = read_run(made[0] / "run")
    assert made[1].size_note == ""  # all between 6 and 63 mm
    known = run.table["mass"].notna() & (run.table["class"] != "Coin")
    two = run.table.index[known][:2]
    run.table.loc[two, "feret_min_mm"] = [4.0, 63.1]  # 4 mm passes the sieve of 4 mm
    share = run.table.loc[two, "mass"].sum() / run.table.loc[known, "mass"].sum()
    report = build_report(run, OPTIONS, find_batches(run))
    assert "4 to 63 mm" in report.size_note and report.to_json()["size_note"] == report.size_note
    assert f"{2 / 15:.1%} of the number and {share:.1%} of the mass" in report.size_note
    assert "All sizes; EN 933-11 takes 4 to 63 mm" in text_of(report, tmp_path)
    assert build_report(run, replace(OPTIONS, size_range=(4, 63)), find_batches(run)).size_note == ""


def test_images_of_two_folders_with_one_name_and_other_resolutions(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    other = run.table[run.table["class"] != "Coin"].assign(res=3.0)
    run = replace(run, table=pd.concat([run.table, other], ignore_index=True))
    report = build_report(run, OPTIONS, NO_BATCHES)
    # The coin lies in the image of 2 px/mm and says 2.1
    csv = report_tables(report)["coins"]
    assert csv[["picture", "given", "coins"]].to_numpy().tolist() == [["belt_001.png", 2.0, 1]]
    assert csv["deviation_percent"].tolist() == pytest.approx([5])


@pytest.mark.parametrize("empty", [np.nan, None, "nan"])
def test_edges_that_came_back_as_nan(made: Made, empty: object) -> None:
    run = read_run(made[0] / "run")
    run.table["edge"] = run.table["edge"].astype(object).where(run.table["edge"] != "", empty)
    report = build_report(run, OPTIONS, find_batches(run))
    assert report.warnings == made[1].warnings and report.coins == made[1].coins
    assert report_tables(report)["pictures"]["edge_cut"].tolist() == [2, 2, 2, 0]
    run.table["edge"] = np.nan
    assert not any("edge" in warning for warning in build_report(run, OPTIONS, find_batches(run)).warnings)


# ---- warnings and missing parts: what is done to the hand-made run, and what is said


def with_table(run: Run, table: pd.DataFrame | None = None, **columns: Any) -> Run:
    return replace(run, table=(run.table if table is None else table).assign(**columns))


def with_record(run: Run, **record: Any) -> Run:
    return replace(run, record={**run.record, **record})


def listed(run: Run, resolution: float) -> Run:
    return replace(run, images=[replace(image, listed_resolution=resolution) for image in run.images])


def second_coin(run: Run) -> Run:
    coin = run.table[run.table["class"] == "Coin"].assign(baseimg="belt_000.png")
    return with_table(run, pd.concat([run.table, coin], ignore_index=True))


NO_MM = dict.fromkeys(("res", "mass", "feret_min_mm", "feret_max_mm", "area_mm2"), np.nan)
FAILED = [{"path": "x/broken.jpg", "error": "truncated"}]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda run: with_record(run, complete=False), "The prediction had not finished"),
        (lambda run: with_record(run, failed=FAILED), "1 image could not be predicted: x/broken.jpg: truncated."),
        (lambda run: with_record(run, notes=["the belt is cut there"]), "The belt is cut there."),
        (lambda run: listed(run, 2.2), "4 images predicted with another resolution"),
        (lambda run: listed(run, 1.98), "4 images predicted with another resolution"),
        (lambda run: listed(run, 2.009), "! another resolution than metadata.json"),
        (lambda run: listed(run, 1.991), "! another resolution than metadata.json"),
        (lambda run: with_table(run, res=np.nan), "3 images of unknown resolution"),
        (lambda run: with_table(run, run.table[:0]), "No particle was found"),
        (second_coin, "in 2 of 2 images with a usable coin (median +5.0 %)"),
        (lambda run: run, "Coin: belt_001.png: the coin says 2.10 px/mm, which differs by +5.0 % from the given 2"),
        (lambda run: run, "1 particle of unknown mass (6.2 % of all)"),  # of 16, without the coin
        (lambda run: with_table(run, mass=np.nan), "16 particles of unknown mass (100.0 % of all)"),
        (lambda run: run, "6 particles cut by the edge of the image (37.5 % of the number and 29.6 % of the grams)"),
        (lambda run: with_table(run, edge="left"), "16 particles cut by the edge of the image (100.0 %"),
        (lambda run: with_table(run, edge=""), "! cut by the edge"),
    ],
)
def test_warnings(made: Made, change: Callable[[Run], Run], warning: str) -> None:
    run = change(read_run(made[0] / "run"))
    said = " ".join(" ".join(build_report(run, OPTIONS, NO_BATCHES).warnings).split())
    assert warning[2:] not in said if warning.startswith("!") else warning in said, said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: with_table(run, run.table[:0]), "no_grading: there are no particles"),
        (lambda run: with_table(run, **NO_MM), "no_grading: no particle has a size in mm, because the resolution"),
        (lambda run: with_table(run, mass=np.nan), "no_grading: no particle has both a size and a known mass"),
        (lambda run: with_table(run, run.table[MINIMAL]), "no_grading: the particle table has no sizes for feret_min"),
        (lambda run: with_table(run, mass=np.nan), "no_comparison: no particle has a known mass"),
        (lambda run: replace(run, images=[]), "no_comparison: no batch can be compared: metadata.json names no image"),
        (lambda run: replace(run, images=run.images[:3]), "no_comparison: no batch can be compared: batch 1: 1 of its"),
        (lambda run: with_table(run, run.table[MINIMAL]), "no_coins: annotations.csv has no axis_major_length and no"),
        (lambda run: with_table(run, run.table[:5]), "no_coins: there is no particle of class Coin"),
    ],
)
def test_reasons_of_missing_parts(made: Made, change: Callable[[Run], Run], reason: str) -> None:
    run = change(read_run(made[0] / "run"))
    batch = Batch(1, tuple(f"belt_00{index}" for index in range(4)), {"Rb01": 3.0})
    report = build_report(run, OPTIONS, WeighedBatches(Path("metadata.json"), [batch]))
    part, _, words = reason.partition(": ")
    assert words in getattr(report, part)


@pytest.mark.parametrize(
    ("weighed", "reason"),
    [
        (WeighedBatches(None, []), "no metadata.json with weighed batches"),
        (WeighedBatches(None, [], several=True), "several metadata.json"),
        (WeighedBatches(Path("metadata.json"), []), "metadata.json has no weighed batches"),
    ],
)
def test_reasons_of_no_batches(made: Made, weighed: WeighedBatches, reason: str) -> None:
    assert build_report(made[1].run, OPTIONS, weighed).no_comparison.startswith(reason)


def test_class_of_the_map_that_nothing_here_has(made: Made, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("Ru01: Ru\nBeton: Rc\n")
    options = replace(OPTIONS, mapping=load_map(tmp_path / "map.yaml"))
    (warning,) = [text for text in build_report(made[1].run, options, NO_BATCHES).warnings if "Beton" in text]
    assert "Ru01" not in warning


def test_unknown_grams_are_not_0(tmp_path: Path) -> None:
    run = with_table(read_run(make_run(tmp_path)), **NO_MM)
    report = build_report(run, OPTIONS, NO_BATCHES)
    assert "Mass unknown" in text_of(report, tmp_path)
    grams = report_tables(report)["pictures"].set_index("picture")["mass_g"]
    assert grams.isna().tolist() == [True, True, True, False] and grams["belt_003.png"] == 0  # it shows nothing


def test_no_intervals_and_a_factor_for_every_class(made: Made, tmp_path: Path) -> None:
    run = read_run(made[0] / "run")
    factors = Factors({name: ClassFactor(1.0) for name in run.table["class"].unique()})
    report = build_report(run, replace(OPTIONS, resampling=None), find_batches(run), factors)
    text = text_of(report, tmp_path)
    assert "No intervals were asked for." in text and "no interval" in text
    assert Page(tmp_path / "report.html").tables["table-grading"][1][2] == "–" and report.band.empty
    assert not any("No correction factor" in warning for warning in report.warnings)


def test_few_columns(tmp_path: Path) -> None:
    """No sizes, no edges, no run.json, images not found."""
    report = report_of(make_run(tmp_path, columns=MINIMAL, run_json=False))
    text = text_of(report, tmp_path)
    assert report.grading is None and report_tables(report)["pictures"]["edge_cut"].isna().all()  # unknown is not 0
    for words in (
        "no sizes for feret_min: it needs feret_min_mm",
        "No check of the resolution with coins: annotations.csv has no axis_major_length",
        "no metadata.json with weighed batches was given or found",
        "3 of 3 cannot be shown: their image or label image was not found",
        "No column edge in annotations.csv tells them",
        "unknown: the run has no run.json",
    ):
        assert words in text
    assert not (tmp_path / "report_grading.csv").exists()


@pytest.mark.parametrize("with_run_json", [True, False])
def test_run_without_particles(tmp_path: Path, with_run_json: bool) -> None:
    run = make_run(tmp_path, number=2, run_json=with_run_json)
    (run / "annotations.csv").write_text((run / "annotations.csv").read_text().splitlines()[0] + "\n")
    report = report_of(run, size_range=(4, 63))
    text = text_of(report, tmp_path)
    assert len(report.warnings) == 1 and "No particle was found" in report.warnings[0] and len(report.run.images) == 2
    assert "Left out: there are no particles" in text and "No chart: there is no particle" in text
    assert report.to_json()["particles"] == 0


def test_heavy_batches_are_written_out(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    run.table["mass"] *= 12_345 / run.table["mass"].sum()
    path = write_batches(tmp_path, [{"image_names": ["belt_000.png"], "mass": {"Rb01": 12_000}}])
    report = build_report(run, OPTIONS, find_batches(run, path))
    text = text_of(report, tmp_path)
    assert f"Mass {report.mass_g / 1000:.3g} kg without coins" in text
    assert "against 12000 g weighed" in text and "e+" not in text


def test_wrong_options_are_errors_and_no_missing_part(made: Made) -> None:
    run = read_run(made[0] / "run")
    with pytest.raises(RamsesError, match="coarse"):
        build_report(run, replace(OPTIONS, sieves="coarse"), find_batches(run))
    run.table.loc[0, "class"] = "Granite"
    with pytest.raises(RamsesError, match="Granite"):
        build_report(run, OPTIONS, find_batches(run))
