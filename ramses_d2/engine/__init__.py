"""Training and prediction."""

from .optimizer import build_optimizer
from .predictor import RamsesPredictor
from .provenance import run_settings, versions
from .setup import load_config, prepare, setup
from .trainer import RamsesTrainer

__all__ = [
    "RamsesPredictor",
    "RamsesTrainer",
    "build_optimizer",
    "load_config",
    "prepare",
    "run_settings",
    "setup",
    "versions",
]
