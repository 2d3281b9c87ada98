"""Shadows, shading and ambient occlusion of height fields."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.synthetic.scene import Sun, ambient_occlusion, shade, shadow_depth


def sun_at(azimuth, elevation):
    return Sun(np.radians(azimuth), np.radians(elevation), strength=0.8, ambient=0.2)


def shade_white(height, sun):
    return shade(np.ones((*height.shape, 3), np.float32), np.zeros_like(height), height, sun, 1.0)[..., 0]


@pytest.mark.parametrize("elevation", [25, 36, 60])
@pytest.mark.parametrize("azimuth", [0, 90, 180, 270])
def test_a_wall_casts_a_shadow_of_its_height_over_the_tangent(azimuth, elevation):
    height = np.zeros((101, 101), np.float32)
    height[50, :] = height[:, 50] = 15.0
    shaded = shadow_depth(height, sun_at(azimuth, elevation)) > 0
    row, column = np.round([-np.sin(np.radians(azimuth)), -np.cos(np.radians(azimuth))]).astype(int)
    away = [shaded[50 + 20 * column + k * row, 50 + 20 * row + k * column] for k in range(1, 50)]
    towards = [shaded[50 + 20 * column - k * row, 50 + 20 * row - k * column] for k in range(1, 50)]
    assert sum(away) == pytest.approx(15 / np.tan(np.radians(elevation)), abs=1.01)
    assert not any(towards)


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 360), st.floats(20, 70), st.integers(0, 1000))
def test_the_doubling_march_agrees_with_the_plain_one(azimuth, elevation, seed):
    sun = sun_at(azimuth, elevation)
    rows, columns = np.mgrid[:80, :80]
    rng = np.random.default_rng(seed)
    height = np.zeros((80, 80), np.float32)
    for row, column in rng.uniform(25, 55, (4, 2)):
        height = np.maximum(height, 12 - 0.15 * ((rows - row) ** 2 + (columns - column) ** 2)).astype(np.float32)
    plain = height.copy()
    for k in range(1, 60):
        row = np.clip(np.rint(rows + k * np.sin(sun.azimuth)).astype(int), 0, 79)
        column = np.clip(np.rint(columns + k * np.cos(sun.azimuth)).astype(int), 0, 79)
        plain = np.maximum(plain, height[row, column] - k * np.tan(sun.elevation))
    difference = np.abs((plain - height > 0.5) ^ (shadow_depth(height, sun) > 0.5))
    assert difference.mean() < 0.02


def test_a_flat_field_is_evenly_lit():
    light = shade_white(np.zeros((40, 40), np.float32), sun_at(215, 36))
    assert light == pytest.approx(np.full((40, 40), 1.0))


def test_the_flank_towards_the_sun_is_brighter_and_the_belt_behind_is_dark():
    height = np.zeros((60, 90), np.float32)
    ramp = 10 - np.abs(np.arange(90, dtype=np.float32) - 40)
    height[:] = np.maximum(ramp, 0)
    light = shade_white(height, sun_at(180, 30))[30]  # the sun stands on the left
    assert light[35] > 1.2 and light[45] < 0.35 and light[53] < 0.35 and light[80] == pytest.approx(1, abs=0.02)


def test_less_sky_beside_a_wall():
    height = np.zeros((60, 60), np.float32)
    height[:, 30:] = 20
    sky = ambient_occlusion(height, 6.0)
    assert sky[30, 2] == pytest.approx(1) and sky[30, 57] == pytest.approx(1) and sky[30, 28] < 0.6
