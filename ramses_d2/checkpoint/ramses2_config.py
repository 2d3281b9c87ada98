"""RAMSES2's config.json and our keys: one table, read in both directions.

``KEYS`` says of each key of ours what RAMSES2 has of it. What takes several attributes (backbone, pyramid levels, norm,
image size, loss weights) is computed beside it. What either side cannot express is refused by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, NoReturn

import torch
from detectron2.config import CfgNode

from ramses_d2.checkpoint.pretrained import CONVNEXTV2_SIZES, Size
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.heads import ACTIVATIONS

logger = logging.getLogger(__name__)

# What the original's Config class has where a file says nothing
# fmt: off
DEFAULTS: dict[str, Any] = {
    "load_backbone": False, "backbone_params": {}, "backbone": "Resnext", "backbone_source": "local",
    "backbone_feature_nodes": {"ops.2": "C2", "ops.6": "C3", "ops.12": "C4", "ops.15": "C5"},
    "ncls": 1, "imshape": [4096, 6144, 3], "mask_stride": 4,
    "activation": "SiLU", "normalization": "GroupNorm", "normalization_kw": {"num_groups": 32},
    "connection_layers": {"C2": 256, "C3": 512, "C4": 1024, "C5": 2048},
    "FPN_filters": 256, "extra_FPN_layers": 1, "strides": [4, 8, 16, 32, 64],
    "head_layers": 4, "head_filters": 256, "kernel_size": 1, "grid_sizes": [64, 36, 24, 16, 12], "cls_factor_layers": 2,
    "point_nms": False,
    "mask_mid_filters": 128, "mask_output_filters": 256, "geom_feat_convs": 2, "geom_feats_filters": 128,
    "mask_output_level": 0, "FPN_output_upscaling": False,
    "sigma_nms": 0.5, "min_area": 0, "use_binary_masks": True,
    "lossweights": [1.0, 1.0, 1.0], "max_pos_samples": 512,
    "scale_ranges": [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]], "offset_factor": 0.25, "use_geom": True,
}
# fmt: on

# The class behind all backbones there, with the blocks and channels as "depths" and "dims" of backbone_params
GENERIC_BACKBONE = "ConvNeXtV2"
# Name there -> ours, and the eps where normalization_kw gives none (RMSNorm: that of the number type)
NORMS = {
    "LayerNorm2d": ("LN", 1e-5),
    "RMSNorm2d": ("RMS", torch.finfo(torch.float32).eps),
    "BatchNorm2d": ("BN", 1e-5),
    "Identity": ("", 1e-5),
}


class Kind(NamedTuple):
    """Values that an attribute may have there, and how one becomes ours and theirs again."""

    wanted: str
    holds: Callable[[Any], bool]
    to_ours: Callable[[Any], Any] = lambda value: value
    to_theirs: Callable[[Any], Any] = lambda value: value


def _are_numbers(value: Any, length: int | None = None, kinds: tuple[type, ...] = (int, float)) -> bool:
    """Whether a value is a list, of some length, of numbers from 0 on."""
    is_list = isinstance(value, (list, tuple)) and length in (None, len(value))
    return is_list and all(type(number) in kinds and number >= 0 for number in value)


COUNT = Kind("give a whole number from 0 on", lambda value: type(value) is int and value >= 0)
WHOLE = Kind("give a whole number from 1 on", lambda value: type(value) is int and value >= 1)
SIDE = Kind("the side of a dynamic kernel is odd", lambda value: WHOLE.holds(value) and value % 2 == 1)
NUMBER = Kind("give a number from 0 on", lambda value: _are_numbers([value]), float)
FLAG = Kind("give true or false", lambda value: type(value) is bool)
FUSED = FLAG._replace(to_ours=lambda value: "fused" if value else "", to_theirs=lambda value: value == "fused")
NAME = Kind(f"{', '.join(ACTIVATIONS)} can be converted", lambda value: value in [*ACTIVATIONS])
COUNTS = Kind("give whole numbers", lambda value: _are_numbers(value, kinds=(int,)), list, list)
RANGES = Kind(
    "give numbers, from and to, of each pyramid level",
    lambda value: isinstance(value, (list, tuple)) and all(_are_numbers(pair, 2) for pair in value),
    lambda value: [list(pair) for pair in value],
    lambda value: [list(pair) for pair in value],
)
# Convolutions there, their channels, and those of what they take: without a convolution the two must be equal
CHAINS = (
    ("cls_factor_layers", "head_filters", "FPN_filters"),
    ("geom_feat_convs", "geom_feats_filters", "mask_mid_filters"),
)


class Key(NamedTuple):
    """What RAMSES2 has of a key of ours: nothing of its own where all fields are empty, see the functions below."""

    attribute: str = ""  # has the same value there
    kind: Kind | None = None
    always: Any = None  # the value of every converted network: default arguments of the original's forward()
    only: Sequence[Any] = ()  # the values that RAMSES2 can express
    in_training: bool = False  # ``only`` has no effect on what an exported network predicts


# In the order of a converted config file
KEYS = {
    "MODEL.META_ARCHITECTURE": Key(only=["RAMSES"]),
    "MODEL.BACKBONE.NAME": Key(only=["build_convnextv2_fpn_backbone"]),
    "MODEL.CONVNEXTV2": Key(),
    "MODEL.CONVNEXTV2.STEM": Key(only=["patch"]),
    "MODEL.FPN.IN_FEATURES": Key(),
    "MODEL.FPN.OUT_CHANNELS": Key("FPN_filters", WHOLE),
    "MODEL.FPN.EXTRA_LEVELS": Key("extra_FPN_layers", COUNT),
    "MODEL.FPN.STYLE": Key(only=["ramses"]),
    "MODEL.RAMSES.NUM_CLASSES": Key("ncls", WHOLE),
    "MODEL.RAMSES.CLASS_NAMES": Key(),
    "MODEL.RAMSES.IN_FEATURES": Key(),
    "MODEL.RAMSES.GRID_SIZES": Key("grid_sizes", COUNTS),
    "MODEL.RAMSES.SCALE_RANGES": Key("scale_ranges", RANGES),
    "MODEL.RAMSES.SQUARE_GRIDS": Key(only=[False]),
    "MODEL.RAMSES.LEVEL_RULE": Key(only=["ramses"], in_training=True),
    "MODEL.RAMSES.OFFSET_FACTOR": Key("offset_factor", NUMBER),
    "MODEL.RAMSES.MASK_STRIDE": Key(),
    "MODEL.RAMSES.NORM": Key(only=[*(name for name, _ in NORMS.values()), "SyncBN"]),
    "MODEL.RAMSES.NORM_EPS": Key(),
    "MODEL.RAMSES.ACTIVATION": Key("activation", NAME),
    "MODEL.RAMSES.HEAD.CONVS": Key("head_layers", WHOLE),
    "MODEL.RAMSES.HEAD.FACTOR_CONVS": Key("cls_factor_layers", COUNT),
    "MODEL.RAMSES.HEAD.CHANNELS": Key("head_filters", WHOLE),
    "MODEL.RAMSES.HEAD.KERNEL_SIZE": Key("kernel_size", SIDE),
    "MODEL.RAMSES.MASK_HEAD.IN_FEATURES": Key(),
    "MODEL.RAMSES.MASK_HEAD.OUTPUT_LEVEL": Key("mask_output_level", COUNT),
    "MODEL.RAMSES.MASK_HEAD.MID_CHANNELS": Key("mask_mid_filters", WHOLE),
    "MODEL.RAMSES.MASK_HEAD.OUT_CHANNELS": Key("mask_output_filters", WHOLE),
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CONVS": Key("geom_feat_convs", COUNT),
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CHANNELS": Key("geom_feats_filters", WHOLE),
    "MODEL.RAMSES.MASK_HEAD.UPSCALE": Key("FPN_output_upscaling", FUSED, only=["", "fused"]),
    "MODEL.RAMSES.MASK_HEAD.COORDINATES": Key(only=["all"]),
    "MODEL.RAMSES.MASK_HEAD.DISC_FEATURES": Key(only=[False]),
    "MODEL.RAMSES.MASS.ENABLED": Key(only=[True]),
    "MODEL.RAMSES.MASS.ACTIVATION": Key(only=["ReLU"]),
    "MODEL.RAMSES.LOSS.CLS_WEIGHT": Key(),
    "MODEL.RAMSES.LOSS.MASK_WEIGHT": Key(),
    "MODEL.RAMSES.LOSS.MASS_WEIGHT": Key(),
    "MODEL.RAMSES.LOSS.FOCAL_ALPHA": Key(only=[0.25], in_training=True),
    "MODEL.RAMSES.LOSS.FOCAL_GAMMA": Key(only=[2.0], in_training=True),
    "MODEL.RAMSES.LOSS.MASS_TYPE": Key(only=["mape"], in_training=True),
    "MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE": Key("max_pos_samples", WHOLE),
    "MODEL.RAMSES.TEST.SCORE_THRESH": Key(always=0.5),
    "MODEL.RAMSES.TEST.POINT_NMS": Key("point_nms", always=False),
    "MODEL.RAMSES.TEST.PRE_NMS_TOPK": Key(always=0),
    "MODEL.RAMSES.TEST.MASK_THRESH": Key(always=0.5),
    "MODEL.RAMSES.TEST.MASK_SCORING": Key(always=True),
    "MODEL.RAMSES.TEST.MIN_AREA": Key("min_area", always=0),
    "MODEL.RAMSES.TEST.NMS": Key(always="greedy"),
    "MODEL.RAMSES.TEST.NMS_THRESH": Key(always=0.5),
    "MODEL.RAMSES.TEST.NMS_SIGMA": Key("sigma_nms", NUMBER),
    "MODEL.RAMSES.TEST.NMS_MIN_SCORE": Key(always=0.5),
    "MODEL.RAMSES.TEST.NMS_CLASS_AGNOSTIC": Key(always=True),
    "MODEL.RAMSES.TEST.BINARY_MASS_MASKS": Key("use_binary_masks", FLAG),
    "MODEL.PIXEL_MEAN": Key(only=[[0.0, 0.0, 0.0]]),
    "MODEL.PIXEL_STD": Key(only=[[255.0, 255.0, 255.0]]),
    "INPUT": Key(),
    "INPUT.FORMAT": Key(only=["RGB"]),
    "TEST.DETECTIONS_PER_IMAGE": Key(always=768),
}


def ramses2_to_overrides(config: Mapping[str, Any], classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Our settings for the network of a RAMSES2 config, as a nested delta over configs/Base-RAMSES.yaml for YAML.

    Attributes that config.json lacks have the original's defaults. ``classes`` are names in the order of the network's
    channels. The inference settings are those that the original's forward() has by default.
    """
    values = _checked(config)
    if classes is not None and len(classes) != values["ncls"]:
        raise RamsesError(f'"ncls" is {values["ncls"]}, but {len(classes)} classes have names')
    backbone, dims = _backbone(values)
    short, long = sorted(values["imshape"][:2])
    loss = zip(("CLS_WEIGHT", "MASK_WEIGHT", "MASS_WEIGHT"), map(float, values["lossweights"]), strict=True)
    computed = {
        "MODEL.CONVNEXTV2": backbone,
        "MODEL.RAMSES.CLASS_NAMES": list(classes or []),
        **_levels(values, dims),
        **_norm(values),
        **{f"MODEL.RAMSES.LOSS.{name}": weight for name, weight in loss},
        "INPUT": {"MIN_SIZE_TRAIN": [short], "MAX_SIZE_TRAIN": long, "MIN_SIZE_TEST": short, "MAX_SIZE_TEST": long},
    }
    delta: dict[str, Any] = {}
    for name, key in KEYS.items():
        if key.always is not None:
            if key.attribute and values[key.attribute]:
                text = 'RAMSES2 never applies "%s": %s of its config; %s does'
                logger.warning(text, key.attribute, values[key.attribute], name)
            computed[name] = key.always
        elif key.kind is not None:
            computed[name] = key.kind.to_ours(values[key.attribute])
        if name in computed:
            *parents, last = name.split(".")
            reduce(lambda node, parent: node.setdefault(parent, {}), parents, delta)[last] = computed[name]
    return delta


def _refuse(values: Mapping[str, Any], attribute: str, wanted: str) -> NoReturn:
    note = " (RAMSES2's default)" if values[attribute] == DEFAULTS[attribute] else ""
    raise RamsesError(f'"{attribute}" is {values[attribute]!r}{note}: {wanted}')


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every attribute of a config, each with a value that a conversion can go by."""
    if config and not set(config) & set(DEFAULTS):
        raise RamsesError("none of RAMSES2's attributes is in it: is it the config.json of the model?")
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:  # the original stores whatever it is given; its training notebook adds "database"
        logger.warning("RAMSES2's network does not know %s, which is left out", ", ".join(map(repr, unknown)))
    values = DEFAULTS | dict(config)
    unbuilt = "the original itself cannot build it; " if values["normalization"] == "GroupNorm" else ""
    backbones = (*CONVNEXTV2_SIZES, GENERIC_BACKBONE)
    checks = [(key.attribute, key.kind.holds, key.kind.wanted) for key in KEYS.values() if key.kind]
    checks += [
        (name, lambda value: isinstance(value, Mapping), "give an object {...}")
        for name in ("backbone_params", "backbone_feature_nodes", "connection_layers", "normalization_kw")
    ]
    checks += [
        ("backbone_source", lambda value: value != "torchvision", "only local backbones can be converted"),
        ("backbone", lambda value: value in backbones, f"{', '.join(backbones)} can be converted"),
        ("load_backbone", lambda value: not value or isinstance(value, str), "give the path of a file, or false"),
        ("normalization", lambda value: value in [*NORMS], f"{unbuilt}{', '.join(NORMS)} can be converted"),
        ("use_geom", lambda value: value is True, "the ablation without a geometry map has no counterpart"),
        ("lossweights", lambda value: _are_numbers(value, 3), "give class, mask and mass weight"),
        ("imshape", lambda value: _are_numbers(value, 3, (int,)) and value[2] == 3, "height, width and 3 channels"),
    ]
    for attribute, holds, wanted in checks:
        if not holds(values[attribute]):
            _refuse(values, attribute, wanted)
    for convs, channels, inputs in CHAINS:
        if values[convs] == 0 and values[channels] != values[inputs]:
            _refuse(values, convs, f'the original needs one at least where "{channels}" is not "{inputs}"')
    return values


def _backbone(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Our keys of MODEL.CONVNEXTV2, and the channels of the four stages."""
    name, params = values["backbone"], values["backbone_params"]
    # The first three are of the classifier, which the original cuts off
    known = {"build_head", "num_classes", "head_init_scale", "drop_path_rate", "activation"}
    keys: dict[str, Any] = {"NAME": name, "DEPTHS": [], "DIMS": []}
    if name == GENERIC_BACKBONE:
        known |= {"depths", "dims"}
        tiny = CONVNEXTV2_SIZES["convnextv2_tiny"]
        depths, dims = params.get("depths", tiny.depths), params.get("dims", tiny.dims)
        if not (_are_numbers(depths, 4, (int,)) and _are_numbers(dims, 4, (int,)) and all([*depths, *dims])):
            _refuse(values, "backbone_params", '"depths" and "dims" have four whole numbers each')
        keys = {"NAME": "convnextv2_femto", "DEPTHS": list(depths), "DIMS": list(dims)}
    else:
        dims = CONVNEXTV2_SIZES[name].dims
    drop_path = params.get("drop_path_rate", 0.0)
    if set(params) - known or params.get("activation") not in (None, "GELU") or not _are_numbers([drop_path]):
        _refuse(values, "backbone_params", 'there are "build_head", "drop_path_rate" and "activation": "GELU"')
    return {**keys, "DROP_PATH": float(drop_path), "WEIGHTS": values["load_backbone"] or ""}, tuple(dims)


def _levels(values: Mapping[str, Any], dims: Sequence[int]) -> dict[str, Any]:
    """Our keys below MODEL that say which pyramid levels there are, and which the heads take."""
    layers, stage_of = values["connection_layers"], {}
    for node, name in values["backbone_feature_nodes"].items():
        found = re.fullmatch(r"stages\.([0-3])", node)
        if not found or not isinstance(name, str):
            _refuse(values, "backbone_feature_nodes", 'the nodes of ConvNeXt V2 are "stages.0" ... "stages.3"')
        stage_of[name] = int(found[1])
    if not layers or set(layers) - set(stage_of):
        _refuse(values, "connection_layers", f"name some of the backbone_feature_nodes {', '.join(stage_of)}")
    # The original sorts the levels of its pyramid by name, coarse ones first
    stages = [stage_of[name] for name in sorted(layers)]
    if stages != list(range(stages[0], stages[0] + len(stages))):
        _refuse(values, "connection_layers", "give consecutive stages, with names in the order of the strides")
    if layers != (there := {name: dims[stage_of[name]] for name in layers}):
        _refuse(values, "connection_layers", f"the backbone {values['backbone']} has {there}")
    if values["mask_output_level"] >= len(stages):
        _refuse(values, "mask_output_level", f"the mask head has the {len(stages)} levels of connection_layers")

    first = stages[0] + 2
    levels = [f"p{first + level}" for level in range(len(stages) + values["extra_FPN_layers"])]
    for attribute in ("grid_sizes", "scale_ranges"):
        if len(values[attribute]) != len(levels):
            _refuse(values, attribute, f"give one of each of the {len(levels)} pyramid levels")
    strides = [2 ** (first + level) for level in range(len(levels))]
    mask_stride = strides[values["mask_output_level"]] // (2 if values["FPN_output_upscaling"] else 1)
    for attribute, real in (("strides", strides), ("mask_stride", mask_stride)):
        if values[attribute] != real:
            logger.warning('"%s" is %s, but this network has %s, which is taken', attribute, values[attribute], real)
    return {
        "MODEL.FPN.IN_FEATURES": [f"res{stage + 2}" for stage in stages],
        "MODEL.RAMSES.IN_FEATURES": levels,
        "MODEL.RAMSES.MASK_HEAD.IN_FEATURES": levels[: len(stages)],
        "MODEL.RAMSES.MASK_STRIDE": mask_stride,
    }


def _norm(values: Mapping[str, Any]) -> dict[str, Any]:
    name, default_eps = NORMS[values["normalization"]]
    eps = values["normalization_kw"].get("eps")
    eps = default_eps if eps is None else eps
    if set(values["normalization_kw"]) - {"eps"} or not _are_numbers([eps]):
        _refuse(values, "normalization_kw", 'only a number "eps" can be converted')
    return {"MODEL.RAMSES.NORM": name, "MODEL.RAMSES.NORM_EPS": float(eps)}


def cfg_to_ramses2(cfg: CfgNode) -> dict[str, Any]:
    """The RAMSES2 config of one of our networks: every attribute, ready for JSON."""
    theirs = {
        key.attribute: key.kind.to_theirs(_get(cfg, name)) if key.kind else _get(cfg, name)
        for name, key in KEYS.items()
        if key.attribute
    }
    _check_expressible(cfg, theirs)
    ramses, size = cfg.MODEL.RAMSES, stage_sizes(cfg)
    backbone = next((name for name, known in CONVNEXTV2_SIZES.items() if known == size), GENERIC_BACKBONE)
    params: dict[str, Any] = dict(size._asdict()) if backbone == GENERIC_BACKBONE else {}
    if cfg.MODEL.CONVNEXTV2.DROP_PATH:
        params["drop_path_rate"] = cfg.MODEL.CONVNEXTV2.DROP_PATH
    stages = sorted(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    # SyncBN differs from BN in training on several GPUs alone
    norm = next(name for name, (ours, _) in NORMS.items() if ours == ramses.NORM.replace("SyncBN", "BN"))
    theirs |= {
        "backbone_params": params,
        "backbone": backbone,
        "backbone_feature_nodes": {f"stages.{stage}": f"C{stage + 2}" for stage in range(stages[-1] + 1)},
        "imshape": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, 3],
        "mask_stride": ramses.MASK_STRIDE,
        "normalization": norm,
        "normalization_kw": {"eps": ramses.NORM_EPS} if ramses.NORM else {},
        "connection_layers": {f"C{stage + 2}": size.dims[stage] for stage in stages},
        "strides": [4 << (stages[0] + level) for level in range(len(ramses.IN_FEATURES))],
        "lossweights": [ramses.LOSS.CLS_WEIGHT, ramses.LOSS.MASK_WEIGHT, ramses.LOSS.MASS_WEIGHT],
    }
    return DEFAULTS | theirs


def stage_sizes(cfg: CfgNode) -> Size | None:
    """Blocks and channels of the four stages of ``MODEL.CONVNEXTV2``; None = no ConvNeXt V2 that RAMSES2 knows."""
    options = cfg.MODEL.CONVNEXTV2
    if not options.NAME.startswith("convnextv2_"):
        return None
    known = CONVNEXTV2_SIZES.get(options.NAME, Size((), ()))
    size = Size(tuple(options.DEPTHS) or known.depths, tuple(options.DIMS) or known.dims)
    return size if len(size.depths) == len(size.dims) == 4 else None


def _get(cfg: CfgNode, key: str) -> Any:
    value = reduce(getattr, key.split("."), cfg)
    return list(value) if isinstance(value, tuple) else value


def _check_expressible(cfg: CfgNode, theirs: Mapping[str, Any]) -> None:
    """Raise a RamsesError that lists all keys which RAMSES2 cannot express."""
    different = [(name, key) for name, key in KEYS.items() if key.only and _get(cfg, name) not in key.only]
    problems = [(name, "") for name, key in different if not key.in_training]
    problems += [(name, "") for name, key in KEYS.items() if key.kind and not key.kind.holds(theirs[key.attribute])]
    problems += [("MODEL.CONVNEXTV2.NAME", "")] if stage_sizes(cfg) is None else []
    name_of = {key.attribute: name for name, key in KEYS.items()}
    problems += [
        (name_of[convs], f" with {name_of[channels]} other than {name_of[inputs]}")
        for convs, channels, inputs in CHAINS
        if theirs[convs] == 0 and theirs[channels] != theirs[inputs]
    ]
    # It takes consecutive stages of the backbone, and all levels of the pyramid
    features = sorted(cfg.MODEL.FPN.IN_FEATURES)
    if not features or " ".join(features) not in "res2 res3 res4 res5":
        problems.append(("MODEL.FPN.IN_FEATURES", ""))
    else:
        levels = [f"p{int(features[0][-1]) + i}" for i in range(len(features) + cfg.MODEL.FPN.EXTRA_LEVELS)]
        wanted = {"MODEL.RAMSES.IN_FEATURES": levels, "MODEL.RAMSES.MASK_HEAD.IN_FEATURES": levels[: len(features)]}
        problems += [(name, f" (it takes {right})") for name, right in wanted.items() if _get(cfg, name) != right]
    if problems:
        raise RamsesError(f"RAMSES2 cannot express {'; '.join(f'{n} {_get(cfg, n)!r}{why}' for n, why in problems)}")
    lost = [f"{name} {_get(cfg, name)!r}" for name, _ in different]
    if lost:
        logger.warning("RAMSES2 trains in another way, which its config cannot change: %s here", "; ".join(lost))
    if theirs["cls_factor_layers"] != DEFAULTS["cls_factor_layers"]:
        logger.warning('Only versions of RAMSES2 that read "cls_factor_layers" can load this network')
