"""Cell statistics on objects whose cells can be counted by hand, and suggestions that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ramses_d2.data.preview import (
    Assignment,
    AssignmentStatistics,
    MappedImage,
    assignment_statistics,
    scale_plot,
    suggest_assignment,
)
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.targets import object_geometry

ONE = Assignment(strides=(4,), grid_sizes=(8,), scale_ranges=((1, 64),), offset_factor=0.5)


def image(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> MappedImage:
    """Boxes (row, col, height, width) on a mask grid of stride 4."""
    label_map = torch.zeros(size[0] // 4, size[1] // 4, dtype=torch.int64)
    for label, (row, col, height, width) in enumerate(boxes, start=1):
        label_map[row : row + height, col : col + width] = label
    return MappedImage(object_geometry(label_map, len(boxes)), size)


def counts(found: AssignmentStatistics) -> list[list[int]]:
    """Objects, lost, cells and contested cells of each level."""
    return found.levels[["objects", "lost", "cells", "contested"]].to_numpy().tolist()


def test_counts_by_hand() -> None:
    """Small objects apart have a centre cell each; of two around one cell, the smaller box has it."""
    found = assignment_statistics([image((1, 1, 2, 2), (10, 10, 2, 2)), image((4, 4, 2, 2))], ONE)
    assert counts(found) == [[3, 0, 3, 0]] and found.objects_without_cell == 0 and found.share_with_cell == 1
    assert found.positives == [2, 1] and found.scales == pytest.approx([2 / 15 * 63] * 3)
    assert found.memberships.tolist() == [1, 1, 1]
    assert found.to_json()["positives_per_picture"] == {"mean": 1.5, "max": 2}
    found = assignment_statistics([image((2, 2, 2, 3), (5, 2, 2, 2))], replace(ONE, grid_sizes=(2,)))
    assert counts(found) == [[2, 1, 1, 1]] and found.objects_without_cell == 1 and found.share_with_cell == 0.5


def test_objects_of_no_level_and_of_several() -> None:
    found = assignment_statistics([image((1, 1, 6, 6))], replace(ONE, scale_ranges=((1, 4),), level_rule="range"))
    assert counts(found) == [[0, 0, 0, 0]] and found.objects_without_cell == 1 and found.memberships.tolist() == [0]
    both = Assignment((4, 8), (8, 4), ((1, 64), (1, 64)), 0.5)
    found = assignment_statistics([image((1, 1, 6, 6))], both)
    assert found.memberships.tolist() == [3] and len(found.scales) == 1 and found.objects_without_cell == 0
    assert found.positives == [found.levels["cells"].sum()]
    legend = scale_plot(found, both, ["p2", "p3"]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["p2 + p3"]


def test_images_without_objects() -> None:
    found = assignment_statistics([image()], ONE)
    assert len(found.scales) == 0 and np.isnan(found.share_with_cell) and found.to_json()["scale_px"] == {}
    with pytest.raises(RamsesError, match="no object"):
        suggest_assignment([image()], ONE)


def test_suggested_grids_give_crowded_objects_cells() -> None:
    """A grid of 4 cells loses most of 64 touching objects; the suggestion does not."""
    crowd = image(*((r, c, 4, 4) for r in range(0, 32, 4) for c in range(0, 32, 4)), size=(128, 128))
    poor = Assignment((4, 8), (4, 2), ((1, 8), (4, 999)), 0.75)
    assert assignment_statistics([crowd], poor).share_with_cell < 0.5
    assert assignment_statistics([crowd], suggest_assignment([crowd], poor)).share_with_cell >= 0.995


def test_a_suggestion_by_hand() -> None:
    """Twice 4.0, 20 times 16.2, 24 times 32.4 and once 62.7 px, of which the smallest two are neighbours."""
    boxes = [(r, c, 4, 4) for r in (0, 6) for c in range(0, 60, 6)] + [(56, 40, 1, 1), (56, 41, 1, 1), (52, 0, 12, 20)]
    boxes += [(r, c, 8, 8) for r in (12, 22, 32, 42) for c in range(0, 60, 10)]
    poor = Assignment((4, 8), (4, 2), ((1, 8), (4, 999)), 0.25)
    # Twice 16.2 to the next 8 px; half of 16.2 and of 32.4 to the next 4 cells, and 4 more for the neighbours
    wanted = replace(poor, scale_ranges=((1, 40), (20, 256)), grid_sizes=(36, 16))
    assert suggest_assignment([image(*boxes, size=(256, 256))], poor) == wanted
