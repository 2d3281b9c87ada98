"""Gradings against hand-computed ones; conventions at the openings; bands; what holds for every table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from ramses_d2.analysis.grading import LEVELS, grade, grade_groups, passing_band, size_intervals, sizes_at
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.sample import SieveSize

QUICK = Resampling(replicates=200)
MANY = Resampling(replicates=20_000)


def particles(sizes, grams, classes="Rc", **columns):
    table = pd.DataFrame({"class": classes, "feret_min_mm": sizes, "mass": grams})
    return table.assign(baseimg="a.jpg", **columns)


def sample():
    # 20 g: 2 g of 1 mm, 4 g of 4 mm, 6 g of 6 mm, 5 g of 10 mm, 3 g of 80 mm; a coin and an unweighed one apart
    sizes, grams = [6.0, 1.0, 80.0, 4.0, 10.0, 21.0, 5.0], [6.0, 2.0, 3.0, 4.0, 5.0, 3.92, np.nan]
    return particles(sizes, grams, ["Rc", "Ru01", "Rc", "Rb01", "Ru01", "Coin", "Rc"])


def tails_of(*args, **options):
    return grade(*args, **options).tails.set_index("name")


def test_passing_and_retained_by_hand():
    found = grade(sample(), [2, 4, 8, 16, 63], resampling=None)
    assert found.sieves["sieve_mm"].tolist() == [2, 4, 8, 16, 63]
    # 2: 2 g; 4: + 4 g (exactly as large: passes); 8: + 6 g; 16: + 5 g; 63: the same; of 20 g
    assert found.sieves["passing"].tolist() == pytest.approx([0.1, 0.3, 0.6, 0.85, 0.85])
    # On 2: 4 g; on 4: 6 g; on 8: 5 g; on 16: none; on 63: 3 g
    assert found.sieves["retained_amount"].tolist() == pytest.approx([4, 6, 5, 0, 3])
    assert found.sieves["retained"].tolist() == pytest.approx([0.2, 0.3, 0.25, 0, 0.15])
    assert found.sieves["retained_particles"].tolist() == [1, 1, 1, 0, 1]
    assert (found.particles, found.amount, found.unit) == (5, 20, "g")
    assert found.left_out[["reason", "class", "particles"]].to_numpy().tolist() == [
        ["scale object", "Coin", 1],
        ["unknown mass", "Rc", 1],
    ]
    assert found.notes == ("unknown mass: 1 particle (16.7% by number) left out here",)


def test_tails_by_hand():
    tails, columns = tails_of(sample(), [2, 4, 8], resampling=None), ["limit_mm", "fraction", "amount", "particles"]
    assert tails.loc["below smallest sieve", columns].tolist() == [2, 0.1, 2, 1]
    assert tails.loc["oversize", columns].tolist() == pytest.approx([8, 0.4, 8, 2])  # 5 g of 10 mm, 3 g of 80 mm
    assert tails.loc["fines", columns].tolist() == [0.063, 0, 0, 0]
    dust = pd.concat([sample(), particles([0.063, 0.064], [3.0, 2.0])])  # 3 of 25 g pass 0.063
    assert tails_of(dust, [2], resampling=None).loc["fines", "fraction"] == pytest.approx(3 / 25)


def test_characteristic_sizes_by_hand():
    # Cumulative: 1 mm 10 %, 4 mm 30 %, 6 mm 60 %, 10 mm 85 %, 80 mm 100 %
    expected = {
        "D10": 1,
        "D30": 4,
        "D50": 4 * (6 / 4) ** (20 / 30),  # 20 of the 30 % between 4 and 6 mm, in log(size): 5.2415
        "D60": 6,
        "D90": 10 * 8 ** (5 / 15),  # 5 of the 15 % between 10 and 80 mm: 20
        "Cu": 6.0,  # 6 / 1
        "Cc": 16 / 6,  # 4^2 / (1 * 6)
    }
    sizes = grade(sample(), "en-basic", resampling=None).sizes
    assert dict(zip(sizes["name"], sizes["value"], strict=True)) == pytest.approx(expected)
    assert expected["D90"] == pytest.approx(20) and expected["D50"] == pytest.approx(5.2415, abs=1e-4)
    assert sizes["unit"].tolist() == ["mm"] * 5 + ["", ""]
    # From the particles, not from the sieves
    pd.testing.assert_frame_equal(sizes, grade(sample(), [3], resampling=None).sizes)
    # A level that the smallest reaches alone: 3 mm holds 40 %; D50 is a sixth of the way to 12 mm
    sizes = grade(particles([12.0, 3.0], [6.0, 4.0]), resampling=None).sizes["value"]
    assert sizes[:3].tolist() == pytest.approx([3, 3, 3 * 4 ** (1 / 6)])


def test_other_sizes_and_weights():
    for opening in (0.1 * 3, 229.6 / 28.7, 6.3):  # a particle exactly as large passes
        table = particles([opening * (1 - 1e-15), opening * (1 + 1e-15), opening * 1.001], 1.0)
        assert grade(table, [opening], resampling=None).sieves["passing"].tolist() == pytest.approx([2 / 3])
    # 3.75 and 1.875 mm; weighed but of unknown size: not in the denominator, listed apart
    table = particles(None, 1.0, ["Rc"] * 3, max_inscribed_radius=25, res=[10.0, 20.0, np.nan])
    found = grade(table, [3], size=SieveSize("inscribed", 0.75), resampling=None)
    assert found.sieves["passing"].tolist() == [0.5]
    assert found.left_out[["reason", "particles", "mass_g"]].to_numpy().tolist() == [["unknown size", 1, 1.0]]
    table = sample().assign(area_mm2=[30.0, 1.0, 5000.0, 9.0, 60.0, 350.0, np.nan])
    by_count = grade(table, [4, 8], weight="count", resampling=None)
    # 6 particles but the coin, the unweighed one of 5 mm among them: 2 up to 4 mm, 4 up to 8 mm
    assert by_count.sieves["passing"].tolist() == pytest.approx([2 / 6, 4 / 6])
    assert (by_count.unit, by_count.amount) == ("particles", 6)
    by_area = grade(table, [4, 8], weight="area", resampling=None)
    assert by_area.sieves["passing"].tolist() == pytest.approx([10 / 5100, 40 / 5100])
    assert by_area.left_out["reason"].tolist() == ["scale object", "unknown area"]


def test_per_constituent():
    found = grade_groups(sample(), sieves=[2, 8], resampling=None)
    # Rc 6 g of 6 mm and 3 g of 80 mm; Ru 2 g of 1 mm and 5 g of 10 mm; Rb 4 g of 4 mm
    assert list(found) == ["Rc", "Ru", "Rb"]
    passing = [share for grading in found.values() for share in grading.sieves["passing"]]
    assert passing == pytest.approx([0, 6 / 9, 2 / 7, 2 / 7, 0, 1])
    assert found["Rc"].left_out["particles"].tolist() == [1]
    assert found["Ru"].left_out.empty and found["Ru"].notes == ()
    assert sum(grading.amount for grading in found.values()) == 20
    only_unknown = grade_groups(sample()[-1:], resampling=None)["Rc"]
    assert only_unknown.particles == 0 and only_unknown.sieves["passing"].isna().all()


def random_table(seed):
    rng = np.random.default_rng(seed)
    sizes = np.round(rng.lognormal(2, 1, 150), 1) + 0.1  # with ties
    table = particles(sizes, rng.lognormal(0, 1, 150), rng.choice(["Rc", "Ru01", "Coin"], 150))
    return table.assign(baseimg=rng.choice(["a", "b", "c"], 150))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("over", ["particles", "pictures"])
def test_what_holds_for_every_table(seed, over):
    table, resampling = random_table(seed), Resampling(over, replicates=200)
    found = grade(table, "en-set1", resampling=resampling)
    passing, tails = found.sieves["passing"], found.tails.set_index("name")["fraction"]
    assert (np.diff(passing) >= 0).all()
    assert passing.iloc[-1] == pytest.approx(1 - tails["oversize"])
    assert found.sieves["retained"].sum() + tails["below smallest sieve"] == pytest.approx(1)
    assert found.sieves["retained_particles"].sum() + found.tails["particles"][0] == found.particles
    for frame, column in ((found.sieves, "passing"), (found.tails, "fraction"), (found.sizes, "value")):
        assert (frame["low"] <= frame[column]).all() and (frame[column] <= frame["high"]).all()
    assert found.curve["passing"].iloc[-1] == pytest.approx(1) and found.curve["size_mm"].is_monotonic_increasing
    shuffled = grade(table.sample(frac=1, random_state=1), "en-set1", resampling=resampling)
    pd.testing.assert_frame_equal(found.sieves, shuffled.sieves)
    pd.testing.assert_frame_equal(found.sizes, shuffled.sizes)
    larger = grade(table.assign(feret_min_mm=table["feret_min_mm"] * 2), "en-set1", resampling=resampling)
    np.testing.assert_allclose(larger.sizes["value"], found.sizes["value"] * ([2] * 5 + [1] * 2))
    # The band rises and holds the curve, also where particles of unlike grams pass one after the other
    for sizes in (table["feret_min_mm"], 50 / table["feret_min_mm"]):
        band = grade(table.assign(feret_min_mm=sizes), np.geomspace(0.1, 500, 40), resampling=resampling).sieves
        assert (np.diff(band["low"]) >= 0).all() and (np.diff(band["high"]) >= 0).all()
        assert (band["low"] <= band["passing"]).all() and (band["passing"] <= band["high"]).all()


def test_bootstrap_sizes_are_those_of_the_drawn_particles():
    """The sizes of a replicate equal the sizes of a table that holds each particle as often as it was drawn."""
    rng = np.random.default_rng(2)
    sizes, grams = np.sort(rng.lognormal(1, 1, 12)), rng.random(12)
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=20)
    shares = np.cumsum(counts * grams, axis=1) / (counts * grams).sum(axis=1, keepdims=True)
    for count, found in zip(counts, sizes_at(LEVELS, shares, sizes), strict=True):
        drawn = particles(np.repeat(sizes, count), np.repeat(grams, count))
        assert grade(drawn, resampling=None).sizes["value"][:5].tolist() == pytest.approx(found.tolist())


def test_band_of_equal_particles_is_binomial():
    # 30 of 100 equal particles pass 8 mm: the mid-p interval of 30 in 100 is 0.2163 to 0.3951
    found = grade(particles([5.0] * 30 + [12.0] * 70, 1.0), [8], resampling=MANY)
    assert found.sieves.loc[0, ["low", "high"]].tolist() == pytest.approx([0.2163, 0.3951], abs=0.003)
    oversize = found.tails.set_index("name").loc["oversize", ["low", "fraction", "high"]]
    assert oversize.tolist() == pytest.approx([0.6049, 0.7, 0.7837], abs=0.003)


def test_what_was_not_seen_is_not_certain_to_be_absent():
    # 10 equal particles: 1 - 0.05^(1/10) = 0.2589 may be finer, or coarser, than all of them
    table, bound = particles([5.0] * 4 + [12.0] * 6, 1.0), pytest.approx(1 - 0.05**0.1, abs=0.01)
    found = grade(table, [2, 4, 8, 16, 63], resampling=MANY)
    low, high = found.sieves["low"], found.sieves["high"]
    assert found.sieves["passing"].tolist() == [0, 0, 0.4, 1, 1]
    assert low[:2].tolist() == [0, 0] and high[3:].tolist() == [1, 1]
    assert [*high[:2], *(1 - low[3:])] == [bound] * 4
    assert found.tails[["fraction", "low"]].eq(0).all(axis=None) and found.tails["high"].tolist() == [bound] * 3
    assert found.tails["remark"].tolist() == ["none seen"] * 3
    # A speck of dust among them changes nothing but the remark
    fines = tails_of(pd.concat([table, particles([0.05], [1e-4])]), [2, 63], resampling=MANY).loc["fines"]
    assert fines["fraction"] > 0 and fines["remark"] == "" and fines["high"] == bound
    # 2 images: 1 - 0.05^(1/2) = 0.776
    halves = table.assign(baseimg=["a", "b"] * 5)
    tails = grade(halves, [2, 63], resampling=Resampling("pictures", replicates=20_000)).tails
    assert tails["high"].tolist() == pytest.approx([1 - 0.05**0.5] * 3, abs=0.01)


def test_what_stays_on_a_sieve_may_be_as_heavy_as_the_heaviest():
    # 20 particles of 1 g pass 8 mm, one of 10 g passes 16 mm: 97.5 % of all, and 95 % of the replicates that have one
    # more on 16 mm, are below q = 10 e / (s + 10 e), with s = 20 or so + 10 e'
    found = tails_of(particles([5.0] * 20 + [12.0], [1.0] * 20 + [10.0]), [8, 16], resampling=MANY)
    rng = np.random.default_rng(7)
    seen = rng.gamma(20, size=100_000) + 10 * rng.exponential(size=100_000)
    more = 10 * rng.exponential(size=100_000)
    assert found.loc["oversize", "high"] == pytest.approx(np.quantile(more / (seen + more), 0.95), abs=0.01)
    # A light speck on a sieve does not show that there is little
    table = particles(np.linspace(4, 20, 100), np.linspace(4, 20, 100) ** 3 / 1000)
    none, speck, heavy = (
        tails_of(pd.concat([table, more]), [31.5], resampling=MANY).loc["oversize", "high"]
        for more in (table[:0], particles([40.0], [0.001]), particles([40.0], [30.0]))
    )
    assert speck == pytest.approx(none, rel=0.05) and heavy > 2 * none


def test_one_particle_none_and_weightless_ones():
    alone = grade(particles([5.0], [2.0]), [4, 8])
    assert alone.sieves["passing"].tolist() == [0, 1] and alone.sieves["low"].isna().all()
    assert alone.sizes["value"].tolist() == pytest.approx([5] * 5 + [1, 1])
    assert alone.notes[0].startswith("no intervals") and alone.resampling is None
    for table in (sample()[:0], sample().assign(mass=0.0), sample().assign(mass=np.nan)):
        empty = grade(table, [4, 8], resampling=QUICK)
        assert empty.sieves[["passing", "low", "high", "retained"]].isna().all(axis=None)
        assert empty.sizes["value"].isna().all() and empty.tails[["fraction", "low", "high"]].isna().all(axis=None)
        json.dumps(empty.to_json(), allow_nan=False)
    tails = tails_of(particles([5.0, 6.0, 70.0], [1.0, 1.0, 0.0]), [4, 63], resampling=QUICK)
    assert tails.loc["oversize", ["particles", "fraction", "remark"]].tolist() == [1, 0, ""]
    assert tails.loc["fines", "remark"] == "none seen"


def test_to_json():
    written = json.loads(json.dumps(grade(sample(), [4, 8], resampling=QUICK).to_json(), allow_nan=False))
    assert written["sieves"][0]["passing"] == pytest.approx(0.3)
    assert written["size"] == {"measure": "feret_min", "factor": 1.0} and "curve" not in written


def test_quotients_of_unbounded_sizes_are_unbounded():
    sizes = grade(particles([6.0, 8.0, 11.0], [1.0, 1.0, 1.0]), [8], resampling=QUICK).sizes.set_index("name")
    assert sizes.loc["D10", "low"] == 0 and sizes.loc["D60", "high"] == np.inf
    assert sizes.loc["Cu", "high"] == np.inf and sizes.loc["Cc", ["low", "high"]].tolist() == [0, np.inf]
    many = np.linspace(6, 11, 200)
    assert np.isfinite(grade(particles(many, np.ones(200)), [8], resampling=QUICK).sizes["high"]).all()


def mid_p_end(seen, number, probability):
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
    # Particles of one size
    low, high = size_intervals([0.1, 0.5, 0.9], np.ones(30), np.full(30, 8.0), np.arange(30), MANY)
    assert low.tolist() == pytest.approx([8, 8, 8]) and high.tolist() == pytest.approx([8, 8, 8])
    # The heaviest of 12 has 90 % of the weight: which size half is of cannot be told
    sizes, weights = np.arange(1.0, 13), np.append(np.ones(11), 99)
    low, high = size_intervals([0.5], weights, sizes, np.arange(12), MANY)
    assert low[0] == 0 and high[0] == np.inf


def test_band_at_every_point_of_a_long_curve_rises():
    sizes, passing = np.sort(np.random.default_rng(3).lognormal(2, 0.5, 3000)), np.arange(0, 3001, 50)
    low, high = passing_band(sizes**3, np.arange(3000) // 30, passing, Resampling("pictures", replicates=200))
    shares = np.append(0, np.cumsum(sizes**3))[passing] / (sizes**3).sum()
    assert (low <= shares + 1e-12).all() and (shares <= high + 1e-12).all()
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
    assert low[0] == 0 and high[-1] == 1
