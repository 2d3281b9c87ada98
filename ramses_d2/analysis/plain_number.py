"""Numbers for readers."""

from __future__ import annotations

import numpy as np


def plain_number(value: float, digits: int) -> str:
    """``value`` with so many significant digits, never as a power of ten: 12340 with 3 is "12300", 0.05 is "0.05"."""
    return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")
