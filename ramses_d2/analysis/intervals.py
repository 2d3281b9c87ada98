"""The bootstrap: how far a value would move had other particles of the same heap been photographed.

Letters: n particles, C units that are drawn (particles or images), R replicates, k sums.

It is the Bayesian bootstrap (Rubin, Annals of Statistics 9(1), 1981). The older one draws units with replacement, so
each has a whole number; a replicate here gives each unit an exponentially distributed weight of mean 1. A glass
splinter that was seen once is then in every replicate, more or less of it, and not missing from 37 % of them.

Neither can draw what was not seen, and rare things are often not seen. So where a share is asked for, one more unit is
added (:func:`share_interval`): that of the kind or that of the rest which the sample may just have missed. With equal
weights the ends are those of the mid-p interval for a binomial share (the gamma intervals of Fay and Feuer, Statistics
in Medicine 16(7), 1997, are made in the same way). tests/analysis/test_intervals.py counts how often intervals hold
the truth.

Pieces of one kind may lie together more often than chance would have it: an image shows one shovel of the heap. Drawing
whole images keeps together what lies together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ramses_d2.errors import RamsesError

PARTICLES, IMAGES = "particles", "pictures"
# Fewer images than this give an interval over images that is itself a rough guess
FEW_IMAGES = 10
# Fewer units than this of equal weight, of four times as many: 95 % intervals may hold the true value in 60 - 90 % only
_FEW_EFFECTIVE, _UNEQUAL = 200, 4
CHUNK = 2**21  # weights held at a time: 16 MiB as float64


@dataclass(frozen=True)
class Resampling:
    """How intervals are made; the same seed gives the same intervals."""

    over: str = PARTICLES  # or "pictures": all particles of an image stay together
    replicates: int = 2000
    confidence: float = 0.95  # leaves 2.5 % on either side
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
        """The unit 0 .. C - 1 that each particle belongs to, by its image; None if there can be no interval.

        Second, a remark why not, or what to be careful about.
        """
        if self.over == PARTICLES:
            units, number, what = np.arange(len(images)), len(images), "the bootstrap needs 2 particles"
        else:
            units, names = pd.factorize(np.asarray(images, object), sort=True)
            number, what = len(names), "the bootstrap over images needs 2 images"
            if (units < 0).any():
                raise RamsesError("the particle table has rows without baseimg: the bootstrap over images needs it")
        if number < 2:
            return None, f"no intervals: {what}, there {'is' if number == 1 else 'are'} {number}"
        is_rough = self.over == IMAGES and number < FEW_IMAGES
        return units, f"only {number} images: the intervals over images are rough" if is_rough else ""


def _unit_weights(num_units: int, width: int, resampling: Resampling) -> Iterator[np.ndarray]:
    """(r, C) weight of each unit, R rows in all; ``width`` = columns that the caller makes of a row, which bounds r."""
    rng = np.random.default_rng(resampling.seed)
    rows = max(1, CHUNK // max(num_units, width))
    for start in range(0, resampling.replicates, rows):
        yield rng.standard_exponential(size=(min(rows, resampling.replicates - start), num_units))


def replicate_weights(units: np.ndarray, resampling: Resampling) -> Iterator[np.ndarray]:
    """The weight (r, n) of each particle in each replicate, R rows in all, at most about 16 MiB at a time."""
    num_units = int(units.max()) + 1
    one_each = num_units == len(units) and np.array_equal(units, np.arange(num_units))
    for weights in _unit_weights(num_units, len(units), resampling):
        yield weights if one_each else weights[:, units]


def replicate_sums(values: np.ndarray, units: np.ndarray, resampling: Resampling) -> np.ndarray:
    """(R, k) sums of (n, k) ``values`` over each replicate; row r is the same draw as row r of the weights.

    The fast way to everything that is made of sums, such as a mass fraction from the grams of each class.
    """
    per_unit = unit_sums(values, units)
    num_units = len(per_unit)
    return np.concatenate([weights @ per_unit for weights in _unit_weights(num_units, num_units, resampling)])


def unit_sums(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(C, k) sums of (n, k) ``values`` over the particles of each unit."""
    per_unit = np.zeros((int(units.max()) + 1, values.shape[1]))
    np.add.at(per_unit, units, values)
    return per_unit


def interval(replicates: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end (...): quantiles of the (R, ...) replicates, NaN where one of them is."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return low, high


def share_interval(
    own: np.ndarray, rest: np.ndarray, unseen: tuple[ArrayLike, ArrayLike], resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end (...) of shares own / (own + rest), 0 to 1, from (R, ...) sums of the replicates.

    ``unseen`` (...) is what one more unit of the kind, and one of the rest, weighs (:func:`unseen_weight`). NaN without
    any weight.
    """
    # Another stream than that of the sums, which it must not depend on
    extra = np.random.default_rng((resampling.seed, 1)).exponential(size=len(own))
    extra = extra.reshape(-1, *(1 for _ in own.shape[1:]))
    total = own + rest
    more_own, more_rest = unseen[0] * extra, unseen[1] * extra
    # Every replicate counts twice, once with one more unit of either side: the mixture of the Beta(s + 1, n - s) and
    # Beta(s, n - s + 1) laws, whose quantiles are the mid-p ends where all units weigh the same
    with np.errstate(invalid="ignore"):
        shares = np.concatenate([(own + more_own) / (total + more_own), own / (total + more_rest)])
    return interval(shares, resampling.confidence)


def unseen_weight(own: np.ndarray, rest: np.ndarray) -> float:
    """What a unit weighs that the sample may have missed, from the (C,) weights of a kind and of everything else.

    The heaviest seen of its kind, but no less than the unit of the rest in which an average gram lies, sum w^2 / sum w:
    that counts for a kind that was not seen, or only as small pieces. A sample cannot tell whether the pieces of an
    unseen kind are heavier still. One more unit of the kind never makes the weight less, so whoever finds more glass
    is not surer that there is little.
    """
    total = float(rest.sum())
    return max(float(own.max(initial=0.0)), float(np.square(rest).sum()) / total if total > 0 else 0.0)


def effective_number(weights: np.ndarray) -> float:
    """How many units of equal weight say as much as these: (sum w)^2 / sum w^2 (Kish 1965); 0 without weight."""
    total_of_squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total_of_squares if total_of_squares > 0 else 0.0


def unequal_weights(weights: np.ndarray, over: str) -> str:
    """A warning where so few heavy units (C,) carry the weight that intervals are too narrow, else an empty text.

    A bootstrap cannot tell how heavy the heaviest of a heap are from a sample that holds one or two of them.
    """
    effective, number = effective_number(weights), np.count_nonzero(weights)
    if not 0 < effective < min(_FEW_EFFECTIVE, number / _UNEQUAL):
        return ""
    return (
        f"a few heavy {over} carry the weight: {number} say as much as {effective:.0f} of equal weight, and the"
        " intervals may be too narrow"
    )
