"""RAMSES on Detectron2: outlines, classes and grams of every particle in a picture of recycled aggregates.

Importing the package registers the meta-architecture and the backbone with Detectron2.
"""

from . import modeling as _  # noqa: F401  only registration
from .config import add_ramses_config
from .errors import RamsesError

__version__ = "0.1.0"
__all__ = ["RamsesError", "add_ramses_config"]
