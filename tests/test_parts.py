"""Parts, areas and boxes from runs are those that scikit-image finds from the pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label as measure_label
from skimage.measure import regionprops

from ramses_d2.masks import PARTICLE_COLUMNS, find_parts, measure_particles, without_small_components

COLUMNS = PARTICLE_COLUMNS
label_maps = hnp.arrays(
    np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 0, 1, 2, 7])
)


def measured(label_map: np.ndarray) -> dict[int, dict[str, int]]:
    """Label -> its measures by name."""
    table = measure_particles(find_parts(label_map))
    return {int(row[0]): dict(zip(COLUMNS, row.tolist(), strict=True)) for row in table}


@given(label_maps)
@settings(max_examples=200, deadline=None)
def test_parts_and_measures(label_map: np.ndarray) -> None:
    parts = find_parts(label_map)
    painted = np.zeros(label_map.size, int)
    for start, length, part in zip(parts.start, parts.length, parts.part, strict=True):
        painted[start : start + length] = part + 1
    expected = measure_label(label_map, connectivity=2, background=0).ravel()
    pairs = set(zip(painted.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})

    found = measured(label_map)
    assert sorted(found) == np.unique(label_map[label_map > 0]).tolist()
    for region in regionprops(label_map.astype(int)):
        values = found[region.label]
        assert values["area"] == region.area
        assert (values["top"], values["left"], values["bottom"], values["right"]) == region.bbox
        own = regionprops(measure_label(label_map == region.label, connectivity=2))
        assert values["parts"] + values["small"] == len(own)
        largest = max(own, key=lambda each: each.area)
        assert values["body_area"] == largest.area
        body = tuple(values[f"body_{side}"] for side in ("top", "left", "bottom", "right"))
        assert body in [each.bbox for each in own if each.area == largest.area]


@given(label_maps)
@settings(max_examples=100, deadline=None)
def test_without_specks_nothing_else_changes(label_map: np.ndarray) -> None:
    before = label_map.copy()
    cleaned = without_small_components(label_map)
    np.testing.assert_array_equal(label_map, before)
    old, new = measured(label_map), measured(cleaned)
    assert old.keys() == new.keys()
    for label, values in old.items():
        assert new[label]["area"] == values["area"] - values["small_pixels"]
        assert (new[label]["parts"], new[label]["small"]) == (values["parts"], 0)
    assert (cleaned[cleaned > 0] == label_map[cleaned > 0]).all()


def squares(*sides: int) -> np.ndarray:
    """One particle, 5, of squares beside each other."""
    label_map = np.zeros((max(sides), sum(sides) + len(sides)), np.uint16)
    left = 0
    for side in sides:
        label_map[:side, left : left + side] = 5
        left += side + 1
    return label_map


def test_what_a_speck_is() -> None:
    cases = {
        (20, 3): (1, 1, 9),  # few pixels beside a large body
        (20, 4): (2, 0, 0),  # 16 of 400 px: a part
        (50, 5): (1, 1, 25),  # 1 % of the body
        (50, 6): (2, 0, 0),
        (4, 3): (2, 0, 0),  # few pixels, but the body has not many more
        (20, 2, 2, 10): (2, 2, 8),
        (3,): (1, 0, 0),  # the body is no speck, however small
    }
    for sides, expected in cases.items():
        values = measured(squares(*sides))[5]
        assert (values["parts"], values["small"], values["small_pixels"]) == expected, sides


def test_touching_at_a_corner_is_connected_and_rows_do_not_wrap() -> None:
    label_map = np.array([[1, 0, 2], [0, 1, 0], [2, 0, 0]], np.uint16)
    assert measured(label_map)[1]["parts"] == 1
    label_map = np.zeros((4, 40), np.uint16)
    label_map[0, 25:], label_map[1, :15] = 3, 3  # the right end of a row and the left end of the next
    assert measured(label_map)[3]["parts"] == 2


def test_an_empty_image() -> None:
    assert measure_particles(find_parts(np.zeros((3, 4), np.uint16))).shape == (0, len(COLUMNS))
