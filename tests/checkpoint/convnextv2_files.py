"""Files with the names and shapes of the published ConvNeXt V2 ones, and what the paper's network makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ramses_d2.checkpoint.pretrained import load_backbone
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import ConvNeXtV2

KEY = "MODEL.CONVNEXTV2.WEIGHTS"
ALL = ("res2", "res3", "res4", "res5")
TINY, ATTO, FEMTO = (
    ((1, 1, 2, 1), (8, 16, 24, 40)),
    ((2, 2, 6, 2), (40, 80, 160, 320)),
    ((2, 2, 6, 2), (48, 96, 192, 384)),
)
State = dict[str, torch.Tensor]


def official(depths: Sequence[int], dims: Sequence[int], head: bool = True) -> State:
    """The tensors of an official ConvNeXt V2 file; without ``head``, those of an FCMAE one."""
    state: State = {}

    def layer(name: str, *shape: int) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        state[f"{name}.weight"] = torch.randn(shape) * fan_in**-0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0])

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(channels)
        state[f"{name}.bias"] = 0.2 * torch.randn(channels)

    layer("downsample_layers.0.0", dims[0], 3, 4, 4)
    norm("downsample_layers.0.1", dims[0])
    for stage in range(1, 4):
        norm(f"downsample_layers.{stage}.0", dims[stage - 1])
        layer(f"downsample_layers.{stage}.1", dims[stage], dims[stage - 1], 2, 2)
    for stage, (depth, channels) in enumerate(zip(depths, dims, strict=True)):
        for block in (f"stages.{stage}.{index}" for index in range(depth)):
            layer(f"{block}.dwconv", channels, 1, 7, 7)
            norm(f"{block}.norm", channels)
            layer(f"{block}.pwconv1", 4 * channels, channels)
            state[f"{block}.grn.gamma"] = 0.5 * torch.randn(1, 1, 1, 4 * channels)
            state[f"{block}.grn.beta"] = 0.5 * torch.randn(1, 1, 1, 4 * channels)
            layer(f"{block}.pwconv2", channels, 4 * channels)
    if head:
        norm("norm", dims[-1])
        layer("head", 1000, dims[-1])
    return state


def sparse(dense: Mapping[str, torch.Tensor]) -> State:
    """The same network as FCMAE pretraining stores it: MinkowskiEngine's layers and a decoder."""
    state = {"mask_token": torch.zeros(1, 512, 1, 1), "proj.weight": torch.zeros(512, 320, 1, 1)}
    state |= {"pred.bias": torch.zeros(3072), "decoder.0.pwconv1.weight": torch.zeros(2048, 512)}
    for key, tensor in dense.items():
        layer, _, kind = key.rpartition(".")
        name = f"encoder.{key}"
        if key.startswith("downsample_layers.0"):
            state[name] = tensor
        elif "dwconv" in key or key.startswith("downsample_layers") and layer.endswith(".1"):
            if kind == "bias":
                state[name] = tensor[None]
                continue
            out_channels, in_channels, height, width = tensor.shape
            kernel = torch.empty(height * width, in_channels, out_channels)
            for row in range(height):
                for column in range(width):
                    kernel[column * height + row] = tensor[:, :, row, column].T
            state[f"encoder.{layer}.kernel"] = kernel[:, 0] if "dwconv" in key else kernel
        elif "pwconv" in key:
            state[f"encoder.{layer}.linear.{kind}"] = tensor
        elif "grn" in key:
            state[name] = tensor.reshape(1, -1)
        else:
            state[f"encoder.{layer}.ln.{kind}"] = tensor
    return state


def convnextv2(state: Mapping[str, torch.Tensor], depths: Sequence[int], image: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the four stages, from the paper: figure 5, section 3.2 and algorithm 1, in double precision."""
    weights = {key: tensor.double() for key, tensor in state.items()}

    def normalise(x: torch.Tensor, name: str) -> torch.Tensor:  # over the channels of (N, H, W, C)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def convolve(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        x = F.conv2d(x.permute(0, 3, 1, 2), weights[f"{name}.weight"], weights[f"{name}.bias"], **options)
        return x.permute(0, 2, 3, 1)

    x, outputs = image.double().permute(0, 2, 3, 1), []
    for stage, depth in enumerate(depths):
        if stage == 0:
            x = normalise(convolve(x, "downsample_layers.0.0", stride=4), "downsample_layers.0.1")
        else:
            x = convolve(normalise(x, f"downsample_layers.{stage}.0"), f"downsample_layers.{stage}.1", stride=2)
        for block in (f"stages.{stage}.{index}" for index in range(depth)):
            y = normalise(convolve(x, f"{block}.dwconv", padding=3, groups=x.shape[-1]), f"{block}.norm")
            y = F.gelu(linear(y, f"{block}.pwconv1"))
            energy = (y**2).sum((1, 2), keepdim=True).sqrt()
            share = energy / (energy.mean(-1, keepdim=True) + 1e-6)
            y = weights[f"{block}.grn.gamma"] * (y * share) + weights[f"{block}.grn.beta"] + y
            x = x + linear(y, f"{block}.pwconv2")
        outputs.append(x.permute(0, 3, 1, 2).float())
    return outputs


def save(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def build(name: str = "convnextv2_atto", size: tuple = TINY, **options: object) -> ConvNeXtV2:
    return ConvNeXtV2(**{"name": name, "depths": size[0], "dims": size[1], "out_features": ALL, **options}).eval()


def build_published(name: str) -> ConvNeXtV2:
    return ConvNeXtV2(name=name, out_features=ALL).eval()


def assert_same_features(backbone: nn.Module, expected: Sequence[torch.Tensor], image: torch.Tensor) -> None:
    with torch.no_grad():
        found = backbone(image)
    assert len(found) == len(expected)
    for name, (feature, wanted) in zip(found, zip(found.values(), expected, strict=True), strict=True):
        torch.testing.assert_close(feature, wanted, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def refusal(backbone: nn.Module, source: str, key: str = KEY) -> str:
    """The one-line refusal of a source, which must have left the backbone as it was."""
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(RamsesError) as error:
        load_backbone(backbone, source, key=key)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{key}: ") and source in message
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    return message
