"""The belt and the camera."""

import numpy as np

from ramses_d2.data.synthetic.scene import majority_label, paint_belt, photograph


def test_the_commonest_label_of_each_block_wins():
    labels = np.array([[1, 1, 0, 2], [1, 0, 2, 2], [3, 4, 0, 0], [4, 4, 0, 5]], np.uint16)
    np.testing.assert_array_equal(majority_label(labels), [[1, 2], [4, 0]])


def test_belt_is_dark_matt_and_seeded():
    belt = paint_belt((80, 120), 4.0, np.random.default_rng(1))
    assert belt.shape == (80, 120, 3) and 0 < belt.min() and belt.mean() < 0.3
    assert belt.std() > 0.005
    np.testing.assert_array_equal(belt, paint_belt((80, 120), 4.0, np.random.default_rng(1)))


def test_photograph_halves_and_keeps_the_order_of_brightness():
    radiance = np.repeat(np.repeat(np.float32([[0.02, 0.1, 0.5]]), 40, axis=0), 40, axis=1)[..., None].repeat(3, -1)
    image = photograph(radiance, np.random.default_rng(0))
    assert image.shape == (20, 60, 3) and image.dtype == np.uint8
    dark, grey, light = image[:, 5:15].mean(), image[:, 25:35].mean(), image[:, 45:55].mean()
    assert dark + 30 < grey < light - 50
