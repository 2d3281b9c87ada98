"""The order of the frames of a belt, and where one is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from ramses_d2.files import natural_key

# A number that changes by its usual step less often is no counter
REGULAR = 0.5

PathLike = TypeVar("PathLike", str, Path)


class Gap(NamedTuple):
    """A place where frames do not follow each other.

    Attributes:
        index: of the first frame behind the gap.
        missing: number of frames that are missing; None if the numbers do not tell.
        message: a sentence for the user.
    """

    index: int
    missing: int | None
    message: str


def natural_order(paths: Iterable[PathLike]) -> list[PathLike]:
    """Sort file names as people do: frame_2 before frame_10, whatever the case of the letters."""
    return sorted(paths, key=natural_key)


def frame_numbers(names: Sequence[str | Path]) -> list[int] | None:
    """Read the frame counter in file names.

    Names may hold several numbers that change, such as a counter and a time. The counter is the one that most often
    changes by its usual step; of several, the one with the smallest step, of those the last.

    Args:
        names: file names in the order of the belt.

    Returns:
        one number per name; None if names have no counter: they are built differently, or their numbers mostly change
        by different amounts, as times do. A missing frame cannot be noticed then.
    """
    stems = [Path(name).stem for name in names]
    if len(stems) < 2 or len({re.sub(r"\d+", "#", stem) for stem in stems}) > 1:
        return None
    columns = [
        [int(number) for number in column] for column in zip(*(re.findall(r"\d+", s) for s in stems), strict=True)
    ]
    best, counter = (0.0, 0, 0), None
    for place, column in enumerate(columns):
        changes = [after - before for before, after in pairwise(column)]
        step = _usual_step(changes)
        share = changes.count(step) / len(changes) if len(changes) > 1 else 1.0
        # Two names tell no step: what changes least between them is more likely a counter than a time
        size = abs(step) if len(changes) > 1 else abs(changes[0])
        if any(changes) and step != 0 and share >= REGULAR and (share, -size, place) > best:
            best, counter = (share, -size, place), column
    return counter


def find_gaps(names: Sequence[str | Path]) -> list[Gap]:
    """Find where frames are missing, repeated or out of order.

    Args:
        names: file names in the order of the belt.

    Returns:
        gaps in that order; none if the names have no counter, see :func:`frame_numbers`.
    """
    numbers = frame_numbers(names)
    if numbers is None:
        return []
    step = _usual_step([after - before for before, after in pairwise(numbers)])
    gaps = []
    for index, (before, after) in enumerate(pairwise(numbers), start=1):
        if after - before == step:
            continue
        steps, rest = divmod(after - before, step)
        first, second = Path(names[index - 1]).name, Path(names[index]).name
        if rest == 0 and steps > 1:
            what = "1 frame is" if steps == 2 else f"{steps - 1} frames are"
            gaps.append(Gap(index, steps - 1, f"{what} missing between {first} and {second}"))
        else:
            usual = f"the frame number usually changes by {step:+d}, here by {after - before:+d}"
            gaps.append(Gap(index, None, f"{second} does not continue {first}: {usual}"))
    return gaps


def _usual_step(changes: Sequence[int]) -> int:
    """The most frequent change, of equally frequent ones the smallest; of two frames alone, 1 up or down."""
    if len(changes) == 1:
        return 1 if changes[0] > 0 else -1
    counts = Counter(changes)
    return min(counts, key=lambda change: (-counts[change], abs(change), change))
