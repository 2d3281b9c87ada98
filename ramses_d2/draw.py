"""An image with every particle tinted, outlined, named and weighed, as an array or as a matplotlib figure.

``draw_instances`` and ``plot_instances`` are the calls that RAMSES2 users know; here they take any number of classes
and particles. Shape letters: H W image, h w label image, K particles.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

# Saturation and brightness of one round of hues after the other: beyond six hues the eye confuses them
_ROUNDS = ((0.75, 1.0), (0.4, 1.0), (0.7, 0.75))
_HUES_PER_ROUND = 6
_GOLDEN_RATIO = 0.61803398875

Color = tuple[int, int, int]
Box = tuple[slice, slice]


class Appearance(NamedTuple):
    """Particles of a label image.

    Attributes:
        labels: (h, w) label image, k = particle k - 1.
        boxes: K boxes, None for a particle without a pixel.
        colors: K RGB colours from 0 to 255.
        captions: K choices of captions.
        diameter: of the usual particle, side of a square of the median area, px of the label image; NaN without any.
    """

    labels: np.ndarray
    boxes: list[Box | None]
    colors: list[Color]
    captions: list[Choices]
    diameter: float


def class_colors(num_classes: int) -> list[Color]:
    """RGB colours that differ as much as possible from one class to the next, none twice up to 300 classes."""
    colors = []
    for index in range(num_classes):
        hue = (index * _GOLDEN_RATIO) % 1.0  # no two hues come close early
        saturation, value = _ROUNDS[index // _HUES_PER_ROUND % len(_ROUNDS)]
        colors.append(tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)))
    return colors


def particle_appearance(
    labels: np.ndarray,
    class_ids: Sequence[int] | None,
    scores: Sequence[float] | None,
    masses: Sequence[float] | None,
    *,
    class_names: Sequence[str] | Mapping[int, str] | None,
    mode: str,
    colors: Sequence[Color] | None,
) -> Appearance:
    """Colours and captions from the arguments of ``draw_instances``, which see.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    labels = _as_labels(labels)
    fields = {"class_ids": class_ids, "scores": scores, "masses": masses}
    known = {name: _as_array(values) for name, values in fields.items() if values is not None}
    count = _particle_count(int(labels.max(initial=0)), known)
    if "class_ids" in known and known["class_ids"].dtype.kind in "US":  # names, as RAMSES2's calls have them
        class_names, known["class_ids"] = np.unique(known["class_ids"], return_inverse=True)
    ids = known["class_ids"].astype(int).tolist() if "class_ids" in known else None
    points = known["scores"].astype(float).tolist() if "scores" in known else [None] * count
    grams = known["masses"].astype(float).tolist() if "masses" in known else [math.nan] * count
    names = [None] * count if ids is None else _names(ids, class_names)
    areas = np.bincount(labels.ravel())[1:]
    return Appearance(
        labels,
        ndimage.find_objects(labels, max_label=count) if count else [],
        _colors(ids, count, mode, colors),
        [caption_choices(*row) for row in zip(names, points, grams, strict=True)],
        math.sqrt(np.median(areas[areas > 0])) if areas.any() else math.nan,
    )


def _as_array(values: Any) -> np.ndarray:
    """NumPy array of a sequence, an array or a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _as_labels(labels: Any) -> np.ndarray:
    labels = _as_array(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(
            f"labels {labels.shape} of {labels.dtype}: give an integer (H, W) label image, 0 = background"
            + ("; decode_predictions makes one from masks" if labels.ndim == 3 else "")
        )
    return labels.astype(np.int32)


def _particle_count(largest_label: int, fields: dict[str, np.ndarray]) -> int:
    sizes = {name: values.shape for name, values in fields.items()}
    if not sizes:
        return largest_label
    listed = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
    if len(set(sizes.values())) > 1 or any(len(shape) != 1 for shape in sizes.values()):
        raise ValueError(f"{listed}: give one value per particle in each of them")
    (count,) = next(iter(sizes.values()))
    if count < largest_label:
        raise ValueError(f"labels up to {largest_label}, but {listed}: label k needs entry k - 1")
    return count


def _names(ids: list[int], class_names: Sequence[str] | Mapping[int, str] | None) -> list[str]:
    if class_names is None:
        return [str(index) for index in ids]
    names = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
    unknown = sorted(set(ids) - set(names))
    if unknown:
        raise ValueError(f"class_ids {unknown} have no name: class_names has {sorted(names)}")
    return [str(names[index]) for index in ids]


def _colors(ids: list[int] | None, count: int, mode: str, colors: Sequence[Color] | None) -> list[Color]:
    if mode not in ("class", "instance"):
        raise ValueError(f'mode="{mode}": give "class" or "instance"')
    keys = ids if mode == "class" and ids is not None else range(count)
    if min(keys, default=0) < 0:
        raise ValueError(f"class_ids from {min(keys)}: class ids start at 0")
    needed = max(keys, default=-1) + 1
    if colors is None:
        palette = np.array(class_colors(needed))
    else:
        palette = _as_array(colors)
        if len(palette) < needed:
            what = "class id" if keys is ids else "particle"
            raise ValueError(f"{len(palette)} colors, but {needed} are needed, one per {what}")
        whole = np.issubdtype(palette.dtype, np.integer) and palette.shape[1:] == (3,)
        if needed and not (whole and palette.min() >= 0 and palette.max() <= 255):
            raise ValueError(f"colors {palette.shape} of {palette.dtype}: give RGB in whole numbers from 0 to 255")
    return [tuple(palette[key].tolist()) for key in keys]


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


# Text size by default: smallest, as a part of the canvas' long side, and as a part of the usual particle's diameter
_TEXT_SIZE, _TEXT_PER_CANVAS, _TEXT_PER_PARTICLE = 16.0, 1 / 70, 0.22
_POINTS_PER_INCH = 72


def draw_instances(
    image: np.ndarray,
    labels: np.ndarray,
    class_ids: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    masses: Sequence[float] | None = None,
    *,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    alpha: float = 0.3,
    boundaries: bool = True,
    font_size: float | None = None,
    mode: str = "class",
    colors: Sequence[Color] | None = None,
) -> np.ndarray:
    """Draw particles on an image; small and crowded images are enlarged until captions can be read.

    A caption stands inside its particle, or beside it on the bare belt, and covers no other. Where the letters would
    get too small, the score is left out, then the grams, then the caption.

    Args:
        image: (H, W, 3) RGB or (H, W) grey; uint8, or float in [0, 1].
        labels: (H, W) label image, or a smaller one of the same view such as the mask grid; k = particle k - 1, 0 =
            background. Labels may be missing.
        class_ids: (K,) from 0.
        scores: (K,).
        masses: (K,) grams, NaN = unknown.
        class_names: by class id; without them captions show the ids.
        alpha: opacity of the tint, 0 = none.
        boundaries: draw outlines.
        font_size: of the largest letters (em), px of the canvas; None = by the size of the canvas. Letters shrink to
            their particle.
        mode: "class" = a colour per class, "instance" = a colour per particle. Without class_ids always the latter.
        colors: RGB from 0 to 255 instead of :func:`class_colors`, by class id or by particle.

    Returns:
        (s H, s W, 3) uint8 RGB with an integer s >= 1.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    particles = particle_appearance(
        labels, class_ids, scores, masses, class_names=class_names, mode=mode, colors=colors
    )
    canvas, _ = _paint(image, particles, alpha, boundaries)
    return write_captions(canvas, _captions(particles, canvas.shape[:2], font_size))


def plot_instances(
    image: np.ndarray,
    labels: np.ndarray,
    class_ids: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    masses: Sequence[float] | None = None,
    *,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    alpha: float = 0.3,
    boundaries: bool = True,
    font_size: float | None = None,
    mode: str = "class",
    colors: Sequence[Color] | None = None,
    dpi: float = 100.0,
) -> Figure:
    """Draw particles in a figure, as :func:`draw_instances` does, with captions that stay sharp in PDF and SVG.

    The figure belongs to nobody else: it needs no display, no ``show`` and no ``close``. A notebook shows it when it is
    the last value of a cell; ``figure.savefig("belt.pdf")`` saves it.

    Args:
        image, labels, class_ids, scores, masses, class_names, alpha, boundaries, mode, colors: see
            :func:`draw_instances`.
        font_size: of the largest letters, points.
        dpi: pixels of the canvas per inch of the figure.

    Returns:
        a figure of (s W) x (s H) pixels with an integer s >= 1, and one axes in pixels of the image.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    if not dpi > 0:
        raise ValueError(f"dpi={dpi}: give a number above 0")
    particles = particle_appearance(
        labels, class_ids, scores, masses, class_names=class_names, mode=mode, colors=colors
    )
    canvas, scale = _paint(image, particles, alpha, boundaries)
    height, width = canvas.shape[:2]
    # matplotlib cuts fractions of a pixel off: a little more than a whole number stays one
    figure = _NotebookFigure(figsize=((width + 0.01) / dpi, (height + 0.01) / dpi), dpi=dpi, frameon=False)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (0, width / scale, height / scale, 0)
    axes.imshow(canvas, origin="upper", extent=extent, interpolation="nearest", aspect="auto")
    points = _POINTS_PER_INCH / dpi
    for caption in _captions(particles, (height, width), None if font_size is None else font_size / points):
        font = FontProperties(fname=str(FONT_FILE), size=caption.size * points)
        rim = withStroke(linewidth=2 * max(1, RIM * caption.size) * points, foreground="black")
        for line, x, y in caption.baselines():
            text = axes.text(x / scale, y / scale, line, color="white", font=font, ha="center", va="baseline")
            text.set(parse_math=False, path_effects=[rim])
    return figure


class _NotebookFigure(Figure):
    """A figure that notebooks show even where nothing has set matplotlib up for them."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


def _paint(image: np.ndarray, particles: Appearance, alpha: float, boundaries: bool) -> tuple[np.ndarray, int]:
    """Canvas with tints and outlines, and how many times the image was enlarged."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: give a number from 0 (no tint) to 1 (nothing of the image left)")
    image = _as_rgb(image)
    factor = _zoom(particles.labels.shape, image.shape[:2])
    canvas, scale = enlarge(image, factor * particles.diameter)
    width = outline_width(canvas.shape[:2], scale * factor * particles.diameter) if boundaries else 0
    shapes = list(silhouettes(particles.labels, particles.boxes, canvas.shape[:2]))
    paint_particles(canvas, shapes, particles.colors, alpha, width)
    return canvas, scale


def _captions(particles: Appearance, shape: tuple[int, int], size: float | None) -> list[Caption]:
    """Captions on a canvas of this shape, with letters of at most this size, px."""
    if size is None:
        diameter = particles.diameter * shape[1] / particles.labels.shape[1]
        size = max(_TEXT_SIZE, min(_TEXT_PER_CANVAS * max(shape), _TEXT_PER_PARTICLE * diameter))
    elif not size > 0:
        raise ValueError(f"font_size of {size:g} px: give a number above 0")
    return place_captions(particles.captions, particles.labels, particles.boxes, shape, size)


def _zoom(labels_shape: tuple[int, int], image_shape: tuple[int, int]) -> float:
    """Pixels of the image per pixel of the label image, which has to show the same view."""
    (label_height, label_width), (height, width) = labels_shape, image_shape
    if min(labels_shape) < 1 or abs(label_width * height / width - label_height) > 1 + 0.02 * label_height:
        raise ValueError(
            f"labels of {label_height} x {label_width} do not show the same view as an image of {height} x {width}"
        )
    return width / label_width


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """New (H, W, 3) uint8 array of a grey or RGB image in uint8 or float."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(f"image {image.shape}: give an RGB (H, W, 3) or a grey (H, W) image")
    if np.issubdtype(image.dtype, np.floating):
        if not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"image of {image.dtype} from {image.min():g} to {image.max():g}: floats go from 0 to 1")
        image = np.round(image * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"image of {image.dtype}: give uint8, or float from 0 to 1")
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)), order="C")


def plain_number(value: float, digits: int) -> str:
    """``value`` with so many significant digits, never as a power of ten: 12340 with 3 is "12300", 0.05 is "0.05"."""
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")
