"""COCO AP, and predictions in COCO's format: inside with our ids, in files with those of the data set.

Shape letters of COCO's arrays: T IoU thresholds, R recalls, C classes, A size ranges.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, BoxMode, Instances
from faster_coco_eval import COCO, COCOeval_faster

from ramses_d2.masks import encode_in_box, json_rle

logger = logging.getLogger(__name__)

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)
_IOU_50, _IOU_75 = IOU_THRESHOLDS.index(0.5), IOU_THRESHOLDS.index(0.75)
# COCO's bounds, in px of the file on disk: small < 32^2 <= medium < 96^2 <= large
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_SHAPE = {"segm": "segmentation", "bbox": "bbox"}


@dataclass(frozen=True)
class Curves:
    """Precision over recall, as COCO computes it; -1 = undefined, because there is no ground truth."""

    precision: np.ndarray  # (T, R, C, A), interpolated: the best precision at this recall or more
    scores: np.ndarray  # (T, R, C, A), score from which on predictions reach the recall; 0 where they never do
    recall: np.ndarray  # (T, C, A), reached by all predictions
    class_names: tuple[str, ...]
    max_dets: int  # predictions that counted, the best of each image and class

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl, AR@<max_dets> and AP-<class>, %; NaN without ground truth."""
        return self._summary(slice(None)) | {
            f"AP-{name}": _mean_percent(self.precision[:, :, index, _ALL])
            for index, name in enumerate(self.class_names)
        }

    def details(self, class_id: int | None = None) -> dict[str, Any]:
        """All metrics of one class, or of all: those of :meth:`summary`, AR by size, and AP at each IoU."""
        chosen = slice(None) if class_id is None else slice(class_id, class_id + 1)
        sizes = {"ARs": _SMALL, "ARm": _MEDIUM, "ARl": _LARGE}
        recalls = {f"{name}@{self.max_dets}": _mean_percent(self.recall[:, chosen, a]) for name, a in sizes.items()}
        by_iou = {
            f"{iou:.2f}": _mean_percent(self.precision[index, :, chosen, _ALL])
            for index, iou in enumerate(IOU_THRESHOLDS)
        }
        return self._summary(chosen) | recalls | {"AP_by_IoU": by_iou}

    def at(self, iou: float) -> tuple[np.ndarray, np.ndarray]:
        """Precision and score at each of :data:`RECALLS`, (R, C) each, for one of :data:`IOU_THRESHOLDS`."""
        index = IOU_THRESHOLDS.index(iou)
        return self.precision[index, :, :, _ALL], self.scores[index, :, :, _ALL]

    def _summary(self, chosen: slice) -> dict[str, float]:
        precision = self.precision[:, :, chosen]
        return {
            "AP": _mean_percent(precision[..., _ALL]),
            "AP50": _mean_percent(precision[_IOU_50, ..., _ALL]),
            "AP75": _mean_percent(precision[_IOU_75, ..., _ALL]),
            "APs": _mean_percent(precision[..., _SMALL]),
            "APm": _mean_percent(precision[..., _MEDIUM]),
            "APl": _mean_percent(precision[..., _LARGE]),
            f"AR@{self.max_dets}": _mean_percent(self.recall[:, chosen, _ALL]),
        }


def coco_curves(
    coco_gt: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: str,
    class_names: Sequence[str],
    max_dets: int,
) -> Curves:
    """Precision over recall of all images of a data set, for "segm" or "bbox"; neither input is changed.

    Category ids are the class ids + 1; ``max_dets`` predictions count, the best of each image **and class**. Without
    predictions the precision is 0 wherever there is ground truth.
    """
    # Both libraries write into the dicts they are given; and the library wants images with numbers
    numbers = {image["id"]: number for number, image in enumerate(coco_gt["images"], start=1)}
    images = [image | {"id": numbers[image["id"]]} for image in coco_gt["images"]]
    annotations = [a | {"image_id": numbers[a["image_id"]]} for a in coco_gt["annotations"]]
    coco = COCO({**coco_gt, "images": images, "annotations": annotations})
    # With a box beside the mask, COCO would take the box's area for that of the object
    fields = ("category_id", "score", _SHAPE[iou_type])
    found = coco.loadRes(
        [{"image_id": numbers[r["image_id"]]} | {field: r[field] for field in fields} for r in results]
    )
    evaluation = COCOeval_faster(coco, found, iou_type, print_function=logger.debug)
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = (np.asarray(evaluation.eval[name])[..., -1] for name in ("precision", "scores", "recall"))
    return Curves(*arrays, tuple(class_names), max_dets)


def evaluate_ap(*arguments: Any) -> dict[str, float]:
    """Average precision over all images of a data set: :meth:`Curves.summary` of :func:`coco_curves`."""
    return coco_curves(*arguments).summary()


def _mean_percent(values: np.ndarray) -> float:
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")


def instances_to_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """COCO results of the K instances of one image, on the CPU, ready for JSON.

    Category ids are the class ids + 1; where the model predicts masses, there is mass (g, None unknown).
    """
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    results = [
        {
            "image_id": image_id,
            "category_id": class_id + 1,
            "bbox": box,
            "score": score,
            "segmentation": json_rle(rle),
        }
        for class_id, box, score, rle in zip(classes, boxes, scores, _rles(instances), strict=True)
    ]
    if instances.has("pred_masses"):
        for result, mass in zip(results, instances.pred_masses.tolist(), strict=True):
            result["mass"] = mass if np.isfinite(mass) else None
    return results


class FileIds:
    """The ids of files: those of the COCO file a data set comes from, else image_id and class id + 1."""

    def __init__(self, dataset_dicts: Sequence[dict[str, Any]], category_ids: Sequence[Any] | None) -> None:
        self._images = {r["image_id"]: r.get("coco_image_id", r["image_id"]) for r in dataset_dicts}
        self._categories = category_ids

    def ground_truth(self, ground_truth: dict[str, Any]) -> dict[str, Any]:
        """A COCO ground truth under the file's ids of images and categories; annotations are numbered from 1.

        COCO's own evaluation takes an annotation with the id 0 for a missing one, hence the numbers.
        """
        return {
            "images": [image | {"id": self._images[image["id"]]} for image in ground_truth["images"]],
            "annotations": self.results(ground_truth["annotations"]),
            "categories": [
                category | {"id": self._category(category["id"])} for category in ground_truth["categories"]
            ],
        }

    def results(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """COCO results, or annotations, under the file's ids."""
        return [
            entry | {"image_id": self._images[entry["image_id"]], "category_id": self._category(entry["category_id"])}
            for entry in results
        ]

    def _category(self, number: int) -> Any:
        return number if self._categories is None else self._categories[number - 1]


def _rles(instances: Instances) -> list[dict[str, Any]]:
    masks = instances.pred_masks
    if not isinstance(masks, torch.Tensor):
        return list(masks)
    height, width = instances.image_size
    boxes = BitMasks(masks).get_bounding_boxes().tensor.int().tolist()
    return [
        encode_in_box(mask[y0:y1, x0:x1], x0, y0, height, width)
        for mask, (x0, y0, x1, y1) in zip(masks.numpy(), boxes, strict=True)
    ]
