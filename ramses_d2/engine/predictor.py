"""Prediction of single pictures with a known resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor


class RamsesPredictor(DefaultPredictor):
    """A ``DefaultPredictor`` that can be told the resolution of each picture.

    Example::

        predictor = RamsesPredictor(cfg)
        instances = predictor(cv2.imread("belt.jpg"), resolution=28.7)["instances"]
        instances.pred_masses  # grams
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)

    def __call__(self, original_image: np.ndarray, resolution: float | None = None) -> dict[str, Any]:
        """Predict one picture.

        Args:
            original_image: (H, W, 3) uint8 in BGR order, as cv2 reads it.
            resolution: px/mm; None = ``INPUT.RESOLUTION``.

        Returns:
            {"instances": Instances} with pred_boxes, pred_masks, pred_classes, scores and pred_masses (grams).
        """
        height, width = original_image.shape[:2]
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        item = {
            "image": torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "height": height,
            "width": width,
        }
        if resolution is not None:
            item["resolution"] = resolution
        with torch.no_grad():
            return self.model([item])[0]
