"""The particles of a label image: measured into the particle table, freed of stray parts, decoded from soft masks.

Lengths in px and areas in px2 unless a name says mm. Shape letters: K masks, H W image, h w a particle's box.
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
from ramses_d2.masks import find_parts

EDGES = ("top", "bottom", "left", "right")
COLUMNS = (
    "baseimg label res class x0 x1 y0 y1 area mass axis_major_length axis_minor_length max_feret_diameter "
    "min_feret_diameter max_inscribed_radius score length_mm width_mm feret_max_mm feret_min_mm inscribed_diameter_mm "
    "equivalent_diameter_mm area_mm2 aspect_ratio circularity convexity angularity edge fragments"
).split()
_TEXT, _WHOLE = {"baseimg", "class", "edge"}, {"label", "x0", "x1", "y0", "y1", "area", "fragments"}
# What each column holds, so that a table without rows is like any other
_KINDS = {name: str if name in _TEXT else np.int64 if name in _WHOLE else float for name in COLUMNS}

_LENGTHS_MM = {
    "length_mm": "axis_major_length",
    "width_mm": "axis_minor_length",
    "feret_max_mm": "max_feret_diameter",
    "feret_min_mm": "min_feret_diameter",
}


def particle_table(
    image_name: str,
    labels: np.ndarray,
    class_names: Sequence[str],
    masses: Sequence[float],
    scores: Sequence[float],
    resolution: float,
) -> pd.DataFrame:
    """Measure the particles of one label image (H, W), where k stands for particle k - 1: ``COLUMNS`` by rising label.

    Masses in g and the resolution in px/mm may be NaN = unknown. A particle without a pixel gets no row.
    """
    count, largest = len(class_names), int(labels.max(initial=0))
    if not count == len(masses) == len(scores) or largest > count:
        raise ValueError(
            f"{count} class names, {len(masses)} masses and {len(scores)} scores for labels up to {largest}: "
            "give one of each for every particle"
        )
    rows = []
    for index, box in enumerate(ndimage.find_objects(labels) if largest else []):
        if box is None:
            continue
        (top, bottom), (left, right) = ((side.start, side.stop) for side in box)
        touches = (top == 0, bottom == labels.shape[0], left == 0, right == labels.shape[1])
        row = particle_row(
            labels[box] == index + 1,
            baseimg=image_name,
            label=index + 1,
            class_name=class_names[index],
            mass=masses[index],
            score=scores[index],
            resolution=resolution,
            origin=(top, left),
            edges=[name for name, is_touched in zip(EDGES, touches, strict=True) if is_touched],
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
    """Measure one particle: the values of ``COLUMNS``, for :func:`table_of`.

    ``mask`` is bool (h, w), cut to the particle's box; ``origin`` is the row and column of its first pixel in the
    image, ``edges`` are those of ``EDGES`` that the particle touches.
    """
    measures = measure_particle(mask)
    mm = 1 / resolution if resolution > 0 else math.nan
    (x0, y0), (height, width) = origin, mask.shape  # as in the original's tables, x are rows
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
        **measures._asdict(),
        **{name: getattr(measures, px) * mm for name, px in _LENGTHS_MM.items()},
        "inscribed_diameter_mm": 2 * measures.max_inscribed_radius * mm,
        "equivalent_diameter_mm": math.sqrt(4 * measures.area / math.pi) * mm,
        "area_mm2": measures.area * mm**2,
        "aspect_ratio": measures.aspect_ratio,
        "edge": " ".join(name for name in EDGES if name in edges),
    }


def table_of(rows: Sequence[dict[str, Any]], further: Sequence[str] = ()) -> pd.DataFrame:
    """Particle table of rows of :func:`particle_row`, of none as well; ``further`` columns come last."""
    further = list(dict.fromkeys([*further, *(name for row in rows for name in row if name not in _KINDS)]))
    return pd.DataFrame(rows, columns=[*COLUMNS, *further]).astype(_KINDS)


class Measures(NamedTuple):
    """What is measured of a particle; measures of shape have no unit."""

    area: int
    # Axes (not half axes) of the ellipse of equal second moments as in scikit-image, but never thinner than those of a
    # pixel, 1.15: scikit-image gives 0 for a line of pixels
    axis_major_length: float
    axis_minor_length: float
    # Caliper diameters of the union of the pixels
    max_feret_diameter: float
    min_feret_diameter: float
    # Largest distance of a pixel's centre from the nearest centre outside, at most half the minimum Feret diameter,
    # which no circle inside can exceed
    max_inscribed_radius: float
    # 4 pi area / perimeter^2: 1 for a disc, estimates above are set to 1 (ISO 9276-6 takes the root of it)
    circularity: float
    # Pixels / pixels of the digital convex hull (ISO 9276-6: solidity), exactly 1 for every convex particle
    convexity: float
    # Of the convex hull, 0 for every ellipse
    angularity: float
    # Connected parts; pixels that touch at a corner are connected
    fragments: int

    @property
    def aspect_ratio(self) -> float:
        """Major axis / minor axis, >= 1."""
        return self.axis_major_length / self.axis_minor_length


def measure_particle(mask: np.ndarray) -> Measures:
    """Measure one particle by its bool (h, w) mask; what lies beyond the mask counts as outside."""
    pixels = np.pad(np.asarray(mask, bool), 1).view(np.uint8)
    moments = cv2.moments(pixels, binaryImage=True)
    area = int(moments["m00"])
    if not area:
        raise ValueError("a particle without pixels cannot be measured")
    # Axes of the ellipse of equal second moments; a pixel has the moment 1 / 12 about its own centre
    xx, xy, yy = (moments[name] / area for name in ("mu20", "mu11", "mu02"))
    mean, half_difference = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    major, minor = (4 * math.sqrt(max(m, 1 / 12)) for m in (mean + half_difference, mean - half_difference))
    hull = pixel_hull(pixels)
    corners = corner_hull(hull)
    max_feret, min_feret = feret_diameters(corners)
    depth = float(cv2.distanceTransform(pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    perimeter, fragments = perimeter_and_parts(pixels)
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


def pixel_hull(mask: np.ndarray) -> np.ndarray:
    """Convex hull (n, 2) of the pixels' indices x, y: one point for one pixel, two for a straight line."""
    rows = np.flatnonzero(mask.any(axis=1))
    # Only the first and the last pixel of a row can be corners
    filled = mask[rows] != 0
    first = filled.argmax(axis=1)
    last = mask.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.column_stack([first, rows]), np.column_stack([last, rows])])
    return cv2.convexHull(ends.astype(np.int32))[:, 0]


def corner_hull(pixels: np.ndarray) -> np.ndarray:
    """Convex hull (m, 2), m >= 4, of the corners of all pixels, from their :func:`pixel_hull`.

    Pixel (x, y) reaches from x to x + 1 and from y to y + 1.
    """
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int32)
    return cv2.convexHull((pixels[:, None] + corners).reshape(-1, 2).astype(np.int32))[:, 0]


def feret_diameters(hull: np.ndarray) -> tuple[float, float]:
    """Maximum and minimum Feret diameter: distance of parallel lines that hold a convex polygon (m, 2) between them.

    The minimum lies across one of the sides (Freeman and Shapira, Communications of the ACM 18(7), 1975); the
    minimum-area rectangle need not share it.
    """
    corners = hull.astype(float)
    # Maximum: the two corners that are farthest apart
    between = corners[:, None] - corners[None]
    longest = np.sqrt(np.square(between).sum(axis=-1).max())
    # Minimum: height above each side. All sides against all corners is quicker than to walk the calipers around
    sides = np.roll(corners, -1, axis=0) - corners
    normals = np.column_stack([-sides[:, 1], sides[:, 0]]) / np.hypot(*sides.T)[:, None]
    return float(longest), float(np.ptp(corners @ normals.T, axis=0).min())


def perimeter_and_parts(mask: np.ndarray) -> tuple[float, int]:
    """Length of the outer outline of a uint8 (h, w) mask without its holes, summed over its parts, and their number.

    The chain code through the centres of the boundary's pixels, weighted after Vossepoel and Smeulders (Computer
    Graphics and Image Processing 20(4), 1982), plus pi: a closed curve half a pixel further out is longer by that.
    Chosen by trial on rasters of discs and polygons in all directions: on discs from 20 to 300 px it is off by 0 to
    +1 % (of scikit-image ``perimeter_crofton`` -0.5 to +0.7 %, ``perimeter`` +0.4 to +5 %, growing with size), on all
    shapes from 30 px on by -3.4 to +0.8 % (-6.8 to +2.2 %, -4.3 to +7.3 %).
    """
    # Two levels (parts and their holes), so that a part that lies in the hole of another one is found too
    contours, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    length, parts = 0.0, 0
    for contour, (*_, parent) in zip(contours, levels[0], strict=True):
        if parent >= 0:
            continue
        chain = contour[:, 0]
        steps = np.roll(chain, -1, axis=0) - chain
        size = np.abs(steps).sum(axis=1)  # 1 straight, 2 diagonal, 0 the only step of a single pixel
        turns = np.count_nonzero((steps != np.roll(steps, -1, axis=0)).any(axis=1))
        chained = 0.980 * np.count_nonzero(size == 1) + 1.406 * np.count_nonzero(size == 2)
        length += float(chained - 0.091 * turns + math.pi)
        parts += 1
    return length, parts


def hull_pixels(hull: np.ndarray) -> int:
    """Pixels whose centre lies in a :func:`pixel_hull` or on it, exactly, by Pick's theorem.

    The hull of the pixels' corners would be larger than most particles by half a pixel all around, and the convexity
    of a disc of 20 px 0.95.
    """
    x, y = hull.T.astype(np.int64)
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    twice_area = abs(int(np.sum(x * next_y - next_x * y)))
    on_boundary = int(np.gcd(np.abs(next_x - x), np.abs(next_y - y)).sum())
    return (twice_area + on_boundary) // 2 + 1


def angularity(hull: np.ndarray) -> float:
    """How angular a convex outline (m, 2) is: (perimeter / perimeter of the equivalent ellipse)^2 - 1, >= 0.

    The angularity index of Kuo and Freeman (Transportation Research Record 1721, 2000), less 1 so that an ellipse has
    0, and freed of elongation: the outline is first stretched until its second moments are alike in all directions, so
    every rectangle has what a square has. In the plane: regular hexagon 0.10, rectangle 0.27, triangle 0.65. The raster
    rounds corners off and makes discs a little angular: at 20 px 0.02 disc, 0.06 hexagon, 0.18 square, 0.46 triangle.
    """
    # Middle of the area, from triangles (any point inside, corner, next corner)
    corners = hull - hull.mean(axis=0)
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]  # twice the triangles' areas
    middle = ((corners + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    # Second moments about it: integral of x x^T over the triangles (middle, a, b)
    a, b = corners - middle, following - middle
    cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    moments = np.einsum("n,ni,nj->ij", cross, a + b, a + b) + np.einsum("n,ni,nj->ij", cross, a, a)
    moments += np.einsum("n,ni,nj->ij", cross, b, b)
    # Stretch the short principal axis to the long one; the equivalent ellipse is a circle then
    values, axes = np.linalg.eigh(moments * np.sign(cross.sum()))
    stretch = np.sqrt(values[1] / values)
    perimeter = np.hypot(*(((b - a) @ axes) * stretch).T).sum()
    area = abs(cross.sum()) / 2 * stretch.prod()
    return float(perimeter**2 / (4 * math.pi * area) - 1)


FRAGMENT_MODES = ("drop", "keep", "split")


class Fragments(NamedTuple):
    """A label image after :func:`handle_fragments`; entry k - 1 of ``parents`` and ``shares`` belongs to label k."""

    labels: np.ndarray
    parents: np.ndarray  # the label in the input whose class, score and mass it inherits
    shares: np.ndarray  # of the parent's mass; those of one parent sum to 1


def handle_fragments(
    labels: np.ndarray,
    mode: str = "drop",
    *,
    min_area_px: float = 0,
    min_area_mm2: float | None = None,
    resolution: float = math.nan,
) -> Fragments:
    """Keep, drop or split the disconnected parts of the particles of an integer label image (H, W).

    "drop", what a laboratory expects: the largest part is the particle, the others become background. "keep": all parts
    are one particle, and its Feret diameters span them. "split": each part is a particle but for small components,
    which are dropped. Parts below the smallest area (px, or mm2 with a resolution in px/mm) are dropped in every mode.

    "split" leaves its number to the largest part and numbers the others behind all particles, by parent, then by
    falling area; they share the parent's mass by area. In the other modes the particle keeps its number and its whole
    mass: what was weighed is the particle and not its outline.
    """
    if mode not in FRAGMENT_MODES:
        raise RamsesError(f"fragments {mode!r}: give one of {', '.join(FRAGMENT_MODES)}")
    min_area = _min_area(min_area_px, min_area_mm2, resolution)
    parts = find_parts(labels)
    kept = parts.area >= min_area
    kept &= {"drop": parts.is_body, "keep": True, "split": ~parts.is_small}[mode]

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
    # Repaint the runs of the parts whose value has changed
    painted = labels.copy(order="C")
    changed = (values != parts.label)[parts.part]
    start, length = parts.start[changed], parts.length[changed]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    painted.reshape(-1)[np.repeat(start, length) + within] = np.repeat(values[parts.part[changed]], length)
    return Fragments(painted, parents, shares)


def _min_area(px: float, mm2: float | None, resolution: float) -> float:
    """Smallest area of a part, px."""
    if not px >= 0 or (mm2 is not None and not mm2 >= 0):
        raise RamsesError(f"min area {px if mm2 is None else mm2}: give 0 or more")
    if mm2 is None:
        return px
    if px:
        raise RamsesError(f"min areas {px:g} px and {mm2:g} mm2: give one of them")
    if not (np.isfinite(resolution) and resolution > 0):
        raise RamsesError(f"min area {mm2:g} mm2 needs the image's resolution: give it, or the area in px")
    return mm2 * resolution**2


BLOCK = 4 * 1024 * 1024  # elements of the K masks that are decoded at once: 16 MiB as float32


def decode_predictions(
    masks: np.ndarray | torch.Tensor, scores: np.ndarray | torch.Tensor, threshold: float = 0.5, by_scores: bool = True
) -> np.ndarray:
    """Give every pixel to one of the masks (K, H, W) that cover it: uint16 (H, W), input index + 1, 0 = background.

    A mask of probabilities or bool covers the pixels where it is >= ``threshold``. By scores (K,) the best of them
    owns a pixel, else the one with the highest probability there; of equals the first. Works on the masks' device.
    RAMSES2 numbered the masks by rank; here a label always tells the mask's place in the input.
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
    best_first = scores.argsort(descending=True, stable=True)
    rows = max(1, BLOCK // (count * width))
    for top in range(0, height, rows):
        block = masks[:, top : top + rows]
        if isinstance(block, np.ndarray):
            block = torch.from_numpy(np.ascontiguousarray(block))
        if by_scores:
            order = best_first.to(block.device)
            covered, rank = (block >= threshold).to(torch.uint8)[order].max(dim=0)
            owners = torch.where(covered > 0, order[rank] + 1, 0)
        else:  # max(dim) does not take bool
            probability, index = (block.to(torch.uint8) if block.dtype == torch.bool else block).max(dim=0)
            owners = torch.where(probability >= threshold, index + 1, 0)
        labels[top : top + rows] = owners.cpu().numpy()
    return labels
