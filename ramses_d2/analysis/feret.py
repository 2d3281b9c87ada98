"""Feret (caliper) diameters of a particle: how far two parallel jaws that hold it are apart.

A particle is the union of its pixels, each a square of side 1, so its hull goes through corners of pixels: a square of
32 x 32 px measures 32, one pixel measures 1. (Through the centres of pixels, as the original's minimum, the square
would measure 31 and the pixel 0.) Corners of pixels stick out of an oblique edge, so straight sides that lie askew
measure up to 1.4 px too far apart, about 1 px in the mean. Hulls are (n, 2) int32, x = column, y = row, px.
"""

from __future__ import annotations

import cv2
import numpy as np

_CORNERS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int32)


def pixel_hull(mask: np.ndarray) -> np.ndarray:
    """Convex hull of the pixels' indices (equally: of their centres), from the first and last pixel of each row.

    Args:
        mask: (h, w) bool or uint8 with at least one pixel.

    Returns:
        (n, 2); a single point for one pixel, two for a straight line.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    filled = mask[rows] != 0
    first = filled.argmax(axis=1)
    last = mask.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.column_stack([first, rows]), np.column_stack([last, rows])])
    return cv2.convexHull(ends.astype(np.int32))[:, 0]


def corner_hull(pixels: np.ndarray) -> np.ndarray:
    """Convex hull of the corners of all pixels.

    Args:
        pixels: (n, 2) hull of the pixels' indices, see :func:`pixel_hull`.

    Returns:
        (m, 2), m >= 4; pixel (x, y) reaches from x to x + 1 and from y to y + 1.
    """
    return cv2.convexHull((pixels[:, None] + _CORNERS).reshape(-1, 2).astype(np.int32))[:, 0]


def feret_diameters(hull: np.ndarray) -> tuple[float, float]:
    """Largest and smallest distance between two parallel lines that hold a convex polygon between them.

    The largest is that of two corners. The smallest lies across one of the sides (Freeman and Shapira, Communications
    of the ACM 18(7), 1975), which the minimum-area rectangle need not share. Every side is held against every corner,
    which for the few dozen corners of a particle is quicker than to walk the calipers around it step by step.

    Args:
        hull: (m, 2) corners in order.

    Returns:
        max_feret, min_feret in px.
    """
    corners = hull.astype(float)
    between = corners[:, None] - corners[None]
    longest = np.sqrt(np.square(between).sum(axis=-1).max())
    sides = np.roll(corners, -1, axis=0) - corners
    normals = np.column_stack([-sides[:, 1], sides[:, 0]]) / np.hypot(*sides.T)[:, None]
    heights = corners @ normals.T
    return float(longest), float(np.ptp(heights, axis=0).min())
