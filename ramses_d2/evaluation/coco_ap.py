"""COCO average precision of crowded pictures.

The precisions come from faster-coco-eval, whose numbers are those of pycocotools (a test shows it). They are
summarised here, because COCO's own summary counts 100 detections a picture.

Shape letters: T IoU thresholds .50:.05:.95, R recalls, C classes, A object areas (all, small, medium, large),
M limits of detections.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

logger = logging.getLogger(__name__)

_IOU_50, _IOU_75 = 0, 5
# COCO's bounds, in px of the file on disk: small < 32^2 <= medium < 96^2 <= large
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_SHAPE = {"segm": "segmentation", "bbox": "bbox"}


def evaluate_ap(
    coco_gt: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: str,
    class_names: Sequence[str],
    max_dets: int,
) -> dict[str, float]:
    """Average precision over all pictures of a data set.

    Args:
        coco_gt: COCO data set whose category ids are the class ids + 1; not changed.
        results: COCO results with ``segmentation`` or ``bbox``; not changed.
        iou_type: "segm" or "bbox".
        class_names: class order.
        max_dets: predictions that count, the best of each picture **and class**.

    Returns:
        percent, see :func:`summarize_precision`. Without predictions AP is 0 wherever there is truth.
    """
    # Both libraries write into the dicts they are given
    truth = COCO({**coco_gt, "annotations": [dict(annotation) for annotation in coco_gt["annotations"]]})
    # With a box beside the mask, COCO would take the box's area for that of the object
    fields = ("image_id", "category_id", "score", _SHAPE[iou_type])
    found = truth.loadRes([{field: result[field] for field in fields} for result in results])
    evaluation = COCOeval_faster(truth, found, iou_type, print_function=logger.debug)
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    return summarize_precision(evaluation.eval["precision"], class_names)


def summarize_precision(precision: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Mean precisions under Detectron2's names.

    Args:
        precision: (T, R, C, A, M) of COCOeval; -1 = undefined. The last limit of detections counts.
        class_names: C names.

    Returns:
        AP, AP50, AP75, APs, APm, APl and AP-<class>, in percent; NaN where there is no truth.
    """
    precision = precision[..., -1]
    return {
        "AP": _mean_percent(precision[:, :, :, _ALL]),
        "AP50": _mean_percent(precision[_IOU_50, :, :, _ALL]),
        "AP75": _mean_percent(precision[_IOU_75, :, :, _ALL]),
        "APs": _mean_percent(precision[:, :, :, _SMALL]),
        "APm": _mean_percent(precision[:, :, :, _MEDIUM]),
        "APl": _mean_percent(precision[:, :, :, _LARGE]),
    } | {f"AP-{name}": _mean_percent(precision[:, :, index, _ALL]) for index, name in enumerate(class_names)}


def _mean_percent(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")
