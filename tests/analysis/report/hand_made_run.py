"""A run folder whose every particle is known: what tools/predict.py would have written of four small images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

HEIGHT, WIDTH, RESOLUTION = 90, 120, 2.0
CLASSES = ("Rc", "Ru01", "Rb01", "X01", "Rc", "Ru02")
GREY, COLORS = 60, {"Rc": 200, "Ru01": 180, "Ru02": 170, "Rb01": 150, "X01": 130, "Coin": 220}


def make_run(
    folder: Path, *, image_files: int = 4, coin: bool = True, run_json: bool = True, columns: list[str] | None = None
) -> Path:
    """Write ``folder/run`` (returned) and ``folder/data/images``; the last image has no particle.

    Particle k of image p is a rectangle of class ``CLASSES[k]``; the first of each image touches the left edge, and
    the first of the first image has an unknown mass. Image 1 holds a coin. Scores fall from 0.99 by 0.01.

    Args:
        folder: an empty folder.
        images: how many.
        coin: whether there is one.
        run_json: write run.json, and images that it leads to.
        columns: of annotations.csv; default all.
    """
    run, images = folder / "run", folder / "data/images"
    for path in (run / "labels", images):
        path.mkdir(parents=True)
    rows, entries = [], []
    for index in range(image_files):
        labels, found = _image(index, image_files, coin)
        name = f"belt_{index:03d}"
        for row in found:
            row["score"] = 0.99 - 0.01 * (len(rows) + found.index(row))
        rows += [{"baseimg": f"{name}.png", **row} for row in found]
        grey = np.full(labels.shape, GREY, np.uint8)
        for row in found:
            grey[labels == row["label"]] = COLORS[row["class"]]
        Image.fromarray(labels).save(run / "labels" / f"{name}.png")
        Image.fromarray(np.dstack([grey] * 3)).save(images / f"{name}.png")
        entries.append(
            {
                "file_name": f"{name}.png",
                "path": str(images / f"{name}.png"),
                "name": name,
                "height": HEIGHT,
                "width": WIDTH,
                "resolution": RESOLUTION,
                "particles": len(found),
            }
        )
    table = pd.DataFrame(rows)
    table.loc[(table["baseimg"] == "belt_000.png") & (table["label"] == 1), "mass"] = np.nan
    table = table[columns] if columns else table
    table.to_csv(run / "annotations.csv", index=False, na_rep="nan")
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


def write_batches(folder: Path, batches: list[dict[str, Any]], **images: Any) -> Path:
    """``folder/data/metadata.json``, with ``images`` as further keys of every image."""
    entries = [{"file_name": path.name, **images} for path in sorted((folder / "data/images").iterdir())]
    path = folder / "data/metadata.json"
    path.write_text(json.dumps({"images": entries, "batches": batches}))
    return path


def _image(index: int, images: int, coin: bool) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Label image and rows of an image."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    rows = []
    if index == images - 1:
        return labels, rows
    for k, name in enumerate(CLASSES):
        height, width = 12 + 2 * k + index, 18 + 2 * k
        x0, y0 = (3 + 44 * (k // 3), 40 * (k % 3))
        labels[x0 : x0 + height, y0 : y0 + width] = k + 1
        rows.append(_row(k + 1, name, x0, y0, height, width, mass=0.01 * height * width))
    if coin and index == 1:
        side = round(21.25 * 2.1)  # the coin says 2.1 px/mm where the run says 2.0
        labels[46 : 46 + side, 75 : 75 + side] = 7
        rows[4:] = []
        labels[np.isin(labels, (5, 6))] = 0
        row = _row(7, "Coin", 46, 75, side, side, mass=9.0)
        disc = np.pi / 4 * (21.25 * 2.1) ** 2
        rows.append(row | {"area": disc, "axis_major_length": 21.25 * 2.1, "axis_minor_length": 21.25 * 2.1})
    return labels, rows


def _row(label: int, name: str, x0: int, y0: int, height: int, width: int, mass: float) -> dict[str, Any]:
    small, large = sorted((height, width))
    return {
        "label": label,
        "res": RESOLUTION,
        "class": name,
        "x0": x0,
        "x1": x0 + height,
        "y0": y0,
        "y1": y0 + width,
        "area": float(height * width),
        "mass": mass,
        "axis_major_length": float(large),
        "axis_minor_length": float(small),
        "max_feret_diameter": float(np.hypot(small, large)),
        "min_feret_diameter": float(small),
        "max_inscribed_radius": small / 2,
        "feret_max_mm": np.hypot(small, large) / RESOLUTION,
        "feret_min_mm": small / RESOLUTION,
        "equivalent_diameter_mm": np.sqrt(4 * height * width / np.pi) / RESOLUTION,
        "area_mm2": height * width / RESOLUTION**2,
        "edge": "left" if y0 == 0 else "",
    }
