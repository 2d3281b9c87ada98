"""Belts whose every particle is known. Their images are label images: a window shows what its pixels say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from ramses_d2.analysis.stream.stitch import FrameInstances, instances_from_labels


class Belt(NamedTuple):
    """A label image (L, W), and per label (entry 0 is the background) area, mass, class and score."""

    labels: np.ndarray
    areas: np.ndarray
    masses: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def predict(self, image: np.ndarray) -> FrameInstances:
        """What a perfect network would say of an image of labels: a part has its share of the mass."""
        parts = np.bincount(image.ravel(), minlength=len(self.areas))
        seen = np.flatnonzero(parts[1:]) + 1
        renumber = np.zeros(len(parts), np.int32)
        renumber[seen] = np.arange(1, len(seen) + 1)
        masses = self.masses[seen] * parts[seen] / self.areas[seen]
        return instances_from_labels(renumber[image], self.classes[seen], masses, self.scores[seen])


@cache
def make_belt(count: int, length: int, width: int, long: int = 0, lone: bool = False, seed: int = 0) -> Belt:
    """Discs that flatten where they touch (``lone``: leave a gap), ``long`` of them rods of a sixth of the belt."""
    rng = np.random.default_rng(seed)
    seeds = np.full((length, width), 255, np.uint8)
    for _ in range(long):
        row, column = int(rng.integers(0, length)), int(rng.integers(0, width))
        cv2.line(seeds, (column, row), (column + int(rng.integers(-30, 30)), row + length // 6), 0, 1)
    free = rng.permutation(length * width)[: count + count // 5]
    seeds.ravel()[free] = 0
    distance, nearest = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    # The largest seeds are the rods; they come first, so that leaving out what is too many keeps them
    order = np.argsort(-np.bincount(nearest[seeds == 0]), kind="stable")
    assert len(order) > count
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    labels = rank[nearest]
    reach = rng.uniform(4, 14, len(order) + 1)
    reach[: long + 1] = 6
    labels[(distance > reach[labels]) | (labels > count)] = 0
    if lone:
        image = labels.astype(np.float32)
        labels[cv2.dilate(image, np.ones((3, 3))) != image] = 0
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    masses = rng.lognormal(0, 1, count + 1) * (np.arange(count + 1) > 0)
    return Belt(labels, areas, masses, rng.integers(0, 5, count + 1), rng.uniform(0.2, 1, count + 1))


def paint(shape: tuple[int, int], *corners: tuple[int, int, int, int]) -> Belt:
    """Belt of rectangles (first row, last + 1, first column, last + 1) of 1 g per px."""
    labels = np.zeros(shape, np.int32)
    for label, (r0, r1, c0, c1) in enumerate(corners, start=1):
        labels[r0:r1, c0:c1] = label
    areas = np.bincount(labels.ravel())
    return Belt(labels, areas, areas * (np.arange(len(areas)) > 0.0), np.arange(len(areas)), np.ones(len(areas)))


def cut(length: int, heights: tuple[int, int], overlap: int) -> list[slice]:
    """Rows of frames of arbitrary heights that cover a belt."""
    rng = np.random.default_rng(3)
    frames, start = [], 0
    while not frames or frames[-1].stop < length:
        frames.append(slice(start, min(start + int(rng.integers(*heights)), length)))
        start = frames[-1].stop - overlap
    return frames


def frames_of(belt: Belt, height: int) -> Iterator[np.ndarray]:
    return (belt.labels[row : row + height].copy() for row in range(0, len(belt.labels), height))


def instances(boxes: list[list[int]], masks: list[np.ndarray] | None = None) -> FrameInstances:
    """Of masks in boxes XYXY, filled by default, of 1 g per px."""
    masks = masks or [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    masses = [np.count_nonzero(mask) for mask in masks]
    return FrameInstances(masks, boxes, [0] * len(masks), [1.0] * len(masks), masses)


def seen_differently(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Label image of a window as another look shows it: borders moved by a few px, and tips given to neighbours."""
    (height, width), places = labels.shape, []
    shifts = [
        ndimage.zoom(rng.normal(0, 1.3, (height // 8 + 2, width // 8 + 2)), 8, order=1)[:height, :width].round()
        for _ in range(2)
    ]
    for index, shift, size in zip(np.indices(labels.shape), shifts, labels.shape, strict=True):
        places.append(np.clip(index + shift.astype(int), 0, size - 1))
    seen = labels[tuple(places)]
    for end in (seen[:6], seen[-6:]):
        for label in np.unique(end[end > 0]):
            tip = seen == label
            if np.count_nonzero(tip.any(axis=1)) <= 5:
                around = seen[ndimage.binary_dilation(tip, iterations=2) & ~tip]
                around = around[around > 0]
                seen[tip] = np.bincount(around).argmax() if len(around) else 0
    return seen
