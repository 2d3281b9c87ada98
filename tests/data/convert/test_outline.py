"""Masks as COCO segmentations."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from ramses_d2.data.convert.coco import coco_segmentation
from ramses_d2.data.images import paint_outlines

SHAPE = (40, 50)


def full(mask: np.ndarray, x0: int, y0: int) -> np.ndarray:
    image = np.zeros(SHAPE, dtype=bool)
    image[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
    return image


def decoded(segmentation: object) -> np.ndarray:
    """As pycocotools.COCO.annToMask."""
    rle = segmentation
    if isinstance(segmentation, list):
        rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, *SHAPE))
    return mask_utils.decode(rle).astype(bool)


@settings(max_examples=300, deadline=None)
@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(lambda mask: mask.any()),
    x0=st.integers(0, 38),
    y0=st.integers(0, 28),
)
def test_every_mask_comes_back_exactly(mask, x0, y0):
    segmentation, exact = coco_segmentation(mask, x0, y0, SHAPE)
    assert exact
    np.testing.assert_array_equal(decoded(segmentation), full(mask, x0, y0))
    np.testing.assert_array_equal(paint_outlines([segmentation], [1], SHAPE), full(mask, x0, y0))
    rle, exact = coco_segmentation(mask, x0, y0, SHAPE, "rle")
    assert exact and isinstance(rle["counts"], str)
    np.testing.assert_array_equal(decoded(rle), full(mask, x0, y0))


@settings(max_examples=200, deadline=None)
@given(mask=arrays(bool, (14, 16)))
def test_what_has_no_hole_is_a_polygon(mask):
    # Without thin spots, as outlines of things are
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(ndimage.binary_dilation(mask), np.ones((2, 2))))
    if mask.any():
        segmentation, _ = coco_segmentation(mask, 3, 4, SHAPE)
        assert isinstance(segmentation, list)


def test_holes_need_run_lengths():
    mask = np.ones((8, 9), dtype=bool)
    mask[3:5, 4:6] = False
    segmentation, exact = coco_segmentation(mask, 1, 2, SHAPE)
    assert isinstance(segmentation, dict) and exact
    polygons, exact = coco_segmentation(mask, 1, 2, SHAPE, "polygons")
    assert not exact and len(polygons) == 1
    np.testing.assert_array_equal(decoded(polygons), full(np.ones((8, 9), dtype=bool), 1, 2))


@pytest.mark.parametrize(("x0", "y0"), [(0, 0), (44, 0), (0, 35), (44, 35)])
def test_a_rectangle_at_the_border_is_one_polygon_inside_the_image(x0, y0):
    polygons, exact = coco_segmentation(np.ones((5, 6), dtype=bool), x0, y0, SHAPE)
    assert exact and len(polygons) == 1
    x, y = np.reshape(polygons[0], (-1, 2)).T
    assert (x.min(), x.max(), y.min(), y.max()) == (x0, x0 + 6, y0, y0 + 5)
    assert len(polygons[0]) <= 16  # straight runs are not cut into pieces
