"""From the network's outputs for one image to ``Instances``.

The order matters for time and memory: score threshold, point-NMS and top-k come before any mask is computed; masks are
suppressed on the mask grid; each survivor is enlarged inside its own box only, before it is thresholded.
Shape letters: G cells, C classes, P candidates, K instances, E channels, k kernel side, Hm Wm mask grid, H W image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from ramses_d2.errors import RamsesError
from ramses_d2.masks import RLEMasks, encode_in_box
from ramses_d2.modeling.heads import mask_logits
from ramses_d2.modeling.mass import instance_masses
from ramses_d2.modeling.nms import NMS_KINDS, point_nms, suppress

MASK_FORMATS = ("bitmask", "rle")
# Masks multiplied at a time, which bounds the memory
_CHUNK = 256


@dataclass(frozen=True)
class InferenceSettings:
    """The keys of ``MODEL.RAMSES.TEST``, and ``TEST.DETECTIONS_PER_IMAGE``; see config.py for their meaning."""

    score_thresh: float
    use_point_nms: bool
    pre_nms_topk: int
    mask_thresh: float
    mask_scoring: bool
    min_area: int
    nms: str
    nms_thresh: float
    nms_sigma: float
    nms_min_score: float
    nms_class_agnostic: bool
    binary_mass_masks: bool
    mask_format: str
    max_detections: int

    def __post_init__(self) -> None:
        for key, value, allowed in (("NMS", self.nms, NMS_KINDS), ("MASK_FORMAT", self.mask_format, MASK_FORMATS)):
            if value not in allowed:
                raise RamsesError(f'MODEL.RAMSES.TEST.{key} is "{value}", use one of {", ".join(allowed)}')

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceSettings:
        test = cfg.MODEL.RAMSES.TEST
        return cls(
            score_thresh=test.SCORE_THRESH,
            use_point_nms=test.POINT_NMS,
            pre_nms_topk=test.PRE_NMS_TOPK,
            mask_thresh=test.MASK_THRESH,
            mask_scoring=test.MASK_SCORING,
            min_area=test.MIN_AREA,
            nms=test.NMS,
            nms_thresh=test.NMS_THRESH,
            nms_sigma=test.NMS_SIGMA,
            nms_min_score=test.NMS_MIN_SCORE,
            nms_class_agnostic=test.NMS_CLASS_AGNOSTIC,
            binary_mass_masks=test.BINARY_MASS_MASKS,
            mask_format=test.MASK_FORMAT,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    def override(
        self,
        *,
        score_threshold: float | None = None,
        seg_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
        point_nms: bool | None = None,
        use_binary_masks: bool | None = None,
        min_area: int | None = None,
    ) -> InferenceSettings:
        """Settings with some of them replaced, under the names that the calls of RAMSES have; None leaves one as it is.

        Args:
            score_threshold: smallest class score, inclusive.
            seg_threshold: probability from which on a pixel belongs to a mask.
            nms_threshold: greedy NMS: IoU above which the lower score goes; soft and matrix NMS: the decayed score
                below which an instance goes.
            max_detections: instances of an image.
            point_nms: keep only cells that are the best of their neighbourhood.
            use_binary_masks: sum the geometry map over the binary mask rather than the soft one.
            min_area: masks must be larger; pixels of the mask grid.
        """
        for name, number, high in (
            ("score_threshold", score_threshold, 1),
            ("seg_threshold", seg_threshold, 1),
            ("nms_threshold", nms_threshold, 1),
            ("max_detections", max_detections, math.inf),
            ("min_area", min_area, math.inf),
        ):
            if number is not None and not 0 <= number <= high:
                raise RamsesError(f"{name}={number}: give a number from 0 {'to 1' if high == 1 else 'on'}")
        changes = {
            "score_thresh": score_threshold,
            "mask_thresh": seg_threshold,
            "nms_thresh" if self.nms in ("greedy", "none") else "nms_min_score": nms_threshold,
            "max_detections": max_detections,
            "use_point_nms": point_nms,
            "binary_mass_masks": use_binary_masks,
            "min_area": min_area,
        }
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


class GridInstances(NamedTuple):
    """K instances of one image on the mask grid, by descending score."""

    masks: torch.Tensor  # (K, Hm, Wm) probabilities
    scores: torch.Tensor  # (K,)
    classes: torch.Tensor  # (K,) int64
    masses: torch.Tensor | None  # (K,) normalised masses; None without a mass branch


def select_cells(
    probabilities: torch.Tensor,
    grid_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    topk: int,
    use_point_nms: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the cells worth a mask: (P,) cell indices by descending score, their scores and their classes.

    Args:
        probabilities: (G, C).
        grid_shapes: of the levels that make up G.
        score_thresh: smallest score of the best class, inclusive.
        topk: number of cells to keep at most, 0 = all.
    """
    if use_point_nms:
        sizes = [rows * cols for rows, cols in grid_shapes]
        levels = [
            point_nms(level.T.reshape(-1, *shape)).flatten(1).T
            for level, shape in zip(probabilities.split(sizes), grid_shapes, strict=True)
        ]
        probabilities = torch.cat(levels)
    scores, classes = probabilities.max(dim=1)
    candidates = (scores >= score_thresh).nonzero()[:, 0]
    order = scores[candidates].argsort(descending=True, stable=True)[: topk or None]
    cells = candidates[order]
    return cells, scores[cells], classes[cells]


def grid_instances(
    probabilities: torch.Tensor,
    kernels: torch.Tensor,
    factors: torch.Tensor | None,
    features: torch.Tensor,
    geometry: torch.Tensor | None,
    grid_shapes: Sequence[tuple[int, int]],
    settings: InferenceSettings,
) -> GridInstances:
    """Masks, scores, classes and normalised masses of one image, after NMS.

    Args:
        probabilities: (G, C) class probabilities.
        kernels: (G, E * k * k).
        factors: (G,) class factors or None.
        features: (E, Hm, Wm).
        geometry: (Hm, Wm) or None.
        grid_shapes: of the levels that make up G.
    """
    cells, scores, classes = select_cells(
        probabilities, grid_shapes, settings.score_thresh, settings.pre_nms_topk, settings.use_point_nms
    )
    masks = mask_logits(kernels[cells], features).sigmoid_()
    binary = masks >= settings.mask_thresh
    area = binary.flatten(1).sum(1)
    if settings.mask_scoring:  # the mean probability inside the mask
        parts = zip(masks.split(_CHUNK), binary.split(_CHUNK), strict=True)
        inside = torch.cat([(mask * own).flatten(1).sum(1) for mask, own in parts])
        scores = scores * inside / (area + 1e-6)
    big = (area > settings.min_area).nonzero()[:, 0]
    keep, scores = suppress(
        binary[big],
        scores[big],
        classes[big],
        kind=settings.nms,
        iou_threshold=settings.nms_thresh,
        sigma=settings.nms_sigma,
        min_score=settings.nms_min_score,
        class_agnostic=settings.nms_class_agnostic,
    )
    keep, scores = big[keep][: settings.max_detections], scores[: settings.max_detections]
    masses = None
    if geometry is not None and factors is not None:
        summed_over = binary[keep] if settings.binary_mass_masks else masks[keep]
        masses = instance_masses(summed_over, geometry, factors[cells[keep]])
    return GridInstances(masks[keep], scores, classes[keep], masses)


class GridFrame(NamedTuple):
    """How the mask grid lies over the original image."""

    height: int  # of the original image, px
    width: int
    step_y: float  # mask-grid pixels per original pixel
    step_x: float
    offset: float = 0.0  # see sampling_offset


def sampling_offset(stride: int) -> float:
    """Grid pixels by which masks lie up and left of the ground truth, because of how training reduces label maps.

    Nearest-exact sampling takes pixel ``stride * i + stride // 2`` for grid pixel i. With an even stride that pixel
    lies half a network pixel below and right of the grid pixel's centre, and a network learns masks shifted by as much.
    """
    return 0.5 / stride if stride % 2 == 0 else 0.0


def paste_in_box(mask: torch.Tensor, frame: GridFrame, threshold: float) -> tuple[np.ndarray, int, int]:
    """Enlarge a soft mask (Hm, Wm) on the CPU to the image inside its box, then threshold it; returns as ``trim``."""
    seen = mask >= threshold
    bounds = []
    for other_axis, step, size in ((1, frame.step_y, frame.height), (0, frame.step_x, frame.width)):
        index = seen.any(dim=other_axis).nonzero()[:, 0]
        if not len(index):
            return np.zeros((0, 0), bool), 0, 0
        # Between two grid centres the enlarged mask can reach one grid pixel further than the mask itself
        first = max(int((int(index[0]) - 0.5 + frame.offset) / step) - 1, 0)
        bounds.append((first, min(int((int(index[-1]) + 1.5 + frame.offset) / step) + 2, size)))
    (y0, y1), (x0, x1) = bounds
    if y0 >= y1 or x0 >= x1:
        return np.zeros((0, 0), bool), 0, 0
    above, below, weight = _lerp(frame.step_y, frame.offset, y0, y1, mask.shape[0])
    left, right, across = _lerp(frame.step_x, frame.offset, x0, x1, mask.shape[1])
    rows = torch.lerp(mask[above], mask[below], weight[:, None])
    crop = (torch.lerp(rows[:, left], rows[:, right], across) >= threshold).numpy()
    return trim(crop, x0, y0)


def _lerp(
    step: float, offset: float, start: int, stop: int, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two neighbours on the mask grid of each original pixel start..stop-1, and the weight of the second one."""
    position = ((torch.arange(start, stop) + 0.5) * step - 0.5 - offset).clamp(min=0)
    low = position.long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), position - low


def trim(crop: np.ndarray, x: int, y: int) -> tuple[np.ndarray, int, int]:
    """Cut a bool (h, w) crop at column x and row y to the mask in it, and give its column and row; (0, 0) if none."""
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    if not len(rows):
        return np.zeros((0, 0), bool), 0, 0
    cut = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut, x + int(columns[0]), y + int(rows[0])


def whole_masks(
    crops: Sequence[tuple[np.ndarray, int, int]], size: tuple[int, int], mask_format: str, device: torch.device
) -> torch.Tensor | RLEMasks:
    """Masks of the image from K crops with their column and row: bool (K, H, W), or RLEs for "rle"."""
    height, width = size
    if mask_format == "rle":
        return RLEMasks(encode_in_box(crop, x, y, height, width) for crop, x, y in crops)
    masks = torch.zeros(len(crops), height, width, dtype=torch.bool)
    for mask, (crop, x, y) in zip(masks, crops, strict=True):
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = torch.from_numpy(crop)
    return masks.to(device)


def to_instances(
    found: GridInstances, frame: GridFrame, masses: torch.Tensor | None, settings: InferenceSettings
) -> Instances:
    """Bring K instances of the mask grid, with masses (K,) in grams or None, to the original image.

    Gives ``Instances`` of size (H, W) with pred_boxes (XYXY, end exclusive), scores, pred_classes, pred_masks (bool
    tensor (K, H, W), or ``RLEMasks``) and, with a mass branch, pred_masses in grams. Masks that vanish on the way to a
    smaller image are left out.
    """
    device = found.scores.device
    crops = [paste_in_box(mask, frame, settings.mask_thresh) for mask in found.masks.float().cpu()]
    kept = torch.tensor([i for i, (crop, _, _) in enumerate(crops) if crop.size], dtype=torch.int64)
    crops = [crops[i] for i in kept]
    boxes = [[x, y, x + crop.shape[1], y + crop.shape[0]] for crop, x, y in crops]
    kept = kept.to(device)

    result = Instances((frame.height, frame.width))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4))
    result.scores = found.scores[kept].float()
    result.pred_classes = found.classes[kept]
    result.pred_masks = whole_masks(crops, (frame.height, frame.width), settings.mask_format, device)
    if masses is not None:
        result.pred_masses = masses[kept].float()
    return result
