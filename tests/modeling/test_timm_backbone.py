"""Any timm network as a backbone: names, channels and strides are kept, and what makes no pyramid is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from ramses_d2.checkpoint.pretrained import load_backbone
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import FPN, TimmBackbone, whole_network


def assert_as_promised(backbone: TimmBackbone, height: int, width: int) -> None:
    shapes = backbone.output_shape()
    with torch.no_grad():
        features = backbone.eval()(torch.rand(2, 3, height, width))
    assert list(features) == list(shapes)
    for name, feature in features.items():
        stride = shapes[name].stride
        assert 2 ** int(name.removeprefix("res")) == stride
        assert feature.shape == (2, shapes[name].channels, height // stride, width // stride), name
        assert feature.isfinite().all()


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256, 512]),
        ("resnext50_32x4d", [256, 512, 1024, 2048]),
        ("convnextv2_atto", [40, 80, 160, 320]),
        ("regnety_002", [24, 56, 152, 368]),
        ("mobilenetv3_small_050", [8, 16, 24, 288]),
        ("efficientnet_lite0", [24, 40, 112, 320]),
        ("cspnext_tiny", [48, 96, 192, 384]),
    ],
)
def test_features_are_as_promised(name: str, channels: list[int]) -> None:
    backbone = TimmBackbone(name=name)
    assert list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    assert [shape.channels for shape in backbone.output_shape().values()] == channels
    assert_as_promised(backbone, 64, 128)


def test_channels_last_networks_come_out_channels_first() -> None:
    # Swin gives (N, H, W, C), and by itself images of one size alone; 96 channels, 8 rows, 24 columns
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224", out_features=["res2", "res3"])
    assert_as_promised(backbone, 32, 96)
    image = torch.rand(1, 3, 32, 96)
    with torch.no_grad():
        feature = backbone(image)["res2"]
        assert torch.equal(feature[0, :, 2, 5], backbone.network(image)[0][0, 2, 5])


@pytest.mark.parametrize(
    ("out_indices", "names"),
    [((), [2, 3, 4, 5]), ((0, 1, 4), [1, 2, 5]), ((4, 2), [3, 5]), ((-2, -1), [4, 5])],
)
def test_indices_choose_the_maps_in_any_order(out_indices: tuple[int, ...], names: list[int]) -> None:
    backbone = TimmBackbone(name="resnet18", out_indices=out_indices)
    assert list(backbone.output_shape()) == [f"res{name}" for name in names]
    assert_as_promised(backbone, 64, 96)


def test_features_that_nobody_wants_are_not_built() -> None:
    backbone = TimmBackbone(name="resnet18", out_features=["res3", "res2"])
    assert list(backbone.output_shape()) == ["res2", "res3"]
    assert not [name for name in backbone.state_dict() if "layer3" in name]
    assert_as_promised(backbone, 64, 64)


def test_a_pyramid_stands_on_it_and_learns() -> None:
    fpn = FPN(bottom_up=TimmBackbone(name="resnet18"), in_features=["res3", "res4", "res5"], out_channels=8)
    levels = fpn(torch.rand(2, 3, 64, 128))
    assert list(levels) == ["p3", "p4", "p5", "p6"]
    sum(level.sum() for level in levels.values()).backward()
    assert fpn.bottom_up.network.conv1.weight.grad.abs().sum() > 0


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
    assert backbone.training and all(module.training for module in backbone.modules())
    assert backbone.network.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5O"}, r'timm has no network "resnet5O", did you mean resnet50'),
        ({"name": "-"}, "timm has no network"),
        ({"name": ""}, "timm has no network"),
        ({"name": "resnet50.a1_in1k"}, r"NAME to resnet50 and MODEL.TIMM.WEIGHTS to timm://resnet50.a1_in1k"),
        ({"name": "resnet18", "out_indices": (1, 5)}, r"has the feature maps 0 to 4, with strides \[2, 4, 8, 16, 32\]"),
        ({"name": "resnet18", "out_indices": (2, 2)}, r"2 feature maps with 1 different strides \[8\].*OUT_INDICES"),
        ({"name": "resnet18", "out_features": ("res1",)}, "no feature res1, only res2, res3, res4, res5"),
        ({"name": "resnet18", "norm": "GN"}, 'MODEL.TIMM.NORM: "GN" is unknown'),
        ({"name": "convnextv2_atto", "norm": "FrozenBN"}, "has no batch norms"),
        ({"name": "vit_tiny_patch16_224"}, r"12 feature maps with 1 different strides \[16\].*use another"),
        ({"name": "sequencer2d_s"}, r"strides \[7, 14, 14, 14\], a pyramid needs powers of two"),
        ({"name": "pit_ti_224"}, "cannot take images of any size"),
        ({"name": "legacy_xception"}, "does not give the feature maps that timm states"),
    ],
)
def test_what_makes_no_pyramid_is_refused(options: dict, message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        TimmBackbone(**options)
    assert "\n" not in str(error.value)


def test_networks_without_feature_maps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def without_features(name: str, features_only: bool = False, **options: object) -> nn.Module:
        if features_only:  # what timm does for such a network; every one of this version has some
            raise RuntimeError(f"features_only not implemented for {name}.")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_features)
    with pytest.raises(RamsesError, match="resnet18 gives no feature maps"):
        TimmBackbone(name="resnet18")


def test_networks_that_compute_while_they_are_built_can_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def computing(name: str, **options: object) -> nn.Module:
        torch.ones(1).item()  # fails on the meta device
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", computing)
    whole = whole_network("resnet18", {})
    assert whole.fc.weight.shape == (1000, 512) and all(tensor.is_meta for tensor in whole.state_dict().values())
