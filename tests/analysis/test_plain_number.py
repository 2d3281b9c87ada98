"""Numbers for readers."""

from __future__ import annotations

import pytest

from ramses_d2.draw import plain_number


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (12340.4, 4, "12340"),
        (12345.0, 3, "12300"),
        (999.9, 3, "1000"),
        (1.2e7, 3, "12000000"),
        (0.05, 3, "0.05"),
        (0.0000123456, 3, "0.0000123"),
        (20.0, 3, "20"),
        (0.0, 3, "0"),
        (float("nan"), 3, "nan"),
    ],
)
def test_never_a_power_of_ten(value: float, digits: int, text: str) -> None:
    assert plain_number(value, digits) == text
