"""Sharing batch masses: the golden values of reference section 7.1, what keeps its mass, and what stops it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.batch_masses import Batch, parse_batches, share_batch_masses
from ramses_d2.errors import RamsesError

NAN = float("nan")


def particles(*rows: tuple) -> pd.DataFrame:
    """A table from (baseimg, class, mass, gt_mass) or those and (area, radius, res); indexed like a CSV."""
    columns = ["baseimg", "class", "mass", "gt_mass", "area", "radius", "res"]
    filled = [(*row, *(100.0, 5.0, 10.0)[len(row) - 4 :]) for row in rows]
    table = pd.DataFrame(filled, columns=columns)
    table.index += 2
    return table


def batch(grams: dict, *names: str) -> dict:
    return {"image_names": list(names or ("a.jpg",)), "mass": grams}


def test_golden_values() -> None:
    table = particles(("a", "Ra", NAN, False, 100, 5, 10), ("a", "Ra", NAN, False, 200, 6, 10))
    shared, report = share_batch_masses(table, [batch({"Ra": 10})])
    assert shared["F"].to_numpy() == pytest.approx([2.94118] * 2, abs=5e-6)
    assert shared["mass"].to_numpy() == pytest.approx([2.94118, 7.05882], abs=5e-6)
    assert report.to_dict("records") == [
        {
            "batch": 1, "class": "Ra", "how": "shared", "grams_in": 10, "grams_weighed": 0,
            "grams_out": pytest.approx(10), "F": pytest.approx(2.94118, abs=5e-6), "particles": 2, "shared": 2,
            "weighed": 0, "residual": pytest.approx(0, abs=1e-12),
        }
    ]  # fmt: skip
    assert table["mass"].isna().all() and "F" not in table  # the input stays as it was


def test_a_particle_weighed_on_its_own_keeps_its_mass_and_is_taken_off_its_batch() -> None:
    table = particles(
        ("a", "Ra", NAN, False, 100, 5, 10), ("a", "Ra", 3.0, True, 200, 6, 10), ("a", "Ra", 99.0, False, 300, 5, 10)
    )
    shared, report = share_batch_masses(table.assign(F=9.0), [batch({"Ra": 10})])
    assert shared["mass"].to_numpy() == pytest.approx([1.75, 3.0, 5.25])  # 7.0 g in the ratio 1 : 3
    assert shared["gt_mass"].tolist() == [False, True, False]
    assert shared["F"].to_numpy() == pytest.approx([1.75, NAN, 1.75], nan_ok=True)
    assert report[["grams_weighed", "grams_out", "shared", "weighed"]].iloc[0].tolist() == pytest.approx([3, 10, 2, 1])


def test_the_resolution_counts_with_its_cube() -> None:
    table = particles(("a", "Ra", NAN, False, 100, 5, 10), ("b", "Ra", NAN, False, 100, 5, 20))
    shared, _ = share_batch_masses(table, [batch({"Ra": 9}, "a.jpg", "b.jpg")])
    assert shared["mass"].to_numpy() == pytest.approx([8, 1])


@pytest.mark.parametrize("unknown", [None, NAN, "NaN", "nan", 0])
def test_all_ways_to_write_that_a_class_was_not_weighed(unknown: object) -> None:
    table = particles(("a", "Ra", NAN, False), ("a", "Ra", 2.0, True), ("a", "Ra", 5.0, False), ("a", "Rc", NAN, False))
    shared, report = share_batch_masses(table, [batch({"Ra": unknown, "Rc": 4, "Rg": unknown})])
    assert shared["mass"].to_numpy() == pytest.approx([NAN, 2.0, NAN, 4.0], nan_ok=True)
    assert report[["class", "how"]].to_numpy().tolist() == [["Ra", "not weighed"], ["Rc", "shared"]]
    assert np.isnan(report.at[0, "grams_in"]) and report.at[0, "grams_out"] == 2.0


@pytest.mark.parametrize("unknown", [None, NAN, "NaN"])
def test_all_ways_to_write_that_a_particle_was_not_weighed(unknown: object) -> None:
    """gt_mass True without a mass: nobody weighed it, so it gets a share and is no longer called weighed."""
    table = particles(("a", "Ra", unknown, True), ("a", "Ra", unknown, "True"), ("a", "Ra", 2.0, "True"))
    shared, _ = share_batch_masses(table, [batch({"Ra": 6})])
    assert shared["mass"].tolist() == pytest.approx([2, 2, 2]) and shared["gt_mass"].tolist() == [False, False, True]


def test_a_class_that_its_batch_does_not_list_stays_unknown_and_is_reported() -> None:
    shared, report = share_batch_masses(particles(("a", "Rg", NAN, False), ("a", "Ra", NAN, False)), [batch({"Ra": 1})])
    assert np.isnan(shared["mass"].iloc[0])
    assert report.loc[report["class"] == "Rg", ["how", "particles"]].iloc[0].tolist() == ["class not in the batch", 1]


def test_rows_of_no_batch_are_left_alone() -> None:
    table = particles(("other", "Ra", 7.0, False), ("other", "Rc", NAN, False), ("a", "Ra", NAN, False)).assign(F=0.5)
    shared, _ = share_batch_masses(table, [batch({"Ra": 1})])
    assert shared["mass"].to_numpy() == pytest.approx([7, NAN, 1], nan_ok=True)
    assert shared["F"].to_numpy()[:2] == pytest.approx([0.5, 0.5])


def test_coins_get_their_known_mass_only_where_they_were_not_weighed() -> None:
    table = particles(
        ("a", "Coin", NAN, False),
        ("a", "Coin", 4.1, True),
        ("other", "Coin", NAN, False),
        ("other", "Coin", 5.0, False),
    )
    shared, report = share_batch_masses(table, [batch({"Coin": None})])
    assert shared["mass"].tolist() == [3.92, 4.1, 3.92, 5.0] and report["how"].tolist() == ["mass of a coin"]
    shared, _ = share_batch_masses(table, [batch({"Coin": 8.2})])
    assert shared["mass"].tolist() == pytest.approx([4.1, 4.1, 3.92, 5.0])  # the scale knows better
    shared, _ = share_batch_masses(table.replace("Coin", "5c"), [batch({})], coin_class="5c", coin_mass=3.9)
    assert shared["mass"].tolist() == [3.9, 4.1, 3.9, 5.0]


def test_images_are_matched_with_and_without_extension() -> None:
    table = particles(("a", "Ra", NAN, False), ("b.PNG", "Ra", NAN, False), ("v1.2", "Ra", NAN, False))
    shared, _ = share_batch_masses(table, [batch({"Ra": 3}, "a.jpg", "images/b.png", "v1.2.jpg", "a.jpg")])
    assert shared["mass"].tolist() == pytest.approx([1, 1, 1])


def test_batches_are_parsed() -> None:
    assert parse_batches([batch({"Ra": 1, "Rc": "2.5"}, "a.jpg", "b")]) == [Batch(1, ("a", "b"), {"Ra": 1, "Rc": 2.5})]


ONE = (("a", "Ra", NAN, False),)


@pytest.mark.parametrize(
    ("rows", "batches", "message"),
    [
        (ONE, [batch({"Ra": 1}), batch({"Rc": 1}, "b.jpg", "a.png")], "image a is in batches 1 and 2"),
        (ONE, [batch({"Ra": -1})], "batch 1: mass of Ra is -1"),
        (ONE, [batch({"Ra": 1}), batch({"Rc": "much"}, "b")], "batch 2: mass of Rc is 'much'"),
        (ONE, [batch({"Ra": float("inf")})], "mass of Ra is inf"),
        (ONE, [batch({"Ra": True})], "mass of Ra is True"),
        (ONE, [{"image_names": ["a"]}], "batch 1: needs image_names"),
        (ONE, {"a": 1}, "batches must be a list"),
        (ONE, [batch({"Ra": 1, "Rc": 2})], "batch 1: 2 g of Rc, but its images have no such particle"),
        ((*ONE, ("a", "Ra", 3.0, True)), [batch({"Ra": 2})], "batch 1: 2 g of Ra, but its 1 .* are 3 g, .* 1 more"),
        ((*ONE, ("a", "Ra", 2.0, True)), [batch({"Ra": 2})], "leaves nothing for 1 more"),
        ((("a", "Ra", 3.0, True),), [batch({"Ra": 2})], "batch 1: 2 g of Ra, but all its 1 particles.* are 3 g"),
        ((("a", "Ra", 1.5, True),), [batch({"Ra": 2})], "all its 1 particles.* are 1.5 g"),
        ((*ONE, ("a", "Ra", NAN, False, 100, NAN, 10)), [batch({"Ra": 2})], "row 3: radius is nan"),
        ((("a", "Ra", NAN, False, 0, 5, 10),), [batch({"Ra": 2})], "row 2: area is 0.*--measure"),
    ],
)
def test_what_cannot_be_is_an_error(rows: tuple, batches: list, message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        share_batch_masses(particles(*rows), batches, source="meta.json")
    assert "\n" not in str(error.value)


def test_a_coin_weighs_something() -> None:
    with pytest.raises(RamsesError, match="coin mass 0 g"):
        share_batch_masses(particles(*ONE), [batch({"Ra": 1})], coin_mass=0)


def test_two_weighings_may_differ_a_little() -> None:
    table = particles(("a", "Ra", 1.0, True), ("a", "Ra", 1.001, True))
    shared, report = share_batch_masses(table, [batch({"Ra": 2})])
    assert shared["mass"].tolist() == [1.0, 1.001] and report.at[0, "residual"] == pytest.approx(0.0005)
    assert report.at[0, "how"] == "weighed one by one"


ROW = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "outside"]),
    st.sampled_from(["Ra", "Rc", "Rg"]),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.booleans(),
    st.floats(1, 1e5),
    st.floats(0.5, 200),
    st.floats(2, 40),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.floats(50, 5000), st.permutations(range(4)))
def test_the_masses_of_a_batch_and_class_add_up_to_what_the_scale_said(
    rows: list[tuple], grams: float, order: list[int]
) -> None:
    table = pd.DataFrame(rows, columns=["baseimg", "class", "mass", "gt_mass", "area", "radius", "res"])
    table["gt_mass"] &= table["mass"].notna()
    images = [("a.jpg", "b.jpg"), ("c.jpg",), ("d.jpg",)]
    batches, expected = [], {}
    for number, names in enumerate(images, start=1):
        inside = table[table["baseimg"].isin([name[0] for name in names])]
        totals = {}
        for position, (name, group) in enumerate(inside.groupby("class")):
            if not group["gt_mass"].all():
                totals[name] = expected[number, name] = grams * (1 + order[position])
        batches.append(batch(totals, *names))
    shared, report = share_batch_masses(table, batches)
    number = shared["baseimg"].map({"a": 1, "b": 1, "c": 2, "d": 3})
    for (group, name), total in expected.items():
        assert shared.loc[(number == group) & (shared["class"] == name), "mass"].sum() == pytest.approx(total, rel=1e-9)
    assert (report.loc[report["how"] == "shared", "residual"].abs() < 1e-6).all()
    assert (report["how"] == "shared").sum() == len(expected)
    kept = table["gt_mass"] | number.isna()
    pd.testing.assert_series_equal(shared.loc[kept, "mass"], table.loc[kept, "mass"].astype(float))
    assert (shared["mass"].isna() | (shared["mass"] > 0)).all()
