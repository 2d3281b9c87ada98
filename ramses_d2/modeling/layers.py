"""Building blocks shared by the pyramid and the heads (reference section 2.2).

Shape letters: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.layers import Conv2d
from detectron2.layers import get_norm as get_detectron2_norm
from timm.layers import LayerNorm2d, RmsNorm2d
from torch import nn

from ..errors import RamsesError

ACTIVATIONS = {
    activation.__name__: activation
    for activation in (nn.GELU, nn.SiLU, nn.ReLU, nn.Softplus, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Hardswish)
}
CHANNEL_NORMS = {"LN": LayerNorm2d, "RMS": RmsNorm2d}


class Norm(NamedTuple):
    """A kind of normalisation.

    Attributes:
        name: "LN", "RMS" (both over the channels of a pixel), "GN", "BN", "SyncBN", "FrozenBN", or "" for none.
        eps: added to the variance.
        groups: of "GN".
    """

    name: str = "LN"
    eps: float = 1e-6
    groups: int = 32


DEFAULT_NORM = Norm()


def get_norm(norm: Norm, channels: int) -> nn.Module | None:
    """Normalisation layer over ``channels`` maps, or None.

    Raises:
        RamsesError: an unknown name, or channels that the groups do not divide.
    """
    if norm.name in CHANNEL_NORMS:
        return CHANNEL_NORMS[norm.name](channels, eps=norm.eps)
    if norm.name == "GN":
        if channels % norm.groups:
            raise RamsesError(f"MODEL.RAMSES.NORM_GROUPS is {norm.groups}, which does not divide {channels} channels")
        return nn.GroupNorm(norm.groups, channels, eps=norm.eps)
    try:
        layer = get_detectron2_norm(norm.name, channels)
    except KeyError:
        raise RamsesError(
            f'MODEL.RAMSES.NORM: unknown normalisation "{norm.name}", use LN, RMS, GN, BN, SyncBN, FrozenBN or ""'
        ) from None
    if layer is not None:
        layer.eps = norm.eps
    return layer


def get_activation(name: str) -> nn.Module:
    """Activation layer by its ``torch.nn`` name, one of ``ACTIVATIONS``."""
    if name not in ACTIVATIONS:
        raise RamsesError(f'unknown activation "{name}": use one of {", ".join(ACTIVATIONS)}')
    return ACTIVATIONS[name]()


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: Norm,
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
