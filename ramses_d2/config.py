"""The configuration keys that RAMSES adds to Detectron2's (defaults and meaning), the ranges of numbers, and loading.

The defaults of network and targets are those of the published RAMSES2 model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.config import CfgNode as CN

from ramses_d2.errors import RamsesError

logger = logging.getLogger(__name__)


class Range(NamedTuple):
    """Finite numbers that a config key may have; ``is_open`` leaves out both ends, or one of them ("low", "high")."""

    low: float = -math.inf
    high: float = math.inf
    is_open: bool | str = False

    def holds(self, value: object) -> bool:
        if not isinstance(value, (int, float)) or not abs(value) < math.inf:
            return False
        left_out = {True: (self.low, self.high), "low": (self.low,), "high": (self.high,)}.get(self.is_open, ())
        return self.low <= value <= self.high and value not in left_out

    def __str__(self) -> str:
        low = f"above {self.low}" if self.is_open in (True, "low") else f"from {self.low} on"
        high = f"below {self.high}" if self.is_open in (True, "high") else f"up to {self.high}"
        return " and ".join([low] * (self.low > -math.inf) + [high] * (self.high < math.inf))


def check_ranges(cfg: CfgNode, allowed: Mapping[str, Range | tuple[str, ...]]) -> None:
    """Stop where a number, or one of a list, is out of its range, or a word is not one of those allowed.

    The keys of ``allowed`` are such as "SOLVER.BASE_LR".
    """
    for key, values in allowed.items():
        value = reduce(lambda node, name: node[name], key.split("."), cfg)
        is_list = isinstance(value, (list, tuple))
        if isinstance(values, tuple) and not isinstance(values, Range):
            if value not in values:
                raise RamsesError(f'{key} is "{value}", use {" or ".join(values)}')
        elif not all(values.holds(number) for number in (value if is_list else [value])):
            raise RamsesError(f"{key} is {value}, use {'numbers' if is_list else 'a number'} {values}")


def add_ramses_config(cfg: CN) -> None:
    """Add the ``INPUT``, ``MODEL`` and ``SOLVER`` keys of RAMSES to a Detectron2 config, in place."""
    # ---- input ----------------------------------------------------------------------------------------------
    # px/mm of the images given to a plain DefaultPredictor, which cannot pass one. 0 = unknown (grams are NaN)
    cfg.INPUT.RESOLUTION = 0.0
    # How a training image meets the canvas MIN_SIZE_TRAIN x MAX_SIZE_TRAIN: "pad" shows all of it, "crop" (the
    # original's way) cuts the middle to the canvas' aspect ratio, "edge" has no canvas: one of MIN_SIZE_TRAIN for the
    # shorter side, at most MAX_SIZE_TRAIN for the longer, as Detectron2 and SOLOv2 do
    cfg.INPUT.FIT = "pad"
    cfg.INPUT.AUG = CN()
    # Flip along each axis with probability 0.5; with VERTICAL_FLIP False only left and right
    cfg.INPUT.AUG.FLIP = True
    cfg.INPUT.AUG.VERTICAL_FLIP = True
    cfg.INPUT.AUG.ROTATION = 10.0  # largest rotation, in degrees either way
    # Largest relative change of brightness and of contrast
    cfg.INPUT.AUG.BRIGHTNESS = 0.05
    cfg.INPUT.AUG.CONTRAST = 0.05
    cfg.INPUT.AUG.NOISE = 3.0  # standard deviation of Gaussian noise, in grey levels of 255
    # Range of the random change of scale; masses in grams stay, mass_scale follows
    cfg.INPUT.AUG.SCALE = (0.8, 1.25)

    # ---- backbone -------------------------------------------------------------------------------------------
    cfg.MODEL.CONVNEXTV2 = CN()
    # Any ConvNeXt of timm: convnextv2_{atto,femto,pico,nano,tiny,base,large,huge}
    cfg.MODEL.CONVNEXTV2.NAME = "convnextv2_femto"
    # Blocks and channels of the four stages; empty = those of the named model
    cfg.MODEL.CONVNEXTV2.DEPTHS = ()
    cfg.MODEL.CONVNEXTV2.DIMS = ()
    # "patch" (4x4 stride 4, as published) or "overlap" (two 3x3 of stride 2: better from scratch)
    cfg.MODEL.CONVNEXTV2.STEM = "patch"
    cfg.MODEL.CONVNEXTV2.DROP_PATH = 0.0  # stochastic depth
    # Recompute activations in the backward pass: less memory, about a third more time
    cfg.MODEL.CONVNEXTV2.CHECKPOINTING = False
    # Pretrained weights: an official ConvNeXt V2 file, one made by tools/convert_weights.py, or
    # timm://convnextv2_femto.fcmae_ft_in1k. Read when the network is built, unless MODEL.WEIGHTS has all weights
    cfg.MODEL.CONVNEXTV2.WEIGHTS = ""
    # Any network of timm that gives feature maps, for build_timm_fpn_backbone
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet50"
    cfg.MODEL.TIMM.OUT_INDICES = ()  # which of timm's feature maps to take; empty = those of stride 4 and more
    # "" = the network's own normalisation; "FrozenBN" = its batch norms as constants, "SyncBN" = over all GPUs
    cfg.MODEL.TIMM.NORM = ""
    # As MODEL.CONVNEXTV2.WEIGHTS: a file of timm or torchvision, or timm://resnet50.a1_in1k
    cfg.MODEL.TIMM.WEIGHTS = ""
    cfg.MODEL.FPN.EXTRA_LEVELS = 1  # stride-2 convolutions on top of the last FPN level, one more level each
    # "ramses" (bilinear, no biases, extra levels convolved), "detectron2" (nearest, biases, NORM, one max-pooled level)
    cfg.MODEL.FPN.STYLE = "ramses"

    # ---- meta-architecture ----------------------------------------------------------------------------------
    cfg.MODEL.RAMSES = CN()
    cfg.MODEL.RAMSES.NUM_CLASSES = 15
    # Their names, in order; empty = those of the training data. Training writes them into OUTPUT_DIR/config.yaml, so
    # that prediction needs no data set
    cfg.MODEL.RAMSES.CLASS_NAMES = []
    # Pyramid levels of the shared head, fine to coarse; one grid size and one scale range each
    cfg.MODEL.RAMSES.IN_FEATURES = ["p3", "p4", "p5", "p6"]
    cfg.MODEL.RAMSES.GRID_SIZES = [144, 72, 36, 18]  # cells along the long side of the image
    # False = grids have the aspect ratio of the image; True = as many cells along the short side, as in SOLOv2
    cfg.MODEL.RAMSES.SQUARE_GRIDS = False
    # Object scale sqrt(box height * box width), in network-input pixels, from..to, of each level
    cfg.MODEL.RAMSES.SCALE_RANGES = [[1, 128], [64, 256], [128, 512], [256, 3072]]
    # "ramses": the first level also takes what is smaller, the last two whatever is larger, thin objects move down;
    # "range": the ranges and nothing else, as in SOLOv2
    cfg.MODEL.RAMSES.LEVEL_RULE = "ramses"
    # Share of the box sides, around the centre of mass, whose cells are positive
    cfg.MODEL.RAMSES.OFFSET_FACTOR = 0.75
    # Pixels of the network input per pixel of the mask grid; checked against the network when it is built
    cfg.MODEL.RAMSES.MASK_STRIDE = 8
    # Normalisation ("LN", "RMS", "GN", "BN", "SyncBN", "" = none) and activation ("GELU", "SiLU", "ReLU") of all heads
    cfg.MODEL.RAMSES.NORM = "LN"
    # What the norms add to the variance, and the groups of "GN"
    cfg.MODEL.RAMSES.NORM_EPS = 1e-6
    cfg.MODEL.RAMSES.NORM_GROUPS = 32
    cfg.MODEL.RAMSES.ACTIVATION = "GELU"

    # Shared head: class, kernel and class-factor branches on every level
    cfg.MODEL.RAMSES.HEAD = CN()
    cfg.MODEL.RAMSES.HEAD.CONVS = 4
    cfg.MODEL.RAMSES.HEAD.FACTOR_CONVS = 2
    cfg.MODEL.RAMSES.HEAD.CHANNELS = 256
    cfg.MODEL.RAMSES.HEAD.KERNEL_SIZE = 1  # side of the dynamic kernels
    cfg.MODEL.RAMSES.HEAD.PRIOR_PROB = 0.01  # class probability that an untrained network gives every cell

    # Mask head: unified mask features and geometry map
    cfg.MODEL.RAMSES.MASK_HEAD = CN()
    cfg.MODEL.RAMSES.MASK_HEAD.IN_FEATURES = ["p3", "p4", "p5"]
    # Index in IN_FEATURES of the level all others are brought to
    cfg.MODEL.RAMSES.MASK_HEAD.OUTPUT_LEVEL = 0
    cfg.MODEL.RAMSES.MASK_HEAD.MID_CHANNELS = 128
    cfg.MODEL.RAMSES.MASK_HEAD.OUT_CHANNELS = 256
    cfg.MODEL.RAMSES.MASK_HEAD.GEOMETRY_CONVS = 4
    cfg.MODEL.RAMSES.MASK_HEAD.GEOMETRY_CHANNELS = 128
    # Enlarge by 2: "" = no, "fused" = the fused map (the original's FPN_output_upscaling), "output" = the mask
    # features and the geometry map (by linearity the same as enlarging every mask, and far cheaper)
    cfg.MODEL.RAMSES.MASK_HEAD.UPSCALE = ""
    # Levels that get coordinate channels: "all" (as published) or "coarsest" (SOLOv2, RAMSES v1)
    cfg.MODEL.RAMSES.MASK_HEAD.COORDINATES = "all"
    # Append x, y, x^2 + y^2 and 1 to the mask features, so that a 1x1 kernel can draw a disc by itself
    cfg.MODEL.RAMSES.MASK_HEAD.DISC_FEATURES = False

    # Mass branch: normalised mass = class factor of the cell * sum of the geometry map over the mask
    cfg.MODEL.RAMSES.MASS = CN()
    cfg.MODEL.RAMSES.MASS.ENABLED = True  # False = plain SOLOv2: no class factor, no geometry map, no masses
    cfg.MODEL.RAMSES.MASS.ACTIVATION = "ReLU"  # "ReLU" (as published; both outputs can die) or "Softplus"
    # Networks without a mass branch predict masses by a constant areal density per class, fitted to the training data
    cfg.MODEL.RAMSES.MASS.DENSITY = False

    # ---- losses ---------------------------------------------------------------------------------------------
    cfg.MODEL.RAMSES.LOSS = CN()
    cfg.MODEL.RAMSES.LOSS.CLS_WEIGHT = 1.0
    cfg.MODEL.RAMSES.LOSS.MASK_WEIGHT = 1.0
    cfg.MODEL.RAMSES.LOSS.MASS_WEIGHT = 1.0
    cfg.MODEL.RAMSES.LOSS.FOCAL_ALPHA = 0.25
    cfg.MODEL.RAMSES.LOSS.FOCAL_GAMMA = 2.0
    # Relative mass error: "mape" |m - t| / t, or "log" |ln m - ln t|, which does not reward guessing low
    cfg.MODEL.RAMSES.LOSS.MASS_TYPE = "mape"
    # Positive cells of an image used by the mask and mass losses; every object keeps at least one
    cfg.MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE = 768

    # ---- inference ------------------------------------------------------------------------------------------
    cfg.MODEL.RAMSES.TEST = CN()
    # A cell below this score is no candidate. Low, because AP wants the whole precision-recall curve
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = 0.05
    # From this score on an instance counts as a particle: in totals, in mass metrics, in tools/predict.py
    cfg.MODEL.RAMSES.TEST.REPORT_THRESH = 0.5
    # Keep only cells that are the best of their 2x2 neighbourhood in their class
    cfg.MODEL.RAMSES.TEST.POINT_NMS = False
    # Best cells for which a mask is computed at all; 0 = all of them, as the original does
    cfg.MODEL.RAMSES.TEST.PRE_NMS_TOPK = 2000
    cfg.MODEL.RAMSES.TEST.MASK_THRESH = 0.5  # a pixel belongs to the instance from this probability on
    cfg.MODEL.RAMSES.TEST.MASK_SCORING = True  # multiply the score by the mean probability inside the mask
    cfg.MODEL.RAMSES.TEST.MIN_AREA = 0  # smaller masks are dropped; pixels of the mask grid, exclusive
    cfg.MODEL.RAMSES.TEST.NMS = "greedy"  # "greedy", "soft", "matrix" or "none"
    cfg.MODEL.RAMSES.TEST.NMS_THRESH = 0.5  # greedy: a mask goes when its IoU with a better one is above this
    # soft, matrix: width of the Gaussian decay, and the decayed score below which an instance goes
    cfg.MODEL.RAMSES.TEST.NMS_SIGMA = 0.5
    cfg.MODEL.RAMSES.TEST.NMS_MIN_SCORE = 0.05
    cfg.MODEL.RAMSES.TEST.NMS_CLASS_AGNOSTIC = True  # False = objects suppress one another only within a class
    # Sum the geometry map over the binary mask (as trained) rather than over the soft one
    cfg.MODEL.RAMSES.TEST.BINARY_MASS_MASKS = True
    # "bitmask": pred_masks is a bool tensor (K, H, W); "rle": COCO RLE, for large images
    cfg.MODEL.RAMSES.TEST.MASK_FORMAT = "bitmask"

    # ---- training -------------------------------------------------------------------------------------------
    cfg.SOLVER.OPTIMIZER = "AdamW"
    # Learning rate of each part relative to BASE_LR; the backbone's below 1 for a pretrained one
    parts = ("BACKBONE", "FPN", "CLASS", "KERNEL", "MASK", "MASS", "RPN", "BOX")  # the last two are of Mask R-CNN
    cfg.SOLVER.LR_FACTOR = CN(dict.fromkeys(parts, 1.0))
    # Each layer (stem or block) of the backbone learns at this share of the rate of the next one; 1 = all alike
    cfg.SOLVER.LAYER_DECAY = 1.0
    # What does not train: parts ("backbone", "fpn", "class", "kernel", "mask", "mass"; of Mask R-CNN "backbone", "fpn",
    # "rpn", "box", "mask"), "all but heads", or a share of the network's layers from the input on ("0.9" = all but the
    # last tenth). Branches whose loss has weight 0 do not train either
    cfg.SOLVER.FREEZE = []
    cfg.SOLVER.MAX_EPOCHS = 0  # passes over the training images, in place of MAX_ITER; 0 = MAX_ITER counts
    # Keys of a schedule that has gone (docs/changes.md): files that have them still load
    cfg.SOLVER.PLATEAU = CN(new_allowed=True)
    # Stop when TEST.BEST_METRIC has not improved by more than MIN_DELTA for this many evaluations; 0 = never
    cfg.SOLVER.EARLY_STOPPING = CN({"PATIENCE": 0, "MIN_DELTA": 0.0})
    # Moving average of the weights, evaluated beside them as "ema/..."; 0 = none, 0.999 = over about 1000 steps
    cfg.SOLVER.EMA_DECAY = 0.0

    # ---- evaluation -----------------------------------------------------------------------------------------
    # What model_best.pth, and early stopping, go by, and whether "max" or "min" is better
    cfg.TEST.BEST_METRIC = "segm/AP"
    cfg.TEST.BEST_MODE = "max"
    cfg.TEST.WORST_PICTURES = 6  # images with the worst predictions that an evaluation draws
    # Data sets that are evaluated once, after training, with the best weights; files go to OUTPUT_DIR/test
    cfg.DATASETS.FINAL_TEST = ()


def follow_ramses_keys(cfg: CfgNode) -> None:
    """Give Detectron2's keys the values of those of ours that mean the same, in place: a user sets one of each."""
    ramses, heads = cfg.MODEL.RAMSES, cfg.MODEL.ROI_HEADS
    heads.NUM_CLASSES = ramses.NUM_CLASSES
    heads.SCORE_THRESH_TEST = ramses.TEST.SCORE_THRESH
    heads.NMS_THRESH_TEST = ramses.TEST.NMS_THRESH


def load_config(config_file: str, overrides: list[str] | None = None) -> CfgNode:
    """Read a YAML file and KEY VALUE overrides into a fresh config, and fall back to the CPU where there is no CUDA."""
    cfg = get_cfg()
    add_ramses_config(cfg)
    if not Path(config_file).is_file():
        raise RamsesError(f"{config_file}: no such config file, see configs/")
    where = config_file
    try:
        cfg.merge_from_file(config_file)
        where = "config override"
        cfg.merge_from_list(overrides or [])
    except (KeyError, TypeError, ValueError, AssertionError, OSError, yaml.YAMLError) as error:
        what = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
        unknown = what.partition("Non-existent ")[2].rpartition("key: ")[2]  # KeyError or AssertionError of yacs
        nearest = get_close_matches(unknown, _keys(cfg), n=1, cutoff=0.8)
        raise RamsesError(f"{where}: {what}{f'; did you mean {nearest[0]}?' if nearest else ''}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("No CUDA here: MODEL.DEVICE is set to cpu, SOLVER.AMP.ENABLED to False")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu":
        cfg.SOLVER.AMP.ENABLED = False
    if cfg.MODEL.META_ARCHITECTURE == "MaskRCNN":
        follow_ramses_keys(cfg)
    return cfg


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
