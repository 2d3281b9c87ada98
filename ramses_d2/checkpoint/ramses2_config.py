"""From our config keys to RAMSES2's config.json (reference sections 2.1 and 2.3), to check results there."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any, NoReturn

import torch
from detectron2.config import CfgNode

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.heads import ACTIVATIONS

logger = logging.getLogger(__name__)

# What the original's Config class has where a file says nothing
DEFAULTS: dict[str, Any] = {
    "load_backbone": False,
    "backbone_params": {},
    "backbone": "Resnext",
    "backbone_source": "local",
    "backbone_feature_nodes": {"ops.2": "C2", "ops.6": "C3", "ops.12": "C4", "ops.15": "C5"},
    "ncls": 1,
    "imshape": [4096, 6144, 3],
    "mask_stride": 4,
    "activation": "SiLU",
    "normalization": "GroupNorm",
    "normalization_kw": {"num_groups": 32},
    "connection_layers": {"C2": 256, "C3": 512, "C4": 1024, "C5": 2048},
    "FPN_filters": 256,
    "extra_FPN_layers": 1,
    "strides": [4, 8, 16, 32, 64],
    "head_layers": 4,
    "head_filters": 256,
    "kernel_size": 1,
    "grid_sizes": [64, 36, 24, 16, 12],
    "cls_factor_layers": 2,
    "point_nms": False,
    "mask_mid_filters": 128,
    "mask_output_filters": 256,
    "geom_feat_convs": 2,
    "geom_feats_filters": 128,
    "mask_output_level": 0,
    "FPN_output_upscaling": False,
    "sigma_nms": 0.5,
    "min_area": 0,
    "use_binary_masks": True,
    "lossweights": [1.0, 1.0, 1.0],
    "max_pos_samples": 512,
    "scale_ranges": [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]],
    "offset_factor": 0.25,
    "use_geom": True,
}

# Blocks and channels of the four stages of the backbones
BACKBONES = {
    "convnextv2_atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnextv2_femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnextv2_pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnextv2_nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnextv2_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnextv2_large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnextv2_huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
# The class behind all of them, with the blocks and channels as "depths" and "dims" of backbone_params
GENERIC_BACKBONE = "ConvNeXtV2"

# Name there -> ours, and the eps where normalization_kw gives none (RMSNorm: that of the number type)
NORMS = {
    "LayerNorm2d": ("LN", 1e-5),
    "RMSNorm2d": ("RMS", torch.finfo(torch.float32).eps),
    "BatchNorm2d": ("BN", 1e-5),
    "Identity": ("", 1e-5),
}


class Ramses2Values:
    """The attributes of a RAMSES2 config, each checked as it is read.

    Args:
        config: the content of config.json.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if config and not set(config) & set(DEFAULTS):
            raise RamsesError("none of RAMSES2's attributes is in it: is it the config.json of the model?")
        unknown = sorted(set(config) - set(DEFAULTS))
        if unknown:  # the original stores whatever it is given; its training notebook adds "database"
            logger.warning("RAMSES2's network does not know %s, which is left out", ", ".join(map(repr, unknown)))
        self._values = DEFAULTS | dict(config)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Stop because of one attribute."""
        note = " (RAMSES2's default)" if self[key] == DEFAULTS[key] else ""
        raise RamsesError(f'"{key}" is {self[key]!r}{note}: {wanted}')

    def choice(self, key: str, allowed: Collection[str], why: str = "") -> str:
        """One of some names."""
        if not isinstance(self[key], str) or self[key] not in allowed:
            self.refuse(key, f"{why}{', '.join(allowed)} can be converted")
        return self[key]

    def whole(self, key: str, low: int = 1) -> int:
        """A whole number from ``low`` on."""
        if type(self[key]) is not int or self[key] < low:
            self.refuse(key, f"give a whole number from {low} on")
        return self[key]

    def number(self, key: str) -> float:
        """A number from 0 on."""
        if type(self[key]) not in (int, float) or not self[key] >= 0:
            self.refuse(key, "give a number from 0 on")
        return float(self[key])

    def flag(self, key: str) -> bool:
        """True or false."""
        if type(self[key]) is not bool:
            self.refuse(key, "give true or false")
        return self[key]

    def mapping(self, key: str) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(self[key], Mapping):
            self.refuse(key, "give an object {...}")
        return dict(self[key])

    def numbers(self, key: str, length: int, wanted: str, kinds: tuple[type, ...] = (int, float)) -> list[Any]:
        """A list of ``length`` numbers."""
        if not is_numbers(self[key], length, kinds):
            self.refuse(key, wanted)
        return list(self[key])


def is_numbers(value: Any, length: int, kinds: tuple[type, ...] = (int, float)) -> bool:
    """Whether a value is a list of ``length`` numbers above 0, or of 0."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == length
        and all(type(number) in kinds and number >= 0 for number in value)
    )


# Default arguments of the original's forward(), which no config.json holds
_SCORE_THRESH = _MASK_THRESH = _NMS_THRESH = 0.5
_MAX_DETECTIONS = 768


def _backbone(values: Ramses2Values) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Our keys of MODEL.CONVNEXTV2, and the channels of the four stages."""
    params = values.mapping("backbone_params")
    # The first three are of the classifier, which the original cuts off
    known = {"build_head", "num_classes", "head_init_scale", "drop_path_rate", "activation"}
    if values["backbone_source"] == "torchvision":
        values.refuse("backbone_source", "only local backbones can be converted")
    name = values.choice("backbone", [*BACKBONES, GENERIC_BACKBONE])
    depths, dims = BACKBONES.get(name, BACKBONES["convnextv2_tiny"])
    keys: dict[str, Any] = {"NAME": name, "DEPTHS": [], "DIMS": []}
    if name == GENERIC_BACKBONE:
        known |= {"depths", "dims"}
        depths, dims = params.get("depths", depths), params.get("dims", dims)
        if not (is_numbers(depths, 4, (int,)) and is_numbers(dims, 4, (int,)) and all([*depths, *dims])):
            values.refuse("backbone_params", '"depths" and "dims" have four whole numbers each')
        keys = {"NAME": "convnextv2_femto", "DEPTHS": list(depths), "DIMS": list(dims)}
    drop_path = params.get("drop_path_rate", 0.0)
    if set(params) - known or params.get("activation") not in (None, "GELU") or not is_numbers([drop_path], 1):
        values.refuse("backbone_params", 'there are "build_head", "drop_path_rate" and "activation": "GELU"')
    if values["load_backbone"] and not isinstance(values["load_backbone"], str):
        values.refuse("load_backbone", "give the path of a file, or false")
    return {**keys, "DROP_PATH": float(drop_path), "WEIGHTS": values["load_backbone"] or ""}, tuple(dims)


def _stages(values: Ramses2Values, dims: Sequence[int]) -> list[int]:
    """The backbone stages (0 to 3) that the pyramid takes, fine to coarse."""
    layers = values.mapping("connection_layers")
    stage_of = {}
    for node, name in values.mapping("backbone_feature_nodes").items():
        found = re.fullmatch(r"stages\.([0-3])", node)
        if not found or not isinstance(name, str):
            values.refuse("backbone_feature_nodes", 'the nodes of ConvNeXt V2 are "stages.0" ... "stages.3"')
        stage_of[name] = int(found[1])
    if not layers or set(layers) - set(stage_of):
        values.refuse("connection_layers", f"name some of the backbone_feature_nodes {', '.join(stage_of)}")
    # The original sorts the levels of its pyramid by name, coarse ones first
    stages = [stage_of[name] for name in sorted(layers)]
    if stages != list(range(stages[0], stages[0] + len(stages))):
        values.refuse("connection_layers", "a pyramid needs consecutive stages, with names in the order of the strides")
    there = {name: dims[stage_of[name]] for name in layers}
    if layers != there:
        values.refuse("connection_layers", f"the backbone {values['backbone']} has {there}")
    return stages


def _norm(values: Ramses2Values) -> dict[str, Any]:
    cannot = "the original itself cannot build it; " if values["normalization"] == "GroupNorm" else ""
    name, eps = NORMS[values.choice("normalization", NORMS, cannot)]
    options = values.mapping("normalization_kw")
    given = options.pop("eps", None)
    if options or not is_numbers([0 if given is None else given], 1):
        values.refuse("normalization_kw", 'only a number "eps" can be converted')
    return {"NORM": name, "NORM_EPS": eps if given is None else float(given)}


def _heads(values: Ramses2Values, num_levels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our keys of MODEL.RAMSES.HEAD and MODEL.RAMSES.MASK_HEAD."""
    if values.whole("kernel_size") % 2 == 0:
        values.refuse("kernel_size", "the side of a dynamic kernel is odd")
    if values.whole("mask_output_level", 0) >= num_levels:
        values.refuse("mask_output_level", f"the mask head has the {num_levels} levels of connection_layers")
    if values["use_geom"] is not True:
        values.refuse("use_geom", "the ablation without a geometry map has no counterpart")
    for convs, channels, inputs in (
        ("cls_factor_layers", "head_filters", "FPN_filters"),
        ("geom_feat_convs", "geom_feats_filters", "mask_mid_filters"),
    ):
        if values.whole(convs, 0) == 0 and values[channels] != values[inputs]:
            values.refuse(convs, f'the original needs one at least where "{channels}" is not "{inputs}"')
    head = {
        "CONVS": values.whole("head_layers"),
        "FACTOR_CONVS": values["cls_factor_layers"],
        "CHANNELS": values.whole("head_filters"),
        "KERNEL_SIZE": values["kernel_size"],
    }
    mask_head = {
        "OUTPUT_LEVEL": values["mask_output_level"],
        "MID_CHANNELS": values.whole("mask_mid_filters"),
        "OUT_CHANNELS": values.whole("mask_output_filters"),
        "GEOMETRY_CONVS": values["geom_feat_convs"],
        "GEOMETRY_CHANNELS": values.whole("geom_feats_filters"),
        "UPSCALE": "fused" if values.flag("FPN_output_upscaling") else "",
    }
    return head, mask_head


def _inference(values: Ramses2Values) -> dict[str, Any]:
    """Our keys of MODEL.RAMSES.TEST: what the original's forward() does unless told otherwise."""
    for key in ("point_nms", "min_area"):
        if values[key]:
            logger.warning(
                'RAMSES2 never applies "%s": %s of its config; MODEL.RAMSES.TEST.%s does', key, values[key], key.upper()
            )
    return {
        "SCORE_THRESH": _SCORE_THRESH,
        "POINT_NMS": False,
        "PRE_NMS_TOPK": 0,
        "MASK_THRESH": _MASK_THRESH,
        "MASK_SCORING": True,
        "MIN_AREA": 0,
        "NMS": "greedy",
        "NMS_THRESH": _NMS_THRESH,
        "NMS_SIGMA": values.number("sigma_nms"),
        "NMS_MIN_SCORE": _SCORE_THRESH,
        "NMS_CLASS_AGNOSTIC": True,
        "BINARY_MASS_MASKS": values.flag("use_binary_masks"),
    }


def ramses2_to_overrides(config: Mapping[str, Any], classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Our settings for the network of a RAMSES2 config.

    Args:
        config: the content of config.json; attributes it lacks have the original's defaults.
        classes: names in the order of the network's channels, or None.

    Returns:
        nested delta over configs/Base-RAMSES.yaml, ready for YAML: the network, its targets, and the inference settings
        that the original's forward() has by default. MODEL.CONVNEXTV2.WEIGHTS is its "load_backbone".
    """
    values = Ramses2Values(config)
    backbone, dims = _backbone(values)
    stages = _stages(values, dims)
    head, mask_head = _heads(values, len(stages))
    num_classes = values.whole("ncls")
    if classes is not None and len(classes) != num_classes:
        raise RamsesError(f'"ncls" is {num_classes}, but {len(classes)} classes have names')

    strides = [4 << (stages[0] + level) for level in range(len(stages) + values.whole("extra_FPN_layers", 0))]
    levels = [f"p{stages[0] + 2 + level}" for level in range(len(strides))]
    mask_stride = strides[mask_head["OUTPUT_LEVEL"]] // (2 if mask_head["UPSCALE"] else 1)
    for key, real in (("strides", strides), ("mask_stride", mask_stride)):
        if values[key] != real:
            logger.warning('"%s" is %s, but this network has %s, which is taken', key, values[key], real)
    per_level = f"give one of each of the {len(levels)} pyramid levels"
    ranges = values["scale_ranges"]
    if not isinstance(ranges, Sequence) or len(ranges) != len(levels) or not all(is_numbers(r, 2) for r in ranges):
        values.refuse("scale_ranges", f"{per_level}, from and to")
    short, long = sorted(values.numbers("imshape", 3, "give height, width and 3", (int,))[:2])
    if values["imshape"][2] != 3:
        values.refuse("imshape", "images have 3 channels")
    loss_keys = ("CLS_WEIGHT", "MASK_WEIGHT", "MASS_WEIGHT")
    weights = map(float, values.numbers("lossweights", 3, "give class, mask and mass weight"))
    return {
        "MODEL": {
            "CONVNEXTV2": backbone,
            "FPN": {
                "IN_FEATURES": [f"res{stage + 2}" for stage in stages],
                "OUT_CHANNELS": values.whole("FPN_filters"),
                "EXTRA_LEVELS": values["extra_FPN_layers"],
            },
            "RAMSES": {
                "NUM_CLASSES": num_classes,
                "CLASS_NAMES": list(classes or []),
                "IN_FEATURES": levels,
                "GRID_SIZES": values.numbers("grid_sizes", len(levels), per_level, (int,)),
                "SCALE_RANGES": [list(pair) for pair in ranges],
                "OFFSET_FACTOR": values.number("offset_factor"),
                "MASK_STRIDE": mask_stride,
                **_norm(values),
                "ACTIVATION": values.choice("activation", ACTIVATIONS),
                "HEAD": head,
                "MASK_HEAD": {"IN_FEATURES": levels[: len(stages)], **mask_head},
                "LOSS": {
                    **dict(zip(loss_keys, weights, strict=True)),
                    "MAX_POS_PER_IMAGE": values.whole("max_pos_samples"),
                },
                "TEST": _inference(values),
            },
        },
        "INPUT": {"MIN_SIZE_TRAIN": [short], "MAX_SIZE_TRAIN": long, "MIN_SIZE_TEST": short, "MAX_SIZE_TEST": long},
        "TEST": {"DETECTIONS_PER_IMAGE": _MAX_DETECTIONS},
    }


# The only values that RAMSES2 has of keys it does not know
_FIXED: dict[str, Sequence[Any]] = {
    "MODEL.META_ARCHITECTURE": ["RAMSES"],
    "MODEL.BACKBONE.NAME": ["build_convnextv2_fpn_backbone"],
    "MODEL.CONVNEXTV2.STEM": ["patch"],
    "MODEL.FPN.STYLE": ["ramses"],
    "MODEL.RAMSES.SQUARE_GRIDS": [False],
    "MODEL.RAMSES.NORM": [*(name for name, _ in NORMS.values()), "SyncBN"],
    "MODEL.RAMSES.MASK_HEAD.UPSCALE": ["", "fused"],
    "MODEL.RAMSES.MASK_HEAD.COORDINATES": ["all"],
    "MODEL.RAMSES.MASK_HEAD.DISC_FEATURES": [False],
    "MODEL.RAMSES.MASS.ENABLED": [True],
    "MODEL.RAMSES.MASS.ACTIVATION": ["ReLU"],
    "MODEL.PIXEL_MEAN": [[0.0, 0.0, 0.0]],
    "MODEL.PIXEL_STD": [[255.0, 255.0, 255.0]],
    "INPUT.FORMAT": ["RGB"],
}
# The same for training alone: without effect on what the exported network predicts
_FIXED_IN_TRAINING: dict[str, Sequence[Any]] = {
    "MODEL.RAMSES.LEVEL_RULE": ["ramses"],
    "MODEL.RAMSES.LOSS.FOCAL_ALPHA": [0.25],
    "MODEL.RAMSES.LOSS.FOCAL_GAMMA": [2.0],
    "MODEL.RAMSES.LOSS.MASS_TYPE": ["mape"],
}


def stage_sizes(cfg: CfgNode) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Blocks and channels of the four stages of ``MODEL.CONVNEXTV2``; None = no ConvNeXt V2 that RAMSES2 knows."""
    options = cfg.MODEL.CONVNEXTV2
    if not options.NAME.startswith("convnextv2_"):
        return None
    depths, dims = BACKBONES.get(options.NAME, ((), ()))
    depths, dims = tuple(options.DEPTHS) or depths, tuple(options.DIMS) or dims
    return (depths, dims) if len(depths) == len(dims) == 4 else None


def _get(cfg: CfgNode, key: str) -> Any:
    value = reduce(getattr, key.split("."), cfg)
    return list(value) if isinstance(value, tuple) else value


def _level_problems(cfg: CfgNode) -> list[str]:
    """Settings of the pyramid that RAMSES2, which takes consecutive stages and uses all levels, cannot express."""
    key = "MODEL.FPN.IN_FEATURES"
    features = sorted(_get(cfg, key))
    first = next((i for i in range(2, 6) if features[:1] == [f"res{i}"]), None)
    if first is None or features != [f"res{first + i}" for i in range(len(features))]:
        return [f"{key} {_get(cfg, key)}"]
    levels = [f"p{first + i}" for i in range(len(features) + cfg.MODEL.FPN.EXTRA_LEVELS)]
    wanted = {"MODEL.RAMSES.IN_FEATURES": levels, "MODEL.RAMSES.MASK_HEAD.IN_FEATURES": levels[: len(features)]}
    return [f"{key} {_get(cfg, key)} (it takes {right})" for key, right in wanted.items() if _get(cfg, key) != right]


def _check_expressible(cfg: CfgNode) -> None:
    """Raise a RamsesError that lists all keys which RAMSES2 cannot express."""
    problems = [f"{key} {_get(cfg, key)!r}" for key, allowed in _FIXED.items() if _get(cfg, key) not in allowed]
    if stage_sizes(cfg) is None:
        problems.append(f"MODEL.CONVNEXTV2.NAME {cfg.MODEL.CONVNEXTV2.NAME!r}")
    problems += _level_problems(cfg)
    head, mask_head = cfg.MODEL.RAMSES.HEAD, cfg.MODEL.RAMSES.MASK_HEAD
    if head.CONVS == 0:
        problems.append("MODEL.RAMSES.HEAD.CONVS 0")
    if head.FACTOR_CONVS == 0 and head.CHANNELS != cfg.MODEL.FPN.OUT_CHANNELS:
        problems.append("MODEL.RAMSES.HEAD.FACTOR_CONVS 0 with CHANNELS other than MODEL.FPN.OUT_CHANNELS")
    if mask_head.GEOMETRY_CONVS == 0 and mask_head.GEOMETRY_CHANNELS != mask_head.MID_CHANNELS:
        problems.append("MODEL.RAMSES.MASK_HEAD.GEOMETRY_CONVS 0 with GEOMETRY_CHANNELS other than MID_CHANNELS")
    if problems:
        raise RamsesError(f"RAMSES2 cannot express {'; '.join(problems)}")
    lost = [f"{key} {_get(cfg, key)!r}" for key, known in _FIXED_IN_TRAINING.items() if _get(cfg, key) not in known]
    if lost:
        logger.warning("RAMSES2 trains in another way, which its config cannot change: %s here", "; ".join(lost))
    if head.FACTOR_CONVS != DEFAULTS["cls_factor_layers"]:
        logger.warning('Only versions of RAMSES2 that read "cls_factor_layers" can load this network')


def cfg_to_ramses2(cfg: CfgNode) -> dict[str, Any]:
    """The RAMSES2 config of one of our networks: every attribute, ready for JSON."""
    _check_expressible(cfg)
    ramses, head, mask_head = cfg.MODEL.RAMSES, cfg.MODEL.RAMSES.HEAD, cfg.MODEL.RAMSES.MASK_HEAD
    depths, dims = stage_sizes(cfg)
    backbone = next((name for name, sizes in BACKBONES.items() if sizes == (depths, dims)), GENERIC_BACKBONE)
    params: dict[str, Any] = {"depths": depths, "dims": dims} if backbone == GENERIC_BACKBONE else {}
    if cfg.MODEL.CONVNEXTV2.DROP_PATH:
        params["drop_path_rate"] = cfg.MODEL.CONVNEXTV2.DROP_PATH
    stages = sorted(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    # SyncBN differs from BN in training on several GPUs alone
    norm = next(name for name, (ours, _) in NORMS.items() if ours == ramses.NORM.replace("SyncBN", "BN"))
    return DEFAULTS | {
        "backbone_params": params,
        "backbone": backbone,
        "backbone_feature_nodes": {f"stages.{stage}": f"C{stage + 2}" for stage in range(stages[-1] + 1)},
        "ncls": ramses.NUM_CLASSES,
        "imshape": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, 3],
        "mask_stride": ramses.MASK_STRIDE,
        "activation": ramses.ACTIVATION,
        "normalization": norm,
        "normalization_kw": {"eps": ramses.NORM_EPS} if ramses.NORM else {},
        "connection_layers": {f"C{stage + 2}": dims[stage] for stage in stages},
        "FPN_filters": cfg.MODEL.FPN.OUT_CHANNELS,
        "extra_FPN_layers": cfg.MODEL.FPN.EXTRA_LEVELS,
        "strides": [4 << (stages[0] + level) for level in range(len(ramses.IN_FEATURES))],
        "head_layers": head.CONVS,
        "head_filters": head.CHANNELS,
        "kernel_size": head.KERNEL_SIZE,
        "grid_sizes": list(ramses.GRID_SIZES),
        "cls_factor_layers": head.FACTOR_CONVS,
        "point_nms": ramses.TEST.POINT_NMS,
        "mask_mid_filters": mask_head.MID_CHANNELS,
        "mask_output_filters": mask_head.OUT_CHANNELS,
        "geom_feat_convs": mask_head.GEOMETRY_CONVS,
        "geom_feats_filters": mask_head.GEOMETRY_CHANNELS,
        "mask_output_level": mask_head.OUTPUT_LEVEL,
        "FPN_output_upscaling": mask_head.UPSCALE == "fused",
        "sigma_nms": ramses.TEST.NMS_SIGMA,
        "min_area": ramses.TEST.MIN_AREA,
        "use_binary_masks": ramses.TEST.BINARY_MASS_MASKS,
        "lossweights": [ramses.LOSS.CLS_WEIGHT, ramses.LOSS.MASK_WEIGHT, ramses.LOSS.MASS_WEIGHT],
        "max_pos_samples": ramses.LOSS.MAX_POS_PER_IMAGE,
        "scale_ranges": [list(pair) for pair in ramses.SCALE_RANGES],
        "offset_factor": ramses.OFFSET_FACTOR,
    }
