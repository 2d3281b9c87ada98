"""Every particle of a belt once, from windows that overlap or only touch.

Two windows share the rows of a zone, from the first row of the later one to the last row of the earlier one. A particle
belongs to the earlier window if the middle of its extent lies above the middle of the zone, else to the later one: what
is whole in both counts once. What the earlier window cuts, though it begins inside the zone, has its middle below the
zone's. What the later one cuts has it above, unless it goes on beyond the zone. So each belongs to the window that sees
it whole. What begins above the zone and ends below it is whole in neither: it is joined of parts at the zone's middle.

Two looks outline things a little differently, and may even disagree on what is one particle. Whatever is decided then,
no pixel counts twice: the later window's particles lose what the earlier one's have. And what both windows saw counts
once at least: only what one of them alone sees, where the other one decides, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .instances import FrameInstances
from .parts import Part, common_masks, common_part, contact, overlapping, parts_of, union, without

# Two masks are the same particle when they share at least this much ...
SAME = 0.5
# ... and a mask that another one holds is a branch of it when it makes up this much of it. Less is the tip of a
# neighbour, of which an outline takes a few rows along
BRANCH = 0.25


@dataclass(frozen=True)
class Zone:
    """Belt rows that two windows share; without overlap ``top`` and ``bottom`` are the seam."""

    top: int
    bottom: int

    def owns_earlier(self, part: Part) -> bool:
        """Whether a particle belongs to the earlier window; the later one's view counts from the zone on."""
        return max(part.row, self.top) + part.end_row < self.top + self.bottom

    @property
    def middle(self) -> int:
        return (self.top + self.bottom) // 2


@dataclass
class _Crossing:
    """A particle that begins above a zone and reaches into it.

    Attributes:
        settled: its parts as far as they are decided.
        tips: its parts in the last window, from the last zone's middle on.
    """

    settled: list[Part]
    tips: list[Part]

    @property
    def end_row(self) -> int:
        return max(part.end_row for part in self.tips or self.settled)

    def whole(self) -> Part:
        return union(self.settled + self.tips)


@dataclass
class _Waiting:
    """What one window leaves to be decided when the next one has been seen.

    Attributes:
        zone: rows that the next window sees again.
        crossing: particles that begin above the zone.
        own, foreign: particles inside the zone that belong to this window, and to the next one.
        taken: finished particles that reach into the zone: the next window must not count them again.
    """

    zone: Zone
    crossing: list[_Crossing] = field(default_factory=list)
    own: list[Part] = field(default_factory=list)
    foreign: list[Part] = field(default_factory=list)
    taken: list[Part] = field(default_factory=list)

    @property
    def seen(self) -> list[Part]:
        """All that the window shows of the zone, whomever it belongs to."""
        return [one.whole() for one in self.crossing] + self.own + self.foreign


class StreamStitcher:
    """Joins the instances of consecutive windows of a belt; knows neither pixels nor a network.

    Example::

        stitcher = StreamStitcher()
        for number, found in enumerate(per_frame):  # frames of 500 rows, the last 20 seen again by the next
            top = 480 * number
            finished += stitcher.add(found, top=top, bottom=top + 500, next_top=top + 480)
        finished += stitcher.finish()
    """

    def __init__(self) -> None:
        self._top = 0  # of this stretch of belt
        self._bottom = 0  # of the last window
        self._waiting: _Waiting | None = None

    def add(self, found: FrameInstances, top: int, bottom: int, next_top: int) -> list[Part]:
        """Take the next window.

        Args:
            found: its instances, in the window's own rows.
            top, bottom: its belt rows. ``top`` is the ``next_top`` announced before, or above it.
            next_top: first belt row of the window to come, ``bottom`` at the most.

        Returns:
            the particles that no later window can change.

        Raises:
            ValueError: windows that leave rows out or do not advance.
        """
        before = self._waiting
        if before is not None and (top > before.zone.top or bottom < self._bottom):
            raise ValueError(f"belt rows {top} to {bottom} do not continue a window that ends in row {self._bottom}")
        if not top < next_top <= bottom:
            raise ValueError(f"the window after belt rows {top} to {bottom} cannot begin in row {next_top}")
        parts = parts_of(found, top)
        if before is None:
            self._top = top
            joined, settled = [], []
        else:
            joined, settled, parts = _decide(before, parts)
        self._bottom = bottom
        self._waiting = after = _Waiting(Zone(next_top, bottom))
        for part in parts:
            if part.row < next_top:
                joined.append(_Crossing([], [part]))
            else:
                (after.own if after.zone.owns_earlier(part) else after.foreign).append(part)
        for crossing in joined:
            if crossing.end_row >= next_top:
                after.crossing.append(crossing)
            else:
                settled.append(crossing.whole())
        taken = settled + (before.taken if before is not None else [])
        after.taken = [part for part in taken if part.end_row > next_top]
        return [self._flagged(part) for part in settled]

    def finish(self) -> list[Part]:
        """The belt ends, or pictures are missing: returns all that is left. What is added later is another belt."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return []
        rest = [crossing.whole() for crossing in waiting.crossing] + waiting.own + waiting.foreign
        return [self._flagged(part, ends=True) for part in rest]

    @property
    def settled_row(self) -> int:
        """No particle still to come has a pixel above this belt row."""
        if self._waiting is None:
            return self._bottom
        begun = [part.row for one in self._waiting.crossing for part in one.settled + one.tips]
        return min([self._waiting.zone.top, *begun])

    def _flagged(self, part: Part, ends: bool = False) -> Part:
        """Mark what this stretch of belt cuts at its first row, or where it ``ends``."""
        before, behind = part.row <= self._top, ends and part.end_row >= self._bottom
        return replace(part, cut_before=before, cut_behind=behind) if before or behind else part


def _decide(waiting: _Waiting, parts: list[Part]) -> tuple[list[_Crossing], list[Part], list[Part]]:
    """Decide what a window left open, with the parts that the next one sees.

    Returns:
        particles that cross the zone, particles of the earlier window, and those of the later one.
    """
    zone = waiting.zone
    own = [part for part in parts if not zone.owns_earlier(part)]
    foreign = [part for part in parts if zone.owns_earlier(part)]
    joined, ended, behind = _continue(waiting, own, foreign)
    before, behind = _without_doubles(ended + waiting.own, behind, waiting)
    taken = waiting.taken + before + [part for one in joined for part in one.settled]
    for one in joined:
        one.tips = _uncounted(one.tips, taken, zone, least=0)
    behind = _uncounted(behind, taken, zone)
    counted = taken + [part for one in joined for part in one.tips] + behind
    return joined, before, behind + _claimed_by_nobody(waiting, parts, foreign, counted)


def _continue(
    waiting: _Waiting, own: list[Part], foreign: list[Part]
) -> tuple[list[_Crossing], list[Part], list[Part]]:
    """Join particles that begin above the zone with what continues them below.

    Args:
        waiting: what the earlier window left.
        own, foreign: parts in the later window that belong to it, and to the earlier one.

    Returns:
        particles that go on, those that end in the zone, and the parts of ``own`` that continue none.
    """
    crossing, zone = waiting.crossing, waiting.zone
    tips = [one.whole() for one in crossing]
    if zone.top == zone.bottom:
        pairs = _continuations_at(zone.top, tips, own)
    else:
        pairs = _continuations(zone, tips, own, waiting.own + waiting.foreign, foreign)
    links = [(tip, len(crossing) + head) for tip, head in pairs]
    joined, ended, rest = [], [], []
    for group in _groups(links, len(crossing) + len(own)):
        before = [crossing[index] for index in group if index < len(crossing)]
        behind = [own[index - len(crossing)] for index in group if index >= len(crossing)]
        if not behind:
            ended += [one.whole() for one in before]
        elif not before:
            rest += behind
        else:
            joined.append(_join(zone, before, behind, waiting.foreign, foreign))
    return joined, ended, rest


def _join(
    zone: Zone, before: list[_Crossing], behind: list[Part], left_before: list[Part], left_behind: list[Part]
) -> _Crossing:
    """One particle: above a belt row what was known of it, from there on what the next window shows.

    Args:
        zone: of both windows.
        before, behind: the particle in either.
        left_before, left_behind: what each window sees but leaves to the other one. Where one window takes that for a
            piece of this particle, it is: nobody else counts it.
    """
    tips = [part for one in before for part in one.tips]
    # At the zone's middle, or where both windows show it if one of them shows less
    ends = [part.end_row for part in tips if part.end_row > zone.top]
    row = min(max(zone.middle, *(part.row for part in behind)), *ends, zone.bottom)
    above, below = _rows(tips, row, before=True), _rows(behind, row, before=False)
    pieces = [common_part(part, left_before) for part in _rows(behind, row, before=True)]
    pieces += [common_part(part, left_behind) for part in _rows(tips, row, before=False)]
    pieces = [rest for piece in pieces if piece and (rest := without(piece, above + below))]
    return _Crossing([part for one in before for part in one.settled] + above + pieces, below)


def _rows(parts: list[Part], row: int, before: bool) -> list[Part]:
    """What the parts have above a belt row, or from there on."""
    limits = [(part, (part.row, row) if before else (row, part.end_row)) for part in parts]
    return [kept for part, rows in limits if (kept := part.restricted(*rows))]


def _continuations(
    zone: Zone, tips: list[Part], heads: list[Part], rivals_before: list[Part], rivals_behind: list[Part]
) -> list[tuple[int, int]]:
    """Which of the heads, in the later window, continue which of the tips, in the earlier one.

    A tip that ends soon below the zone's top may be swallowed by the outline that the later window gives to the tip's
    neighbour. So a tip must make up a good part of what it is joined with; and of what else a window shows there,
    nothing may fit better: what a head shares most with is what it is.

    Args:
        zone: of both windows.
        tips, heads: parts that may continue each other.
        rivals_before, rivals_behind: what else the two windows show in the zone.
    """
    one = [(i, part) for i, tip in enumerate(tips) if (part := tip.restricted(zone.top, zone.bottom))]
    two = [(j, part) for j, head in enumerate(heads) if (part := head.restricted(zone.top, zone.bottom))]
    shown_one, shown_two = [part for _, part in one], [part for _, part in two]
    rival_of_head = _largest_share(shown_two, rivals_before)
    rival_of_tip = _largest_share(shown_one, rivals_behind)
    return [
        (one[i][0], two[j][0])
        for i, j, common in overlapping(shown_one, shown_two)
        if common >= SAME * min(shown_one[i].area, shown_two[j].area)
        and common >= BRANCH * max(shown_one[i].area, shown_two[j].area)
        and common >= max(rival_of_head[j], rival_of_tip[i])
    ]


def _largest_share(parts: list[Part], rivals: list[Part]) -> list[int]:
    """For each part the number of pixels that it shares with the rival that has most of it."""
    largest = [0] * len(parts)
    for i, _, common in overlapping(parts, rivals):
        largest[i] = max(largest[i], common)
    return largest


def _continuations_at(seam: int, tips: list[Part], heads: list[Part]) -> list[tuple[int, int]]:
    """Which of the heads continue which of the tips, where the windows have no rows in common.

    Only the narrower one's columns count: the last row of a particle can be much narrower than the one before. But
    where either has a better partner, a narrow tip is that of a neighbour which ends at the seam.
    """
    faces = {
        (i, j): face for i, tip in enumerate(tips) for j, head in enumerate(heads) if (face := contact(tip, head, seam))
    }
    best_tip, best_head = [0] * len(tips), [0] * len(heads)
    for (i, j), face in faces.items():
        best_tip[i], best_head[j] = max(best_tip[i], face.facing), max(best_head[j], face.facing)
    return [
        (i, j)
        for (i, j), face in faces.items()
        if face.facing >= SAME * min(face.above, face.below)
        and (face.facing >= BRANCH * max(face.above, face.below) or face.facing == best_tip[i] == best_head[j])
    ]


def _groups(links: list[tuple[int, int]], count: int) -> list[list[int]]:
    """Connected components of ``count`` things, each with its members in ascending order."""
    if not count:
        return []
    ones, others = zip(*links, strict=True) if links else ((), ())
    graph = coo_array(([True] * len(links), (ones, others)), shape=(count, count))
    number, component = connected_components(graph, directed=False)
    groups: list[list[int]] = [[] for _ in range(number)]
    for index, group in enumerate(component):
        groups[group].append(index)
    return groups


def _without_doubles(before: list[Part], behind: list[Part], waiting: _Waiting) -> tuple[list[Part], list[Part]]:
    """Of a particle that both windows claim, because they outline it differently, the larger outline stays.

    What the earlier window sees beside a neighbour is no double of that neighbour, though the later outline of the
    neighbour may hold it.
    """
    parts = before + behind
    partners: list[list[int]] = [[] for _ in parts]
    for i, j, common in overlapping(before, behind):
        if common >= SAME * min(before[i].area, behind[j].area):
            partners[i].append(len(before) + j)
            partners[len(before) + j].append(i)
    neighbours = {len(before) + j for j in _seen_too(behind, waiting)}
    kept: set[int] = set()
    for index in sorted(range(len(parts)), key=lambda index: -parts[index].area):
        stronger = kept.intersection(partners[index])
        if not (stronger - neighbours if index < len(before) else stronger):
            kept.add(index)
    return (
        [part for index, part in enumerate(before) if index in kept],
        [part for index, part in enumerate(behind, start=len(before)) if index in kept],
    )


def _seen_too(parts: list[Part], waiting: _Waiting) -> set[int]:
    """Indices of the later window's parts that the earlier one shows as well and left to the later one."""
    shown = [
        (i, kept) for i, part in enumerate(parts) if (kept := part.restricted(waiting.zone.top, waiting.zone.bottom))
    ]
    pairs = overlapping([part for _, part in shown], waiting.foreign)
    return {shown[i][0] for i, j, common in pairs if _is_same(shown[i][1], waiting.foreign[j], common)}


def _is_same(one: Part, other: Part, common: int) -> bool:
    return common >= SAME * (one.area + other.area - common)


def _uncounted(parts: Sequence[Part], counted: Sequence[Part], zone: Zone, least: float = 1 - SAME) -> list[Part]:
    """The parts without the pixels that count already; none of those that have no more than ``least`` of theirs left.

    Borders between neighbours lie a little higher or lower in the second look, and leave gaps as often as they overlap.
    So a part keeps its mass where it shares a border, as in a single picture. It gives up that of px which come from a
    tip: of two neighbours one has only a tip in the rows that both windows see, and the other one's outline holds it.
    """
    inside = [kept for part in counted if (kept := part.restricted(zone.top, zone.bottom))]
    shown = [part.restricted(zone.top, zone.bottom) or part for part in parts]
    swallowed: list[list[Part]] = [[] for _ in parts]
    for i, j, common in overlapping(shown, inside):
        if common >= SAME * min(shown[i].area, inside[j].area):
            swallowed[i].append(inside[j])
    found = []
    for part, tips in zip(parts, swallowed, strict=True):
        rest, light = without(part, counted), without(part, tips)
        if rest and light and rest.area > least * part.area:
            found.append(replace(rest, mass=light.mass))
    return found


def _claimed_by_nobody(waiting: _Waiting, parts: list[Part], foreign: list[Part], counted: list[Part]) -> list[Part]:
    """What both windows see, and nobody counts: as a rule because they outline it differently and each leaves it.

    Of two outlines of one particle the later counts, else the larger one.

    Args:
        waiting: what the earlier window left.
        parts: all that the later one sees.
        foreign: those of them that belong to the earlier one.
        counted: what counts.
    """
    left = waiting.foreign
    later, earlier = _seen_by(foreign, waiting.seen), _seen_by(left, parts)
    same = set()
    for i, j, common in overlapping(left, foreign):
        if common >= SAME * min(left[i].area, foreign[j].area):
            earlier.add(i)
            later.add(j)
        if _is_same(left[i], foreign[j], common):
            same.add(j)
    found = [(j in same, foreign[j]) for j in sorted(later)] + [(False, left[i]) for i in sorted(earlier)]
    rescued: list[Part] = []
    for _, part in sorted(found, key=lambda one: (one[0], one[1].area), reverse=True):
        rescued += _uncounted([part], counted + rescued, waiting.zone)
    return rescued


def _seen_by(parts: list[Part], others: list[Part]) -> set[int]:
    """Indices of the parts of which the others have half at least."""
    masks = common_masks(parts, others)
    return {i for i, (part, mask) in enumerate(zip(parts, masks, strict=True)) if mask.sum() >= SAME * part.area}
