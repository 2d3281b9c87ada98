"""COCO files of the images of a RAMSES folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.masks import encode_label_map


def write_coco(path: Path, folder: Path, names: list[str]) -> Path:
    """A COCO data set of some images, without masses; the images stay in the folder's images/."""
    rows = pd.read_csv(folder / "annotations.csv")
    categories = {name: 10 * index + 5 for index, name in enumerate(sorted(set(rows["class"])))}
    images, annotations = [], []
    for image_id, name in enumerate(names, start=7):
        labels = np.asarray(Image.open(folder / f"labels/{name}.png"))
        images.append({"id": image_id, "file_name": f"{name}.png", "height": len(labels), "width": labels.shape[1]})
        for row in rows[rows["baseimg"] == name].to_dict("records"):
            rle = encode_label_map(labels, [row["label"]])[0]
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": categories[row["class"]]}
            annotation |= {"segmentation": rle | {"counts": rle["counts"].decode()}, "area": row["area"], "iscrowd": 0}
            annotations.append(
                annotation | {"bbox": [row["y0"], row["x0"], row["y1"] - row["y0"], row["x1"] - row["x0"]]}
            )
    content = {"categories": [{"id": number, "name": name} for name, number in categories.items()]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"images": images, "annotations": annotations}))
    return path
