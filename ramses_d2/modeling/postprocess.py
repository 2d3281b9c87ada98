"""From the network's outputs for one image to ``Instances`` (reference section 4).

The order matters for time and memory: score threshold, point-NMS and top-k come before any mask is computed; masks are
suppressed on the mask grid; each survivor is enlarged inside its own box only, before it is thresholded.

Shape letters: G cells, C classes, P candidates, K instances, E mask channels, Hm Wm mask grid, H W original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from .dynamic_conv import mask_logits
from .inference_settings import InferenceSettings
from .mask_output import trim, whole_masks
from .mass import instance_masses
from .nms import point_nms, suppress

# Masks multiplied at a time, which bounds the memory
_CHUNK = 256


class GridFrame(NamedTuple):
    """How the mask grid lies over the original image.

    Attributes:
        height, width: original image, px.
        step_y, step_x: mask-grid pixels per original pixel.
        offset: see :func:`sampling_offset`.
    """

    height: int
    width: int
    step_y: float
    step_x: float
    offset: float = 0.0


class GridInstances(NamedTuple):
    """Instances of one image on the mask grid, by descending score.

    Attributes:
        masks: (K, Hm, Wm) probabilities.
        scores: (K,).
        classes: (K,) int64.
        masses: (K,) normalised masses, or None without a mass branch.
    """

    masks: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    masses: torch.Tensor | None


def select_cells(
    probabilities: torch.Tensor,
    grid_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    topk: int,
    use_point_nms: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the cells worth a mask.

    Args:
        probabilities: (G, C).
        grid_shapes: of the levels that make up G.
        score_thresh: smallest score of the best class, inclusive.
        topk: number of cells to keep at the most, 0 = all.
        use_point_nms: see :func:`~ramses_d2.modeling.nms.point_nms`.

    Returns:
        (P,) cell indices by descending score, their scores and their classes.
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
        settings: see :class:`InferenceSettings`.
    """
    cells, scores, classes = select_cells(
        probabilities, grid_shapes, settings.score_thresh, settings.pre_nms_topk, settings.use_point_nms
    )
    masks = mask_logits(kernels[cells], features).sigmoid_()
    binary = masks >= settings.mask_thresh
    area = binary.flatten(1).sum(1)
    if settings.mask_scoring:
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
        weighed = binary[keep] if settings.binary_mass_masks else masks[keep]
        masses = instance_masses(weighed, geometry, factors[cells[keep]])
    return GridInstances(masks[keep], scores, classes[keep], masses)


def sampling_offset(stride: int) -> float:
    """Grid pixels by which masks lie up and left of the truth, because of how label maps are reduced in training.

    Nearest-exact sampling takes pixel ``stride * i + stride // 2`` for grid pixel i. With an even stride that pixel
    lies half a network pixel below and right of the grid pixel's centre, and a network learns masks shifted by as much.
    """
    return 0.5 / stride if stride % 2 == 0 else 0.0


def _lerp(
    step: float, offset: float, start: int, stop: int, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two neighbours on the mask grid of each original pixel start..stop-1, and the weight of the second one."""
    position = ((torch.arange(start, stop) + 0.5) * step - 0.5 - offset).clamp(min=0)
    low = position.long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), position - low


def paste_in_box(mask: torch.Tensor, frame: GridFrame, threshold: float) -> tuple[np.ndarray, int, int]:
    """Enlarge one soft mask to the original image inside its box, then threshold it.

    Args:
        mask: (Hm, Wm) probabilities, on the CPU.
        frame: how the grid lies over the image.
        threshold: a pixel belongs to the mask from this probability on.

    Returns:
        (h, w) bool array cut to the mask, and the column and row of its first pixel; (0, 0) when nothing is left.
    """
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


def to_instances(
    found: GridInstances, frame: GridFrame, masses: torch.Tensor | None, settings: InferenceSettings
) -> Instances:
    """Bring the instances of the mask grid to the original image.

    Args:
        found: K instances on the mask grid.
        frame: how the grid lies over the image.
        masses: (K,) grams, or None.
        settings: mask threshold and format.

    Returns:
        ``Instances`` of size (H, W) with pred_boxes (XYXY, end exclusive), scores, pred_classes, pred_masks (bool
        tensor (K, H, W), or :class:`~ramses_d2.data.rle.RLEMasks`) and, with a mass branch, pred_masses (grams). Masks
        that vanish on the way to a smaller image are left out.
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
    masks = whole_masks(crops, (frame.height, frame.width), settings.mask_format)
    result.pred_masks = masks.to(device) if isinstance(masks, torch.Tensor) else masks
    if masses is not None:
        result.pred_masses = masses[kept].float()
    return result
