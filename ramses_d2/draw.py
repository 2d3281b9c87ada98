"""An image with every particle tinted, outlined, named and weighed, as an array or as a matplotlib figure.

``draw_instances`` and ``plot_instances`` are the calls that RAMSES2 users know; here they take any number of classes
and particles. Shape letters: H W image or canvas, h w label image, K particles. The canvas is the image, enlarged.
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

Color = tuple[int, int, int]
Box = tuple[slice, slice]  # rows and columns
Lines = tuple[str, ...]
Choices = list[list[Lines]]  # captions of one particle from the fullest to the shortest: for each content its layouts

# A canvas is enlarged until its long side, or its usual particle, has so many px, but not beyond the last
_LEGIBLE_CANVAS, _LEGIBLE_PARTICLE, _LARGEST_CANVAS = 1100, 64, 3300
# Text size by default: smallest px, as a part of the canvas' long side, and of the usual particle's diameter
_TEXT_SIZE, _TEXT_PER_CANVAS, _TEXT_PER_PARTICLE = 16.0, 1 / 70, 0.22
LEGIBLE_SIZE = 9.0  # px; smaller text cannot be read


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
    """Draw particles on an image: (s H, s W, 3) uint8 RGB, enlarged by an integer s >= 1 until captions can be read.

    A caption stands inside its particle, or beside it on the bare belt, and covers no other. Where the letters would
    get too small, the score is left out, then the grams, then the caption.

    Args:
        image: (H, W, 3) RGB or (H, W) grey; uint8, or float in [0, 1].
        labels: (H, W) label image, or a smaller one of the same view such as the mask grid; k = particle k - 1, 0 =
            background. Labels may be missing.
        class_ids: (K,) from 0; or names, as in RAMSES2.
        scores: (K,).
        masses: (K,) grams, NaN = unknown.
        class_names: by class id; without them captions show the ids.
        alpha: opacity of the tint, 0 = none.
        boundaries: draw outlines.
        font_size: of the largest letters (em), px of the canvas; None = by the size of the canvas. Letters shrink to
            their particle.
        mode: "class" = a colour per class, "instance" = a colour per particle. Without class_ids always the latter.
        colors: RGB from 0 to 255 instead of :func:`class_colors`, by class id or by particle.
    """
    particles = _appearance(labels, class_ids, scores, masses, class_names, mode, colors)
    canvas, _ = _paint(image, particles, alpha, boundaries)
    # White letters with a dark rim can be read on any stone
    drawn = Image.fromarray(canvas)
    draw = ImageDraw.Draw(drawn)
    for caption in _captions(particles, canvas.shape[:2], font_size):
        font, rim = caption_font(max(1, int(caption.size))), max(1, round(RIM * caption.size))
        for line, x, y in caption.baselines():
            draw.text((x, y), line, "white", font, anchor="ms", stroke_width=rim, stroke_fill="black")
    return np.asarray(drawn)


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

    The figure has (s W) x (s H) pixels and one axes in pixels of the image; ``font_size`` is in points, ``dpi`` counts
    pixels of the canvas per inch. It needs no display, no ``show`` and no ``close``: a notebook shows it when it is the
    last value of a cell, ``figure.savefig("belt.pdf")`` saves it.
    """
    if not dpi > 0:
        raise ValueError(f"dpi={dpi}: give a number above 0")
    particles = _appearance(labels, class_ids, scores, masses, class_names, mode, colors)
    canvas, scale = _paint(image, particles, alpha, boundaries)
    height, width = canvas.shape[:2]
    # matplotlib cuts fractions of a pixel off: a little more than a whole number stays one
    figure = _NotebookFigure(figsize=((width + 0.01) / dpi, (height + 0.01) / dpi), dpi=dpi, frameon=False)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (0, width / scale, height / scale, 0)
    axes.imshow(canvas, origin="upper", extent=extent, interpolation="nearest", aspect="auto")
    points = 72 / dpi
    for caption in _captions(particles, (height, width), None if font_size is None else font_size / points):
        font = FontProperties(fname=str(FONT_FILE), size=caption.size * points)
        rim = withStroke(linewidth=2 * max(1, RIM * caption.size) * points, foreground="black")
        for line, x, y in caption.baselines():
            text = axes.text(x / scale, y / scale, line, color="white", font=font, ha="center", va="baseline")
            text.set(parse_math=False, path_effects=[rim])
    return figure


class _NotebookFigure(Figure):
    """A figure that notebooks show even where matplotlib has not been set up for them."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


# ---- colours, and what the arguments say of each particle


def class_colors(num_classes: int) -> list[Color]:
    """RGB colours that differ as much as possible from one class to the next, none twice up to 300 classes."""
    # Saturation and brightness of one round of six hues after the other: beyond these the eye confuses them
    rounds = ((0.75, 1.0), (0.4, 1.0), (0.7, 0.75))
    colors = []
    for index in range(num_classes):
        hue = (index * 0.61803398875) % 1.0  # by the golden ratio, hues do not come close early
        colors.append(tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue, *rounds[index // 6 % len(rounds)])))
    return colors


class _Appearance(NamedTuple):
    """The particles of a label image."""

    labels: np.ndarray  # (h, w), k = particle k - 1
    boxes: list[Box | None]  # K, None = no pixel
    colors: list[Color]  # K
    captions: list[Choices]  # K
    diameter: float  # of the usual particle: side of a square of the median area, px of the label image; NaN without


def _appearance(
    labels: np.ndarray,
    class_ids: Sequence[int] | None,
    scores: Sequence[float] | None,
    masses: Sequence[float] | None,
    class_names: Sequence[str] | Mapping[int, str] | None,
    mode: str,
    colors: Sequence[Color] | None,
) -> _Appearance:
    """Check the arguments of ``draw_instances`` against each other; colours and captions from them."""
    labels = _as_array(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        hint = "; decode_predictions makes one from masks" if labels.ndim == 3 else ""
        raise ValueError(
            f"labels {labels.shape} of {labels.dtype}: give an integer (H, W) label image, 0 = background{hint}"
        )
    labels = labels.astype(np.int32)
    fields = {"class_ids": class_ids, "scores": scores, "masses": masses}
    known = {name: _as_array(values) for name, values in fields.items() if values is not None}
    shapes = {values.shape for values in known.values()}
    listed = ", ".join(f"{name} {values.shape}" for name, values in known.items())
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"{listed}: give one value per particle in each of them")
    largest = int(labels.max(initial=0))
    count = shapes.pop()[0] if shapes else largest
    if count < largest:
        raise ValueError(f"labels up to {largest}, but {listed}: label k needs entry k - 1")

    if "class_ids" in known and known["class_ids"].dtype.kind in "US":  # names, as RAMSES2's calls have them
        class_names, known["class_ids"] = np.unique(known["class_ids"], return_inverse=True)
    ids = known["class_ids"].astype(int).tolist() if "class_ids" in known else None
    points = known["scores"].astype(float).tolist() if "scores" in known else [None] * count
    grams = known["masses"].astype(float).tolist() if "masses" in known else [math.nan] * count
    if ids is None or class_names is None:
        names = [None] * count if ids is None else list(map(str, ids))
    else:
        of_id = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
        if unknown := sorted(set(ids) - set(of_id)):
            raise ValueError(f"class_ids {unknown} have no name: class_names has {sorted(of_id)}")
        names = [str(of_id[index]) for index in ids]
    areas = np.bincount(labels.ravel())[1:]
    return _Appearance(
        labels,
        ndimage.find_objects(labels, max_label=count) if count else [],
        _colors(ids, count, mode, colors),
        [caption_choices(*row) for row in zip(names, points, grams, strict=True)],
        math.sqrt(np.median(areas[areas > 0])) if areas.any() else math.nan,
    )


def _as_array(values: Any) -> np.ndarray:
    """NumPy array of a sequence, an array or a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _colors(ids: list[int] | None, count: int, mode: str, colors: Sequence[Color] | None) -> list[Color]:
    if mode not in ("class", "instance"):
        raise ValueError(f'mode="{mode}": give "class" or "instance"')
    keys = ids if mode == "class" and ids is not None else range(count)
    if min(keys, default=0) < 0:
        raise ValueError(f"class_ids from {min(keys)}: class ids start at 0")
    needed = max(keys, default=-1) + 1
    palette = _as_array(class_colors(needed) if colors is None else colors)
    if len(palette) < needed:
        what = "class id" if keys is ids else "particle"
        raise ValueError(f"{len(palette)} colors, but {needed} are needed, one per {what}")
    whole = np.issubdtype(palette.dtype, np.integer) and palette.shape[1:] == (3,)
    if needed and not (whole and palette.min() >= 0 and palette.max() <= 255):
        raise ValueError(f"colors {palette.shape} of {palette.dtype}: give RGB in whole numbers from 0 to 255")
    return [tuple(palette[key].tolist()) for key in keys]


# ---- tints and outlines


def _paint(image: np.ndarray, particles: _Appearance, alpha: float, boundaries: bool) -> tuple[np.ndarray, int]:
    """Canvas (s H, s W, 3) with tints and outlines, and s."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: give a number from 0 (no tint) to 1 (nothing of the image left)")
    canvas = _as_rgb(image)
    (label_height, label_width), (height, width) = particles.labels.shape, canvas.shape[:2]
    is_empty = min(label_height, label_width) < 1
    if is_empty or abs(label_width * height / width - label_height) > 1 + 0.02 * label_height:
        raise ValueError(
            f"labels of {label_height} x {label_width} do not show the same view as an image of {height} x {width}"
        )
    # Enlarge small and crowded images
    factor = width / label_width
    diameter, long_side = factor * particles.diameter, max(height, width)
    crowded = math.ceil(_LEGIBLE_PARTICLE / diameter) if diameter > 0 else 1
    scale = max(1, round(_LEGIBLE_CANVAS / long_side), min(crowded, _LARGEST_CANVAS // long_side))
    if scale > 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    diameter = scale * factor * particles.diameter
    band = max(canvas.shape[:2]) / 900
    band = max(2, round(min(band, diameter / 25) if diameter > 0 else band)) if boundaries else 0

    lines = []
    for x, y, mask, color in _silhouettes(particles, canvas.shape[:2]):
        region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
        painted = region.copy()
        if alpha > 0:
            painted = cv2.addWeighted(painted, 1 - alpha, np.full_like(painted, color), alpha, 0)
        if boundaries:
            # Contours with holes, through the middles of the outermost pixels; only the inner half of the band is kept
            lines.append(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))[0])
            cv2.drawContours(painted, lines[-1], -1, color, 2 * band + 1, cv2.LINE_AA, offset=(-x, -y))
        cv2.copyTo(painted, mask, region)
    for contours in lines:  # a dark line where particles end, over the bands of all
        cv2.drawContours(canvas, contours, -1, (0, 0, 0), max(1, band // 2), cv2.LINE_AA)
    return canvas, scale


def _silhouettes(particles: _Appearance, shape: tuple[int, int]) -> Iterator[tuple[int, int, np.ndarray, Color]]:
    """Left, top, 0/1 mask and colour of each particle on a canvas; enlarged ones get smooth outlines, not stairs."""
    labels = particles.labels
    fy, fx = shape[0] / labels.shape[0], shape[1] / labels.shape[1]
    for label, (box, color) in enumerate(zip(particles.boxes, particles.colors, strict=True), start=1):
        if box is None:
            continue
        # A margin where the image has one: at its edge a particle goes on
        rows, columns = (
            slice(max(edges.start - 1, 0), min(edges.stop + 1, side))
            for edges, side in zip(box, labels.shape, strict=True)
        )
        mask = (labels[rows, columns] == label).astype(np.uint8)
        # The product of a side and its own factor can come out above the side it was made from
        y0, y1 = int(rows.start * fy), min(int(np.ceil(rows.stop * fy)), shape[0])
        x0, x1 = int(columns.start * fx), min(int(np.ceil(columns.stop * fx)), shape[1])
        if (fy, fx) != (1, 1):
            # Enlarged as grey values and cut at one half, the stairs of the label image become a line
            across = [1 / fx, 0, (x0 + 0.5) / fx - 0.5 - columns.start]
            down = [0, 1 / fy, (y0 + 0.5) / fy - 0.5 - rows.start]
            options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
            grey = cv2.warpAffine(mask * 255, np.array([across, down]), (x1 - x0, y1 - y0), **options)
            mask = (grey >= 128).astype(np.uint8)
        yield x0, y0, mask, color


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


# ---- captions

# DejaVu Sans comes with matplotlib and knows accents, Greek and Cyrillic; OpenCV's own letters are ASCII only
FONT_FILE = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
RIM = 0.11  # dark rim around the letters, em, as are the following
_ASCENT, _DESCENT, _LINE_STEP = 0.76, 0.24, 1.1
# Grid cells along the longer side of a particle when room for its caption is looked for
_CELLS = 40
# Side of a caption's place beside its particle: right, left, below, above, then the corners
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_ROUNDING = 1e-6  # px


@lru_cache(maxsize=64)
def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in px."""
    return ImageFont.truetype(str(FONT_FILE), size)


@lru_cache(maxsize=4096)
def _line_width(line: str) -> float:
    return caption_font(100).getlength(line) / 100


def _block(lines: Lines) -> tuple[float, float]:
    """Width and height of lines of text with their rim, em."""
    width = max(_line_width(line) for line in lines)
    return width + 2 * RIM, (len(lines) - 1) * _LINE_STEP + _ASCENT + _DESCENT + 2 * RIM


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


def plain_number(value: float, digits: int) -> str:
    """``value`` with so many significant digits, never as a power of ten: 12340 with 3 is "12300", 0.05 is "0.05"."""
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")


def particle_caption(class_name: str | None, score: float | None, mass: float) -> list[str]:
    """Lines of text for one particle: class with score, and grams where they are known (mass not NaN)."""
    first = " ".join(([class_name] if class_name else []) + ([] if score is None else [f"{score:.2f}"]))
    return ([first] if first else []) + ([] if math.isnan(mass) else [f"{plain_number(mass, 3)} g"])


def caption_choices(class_name: str | None, score: float | None, mass: float) -> Choices:
    """Captions of one particle, the fullest first: the score is given up before the grams, and those before the class.

    Each content has two layouts, :func:`particle_caption` and one in more, narrower lines. Empty without any content.
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


def _captions(particles: _Appearance, shape: tuple[int, int], size: float | None) -> list[Caption]:
    """Captions on a canvas of this shape, with letters of at most this size, px."""
    if size is None:
        diameter = particles.diameter * shape[1] / particles.labels.shape[1]
        size = max(_TEXT_SIZE, min(_TEXT_PER_CANVAS * max(shape), _TEXT_PER_PARTICLE * diameter))
    elif not size > 0:
        raise ValueError(f"font_size of {size:g} px: give a number above 0")
    return place_captions(particles.captions, particles.labels, particles.boxes, shape, size)


def place_captions(
    choices: Sequence[Choices],
    labels: np.ndarray,
    boxes: Sequence[Box | None],
    shape: tuple[int, int],
    max_size: float,
) -> list[Caption]:
    """Find a place for each particle's fullest caption that can be read there; captions never cover each other.

    ``choices`` and ``boxes`` are of the particles of a label image (h, w), ``shape`` (H, W) of the canvas. Letters
    shrink from ``max_size`` to the particle, not below ``LEGIBLE_SIZE``; the smallest particles get no caption.
    """
    captions = []
    smallest = min(LEGIBLE_SIZE, max_size)
    factor = (shape[0] / labels.shape[0], shape[1] / labels.shape[1])
    taken = np.zeros(labels.shape, bool)
    for label, box in enumerate(boxes, start=1):
        if box is None:
            continue
        mask = (labels[box] == label).astype(np.uint8)
        for layouts in choices[label - 1]:
            inside = [_place_inside(lines, mask, box, factor, max_size) for lines in layouts]
            caption = max(inside, key=lambda caption: caption.size)
            if caption.size < smallest:
                size = min(max_size, 1.25 * smallest)
                caption = _place_beside(layouts[0], label, box, labels, taken, factor, size)
            if caption is not None:
                captions.append(caption)
                break
    return captions


def _place_inside(lines: Lines, mask: np.ndarray, box: Box, factor: tuple[float, float], max_size: float) -> Caption:
    """The largest rectangle of the text's shape inside a particle's mask in its box.

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
    x = box[1].start * factor[1] + (column[nearest] + 0.5) * width / columns
    y = box[0].start * factor[0] + (row[nearest] + 0.5) * height / rows
    return Caption(lines, float(x), float(y), min(size, max_size))


def _place_beside(
    lines: Lines,
    label: int,
    box: Box,
    labels: np.ndarray,
    taken: np.ndarray,
    factor: tuple[float, float],
    size: float,
) -> Caption | None:
    """Next to a particle's box, where neither a particle nor a caption is; marks the place in ``taken`` (h, w)."""
    text_width, text_height = (size * side for side in _block(lines))
    height, width = (side * f for side, f in zip(labels.shape, factor, strict=True))
    rows, columns = ((edges.start * f, edges.stop * f) for edges, f in zip(box, factor, strict=True))
    for right, down in _SIDES:
        x = sum(columns) / 2 + right * (columns[1] - columns[0] + text_width) / 2
        y = sum(rows) / 2 + down * (rows[1] - rows[0] + text_height) / 2
        # Along the side it stands on, a caption may move into the image
        x = x if right else max(text_width / 2, min(x, width - text_width / 2))
        y = y if down else max(text_height / 2, min(y, height - text_height / 2))
        caption = Caption(lines, x, y, size)
        x0, y0, x1, y1 = caption.box()
        if min(x0, y0) < -_ROUNDING or x1 > width + _ROUNDING or y1 > height + _ROUNDING:
            continue
        place = np.s_[int(y0 / factor[0]) : math.ceil(y1 / factor[0]), int(x0 / factor[1]) : math.ceil(x1 / factor[1])]
        if not taken[place].any() and np.isin(labels[place], (0, label)).all():
            taken[place] = True
            return caption
    return None
