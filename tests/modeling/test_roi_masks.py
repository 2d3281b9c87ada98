"""Masks in boxes become masks of the image as in Detectron2."""

from __future__ import annotations

import dataclasses

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances

from ramses_d2.config import load_config
from ramses_d2.modeling.mask_rcnn import paste_roi_mask, to_image
from ramses_d2.modeling.postprocess import InferenceSettings
from tests.tools.command_line import ROOT

BOXES = [
    [3.2, 4.7, 30.1, 22.9],
    [0.0, 0.0, 80.0, 60.0],
    [70.4, 50.2, 80.0, 60.0],
    [10.0, 10.0, 11.0, 11.0],
    [5.0, 5.0, 5.0, 9.0],
]


def soft_masks(count: int, side: int = 28) -> torch.Tensor:
    coarse = torch.rand(count, 1, 5, 5)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def settings() -> InferenceSettings:
    return InferenceSettings.from_config(load_config(str(ROOT / "tests/mask_rcnn_tiny.yaml")))


def test_pasting_is_that_of_detectron2() -> None:
    masks = soft_masks(4)[:, 0]
    expected = paste_masks_in_image(masks, Boxes(torch.tensor(BOXES[:4])), (60, 80), 0.5).numpy()
    assert expected.any(axis=(1, 2)).sum() >= 3
    for mask, box, whole in zip(masks, BOXES[:4], expected, strict=True):
        crop, x, y = paste_roi_mask(mask, box, (60, 80), 0.5)
        found = np.zeros((60, 80), bool)
        found[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert np.count_nonzero(found != whole) <= 1  # a probability of exactly 0.5, give or take a rounding
        assert not crop.size or (crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any())


def test_an_empty_box_is_no_mask() -> None:
    assert paste_roi_mask(torch.ones(28, 28), BOXES[4], (60, 80), 0.5)[0].size == 0
    assert paste_roi_mask(torch.zeros(28, 28), BOXES[0], (60, 80), 0.5)[0].size == 0


def found_instances() -> Instances:
    found = Instances((60, 80), pred_boxes=Boxes(torch.tensor(BOXES)), scores=torch.linspace(0.9, 0.5, 5))
    found.pred_classes = torch.tensor([0, 1, 2, 0, 1])
    found.pred_masks = soft_masks(4) if len(found) == 4 else torch.cat((soft_masks(3), torch.ones(2, 1, 28, 28)))
    return found


@pytest.mark.parametrize("size", [(60, 80), (240, 160)])
def test_both_formats_hold_the_same_masks(size: tuple[int, int]) -> None:
    found = found_instances()
    bits = to_image(found, *size, settings())
    runs = to_image(found, *size, dataclasses.replace(settings(), mask_format="rle"))
    assert len(bits) == len(runs) == 4 and bits.image_size == size  # the empty box is gone
    for mask, rle in zip(bits.pred_masks, runs.pred_masks, strict=True):
        assert np.array_equal(mask_utils.decode(rle).astype(bool), mask.numpy())
    scale = torch.tensor([size[1] / 80, size[0] / 60] * 2)
    assert torch.allclose(bits.pred_boxes.tensor, torch.tensor(BOXES[:4]) * scale)


def test_small_masks_go() -> None:
    """MIN_AREA is in px of the network input, whatever the size of the image."""
    for size in ((60, 80), (240, 320)):
        kept = to_image(found_instances(), *size, settings().override(min_area=2))
        assert kept.pred_classes.tolist() == [0, 1, 2]  # the 1 px one is gone


def test_nothing_found() -> None:
    nothing = to_image(found_instances()[torch.zeros(5, dtype=torch.bool)], 30, 40, settings())
    assert len(nothing) == 0 and nothing.pred_masks.shape == (0, 30, 40)
