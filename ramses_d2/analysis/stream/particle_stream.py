"""A conveyor belt as consecutive frames: every particle once, whole, however the frames cut it.

The frames are joined to a belt in memory, without loss, and the network sees windows of that belt which are as large as
a frame but begin where the particles begin that the last window cut. What is longer than a window is joined from parts
(stitcher.py). docs/streams.md tells why.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from ramses_d2.analysis.stream.geometry import BeltOrientation, RowBuffer
from ramses_d2.analysis.stream.instances import FrameInstances
from ramses_d2.analysis.stream.parts import Part
from ramses_d2.analysis.stream.stitcher import StreamStitcher
from ramses_d2.errors import RamsesError

Predict = Callable[[np.ndarray], FrameInstances]

# Where a window also shows rows from before a gap, what has no more than this share behind it is an outline drawn a
# little too large of something before it
STRAY_SHARE = 0.25


@dataclass(frozen=True)
class StreamParticle:
    """A particle of the belt.

    Attributes:
        class_id, score: of the network.
        mass: g, NaN = unknown.
        mask: bool (h, w), cut to the particle, turned as the images are.
        belt_rows: first and last + 1 row along the belt; row 0 is the first one of the first frame, and rows of
            missing frames are not counted.
        belt_columns: first and last + 1 column across it.
        frame: index of the frame in which it starts; of two frames that overlap there, the earlier one.
        box: XYXY in that frame, px, end exclusive; may reach beyond it into the next one.
        edges: of "top", "bottom", "left", "right" those where it touches the edge of what the camera saw: the first
            or the last frame of the belt, a frame beside a gap, or a side.
        cut: it touches the first row of the belt or the last one, or those beside a gap, so part of it may be missing.
    """

    class_id: int
    score: float
    mass: float
    mask: np.ndarray
    belt_rows: tuple[int, int]
    belt_columns: tuple[int, int]
    frame: int
    box: tuple[int, int, int, int]
    edges: tuple[str, ...]
    cut: bool


class ParticleStream:
    """Takes the frames of a belt one at a time and gives the particles that are complete.

    It keeps the pixels of one frame between calls and of two during a call, in memory of its own.

    Args:
        predict: image -> its particles. The image is a read-only view that is valid during the call, turned as
            the frames are. It is called with windows of the belt, not with the frames.
        overlap: px at the beginning of each frame that are the end of the one before.
        axis, direction: see :class:`BeltOrientation`.
        window: px along the belt that ``predict`` sees at once. Default: as many as the tallest frame so far.
        margin: px at a window's ends where outlines are not relied on. Default: an eighth of the window;
            a quarter at the most. What is longer than a window without its margins is joined from parts.
        tail: px at the least that two windows share. Default: the longest particle seen whole in the earlier one,
            and half a window at the most. A larger one costs time; seven eighths of a window at the most.
        keep_cut: False leaves out what the first or last frame cuts, or a frame beside a gap. A stray px there is
            enough; where masks are cleaned of those, keep all, clean, and then look at :attr:`StreamParticle.cut`.

    Raises:
        RamsesError: a setting out of range.
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
    ) -> None:
        for name, value, lowest in (("overlap", overlap, 0), ("window", window, 1), ("margin", margin, 0)):
            if value is not None and value < lowest:
                raise RamsesError(f"{name} of {value} px: give {lowest} or more")
        if tail is not None and tail < 1:
            raise RamsesError(f"tail of {tail} px: give 1 or more")
        self._predict = predict
        self._overlap = overlap
        self._orientation = BeltOrientation(axis, direction)
        self._given_window, self._given_margin, self._given_tail = window, margin, tail
        self._keep_cut = keep_cut
        self._height = window or 0
        self._rows = RowBuffer()
        self._stitcher = StreamStitcher()
        self._begin = 0  # first belt row behind the last gap
        self._next_top = 0
        self._seen = 0  # belt row behind the last window
        self._connected = False  # the next frame continues the last one
        self._frame_rows: list[tuple[int, int]] = []

    def push(self, image: np.ndarray) -> list[StreamParticle]:
        """Take the next frame (H, W) or (H, W, C).

        Returns:
            the particles that no later frame can change.

        Raises:
            RamsesError: a frame that does not continue the one before: other width, channels or depth, or not longer
                than the overlap.
        """
        self._take(image)
        return list(self._advance())

    def cut(self) -> list[StreamParticle]:
        """The belt ends here, or frames are missing: returns what is left. Frames pushed later are another belt."""
        end = self._rows.bottom
        parts: list[Part] = []
        if end > self._seen:
            parts = self._look(self._rows.top, end, last=True)
        parts += self._stitcher.finish()
        # What comes next may be shorter than a window, and needs rows of the belt above it
        self._rows.drop_above(end - self._height)
        self._begin = self._next_top = end
        self._connected = False
        return list(self._wanted(parts))

    @property
    def settled_row(self) -> int:
        """No particle still to come has a pixel above this belt row, so a frame that ends there is complete."""
        return min(max(self._rows.top, self._begin), self._stitcher.settled_row)

    @property
    def frame_rows(self) -> Sequence[tuple[int, int]]:
        """First and last + 1 belt row of every frame so far."""
        return self._frame_rows

    def _take(self, image: np.ndarray) -> None:
        """Copy a frame to the end of the belt."""
        rows = self._orientation.to_belt(image)
        length, seen_before = len(rows), self._overlap if self._connected else 0
        if length <= seen_before:
            raise RamsesError(
                f"frame {len(self._frame_rows) + 1} is {length} px long and frames overlap by {self._overlap} px: "
                "a frame must be longer; check the overlap"
            )
        self._rows.append(rows[seen_before:])
        self._connected = True
        self._frame_rows.append((self._rows.bottom - length, self._rows.bottom))
        if self._given_window is None:
            self._height = max(self._height, length)

    def _advance(self) -> Iterator[StreamParticle]:
        """Look at all windows that are complete."""
        while self._next_top + self._height <= self._rows.bottom:
            yield from self._wanted(self._look(self._next_top, self._next_top + self._height))
        # Should the belt end here, its last window has the size of the others: a network sees another scale otherwise
        self._rows.drop_above(min(self._next_top, self._rows.bottom - self._height))

    def _look(self, top: int, bottom: int, last: bool = False) -> list[Part]:
        """Predict a window of the belt; returns the parts that this settles."""
        image = self._orientation.to_image(self._rows.view(top, bottom))
        found = self._predict(image)
        if len(found) and (found.boxes.min() < 0 or (found.boxes[:, 2:] > image.shape[1::-1]).any()):
            raise ValueError(f"predict gave a box outside its image of {image.shape[0]} x {image.shape[1]} px")
        height = bottom - top
        found = self._orientation.instances_to_belt(found, height)
        margin = height // 8 if self._given_margin is None else min(self._given_margin, height // 4)
        self._next_top = bottom if last else self._plan(found.boxes, top, bottom, margin)
        self._seen = bottom
        begin = max(top, self._begin)
        return self._stitcher.add(_behind(found, begin - top), begin, bottom, self._next_top)

    def _plan(self, boxes: np.ndarray, top: int, bottom: int, margin: int) -> int:
        """Where the next window begins: above every particle that this one cuts but the next one can hold."""
        height = bottom - top
        first, end = boxes[:, 1], boxes[:, 3]
        is_begun, is_cut = first > margin, end >= height - margin
        if self._given_tail is None:
            tail = min(max((end - first)[is_begun & ~is_cut].max(initial=0), 2 * margin + 1), height // 2)
        else:
            tail = min(self._given_tail, height - height // 8)
        starts = first[is_begun & is_cut] - margin
        return top + max(int(min(height - tail, starts.min(initial=height))), 1)

    def _wanted(self, parts: Iterable[Part]) -> Iterator[StreamParticle]:
        for part in parts:
            particle = self._particle(part)
            if self._keep_cut or not particle.cut:
                yield particle

    def _particle(self, part: Part) -> StreamParticle:
        """A finished part as the caller sees it."""
        frame = bisect_right(self._frame_rows, part.row, key=itemgetter(1))
        start, end = self._frame_rows[frame]
        width = self._rows.width
        touched = (part.cut_before, part.cut_behind, part.column == 0, part.end_column == width)
        box = (part.column, part.row - start, part.end_column, part.end_row - start)
        return StreamParticle(
            class_id=part.class_id,
            score=part.score,
            mass=part.mass,
            mask=self._orientation.to_image(part.mask),
            belt_rows=(part.row, part.end_row),
            belt_columns=(part.column, part.end_column),
            frame=frame,
            box=self._orientation.box_to_image(box, end - start),
            edges=tuple(name for name, is_touched in zip(self._orientation.edges, touched, strict=True) if is_touched),
            cut=part.cut_before or part.cut_behind,
        )


def _behind(found: FrameInstances, row: int) -> FrameInstances:
    """What instances in belt coordinates have from a row on, which becomes row 0; masses are shared by area."""
    if row == 0:
        return found
    tops = found.boxes[:, 1]
    behind = [np.count_nonzero(mask[max(row - top, 0) :]) for mask, top in zip(found.masks, tops, strict=True)]
    shares = np.array(behind) / [max(np.count_nonzero(mask), 1) for mask in found.masks]
    kept = np.flatnonzero(shares > STRAY_SHARE)
    boxes = found.boxes[kept] - [0, row, 0, row]
    masks = [found.masks[index][max(-top, 0) :] for index, top in zip(kept, boxes[:, 1], strict=True)]
    boxes[:, 1] = np.maximum(boxes[:, 1], 0)
    masses = found.masses[kept] * shares[kept]
    return FrameInstances(masks, boxes, found.classes[kept], found.scores[kept], masses)


def stream_particles(
    frames: Iterable[np.ndarray | None], predict: Predict, **settings: Any
) -> Iterator[StreamParticle]:
    """Give the particles of a belt, each as soon as no later frame can change it.

    Example::

        images = (read_image(path) for path in natural_order(paths))
        for particle in stream_particles(images, predict, overlap=20):
            print(particle.class_id, particle.mass)

    Args:
        frames: images in the order of the belt, read when they are needed; None where images are missing: the
            belt is cut there rather than joined.
        predict, settings: see :class:`ParticleStream`.

    Raises:
        RamsesError: a setting out of range, or a frame that does not fit the one before.
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
