"""Target assignment: golden vectors, and an independent slow painter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.modeling.targets import (
    assign_cells,
    grid_shape,
    level_membership,
    object_geometry,
    paint_grid,
    sample_cells,
)

GRIDS, STRIDES = [36, 18, 9, 5], [8, 16, 32, 64]
RANGES = [[1, 128], [64, 256], [128, 512], [256, 3072]]


def label_map_of(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Label map with boxes row, column, height, width; later ones lie on top."""
    label_map = torch.zeros(size, dtype=torch.int64)
    for label, (row, col, height, width) in enumerate(boxes, start=1):
        label_map[row : row + height, col : col + width] = label
    return label_map


def assign(label_map: torch.Tensor, image_size: tuple[int, int]) -> list[torch.Tensor]:
    shapes = [grid_shape(g, *image_size) for g in GRIDS]
    geometry = object_geometry(label_map, int(label_map.max()))
    flat = assign_cells(geometry, image_size, shapes, STRIDES, RANGES, 0.75)
    return [part.view(shape) for part, shape in zip(flat.split([r * c for r, c in shapes]), shapes, strict=True)]


def levels_of(label_map: torch.Tensor) -> list[dict[tuple[int, int], int]]:
    """Label of each positive cell of each level."""
    return [{(int(r), int(c)): int(grid[r, c]) for r, c in grid.nonzero()} for grid in assign(label_map, (512, 768))]


def block(label: int, rows: range, cols: range) -> dict[tuple[int, int], int]:
    return {(r, c): label for r in rows for c in cols}


def test_golden_vectors() -> None:
    apart = label_map_of((64, 96), (5, 5, 10, 10), (30, 40, 20, 30))
    sides = object_geometry(apart, 2).sizes * torch.tensor([511, 767])
    assert sides.prod(1).sqrt().tolist() == pytest.approx([80.92, 198.22], abs=0.01)
    assert sides.amin(1).tolist() == pytest.approx([80.74, 162.22], abs=0.01)
    assert levels_of(apart) == [
        block(1, range(3, 5), range(3, 5)),
        {(2, 2): 1, **block(2, range(6, 9), range(8, 12))},
        {(3, 4): 2, (3, 5): 2},
        {},
    ]
    nested = label_map_of((64, 96), (20, 30, 20, 30), (28, 42, 4, 6))
    assert levels_of(nested) == [
        {(11, 16): 2, (11, 17): 2},
        block(1, range(4, 7), range(6, 10)),
        {(2, 3): 1, (2, 4): 1},
        {},
    ]


def test_grid_shapes() -> None:
    shapes = [grid_shape(g, 2048, 3072) for g in (144, 72, 36, 18)]
    assert shapes == [(96, 144), (48, 72), (24, 36), (12, 18)]
    assert sum(r * c for r, c in shapes) == 18360  # as published
    assert grid_shape(18, 1, 96) == (1, 18) and grid_shape(18, 96, 1) == (18, 1)
    assert grid_shape(18, 1, 96, square=True) == (18, 18)


@pytest.mark.parametrize(
    ("scale", "levels"),
    [
        *((63.0, [0]), (64.0, [0, 1]), (128.0, [0, 1, 2]), (128.5, [1, 2])),
        *((256.0, [1, 2, 3]), (257.0, [2, 3]), (900.0, [2, 3])),
    ],
)
def test_level_bounds_are_inclusive_and_the_last_two_are_open(scale: float, levels: list[int]) -> None:
    sizes = torch.full((1, 2), scale / 1023, dtype=torch.float64)
    assert level_membership(sizes, (1024, 1024), STRIDES, RANGES)[:, 0].nonzero()[:, 0].tolist() == levels


def test_long_thin_object_goes_to_the_level_of_its_thickness() -> None:
    sizes = torch.tensor([[20, 3600]], dtype=torch.float64) / 2047  # scale 268 > 256, thickness 20 in 16..32
    assert level_membership(sizes, (2048, 2048), STRIDES, RANGES)[1, 0]


def test_the_rule_of_solov2_is_the_ranges_alone() -> None:
    """Below the first range, above the last, and thinner than the stride: no exceptions."""
    ranges, strides = [[10, 32], [16, 64], [32, 128]], [8, 16, 32]
    sides = [(4, 4), (20, 20), (32, 32), (500, 500), (4, 900)]  # scale 4, 20, 32, 500, 60
    sizes = torch.tensor(sides, dtype=torch.float64) / 1023
    seen = level_membership(sizes, (1024, 1024), strides, ranges, "range").T.tolist()
    assert seen == [[False] * 3, [True, True, False], [True] * 3, [False] * 3, [False, True, True]]
    own = level_membership(sizes, (1024, 1024), strides, ranges, "ramses").T.tolist()
    assert own == [[True, False, False], [True, True, False], [True] * 3, [False, True, True], [False, True, True]]


def slow_paint(geometry, labels, shape, factor):  # noqa: ANN001, ANN202  as the original does
    grid = np.zeros(shape, np.int64)
    areas = geometry.sizes.prod(1).tolist()
    for i in sorted(range(len(labels)), key=lambda i: -areas[i]):
        (cx, cy), (dx, dy) = geometry.centers[i].tolist(), geometry.sizes[i].tolist()
        for r in range(shape[0]):
            for c in range(shape[1]):
                x, y = shape[0] - 1, shape[1] - 1
                in_rows = x * (cx - 0.5 * factor * dx) <= r <= x * (cx + 0.5 * factor * dx)
                in_cols = y * (cy - 0.5 * factor * dy) <= c <= y * (cy + 0.5 * factor * dy)
                if in_rows and in_cols:
                    grid[r, c] = labels[i]
        grid[min(round(x * cx), x), min(round(y * cy), y)] = labels[i]
    return grid


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12), factor=st.sampled_from([0.1, 0.35, 0.75, 1.0]))
def test_painting_equals_the_slow_painter(seed: int, count: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.hstack((rng.integers(0, (40, 56), (count, 2)), rng.integers(2, 20, (count, 2))))
    label_map = label_map_of((48, 64), *boxes.tolist()).numpy()
    present = np.unique(label_map[label_map > 0])
    label_map = np.searchsorted(np.concatenate(([0], present)), label_map)
    geometry = object_geometry(torch.from_numpy(label_map), len(present))
    areas = geometry.sizes.prod(1)
    if len(areas.unique()) < len(areas):
        return  # ties: the original's order is unspecified
    labels = torch.arange(1, len(present) + 1)
    painted = paint_grid(geometry, labels, (11, 15), factor)
    np.testing.assert_array_equal(painted.numpy(), slow_paint(geometry, labels.tolist(), (11, 15), factor))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_assignment_follows_a_renaming_of_the_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [(10 * label, int(rng.integers(0, 60)), 5 + label, 5 + 3 * label) for label in range(1, 6)]
    label_map, order = label_map_of((64, 96), *boxes).numpy(), np.concatenate(([0], rng.permutation(5) + 1))
    before, after = (
        torch.cat([grid.flatten() for grid in assign(torch.from_numpy(labels), (512, 768))])
        for labels in (label_map, order[label_map])
    )
    assert torch.equal(torch.from_numpy(order)[before], after)


def test_no_objects_and_a_label_without_pixels() -> None:
    geometry = object_geometry(torch.zeros(8, 8, dtype=torch.int64), 0)
    flat = assign_cells(geometry, (64, 64), [(4, 4), (2, 2)], [8, 16], [[1, 64], [32, 99]], 0.5)
    assert flat.shape == (20,) and not flat.any()
    for num_objects in (1, 3):
        with pytest.raises(ValueError, match="exactly the labels"):
            object_geometry(label_map_of((8, 8), (0, 0, 1, 1), (0, 0, 1, 1)), num_objects)


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=20), limit=st.integers(1, 200), seed=st.integers(0, 99))
def test_sampling_keeps_every_object_while_there_is_room(counts: list[int], limit: int, seed: int) -> None:
    torch.manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(1, len(counts) + 1), torch.tensor(counts))
    kept = sample_cells(labels, limit)
    assert len(kept) == min(limit, sum(counts)) and len(kept.unique()) == len(kept)
    assert len(labels[kept].unique()) == min(len(counts), limit)


def test_800_objects_are_assigned_at_once() -> None:
    boxes = [(12 * (index // 40), 9 * (index % 40), 8, 7) for index in range(800)]
    geometry = object_geometry(label_map_of((256, 384), *boxes), 800)
    shapes = [grid_shape(g, 2048, 3072) for g in (144, 72, 36, 18)]
    flat = assign_cells(geometry, (2048, 3072), shapes, STRIDES, RANGES, 0.75)
    assert len(flat[flat > 0].unique()) == 800
