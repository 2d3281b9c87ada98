"""The bootstrap: how far a figure would move had other particles of the same heap been photographed.

Letters: n particles, C units that are drawn (particles or images), R replicates, k sums.

It is the Bayesian bootstrap (Rubin 1981): where the older one draws units with replacement, and so gives each a whole
number, a replicate here gives each unit an exponentially distributed weight of mean 1. A glass splinter that was seen
once is then in every replicate, more or less of it, instead of missing from 37 % of them.

Neither can draw what was not seen, and rare things are often not seen. So where a share is asked for, one more unit is
added (:func:`share_interval`): that of the kind or that of the rest which the sample may just have missed. With equal
weights the ends are those of the mid-p interval for a binomial share (the gamma intervals of Fay and Feuer 1997 are
made in the same way); tests/analysis/test_coverage.py counts how often intervals hold the truth.

Two pieces of the same heap may lie side by side more often than chance would have it (an image shows one shovel of
it); drawing whole images keeps what lies together together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

PARTICLES, IMAGES = "particles", "pictures"
# Fewer images than this give an interval over images that is itself a rough guess
FEW_IMAGES = 10
# Fewer units than this of equal weight, of four times as many: 95 % intervals may hold the truth in 60 - 90 % only
_FEW_EFFECTIVE, _UNEQUAL = 200, 4
_CHUNK = 2**21  # weights held at a time: 16 MiB as float64


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        over: "particles", or "pictures" (all particles of an image stay together).
        replicates: how many times the sample is drawn again.
        confidence: of the intervals; 0.95 leaves 2.5 % on either side.
        seed: of the random numbers; the same seed gives the same intervals.

    Raises:
        RamsesError: a setting is out of range.
    """

    over: str = PARTICLES
    replicates: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.over not in (PARTICLES, IMAGES):
            raise RamsesError(f"bootstrap over {self.over!r}: give {PARTICLES} or {IMAGES}")
        if not 0 < self.confidence < 1:
            raise RamsesError(f"bootstrap confidence {self.confidence}: give a number between 0 and 1, such as 0.95")
        if self.seed < 0:
            raise RamsesError(f"bootstrap seed {self.seed}: give 0 or more")
        if self.replicates < 100:
            raise RamsesError(f"{self.replicates} bootstrap replicates: give at least 100, the tails need them")

    def units(self, images: Sequence[str]) -> tuple[np.ndarray | None, str]:
        """What is drawn for each particle.

        Args:
            images: (n,) the image of each particle.

        Returns:
            units: (n,) int, 0 .. C - 1; None if no interval can be made.
            remark: why not, or what to be careful about; empty if neither.
        """
        if self.over == PARTICLES:
            if len(images) < 2:
                return None, f"no intervals: the bootstrap needs 2 particles, there {_is_or_are(len(images))}"
            return np.arange(len(images)), ""
        codes, names = pd.factorize(np.asarray(images, object), sort=True)
        if (codes < 0).any():
            raise RamsesError("the particle table has rows without baseimg: the bootstrap over images needs it")
        if len(names) < 2:
            return None, f"no intervals: the bootstrap over images needs 2 images, there {_is_or_are(len(names))}"
        remark = f"only {len(names)} images: the intervals over images are rough" if len(names) < FEW_IMAGES else ""
        return codes, remark


def replicate_weights(units: np.ndarray, resampling: Resampling) -> Iterator[np.ndarray]:
    """The weight of each particle in each replicate, some replicates at a time.

    Args:
        units: (n,) int, 0 .. C - 1, of :meth:`Resampling.units`.

    Yields:
        (r, n) float64 with r >= 1; R rows in all, at most about 16 MiB at a time.
    """
    num_units = int(units.max()) + 1
    one_each = num_units == len(units) and np.array_equal(units, np.arange(num_units))
    for weights in _unit_weights(num_units, len(units), resampling):
        yield weights if one_each else weights[:, units]


def replicate_sums(values: np.ndarray, units: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Sums over each replicate: the fast way for every figure that is made of sums, such as a mass fraction.

    Args:
        values: (n, k), for example grams in the column of the particle's class.
        units: (n,) int, 0 .. C - 1.

    Returns:
        (R, k); row r belongs to the same draw as row r of :func:`replicate_weights`.
    """
    per_unit = unit_sums(values, units)
    num_units = len(per_unit)
    return np.concatenate([weights @ per_unit for weights in _unit_weights(num_units, num_units, resampling)])


def unit_sums(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(C, k) sums of (n, k) ``values`` over the particles of each unit; ``units`` as in :func:`replicate_sums`."""
    per_unit = np.zeros((int(units.max()) + 1, values.shape[1]))
    np.add.at(per_unit, units, values)
    return per_unit


def interval(replicates: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the intervals: quantiles of the replicates.

    Args:
        replicates: (R, ...) figures of the replicates.
        confidence: 0.95 leaves 2.5 % of them on either side.

    Returns:
        low, high: (...); NaN where a replicate is.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return low, high


def share_interval(
    own: np.ndarray, rest: np.ndarray, unseen: tuple[float, float], resampling: Resampling
) -> tuple[float, float]:
    """The interval of a share own / (own + rest).

    Every replicate counts twice: once with one more unit of the kind itself, once with one more of the rest.

    Args:
        own, rest: (R,) sums of the replicates of :func:`replicate_sums`.
        unseen: what one more unit of the kind, and one of the rest, weighs, of :func:`unseen_weight`.
        resampling: of the sums.

    Returns:
        low, high: 0 to 1; NaN if there is no weight at all.
    """
    # Another stream than that of the sums, which it must not depend on
    extra = np.random.default_rng((resampling.seed, 1)).exponential(size=len(own))
    total = own + rest
    more_own, more_rest = unseen[0] * extra, unseen[1] * extra
    with np.errstate(invalid="ignore"):
        shares = np.concatenate([(own + more_own) / (total + more_own), own / (total + more_rest)])
    low, high = interval(shares, resampling.confidence)
    return float(low), float(high)


def unseen_weight(own: np.ndarray, rest: np.ndarray) -> float:
    """What a unit weighs that the sample may have missed: the heaviest seen of its kind, if not more.

    Of a kind that was not seen, or only as specks, it is the weight of the unit of the rest in which an average gram
    lies, sum w^2 / sum w. Nothing in a sample can tell that the pieces of an unseen kind are heavier still.

    Finding one more unit of the kind never makes it less, so that whoever finds more glass is not surer of less glass.

    Args:
        own, rest: (C,) weight of the kind and of everything else in each unit.
    """
    total = float(rest.sum())
    return max(float(own.max(initial=0.0)), float(np.square(rest).sum()) / total if total > 0 else 0.0)


def effective_number(weights: np.ndarray) -> float:
    """How many units of equal weight say as much as these: (sum w)^2 / sum w^2 (Kish 1965); 0 without weight."""
    total_of_squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total_of_squares if total_of_squares > 0 else 0.0


def unequal_weights(weights: np.ndarray, over: str) -> str:
    """A warning where so few heavy units carry the weight that intervals are too narrow, else an empty text.

    No bootstrap can tell how heavy the heaviest of a heap are from a sample that holds but one or two of them.

    Args:
        weights: (C,) of the units.
        over: "particles" or "pictures".
    """
    effective, number = effective_number(weights), np.count_nonzero(weights)
    if not 0 < effective < min(_FEW_EFFECTIVE, number / _UNEQUAL):
        return ""
    return (
        f"a few heavy {over} carry the weight: {number} say as much as {effective:.0f} of equal weight, and the"
        " intervals may be too narrow"
    )


def _unit_weights(num_units: int, width: int, resampling: Resampling) -> Iterator[np.ndarray]:
    """(r, C) weight of each unit; ``width`` = columns that the caller makes of a row, which bounds r."""
    rng = np.random.default_rng(resampling.seed)
    rows = max(1, _CHUNK // max(num_units, width))
    for start in range(0, resampling.replicates, rows):
        yield rng.standard_exponential(size=(min(rows, resampling.replicates - start), num_units))


def _is_or_are(number: int) -> str:
    return f"is {number}" if number == 1 else f"are {number}"
