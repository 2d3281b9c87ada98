"""Every particle of a belt once, from windows that overlap or only touch.

Two windows share the rows of a zone, from the first row of the later one to the last row of the earlier one. A particle
belongs to the earlier window if the middle of its extent lies above the middle of the zone, else to the later one: what
is whole in both counts once. What the earlier window cuts, though it begins inside the zone, has its middle below the
zone's. What the later one cuts has it above, unless it goes on beyond the zone. So each belongs to the window that sees
it whole. What begins above the zone and ends below it is whole in neither: it is joined of parts at the zone's middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .instances import FrameInstances
from .parts import Part, contact, overlapping, parts_of, union

# Two masks are the same particle when they share at least this much
SAME = 0.5


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
        return max(part.end_row for part in self.tips)

    def whole(self) -> Part:
        return union(self.settled + self.tips)


@dataclass
class _Waiting:
    """What one window leaves to be decided when the next one has been seen.

    Attributes:
        zone: rows that the next window sees again.
        crossing: particles that begin above the zone.
        own, foreign: particles inside the zone that belong to this window, and to the next one.
    """

    zone: Zone
    crossing: list[_Crossing] = field(default_factory=list)
    own: list[Part] = field(default_factory=list)
    foreign: list[Part] = field(default_factory=list)


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
    joined, ended, own = _continue(waiting.crossing, own, zone)
    before, behind = _without_doubles(ended + waiting.own, own)
    rescued = _claimed_by_nobody(waiting.foreign, foreign, before + behind)
    return joined, before, behind + rescued


def _continue(
    crossing: list[_Crossing], parts: list[Part], zone: Zone
) -> tuple[list[_Crossing], list[Part], list[Part]]:
    """Join particles that begin above the zone with what continues them below.

    Returns:
        those that go on, those that end in the zone, and the parts that continue none.
    """
    tips = [(index, part) for index, one in enumerate(crossing) for part in one.tips]
    pairs = _continuations([part for _, part in tips], parts, zone)
    links = [(tips[tip][0], len(crossing) + head) for tip, head in pairs]
    joined, ended, rest = [], [], []
    for group in _groups(links, len(crossing) + len(parts)):
        before = [crossing[index] for index in group if index < len(crossing)]
        behind = [parts[index - len(crossing)] for index in group if index >= len(crossing)]
        if not behind:
            ended += [one.whole() for one in before]
        elif not before:
            rest += behind
        else:
            joined.append(_join_at(zone.middle, before, behind))
    return joined, ended, rest


def _join_at(row: int, before: list[_Crossing], behind: list[Part]) -> _Crossing:
    """One particle: above a belt row what was known of it, from there on what the next window shows."""
    settled = [part for one in before for part in one.settled]
    above = [part.restricted(part.row, row) for one in before for part in one.tips]
    below = [part.restricted(row, part.end_row) for part in behind]
    return _Crossing(settled + [part for part in above if part], [part for part in below if part])


def _continuations(tips: list[Part], heads: list[Part], zone: Zone) -> Iterable[tuple[int, int]]:
    """Which of the heads continue which of the tips."""
    if zone.top == zone.bottom:
        faces = [(i, j, contact(tip, head, zone.top)) for i, tip in enumerate(tips) for j, head in enumerate(heads)]
        return [(i, j) for i, j, share in faces if share >= SAME]
    one = [(i, part) for i, tip in enumerate(tips) if (part := tip.restricted(zone.top, zone.bottom))]
    two = [(j, part) for j, head in enumerate(heads) if (part := head.restricted(zone.top, zone.bottom))]
    found = overlapping([part for _, part in one], [part for _, part in two])
    return [(one[a][0], two[b][0]) for a, b, common in found if common >= SAME * min(one[a][1].area, two[b][1].area)]


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


def _without_doubles(before: list[Part], behind: list[Part]) -> tuple[list[Part], list[Part]]:
    """Of a particle that both windows claim, because they outline it differently, the larger outline stays."""
    smaller_before, smaller_behind = set(), set()
    for i, j, common in overlapping(before, behind):
        areas = before[i].area, behind[j].area
        if common >= SAME * min(areas):
            if areas[0] < areas[1]:
                smaller_before.add(i)
            else:
                smaller_behind.add(j)
    return (
        [part for i, part in enumerate(before) if i not in smaller_before],
        [part for j, part in enumerate(behind) if j not in smaller_behind],
    )


def _claimed_by_nobody(before: list[Part], behind: list[Part], claimed: list[Part]) -> list[Part]:
    """Particles that each window leaves to the other, because they outline it differently; the later outline counts."""
    found = {
        j: behind[j]
        for i, j, common in overlapping(before, behind)
        if common >= SAME * (before[i].area + behind[j].area - common)
    }
    rescued = list(found.values())
    covered = {i for i, _, common in overlapping(rescued, claimed) if common >= SAME * rescued[i].area}
    return [part for i, part in enumerate(rescued) if i not in covered]
