"""Sieves: the usual series, and the opening that a particle passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

# Openings in mm. EN: the series of EN 12620 / EN 13242 (clause 4.2, Table 1), square holes after EN 933-2.
SIEVE_SERIES: dict[str, tuple[float, ...]] = {
    "en-fine": (0.063, 0.125, 0.25, 0.5, 1, 2, 4),
    "en-basic": (1, 2, 4, 8, 16, 31.5, 63),
    "en-set1": (1, 2, 4, 5.6, 8, 11.2, 16, 22.4, 31.5, 45, 63),
    "en-set2": (1, 2, 4, 6.3, 8, 10, 12.5, 14, 16, 20, 31.5, 40, 63),
    # What ASTM C33 and C136 gradings are given in, out of ASTM E11
    "astm": (0.075, 0.15, 0.3, 0.6, 1.18, 2.36, 4.75, 9.5, 12.5, 19, 25, 37.5, 50, 63, 75, 90, 100),
    "ramses": (0.5, 1, 2, 4, 8, 10, 12.5, 16, 20, 31.5, 63, 100),
}
# EN 933-1: "fines" is what passes this sieve, in mm
FINES_SIEVE = 0.063
# A particle as large as the opening passes; sizes come from divisions, so "as large" needs this much room
_SAME = 1 + 1e-9
# measure -> (column in mm, column in px, factor of the latter)
_MEASURES = {
    "feret_min": ("feret_min_mm", "min_feret_diameter", 1.0),
    "inscribed": ("inscribed_diameter_mm", "max_inscribed_radius", 2.0),
    "ellipse_minor": (None, "axis_minor_length", 1.0),
}


@dataclass(frozen=True)
class SieveSize:
    """How the sieve size of a particle is taken from its outline.

    Attributes:
        measure: "feret_min" (smallest caliper width, the usual stand-in for the middle axis that decides in a sieve),
            "inscribed" (largest circle inside) or "ellipse_minor" (minor axis of the ellipse of equal moments).
        factor: sieve size = factor * measure. 1 is right for grains about as thick as they are wide. A flat grain of
            width b and thickness t goes through a square opening along its diagonal: factor
            sqrt((1 + (t / b)^2) / 2), about 0.7 to 0.9 for coarse aggregate (Mora, Kwan and Chan, Cement and
            Concrete Research 28(6), 1998). No image from above shows t, so the factor is left to those who sieved.

    Raises:
        RamsesError: there is no such measure, or the factor is not a number above 0.
    """

    measure: str = "feret_min"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES:
            raise RamsesError(f"sieve size from {self.measure!r}: give one of {', '.join(_MEASURES)}")
        if not (np.isfinite(self.factor) and self.factor > 0):
            raise RamsesError(f"sieve size factor {self.factor}: give a number above 0, such as 0.85")

    def of(self, table: pd.DataFrame) -> np.ndarray:
        """(n,) sieve sizes in mm of a particle table; NaN where the resolution or the measure is unknown or not > 0.

        Raises:
            RamsesError: the table has no column for the measure.
        """
        in_mm, in_px, factor = _MEASURES[self.measure]
        if in_mm in table:
            sizes = table[in_mm].to_numpy(float)
        elif in_px in table and "res" in table:
            sizes = factor * table[in_px].to_numpy(float) / _positive(table["res"].to_numpy(float))
        else:
            wanted = f"{in_mm}, or {in_px} and res" if in_mm else f"{in_px} and res"
            raise RamsesError(f"the particle table has no sizes for {self.measure}: it needs {wanted}")
        return _positive(self.factor * sizes)


def sieve_series(series: str | Sequence[float]) -> tuple[float, ...]:
    """The openings of a series.

    Args:
        series: a name of ``SIEVE_SERIES``, openings in mm, or both as text: "en-set2", "4,8,16", (4, 8, 16).

    Returns:
        openings in mm, rising, each once.

    Raises:
        RamsesError: neither a name nor openings above 0.
    """
    if isinstance(series, str) and series in SIEVE_SERIES:
        return SIEVE_SERIES[series]
    parts = series.split(",") if isinstance(series, str) else series
    try:
        openings = sorted({float(part) for part in parts})
    except (TypeError, ValueError):
        openings = []
    if not openings or not all(np.isfinite(opening) and opening > 0 for opening in openings):
        names = ", ".join(SIEVE_SERIES)
        raise RamsesError(f"sieves {series!r}: give one of {names}, or openings in mm above 0 such as 4,8,16")
    return tuple(openings)


def passes(sizes: np.ndarray, opening: float) -> np.ndarray:
    """(n,) bool: which particles go through; one exactly as large as the opening does."""
    return sizes <= opening * _SAME


def number_passing(rising_sizes: np.ndarray, openings: Sequence[float]) -> np.ndarray:
    """(S,) how many of the (n,) ``rising_sizes`` go through each of the S openings, by the rule of :func:`passes`."""
    return np.searchsorted(rising_sizes, np.asarray(openings, float) * _SAME, side="right")


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
