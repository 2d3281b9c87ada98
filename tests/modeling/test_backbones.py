"""Backbones promise names, channels and strides, and keep them; what does not make a pyramid is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from detectron2.modeling import Backbone
from torch import nn

from ramses_d2.checkpoint.pretrained import load_backbone
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import FPN, ConvNeXtV2, TimmBackbone, whole_network

ALL = ["res2", "res3", "res4", "res5"]
CONVNEXT = {
    **{"atto": [40, 80, 160, 320], "femto": [48, 96, 192, 384]},
    **{"pico": [64, 128, 256, 512], "nano": [80, 160, 320, 640]},
}
TIMM = {
    "resnet18": [64, 128, 256, 512],
    "resnext50_32x4d": [256, 512, 1024, 2048],
    "convnextv2_atto": [40, 80, 160, 320],
    "regnety_002": [24, 56, 152, 368],
    "mobilenetv3_small_050": [8, 16, 24, 288],
    "efficientnet_lite0": [24, 40, 112, 320],
    "cspnext_tiny": [48, 96, 192, 384],
}


def assert_as_promised(backbone: Backbone, height: int, width: int) -> None:
    shapes = backbone.output_shape()
    with torch.no_grad():
        features = backbone.eval()(torch.rand(2, 3, height, width))
    assert list(features) == list(shapes)
    for name, feature in features.items():
        stride = shapes[name].stride
        assert 2 ** int(name.removeprefix("res")) == stride
        assert feature.shape == (2, shapes[name].channels, height // stride, width // stride), name
        assert feature.isfinite().all()


@pytest.mark.parametrize("name", [*CONVNEXT, *TIMM])
def test_features_are_as_promised(name: str) -> None:
    is_convnext = name in CONVNEXT
    backbone = ConvNeXtV2(name=f"convnextv2_{name}", out_features=ALL) if is_convnext else TimmBackbone(name=name)
    channels = {key: shape.channels for key, shape in backbone.output_shape().items()}
    assert channels == dict(zip(ALL, (CONVNEXT | TIMM)[name], strict=True))
    assert_as_promised(backbone, 64, 128)


def test_published_parameter_counts() -> None:
    bottom_up = ConvNeXtV2(name="convnextv2_femto", out_features=["res3", "res4", "res5"])
    pyramid = FPN(bottom_up=bottom_up, in_features=["res3", "res4", "res5"], out_channels=256)
    backbone, both = (sum(p.numel() for p in module.parameters()) for module in (bottom_up, pyramid))
    assert (backbone, both - backbone) == (4_847_472, 2_531_328)


def test_features_that_are_not_wanted_are_not_built() -> None:
    short = ConvNeXtV2(name="convnextv2_atto", out_features=["res2", "res3"])
    assert short.output_shape().keys() == {"res2", "res3"}
    assert not any("stages_2" in name for name, _ in short.named_parameters())
    backbone = TimmBackbone(name="resnet18", out_features=["res3", "res2"])
    assert list(backbone.output_shape()) == ["res2", "res3"]
    assert not [name for name in backbone.state_dict() if "layer3" in name]
    assert_as_promised(backbone, 64, 64)


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = ConvNeXtV2(name="convnextv2_atto", out_features=["res3"], checkpointing=checkpointing)
        net(torch.ones(1, 3, 32, 32))["res3"].square().sum().backward()
        grads.append(net.network.stem_0.weight.grad)
    torch.testing.assert_close(*grads)


def test_pyramid_is_the_original_one() -> None:
    """Written out for two levels and one extra."""
    size = {"dims": (8, 8, 12, 16), "depths": (1, 1, 1, 1)}
    bottom_up = ConvNeXtV2(name="convnextv2_atto", out_features=["res4", "res5"], **size)
    pyramid = FPN(bottom_up=bottom_up, in_features=["res4", "res5"], out_channels=8, extra_levels=1)
    image = torch.rand(1, 3, 64, 128)
    out, features = pyramid(image), bottom_up(image)
    top = pyramid.lateral[1](features["res5"])
    fine = pyramid.lateral[0](features["res4"]) + nn.functional.interpolate(top, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(out["p4"], pyramid.output[0](fine))
    torch.testing.assert_close(out["p5"], pyramid.output[1](top))
    torch.testing.assert_close(out["p6"], pyramid.extra[0](out["p5"]))
    assert {name: shape.stride for name, shape in pyramid.output_shape().items()} == {"p4": 16, "p5": 32, "p6": 64}
    sum(level.sum() for level in out.values()).backward()
    assert bottom_up.network.stem_0.weight.grad.abs().sum() > 0


def test_channels_last_networks_come_out_channels_first() -> None:
    # Swin gives (N, H, W, C), and by itself images of one size alone; 96 channels, 8 rows, 24 columns
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224", out_features=["res2", "res3"])
    assert_as_promised(backbone, 32, 96)
    image = torch.rand(1, 3, 32, 96)
    with torch.no_grad():
        assert torch.equal(backbone(image)["res2"][0, :, 2, 5], backbone.network(image)[0][0, 2, 5])


@pytest.mark.parametrize(
    ("out_indices", "names"),
    [((), [2, 3, 4, 5]), ((0, 1, 4), [1, 2, 5]), ((4, 2), [3, 5]), ((-2, -1), [4, 5])],
)
def test_indices_choose_the_maps_in_any_order(out_indices: tuple[int, ...], names: list[int]) -> None:
    backbone = TimmBackbone(name="resnet18", out_indices=out_indices)
    assert list(backbone.output_shape()) == [f"res{name}" for name in names]
    assert_as_promised(backbone, 64, 96)


def randomise(network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))


# resnet18 has plain batch norms, the others timm's with an activation inside, which must survive
@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "mobilenetv3_small_050"])
def test_norms_change_training_not_results(tmp_path: Path, name: str) -> None:
    plain = TimmBackbone(name=name).eval()
    randomise(plain)
    path = str(tmp_path / "weights.pth")
    torch.save({f"backbone.bottom_up.{key}": tensor for key, tensor in plain.state_dict().items()}, path)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = plain(image)
        for norm in ("FrozenBN", "SyncBN"):
            backbone = TimmBackbone(name=name, norm=norm)
            load_backbone(backbone, path, key="MODEL.TIMM.WEIGHTS")
            if norm == "SyncBN":  # trains over GPUs
                assert any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules())
                assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
                assert set(backbone.state_dict()) == set(plain.state_dict())
                backbone.eval()
            for key, feature in backbone(image).items():  # frozen: even in training mode
                torch.testing.assert_close(feature, expected[key], atol=1e-4, rtol=1e-4)


def test_frozen_norms_stay_as_they_are() -> None:
    backbone = TimmBackbone(name="regnety_002", norm="FrozenBN").train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    assert any(name.endswith("running_var") for name in before)
    assert not [name for name, _ in backbone.named_parameters() if ".bn" in name]
    sum(feature.sum() for feature in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in backbone.named_buffers())


def test_building_leaves_norms_and_mode_alone() -> None:
    backbone = TimmBackbone(name="resnet18")
    assert all(module.training for module in backbone.modules()) and backbone.network.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "resnet5O"}, "NAME.*resnet5O.*resnet50"),  # did you mean
        ({"name": "-"}, "NAME"),
        ({"name": ""}, "NAME"),
        ({"name": "resnet50.a1_in1k"}, "NAME.*WEIGHTS to timm://resnet50.a1_in1k"),
        ({"name": "resnet18", "out_indices": (1, 5)}, r"OUT_INDICES \[1, 5\].*0 to 4.*\[2, 4, 8, 16, 32\]"),
        ({"name": "resnet18", "out_indices": (2, 2)}, r"NAME.*1 different strides \[8\].*OUT_INDICES"),
        ({"name": "resnet18", "out_features": ("res1",)}, "IN_FEATURES.*res1.*res2, res3, res4, res5"),
        ({"name": "resnet18", "norm": "GN"}, "NORM.*GN"),
        ({"name": "convnextv2_atto", "norm": "FrozenBN"}, "NORM.*no batch norms"),
        ({"name": "vit_tiny_patch16_224"}, r"NAME.*1 different strides \[16\].*use another"),
        ({"name": "sequencer2d_s"}, r"NAME.*\[7, 14, 14, 14\].*powers of two"),
        ({"name": "pit_ti_224"}, "NAME.*any size"),
        ({"name": "legacy_xception"}, "NAME.*feature maps that timm states"),
    ],
)
def test_what_makes_no_pyramid_is_refused(options: dict, named: str) -> None:
    with pytest.raises(RamsesError, match=f"MODEL.TIMM.{named}|MODEL.FPN.{named}") as error:
        TimmBackbone(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "feature", "named"),
    [("resnet18", "res3", "resnet18"), ("convnextv2_nosuch", "res3", "nosuch"), ("convnextv2_atto", "res9", "res9")],
)
def test_unknown_convnexts_and_features_are_named(name: str, feature: str, named: str) -> None:
    with pytest.raises(RamsesError, match=named):
        ConvNeXtV2(name=name, out_features=[feature])


def test_networks_without_feature_maps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def without_features(name: str, features_only: bool = False, **options: object) -> nn.Module:
        if features_only:  # what timm does for such a network; every one of this version has some
            raise RuntimeError(f"features_only not implemented for {name}.")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_features)
    with pytest.raises(RamsesError, match="MODEL.TIMM.NAME: resnet18"):
        TimmBackbone(name="resnet18")


def test_networks_that_compute_while_they_are_built_can_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def computing(name: str, **options: object) -> nn.Module:
        torch.ones(1).item()  # fails on the meta device
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", computing)
    whole = whole_network("resnet18", {})
    assert whole.fc.weight.shape == (1000, 512) and all(tensor.is_meta for tensor in whole.state_dict().values())
