"""Gradings against hand-computed ones; conventions at the openings; what holds for every table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.grading import grade, grade_groups
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.sample import SIEVE_SERIES, SieveSize, sieve_series
from ramses_d2.errors import RamsesError

QUICK = Resampling(replicates=200)


def particles(sizes, grams, classes="Rc", **columns) -> pd.DataFrame:
    table = pd.DataFrame({"class": classes, "feret_min_mm": sizes, "mass": grams})
    return table.assign(baseimg="a.jpg", **columns)


def sample() -> pd.DataFrame:
    # 20 g: 2 g of 1 mm, 4 g of 4 mm, 6 g of 6 mm, 5 g of 10 mm, 3 g of 80 mm; a coin and an unweighed one apart
    return particles(
        [6.0, 1.0, 80.0, 4.0, 10.0, 21.0, 5.0],
        [6.0, 2.0, 3.0, 4.0, 5.0, 3.92, np.nan],
        ["Rc", "Ru01", "Rc", "Rb01", "Ru01", "Coin", "Rc"],
    )


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


def test_tails_by_hand():
    tails = grade(sample(), [2, 4, 8], resampling=None).tails.set_index("name")
    assert tails.loc["below smallest sieve", ["limit_mm", "fraction", "amount", "particles"]].tolist() == [2, 0.1, 2, 1]
    # 5 g of 10 mm and 3 g of 80 mm stay on 8
    assert tails.loc["oversize", ["limit_mm", "fraction", "amount", "particles"]].tolist() == pytest.approx(
        [8, 0.4, 8, 2]
    )
    assert tails.loc["fines", ["limit_mm", "fraction", "amount", "particles"]].tolist() == [0.063, 0, 0, 0]
    dust = pd.concat([sample(), particles([0.063, 0.064], [3.0, 2.0])])  # 3 of 25 g pass 0.063
    assert grade(dust, [2], resampling=None).tails.set_index("name").loc["fines", "fraction"] == pytest.approx(3 / 25)


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


def test_level_that_the_smallest_particle_reaches_alone_is_its_size():
    # 3 mm holds 40 %: D10 and D30 are 3 mm; D50 a sixth of the way to 12 mm
    sizes = grade(particles([12.0, 3.0], [6.0, 4.0]), resampling=None).sizes["value"]
    assert sizes[:3].tolist() == pytest.approx([3, 3, 3 * 4 ** (1 / 6)])


def test_sizes_come_from_the_particles_not_from_the_sieves():
    one, other = (grade(sample(), sieves, resampling=None).sizes for sieves in ([3], "astm"))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("opening", [0.1 * 3, 229.6 / 28.7, 6.3])
def test_particle_as_large_as_the_opening_passes(opening):
    table = particles([opening * (1 - 1e-15), opening * (1 + 1e-15), opening * 1.001], 1.0)
    assert grade(table, [opening], resampling=None).sieves["passing"].tolist() == pytest.approx([2 / 3])


def test_sizes_of_an_old_table_and_other_measures():
    table = pd.DataFrame(
        {
            "class": "Rc",
            "mass": 1.0,
            "res": [10.0, 20.0, np.nan],
            "min_feret_diameter": [60, 60, 60],  # 6 and 3 mm
            "max_inscribed_radius": [25, 25, 25],  # 5 and 2.5 mm
            "axis_minor_length": [55, 55, 55],  # 5.5 and 2.75 mm
        }
    )
    np.testing.assert_allclose(SieveSize().of(table), [6, 3, np.nan])
    np.testing.assert_allclose(SieveSize("inscribed").of(table), [5, 2.5, np.nan])
    np.testing.assert_allclose(SieveSize("ellipse_minor", 0.8).of(table), [4.4, 2.2, np.nan])
    found = grade(table, [4], size=SieveSize("inscribed", 0.75), resampling=None)  # 3.75 and 1.875 mm
    assert found.sieves["passing"].tolist() == [1]
    # Weighed but of unknown size: not in the denominator, listed apart
    assert found.left_out[["reason", "particles", "mass_g"]].to_numpy().tolist() == [["unknown size", 1, 1.0]]
    with pytest.raises(RamsesError, match="needs feret_min_mm, or min_feret_diameter and res"):
        grade(table.drop(columns="res"))


def test_weight_by_count_and_area():
    table = sample().assign(area_mm2=[30.0, 1.0, 5000.0, 9.0, 60.0, 350.0, np.nan])
    by_count = grade(table, [4, 8], weight="count", resampling=None)
    # 6 particles but the coin, the unweighed one of 5 mm among them: 2 up to 4 mm, 4 up to 8 mm
    assert by_count.sieves["passing"].tolist() == pytest.approx([2 / 6, 4 / 6])
    assert (by_count.unit, by_count.amount) == ("particles", 6)
    by_area = grade(table, [4, 8], weight="area", resampling=None)
    assert by_area.sieves["passing"].tolist() == pytest.approx([10 / 5100, 40 / 5100])
    assert by_area.left_out["reason"].tolist() == ["scale object", "unknown area"]
    with pytest.raises(RamsesError, match="weight 'volume'"):
        grade(table, weight="volume")


def test_left_out_and_notes():
    found = grade(sample(), resampling=None)
    assert found.left_out[["reason", "class", "particles"]].to_numpy().tolist() == [
        ["scale object", "Coin", 1],
        ["unknown mass", "Rc", 1],
    ]
    assert found.notes == ("unknown mass: 1 particle (16.7% by number) left out here",)


def test_per_constituent_and_per_class():
    by_constituent = grade_groups(sample(), "constituent", [2, 8], resampling=None)
    assert list(by_constituent) == ["Rc", "Ru", "Rb"]
    # Rc 6 g of 6 mm and 3 g of 80 mm; Ru 2 g of 1 mm and 5 g of 10 mm; Rb 4 g of 4 mm
    passing = {name: grading.sieves["passing"].tolist() for name, grading in by_constituent.items()}
    assert passing == {
        "Rc": pytest.approx([0, 6 / 9]),
        "Ru": pytest.approx([2 / 7, 2 / 7]),
        "Rb": pytest.approx([0, 1]),
    }
    assert by_constituent["Rc"].left_out["particles"].tolist() == [1]
    assert by_constituent["Ru"].left_out.empty and by_constituent["Ru"].notes == ()
    assert sum(grading.amount for grading in by_constituent.values()) == 20
    assert list(grade_groups(sample(), "class", resampling=None)) == ["Rc", "Ru01", "Rb01"]
    only_unknown = grade_groups(sample()[-1:], resampling=None)["Rc"]
    assert only_unknown.particles == 0 and only_unknown.sieves["passing"].isna().all()


def random_table(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sizes = np.round(rng.lognormal(2, 1, 150), 1) + 0.1  # with ties
    return particles(sizes, rng.lognormal(0, 1, 150), rng.choice(["Rc", "Ru01", "Coin"], 150)).assign(
        baseimg=rng.choice(["a", "b", "c"], 150)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("over", ["particles", "pictures"])
def test_what_holds_for_every_table(seed, over):
    table = random_table(seed)
    resampling = Resampling(over, replicates=200)
    found = grade(table, "en-set1", resampling=resampling)
    passing, tails = found.sieves["passing"], found.tails.set_index("name")["fraction"]
    assert (np.diff(passing) >= 0).all() and (np.diff(found.sieves["low"]) >= 0).all()
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
    np.testing.assert_allclose(larger.sizes["value"][:5], 2 * found.sizes["value"][:5])
    np.testing.assert_allclose(larger.sizes["value"][5:], found.sizes["value"][5:])


def test_bootstrap_sizes_are_those_of_the_drawn_particles():
    """The sizes of a replicate equal the sizes of a table that holds each particle as often as it was drawn."""
    from ramses_d2.analysis.grading import LEVELS, sizes_at

    rng = np.random.default_rng(2)
    sizes, grams = np.sort(rng.lognormal(1, 1, 12)), rng.random(12)
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=20)
    shares = np.cumsum(counts * grams, axis=1) / (counts * grams).sum(axis=1, keepdims=True)
    for count, found in zip(counts, sizes_at(LEVELS, shares, sizes), strict=True):
        drawn = particles(np.repeat(sizes, count), np.repeat(grams, count))
        assert grade(drawn, resampling=None).sizes["value"][:5].tolist() == pytest.approx(found.tolist())


def test_band_of_equal_particles_is_binomial():
    # 30 of 100 equal particles pass 8 mm: the mid-p interval of 30 in 100 is 0.2163 to 0.3951
    table = particles([5.0] * 30 + [12.0] * 70, 1.0)
    found = grade(table, [8], resampling=Resampling(replicates=20_000))
    assert found.sieves.loc[0, ["low", "high"]].tolist() == pytest.approx([0.2163, 0.3951], abs=0.003)
    oversize = found.tails.set_index("name").loc["oversize"]
    assert oversize[["low", "fraction", "high"]].tolist() == pytest.approx([0.6049, 0.7, 0.7837], abs=0.003)


def test_what_was_not_seen_is_not_certain_to_be_absent():
    # 10 equal particles: 1 - 0.05^(1/10) = 0.2589 may be finer, or coarser, than all of them
    table = particles([5.0] * 4 + [12.0] * 6, 1.0)
    many = Resampling(replicates=20_000)
    found = grade(table, [2, 4, 8, 16, 63], resampling=many)
    bound = pytest.approx(1 - 0.05**0.1, abs=0.01)
    assert found.sieves["passing"].tolist() == [0, 0, 0.4, 1, 1]
    assert found.sieves["low"][[0, 1]].tolist() == [0, 0] and found.sieves["high"][[3, 4]].tolist() == [1, 1]
    assert [*found.sieves["high"][[0, 1]], *(1 - found.sieves["low"][[3, 4]])] == [bound] * 4
    tails = found.tails.set_index("name")
    for name in ("below smallest sieve", "fines", "oversize"):
        assert tails.loc[name, ["fraction", "low"]].tolist() == [0, 0] and tails.loc[name, "high"] == bound
        assert tails.loc[name, "remark"] == "none seen"
    # A speck of dust among them changes nothing but the remark
    dusty = grade(pd.concat([table, particles([0.05], [1e-4])]), [2, 4, 8, 16, 63], resampling=many)
    fines = dusty.tails.set_index("name").loc["fines"]
    assert fines["fraction"] > 0 and fines["remark"] == "" and fines["high"] == bound
    # 2 images: 1 - 0.05^(1/2) = 0.776
    halves = table.assign(baseimg=["a", "b"] * 5)
    tails = grade(halves, [2, 63], resampling=Resampling("pictures", replicates=20_000)).tails
    assert tails["high"].tolist() == pytest.approx([1 - 0.05**0.5] * 3, abs=0.01)


def test_what_stays_on_a_sieve_may_be_as_heavy_as_the_heaviest():
    # 20 particles of 1 g pass 8 mm, one of 10 g passes 16 mm: 97.5 % of all, and 95 % of the replicates that have one
    # more on 16 mm, are below q = 10 e / (s + 10 e), with s = 20 or so + 10 e'
    table = particles([5.0] * 20 + [12.0], [1.0] * 20 + [10.0])
    found = grade(table, [8, 16], resampling=Resampling(replicates=20_000)).tails.set_index("name")
    rng = np.random.default_rng(7)
    seen = rng.gamma(20, size=100_000) + 10 * rng.exponential(size=100_000)
    more = 10 * rng.exponential(size=100_000)
    assert found.loc["oversize", "high"] == pytest.approx(np.quantile(more / (seen + more), 0.95), abs=0.01)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mirrored", [False, True])
def test_band_rises_and_holds_the_curve(seed, mirrored):
    """Also where images or particles of unlike grams pass one after the other."""
    table = random_table(seed)
    if mirrored:
        table["feret_min_mm"] = 50 / table["feret_min_mm"]
    found = grade(table, np.geomspace(0.1, 500, 40), resampling=Resampling("pictures", replicates=200)).sieves
    assert (np.diff(found["low"]) >= 0).all() and (np.diff(found["high"]) >= 0).all()
    assert (found["low"] <= found["passing"]).all() and (found["passing"] <= found["high"]).all()


def test_one_particle_and_none():
    alone = grade(particles([5.0], [2.0]), [4, 8])
    assert alone.sieves["passing"].tolist() == [0, 1] and alone.sieves["low"].isna().all()
    assert alone.sizes["value"].tolist() == pytest.approx([5] * 5 + [1, 1])
    assert alone.notes == ("no intervals: the bootstrap needs 2 particles, there is 1",)
    for table in (sample()[:0], sample().assign(mass=0.0), sample().assign(mass=np.nan)):
        empty = grade(table, [4, 8], resampling=QUICK)
        assert empty.sieves[["passing", "low", "high", "retained"]].isna().all(axis=None)
        assert empty.sizes["value"].isna().all() and empty.tails[["fraction", "low", "high"]].isna().all(axis=None)
        json.dumps(empty.to_json(), allow_nan=False)


def test_to_json():
    written = json.loads(json.dumps(grade(sample(), [4, 8], resampling=QUICK).to_json(), allow_nan=False))
    assert written["sieves"][0]["passing"] == pytest.approx(0.3)
    assert written["size"] == {"measure": "feret_min", "factor": 1.0}
    assert "curve" not in written


def test_sieve_series():
    assert sieve_series("8, 4,16") == sieve_series([16, 8, 4, 4]) == (4, 8, 16)
    assert sieve_series("en-basic") == (1, 2, 4, 8, 16, 31.5, 63)
    assert set(SIEVE_SERIES["en-basic"]) == set(SIEVE_SERIES["en-set1"]) & set(SIEVE_SERIES["en-set2"])
    assert all(list(series) == sorted(set(series)) for series in SIEVE_SERIES.values())
    # The list of the original's graphical interface
    assert SIEVE_SERIES["ramses"] == (0.5, 1, 2, 4, 8, 10, 12.5, 16, 20, 31.5, 63, 100)
    for wrong in ("en-set3", "", [], [0, 4], [4, np.nan], [None]):
        with pytest.raises(RamsesError, match="give one of en-fine, en-basic"):
            sieve_series(wrong)


def test_wrong_measures():
    with pytest.raises(RamsesError, match="give one of feret_min, inscribed, ellipse_minor"):
        SieveSize("feret_max")
    for factor in (0, -1, np.nan):
        with pytest.raises(RamsesError, match="number above 0"):
            SieveSize(factor=factor)


def test_quotients_of_unbounded_sizes_are_unbounded():
    sizes = grade(particles([6.0, 8.0, 11.0], [1.0, 1.0, 1.0]), [8], resampling=QUICK).sizes.set_index("name")
    assert sizes.loc["D10", "low"] == 0 and sizes.loc["D60", "high"] == np.inf
    assert sizes.loc["Cu", "high"] == np.inf and sizes.loc["Cc", ["low", "high"]].tolist() == [0, np.inf]
    many = np.linspace(6, 11, 200)
    assert np.isfinite(grade(particles(many, np.ones(200)), [8], resampling=QUICK).sizes["high"]).all()


def test_what_weighs_nothing_was_seen_all_the_same():
    found = grade(particles([5.0, 6.0, 70.0], [1.0, 1.0, 0.0]), [4, 63], resampling=QUICK)
    tails = found.tails.set_index("name")
    assert tails.loc["oversize", ["particles", "fraction", "remark"]].tolist() == [1, 0, ""]
    assert tails.loc["fines", "remark"] == "none seen"
    assert grade(particles([5.0], [1.0]), [4]).resampling is None  # one particle has no intervals


def test_a_speck_on_a_sieve_makes_nobody_surer_of_less():
    table = particles(np.linspace(4, 20, 100), np.linspace(4, 20, 100) ** 3 / 1000)
    high = [
        grade(pd.concat([table, more]), [31.5], resampling=Resampling(replicates=20_000)).tails["high"].iloc[-1]
        for more in (table[:0], particles([40.0], [0.001]), particles([40.0], [30.0]))
    ]
    assert high[1] == pytest.approx(high[0], rel=0.05) and high[2] > 2 * high[0]
