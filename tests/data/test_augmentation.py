"""Augmentations: image and label map stay together, sizes and scales are what they should be."""

from __future__ import annotations

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
from fvcore.transforms.transform import TransformList
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.augmentation import (
    AreaResizeTransform,
    CropToAspect,
    NoiseTransform,
    PlaceOnCanvas,
    ResizeShorterSide,
    applied_scale,
    build_augmentation,
    build_test_augmentation,
)

sides = st.integers(20, 300)


def grey(label_map: np.ndarray, level: int = 1) -> np.ndarray:
    """An image whose grey level is the label times ``level``."""
    return np.repeat((label_map * level)[..., None], 3, axis=2).astype(np.uint8)


def blocks(height: int, width: int) -> np.ndarray:
    """Label map of six large blocks, labels 1 ... 6, without background."""
    return (1 + np.arange(height)[:, None] * 2 // height * 3 + np.arange(width)[None] * 3 // width).astype(np.int32)


def zeros(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def apply(
    image: np.ndarray, label_map: np.ndarray | None = None, **options: object
) -> tuple[T.AugInput, TransformList]:
    """What a training chain makes of an image and its label map (all 1 by default), and its transforms."""
    label_map = np.ones(image.shape[:2], np.int32) if label_map is None else label_map
    inputs = T.AugInput(image, sem_seg=label_map)
    return inputs, build_augmentation(**options)(inputs)


def test_reducing_averages_all_pixels_and_enlarging_is_smooth() -> None:
    image = np.random.randint(0, 256, (40, 60, 3), dtype=np.uint8)
    means = image.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    assert np.abs(AreaResizeTransform(40, 60, 10, 15).apply_image(image) - means).max() <= 0.5
    assert np.abs(apply(image, short=(10,), long=100, fit="edge")[0].image - means).max() <= 0.5
    image = np.repeat(np.array([[0, 100]], dtype=np.uint8)[..., None], 3, axis=2)
    assert len(np.unique(AreaResizeTransform(1, 2, 1, 16).apply_image(image))) > 5


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides)
def test_labels_are_taken_at_pixel_centres(height: int, width: int, new_h: int, new_w: int) -> None:
    label_map = np.arange(height * width, dtype=np.int32).reshape(height, width) * 7
    resized = AreaResizeTransform(height, width, new_h, new_w).apply_segmentation(label_map)
    rows, columns = (np.arange(new_h) * 2 + 1) * height, (np.arange(new_w) * 2 + 1) * width
    exact = label_map[rows // (2 * new_h)][:, columns // (2 * new_w)]
    # Where a centre falls exactly between two pixels, either is right
    clear = np.ix_(rows % (2 * new_h) != 0, columns % (2 * new_w) != 0)
    assert resized.dtype == np.int32 and resized.shape == (new_h, new_w)
    assert np.array_equal(resized[clear], exact[clear])
    assert np.isin(exact - resized, (0, 7, 7 * width, 7 * width + 7)).all()


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(60, 300),  # enlarged by at most 3.2, so that edges are blurred over less than 4 px
    width=st.integers(60, 300),
    fit=st.sampled_from(["pad", "crop"]),
    rotation=st.sampled_from([0.0, 30.0]),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 1.5)]),
    seed=st.integers(0, 2**31),
)
def test_image_and_labels_move_together(
    height: int, width: int, fit: str, rotation: float, scale: tuple[float, float], seed: int
) -> None:
    np.random.seed(seed)
    label_map = blocks(height, width)
    chain = {"short": 64, "long": 128, "fit": fit, "flip": True, "rotation": rotation, "scale": scale}
    inputs, _ = apply(grey(label_map, 40), label_map + 1, **chain)
    assert inputs.image.shape[:2] == inputs.sem_seg.shape
    assert inputs.sem_seg.shape in ((64, 128), (128, 64))
    if max(height, width) > 1.1 * min(height, width):  # an almost square image may become square
        assert (inputs.sem_seg.shape == (64, 128)) == (height < width)
    assert inputs.sem_seg.dtype == np.int32
    labels = np.maximum(inputs.sem_seg - 1, 0)
    # Away from edges, which are blurred, the grey level is the label's
    values, block = inputs.sem_seg.astype(np.uint16), np.ones((9, 9))
    eroded = cv2.erode(values, block, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    inner = (eroded == cv2.dilate(values, block)) & (values > 0)
    assert (np.abs(inputs.image[:, :, 0].astype(int) - 40 * labels)[inner] <= 2).all()


def test_labels_above_255_survive() -> None:
    label_map = (blocks(100, 150) * 10000).astype(np.int32)
    chain = {"short": 64, "long": 128, "flip": True, "rotation": 20, "scale": (0.8, 1.2)}
    inputs, _ = apply(grey(blocks(100, 150), 40), label_map + 1, **chain)
    found = set(np.unique(inputs.sem_seg).tolist())
    assert found - {0} <= {10001, 20001, 30001, 40001, 50001, 60001} and len(found) > 4


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 150), (100, 150)), ((100, 120), (80, 120)), ((100, 400), (100, 150)), ((400, 100), (150, 100))],
)
def test_crop_to_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = zeros(*size)
    transform = CropToAspect(64, 96).get_transform(image)
    assert transform.apply_image(image).shape[:2] == expected
    assert transform.y0 == (size[0] - expected[0]) // 2 and transform.x0 == (size[1] - expected[1]) // 2


def test_padding_shows_the_whole_image_and_cropping_fills_the_canvas() -> None:
    for fit, share in (("pad", 0.5), ("crop", 1.0)):
        label_map = blocks(100, 300)
        inputs, _ = apply(grey(label_map), label_map + 1, short=64, long=96, fit=fit)
        assert (inputs.sem_seg > 0).mean() == pytest.approx(share, abs=0.01)
        assert inputs.image[inputs.sem_seg == 0].max(initial=0) == 0
        assert set(np.unique(inputs.sem_seg)) >= {2, 3, 4, 5, 6, 7} - (set() if fit == "pad" else {2, 4, 5, 7})


def test_applied_scale() -> None:
    for fit in ("pad", "crop"):
        _, transforms = apply(zeros(120, 200), short=60, long=100, fit=fit, flip=True, rotation=10, noise=2)
        assert applied_scale(transforms) == pytest.approx((0.5, 0.5))
    assert applied_scale(TransformList([])) == (1.0, 1.0)
    drawn = (apply(zeros(128, 192), short=64, long=96, scale=(0.5, 2.0)) for _ in range(100))
    found = [2 * applied_scale(transforms)[0] for _, transforms in drawn]
    assert 0.5 <= min(found) < 0.7 and 1.7 < max(found) <= 2.0


@settings(deadline=None, max_examples=60)
@given(height=sides, width=sides, size=sides, max_size=st.integers(300, 400))
def test_edge_has_the_sizes_of_detectron2(height: int, width: int, size: int, max_size: int) -> None:
    image = zeros(height, width)
    expected = T.ResizeShortestEdge([size, size], max_size).get_transform(image).apply_image(image)
    inputs, transforms = apply(image, short=(size,), long=max_size, fit="edge", flip=True, rotation=10)
    assert inputs.image.shape == expected.shape and inputs.sem_seg.shape == expected.shape[:2]
    assert applied_scale(transforms) == (expected.shape[1] / width, expected.shape[0] / height)


def test_edge_draws_from_its_sizes() -> None:
    def drawn(image: np.ndarray, *options: object) -> set[tuple[int, int]]:
        resize = ResizeShorterSide(*options)
        return {resize.get_transform(image).apply_image(image).shape[:2] for _ in range(100)}

    same = (1.0, 1.0)
    assert drawn(zeros(100, 200), (30, 60, 90), 999, "choice", same) == {(30, 60), (60, 120), (90, 180)}
    assert drawn(zeros(100, 200), (30, 33), 999, "range", same) == {(30, 60), (31, 62), (32, 64), (33, 66)}
    assert drawn(zeros(100, 200), (30, 90), 80, "choice", same) == {(30, 60), (40, 80)}
    # The scale is followed up to the largest size
    found = [height for height, _ in drawn(zeros(50, 50), (100,), 120, "choice", (0.5, 2.0))]
    assert 50 <= min(found) < 60 and max(found) == 120 and len(found) > 10


def test_which_axes_are_flipped() -> None:
    label_map = blocks(30, 60)
    for options, expected in (
        ({"flip": True}, {(1, 4), (4, 1), (3, 6), (6, 3)}),
        ({"flip": True, "vertical_flip": False}, {(1, 4), (3, 6)}),
        ({"flip": False, "vertical_flip": True}, {(1, 4)}),
    ):
        corners = set()
        for _ in range(40):
            inputs, _ = apply(grey(label_map, 40), label_map, short=(30,), long=60, fit="edge", **options)
            corners.add((int(inputs.sem_seg[0, 0]), int(inputs.sem_seg[-1, 0])))
        assert corners == expected


def test_place_on_canvas_is_random() -> None:
    for size in ((40, 60), (100, 150)):
        image = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(*size, 3).astype(np.float32)
        placed = [PlaceOnCanvas(64, 96).get_transform(image).apply_image(image) for _ in range(8)]
        assert all(p.shape == (64, 96, 3) for p in placed)
        assert len({p.tobytes() for p in placed}) > 4


def test_noise() -> None:
    image = np.full((200, 300, 3), 128, dtype=np.uint8)
    transform = NoiseTransform(5.0, seed=3)
    noisy = transform.apply_image(image)
    assert noisy.dtype == np.uint8
    assert noisy.std() == pytest.approx(5.0, abs=0.1) and noisy.mean() == pytest.approx(128, abs=0.1)
    assert np.array_equal(noisy, transform.apply_image(image))
    assert not np.array_equal(noisy, NoiseTransform(5.0, seed=4).apply_image(image))
    white = transform.apply_image(np.full((20, 20, 3), 255, dtype=np.uint8))
    assert white.min() > 200  # clipped, not wrapped around


@pytest.mark.parametrize("key", ["brightness", "contrast"])
def test_colour_changes_leave_labels_alone(key: str) -> None:
    label_map = blocks(64, 96)
    means, spreads = [], []
    for _ in range(60):
        inputs, _ = apply(grey(label_map, 30), label_map, short=64, long=96, **{key: 0.2})
        assert np.array_equal(inputs.sem_seg, label_map)
        means.append(inputs.image.mean() / 105)
        spreads.append(inputs.image.std() / grey(label_map, 30).std())
    changed = means if key == "brightness" else spreads
    assert 0.78 < min(changed) < 0.9 and 1.1 < max(changed) < 1.22


def test_same_seed_same_result() -> None:
    chain = {"short": 64, "long": 96, "flip": True, "rotation": 20, "brightness": 0.1, "contrast": 0.1, "noise": 3}
    images = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        inputs, _ = apply(grey(blocks(100, 150), 30), blocks(100, 150), scale=(0.8, 1.2), **chain)
        images.append(inputs.image)
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_test_chain_is_that_of_default_predictor() -> None:
    image = np.random.randint(0, 256, (100, 170, 3), dtype=np.uint8)
    expected = T.ResizeShortestEdge([64, 64], 90).get_transform(image).apply_image(image)
    found = build_test_augmentation(min_size=64, max_size=90).get_transform(image).apply_image(image)
    assert np.array_equal(found, expected) and found.shape == (53, 90, 3)
