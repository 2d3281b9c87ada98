"""From our config keys to RAMSES2's config.json (reference sections 2.1 and 2.3), to check results there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import reduce
from typing import Any

from detectron2.config import CfgNode

from ..errors import RamsesError
from .ramses2_schema import BACKBONES, DEFAULTS, GENERIC_BACKBONE, NORMS

logger = logging.getLogger(__name__)

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
    """The RAMSES2 config of one of our networks: every attribute, ready for JSON.

    Raises:
        RamsesError: keys of ours that RAMSES2 cannot express; the message names all of them.
    """
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
