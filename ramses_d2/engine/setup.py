"""From command-line arguments to a checked, frozen config."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_ramses_config
from ..data import register_datasets
from ..errors import RamsesError

logger = logging.getLogger(__name__)


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
        cfg.merge_from_list(overrides or [])
    except (KeyError, ValueError, AssertionError) as error:
        raise RamsesError(f"{config_file}: {str(error).strip(chr(34))}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("No CUDA here: MODEL.DEVICE is set to cpu, SOLVER.AMP.ENABLED to False")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu":
        cfg.SOLVER.AMP.ENABLED = False
    return cfg


def settle_classes(cfg: CfgNode) -> None:
    """Check that data sets and network have the same classes, and write their names into the config.

    Raises:
        RamsesError: NUM_CLASSES or CLASS_NAMES do not fit a data set.
    """
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = list(MetadataCatalog.get(name).thing_classes)
        if len(classes) != cfg.MODEL.RAMSES.NUM_CLASSES:
            raise RamsesError(
                f"MODEL.RAMSES.NUM_CLASSES is {cfg.MODEL.RAMSES.NUM_CLASSES}, but {name} has {len(classes)} classes "
                f"({', '.join(classes)}): make them equal"
            )
        cfg.MODEL.RAMSES.CLASS_NAMES = cfg.MODEL.RAMSES.CLASS_NAMES or classes
        if list(cfg.MODEL.RAMSES.CLASS_NAMES) != classes:
            raise RamsesError(
                f"MODEL.RAMSES.CLASS_NAMES is {', '.join(cfg.MODEL.RAMSES.CLASS_NAMES)}, "
                f"but {name} has {', '.join(classes)}"
            )


def setup(args: argparse.Namespace) -> CfgNode:
    """Config, data sets, output folder and loggers of a Detectron2 command line.

    Args:
        args: of ``detectron2.engine.default_argument_parser``.

    Raises:
        RamsesError: a wrong config or data set; nothing has been written then.
    """
    cfg = load_config(args.config_file, args.opts)
    register_datasets(cfg)
    settle_classes(cfg)
    for name in (*(() if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST):
        DatasetCatalog.get(name)  # a wrong row stops here, before anything is written
    cfg.freeze()
    setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="ramses_d2")
    default_setup(cfg, args)
    return cfg
