"""What two windows of a belt share, and what one of them leaves to be decided when the next one has been seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from ramses_d2.analysis.stream.parts import Part, union

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
class Crossing:
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
class Waiting:
    """What one window leaves to be decided when the next one has been seen.

    Attributes:
        zone: rows that the next window sees again.
        crossing: particles that begin above the zone.
        own, foreign: particles inside the zone that belong to this window, and to the next one.
        taken: finished particles that reach into the zone: the next window must not count them again.
    """

    zone: Zone
    crossing: list[Crossing] = field(default_factory=list)
    own: list[Part] = field(default_factory=list)
    foreign: list[Part] = field(default_factory=list)
    taken: list[Part] = field(default_factory=list)

    @property
    def seen(self) -> list[Part]:
        """All that the window shows of the zone, whomever it belongs to."""
        return [one.whole() for one in self.crossing] + self.own + self.foreign
