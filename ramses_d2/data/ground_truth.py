"""Ground truth as a COCO data set for the evaluator, made one image at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .label_map import read_label_map
from .rle import encode_label_map


def coco_ground_truth(dataset_dicts: Sequence[dict[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
    """Convert dataset dicts to a COCO dict, plus the fields mass evaluation needs.

    Records with a label image are measured on it, and annotations without a pixel there are left out. Records of a
    COCO file keep its outlines, boxes and areas, overlaps included, and its crowd regions. Repeated dataset dicts
    (oversampling) count once.

    Args:
        dataset dicts: dataset dicts.
        class_names: class order; COCO category ids are the contiguous ids + 1.

    Returns:
        JSON-serialisable ``{"images", "annotations", "categories"}``. Images: id, file_name, height, width,
        resolution (px/mm or None). Annotations: id from 1, image_id, category_id, segmentation (RLE, counts
        as str), bbox (XYWH), area (px), iscrowd, and, but for crowd regions, label, mass (g or None), gt_mass and
        resolution; coco_id, the id in the file they come from, if there is one.

    Raises:
        RamsesError: a label image cannot be read.
    """
    images, annotations = [], []
    for dataset_dict in {dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}.values():
        resolution = _none_if_unknown(dataset_dict["resolution"])
        images.append(
            {"id": dataset_dict["image_id"], "resolution": resolution}
            | {key: dataset_dict[key] for key in ("file_name", "height", "width")}
        )
        measured = (
            _from_label_image(dataset_dict) if "label_file_name" in dataset_dict else _from_outlines(dataset_dict)
        )
        for annotation, shape in measured:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": dataset_dict["image_id"]}
                | {"category_id": annotation["category_id"] + 1, **shape, "iscrowd": 0}
                | {"label": annotation["label"], "mass": _none_if_unknown(annotation["mass"])}
                | {"gt_mass": annotation["gt_mass"], "resolution": resolution}
                | {key: annotation[key] for key in ("coco_id",) if key in annotation}
            )
        for region in dataset_dict.get("crowd", ()):
            shape = {"segmentation": _run_lengths(region["segmentation"], dataset_dict)}
            shape |= {"bbox": list(region["bbox"]), "area": region["area"], "iscrowd": 1}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": dataset_dict["image_id"]}
                | {"category_id": region["category_id"] + 1, **shape}
                | {key: region[key] for key in ("coco_id",) if key in region}
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _from_label_image(dataset_dict: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Annotations with a pixel, each with its segmentation, bbox and area."""
    rles = encode_label_map(read_label_map(dataset_dict), [a["label"] for a in dataset_dict["annotations"]])
    areas = [int(mask_utils.area(rle)) for rle in rles]  # one by one: pycocotools 2.0.11 fails on lists of 256 and more
    boxes = mask_utils.toBbox(rles) if rles else np.zeros((0, 4))
    return [
        (annotation, {"segmentation": _as_text(rle), "bbox": box.tolist(), "area": area})
        for annotation, rle, area, box in zip(dataset_dict["annotations"], rles, areas, boxes, strict=True)
        if area
    ]


def _from_outlines(dataset_dict: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """All annotations, each with its segmentation, bbox and area as its file has them."""
    measured = []
    for annotation in dataset_dict["annotations"]:
        x0, y0, x1, y1 = annotation["bbox"]
        rle = _run_lengths(annotation["segmentation"], dataset_dict)
        area = annotation["area"]
        area = float(mask_utils.area(rle)) if math.isnan(area) else area
        measured.append((annotation, {"segmentation": rle, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area}))
    return measured


def _run_lengths(outline: Any, dataset_dict: dict[str, Any]) -> dict[str, Any]:
    """Polygons or RLE of any kind as COCO's compressed RLE, counts as str."""
    height, width = dataset_dict["height"], dataset_dict["width"]
    if isinstance(outline, list):
        return _as_text(mask_utils.merge(mask_utils.frPyObjects(outline, height, width)))
    if isinstance(outline["counts"], list):
        return _as_text(mask_utils.frPyObjects(outline, height, width))
    return _as_text(outline)


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _none_if_unknown(value: float) -> float | None:
    return None if math.isnan(value) else value
