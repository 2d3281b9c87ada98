"""Correction factors per class, and the comparison they are made of."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ramses_d2.analysis.calibration import ClassFactor, Factors, calibrate, compare_batches, is_same_file, read_factors
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.report.data import Run, RunImage, WeighedBatches
from ramses_d2.data.batch_masses import Batch, parse_batches
from ramses_d2.errors import RamsesError

ROWS = [
    ("a.jpg", "Rc", 10.0),
    ("a.jpg", "Rc", 20.0),
    ("a.jpg", "Ru", 5.0),
    ("b.jpg", "Rc", 10.0),
    ("b.jpg", "Ru", 8.0),
    ("b.jpg", "Rg", 1.0),
    ("c.jpg", "Rc", 40.0),
]
IMAGES = ["a.jpg", "b.jpg", "c.jpg", "empty.jpg"]


def table(rows: list[tuple[str, str, float]] = ROWS) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["baseimg", "class", "mass"])


def batches(*given: tuple[list[str], dict[str, Any]]) -> list[Batch]:
    return parse_batches([{"image_names": names, "mass": mass} for names, mass in given])


def run(rows: list[tuple[str, str, float]] = ROWS, images: list[str] = IMAGES, **record: Any) -> Run:
    return Run(Path("predictions"), table(rows), [RunImage(name, name) for name in images], record)


@pytest.fixture
def weighed(tmp_path: Path) -> Any:
    """Factory of the batches of a file."""
    path = tmp_path / "metadata.json"
    path.write_text("{}")
    return lambda *given: WeighedBatches(path, batches(*given))


# ---- comparison


def test_comparison_by_hand() -> None:
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


def test_batches_that_are_not_whole_are_left_out_and_named() -> None:
    given = batches(
        (["a.jpg", "gone.jpg"], {"Rc": 44}),
        (["other.jpg"], {"Rc": 1}),
        (["c.jpg"], {"Rc": 20}),
        (["empty.jpg"], {"Rc": 5}),
    )
    comparison = compare_batches(table(), given, IMAGES)
    assert comparison.per_batch["batch"].tolist() == [3, 4]  # an image without particles is in the run
    assert comparison.left_out == ["batch 1: 1 of its 2 images not in this run"]
    twice = compare_batches(table(), given[2:3], [*IMAGES, "more/c.png"])
    assert twice.per_batch.empty and twice.left_out == ["batch 3: two images of this run are called c"]
    assert math.isnan(twice.error)


def test_particles_of_unknown_mass_are_counted() -> None:
    comparison = compare_batches(table([*ROWS, ("c.jpg", "Rc", math.nan)]), batches((["c.jpg"], {"Rc": 20})), IMAGES)
    assert comparison.per_batch[["particles", "unknown_mass", "predicted_g"]].to_numpy().tolist() == [[2, 1, 40.0]]


# ---- factors


def test_factors_by_hand(weighed: Any) -> None:
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


def test_interval_draws_whole_batches(weighed: Any) -> None:
    """33 of 30 g, 11 of 10 and 20 of 40: quotients 1.1, 1.1 and 0.5; 64 of 80 g together."""
    given = weighed((["a.jpg"], {"Rc": 33}), (["b.jpg"], {"Rc": 11}), (["c.jpg"], {"Rc": 20}))
    rc = calibrate(run(), given, Resampling(replicates=4000))[0].classes["Rc"]
    weights = np.random.default_rng(5).exponential(size=(100_000, 3))
    ends = np.quantile(weights @ [33, 11, 20] / (weights @ [30, 10, 40]), [0.025, 0.975])
    assert [rc.low, rc.high] == pytest.approx(ends.tolist(), abs=0.01)
    narrow = calibrate(run(), given, Resampling(replicates=4000, confidence=0.5))[0].classes["Rc"]
    assert rc.low < narrow.low < rc.factor < narrow.high <= rc.high


def test_interval_holds_the_truth_in_most_simulations(weighed: Any) -> None:
    rng, held = np.random.default_rng(3), 0
    names = [f"p{index}.jpg" for index in range(20)]
    for _ in range(100):
        predicted = rng.uniform(5, 20, len(names))
        given = weighed(
            *(([name], {"Rc": grams * rng.normal(0.9, 0.1)}) for name, grams in zip(names, predicted, strict=True))
        )
        rows = [(name, "Rc", grams) for name, grams in zip(names, predicted, strict=True)]
        rc = calibrate(run(rows, names), given, Resampling(replicates=300))[0].classes["Rc"]
        held += rc.low <= 0.9 <= rc.high
    assert 87 <= held <= 99


def test_unknown_masses_spoil_their_batch_only(weighed: Any) -> None:
    given = weighed((["a.jpg"], {"Rc": 33}), (["c.jpg"], {"Rc": 20}))
    factors, _ = calibrate(run([*ROWS, ("c.jpg", "Rc", math.nan)]), given)
    assert factors.classes["Rc"].factor == pytest.approx(33 / 30) and factors.classes["Rc"].batches == 1
    with pytest.raises(RamsesError, match="no class has a factor: Rc: particles of unknown mass in every batch"):
        calibrate(run([("a.jpg", "Rc", math.nan)]), weighed((["a.jpg"], {"Rc": 33})))


def test_nothing_to_calibrate_with(weighed: Any) -> None:
    with pytest.raises(RamsesError, match=r"none of its 1 batches can be compared.*batch 1: 1 of its 2 images"):
        calibrate(run(), weighed((["a.jpg", "gone.jpg"], {"Rc": 1})))


def test_corrected_masses_reproduce_the_batches(weighed: Any) -> None:
    given = weighed((["a.jpg", "b.jpg"], {"Rc": 33, "Ru": 4}), (["c.jpg"], {"Rc": 20}))
    factors, before = calibrate(run(), given)
    corrected = factors.apply(table())
    after = compare_batches(corrected, given.batches, IMAGES)
    assert after.classes["error"].to_numpy() == pytest.approx([0, 0]) and abs(before.error) > 0.3
    assert corrected.loc[corrected["class"] == "Rg", "mass"].tolist() == [1.0]  # never weighed: as predicted
    assert table()["mass"].tolist() == [row[2] for row in ROWS]


# ---- the file


def test_file_round_trip(weighed: Any, tmp_path: Path) -> None:
    given = weighed((["a.jpg"], {"Rc": 33, "Ru": 4, "Rb": 2}), (["b.jpg"], {"Rc": 11}))
    factors, _ = calibrate(run(weights_file="model.pth"), given, day="2026-01-02")
    path = tmp_path / "factors.yaml"
    path.write_text(factors.to_yaml(), encoding="utf-8")
    read = read_factors(path)
    assert read.name == "factors.yaml" and dict(read.origin) == dict(factors.origin) and read.without == factors.without
    for name, entry in factors.classes.items():
        for field, value in entry.__dict__.items():
            assert getattr(read.classes[name], field) == pytest.approx(value, rel=1e-5, nan_ok=True)
    assert factors.origin["batches_sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert is_same_file(read, given.source)
    given.source.write_text("{ }")
    assert not is_same_file(read, given.source) and not is_same_file(read, None)


def test_short_form_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("format: ramses-factors\nfactors: {Rc: 1.1, Ru: {factor: 0.9, low: null}}\n")
    assert read_factors(path).classes["Rc"] == ClassFactor(1.1)
    assert Factors({"Rc": ClassFactor(2.0)}).apply(table())["mass"].tolist()[:3] == [20, 40, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not a readable file of factors"),
        ("a: [", "not a readable file of factors"),
        ("Rc: 1.1\n", "not a file of correction factors; tools/report.py calibrate writes one"),
        ("format: ramses-factors\n", "no factors in it"),
        ("format: ramses-factors\nfactors: {Rc: -1}\n", "mine.yaml, Rc: factor is -1"),
        ("format: ramses-factors\nfactors: {Rc: .inf}\n", "Rc: factor is inf"),
        ("format: ramses-factors\nfactors: {Rc: much}\n", "Rc: factor is 'much'"),
        ("format: ramses-factors\nfactors: {Rc: {factr: 1}}\n", "Rc: factr"),
        ("format: ramses-factors\nfactors: {Rc: {low: 1}}\n", "Rc: factor is None"),
    ],
)
def test_broken_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RamsesError, match=message) as caught:
        read_factors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["no_factor: [a]", "origin: 3", "origin: {weights: abc}"])
def test_parts_of_a_file_of_factors_that_are_no_mappings(tmp_path: Path, text: str) -> None:
    (tmp_path / "factors.yaml").write_text(f"format: ramses-factors\nfactors: {{Rc: 1.1}}\n{text}\n")
    with pytest.raises(RamsesError, match="no_factor, origin or its weights is no mapping"):
        read_factors(tmp_path / "factors.yaml")
