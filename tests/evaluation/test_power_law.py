"""The baseline recovers a power law, is robust where data is thin, and refuses where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ramses_d2.data.folder import load_folder
from ramses_d2.errors import RamsesError
from ramses_d2.evaluation import masses as power_law
from ramses_d2.evaluation.masses import fit_power_law

NAN = float("nan")


def dataset_dicts_of(class_ids: list[int], areas_mm2: np.ndarray, masses: np.ndarray) -> list[dict]:
    """One dataset dict per particle, each at its own resolution."""
    resolutions = np.linspace(1, 30, len(masses))
    return [
        {
            "file_name": f"{index}.png",
            "resolution": resolution,
            "annotations": [{"label": 1, "category_id": c, "area": a * resolution**2, "mass": m}],
        }
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
    assert np.isfinite(law.predict([5], np.array([50.0]))).all()  # a class the training truth lacks


def test_particles_of_one_size_are_taken_as_similar_bodies() -> None:
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


def test_missing_areas_come_from_the_label_maps(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("dataset_dicts", [[], dataset_dicts_of([0], np.array([10.0]), np.array([NAN]))])
def test_nothing_weighed_is_an_error(dataset_dicts: list[dict]) -> None:
    with pytest.raises(RamsesError, match="no particle with a known mass"):
        fit_power_law(dataset_dicts)
