"""Mask NMS: golden vectors, and that the order of the candidates does not matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.modeling.nms import greedy_nms, mask_iou, matrix_nms, point_nms, soft_nms, suppress

A, B, C, D = range(4)
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.95])
MASKS = torch.zeros(4, 10, 10, dtype=torch.bool)
MASKS[A, 0:4, 0:4] = MASKS[B, 0:4, 0:5] = MASKS[C, 5:9, 5:9] = MASKS[D, 1:4, 0:4] = True
OPTIONS = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.05, "class_agnostic": True}


def test_iou() -> None:
    iou = mask_iou(MASKS, block=3)
    assert iou[A, B].item() == pytest.approx(16 / 20) and iou[B, D].item() == pytest.approx(12 / 20)
    assert iou[A, C] == 0 and torch.equal(iou, iou.T)
    whole_image = torch.ones(1, 10, 10, dtype=torch.bool)
    assert mask_iou(torch.cat((MASKS, whole_image)))[-1].tolist() == pytest.approx([0.16, 0.2, 0.16, 0.12, 1.0])


@pytest.mark.parametrize("density", [0.02, 0.5])
def test_sparse_and_dense_products_agree_with_counting(density: float) -> None:
    masks = torch.rand(9, 30, 40) < density
    iou = mask_iou(masks, block=4)
    for i in range(9):
        for j in range(9):
            inter, union = (masks[i] & masks[j]).sum(), (masks[i] | masks[j]).sum()
            assert iou[i, j].item() == pytest.approx((inter / union).item(), abs=1e-5)


@pytest.mark.parametrize("is_piled_up", [False, True])
def test_the_sparse_product_is_for_masks_that_overlap_little(
    is_piled_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pixels covered either way: 64 particles side by side, or 64 candidates for one of them."""
    masks = torch.zeros(64, 64, 64, dtype=torch.bool)
    for index, mask in enumerate(masks):
        row, col = (0, 0) if is_piled_up else divmod(index, 8)
        mask[8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = True
    product, calls = torch.sparse.mm, []
    monkeypatch.setattr(torch.sparse, "mm", lambda *factors: calls.append(factors) or product(*factors))
    torch.testing.assert_close(mask_iou(masks), torch.ones(64, 64) if is_piled_up else torch.eye(64))
    assert len(calls) == (not is_piled_up)


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, [D, C]), (0.78, [D, A, C]), (0.75, [D, A, C])])
def test_greedy(threshold: float, expected: list[int]) -> None:
    iou = (mask_iou(MASKS) * 100).round() / 100  # so that A and D overlap by exactly 0.75
    assert greedy_nms(iou, SCORES, threshold).tolist() == expected


def test_soft_and_matrix() -> None:
    iou = mask_iou(MASKS)
    for kind in (soft_nms, matrix_nms):
        keep, scores = kind(iou, SCORES, sigma=0.5, min_score=0.3)
        assert keep.tolist() == [D, B, C] and scores.tolist() == pytest.approx([0.95, 0.3894, 0.7], abs=1e-4)
    _, everything = matrix_nms(iou, SCORES, sigma=0.5, min_score=0.0)
    assert everything[1].item() == pytest.approx(0.9 * torch.tensor(-(0.75**2) / 0.5).exp().item(), abs=1e-4)
    twice = mask_iou(torch.ones(2, 4, 4, dtype=torch.bool))
    keep, scores = matrix_nms(twice, torch.tensor([0.6, 0.9]), sigma=0.5, min_score=0.3)
    assert keep.tolist() == [1] and scores.item() == pytest.approx(0.9)  # the worse of two equal masks goes


def test_classes_suppress_one_another_only_when_asked() -> None:
    for is_agnostic, expected in ((True, [D, C]), (False, [D, A, C])):
        options = OPTIONS | {"kind": "greedy", "class_agnostic": is_agnostic}
        assert suppress(MASKS, SCORES, torch.tensor([0, 1, 0, 1]), **options)[0].tolist() == expected


@pytest.mark.parametrize("kind", ["greedy", "soft", "matrix", "none"])
def test_nothing_to_suppress(kind: str) -> None:
    nothing = torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    keep, scores = suppress(*nothing, kind=kind, **OPTIONS)
    assert len(keep) == len(scores) == 0 and keep.dtype == torch.int64


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["greedy", "soft", "matrix"]))
def test_order_of_candidates_does_not_matter(seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(12, 6, 6, generator=generator) > 0.6
    scores = torch.randperm(12, generator=generator) / 12 + 0.01
    classes = torch.zeros(12, dtype=torch.int64)
    options = OPTIONS | {"kind": kind, "iou_threshold": 0.3, "min_score": 0.2}
    keep, new = suppress(masks, scores, classes, **options)
    shuffle = torch.randperm(12, generator=generator)
    keep_b, new_b = suppress(masks[shuffle], scores[shuffle], classes, **options)
    assert keep.tolist() == shuffle[keep_b].tolist()
    torch.testing.assert_close(new, new_b)
    if kind == "greedy":  # no two survivors overlap more than allowed
        assert (mask_iou(masks[keep]).fill_diagonal_(0) <= 0.3).all()


def test_point_nms_keeps_one_cell_of_a_plateau_edge() -> None:
    scores = torch.zeros(1, 4, 4)
    scores[0, 1, 1], scores[0, 1, 2], scores[0, 2, 1] = 0.9, 0.8, 0.7
    kept = point_nms(scores)
    assert kept.shape == scores.shape and (kept > 0).nonzero().tolist() == [[0, 1, 1]]
