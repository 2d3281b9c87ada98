"""The report of the hand-made run, with a weighed batch."""

from __future__ import annotations

from pathlib import Path

from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.report.build import Report, ReportOptions, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.page import write_report
from tests.analysis.report.hand_made_run import make_run, write_batches

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


def make_report(folder: Path) -> Report:
    """``folder/run``, its images and metadata.json, and ``folder/report.html`` with its JSON and CSV files."""
    make_run(folder)
    grams = {"Rc": 22.0, "Ru01": 10.0, "Rb01": None}
    names = [f"belt_{index:03d}.png" for index in range(4)]
    write_batches(folder, [{"image_names": names, "mass": grams}], res=2.0, camera="line <scan>")
    run = read_run(folder / "run")
    report = build_report(run, OPTIONS, find_batches(run))
    write_report(report, folder / "report.html")
    return report
