"""The stream against the uncut belt."""

from __future__ import annotations

import numpy as np
import pytest

from ramses_d2.analysis.stream.belt import BeltOrientation
from ramses_d2.analysis.stream.stitch import FrameInstances
from tests.analysis.stream.belts import cut, make_belt
from tests.analysis.stream.comparison import compare_with_uncut, uncut_estimate


@pytest.mark.parametrize(("axis", "direction"), [("rows", "forward"), ("columns", "backward")])
def test_a_perfect_network_agrees_with_itself(axis: str, direction: str) -> None:
    belt = make_belt(300, 700, 220)
    orientation = BeltOrientation(axis, direction)
    frames = [orientation.to_image(belt.labels[rows]) for rows in cut(700, (60, 110), 7)]
    same = compare_with_uncut(frames, belt.predict, overlap=7, axis=axis, direction=direction)
    assert same.count == 300
    assert same.uncut_count == pytest.approx(300)
    assert same.uncut_mass == pytest.approx(belt.masses.sum())
    assert same.mass_error == pytest.approx(0, abs=1e-9)


def test_what_the_stream_misses_shows() -> None:
    """A network that sees less in the windows of the stream, which are read-only, than in others."""
    belt = make_belt(300, 700, 220)
    seen = belt.classes[1:] < 4

    def half_blind(image: np.ndarray) -> FrameInstances:
        limit = 4 if image.flags.writeable else 3
        return belt.predict(np.where(belt.classes[image] < limit, image, 0))

    found = compare_with_uncut([belt.labels[rows] for rows in cut(700, (60, 110), 7)], half_blind, overlap=7)
    assert found.uncut_count == pytest.approx(seen.sum())
    assert found.uncut_mass == pytest.approx(belt.masses[1:][seen].sum())
    in_stream = belt.classes[1:] < 3
    assert found.count_error == pytest.approx(in_stream.sum() / seen.sum() - 1)
    assert found.mass_error == pytest.approx(belt.masses[1:][in_stream].sum() / belt.masses[1:][seen].sum() - 1)
    assert f"{found.count_error:+.2%} particles" in str(found)


@pytest.mark.parametrize("height", [90, 700, 900])
def test_uncut_estimate(height: int) -> None:
    belt = make_belt(300, 700, 220)
    count, mass = uncut_estimate(belt.labels, height, belt.predict)
    assert count == pytest.approx(300)
    assert mass == pytest.approx(belt.masses.sum())
