"""The bootstrap by hand, and how often its 95 % intervals hold the truth in heaps whose composition is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from ramses_d2.analysis import intervals
from ramses_d2.analysis.composition import compose
from ramses_d2.analysis.grading import grade
from ramses_d2.analysis.intervals import (
    IMAGES,
    PARTICLES,
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


@pytest.mark.parametrize("units", [np.arange(6), np.array([0, 1, 1, 0, 2, 2])])
def test_sums_and_weights_belong_to_the_same_draws_whatever_the_chunks(units, monkeypatch):
    values = np.random.default_rng(1).random((6, 2))
    resampling = Resampling(IMAGES, replicates=150, seed=4)
    sums = replicate_sums(values, units, resampling)
    np.testing.assert_array_equal(sums, replicate_sums(values, units, resampling))
    assert not np.array_equal(sums, replicate_sums(values, units, Resampling(IMAGES, replicates=150, seed=5)))
    monkeypatch.setattr(intervals, "CHUNK", 7 * 6)
    chunks = list(replicate_weights(units, resampling))
    assert len(chunks) == 22 and len(chunks[0]) == 7  # 150 = 21 * 7 + 3
    weights = np.concatenate(chunks)
    np.testing.assert_allclose(weights @ values, sums, rtol=1e-12)
    # Images are drawn whole
    together = weights[:, :, None] == weights[:, None]
    np.testing.assert_array_equal(together.all(axis=0), units[:, None] == units)
    np.testing.assert_array_equal(together.any(axis=0), units[:, None] == units)


def test_memory_is_bounded_for_5000_particles_and_2000_replicates():
    resampling = Resampling(replicates=2000)
    assert next(replicate_weights(np.arange(5000), resampling)).nbytes <= 16 * 2**20
    assert replicate_sums(np.ones((5000, 3)), np.arange(5000), resampling).shape == (2000, 3)


def test_interval_by_hand():
    low, high = interval(np.arange(101.0)[:, None] * [[1.0, np.nan]], 0.9)  # 0 .. 100, and an unknown value
    np.testing.assert_allclose(low, [5, np.nan])
    np.testing.assert_allclose(high, [95, np.nan])


@pytest.mark.parametrize(("seen", "number"), [(0, 10), (1, 10), (3, 40), (20, 40), (40, 40)])
def test_equal_weights_give_the_mid_p_interval(seen, number):
    """Mid-p: P(fewer) + P(as many) / 2 is 2.5 % at one end and 97.5 % at the other."""
    is_own = np.arange(number) < seen
    resampling = Resampling(replicates=40_000)
    own, rest = replicate_sums(np.column_stack([is_own, ~is_own]).astype(float), np.arange(number), resampling).T
    low, high = share_interval(own, rest, (1.0, 1.0), resampling)

    def mid_p(share):
        return binom.cdf(seen - 1, number, share) + binom.pmf(seen, number, share) / 2

    assert (low == 0) if seen == 0 else mid_p(low) == pytest.approx(0.975, abs=0.002)
    assert (high == 1) if seen == number else mid_p(high) == pytest.approx(0.025, abs=0.002)


def test_weights_by_hand():
    assert np.isnan(share_interval(np.zeros(100), np.zeros(100), (0.0, 0.0), Resampling(replicates=100))).all()
    rest = np.array([4.0, 2.0, 2.0, 0.0])
    assert unseen_weight(np.zeros(4), rest) == 24 / 8  # (16 + 4 + 4) / (4 + 2 + 2)
    assert unseen_weight(np.array([0, 0, 0, 0.01]), rest) == 24 / 8  # a small piece does not make it less
    assert unseen_weight(np.array([0, 1.0, 5.0, 0.01]), rest) == 5
    assert unseen_weight(rest, np.zeros(4)) == 4
    assert unseen_weight(np.zeros(2), np.zeros(2)) == 0
    assert effective_number(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_number(np.array([4.0, 2.0, 2.0])) == pytest.approx(64 / 24)
    assert effective_number(np.zeros(3)) == 0
    sums = unit_sums(np.array([[1.0, 10], [2, 20], [4, 40]]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(sums, [[2, 20], [5, 50]])


def test_few_heavy_units_are_said():
    weights = np.array([100.0] * 10 + [1.0] * 90)  # 1090^2 / 100090 = 11.9
    assert "heavy particles" in (said := unequal_weights(weights, PARTICLES)) and "100 say as much as 12 " in said
    assert unequal_weights(weights[:40], IMAGES) == ""  # 10.6 of 40
    assert unequal_weights(np.tile(weights, 16), IMAGES) != ""  # 190 of 1600
    assert unequal_weights(np.tile(weights, 17), IMAGES) == ""  # 202
    assert unequal_weights(np.zeros(9), IMAGES) == ""


def test_units_and_settings():
    units, remark = Resampling().units(["a.jpg"])
    assert units is None and remark.endswith("needs 2 particles, there is 1")
    assert Resampling().units([])[1].endswith("there are 0")
    units, remark = Resampling(IMAGES).units(["a.jpg", "a.jpg"])
    assert units is None and remark.endswith("needs 2 images, there is 1")
    units, remark = Resampling(IMAGES).units(["b.jpg", "a.jpg", "b.jpg"])
    assert units.tolist() == [1, 0, 1] and remark.startswith("only 2 images")
    assert "only 9" in Resampling(IMAGES).units(list("abcdefghi"))[1]
    assert Resampling(IMAGES).units(list("abcdefghij"))[1] == ""
    with pytest.raises(RamsesError, match="without baseimg"):
        Resampling(IMAGES).units(["a.jpg", None])
    for wrong in ({"over": "frames"}, {"confidence": 95}, {"confidence": 0}, {"seed": -1}, {"replicates": 99}):
        with pytest.raises(RamsesError, match="bootstrap"):
            Resampling(**wrong)


# ---- how often intervals hold the truth: in 90 - 99 % of 200 samples

RUNS = 200
ENOUGH, NOT_TOO_MANY = 0.90 * RUNS, 0.99 * RUNS


def sample_of(is_glass, grams=1.0, images="a.jpg"):
    return pd.DataFrame({"class": np.where(is_glass, "Rg", "Rc"), "mass": grams, "baseimg": images})


def heap(number, share, spread, heavier=1.0):
    """``number`` particles, ``share`` of them glass, ``heavier`` times as heavy; lognormal grams. How to draw, and the
    true mass fraction of glass."""

    def draw(rng):
        is_glass = rng.random(number) < share
        return sample_of(is_glass, rng.lognormal(0, spread, number) * np.where(is_glass, heavier, 1))

    return draw, share * heavier / (share * heavier + 1 - share)


def shovels(images, with_glass, share):
    """Images of 20 particles of 1 g; a share of the images has glass, and then a share of its particles is."""

    def draw(rng):
        of = np.repeat(np.arange(images), 20)
        is_glass = rng.random(20 * images) < share * (rng.random(images) < with_glass)[of]
        return sample_of(is_glass, images=of.astype(str))

    return draw, with_glass * share


def mixed_shovels(images):
    """Each image of 20 particles has its own share of glass, anything from 0 to 1."""

    def draw(rng):
        of = np.repeat(np.arange(images), 20)
        return sample_of(rng.random(20 * images) < rng.random(images)[of], images=of.astype(str))

    return draw, 0.5


def held_and_seen(draw, truth, over):
    """(RUNS, 2) bool: whether the interval holds the true fraction of glass, whether the sample has any."""
    rng, found = np.random.default_rng(0), []
    for _ in range(RUNS):
        sample = draw(rng)
        glass = compose(sample, resampling=Resampling(over, replicates=300)).constituents.set_index("constituent")
        low, high = glass.loc["Rg", ["low", "high"]]
        found.append((low <= truth <= high, (sample["class"] == "Rg").any()))
    return np.array(found)


@pytest.mark.parametrize(
    "settings",
    [
        *((120, 0.6, 0.5, 2.0), (30, 0.6, 0.6, 2.0), (50, 0.2, 0.5, 1.0), (100, 0.9, 0.5, 2.0), (100, 0.05, 0.5, 1.0)),
        *((100, 0.05, 0.5, 3.0), (100, 0.02, 1.0, 3.0), (300, 0.01, 0.7, 1.0)),
        (100, 0.02, 0.5, 1.0),  # none seen in 13 % of the samples
        (100, 0.01, 0.5, 1.0),  # none seen in 37 %
    ],
)
def test_shares_over_particles(settings):
    assert ENOUGH <= held_and_seen(*heap(*settings), PARTICLES)[:, 0].sum() <= NOT_TOO_MANY


@pytest.mark.parametrize(
    "heap",
    [mixed_shovels(30), mixed_shovels(10), shovels(20, 0.2, 0.5), shovels(20, 0.1, 0.5), shovels(10, 0.3, 0.3)],
    ids=["mixed 30", "mixed 10", "1 in 5", "1 in 10", "3 in 10"],
)
def test_shares_over_images(heap):
    assert ENOUGH <= held_and_seen(*heap, IMAGES)[:, 0].sum() <= NOT_TOO_MANY


def test_what_the_bootstrap_cannot_know():
    # Particles that lie in heaps deceive the bootstrap over particles: far from the 95 % that it claims
    assert held_and_seen(*mixed_shovels(30), PARTICLES)[:, 0].sum() < 0.7 * RUNS
    # Rare pieces that are three times as heavy as all others: most misses are of samples that show none of them
    held, seen = held_and_seen(*heap(100, 0.02, 0.5, 3.0), PARTICLES).T
    assert 0.9 * seen.sum() <= (held & seen).sum() <= seen.sum()
    assert held.sum() < ENOUGH


def held_by_grading(draw, openings, shares, d_values):
    """(S + 5 + 1,) how many intervals of passing ``shares`` (S,) and of D10, D30, D50, D60, D90 (5,) hold them; last,
    how many gradings say that a few heavy particles carry the weight. ``draw`` gives sizes in mm and grams."""
    rng, held = np.random.default_rng(0), np.zeros(len(openings) + 6, int)
    for _ in range(RUNS):
        sizes, grams = draw(rng)
        table = pd.DataFrame({"class": "Rc", "feret_min_mm": sizes, "mass": grams, "baseimg": "a.jpg"})
        found = grade(table, openings, resampling=Resampling(replicates=300))
        ends = pd.concat([found.sieves[["low", "high"]], found.sizes[["low", "high"]].iloc[:5]]).to_numpy()
        truth = np.concatenate([shares, d_values])
        held[:-1] += (ends[:, 0] <= truth) & (ends[:, 1] >= truth)
        held[-1] += any("heavy" in note for note in found.notes)
    return held


def test_passing_shares_and_sizes():
    """From 0.6 % that pass 1 mm to 0.4 % that stay on 63 mm, of which most samples of 100 show none.

    Lognormal sizes (median 7.4 mm) and weights that do not depend on size.
    """
    openings = [1, 2, 4, 8, 16, 31.5, 63]
    *held, notes = held_by_grading(
        lambda rng: (rng.lognormal(2, 0.8, 100), rng.lognormal(0, 0.5, 100)),
        openings,
        norm.cdf((np.log(openings) - 2) / 0.8),
        np.exp(2 + 0.8 * norm.ppf([0.1, 0.3, 0.5, 0.6, 0.9])),
    )
    assert ENOUGH <= min(held) and max(held) <= NOT_TOO_MANY, held
    assert notes == 0


def test_passing_shares_where_large_particles_carry_the_weight():
    """Weight grows with the cube of the size: 5 % of it stays on 16 mm, in 1 particle of 200."""

    def draw(rng):
        sizes = rng.lognormal(2, 0.3, 200)
        return sizes, sizes**3 * rng.lognormal(0, 0.2, 200)

    openings = [6.3, 8, 12.5, 16]
    truth = norm.cdf((np.log(openings) - 2) / 0.3 - 3 * 0.3)
    held = held_by_grading(draw, openings, truth, np.zeros(5))[:4]
    assert ENOUGH <= min(held) and max(held) <= NOT_TOO_MANY, held


def held_by_wide_grading(smallest, largest, number, openings):
    """:func:`held_by_grading` of sizes with as much weight in each octave between ``smallest`` and ``largest``."""

    def draw(rng):
        # Equal weight per octave and weight as the cube: the number of particles falls with the fourth power of size
        sizes = (smallest**-3 - rng.random(number) * (smallest**-3 - largest**-3)) ** (-1 / 3)
        return sizes, sizes**3 * rng.lognormal(0, 0.2, number)

    octaves = np.log(largest / smallest)
    d_values = smallest * np.exp(np.array([0.1, 0.3, 0.5, 0.6, 0.9]) * octaves)
    return held_by_grading(draw, openings, np.log(np.array(openings) / smallest) / octaves, d_values)


def test_sizes_where_large_particles_carry_the_weight():
    """1000 particles of 4 to 31.5 mm: many samples hold none as large as D90, 25.6 mm, or one."""
    held = held_by_wide_grading(4, 31.5, 1000, [8])[1:-1]
    assert ENOUGH <= held.min() and held.max() <= NOT_TOO_MANY, held
    # 1000 particles of 1 to 31.5 mm say as much as some 20 of equal weight: too few, and all the gradings say so
    *held, notes = held_by_wide_grading(1, 31.5, 1000, [8, 11.2, 16])
    assert min(held) < ENOUGH
    assert notes == RUNS
