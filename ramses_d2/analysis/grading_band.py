"""The band of a grading curve, and the intervals of sizes such as D50 that follow from it.

The interval of a share that passes an opening is that of :func:`.bootstrap.share_interval`. A size D is within its
interval if the level belongs to the interval of the share that passes D: turned round like this (Woodruff 1952), the
intervals of sizes too reach what was not seen. A replicate cannot: none has a particle larger than the largest seen.

Letters: n particles in the order of their sizes, C units that are drawn, S points of the curve, R replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bootstrap import Resampling, replicate_weights, share_interval, unseen_weight

_POINTS = 200  # of the curve at which the band is computed for the sizes; rising by half a percent of the weight
_LARGEST = 5  # particles whose heaviest stands for the largest of a sample: the largest itself may be flat and light


def passing_band(
    weights: np.ndarray, units: np.ndarray, passing: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of passing shares.

    Args:
        weights, units: (n,) of the particles in the order of their sizes.
        passing: (S,) how many of them pass each of the rising openings.

    Returns:
        low, high: (S,) 0 to 1, both rising.
    """
    draws = [np.cumsum(draw * weights, axis=1) for draw in replicate_weights(units, resampling)]
    through = np.concatenate([np.pad(draw, ((0, 0), (1, 0)))[:, passing] for draw in draws])  # (R, S)
    total = np.concatenate([draw[:, -1] for draw in draws])
    num_units = int(units.max()) + 1
    ends = []
    for index, number in enumerate(passing):
        own, rest = (
            np.bincount(units[part], weights[part], minlength=num_units)
            for part in (slice(number), slice(number, None))
        )
        # Whatever stays on a sieve is larger than all that passes, so no lighter than the largest of that
        largest = float(weights[max(0, number - _LARGEST) : number].max(initial=0.0))
        unseen = unseen_weight(own, rest), max(unseen_weight(rest, own), largest)
        ends.append(share_interval(through[:, index], total - through[:, index], unseen, resampling))
    low, high = np.transpose(ends)
    # A larger sieve passes no less: a band that a heavy particle has widened stays as wide until the curve is there
    return np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high)


def size_intervals(
    levels: Sequence[float], weights: np.ndarray, sizes: np.ndarray, units: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of the sizes that given shares of the weight pass.

    Args:
        levels: (P,) shares, rising, above 0 and below 1.
        weights, units: (n,) of the particles in the order of their sizes.
        sizes: (n,) in mm, rising.

    Returns:
        low, high: (P,) in mm; 0 and infinity where the sample sets no bound.
    """
    ends = np.append(np.flatnonzero(np.diff(sizes)) + 1, len(sizes))  # particles up to each different size
    shares = np.cumsum(weights)[ends - 1] / weights.sum()
    chosen = np.unique(np.searchsorted(shares, np.linspace(0, 1, _POINTS)).clip(max=len(ends) - 1))
    low, high = passing_band(weights, units, np.concatenate([[0], ends[chosen]]), resampling)
    at = np.log(sizes[ends[chosen] - 1])

    def where(shares: np.ndarray) -> np.ndarray:
        """The sizes at which a rising line of shares, one per point, reaches the levels."""
        reached = np.exp(np.interp(levels, shares[1:], at))
        return np.select([shares[0] >= levels, shares[-1] < levels], [0.0, np.inf], reached)

    return where(high), where(low)
