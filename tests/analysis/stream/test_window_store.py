"""Windows that were predicted before a stop are taken from the disk, and only whole ones of the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ramses_d2.analysis.stream.run import WindowStore
from ramses_d2.analysis.stream.stitch import FrameInstances

IMAGE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def found_in(image: np.ndarray) -> FrameInstances:
    masks = [np.random.default_rng(0).random((8, 9)) < 0.5, np.ones((3, 2), bool)]
    boxes = np.array([[1, 2, 10, 10], [20, 4, 22, 7]])
    return FrameInstances(masks, boxes, np.array([0, 2]), np.array([0.9, 0.5]), np.array([1.5, np.nan]))


def test_a_stored_window_is_not_predicted_again(tmp_path: Path) -> None:
    asked = []
    for _ in range(2):
        store = WindowStore(tmp_path / "windows", lambda image: asked.append(1) or found_in(image))
        found, expected = store(IMAGE), found_in(IMAGE)
    assert len(asked) == 1
    for one, other in zip(found.masks, expected.masks, strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("boxes", "classes", "scores", "masses"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    WindowStore(tmp_path / "windows", lambda image: asked.append(2) or found_in(image))(IMAGE + 1)
    assert asked == [1, 2]  # other pixels


def test_damage_at_any_place_of_a_file_is_no_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "windows"
    WindowStore(folder, found_in)(IMAGE)
    path = folder / "000000.npz"
    whole = path.read_bytes()
    asked = []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        WindowStore(folder, lambda image: asked.append(1) or found_in(image))(IMAGE)
    assert len(asked) > len(whole) / 6  # not every byte matters
