"""Detectron2's Visualizer draws our predictions, whichever format their masks have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from ramses_d2.masks import RLEMasks, encode_label_map

HEIGHT, WIDTH = 60, 90
BOXES = [[5, 5, 35, 30], [45, 20, 80, 55]]


def predict(mask_format: str, count: int) -> Instances:
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    for index, (x0, y0, x1, y1) in enumerate(BOXES[:count]):
        labels[y0:y1, x0:x1] = index + 1
    dense = torch.from_numpy(labels.astype(np.int64) == np.arange(1, count + 1)[:, None, None])
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(BOXES[:count], dtype=torch.float32).reshape(-1, 4)),
        scores=torch.linspace(0.9, 0.6, count),
        pred_classes=torch.arange(count),
        pred_masses=torch.ones(count),
        pred_masks=RLEMasks(encode_label_map(labels, range(1, count + 1))) if mask_format == "rle" else dense,
    )


def visualize(instances: Instances, mode: ColorMode) -> np.ndarray:
    np.random.seed(0)  # the Visualizer draws its colours
    image = np.full((HEIGHT, WIDTH, 3), (200, 100, 30), np.uint8)
    metadata = Metadata(thing_classes=["Ra", "Rb"], thing_colors=[(255, 0, 0), (0, 0, 255)])
    drawn = Visualizer(image, metadata, instance_mode=mode).draw_instance_predictions(instances.to("cpu"))
    return drawn.get_image()


@pytest.mark.parametrize("mode", list(ColorMode))
def test_both_mask_formats_give_the_same_image(mode: ColorMode) -> None:
    images = [visualize(predict(mask_format, 2), mode) for mask_format in ("bitmask", "rle")]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (HEIGHT, WIDTH, 3)
    inside, outside = images[0][40, 60].astype(int), images[0][50, 10].tolist()
    assert np.abs(inside - (200, 100, 30)).max() > 20  # tinted
    assert outside == ([110] * 3 if mode == ColorMode.IMAGE_BW else [200, 100, 30])


@pytest.mark.parametrize("mask_format", ["bitmask", "rle"])
@pytest.mark.parametrize("mode", list(ColorMode))
def test_a_image_without_particles(mask_format: str, mode: ColorMode) -> None:
    image = visualize(predict(mask_format, 0), mode)
    assert (image == ((110, 110, 110) if mode == ColorMode.IMAGE_BW else (200, 100, 30))).all()


def test_union_of_run_lengths() -> None:
    rles = predict("rle", 2).pred_masks + predict("rle", 1).pred_masks  # one of them twice
    union = RLEMasks(rles).any(dim=0)
    assert union.dtype == torch.bool
    assert torch.equal(union, predict("bitmask", 2).pred_masks.any(dim=0))
    nothing = RLEMasks().any(dim=0)
    assert nothing.shape == () and not nothing  # broadcasts to any image
    with pytest.raises(ValueError, match="dim=0"):
        RLEMasks(rles).any(dim=1)
