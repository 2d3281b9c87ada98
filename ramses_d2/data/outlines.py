"""COCO outlines (polygons, run lengths): which can be used, how large they are, and in which order they are painted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pycocotools.mask as mask_utils

from ramses_d2.errors import RamsesError


def usable_outline(segmentation: Any, size: tuple[int, int], place: str) -> list[list[float]] | dict[str, Any] | None:
    """The outline of an annotation, without polygons of fewer than three points.

    Args:
        segmentation: list of polygons [x, y, x, y, ...], one polygon, or RLE (counts as list, str or bytes).
        size: (H, W) of the image.
        place: file and annotation, for errors.

    Returns:
        polygons or RLE; None when nothing is left.

    Raises:
        RamsesError: neither polygons nor RLE, or an RLE that is damaged or of another size than the image.
    """
    if isinstance(segmentation, dict):
        if not {"size", "counts"} <= segmentation.keys():
            raise RamsesError(f"{place}: its segmentation has no size and counts, as run lengths need")
        if not isinstance(segmentation["size"], list | tuple) or not isinstance(
            segmentation["counts"], list | str | bytes
        ):
            raise RamsesError(f"{place}: its run lengths need a size [height, width], and counts (a list or text)")
        if tuple(segmentation["size"]) != tuple(size):
            raise RamsesError(
                f"{place}: its run lengths are of an image of {' x '.join(map(str, segmentation['size']))} px "
                f"(height x width), the image has {size[0]} x {size[1]}"
            )
        return segmentation
    polygons = segmentation or []
    if not isinstance(polygons, list):
        raise RamsesError(f"{place}: its segmentation is {type(polygons).__name__}, neither polygons nor run lengths")
    if polygons and all(isinstance(number, int | float) for number in polygons):
        polygons = [polygons]  # one polygon without the list around it
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) and not hasattr(polygon, "tolist"):
            raise RamsesError(f"{place}: a polygon is a list of numbers x, y, x, y, ..., not {polygon!r}")
        if not all(isinstance(number, int | float) or hasattr(number, "dtype") for number in polygon):
            raise RamsesError(f"{place}: a polygon has something in it that is no number; write x, y, x, y, ...")
    return [list(polygon) for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0] or None


def measure_outline(outline: list[list[float]] | dict[str, Any], size: tuple[int, int]) -> tuple[float, list[float]]:
    """Area (px) and box (XYWH, px) of an outline in an image of ``size`` (H, W)."""
    if isinstance(outline, dict):
        rle = mask_utils.frPyObjects(outline, *size) if isinstance(outline["counts"], list) else outline
    else:
        rle = mask_utils.merge(mask_utils.frPyObjects(outline, *size))
    return float(mask_utils.area(rle)), mask_utils.toBbox(rle).tolist()


def measured(annotation: dict[str, Any], size: tuple[int, int], place: str) -> dict[str, Any]:
    """The annotation with ``area`` (px) and ``bbox`` (XYWH, px), measured on its outline where they are not given.

    An area of 0 is not given either: many programs write it for "not measured", and it would upset the painting order.

    Args:
        annotation: with a usable ``segmentation``.
        size: (H, W) of the image.
        place: file and annotation, for errors.

    Raises:
        RamsesError: an area that is no number, or a box that is no list of numbers.
    """
    area, box = annotation.get("area"), given_box(annotation, place)
    try:
        is_given = area is not None and 0 < area < math.inf
    except TypeError:
        raise RamsesError(f"{place}: its area is {area!r}; write a number of px, or leave it out") from None
    if is_given and box is not None:
        return annotation | {"bbox": box}
    measured_area, measured_box = measure_outline(annotation["segmentation"], size)
    return annotation | {
        "area": area if is_given else measured_area,
        "bbox": measured_box if box is None else box,
    }


def given_box(annotation: dict[str, Any], place: str) -> list[float] | None:
    """The four numbers of an annotation's ``bbox``; None where there is none, or one with another count of numbers.

    Raises:
        RamsesError: the box is no list of numbers.
    """
    box = annotation.get("bbox")
    try:
        numbers = [] if box is None else [float(number) for number in box]
    except (TypeError, ValueError):
        raise RamsesError(f"{place}: its bbox is {box!r}; write four numbers of px, or leave it out") from None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def painting_order(annotations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations from large to small, so that painting them in this order leaves the small ones on top."""
    return sorted(annotations, key=lambda annotation: -annotation["area"])
