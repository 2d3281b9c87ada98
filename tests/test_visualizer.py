"""Masks in either format, tensors and RLEs: drawn by Detectron2's Visualizer, and painted into one label image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from ramses_d2.masks import RLEMasks, encode_label_map, masks_in_boxes, paint_label_image

HEIGHT, WIDTH = 60, 90
BOXES = np.array([[5, 5, 35, 30], [45, 20, 80, 55], [50, 30, 55, 35]])


def masks_of(count, mask_format="bitmask"):
    dense = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask, (x0, y0, x1, y1) in zip(dense, BOXES, strict=False):
        mask[y0:y1, x0:x1] = True
    rles = [encode_label_map(mask.astype(np.uint16), [1])[0] for mask in dense]
    return RLEMasks(rles) if mask_format == "rle" else torch.from_numpy(dense)


def visualize(mask_format, count, mode):
    fields = {"scores": torch.linspace(0.9, 0.6, count), "pred_classes": torch.arange(count)}
    boxes = Boxes(torch.tensor(BOXES[:count], dtype=torch.float32).reshape(-1, 4))
    masks = masks_of(count, mask_format)
    instances = Instances((HEIGHT, WIDTH), pred_boxes=boxes, pred_masks=masks, pred_masses=torch.ones(count), **fields)
    np.random.seed(0)  # the Visualizer draws its colours
    image = np.full((HEIGHT, WIDTH, 3), (200, 100, 30), np.uint8)
    metadata = Metadata(thing_classes=["Ra", "Rb"], thing_colors=[(255, 0, 0), (0, 0, 255)])
    drawn = Visualizer(image, metadata, instance_mode=mode).draw_instance_predictions(instances.to("cpu"))
    return drawn.get_image()


@pytest.mark.parametrize("mode", list(ColorMode))
def test_both_mask_formats_give_the_same_image(mode):
    background = [110] * 3 if mode == ColorMode.IMAGE_BW else [200, 100, 30]
    images = [visualize(mask_format, 2, mode) for mask_format in ("bitmask", "rle")]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (HEIGHT, WIDTH, 3)
    assert np.abs(images[0][40, 60].astype(int) - (200, 100, 30)).max() > 20  # tinted
    assert images[0][50, 10].tolist() == background
    for mask_format in ("bitmask", "rle"):
        assert (visualize(mask_format, 0, mode) == background).all()


def test_union_of_rles():
    rles = masks_of(2, "rle") + masks_of(1, "rle")  # one of them twice
    union = RLEMasks(rles).any(dim=0)
    assert union.dtype == torch.bool and torch.equal(union, masks_of(2).any(dim=0))
    nothing = RLEMasks().any(dim=0)
    assert nothing.shape == () and not nothing  # broadcasts to any image
    with pytest.raises(ValueError, match="dim=1"):
        RLEMasks(rles).any(dim=1)


def paint(masks, boxes, scores):
    return paint_label_image(masks_in_boxes(masks, boxes), boxes, np.array(scores), (HEIGHT, WIDTH))


@pytest.mark.parametrize("mask_format", ["bitmask", "rle"])
def test_the_surest_instance_owns_a_pixel_whatever_the_order(mask_format):
    boxes = np.array([[5, 5, 35, 30], [20, 20, 80, 55], [25, 25, 30, 28]])
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    if mask_format == "rle":
        masks = RLEMasks(encode_label_map(mask.numpy().astype(np.uint16), [1])[0] for mask in masks)
    labels = paint(masks, boxes, [0.5, 0.9, 0.7])
    assert labels.dtype == np.uint16 and labels[22, 25] == 2 and labels[5, 5] == 1
    assert 3 not in labels  # hidden
    order = [2, 0, 1]
    shuffled = paint(masks[order], boxes[order], [0.7, 0.5, 0.9])
    np.testing.assert_array_equal(np.array([0, 3, 1, 2])[shuffled], labels)
    assert not paint(masks[[]], boxes[:0], []).any()
    with pytest.raises(ValueError, match="16-bit"):
        paint_label_image([], np.zeros((70000, 4)), np.zeros(70000), (2, 2))
