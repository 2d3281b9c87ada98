"""From predicted kernels to mask logits (Wang et al., "SOLOv2", NeurIPS 2020, section 3.2).

Shape letters: P cells, E mask channels, Hm Wm mask grid, k kernel side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def mask_logits(kernels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Convolve the mask features with one predicted kernel per cell.

    Args:
        kernels: (P, E * k * k), E-major.
        features: (E, Hm, Wm).

    Returns:
        (P, Hm, Wm) logits.

    Raises:
        ValueError: the kernel length is no odd square times E.
    """
    channels = len(features)
    side = math.isqrt(kernels.shape[1] // channels)
    if side * side * channels != kernels.shape[1] or side % 2 == 0:
        raise ValueError(f"kernels of {kernels.shape[1]} values do not fit {channels} mask channels")
    if side == 1:
        return (kernels @ features.flatten(1)).view(-1, *features.shape[1:])
    if not len(kernels):  # torch refuses a convolution without kernels
        return features.new_zeros(0, *features.shape[1:])
    weight = kernels.view(-1, channels, side, side)
    return F.conv2d(features[None], weight, padding=side // 2)[0]
