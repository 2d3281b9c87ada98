"""A stone's outline, height field and mass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.synthetic import stones
from ramses_d2.data.synthetic.stones import ANGLES, MATERIALS, Stone, StonePatch, draw_stone, smallest_width


def render(stone: Stone, pixels_per_mm: float) -> StonePatch:
    rng = np.random.default_rng(0)
    return stones.render_stone(stone, pixels_per_mm, stones.make_noise(600, pixels_per_mm, rng), rng)


def test_mass_of_half_an_ellipsoid_is_density_times_its_volume() -> None:
    material = replace(MATERIALS["Ru"], bumpiness=0.0, roundness=1.0)
    radii = 9 * 5 / np.hypot(5 * np.cos(ANGLES), 9 * np.sin(ANGLES))
    assert smallest_width(radii) == pytest.approx(10, rel=0.01)
    stone = Stone(material, radii, 0.0, smallest_width(radii), 4.0, 1.0, np.empty((0, 3)), density=2.5)
    patch = render(stone, pixels_per_mm=8)
    assert patch.mass == pytest.approx(2.5 * 2 / 3 * np.pi * 9 * 5 * 4 / 1000, rel=0.01)
    assert patch.height.max() == pytest.approx(4, rel=0.01)
    assert render(stone, 4).mass == pytest.approx(render(stone, 12).mass, rel=0.02)  # whatever the resolution


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(MATERIALS)), st.floats(3, 20), st.floats(0.35, 1.6), st.integers(0, 2**32 - 1))
def test_each_stone_is_as_wide_thick_and_heavy_as_asked(name: str, width: float, factor: float, seed: int) -> None:
    stone = draw_stone(MATERIALS[name], width, factor, np.random.default_rng(seed))
    assert stone.radii.min() > 0 and smallest_width(stone.radii) == pytest.approx(width)
    assert stone.thickness == pytest.approx(factor * width / 2)
    patch = render(stone, pixels_per_mm=3)
    assert patch.mass == pytest.approx(stone.density * patch.height.sum() / 3**2 / 1000, rel=1e-5)
    assert (patch.height[~patch.inside] == 0).all() and (patch.height[patch.inside] >= 0).all()
    assert 0.3 * stone.thickness < patch.height.max() < 1.6 * stone.thickness
    albedo = patch.albedo[patch.inside]
    assert np.isfinite(albedo).all() and 0 < albedo.min() and albedo.max() < 1.5
