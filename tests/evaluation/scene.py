"""Three images whose evaluation is known by hand.

1. four particles: a brick found 50 % too heavy, a glass taken for a brick, a brick missed, a glass of unknown mass
   found; an extra glass, an extra below the threshold, and one prediction in a crowd region;
2. a brick found nine times too heavy;
3. nothing, and nothing found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ramses_d2.evaluation.result import EvaluationResult, evaluate_predictions
from ramses_d2.masks import encode_in_box, json_rle

CLASSES = ("brick", "glass", "never seen")
BRICK, GLASS = 1, 2
SIZE = (100, 140)


def shape(x: int, y: int = 4, width: int = 12, height: int = 10) -> dict[str, Any]:
    """Box and RLE of a rectangle in an image of SIZE."""
    rle = encode_in_box(np.ones((height, width), dtype=bool), x, y, *SIZE)
    return {"bbox": [x, y, width, height], "segmentation": json_rle(rle)}


def particle(image_id: int, category_id: int, x: int, mass: float | None) -> dict[str, Any]:
    known = {"label": 1 + x // 20, "area": 120, "iscrowd": 0, "mass": mass, "gt_mass": True, "resolution": 2.0}
    return {"image_id": image_id, "category_id": category_id} | shape(x) | known


def found(image_id: int, category_id: int, x: int, score: float, mass: float, y: int = 4) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "score": score, "mass": mass} | shape(x, y)


def ground_truth() -> dict[str, Any]:
    annotations = [
        particle(1, BRICK, 0, 2.0),
        particle(1, GLASS, 20, 4.0),
        particle(1, BRICK, 40, 1.0),
        particle(1, GLASS, 60, None),
        particle(2, BRICK, 0, 1.0),
        {"image_id": 1, "category_id": GLASS, "area": 2400, "iscrowd": 1} | shape(0, 50, 60, 40),
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2, 3)],
        "annotations": [{"id": number} | a for number, a in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
    }


def results() -> list[dict[str, Any]]:
    return [
        found(1, BRICK, 0, 0.9, 3.0),
        found(1, BRICK, 20, 0.8, 4.0),
        found(1, GLASS, 60, 0.6, 5.0),
        found(1, GLASS, 90, 0.7, 6.0),
        found(1, GLASS, 110, 0.3, 7.0),
        found(1, GLASS, 10, 0.95, 8.0, y=60),
        found(2, BRICK, 0, 0.9, 9.0),
    ]


def evaluated(predictions: Sequence[dict[str, Any]] | None = None, *, has_mass: bool = True) -> EvaluationResult:
    predictions = results() if predictions is None else list(predictions)
    options = {"tasks": ("segm", "bbox"), "max_dets": 100, "report_thresh": 0.5, "has_mass": has_mass}
    return evaluate_predictions(ground_truth(), predictions, CLASSES, **options)
