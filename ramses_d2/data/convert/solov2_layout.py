"""The layout of the original's SOLOv2 (jerome-lux/SOLOv2), both ways.

``images/``, ``labels/`` (8 to 32-bit grey, png or bmp) and ``annotations/<name>.json``, one per image:
``{"1": {"class": "cat", "bbox": [x0, y0, x1, y1]}}``, keyed by label. As in the original's other files x is the ROW
and y the column, ends exclusive. Its loader takes ``class`` and ``bbox`` only, so grams and resolution ride along as
``mass``, ``gt_mass`` and ``res``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.data.convert.output import Report, new_folder, place_image, reported, write_json, write_label_image
from ramses_d2.data.convert.source import BOX_COLUMNS, Source, SourceImage, index_files, read_index_image
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, read_json

_FURTHER = ("mass", "gt_mass")


def read_solov2(folder: str | Path) -> Source:
    """Read a SOLOv2 folder; boxes are taken from the label images.

    Args:
        folder: holds images/, labels/ and annotations/.

    Returns:
        the images that have a json, classes sorted by name.

    Raises:
        RamsesError: a file missing or not of this layout.
    """
    folder = Path(folder)
    files = index_files(folder / "annotations", (".json",))
    if not files:
        raise RamsesError(f"{folder / 'annotations'}: no json; a SOLOv2 folder holds one per image")
    images, labels = (index_files(folder / name, IMAGE_SUFFIXES) for name in ("images", "labels"))
    for name, path in files.items():
        for kind, found in (("picture", images), ("label image", labels)):
            if name not in found:
                raise RamsesError(f"{path}: its {kind} is missing; add {name}.* or remove the json")
    tables = {name: _objects(path) for name, path in files.items()}
    classes = sorted({name for table in tables.values() for name in table["class"]})
    notes: Counter[str] = Counter()
    notes["images without a json left out"] = len(set(images) - set(files))

    def image_files() -> Iterator[SourceImage]:
        for name, table in tables.items():
            yield SourceImage(
                name=name,
                path=images[name],
                label_map=read_index_image(labels[name]),
                objects=table.drop(columns="res"),
                resolution=_resolution(table, files[name]),
            )

    return Source(str(folder), classes, image_files(), len(files), notes=notes)


def write_solov2(
    source: Source, output: str | Path, *, images: str = "copy", force: bool = False, progress: bool = False
) -> Report:
    """Write a SOLOv2 folder. Images with an EXIF orientation are written anew, upright: its loader ignores EXIF.

    Args:
        source: what one of the readers returned.
        output: folder to create.
        images: "copy", "link" or "none".
        force: replace the folder if a conversion wrote it.
        progress: show a progress bar.

    Returns:
        what was written.

    Raises:
        RamsesError: something wrong in the source; ``output`` exists.
    """
    report = Report(source.origin, Path(output), "solov2")
    with new_folder(output, report, force) as folder:
        for name in ("images", "labels", "annotations"):
            (folder / name).mkdir()
        source.notes["batches left out: the format has no place for them"] += len(source.batches)
        for image in reported(source, report, progress):
            place_image(image, folder / "images", images, upright=True, notes=source.notes)
            write_label_image(image.label_map, folder / "labels" / f"{image.name}.png")
            write_json(folder / "annotations" / f"{image.name}.json", _entries(image), indent=None)
    return report


def _entries(image: SourceImage) -> dict[str, dict[str, Any]]:
    entries = {}
    for row in image.objects.to_dict("records"):
        left, top, right, bottom = (row[name] for name in BOX_COLUMNS)
        entry = {"class": row["class"], "bbox": [top, left, bottom, right]}
        if not math.isnan(image.resolution):
            entry["res"] = image.resolution
        if not math.isnan(row["mass"]):
            entry |= {"mass": row["mass"], "gt_mass": row["gt_mass"]}
        entries[str(row["label"])] = entry
    return entries


def _objects(path: Path) -> pd.DataFrame:
    """One row per object of a json."""
    content = read_json(path)
    rows = []
    for label, entry in content.items() if isinstance(content, dict) else [("", content)]:
        if not (
            label.isdecimal() and int(label) > 0 and isinstance(entry, dict) and isinstance(entry.get("class"), str)
        ):
            raise RamsesError(
                f'{path}: entry {label!r} is not of the form {{"1": {{"class": "cat", "bbox": [x0, y0, x1, y1]}}}}'
            )
        rows.append({"label": int(label), "class": entry["class"]} | _further(entry, label, path))
    return pd.DataFrame(rows, columns=["label", "class", *_FURTHER, "res"])


def _further(entry: dict[str, Any], label: str, path: Path) -> dict[str, Any]:
    mass, resolution = (entry.get(name) for name in ("mass", "res"))
    for name, value in (("mass", mass), ("res", resolution)):
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise RamsesError(f"{path}: {name} of label {label} is {value!r}; it is a number above 0")
    return {
        "mass": np.nan if mass is None else float(mass),
        "gt_mass": bool(entry.get("gt_mass", False)),
        "res": np.nan if resolution is None else float(resolution),
    }


def _resolution(table: pd.DataFrame, path: Path) -> float:
    resolutions = table["res"].dropna().unique()
    if len(resolutions) > 1:
        raise RamsesError(f"{path}: several resolutions ({', '.join(map(str, resolutions))}); an image has one")
    return float(resolutions[0]) if len(resolutions) else math.nan
