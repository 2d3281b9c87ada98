"""Small trainings in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.engine.setup import resolve_classes
from ramses_d2.engine.trainer import RamsesTrainer

TINY_YAML = str(Path(__file__).parents[1] / "ramses_tiny.yaml")


def tiny_config(folder: Path, output: Path, *overrides: object, test: Sequence[Path] = ()) -> CfgNode:
    """Config of a tiny training on a RAMSES folder.

    Args:
        folder: training data.
        output: OUTPUT_DIR; made if need be.
        overrides: KEY VALUE pairs.
        test: folders to evaluate on; none = no evaluation.
    """
    tests = tuple(f"ramses://{path}" for path in test)
    options = ["DATASETS.TRAIN", f"('ramses://{folder}',)", "DATASETS.TEST", str(tests), "OUTPUT_DIR", str(output)]
    cfg = load_config(TINY_YAML, [*options, *overrides])
    register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    resolve_classes(cfg, cfg.DATASETS.TRAIN)
    output.mkdir(exist_ok=True)
    return cfg


def trainer_of(cfg: CfgNode, *, resume: bool = False, seed: int = 1) -> RamsesTrainer:
    """A trainer that is ready to train."""
    torch.manual_seed(seed)  # of the first weights, as Detectron2's default_setup does
    trainer = RamsesTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer
