"""How the frames of a belt lie on it: every axis and direction becomes "later rows come below", and back again.

Shape letters: L rows along the belt, W across it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ramses_d2.analysis.stream.instances import FrameInstances
from ramses_d2.errors import RamsesError

AXES = ("rows", "columns")
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class BeltOrientation:
    """Where the next frame continues the one before.

    Attributes:
        axis: "rows": below or above it; "columns": right or left of it.
        direction: "forward": below or right; "backward": above or left.
    """

    axis: str = "rows"
    direction: str = "forward"

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            RamsesError: an unknown one.
        """
        for name, allowed in (("axis", AXES), ("direction", DIRECTIONS)):
            if getattr(self, name) not in allowed:
                raise RamsesError(f"belt {name} {getattr(self, name)!r}: give one of {', '.join(allowed)}")

    @property
    def edges(self) -> tuple[str, str, str, str]:
        """Names that the image's edges have where the belt begins, where it ends, and on its two sides."""
        ends, sides = (("top", "bottom"), ("left", "right"))
        if self.axis == "columns":
            ends, sides = sides, ends
        return (*(ends if self.direction == "forward" else ends[::-1]), *sides)

    def to_belt(self, image: np.ndarray) -> np.ndarray:
        """View of an image or mask (H, W, ...) with the belt's rows (L, W, ...), later ones below."""
        rows = image.swapaxes(0, 1) if self.axis == "columns" else image
        return rows[::-1] if self.direction == "backward" else rows

    def to_image(self, rows: np.ndarray) -> np.ndarray:
        """View of belt rows as the camera sees them; undoes :meth:`to_belt`."""
        rows = rows[::-1] if self.direction == "backward" else rows
        return rows.swapaxes(0, 1) if self.axis == "columns" else rows

    def boxes_to_belt(self, boxes: np.ndarray, length: int) -> np.ndarray:
        """Boxes (K, 4) XYXY of an image that is ``length`` px along the belt, in belt coordinates of that image."""
        boxes = boxes[:, [1, 0, 3, 2]] if self.axis == "columns" else boxes
        if self.direction == "backward":
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([x0, length - y1, x1, length - y0], axis=1)
        return boxes

    def box_to_image(self, box: tuple[int, int, int, int], length: int) -> tuple[int, int, int, int]:
        """Undo :meth:`boxes_to_belt` for one box, which may reach beyond the image."""
        x0, y0, x1, y1 = box
        if self.direction == "backward":
            y0, y1 = length - y1, length - y0
        return (y0, x0, y1, x1) if self.axis == "columns" else (x0, y0, x1, y1)

    def instances_to_belt(self, found: FrameInstances, length: int) -> FrameInstances:
        """Instances of an image that is ``length`` px along the belt, in belt coordinates of that image."""
        masks = [self.to_belt(mask) for mask in found.masks]
        return replace(found, masks=masks, boxes=self.boxes_to_belt(found.boxes, length))


class RowBuffer:
    """The last rows of the belt in memory of its own, so that the frames themselves can be let go."""

    def __init__(self) -> None:
        self.top = 0
        self._count = 0
        self._data: np.ndarray | None = None

    @property
    def bottom(self) -> int:
        """Belt row behind the last one held."""
        return self.top + self._count

    @property
    def width(self) -> int:
        """px across the belt; 0 before the first row."""
        return 0 if self._data is None else self._data.shape[1]

    def append(self, rows: np.ndarray) -> None:
        """Copy rows (n, W, ...) to the end.

        Raises:
            RamsesError: other width, channels or number type than the rows held.
        """
        if self._data is not None and (rows.shape[1:], rows.dtype) != (self._data.shape[1:], self._data.dtype):
            raise RamsesError(
                f"a frame of {rows.shape[1:]} {rows.dtype} follows frames of {self._data.shape[1:]} "
                f"{self._data.dtype}: all frames of a belt need the same width, channels and depth"
            )
        needed = self._count + len(rows)
        if self._data is None or needed > len(self._data):
            grown = np.empty((max(needed, 2 * len(rows)), *rows.shape[1:]), rows.dtype)
            if self._data is not None:
                grown[: self._count] = self._data[: self._count]
            self._data = grown
        self._data[self._count : needed] = rows
        self._count = needed

    def view(self, top: int, bottom: int) -> np.ndarray:
        """Belt rows ``top`` to ``bottom``, read-only, valid until the next change."""
        rows = self._data[top - self.top : bottom - self.top]
        rows.flags.writeable = False
        return rows

    def drop_above(self, row: int) -> None:
        """Forget the rows above ``row``."""
        step = min(max(row - self.top, 0), self._count)
        if step:
            left = self._count - step
            for start in range(0, left, step):  # blocks that do not overlap need no second copy
                stop = min(start + step, left)
                self._data[start:stop] = self._data[start + step : stop + step]
            self._count = left
        self.top = max(row, self.top)
