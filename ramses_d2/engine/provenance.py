"""What a prediction depends on, and what made it: for the record of a run."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.config import CfgNode

# Parts of a config that have no effect on what a network predicts
_UNRELATED = ("DATASETS", "DATALOADER", "SOLVER", "OUTPUT_DIR", "SEED", "VIS_PERIOD", "CUDNN_BENCHMARK")


def file_hash(path: str) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def run_settings(cfg: CfgNode) -> dict[str, Any]:
    """The hash of the weights and the config keys that a prediction depends on, ready for JSON.

    Args:
        cfg: config, with the weights in ``MODEL.WEIGHTS``.
    """
    config = yaml.safe_load(cfg.dump())
    for key in _UNRELATED:
        config.pop(key, None)
    config["MODEL"].pop("WEIGHTS")
    config["MODEL"].pop("DEVICE")
    return {"weights_sha256": file_hash(cfg.MODEL.WEIGHTS), "config": config}


def versions() -> dict[str, str]:
    """Versions of the programs that have a say in the numbers."""
    return {
        "ramses_d2": metadata.version("ramses_d2"),
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
