"""RAMSES2's way from raw outputs to instances, written plainly from how the original behaves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from tests.checkpoint.ramses2_reference import RawOutputs


class Found(NamedTuple):
    masks: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    masses: torch.Tensor


def compute_masks(
    raw: RawOutputs,
    *,
    cls_threshold: float = 0.5,
    nms_threshold: float = 0.5,
    mask_threshold: float = 0.5,
    max_detections: int = 768,
    min_area: int = 0,
    use_binary_masks: bool = True,
) -> Found:
    """Instances of the first image with greedy NMS and mask scoring; masses are normalised ones."""
    channels = raw.features.shape[1]
    side = round((raw.kernels.shape[1] / channels) ** 0.5)
    scores, classes = raw.classes[0].max(dim=0)
    candidates = []
    for cell in (scores >= cls_threshold).nonzero()[:, 0].tolist():
        kernel = raw.kernels[0, :, cell].reshape(1, channels, side, side)
        logits = nn.functional.conv2d(raw.features[:1], kernel, padding=side // 2)[0, 0]
        mask = 1 / (1 + torch.exp(-logits))
        binary = mask >= mask_threshold
        area = int(binary.sum())
        inside = float(mask[binary].sum()) / (area + 1e-6)
        # Without a smallest area the original keeps even empty masks
        if min_area == 0 or area > min_area:
            candidates.append((float(scores[cell]) * inside, mask, binary, int(classes[cell]), cell))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[tuple] = []
    for candidate in candidates:
        overlaps = [
            float((candidate[2] & other[2]).sum()) / (float((candidate[2] | other[2]).sum()) + 1e-6) for other in kept
        ]
        if all(overlap <= nms_threshold for overlap in overlaps):
            kept.append(candidate)
    kept = kept[:max_detections]
    masses = [
        float(raw.factors[0, 0, cell] * ((binary if use_binary_masks else mask) * raw.geometry[0, 0]).sum())
        for _, mask, binary, _, cell in kept
    ]
    dtype = raw.features.dtype
    masks = torch.zeros(len(kept), *raw.features.shape[2:], dtype=dtype)
    for index, (_, mask, _, _, _) in enumerate(kept):
        masks[index] = mask
    return Found(
        masks=masks,
        scores=torch.tensor([score for score, *_ in kept], dtype=dtype),
        classes=torch.tensor([label for _, _, _, label, _ in kept], dtype=torch.int64),
        masses=torch.tensor(masses, dtype=dtype),
    )
