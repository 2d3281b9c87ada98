"""Cell statistics on objects whose cells can be counted by hand, and suggestions that fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ramses_d2.data.preview import Assignment, MappedImage, assignment_statistics, suggest_assignment
from ramses_d2.modeling.targets import object_geometry


def image(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 64), stride: int = 4) -> MappedImage:
    """Squares (row, col, height, width) on the mask grid."""
    label_map = torch.zeros(size[0] // stride, size[1] // stride, dtype=torch.int64)
    for label, (row, col, height, width) in enumerate(boxes, start=1):
        label_map[row : row + height, col : col + width] = label
    return MappedImage(object_geometry(label_map, len(boxes)), size)


ONE = Assignment(strides=(4,), grid_sizes=(8,), scale_ranges=((1, 64),), offset_factor=0.5)


def test_counts_by_hand() -> None:
    """Two small objects apart: a centre cell each, none contested."""
    found = assignment_statistics([image((1, 1, 2, 2), (10, 10, 2, 2)), image((4, 4, 2, 2))], ONE)
    assert (len(found.positives), len(found.scales), found.objects_without_cell) == (2, 3, 0)
    assert (
        found.levels["cells"].tolist() == [3]
        and found.levels["contested"].tolist() == [0]
        and found.levels["lost"].tolist() == [0]
    )
    assert found.positives == [2, 1] and found.share_with_cell == 1
    assert found.scales == pytest.approx([2 / 15 * 63] * 3) and found.memberships.tolist() == [1, 1, 1]


def test_an_object_whose_cell_goes_to_a_smaller_one_is_counted() -> None:
    """Two objects around one centre cell: the smaller box has it."""
    coarse = dataclasses.replace(ONE, grid_sizes=(2,))
    found = assignment_statistics([image((2, 2, 2, 3), (5, 2, 2, 2))], coarse)
    assert (
        found.levels["lost"].tolist() == [1]
        and found.levels["contested"].tolist() == [1]
        and found.objects_without_cell == 1
    )
    assert found.share_with_cell == 0.5


def test_an_object_outside_every_range_has_no_level() -> None:
    out_of_range = Assignment((4,), (8,), ((1, 4),), 0.5, level_rule="range")
    found = assignment_statistics([image((1, 1, 6, 6))], out_of_range)
    assert (
        found.levels["objects"].tolist() == [0]
        and found.objects_without_cell == 1
        and found.memberships.tolist() == [0]
    )


def test_images_without_objects() -> None:
    found = assignment_statistics([image()], ONE)
    assert len(found.scales) == 0 and np.isnan(found.share_with_cell) and found.to_json()["scale_px"] == {}
    with pytest.raises(ValueError, match="no object"):
        suggest_assignment([image()], ONE)


def test_suggested_grids_give_crowded_objects_cells() -> None:
    """A grid of 4 cells loses most of 64 touching objects; the suggestion does not."""
    crowd = image(*((r, c, 4, 4) for r in range(0, 32, 4) for c in range(0, 32, 4)), size=(128, 128))
    poor = Assignment((4, 8), (4, 2), ((1, 8), (4, 999)), 0.75)
    assert assignment_statistics([crowd], poor).share_with_cell < 0.5
    suggested = suggest_assignment([crowd], poor)
    assert assignment_statistics([crowd], suggested).share_with_cell >= 0.995
    assert suggested.strides == poor.strides and suggested.offset_factor == poor.offset_factor
    low, high = suggested.scale_ranges
    assert (
        low[0] == 1 and high[0] == low[1] // 2 and high[1] >= 128 and suggested.grid_sizes[0] >= suggested.grid_sizes[1]
    )
