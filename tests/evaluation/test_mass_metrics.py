"""Mass figures, by hand: perfect, degenerate and in between, and what counts in a total."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramses_d2.evaluation.masses import (
    PowerLaw,
    evaluate_masses,
    flatten_masses,
    in_total,
    particle_errors,
    total_error,
)

NAN = float("nan")
CLASSES = ["brick", "glass"]


def truth_of(*rows: tuple[int, int, float]) -> pd.DataFrame:
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


def test_perfect() -> None:
    errors = particle_errors(np.array([1.0, 2, 6]), np.array([1.0, 2, 6]))
    assert errors == {"MAPE": 0, "MedAPE": 0, "MAE": 0, "R2": 1, "Bias": 0, "BiasGrams": 0}
    assert total_error(np.array([1.0, 2]), np.array([3.0])) == {
        "predicted": 3,
        "true": 3,
        "error": 0,
        "percent": 0,
    }


def test_in_between() -> None:
    # errors -0.5, 0, +3 g; -50, 0, +50 % and unknown masses on either side, which do not count
    predicted, true = np.array([0.5, 2, 9, NAN, 4]), np.array([1.0, 2, 6, 5, NAN])
    errors = particle_errors(predicted, true)
    assert errors["MAPE"] == pytest.approx(100 / 3)
    assert errors["MedAPE"] == pytest.approx(50)
    assert errors["Bias"] == pytest.approx(0)
    assert errors["MAE"] == pytest.approx(3.5 / 3)
    assert errors["BiasGrams"] == pytest.approx(2.5 / 3)
    assert errors["R2"] == pytest.approx(1 - 9.25 / 14)  # mean 3: 4 + 1 + 9


def test_degenerate() -> None:
    nothing = particle_errors(np.zeros(0), np.zeros(0))
    unknown = particle_errors(np.array([NAN, 1]), np.array([1, NAN]))
    for errors in (nothing, unknown):
        assert all(np.isnan(value) for value in errors.values())
    one = particle_errors(np.array([2.0]), np.array([1.0]))
    assert one["MAPE"] == 100 and np.isnan(one["R2"])

    missed = total_error(np.zeros(0), np.array([4.0, NAN]))
    assert (missed["predicted"], missed["true"], missed["percent"]) == (0, 4, -100)
    extras = total_error(np.array([4.0]), np.zeros(0))
    assert (extras["true"], extras["error"]) == (0, 4) and np.isnan(extras["percent"])
    assert np.isnan(total_error(np.array([NAN]), np.array([1.0]))["percent"])
    assert np.isnan(total_error(np.array([1.0]), np.array([NAN]))["error"])


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1e3), st.floats(1e-3, 1e3)), min_size=1),
    factor=st.floats(0.01, 100),
)
def test_percentages_do_not_know_the_unit(pairs: list[tuple[float, float]], factor: float) -> None:
    predicted, true = np.array(pairs).T
    errors, scaled = particle_errors(predicted, true), particle_errors(factor * predicted, factor * true)
    for name in ("MAPE", "MedAPE", "Bias"):
        assert scaled[name] == pytest.approx(errors[name], rel=1e-6, abs=1e-6)
    for name in ("MAE", "BiasGrams"):
        assert scaled[name] == pytest.approx(factor * errors[name], rel=1e-6, abs=1e-6)
    assert errors["MAPE"] >= abs(errors["Bias"]) - 1e-9


def test_both_totals_of_a_image_with_a_miss_an_extra_and_a_wrong_class() -> None:
    truth = truth_of((1, 0, 10.0), (1, 0, 20.0), (1, 1, 30.0))
    predictions = predictions_of(
        (1, 0, 0.9, 11.0, 0, 0.9),
        (1, 0, 0.8, 27.0, 2, 0.6),  # brick in place of glass
        (1, 1, 0.7, 5.0, -1, NAN),  # an extra
        (1, 0, 0.2, 20.0, 1, 0.9),  # right, but below the reporting score
    )
    masses, pairs = evaluate_masses(truth, predictions, CLASSES, report_thresh=0.5)
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


def test_what_cannot_be_judged_is_left_out_of_the_total() -> None:
    truth = truth_of((1, 0, 10.0), (1, 0, NAN), (2, 0, NAN))
    predictions = predictions_of(
        (1, 0, 0.9, 12.0, 0, 0.9),
        (1, 0, 0.9, 50.0, 1, 0.9),  # on a particle of unknown mass
        (2, 0, 0.9, 60.0, -1, NAN),  # an image without weighed particles
        (3, 0, 0.9, 3.0, -1, NAN),  # an image without particles: an extra
        (1, 0, 0.9, NAN, -1, NAN),  # adds nothing
    )
    assert in_total(truth, predictions).tolist() == [True, False, False, True, True]
    whole = evaluate_masses(truth, predictions, CLASSES, 0.5)[0]["all"]
    assert whole["total"] == pytest.approx({"predicted": 15, "true": 10, "error": 5, "percent": 50})
    assert (whole["excluded"], whole["without_mass"], whole["weighed"]) == (2, 1, 1)
    assert (whole["iou50"]["pairs"], whole["iou50"]["weighed_pairs"]) == (2, 1)
    assert whole["iou50"]["particle"]["MAPE"] == pytest.approx(20)


def test_estimates_from_a_batch_are_counted() -> None:
    truth = truth_of((1, 0, 10.0), (1, 0, 10.0), (1, 0, NAN)).assign(gt_mass=[True, False, False])
    assert evaluate_masses(truth, predictions_of(), CLASSES, 0.5)[0]["all"]["estimated"] == 1


def test_power_law_is_judged_on_the_same_pairs() -> None:
    truth = truth_of((1, 0, 10.0), (1, 1, 10.0), (1, 1, 10.0)).assign(resolution=[2.0, 2.0, NAN])
    predictions = predictions_of((1, 0, 0.9, 11.0, 0, 0.9), (1, 0, 0.9, 9.0, 1, 0.9), (1, 1, 0.9, 90.0, 2, 0.9))
    # 100 px at 2 px/mm = 25 mm2, as brick 5 g: 50 % off; the third particle has no area in mm2
    law = PowerLaw({0: (0.2, 1.0), 1: (9.0, 1.0)}, (9.0, 1.0))
    masses, pairs = evaluate_masses(truth, predictions, CLASSES, 0.5, law)
    np.testing.assert_allclose(pairs["power_law_mass"], [5, 5, NAN])
    flat = flatten_masses(masses)
    assert flat["power_law_MAPE"] == pytest.approx(50)
    assert flat["gain"] == pytest.approx(100 * (1 - 10 / 50))


def test_nothing_at_all() -> None:
    law = PowerLaw({}, (1.0, 1.0))
    masses, pairs = evaluate_masses(truth_of(), predictions_of(), CLASSES, 0.5, law)
    flat = flatten_masses(masses)
    assert len(pairs) == 0
    assert flat["pairs"] == flat["predictions"] == flat["ground_truth"] == 0
    for name in ("MAPE", "R2", "TotalError", "TotalErrorMatched", "power_law_MAPE", "gain", "MAPE-glass"):
        assert np.isnan(flat[name]), name
