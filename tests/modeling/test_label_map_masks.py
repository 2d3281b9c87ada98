"""Mask targets out of a label map agree with Detectron2's, out of bit masks."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ramses_d2.modeling.mask_rcnn import LabelMapMasks


def discs(size: tuple[int, int] = (96, 140)) -> tuple[torch.Tensor, torch.Tensor]:
    """Label map of touching ellipses with labels 3, 5 and 9, and the labels; 7 is an object nobody asks for."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    label_map = torch.zeros(size, dtype=torch.int32)
    ellipses = {3: (30, 30, 22, 28), 5: (40, 75, 25, 18), 7: (80, 20, 9, 9), 9: (70, 120, 8, 19)}
    for label, (cy, cx, ry, rx) in ellipses.items():
        label_map[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = label
    return label_map, torch.tensor([3, 5, 9])


def bit_masks(masks: LabelMapMasks) -> BitMasks:
    return BitMasks(masks.label_map[None] == masks.labels[:, None, None])


@pytest.mark.parametrize("mask_size", [14, 28])
def test_crops_are_those_of_bit_masks(mask_size: int) -> None:
    masks = LabelMapMasks(*discs())
    tight = bit_masks(masks).get_bounding_boxes().tensor
    for jitter in (0.0, 4.0):  # proposals are not the true boxes, and reach into the neighbours
        boxes = tight + jitter * (torch.rand(3, 4) - 0.5)
        found, expected = masks.crop_and_resize(boxes, mask_size), bit_masks(masks).crop_and_resize(boxes, mask_size)
        assert found.dtype == torch.bool and found.shape == (3, mask_size, mask_size)
        iou = (found & expected).flatten(1).sum(1) / (found | expected).flatten(1).sum(1)
        assert iou.min() > 0.97, iou


def test_the_very_samples_of_roi_align() -> None:
    """Where ROIAlign takes 2 x 2 samples of a bin itself, nothing differs."""
    masks = LabelMapMasks(*discs())
    boxes = torch.tensor([[2.0, 8.0, 44.0, 50.0], [57.3, 15.2, 94.1, 66.7], [95.0, 60.0, 137.0, 80.6]])
    bins = (boxes[:, 2:] - boxes[:, :2]) / 14
    expected = bit_masks(masks).crop_and_resize(boxes, 14)
    different = (masks.crop_and_resize(boxes, 14) != expected).flatten(1).sum(1)
    exact = (bins.ceil() == 2).all(dim=1)
    assert (different[exact] == 0).all(), (different, bins)
    chosen = torch.tensor([0])
    boxes = torch.tensor([[10.0, 12.0, 32.0, 36.0]])
    assert torch.equal(masks[chosen].crop_and_resize(boxes, 14), bit_masks(masks[chosen]).crop_and_resize(boxes, 14))


def test_a_bin_that_is_half_object_is_set() -> None:
    label_map = torch.zeros(8, 8, dtype=torch.int32)
    label_map[:, :3] = 1
    masks, box = LabelMapMasks(label_map, torch.tensor([1])), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert masks.crop_and_resize(box, 4)[0, 0].tolist() == [True, True, False, False]
    assert torch.equal(masks.crop_and_resize(box, 4), bit_masks(masks).crop_and_resize(box, 4))


def test_selecting_copies_no_map() -> None:
    masks = LabelMapMasks(*discs())
    assert len(masks) == 3 and len(masks[1]) == 1 and masks[1].labels.tolist() == [5]
    assert masks[1:].labels.tolist() == [5, 9]
    assert masks[torch.tensor([2, 0, 0])].labels.tolist() == [9, 3, 3]
    assert masks[torch.tensor([True, False, True])].labels.tolist() == [3, 9]
    assert masks[torch.tensor([2, 0])].label_map is masks.label_map
    assert masks.to("cpu").label_map.dtype == torch.int32 and masks.device == torch.device("cpu")


def test_no_mask_at_all() -> None:
    none = LabelMapMasks(torch.zeros(8, 9, dtype=torch.int32), torch.zeros(0, dtype=torch.int64))
    assert none.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert len(none.get_bounding_boxes()) == 0 and none.nonempty().shape == (0,)


def test_boxes_and_emptiness() -> None:
    label_map, labels = discs()
    masks = LabelMapMasks(label_map, torch.cat((labels, torch.tensor([44]))))
    expected = bit_masks(masks)
    assert torch.equal(masks.get_bounding_boxes().tensor, expected.get_bounding_boxes().tensor)
    assert masks.nonempty().tolist() == expected.nonempty().tolist() == [True, True, True, False]


def test_it_is_a_field_of_instances() -> None:
    instances = Instances((96, 140), gt_boxes=Boxes(torch.zeros(3, 4)), gt_masks=LabelMapMasks(*discs()))
    assert instances[torch.tensor([2, 2, 1])].to("cpu").gt_masks.labels.tolist() == [9, 9, 5]
    assert len(instances[0].gt_masks) == 1


def test_large_boxes_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = LabelMapMasks(*discs())
    boxes = masks.get_bounding_boxes().tensor
    whole = masks.crop_and_resize(boxes, 28)
    monkeypatch.setattr("ramses_d2.modeling.mask_rcnn._CHUNK", 1)
    assert torch.equal(masks.crop_and_resize(boxes, 28), whole)
