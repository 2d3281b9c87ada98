"""What becomes of particles that fall into several parts: one particle's mask with specks, or two stones in one mask.

K particles, P parts. Pixels of one label that touch, also at a corner, are one part; parts of different labels never
join, touching or not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..data.checking.components import Parts, find_parts
from ..errors import RamsesError

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
        kept &= ~parts.is_speck

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
