"""A stone's outline, height field and mass."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.synthetic.stones import (
    ANGLES,
    MATERIALS,
    Stone,
    draw_stone,
    make_noise,
    profile,
    render_stone,
    smallest_width,
)


def render(stone, pixels_per_mm, seed=0):
    rng = np.random.default_rng(seed)
    return render_stone(stone, pixels_per_mm, make_noise(600, pixels_per_mm, rng), rng)


def smooth_stone(radii, thickness, density=2.0):
    material = replace(MATERIALS["Ru"], bumpiness=0.0, roundness=1.0)
    return Stone(material, radii, 0.0, smallest_width(radii), thickness, 1.0, np.empty((0, 3)), density)


def test_mass_of_half_an_ellipsoid_is_density_times_its_volume():
    a, b, thickness, density = 9.0, 5.0, 4.0, 2.5
    radii = a * b / np.hypot(b * np.cos(ANGLES), a * np.sin(ANGLES))
    patch = render(smooth_stone(radii, thickness, density), pixels_per_mm=8)
    assert patch.mass == pytest.approx(density * 2 / 3 * np.pi * a * b * thickness / 1000, rel=0.01)
    assert patch.height.max() == pytest.approx(thickness, rel=0.01)


def test_mass_is_the_integral_of_the_height_field():
    stone = draw_stone(MATERIALS["Rb"], 10.0, 0.9, np.random.default_rng(3))
    patch = render(stone, pixels_per_mm=5)
    assert patch.mass == pytest.approx(stone.density * patch.height.sum() / 5**2 / 1000, rel=1e-6)


def test_mass_does_not_depend_on_the_resolution():
    stone = smooth_stone(np.full(len(ANGLES), 6.0), 3.0)
    assert render(stone, 4).mass == pytest.approx(render(stone, 12).mass, rel=0.02)


def test_smallest_width_of_an_ellipse_is_its_minor_axis():
    radii = 9.0 * 5.0 / np.hypot(5.0 * np.cos(ANGLES), 9.0 * np.sin(ANGLES))
    assert smallest_width(radii) == pytest.approx(10.0, rel=0.01)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(MATERIALS)), st.floats(3, 20), st.floats(0.35, 1.6), st.integers(0, 2**32 - 1))
def test_every_stone_is_as_wide_and_thick_as_asked(name, width, factor, seed):
    stone = draw_stone(MATERIALS[name], width, factor, np.random.default_rng(seed))
    assert stone.radii.min() > 0
    assert smallest_width(stone.radii) == pytest.approx(width)
    assert stone.thickness == pytest.approx(factor * width / 2)
    patch = render(stone, pixels_per_mm=3)
    assert (patch.height[~patch.inside] == 0).all()
    assert (patch.height[patch.inside] >= 0).all()
    assert 0.3 * stone.thickness < patch.height.max() < 1.6 * stone.thickness
    albedo = patch.albedo[patch.inside]
    assert np.isfinite(albedo).all() and 0 < albedo.min() and albedo.max() < 1.5


def test_profile_falls_from_the_top_to_the_outline():
    gauge = np.linspace(0, 1.2, 50)
    for roundness in (0.0, 0.5, 1.0):
        height = profile(gauge, 0.6, roundness)
        assert height[0] == 1 and (height[gauge >= 1] == 0).all() and (np.diff(height) <= 0).all()
