"""From RAMSES2's config.json to our config keys (reference sections 2.1, 2.3 and 2.10).

What the file has and this network cannot be stops with its name; it is never dropped in silence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RamsesError
from ..modeling.layers import ACTIVATIONS
from .ramses2_schema import BACKBONES, GENERIC_BACKBONE, NORMS, Ramses2Values, is_numbers

logger = logging.getLogger(__name__)

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

    Raises:
        RamsesError: an attribute that is wrong or has no counterpart; the message names it. Unknown ones are a
            warning.
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
