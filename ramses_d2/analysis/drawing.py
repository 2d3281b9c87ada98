"""An image with every particle tinted, outlined, named and weighed, as an array or as a matplotlib figure.

``draw_instances`` and ``plot_instances`` are the calls that RAMSES2 users know; here they take any number of classes
and particles. Shape letters: H W image, h w label image, K particles.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke

from .appearance import Appearance, Color, particle_appearance
from .captions import FONT_FILE, RIM, Caption, place_captions
from .overlay import enlarge, outline_width, paint_particles, silhouettes, write_captions

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
