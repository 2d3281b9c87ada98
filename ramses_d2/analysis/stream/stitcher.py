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

from dataclasses import replace

from ramses_d2.analysis.stream.continuation import continue_crossings
from ramses_d2.analysis.stream.doubles import claimed_by_nobody, uncounted, without_doubles
from ramses_d2.analysis.stream.instances import FrameInstances
from ramses_d2.analysis.stream.parts import Part, parts_of
from ramses_d2.analysis.stream.zone import Crossing, Waiting, Zone


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
        self._waiting: Waiting | None = None

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
        self._waiting = after = Waiting(Zone(next_top, bottom))
        for part in parts:
            if part.row < next_top:
                joined.append(Crossing([], [part]))
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
        """The belt ends, or images are missing: returns all that is left. What is added later is another belt."""
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


def _decide(waiting: Waiting, parts: list[Part]) -> tuple[list[Crossing], list[Part], list[Part]]:
    """Decide what a window left open, with the parts that the next one sees.

    Returns:
        particles that cross the zone, particles of the earlier window, and those of the later one.
    """
    zone = waiting.zone
    own = [part for part in parts if not zone.owns_earlier(part)]
    foreign = [part for part in parts if zone.owns_earlier(part)]
    joined, ended, behind = continue_crossings(waiting, own, foreign)
    before, behind = without_doubles(ended + waiting.own, behind, waiting)
    taken = waiting.taken + before + [part for one in joined for part in one.settled]
    for one in joined:
        one.tips = uncounted(one.tips, taken, zone, least=0)
    behind = uncounted(behind, taken, zone)
    counted = taken + [part for one in joined for part in one.tips] + behind
    return joined, before, behind + claimed_by_nobody(waiting, parts, foreign, counted)
