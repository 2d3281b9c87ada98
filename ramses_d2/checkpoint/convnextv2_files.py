"""What is in the weights files of ConvNeXt V2, and which size of the network a file is of.

Woo et al., "ConvNeXt V2", CVPR 2023, and the files of https://github.com/facebookresearch/ConvNeXt-V2: dense ones
(fine-tuned, or FCMAE as published) and those its FCMAE pretraining writes, whose encoder is sparse (MinkowskiEngine).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import NamedTuple

import torch

_ENCODER = "encoder."
# What FCMAE pretraining has besides the encoder: the part that paints the hidden patches again
_DECODER = ("decoder.", "mask_token", "proj.", "pred.")
# One depthwise convolution per block, in official names, timm's, and those of timm's feature networks
_BLOCK = re.compile(r"stages[._](\d+)\.(?:blocks\.)?(\d+)\.(?:dwconv|conv_dw)\.weight")


class Size(NamedTuple):
    """Blocks and channels of the stages of a ConvNeXt."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"depths {list(self.depths)}, dims {list(self.dims)}"


_SIZES = {
    name: Size(depths, tuple(channels * 2**stage for stage in range(4)))
    for name, depths, channels in (
        ("convnextv2_atto", (2, 2, 6, 2), 40),
        ("convnextv2_femto", (2, 2, 6, 2), 48),
        ("convnextv2_pico", (2, 2, 6, 2), 64),
        ("convnextv2_nano", (2, 2, 8, 2), 80),
        ("convnextv2_tiny", (3, 3, 9, 3), 96),
        ("convnextv2_base", (3, 3, 27, 3), 128),
        ("convnextv2_large", (3, 3, 27, 3), 192),
        ("convnextv2_huge", (3, 3, 27, 3), 352),
    )
}


def size_of(state: Mapping[str, torch.Tensor]) -> Size | None:
    """The size of the ConvNeXt whose tensors these are, whichever its names follow; None when it is none."""
    blocks: dict[int, dict[int, int]] = {}
    for key, tensor in state.items():
        match = _BLOCK.fullmatch(key)
        if match and tensor.ndim == 4:
            blocks.setdefault(int(match[1]), {})[int(match[2])] = tensor.shape[0]
    stages = [blocks[stage] for stage in sorted(blocks)]
    return Size(tuple(map(len, stages)), tuple(max(stage.values()) for stage in stages)) if stages else None


def name_of(size: Size, keys: Iterable[str]) -> str:
    """timm's name for a ConvNeXt V2 of this size; "" when it is none of the eight published ones."""
    if not any("grn" in key for key in keys):  # ConvNeXt V1 has some of the same sizes
        return ""
    return next((name for name, published in _SIZES.items() if published == size), "")


def dense_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an FCMAE pretraining checkpoint as those of the dense network; other files are left as they are.

    A sparse kernel is (k * k, C) when depthwise, else (k * k, C in, C out), with the column of the kernel as the slow
    part of the first index. Its bias is (1, C), which timm's filter reshapes.

    Args:
        state: official names.
    """
    if not any(key.startswith((_ENCODER, "decoder.", "mask_token")) or key.endswith(".kernel") for key in state):
        return dict(state)
    dense = {}
    for name, tensor in state.items():
        key = name.removeprefix(_ENCODER)
        if key == name and key.startswith(_DECODER):
            continue
        key = key.replace(".ln.", ".").replace(".linear.", ".")  # Minkowski's layers wrap torch's
        if key.endswith(".kernel"):
            key, tensor = f"{key.removesuffix('.kernel')}.weight", _dense_kernel(tensor)
        dense[key] = tensor
    return dense


def _dense_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """(k * k, C) -> (C, 1, k, k), or (k * k, C in, C out) -> (C out, C in, k, k)."""
    side = isqrt(kernel.shape[0])
    if side * side != kernel.shape[0] or kernel.ndim not in (2, 3):
        return kernel  # not one of these: the comparison of shapes will say so
    columns_rows = kernel.unflatten(0, (side, side))
    if kernel.ndim == 2:
        columns_rows = columns_rows.unsqueeze(2)
    return columns_rows.permute(3, 2, 1, 0).contiguous()
