"""The bootstrap: how far a figure would move had other particles of the same heap been photographed.

Letters: n particles, C units that are drawn (particles or pictures), R replicates, k sums.

A replicate draws C units with replacement. Two pieces of the same heap may lie side by side more often than chance
would have it (a picture shows one shovel of it); drawing whole pictures keeps what lies together together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

PARTICLES, PICTURES = "particles", "pictures"
METHODS = ("percentile", "basic")
# Fewer pictures than this give an interval over pictures that is itself a rough guess
FEW_PICTURES = 10
_CHUNK = 2**21  # counts held at a time: 16 MiB as float64


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        over: "particles", or "pictures" (all particles of a picture stay together).
        replicates: how many times the sample is drawn again.
        confidence: of the intervals; 0.95 leaves 2.5 % on either side.
        method: "percentile" (quantiles of the replicates) or "basic" (the same mirrored at the estimate; can leave the
            range of a fraction).
        seed: of the random numbers; the same seed gives the same intervals.

    Raises:
        RamsesError: a setting is out of range.
    """

    over: str = PARTICLES
    replicates: int = 2000
    confidence: float = 0.95
    method: str = "percentile"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.over not in (PARTICLES, PICTURES):
            raise RamsesError(f"bootstrap over {self.over!r}: give {PARTICLES} or {PICTURES}")
        if self.method not in METHODS:
            raise RamsesError(f"bootstrap method {self.method!r}: give {' or '.join(METHODS)}")
        if not 0 < self.confidence < 1:
            raise RamsesError(f"bootstrap confidence {self.confidence}: give a number between 0 and 1, such as 0.95")
        if self.replicates < 100:
            raise RamsesError(f"{self.replicates} bootstrap replicates: give at least 100, the tails need them")

    def units(self, pictures: Sequence[str]) -> tuple[np.ndarray | None, str]:
        """What is drawn for each particle.

        Args:
            pictures: (n,) the picture of each particle.

        Returns:
            units: (n,) int, 0 .. C - 1; None if no interval can be made.
            remark: why not, or what to be careful about; empty if neither.
        """
        if self.over == PARTICLES:
            if len(pictures) < 2:
                return None, f"no intervals: the bootstrap needs 2 particles, there {_is_or_are(len(pictures))}"
            return np.arange(len(pictures)), ""
        codes, names = pd.factorize(np.asarray(pictures, object), sort=True)
        if (codes < 0).any():
            raise RamsesError("the particle table has rows without baseimg: the bootstrap over pictures needs it")
        if len(names) < 2:
            return None, f"no intervals: the bootstrap over pictures needs 2 pictures, there {_is_or_are(len(names))}"
        remark = (
            f"only {len(names)} pictures: the intervals over pictures are rough" if len(names) < FEW_PICTURES else ""
        )
        return codes, remark


def replicate_counts(units: np.ndarray, resampling: Resampling) -> Iterator[np.ndarray]:
    """How often each particle is in each replicate, some replicates at a time.

    Args:
        units: (n,) int, 0 .. C - 1, of :meth:`Resampling.units`.

    Yields:
        (r, n) float64 with r >= 1; R rows in all, at most about 16 MiB at a time.
    """
    num_units = int(units.max()) + 1
    one_each = num_units == len(units) and np.array_equal(units, np.arange(num_units))
    for counts in _unit_counts(num_units, len(units), resampling):
        yield counts if one_each else counts[:, units]


def replicate_sums(values: np.ndarray, units: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Sums over each replicate: the fast way for every figure that is made of sums, such as a mass fraction.

    Args:
        values: (n, k), for example grams in the column of the particle's class.
        units: (n,) int, 0 .. C - 1.

    Returns:
        (R, k); row r belongs to the same draw as row r of :func:`replicate_counts`.
    """
    per_unit = unit_sums(values, units)
    num_units = len(per_unit)
    return np.concatenate([counts @ per_unit for counts in _unit_counts(num_units, num_units, resampling)])


def unit_sums(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(C, k) sums of (n, k) ``values`` over the particles of each unit; ``units`` as in :func:`replicate_sums`."""
    per_unit = np.zeros((int(units.max()) + 1, values.shape[1]))
    np.add.at(per_unit, units, values)
    return per_unit


def interval(replicates: np.ndarray, estimate: np.ndarray, resampling: Resampling) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the intervals.

    Args:
        replicates: (R, ...) figures of the replicates; NaN (an empty replicate) is left out.
        estimate: (...) figures of the sample itself, which "basic" mirrors at.

    Returns:
        low, high: (...); NaN where every replicate is NaN.
    """
    tail = (1 - resampling.confidence) / 2
    ends = np.full((2, *replicates.shape[1:]), np.nan)
    known = ~np.isnan(replicates).all(axis=0)
    ends[:, known] = np.nanquantile(replicates[:, known], [tail, 1 - tail], axis=0)
    if resampling.method == "basic":
        ends = 2 * np.asarray(estimate) - ends[::-1]
    return ends[0], ends[1]


def effective_number(weights: np.ndarray) -> float:
    """How many units of equal weight say as much as these: (sum w)^2 / sum w^2 (Kish 1965); 0 without weight.

    It is the total over the weight of the unit in which an average gram lies, so what is concluded of a share that was
    not seen supposes that its pieces are about as heavy as that.
    """
    total_of_squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total_of_squares if total_of_squares > 0 else 0.0


def unseen_bound(effective: float, confidence: float) -> float:
    """The share that something may have that was not seen once among ``effective`` units.

    A bootstrap can only draw what was seen, so it would call an unseen share exactly 0, and the share of one speck
    next to nothing. This is the exact binomial bound instead, about 3 / n at 95 % ("rule of three"); no interval may
    end before it. ``effective`` counts what is of the other kind only, so that finding a speck does not change it.
    """
    return 1 - (1 - confidence) ** (1 / effective) if effective > 0 else 1.0


def _unit_counts(num_units: int, width: int, resampling: Resampling) -> Iterator[np.ndarray]:
    """(r, C) how often each unit is drawn; ``width`` = columns that the caller makes of a row, which bounds r."""
    rng = np.random.default_rng(resampling.seed)
    rows = max(1, _CHUNK // max(num_units, width))
    for start in range(0, resampling.replicates, rows):
        r = min(rows, resampling.replicates - start)
        drawn = rng.integers(0, num_units, size=(r, num_units))
        drawn += np.arange(r)[:, None] * num_units
        yield np.bincount(drawn.ravel(), minlength=r * num_units).reshape(r, num_units).astype(float)


def _is_or_are(number: int) -> str:
    return f"is {number}" if number == 1 else f"are {number}"
