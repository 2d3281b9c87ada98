"""Resolution from coins: known discs, cut ones, and what the message says."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from skimage.draw import disk, ellipse
from skimage.measure import regionprops

from ramses_d2.analysis.calibration import coin_scales
from ramses_d2.analysis.sample import cut_by_edge
from ramses_d2.errors import RamsesError


def coin(diameter_px: float, image: str = "a.jpg", given: float = 28.7, **columns) -> dict:
    """A perfect disc."""
    row = {"baseimg": image, "class": "Coin", "res": given, "area": np.pi * diameter_px**2 / 4, "edge": ""}
    row |= {"axis_major_length": diameter_px, "axis_minor_length": diameter_px, "mass": 3.92}
    return row | columns


def of_mask(mask: np.ndarray, given: float = 10.0) -> pd.DataFrame:
    region = regionprops(mask.astype(int))[0]
    row = coin(1, given=given, area=region.area)
    return pd.DataFrame([row | {f"axis_{w}_length": getattr(region, f"axis_{w}_length") for w in ("major", "minor")}])


def test_resolution_by_hand():
    # 595 px / 21.25 mm = 28 px/mm, 2.44 % below 28.7: within 3 %
    (found,) = coin_scales(pd.DataFrame([coin(595, mass=3.43)]))
    assert (found.coins, found.usable) == (1, 1)
    assert found.from_area == pytest.approx(28) and found.from_axes == pytest.approx(28)
    assert found.deviation == pytest.approx(28 / 28.7 - 1)
    assert found.mass_ratio == pytest.approx(3.43 / 3.92)
    assert not found.warning
    assert found.message == "a.jpg: the coin says 28.00 px/mm, which differs by -2.4% from the given 28.7"


def test_warning_beyond_3_percent():
    # 573.75 / 21.25 = 27 px/mm; given 28.7: lengths come out 27 / 28.7 as long, grams (27 / 28.7)^2 = 0.885 as heavy
    (found,) = coin_scales(pd.DataFrame([coin(573.75)]))
    assert found.warning
    assert found.message == (
        "a.jpg: the coin says 27.00 px/mm, which differs by -5.9% from the given 28.7: if the coin is right,"
        " lengths are off by -5.9% and grams by -11.5%; check the resolution"
    )
    for given, warns in ((10 / 1.0299, False), (10 / 1.0301, True), (10 / 0.9701, False), (10 / 0.9699, True)):
        (found,) = coin_scales(pd.DataFrame([coin(212.5, given=given)]))
        assert found.warning is warns
    assert not coin_scales(pd.DataFrame([coin(573.75)]), max_deviation=0.06)[0].warning


def test_median_over_the_coins_of_each_image():
    rows = [coin(d * 21.25, "b.jpg", 20) for d in (20, 20.2, 15)] + [coin(200, "a.jpg", 10, **{"class": "Rc"})]
    first, second = coin_scales(pd.DataFrame(rows))
    assert (first.image, first.coins, first.from_area) == ("b.jpg", 3, pytest.approx(20))
    assert "the coins say 20.00 px/mm" in first.message
    assert (second.image, second.coins, second.message) == ("a.jpg", 0, "a.jpg: no coin")
    assert np.isnan(second.from_area) and np.isnan(second.deviation) and not second.warning


def test_cut_and_flat_coins_are_rejected():
    rows = [coin(595), coin(500, edge="top left"), coin(500, axis_major_length=560, axis_minor_length=500)]
    (found,) = coin_scales(pd.DataFrame(rows))
    assert found.rejected == {"cut by the edge of the picture": 1, "not round": 1}
    assert (found.usable, found.from_area) == (1, pytest.approx(28))
    assert "the coin says" in found.message
    (found,) = coin_scales(pd.DataFrame(rows[1:]))
    assert np.isnan(found.from_area) and not found.warning
    assert found.message == "a.jpg: no usable coin (1 cut by the edge of the picture, 1 not round)"


def test_real_discs():
    mask = np.zeros((300, 300), bool)
    mask[disk((150, 150), 106.25)] = True  # 212.5 px across: 10 px/mm
    (found,) = coin_scales(of_mask(mask))
    assert found.from_area == pytest.approx(10, rel=0.003) and found.from_axes == pytest.approx(10, rel=0.003)
    bitten = mask.copy()
    bitten[disk((150, 240), 60)] = False  # another particle lies on it
    assert coin_scales(of_mask(bitten))[0].usable == 0
    holed = mask.copy()
    holed[disk((150, 150), 40)] = False  # a reflection in the middle
    assert coin_scales(of_mask(holed))[0].rejected == {"not a whole disc": 1}
    tilted = np.zeros((300, 300), bool)
    tilted[ellipse(150, 150, 100, 115)] = True
    assert coin_scales(of_mask(tilted))[0].rejected == {"not round": 1}


def test_other_coins():
    # 1 euro: 23.25 mm, 7.5 g
    (found,) = coin_scales(
        pd.DataFrame([coin(232.5, given=10, mass=7.5, **{"class": "Euro"})]),
        class_name="Euro",
        diameter_mm=23.25,
        mass_g=7.5,
    )
    assert (found.from_area, found.mass_ratio) == (pytest.approx(10), pytest.approx(1))


def test_without_a_given_resolution_the_coin_tells_one():
    (found,) = coin_scales(pd.DataFrame([coin(595, given=np.nan, mass=np.nan)]))
    assert found.from_area == pytest.approx(28) and np.isnan(found.deviation) and np.isnan(found.mass_ratio)
    assert found.warning and "28.00 px/mm; no resolution was given" in found.message
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["given"] is None


def test_table_from_a_csv_file():
    # An empty edge comes back as NaN, and so does a column of nothing else
    written = pd.DataFrame([coin(595), coin(500, edge="top")]).to_csv(index=False)
    assert coin_scales(pd.read_csv(io.StringIO(written)))[0].usable == 1
    assert coin_scales(pd.read_csv(io.StringIO(pd.DataFrame([coin(595)]).to_csv(index=False))))[0].usable == 1


def test_images_of_one_name_are_told_apart_by_their_resolution():
    # 595 px are 28 px/mm: right for the first, 6.7 % off for the second; the third has no coin
    rows = [coin(595, given=28), coin(595, given=30), coin(100, given=20, **{"class": "Rc"})]
    found = coin_scales(pd.DataFrame(rows))
    assert [(scale.image, scale.given, scale.coins, scale.warning) for scale in found] == [
        ("a.jpg", 28, 1, False),
        ("a.jpg", 30, 1, True),
        ("a.jpg", 20, 0, False),
    ]
    # What is no resolution is none
    unknown = coin_scales(pd.DataFrame([coin(595, given=given) for given in (np.nan, 0, np.inf)]))
    assert [(np.isnan(scale.given), scale.coins) for scale in unknown] == [(True, 3)]


@pytest.mark.parametrize("edges", [["", "top"], [np.nan, "top"], [None, " left "], ["nan", "top"], [" ", "top"]])
def test_empty_edges_of_any_kind(edges):
    assert cut_by_edge(pd.DataFrame({"edge": edges})).tolist() == [False, True]
    assert cut_by_edge(pd.DataFrame({"edge": edges[:1] * 2})).tolist() == [False, False]
    assert cut_by_edge(pd.DataFrame({"edge": [np.nan, np.nan]})).tolist() == [False, False]
    assert cut_by_edge(pd.DataFrame({"label": [1]})) is None
    assert coin_scales(pd.DataFrame([coin(595, edge=edge) for edge in edges]))[0].usable == 1


def test_wrong_input():
    table = pd.DataFrame([coin(595)])
    assert coin_scales(table[:0]) == []
    with pytest.raises(RamsesError, match="no column axis_minor_length"):
        coin_scales(table.drop(columns="axis_minor_length"))
    with pytest.raises(RamsesError, match="numbers above 0"):
        coin_scales(table, diameter_mm=0)
