"""What cutting a belt into frames costs: the particles of the stream against those of the same network uncut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ramses_d2.analysis.stream.belt import BeltOrientation, Predict, stream_particles


@dataclass(frozen=True)
class StreamComparison:
    """Particles and grams of a belt, cut and uncut.

    Attributes:
        count, mass: of the stream.
        uncut_count, uncut_mass: of the uncut belt.
    """

    count: int
    mass: float
    uncut_count: float
    uncut_mass: float

    @property
    def count_error(self) -> float:
        """Relative, 0.03 = 3 % more particles in the stream."""
        return self.count / self.uncut_count - 1

    @property
    def mass_error(self) -> float:
        """Relative, like :attr:`count_error`."""
        return self.mass / self.uncut_mass - 1

    def __str__(self) -> str:
        return (
            f"stream {self.count} particles, {self.mass:.6g} g; uncut {self.uncut_count:.1f}, {self.uncut_mass:.6g} g: "
            f"{self.count_error:+.2%} particles, {self.mass_error:+.2%} g"
        )


def compare_with_uncut(frames: Sequence[np.ndarray], predict: Predict, **settings: Any) -> StreamComparison:
    """Predict a belt as a stream of frames, and uncut.

    Args:
        frames: consecutive images of a belt without a gap.
        predict, settings: see :class:`.stream.ParticleStream`.
    """
    orientation = BeltOrientation(settings.get("axis", "rows"), settings.get("direction", "forward"))
    overlap = settings.get("overlap", 0)
    belt = np.concatenate([orientation.to_belt(frame)[overlap * (i > 0) :] for i, frame in enumerate(frames)])
    height = settings.get("window") or max(len(orientation.to_belt(frame)) for frame in frames)
    particles = list(stream_particles(iter(frames), predict, **settings))
    count, mass = uncut_estimate(belt, height, predict, orientation)
    mass_of_stream = float(np.nansum([particle.mass for particle in particles]))
    return StreamComparison(len(particles), mass_of_stream, count, mass)


def uncut_estimate(
    belt: np.ndarray, height: int, predict: Predict, orientation: BeltOrientation | None = None
) -> tuple[float, float]:
    """How many particles and grams a network sees on a belt that nothing cuts, without joining anything.

    A network that knows where in the image it looks, as SOLOv2 does, cannot take a belt as one long image. It sees
    windows of the size it knows, one every eighth of a window. In each of them only particles with their middle in the
    window's middle half count, so that none is cut, divided by the number of windows that see this row in their middle
    half. Half a window at either end of the belt is looked at by the first and last window alone.

    Args:
        belt: (L, W) or (L, W, C), later rows below.
        height: rows of a window.
        predict: see :class:`.stream.ParticleStream`.
        orientation: how the belt lay before the camera.

    Returns:
        number of particles, a fraction since looks differ, and grams; unknown masses are no grams.
    """
    orientation = orientation or BeltOrientation()
    last = max(len(belt) - height, 0)
    tops = sorted({*range(0, last, max(height // 8, 1)), last})
    # Rows of the belt whose particles each window counts
    bands = [[top + height // 4, top + height - height // 4] for top in tops]
    bands[0][0], bands[-1][1] = 0, len(belt)
    looks = np.zeros(len(belt), int)
    for first, end in bands:
        looks[first:end] += 1
    count = mass = 0.0
    for top, (first, end) in zip(tops, bands, strict=True):
        rows = belt[top : top + height]
        found = orientation.instances_to_belt(predict(orientation.to_image(rows)), len(rows))
        middle = top + (found.boxes[:, 1] + found.boxes[:, 3]) // 2
        counts = (first <= middle) & (middle < end)
        share = 1 / looks[middle[counts]]
        count += share.sum()
        mass += np.nansum(share * found.masses[counts])
    return float(count), float(mass)
