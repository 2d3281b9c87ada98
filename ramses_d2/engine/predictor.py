"""Prediction of single images with a known resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..checkpoint import load_weights
from ..errors import RamsesError


class RamsesPredictor(DefaultPredictor):
    """A ``DefaultPredictor`` that can be told the resolution of each image, and whose weights must all fit.

    Example::

        predictor = RamsesPredictor(cfg)
        instances = predictor(cv2.imread("belt.jpg"), resolution=28.7)["instances"]
        instances.pred_masses  # grams
        predictor(image, score_threshold=0.3, min_area=16)  # other settings for one call

    Raises:
        RamsesError: ``MODEL.WEIGHTS`` is empty, missing, unreadable, or does not fit the config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        bare = cfg.clone()
        bare.defrost()
        bare.MODEL.WEIGHTS = bare.MODEL.CONVNEXTV2.WEIGHTS = bare.MODEL.TIMM.WEIGHTS = ""  # load_weights has them all
        super().__init__(bare)
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        if cfg.DATASETS.TEST and cfg.MODEL.RAMSES.CLASS_NAMES and not hasattr(self.metadata, "thing_classes"):
            self.metadata.thing_classes = list(cfg.MODEL.RAMSES.CLASS_NAMES)  # for Detectron2's Visualizer

    def __call__(self, original_image: np.ndarray, resolution: float | None = None, **overrides: Any) -> dict[str, Any]:
        """Predict one image.

        Args:
            original_image: (H, W, 3) uint8, or float32 of 0 to 255, in BGR order, as cv2 reads it.
            resolution: px/mm; None = ``INPUT.RESOLUTION``.
            overrides: score_threshold, seg_threshold, nms_threshold, max_detections, point_nms, use_binary_masks or
                min_area, see :meth:`~ramses_d2.modeling.inference_settings.InferenceSettings.override`.

        Returns:
            {"instances": Instances} with pred_boxes, pred_masks, pred_classes, scores and pred_masses (grams).

        Raises:
            RamsesError: no such image, a resolution that is not above 0, or an override out of range.
        """
        return self.predict_batch([original_image], [resolution], **overrides)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], resolutions: Sequence[float | None] | None = None, **overrides: Any
    ) -> list[dict[str, Any]]:
        """Predict several images; those of one size go through the network together.

        Args:
            images: see :meth:`__call__`.
            resolutions: px/mm of each; None = ``INPUT.RESOLUTION``.
            overrides: see :meth:`__call__`.

        Returns:
            what :meth:`__call__` returns, of each image.
        """
        settings = self.model.settings.override(**overrides)
        resolutions = resolutions if resolutions is not None else [None] * len(images)
        items = [self._item(*pair) for pair in zip(images, resolutions, strict=True)]
        with torch.no_grad():
            return self.model.inference(items, settings)

    def check_image(self, image: np.ndarray) -> None:
        """Make sure that the network can take an image.

        Args:
            image: see :meth:`__call__`.

        Raises:
            RamsesError: not of that shape or type, or so thin that nothing is left of it at the size of the network.
        """
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            raise RamsesError("the image is no (H, W, 3) array; cv2.imread returns None for a file it cannot read")
        height, width, channels = image.shape
        if channels != 3 or not height or not width or image.dtype not in (np.uint8, np.float32):
            raise RamsesError(
                f"the image is a {image.shape} array of {image.dtype}: give (H, W, 3) uint8 (or float32 of 0 to "
                "255) with at least one pixel, in BGR order as cv2.imread reads it"
            )
        if self.cfg.INPUT.MIN_SIZE_TEST and not all(
            self.aug.get_output_shape(height, width, self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        ):
            raise RamsesError(
                f"the image of {height} x {width} px (H x W) is too thin for a network input of at most "
                f"{self.cfg.INPUT.MAX_SIZE_TEST} px (INPUT.MAX_SIZE_TEST): cut it into shorter pieces"
            )

    def _item(self, original_image: np.ndarray, resolution: float | None) -> dict[str, Any]:
        self.check_image(original_image)
        if resolution is not None and resolution <= 0:
            raise RamsesError(f"resolution={resolution}: give the px/mm of the image, a number above 0")
        height, width = original_image.shape[:2]
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        item: dict[str, Any] = {
            "image": torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "height": height,
            "width": width,
        }
        if resolution is not None:
            item["resolution"] = resolution
        return item
