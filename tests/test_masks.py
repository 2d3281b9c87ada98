"""RLE inside a box equals pycocotools' encoding of the whole image."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.structures import Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ramses_d2.masks import RLEMasks, decode_in_box, encode_in_box, encode_label_map, paint_segmentations


@st.composite
def boxed_masks(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int, int]:
    """A mask, its place and the image's size; often as high as the image, where runs cross columns."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    h = draw(st.sampled_from([0, height, height])) if draw(st.booleans()) else draw(st.integers(0, height))
    w = draw(st.integers(0, width))
    y0, x0 = draw(st.integers(0, height - h)), draw(st.integers(0, width - w))
    mask = draw(st.one_of(hnp.arrays(bool, (h, w)), st.just(np.ones((h, w), dtype=bool))))
    return mask, x0, y0, height, width


@settings(deadline=None, max_examples=300)
@given(boxed_masks())
def test_in_box_equals_pycocotools(case: tuple[np.ndarray, int, int, int, int]) -> None:
    mask, x0, y0, height, width = case
    h, w = mask.shape
    full = np.zeros((height, width), dtype=np.uint8, order="F")
    full[y0 : y0 + h, x0 : x0 + w] = mask
    rle = encode_in_box(mask, x0, y0, height, width)
    assert rle == mask_utils.encode(full)
    np.testing.assert_array_equal(decode_in_box(rle, x0, y0, x0 + w, y0 + h), mask)
    np.testing.assert_array_equal(decode_in_box(rle, 0, 0, width, height), full)


def test_large_image_equals_pycocotools() -> None:
    full = np.zeros((700, 900), dtype=np.uint8, order="F")
    full[100:650, 200:800] = np.random.random((550, 600)) < 0.5
    assert encode_in_box(full[100:650, 200:800], 200, 100, 700, 900) == mask_utils.encode(full)


@pytest.mark.parametrize(("x0", "y0"), [(-1, 0), (0, -1), (7, 0), (0, 7)])
def test_box_outside_the_image_is_refused(x0: int, y0: int) -> None:
    with pytest.raises(ValueError, match="not inside"):
        encode_in_box(np.ones((4, 4), dtype=bool), x0, y0, 10, 10)


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 5)))
def test_label_map_round_trips(label_map: np.ndarray) -> None:
    labels = [3, 1, 5, 2]
    for label, rle in zip(labels, encode_label_map(label_map, labels), strict=True):
        assert np.array_equal(mask_utils.decode(rle), label_map == label)
    assert encode_label_map(label_map, []) == []


def test_rle_masks_index_like_a_tensor() -> None:
    rles = encode_label_map(np.arange(12).reshape(3, 4), range(1, 5))
    masks = RLEMasks(rles)
    assert masks[1] == masks[-3] == rles[1]
    assert masks[torch.tensor(1)] == rles[1]
    for index in ([True, False, True, False], torch.tensor([True, False, True, False]), np.array([0, 2])):
        assert masks[index] == [rles[0], rles[2]]
    assert masks[torch.tensor([3, 0, 0])] == [rles[3], rles[0], rles[0]]
    assert masks[1:3] == rles[1:3]
    assert masks[torch.zeros(0, dtype=torch.int64)] == masks[[]] == []
    for subset in (masks[1:3], masks[[]], masks[torch.tensor([1])]):
        assert isinstance(subset, RLEMasks)
    with pytest.raises(IndexError):
        masks[torch.tensor([True])]

    instances = Instances((3, 4), pred_masks=masks, scores=torch.tensor([0.1, 0.9, 0.8, 0.2]))
    best = instances[instances.scores > 0.5]
    assert best.pred_masks == rles[1:3]
    assert best[torch.tensor([1])].pred_masks == [rles[2]]
    assert best[0].pred_masks == [rles[1]]


CORNERS = st.lists(st.tuples(st.floats(-3, 23), st.floats(-3, 18)), min_size=3, max_size=6)


@settings(deadline=None, max_examples=100)
@given(st.lists(CORNERS, min_size=1, max_size=2))
def test_polygons_in_their_box_equal_the_whole_image(corners: list[list[tuple[float, float]]]) -> None:
    height, width = 15, 20
    polygons = [np.ravel(polygon).tolist() for polygon in corners]
    expected = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width)))
    assert np.array_equal(paint_segmentations([polygons], [1], (height, width)), expected)


def test_later_segmentations_cover_earlier_ones() -> None:
    large = [[1, 1, 9, 1, 9, 9, 1, 9]]
    small = mask_utils.encode(np.asfortranarray(np.pad(np.ones((2, 3), np.uint8), ((3, 5), (4, 5)))))
    uncompressed = {"size": [10, 12], "counts": [0, 1, 119]}
    label_map = paint_segmentations([large, small, uncompressed], [1, 2, 3], (10, 12))
    assert (label_map[3:5, 4:7] == 2).all() and label_map[0, 0] == 3
    assert np.count_nonzero(label_map == 1) == 64 - 6
