"""What is written on each particle of an image, and where: inside it, or beside it on the bare belt, or not at all.

The label image (h, w) may be smaller than the image drawn on; places and sizes are in pixels of that image.
Text sizes are those of the font's em; widths and heights without a unit are in ems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import ImageFont

from .plain_number import plain_number

# DejaVu Sans comes with matplotlib and knows accents, Greek and Cyrillic; OpenCV's own letters are ASCII only
FONT_FILE = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
# Smaller text cannot be read, px
LEGIBLE_SIZE = 9.0
# Dark rim around the letters
RIM = 0.11
_ASCENT, _DESCENT, _LINE_STEP = 0.76, 0.24, 1.1
# Grid cells along the longer side of a particle when room for its caption is looked for
_CELLS = 40
# Side of a caption's place beside its particle: right, left, below, above, then the corners
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
# px
_ROUNDING = 1e-6

Lines = tuple[str, ...]
# Captions of one particle from the fullest to the shortest: for each content its layouts
Choices = list[list[Lines]]


class Caption(NamedTuple):
    """Lines of text centred at x, y, and their size, px."""

    lines: Lines
    x: float
    y: float
    size: float

    def baselines(self) -> Iterator[tuple[str, float, float]]:
        """Each line with the middle of its baseline, px."""
        top = self.y - self.size * (_block(self.lines)[1] / 2 - RIM - _ASCENT)
        for number, line in enumerate(self.lines):
            yield line, self.x, top + number * _LINE_STEP * self.size

    def box(self) -> tuple[float, float, float, float]:
        """XYXY that holds the letters and their rim, px."""
        width, height = (self.size * side / 2 for side in _block(self.lines))
        return self.x - width, self.y - height, self.x + width, self.y + height


def particle_caption(class_name: str | None, score: float | None, mass: float) -> list[str]:
    """Lines of text for one particle: class with score, and grams where they are known (mass not NaN)."""
    first = " ".join(([class_name] if class_name else []) + ([] if score is None else [f"{score:.2f}"]))
    return ([first] if first else []) + ([] if math.isnan(mass) else [f"{plain_number(mass, 3)} g"])


def caption_choices(class_name: str | None, score: float | None, mass: float) -> Choices:
    """Captions of one particle, the fullest first: the score is given up before the grams, and those before the class.

    Returns:
        contents in two layouts each: as :func:`particle_caption`, and in more, narrower lines. Empty when there is
        nothing to write.
    """
    # Grams alone come last: they serve particles too small for a long class name
    contents = [(class_name, score, mass), (class_name, None, mass), (class_name, None, math.nan), (None, None, mass)]
    choices = []
    for name, points, grams in contents:
        wide = tuple(particle_caption(name, points, grams))
        tall = (*(name or "").split(), *particle_caption(None, points, grams))
        layouts = [wide] if wide == tall else [wide, tall]
        if wide and layouts not in choices:
            choices.append(layouts)
    return choices


@lru_cache(maxsize=64)
def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in px."""
    return ImageFont.truetype(str(FONT_FILE), size)


@lru_cache(maxsize=4096)
def _line_width(line: str) -> float:
    return caption_font(100).getlength(line) / 100


def _block(lines: Lines) -> tuple[float, float]:
    """Width and height of lines of text with their rim."""
    width = max(_line_width(line) for line in lines)
    return width + 2 * RIM, (len(lines) - 1) * _LINE_STEP + _ASCENT + _DESCENT + 2 * RIM


def place_captions(
    choices: Sequence[Choices],
    labels: np.ndarray,
    boxes: Sequence[tuple[slice, slice] | None],
    shape: tuple[int, int],
    max_size: float,
) -> list[Caption]:
    """Find a place for each particle's fullest caption that can be read there; captions never cover each other.

    Args:
        choices: of each particle, see :func:`caption_choices`.
        labels: (h, w) label image, k = particle k - 1.
        boxes: of each particle as ``scipy.ndimage.find_objects`` gives them, None = no pixel.
        shape: height and width of the image, px.
        max_size: of the letters, px. They shrink to the particle, but not below ``LEGIBLE_SIZE``.

    Returns:
        captions inside the image; a particle too small for even its shortest one has none.
    """
    captions = []
    factor = (shape[0] / labels.shape[0], shape[1] / labels.shape[1])
    free = _FreeGround(labels, factor)
    for index, box in enumerate(boxes):
        caption = None if box is None else _place(choices[index], index + 1, box, labels, factor, max_size, free)
        if caption is not None:
            captions.append(caption)
    return captions


def _place(
    choices: Choices,
    label: int,
    box: tuple[slice, slice],
    labels: np.ndarray,
    factor: tuple[float, float],
    max_size: float,
    free: _FreeGround,
) -> Caption | None:
    smallest = min(LEGIBLE_SIZE, max_size)
    mask = (labels[box] == label).astype(np.uint8)
    corner = (box[0].start * factor[0], box[1].start * factor[1])
    for layouts in choices:
        inside = [_place_inside(lines, mask, corner, factor, max_size) for lines in layouts]
        best = max(inside, key=lambda caption: caption.size)
        if best.size >= smallest:
            return best
        beside = free.place_beside(layouts[0], label, box, min(max_size, 1.25 * smallest))
        if beside is not None:
            return beside
    return None


def _place_inside(
    lines: Lines, mask: np.ndarray, corner: tuple[float, float], factor: tuple[float, float], max_size: float
) -> Caption:
    """The largest rectangle of the text's shape inside a particle.

    On cells of that shape the rectangle is a square, which the chessboard distance to the outline finds.
    """
    text_width, text_height = _block(lines)
    height, width = mask.shape[0] * factor[0], mask.shape[1] * factor[1]
    unit = max(height / text_height, width / text_width) / _CELLS  # px per em and cell
    rows, columns = math.ceil(height / (unit * text_height)), math.ceil(width / (unit * text_width))
    cells = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_AREA)
    room = cv2.distanceTransform(np.pad(cells, 1), cv2.DIST_C, 3)[1:-1, 1:-1]
    # Of the places that are about as good, the one nearest to the centre of mass
    row, column = np.nonzero(room >= max(1.0, 0.9 * room.max()))
    if len(row) == 0:  # thinner than a cell
        return Caption(lines, 0.0, 0.0, 0.0)
    rows_of_mass, columns_of_mass = np.nonzero(cells)
    nearest = np.argmin((row - rows_of_mass.mean()) ** 2 + (column - columns_of_mass.mean()) ** 2)
    side = 2 * float(room[row[nearest], column[nearest]]) - 1
    size = side * min(height / rows / text_height, width / columns / text_width)
    x = corner[1] + (column[nearest] + 0.5) * width / columns
    y = corner[0] + (row[nearest] + 0.5) * height / rows
    return Caption(lines, float(x), float(y), min(size, max_size))


def _clip(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))


class _FreeGround:
    """Where neither a particle nor a caption is."""

    def __init__(self, labels: np.ndarray, factor: tuple[float, float]) -> None:
        self._labels = labels
        self._factor = factor
        self._shape = (labels.shape[0] * factor[0], labels.shape[1] * factor[1])
        self._taken = np.zeros(labels.shape, bool)

    def place_beside(self, lines: Lines, label: int, box: tuple[slice, slice], size: float) -> Caption | None:
        """Write lines next to a particle's box, where they cover nothing else, or nowhere."""
        text_width, text_height = (size * side for side in _block(lines))
        rows, columns = ((edges.start * f, edges.stop * f) for edges, f in zip(box, self._factor, strict=True))
        for right, down in _SIDES:
            x = sum(columns) / 2 + right * (columns[1] - columns[0] + text_width) / 2
            y = sum(rows) / 2 + down * (rows[1] - rows[0] + text_height) / 2
            # Along the side it stands on, a caption may move into the image
            x = x if right else _clip(x, text_width / 2, self._shape[1] - text_width / 2)
            y = y if down else _clip(y, text_height / 2, self._shape[0] - text_height / 2)
            caption = Caption(lines, x, y, size)
            place = self._cells(caption)
            if place is None or self._taken[place].any():
                continue
            below = self._labels[place]
            if not np.any((below != 0) & (below != label)):
                self._taken[place] = True
                return caption
        return None

    def _cells(self, caption: Caption) -> tuple[slice, slice] | None:
        """Part of the label image under a caption, None where it leaves the image."""
        x0, y0, x1, y1 = caption.box()
        height, width = self._shape
        if min(x0, y0) < -_ROUNDING or x1 > width + _ROUNDING or y1 > height + _ROUNDING:
            return None
        fy, fx = self._factor
        return np.s_[int(y0 / fy) : math.ceil(y1 / fy), int(x0 / fx) : math.ceil(x1 / fx)]
