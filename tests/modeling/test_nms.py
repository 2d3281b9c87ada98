"""Mask NMS: the golden vector of reference section 4, corrected where the original is wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.modeling.nms import greedy_nms, mask_iou, matrix_nms, point_nms, soft_nms, suppress

A, B, C, D = range(4)


@pytest.fixture
def golden() -> tuple[torch.Tensor, torch.Tensor]:
    masks = torch.zeros(4, 10, 10, dtype=torch.bool)
    masks[A, 0:4, 0:4] = True
    masks[B, 0:4, 0:5] = True
    masks[C, 5:9, 5:9] = True
    masks[D, 1:4, 0:4] = True
    return masks, torch.tensor([0.9, 0.8, 0.7, 0.95])


def test_iou(golden: tuple[torch.Tensor, torch.Tensor]) -> None:
    iou = mask_iou(golden[0], block=3)
    assert iou[A, B].item() == pytest.approx(16 / 20) and iou[B, D].item() == pytest.approx(12 / 20)
    assert iou[A, C] == 0 and torch.equal(iou, iou.T)


@pytest.mark.parametrize("density", [0.02, 0.5])
def test_sparse_and_dense_products_agree_with_counting(density: float) -> None:
    masks = torch.rand(9, 30, 40) < density
    iou = mask_iou(masks, block=4)
    for i in range(9):
        for j in range(9):
            inter, union = (masks[i] & masks[j]).sum(), (masks[i] | masks[j]).sum()
            assert iou[i, j].item() == pytest.approx((inter / union).item(), abs=1e-5)


@pytest.mark.parametrize("piled_up", [False, True])
def test_the_sparse_product_is_for_masks_that_overlap_little(piled_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pixels covered either way: 64 particles side by side, or 64 candidates for one of them."""
    masks = torch.zeros(64, 64, 64, dtype=torch.bool)
    for index, mask in enumerate(masks):
        row, col = (0, 0) if piled_up else divmod(index, 8)
        mask[8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = True
    product, calls = torch.sparse.mm, []
    monkeypatch.setattr(torch.sparse, "mm", lambda *factors: calls.append(factors) or product(*factors))
    torch.testing.assert_close(mask_iou(masks), torch.ones(64, 64) if piled_up else torch.eye(64))
    assert len(calls) == (not piled_up)


def test_iou_of_a_mask_inside_another_is_the_ratio_of_areas() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 2:6, 2:6] = True
    masks[1] = True
    assert mask_iou(masks)[0, 1].item() == pytest.approx(0.25)


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, [D, C]), (0.78, [D, A, C])])
def test_greedy(golden: tuple[torch.Tensor, torch.Tensor], threshold: float, expected: list[int]) -> None:
    assert greedy_nms(mask_iou(golden[0]), golden[1], threshold).tolist() == expected


def test_soft(golden: tuple[torch.Tensor, torch.Tensor]) -> None:
    keep, scores = soft_nms(mask_iou(golden[0]), golden[1], sigma=0.5, min_score=0.3)
    assert keep.tolist() == [D, B, C]
    assert scores.tolist() == pytest.approx([0.95, 0.3894, 0.7], abs=1e-4)


def test_matrix_sorts_first_and_returns_decayed_scores(golden: tuple[torch.Tensor, torch.Tensor]) -> None:
    keep, scores = matrix_nms(mask_iou(golden[0]), golden[1], sigma=0.5, min_score=0.3)
    assert keep.tolist() == [D, B, C]  # the original kept [A, B, C] and dropped the best one
    assert scores.tolist() == pytest.approx([0.95, 0.3894, 0.7], abs=1e-4)
    _, everything = matrix_nms(mask_iou(golden[0]), golden[1], sigma=0.5, min_score=0.0)
    assert everything[1].item() == pytest.approx(0.9 * torch.tensor(-(0.75**2) / 0.5).exp().item(), abs=1e-4)


def test_matrix_drops_the_worse_of_two_equal_masks() -> None:
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    keep, scores = matrix_nms(mask_iou(masks), torch.tensor([0.6, 0.9]), sigma=0.5, min_score=0.3)
    assert keep.tolist() == [1] and scores.item() == pytest.approx(0.9)


def test_classes_suppress_one_another_only_when_asked(golden: tuple[torch.Tensor, torch.Tensor]) -> None:
    masks, scores = golden
    options = {"kind": "greedy", "iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.05}
    classes = torch.tensor([0, 1, 0, 1])
    assert suppress(masks, scores, classes, class_agnostic=True, **options)[0].tolist() == [D, C]
    assert suppress(masks, scores, classes, class_agnostic=False, **options)[0].tolist() == [D, A, C]


@pytest.mark.parametrize("kind", ["greedy", "soft", "matrix", "none"])
def test_nothing_to_suppress(kind: str) -> None:
    keep, scores = suppress(
        torch.zeros(0, 4, 4, dtype=torch.bool),
        torch.zeros(0),
        torch.zeros(0, dtype=torch.int64),
        kind=kind,
        iou_threshold=0.5,
        sigma=0.5,
        min_score=0.05,
        class_agnostic=True,
    )
    assert len(keep) == len(scores) == 0 and keep.dtype == torch.int64


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["greedy", "soft", "matrix"]))
def test_order_of_candidates_does_not_matter(seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(12, 6, 6, generator=generator) > 0.6
    scores = torch.randperm(12, generator=generator) / 12 + 0.01
    classes = torch.zeros(12, dtype=torch.int64)
    options = {"kind": kind, "iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.2, "class_agnostic": True}
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
    assert kept.shape == scores.shape
    assert (kept > 0).nonzero().tolist() == [[0, 1, 1]]
