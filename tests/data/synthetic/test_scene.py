"""Scenes: stones that touch, one sun with shadows, a camera, and thickness that only light tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ramses_d2.data.synthetic import scene as scenery
from ramses_d2.data.synthetic.scene import Packer, Scene, SceneConfig, Sun, render_scene
from ramses_d2.data.synthetic.stones import ANGLES, MATERIALS
from ramses_d2.errors import RamsesError

CONFIG = SceneConfig()
EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(CONFIG, np.random.default_rng([5, index])) for index in range(30)]


def areas(scene: Scene) -> np.ndarray:
    return np.bincount(scene.labels.ravel(), minlength=len(scene.classes) + 1)[1:]


def edge_of(labels: np.ndarray) -> set[int]:
    return set(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]).tolist())


def test_scenes_are_as_configured_and_shadows_fall_to_the_lower_right(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (128, 192, 3) and scene.image.dtype == np.uint8
        assert scene.labels.shape == (128, 192) and scene.labels.dtype == np.uint16 and edge_of(scene.labels) == {0}
        assert 8 <= len(scene.classes) <= 40 and set(scene.classes) == set(CONFIG.classes)
        assert 1.6 <= scene.resolution <= 2.8 and areas(scene).min() >= 80
        np.testing.assert_array_equal(np.unique(scene.labels), np.arange(len(scene.classes) + 1))
        grey, stones = scene.image.mean(axis=-1), scene.labels > 0
        moved = (ndimage.shift(stones.astype(np.uint8), (step, step), order=0) > 0 for step in (3, -3))
        lower_right, upper_left = (grey[each & ~stones].mean() for each in moved)
        assert lower_right < upper_left
    assert np.std([scene.resolution for scene in scenes]) > 0.2


def touches(labels: np.ndarray, label: int, reach: int) -> bool:
    rim = labels[ndimage.binary_dilation(labels == label, EIGHT, iterations=reach)]
    return bool(np.any((rim > 0) & (rim != label)))


def test_stones_are_in_one_piece_mostly_touch_and_hide_hardly_anything(scenes: list[Scene]) -> None:
    touching, errors = [], []
    for scene in scenes:
        for label in range(1, len(scene.classes) + 1):
            assert ndimage.label(scene.labels == label, EIGHT)[1] == 1
            touching.append(touches(scene.labels, label, 2))
        # Mass is density times the visible height field, within the density's spread and what whole pixels cost
        volume = np.bincount(scene.labels.ravel(), scene.height_mm.ravel())[1:] / scene.resolution**2
        density = np.array([MATERIALS[name].density for name in scene.classes])
        errors.extend(density * volume / 1000 / scene.masses - 1)
    assert np.mean(touching) > 0.85 and abs(np.median(errors)) < 0.01 and np.max(np.abs(errors)) < 0.15


def test_thickness_cannot_be_read_from_the_outline(scenes: list[Scene]) -> None:
    factor = np.concatenate([np.log(scene.thicknesses_mm / scene.widths_mm) for scene in scenes])
    area = np.concatenate([np.log(areas(scene) / scene.resolution**2) for scene in scenes])
    mass, names = (np.concatenate([getattr(scene, key) for scene in scenes]) for key in ("masses", "classes"))
    assert abs(np.corrcoef(factor, area)[0, 1]) < 0.15 and np.ptp(factor) > np.log(3.5)
    errors: list[float] = []
    for name in CONFIG.classes:
        own_area, own_mass = area[names == name], mass[names == name]
        law = np.polyfit(own_area, np.log(own_mass), 1)
        errors.extend(np.abs(np.exp(np.polyval(law, own_area)) / own_mass - 1))
    assert np.mean(errors) > 0.25


def test_thickness_changes_light_and_mass_but_not_outlines() -> None:
    configs = (replace(CONFIG, thickness=(factor, factor)) for factor in (0.4, 1.6))
    thin, thick = (render_scene(config, np.random.default_rng([5, 3])) for config in configs)
    assert np.mean(thin.labels == thick.labels) > 0.995
    np.testing.assert_allclose(thick.masses / thin.masses, 4, rtol=1e-3)
    belt, stones = (thin.labels == 0) & (thick.labels == 0), thick.labels > 0
    beside = belt & ndimage.binary_dilation(stones, iterations=6)
    far = belt & ~ndimage.binary_dilation(stones, iterations=25)
    assert thick.image[beside].mean() < 0.85 * thin.image[beside].mean()
    assert thick.image[far].mean() == pytest.approx(thin.image[far].mean(), rel=0.01)


def test_stones_cut_by_the_border_have_no_mass() -> None:
    config = replace(CONFIG, border=True, stones=(40, 60), classes=(*CONFIG.classes, "X"))
    scene = render_scene(config, np.random.default_rng(2))
    cut, at_edge = np.flatnonzero(np.isnan(scene.masses)) + 1, edge_of(scene.labels) - {0}
    assert 3 < len(cut) < len(scene.masses) and set(cut) <= at_edge
    assert len(cut) >= len(at_edge) - 3  # a whole stone may just reach the edge
    assert len(scene.classes) == len(scene.masses) == len(scene.widths_mm) == scene.labels.max()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"height": 16}, "16 x 192"),
        ({"stones": (0, 4)}, "stones 0 4"),
        ({"resolution": (3.0, 2.0)}, "resolution 3.0 2.0"),
        ({"thickness": (float("nan"), 1.0)}, "thickness nan"),
        ({"stones": (1, 70000)}, "65535"),
        ({"classes": ()}, "classes"),
        ({"classes": ("Ra", "Ra")}, "classes Ra Ra"),
        ({"classes": ("Ra", "gold")}, "classes Ra gold: choose from Ra Rb"),
        ({"resolution": (2.0, 6.5)}, "156 px, too long for 128 x 192"),
        ({"stones": (90, 90)}, "no room for 90 stones in 128 x 192"),
    ],
)
def test_wrong_settings_are_named(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(RamsesError, match=words):
        render_scene(SceneConfig(**setting), np.random.default_rng(0))


def pack_discs(shape: tuple[int, int], radii: Any, seed: int, overhang: int = 0) -> tuple[np.ndarray, int]:
    """The label grid, and the number of pixels claimed twice."""
    labels, claimed_twice = np.zeros(shape, np.uint16), 0
    packer = Packer(labels, np.random.default_rng(seed), overhang)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for label, radius in enumerate(radii, start=1):
        centre = packer.place(np.full(len(ANGLES), float(radius)))
        if centre is not None:
            disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
            claimed_twice += int((labels[disc] > 0).sum())
            labels[disc] = label
    return labels, claimed_twice


@pytest.mark.parametrize("seed", range(4))
def test_discs_touch_and_do_not_overlap(seed: int) -> None:
    labels, claimed_twice = pack_discs((260, 380), np.linspace(30, 12, 30), seed)
    assert len(np.unique(labels)) == 31 and claimed_twice < 0.002 * (labels > 0).sum()
    assert sum(touches(labels, label, 3) for label in range(1, 31)) >= 25


def test_discs_are_whole_or_overhang_with_their_centres_in_the_frame() -> None:
    labels, _ = pack_discs((200, 200), [25] * 12, seed=1)
    assert len(set(np.bincount(labels.ravel())[1:]) - {0}) == 1 and edge_of(labels) == {0}
    labels, _ = pack_discs((300, 300), [25] * 60, seed=1, overhang=50)
    centres = np.array([np.argwhere(labels == label).mean(axis=0) for label in np.unique(labels)[1:]])
    assert (centres >= 49).all() and (centres <= 250).all() and (labels[:50].any() or labels[-50:].any())
    for taken, radius in ((0, 40.0), (1, 10.0)):  # no room
        packer = Packer(np.full((60, 60), taken, np.uint16), np.random.default_rng(0))
        assert packer.place(np.full(len(ANGLES), radius)) is None


def sun_at(azimuth: float, elevation: float) -> Sun:
    return Sun(np.radians(azimuth), np.radians(elevation), strength=0.8, ambient=0.2)


@pytest.mark.parametrize("elevation", [25, 36, 60])
@pytest.mark.parametrize("azimuth", [0, 90, 180, 270])
def test_a_wall_casts_a_shadow_of_its_height_over_the_tangent(azimuth: int, elevation: int) -> None:
    height = np.zeros((101, 101), np.float32)
    height[50, :] = height[:, 50] = 15.0
    shaded = scenery.shadow_depth(height, sun_at(azimuth, elevation)) > 0
    row, column = np.round([-np.sin(np.radians(azimuth)), -np.cos(np.radians(azimuth))]).astype(int)
    away = [shaded[50 + 20 * column + k * row, 50 + 20 * row + k * column] for k in range(1, 50)]
    towards = [shaded[50 + 20 * column - k * row, 50 + 20 * row - k * column] for k in range(1, 50)]
    assert sum(away) == pytest.approx(15 / np.tan(np.radians(elevation)), abs=1.01) and not any(towards)


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 360), st.floats(20, 70), st.integers(0, 1000))
def test_the_doubling_march_agrees_with_the_plain_one(azimuth: float, elevation: float, seed: int) -> None:
    sun = sun_at(azimuth, elevation)
    rows, columns = np.mgrid[:80, :80]
    height = np.zeros((80, 80), np.float32)
    for row, column in np.random.default_rng(seed).uniform(25, 55, (4, 2)):
        height = np.maximum(height, 12 - 0.15 * ((rows - row) ** 2 + (columns - column) ** 2)).astype(np.float32)
    plain = height.copy()
    for k in range(1, 60):
        row = np.clip(np.rint(rows + k * np.sin(sun.azimuth)).astype(int), 0, 79)
        column = np.clip(np.rint(columns + k * np.cos(sun.azimuth)).astype(int), 0, 79)
        plain = np.maximum(plain, height[row, column] - k * np.tan(sun.elevation))
    assert ((plain - height > 0.5) ^ (scenery.shadow_depth(height, sun) > 0.5)).mean() < 0.02


def test_light_of_a_flat_field_a_ridge_and_a_wall() -> None:
    flat, ridge, wall = np.zeros((3, 60, 90), np.float32)
    white = np.ones((60, 90, 3), np.float32)
    assert scenery.shade(white, flat, flat, sun_at(215, 36), 1.0) == pytest.approx(np.ones((60, 90, 3)))
    ridge[:] = np.maximum(10 - np.abs(np.arange(90, dtype=np.float32) - 40), 0)
    light = scenery.shade(white, flat, ridge, sun_at(180, 30), 1.0)[30, :, 0]  # the sun stands on the left
    assert light[35] > 1.2 and light[45] < 0.35 and light[53] < 0.35 and light[80] == pytest.approx(1, abs=0.02)
    wall[:, 30:] = 20
    sky = scenery.ambient_occlusion(wall, 6.0)[30]
    assert sky[2] == pytest.approx(1) and sky[57] == pytest.approx(1) and sky[28] < 0.6


def test_a_dark_belt_a_photograph_and_its_labels() -> None:
    belt = scenery.paint_belt((80, 120), 4.0, np.random.default_rng(1))
    assert belt.shape == (80, 120, 3) and 0 < belt.min() and belt.mean() < 0.3 and belt.std() > 0.005
    radiance = np.repeat(np.repeat(np.float32([[0.02, 0.1, 0.5]]), 40, axis=0), 40, axis=1)[..., None].repeat(3, -1)
    image = scenery.photograph(radiance, np.random.default_rng(0))
    dark, grey, light = (image[:, start : start + 10].mean() for start in (5, 25, 45))
    assert image.shape == (20, 60, 3) and image.dtype == np.uint8 and dark + 30 < grey < light - 50
    labels = np.array([[1, 1, 0, 2], [1, 0, 2, 2], [3, 4, 0, 0], [4, 4, 0, 5]], np.uint16)
    np.testing.assert_array_equal(scenery.majority_label(labels), [[1, 2], [4, 0]])
