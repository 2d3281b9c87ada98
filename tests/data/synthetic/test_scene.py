"""Whole synthetic images: truth, variety, and thickness that only light tells."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ramses_d2.data.synthetic.scene import SceneConfig, render_scene
from ramses_d2.data.synthetic.stones import MATERIALS
from ramses_d2.errors import RamsesError

CONFIG = SceneConfig()


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(CONFIG, np.random.default_rng([5, index])) for index in range(30)]


def areas(scene):
    return np.bincount(scene.labels.ravel(), minlength=len(scene.classes) + 1)[1:]


def test_same_seed_same_image_other_seed_other_image(scenes):
    again = render_scene(CONFIG, np.random.default_rng([5, 0]))
    np.testing.assert_array_equal(again.image, scenes[0].image)
    np.testing.assert_array_equal(again.labels, scenes[0].labels)
    np.testing.assert_array_equal(again.masses, scenes[0].masses)
    assert not np.array_equal(scenes[1].image, scenes[0].image)


def test_images_are_as_configured(scenes):
    for scene in scenes:
        assert scene.image.shape == (128, 192, 3) and scene.image.dtype == np.uint8
        assert scene.labels.shape == (128, 192) and scene.labels.dtype == np.uint16
        assert 8 <= len(scene.classes) <= 40
        assert set(scene.classes) == set(CONFIG.classes)
        assert 1.6 <= scene.resolution <= 2.8
        np.testing.assert_array_equal(np.unique(scene.labels), np.arange(len(scene.classes) + 1))
        assert areas(scene).min() >= 80
    assert np.std([scene.resolution for scene in scenes]) > 0.2


def test_stones_are_whole_in_one_piece_and_mostly_touch(scenes):
    touching = []
    for scene in scenes:
        edge = np.concatenate([scene.labels[[0, -1]].ravel(), scene.labels[:, [0, -1]].ravel()])
        assert not edge.any()
        for label in range(1, len(scene.classes) + 1):
            mask = scene.labels == label
            assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
            rim = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=2)
            touching.append(len(np.setdiff1d(np.unique(scene.labels[rim]), [0, label])) > 0)
    assert np.mean(touching) > 0.85


def test_mass_is_density_times_the_visible_height_field(scenes):
    """Within the density's spread and what whole pixels cost: so hardly anything is hidden."""
    errors = []
    for scene in scenes:
        volume = np.bincount(scene.labels.ravel(), scene.height_mm.ravel())[1:] / scene.resolution**2
        density = np.array([MATERIALS[name].density for name in scene.classes])
        errors.extend(density * volume / 1000 / scene.masses - 1)
    assert abs(np.median(errors)) < 0.01 and np.max(np.abs(errors)) < 0.15


def test_thickness_cannot_be_read_from_the_outline(scenes):
    factor = np.concatenate([np.log(scene.thicknesses_mm / scene.widths_mm) for scene in scenes])
    area = np.concatenate([np.log(areas(scene) / scene.resolution**2) for scene in scenes])
    mass = np.concatenate([scene.masses for scene in scenes])
    names = np.concatenate([scene.classes for scene in scenes])
    assert abs(np.corrcoef(factor, area)[0, 1]) < 0.15
    assert np.ptp(factor) > np.log(3.5)
    errors = []
    for name in CONFIG.classes:
        of_class = names == name
        law = np.polyfit(area[of_class], np.log(mass[of_class]), 1)
        errors.extend(np.abs(np.exp(np.polyval(law, area[of_class])) / mass[of_class] - 1))
    assert np.mean(errors) > 0.25


def test_thickness_changes_light_and_mass_but_not_outlines():
    thin, thick = (
        render_scene(replace(CONFIG, thickness=limits), np.random.default_rng([5, 3]))
        for limits in ((0.4, 0.4), (1.6, 1.6))
    )
    assert np.mean(thin.labels == thick.labels) > 0.995
    np.testing.assert_allclose(thick.masses / thin.masses, 4, rtol=1e-3)
    belt = (thin.labels == 0) & (thick.labels == 0)
    beside = belt & ndimage.binary_dilation(thick.labels > 0, iterations=6)
    far = belt & ~ndimage.binary_dilation(thick.labels > 0, iterations=25)
    assert thick.image[beside].mean() < 0.85 * thin.image[beside].mean()
    assert thick.image[far].mean() == pytest.approx(thin.image[far].mean(), rel=0.01)


def test_shadows_fall_away_from_the_one_sun(scenes):
    """The belt is darker below and to the right of stones than above and to the left of them."""
    lower_right, upper_left = [], []
    for scene in scenes:
        grey, stones = scene.image.mean(axis=-1), scene.labels > 0
        for side, step in ((lower_right, 3), (upper_left, -3)):
            shifted = ndimage.shift(stones.astype(np.uint8), (step, step), order=0) > 0
            side.append(grey[shifted & ~stones].mean())
    assert np.all(np.array(lower_right) < np.array(upper_left))


def test_stones_cut_by_the_border_have_no_mass():
    config = replace(CONFIG, border=True, stones=(40, 60), classes=(*CONFIG.classes, "X"))
    scene = render_scene(config, np.random.default_rng(2))
    at_edge = np.unique(np.concatenate([scene.labels[[0, -1]].ravel(), scene.labels[:, [0, -1]].ravel()]))
    cut = np.isnan(scene.masses)
    assert 3 < cut.sum() < len(cut)
    assert set(np.flatnonzero(cut) + 1) <= set(at_edge)
    assert cut.sum() >= len(set(at_edge) - {0}) - 3  # a whole stone may just reach the edge
    assert len(scene.classes) == len(scene.masses) == len(scene.widths_mm) == scene.labels.max()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"height": 16}, "size 16 x 192"),
        ({"stones": (0, 4)}, "stones 0 4"),
        ({"resolution": (3.0, 2.0)}, "resolution 3.0 2.0"),
        ({"thickness": (float("nan"), 1.0)}, "thickness nan"),
        ({"stones": (1, 70000)}, "65535"),
        ({"classes": ()}, "choose from Ra Rb"),
        ({"classes": ("Ra", "Ra")}, "each once"),
        ({"classes": ("Ra", "gold")}, "gold"),
        ({"resolution": (10.0, 20.0)}, "can be 480 px, too long for 128 x 192"),
    ],
)
def test_wrong_settings_are_named_in_one_line(setting, words):
    with pytest.raises(RamsesError, match=words) as error:
        SceneConfig(**setting)
    assert "\n" not in str(error.value)


def test_no_room_is_said():
    with pytest.raises(RamsesError, match="no room for 90 stones in 128 x 192"):
        render_scene(replace(CONFIG, stones=(90, 90)), np.random.default_rng(0))
