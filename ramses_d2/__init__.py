"""RAMSES on Detectron2: outlines, classes and grams of every particle in a picture of recycled aggregates."""

from .config import add_ramses_config
from .errors import RamsesError

__version__ = "0.1.0"
__all__ = ["RamsesError", "add_ramses_config"]
