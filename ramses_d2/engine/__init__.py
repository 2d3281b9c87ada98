"""Training and prediction."""

from ramses_d2.config import load_config
from ramses_d2.engine.predictor import RamsesPredictor, run_settings, versions
from ramses_d2.engine.setup import prepare, setup
from ramses_d2.engine.solver import build_optimizer
from ramses_d2.engine.trainer import RamsesTrainer

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
