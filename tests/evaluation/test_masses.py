"""Pairs, mass metrics and the power law, by hand and against slow references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize_scalar

from ramses_d2.data.folder import load_folder
from ramses_d2.evaluation import masses as power_law
from ramses_d2.evaluation.masses import (
    PowerLaw,
    evaluate_masses,
    fit_power_law,
    flatten_masses,
    greedy_match,
    ground_truth_table,
    in_total,
    mask_iou,
    pair_table,
    particle_errors,
    prediction_table,
    total_error,
)
from ramses_d2.masks import encode_in_box
from tests.conftest import refused

NAN = float("nan")
CLASSES = ["brick", "glass"]


def square(x: int, y: int, side: int = 10) -> dict:
    return encode_in_box(np.ones((side, side), dtype=bool), x, y, 50, 80)


def particle(image_id: int, label: int, rle: dict, class_id: int = 0, mass: float | None = 1.0) -> dict:
    ids = {"image_id": image_id, "label": label, "category_id": class_id + 1, "segmentation": rle}
    return ids | {"area": 100, "mass": mass, "gt_mass": True, "resolution": 2.0}


def found(image_id: int, score: float, rle: dict, class_id: int = 0, mass: float | None = 1.0) -> dict:
    return {"image_id": image_id, "category_id": class_id + 1, "segmentation": rle, "score": score, "mass": mass}


# ---- matching


def test_mask_iou_of_squares() -> None:
    iou = mask_iou([square(0, 0), square(5, 0)], [square(0, 0), square(30, 0), square(0, 5)])
    np.testing.assert_allclose(iou, [[1, 0, 1 / 3], [1 / 3, 0, 25 / 175]])
    assert mask_iou([], [square(0, 0)]).shape == (0, 1)
    assert mask_iou([square(0, 0)], []).shape == (1, 0)


def test_the_better_score_takes_the_particle_and_the_next_takes_second_best() -> None:
    iou = np.array([[0.9, 0.6], [0.95, 0.55], [0.8, 0.0]])
    # prediction 1 goes first and takes particle 0; prediction 0 then has particle 1; nothing is left for 2
    np.testing.assert_array_equal(greedy_match(iou, np.array([0.7, 0.8, 0.6]), 0.5), [1, 0, -1])
    np.testing.assert_array_equal(greedy_match(iou, np.array([0.7, 0.8, 0.6]), 0.75), [-1, 0, -1])
    for value, match in ((0.5, 0), (0.4999, -1)):  # the threshold is inclusive
        assert greedy_match(np.array([[value]]), np.array([1.0]), 0.5)[0] == match


@given(
    iou=hnp.arrays(float, st.tuples(st.integers(0, 8), st.integers(0, 8)), elements=st.floats(0, 1)),
    data=st.data(),
)
def test_every_particle_once_and_lower_scores_change_nothing(iou: np.ndarray, data: st.DataObject) -> None:
    scores = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(iou), max_size=len(iou))))
    match = greedy_match(iou, scores, 0.5)
    taken = match[match >= 0]
    assert len(set(taken)) == len(taken)
    assert all(iou[p, g] >= 0.5 for p, g in enumerate(match) if g >= 0)
    # whoever got nothing had nothing free that was good enough
    for p in np.flatnonzero(match < 0):
        assert set(np.flatnonzero(iou[p] >= 0.5)) <= set(taken)
    kept = scores >= 0.5
    np.testing.assert_array_equal(greedy_match(iou[kept], scores[kept], 0.5), match[kept])


def test_tables_of_two_images() -> None:
    annotations = [
        particle(7, 1, square(0, 0)),
        particle(7, 2, square(20, 0), class_id=1, mass=None),
        particle(9, 1, square(0, 0), mass=3.0),
    ]
    results = [
        found(7, 0.5, square(21, 0), class_id=0, mass=2.0),  # particle 2, wrong class, IoU 9/11
        found(9, 0.9, square(0, 0), mass=None),
        found(7, 0.8, square(3, 0), mass=1.5),  # particle 1, IoU 7/13
        found(7, 0.3, square(0, 0)),  # a duplicate that overlaps better, but comes too late
        found(11, 0.9, square(0, 0)),  # an image without particles
    ]
    particles, predictions = ground_truth_table(annotations), prediction_table(annotations, results)
    assert np.isnan(particles["mass"][1]) and particles["class_id"].tolist() == [0, 1, 0]
    assert predictions["nearest"].tolist() == [1, 2, 0, 0, -1]
    assert predictions["match50"].tolist() == [1, 2, 0, -1, -1]
    assert predictions["match75"].tolist() == [1, 2, -1, 0, -1]
    assert predictions["prediction"].tolist() == [0, 0, 1, 2, 0]
    assert predictions["area"].tolist() == [100.0] * 5

    pairs = pair_table(particles, predictions, 0.5)
    assert pairs[["image_id", "label", "prediction"]].to_numpy().tolist() == [[7, 1, 1], [7, 2, 0], [9, 1, 0]]
    np.testing.assert_allclose(pairs["iou"], [7 / 13, 9 / 11, 1])
    assert pairs["true_class"].tolist() == [0, 1, 0]
    assert pairs["predicted_class"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(pairs["true_mass"], [1, np.nan, 3])
    np.testing.assert_array_equal(pairs["predicted_mass"], [1.5, 2, np.nan])


def test_empty_tables_have_all_columns() -> None:
    nothing = prediction_table([], [])
    full = prediction_table([particle(1, 1, square(0, 0))], [found(1, 0.5, square(0, 0))])
    assert set(nothing.columns) == set(full.columns)
    pairs = pair_table(ground_truth_table([]), nothing, 0.5)
    assert len(pairs) == 0 and isinstance(pairs, pd.DataFrame)
    assert len(pair_table(ground_truth_table([]), prediction_table([], [found(1, 0.5, square(0, 0))]), 0.75)) == 0


# ---- metrics


def particles_of(*rows: tuple[int, int, float]) -> pd.DataFrame:
    """Particles (image_id, class_id, mass) of 100 px at 2 px/mm."""
    table = pd.DataFrame(rows, columns=["image_id", "class_id", "mass"])
    return table.astype({"mass": float}).assign(label=range(1, len(rows) + 1), gt_mass=True, area=100.0, resolution=2.0)


def predictions_of(*rows: tuple[int, int, float, float, int, float]) -> pd.DataFrame:
    """Predictions (image_id, class_id, score, mass, particle or -1, IoU), one at most on a particle."""
    columns = ["image_id", "class_id", "score", "mass", "nearest", "iou50"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"nearest": int, "mass": float}).assign(
        prediction=range(len(rows)),
        area=100.0,
        in_crowd=False,
        match50=table["nearest"],
        match75=np.where(table["iou50"] >= 0.75, table["nearest"], -1),
        iou75=table["iou50"],
    )


ERRORS = ("MAPE", "MedAPE", "MAE", "R2", "Bias", "BiasGrams")


@pytest.mark.parametrize(
    ("predicted", "true", "errors"),
    [
        ([1.0, 2, 6], [1.0, 2, 6], [0, 0, 0, 1, 0, 0]),
        # errors -0.5, 0, +3 g; -50, 0, +50 % and unknown masses on either side, which do not count; mean 3: 4 + 1 + 9
        ([0.5, 2, 9, NAN, 4], [1.0, 2, 6, 5, NAN], [100 / 3, 50, 3.5 / 3, 1 - 9.25 / 14, 0, 2.5 / 3]),
        ([], [], [NAN] * 6),
        ([NAN, 1], [1, NAN], [NAN] * 6),
        ([2.0], [1.0], [100, 100, 1, NAN, 100, 1]),
    ],
)
def test_errors_of_particles(predicted: list[float], true: list[float], errors: list[float]) -> None:
    found = particle_errors(np.array(predicted, dtype=float), np.array(true, dtype=float))
    assert found == pytest.approx(dict(zip(ERRORS, errors, strict=True)), nan_ok=True)


@pytest.mark.parametrize(
    ("predicted", "true", "total"),
    [
        ([1.0, 2], [3.0], [3, 3, 0, 0]),
        ([], [4.0, NAN], [0, 4, -4, -100]),  # all missed
        ([4.0], [], [4, 0, 4, NAN]),  # only extras
        ([NAN], [1.0], [NAN, 1, NAN, NAN]),
        ([1.0], [NAN], [1, NAN, NAN, NAN]),
    ],
)
def test_errors_of_totals(predicted: list[float], true: list[float], total: list[float]) -> None:
    found = total_error(np.array(predicted, dtype=float), np.array(true, dtype=float))
    assert [found[key] for key in ("predicted", "true", "error", "percent")] == pytest.approx(total, nan_ok=True)


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(1e-3, 1e3)), min_size=1), st.floats(0.01, 100))
def test_percentages_do_not_know_the_unit(pairs: list[tuple[float, float]], factor: float) -> None:
    predicted, true = np.array(pairs).T
    errors, scaled = particle_errors(predicted, true), particle_errors(factor * predicted, factor * true)
    for name in ("MAPE", "MedAPE", "Bias"):
        assert scaled[name] == pytest.approx(errors[name], rel=1e-6, abs=1e-6)
    for name in ("MAE", "BiasGrams"):
        assert scaled[name] == pytest.approx(factor * errors[name], rel=1e-6, abs=1e-6)
    assert errors["MAPE"] >= abs(errors["Bias"]) - 1e-9


def test_both_totals_of_an_image_with_a_miss_an_extra_and_a_wrong_class() -> None:
    particles = particles_of((1, 0, 10.0), (1, 0, 20.0), (1, 1, 30.0))
    predictions = predictions_of(
        (1, 0, 0.9, 11.0, 0, 0.9),
        (1, 0, 0.8, 27.0, 2, 0.6),  # brick in place of glass
        (1, 1, 0.7, 5.0, -1, NAN),  # an extra
        (1, 0, 0.2, 20.0, 1, 0.9),  # right, but below the reporting score
    )
    masses, pairs = evaluate_masses(particles, predictions, CLASSES, report_thresh=0.5)
    whole, (brick, glass) = masses["all"], masses["per_class"]
    assert whole["total"] == pytest.approx({"predicted": 43, "true": 60, "error": -17, "percent": -100 * 17 / 60})
    assert whole["iou50"]["total"] == pytest.approx({"predicted": 38, "true": 40, "error": -2, "percent": -5})
    # all: the predicted class; matched: the true class
    assert (brick["total"]["predicted"], brick["total"]["true"]) == (38, 30)
    assert (glass["total"]["predicted"], glass["total"]["true"]) == (5, 30)
    assert (glass["iou50"]["total"]["predicted"], glass["iou50"]["total"]["true"]) == (27, 30)
    assert whole["iou50"]["class_accuracy"] == 50
    assert brick["share"] == pytest.approx({"true": 50, "predicted": 100 * 38 / 43})
    assert [whole[name] for name in ("ground_truth", "weighed", "predictions")] == [3, 3, 3]
    assert len(pairs) == 2

    flat = flatten_masses(masses)
    assert flat["MAPE"] == pytest.approx(10) and flat["MAPE75"] == pytest.approx(10)
    assert (flat["pairs"], flat["pairs75"]) == (2, 1)
    assert flat["TotalErrorMatched75"] == pytest.approx(10)
    assert flat["TotalError-glass"] == pytest.approx(-100 * 25 / 30)
    assert flat["TotalErrorMatched-glass"] == pytest.approx(-10)
    assert all(isinstance(value, float) for value in flat.values())
    assert "power_law_MAPE" not in flat

    by_score = {entry["score"]: entry for entry in masses["total_by_score"]}
    assert list(by_score) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert [by_score[s]["predicted"] for s in (0.1, 0.2, 0.3, 0.7, 0.8)] == [63, 63, 43, 43, 38]


def test_what_is_unknown_is_left_out_of_the_total() -> None:
    particles = particles_of((1, 0, 10.0), (1, 0, NAN), (2, 0, NAN))
    predictions = predictions_of(
        (1, 0, 0.9, 12.0, 0, 0.9),
        (1, 0, 0.9, 50.0, 1, 0.9),  # on a particle of unknown mass
        (2, 0, 0.9, 60.0, -1, NAN),  # an image without weighed particles
        (3, 0, 0.9, 3.0, -1, NAN),  # an image without particles: an extra
        (1, 0, 0.9, NAN, -1, NAN),  # adds nothing
    )
    assert in_total(particles, predictions).tolist() == [True, False, False, True, True]
    whole = evaluate_masses(particles, predictions, CLASSES, 0.5)[0]["all"]
    assert whole["total"] == pytest.approx({"predicted": 15, "true": 10, "error": 5, "percent": 50})
    assert (whole["excluded"], whole["without_mass"], whole["weighed"]) == (2, 1, 1)
    assert (whole["iou50"]["pairs"], whole["iou50"]["weighed_pairs"]) == (2, 1)
    assert whole["iou50"]["particle"]["MAPE"] == pytest.approx(20)


def test_estimates_from_a_batch_are_counted() -> None:
    particles = particles_of((1, 0, 10.0), (1, 0, 10.0), (1, 0, NAN)).assign(gt_mass=[True, False, False])
    assert evaluate_masses(particles, predictions_of(), CLASSES, 0.5)[0]["all"]["estimated"] == 1


def test_the_power_law_is_compared_on_the_same_pairs() -> None:
    particles = particles_of((1, 0, 10.0), (1, 1, 10.0), (1, 1, 10.0)).assign(resolution=[2.0, 2.0, NAN])
    predictions = predictions_of((1, 0, 0.9, 11.0, 0, 0.9), (1, 0, 0.9, 9.0, 1, 0.9), (1, 1, 0.9, 90.0, 2, 0.9))
    # 100 px at 2 px/mm = 25 mm2, as brick 5 g: 50 % off; the third particle has no area in mm2
    law = PowerLaw({0: (0.2, 1.0), 1: (9.0, 1.0)}, (9.0, 1.0))
    masses, pairs = evaluate_masses(particles, predictions, CLASSES, 0.5, law)
    np.testing.assert_allclose(pairs["power_law_mass"], [5, 5, NAN])
    flat = flatten_masses(masses)
    assert flat["power_law_MAPE"] == pytest.approx(50)
    assert flat["gain"] == pytest.approx(100 * (1 - 10 / 50))


def test_nothing_at_all() -> None:
    law = PowerLaw({}, (1.0, 1.0))
    masses, pairs = evaluate_masses(particles_of(), predictions_of(), CLASSES, 0.5, law)
    flat = flatten_masses(masses)
    assert len(pairs) == 0
    assert flat["pairs"] == flat["predictions"] == flat["ground_truth"] == 0
    for name in ("MAPE", "R2", "TotalError", "TotalErrorMatched", "power_law_MAPE", "gain", "MAPE-glass"):
        assert np.isnan(flat[name]), name


# ---- power law


def dataset_dicts_of(class_ids: list[int], areas_mm2: np.ndarray, masses: np.ndarray) -> list[dict]:
    """One dataset dict per particle, each at its own resolution."""
    resolutions = np.linspace(1, 30, len(masses))
    return [
        {"file_name": str(index), "resolution": resolution}
        | {"annotations": [{"label": 1, "category_id": c, "area": a * resolution**2, "mass": m}]}
        for index, (c, a, m, resolution) in enumerate(zip(class_ids, areas_mm2, masses, resolutions, strict=True))
    ]


def test_recovers_a_known_law() -> None:
    rng = np.random.default_rng(0)
    classes = [0] * 40 + [2] * 40
    areas = rng.uniform(20, 2000, 80)
    scale, exponent = np.where(np.array(classes) == 0, [[0.004], [1.5]], [[0.01], [1.2]])
    law = fit_power_law(dataset_dicts_of(classes, areas, scale * areas**exponent))
    assert law.laws[0] == pytest.approx((0.004, 1.5))
    assert law.laws[2] == pytest.approx((0.01, 1.2))
    np.testing.assert_allclose(law.predict([2, 0, 0], np.array([100.0, 100.0, NAN])), [0.01 * 100**1.2, 4.0, NAN])


def test_few_particles_share_the_exponent() -> None:
    areas = np.array([10.0, 20, 40, 80, 160, 100, 110])
    # two particles of nearly the same size say 6 times the exponent, but next to nothing
    masses = np.r_[0.002 * areas[:5] ** 1.3, 0.1 * areas[5:] ** 1.3 * np.array([1.0, 2.0])]
    law = fit_power_law(dataset_dicts_of([0] * 5 + [1] * 2, areas, masses))
    assert law.laws[0][1] == pytest.approx(1.3)
    assert law.laws[1][1] == pytest.approx(1.3, abs=0.02)
    assert law.laws[1][0] == pytest.approx(0.1, rel=0.1)
    assert np.isfinite(law.predict([5], np.array([50.0]))).all()  # a class that training lacks
    # Particles of one size are taken as similar bodies
    law = fit_power_law(dataset_dicts_of([0] * 6, np.full(6, 100.0), np.full(6, 2.0)))
    assert law.laws[0] == pytest.approx((0.002, 1.5))


def test_the_scale_is_the_one_of_least_mape() -> None:
    rng = np.random.default_rng(1)
    areas = rng.uniform(20, 2000, 60)
    masses = 0.004 * areas**1.5 * rng.lognormal(0, 0.5, 60)
    scale, exponent = fit_power_law(dataset_dicts_of([0] * 60, areas, masses)).laws[0]

    def mape(s: float) -> float:
        return float(np.mean(np.abs(s * areas**exponent - masses) / masses))

    best = minimize_scalar(mape, bounds=(scale / 3, scale * 3), method="bounded", options={"xatol": 1e-9})
    assert mape(scale) <= best.fun + 1e-9


def test_missing_areas_come_from_label_maps(tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset_dicts, _ = load_folder(tiny_folder(sizes=((64, 96),) * 4, count=9))
    expected = power_law.training_truth(dataset_dicts)
    for dataset_dict in dataset_dicts:
        for annotation in dataset_dict["annotations"]:
            annotation["area"] = NAN
    for values, same in zip(power_law.training_truth(dataset_dicts), expected, strict=True):
        np.testing.assert_allclose(values, same)
    monkeypatch.setattr(power_law, "MAX_DECODED_IMAGES", 2)
    assert len(power_law.training_truth(dataset_dicts)[0]) == 18
    # mass of the fixture is 0.02 g/mm2 times class number: exponent 1 for every class
    assert fit_power_law(dataset_dicts).laws[1] == pytest.approx((0.04, 1))


def test_repeats_count_once_and_unknowns_not_at_all() -> None:
    dataset_dicts = dataset_dicts_of([0] * 6, np.full(6, 100.0), np.array([1.0, 1, 1, 2, 2, NAN]))
    dataset_dicts[4]["resolution"] = NAN
    _, areas, masses = power_law.training_truth(dataset_dicts + dataset_dicts[3:4] * 9)
    np.testing.assert_allclose(masses, [1, 1, 1, 2])
    np.testing.assert_allclose(areas, 100)


def test_nothing_weighed_is_an_error() -> None:
    for dataset_dicts in ([], dataset_dicts_of([0], np.array([10.0]), np.array([NAN]))):
        with refused("no particle with a known mass"):
            fit_power_law(dataset_dicts)
