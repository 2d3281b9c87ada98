"""Painting particles on an image with OpenCV: enlarged canvas, tints, outlines, captions.

Shape letters: H W the canvas, h w the label image, which may be smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .appearance import Box, Color
from .captions import RIM, Caption, caption_font

# Long side of a canvas, and width of its usual particle, from which on it is not enlarged any more, px
_LEGIBLE_CANVAS = 1100
_LEGIBLE_PARTICLE = 64
# A canvas is not enlarged beyond this long side for the sake of small particles, px
_LARGEST_CANVAS = 3300
_BLACK = (0, 0, 0)


class Silhouette(NamedTuple):
    """A particle on the canvas: its index, the left and top of a box that holds it, and its (h, w) 0/1 mask there."""

    index: int
    x: int
    y: int
    mask: np.ndarray

    def outlines(self) -> Sequence[np.ndarray]:
        """Its contours, holes included, through the middles of its outermost pixels: (n, 1, 2) xy on the canvas."""
        offset = (self.x, self.y)
        return cv2.findContours(self.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset)[0]


def enlarge(image: np.ndarray, diameter: float) -> tuple[np.ndarray, int]:
    """Canvas of a small or crowded image that is large enough to read captions on.

    Args:
        image: (H, W, 3) uint8.
        diameter: of its usual particle, px; NaN without particles.

    Returns:
        (s H, s W, 3) canvas, the image itself where s = 1, and the integer s >= 1.
    """
    long_side = max(image.shape[:2])
    crowded = math.ceil(_LEGIBLE_PARTICLE / diameter) if diameter > 0 else 1
    scale = max(1, round(_LEGIBLE_CANVAS / long_side), min(crowded, _LARGEST_CANVAS // long_side))
    if scale == 1:
        return image, 1
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), scale


def outline_width(shape: tuple[int, int], diameter: float) -> int:
    """Width of a coloured outline on a canvas (H, W) where the usual particle has this diameter, px or NaN."""
    width = max(shape) / 900
    return max(2, round(min(width, diameter / 25) if diameter > 0 else width))


def silhouettes(labels: np.ndarray, boxes: Sequence[Box | None], shape: tuple[int, int]) -> Iterator[Silhouette]:
    """Particles of a label image on a canvas; enlarged ones get smooth outlines instead of stairs.

    Args:
        labels: (h, w) label image, k = particle k - 1.
        boxes: of each particle, None = no pixel.
        shape: (H, W).
    """
    fy, fx = shape[0] / labels.shape[0], shape[1] / labels.shape[1]
    for index, box in enumerate(boxes):
        if box is None:
            continue
        # A margin where the image has one: at its edge a particle goes on
        rows, columns = (
            slice(max(edges.start - 1, 0), min(edges.stop + 1, side))
            for edges, side in zip(box, labels.shape, strict=True)
        )
        mask = (labels[rows, columns] == index + 1).astype(np.uint8)
        # The product of a side and its own factor can come out above the side it was made from
        y0, y1 = int(rows.start * fy), min(int(np.ceil(rows.stop * fy)), shape[0])
        x0, x1 = int(columns.start * fx), min(int(np.ceil(columns.stop * fx)), shape[1])
        if (fy, fx) != (1, 1):
            # Enlarged as grey values and cut at one half, the stairs of the label image become a line
            across = [1 / fx, 0, (x0 + 0.5) / fx - 0.5 - columns.start]
            down = [0, 1 / fy, (y0 + 0.5) / fy - 0.5 - rows.start]
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            size = (x1 - x0, y1 - y0)
            grey = cv2.warpAffine(
                mask * 255, np.array([across, down]), size, flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
            mask = (grey >= 128).astype(np.uint8)
        yield Silhouette(index, x0, y0, mask)


def paint_particles(
    canvas: np.ndarray, particles: Sequence[Silhouette], colors: Sequence[Color], alpha: float, width: int
) -> None:
    """Tint particles and draw their outlines: a coloured band within, a dark line where they end.

    Args:
        canvas: (H, W, 3) uint8, painted in place.
        particles: that do not overlap.
        colors: of all particles, by index.
        alpha: 0 = no tint, 1 = nothing of the image left.
        width: of the coloured band, px; 0 = no outlines.
    """
    outlines = [particle.outlines() for particle in particles] if width else []
    for number, (index, x, y, mask) in enumerate(particles):
        region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
        painted = region.copy()
        if alpha > 0:
            painted = cv2.addWeighted(painted, 1 - alpha, np.full_like(painted, colors[index]), alpha, 0)
        if width:
            cv2.drawContours(painted, outlines[number], -1, colors[index], 2 * width + 1, cv2.LINE_AA, offset=(-x, -y))
        cv2.copyTo(painted, mask, region)
    for contours in outlines:
        cv2.drawContours(canvas, contours, -1, _BLACK, max(1, width // 2), cv2.LINE_AA)


def write_captions(canvas: np.ndarray, captions: Sequence[Caption]) -> np.ndarray:
    """White letters with a dark rim, readable on any stone; returns a new (H, W, 3) uint8 canvas."""
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for caption in captions:
        font = caption_font(max(1, int(caption.size)))
        rim = max(1, round(RIM * caption.size))
        for line, x, y in caption.baselines():
            draw.text((x, y), line, "white", font, anchor="ms", stroke_width=rim, stroke_fill="black")
    return np.asarray(image)
