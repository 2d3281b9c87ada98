"""The bootstrap: same draws for same seeds, whole images, ends by hand. How often they hold: test_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from ramses_d2.analysis import intervals as bootstrap
from ramses_d2.analysis.intervals import (
    Resampling,
    effective_number,
    interval,
    replicate_sums,
    replicate_weights,
    share_interval,
    unequal_weights,
    unit_sums,
    unseen_weight,
)
from ramses_d2.errors import RamsesError


def test_weights_of_a_replicate_are_exponential():
    weights = np.concatenate(list(replicate_weights(np.arange(40), Resampling(replicates=1000))))
    assert weights.shape == (1000, 40)
    assert weights.mean() == pytest.approx(1, abs=0.02) and weights.std() == pytest.approx(1, abs=0.03)
    assert (weights < np.log(2)).mean() == pytest.approx(0.5, abs=0.01)


def test_images_are_drawn_whole():
    units = np.array([0, 0, 0, 1, 1, 2])
    weights = np.concatenate(list(replicate_weights(units, Resampling("pictures", replicates=200))))
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 4])
    assert not np.isclose(weights[:, 0], weights[:, 3]).any()


@pytest.mark.parametrize("units", [np.arange(6), np.array([0, 1, 1, 0, 2, 2])])
def test_sums_and_weights_belong_to_the_same_draws_whatever_the_chunks(units, monkeypatch):
    values = np.random.default_rng(1).random((6, 2))
    resampling = Resampling("pictures", replicates=150, seed=4)
    sums = replicate_sums(values, units, resampling)
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * 6)
    chunks = list(replicate_weights(units, resampling))
    assert len(chunks) == 22 and len(chunks[0]) == 7  # 150 = 21 * 7 + 3
    np.testing.assert_allclose(np.concatenate(chunks) @ values, sums, rtol=1e-12)


def test_memory_is_bounded_for_5000_particles_and_2000_replicates():
    resampling = Resampling(replicates=2000)
    chunk = next(replicate_weights(np.arange(5000), resampling))
    assert chunk.nbytes <= 16 * 2**20
    assert replicate_sums(np.ones((5000, 3)), np.arange(5000), resampling).shape == (2000, 3)


def test_seed_decides():
    values, units = np.arange(20.0)[:, None], np.arange(20)
    first = replicate_sums(values, units, Resampling(replicates=100, seed=1))
    np.testing.assert_array_equal(first, replicate_sums(values, units, Resampling(replicates=100, seed=1)))
    assert not np.array_equal(first, replicate_sums(values, units, Resampling(replicates=100, seed=2)))


def test_interval_by_hand():
    low, high = interval(np.arange(101.0)[:, None] * [[1.0, np.nan]], 0.9)  # 0 .. 100, and a figure that is not known
    np.testing.assert_allclose(low, [5, np.nan])
    np.testing.assert_allclose(high, [95, np.nan])


@pytest.mark.parametrize(("seen", "number"), [(0, 10), (1, 10), (3, 40), (20, 40), (40, 40)])
def test_equal_weights_give_the_mid_p_interval(seen, number):
    """Mid-p: P(fewer) + P(as many) / 2 is 2.5 % at one end and 97.5 % at the other."""
    is_own = np.arange(number) < seen
    resampling = Resampling(replicates=40_000)
    own, rest = replicate_sums(np.column_stack([is_own, ~is_own]).astype(float), np.arange(number), resampling).T
    low, high = share_interval(own, rest, (1.0, 1.0), resampling)

    def mid_p(share: float) -> float:
        return binom.cdf(seen - 1, number, share) + binom.pmf(seen, number, share) / 2

    assert (low == 0) if seen == 0 else mid_p(low) == pytest.approx(0.975, abs=0.002)
    assert (high == 1) if seen == number else mid_p(high) == pytest.approx(0.025, abs=0.002)


def test_share_of_nothing_is_unknown():
    assert np.isnan(share_interval(np.zeros(100), np.zeros(100), (0.0, 0.0), Resampling(replicates=100))).all()


def test_unseen_weight_by_hand():
    rest = np.array([4.0, 2.0, 2.0, 0.0])
    assert unseen_weight(np.zeros(4), rest) == 24 / 8  # (16 + 4 + 4) / (4 + 2 + 2)
    assert unseen_weight(np.array([0, 0, 0, 0.01]), rest) == 24 / 8  # a speck does not make it less
    assert unseen_weight(np.array([0, 1.0, 5.0, 0.01]), rest) == 5
    assert unseen_weight(rest, np.zeros(4)) == 4
    assert unseen_weight(np.zeros(2), np.zeros(2)) == 0


def test_effective_number_and_unit_sums_by_hand():
    assert effective_number(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_number(np.array([4.0, 2.0, 2.0])) == pytest.approx(64 / 24)
    assert effective_number(np.zeros(3)) == 0
    sums = unit_sums(np.array([[1.0, 10], [2, 20], [4, 40]]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(sums, [[2, 20], [5, 50]])


def test_few_heavy_units_are_said():
    weights = np.array([100.0] * 10 + [1.0] * 90)  # 1090^2 / 100090 = 11.9
    assert unequal_weights(weights, "particles") == (
        "a few heavy particles carry the weight: 100 say as much as 12 of equal weight, and the intervals may be"
        " too narrow"
    )
    assert unequal_weights(weights[:40], "pictures") == ""  # 10.6 of 40
    assert unequal_weights(np.tile(weights, 16), "pictures") != ""  # 190 of 1600
    assert unequal_weights(np.tile(weights, 17), "pictures") == ""  # 202
    assert unequal_weights(np.zeros(9), "pictures") == ""


def test_too_little_to_draw_from_is_said():
    assert Resampling().units(["a.jpg"]) == (None, "no intervals: the bootstrap needs 2 particles, there is 1")
    units, remark = Resampling("pictures").units(["a.jpg", "a.jpg"])
    assert units is None and "needs 2 images, there is 1" in remark
    units, remark = Resampling("pictures").units(["b.jpg", "a.jpg", "b.jpg"])
    np.testing.assert_array_equal(units, [1, 0, 1])
    assert remark == "only 2 images: the intervals over images are rough"
    with pytest.raises(RamsesError, match="without baseimg"):
        Resampling("pictures").units(["a.jpg", None])


@pytest.mark.parametrize(
    "settings",
    [{"over": "frames"}, {"confidence": 95}, {"seed": -1}, {"replicates": 10}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(RamsesError, match="bootstrap"):
        Resampling(**settings)
