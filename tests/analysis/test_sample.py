"""What counts: the constituent map and its file, sieves and sieve sizes, what is left out, edges."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.sample import (
    DEFAULT_MAP,
    SCALE,
    SIEVE_SERIES,
    ConstituentMap,
    SieveSize,
    cut_by_edge,
    load_map,
    number_passing,
    passes,
    sieve_series,
    take_sample,
)
from ramses_d2.errors import RamsesError


def test_default_map_of_the_ramses_classes():
    expected = {"Ra": "Ra", "Rg": "Rg", "Rc": "Rc", "Rcu01": "Rc", "Ru": "Ru", "Rb": "Rb", "X": "X", "Coin": SCALE}
    expected |= {f"Ru0{i}": "Ru" for i in range(1, 7)} | {"Rb01": "Rb", "Rb02": "Rb"}
    expected |= dict.fromkeys(["X01", "X02", "X03", "X04", "UNKNOWN", "Pl", "SHELLS"], "X")
    assert dict(DEFAULT_MAP.classes) == expected


def test_a_map_file_changes_only_what_it_lists_and_survives_a_round_trip(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("# our plant\nRcu01: Ru\nNo: X\n12: scale\n")
    mapping = load_map(path)
    assert mapping.source == "site.yaml" and mapping.own == ("Rcu01", "No", "12")
    assert dict(mapping.classes) == {**DEFAULT_MAP.classes, "Rcu01": "Ru", "No": "X", "12": SCALE}
    odd = {**DEFAULT_MAP.classes, 'say "x"': "X", "no": "Rg", "a: b": "Ra", "back\\slash": "Ru", "b\u00e9ton": "Rc"}
    path.write_text(ConstituentMap(odd).to_yaml(), encoding="utf-8")
    assert dict(load_map(path).classes) == odd


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Rb01: Rb\nRb02: Rbb\n", "line 2: .*'Rbb': did you mean Rb"),
        ("Wood: FL\n", "line 1: FL"),
        ("Rb01: Rb\nRb01: Rc\n", "line 2: class Rb01"),
        ("Rb: [Rb01, Rb02]\n", "line 1: not one"),
        ("Ra: Ra\n? [Rb01, Rb02]\n: Rb\n", "line 2: not one"),
        ("- Rb01\n", "map.yaml"),
        ("", "map.yaml"),
        ("Rb01: [\n", "map.yaml"),
        (None, "map.yaml"),
    ],
)
def test_faults_of_a_map_file(tmp_path, text, message):
    path = tmp_path / "map.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RamsesError, match=message) as caught:
        load_map(path)
    assert "map.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_sieves():
    assert sieve_series("8, 4,16") == sieve_series([16, 8, 4, 4]) == (4, 8, 16)
    assert sieve_series("en-basic") == (1, 2, 4, 8, 16, 31.5, 63)
    assert set(SIEVE_SERIES["en-basic"]) == set(SIEVE_SERIES["en-set1"]) & set(SIEVE_SERIES["en-set2"])
    assert all(list(series) == sorted(set(series)) for series in SIEVE_SERIES.values())
    # The list of the original's graphical interface
    assert SIEVE_SERIES["ramses"] == (0.5, 1, 2, 4, 8, 10, 12.5, 16, 20, 31.5, 63, 100)
    for wrong in ("en-set3", "", [], [0, 4], [4, np.nan], [None]):
        with pytest.raises(RamsesError, match="en-fine, en-basic"):
            sieve_series(wrong)
    for opening in (0.1 * 3, 229.6 / 28.7, 6.3):  # one exactly as large passes
        sizes = opening * np.array([1 - 1e-15, 1, 1 + 1e-15, 1.001])
        assert passes(sizes, opening).tolist() == [True, True, True, False]
        assert number_passing(sizes, [opening]).tolist() == [3]


def test_sizes_of_an_old_table_and_other_measures():
    table = pd.DataFrame({"class": "Rc", "mass": 1.0, "res": [10.0, 20.0, np.nan, 0.0, np.inf]})
    table["min_feret_diameter"] = 60  # 6 and 3 mm
    table["max_inscribed_radius"] = 25  # 5 and 2.5 mm
    table["axis_minor_length"] = 55  # 5.5 and 2.75 mm
    unknown = [np.nan] * 3
    np.testing.assert_allclose(SieveSize().of(table), [6, 3, *unknown])
    np.testing.assert_allclose(SieveSize("inscribed").of(table), [5, 2.5, *unknown])
    np.testing.assert_allclose(SieveSize("ellipse_minor", 0.8).of(table), [4.4, 2.2, *unknown])
    np.testing.assert_allclose(SieveSize(factor=2.0).of(table.assign(feret_min_mm=1.5)), [3] * 5)
    for size, columns in (
        (SieveSize(), "feret_min_mm, or min_feret_diameter and res"),
        (SieveSize("ellipse_minor"), "res"),
    ):
        with pytest.raises(RamsesError, match=f"needs .*{columns}"):
            size.of(table.drop(columns="res"))
    with pytest.raises(RamsesError, match="feret_min, inscribed, ellipse_minor"):
        SieveSize("feret_max")
    for factor in (0, -1, np.nan, np.inf):
        with pytest.raises(RamsesError, match="factor"):
            SieveSize(factor=factor)


def particles(*rows, **columns):
    """Rows of (class, mass, area)."""
    return pd.DataFrame(rows, columns=["class", "mass", "area"]).assign(baseimg="a.jpg", **columns)


def test_what_is_left_out_and_why():
    table = particles(("Coin", 3.92, 9), ("Rc", 3.0, 18), ("Rc", np.nan, 7), ("X02", np.inf, 3))
    sample = take_sample(table)
    assert sample.rows[["class", "constituent", "weight"]].to_numpy().tolist() == [["Rc", "Rc", 3.0]]
    assert sample.left_out[["reason", "class", "constituent", "particles"]].to_numpy().tolist() == [
        ["scale object", "Coin", SCALE, 1],
        ["unknown mass", "Rc", "Rc", 1],
        ["unknown mass", "X02", "X", 1],
    ]
    # 3 particles and 28 px without the coin
    np.testing.assert_allclose(sample.left_out["particle_share"], [np.nan, 1 / 3, 1 / 3])
    np.testing.assert_allclose(sample.left_out["area_share"], [np.nan, 7 / 28, 3 / 28])
    np.testing.assert_allclose(sample.left_out["mass_g"], [3.92, np.nan, np.nan])
    # In mm2 where all resolutions are known: 100 px at 10 px/mm are 1 mm2, at 5 px/mm 4 mm2
    table = particles(("Rc", 1.0, 100), ("Rc", np.nan, 100))
    assert take_sample(table.assign(res=[10.0, 5.0])).left_out["area_share"].tolist() == pytest.approx([0.8])
    assert take_sample(table.assign(res=[10.0, np.nan])).left_out["area_share"].tolist() == [0.5]


def test_size_ranges_and_weights():
    rows = [("Rc", 1.0, 1), ("Ru", 2.0, 1), ("Ru", 4.0, 1), ("Rb", 8.0, 1), ("Rb", 16.0, 1), ("Ra", 32.0, 1)]
    table = particles(*rows, feret_min_mm=[4.0, 4.1, 63.0, 63.1, np.nan, 20.0])
    # What passes 63 and stays on 4: 4.1, 63 and 20 mm
    sample = take_sample(table, size_range=(4, 63))
    assert sorted(sample.rows["weight"]) == [2, 4, 32]
    assert sample.left_out[["reason", "class", "mass_g"]].to_numpy().tolist() == [
        ["outside 4-63 mm", "Rb", 8.0],
        ["outside 4-63 mm", "Rc", 1.0],
        ["unknown size", "Rb", 16.0],
    ]
    assert take_sample(table, weight="count").rows["weight"].tolist() == [1] * 6
    by_area = take_sample(table.assign(area_mm2=[3.0, np.inf, 5, 1, 1, np.nan]), weight="area")
    assert sorted(by_area.rows["weight"]) == [1, 1, 3, 5] and set(by_area.left_out["reason"]) == {"unknown area"}
    assert sorted(take_sample(table.assign(res=2.0), weight="area").rows["weight"]) == [0.25] * 6


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"mass": None}, {}, "column mass"),
        ({"class": None}, {}, "column class"),
        ({"mass": [1.0, -1.0]}, {}, r"row 2 \(baseimg a.jpg, label 2\): mass -1.0"),
        ({"class": "Slag"}, {}, 'class Slag .map: built-in.*"Slag: X"'),
        ({"class": "Slag"}, {"foreign": "FL"}, "'FL': .*Rc Ru"),
        ({}, {"weight": "volume"}, "'volume': .*mass, count, area"),
        ({}, {"weight": "area"}, "area_mm2"),
        ({}, {"size_range": (63, 4)}, "63"),
        ({}, {"size_range": (-1, 4)}, "-1"),
    ],
)
def test_wrong_tables_and_options(changes, options, message):
    table = particles(("Rc", 1.0, 1), ("Rc", 1.0, 1), label=[1, 2])
    table = table.assign(**changes).drop(columns=[name for name, value in changes.items() if value is None])
    with pytest.raises(RamsesError, match=message):
        take_sample(table, **options)


@pytest.mark.parametrize("edges", [["", "top"], [np.nan, "top"], [None, " left "], ["nan", "top"], [" ", "top"]])
def test_empty_edges_of_any_kind(edges):
    assert cut_by_edge(pd.DataFrame({"edge": edges})).tolist() == [False, True]
    assert cut_by_edge(pd.DataFrame({"edge": edges[:1] * 2})).tolist() == [False, False]
    assert cut_by_edge(pd.DataFrame({"edge": [np.nan, np.nan]})).tolist() == [False, False]
    assert cut_by_edge(pd.read_csv(io.StringIO("edge,a\n,1\ntop,2\n"))).tolist() == [False, True]
    assert cut_by_edge(pd.DataFrame({"label": [1]})) is None
