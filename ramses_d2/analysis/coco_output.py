"""Predictions as COCO files: a ground truth that labelling tools open, and results that pycocotools evaluates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..data.rle import encode_label_map


def coco_instances(labels: np.ndarray, table: pd.DataFrame, class_ids: dict[str, int]) -> list[dict[str, Any]]:
    """COCO annotations of the particles of one picture, without ids.

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


def coco_files(
    pictures: Iterable[dict[str, Any]], class_names: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Put the pictures of a run together.

    Args:
        pictures: of each, "file_name", "height", "width", "resolution" (px/mm or None) and "instances", see
            :func:`coco_instances`.
        class_names: in order; category ids count from 1.

    Returns:
        a COCO ground truth (ids from 1; with score, mass and label of each annotation, res and resolution of each
        image), and the same particles in COCO's results format.
    """
    images, annotations, results = [], [], []
    for image_id, picture in enumerate(pictures, start=1):
        image = {key: picture[key] for key in ("file_name", "height", "width", "resolution")}
        images.append({"id": image_id} | image | {"res": picture["resolution"]})
        for instance in picture["instances"]:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id} | instance)
            kept = ("category_id", "segmentation", "bbox", "score", "mass")
            results.append({"image_id": image_id} | {key: instance[key] for key in kept})
    categories = [{"id": index, "name": name} for index, name in enumerate(class_names, start=1)]
    info = {"description": "RAMSES predictions; resolution in px/mm, mass in g"}
    truth = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    return truth, results
