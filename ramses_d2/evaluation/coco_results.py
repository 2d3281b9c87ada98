"""Predictions and truth in COCO's formats: inside with our ids, in files with those of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, BoxMode, Instances

from ramses_d2.data.rle import encode_in_box


def instances_to_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """COCO results of one image, ready for JSON.

    Args:
        instances: of the model, on the CPU, K objects.
        image_id: of the image.

    Returns:
        K dicts: image_id, category_id (class id + 1), bbox (XYWH, px), score, segmentation (RLE, counts as
        str) and, where the model weighs, mass (g, None unknown).
    """
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    results = [
        {
            "image_id": image_id,
            "category_id": class_id + 1,
            "bbox": box,
            "score": score,
            "segmentation": {"size": list(rle["size"]), "counts": _text(rle["counts"])},
        }
        for class_id, box, score, rle in zip(classes, boxes, scores, _run_lengths(instances), strict=True)
    ]
    if instances.has("pred_masses"):
        for result, mass in zip(results, instances.pred_masses.tolist(), strict=True):
            result["mass"] = mass if np.isfinite(mass) else None
    return results


class FileIds:
    """The ids that files carry in place of ours: those of the COCO file a data set comes from.

    A data set of another kind has none; its ids are then image_id and class id + 1.

    Args:
        dataset dicts: dataset dicts, with ``coco_image_id`` where they come from a COCO file.
        category_ids: of the file, in class order; None = class id + 1.
    """

    def __init__(self, dataset_dicts: Sequence[dict[str, Any]], category_ids: Sequence[Any] | None) -> None:
        self._images = {r["image_id"]: r.get("coco_image_id", r["image_id"]) for r in dataset_dicts}
        self._categories = category_ids

    def ground_truth(self, truth: dict[str, Any]) -> dict[str, Any]:
        """A COCO ground truth under the file's ids of images and categories; annotations are numbered from 1.

        COCO's own evaluation takes an annotation with the id 0 for a missing one, hence the numbers.
        """
        return {
            "images": [image | {"id": self._images[image["id"]]} for image in truth["images"]],
            "annotations": self.results(truth["annotations"]),
            "categories": [category | {"id": self._category(category["id"])} for category in truth["categories"]],
        }

    def results(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """COCO results, or annotations, under the file's ids."""
        return [
            entry | {"image_id": self._images[entry["image_id"]], "category_id": self._category(entry["category_id"])}
            for entry in results
        ]

    def _category(self, number: int) -> Any:
        return number if self._categories is None else self._categories[number - 1]


def _run_lengths(instances: Instances) -> list[dict[str, Any]]:
    masks = instances.pred_masks
    if not isinstance(masks, torch.Tensor):
        return list(masks)
    height, width = instances.image_size
    boxes = BitMasks(masks).get_bounding_boxes().tensor.int().tolist()
    return [
        encode_in_box(mask[y0:y1, x0:x1], x0, y0, height, width)
        for mask, (x0, y0, x1, y1) in zip(masks.numpy(), boxes, strict=True)
    ]


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
