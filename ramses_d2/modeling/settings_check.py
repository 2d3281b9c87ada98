"""The ranges of the numbers that the network is built from."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config_ranges import Range, check_ranges
from ..errors import RamsesError

_RANGES = {
    "MODEL.FPN.OUT_CHANNELS": Range(1),
    "MODEL.FPN.EXTRA_LEVELS": Range(0),
    "MODEL.RAMSES.NUM_CLASSES": Range(1),
    "MODEL.RAMSES.GRID_SIZES": Range(1),
    "MODEL.RAMSES.NORM_GROUPS": Range(1),
    "MODEL.RAMSES.HEAD.CONVS": Range(0),
    "MODEL.RAMSES.HEAD.FACTOR_CONVS": Range(0),
    "MODEL.RAMSES.HEAD.CHANNELS": Range(1),
    "MODEL.RAMSES.HEAD.KERNEL_SIZE": Range(1),
    "MODEL.RAMSES.HEAD.PRIOR_PROB": Range(0, 1, is_open=True),
    "MODEL.RAMSES.MASK_HEAD.MID_CHANNELS": Range(1),
    "MODEL.RAMSES.MASK_HEAD.OUT_CHANNELS": Range(1),
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CONVS": Range(0),
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CHANNELS": Range(1),
}


def check_settings(cfg: CfgNode) -> None:
    """Check what can be wrong in ``MODEL.RAMSES`` and ``MODEL.FPN`` before anything is built.

    Raises:
        RamsesError: a number out of its range, an even kernel, or a head without a level.
    """
    check_ranges(cfg, _RANGES)
    ramses = cfg.MODEL.RAMSES
    if ramses.HEAD.KERNEL_SIZE % 2 == 0:
        raise RamsesError(f"MODEL.RAMSES.HEAD.KERNEL_SIZE is {ramses.HEAD.KERNEL_SIZE}, use an odd number from 1 on")
    for key, levels in (("IN_FEATURES", ramses.IN_FEATURES), ("MASK_HEAD.IN_FEATURES", ramses.MASK_HEAD.IN_FEATURES)):
        if not levels:
            raise RamsesError(f"MODEL.RAMSES.{key} is empty, name one pyramid level or more, such as p3")
