"""The bootstrap: same draws for same seeds, intervals that hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from ramses_d2.analysis import bootstrap
from ramses_d2.analysis.bootstrap import (
    Resampling,
    effective_number,
    interval,
    replicate_counts,
    replicate_sums,
    unit_sums,
    unseen_bound,
)
from ramses_d2.errors import RamsesError


def test_each_replicate_draws_as_many_particles_as_there_are():
    resampling = Resampling(replicates=300)
    counts = np.concatenate(list(replicate_counts(np.arange(40), resampling)))
    assert counts.shape == (300, 40)
    np.testing.assert_array_equal(counts.sum(axis=1), 40)
    # A particle is left out of a replicate with probability (1 - 1/40)^40 = 0.363
    assert (counts == 0).mean() == pytest.approx(0.363, abs=0.01)


def test_pictures_are_drawn_whole():
    units = np.array([0, 0, 0, 1, 1, 2])
    counts = np.concatenate(list(replicate_counts(units, Resampling("pictures", replicates=200))))
    np.testing.assert_array_equal(counts[:, 0], counts[:, 2])
    np.testing.assert_array_equal(counts[:, 3], counts[:, 4])
    np.testing.assert_array_equal(counts[:, [0, 3, 5]].sum(axis=1), 3)  # three pictures in every replicate


@pytest.mark.parametrize("units", [np.arange(6), np.array([0, 1, 1, 0, 2, 2])])
def test_sums_and_counts_belong_to_the_same_draws_whatever_the_chunks(units, monkeypatch):
    values = np.random.default_rng(1).random((6, 2))
    resampling = Resampling("pictures", replicates=150, seed=4)
    sums = replicate_sums(values, units, resampling)
    monkeypatch.setattr(bootstrap, "_CHUNK", 7 * 6)
    chunks = list(replicate_counts(units, resampling))
    assert len(chunks) == 22 and len(chunks[0]) == 7  # 150 = 21 * 7 + 3
    np.testing.assert_allclose(np.concatenate(chunks) @ values, sums, rtol=1e-12)


def test_memory_is_bounded_for_5000_particles_and_2000_replicates():
    resampling = Resampling(replicates=2000)
    chunk = next(replicate_counts(np.arange(5000), resampling))
    assert chunk.nbytes <= 16 * 2**20
    assert replicate_sums(np.ones((5000, 3)), np.arange(5000), resampling).shape == (2000, 3)


def test_seed_decides():
    values, units = np.arange(20.0)[:, None], np.arange(20)
    first = replicate_sums(values, units, Resampling(replicates=100, seed=1))
    np.testing.assert_array_equal(first, replicate_sums(values, units, Resampling(replicates=100, seed=1)))
    assert not np.array_equal(first, replicate_sums(values, units, Resampling(replicates=100, seed=2)))


def test_interval_by_hand():
    replicates = np.arange(101.0)[:, None] * [[1.0, np.nan]]  # 0 .. 100, and a figure that is never known
    low, high = interval(replicates, np.array([60.0, np.nan]), Resampling(confidence=0.9))
    np.testing.assert_allclose(low, [5, np.nan])  # 5 % and 95 % quantiles of 0 .. 100
    np.testing.assert_allclose(high, [95, np.nan])
    # Mirrored at 60: 2 * 60 - 95 and 2 * 60 - 5
    low, high = interval(replicates, np.array([60.0, np.nan]), Resampling(confidence=0.9, method="basic"))
    assert (low[0], high[0]) == (25, 115)


def test_effective_number_and_unseen_bound_by_hand():
    assert effective_number(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_number(np.array([4.0, 2.0, 2.0])) == pytest.approx(64 / 24)
    assert effective_number(np.zeros(3)) == 0
    assert unseen_bound(1, 0.95) == pytest.approx(0.95)  # one particle says next to nothing
    assert unseen_bound(300, 0.95) == pytest.approx(3 / 300, rel=0.01)  # rule of three
    assert unseen_bound(0, 0.95) == 1  # where nothing was seen, it may be all
    sums = unit_sums(np.array([[1.0, 10], [2, 20], [4, 40]]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(sums, [[2, 20], [5, 50]])


def test_too_little_to_draw_from_is_said():
    assert Resampling().units(["a.jpg"]) == (None, "no intervals: the bootstrap needs 2 particles, there is 1")
    units, remark = Resampling("pictures").units(["a.jpg", "a.jpg"])
    assert units is None and "needs 2 pictures, there is 1" in remark
    units, remark = Resampling("pictures").units(["b.jpg", "a.jpg", "b.jpg"])
    np.testing.assert_array_equal(units, [1, 0, 1])
    assert remark == "only 2 pictures: the intervals over pictures are rough"
    with pytest.raises(RamsesError, match="without baseimg"):
        Resampling("pictures").units(["a.jpg", None])


@pytest.mark.parametrize(
    "settings",
    [{"over": "frames"}, {"method": "bca"}, {"confidence": 95}, {"replicates": 10}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(RamsesError, match="bootstrap"):
        Resampling(**settings)


def _fraction_interval(grams: np.ndarray, of_interest: np.ndarray, units: np.ndarray, resampling: Resampling):
    sums = replicate_sums(np.column_stack([grams * of_interest, grams]), units, resampling)
    estimate = (grams * of_interest).sum() / grams.sum()
    return interval(sums[:, 0] / sums[:, 1], estimate, resampling)


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_coverage_over_particles(method):
    """60 % of the particles are Rc, of 4 g on average, the others of 2 g: 0.6 * 4 / (0.6 * 4 + 0.4 * 2) = 75 %."""
    rng, hits = np.random.default_rng(0), 0
    resampling = Resampling(replicates=600, method=method)
    for _ in range(200):
        is_rc = rng.random(150) < 0.6
        grams = rng.lognormal(0, 0.6, 150) * np.exp(-(0.6**2) / 2) * np.where(is_rc, 4, 2)
        low, high = _fraction_interval(grams, is_rc, np.arange(150), resampling)
        hits += low <= 0.75 <= high
    assert 180 <= hits <= 198


def test_coverage_over_pictures_where_particles_lie_in_heaps():
    """Each picture has its own share of Rc: only the bootstrap over pictures sees how much that matters.

    All particles weigh the same, shares are uniform on 0 .. 1, so the truth is 1 / 2.
    """
    rng, hits = np.random.default_rng(0), {"particles": 0, "pictures": 0}
    pictures = np.repeat(np.arange(30), 20)
    for _ in range(200):
        is_rc = rng.random(600) < rng.random(30)[pictures]
        for over in hits:
            units = pictures if over == "pictures" else np.arange(600)
            low, high = _fraction_interval(np.ones(600), is_rc, units, Resampling(over, replicates=300))
            hits[over] += low <= 0.5 <= high
    assert 180 <= hits["pictures"] <= 198
    assert hits["particles"] < 140  # far from the 190 that it claims
