"""Parts and layers of every network that can be trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.modeling import build_model
from torch import nn

from ramses_d2.config import load_config
from ramses_d2.engine.solver import backbone_depths, layers_from_input, part_of, parts_of
from ramses_d2.errors import RamsesError

ROOT = Path(__file__).parents[2]
TINY = "tests/ramses_tiny.yaml"
SOLOV2 = "configs/SOLOv2/solov2_R50_FPN_1x.yaml"
MASK_RCNN = "configs/MaskRCNN/mask_rcnn_R50_FPN.yaml"
RESNET18 = ["MODEL.DEVICE", "cpu", "MODEL.TIMM.WEIGHTS", "", "MODEL.TIMM.NAME", "resnet18"]


def build(config_file: str, *overrides: object) -> nn.Module:
    return build_model(load_config(str(ROOT / config_file), list(overrides)))


@pytest.mark.parametrize(
    ("config_file", "overrides", "expected"),
    [
        (TINY, [], ["backbone", "fpn", "class", "kernel", "mass", "mask"]),
        (SOLOV2, RESNET18, ["backbone", "fpn", "class", "kernel", "mask"]),
        (MASK_RCNN, RESNET18, ["backbone", "fpn", "mask", "rpn", "box"]),
    ],
    ids=["ramses", "solov2", "mask_rcnn"],
)
def test_every_parameter_has_a_part(config_file: str, overrides: list[str], expected: list[str]) -> None:
    model = build(config_file, *overrides)
    parts = parts_of(model)
    assert list(parts) == expected
    assert sum(map(len, parts.values())) == len(list(model.parameters()))


def test_parts_by_name() -> None:
    names = {
        "backbone.bottom_up.network.stem_0.weight": "backbone",
        "module.backbone.lateral.0.weight": "fpn",
        "backbone.fpn_output2.bias": "fpn",
        "shared_head.class_logits.bias": "class",
        "shared_head.kernel_out.weight": "kernel",
        "shared_head.factor_branch.1.weight": "mass",
        "mask_head.geometry.0.weight": "mass",
        "mask_head.pipelines.1.1.weight": "mask",
        "proposal_generator.rpn_head.conv.weight": "rpn",
        "roi_heads.box_predictor.cls_score.weight": "box",
        "roi_heads.mask_head.deconv.weight": "mask",
        "something.weight": "other",
    }
    assert {name: part_of(name) for name in names} == names


def test_layers_go_from_the_input_to_the_heads() -> None:
    layers = layers_from_input(build(TINY))
    assert layers[:3] == [
        "backbone.bottom_up.network.stem_0",
        "backbone.bottom_up.network.stem_1",
        "backbone.bottom_up.network.stages_0.blocks.0.conv_dw",
    ]
    order = [part_of(f"{name}.") for name in layers]
    assert order.index("fpn") == order.count("backbone")
    assert set(order[order.count("backbone") + order.count("fpn") :]) == {"class", "kernel", "mask", "mass"}


def test_detectron2_builds_its_pyramid_first_and_it_is_still_second() -> None:
    layers = layers_from_input(build(SOLOV2, *RESNET18))
    assert layers[0] == "backbone.bottom_up.network.conv1"
    assert [part_of(f"{name}.") for name in layers].index("fpn") > 15


def test_depths_of_convnext() -> None:
    depths, count = backbone_depths(build(TINY))
    network = "backbone.bottom_up.network."
    assert count == 5  # stem and one block of each of the four stages
    assert depths[f"{network}stem_0.weight"] == depths[f"{network}stem_1.bias"] == 0
    assert depths[f"{network}stages_0.blocks.0.conv_dw.weight"] == 1
    assert depths[f"{network}stages_3.downsample.1.weight"] == depths[f"{network}stages_3.blocks.0.mlp.fc2.bias"] == 4
    assert all(name.startswith(network) for name in depths)


def test_depths_of_a_resnet_and_under_a_parallel_wrapper() -> None:
    model = build(SOLOV2, *RESNET18, "MODEL.TIMM.NORM", "")
    depths, count = backbone_depths(model)
    network = "backbone.bottom_up.network."
    assert count == 9
    assert depths[f"{network}conv1.weight"] == depths[f"{network}bn1.weight"] == 0
    assert depths[f"{network}layer1.0.conv1.weight"] == 1 and depths[f"{network}layer4.1.bn2.bias"] == 8
    wrapper = nn.Module()
    wrapper.module = model
    assert backbone_depths(wrapper) == ({f"module.{name}": depth for name, depth in depths.items()}, count)


def test_depths_of_detectron2s_own_resnet() -> None:
    options = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18]
    options += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    depths, count = backbone_depths(build(SOLOV2, *RESNET18, *options))
    assert count == 9 and depths["backbone.bottom_up.stem.conv1.weight"] == 0
    assert depths["backbone.bottom_up.res5.1.conv2.weight"] == 8


def test_a_backbone_of_unknown_layers_is_one_line() -> None:
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(RamsesError, match="LAYER_DECAY: the layers of this backbone are unknown"):
        backbone_depths(model)
