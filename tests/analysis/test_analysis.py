"""Label images and the particle table."""

from __future__ import annotations

import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch

from ramses_d2.analysis.particles import particle_table
from ramses_d2.masks import masks_in_boxes, paint_label_image

BOXES = np.array([[0, 0, 6, 6], [3, 2, 9, 8], [4, 4, 6, 6]])


@pytest.fixture
def overlapping() -> np.ndarray:
    masks = np.zeros((3, 10, 12), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def paint(masks: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return paint_label_image(masks_in_boxes(torch.from_numpy(masks), boxes), boxes, scores, (10, 12))


def test_the_surest_instance_owns_a_pixel_whatever_the_order(overlapping: np.ndarray) -> None:
    scores = np.array([0.5, 0.9, 0.7])
    labels = paint(overlapping, BOXES, scores)
    assert labels.dtype == np.uint16
    assert labels[4, 4] == 2 and labels[0, 0] == 1
    assert 3 not in labels  # hidden
    order = [2, 0, 1]
    shuffled = paint(overlapping[order], BOXES[order], scores[order])
    np.testing.assert_array_equal(np.array([0, 3, 1, 2])[shuffled], labels)


def test_both_mask_formats_give_the_same(overlapping: np.ndarray) -> None:
    rles = [mask_utils.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in overlapping]
    tensors = torch.from_numpy(overlapping)
    for a, b in zip(masks_in_boxes(rles, BOXES), masks_in_boxes(tensors, BOXES), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_many_instances_for_16_bits() -> None:
    with pytest.raises(ValueError, match="16-bit"):
        paint_label_image([], np.zeros((70000, 4)), np.zeros(70000), (2, 2))


def test_table_has_rows_as_x(overlapping: np.ndarray) -> None:
    labels = paint(overlapping, BOXES, np.array([0.5, 0.9, 0.7]))
    table = particle_table("a.jpg", labels, ["Ra", "Rb", "Rc"], [1.5, math.nan, 2.0], [0.5, 0.9, 0.7], 2.0)
    assert table["label"].tolist() == [1, 2]  # the hidden one has no row
    assert table.loc[1, ["x0", "x1", "y0", "y1", "area"]].tolist() == [2, 8, 3, 9, 36]
    assert table["class"].tolist() == ["Ra", "Rb"] and math.isnan(table.loc[1, "mass"])


def test_empty_image() -> None:
    labels = paint_label_image([], np.zeros((0, 4)), np.zeros(0), (4, 5))
    assert not labels.any() and len(particle_table("a.jpg", labels, [], [], [], 2.0)) == 0
