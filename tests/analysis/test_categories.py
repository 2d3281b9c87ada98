"""EN 12620 categories against the table of the standard and hand-computed certainties."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from scipy.stats import binom

from ramses_d2.analysis.composition import Categories, categorise, compose
from ramses_d2.analysis.intervals import Resampling

MANY = Resampling(replicates=20_000)


def categories_of(grams: dict[str, float], copies: int = 1, resampling: Resampling | None = None) -> Categories:
    """Categories of ``copies`` particles of each class that share its grams."""
    rows = [(name, mass / copies) for name, mass in grams.items() for _ in range(copies)]
    table = pd.DataFrame(rows, columns=["class", "mass"]).assign(baseimg="a.jpg")
    return categorise(compose(table, resampling=resampling))


def category(grams: dict[str, float], group: str) -> str | None:
    return categories_of(grams).summary.set_index("group").loc[group, "category"]


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(100, "Rc90"), (90, "Rc90"), (89.9, "Rc80"), (80, "Rc80"), (70, "Rc70"), (50, "Rc50"), (49.9, "RcDeclared")],
)
def test_rc(percent, expected):
    assert category({"Rc": percent, "Ru": 100 - percent}, "Rc") == expected


@pytest.mark.parametrize(
    ("rc", "ru", "expected"),
    # 70 + 20 and 85 + 10 reach their limits although 0.7 + 0.2 is not 0.9 in floats
    [
        (85, 10, "Rcu95"),
        (70, 24.9, "Rcu90"),
        (70, 20, "Rcu90"),
        (40, 30, "Rcu70"),
        (20, 30, "Rcu50"),
        (9, 9, "RcuDeclared"),
    ],
)
def test_rcu(rc, ru, expected):
    assert category({"Rc": rc, "Ru01": ru, "Rb01": 100 - rc - ru}, "Rcu") == expected


@pytest.mark.parametrize(
    ("name", "group", "percent", "expected"),
    [
        ("Rb01", "Rb", 10, "Rb10-"),
        ("Rb01", "Rb", 10.1, "Rb30-"),
        ("Rb01", "Rb", 30.1, "Rb50-"),
        ("Rb01", "Rb", 50, "Rb50-"),
        ("Rb01", "Rb", 50.1, "RbDeclared"),
        ("Ra", "Ra", 1, "Ra1-"),
        ("Ra", "Ra", 5, "Ra5-"),
        ("Ra", "Ra", 10, "Ra10-"),
        ("Ra", "Ra", 10.1, None),
        ("Rg", "XRg", 0.5, "XRg0.5-"),
        ("X01", "XRg", 1, "XRg1-"),
        ("X01", "XRg", 1.1, "XRg2-"),
        ("X01", "XRg", 2.1, None),
    ],
)
def test_upper_limits(name, group, percent, expected):
    assert category({"Rc": 100 - percent, name: percent}, group) == expected


def test_x_and_glass_are_added():
    assert category({"Rc": 99.2, "X02": 0.4, "Rg": 0.4}, "XRg") == "XRg1-"


def test_every_category_of_the_table_is_listed():
    found = categories_of({"Rc": 92, "Rb01": 8})
    assert found.table["category"].tolist() == (
        ["Rc90", "Rc80", "Rc70", "Rc50", "RcDeclared", "RcNR"]
        + ["Rcu95", "Rcu90", "Rcu70", "Rcu50", "RcuDeclared", "RcuNR"]
        + ["Rb10-", "Rb30-", "Rb50-", "RbDeclared", "RbNR"]
        + ["Ra1-", "Ra5-", "Ra10-", "XRg0.5-", "XRg1-", "XRg2-", "FL0.2-", "FL2-", "FL5-"]
    )
    met = found.table.set_index("category")["met"]
    assert met[["Rc90", "Rc50", "RcNR"]].all() and not met["RcDeclared"] and not met["Rcu95"]
    assert met[["FL0.2-", "FL2-", "FL5-"]].isna().all()
    floating = found.summary.set_index("group").loc["FL"]
    assert floating["category"] is None and floating["remark"] == "not assessable: not visible in pictures"


def test_certainty_of_equal_particles_is_that_of_the_binomial_test():
    # 2 of 4 are Rc. If 30 % of the heap were others, more than the 2 seen would come up with 8.4 %: that is how certain
    # it is that they are 30 % at most (Rc70). P(Binomial(4, q) > 2) for q = 10, 20, 30 and 50 %
    found = categories_of({"Rc": 2, "Ru": 2}, copies=2, resampling=Resampling(replicates=20_000))
    certainty = found.table.set_index("category")["certainty"]
    assert certainty[["Rc90", "Rc80", "Rc70", "Rc50", "RcDeclared", "RcNR"]].tolist() == pytest.approx(
        [*(binom.sf(2, 4, rest) for rest in (0.1, 0.2, 0.3, 0.5)), 5 / 16, 1], abs=0.005
    )
    rc = found.summary.set_index("group").loc["Rc"]
    # Estimate 50 %: Rc50, but neither that nor a declared value below 50 is 95 % certain
    assert (rc["category"], rc["certain_category"]) == ("Rc50", "RcNR")
    assert rc["certainty"] == pytest.approx(5 / 16, abs=0.005)


def test_certain_category_is_looser_than_that_of_the_estimate():
    # 9 of 100 equal particles are others: P(Binomial(100, 0.1) > 9) = 55 % for Rc90, 99.8 % for Rc80
    table = pd.DataFrame({"class": ["Rc"] * 91 + ["Ru"] * 9, "mass": 1.0, "baseimg": "a.jpg"})
    rc = categorise(compose(table)).summary.set_index("group").loc["Rc"]
    assert (rc["category"], rc["certain_category"]) == ("Rc90", "Rc80")
    assert rc["certainty"] == pytest.approx(binom.sf(9, 100, 0.1), abs=0.02)


def test_nothing_seen_is_only_as_certain_as_the_sample_is_large():
    # No Ra among 20 equal particles: 1 - 0.99^20 = 18 % for 1 %, 1 - 0.95^20 = 64 % for 5 %, 1 - 0.9^20 = 88 % for 10 %
    found = categories_of({"Rc": 1}, copies=20, resampling=MANY)
    certainty = found.table.set_index("category")["certainty"]
    assert certainty[["Ra1-", "Ra5-", "Ra10-"]].tolist() == pytest.approx(
        [1 - 0.99**20, 1 - 0.95**20, 1 - 0.9**20], rel=0.01
    )
    # All of them Rc: up to 10 % of something else, 1 - 0.9^20 = 88 %; up to 20 %, 1 - 0.8^20 = 99 %
    assert certainty[["Rc90", "Rc80"]].tolist() == pytest.approx([1 - 0.9**20, 1 - 0.8**20], rel=0.01)
    summary = found.summary.set_index("group")
    assert (summary.loc["Rc", "category"], summary.loc["Rc", "certain_category"]) == ("Rc90", "Rc80")
    assert (summary.loc["Ra", "category"], summary.loc["Ra", "certain_category"]) == ("Ra1-", None)
    assert certainty["RcDeclared"] == 0  # all of it is Rc


def test_one_heavy_particle_says_less_than_many():
    # One more may have 24 / 8 = 3 g. With weights e of mean 1, 1 - P(3 e > (4 e + 2 e + 2 e) / 9), which is
    # 1 - 1 / ((1 + 4 / 27) (1 + 2 / 27)^2) = 24.5 %; with 4 equal particles 1 - 0.9^4 = 34.4 %
    table = pd.DataFrame({"class": "Rc", "mass": [4.0, 2.0, 2.0], "baseimg": "a.jpg"})
    certainty = categorise(compose(table, resampling=MANY)).table.set_index("category")["certainty"]
    assert certainty["Ra10-"] == pytest.approx(1 - 1 / ((31 / 27) * (29 / 27) ** 2), rel=0.01)


def test_a_speck_makes_nobody_surer():
    """10 particles of Rc cannot show that there is less than 0.5 % of glass, nor can they with glass among them."""
    grams = {"none": [], "a speck": [0.01], "two specks": [0.01, 0.01], "2 %": [0.2], "much": [1.0]}
    found = {}
    for name, glass in grams.items():
        table = pd.DataFrame({"class": ["Rc"] * 10 + ["Rg"] * len(glass), "mass": [1.0] * 10 + glass, "baseimg": "a"})
        found[name] = categorise(compose(table, resampling=MANY)).table.set_index("category")
    certainty = pd.DataFrame({name: table["certainty"] for name, table in found.items()})
    # 1 - 0.995^10 = 4.9 %, 1 - 0.99^10 = 9.6 %, 1 - 0.98^10 = 18 %
    assert certainty.loc[["XRg0.5-", "XRg1-", "XRg2-"], "none"].tolist() == pytest.approx(
        [1 - 0.995**10, 1 - 0.99**10, 1 - 0.98**10], rel=0.01
    )
    assert certainty.loc["Rc90", "none"] == pytest.approx(1 - 0.9**10, rel=0.01)  # the same seen from the other side
    at_limits = certainty.loc[["XRg0.5-", "XRg1-", "XRg2-", "Rc90", "Rcu95"]].to_numpy()
    assert (at_limits[:, 1:] < at_limits[:, :-1]).all()
    assert found["two specks"].loc["XRg0.5-", "met"]


def test_certainty_over_images_counts_images():
    many = Resampling("pictures", replicates=20_000)
    # 3 images of 200 equal particles of Rc: 1 - 0.995^3 = 1.5 %, not 1 - 0.995^600 = 95 %
    table = pd.DataFrame({"class": "Rc", "mass": 2.0, "baseimg": [f"{i % 3}.jpg" for i in range(600)]})
    certainty = categorise(compose(table, resampling=many)).table.set_index("category")["certainty"]
    assert certainty[["XRg0.5-", "Rc90"]].tolist() == pytest.approx([1 - 0.995**3, 1 - 0.9**3], rel=0.01)
    # 400, 100 and 100 g: one more may have 180000 / 600 = 300 g
    table["baseimg"] = ["0.jpg"] * 400 + ["1.jpg"] * 100 + ["2.jpg"] * 100
    certainty = categorise(compose(table, resampling=many)).table.set_index("category")["certainty"]
    ratio = 0.005 / 0.995 / 300
    assert certainty["XRg0.5-"] == pytest.approx(1 - 1 / ((1 + 400 * ratio) * (1 + 100 * ratio) ** 2), rel=0.01)


def test_no_intervals_no_certainty():
    found = categories_of({"Rc": 90, "Ru": 10})
    assert found.table["certainty"].isna().all()
    assert found.summary.loc[0, ["category", "certain_category", "remark"]].tolist() == ["Rc90", None, "no intervals"]


def test_empty_sample():
    found = categories_of({})
    assert found.table["met"].isna().all() and found.summary["category"].isna().all()
    assert found.summary.loc[0, "remark"] == "no particle of known mass"
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["standard"].startswith("EN 12620:2002+A1:2008") and written["table"][0]["met"] is None


def test_remark_beyond_every_limit():
    summary = categories_of({"Rc": 50, "Ra": 50}).summary.set_index("group")
    assert summary.loc["Ra", "category"] is None
    assert summary.loc["Ra", "remark"] == "above every limit (10 %)"
