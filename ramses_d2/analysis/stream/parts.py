"""A particle, or a part of one, in belt coordinates, and how parts overlap, touch and add up.

Belt coordinates: row along the belt, column across it, px, end exclusive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .instances import FrameInstances


@dataclass(frozen=True)
class Part:
    """What one window shows of a particle.

    Attributes:
        row, column: first ones of the mask.
        mask: bool (h, w), cut to the particle.
        class_id, score: of the network.
        mass: g of this part, NaN = unknown.
        cut_before, cut_behind: the belt's first or last row cuts it.
    """

    row: int
    column: int
    mask: np.ndarray
    class_id: int
    score: float
    mass: float
    cut_before: bool = False
    cut_behind: bool = False

    @property
    def end_row(self) -> int:
        return self.row + self.mask.shape[0]

    @property
    def end_column(self) -> int:
        return self.column + self.mask.shape[1]

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    def restricted(self, first: int, last: int) -> Part | None:
        """The share of the particle in belt rows ``first`` to ``last``; None without a pixel there.

        Mass is shared by area: the geometry map is not known here.
        """
        if first <= self.row and self.end_row <= last:
            return self
        kept = self.mask[max(first - self.row, 0) : max(last - self.row, 0)]
        share = np.count_nonzero(kept) / self.area
        return _tight(replace(self, row=max(self.row, first), mask=kept, mass=self.mass * share))


def parts_of(found: FrameInstances, top: int) -> list[Part]:
    """Instances of a window whose first row is belt row ``top``; those without a pixel are left out."""
    fields = zip(found.masks, found.boxes, found.classes, found.scores, found.masses, strict=True)
    parts = [
        _tight(Part(top + int(box[1]), int(box[0]), mask, int(class_id), float(score), float(mass)))
        for mask, box, class_id, score, mass in fields
    ]
    return [part for part in parts if part is not None]


def _tight(part: Part) -> Part | None:
    """The same with a box that its mask fills; None without a pixel."""
    rows, columns = np.flatnonzero(part.mask.any(axis=1)), np.flatnonzero(part.mask.any(axis=0))
    if not len(rows):
        return None
    return replace(
        part,
        row=part.row + int(rows[0]),
        column=part.column + int(columns[0]),
        mask=part.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1],
    )


def common_pixels(a: Part, b: Part) -> int:
    """Pixels that two parts share."""
    first, last = max(a.row, b.row), min(a.end_row, b.end_row)
    left, right = max(a.column, b.column), min(a.end_column, b.end_column)
    if first >= last or left >= right:
        return 0
    return int(
        np.count_nonzero(
            a.mask[first - a.row : last - a.row, left - a.column : right - a.column]
            & b.mask[first - b.row : last - b.row, left - b.column : right - b.column]
        )
    )


def overlapping(ones: Sequence[Part], others: Sequence[Part]) -> Iterator[tuple[int, int, int]]:
    """Indices of the pairs that share pixels, and how many."""
    if not ones or not others:
        return
    a = np.array([(p.row, p.column, p.end_row, p.end_column) for p in ones])[:, None]
    b = np.array([(p.row, p.column, p.end_row, p.end_column) for p in others])[None]
    meet = (np.maximum(a, b)[..., :2] < np.minimum(a, b)[..., 2:]).all(axis=-1)
    for i, j in zip(*np.nonzero(meet), strict=True):
        common = common_pixels(ones[i], others[j])
        if common:
            yield int(i), int(j), common


def contact(above: Part, below: Part, seam: int) -> float:
    """How well two parts continue each other over a seam without overlap, from 0 to 1.

    Columns that face each other at the seam, over those of the narrower part: the last row of a particle can be much
    narrower than the one before. 0 unless both parts reach the seam.
    """
    if above.end_row != seam or below.row != seam:
        return 0.0
    left, right = max(above.column, below.column), min(above.end_column, below.end_column)
    if left >= right:
        return 0.0
    one, other = above.mask[-1], below.mask[0]
    facing = one[left - above.column : right - above.column] & other[left - below.column : right - below.column]
    return float(np.count_nonzero(facing) / min(np.count_nonzero(one), np.count_nonzero(other)))


def union(parts: Sequence[Part]) -> Part:
    """Parts of one particle as one: masks joined, masses added, the class that covers most, the mean score by area.

    Raises:
        ValueError: no part.
    """
    if len(parts) == 1:
        return parts[0]
    row, column = min(p.row for p in parts), min(p.column for p in parts)
    mask = np.zeros((max(p.end_row for p in parts) - row, max(p.end_column for p in parts) - column), bool)
    votes: dict[int, float] = defaultdict(float)
    for part in parts:
        mask[part.row - row : part.end_row - row, part.column - column : part.end_column - column] |= part.mask
        votes[part.class_id] += part.area
    class_id = max(votes, key=votes.__getitem__)
    return Part(
        row=row,
        column=column,
        mask=mask,
        class_id=class_id,
        score=sum(p.score * p.area for p in parts) / sum(p.area for p in parts),
        mass=sum(p.mass for p in parts),
        cut_before=any(p.cut_before for p in parts),
        cut_behind=any(p.cut_behind for p in parts),
    )
