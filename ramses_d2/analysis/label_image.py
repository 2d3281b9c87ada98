"""From overlapping instance masks to one label image in which every pixel has one owner.

Shape letters: K instances, H W picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils


def paint_label_image(masks: Iterable[np.ndarray], scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Paint masks by ascending score, so that the surest instance owns a disputed pixel.

    Args:
        masks: K bool (H, W) arrays; an iterator is fine, one mask at a time is held.
        scores: (K,).
        shape: (H, W).

    Returns:
        (H, W) uint16, 0 = background, instance index + 1 elsewhere. An instance hidden by surer ones has no pixel.

    Raises:
        ValueError: more than 65 535 instances.
    """
    if len(scores) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(scores)} instances do not fit a 16-bit label image")
    labels = np.zeros(shape, np.uint16)
    best = np.full(shape, -np.inf, np.float32)
    for index, (mask, score) in enumerate(zip(masks, scores, strict=True)):
        wins = mask & (score > best)
        labels[wins], best[wins] = index + 1, score
    return labels


def iterate_masks(masks: Iterable[Any]) -> Iterator[np.ndarray]:
    """Bool (H, W) arrays of ``Instances.pred_masks`` in either format, COCO RLE or tensor, one at a time."""
    for mask in masks:
        yield mask_utils.decode(mask).astype(bool) if isinstance(mask, dict) else mask.cpu().numpy()
