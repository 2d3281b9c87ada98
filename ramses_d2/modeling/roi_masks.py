"""From masks inside boxes, as Mask R-CNN predicts them, to masks of the original image.

Each is enlarged inside its own box only; the full image is never touched but for the bit masks a caller asks for.
Shape letters: K instances, M side of a predicted mask, H W original image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .mask_output import trim


def paste_roi_mask(
    mask: torch.Tensor, box: Sequence[float], size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, int, int]:
    """Enlarge one soft mask to its box, then threshold it; as ``detectron2.layers.paste_masks_in_image`` does.

    Args:
        mask: (M, M) probabilities, on the CPU.
        box: XYXY in the original image, px.
        size: (H, W) of the image.
        threshold: a pixel belongs to the mask from this probability on.

    Returns:
        (h, w) bool array cut to the mask, and the column and row of its first pixel; (0, 0) when nothing is left.
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
    """Weights (last - first, size) of the mask's pixels for each pixel of the image; beyond the mask is nothing."""
    position = (torch.arange(first, last, dtype=torch.float32) + 0.5 - start) / (stop - start) * size - 0.5
    return (1 - (position[:, None] - torch.arange(size)).abs()).clamp(min=0)
