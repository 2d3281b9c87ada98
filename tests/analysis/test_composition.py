"""Mass fractions and EN 12620 categories against hand-computed ones."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from ramses_d2.analysis.composition import categorise, compose
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.sample import DEFAULT_MAP, ConstituentMap
from ramses_d2.files import json_values

QUICK = Resampling(replicates=200)
MANY = Resampling(replicates=20_000)


def particles(*rows, baseimg="a.jpg"):
    """Rows of (class, mass), or (class, mass, number of them)."""
    rows = [(name, mass) for name, mass, *number in rows for _ in range(number[0] if number else 1)]
    return pd.DataFrame(rows, columns=["class", "mass"]).assign(baseimg=baseimg)


def sample():
    # Weighed: Rc 3 + 1, Rcu01 2 (lime mortar, is Rc), Ru02 2, Rb01 1.5, Rg 0.5 g: 10 g in all
    weighed = [("Rc", 3.0), ("Rcu01", 2.0), ("Rb01", 1.5), ("Ru02", 2.0), ("Rc", 1.0), ("Rg", 0.5)]
    return particles(*weighed, ("Coin", 3.92), ("Rc", np.nan), ("X02", np.inf)).assign(area=[4, 3, 3, 5, 2, 1, 9, 7, 3])


def by_constituent(table, resampling=MANY, **options):
    return compose(table, resampling=resampling, **options).constituents.set_index("constituent")


def test_fractions_by_hand():
    found = compose(sample(), resampling=QUICK)
    constituents = found.constituents.set_index("constituent")
    assert list(constituents.index) == ["Rc", "Ru", "Rb", "Ra", "Rg", "X", "FL"]
    # Rc (3 + 1 + 2) / 10, Ru 2 / 10, Rb 1.5 / 10, Rg 0.5 / 10
    assert constituents["fraction"][:6].tolist() == pytest.approx([0.6, 0.2, 0.15, 0, 0.05, 0])
    assert constituents["particles"][:6].tolist() == [3, 1, 1, 0, 1, 0] and constituents.loc["Rc", "mass_g"] == 6
    assert constituents.loc["FL", "remark"] == "not visible in images"
    assert constituents.loc["FL", ["particles", "mass_g", "fraction", "low", "high"]].isna().all()
    # Rcu = Rc + Ru, Rcug = Rc + Ru + Rg, XRg = X + Rg
    sums = found.sums.set_index("constituent")["fraction"]
    assert sums.to_dict() == pytest.approx({"Rcu": 0.8, "Rcug": 0.85, "XRg": 0.05})
    # Classes in the order of the map; only those that were weighed
    assert list(found.classes["class"]) == ["Rc", "Rcu01", "Ru02", "Rb01", "Rg"]
    assert found.classes["fraction"].tolist() == pytest.approx([0.4, 0.2, 0.2, 0.15, 0.05])
    assert list(found.classes["constituent"]) == ["Rc", "Rc", "Ru", "Rb", "Rg"]
    assert (found.particles, found.mass_g, found.images) == (6, 10.0, 1)
    assert found.effective_particles == pytest.approx(100 / 20.5)  # 10^2 / (9 + 4 + 2.25 + 4 + 1 + 0.25)
    # 2 of 8 particles and 10 of 28 px that are not the coin
    assert found.notes == ("unknown mass: 2 particles (25.0% by number, 35.7% by area) left out here",)
    np.testing.assert_allclose(found.unit_grams.sum(axis=0), [6, 2, 1.5, 0, 0.5, 0])


def test_maps_ranges_and_foreign_classes():
    own = ConstituentMap({**DEFAULT_MAP.classes, "Rcu01": "Ru"}, "site.yaml")
    found = compose(sample(), own, resampling=None)
    assert found.constituents["fraction"][1] == pytest.approx(0.4) and found.map_source == "site.yaml"  # 2 + 2 of 10 g
    found = compose(particles(("Rc", 1.0), ("Slag", 3.0)), foreign="X", resampling=None)
    assert found.constituents.set_index("constituent").loc["X", "fraction"] == 0.75
    assert found.notes == ("not in the constituent map, counted as X: Slag",)
    table = particles(("Rc", 1.0), ("Ru", 3.0)).assign(feret_min_mm=[5.0, 80.0], inscribed_diameter_mm=[3.0, 60.0])
    assert by_constituent(table, None, size_range=(4, 63)).loc["Rc", "fraction"] == 1


def test_nothing_weighed_gives_unknown_fractions():
    for table in (sample()[:0], sample().assign(mass=np.nan), sample().assign(mass=0.0)):
        found = compose(table, resampling=QUICK)
        assert found.constituents[["fraction", "low", "high"]].isna().all(axis=None)
        assert found.mass_g == 0
        json.dumps(found.to_json(), allow_nan=False)
    assert "no particle of known weight" in compose(sample()[:0]).notes[0]
    assert compose(particles(("Rc", 1.0)), resampling=Resampling("pictures")).resampling is None
    found = by_constituent(particles(("Rc", 1.0), ("Rc", 2.0), ("Rg", 0.0)), QUICK)  # what weighs nothing was seen
    assert found.loc["Rg", ["particles", "fraction", "remark"]].tolist() == [1, 0, ""]


@pytest.mark.parametrize("over", ["particles", "pictures"])
def test_fractions_sum_to_one_and_do_not_depend_on_the_order_of_rows(over):
    rng, resampling = np.random.default_rng(3), Resampling(over, replicates=200)
    masses = np.round(rng.lognormal(0, 1, 200), 1)  # with ties
    table = pd.DataFrame({"class": rng.choice(list(DEFAULT_MAP.classes), 200), "mass": masses})
    table["baseimg"] = rng.choice(["a", "b", "c"], 200)
    found, shuffled = (compose(t, resampling=resampling) for t in (table, table.sample(frac=1, random_state=1)))
    assert found.constituents["fraction"].sum() == pytest.approx(1)
    assert found.classes["fraction"].sum() == pytest.approx(1)
    pd.testing.assert_frame_equal(found.constituents, shuffled.constituents)
    pd.testing.assert_frame_equal(found.classes, shuffled.classes)
    inside = found.constituents.iloc[:-1]
    assert (inside["low"] <= inside["fraction"]).all() and (inside["fraction"] <= inside["high"]).all()


def test_intervals_of_equal_particles_are_binomial():
    # The mid-p interval of 40 in 100 is 0.3075 to 0.4982
    found = by_constituent(particles(("Rc", 2.0, 40), ("Ru", 2.0, 60)))
    assert found.loc["Rc", ["low", "high"]].tolist() == pytest.approx([0.3075, 0.4982], abs=0.003)
    # Two images, one all Rc, one all Ru, of equal mass. Mid-p of 1 in 2: (1 - p)^2 + p (1 - p) = 1 - p = 97.5 %
    table = particles(("Rc", 1.0, 50), ("Ru", 1.0, 50), baseimg=["a.jpg"] * 50 + ["b.jpg"] * 50)
    found = compose(table, resampling=Resampling("pictures", replicates=20_000))
    assert found.constituents.loc[0, ["low", "high"]].tolist() == pytest.approx([0.025, 0.975], abs=0.003)
    assert found.notes[0].startswith("only 2 images")
    alone = compose(table[:50], resampling=Resampling("pictures"))
    assert alone.constituents["low"].isna().all() and len(alone.replicates) == 0
    assert alone.notes[0].startswith("no intervals") and alone.constituents.loc[0, "fraction"] == 1


def test_what_was_not_seen_is_not_certain_to_be_absent():
    # 59 equal particles of Rc: 1 - 0.05^(1/59) = 0.0495 of anything else, whether seen as specks or not
    bound = 1 - 0.05 ** (1 / 59)
    for specks in range(4):
        found = by_constituent(particles(("Rc", 2.0, 59), ("Rg", 0.05, specks)))
        seen = 0.05 * specks / (59 * 2)
        assert found.loc["Rg", "low"] <= seen
        assert found.loc["Rg", "high"] == pytest.approx(bound + seen, abs=1e-3)
        assert found.loc["Rc", "low"] == pytest.approx(1 - bound - seen, abs=1e-3)
        assert found.loc["Ra", ["low", "fraction"]].tolist() == [0, 0] and found.loc["Ra", "remark"] == "none seen"
        assert found.loc["Rg", "remark"] == ("" if specks else "none seen")
        assert specks or found.loc["Rc", ["high", "remark"]].tolist() == [1, "nothing else seen"]
    # 4 images of 50 g each, however many particles that are: 1 - 0.05^(1/4) = 0.527
    table = particles(("Rc", 1.0, 200), baseimg=[f"{i % 4}.jpg" for i in range(200)])
    found = by_constituent(table, Resampling("pictures", replicates=20_000))
    assert found.loc["Ra", ["low", "high"]].tolist() == pytest.approx([0, 0.527], abs=0.01)
    assert found.loc["Rc", ["low", "high"]].tolist() == pytest.approx([0.473, 1], abs=0.01)


def test_one_more_of_a_kind_is_as_heavy_as_its_heaviest():
    # Glass: 10 g and 20 of 0.5 g; others: 20 of 1 g. One more of glass weighs 10 g, one more of the rest 105 / 20 g
    found = by_constituent(particles(("Rc", 1.0, 20), ("Rg", 10.0), ("Rg", 0.5, 20)))
    rng = np.random.default_rng(7)
    rest, own = rng.gamma(20, size=(2, 200_000)) * [[1], [0.5]]
    own, more = own + 10 * rng.exponential(size=200_000), rng.exponential(size=200_000)
    shares = np.concatenate([(own + 10 * more) / (own + 10 * more + rest), own / (own + rest + 5.25 * more)])
    expected = np.quantile(shares, [0.025, 0.975])
    assert found.loc["Rg", ["low", "high"]].tolist() == pytest.approx(expected.tolist(), abs=0.005)
    # Half of the replicates have one more of 100 g of the rest; the narrow interval holds the estimate all the same
    found = by_constituent(particles(("Rc", 1.0), ("Rg", 100.0)), Resampling(confidence=0.1))
    assert found.loc["Rg", "high"] == found.loc["Rg", "fraction"] and found.loc["Rc", "low"] == 1 / 101


def test_to_json_has_every_value_and_no_nan():
    written = json.loads(json.dumps(compose(sample(), resampling=QUICK).to_json(), allow_nan=False))
    assert written["constituents"][0]["fraction"] == pytest.approx(0.6)
    assert written["constituents"][-1]["particles"] is None
    assert written["resampling"]["replicates"] == 200 and "replicates" not in written
    values = {"a": [pd.NA, np.float32("nan"), np.int64(3), (np.inf, "text")]}
    assert json_values(values) == {"a": [None, None, 3, [None, "text"]]}


# ---- EN 12620 categories


def categories_of(*rows, resampling=None, baseimg="a.jpg"):
    """The table of :func:`categorise` by category, and its summary by group."""
    found = categorise(compose(particles(*rows, baseimg=baseimg), resampling=resampling))
    return found.table.set_index("category"), found.summary.set_index("group")


@pytest.mark.parametrize(
    ("rows", "group", "expected"),
    [
        *(([("Rc", p), ("Ru", 100 - p)], "Rc", f"Rc{c}") for p, c in ((100, 90), (90, 90), (89.9, 80), (80, 80))),
        *(([("Rc", p), ("Ru", 100 - p)], "Rc", f"Rc{c}") for p, c in ((70, 70), (50, 50), (49.9, "Declared"))),
        # 70 + 20 and 85 + 10 reach their limits although 0.7 + 0.2 is not 0.9 in floats
        *(
            ([("Rc", rc), ("Ru01", ru), ("Rb01", 100 - rc - ru)], "Rcu", f"Rcu{limit}")
            for rc, ru, limit in (
                *((85, 10, 95), (70, 24.9, 90), (70, 20, 90), (40, 30, 70)),
                *((20, 30, 50), (9, 9, "Declared")),
            )
        ),
        *(
            ([("Rc", 100 - p), (name, p)], group, c)
            for name, group, limits in (
                ("Rb01", "Rb", {10: "Rb10-", 10.1: "Rb30-", 30.1: "Rb50-", 50: "Rb50-", 50.1: "RbDeclared"}),
                ("Ra", "Ra", {1: "Ra1-", 5: "Ra5-", 10: "Ra10-", 10.1: None}),
                ("Rg", "XRg", {0.5: "XRg0.5-"}),
                ("X01", "XRg", {1: "XRg1-", 1.1: "XRg2-", 2.1: None}),
            )
            for p, c in limits.items()
        ),
        ([("Rc", 99.2), ("X02", 0.4), ("Rg", 0.4)], "XRg", "XRg1-"),  # X and glass are added
    ],
)
def test_category_of_the_estimate(rows, group, expected):
    assert categories_of(*rows)[1].loc[group, "category"] == expected


def test_every_category_of_the_table_is_listed():
    table, summary = categories_of(("Rc", 92), ("Rb01", 8))
    assert " ".join(table.index) == (
        "Rc90 Rc80 Rc70 Rc50 RcDeclared RcNR Rcu95 Rcu90 Rcu70 Rcu50 RcuDeclared RcuNR Rb10- Rb30- Rb50- RbDeclared "
        "RbNR Ra1- Ra5- Ra10- XRg0.5- XRg1- XRg2- FL0.2- FL2- FL5-"
    )
    met = table["met"]
    assert met[["Rc90", "Rc50", "RcNR"]].all() and not met["RcDeclared"] and not met["Rcu95"]
    assert met[["FL0.2-", "FL2-", "FL5-"]].isna().all()
    assert summary.loc["FL", "category"] is None and summary.loc["FL", "remark"].startswith("not assessable")
    # Without intervals
    assert table["certainty"].isna().all() and summary.loc["Rc", "remark"] == "no intervals"
    assert summary.loc["Rc", ["category", "certain_category"]].tolist() == ["Rc90", None]
    beyond = categories_of(("Rc", 50), ("Ra", 50))[1].loc["Ra"]
    assert beyond["category"] is None and beyond["remark"] == "above every limit (10 %)"
    empty = categorise(compose(particles(), resampling=None))
    assert empty.table["met"].isna().all() and empty.summary["category"].isna().all()
    assert empty.summary.loc[0, "remark"] == "no particle of known mass"
    written = json.loads(json.dumps(empty.to_json(), allow_nan=False))
    assert written["standard"].startswith("EN 12620:2002+A1:2008") and written["table"][0]["met"] is None


def test_certainty_of_equal_particles_is_that_of_the_binomial_test():
    # 2 of 4 are Rc. If 30 % of the heap were others, more than the 2 seen would come up with 8.4 %: that is how certain
    # it is that they are 30 % at most (Rc70). P(Binomial(4, q) > 2) for q = 10, 20, 30 and 50 %
    table, summary = categories_of(("Rc", 1, 2), ("Ru", 1, 2), resampling=MANY)
    assert table["certainty"][["Rc90", "Rc80", "Rc70", "Rc50", "RcDeclared", "RcNR"]].tolist() == pytest.approx(
        [*(binom.sf(2, 4, rest) for rest in (0.1, 0.2, 0.3, 0.5)), 5 / 16, 1], abs=0.005
    )
    # Estimate 50 %: Rc50, but neither that nor a declared value below 50 is 95 % certain
    assert summary.loc["Rc", ["category", "certain_category"]].tolist() == ["Rc50", "RcNR"]
    assert summary.loc["Rc", "certainty"] == pytest.approx(5 / 16, abs=0.005)
    # 9 of 100 equal particles are others: P(Binomial(100, 0.1) > 9) = 55 % for Rc90, 99.8 % for Rc80
    _, summary = categories_of(("Rc", 1.0, 91), ("Ru", 1.0, 9), resampling=Resampling())
    assert summary.loc["Rc", ["category", "certain_category"]].tolist() == ["Rc90", "Rc80"]
    assert summary.loc["Rc", "certainty"] == pytest.approx(binom.sf(9, 100, 0.1), abs=0.02)


def test_nothing_seen_is_only_as_certain_as_the_sample_is_large():
    # No Ra among 20 equal particles: 1 - 0.99^20 = 18 % for 1 %, 1 - 0.95^20 = 64 % for 5 %, 1 - 0.9^20 = 88 % for 10 %
    table, summary = categories_of(("Rc", 0.05, 20), resampling=MANY)
    certainty = table["certainty"]
    expected = [1 - room**20 for room in (0.99, 0.95, 0.9)]
    assert certainty[["Ra1-", "Ra5-", "Ra10-"]].tolist() == pytest.approx(expected, rel=0.01)
    # All of them Rc: up to 10 % of something else, 1 - 0.9^20 = 88 %; up to 20 %, 1 - 0.8^20 = 99 %
    assert certainty[["Rc90", "Rc80"]].tolist() == pytest.approx([1 - 0.9**20, 1 - 0.8**20], rel=0.01)
    assert summary.loc["Rc", ["category", "certain_category"]].tolist() == ["Rc90", "Rc80"]
    assert summary.loc["Ra", ["category", "certain_category"]].tolist() == ["Ra1-", None]
    assert certainty["RcDeclared"] == 0  # all of it is Rc
    # 4, 2 and 2 g: one more may have 24 / 8 = 3 g. With weights e of mean 1, 1 - P(3 e > (4 e + 2 e + 2 e) / 9), which
    # is 1 - 1 / ((1 + 4 / 27) (1 + 2 / 27)^2) = 24.5 %; with 4 equal particles 1 - 0.9^4 = 34.4 %
    table, _ = categories_of(("Rc", 4.0), ("Rc", 2.0, 2), resampling=MANY)
    assert table.loc["Ra10-", "certainty"] == pytest.approx(1 - 1 / ((31 / 27) * (29 / 27) ** 2), rel=0.01)


def test_finding_more_of_it_makes_less_sure():
    """10 particles of Rc cannot show that there is less than 0.5 % of glass, nor can they with glass among them."""
    kinds = {"none": (0, 0), "a speck": (0.01, 1), "two specks": (0.01, 2), "2 %": (0.2, 1), "much": (1.0, 1)}
    tables = {kind: categories_of(("Rc", 1.0, 10), ("Rg", *glass), resampling=MANY)[0] for kind, glass in kinds.items()}
    certainty = pd.DataFrame({kind: table["certainty"] for kind, table in tables.items()})
    # 1 - 0.995^10 = 4.9 %, 1 - 0.99^10 = 9.6 %, 1 - 0.98^10 = 18 %; and the same seen from the other side
    expected = [1 - room**10 for room in (0.995, 0.99, 0.98, 0.9)]
    assert certainty.loc[["XRg0.5-", "XRg1-", "XRg2-", "Rc90"], "none"].tolist() == pytest.approx(expected, rel=0.01)
    at_limits = certainty.loc[["XRg0.5-", "XRg1-", "XRg2-", "Rc90", "Rcu95"]].to_numpy()
    assert (at_limits[:, 1:] < at_limits[:, :-1]).all()
    assert tables["two specks"].loc["XRg0.5-", "met"]


def test_certainty_over_images_counts_images():
    many = Resampling("pictures", replicates=20_000)
    # 3 images of 200 equal particles of Rc: 1 - 0.995^3 = 1.5 %, not 1 - 0.995^600 = 95 %
    images = [f"{i % 3}.jpg" for i in range(600)]
    certainty = categories_of(("Rc", 2.0, 600), resampling=many, baseimg=images)[0]["certainty"]
    assert certainty[["XRg0.5-", "Rc90"]].tolist() == pytest.approx([1 - 0.995**3, 1 - 0.9**3], rel=0.01)
    # 400, 100 and 100 g: one more may have 180000 / 600 = 300 g
    images = ["0.jpg"] * 400 + ["1.jpg"] * 100 + ["2.jpg"] * 100
    certainty = categories_of(("Rc", 1.0, 600), resampling=many, baseimg=images)[0]["certainty"]
    ratio = 0.005 / 0.995 / 300
    assert certainty["XRg0.5-"] == pytest.approx(1 - 1 / ((1 + 400 * ratio) * (1 + 100 * ratio) ** 2), rel=0.01)
