"""The band of a grading curve and the sizes that follow from it. How often they hold the truth: test_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from ramses_d2.analysis.grading import passing_band, size_intervals
from ramses_d2.analysis.intervals import Resampling

MANY = Resampling(replicates=20_000)


def mid_p_end(seen: int, number: int, probability: float) -> float:
    """The share of which ``seen`` or fewer of ``number`` (half of ``seen``) have the probability."""
    return brentq(
        lambda share: binom.cdf(seen - 1, number, share) + binom.pmf(seen, number, share) / 2 - probability, 0, 1
    )


def test_a_size_is_in_its_interval_if_its_level_is_in_that_of_the_share():
    """40 particles of 1 g and 1, 2 ... 40 mm: mid-p intervals of k in 40, turned round."""
    low, high = size_intervals([0.25, 0.5], np.ones(40), np.arange(1.0, 41), np.arange(40), MANY)
    ends = [(mid_p_end(k, 40, 0.975), mid_p_end(k, 40, 0.025)) for k in range(1, 40)]
    for level, smallest, largest in zip((0.25, 0.5), low, high, strict=True):
        between = [k for k, (bottom, top) in enumerate(ends, start=1) if bottom <= level <= top]
        # The sizes lie on straight lines in log(size) from one particle to the next
        assert between[0] - 1 <= smallest <= between[0] + 0.1
        assert between[-1] - 0.1 <= largest <= between[-1] + 1


def test_where_the_sample_sets_no_bound():
    """10 particles cannot tell which size 90 % pass: 26 % may be larger than all of them, or smaller."""
    low, high = size_intervals([0.1, 0.5, 0.9], np.ones(10), np.linspace(4, 9, 10), np.arange(10), MANY)
    assert low[0] == 0 and high[2] == np.inf
    assert 4 < low[1] < 6.5 < high[1] < 9 and np.isfinite(high[0]) and low[2] > 4


def test_particles_of_one_size():
    low, high = size_intervals([0.1, 0.5, 0.9], np.ones(30), np.full(30, 8.0), np.arange(30), MANY)
    assert low.tolist() == pytest.approx([8, 8, 8]) and high.tolist() == pytest.approx([8, 8, 8])


def test_one_heavy_particle_leaves_the_middle_open():
    """The heaviest of 12 has 90 % of the weight: of which size half is, nobody knows."""
    sizes, weights = np.arange(1.0, 13), np.append(np.ones(11), 99)
    low, high = size_intervals([0.5], weights, sizes, np.arange(12), MANY)
    assert low[0] == 0 and high[0] == np.inf


def test_band_at_every_point_of_a_long_curve_rises():
    rng = np.random.default_rng(3)
    sizes = np.sort(rng.lognormal(2, 0.5, 3000))
    passing = np.arange(0, 3001, 50)
    low, high = passing_band(sizes**3, np.arange(3000) // 30, passing, Resampling("pictures", replicates=200))
    shares = np.append(0, np.cumsum(sizes**3))[passing] / (sizes**3).sum()
    assert (low <= shares + 1e-12).all() and (shares <= high + 1e-12).all()
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
    assert low[0] == 0 and high[-1] == 1
