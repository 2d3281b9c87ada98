"""Particles that begin above a zone, joined with what continues them below it."""

from __future__ import annotations

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ramses_d2.analysis.stream.parts import Part, common_part, contact, overlapping, without
from ramses_d2.analysis.stream.zone import BRANCH, SAME, Crossing, Waiting, Zone


def continue_crossings(
    waiting: Waiting, own: list[Part], foreign: list[Part]
) -> tuple[list[Crossing], list[Part], list[Part]]:
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
    zone: Zone, before: list[Crossing], behind: list[Part], left_before: list[Part], left_behind: list[Part]
) -> Crossing:
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
    return Crossing([part for one in before for part in one.settled] + above + pieces, below)


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
