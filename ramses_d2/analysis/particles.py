"""The particle table: one row per particle, the original's columns first (reference section 5.1).

Lengths without a unit in their name are px of the original image; those in mm are NaN where the resolution is
unknown. Sizes of one particle, from small to large: inscribed_diameter <= feret_min <= feret_max.

========================== =============================================================================
baseimg, label, res, class file name with extension, value in the label image, px/mm, name of the class
x0, x1, y0, y1             first and last + 1 ROW, first and last + 1 COLUMN, as in the original
area                       pixels
mass                       g, NaN = unknown
axis_major_length ... max_inscribed_radius, circularity, convexity, angularity, fragments
                           see :class:`~ramses_d2.analysis.measures.Measures`
score                      the network's
length_mm, width_mm        axes of the ellipse of equal second moments
feret_max_mm, feret_min_mm largest and smallest caliper diameter
inscribed_diameter_mm      2 * max_inscribed_radius
equivalent_diameter_mm     diameter of the disc of equal area
area_mm2                   area / res^2
aspect_ratio               length / width, >= 1
edge                       edges of the image that the particle touches: of "top", "bottom", "left" and
                           "right" those that apply, separated by blanks; "" = it is whole
========================== =============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from .measures import measure_particle

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
