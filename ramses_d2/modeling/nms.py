"""Mask non-maximum suppression, as plain functions that take candidates in any order.

Shape letters: P candidates, K of them kept, C classes, Hm Wm mask grid.
"""

from __future__ import annotations

import warnings

import torch

NMS_KINDS = ("greedy", "soft", "matrix", "none")
# A product of the sparse way takes as long as 40 to 80 of the dense way (measured on one CPU core); with some margin
_SPARSE_COST = 128


def mask_iou(masks: torch.Tensor, block: int = 512) -> torch.Tensor:
    """(P, P) float32 IoU of bool masks (P, Hm, Wm); empty masks have IoU 0 with everything.

    The cost of a sparse product of the masks is the sum over the pixels of (masks there)^2, that of a dense one P^2 for
    every pixel. Particles overlap little, and then the sparse one costs next to nothing. Where masks cover half of the
    image (an untrained network), or many candidates pile up on one particle, they are multiplied as dense blocks:
    ``block`` masks at a time, which bounds the memory.
    """
    flat = masks.flatten(1)
    area = flat.sum(1).float()
    sparse = _sparse_if_cheaper(flat, int(area.sum()))
    if sparse is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
            inter = torch.sparse.mm(sparse, sparse.t()).to_dense()
    else:
        inter = torch.empty(len(flat), len(flat), device=flat.device)
        for i in range(0, len(flat), block):
            rows = flat[i : i + block].float()
            for j in range(i, len(flat), block):
                product = rows @ flat[j : j + block].float().T
                inter[i : i + block, j : j + block] = product
                inter[j : j + block, i : i + block] = product.T
    return inter / (area[:, None] + area[None, :] - inter + 1e-6)


def _sparse_if_cheaper(flat: torch.Tensor, covered: int) -> torch.Tensor | None:
    """(P, pixels) bool masks with ``covered`` true elements as a sparse float matrix; None where dense is faster."""
    # Its indices take 16 bytes an element, and CUDA counts the elements of its source in 32 bits
    if not covered * 16 < flat.numel() < 2**31:
        return None
    sparse = flat.to_sparse()
    products = int(sparse.indices()[1].bincount().square().sum())
    return sparse.float() if products * _SPARSE_COST < len(flat) * flat.numel() else None


def point_nms(scores: torch.Tensor) -> torch.Tensor:
    """Zero every cell of a level (C, rows, columns) that a neighbour above, to the left or above left outscores."""
    best = torch.nn.functional.max_pool2d(scores[None], 2, stride=1, padding=1)[0, :, :-1, :-1]
    return torch.where(best == scores, scores, 0.0)


def greedy_nms(iou: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keep a candidate unless a better kept one overlaps it by strictly more than the threshold.

    From (P, P) and (P,) to (K,) int64 indices by descending score.
    """
    order = scores.argsort(descending=True, stable=True)
    # One transfer, then a walk over Booleans: the walk itself is sequential by nature
    overlaps = (iou[order][:, order] > iou_threshold).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    keep = []
    for i in range(len(order)):
        if alive[i]:
            keep.append(i)
            alive &= ~overlaps[i]
    return order[torch.tensor(keep, dtype=torch.int64, device=order.device)]


def soft_nms(
    iou: torch.Tensor, scores: torch.Tensor, sigma: float, min_score: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian soft NMS (Bodla et al., ICCV 2017) in one pass, without sorting again.

    Candidates are visited by their first score and decay the later ones by exp(-IoU^2 / sigma); one whose decayed score
    is below ``min_score`` goes, and decays none. From (P, P) and (P,) to (K,) indices in that order and decayed scores.
    """
    order = scores.argsort(descending=True, stable=True)
    decay = torch.exp(-iou[order][:, order].square() / sigma).cpu()
    decayed = scores[order].cpu().clone()
    keep = []
    for i in range(len(order)):
        if decayed[i] >= min_score:
            keep.append(i)
            decayed[i + 1 :] *= decay[i, i + 1 :]
    kept = torch.tensor(keep, dtype=torch.int64)
    return order[kept.to(order.device)], decayed[kept].to(scores)


def matrix_nms(
    iou: torch.Tensor, scores: torch.Tensor, sigma: float, min_score: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix NMS with a Gaussian kernel (Wang et al., "SOLOv2", NeurIPS 2020, section 3.3).

    From (P, P) and (P,) to (K,) indices by descending first score and their decayed scores, from ``min_score`` on.
    """
    if not len(scores):
        return scores.argsort(), scores
    order = scores.argsort(descending=True, stable=True)
    above = iou[order][:, order].triu(diagonal=1)
    worst = above.amax(dim=0)  # how much each candidate is itself covered by a better one
    decay = torch.exp(-(above.square() - worst.square()[:, None]) / sigma)
    decay = torch.where(torch.ones_like(above).triu(diagonal=1).bool(), decay, 1.0).amin(dim=0)
    decayed = scores[order] * decay
    kept = decayed >= min_score
    return order[kept], decayed[kept]


def suppress(
    masks: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    *,
    kind: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    class_agnostic: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply one of ``NMS_KINDS``: (K,) indices by descending new score, and the new scores.

    Args:
        masks: (P, Hm, Wm) bool.
        scores: (P,).
        classes: (P,) int64.
        iou_threshold: for "greedy".
        sigma, min_score: for "soft" and "matrix".
        class_agnostic: let objects of different classes suppress one another.
    """
    if kind == "none":
        keep, kept_scores = torch.arange(len(scores), device=scores.device), scores
    else:
        iou = mask_iou(masks)
        if not class_agnostic:
            iou = torch.where(classes[:, None] == classes[None, :], iou, 0.0)
        if kind == "greedy":
            keep = greedy_nms(iou, scores, iou_threshold)
            kept_scores = scores[keep]
        else:
            keep, kept_scores = (soft_nms if kind == "soft" else matrix_nms)(iou, scores, sigma, min_score)
    order = kept_scores.argsort(descending=True, stable=True)
    return keep[order], kept_scores[order]
