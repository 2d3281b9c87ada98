"""Masks of single instances, each cut to its own box, as ``Instances`` hold them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.rle import RLEMasks, encode_in_box


def trim(crop: np.ndarray, x: int, y: int) -> tuple[np.ndarray, int, int]:
    """Cut a bool (h, w) crop at column x and row y to the mask in it; (0, 0) when there is none."""
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    if not len(rows):
        return np.zeros((0, 0), bool), 0, 0
    cut = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut, x + int(columns[0]), y + int(rows[0])


def whole_masks(
    crops: Sequence[tuple[np.ndarray, int, int]], size: tuple[int, int], mask_format: str
) -> torch.Tensor | RLEMasks:
    """Masks of the image from K crops with their column and row: bool (K, H, W), or run lengths for "rle"."""
    height, width = size
    if mask_format == "rle":
        return RLEMasks(encode_in_box(crop, x, y, height, width) for crop, x, y in crops)
    masks = torch.zeros(len(crops), height, width, dtype=torch.bool)
    for mask, (crop, x, y) in zip(masks, crops, strict=True):
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = torch.from_numpy(crop)
    return masks
