"""Ranges of numbers in a config."""

from __future__ import annotations

import math

import pytest
from detectron2.config import CfgNode

from ramses_d2.config import Range, check_ranges
from ramses_d2.errors import RamsesError


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(1), [1, 5.5], [0, -1, math.inf, math.nan, "2", None]),
        (Range(0, 1), [0, 0.5, 1], [-0.1, 1.1]),
        (Range(0, 1, is_open=True), [0.5], [0, 1]),
        (Range(high=5), [-9, 5], [6, 10**400, -math.inf]),
    ],
    ids=str,
)
def test_a_range_holds_its_numbers(allowed: Range, inside: list, outside: list) -> None:
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


def test_the_message_names_key_value_and_range() -> None:
    cfg = CfgNode({"A": {"B": [4, 0], "C": 0.0}})
    check_ranges(cfg, {"A.B": Range(0), "A.C": Range(0, 1)})
    with pytest.raises(RamsesError, match=r"^A\.B is \[4, 0\], use numbers from 1 on$"):
        check_ranges(cfg, {"A.B": Range(1)})
    with pytest.raises(RamsesError, match=r"^A\.C is 0\.0, use a number above 0 and below 1$"):
        check_ranges(cfg, {"A.C": Range(0, 1, is_open=True)})
