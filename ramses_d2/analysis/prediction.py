"""From the instances of one image to its label image, its rows of the particle table, and its overlay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from detectron2.structures import Instances

from .drawing import draw_instances
from .fragments import handle_fragments
from .label_image import masks_in_boxes, paint_label_image, whole_boxes
from .particles import particle_table


class ImageResult(NamedTuple):
    """What is known of one image.

    Attributes:
        labels: (H, W) uint16 label image, every pixel with one owner.
        table: particle table, one row per value of ``labels``.
        classes: (K,) class id of label k + 1.
    """

    labels: np.ndarray
    table: pd.DataFrame
    classes: np.ndarray


def image_result(
    file_name: str,
    instances: Instances,
    class_names: Sequence[str],
    resolution: float,
    *,
    fragments: str = "drop",
    min_area_px: float = 0,
    min_area_mm2: float | None = None,
) -> ImageResult:
    """Make label image and particle table of an image's instances.

    Args:
        file_name: for the table.
        instances: prediction on the CPU: pred_boxes, pred_masks in either format, scores, pred_classes and, of a
            network that weighs, pred_masses.
        class_names: of the class ids.
        resolution: px/mm, NaN = unknown.
        fragments: what happens to disconnected parts, see :func:`~ramses_d2.analysis.fragments.handle_fragments`.
        min_area_px, min_area_mm2: smaller parts are dropped.
    """
    scores = instances.scores.numpy().astype(float)
    masses = instances.pred_masses.numpy().astype(float) if instances.has("pred_masses") else None
    masses = np.full(len(scores), math.nan) if masses is None else masses
    classes = instances.pred_classes.numpy()
    boxes = whole_boxes(instances.pred_boxes.tensor.numpy(), instances.image_size)  # Mask R-CNN's are not whole
    labels = paint_label_image(masks_in_boxes(instances.pred_masks, boxes), boxes, scores, instances.image_size)
    labels, parents, shares = handle_fragments(
        labels, mode=fragments, min_area_px=min_area_px, min_area_mm2=min_area_mm2, resolution=resolution
    )
    owner = parents - 1
    classes, scores, masses = classes[owner], scores[owner], masses[owner] * shares
    names = [class_names[index] for index in classes]
    table = particle_table(file_name, labels, names, masses, scores, resolution)
    return ImageResult(labels, table, classes)


def image_overlay(image: np.ndarray, result: ImageResult, class_names: Sequence[str]) -> np.ndarray:
    """Outlines and captions on an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        result: of this image.
        class_names: of the class ids.
    """
    captions = result.table.set_index("label").reindex(range(1, len(result.classes) + 1))
    scores, masses = captions["score"].to_numpy(float), captions["mass"].to_numpy(float)
    return draw_instances(image, result.labels, result.classes, scores, masses, class_names=class_names, alpha=0)
