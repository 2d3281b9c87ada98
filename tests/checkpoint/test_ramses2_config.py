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


TEST = {"SCORE_THRESH": 0.5, "PRE_NMS_TOPK": 0, "MASK_SCORING": True, "NMS": "greedy", "NMS_THRESH": 0.5}
TRANSLATIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"RAMSES.NORM": "LN", "RAMSES.NORM_EPS": 1e-6, "CONVNEXTV2.WEIGHTS": ""}),
    ({}, {f"RAMSES.TEST.{key}": value for key, value in (TEST | {"NMS_MIN_SCORE": 0.5}).items()}),
    ({"normalization_kw": {}}, {"RAMSES.NORM_EPS": 1e-5}),
    (
        {"normalization": "RMSNorm2d", "normalization_kw": {"eps": None}},
        {"RAMSES.NORM": "RMS", "RAMSES.NORM_EPS": torch.finfo(torch.float32).eps},
    ),
    ({"normalization": "BatchNorm2d", "normalization_kw": {}}, {"RAMSES.NORM": "BN", "RAMSES.NORM_EPS": 1e-5}),
    (
        {"lossweights": [1, 2, 0.5], "max_pos_samples": 99},
        {
            **{"RAMSES.LOSS.CLS_WEIGHT": 1.0, "RAMSES.LOSS.MASK_WEIGHT": 2.0, "RAMSES.LOSS.MASS_WEIGHT": 0.5},
            "RAMSES.LOSS.MAX_POS_PER_IMAGE": 99,
        },
    ),
    (
        {"sigma_nms": 2, "use_binary_masks": False},
        {"RAMSES.TEST.NMS_SIGMA": 2.0, "RAMSES.TEST.BINARY_MASS_MASKS": False},
    ),
    ({"load_backbone": "weights/femto.pt"}, {"CONVNEXTV2.WEIGHTS": "weights/femto.pt"}),
    (
        {
            "backbone_feature_nodes": {"stages.1": "B", "stages.2": "C", "stages.3": "D"},  # any names in order
            "connection_layers": {"D": 384, "B": 96, "C": 192},
        },
        {"FPN.IN_FEATURES": ["res3", "res4", "res5"]},
    ),
    (
        {"backbone_params": {"build_head": True, "drop_path_rate": 0.2, "activation": "GELU"}},
        {"CONVNEXTV2.DROP_PATH": 0.2, "CONVNEXTV2.NAME": "convnextv2_femto"},
    ),
]


@pytest.mark.parametrize(("change", "expected"), TRANSLATIONS)
def test_translation(change: dict[str, Any], expected: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    delta = ramses2_to_overrides(PUBLISHED | change)
    for key, value in expected.items():
        assert get(delta["MODEL"], key) == value and type(get(delta["MODEL"], key)) is type(value)
    assert delta["TEST"] == {"DETECTIONS_PER_IMAGE": 768} and not caplog.records
    sizes = {"MIN_SIZE_TRAIN": [1024], "MAX_SIZE_TRAIN": 1536, "MIN_SIZE_TEST": 1024, "MAX_SIZE_TEST": 1536}
    assert ramses2_to_overrides(PUBLISHED | {"imshape": [1536, 1024, 3]})["INPUT"] == sizes  # a standing image


# Changes, the first of which is named, and what else the message must hold
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"normalization": "GroupNorm"}, "the original itself cannot build it"),
    ({"normalization": "InstanceNorm2d"}, "LayerNorm2d, RMSNorm2d, BatchNorm2d"),
    ({"normalization_kw": {"eps": 1e-6, "bias": False}}, "eps"),
    ({"normalization_kw": {"eps": "tiny"}}, "tiny"),
    ({"activation": "Tanh"}, "Tanh"),
    ({"activation": ["GELU"]}, ""),
    ({"use_geom": False}, ""),
    ({"backbone": "resnet50"}, "convnextv2_atto"),
    ({"backbone_source": "torchvision"}, ""),
    ({"backbone_params": {"activation": "SiLU"}}, ""),
    ({"backbone_params": {"in_channels": 4}}, ""),
    ({"backbone_params": {"depths": [1, 2, 1, 1]}}, ""),  # of a backbone with a name
    ({"backbone_params": 3}, ""),
    ({"backbone_params": {"dims": [8, 12, 16, 0]}, "backbone": "ConvNeXtV2"}, "dims"),
    ({"load_backbone": True}, ""),
    ({"connection_layers": {"C3": 80, "C4": 160, "C5": 320}}, "convnextv2_femto has {'C3': 96"),
    ({"connection_layers": {"C2": 48, "C4": 192, "C5": 384}}, "consecutive stages"),
    ({"connection_layers": {"C3": 96, "C6": 7}}, "C2, C3, C4, C5"),
    ({"connection_layers": {}}, ""),
    (
        {
            "connection_layers": {"C3": 384, "C4": 192, "C5": 96},  # upside down
            "backbone_feature_nodes": {"stages.3": "C3", "stages.2": "C4", "stages.1": "C5"},
        },
        "in the order of the strides",
    ),
    ({"backbone_feature_nodes": {"ops.2": "C3"}}, "stages.0"),
    ({"ncls": "fifteen"}, "from 1 on"),
    ({"ncls": 0}, "from 1 on"),
    ({"extra_FPN_layers": -1}, "from 0 on"),
    ({"kernel_size": 2}, "odd"),
    ({"mask_output_level": 3}, "3 levels"),
    ({"grid_sizes": [144, 72, 36]}, "4 pyramid levels"),
    ({"grid_sizes": [144, 72, 36, 18.5]}, "whole numbers"),
    ({"scale_ranges": [[1, 2], [2, 3], [3, 4], [5]]}, "from and to"),
    ({"scale_ranges": [[1, 2]]}, "4 pyramid levels"),
    ({"head_layers": 0}, "from 1 on"),
    ({"cls_factor_layers": 0, "head_filters": 128}, "FPN_filters"),
    ({"offset_factor": float("nan")}, ""),
    ({"imshape": [2048, 3072, 1]}, "3 channels"),
    ({"lossweights": [1.0, 1.0]}, ""),
    ({"FPN_output_upscaling": 1}, "true or false"),
]


@pytest.mark.parametrize(("change", "named"), REFUSALS, ids=str)
def test_refusals_name_the_attribute(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RamsesError) as error:
        ramses2_to_overrides(PUBLISHED | change)
    message = str(error.value)
    assert message.startswith(f'"{next(iter(change))}" is ') and named in message and "\n" not in message


def test_missing_attributes_have_the_defaults_of_the_original() -> None:
    with pytest.raises(RamsesError, match=r"\"backbone\" is 'Resnext' \(RAMSES2's default\)"):
        ramses2_to_overrides({})
    lacking = {key: value for key, value in PUBLISHED.items() if key not in ("geom_feat_convs", "max_pos_samples")}
    ramses = ramses2_to_overrides(lacking)["MODEL"]["RAMSES"]
    assert ramses["MASK_HEAD"]["GEOMETRY_CONVS"] == 2 and ramses["LOSS"]["MAX_POS_PER_IMAGE"] == 512


def test_what_the_original_never_applies_is_said(caplog: pytest.LogCaptureFixture) -> None:
    change = {"strides": [4, 8, 16, 32], "mask_stride": 4, "min_area": 32, "point_nms": True}
    ramses = ramses2_to_overrides(PUBLISHED | change)["MODEL"]["RAMSES"]
    assert {message.split('"')[1] for message in caplog.messages} == set(change)
    assert (ramses["MASK_STRIDE"], ramses["TEST"]["MIN_AREA"], ramses["TEST"]["POINT_NMS"]) == (8, 0, False)
    caplog.clear()  # the original's training notebook stores "database" in the config
    assert ramses2_to_overrides(PUBLISHED | {"database": "X", "lr": 1}) == ramses2_to_overrides(PUBLISHED)
    assert "'database', 'lr'" in caplog.text


def test_class_names_must_be_as_many_as_the_classes() -> None:
    delta = ramses2_to_overrides(PUBLISHED | {"ncls": 2}, ["Ra", "Rb"])
    assert get(delta, "MODEL.RAMSES.CLASS_NAMES") == ["Ra", "Rb"]
    with pytest.raises(RamsesError, match='"ncls" is 15, but 2'):
        ramses2_to_overrides(PUBLISHED, ["Ra", "Rb"])
    with pytest.raises(RamsesError, match="RAMSES2's attributes"):  # another JSON file
        ramses2_to_overrides({"Ra": 1, "Rc": 2})


def test_exported_config_is_the_published_one(caplog: pytest.LogCaptureFixture) -> None:
    exported = json.loads(json.dumps(cfg_to_ramses2(config_of())))
    assert list(exported) == list(DEFAULTS) and not caplog.records
    # Only the classifier, which the original cuts off, is not there
    assert {key: value for key, value in exported.items() if key in PUBLISHED} == PUBLISHED | {"backbone_params": {}}


def test_other_values_are_exported() -> None:
    exported = cfg_to_ramses2(config_of("MODEL.CONVNEXTV2.NAME", "convnextv2_nano"))
    assert exported["backbone"] == "convnextv2_nano"
    assert exported["connection_layers"] == {"C3": 160, "C4": 320, "C5": 640}
    sizes = ["MODEL.CONVNEXTV2.DEPTHS", "(1,2,1,1)", "MODEL.CONVNEXTV2.DIMS", "(8,12,16,20)"]
    exported = json.loads(json.dumps(cfg_to_ramses2(config_of(*sizes, "MODEL.RAMSES.TEST.MIN_AREA", 7))))
    assert {key: exported[key] for key in TOY_BACKBONE} == TOY_BACKBONE and exported["min_area"] == 7
    drop_path = ["MODEL.CONVNEXTV2.DROP_PATH", 0.2, "MODEL.RAMSES.NORM", "SyncBN"]
    exported = cfg_to_ramses2(config_of(*drop_path))
    assert exported["backbone_params"] == {"drop_path_rate": 0.2} and exported["normalization"] == "BatchNorm2d"


INEXPRESSIBLE: dict[str, Any] = {
    "MODEL.RAMSES.MASS.ENABLED": False,
    "MODEL.RAMSES.MASS.ACTIVATION": "Softplus",
    "MODEL.RAMSES.MASK_HEAD.DISC_FEATURES": True,
    "MODEL.RAMSES.MASK_HEAD.UPSCALE": "output",
    "MODEL.RAMSES.MASK_HEAD.COORDINATES": "coarsest",
    "MODEL.RAMSES.SQUARE_GRIDS": True,
    "MODEL.RAMSES.NORM": "GN",
    "MODEL.FPN.STYLE": "detectron2",
    "MODEL.CONVNEXTV2.STEM": "overlap",
    "MODEL.CONVNEXTV2.NAME": "convnext_tiny",
    "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone",
    "MODEL.PIXEL_MEAN": [123.0, 116.0, 103.0],
    "INPUT.FORMAT": "BGR",
    "MODEL.FPN.IN_FEATURES": ["res2", "res4", "res5"],
    "MODEL.RAMSES.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.RAMSES.MASK_HEAD.IN_FEATURES": ["p3", "p4"],
    "MODEL.RAMSES.HEAD.CONVS": 0,
}
WITHOUT_LAYERS = {
    "MODEL.RAMSES.HEAD.FACTOR_CONVS": ["MODEL.RAMSES.HEAD.CHANNELS", 128],
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CONVS": ["MODEL.RAMSES.MASK_HEAD.MID_CHANNELS", 64],
}


def test_all_inexpressible_keys_are_refused_and_come_in_one_message() -> None:
    together = [part for pair in [*INEXPRESSIBLE.items()][:9] for part in pair]
    cases = [([key], [key, value]) for key, value in INEXPRESSIBLE.items()]
    cases += [([key], [key, 0, *other]) for key, other in WITHOUT_LAYERS.items()]
    for keys, overrides in [*cases, (together[::2], together)]:
        with pytest.raises(RamsesError) as error:
            cfg_to_ramses2(config_of(*overrides))
        assert all(f"{key} " in str(error.value) for key in keys) and "\n" not in str(error.value)


def test_training_settings_that_get_lost_are_said(caplog: pytest.LogCaptureFixture) -> None:
    cfg_to_ramses2(config_of("MODEL.RAMSES.LOSS.MASS_TYPE", "log", "MODEL.RAMSES.HEAD.FACTOR_CONVS", 3))
    assert "MODEL.RAMSES.LOSS.MASS_TYPE 'log'" in caplog.text and '"cls_factor_layers"' in caplog.text
