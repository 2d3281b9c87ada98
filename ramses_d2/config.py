"""The configuration keys RAMSES adds to Detectron2's: defaults and meaning, no logic.

Network and target defaults are those of the published RAMSES2 model (reference section 2.1).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.config import CfgNode as CN

from ramses_d2.errors import RamsesError

logger = logging.getLogger(__name__)


class Range(NamedTuple):
    """Numbers that a config key may have.

    Attributes:
        low, high: the ends.
        is_open: whether the ends themselves do not count.
    """

    low: float = -math.inf
    high: float = math.inf
    is_open: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is a number of this range; infinity and NaN never are."""
        if not isinstance(value, (int, float)) or not abs(value) < math.inf:
            return False
        return self.low < value < self.high if self.is_open else self.low <= value <= self.high

    def __str__(self) -> str:
        below, above = ("below", "above") if self.is_open else ("up to", "from")
        if self.high == math.inf:
            return f"{above} {self.low}{'' if self.is_open else ' on'}"
        if self.low == -math.inf:
            return f"{below} {self.high}"
        return f"above {self.low} and below {self.high}" if self.is_open else f"from {self.low} to {self.high}"


def check_ranges(cfg: CfgNode, ranges: Mapping[str, Range]) -> None:
    """Check numbers, and every number of a list.

    Args:
        cfg: config.
        ranges: by key, such as "SOLVER.BASE_LR".

    Raises:
        RamsesError: a value out of its range.
    """
    for key, allowed in ranges.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        is_list = isinstance(value, (list, tuple))
        if not all(allowed.holds(number) for number in (value if is_list else [value])):
            raise RamsesError(f"{key} is {value}, use {'numbers' if is_list else 'a number'} {allowed}")


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
    # Largest rotation, in degrees either way
    cfg.INPUT.AUG.ROTATION = 10.0
    # Largest relative change of brightness and of contrast
    cfg.INPUT.AUG.BRIGHTNESS = 0.05
    cfg.INPUT.AUG.CONTRAST = 0.05
    # Standard deviation of Gaussian noise, in grey levels of 255
    cfg.INPUT.AUG.NOISE = 3.0
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
    # Stochastic depth
    cfg.MODEL.CONVNEXTV2.DROP_PATH = 0.0
    # Recompute activations in the backward pass: less memory, about a third more time
    cfg.MODEL.CONVNEXTV2.CHECKPOINTING = False
    # Pretrained weights: an official ConvNeXt V2 file, one made by tools/convert_weights.py, or
    # timm://convnextv2_femto.fcmae_ft_in1k. Read when the network is built, unless MODEL.WEIGHTS has all weights
    cfg.MODEL.CONVNEXTV2.WEIGHTS = ""
    # Any network of timm that gives feature maps, for build_timm_fpn_backbone
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet50"
    # Which of timm's feature maps to take; empty = those of stride 4 and more
    cfg.MODEL.TIMM.OUT_INDICES = ()
    # "" = the network's own normalisation; "FrozenBN" = its batch norms as constants, "SyncBN" = over all GPUs
    cfg.MODEL.TIMM.NORM = ""
    # As MODEL.CONVNEXTV2.WEIGHTS: a file of timm or torchvision, or timm://resnet50.a1_in1k
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Stride-2 convolutions on top of the last FPN level, one more level each
    cfg.MODEL.FPN.EXTRA_LEVELS = 1
    # "ramses" (bilinear, no biases, extra levels by convolution), or "detectron2" (nearest, biases, MODEL.FPN.NORM, one
    # extra level by max-pooling)
    cfg.MODEL.FPN.STYLE = "ramses"

    # ---- meta-architecture ----------------------------------------------------------------------------------
    cfg.MODEL.RAMSES = CN()
    cfg.MODEL.RAMSES.NUM_CLASSES = 15
    # Their names, in order; empty = those of the training data. Training writes them into OUTPUT_DIR/config.yaml, so
    # that prediction needs no data set
    cfg.MODEL.RAMSES.CLASS_NAMES = []
    # Pyramid levels of the shared head, fine to coarse; one grid size and one scale range each
    cfg.MODEL.RAMSES.IN_FEATURES = ["p3", "p4", "p5", "p6"]
    # Cells along the long side of the image
    cfg.MODEL.RAMSES.GRID_SIZES = [144, 72, 36, 18]
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
    # Side of the dynamic kernels
    cfg.MODEL.RAMSES.HEAD.KERNEL_SIZE = 1
    # Class probability that an untrained network gives every cell
    cfg.MODEL.RAMSES.HEAD.PRIOR_PROB = 0.01

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
    # False = plain SOLOv2: no class factor, no geometry map, no masses
    cfg.MODEL.RAMSES.MASS.ENABLED = True
    # "ReLU" (as published; both outputs can die) or "Softplus"
    cfg.MODEL.RAMSES.MASS.ACTIVATION = "ReLU"
    # Networks without a mass branch weigh by the best constant areal density of each class, from the training truth
    cfg.MODEL.RAMSES.MASS.DENSITY = False

    # ---- losses ---------------------------------------------------------------------------------------------
    cfg.MODEL.RAMSES.LOSS = CN()
    cfg.MODEL.RAMSES.LOSS.CLS_WEIGHT = 1.0
    cfg.MODEL.RAMSES.LOSS.MASK_WEIGHT = 1.0
    cfg.MODEL.RAMSES.LOSS.MASS_WEIGHT = 1.0
    cfg.MODEL.RAMSES.LOSS.FOCAL_ALPHA = 0.25
    cfg.MODEL.RAMSES.LOSS.FOCAL_GAMMA = 2.0
    # Relative mass error that is averaged: "mape" |m - t| / t, or "log" |ln m - ln t|, which does not reward
    # guessing low
    cfg.MODEL.RAMSES.LOSS.MASS_TYPE = "mape"
    # Positive cells of an image used by the mask and mass losses; every object keeps at least one
    cfg.MODEL.RAMSES.LOSS.MAX_POS_PER_IMAGE = 768

    # ---- inference ------------------------------------------------------------------------------------------
    cfg.MODEL.RAMSES.TEST = CN()
    # A cell below this score is no candidate. Low, because AP wants the whole precision-recall curve
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = 0.05
    # From this score on an instance counts as a particle: in totals, in mass figures, in tools/predict.py
    cfg.MODEL.RAMSES.TEST.REPORT_THRESH = 0.5
    # Keep only cells that are the best of their 2x2 neighbourhood in their class
    cfg.MODEL.RAMSES.TEST.POINT_NMS = False
    # Best cells for which a mask is computed at all; 0 = all of them, as the original does
    cfg.MODEL.RAMSES.TEST.PRE_NMS_TOPK = 2000
    # A pixel belongs to the instance from this probability on
    cfg.MODEL.RAMSES.TEST.MASK_THRESH = 0.5
    # Multiply the score by the mean probability inside the mask
    cfg.MODEL.RAMSES.TEST.MASK_SCORING = True
    # Smaller masks are dropped; pixels of the mask grid, exclusive
    cfg.MODEL.RAMSES.TEST.MIN_AREA = 0
    # "greedy", "soft", "matrix" or "none"
    cfg.MODEL.RAMSES.TEST.NMS = "greedy"
    # greedy: a mask goes when its IoU with a better one is above this
    cfg.MODEL.RAMSES.TEST.NMS_THRESH = 0.5
    # soft, matrix: width of the Gaussian decay, and the decayed score below which an instance goes
    cfg.MODEL.RAMSES.TEST.NMS_SIGMA = 0.5
    cfg.MODEL.RAMSES.TEST.NMS_MIN_SCORE = 0.05
    # False = objects suppress one another only within a class
    cfg.MODEL.RAMSES.TEST.NMS_CLASS_AGNOSTIC = True
    # Sum the geometry map over the binary mask (as trained) rather than over the soft one
    cfg.MODEL.RAMSES.TEST.BINARY_MASS_MASKS = True
    # "bitmask": pred_masks is a bool tensor (K, H, W); "rle": COCO run lengths, for large images
    cfg.MODEL.RAMSES.TEST.MASK_FORMAT = "bitmask"

    # ---- training -------------------------------------------------------------------------------------------
    cfg.SOLVER.OPTIMIZER = "AdamW"
    # Learning rate of each part relative to BASE_LR; the backbone's below 1 for a pretrained one
    cfg.SOLVER.LR_FACTOR = CN()
    cfg.SOLVER.LR_FACTOR.BACKBONE = 1.0
    cfg.SOLVER.LR_FACTOR.FPN = 1.0
    cfg.SOLVER.LR_FACTOR.CLASS = 1.0
    cfg.SOLVER.LR_FACTOR.KERNEL = 1.0
    cfg.SOLVER.LR_FACTOR.MASK = 1.0
    cfg.SOLVER.LR_FACTOR.MASS = 1.0
    # Of Mask R-CNN, whose mask head is MASK
    cfg.SOLVER.LR_FACTOR.RPN = 1.0
    cfg.SOLVER.LR_FACTOR.BOX = 1.0
    # Each layer (stem or block) of the backbone learns at this share of the rate of the next one; 1 = all alike
    cfg.SOLVER.LAYER_DECAY = 1.0
    # What does not train: parts ("backbone", "fpn", "class", "kernel", "mask", "mass"; of Mask R-CNN "backbone", "fpn",
    # "rpn", "box", "mask"), "all but heads", or a share of the network's layers from the input on ("0.9" = all but the
    # last tenth). Branches whose loss has weight 0 do not train either
    cfg.SOLVER.FREEZE = []
    # Passes over the training images, in place of MAX_ITER; 0 = MAX_ITER counts
    cfg.SOLVER.MAX_EPOCHS = 0
    # LR_SCHEDULER_NAME "ReduceOnPlateau": multiply the rate by FACTOR when METRIC has not improved for more than
    # PATIENCE evaluations ("total_loss": the mean over TEST.EVAL_PERIOD steps). MODE: "max" or "min" is better
    cfg.SOLVER.PLATEAU = CN()
    cfg.SOLVER.PLATEAU.METRIC = "segm/AP"
    cfg.SOLVER.PLATEAU.MODE = "max"
    cfg.SOLVER.PLATEAU.PATIENCE = 3
    cfg.SOLVER.PLATEAU.FACTOR = 0.5
    # The rate does not fall below this share of BASE_LR
    cfg.SOLVER.PLATEAU.MIN_FACTOR = 0.001
    # Stop when TEST.BEST_METRIC has not improved by more than MIN_DELTA for this many evaluations; 0 = never
    cfg.SOLVER.EARLY_STOPPING = CN()
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 0
    cfg.SOLVER.EARLY_STOPPING.MIN_DELTA = 0.0
    # Moving average of the weights, evaluated beside them as "ema/..."; 0 = none, 0.999 = over about 1000 steps
    cfg.SOLVER.EMA_DECAY = 0.0

    # ---- evaluation -----------------------------------------------------------------------------------------
    # What model_best.pth, and early stopping, go by, and whether "max" or "min" is better
    cfg.TEST.BEST_METRIC = "segm/AP"
    cfg.TEST.BEST_MODE = "max"
    # Images with the worst predictions that an evaluation draws
    cfg.TEST.WORST_PICTURES = 6
    # Data sets that are evaluated once, after training, with the best weights; files go to OUTPUT_DIR/test
    cfg.DATASETS.FINAL_TEST = ()


def follow_ramses_keys(cfg: CfgNode) -> None:
    """Give Detectron2's keys the values of those of ours that mean the same, in place: a user sets one of each."""
    ramses, heads = cfg.MODEL.RAMSES, cfg.MODEL.ROI_HEADS
    heads.NUM_CLASSES = ramses.NUM_CLASSES
    heads.SCORE_THRESH_TEST = ramses.TEST.SCORE_THRESH
    heads.NMS_THRESH_TEST = ramses.TEST.NMS_THRESH


def load_config(config_file: str, overrides: list[str] | None = None) -> CfgNode:
    """Read a YAML file and KEY VALUE overrides into a fresh config, and fall back to the CPU where there is no CUDA.

    Raises:
        RamsesError: the file is missing, or a key or value does not fit.
    """
    cfg = get_cfg()
    add_ramses_config(cfg)
    if not Path(config_file).is_file():
        raise RamsesError(f"{config_file}: no such config file, see configs/")
    try:
        cfg.merge_from_file(config_file)
    except (KeyError, TypeError, ValueError, AssertionError, OSError, yaml.YAMLError) as error:
        raise RamsesError(f"{config_file}: {_one_line(error)}{_suggestion(error, cfg)}") from error
    try:
        cfg.merge_from_list(overrides or [])
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise RamsesError(f"config override: {_one_line(error)}{_suggestion(error, cfg)}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("No CUDA here: MODEL.DEVICE is set to cpu, SOLVER.AMP.ENABLED to False")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu":
        cfg.SOLVER.AMP.ENABLED = False
    if cfg.MODEL.META_ARCHITECTURE == "MaskRCNN":
        follow_ramses_keys(cfg)
    return cfg


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if len(error.args) == 1 else error).split())


def _suggestion(error: Exception, cfg: CfgNode) -> str:
    """The key that an unknown one resembles most, if any."""
    unknown = (
        _one_line(error).partition("Non-existent ")[2].rpartition("key: ")[2]
    )  # KeyError or AssertionError of yacs
    nearest = get_close_matches(unknown, _keys(cfg), n=1, cutoff=0.8)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
