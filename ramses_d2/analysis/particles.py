"""From overlapping soft masks to one label image, the call that RAMSES2 users know.

Shape letters: K masks, H W mask grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from ramses_d2.errors import RamsesError
from ramses_d2.masks import Parts, find_parts

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


# Length of an even (straight) and an odd (diagonal) step of a chain code, and what each change of direction takes off:
# Vossepoel and Smeulders, Computer Graphics and Image Processing 20(4), 1982
_EVEN_STEP, _ODD_STEP, _TURN = 0.980, 1.406, -0.091
# Second moment of a pixel, a square of side 1, about its centre
_PIXEL_MOMENT = 1 / 12


class Measures(NamedTuple):
    """What is measured of a particle. Lengths in px, area in px2, shape measures have no unit.

    Attributes:
        area: pixels.
        axis_major_length, axis_minor_length: axes (not half axes) of the ellipse of equal second moments, as in
            scikit-image, but never thinner than a pixel: 1.15, where scikit-image gives 0 for a line of pixels.
        max_feret_diameter, min_feret_diameter: caliper diameters of the union of the pixels, see :mod:`.feret`.
        max_inscribed_radius: largest distance of a pixel's centre from the nearest centre outside, and at most half
            of the minimum Feret, which no circle inside can exceed.
        circularity: 4 pi area / perimeter^2, 1 for a disc (ISO 9276-6 takes the root of it); the perimeter is that of
            :func:`outline_length`. Estimates above 1 are set to 1.
        convexity: pixels / pixels of the digital convex hull, <= 1 (ISO 9276-6: solidity). Exactly 1 for every convex
            particle at any size and rotation, see :func:`hull_pixels`.
        angularity: of the convex hull; 0 for a disc and every ellipse, see :func:`angularity`.
        fragments: connected parts; pixels that touch at a corner are connected.
    """

    area: int
    axis_major_length: float
    axis_minor_length: float
    max_feret_diameter: float
    min_feret_diameter: float
    max_inscribed_radius: float
    circularity: float
    convexity: float
    angularity: float
    fragments: int

    @property
    def aspect_ratio(self) -> float:
        """Major axis / minor axis, >= 1."""
        return self.axis_major_length / self.axis_minor_length


def measure_particle(mask: np.ndarray) -> Measures:
    """Measure one particle.

    Args:
        mask: (h, w) bool, best cut to the particle's box. What lies beyond it counts as outside.

    Raises:
        ValueError: the mask is empty.
    """
    pixels = np.pad(np.asarray(mask, bool), 1).view(np.uint8)
    moments = cv2.moments(pixels, binaryImage=True)
    area = int(moments["m00"])
    if not area:
        raise ValueError("a particle without pixels cannot be measured")
    major, minor = _axes(*(moments[name] / area for name in ("mu20", "mu11", "mu02")))
    hull = pixel_hull(pixels)
    corners = corner_hull(hull)
    max_feret, min_feret = feret_diameters(corners)
    depth = float(cv2.distanceTransform(pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    perimeter, fragments = outline_length(pixels)
    return Measures(
        area=area,
        axis_major_length=major,
        axis_minor_length=minor,
        max_feret_diameter=max_feret,
        min_feret_diameter=min_feret,
        max_inscribed_radius=min(depth, min_feret / 2),
        circularity=min(4 * math.pi * area / perimeter**2, 1.0),
        convexity=area / hull_pixels(hull),
        angularity=angularity(corners),
        fragments=fragments,
    )


def outline_length(mask: np.ndarray) -> tuple[float, int]:
    """Length of the outer outline, holes not counted, and the number of connected parts.

    The chain code through the centres of the boundary's pixels, weighted after Vossepoel and Smeulders (1982), plus pi:
    a closed curve half a pixel further out is longer by that. Chosen by trial on rasters of discs, ellipses, hexagons,
    squares, rectangles and triangles in all directions: on discs from 20 to 300 px it is off by 0 to +1 % (of
    scikit-image ``perimeter_crofton`` -0.5 to +0.7 %, ``perimeter`` +0.4 to +5 %, growing with size), on all shapes
    from 30 px on by -3.4 to +0.8 % (-6.8 to +2.2 %, -4.3 to +7.3 %). Small rectangles come out too short, at 15 px by
    up to 8 %.

    Args:
        mask: (h, w) uint8.

    Returns:
        length in px, summed over the parts, and the number of parts.
    """
    # Two levels (parts and their holes), so that a part that lies in a hole of another one is found, too
    contours, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = [contour[:, 0] for contour, level in zip(contours, levels[0], strict=True) if level[3] < 0]
    return sum(_chain_length(part) for part in parts), len(parts)


def hull_pixels(hull: np.ndarray) -> int:
    """Pixels whose centre lies in the convex hull of all centres, or on it: Pick's theorem, exact.

    The hull through pixel corners would be larger than any particle but an upright rectangle by about half a pixel all
    around, so that a disc of 20 px had a convexity of 0.95 and one of 300 px 0.99. Of this hull every convex particle
    fills all pixels.

    Args:
        hull: (n, 2) integer corners, see :func:`~ramses_d2.analysis.feret.pixel_hull`.
    """
    x, y = hull.T.astype(np.int64)
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    twice_area = abs(int(np.sum(x * next_y - next_x * y)))
    on_boundary = int(np.gcd(np.abs(next_x - x), np.abs(next_y - y)).sum())
    return (twice_area + on_boundary) // 2 + 1


def angularity(hull: np.ndarray) -> float:
    """How angular a convex outline is: (perimeter / perimeter of the equivalent ellipse)^2 - 1.

    The angularity index of Kuo and Freeman (Transportation Research Record 1721, 2000), less 1 so that an ellipse has
    0. Taken as it is, the index depends on elongation: a square has 0.27, a rectangle of 4 : 1 0.06, since its ellipse
    is longer than itself. So the outline is first stretched until its second moments are alike in all directions; its
    ellipse is a circle then, and every ellipse has 0, every rectangle what a square has, whatever its elongation. In
    the plane: regular hexagon 0.10, rectangle 0.27, triangle 0.65. The raster rounds corners off and makes discs a
    little angular: at a diameter of 20 px 0.02 disc, 0.06 hexagon, 0.18 square, 0.46 triangle.

    Args:
        hull: (m, 2) corners of the convex outline in order.

    Returns:
        >= 0, no unit; the same for an outline scaled, turned, mirrored or stretched.
    """
    corners = hull - hull.mean(axis=0)
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]  # twice the triangles from the middle
    middle = ((corners + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    a, b = corners - middle, following - middle
    cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    # Integral of x x^T over the triangles (middle, a, b)
    moments = np.einsum("n,ni,nj->ij", cross, a + b, a + b) + np.einsum("n,ni,nj->ij", cross, a, a)
    moments += np.einsum("n,ni,nj->ij", cross, b, b)
    values, axes = np.linalg.eigh(moments * np.sign(cross.sum()))
    stretch = np.sqrt(values[1] / values)
    perimeter = np.hypot(*(((b - a) @ axes) * stretch).T).sum()
    area = abs(cross.sum()) / 2 * stretch.prod()
    return float(perimeter**2 / (4 * math.pi * area) - 1)


def _axes(xx: float, xy: float, yy: float) -> tuple[float, float]:
    """Major and minor axis, px, of the ellipse with these second moments, px2."""
    mean, half_difference = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    return tuple(
        4 * math.sqrt(max(moment, _PIXEL_MOMENT)) for moment in (mean + half_difference, mean - half_difference)
    )


def _chain_length(contour: np.ndarray) -> float:
    """Length of a closed chain of neighbouring pixels (n, 2), half a pixel further out."""
    steps = np.roll(contour, -1, axis=0) - contour
    straight = np.abs(steps).sum(axis=1)  # 1, diagonal 2, and 0 for the only step of a single pixel
    turns = np.count_nonzero((steps != np.roll(steps, -1, axis=0)).any(axis=1))
    length = _EVEN_STEP * np.count_nonzero(straight == 1) + _ODD_STEP * np.count_nonzero(straight == 2)
    return float(length + _TURN * turns + math.pi)


FRAGMENT_MODES = ("drop", "keep", "split")


class Fragments(NamedTuple):
    """A label image whose particles have been dealt with.

    Attributes:
        labels: (H, W), the input's type.
        parents: (K',) for label k at k - 1: the label in the input whose class, score and mass it inherits. A label
            without pixels may be among them.
        shares: (K',) share of the parent's mass; those of one parent's particles sum to 1.
    """

    labels: np.ndarray
    parents: np.ndarray
    shares: np.ndarray


def handle_fragments(
    labels: np.ndarray,
    mode: str = "drop",
    *,
    min_area_px: float = 0,
    min_area_mm2: float | None = None,
    resolution: float = math.nan,
) -> Fragments:
    """Keep, drop or split disconnected parts.

    Args:
        labels: integer (H, W), 0 = background.
        mode: "drop" (what a laboratory expects of one particle: the largest part is the particle, the others become
            background), "keep" (all parts are one particle, whose Feret diameters then span them), or "split" (each
            part is a particle). What "split" would make of stray pixels is no particle: specks (up to 10 px and a fifth
            of the largest part, or 1 % of it) are dropped.
        min_area_px: smaller parts are dropped in every mode; a particle that has no larger one loses all its pixels.
        min_area_mm2: the same in mm2, instead of ``min_area_px``; needs ``resolution``.
        resolution: px/mm.

    Returns:
        labels, parents and shares. "drop" and "keep" number the particles as before; "split" leaves its number to the
        largest part and numbers the others behind all particles, by parent, then by falling area. A particle's mass is
        never lost: with "drop" the largest part has it all, since what was weighed is the particle and not its
        outline; with "split" the parts share it by area.

    Raises:
        RamsesError: an unknown mode, an area below 0, two areas, an area in mm2 without a resolution, or more parts
            than the label image's type can number.
    """
    if mode not in FRAGMENT_MODES:
        raise RamsesError(f"fragments {mode!r}: give one of {', '.join(FRAGMENT_MODES)}")
    min_area = _min_area(min_area_px, min_area_mm2, resolution)
    parts = find_parts(labels)
    kept = parts.area >= min_area
    if mode == "drop":
        kept &= parts.is_body
    elif mode == "split":
        kept &= ~parts.is_small

    count = int(labels.max(initial=0))
    values = np.where(kept, parts.label, 0)
    parents, shares = np.arange(1, count + 1), np.ones(count)
    if mode == "split":
        extra = np.flatnonzero(kept & ~parts.is_body)
        extra = extra[np.lexsort((-parts.area[extra], parts.label[extra]))]
        limit = np.iinfo(labels.dtype).max
        if count + len(extra) > limit:
            raise RamsesError(
                f"{count + len(extra)} parts, but the label image can number {limit}: drop parts, or give a min area"
            )
        values[extra] = count + 1 + np.arange(len(extra))
        parents = np.concatenate([parents, parts.label[extra]])
        areas = np.bincount(values[kept], weights=parts.area[kept], minlength=count + len(extra) + 1)[1:]
        totals = np.bincount(parents, weights=areas)[parents]
        shares = np.divide(areas, totals, out=np.ones(len(parents)), where=totals > 0)
    return Fragments(_repainted(labels, parts, values), parents, shares)


def _min_area(px: float, mm2: float | None, resolution: float) -> float:
    """Smallest area of a part, px."""
    if not px >= 0 or (mm2 is not None and not mm2 >= 0):
        raise RamsesError(f"min area {px if mm2 is None else mm2}: give 0 or more")
    if mm2 is None:
        return px
    if px:
        raise RamsesError(f"min areas {px:g} px and {mm2:g} mm2: give one of them")
    if not (np.isfinite(resolution) and resolution > 0):
        raise RamsesError(f"min area {mm2:g} mm2 needs the image's resolution; give it, or the area in px")
    return mm2 * resolution**2


def _repainted(labels: np.ndarray, parts: Parts, values: np.ndarray) -> np.ndarray:
    """A copy of the label image in which each part p has the value ``values[p]``."""
    painted = labels.copy(order="C")
    changed = (values != parts.label)[parts.part]
    start, length = parts.start[changed], parts.length[changed]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    painted.reshape(-1)[np.repeat(start, length) + within] = np.repeat(values[parts.part[changed]], length)
    return painted


EDGES = ("top", "bottom", "left", "right")
# Each column and what kind of value it holds, so that a table without rows is like any other
_KINDS = {
    "baseimg": str,
    "label": np.int64,
    "res": float,
    "class": str,
    **dict.fromkeys(("x0", "x1", "y0", "y1", "area"), np.int64),
    "mass": float,
    "axis_major_length": float,
    "axis_minor_length": float,
    "max_feret_diameter": float,
    "min_feret_diameter": float,
    "max_inscribed_radius": float,
    "score": float,
    "length_mm": float,
    "width_mm": float,
    "feret_max_mm": float,
    "feret_min_mm": float,
    "inscribed_diameter_mm": float,
    "equivalent_diameter_mm": float,
    "area_mm2": float,
    "aspect_ratio": float,
    "circularity": float,
    "convexity": float,
    "angularity": float,
    "edge": str,
    "fragments": np.int64,
}
COLUMNS = list(_KINDS)


def particle_table(
    image_name: str,
    labels: np.ndarray,
    class_names: Sequence[str],
    masses: Sequence[float],
    scores: Sequence[float],
    resolution: float,
) -> pd.DataFrame:
    """Measure the particles of one label image; works inside each particle's box.

    Args:
        image_name: file name with extension.
        labels: (H, W) label image, k = particle k - 1; particles without a pixel get no row.
        class_names, masses, scores: of each particle; masses in grams, NaN = unknown.
        resolution: px/mm, NaN = unknown.

    Returns:
        ``COLUMNS``, by rising label.

    Raises:
        ValueError: names, masses and scores that do not fit each other or the labels.
    """
    count, largest = len(class_names), int(labels.max(initial=0))
    if not count == len(masses) == len(scores) or largest > count:
        raise ValueError(
            f"{count} class names, {len(masses)} masses and {len(scores)} scores for labels up to {largest}: "
            "give one of each for every particle"
        )
    rows = []
    for index, box in enumerate(ndimage.find_objects(labels) if largest else []):
        if box is not None:
            row = particle_row(
                labels[box] == index + 1,
                baseimg=image_name,
                label=index + 1,
                class_name=class_names[index],
                mass=masses[index],
                score=scores[index],
                resolution=resolution,
                origin=(box[0].start, box[1].start),
                edges=_touched(box, labels.shape),
            )
            rows.append(row)
    return table_of(rows)


def particle_row(
    mask: np.ndarray,
    *,
    baseimg: str,
    label: int,
    class_name: str,
    mass: float,
    score: float,
    resolution: float,
    origin: tuple[int, int] = (0, 0),
    edges: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure one particle that is known by its mask, such as one of a conveyor belt.

    Args:
        mask: (h, w) bool, cut to the particle's box.
        baseimg, label, class_name, mass, score: see the table.
        resolution: px/mm, NaN = unknown.
        origin: row and column of the mask's first pixel in the image.
        edges: that the particle touches.

    Returns:
        ``COLUMNS`` and their values, for :func:`table_of`.

    Raises:
        ValueError: the mask is empty.
    """
    measured = measure_particle(mask)
    mm = 1 / resolution if resolution > 0 else math.nan
    (x0, y0), (height, width) = origin, mask.shape
    return {
        "baseimg": baseimg,
        "label": label,
        "res": resolution,
        "class": class_name,
        "x0": x0,
        "x1": x0 + height,
        "y0": y0,
        "y1": y0 + width,
        "mass": mass,
        "score": score,
        **measured._asdict(),
        "length_mm": measured.axis_major_length * mm,
        "width_mm": measured.axis_minor_length * mm,
        "feret_max_mm": measured.max_feret_diameter * mm,
        "feret_min_mm": measured.min_feret_diameter * mm,
        "inscribed_diameter_mm": 2 * measured.max_inscribed_radius * mm,
        "equivalent_diameter_mm": math.sqrt(4 * measured.area / math.pi) * mm,
        "area_mm2": measured.area * mm**2,
        "aspect_ratio": measured.aspect_ratio,
        "edge": " ".join(name for name in EDGES if name in edges),
    }


def table_of(rows: Sequence[dict[str, Any]], further: Sequence[str] = ()) -> pd.DataFrame:
    """Particle table of rows of :func:`particle_row`; further columns come last, and no row is a table, too."""
    further = list(dict.fromkeys([*further, *(name for row in rows for name in row if name not in _KINDS)]))
    return pd.DataFrame(rows, columns=[*COLUMNS, *further]).astype(_KINDS)


def _touched(box: tuple[slice, slice], shape: tuple[int, int]) -> list[str]:
    """The edges of the image that a box touches."""
    rows, columns = box
    touches = (rows.start == 0, rows.stop == shape[0], columns.start == 0, columns.stop == shape[1])
    return [name for name, is_touched in zip(EDGES, touches, strict=True) if is_touched]


# Elements of the K masks that are worked on at once: 16 MiB as float32
_BLOCK = 4 * 1024 * 1024


def decode_predictions(
    masks: np.ndarray | torch.Tensor, scores: np.ndarray | torch.Tensor, threshold: float = 0.5, by_scores: bool = True
) -> np.ndarray:
    """Give every pixel to one of the masks that cover it (reference section 4).

    Works in blocks of rows, on the masks' device. Unlike the original, whose ``by_mask_scores=True`` numbered the
    masks by rank, a label always tells the mask's place in the input.

    Args:
        masks: (K, H, W) probabilities, or bool; a mask covers the pixels where it is >= ``threshold``.
        scores: (K,); used with ``by_scores`` only.
        threshold: see above.
        by_scores: True = the covering mask with the best score owns a pixel, False = the one with the highest
            probability there. Of equals the first one.

    Returns:
        (H, W) uint16: 0 = background, input index + 1 elsewhere. A mask covered by others has no pixel.

    Raises:
        ValueError: masks and scores do not fit each other, or more than 65 535 masks.
    """
    masks = masks.detach() if isinstance(masks, torch.Tensor) else np.asarray(masks)
    scores = torch.as_tensor(scores)
    if masks.ndim != 3 or tuple(scores.shape) != (len(masks),):
        raise ValueError(
            f"masks {tuple(masks.shape)} and scores {tuple(scores.shape)}: decode_predictions takes (K, H, W) and (K,)"
        )
    count, height, width = masks.shape
    if count > np.iinfo(np.uint16).max:
        raise ValueError(f"{count} masks do not fit a 16-bit label image")
    labels = np.zeros((height, width), np.uint16)
    if labels.size == 0 or count == 0:
        return labels
    best_first = scores.argsort(descending=True, stable=True) if by_scores else None
    rows = max(1, _BLOCK // (count * width))
    for top in range(0, height, rows):
        block = masks[:, top : top + rows]
        if isinstance(block, np.ndarray):
            block = torch.from_numpy(np.ascontiguousarray(block))
        labels[top : top + rows] = _owners(block, threshold, best_first).cpu().numpy()
    return labels


def _owners(masks: torch.Tensor, threshold: float, best_first: torch.Tensor | None) -> torch.Tensor:
    """Label of each pixel of a (K, h, w) block, int64 (h, w)."""
    if best_first is None:
        # argmax knows no bool
        probability, index = (masks.to(torch.uint8) if masks.dtype == torch.bool else masks).max(dim=0)
        return torch.where(probability >= threshold, index + 1, 0)
    best_first = best_first.to(masks.device)
    covered, rank = (masks >= threshold).to(torch.uint8)[best_first].max(dim=0)
    return torch.where(covered > 0, best_first[rank] + 1, 0)
