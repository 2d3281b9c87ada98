"""From network outputs to Instances."""

from __future__ import annotations

import dataclasses

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.postprocess import (
    GridFrame,
    GridInstances,
    InferenceSettings,
    grid_instances,
    paste_in_box,
    sampling_offset,
    select_cells,
    to_instances,
)

SETTINGS = InferenceSettings(
    score_thresh=0.1, use_point_nms=False, pre_nms_topk=100, mask_thresh=0.5, mask_scoring=False, min_area=0,
    nms="greedy", nms_thresh=0.5, nms_sigma=0.5, nms_min_score=0.05, nms_class_agnostic=True, binary_mass_masks=True,
    mask_format="bitmask", max_detections=100,
)  # fmt: skip
RLE = dataclasses.replace(SETTINGS, mask_format="rle")


def test_settings_of_a_call() -> None:
    changed = SETTINGS.override(score_threshold=0.3, nms_threshold=0.4, max_detections=0, point_nms=True)
    expected = {"score_thresh": 0.3, "nms_thresh": 0.4, "max_detections": 0, "use_point_nms": True}
    assert changed == dataclasses.replace(SETTINGS, **expected)
    changed = dataclasses.replace(SETTINGS, nms="soft").override(nms_threshold=0.0, use_binary_masks=False)
    assert (changed.nms_thresh, changed.nms_min_score, changed.binary_mass_masks) == (0.5, 0.0, False)
    assert SETTINGS.override(min_area=3, seg_threshold=1.0).min_area == 3 and SETTINGS.override() == SETTINGS
    for wrong in ({"score_threshold": 1.1}, {"seg_threshold": -0.1}, {"nms_threshold": 2}, {"min_area": -1}):
        with pytest.raises(RamsesError, match=next(iter(wrong))):
            SETTINGS.override(**wrong)
    for key, value in (("NMS", "fuzzy"), ("MASK_FORMAT", "polygon")):
        with pytest.raises(RamsesError, match=f"TEST.{key} .*{value}"):
            dataclasses.replace(SETTINGS, **{key.lower(): value})


def blob_masks(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth probability maps with a blob each."""
    rng = np.random.default_rng(seed)
    rows, cols = np.ogrid[:height, :width]
    center, radius = rng.uniform(0, 1, (count, 2)) * (height, width), rng.uniform(1, 6, count)
    distance = np.stack([np.hypot(rows - r, cols - c) - s for (r, c), s in zip(center, radius, strict=True)])
    return torch.from_numpy(1 / (1 + np.exp(distance))).float()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), stride=st.sampled_from([2, 4, 8]), enlarge=st.sampled_from([0.4, 1.0, 1.37, 3.0]))
def test_pasting_in_the_box_equals_enlarging_the_whole_mask(seed: int, stride: int, enlarge: float) -> None:
    mask = blob_masks(1, 16, 24, seed)[0]
    in_height, in_width = 15 * stride, 23 * stride  # the last row and column of the grid are padding
    height, width = round(in_height * enlarge), round(in_width * enlarge)
    frame = GridFrame(height, width, in_height / height / stride, in_width / width / stride)
    crop, x, y = paste_in_box(mask, frame, 0.5)
    pasted = np.zeros((height, width), bool)
    pasted[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    rows = (torch.arange(height) + 0.5) * frame.step_y * 2 / 16 - 1
    cols = (torch.arange(width) + 0.5) * frame.step_x * 2 / 24 - 1
    grid = torch.stack(torch.meshgrid(cols, rows, indexing="xy"), dim=-1)
    whole = F.grid_sample(mask[None, None], grid[None], align_corners=False, padding_mode="border")[0, 0]
    certain = (whole - 0.5).abs() > 1e-4  # a rounding error may decide the rest
    np.testing.assert_array_equal(pasted[certain.numpy()], (whole >= 0.5).numpy()[certain.numpy()])


def test_soft_masks_are_enlarged_before_thresholding_and_may_vanish() -> None:
    ramp = torch.linspace(0, 1, 5).expand(4, 5)
    crop, x, _ = paste_in_box(ramp, GridFrame(40, 50, 0.1, 0.1), 0.5)
    assert (x, crop.shape[1]) == (25, 25)  # a block of whole grid pixels would start at 20
    assert paste_in_box(torch.zeros(4, 4), GridFrame(8, 8, 0.5, 0.5), 0.5)[0].size == 0
    assert [sampling_offset(stride) for stride in (1, 2, 3, 8)] == [0, 0.25, 0, 0.0625]


def test_both_formats_agree_and_boxes_are_those_of_the_masks() -> None:
    masks = blob_masks(6, 16, 24, seed=3)
    found = GridInstances(masks, torch.linspace(0.9, 0.4, 6), torch.arange(6), None)
    bits, rles = (to_instances(found, GridFrame(96, 144, 1 / 6, 1 / 6), torch.arange(6.0), s) for s in (SETTINGS, RLE))
    assert bits.image_size == (96, 144) and bits.pred_masks.dtype == torch.bool and len(bits) == len(rles) == 6
    for mask, rle, box in zip(bits.pred_masks, rles.pred_masks, bits.pred_boxes.tensor, strict=True):
        np.testing.assert_array_equal(mask.numpy(), mask_utils.decode(rle).astype(bool))
        rows, cols = mask.nonzero(as_tuple=True)
        assert box.tolist() == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
    assert torch.equal(rles.pred_boxes.tensor, bits.pred_boxes.tensor)
    subset = rles[rles.scores > 0.5]
    assert len(subset.pred_masks) == len(subset) == 4


@pytest.mark.parametrize("options", [SETTINGS, RLE], ids=["bitmask", "rle"])
def test_nothing_found_has_the_right_fields(options: InferenceSettings) -> None:
    outputs = torch.zeros(20, 3), torch.zeros(20, 4), torch.zeros(20), torch.zeros(4, 6, 8), torch.zeros(6, 8)
    nothing = grid_instances(*outputs, [(4, 5)], options)
    result = to_instances(nothing, GridFrame(48, 64, 1 / 8, 1 / 8), nothing.masses, options)
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)
    assert result.pred_classes.dtype == torch.int64 and result.pred_masses.dtype == torch.float32
    assert options is RLE or result.pred_masks.shape == (0, 48, 64)


def test_cells_are_capped_by_score_before_any_mask() -> None:
    probabilities = torch.zeros(12, 2)
    probabilities[[3, 5, 7], [0, 1, 0]] = torch.tensor([0.5, 0.9, 0.7])
    cells, scores, classes = select_cells(probabilities, [(3, 4)], 0.1, 2, False)
    assert cells.tolist() == [5, 7] and classes.tolist() == [1, 0] and scores.tolist() == pytest.approx([0.9, 0.7])
    assert select_cells(probabilities, [(3, 4)], 0.9, 9, False)[0].tolist() == [5]  # the threshold is inclusive
    assert select_cells(probabilities, [(3, 4)], 0.1, 0, False)[0].tolist() == [5, 7, 3]  # 0 = all


def test_point_nms_works_within_each_level() -> None:
    probabilities = torch.zeros(8, 1)
    probabilities[[0, 1, 4], 0] = torch.tensor([0.9, 0.8, 0.7])  # 0 and 1 are neighbours, 4 is on the next level
    assert select_cells(probabilities, [(2, 2), (2, 2)], 0.1, 9, True)[0].tolist() == [0, 4]


def two_blocks() -> tuple[torch.Tensor, torch.Tensor]:
    """Mask features of two rectangles, and kernels that pick one each (the third cell repeats the first)."""
    features = torch.full((2, 6, 8), -9.0)
    features[0, 1:3, 1:4], features[1, 4:6, 2:8] = 9.0, 9.0
    return features, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.99, 0.0]])


def test_masks_masses_and_suppression() -> None:
    features, kernels = two_blocks()
    probabilities, factors = torch.tensor([[0.8, 0.1], [0.2, 0.6], [0.7, 0.0]]), torch.tensor([2.0, 1.0, 9.0])
    found = grid_instances(probabilities, kernels, factors, features, torch.full((6, 8), 0.5), [(1, 3)], SETTINGS)
    assert found.classes.tolist() == [0, 1] and found.scores.tolist() == pytest.approx([0.8, 0.6])
    assert found.masses.tolist() == pytest.approx([2 * 6 * 0.5, 12 * 0.5])


def test_soft_masses_mask_scores_and_min_area() -> None:
    features, kernels = two_blocks()
    features[0, 1:3, 1:4] = 0.0  # probability one half inside the first
    probabilities = torch.tensor([[0.8, 0.1], [0.2, 0.6], [0.0, 0.0]])
    options = dataclasses.replace(SETTINGS, mask_scoring=True, binary_mass_masks=False, min_area=6)
    arguments = (probabilities, kernels, torch.ones(3), features, torch.ones(6, 8), [(1, 3)])
    found = grid_instances(*arguments, options)
    assert found.classes.tolist() == [1]  # six pixels are not more than six
    found = grid_instances(*arguments, dataclasses.replace(options, min_area=5))
    assert found.scores.tolist() == pytest.approx([0.6, 0.4], abs=1e-3)
    assert found.masses.tolist() == pytest.approx([12.0, 3.0], abs=0.02)
