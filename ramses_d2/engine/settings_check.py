"""The ranges of the numbers that a training reads, ours and Detectron2's."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config_ranges import Range, check_ranges

_RANGES = {
    "SOLVER.IMS_PER_BATCH": Range(1),
    "SOLVER.CHECKPOINT_PERIOD": Range(1),
    "SOLVER.BASE_LR": Range(0),
    "SOLVER.WEIGHT_DECAY": Range(0),
    "SOLVER.MOMENTUM": Range(0),
    "SOLVER.WARMUP_ITERS": Range(0),
    "SOLVER.WARMUP_FACTOR": Range(0),
    "DATALOADER.NUM_WORKERS": Range(0),
}
# NumPy's; below 0 means that every run draws its own
_LARGEST_SEED = 2**32 - 1


def check_settings(cfg: CfgNode) -> None:
    """Check the numbers of ``SOLVER``, ``DATALOADER`` and ``SEED``.

    Raises:
        RamsesError: one is out of its range.
    """
    # Detectron2 adds the number of the process to the seed
    check_ranges(cfg, {**_RANGES, "SEED": Range(high=_LARGEST_SEED - comm.get_world_size() + 1)})
