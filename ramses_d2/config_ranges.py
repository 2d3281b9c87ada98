"""Numbers of a config that must lie in a range, checked by table: a wrong one is one line, not a traceback of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from detectron2.config import CfgNode

from .errors import RamsesError


class Range(NamedTuple):
    """Numbers that a config key may have.

    Attributes:
        low, high: the ends.
        is_open: whether the ends themselves do not count.
    """

    low: float = -math.inf
    high: float = math.inf
    is_open: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is a number of this range; infinity and NaN never are."""
        if not isinstance(value, (int, float)) or not abs(value) < math.inf:
            return False
        return self.low < value < self.high if self.is_open else self.low <= value <= self.high

    def __str__(self) -> str:
        below, above = ("below", "above") if self.is_open else ("up to", "from")
        if self.high == math.inf:
            return f"{above} {self.low}{'' if self.is_open else ' on'}"
        if self.low == -math.inf:
            return f"{below} {self.high}"
        return f"above {self.low} and below {self.high}" if self.is_open else f"from {self.low} to {self.high}"


def check_ranges(cfg: CfgNode, ranges: Mapping[str, Range]) -> None:
    """Check numbers, and every number of a list.

    Args:
        cfg: config.
        ranges: by key, such as "SOLVER.BASE_LR".

    Raises:
        RamsesError: a value out of its range.
    """
    for key, allowed in ranges.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        is_list = isinstance(value, (list, tuple))
        if not all(allowed.holds(number) for number in (value if is_list else [value])):
            raise RamsesError(f"{key} is {value}, use {'numbers' if is_list else 'a number'} {allowed}")
