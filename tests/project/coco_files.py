"""COCO files of the images of a RAMSES folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.masks import encode_label_map


def coco_content(folder: Path, names: list[str]) -> dict[str, Any]:
    """A COCO data set of some images, without masses."""
    rows = pd.read_csv(folder / "annotations.csv")
    classes = sorted(set(rows["class"]))
    images, annotations = [], []
    for image_id, name in enumerate(names, start=7):
        labels = np.asarray(Image.open(folder / f"labels/{name}.png"))
        images.append({"id": image_id, "file_name": f"{name}.png", "height": len(labels), "width": labels.shape[1]})
        for row in rows[rows["baseimg"] == name].itertuples():
            rle = encode_label_map(labels, [row.label])[0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 10 * classes.index(rows.loc[row.Index, "class"]) + 5,
                    "segmentation": rle | {"counts": rle["counts"].decode()},
                    "area": int(row.area),
                    "bbox": [row.y0, row.x0, row.y1 - row.y0, row.x1 - row.x0],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 10 * index + 5, "name": name} for index, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(path: Path, folder: Path, names: list[str]) -> Path:
    """Write such a data set; its images stay in the folder's images/."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco_content(folder, names)))
    return path
