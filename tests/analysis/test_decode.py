"""Soft masks to a label image: the golden vectors of reference section 4, and a slow loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ramses_d2.analysis import particles as decode
from ramses_d2.analysis.particles import decode_predictions
from ramses_d2.masks import RLEMasks, encode_label_map

GOLDEN_MASKS = np.array([[[0.6, 0.9]], [[0.8, 0.7]]], np.float32)
GOLDEN_SCORES = np.array([0.5, 0.9], np.float32)


def decode_slowly(masks: np.ndarray, scores: np.ndarray, threshold: float, by_scores: bool) -> np.ndarray:
    labels = np.zeros(masks.shape[1:], np.uint16)
    for pixel in np.ndindex(labels.shape):
        here = masks[(slice(None), *pixel)]
        covering = [index for index in range(len(masks)) if here[index] >= threshold]
        if covering:
            labels[pixel] = 1 + max(covering, key=lambda index: (scores if by_scores else here)[index])
    return labels


def test_golden_values() -> None:
    # By score the original answers [[1, 1]], the rank of the second mask; ours is its place in the input
    assert decode_predictions(GOLDEN_MASKS, GOLDEN_SCORES).tolist() == [[2, 2]]
    assert decode_predictions(GOLDEN_MASKS, GOLDEN_SCORES, by_scores=False).tolist() == [[2, 1]]


def test_threshold_is_inclusive() -> None:
    masks = np.array([[[0.5, 0.49, 0.75]]], np.float32)
    for by_scores in (True, False):
        assert decode_predictions(masks, np.ones(1), 0.5, by_scores).tolist() == [[1, 0, 1]]
        assert decode_predictions(masks, np.ones(1), 0.75, by_scores).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("by_scores", [True, False])
@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_equals_a_loop_over_pixels(by_scores: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BLOCK", block)
    masks = np.random.random((7, 9, 5)).astype(np.float32) ** 2
    masks[3] = masks[1]  # ties
    scores = np.array([0.3, 0.8, 0.5, 0.8, 0.1, 0.9, 0.2])
    expected = decode_slowly(masks, scores, 0.4, by_scores)
    assert len(np.unique(expected)) > 4
    for kind in (np.asarray, torch.from_numpy):
        labels = decode_predictions(kind(masks), kind(scores), 0.4, by_scores)
        assert isinstance(labels, np.ndarray) and labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, expected)
    flipped = decode_predictions(masks[:, :, ::-1], scores, 0.4, by_scores)
    np.testing.assert_array_equal(flipped, expected[:, ::-1])


def test_labels_keep_pointing_to_the_input_in_any_order() -> None:
    masks, scores = np.random.random((6, 8, 8)), np.random.random(6)
    labels = decode_predictions(masks, scores, 0.7)
    order = np.random.permutation(6)
    shuffled = decode_predictions(masks[order], scores[order], 0.7)
    np.testing.assert_array_equal(np.r_[0, order + 1][shuffled], labels)


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("by_scores", [True, False])
def test_other_types(dtype: torch.dtype, by_scores: bool) -> None:
    masks = torch.tensor([[[1, 0, 0]], [[1, 1, 0]]]).to(dtype).requires_grad_(dtype == torch.float64)
    labels = decode_predictions(masks, torch.tensor([0.2, 0.9]), by_scores=by_scores)
    assert labels.tolist() == [[2 if by_scores else 1, 2, 0]]


@pytest.mark.parametrize("by_scores", [True, False])
def test_no_masks(by_scores: bool) -> None:
    labels = decode_predictions(torch.zeros(0, 4, 5), torch.zeros(0), by_scores=by_scores)
    assert labels.shape == (4, 5) and labels.dtype == np.uint16 and not labels.any()


def test_work_is_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def recorded(array: np.ndarray) -> torch.Tensor:
        sizes.append(array.size)
        return from_numpy(array)

    from_numpy = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", recorded)
    monkeypatch.setattr(decode, "BLOCK", 768 * 96 * 10)
    decode_predictions(np.zeros((768, 64, 96), bool), torch.ones(768))
    assert sizes == [768 * 96 * 10] * 6 + [768 * 96 * 4]


@pytest.mark.parametrize(
    ("masks", "scores"), [((4, 5), (4,)), ((2, 4, 5), (3,)), ((2, 4, 5), (2, 1)), ((2, 1, 4, 5), (2,))]
)
def test_shapes_that_do_not_fit(masks: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(K, H, W\) and \(K,\)"):
        decode_predictions(np.zeros(masks), np.zeros(scores))


def test_run_lengths_are_no_soft_masks() -> None:
    masks = RLEMasks(encode_label_map(np.ones((4, 5), np.uint16), [1]))
    with pytest.raises(ValueError, match=r"\(K, H, W\)"):
        decode_predictions(masks, np.ones(1))


def test_too_many_masks_for_16_bits() -> None:
    with pytest.raises(ValueError, match="16-bit"):
        decode_predictions(np.zeros((70000, 1, 1), bool), np.zeros(70000))
