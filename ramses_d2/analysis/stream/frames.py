"""The frames of a belt that are not settled yet: each gets its label image when no particle to come can touch it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ramses_d2.analysis.run import ImageFile
from ramses_d2.analysis.stream.geometry import BeltOrientation
from ramses_d2.analysis.stream.particle_stream import StreamParticle

# A label image holds numbers up to 65535; a belt may hold more particles, a frame never does
LARGEST_LABEL = np.iinfo(np.uint16).max


def label_of(number: int) -> int:
    """Value in the label images of particle ``number`` (from 1 on) of the belt: the same in every frame."""
    return (number - 1) % LARGEST_LABEL + 1


@dataclass(frozen=True)
class NumberedParticle:
    """A particle and its number on the belt, from 1 on in the order in which they are settled."""

    number: int
    particle: StreamParticle


@dataclass
class Frame:
    """An image of the belt.

    Attributes:
        index: of the frame on the belt, from 0 on.
        image: its file.
        size: height and width, px.
        belt_rows: first and last + 1 belt row that it shows.
        particles: those that have a pixel in it, as far as they are settled.
    """

    index: int
    image: ImageFile
    size: tuple[int, int]
    belt_rows: tuple[int, int]
    particles: list[NumberedParticle] = field(default_factory=list)

    @property
    def starting(self) -> list[NumberedParticle]:
        """Particles that start in this frame: they are counted here and nowhere else."""
        return [one for one in self.particles if one.particle.frame == self.index]

    def box_of(self, particle: StreamParticle, orientation: BeltOrientation) -> tuple[int, int, int, int]:
        """XYXY of a particle in this frame, px, end exclusive; may reach beyond it."""
        start, end = self.belt_rows
        (first, last), (left, right) = particle.belt_rows, particle.belt_columns
        return orientation.box_to_image((left, first - start, right, last - start), end - start)

    def paint(self, orientation: BeltOrientation) -> np.ndarray:
        """Label image, uint16 of :attr:`size`; of two particles that claim a pixel the surer one has it."""
        height, width = self.size
        labels = np.zeros(self.size, np.uint16)
        for one in sorted(self.particles, key=lambda one: one.particle.score):
            x0, y0, x1, y1 = self.box_of(one.particle, orientation)
            seen = one.particle.mask[max(-y0, 0) : height - y0, max(-x0, 0) : width - x0]
            labels[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)][seen] = label_of(one.number)
        return labels


class OpenFrames:
    """Frames in the order of the belt, until they are settled."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []

    def open(self, frame: Frame) -> None:
        """Take the next frame of the belt."""
        self._frames.append(frame)

    def add(self, particles: Iterable[NumberedParticle]) -> None:
        """Give particles to the frames that show them."""
        for one in particles:
            first, last = one.particle.belt_rows
            for frame in self._frames:
                if frame.belt_rows[0] < last and first < frame.belt_rows[1]:
                    frame.particles.append(one)

    def settled(self, row: int | None = None) -> Iterator[Frame]:
        """Let go of the frames that end above a belt row (None: all of them), in order."""
        while self._frames and (row is None or self._frames[0].belt_rows[1] <= row):
            yield self._frames.pop(0)
