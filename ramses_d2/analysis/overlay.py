"""A picture with every particle outlined, named and weighed."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

# Long side of an overlay from which on it is not enlarged any more, px
_LEGIBLE_SIZE = 1100
# Dark copies of a caption around it: thicker letters would be wider ones
_RIM = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def class_colors(num_classes: int) -> list[tuple[int, int, int]]:
    """RGB colours that differ as much as possible from one class to the next."""
    hues = [(index * 0.61803398875) % 1.0 for index in range(num_classes)]  # golden ratio: no two hues come close early
    return [tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, 1.0)) for hue in hues]


def particle_caption(class_name: str, score: float | None, mass: float) -> list[str]:
    """Lines of text for one particle: class with score, and grams where they are known."""
    first = class_name if score is None else f"{class_name} {score:.2f}"
    return [first] if np.isnan(mass) else [first, f"{mass:.3g} g"]


def draw_overlay(
    image: np.ndarray, labels: np.ndarray, captions: Sequence[Sequence[str]], colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Draw outlines and captions; small pictures are enlarged until the text can be read.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) label image, k = particle k - 1.
        captions: lines of text of each particle.
        colors: RGB of each particle.

    Returns:
        (s H, s W, 3) uint8 RGB with an integer s >= 1.
    """
    scale = max(1, round(_LEGIBLE_SIZE / max(image.shape[:2])))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    width = max(1, round(max(canvas.shape[:2]) / 900))
    boxes = ndimage.find_objects(labels.astype(np.int32))
    for index, box in enumerate(boxes):
        if box is not None:
            _draw_outline(canvas, labels[box] == index + 1, (box[1].start, box[0].start), colors[index], scale, width)
    for index, box in enumerate(boxes):
        if box is not None:
            inside = ndimage.distance_transform_edt(np.pad(labels[box] == index + 1, 1))
            row, col = np.unravel_index(inside.argmax(), inside.shape)
            center = ((box[1].start + col - 0.5) * scale, (box[0].start + row - 0.5) * scale)
            _draw_caption(canvas, captions[index], center, (box[1].stop - box[1].start) * scale)
    return canvas


def _draw_outline(
    canvas: np.ndarray, mask: np.ndarray, offset: tuple[int, int], color: tuple[int, int, int], scale: int, width: int
) -> None:
    # Enlarged as grey values and cut at one half, the stairs of the label image become a line
    grey = cv2.resize(np.pad(mask, 1).astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    corner = ((offset[0] - 1) * scale, (offset[1] - 1) * scale)
    contours, _ = cv2.findContours((grey >= 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner)
    cv2.drawContours(canvas, contours, -1, color, width, cv2.LINE_AA)


def _draw_caption(canvas: np.ndarray, lines: Sequence[str], center: tuple[float, float], room: float) -> None:
    """Write centred lines, as large as the particle is wide, white on a dark rim."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    widest = max((cv2.getTextSize(line, font, 1.0, 1)[0][0] for line in lines), default=1)
    size = float(np.clip(0.9 * room / widest, 0.25, 0.55 * max(1.0, max(canvas.shape[:2]) / 1100)))
    step = 30 * size
    for number, line in enumerate(lines):
        (text_width, text_height), _ = cv2.getTextSize(line, font, size, 1)
        x = round(center[0] - text_width / 2)
        y = round(center[1] + text_height / 2 + (number - (len(lines) - 1) / 2) * step)
        for dx, dy in _RIM:
            cv2.putText(canvas, line, (x + dx, y + dy), font, size, (0, 0, 0), 1, cv2.LINE_AA)
        cv2.putText(canvas, line, (x, y), font, size, (255, 255, 255), 1, cv2.LINE_AA)
