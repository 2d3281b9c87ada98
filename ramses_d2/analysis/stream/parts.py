"""A particle, or a part of one, in belt coordinates, and how parts overlap, touch and add up.

Belt coordinates: row along the belt, column across it, px, end exclusive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ramses_d2.analysis.stream.instances import FrameInstances


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
        rows = np.arange(self.row, self.end_row)
        return self.only(self.mask & ((first <= rows) & (rows < last))[:, None])

    def only(self, mask: np.ndarray) -> Part | None:
        """The share of the particle that a mask of this part's shape leaves of it; None without a pixel."""
        share = np.count_nonzero(mask) / self.area
        return _tight(replace(self, mask=mask, mass=self.mass * share))


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


def common_masks(ones: Sequence[Part], others: Sequence[Part]) -> list[np.ndarray]:
    """For each of ``ones`` a mask of its shape: the pixels that any of the others has too."""
    masks = [np.zeros_like(part.mask) for part in ones]
    for i, j, _ in overlapping(ones, others):
        one, other = ones[i], others[j]
        first, last = max(one.row, other.row), min(one.end_row, other.end_row)
        left, right = max(one.column, other.column), min(one.end_column, other.end_column)
        there = np.s_[first - one.row : last - one.row, left - one.column : right - one.column]
        shown = other.mask[first - other.row : last - other.row, left - other.column : right - other.column]
        masks[i][there] |= one.mask[there] & shown
    return masks


def common_part(part: Part, others: Sequence[Part]) -> Part | None:
    """What any of the others has of a part."""
    return part.only(common_masks([part], others)[0])


def without(part: Part, others: Sequence[Part]) -> Part | None:
    """What none of the others has of a part."""
    (taken,) = common_masks([part], others)
    return part.only(part.mask & ~taken) if taken.any() else part


class Contact(NamedTuple):
    """How two parts meet at a seam without overlap.

    Attributes:
        facing: columns in which they face each other.
        above, below: columns of either part at the seam.
    """

    facing: int
    above: int
    below: int


def contact(above: Part, below: Part, seam: int) -> Contact | None:
    """How two parts continue each other over a seam without overlap; None if they do not face each other there."""
    if above.end_row != seam or below.row != seam:
        return None
    left, right = max(above.column, below.column), min(above.end_column, below.end_column)
    if left >= right:
        return None
    one, other = above.mask[-1], below.mask[0]
    facing = one[left - above.column : right - above.column] & other[left - below.column : right - below.column]
    counts = (int(np.count_nonzero(row)) for row in (facing, one, other))
    found = Contact(*counts)
    return found if found.facing else None


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
