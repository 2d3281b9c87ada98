"""A conveyor belt as consecutive frames: their order, how they lie on the belt, and the windows that a network sees.

The frames are joined to a belt in memory, without loss, and the network sees windows of that belt which are as large as
a frame but begin where the particles begin that the last window cut. What is longer than a window is joined from parts
(stitch.py). docs/streams.md tells why. Belt rows (L, W, ...): L along the belt, later rows below, and W across it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ramses_d2.analysis.stream.stitch import FrameInstances, Part, StreamStitcher
from ramses_d2.errors import RamsesError
from ramses_d2.files import natural_key

AXES = ("rows", "columns")
DIRECTIONS = ("forward", "backward")
# A number in file names is a counter if it changes by its usual step at least this often
REGULAR = 0.5

Box = tuple[int, int, int, int]
Predict = Callable[[np.ndarray], FrameInstances]
# Label image of a mask -> label image of its pieces, their parents, and their shares of the mass
Clean = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
PathLike = TypeVar("PathLike", str, Path)


class Gap(NamedTuple):
    """Frames do not follow each other before frame ``index``; ``missing`` of them, None if the numbers do not tell."""

    index: int
    missing: int | None
    message: str


def natural_order(paths: Iterable[PathLike]) -> list[PathLike]:
    """Sort file names as people do: frame_2 before frame_10, whatever the case of the letters."""
    return sorted(paths, key=natural_key)


def frame_numbers(names: Sequence[str | Path]) -> list[int] | None:
    """The frame counter in file names; None if they are built differently or their numbers change like times.

    Of several numbers the counter is the one that most often changes by its usual step; of several such, the one with
    the smallest step, of those the last.
    """
    stems = [Path(name).stem for name in names]
    if len(stems) < 2 or len({re.sub(r"\d+", "#", stem) for stem in stems}) > 1:
        return None
    counters = []
    for place, texts in enumerate(zip(*(re.findall(r"\d+", stem) for stem in stems), strict=True)):
        numbers = [int(text) for text in texts]
        changes, step = _changes(numbers)
        # Two names tell no step: what changes least is more likely a counter than a time
        share, size = (changes.count(step) / len(changes), abs(step)) if len(changes) > 1 else (1.0, abs(changes[0]))
        if any(changes) and step != 0 and share >= REGULAR:
            counters.append((share, -size, place, numbers))
    return max(counters)[-1] if counters else None


def find_gaps(names: Sequence[str | Path]) -> list[Gap]:
    """Where frames are missing, repeated or out of order; none if the names have no counter."""
    numbers = frame_numbers(names)
    if numbers is None:
        return []
    gaps, (changes, step) = [], _changes(numbers)
    for index, change in enumerate(changes, start=1):
        steps, rest = divmod(change, step)
        first, second = Path(names[index - 1]).name, Path(names[index]).name
        if rest == 0 and steps > 1:
            what = "1 frame is" if steps == 2 else f"{steps - 1} frames are"
            gaps.append(Gap(index, steps - 1, f"{what} missing between {first} and {second}"))
        elif change != step:
            usual = f"the frame number usually changes by {step:+d}, here by {change:+d}"
            gaps.append(Gap(index, None, f"{second} does not continue {first}: {usual}"))
    return gaps


def _changes(numbers: Sequence[int]) -> tuple[list[int], int]:
    """Changes from number to number, and the most frequent one, the smallest of several; of one change 1 up or down."""
    changes = [after - before for before, after in pairwise(numbers)]
    if len(changes) == 1:
        return changes, 1 if changes[0] > 0 else -1
    counts = Counter(changes)
    return changes, min(counts, key=lambda change: (-counts[change], abs(change), change))


@dataclass(frozen=True)
class BeltOrientation:
    """Where the next frame continues the one before: below ("rows") or right of it, "backward" above or left of it."""

    axis: str = "rows"
    direction: str = "forward"

    def __post_init__(self) -> None:
        for name, allowed in (("axis", AXES), ("direction", DIRECTIONS)):
            if getattr(self, name) not in allowed:
                raise RamsesError(f"belt {name} {getattr(self, name)!r}: give one of {', '.join(allowed)}")

    @property
    def edges(self) -> tuple[str, str, str, str]:
        """Names that the image's edges have where the belt begins, where it ends, and on its two sides."""
        ends, sides = (("top", "bottom"), ("left", "right"))[:: 1 if self.axis == "rows" else -1]
        return (*(ends if self.direction == "forward" else ends[::-1]), *sides)

    def to_belt(self, image: np.ndarray) -> np.ndarray:
        """View of an image or mask (H, W, ...) with the belt's rows, later ones below."""
        rows = image.swapaxes(0, 1) if self.axis == "columns" else image
        return rows[::-1] if self.direction == "backward" else rows

    def to_image(self, rows: np.ndarray) -> np.ndarray:
        """View of belt rows as the camera sees them; undoes :meth:`to_belt`."""
        rows = rows[::-1] if self.direction == "backward" else rows
        return rows.swapaxes(0, 1) if self.axis == "columns" else rows

    def instances_to_belt(self, found: FrameInstances, length: int) -> FrameInstances:
        """Instances of an image that is ``length`` px along the belt, in belt coordinates of that image."""
        boxes = found.boxes[:, [1, 0, 3, 2]] if self.axis == "columns" else found.boxes
        if self.direction == "backward":
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([x0, length - y1, x1, length - y0], axis=1)
        return replace(found, masks=[self.to_belt(mask) for mask in found.masks], boxes=boxes)

    def box_to_image(self, box: Box, length: int) -> Box:
        """A box (XYXY) in belt coordinates of an image, which may reach beyond it, as the camera sees it."""
        x0, y0, x1, y1 = box
        if self.direction == "backward":
            y0, y1 = length - y1, length - y0
        return (y0, x0, y1, x1) if self.axis == "columns" else (x0, y0, x1, y1)


@dataclass(frozen=True)
class StreamParticle:
    """A particle of the belt; belt rows begin with the first frame, and those of missing frames are not counted.

    ``frame`` is the index of the first frame that shows it, and ``box`` its XYXY there, which may reach beyond it.
    ``edges`` are "top", "bottom", "left", "right" where it touches the end of what the camera saw. It is ``cut``, and
    may be incomplete, where that is the belt's first or last row or one beside a gap.
    """

    class_id: int
    score: float
    mass: float
    mask: np.ndarray  # bool (h, w), cut to the particle, turned as the images are
    belt_rows: tuple[int, int]  # first and last + 1
    belt_columns: tuple[int, int]
    frame: int
    box: Box
    edges: tuple[str, ...]
    cut: bool


class ParticleStream:
    """Takes the frames of a belt one at a time and gives the particles that are complete (settings: docs/streams.md).

    It holds the pixels of two frames at the most, in memory of its own. ``predict`` sees windows of the belt, turned as
    the frames are: read-only views that are valid during the call. ``clean`` is like ``handle_fragments``.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        overlap: int = 0,
        axis: str = "rows",
        direction: str = "forward",
        window: int | None = None,
        margin: int | None = None,
        tail: int | None = None,
        keep_cut: bool = True,
        clean: Clean | None = None,
    ) -> None:
        limits = {"overlap": (overlap, 0), "window": (window, 1), "margin": (margin, 0), "tail": (tail, 1)}
        for name, (value, lowest) in limits.items():
            if value is not None and value < lowest:
                raise RamsesError(f"{name} of {value} px: give {lowest} or more")
        self._predict, self._keep_cut, self._clean = predict, keep_cut, clean
        self._overlap, self._window, self._margin, self._tail = overlap, window, margin, tail
        self.orientation = BeltOrientation(axis, direction)
        self._stitcher = StreamStitcher()
        self._height = window or 0  # of a window
        self._rows: np.ndarray | None = None  # the last rows of the belt ...
        self._top = 0  # ... from this one on
        self._begin = 0  # first belt row behind the last gap
        self._next_top = 0  # of the next window
        self._seen = 0  # belt row behind the last window
        self.frame_rows: list[tuple[int, int]] = []  # first and last + 1 belt row of every frame so far

    def push(self, image: np.ndarray) -> list[StreamParticle]:
        """Take the next frame (H, W) or (H, W, C); returns the particles that no later frame can change."""
        self._take(image)
        return list(self._advance())

    def cut(self) -> list[StreamParticle]:
        """The belt ends here, or frames are missing: returns what is left. Frames pushed later are another belt."""
        end = self._bottom
        parts = self._look(self._top, end, last=True) if end > self._seen else []
        parts += self._stitcher.finish()
        # What comes next may be shorter than a window, and needs rows of the belt above it
        self._drop_above(end - self._height)
        self._begin = self._next_top = end
        return list(self._particles(parts))

    @property
    def settled_row(self) -> int:
        """No particle still to come has a pixel above this belt row, so a frame that ends there is complete."""
        return min(max(self._top, self._begin), self._stitcher.settled_row)

    @property
    def _bottom(self) -> int:
        return self._top + (0 if self._rows is None else len(self._rows))

    def _take(self, image: np.ndarray) -> None:
        """Copy a frame to the end of the belt."""
        rows = self.orientation.to_belt(image)
        repeated = self._overlap if self._bottom > self._begin else 0
        if len(rows) <= repeated:
            number = len(self.frame_rows) + 1
            raise RamsesError(
                f"frame {number} is {len(rows)} px long and frames overlap by {self._overlap} px: check that"
            )
        held = rows[:0] if self._rows is None else self._rows
        if (rows.shape[1:], rows.dtype) != (held.shape[1:], held.dtype):
            raise RamsesError(
                f"a frame of {rows.shape[1:]} {rows.dtype} follows frames of {held.shape[1:]} {held.dtype}: "
                "all frames of a belt need the same width, channels and depth"
            )
        self._rows = np.concatenate([held, rows[repeated:]])
        self.frame_rows.append((self._bottom - len(rows), self._bottom))
        if self._window is None:
            self._height = max(self._height, len(rows))

    def _drop_above(self, row: int) -> None:
        """Forget the rows above ``row``; the copy lets go of their memory."""
        if row > self._top:
            self._rows, self._top = self._rows[row - self._top :].copy(), row

    def _advance(self) -> Iterator[StreamParticle]:
        """Look at all windows that are complete."""
        while self._next_top + self._height <= self._bottom:
            yield from self._particles(self._look(self._next_top, self._next_top + self._height))
        # Should the belt end here, its last window has the size of the others: a network sees another scale otherwise
        self._drop_above(min(self._next_top, self._bottom - self._height))

    def _look(self, top: int, bottom: int, last: bool = False) -> list[Part]:
        """Predict a window of the belt; returns the parts that this settles."""
        rows = self._rows[top - self._top : bottom - self._top]
        rows.flags.writeable = False
        image = self.orientation.to_image(rows)
        found = self._predict(image)
        if len(found) and (found.boxes.min() < 0 or (found.boxes[:, 2:] > image.shape[1::-1]).any()):
            raise ValueError(f"predict gave a box outside its image of {image.shape[0]} x {image.shape[1]} px")
        found = self.orientation.instances_to_belt(found, bottom - top)
        self._next_top = bottom if last else top + self._rows_to_next(found.boxes, bottom - top)
        self._seen = bottom
        return self._stitcher.add(found, top, bottom, self._next_top, self._begin)

    def _rows_to_next(self, boxes: np.ndarray, height: int) -> int:
        """Rows to the beginning of the next window: above every particle that this one cuts but that one can hold."""
        margin = height // 8 if self._margin is None else min(self._margin, height // 4)
        first, end = boxes[:, 1], boxes[:, 3]
        is_begun, is_cut = first > margin, end >= height - margin
        if self._tail is None:
            tail = min(max((end - first)[is_begun & ~is_cut].max(initial=0), 2 * margin + 1), height // 2)
        else:
            tail = min(self._tail, height - height // 8)
        starts = first[is_begun & is_cut] - margin
        return max(int(min(height - tail, starts.min(initial=height))), 1)

    def _particles(self, parts: Iterable[Part]) -> Iterator[StreamParticle]:
        """Finished parts as the caller sees them."""
        pieces = parts if self._clean is None else (piece for part in parts for piece in self._cleaned(part))
        return (self._particle(p) for p in pieces if self._keep_cut or not (p.cut_before or p.cut_behind))

    def _cleaned(self, part: Part) -> Iterator[Part]:
        """A part without its stray pieces, or each piece; the belt's end cuts those alone that reach it."""
        labels, _, shares = self._clean(self.orientation.to_image(part.mask).astype(np.int32))
        for label, share in enumerate(shares, start=1):
            if piece := part.only(self.orientation.to_belt(labels == label)):
                before, behind = piece.row == part.row, piece.end_row == part.end_row
                cuts = {"cut_before": part.cut_before and before, "cut_behind": part.cut_behind and behind}
                yield replace(piece, mass=part.mass * float(share), **cuts)

    def _particle(self, part: Part) -> StreamParticle:
        frame = bisect_right(self.frame_rows, part.row, key=itemgetter(1))
        start, end = self.frame_rows[frame]
        box = (part.column, part.row - start, part.end_column, part.end_row - start)
        touched = (part.cut_before, part.cut_behind, part.column == 0, part.end_column == self._rows.shape[1])
        return StreamParticle(
            *(part.class_id, part.score, part.mass, self.orientation.to_image(part.mask)),
            belt_rows=(part.row, part.end_row),
            belt_columns=(part.column, part.end_column),
            frame=frame,
            box=self.orientation.box_to_image(box, end - start),
            edges=tuple(compress(self.orientation.edges, touched)),
            cut=part.cut_before or part.cut_behind,
        )


def stream_particles(
    frames: Iterable[np.ndarray | None], predict: Predict, **settings: Any
) -> Iterator[StreamParticle]:
    """Particles of a belt, each as soon as no later frame can change it; settings as of :class:`ParticleStream`.

    ``frames`` are read when they are needed; where one is None, some are missing: the belt is cut rather than joined.
    """
    stream = ParticleStream(predict, **settings)
    for image in frames:
        if image is None:
            yield from stream.cut()
            continue
        stream._take(image)
        del image  # its pixels are copied; the next one is read before this loop would let go of it
        yield from stream._advance()
    yield from stream.cut()
