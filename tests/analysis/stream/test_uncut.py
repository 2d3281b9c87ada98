"""What cutting a belt into frames costs: the stream beside the same network on the uncut belt (docs/streams.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ramses_d2.analysis.stream.belt import BeltOrientation, Predict, stream_particles
from ramses_d2.analysis.stream.stitch import FrameInstances
from tests.analysis.stream.belts import cut, make_belt


def uncut_estimate(
    belt: np.ndarray, height: int, predict: Predict, orientation: BeltOrientation | None = None
) -> tuple[float, float]:
    """Particles and grams that a network sees on a belt (L, W, ...) that nothing cuts, without joining anything.

    It sees windows of the size it knows, one every eighth of a window. In each only particles with their middle in the
    window's middle half count, divided by the number of windows that see this row in their middle half; half a window
    at either end of the belt is looked at by the first and last window alone.
    """
    orientation = orientation or BeltOrientation()
    last = max(len(belt) - height, 0)
    tops = sorted({*range(0, last, max(height // 8, 1)), last})
    bands = [[top + height // 4, top + height - height // 4] for top in tops]
    bands[0][0], bands[-1][1] = 0, len(belt)
    looks, rows = np.zeros(len(belt), int), np.arange(len(belt))
    for first, end in bands:
        looks += (first <= rows) & (rows < end)
    count = mass = 0.0
    for top, (first, end) in zip(tops, bands, strict=True):
        seen = belt[top : top + height]
        found = orientation.instances_to_belt(predict(orientation.to_image(seen)), len(seen))
        middle = top + (found.boxes[:, 1] + found.boxes[:, 3]) // 2
        counts = (first <= middle) & (middle < end)
        share = 1 / looks[middle[counts]]
        count, mass = count + share.sum(), mass + np.nansum(share * found.masses[counts])
    return float(count), float(mass)


def compare_with_uncut(frames: Sequence[np.ndarray], predict: Predict, **settings: Any) -> tuple[float, ...]:
    """Particles and grams of a belt without a gap as a stream of its frames, and uncut."""
    orientation = BeltOrientation(settings.get("axis", "rows"), settings.get("direction", "forward"))
    overlap = settings.get("overlap", 0)
    belt = np.concatenate([orientation.to_belt(frame)[overlap * (i > 0) :] for i, frame in enumerate(frames)])
    height = settings.get("window") or max(len(orientation.to_belt(frame)) for frame in frames)
    masses = [particle.mass for particle in stream_particles(iter(frames), predict, **settings)]
    return len(masses), float(np.nansum(masses)), *uncut_estimate(belt, height, predict, orientation)


@pytest.mark.parametrize(("axis", "direction"), [("rows", "forward"), ("columns", "backward")])
def test_a_perfect_network_agrees_with_itself(axis: str, direction: str) -> None:
    belt, orientation = make_belt(300, 700, 220), BeltOrientation(axis, direction)
    frames = [orientation.to_image(belt.labels[rows]) for rows in cut(700, (60, 110), 7)]
    found = compare_with_uncut(frames, belt.predict, overlap=7, axis=axis, direction=direction)
    assert found == pytest.approx((300, belt.masses.sum()) * 2)


def test_what_the_stream_misses_shows() -> None:
    """A network that sees less in the windows of the stream, which are read-only, than in others."""
    belt = make_belt(300, 700, 220)

    def half_blind(image: np.ndarray) -> FrameInstances:
        return belt.predict(np.where(belt.classes[image] < (4 if image.flags.writeable else 3), image, 0))

    found = compare_with_uncut([belt.labels[rows] for rows in cut(700, (60, 110), 7)], half_blind, overlap=7)
    in_stream, uncut = (belt.classes[1:] < limit for limit in (3, 4))
    masses = belt.masses[1:]
    assert found == pytest.approx((in_stream.sum(), masses[in_stream].sum(), uncut.sum(), masses[uncut].sum()))


@pytest.mark.parametrize("height", [90, 700, 900])
def test_uncut_estimate(height: int) -> None:
    belt = make_belt(300, 700, 220)
    assert uncut_estimate(belt.labels, height, belt.predict) == pytest.approx((300, belt.masses.sum()))
