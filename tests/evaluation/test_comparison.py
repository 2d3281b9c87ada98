"""Images of truth and prediction: colours say what became of every particle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.utils.events import EventStorage
from PIL import Image

from ramses_d2.evaluation.plots import ALONE, COLORS, RIGHT, WRONG_CLASS, compare_image, store_images
from tests.evaluation.scene import SIZE, outcome


@pytest.fixture
def dataset_dicts(tmp_path: Path) -> list[dict]:
    height, width = SIZE
    listed = []
    for image_id in (1, 2, 3):
        Image.new("RGB", (width, height), (90, 90, 90)).save(tmp_path / f"{image_id}.png")
        path = str(tmp_path / f"{image_id}.png")
        listed.append({"file_name": path, "image_id": image_id, "image_name": f"a b/{image_id}"} | {"height": height})
        listed[-1]["width"] = width
    return listed


def state_at(half: np.ndarray, x: float, y: float) -> int | None:
    """Whose colour the outline nearest to a place of the image has; half = one drawing with its heading."""
    scale = half.shape[1] / SIZE[1]
    heading = half.shape[0] - round(SIZE[0] * scale)
    row, column = heading + int(y * scale), int(x * scale)
    reach = int(1.5 * scale)
    window = half[row - reach : row + reach, column - reach : column + reach].reshape(-1, 3).astype(int)
    near = [int((np.abs(window - color).max(axis=1) < 20).sum()) for color in COLORS]
    return int(np.argmax(near)) if max(near) > 5 else None


def test_every_particle_has_the_colour_of_its_fate(dataset_dicts: list[dict]) -> None:
    drawing = compare_image(outcome(), dataset_dicts[0])
    assert drawing.dtype == np.uint8 and drawing.shape[2] == 3
    middle = drawing.shape[1] // 2
    truth, prediction = drawing[:, : middle - 4], drawing[:, middle + 4 :]
    bottom = 13.0  # lower edge of all particles
    assert [state_at(truth, x + 2, bottom) for x in (0, 20, 40, 60)] == [RIGHT, WRONG_CLASS, ALONE, RIGHT]
    assert state_at(truth, 92, bottom) is None
    assert [state_at(prediction, x + 2, bottom) for x in (0, 20, 60, 90)] == [RIGHT, WRONG_CLASS, RIGHT, ALONE]
    assert state_at(prediction, 42, bottom) is None
    assert state_at(prediction, 112, bottom) is None  # below the threshold
    assert state_at(prediction, 12, 69) is None  # in the crowd region


def test_images_without_anything_are_drawn(dataset_dicts: list[dict]) -> None:
    assert compare_image(outcome(), dataset_dicts[2], 300).shape[1] == 2 * 300 + 8
    compare_image(outcome([], has_mass=False), dataset_dicts[0])


def test_wide_images_stand_one_above_the_other(tmp_path: Path) -> None:
    scene = outcome()
    mask = np.zeros((20, 4000), dtype=np.uint8, order="F")
    mask[5:15, 100:900] = 1
    for entry in [*scene.ground_truth["annotations"], *scene.results]:
        entry["segmentation"] = mask_utils.encode(mask)
    Image.new("RGB", (4000, 20)).save(tmp_path / "wide.png")
    dataset_dict = {"file_name": str(tmp_path / "wide.png"), "image_id": 2, "height": 20, "width": 4000}
    drawing = compare_image(scene, dataset_dict, 800)
    assert drawing.shape[1] == 800 and drawing.shape[0] > 2 * 800 * 20 / 4000


def test_images_are_stored_in_a_training_only(dataset_dicts: list[dict]) -> None:
    store_images(outcome(), dataset_dicts, 2)  # no training: nothing happens
    with EventStorage() as storage:
        store_images(outcome(), dataset_dicts, 0)
        assert not storage._vis_data
        store_images(outcome(), dataset_dicts, 2)
        store_images(outcome(), dataset_dicts[:1], 4)
    assert [name for name, *_ in storage._vis_data] == ["valid/a b/1", "valid/a b/3", "valid/a b/1"]
    assert all(image.shape[0] == 3 and max(image.shape) <= 2000 for _, image, _ in storage._vis_data)
