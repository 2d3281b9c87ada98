"""Mass fractions against hand-computed ones, and what is left out of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.composition import compose
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.sample import CONSTITUENTS, DEFAULT_MAP, SCALE, ConstituentMap, load_map
from ramses_d2.errors import RamsesError
from ramses_d2.files import json_values

QUICK = Resampling(replicates=200)
MANY = Resampling(replicates=20_000)


def particles(*rows: tuple, **columns) -> pd.DataFrame:
    """Rows of (class, mass, area) with an image each unless given."""
    table = pd.DataFrame(rows, columns=["class", "mass", "area"])
    return table.assign(baseimg=columns.pop("baseimg", "a.jpg"), label=range(1, len(table) + 1), **columns)


def sample() -> pd.DataFrame:
    # Weighed: Rc 3 + 1, Rcu01 2 (lime mortar, is Rc), Ru02 2, Rb01 1.5, Rg 0.5 g: 10 g in all. 28 px without the coin.
    return particles(
        ("Rc", 3.0, 4),
        ("Rcu01", 2.0, 3),
        ("Rb01", 1.5, 3),
        ("Coin", 3.92, 9),
        ("Ru02", 2.0, 5),
        ("Rc", 1.0, 2),
        ("Rc", np.nan, 7),  # not weighed
        ("X02", np.inf, 3),  # not weighed either
        ("Rg", 0.5, 1),
    )


def by(frame: pd.DataFrame, key: str, column: str) -> dict:
    return dict(zip(frame[key], frame[column], strict=True))


def test_fractions_by_hand():
    found = compose(sample(), resampling=QUICK)
    assert list(found.constituents["constituent"]) == ["Rc", "Ru", "Rb", "Ra", "Rg", "X", "FL"]
    fractions = by(found.constituents, "constituent", "fraction")
    # Rc (3 + 1 + 2) / 10, Ru 2 / 10, Rb 1.5 / 10, Rg 0.5 / 10
    assert {key: fractions[key] for key in CONSTITUENTS} == pytest.approx(
        {"Rc": 0.6, "Ru": 0.2, "Rb": 0.15, "Ra": 0, "Rg": 0.05, "X": 0}
    )
    assert by(found.constituents[:-1], "constituent", "particles") == {
        "Rc": 3,
        "Ru": 1,
        "Rb": 1,
        "Ra": 0,
        "Rg": 1,
        "X": 0,
    }
    assert by(found.constituents, "constituent", "mass_g")["Rc"] == 6
    # Rcu = Rc + Ru, Rcug = Rc + Ru + Rg, XRg = X + Rg
    assert by(found.sums, "constituent", "fraction") == pytest.approx({"Rcu": 0.8, "Rcug": 0.85, "XRg": 0.05})
    # Classes in the order of the map; only those that were weighed
    assert by(found.classes, "class", "fraction") == pytest.approx(
        {"Rc": 0.4, "Rcu01": 0.2, "Ru02": 0.2, "Rb01": 0.15, "Rg": 0.05}
    )
    assert by(found.classes, "class", "constituent")["Rcu01"] == "Rc"
    assert (found.particles, found.mass_g, found.images) == (6, 10.0, 1)
    # 10^2 / (9 + 4 + 2.25 + 4 + 1 + 0.25)
    assert found.effective_particles == pytest.approx(100 / 20.5)


def test_floating_material_has_no_figure():
    floating = compose(sample(), resampling=QUICK).constituents.iloc[-1]
    assert floating["constituent"] == "FL" and floating["remark"] == "not visible in pictures"
    assert floating[["particles", "mass_g", "fraction", "low", "high"]].isna().all()


def test_what_is_left_out_is_listed():
    left_out = compose(sample(), resampling=QUICK).left_out
    assert left_out[["reason", "class", "particles"]].to_numpy().tolist() == [
        ["scale object", "Coin", 1],
        ["unknown mass", "Rc", 1],
        ["unknown mass", "X02", 1],
    ]
    # 8 particles and 28 px without the coin: 1 / 8 each, 7 / 28 and 3 / 28
    np.testing.assert_allclose(left_out["particle_share"], [np.nan, 1 / 8, 1 / 8])
    np.testing.assert_allclose(left_out["area_share"], [np.nan, 7 / 28, 3 / 28])
    np.testing.assert_allclose(left_out["mass_g"], [3.92, np.nan, np.nan])
    # 2 of 8 particles, 10 of 28 px
    assert compose(sample(), resampling=QUICK).notes == (
        "unknown mass: 2 particles (25.0% by number, 35.7% by area) left out here",
    )


def test_area_shares_are_in_mm2_where_the_resolution_is_known():
    # 100 px at 10 px/mm are 1 mm2, 100 px at 5 px/mm are 4 mm2
    table = particles(("Rc", 1.0, 100), ("Rc", np.nan, 100), res=[10.0, 5.0])
    assert compose(table, resampling=None).left_out["area_share"].tolist() == pytest.approx([0.8])


def test_nothing_weighed_gives_unknown_fractions():
    for table in (sample()[:0], sample().assign(mass=np.nan), sample().assign(mass=0.0)):
        found = compose(table, resampling=QUICK)
        assert found.constituents[["fraction", "low", "high"]].isna().all(axis=None)
        assert found.mass_g == 0
        json.dumps(found.to_json(), allow_nan=False)
    assert "no particle of known weight: there are no figures" in compose(sample()[:0]).notes


def test_fractions_sum_to_one_and_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "class": rng.choice(list(DEFAULT_MAP.classes), 200),
            "mass": np.round(rng.lognormal(0, 1, 200), 1),  # with ties
            "area": 1,
            "baseimg": rng.choice(["a", "b", "c"], 200),
        }
    )
    for resampling in (QUICK, Resampling("pictures", replicates=200)):
        found = compose(table, resampling=resampling)
        shuffled = compose(table.sample(frac=1, random_state=1), resampling=resampling)
        assert found.constituents["fraction"].sum() == pytest.approx(1)
        assert found.classes["fraction"].sum() == pytest.approx(1)
        pd.testing.assert_frame_equal(found.constituents, shuffled.constituents)
        pd.testing.assert_frame_equal(found.classes, shuffled.classes)
        inside = found.constituents.iloc[:-1]
        assert (inside["low"] <= inside["fraction"]).all() and (inside["fraction"] <= inside["high"]).all()


def test_interval_of_equal_particles_is_binomial():
    # The mid-p interval of 40 in 100 is 0.3075 to 0.4982
    table = particles(*[("Rc", 2.0, 1)] * 40, *[("Ru", 2.0, 1)] * 60)
    found = compose(table, resampling=Resampling(replicates=20_000)).constituents.iloc[0]
    assert (found["low"], found["high"]) == (pytest.approx(0.3075, abs=0.003), pytest.approx(0.4982, abs=0.003))


def test_interval_over_images():
    # Two images, one all Rc, one all Ru, of equal mass. Mid-p of 1 in 2: (1 - p)^2 + p (1 - p) = 1 - p = 97.5 %
    table = particles(*[("Rc", 1.0, 1)] * 50, *[("Ru", 1.0, 1)] * 50, baseimg=["a.jpg"] * 50 + ["b.jpg"] * 50)
    found = compose(table, resampling=Resampling("pictures", replicates=20_000))
    assert found.constituents.loc[0, ["low", "high"]].tolist() == pytest.approx([0.025, 0.975], abs=0.003)
    assert found.notes == ("only 2 images: the intervals over images are rough",)
    alone = compose(table[:50], resampling=Resampling("pictures"))
    assert alone.constituents["low"].isna().all() and len(alone.replicates) == 0
    assert alone.notes == ("no intervals: the bootstrap over images needs 2 images, there is 1",)
    assert alone.constituents.loc[0, "fraction"] == 1


def test_what_was_not_seen_is_not_certain_to_be_absent():
    # Equal particles, so 59 effective ones: 1 - 0.05^(1/59) = 0.0495
    found = compose(particles(*[("Rc", 2.0, 1)] * 59), resampling=MANY).constituents.set_index("constituent")
    assert found.loc["Ra", ["low", "fraction", "high"]].tolist() == pytest.approx([0, 0, 0.0495], abs=1e-3)
    assert found.loc["Rc", ["low", "fraction", "high"]].tolist() == pytest.approx([0.9505, 1, 1], abs=1e-3)
    assert found["remark"].tolist()[:2] == ["nothing else seen", "none seen"]


def test_a_speck_does_not_shorten_an_interval():
    # What the 59 particles of Rc say does not change: up to 0.0495, seen or not
    bound = 1 - 0.05 ** (1 / 59)
    for specks in range(4):
        table = particles(*[("Rc", 2.0, 1)] * 59, *[("Rg", 0.05, 1)] * specks)
        found = compose(table, resampling=MANY).constituents.set_index("constituent")
        seen = 0.05 * specks / (59 * 2)
        assert found.loc["Rg", "low"] <= seen
        assert found.loc["Rg", "high"] == pytest.approx(bound + seen, abs=1e-3)
        assert found.loc["Rc", "low"] == pytest.approx(1 - bound - seen, abs=1e-3)
        assert found.loc["Rg", "remark"] == ("" if specks else "none seen")


def test_what_images_did_not_show():
    # 4 images of 50 g each, however many particles that are: 1 - 0.05^(1/4) = 0.527
    table = particles(*[("Rc", 1.0, 1)] * 200, baseimg=[f"{i % 4}.jpg" for i in range(200)])
    found = compose(table, resampling=Resampling("pictures", replicates=20_000)).constituents.set_index("constituent")
    assert found.loc["Ra", ["low", "high"]].tolist() == pytest.approx([0, 0.527], abs=0.01)
    assert found.loc["Rc", ["low", "high"]].tolist() == pytest.approx([0.473, 1], abs=0.01)


def test_only_the_4_to_63_mm_portion():
    table = particles(("Rc", 1.0, 1), ("Ru", 2.0, 1), ("Ru", 4.0, 1), ("Rb", 8.0, 1), ("Rb", 16.0, 1), ("Ra", 32.0, 1))
    table["feret_min_mm"] = [4.0, 4.1, 63.0, 63.1, np.nan, 20.0]  # what passes 63 and stays on 4: 4.1, 63 and 20 mm
    found = compose(table, resampling=None, size_range=(4, 63))
    assert found.mass_g == 2 + 4 + 32
    assert found.left_out[["reason", "class", "mass_g"]].to_numpy().tolist() == [
        ["outside 4-63 mm", "Rb", 8.0],
        ["outside 4-63 mm", "Rc", 1.0],
        ["unknown size", "Rb", 16.0],
    ]
    with pytest.raises(RamsesError, match="smaller first"):
        compose(table, size_range=(63, 4))


def test_to_json_has_every_figure_and_no_nan():
    found = compose(sample(), resampling=QUICK)
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["constituents"][0]["fraction"] == pytest.approx(0.6)
    assert written["constituents"][-1]["particles"] is None
    assert written["resampling"]["replicates"] == 200
    assert "replicates" not in written
    assert json_values({"a": [pd.NA, np.float32("nan"), np.int64(3), (np.inf, "text")]}) == {
        "a": [None, None, 3, [None, "text"]]
    }


def test_foreign_classes():
    table = particles(("Rc", 1.0, 1), ("Slag", 3.0, 1))
    with pytest.raises(RamsesError, match=r'class Slag \(map: built-in\): add a line such as "Slag: X" to the YAML'):
        compose(table)
    found = compose(table, foreign="X", resampling=None)
    assert by(found.constituents, "constituent", "fraction")["X"] == 0.75
    assert found.notes == ("not in the constituent map, counted as X: Slag",)
    with pytest.raises(RamsesError, match="give one of Rc Ru"):
        compose(table, foreign="FL")


def test_wrong_tables():
    with pytest.raises(RamsesError, match="no column mass"):
        compose(sample().drop(columns="mass"))
    with pytest.raises(RamsesError, match=r"row 2 \(baseimg a.jpg, label 2\): mass -1.0 g is below 0"):
        compose(particles(("Rc", 1.0, 1), ("Rc", -1.0, 1)))


def test_default_map_of_the_ramses_classes():
    expected = {"Ra": "Ra", "Rg": "Rg", "Rc": "Rc", "Rcu01": "Rc", "Ru": "Ru", "Rb": "Rb", "X": "X", "Coin": SCALE}
    expected |= {f"Ru0{i}": "Ru" for i in range(1, 7)} | {"Rb01": "Rb", "Rb02": "Rb"}
    expected |= dict.fromkeys(["X01", "X02", "X03", "X04", "UNKNOWN", "Pl", "SHELLS"], "X")
    assert dict(DEFAULT_MAP.classes) == expected


def test_map_from_yaml_changes_only_what_it_lists(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("# our plant\nRcu01: Ru\nNo: X\n12: scale\n")
    mapping = load_map(path)
    assert mapping.source == "site.yaml"
    assert (mapping.classes["Rcu01"], mapping.classes["No"], mapping.classes["12"]) == ("Ru", "X", SCALE)
    assert mapping.classes["Rb01"] == "Rb"
    found = compose(sample(), mapping, resampling=None)
    assert by(found.constituents, "constituent", "fraction")["Ru"] == pytest.approx(0.4)  # 2 + 2 of 10 g
    assert found.map_source == "site.yaml"


def test_map_survives_a_round_trip(tmp_path):
    odd = ConstituentMap({**DEFAULT_MAP.classes, 'say "x"': "X", "no": "Rg", "a: b": "Ra", "back\\slash": "Ru"})
    (tmp_path / "map.yaml").write_text(odd.to_yaml())
    assert dict(load_map(tmp_path / "map.yaml").classes) == dict(odd.classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Rb01: Rb\nRb02: Rbb\n", "line 2: no constituent 'Rbb': did you mean Rb?"),
        ("Wood: FL\n", "line 1: FL is a volume"),
        ("Rb01: Rb\nRb01: Rc\n", "line 2: class Rb01 comes twice"),
        ("Rb: [Rb01, Rb02]\n", "line 1: not one class and one constituent"),
        ("- Rb01\n", "not a constituent map"),
        ("", "not a constituent map"),
        ("Rb01: [\n", "not a readable constituent map"),
    ],
)
def test_wrong_maps(tmp_path, text, message):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(RamsesError) as caught:
        load_map(path)
    assert message in str(caught.value) and "map.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_map(tmp_path):
    with pytest.raises(RamsesError, match=r"none\.yaml: not a readable constituent map"):
        load_map(tmp_path / "none.yaml")


def test_what_weighs_nothing_was_seen_all_the_same():
    found = compose(particles(("Rc", 1.0, 1), ("Rc", 2.0, 1), ("Rg", 0.0, 1)), resampling=QUICK).constituents
    glass = found.set_index("constituent").loc["Rg"]
    assert (glass["particles"], glass["fraction"], glass["remark"]) == (1, 0, "")


def test_no_intervals_are_no_resampling():
    assert compose(particles(("Rc", 1.0, 1)), resampling=Resampling("pictures")).resampling is None
