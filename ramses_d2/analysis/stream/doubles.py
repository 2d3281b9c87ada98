"""What two windows both claim, and what each of them leaves to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ramses_d2.analysis.stream.parts import Part, common_masks, overlapping, without
from ramses_d2.analysis.stream.zone import SAME, Waiting, Zone


def without_doubles(before: list[Part], behind: list[Part], waiting: Waiting) -> tuple[list[Part], list[Part]]:
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


def _seen_too(parts: list[Part], waiting: Waiting) -> set[int]:
    """Indices of the later window's parts that the earlier one shows as well and left to the later one."""
    shown = [
        (i, kept) for i, part in enumerate(parts) if (kept := part.restricted(waiting.zone.top, waiting.zone.bottom))
    ]
    pairs = overlapping([part for _, part in shown], waiting.foreign)
    return {shown[i][0] for i, j, common in pairs if is_same(shown[i][1], waiting.foreign[j], common)}


def is_same(one: Part, other: Part, common: int) -> bool:
    return common >= SAME * (one.area + other.area - common)


def uncounted(parts: Sequence[Part], counted: Sequence[Part], zone: Zone, least: float = 1 - SAME) -> list[Part]:
    """The parts without the pixels that count already; none of those that have no more than ``least`` of theirs left.

    Borders between neighbours lie a little higher or lower in the second look, and leave gaps as often as they overlap.
    So a part keeps its mass where it shares a border, as in a single image. It gives up that of px which come from a
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


def claimed_by_nobody(waiting: Waiting, parts: list[Part], foreign: list[Part], counted: list[Part]) -> list[Part]:
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
        if is_same(left[i], foreign[j], common):
            same.add(j)
    found = [(j in same, foreign[j]) for j in sorted(later)] + [(False, left[i]) for i in sorted(earlier)]
    rescued: list[Part] = []
    for _, part in sorted(found, key=lambda one: (one[0], one[1].area), reverse=True):
        rescued += uncounted([part], counted + rescued, waiting.zone)
    return rescued


def _seen_by(parts: list[Part], others: list[Part]) -> set[int]:
    """Indices of the parts of which the others have half at least."""
    masks = common_masks(parts, others)
    return {i for i, (part, mask) in enumerate(zip(parts, masks, strict=True)) if mask.sum() >= SAME * part.area}
