"""RAMSES2's config.json and our keys: what is translated, what is refused, what is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from ramses_d2.checkpoint.ramses2_config import DEFAULTS, cfg_to_ramses2, ramses2_to_overrides
from ramses_d2.config import load_config
from ramses_d2.errors import RamsesError
from tests.checkpoint.ramses2_networks import PUBLISHED, ROOT, TOY_BACKBONE


def config_of(*overrides: Any) -> CfgNode:
    return load_config(str(ROOT / "configs/ramses_femto.yaml"), ["MODEL.DEVICE", "cpu", *overrides])


def get(delta: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        delta = delta[name]
    return delta


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"MODEL.RAMSES.NORM": "LN", "MODEL.RAMSES.NORM_EPS": 1e-6, "MODEL.CONVNEXTV2.WEIGHTS": ""}),
        ({"normalization_kw": {}}, {"MODEL.RAMSES.NORM_EPS": 1e-5}),
        (
            {"normalization": "RMSNorm2d", "normalization_kw": {"eps": None}},
            {"MODEL.RAMSES.NORM": "RMS", "MODEL.RAMSES.NORM_EPS": torch.finfo(torch.float32).eps},
        ),
        (
            {"normalization": "BatchNorm2d", "normalization_kw": {}},
            {"MODEL.RAMSES.NORM": "BN", "MODEL.RAMSES.NORM_EPS": 1e-5},
        ),
        (
            {"imshape": [1536, 1024, 3]},  # a standing image
            {"INPUT.MIN_SIZE_TRAIN": [1024], "INPUT.MAX_SIZE_TRAIN": 1536, "INPUT.MIN_SIZE_TEST": 1024},
        ),
        (
            {"lossweights": [1, 2, 0.5], "max_pos_samples": 99, "sigma_nms": 2, "use_binary_masks": False},
            {
                "MODEL.RAMSES.LOSS.CLS_WEIGHT": 1.0,
                "MODEL.RAMSES.LOSS.MASK_WEIGHT": 2.0,
                "MODEL.RAMSES.LOSS.MASS_WEIGHT": 0.5,
                "MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE": 99,
                "MODEL.RAMSES.TEST.NMS_SIGMA": 2.0,
                "MODEL.RAMSES.TEST.BINARY_MASS_MASKS": False,
            },
        ),
        ({"load_backbone": "weights/femto.pt"}, {"MODEL.CONVNEXTV2.WEIGHTS": "weights/femto.pt"}),
        (
            {
                "backbone_feature_nodes": {"stages.1": "B", "stages.2": "C", "stages.3": "D"},  # any names in order
                "connection_layers": {"D": 384, "B": 96, "C": 192},
            },
            {"MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"]},
        ),
        (
            {"backbone_params": {"build_head": True, "drop_path_rate": 0.2, "activation": "GELU"}},
            {"MODEL.CONVNEXTV2.DROP_PATH": 0.2, "MODEL.CONVNEXTV2.NAME": "convnextv2_femto"},
        ),
        (
            {},
            {
                "MODEL.RAMSES.TEST.SCORE_THRESH": 0.5,
                "MODEL.RAMSES.TEST.PRE_NMS_TOPK": 0,
                "MODEL.RAMSES.TEST.MASK_SCORING": True,
                "MODEL.RAMSES.TEST.NMS": "greedy",
                "MODEL.RAMSES.TEST.NMS_THRESH": 0.5,
                "MODEL.RAMSES.TEST.NMS_MIN_SCORE": 0.5,
                "TEST.DETECTIONS_PER_IMAGE": 768,
            },
        ),
    ],
)
def test_translation(change: dict[str, Any], expected: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    delta = ramses2_to_overrides(PUBLISHED | change)
    for key, value in expected.items():
        assert get(delta, key) == value and type(get(delta, key)) is type(value)
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization": "GroupNorm"}, "\"normalization\" is 'GroupNorm'.*the original itself cannot build it"),
        ({"normalization": "InstanceNorm2d"}, '"normalization" is .*LayerNorm2d, RMSNorm2d, BatchNorm2d'),
        ({"normalization_kw": {"eps": 1e-6, "bias": False}}, '"normalization_kw".*only a number "eps"'),
        ({"normalization_kw": {"eps": "tiny"}}, '"normalization_kw"'),
        ({"activation": "Tanh"}, "\"activation\" is 'Tanh'"),
        ({"activation": ["GELU"]}, '"activation"'),
        ({"use_geom": False}, '"use_geom" is False: the ablation'),
        ({"backbone": "resnet50"}, "\"backbone\" is 'resnet50'.*convnextv2_atto"),
        ({"backbone_source": "torchvision"}, '"backbone_source"'),
        ({"backbone_params": {"activation": "SiLU"}}, '"backbone_params"'),
        ({"backbone_params": {"in_channels": 4}}, '"backbone_params"'),
        ({"load_backbone": True}, '"load_backbone"'),
        ({"connection_layers": {"C3": 80, "C4": 160, "C5": 320}}, "the backbone convnextv2_femto has .*'C3': 96"),
        ({"connection_layers": {"C2": 48, "C4": 192, "C5": 384}}, '"connection_layers".*consecutive stages'),
        ({"connection_layers": {"C3": 96, "C6": 7}}, '"connection_layers".*backbone_feature_nodes C2, C3, C4, C5'),
        ({"connection_layers": {}}, '"connection_layers"'),
        ({"backbone_feature_nodes": {"ops.2": "C3"}}, '"backbone_feature_nodes".*stages.0'),
        (
            {"backbone_feature_nodes": {"stages.3": "C3", "stages.2": "C4", "stages.1": "C5"}},  # upside down
            '"connection_layers".*names in the order of the strides',
        ),
        ({"ncls": "fifteen"}, "\"ncls\" is 'fifteen': give a whole number from 1 on"),
        ({"ncls": 0}, '"ncls"'),
        ({"kernel_size": 2}, '"kernel_size" is 2: the side of a dynamic kernel is odd'),
        ({"mask_output_level": 3}, '"mask_output_level" is 3: .* 3 levels'),
        ({"grid_sizes": [144, 72, 36]}, '"grid_sizes".*each of the 4 pyramid levels'),
        ({"scale_ranges": [[1, 2], [2, 3], [3, 4], [5]]}, '"scale_ranges".*from and to'),
        ({"head_layers": 0}, '"head_layers"'),
        (
            {"cls_factor_layers": 0, "head_filters": 128},
            '"cls_factor_layers" is 0: .*"head_filters" is not "FPN_filters"',
        ),
        ({"offset_factor": float("nan")}, '"offset_factor"'),
        ({"imshape": [2048, 3072, 1]}, '"imshape".*3 channels'),
        ({"FPN_output_upscaling": 1}, '"FPN_output_upscaling" is 1: give true or false'),
    ],
)
def test_refusals_name_the_attribute(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        ramses2_to_overrides(PUBLISHED | change)
    assert "\n" not in str(error.value)


def test_missing_attributes_have_the_defaults_of_the_original() -> None:
    with pytest.raises(RamsesError, match=r"\"backbone\" is 'Resnext' \(RAMSES2's default\)"):
        ramses2_to_overrides({})
    lacking = {key: value for key, value in PUBLISHED.items() if key not in ("geom_feat_convs", "max_pos_samples")}
    ramses = ramses2_to_overrides(lacking)["MODEL"]["RAMSES"]
    assert ramses["MASK_HEAD"]["GEOMETRY_CONVS"] == 2 and ramses["LOSS"]["MAX_POS_PER_IMAGE"] == 512


def test_what_the_original_never_applies_is_said(caplog: pytest.LogCaptureFixture) -> None:
    change = {"strides": [4, 8, 16, 32], "mask_stride": 4, "min_area": 32, "point_nms": True}
    delta = ramses2_to_overrides(PUBLISHED | change)
    assert {record.getMessage().split('"')[1] for record in caplog.records} == set(change)
    assert get(delta, "MODEL.RAMSES.MASK_STRIDE") == 8 and get(delta, "MODEL.RAMSES.TEST.MIN_AREA") == 0


def test_class_names_must_be_as_many_as_the_classes() -> None:
    assert get(ramses2_to_overrides(PUBLISHED | {"ncls": 2}, ["Ra", "Rb"]), "MODEL.RAMSES.CLASS_NAMES") == ["Ra", "Rb"]
    with pytest.raises(RamsesError, match='"ncls" is 15, but 2 classes have names'):
        ramses2_to_overrides(PUBLISHED, ["Ra", "Rb"])


def test_exported_config_is_the_published_one() -> None:
    exported = json.loads(json.dumps(cfg_to_ramses2(config_of())))
    assert set(exported) == set(DEFAULTS)
    # Only the classifier, which the original cuts off, is not there
    assert {key: value for key, value in exported.items() if key in PUBLISHED} == PUBLISHED | {"backbone_params": {}}


def test_other_sizes_of_the_backbone_are_exported() -> None:
    exported = cfg_to_ramses2(config_of("MODEL.CONVNEXTV2.NAME", "convnextv2_nano"))
    assert exported["backbone"] == "convnextv2_nano" and exported["connection_layers"] == {
        "C3": 160,
        "C4": 320,
        "C5": 640,
    }
    sizes = ["MODEL.CONVNEXTV2.DEPTHS", "(1,2,1,1)", "MODEL.CONVNEXTV2.DIMS", "(8,12,16,20)"]
    exported = json.loads(json.dumps(cfg_to_ramses2(config_of(*sizes))))
    assert {key: exported[key] for key in TOY_BACKBONE} == TOY_BACKBONE


INEXPRESSIBLE = [
    ("MODEL.RAMSES.MASS.ENABLED", False),
    ("MODEL.RAMSES.MASS.ACTIVATION", "Softplus"),
    ("MODEL.RAMSES.MASK_HEAD.DISC_FEATURES", True),
    ("MODEL.RAMSES.MASK_HEAD.UPSCALE", "output"),
    ("MODEL.RAMSES.MASK_HEAD.COORDINATES", "coarsest"),
    ("MODEL.RAMSES.SQUARE_GRIDS", True),
    ("MODEL.RAMSES.NORM", "GN"),
    ("MODEL.FPN.STYLE", "detectron2"),
    ("MODEL.CONVNEXTV2.STEM", "overlap"),
    ("MODEL.CONVNEXTV2.NAME", "convnext_tiny"),
    ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"),
    ("MODEL.PIXEL_MEAN", [123.0, 116.0, 103.0]),
    ("INPUT.FORMAT", "BGR"),
    ("MODEL.FPN.IN_FEATURES", ["res2", "res4", "res5"]),
    ("MODEL.RAMSES.IN_FEATURES", ["p3", "p4", "p5"]),
    ("MODEL.RAMSES.MASK_HEAD.IN_FEATURES", ["p3", "p4"]),
    ("MODEL.RAMSES.HEAD.CONVS", 0),
]


@pytest.mark.parametrize(("key", "value"), INEXPRESSIBLE)
def test_each_inexpressible_key_is_refused(key: str, value: Any) -> None:
    with pytest.raises(RamsesError, match="^RAMSES2 cannot express ") as error:
        cfg_to_ramses2(config_of(key, value))
    assert key in str(error.value) and "\n" not in str(error.value)


def test_all_inexpressible_keys_come_in_one_message() -> None:
    keys = INEXPRESSIBLE[:9]
    with pytest.raises(RamsesError) as error:
        cfg_to_ramses2(config_of(*(part for pair in keys for part in pair)))
    assert all(key in str(error.value) for key, _ in keys)


def test_training_settings_that_get_lost_are_said(caplog: pytest.LogCaptureFixture) -> None:
    cfg_to_ramses2(config_of("MODEL.RAMSES.LOSS.MASS_TYPE", "log", "MODEL.RAMSES.HEAD.FACTOR_CONVS", 3))
    assert "MODEL.RAMSES.LOSS.MASS_TYPE 'log'" in caplog.text and '"cls_factor_layers"' in caplog.text
    caplog.clear()
    cfg_to_ramses2(config_of())
    assert not caplog.records


def test_attributes_that_ramses2_ignores_are_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The original's training notebook stores "database" in the config."""
    assert ramses2_to_overrides(PUBLISHED | {"database": "X", "lr": 1}) == ramses2_to_overrides(PUBLISHED)
    assert "does not know 'database', 'lr'" in caplog.text


def test_another_json_is_no_config() -> None:
    with pytest.raises(RamsesError, match="none of RAMSES2's attributes"):
        ramses2_to_overrides({"Ra": 1, "Rc": 2})
