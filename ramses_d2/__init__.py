"""RAMSES on Detectron2: mask, class and mass of every particle in an image of recycled aggregates.

Importing the package registers the meta-architecture and the backbones with Detectron2.
"""

import warnings
from typing import Any

# Detectron2 0.6 and fvcore raise it when they are imported; a user can do nothing about it
warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated", category=FutureWarning)

from ramses_d2 import checkpoint as _checkpoint  # noqa: E402, F401  registers the backbones
from ramses_d2 import modeling as _modeling  # noqa: E402, F401  registers the networks
from ramses_d2.config import add_ramses_config  # noqa: E402
from ramses_d2.errors import RamsesError  # noqa: E402

__version__ = "0.1.0"
__all__ = ["RamsesError", "add_ramses_config", "decode_predictions", "draw_instances", "plot_instances"]
_ANALYSIS = ("decode_predictions", "draw_instances", "plot_instances")


def __getattr__(name: str) -> Any:
    """Load the drawing calls, and Matplotlib with them, when they are first asked for."""
    if name in _ANALYSIS:
        from ramses_d2 import analysis

        return getattr(analysis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
