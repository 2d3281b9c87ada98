"""A run whose every particle is known, the report of it, and what a page holds, read without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.report.build import Report, ReportOptions, build_report
from ramses_d2.analysis.report.data import find_batches, read_run
from ramses_d2.analysis.report.page import write_report

HEIGHT, WIDTH, RESOLUTION = 90, 120, 2.0
CLASSES = ("Rc", "Ru01", "Rb01", "X01", "Rc", "Ru02")
GREY, COLORS = 60, {"Rc": 200, "Ru01": 180, "Ru02": 170, "Rb01": 150, "X01": 130, "Coin": 220}
COIN_SIDE = round(21.25 * 2.1)  # the coin says 2.1 px/mm where the run says 2.0
# What predict.py wrote before it measured
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
    names = [f"belt_{index:03d}.png" for index in range(4)]
    grams = {"Rc": 22.0, "Ru01": 10.0, "Rb01": None}
    write_batches(folder, [{"image_names": names, "mass": grams}], res=2.0, camera="line <scan>")
    run = read_run(folder / "run")
    report = build_report(run, OPTIONS, find_batches(run))
    write_report(report, folder / "report.html")
    return report


def make_run(
    folder: Path, *, number: int = 4, coin: bool = True, run_json: bool = True, columns: list[str] | None = None
) -> Path:
    """Write ``folder/run`` (returned), as tools/predict.py would, and ``folder/data/images``.

    Particle k of image p is a rectangle of class ``CLASSES[k]``, 12 + 2 k + p px high and 18 + 2 k wide, of 0.01 g/px;
    the first of the first image has an unknown mass, the last image no particle. Labels 1 and 4 touch the left edge;
    image 1 holds a coin in place of labels 5 and 6. Scores fall from 0.99 by 0.01.
    """
    run, images = folder / "run", folder / "data/images"
    for path in (run / "labels", images):
        path.mkdir(parents=True)
    rows, entries = [], []
    for index in range(number):
        name, labels = f"belt_{index:03d}", np.zeros((HEIGHT, WIDTH), np.uint16)
        found = []
        for k, kind in enumerate(CLASSES if index < number - 1 else ()):
            if not (coin and index == 1 and k > 3):
                x0, y0, height, width = 3 + 44 * (k // 3), 40 * (k % 3), 12 + 2 * k + index, 18 + 2 * k
                found.append(_row(k + 1, kind, x0, y0, height, width, 0.01 * height * width))
        if coin and index == 1:
            diameter = 21.25 * 2.1
            disc = {"area": np.pi / 4 * diameter**2, "axis_major_length": diameter, "axis_minor_length": diameter}
            found.append(_row(7, "Coin", 46, 75, COIN_SIDE, COIN_SIDE, 9.0) | disc)
        grey = np.full(labels.shape, GREY, np.uint8)
        for row in found:
            box = slice(row["x0"], row["x1"]), slice(row["y0"], row["y1"])
            labels[box], grey[box] = row["label"], COLORS[row["class"]]
            rows.append({"baseimg": f"{name}.png", **row, "score": 0.99 - 0.01 * len(rows)})
        Image.fromarray(labels).save(run / "labels" / f"{name}.png")
        Image.fromarray(np.dstack([grey] * 3)).save(images / f"{name}.png")
        size = {"height": HEIGHT, "width": WIDTH, "resolution": RESOLUTION, "particles": len(found)}
        entries.append({"file_name": f"{name}.png", "path": str(images / f"{name}.png"), "name": name, **size})
    table = pd.DataFrame(rows)
    table.loc[(table["baseimg"] == "belt_000.png") & (table["label"] == 1), "mass"] = np.nan
    table[columns or list(table)].to_csv(run / "annotations.csv", index=False, na_rep="nan")
    if run_json:
        record = {
            "complete": True,
            "created": "2026-01-02T03:04:05+00:00",
            "command": ["tools/predict.py", "--weights", "model.pth"],
            "weights_file": "model.pth",
            "versions": {"ramses_d2": "0.1.0", "torch": "2.15.0"},
            "settings": {"weights_sha256": "c0ffee" * 10 + "abcd", "options": {"score_threshold": 0.3}},
            "pictures": entries,
            "failed": [],
        }
        (run / "run.json").write_text(json.dumps(record))
    return run


def _row(label: int, name: str, x0: int, y0: int, height: int, width: int, mass: float) -> dict[str, Any]:
    small, large = sorted((height, width))
    box = {"x0": x0, "x1": x0 + height, "y0": y0, "y1": y0 + width, "area": float(height * width), "mass": mass}
    sizes = {
        "axis_major_length": float(large),
        "axis_minor_length": float(small),
        "max_inscribed_radius": small / 2,
        "feret_max_mm": np.hypot(small, large) / RESOLUTION,
        "feret_min_mm": small / RESOLUTION,
        "area_mm2": height * width / RESOLUTION**2,
    }
    edge = "left" if y0 == 0 else ""
    return {"label": label, "res": RESOLUTION, "class": name, **box, **sizes, "edge": edge}


def write_batches(folder: Path, batches: list[dict[str, Any]], **image: Any) -> Path:
    """``folder/data/metadata.json``, with ``image`` as further keys of every image."""
    entries = [{"file_name": path.name, **image} for path in sorted((folder / "data/images").iterdir())]
    path = folder / "data/metadata.json"
    path.write_text(json.dumps({"images": entries, "batches": batches}))
    return path


class Page:
    """What a page holds: its elements, its words parted by single spaces, and the cells of its tables by id."""

    def __init__(self, path: Path) -> None:
        self.root = ElementTree.parse(path).getroot()  # it is well-formed, so no browser is needed
        self.text = " ".join("".join(self.root.find("body").itertext()).split())
        self.tables = {
            table.get("id"): [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
            for table in self.root.iter("table")
        }
