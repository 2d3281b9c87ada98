"""Read the layout of the original's SOLOv2 (jerome-lux/SOLOv2).

`images/`, `labels/` (8 to 32-bit grey, png or bmp) and `annotations/<name>.json`, one per image:
`{"1": {"class": "cat", "bbox": [x0, y0, x1, y1]}}`, keyed by label. `mass` (g), `gt_mass` and `res` (px/mm) may stand
beside them. Boxes are taken from the label images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ramses_d2.data.convert.common import Source, SourceImage, index_files, read_index_image
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json


def read_solov2(folder: str | Path) -> Source:
    """Read the images that have a json; classes are sorted by name."""
    folder = Path(folder)
    files = index_files(folder / "annotations", (".json",))
    if not files:
        raise RamsesError(f"{folder / 'annotations'}: no json; a SOLOv2 folder holds one per image")
    images, labels = (index_files(folder / name) for name in ("images", "labels"))
    for name, path in files.items():
        for kind, found in (("image", images), ("label image", labels)):
            if name not in found:
                raise RamsesError(f"{path}: its {kind} is missing; add {name}.* or remove the json")
    tables = {name: _objects(path) for name, path in files.items()}
    classes = sorted({name for table in tables.values() for name in table["class"]})
    notes: Counter[str] = Counter()
    notes["images without a json left out"] = len(set(images) - set(files))

    def read_images() -> Iterator[SourceImage]:
        for name, table in tables.items():
            resolutions = table["res"].dropna().unique()
            if len(resolutions) > 1:
                found = ", ".join(map(str, resolutions))
                raise RamsesError(f"{files[name]}: several resolutions ({found}); an image has one")
            resolution = float(resolutions[0]) if len(resolutions) else math.nan
            label_map = read_index_image(labels[name])
            yield SourceImage(name, images[name], label_map, table.drop(columns="res"), resolution)

    return Source(str(folder), classes, read_images(), len(files), notes=notes)


def _objects(path: Path) -> pd.DataFrame:
    """One row per object of a json."""
    content = read_json(path)
    rows = []
    for label, entry in content.items() if isinstance(content, dict) else [("", content)]:
        is_label = label.isdecimal() and int(label) > 0
        if not (is_label and isinstance(entry, dict) and isinstance(entry.get("class"), str)):
            form = '{"1": {"class": "cat", "bbox": [x0, y0, x1, y1]}}'
            raise RamsesError(f"{path}: entry {label!r} is not of the form {form}")
        row = {"label": int(label), "class": entry["class"], "gt_mass": bool(entry.get("gt_mass", False))}
        for name in ("mass", "res"):
            value = entry.get(name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise RamsesError(f"{path}: {name} of label {label} is {value!r}; it is a number above 0")
            row[name] = np.nan if value is None else float(value)
        rows.append(row)
    return pd.DataFrame(rows, columns=["label", "class", "mass", "gt_mass", "res"])
