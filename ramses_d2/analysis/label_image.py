"""From overlapping instance masks to one label image in which every pixel has one owner.

Shape letters: K instances, H W image, h w a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..data.rle import decode_in_box


def paint_label_image(
    masks: Iterable[np.ndarray], boxes: np.ndarray, scores: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Paint masks by ascending score, so that the surest instance owns a disputed pixel; cost grows with box pixels.

    Args:
        masks: K bool (h, w) arrays, each cut to its box.
        boxes: (K, 4) XYXY of whole pixels, end exclusive.
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
    masks = list(masks)
    for index in np.argsort(scores, kind="stable"):
        x0, y0, x1, y1 = (int(edge) for edge in boxes[index])
        labels[y0:y1, x0:x1][masks[index]] = index + 1
    return labels


def whole_boxes(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The smallest boxes of whole pixels that hold boxes (K, 4) XYXY of a network, inside an image (H, W)."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    grown = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    return np.clip(grown, 0, [shape[1], shape[0]] * 2).astype(np.int64)


def masks_in_boxes(masks: Sequence[Any], boxes: np.ndarray) -> Iterator[np.ndarray]:
    """Bool (h, w) arrays of ``Instances.pred_masks`` in either format, COCO RLE or tensor, each cut to its box.

    Args:
        masks: K masks of full images.
        boxes: (K, 4) XYXY of whole pixels, end exclusive, that hold the masks.
    """
    for mask, (x0, y0, x1, y1) in zip(masks, np.asarray(boxes).astype(int), strict=True):
        if isinstance(mask, dict):
            yield decode_in_box(mask, x0, y0, x1, y1)
        else:
            yield mask[y0:y1, x0:x1].cpu().numpy()
