"""The cumulative curve of particle sizes: shares at openings, and sizes at shares, for many weightings at once.

Letters: n particles in the order of their size, m different sizes, L openings, P levels, r weightings (the sample
itself, or bootstrap replicates of it).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = (0.10, 0.30, 0.50, 0.60, 0.90)


def curve_figures(weights: np.ndarray, sizes: np.ndarray, starts: np.ndarray, number_passing: np.ndarray) -> np.ndarray:
    """All figures of a grading.

    Args:
        weights: (r, n) weight of each particle.
        sizes: (m,) different sizes in mm, rising, above 0.
        starts: (m,) the first particle of each size.
        number_passing: (L,) how many of ``sizes`` pass each opening.

    Returns:
        (r, L + P + 2): share that passes each opening, D values of ``LEVELS`` in mm, Cu = D60 / D10 and
        Cc = D30^2 / (D10 D60). NaN in rows without weight.
    """
    shares = _shares(weights, starts)
    # One column of zeros in front: what passes an opening that no size passes
    padded = np.concatenate([np.zeros((len(weights), 1)), shares], axis=1)
    if not len(sizes):
        padded[:] = np.nan
    padded[np.isnan(shares).any(axis=1)] = np.nan
    at_levels = sizes_at(LEVELS, shares, sizes)
    d10, d30, _, d60, _ = at_levels.T
    return np.column_stack([padded[:, number_passing], at_levels, d60 / d10, d30**2 / (d10 * d60)])


def sizes_at(levels: Sequence[float], shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The sizes that given shares of the weight do not exceed.

    Straight lines in log(size) between neighbouring sizes that have weight; a level that the smallest of them reaches
    alone has its size.

    Args:
        levels: (P,) shares, above 0 and up to 1.
        shares: (r, m) cumulative share at each size; the last is 1.
        sizes: (m,) in mm, rising, above 0.

    Returns:
        (r, P) in mm; NaN in rows of NaN.
    """
    levels = np.asarray(levels, float)
    found = np.full((len(shares), len(levels)), np.nan)
    logs = np.log(sizes)
    for row, share in enumerate(shares):
        if not len(share) or np.isnan(share[-1]):
            continue
        upper = np.searchsorted(share, levels)
        below = np.where(upper > 0, share[upper - 1], 0.0)
        # Sizes without weight in this row are no points of its curve: go down to where the share was reached
        lower = np.searchsorted(share, below)
        step = (levels - below) / (share[upper] - below)
        found[row] = np.where(below > 0, np.exp(logs[lower] + step * (logs[upper] - logs[lower])), sizes[upper])
    return found


def _shares(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(r, m) cumulative share of the weight at each size."""
    if not len(starts):
        return np.empty((len(weights), 0))
    cumulative = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1)
    total = cumulative[:, -1:]
    return np.divide(cumulative, total, out=np.full_like(cumulative, np.nan), where=total > 0)
