"""From command-line arguments to a checked, frozen config."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.engine.checkpointer import BEST, checkpoints_in, holds_training
from ramses_d2.engine.launch import lost_connection
from ramses_d2.engine.solver import check_settings, resolve_iterations
from ramses_d2.errors import RamsesError, is_full_disk
from ramses_d2.files import atomic_file

# Below OUTPUT_DIR, for config.yaml and log.txt of an evaluation into the folder of its weights
EVALUATION_FOLDER = "evaluation"

logger = logging.getLogger(__name__)


def resolve_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check that registered data sets and network have the same classes, and write these into the config."""
    for name in names:
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


def prepare(args: argparse.Namespace) -> CfgNode:
    """Check everything that can be wrong in a command line of Detectron2 and its data; writes nothing."""
    cfg = load_config(args.config_file, args.opts)
    check_settings(cfg)
    names = list(cfg.DATASETS.TEST)
    register_datasets(names)
    if args.eval_only:
        if not Path(cfg.MODEL.WEIGHTS).is_file():
            raise RamsesError(f'MODEL.WEIGHTS "{cfg.MODEL.WEIGHTS}": no such weights file; --eval-only needs one')
        try:
            register_datasets(cfg.DATASETS.TRAIN)  # only for the power-law baseline
        except RamsesError as error:
            logger.warning("Evaluating without the training data: %s", error)
    else:
        names += [*cfg.DATASETS.TRAIN, *cfg.DATASETS.FINAL_TEST]
        register_datasets(names)
        if not args.resume and holds_training(cfg.OUTPUT_DIR):
            can_go_on = checkpoints_in(cfg.OUTPUT_DIR)
            hint = "continue it with --resume, or" if can_go_on else f"{BEST} is all that is left of it,"
            raise RamsesError(f"{cfg.OUTPUT_DIR} holds a training: {hint} choose another OUTPUT_DIR")
    resolve_classes(cfg, names)
    for name in names:
        if not DatasetCatalog.get(name):
            raise RamsesError(f"{name}: the data set has no image")
    if not args.eval_only:
        filtered = {"filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, "check_consistency": False}
        resolve_iterations(cfg, len(get_detection_dataset_dicts(cfg.DATASETS.TRAIN, **filtered)))
    return cfg


def _needs_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, RamsesError) or lost_connection(error) or is_full_disk(error))


def setup(args: argparse.Namespace) -> CfgNode:
    """Checked and frozen config, registered data sets, output folder and loggers of a Detectron2 command line.

    An evaluation into the folder of a training, or of the weights, leaves the config.yaml and log.txt there as they
    are, and has its own in the folder ``evaluation`` below it.
    """
    cfg = prepare(args)
    cfg.freeze()
    # Detectron2 logs a traceback of whatever ends a training; wrong input ends it with one line, see exit_on_error, and
    # so does another process that has ended
    logging.getLogger("detectron2.engine.train_loop").addFilter(_needs_traceback)
    folder = _records_folder(cfg, args)
    setup_logger(output=folder, distributed_rank=comm.get_rank(), name="ramses_d2")
    _default_setup_in(folder, cfg, args)
    return cfg


def _records_folder(cfg: CfgNode, args: argparse.Namespace) -> str:
    """Where config.yaml and log.txt go: an evaluation must not replace those that belong to weights."""
    output = Path(cfg.OUTPUT_DIR)
    beside_weights = holds_training(output) or Path(cfg.MODEL.WEIGHTS).parent.resolve() == output.resolve()
    return str(output / EVALUATION_FOLDER) if args.eval_only and beside_weights else cfg.OUTPUT_DIR


def _default_setup_in(folder: str, cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's set-up, with its files in another folder than OUTPUT_DIR."""
    if folder == cfg.OUTPUT_DIR:
        default_setup(cfg, args)
        return
    of_folder = cfg.clone()
    of_folder.defrost()
    of_folder.OUTPUT_DIR = folder
    default_setup(of_folder, args)
    if comm.is_main_process():  # with the OUTPUT_DIR that the results go to
        with atomic_file(Path(folder) / "config.yaml") as stream:
            stream.write(cfg.dump())
