"""Predictions and particles are paired by mask, greedily by score, each particle once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ramses_d2.evaluation.masses import greedy_match, ground_truth_table, mask_iou, pair_table, prediction_table
from ramses_d2.masks import encode_in_box


def square(x: int, y: int, side: int = 10) -> dict:
    return encode_in_box(np.ones((side, side), dtype=bool), x, y, 50, 80)


def particle(image_id: int, label: int, rle: dict, class_id: int = 0, mass: float | None = 1.0) -> dict:
    facts = {"image_id": image_id, "label": label, "category_id": class_id + 1, "segmentation": rle}
    return facts | {"area": 100, "mass": mass, "gt_mass": True, "resolution": 2.0}


def found(image_id: int, score: float, rle: dict, class_id: int = 0, mass: float | None = 1.0) -> dict:
    facts = {"image_id": image_id, "category_id": class_id + 1, "segmentation": rle}
    return facts | {"score": score, "mass": mass}


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


def test_threshold_is_inclusive() -> None:
    assert greedy_match(np.array([[0.5]]), np.array([1.0]), 0.5)[0] == 0
    assert greedy_match(np.array([[0.4999]]), np.array([1.0]), 0.5)[0] == -1


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
    truth, predictions = ground_truth_table(annotations), prediction_table(annotations, results)
    assert np.isnan(truth["mass"][1]) and truth["class_id"].tolist() == [0, 1, 0]
    assert predictions["nearest"].tolist() == [1, 2, 0, 0, -1]
    assert predictions["match50"].tolist() == [1, 2, 0, -1, -1]
    assert predictions["match75"].tolist() == [1, 2, -1, 0, -1]
    assert predictions["prediction"].tolist() == [0, 0, 1, 2, 0]
    assert predictions["area"].tolist() == [100.0] * 5

    pairs = pair_table(truth, predictions, 0.5)
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
