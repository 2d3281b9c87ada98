"""The backbone promises channels and strides, and keeps them."""

from __future__ import annotations

import pytest
import torch

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import FPN, ConvNeXtV2

DIMS = {
    "atto": (40, 80, 160, 320),
    "femto": (48, 96, 192, 384),
    "pico": (64, 128, 256, 512),
    "nano": (80, 160, 320, 640),
}


@pytest.mark.parametrize("size", DIMS)
def test_features_are_as_promised(size: str) -> None:
    backbone = ConvNeXtV2(name=f"convnextv2_{size}", out_features=["res2", "res3", "res4", "res5"])
    shapes = backbone.output_shape()
    features = backbone(torch.rand(1, 3, 64, 128))
    assert [shapes[name].channels for name in shapes] == list(DIMS[size])
    for name, feature in features.items():
        stride = shapes[name].stride
        assert feature.shape == (1, shapes[name].channels, 64 // stride, 128 // stride)
        assert feature.isfinite().all()


def test_published_parameter_counts() -> None:
    """Reference section 2.9: backbone 4 847 472, pyramid 2 531 328."""
    bottom_up = ConvNeXtV2(name="convnextv2_femto", out_features=["res3", "res4", "res5"])
    pyramid = FPN(bottom_up=bottom_up, in_features=["res3", "res4", "res5"], out_channels=256)
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in (("b", bottom_up), ("all", pyramid))}
    assert count["b"] == 4_847_472
    assert count["all"] - count["b"] == 2_531_328


def test_later_stages_are_not_built() -> None:
    short = ConvNeXtV2(name="convnextv2_atto", out_features=["res2", "res3"])
    assert short.output_shape().keys() == {"res2", "res3"}
    assert not any("stages_2" in name for name, _ in short.named_parameters())


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = ConvNeXtV2(name="convnextv2_atto", out_features=["res3"], checkpointing=checkpointing)
        net(torch.ones(1, 3, 32, 32))["res3"].square().sum().backward()
        grads.append(net.network.stem_0.weight.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(("name", "features"), [("resnet18", ["res3"]), ("convnextv2_nosuch", ["res3"])])
def test_unknown_network_is_named(name: str, features: list[str]) -> None:
    with pytest.raises(RamsesError, match=name):
        ConvNeXtV2(name=name, out_features=features)


def test_unknown_feature_is_named() -> None:
    with pytest.raises(RamsesError, match="res9"):
        ConvNeXtV2(name="convnextv2_atto", out_features=["res9"])


def test_pyramid_is_the_original_one() -> None:
    """Reference section 2.4, written out for two levels and one extra."""
    torch.manual_seed(0)
    bottom_up = ConvNeXtV2(
        name="convnextv2_atto", out_features=["res4", "res5"], dims=(8, 8, 12, 16), depths=(1, 1, 1, 1)
    )
    pyramid = FPN(bottom_up=bottom_up, in_features=["res4", "res5"], out_channels=8, extra_levels=1)
    image = torch.rand(1, 3, 64, 128)
    out, features = pyramid(image), bottom_up(image)
    top = pyramid.lateral[1](features["res5"])
    fine = pyramid.lateral[0](features["res4"]) + torch.nn.functional.interpolate(top, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(out["p4"], pyramid.output[0](fine))
    torch.testing.assert_close(out["p5"], pyramid.output[1](top))
    torch.testing.assert_close(out["p6"], pyramid.extra[0](out["p5"]))
    assert {name: shape.stride for name, shape in pyramid.output_shape().items()} == {"p4": 16, "p5": 32, "p6": 64}
