"""Mask R-CNN as a baseline: Detectron2's network, with the inputs, settings and outputs of RAMSES.

Masks stay a label map in training, and are pasted box by box at inference: neither is ever a stack of full-size masks.
He et al., "Mask R-CNN", ICCV 2017. Shape letters: N images, K instances, M mask side, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from torchvision.ops import nms

from ramses_d2.config import follow_ramses_keys
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.mass import ArealDensity, ImageResolution
from ramses_d2.modeling.meta_arch import SIZE_DIVISIBILITY, predict_by_size
from ramses_d2.modeling.postprocess import InferenceSettings, trim, whole_masks

# Samples along each side of a bin, and the sampled values held at a time
_SAMPLES = 2
_CHUNK = 2**24


class LabelMapMasks:
    """Masks of K objects that share one label map; takes the place of :class:`detectron2.structures.BitMasks`.

    Selecting objects, with repeats as Detectron2 does for proposals, copies their labels and nothing else.
    """

    def __init__(self, label_map: torch.Tensor, labels: torch.Tensor) -> None:
        self.label_map = label_map  # integer (H, W), 0 = background
        self.labels = labels  # (K,) values of the objects in it

    @property
    def device(self) -> torch.device:
        return self.label_map.device

    @property
    def image_size(self) -> tuple[int, int]:
        return self.label_map.shape[0], self.label_map.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def __getitem__(self, item: int | slice | torch.Tensor) -> LabelMapMasks:
        """The masks chosen by a number, a slice, or a bool or int tensor."""
        labels = self.labels[item]
        return LabelMapMasks(self.label_map, labels.reshape(-1))

    def to(self, *args: Any, **kwargs: Any) -> LabelMapMasks:
        """On another device; values stay integers."""
        label_map = self.label_map.to(*args, **kwargs)
        return LabelMapMasks(label_map, self.labels.to(label_map.device))

    def nonempty(self) -> torch.Tensor:
        """Bool (K,): the object has a pixel."""
        return torch.isin(self.labels, self.label_map)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes (K, 4) XYXY, end exclusive; zeros for an object without a pixel."""
        boxes = torch.zeros(len(self), 4)
        for box, label in zip(boxes, self.labels, strict=True):
            rows, columns = (self.label_map == label).nonzero(as_tuple=True)
            if len(rows):
                ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                box.copy_(torch.stack(ends))
        return Boxes(boxes)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """What of each object is in its box (K, 4) XYXY, as training targets bool (K, M, M) of a mask head.

        A bin is set where at least half of it is object, by ``_SAMPLES`` x ``_SAMPLES`` bilinear samples, as ROIAlign
        takes them.
        """
        boxes = boxes.to(self.device, torch.float32)
        at_once = max(1, _CHUNK // (mask_size * _SAMPLES) ** 2)
        parts = [
            self._crop(labels, chunk, mask_size)
            for labels, chunk in zip(self.labels.split(at_once), boxes.split(at_once), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, mask_size, mask_size, dtype=torch.bool, device=self.device)

    def _crop(self, labels: torch.Tensor, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        count = mask_size * _SAMPLES
        steps = (torch.arange(count, device=self.device) + 0.5) / count
        height, width = self.image_size
        x0, x1, across = _neighbours(boxes[:, 0], boxes[:, 2], steps, width)
        y0, y1, along = _neighbours(boxes[:, 1], boxes[:, 3], steps, height)

        def inside(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return (self.label_map[y[:, :, None], x[:, None, :]] == labels[:, None, None]).float()

        upper = torch.lerp(inside(y0, x0), inside(y0, x1), across[:, None, :])
        lower = torch.lerp(inside(y1, x0), inside(y1, x1), across[:, None, :])
        share = torch.lerp(upper, lower, along[:, :, None])
        bins = share.view(len(labels), mask_size, _SAMPLES, mask_size, _SAMPLES).mean(dim=(2, 4))
        return bins >= 0.5


def _neighbours(
    start: torch.Tensor, stop: torch.Tensor, steps: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two pixels beside each sample of each interval, (B, samples), and the weight of the second one."""
    position = (start[:, None] + (stop - start)[:, None] * steps - 0.5).clamp(0, size - 1)
    low = position.long()
    return low, (low + 1).clamp(max=size - 1), position - low


def paste_roi_mask(
    mask: torch.Tensor, box: Sequence[float], size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, int, int]:
    """Enlarge a soft mask (M, M) on the CPU to its box XYXY, then threshold it; returns as ``postprocess.trim``.

    As ``detectron2.layers.paste_masks_in_image`` does, but inside the box only.
    """
    height, width = size
    x0, y0 = (max(int(np.floor(value)) - 1, 0) for value in box[:2])
    x1, y1 = min(int(np.ceil(box[2])) + 1, width), min(int(np.ceil(box[3])) + 1, height)
    if x0 >= x1 or y0 >= y1 or box[2] <= box[0] or box[3] <= box[1]:
        return np.zeros((0, 0), bool), 0, 0
    rows = _interpolation(y0, y1, box[1], box[3], mask.shape[0])
    columns = _interpolation(x0, x1, box[0], box[2], mask.shape[1])
    return trim((rows @ mask @ columns.T >= threshold).numpy(), x0, y0)


def _interpolation(first: int, last: int, start: float, stop: float, size: int) -> torch.Tensor:
    """Weights (last - first, size) of the mask's pixels for each pixel of the image; beyond the mask they are 0."""
    position = (torch.arange(first, last, dtype=torch.float32) + 0.5 - start) / (stop - start) * size - 0.5
    return (1 - (position[:, None] - torch.arange(size)).abs()).clamp(min=0)


@META_ARCH_REGISTRY.register()
class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN that is trained, evaluated and called as RAMSES is.

    Its masses, where it has any, are those of :class:`ArealDensity`. Of ``MODEL.RAMSES.TEST`` it uses SCORE_THRESH,
    NMS_THRESH (of boxes), NMS_CLASS_AGNOSTIC, MASK_THRESH, MIN_AREA (px of the network input) and MASK_FORMAT.
    """

    @configurable
    def __init__(
        self,
        *,
        settings: InferenceSettings,
        resolution: float,  # px/mm of images that state none; 0 = unknown
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
        """Predict images as ``RAMSES.inference`` does; boxes are those of the box head, masses those of the areas."""
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
                self.areal_density.add_masses(result, self.image_resolution(item))
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


def to_image(found: Instances, height: int | None, width: int | None, settings: InferenceSettings) -> Instances:
    """Bring instances of the network input to the original image, without those whose mask is too small.

    Their pred_masks are soft, (K, 1, M, M). ``height`` and ``width`` are of the original image; None = as the input.
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
    kept_crops = [crops[index] for index in kept]
    result.pred_masks = whole_masks(kept_crops, (height, width), settings.mask_format, found.scores.device)
    return result
