"""Every particle of a belt once, whole, from windows that overlap or only touch.

Two windows share rows: from the first of the later window to the last of the earlier one. A particle belongs to the
earlier window if its middle along the belt lies above the middle of these rows, else to the later one. So what is whole
in both counts once, and what one of them cuts belongs to the one that sees it whole. What begins above the shared rows
and ends below them is whole in neither: it is put together from parts, and `join_parts` sums their masses.

Two looks outline things a little differently, and may even disagree on what is one particle. Whatever is decided then,
no pixel counts twice: the later window's particles lose what the earlier one's have. And what both windows saw counts
once at least: only what one of them alone sees, where the other one decides, is left out.

Belt coordinates: row along the belt, column across it, px, end exclusive. K instances, H W image, h w a box.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.cluster.hierarchy import DisjointSet

from ramses_d2.masks import masks_in_boxes, paint_label_image, whole_boxes

SAME = 0.5  # two masks are the same particle when they share at least this much ...
BRANCH = 0.25  # ... and one is a branch of the other when it is this much of it. Less is the tip of a neighbour
STRAY_SHARE = 0.25  # a particle beside a gap has more than this behind it, or it lies before the gap


@dataclass(frozen=True)
class FrameInstances:
    """What was found in an image: K bool masks (h, w), cut to boxes (K, 4) XYXY of whole px; grams of what is seen."""

    masks: Sequence[np.ndarray]
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masses: np.ndarray

    def __post_init__(self) -> None:
        kinds = {"boxes": np.int64, "classes": np.int64, "scores": np.float64, "masses": np.float64}
        for name, kind in kinds.items():
            values = np.asarray(getattr(self, name), kind).reshape((-1, 4) if name == "boxes" else -1)
            object.__setattr__(self, name, values)
            if len(values) != len(self):
                raise ValueError(f"{len(self)} masks, but {len(values)} {name}")
        for index, (mask, (x0, y0, x1, y1)) in enumerate(zip(self.masks, self.boxes, strict=True)):
            if mask.shape != (y1 - y0, x1 - x0):
                raise ValueError(f"mask {index} is {mask.shape}, its box {(y1 - y0, x1 - x0)}")

    def __len__(self) -> int:
        return len(self.masks)


def instances_from_labels(
    labels: np.ndarray, classes: Sequence[int], masses: Sequence[float], scores: Sequence[float] | None = None
) -> FrameInstances:
    """Particles of a label image (H, W) in which value k is particle k - 1; those without a pixel are left out."""
    boxes = ndimage.find_objects(labels, max_label=len(classes)) if len(classes) else []
    seen = [index for index, box in enumerate(boxes) if box is not None]
    scores = np.ones(len(classes)) if scores is None else np.asarray(scores)
    masks = [labels[boxes[index]] == index + 1 for index in seen]
    edges = [[x.start, y.start, x.stop, y.stop] for y, x in (boxes[index] for index in seen)]
    return FrameInstances(masks, edges, np.asarray(classes)[seen], scores[seen], np.asarray(masses, np.float64)[seen])


def instances_from_prediction(prediction: Any, min_score: float = 0.0) -> FrameInstances:
    """Detectron2 ``Instances``, every pixel given to the surest particle that claims it; masses are as predicted."""
    prediction = prediction[prediction.scores >= min_score].to("cpu")
    boxes = whole_boxes(prediction.pred_boxes.tensor.numpy(), prediction.image_size)
    scores = prediction.scores.numpy()
    masks = masks_in_boxes(prediction.pred_masks, boxes)
    labels = paint_label_image(masks, boxes, scores, prediction.image_size)
    masses = prediction.pred_masses.numpy() if prediction.has("pred_masses") else np.full(len(scores), np.nan)
    return instances_from_labels(labels, prediction.pred_classes.numpy(), masses, scores)


@dataclass(frozen=True)
class Part:
    """What a window shows of a particle, or a whole one: a mask (h, w) that fills its box at ``row``, ``column``.

    ``mass`` is the grams of this part; the belt's first or last row cuts it ``cut_before`` or ``cut_behind``.
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

    def only(self, mask: np.ndarray) -> Part | None:
        """What a mask of this part's shape leaves of it, with its share of the mass by area; None without a pixel."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return None
        mass = self.mass * (np.count_nonzero(mask) / self.area)
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return replace(self, row=self.row + int(rows[0]), column=self.column + int(columns[0]), mask=mask, mass=mass)

    def within(self, first: int = 0, last: int = sys.maxsize) -> Part | None:
        """What lies in belt rows ``first`` to ``last``."""
        if first <= self.row and self.end_row <= last:
            return self
        rows = np.arange(self.row, self.end_row)
        return self.only(self.mask & ((first <= rows) & (rows < last))[:, None])

    def without(self, others: Sequence[Part]) -> Part | None:
        """What none of the others has."""
        return self.only(self.mask & ~covered([self], others)[0])


def join_parts(parts: Sequence[Part]) -> Part:
    """A cut particle, whole: masks joined, masses summed, the class that covers most, the mean score by area."""
    if len(parts) == 1:
        return parts[0]
    row, column = min(part.row for part in parts), min(part.column for part in parts)
    size = max(part.end_row for part in parts) - row, max(part.end_column for part in parts) - column
    mask = np.zeros(size, bool)
    area_of_class: dict[int, int] = defaultdict(int)
    for part in parts:
        mask[part.row - row : part.end_row - row, part.column - column : part.end_column - column] |= part.mask
        area_of_class[part.class_id] += part.area
    class_id = max(area_of_class, key=area_of_class.__getitem__)
    score = sum(part.score * part.area for part in parts) / sum(part.area for part in parts)
    return Part(row, column, mask, class_id, score, mass=sum(part.mass for part in parts))


def overlap(ones: Sequence[Part | None], others: Sequence[Part | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, M) pixels that N parts share with M others, and the areas (N, 1) and (M,) of both; None has no pixels."""
    common = np.zeros((len(ones), len(others)), int)
    for i, j in _boxes_that_meet(ones, others):
        common[i, j] = np.count_nonzero(np.logical_and(*_where_boxes_meet(ones[i], others[j])))
    areas, other_areas = (np.array([part.area if part else 0 for part in parts], int) for parts in (ones, others))
    return common, areas[:, None], other_areas


def holds_half(ones: Sequence[Part | None], others: Sequence[Part | None]) -> np.ndarray:
    """(N, M) whether one of two parts has half of the other one."""
    common, area, other = overlap(ones, others)
    return (common > 0) & (common >= SAME * np.minimum(area, other))


def is_same(ones: Sequence[Part | None], others: Sequence[Part | None]) -> np.ndarray:
    """(N, M) whether two parts share half of what either has."""
    common, area, other = overlap(ones, others)
    return (common > 0) & (common >= SAME * (area + other - common))


def covered(ones: Sequence[Part], others: Sequence[Part]) -> list[np.ndarray]:
    """For each of ``ones`` a mask of its shape: the pixels that any of the others has too."""
    blank = [replace(one, mask=np.zeros_like(one.mask)) for one in ones]
    for i, j in _boxes_that_meet(ones, others):
        painted, shown = _where_boxes_meet(blank[i], others[j])
        painted |= shown
    return [one.mask & painted.mask for one, painted in zip(ones, blank, strict=True)]


def _boxes_that_meet(ones: Sequence[Part | None], others: Sequence[Part | None]) -> list[list[int]]:
    boxes = [[(p.row, p.column, p.end_row, p.end_column) if p else (0, 0, 0, 0) for p in ps] for ps in (ones, others)]
    a, b = (np.array(of_parts, int).reshape(-1, 4) for of_parts in boxes)
    return np.argwhere((np.maximum(a[:, None], b)[..., :2] < np.minimum(a[:, None], b)[..., 2:]).all(axis=-1)).tolist()


def _where_boxes_meet(one: Part, other: Part) -> Iterator[np.ndarray]:
    """Views of two masks where their boxes meet."""
    first, last = max(one.row, other.row), min(one.end_row, other.end_row)
    left, right = max(one.column, other.column), min(one.end_column, other.end_column)
    return (p.mask[first - p.row : last - p.row, left - p.column : right - p.column] for p in (one, other))


@dataclass
class CrossingParticle:
    """A particle that begins above the rows that two windows share, and reaches into them.

    Its ``decided`` parts do not change; of the ``latest``, in the last window, the next one may replace the end.
    """

    decided: list[Part]
    latest: list[Part]

    def whole(self) -> Part:
        return join_parts(self.decided + self.latest)


@dataclass
class OpenWindow:
    """What a window leaves to be decided when the next one has been seen, in the rows ``top`` to ``bottom`` of both.

    Of the particles inside these rows ``own`` belong to this window and ``left`` to the next one. ``counted`` are
    finished particles that reach into them: the next window must not count them again.
    """

    top: int
    bottom: int  # where two windows only touch, the seam is both
    crossing: list[CrossingParticle] = field(default_factory=list)
    own: list[Part] = field(default_factory=list)
    left: list[Part] = field(default_factory=list)
    counted: list[Part] = field(default_factory=list)

    def owns(self, part: Part) -> bool:
        """By the middle of its extent, of which the later window's view counts from the shared rows on."""
        return max(part.row, self.top) + part.end_row < self.top + self.bottom

    def shared(self, parts: Sequence[Part]) -> list[Part | None]:
        """What lies in the shared rows."""
        return [part.within(self.top, self.bottom) for part in parts]

    def undecided(self) -> list[Part]:
        return [particle.whole() for particle in self.crossing] + self.own + self.left


class StreamStitcher:
    """Joins the instances of consecutive windows of a belt; knows neither pixels nor a network.

    Frames of 500 rows whose last 20 the next one sees again: ``add(found, top, top + 500, top + 480)`` for each.
    """

    def __init__(self) -> None:
        self._top = 0  # of this stretch of belt
        self._bottom = 0  # of the last window
        self._open: OpenWindow | None = None

    def add(self, found: FrameInstances, top: int, bottom: int, next_top: int, begin: int = 0) -> list[Part]:
        """Take the instances of belt rows ``top`` to ``bottom``; returns the particles that no later window can change.

        ``next_top`` is the first row of the window to come, which may begin above it. What the window shows above row
        ``begin`` lies before a gap, and counts already.
        """
        parts = _parts_of(found, top)
        if top < begin:
            behind = [(part, part.within(begin)) for part in parts]
            parts = [kept for part, kept in behind if kept and kept.area > STRAY_SHARE * part.area]
            top = begin
        before, joined, finished = self._open, [], []
        if before is not None and (top > before.top or bottom < self._bottom):
            raise ValueError(f"belt rows {top} to {bottom} do not continue a window that ends in row {self._bottom}")
        if not top < next_top <= bottom:
            raise ValueError(f"the window after belt rows {top} to {bottom} cannot begin in row {next_top}")
        if before is None:
            self._top = top
        else:
            joined, finished, parts = _decide(before, parts)
        self._bottom = bottom
        self._open = after = OpenWindow(next_top, bottom)
        for part in parts:
            if part.row < next_top:
                joined.append(CrossingParticle([], [part]))
            else:
                (after.own if after.owns(part) else after.left).append(part)
        for particle in joined:
            if max(part.end_row for part in particle.latest or particle.decided) >= next_top:
                after.crossing.append(particle)
            else:
                finished.append(particle.whole())
        counted = finished + (before.counted if before is not None else [])
        after.counted = [part for part in counted if part.end_row > next_top]
        return [self._flagged(part) for part in finished]

    def finish(self) -> list[Part]:
        """The belt ends, or images are missing: returns all that is left. What is added later is another belt."""
        window, self._open = self._open, None
        return [] if window is None else [self._flagged(part, ends=True) for part in window.undecided()]

    @property
    def settled_row(self) -> int:
        """No particle still to come has a pixel above this belt row."""
        if self._open is None:
            return self._bottom
        begun = [part.row for one in self._open.crossing for part in one.decided + one.latest]
        return min([self._open.top, *begun])

    def _flagged(self, part: Part, ends: bool = False) -> Part:
        """Mark what this stretch of belt cuts at its first row, or where it ``ends``."""
        return replace(part, cut_before=part.row <= self._top, cut_behind=ends and part.end_row >= self._bottom)


def _parts_of(found: FrameInstances, top: int) -> list[Part]:
    """Instances of a window whose first row is belt row ``top``; those without a pixel are left out."""
    numbers = (values.tolist() for values in (found.boxes, found.classes, found.scores, found.masses))
    fields = zip(found.masks, *numbers, strict=True)
    loose = (Part(top + y0, x0, mask, *rest) for mask, (x0, y0, _, _), *rest in fields)
    return [tight for part in loose if (tight := part.only(part.mask))]


def _decide(window: OpenWindow, parts: list[Part]) -> tuple[list[CrossingParticle], list[Part], list[Part]]:
    """With the parts that the next window sees: particles that go on, the earlier window's, and the later one's."""
    own = [part for part in parts if not window.owns(part)]
    left = [part for part in parts if window.owns(part)]
    joined, ended, later = _continue_particles(window, own, left)
    earlier, later = _without_duplicates(ended + window.own, later, window)
    # From here on the later window loses what counts already
    counted = window.counted + earlier + [part for one in joined for part in one.decided]
    for one in joined:
        one.latest = _uncounted(one.latest, counted, window, least=0)
    later = _uncounted(later, counted, window)
    counted = counted + [part for one in joined for part in one.latest] + later
    return joined, earlier, later + _unclaimed(window, parts, left, counted)


def _continue_particles(
    window: OpenWindow, own: list[Part], left: list[Part]
) -> tuple[list[CrossingParticle], list[Part], list[Part]]:
    """Join crossing particles with what continues them in the later window, whose parts are ``own`` and ``left``.

    Returns those that go on, those that end in the shared rows, and the parts of ``own`` that continue none.
    """
    # A group is one particle: two prongs above may have one handle below, and the other way round
    count = len(window.crossing)
    groups = DisjointSet(range(count + len(own)))
    for above, below in _continuations(window, own, left):
        groups.merge(above, count + below)
    joined, ended, new = [], [], []
    for group in map(sorted, groups.subsets()):
        before = [window.crossing[index] for index in group if index < count]
        behind = [own[index - count] for index in group if index >= count]
        if before and behind:
            joined.append(_joined(window, before, behind, left))
        else:
            ended += [particle.whole() for particle in before]
            new += behind
    return joined, ended, new


def _continuations(window: OpenWindow, own: list[Part], left: list[Part]) -> list[list[int]]:
    """Pairs of a crossing particle and a part of ``own``, in the later window, that continues it, by their indices.

    A particle that ends soon below the shared rows' top may be swallowed by the outline that the later window gives to
    its neighbour. So it must make up a good part of what it is joined with; and of what else a window shows there,
    nothing may fit better: what a part shares most with is what it is.
    """
    above, seam = [particle.whole() for particle in window.crossing], window.top
    if window.top < window.bottom:
        upper, lower = window.shared(above), window.shared(own)
        common, area, other = overlap(upper, lower)
        rival_of_upper = overlap(upper, left)[0].max(axis=1, initial=0)[:, None]
        rival_of_lower = overlap(lower, window.own + window.left)[0].max(axis=1, initial=0)
        fits = (common >= BRANCH * np.maximum(area, other)) & (common >= np.maximum(rival_of_upper, rival_of_lower))
    else:
        # Without common rows, the last row above the seam is laid upon the first one below it. The last row of a
        # particle can be much narrower than the one before; but where either has a better partner, a narrow one is the
        # tip of a neighbour that ends at the seam
        last_rows = [part.within(seam - 1, seam) for part in above]
        upper = [replace(last, row=seam) if last else None for last in last_rows]
        lower = [part.within(seam, seam + 1) if part.row == seam else None for part in own]
        common, area, other = overlap(upper, lower)
        best = (common == common.max(axis=1, initial=0)[:, None]) & (common == common.max(axis=0, initial=0))
        fits = (common >= BRANCH * np.maximum(area, other)) | best
    return np.argwhere(fits & (common > 0) & (common >= SAME * np.minimum(area, other))).tolist()


def _joined(
    window: OpenWindow, before: list[CrossingParticle], behind: list[Part], left: list[Part]
) -> CrossingParticle:
    """One particle: above a belt row what was known of it, from there on what the later window shows."""
    latest = [part for particle in before for part in particle.latest]
    # That row is the middle of the shared rows, or lies where both windows show it if one of them shows less
    ends = [part.end_row for part in latest if part.end_row > window.top]
    middle = (window.top + window.bottom) // 2
    row = min(max(middle, *(part.row for part in behind)), *ends, window.bottom)
    upper = [kept for part in latest if (kept := part.within(last=row))]
    lower = [kept for part in behind if (kept := part.within(row))]
    # Beyond that row, where one window takes for a piece of this particle what the other one sees but leaves to it, it
    # is a piece: nothing else counts it
    beyond = [(part.within(last=row), window.left) for part in behind] + [(part.within(row), left) for part in latest]
    pieces = [part.only(covered([part], others)[0]) for part, others in beyond if part]
    pieces = [rest for piece in pieces if piece and (rest := piece.without(upper + lower))]
    return CrossingParticle([part for particle in before for part in particle.decided] + upper + pieces, lower)


def _without_duplicates(earlier: list[Part], later: list[Part], window: OpenWindow) -> tuple[list[Part], list[Part]]:
    """Of a particle that both windows count, because they outline it differently, the larger outline stays."""
    duplicate, count = holds_half(earlier, later), len(earlier)
    # What the earlier window shows as well, and leaves to the later one, is a neighbour of the earlier one's particles
    # and does not replace them, though its later outline may hold them
    is_neighbour = is_same(window.shared(later), window.left).any(axis=1)
    parts = earlier + later
    kept = np.zeros(len(parts), bool)
    for index in sorted(range(len(parts)), key=lambda index: -parts[index].area):
        if index < count:
            kept[index] = not (kept[count:] & duplicate[index] & ~is_neighbour).any()
        else:
            kept[index] = not (kept[:count] & duplicate[:, index - count]).any()
    return list(compress(earlier, kept[:count])), list(compress(later, kept[count:]))


def _uncounted(parts: list[Part], counted: list[Part], window: OpenWindow, least: float = 1 - SAME) -> list[Part]:
    """The parts without the pixels that count already; none of those that have no more than ``least`` of theirs left.

    Borders between neighbours lie a little higher or lower in the second look, and leave gaps as often as they overlap.
    So a part keeps its mass where it shares a border, as in a single image. It gives up that of a swallowed tip: of two
    neighbours one has only a tip in the shared rows, and the outline of the other one holds it.
    """
    found, inside = [], window.shared(counted)
    shown = [inner or part for part, inner in zip(parts, window.shared(parts), strict=True)]
    for part, taken, swallows in zip(parts, covered(parts, counted), holds_half(shown, inside), strict=True):
        rest, lighter = part.only(part.mask & ~taken), part.without(list(compress(inside, swallows)))
        if rest and lighter and rest.area > least * part.area:
            found.append(replace(rest, mass=lighter.mass))
    return found


def _unclaimed(window: OpenWindow, parts: list[Part], left: list[Part], counted: list[Part]) -> list[Part]:
    """What both windows see and neither counts: as a rule they outline it differently and each leaves it to the other.

    Of ``parts``, all that the later window sees, ``left`` belong to the earlier one.
    """
    half = holds_half(window.left, left)
    earlier = _half_covered(window.left, parts) | half.any(axis=1)
    later = _half_covered(left, window.undecided()) | half.any(axis=0)
    same = is_same(window.left, left).any(axis=0)
    # Of two outlines of one particle the later counts, else the larger one
    found = list(zip(same[later], compress(left, later), strict=True))
    found += [(False, part) for part in compress(window.left, earlier)]
    rescued: list[Part] = []
    for _, part in sorted(found, key=lambda one: (one[0], one[1].area), reverse=True):
        rescued += _uncounted([part], counted + rescued, window)
    return rescued


def _half_covered(parts: list[Part], others: list[Part]) -> np.ndarray:
    """Whether the others together have half of each part."""
    masks = covered(parts, others)
    return np.array([mask.sum() >= SAME * part.area for part, mask in zip(parts, masks, strict=True)], bool)
