"""One object's mask as a COCO segmentation: exact polygons where there are any, else run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from skimage.measure import find_contours

from ramses_d2.masks import encode_in_box

SEGMENTATIONS = ("auto", "polygons", "rle")


def coco_segmentation(
    mask: np.ndarray, x0: int, y0: int, shape: tuple[int, int], kind: str = "auto"
) -> tuple[Any, bool]:
    """Segmentation of one object.

    COCO polygons are filled and united, so they cannot have a hole. The outline goes through the middle between
    inner and outer pixels (marching squares), which pycocotools turns back into exactly the same pixels.

    Args:
        mask: bool (h, w), the content of the object's box.
        x0, y0: left and top of the box in the image, px.
        shape: (H, W) of the image.
        kind: "polygons", "rle" (compressed, as text) or "auto": polygons where they give back the same pixels.

    Returns:
        list of polygons [x, y, x, y, ...] in px, or an RLE; and whether it is exact.
    """
    if kind != "rle":
        polygons = _polygons(mask)
        exact = _fills(polygons, mask)
        if exact or kind == "polygons":
            return [(polygon + (x0, y0)).ravel().tolist() for polygon in polygons], exact
    rle = encode_in_box(mask, x0, y0, *shape)
    return {"size": list(shape), "counts": rle["counts"].decode("ascii")}, True


def _polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outer outlines, (n, 2) x and y from the box's corner, px."""
    polygons = []
    for contour in find_contours(np.pad(mask, 1).astype(np.uint8), 0.5, fully_connected="low"):
        points = contour[:-1, ::-1] - 0.5  # less the padding, plus half a pixel: a pixel's corner has whole numbers
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        x, y = points.T
        signed_area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
        if signed_area > 0:  # skimage walks round a hole the other way
            polygons.append(points[turn != 0])
    return polygons


def _fills(polygons: list[np.ndarray], mask: np.ndarray) -> bool:
    """Whether pycocotools fills exactly the mask's pixels."""
    rles = mask_utils.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *mask.shape)
    return bool((mask_utils.decode(mask_utils.merge(rles)) == mask).all())
