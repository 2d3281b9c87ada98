"""Batches compared by hand, correction factors and their file, and the resolution that coins tell."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.draw import disk, ellipse
from skimage.measure import regionprops

from ramses_d2.analysis.calibration import (
    ClassFactor,
    Factors,
    calibrate,
    coin_scales,
    compare_batches,
    is_same_file,
    read_factors,
)
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.report.data import Run, RunImage, WeighedBatches
from ramses_d2.data.batch_masses import parse_batches
from ramses_d2.errors import RamsesError

ROWS = [("a.jpg", "Rc", 10.0), ("a.jpg", "Rc", 20.0), ("a.jpg", "Ru", 5.0), ("b.jpg", "Rc", 10.0)]
ROWS += [("b.jpg", "Ru", 8.0), ("b.jpg", "Rg", 1.0), ("c.jpg", "Rc", 40.0)]
UNKNOWN = ("c.jpg", "Rc", math.nan)
IMAGES = ["a.jpg", "b.jpg", "c.jpg", "empty.jpg"]


def table(rows=ROWS):
    return pd.DataFrame(rows, columns=["baseimg", "class", "mass"])


def batches(*given):
    """Of (images, grams of each class)."""
    return parse_batches([{"image_names": names, "mass": mass} for names, mass in given])


def run(rows=ROWS, images=IMAGES, **record):
    return Run(Path("predictions"), table(rows), [RunImage(name, name) for name in images], record)


@pytest.fixture
def weighed(tmp_path):
    """Factory of the batches of a file."""
    path = tmp_path / "metadata.json"
    path.write_text("{}")
    return lambda *given: WeighedBatches(path, batches(*given))


# ---- comparison


def test_comparison_by_hand():
    given = batches((["a.jpg", "b.jpg"], {"Rc": 44, "Ru": 10, "Rb": 3}), (["c"], {"Rc": 20, "Ru": None}))
    comparison = compare_batches(table(), given, IMAGES)
    columns = ["batch", "class", "pictures", "particles", "weighed_g", "predicted_g", "error_g"]
    assert comparison.per_batch[columns].to_numpy().tolist() == [
        [1, "Rc", 2, 3, 44.0, 40.0, -4.0],
        [1, "Ru", 2, 2, 10.0, 13.0, 3.0],
        [1, "Rb", 2, 0, 3.0, 0.0, -3.0],
        [2, "Rc", 1, 1, 20.0, 40.0, 20.0],
    ]
    assert comparison.per_batch["error"].tolist() == pytest.approx([40 / 44 - 1, 0.3, -1, 1])
    classes = comparison.classes.set_index("class")
    assert list(classes.index) == ["Rc", "Ru", "Rb"]
    assert classes.loc["Rc", ["batches", "particles", "weighed_g", "predicted_g"]].tolist() == [2, 4, 64, 80]
    assert comparison.totals[["batch", "weighed_g", "predicted_g"]].to_numpy().tolist() == [[1, 57, 53], [2, 20, 40]]
    assert comparison.error == pytest.approx(93 / 77 - 1)
    assert comparison.not_weighed == {"Rg": 1.0} and comparison.left_out == []
    # Particles of unknown mass are counted
    comparison = compare_batches(table([*ROWS, UNKNOWN]), batches((["c.jpg"], {"Rc": 20})), IMAGES)
    assert comparison.per_batch[["particles", "unknown_mass", "predicted_g"]].to_numpy().tolist() == [[2, 1, 40.0]]


def test_batches_that_are_not_whole_are_left_out_and_named():
    images = ["a.jpg", "gone.jpg"], ["other.jpg"], ["c.jpg"], ["empty.jpg"]
    given = batches(*((names, {"Rc": 20}) for names in images))
    comparison = compare_batches(table(), given, IMAGES)
    assert comparison.per_batch["batch"].tolist() == [3, 4]  # an image without particles is in the run
    assert comparison.left_out == ["batch 1: 1 of its 2 images not in this run"]
    twice = compare_batches(table(), given[2:3], [*IMAGES, "more/c.png"])
    assert twice.per_batch.empty and twice.left_out == ["batch 3: two images of this run are called c"]
    assert math.isnan(twice.error)


# ---- factors


def test_factors_by_hand(weighed):
    given = weighed((["a.jpg"], {"Rc": 33, "Ru": 4, "Rb": 2}), (["b.jpg"], {"Rc": 11}), (["c.jpg"], {"Rc": 20}))
    factors, comparison = calibrate(run(settings={"weights_sha256": "abc"}), given, day="2026-01-02")
    assert set(factors.classes) == {"Rc", "Ru"}
    rc, ru = factors.classes["Rc"], factors.classes["Ru"]
    assert rc.factor == pytest.approx(64 / 80) and ru.factor == pytest.approx(4 / 5)
    assert (rc.batches, rc.weighed_g, rc.predicted_g, rc.particles) == (3, 64, 80, 4)
    assert math.isnan(ru.low) and ru.batches == 1  # one batch tells nothing of its spread
    assert factors.without == {"Rb": "weighed, but no such particle predicted"}
    assert factors.origin["weights"] == {"sha256": "abc"} and factors.origin["batches"] == 3
    assert factors.origin["created"] == "2026-01-02" and factors.origin["run"] == "predictions"
    assert len(comparison.totals) == 3
    # A mass that is unknown spoils its batch only
    factors, _ = calibrate(run([*ROWS, UNKNOWN]), weighed((["a.jpg"], {"Rc": 33}), (["c.jpg"], {"Rc": 20})))
    assert factors.classes["Rc"].factor == pytest.approx(33 / 30) and factors.classes["Rc"].batches == 1
    with pytest.raises(RamsesError, match="Rc: particles of unknown mass in every batch"):
        calibrate(run([("a.jpg", "Rc", math.nan)]), weighed((["a.jpg"], {"Rc": 33})))
    with pytest.raises(RamsesError, match="none of its 1 batches.*batch 1: 1 of its 2 images"):
        calibrate(run(), weighed((["a.jpg", "gone.jpg"], {"Rc": 1})))
    with pytest.raises(RamsesError, match="--batch"):
        calibrate(run(), WeighedBatches(None, []))


def test_interval_draws_whole_batches(weighed):
    """33 of 30 g, 11 of 10 and 20 of 40: quotients 1.1, 1.1 and 0.5; 64 of 80 g together."""
    given = weighed((["a.jpg"], {"Rc": 33}), (["b.jpg"], {"Rc": 11}), (["c.jpg"], {"Rc": 20}))
    rc = calibrate(run(), given, Resampling(replicates=4000))[0].classes["Rc"]
    weights = np.random.default_rng(5).exponential(size=(100_000, 3))
    ends = np.quantile(weights @ [33, 11, 20] / (weights @ [30, 10, 40]), [0.025, 0.975])
    assert [rc.low, rc.high] == pytest.approx(ends.tolist(), abs=0.01)
    narrow = calibrate(run(), given, Resampling(replicates=4000, confidence=0.5))[0].classes["Rc"]
    assert rc.low < narrow.low < rc.factor < narrow.high <= rc.high


def test_interval_holds_the_truth_in_most_simulations(weighed):
    rng, held = np.random.default_rng(3), 0
    names = [f"p{index}.jpg" for index in range(20)]
    for _ in range(100):
        predicted = rng.uniform(5, 20, len(names))
        rows = list(zip(names, ["Rc"] * len(names), predicted, strict=True))
        given = weighed(*(([name], {"Rc": grams * rng.normal(0.9, 0.1)}) for name, _, grams in rows))
        rc = calibrate(run(rows, names), given, Resampling(replicates=300))[0].classes["Rc"]
        held += rc.low <= 0.9 <= rc.high
    assert 87 <= held <= 99


def test_corrected_masses_reproduce_the_batches(weighed):
    given = weighed((["a.jpg", "b.jpg"], {"Rc": 33, "Ru": 4}), (["c.jpg"], {"Rc": 20}))
    factors, before = calibrate(run(), given)
    original = table()
    corrected = factors.apply(original)
    after = compare_batches(corrected, given.batches, IMAGES)
    assert after.classes["error"].to_numpy() == pytest.approx([0, 0]) and abs(before.error) > 0.3
    assert corrected.loc[corrected["class"] == "Rg", "mass"].tolist() == [1.0]  # never weighed: as predicted
    pd.testing.assert_frame_equal(original, table())


def test_file_round_trip_and_short_form(weighed, tmp_path):
    given = weighed((["a.jpg"], {"Rc": 33, "Ru": 4, "Rb": 2}), (["b.jpg"], {"Rc": 11}))
    factors, _ = calibrate(run(weights_file="model.pth"), given, day="2026-01-02")
    path = tmp_path / "factors.yaml"
    path.write_text(factors.to_yaml(), encoding="utf-8")
    read = read_factors(path)
    assert read.name == "factors.yaml" and dict(read.origin) == dict(factors.origin) and read.without == factors.without
    assert set(read.classes) == set(factors.classes) and factors.classes["Rc"].low == pytest.approx(1.1)  # of 2 batches
    for name, entry in factors.classes.items():
        assert asdict(read.classes[name]) == pytest.approx(asdict(entry), rel=1e-5, nan_ok=True)
    assert factors.origin["batches_sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert is_same_file(read, given.source)
    given.source.write_text("{ }")
    assert not is_same_file(read, given.source) and not is_same_file(read, None)
    path.write_text("format: ramses-factors\nfactors: {Rc: 1.1, Ru: {factor: 0.9, low: null}}\n")
    assert read_factors(path).classes["Rc"] == ClassFactor(1.1)
    assert Factors({"Rc": ClassFactor(2.0)}).apply(table())["mass"].tolist()[:3] == [20, 40, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.yaml"),
        ("a: [", "mine.yaml"),
        ("Rc: 1.1\n", "mine.yaml: not a file of correction factors"),
        ("format: ramses-factors\n", "mine.yaml: no factors"),
        *((f"format: ramses-factors\nfactors: {{Rc: {value}}}\n", f"mine.yaml, Rc: {shown}") for value, shown in (
            ("-1", "factor is -1"), ("0", "factor is 0"), (".inf", "factor is inf"), ("much", "factor is 'much'"),
            ("true", "factor is True"), ("{factr: 1}", "factr"), ("{low: 1}", "factor"), ("{factor: 1, low: a}", "low"),
        )),
        *((f"format: ramses-factors\nfactors: {{Rc: 1.1}}\n{line}\n", "no_factor, origin or its weights")
          for line in ("no_factor: [a]", "origin: 3", "origin: {weights: abc}")),
    ],
)  # fmt: skip
def test_faults_of_a_file_of_factors(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RamsesError, match=message) as caught:
        read_factors(path)
    assert "\n" not in str(caught.value)


# ---- coins


def coin(diameter_px, image="a.jpg", given=28.7, **columns):
    """A perfect disc."""
    row = {"baseimg": image, "class": "Coin", "res": given, "area": np.pi * diameter_px**2 / 4, "edge": ""}
    row |= {"axis_major_length": diameter_px, "axis_minor_length": diameter_px, "mass": 3.92}
    return row | columns


def scales(*rows, **options):
    return coin_scales(pd.DataFrame(rows), **options)


def test_resolution_by_hand():
    # 595 px / 21.25 mm = 28 px/mm, 2.44 % below 28.7: within 3 %
    (found,) = scales(coin(595, mass=3.43))
    assert (found.coins, found.usable, found.warning) == (1, 1, False)
    assert found.from_area == pytest.approx(28) and found.from_axes == pytest.approx(28)
    assert found.deviation == pytest.approx(28 / 28.7 - 1) and found.mass_ratio == pytest.approx(3.43 / 3.92)
    assert "28.00 px/mm" in found.message and "-2.4% from the given 28.7" in found.message
    # 573.75 / 21.25 = 27 px/mm: lengths come out 27 / 28.7 as long, grams (27 / 28.7)^2 = 0.885 as heavy
    (found,) = scales(coin(573.75))
    assert found.warning
    assert "lengths are off by -5.9%" in found.message and "grams by -11.5%" in found.message
    for given, warns in ((10 / 1.0299, False), (10 / 1.0301, True), (10 / 0.9701, False), (10 / 0.9699, True)):
        assert scales(coin(212.5, given=given))[0].warning is warns
    assert not scales(coin(573.75), max_deviation=0.06)[0].warning
    # 1 euro: 23.25 mm, 7.5 g
    euro = coin(232.5, given=10, mass=7.5) | {"class": "Euro"}
    (found,) = scales(euro, class_name="Euro", diameter_mm=23.25, mass_g=7.5)
    assert (found.from_area, found.mass_ratio) == (pytest.approx(10), pytest.approx(1))


def test_coins_of_each_image_and_resolution():
    stone = coin(200, "a.jpg", 10) | {"class": "Rc"}
    first, second = scales(*(coin(d * 21.25, "b.jpg", 20) for d in (20, 20.2, 15)), stone)
    assert (first.image, first.coins, first.from_area) == ("b.jpg", 3, pytest.approx(20))  # the median
    assert "the coins say 20.00 px/mm" in first.message
    assert (second.image, second.coins, second.message) == ("a.jpg", 0, "a.jpg: no coin")
    assert np.isnan(second.from_area) and np.isnan(second.deviation) and not second.warning
    # 595 px are 28 px/mm: right for the first, 6.7 % off for the second image of this name; the third has no coin
    found = scales(coin(595, given=28), coin(595, given=30), stone | {"res": 20})
    values = [(scale.image, scale.given, scale.coins, scale.warning) for scale in found]
    assert values == [("a.jpg", 28, 1, False), ("a.jpg", 30, 1, True), ("a.jpg", 20, 0, False)]
    # Without a resolution the coin tells one
    (found,) = scales(*(coin(595, given=given, mass=np.nan) for given in (np.nan, 0, np.inf)))
    assert np.isnan(found.given) and found.coins == 3
    assert found.from_area == pytest.approx(28) and np.isnan(found.deviation) and np.isnan(found.mass_ratio)
    assert found.warning and "28.00 px/mm; no resolution was given" in found.message
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["given"] is None
    assert coin_scales(pd.DataFrame([coin(595)])[:0]) == []


def test_cut_and_flat_coins_are_rejected():
    rows = [coin(595), coin(500, edge="top left"), coin(500, axis_major_length=560, axis_minor_length=500)]
    (found,) = scales(*rows)
    assert found.rejected == {"cut by the edge of the image": 1, "not round": 1}
    assert (found.usable, found.from_area) == (1, pytest.approx(28)) and "the coin says" in found.message
    (found,) = scales(*rows[1:])
    assert np.isnan(found.from_area) and not found.warning and "no usable coin (1 cut" in found.message
    # An empty edge comes back as NaN, and so does a column of nothing else
    for edges in (["", "top"], [""], ["nan", " left "]):
        written = pd.DataFrame([coin(595, edge=edge) for edge in edges]).to_csv(index=False)
        assert coin_scales(pd.read_csv(io.StringIO(written)))[0].usable == 1
    (found,) = coin_scales(pd.DataFrame(rows[1:]).drop(columns=["edge", "mass"]))
    assert found.usable == 1 and np.isnan(found.mass_ratio)
    for column in ("axis_minor_length", "res"):
        with pytest.raises(RamsesError, match=f"column {column}"):
            coin_scales(pd.DataFrame(rows).drop(columns=column))
    for wrong in ({"diameter_mm": 0}, {"mass_g": 0}):
        with pytest.raises(RamsesError, match="above 0"):
            scales(coin(595), **wrong)


def test_real_discs():
    def scale_of(*changes):
        """From a mask of 300 x 300 px at a given 10 px/mm, painted and bitten by turns."""
        mask = np.zeros((300, 300), bool)
        for value, pixels in zip((True, False), changes, strict=False):
            mask[pixels] = value
        region = regionprops(mask.astype(int))[0]
        axes = {f"axis_{which}_length": getattr(region, f"axis_{which}_length") for which in ("major", "minor")}
        return scales(coin(1, given=10.0, area=region.area, **axes))[0]

    whole = disk((150, 150), 106.25)  # 212.5 px across: 10 px/mm
    assert scale_of(whole).from_area == pytest.approx(10, rel=0.003) == scale_of(whole).from_axes
    assert scale_of(whole, disk((150, 240), 60)).usable == 0  # another particle lies on it
    assert scale_of(whole, disk((150, 150), 40)).rejected == {"not a whole disc": 1}  # a reflection in the middle
    assert scale_of(ellipse(150, 150, 100, 115)).rejected == {"not round": 1}
