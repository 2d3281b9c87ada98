"""Particles of one image of a conveyor belt, as a network or a label image gives them, cut to their boxes.

Shape letters: K instances, H W image, h w a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ramses_d2.masks import masks_in_boxes, paint_label_image, whole_boxes


@dataclass(frozen=True)
class FrameInstances:
    """What was found in one image.

    Attributes:
        masks: K bool (h, w) arrays, each cut to its box.
        boxes: (K, 4) int64 XYXY of whole pixels, end exclusive, in the image.
        classes: (K,) int64 class ids.
        scores: (K,) float64.
        masses: (K,) float64 grams of the part that is in the image, NaN = unknown.
    """

    masks: Sequence[np.ndarray]
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masses: np.ndarray

    def __post_init__(self) -> None:
        """Check that the fields fit each other.

        Raises:
            ValueError: with the field that does not.
        """
        count = len(self.masks)
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.int64).reshape(-1, 4))
        object.__setattr__(self, "classes", np.asarray(self.classes, np.int64))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float64))
        object.__setattr__(self, "masses", np.asarray(self.masses, np.float64))
        for name in ("boxes", "classes", "scores", "masses"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{count} masks, but {len(getattr(self, name))} {name}")
        for index, (mask, (x0, y0, x1, y1)) in enumerate(zip(self.masks, self.boxes, strict=True)):
            if mask.shape != (y1 - y0, x1 - x0):
                raise ValueError(f"mask {index} is {mask.shape}, its box {(y1 - y0, x1 - x0)}")

    def __len__(self) -> int:
        return len(self.masks)


def instances_from_labels(
    labels: np.ndarray,
    classes: Sequence[int],
    masses: Sequence[float],
    scores: Sequence[float] | None = None,
) -> FrameInstances:
    """Take the particles of a label image.

    Args:
        labels: (H, W) label image, value k = particle k - 1; particles without a pixel are left out.
        classes, masses, scores: of every particle; scores default to 1.

    Returns:
        the particles that have pixels, in order of their labels.
    """
    boxes = ndimage.find_objects(labels, max_label=len(classes)) if len(classes) else []
    seen = [index for index, box in enumerate(boxes) if box is not None]
    scores = np.ones(len(classes)) if scores is None else np.asarray(scores)
    return FrameInstances(
        masks=[labels[boxes[index]] == index + 1 for index in seen],
        boxes=np.array([[boxes[i][1].start, boxes[i][0].start, boxes[i][1].stop, boxes[i][0].stop] for i in seen]),
        classes=np.asarray(classes)[seen],
        scores=scores[seen],
        masses=np.asarray(masses, np.float64)[seen],
    )


def instances_from_prediction(prediction: Any, min_score: float = 0.0) -> FrameInstances:
    """Take what a network predicted, every pixel given to the surest particle that claims it.

    Args:
        prediction: Detectron2 ``Instances`` with pred_boxes, pred_masks (RLE or tensor), pred_classes,
            scores and, where the network weighs, pred_masses.
        min_score: what is less sure is left out.

    Returns:
        the particles that keep a pixel, in the network's order. The mass is that of the whole mask as predicted.
    """
    prediction = prediction[prediction.scores >= min_score].to("cpu")
    boxes = whole_boxes(prediction.pred_boxes.tensor.numpy(), prediction.image_size)
    scores = prediction.scores.numpy()
    masks = masks_in_boxes(prediction.pred_masks, boxes)
    labels = paint_label_image(masks, boxes, scores, prediction.image_size)
    masses = prediction.pred_masses.numpy() if prediction.has("pred_masses") else np.full(len(scores), np.nan)
    return instances_from_labels(labels, prediction.pred_classes.numpy(), masses, scores)
