"""Ground truth as a COCO data set for the evaluator, made from label maps one picture at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .label_map import read_label_map
from .rle import encode_label_map


def coco_ground_truth(records: Sequence[dict[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
    """Convert dataset records to a COCO dict, plus the fields mass evaluation needs.

    Repeated records (oversampling) count once. Annotations without a pixel are left out.

    Args:
        records: dataset records.
        class_names: class order; COCO category ids are the contiguous ids + 1.

    Returns:
        JSON-serialisable ``{"images", "annotations", "categories"}``. Images: id, file_name, height, width,
        resolution (px/mm or None). Annotations: id from 1, image_id, category_id, segmentation (RLE, counts
        as str), bbox (XYWH of the mask), area (px), iscrowd 0, label, mass (g or None), gt_mass, resolution.

    Raises:
        RamsesError: a label image cannot be read.
    """
    images, annotations = [], []
    for record in {record["image_id"]: record for record in records}.values():
        resolution = _none_if_unknown(record["resolution"])
        images.append(
            {"id": record["image_id"], "resolution": resolution}
            | {key: record[key] for key in ("file_name", "height", "width")}
        )
        label_map = read_label_map(record)
        rles = encode_label_map(label_map, [a["label"] for a in record["annotations"]])
        areas = [mask_utils.area(rle) for rle in rles]  # one by one: pycocotools 2.0.11 fails on lists of 256 and more
        boxes = mask_utils.toBbox(rles) if rles else np.zeros((0, 4))
        for annotation, rle, area, box in zip(record["annotations"], rles, areas, boxes, strict=True):
            if area == 0:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"] + 1,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    "bbox": box.tolist(),
                    "area": int(area),
                    "iscrowd": 0,
                    "label": annotation["label"],
                    "mass": _none_if_unknown(annotation["mass"]),
                    "gt_mass": annotation["gt_mass"],
                    "resolution": resolution,
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _none_if_unknown(value: float) -> float | None:
    return None if math.isnan(value) else value
