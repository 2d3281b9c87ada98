"""RAMSES on Detectron2: outlines, classes and grams of every particle in an image of recycled aggregates.

Importing the package registers the meta-architecture and the backbones with Detectron2.
"""

from typing import Any

from . import known_warnings as _known  # noqa: F401  before Detectron2 is imported
from . import modeling as _  # noqa: F401  only registration
from .config import add_ramses_config
from .errors import RamsesError

__version__ = "0.1.0"
__all__ = ["RamsesError", "add_ramses_config", "decode_predictions", "draw_instances", "plot_instances"]
_ANALYSIS = ("decode_predictions", "draw_instances", "plot_instances")


def __getattr__(name: str) -> Any:
    """Load the drawing calls, and Matplotlib with them, when they are first asked for."""
    if name in _ANALYSIS:
        from . import analysis

        return getattr(analysis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
