"""Building blocks shared by the pyramid and the heads (reference section 2.2).

Shape letters: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

import torch
from detectron2.layers import Conv2d
from detectron2.layers import get_norm as get_detectron2_norm
from timm.layers import LayerNorm2d, RmsNorm2d
from torch import nn

from ..errors import RamsesError

ACTIVATIONS = {"GELU": nn.GELU, "SiLU": nn.SiLU, "ReLU": nn.ReLU, "Softplus": nn.Softplus}
CHANNEL_NORMS = {"LN": LayerNorm2d, "RMS": RmsNorm2d}


def get_norm(name: str, channels: int) -> nn.Module | None:
    """Normalisation layer over ``channels`` maps: "LN", "RMS", "GN", "BN", "SyncBN", "FrozenBN" or "" for none."""
    if name in CHANNEL_NORMS:
        return CHANNEL_NORMS[name](channels, eps=1e-6)
    try:
        return get_detectron2_norm(name, channels)
    except KeyError:
        raise RamsesError(f'unknown normalisation "{name}": use LN, RMS, GN, BN, SyncBN, FrozenBN or ""') from None


def get_activation(name: str) -> nn.Module:
    """Activation layer by its ``torch.nn`` name: "GELU", "SiLU", "ReLU" or "Softplus"."""
    if name not in ACTIVATIONS:
        raise RamsesError(f'unknown activation "{name}": use one of {", ".join(ACTIVATIONS)}')
    return ACTIVATIONS[name]()


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: str,
    activation: str,
    stride: int = 1,
    bias: bool = False,
) -> Conv2d:
    """Convolution that keeps the size (or divides it by ``stride``), then normalisation, then activation."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=bias,
        norm=get_norm(norm, out_channels),
        activation=get_activation(activation),
    )


def coordinates(like: torch.Tensor) -> torch.Tensor:
    """Coordinate channels of a batch of maps.

    Args:
        like: (N, C, H, W), gives size, dtype and device.

    Returns:
        (N, 2, H, W): x, then y, each from -1 to 1 with both ends included.
    """
    num, _, height, width = like.shape
    x = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)
    y = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
    return grid.expand(num, 2, height, width)


def append_coordinates(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, C + 2, H, W), see :func:`coordinates`."""
    return torch.cat((x, coordinates(x)), dim=1)
