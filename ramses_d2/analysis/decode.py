"""From overlapping soft masks to one label image, the call that RAMSES2 users know.

Shape letters: K masks, H W mask grid.
"""

from __future__ import annotations

import numpy as np
import torch

# Elements of the K masks that are worked on at once: 16 MiB as float32
_BLOCK = 4 * 1024 * 1024


def decode_predictions(
    masks: np.ndarray | torch.Tensor, scores: np.ndarray | torch.Tensor, threshold: float = 0.5, by_scores: bool = True
) -> np.ndarray:
    """Give every pixel to one of the masks that cover it (reference section 4).

    Works in blocks of rows, on the masks' device. Unlike the original, whose ``by_mask_scores=True`` numbered the
    masks by rank, a label always tells the mask's place in the input.

    Args:
        masks: (K, H, W) probabilities, or bool; a mask covers the pixels where it is >= ``threshold``.
        scores: (K,); used with ``by_scores`` only.
        threshold: see above.
        by_scores: True = the covering mask with the best score owns a pixel, False = the one with the highest
            probability there. Of equals the first one.

    Returns:
        (H, W) uint16: 0 = background, input index + 1 elsewhere. A mask covered by others has no pixel.

    Raises:
        ValueError: masks and scores do not fit each other, or more than 65 535 masks.
    """
    masks = masks.detach() if isinstance(masks, torch.Tensor) else np.asarray(masks)
    scores = torch.as_tensor(scores)
    if masks.ndim != 3 or tuple(scores.shape) != (len(masks),):
        raise ValueError(
            f"masks {tuple(masks.shape)} and scores {tuple(scores.shape)}: decode_predictions takes (K, H, W) and (K,)"
        )
    count, height, width = masks.shape
    if count > np.iinfo(np.uint16).max:
        raise ValueError(f"{count} masks do not fit a 16-bit label image")
    labels = np.zeros((height, width), np.uint16)
    if labels.size == 0 or count == 0:
        return labels
    best_first = scores.argsort(descending=True, stable=True) if by_scores else None
    rows = max(1, _BLOCK // (count * width))
    for top in range(0, height, rows):
        block = masks[:, top : top + rows]
        if isinstance(block, np.ndarray):
            block = torch.from_numpy(np.ascontiguousarray(block))
        labels[top : top + rows] = _owners(block, threshold, best_first).cpu().numpy()
    return labels


def _owners(masks: torch.Tensor, threshold: float, best_first: torch.Tensor | None) -> torch.Tensor:
    """Label of each pixel of a (K, h, w) block, int64 (h, w)."""
    if best_first is None:
        # argmax knows no bool
        probability, index = (masks.to(torch.uint8) if masks.dtype == torch.bool else masks).max(dim=0)
        return torch.where(probability >= threshold, index + 1, 0)
    best_first = best_first.to(masks.device)
    covered, rank = (masks >= threshold).to(torch.uint8)[best_first].max(dim=0)
    return torch.where(covered > 0, best_first[rank] + 1, 0)
