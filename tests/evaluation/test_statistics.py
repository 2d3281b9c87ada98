"""The figures of test_stats.json, and the ranking of the worst images, of a scene known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ramses_d2.evaluation.result import evaluation_stats, image_errors
from tests.evaluation.scene import outcome, results


def test_counts_and_rates_by_hand() -> None:
    statistics = evaluation_stats(outcome())
    assert {key: statistics[key] for key in ("pictures", "crowd_regions", "max_dets", "report_thresh")} == {
        "pictures": 3,
        "crowd_regions": 1,
        "max_dets": 100,
        "report_thresh": 0.5,
    }
    whole, brick, glass, never = statistics["all"], *statistics["per_class"]
    counts = ("objects", "predictions", "reported", "found")
    assert [whole[key] for key in counts] == [5, 7, 5, 4]
    assert [brick[key] for key in counts] == [3, 3, 3, 2]
    assert [glass[key] for key in counts] == [2, 4, 2, 2]
    assert [never[key] for key in counts] == [0, 0, 0, 0]
    rates = ("class_accuracy", "precision", "recall", "f1")
    assert [whole[key] for key in rates] == pytest.approx([75, 60, 60, 60])
    assert [brick[key] for key in rates] == pytest.approx([100, 200 / 3, 200 / 3, 200 / 3])
    assert [glass[key] for key in rates] == pytest.approx([50, 50, 50, 50])
    assert all(np.isnan(never[key]) for key in rates)


def test_precisions_of_all_are_the_mean_of_the_classes() -> None:
    statistics = evaluation_stats(outcome())
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR@100", "ARs@100", "AP_by_IoU"} <= set(
        statistics["all"]["segm"]
    )
    for task in ("segm", "bbox"):
        for name in ("AP", "AP50", "AR@100"):
            values = [figures[task][name] for figures in statistics["per_class"]]
            assert statistics["all"][task][name] == pytest.approx(np.nanmean(values))
            assert np.isnan(values[2])


def test_masses_by_hand() -> None:
    """Totals: 3 + 4 + 6 + 9 against 2 + 4 + 1 + 1 g; the glass of unknown mass and the crowd are left out."""
    statistics = evaluation_stats(outcome())
    mass = statistics["all"]["mass"]
    assert (mass["true_g"], mass["predicted_g"], mass["error_g"]) == (8, 22, 14)
    assert mass["error_percent"] == 175 and mass["excluded"] == 2 and mass["weighed"] == 4
    assert mass["pairs"] == 3 and mass["MAPE"] == pytest.approx((50 + 0 + 800) / 3)
    brick = statistics["per_class"][0]["mass"]
    assert (brick["true_g"], brick["predicted_g"]) == (4, 16)
    assert brick["share_percent"] == {"true": 50, "predicted": pytest.approx(1600 / 22)}
    assert evaluation_stats(outcome(has_mass=False))["all"]["mass"] is None


def test_badness_by_hand() -> None:
    table = image_errors(outcome())
    assert table["image_id"].tolist() == [1, 2, 3]
    assert table["badness"].tolist() == [3.5, 1.0, 0.0]  # nine times too heavy counts no more than a miss
    assert table.iloc[0].drop("image_id").to_dict() == {
        "particles": 4,
        "predictions": 4,
        "missed": 1,
        "false": 1,
        "wrong_class": 1,
        "mass_error": 0.5,
        "badness": 3.5,
    }


def test_badness_without_masses_and_without_predictions() -> None:
    plain = image_errors(outcome([{k: v for k, v in r.items() if k != "mass"} for r in results()], has_mass=False))
    assert plain["badness"].tolist() == [3.0, 0.0, 0.0]
    assert image_errors(outcome([]))["badness"].tolist() == [4.0, 1.0, 0.0]
