"""Predictions as COCO files: a ground truth that labelling tools open, and results that pycocotools evaluates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import pandas as pd

from ..data.rle import encode_label_map


def coco_instances(labels: np.ndarray, table: pd.DataFrame, class_ids: dict[str, int]) -> list[dict[str, Any]]:
    """COCO annotations of the particles of one image, without ids.

    Args:
        labels: (H, W) label image.
        table: its rows of the particle table.
        class_ids: class name -> COCO category id.

    Returns:
        one dict per row: category_id, segmentation (RLE, counts as text), bbox (x, y, width, height), area (px),
        iscrowd, score, mass (g, None = unknown), label and, where the table has it, particle.
    """
    rles = encode_label_map(labels, table["label"].tolist())
    return [
        {
            "category_id": class_ids[row["class"]],
            "segmentation": rle | {"counts": rle["counts"].decode("ascii")},
            "bbox": [int(row["y0"]), int(row["x0"]), int(row["y1"] - row["y0"]), int(row["x1"] - row["x0"])],
            "area": int(row["area"]),
            "iscrowd": 0,
            "score": float(row["score"]),
            "mass": None if pd.isna(row["mass"]) else float(row["mass"]),
            "label": int(row["label"]),
        }
        | ({"particle": int(row["particle"])} if "particle" in row else {})
        for row, rle in zip(table.to_dict("records"), rles, strict=True)
    ]


class CocoFiles:
    """Writes the images of a run as COCO files, one after another: outlines of many images need not fit in memory.

    The first file is a COCO ground truth (ids from 1; with score, mass and label of each annotation, res and resolution
    of each image), the second has the same particles in COCO's results format.

    Args:
        truth, results: text files to fill.
        class_names: in order; category ids count from 1.
    """

    def __init__(self, truth: IO[str], results: IO[str], class_names: Sequence[str]) -> None:
        categories = [{"id": index, "name": name} for index, name in enumerate(class_names, start=1)]
        info = {"description": "RAMSES predictions; resolution in px/mm, mass in g"}
        head = json.dumps({"info": info, "licenses": [], "categories": categories})
        truth.write(f'{head[:-1]}, "annotations": [')
        results.write("[")
        self._truth, self._results = truth, results
        self._images: list[dict[str, Any]] = []
        self._count = 0

    def add(self, image_file: dict[str, Any]) -> None:
        """Write an image: "file_name", "height", "width", "resolution" (px/mm or None) and :func:`coco_instances`."""
        image = {key: image_file[key] for key in ("file_name", "height", "width", "resolution")}
        number = len(self._images) + 1
        self._images.append({"id": number} | image | {"res": image_file["resolution"]})
        for instance in image_file["instances"]:
            separator = ",\n" if self._count else "\n"
            self._count += 1
            annotation = {"id": self._count, "image_id": number} | instance
            self._truth.write(separator + json.dumps(annotation, allow_nan=False))
            kept = ("category_id", "segmentation", "bbox", "score", "mass")
            result = {"image_id": number} | {key: instance[key] for key in kept}
            self._results.write(separator + json.dumps(result, allow_nan=False))

    def finish(self) -> None:
        """Write what comes last."""
        self._truth.write(f'], "images": {json.dumps(self._images, allow_nan=False)}}}\n')
        self._results.write("]\n")
