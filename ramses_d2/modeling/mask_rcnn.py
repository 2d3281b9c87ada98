"""Mask R-CNN as a baseline: Detectron2's network, with the inputs, settings and outputs of RAMSES.

He et al., "Mask R-CNN", ICCV 2017. Shape letters: N images, K instances, H W original image.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from torchvision.ops import nms

from ..errors import RamsesError
from .areal_density import ArealDensity
from .batching import SIZE_DIVISIBILITY, ImageResolution, predict_by_size
from .inference_settings import InferenceSettings
from .mask_output import whole_masks
from .roi_masks import paste_roi_mask


@META_ARCH_REGISTRY.register()
class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN that is trained, evaluated and called as RAMSES is.

    Its masses, where it has any, are those of :class:`ArealDensity`. Of ``MODEL.RAMSES.TEST`` it uses SCORE_THRESH,
    NMS_THRESH (of boxes), NMS_CLASS_AGNOSTIC, MASK_THRESH, MIN_AREA (px of the network input) and MASK_FORMAT.

    Args:
        settings: of inference.
        resolution: px/mm of images that state none; 0 = unknown.
        areal_density: weighs the instances; None = nothing does.
        others: of Detectron2's GeneralizedRCNN.

    Raises:
        RamsesError: heads without masks, or of another kind than Detectron2's standard ones.
    """

    @configurable
    def __init__(
        self,
        *,
        settings: InferenceSettings,
        resolution: float,
        areal_density: ArealDensity | None = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        heads = self.roi_heads
        if not (isinstance(heads, StandardROIHeads) and isinstance(heads.box_predictor, FastRCNNOutputLayers)) or (
            not heads.mask_on
        ):
            raise RamsesError('MaskRCNN needs MODEL.MASK_ON True and MODEL.ROI_HEADS.NAME "StandardROIHeads"')
        self.settings = settings
        self.image_resolution = ImageResolution(resolution)
        self.areal_density = areal_density

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        cfg = cfg.clone()
        cfg.defrost()
        follow_ramses_keys(cfg)
        return super().from_config(cfg) | {
            "settings": InferenceSettings.from_config(cfg),
            "resolution": cfg.INPUT.RESOLUTION,
            "areal_density": ArealDensity.from_config(cfg),
        }

    @property
    def used_levels(self) -> set[str]:
        heads = self.roi_heads
        return {*self.proposal_generator.in_features, *heads.box_in_features, *heads.mask_in_features}

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalised images, padded to multiples of 64 whatever the pyramid."""
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(images, SIZE_DIVISIBILITY)

    def inference(
        self, batched_inputs: list[dict[str, Any]], settings: InferenceSettings | None = None
    ) -> list[dict[str, Instances]]:
        """Predict images.

        Args:
            batched_inputs: dicts with "image" (3, h, w) in ``INPUT.FORMAT``, and, all optional, "height" and "width"
                of the image wanted and "resolution" of it in px/mm.
            settings: for this call instead of the network's own.

        Returns:
            a list of {"instances": Instances} with pred_boxes (XYXY, of the box head), scores, pred_classes, pred_masks
            (bool tensor (K, H, W) or run lengths) and, where densities are known, pred_masses (grams).
        """
        settings = settings or self.settings
        return predict_by_size(batched_inputs, lambda items: self._predict(items, settings))

    def _predict(self, batched_inputs: list[dict[str, Any]], settings: InferenceSettings) -> list[Instances]:
        """Predict images of one size."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self.proposal_generator(images, features, None)
        found = self.roi_heads.forward_with_given_boxes(features, self.find_boxes(features, proposals, settings))
        results = []
        for item, instances in zip(batched_inputs, found, strict=True):
            result = to_image(instances, item.get("height"), item.get("width"), settings)
            if self.areal_density is not None and self.areal_density.is_known:
                self.areal_density.weigh(result, self.image_resolution(item))
            results.append(result)
        return results

    def find_boxes(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], settings: InferenceSettings
    ) -> list[Instances]:
        """Scored boxes of each image, after NMS: what StandardROIHeads does, with settings that a call can change."""
        heads = self.roi_heads
        levels = [features[name] for name in heads.box_in_features]
        pooled = heads.box_pooler(levels, [proposal.proposal_boxes for proposal in proposals])
        predictions = tuple(output.float() for output in heads.box_predictor(heads.box_head(pooled)))
        found, _ = fast_rcnn_inference(
            heads.box_predictor.predict_boxes(predictions, proposals),
            heads.box_predictor.predict_probs(predictions, proposals),
            [proposal.image_size for proposal in proposals],
            settings.score_thresh,
            settings.nms_thresh,
            -1,
        )
        if settings.nms_class_agnostic:
            found = [each[nms(each.pred_boxes.tensor, each.scores, settings.nms_thresh)] for each in found]
        return [each[: settings.max_detections] for each in found]


def follow_ramses_keys(cfg: CfgNode) -> None:
    """Give Detectron2's keys the values of those of ours that mean the same, in place: a user sets one of each."""
    ramses, heads = cfg.MODEL.RAMSES, cfg.MODEL.ROI_HEADS
    heads.NUM_CLASSES = ramses.NUM_CLASSES
    heads.SCORE_THRESH_TEST = ramses.TEST.SCORE_THRESH
    heads.NMS_THRESH_TEST = ramses.TEST.NMS_THRESH


def to_image(found: Instances, height: int | None, width: int | None, settings: InferenceSettings) -> Instances:
    """Bring instances of the network input to the original image.

    Args:
        found: K instances with pred_boxes, scores, pred_classes and soft pred_masks (K, 1, M, M).
        height, width: of the original image, px; None = that of the network input.
        settings: mask threshold, smallest area and format.

    Returns:
        Instances of size (H, W), see :meth:`MaskRCNN.inference`; without those whose mask is too small.
    """
    in_height, in_width = found.image_size
    height, width = height or in_height, width or in_width
    scale_x, scale_y = width / in_width, height / in_height
    boxes = Boxes(found.pred_boxes.tensor.float() * found.pred_boxes.tensor.new_tensor([scale_x, scale_y] * 2))
    boxes.clip((height, width))
    masks = found.pred_masks[:, 0].float().cpu()
    pairs = zip(masks, boxes.tensor.tolist(), strict=True)
    crops = [paste_roi_mask(mask, box, (height, width), settings.mask_thresh) for mask, box in pairs]
    smallest = settings.min_area * scale_x * scale_y
    kept = [index for index, (crop, _, _) in enumerate(crops) if crop.sum() > smallest]
    chosen = torch.tensor(kept, dtype=torch.int64, device=found.scores.device)

    result = Instances((height, width))
    result.pred_boxes = boxes[chosen]
    result.scores = found.scores[chosen].float()
    result.pred_classes = found.pred_classes[chosen]
    whole = whole_masks([crops[index] for index in kept], (height, width), settings.mask_format)
    result.pred_masks = whole.to(found.scores.device) if isinstance(whole, torch.Tensor) else whole
    return result
