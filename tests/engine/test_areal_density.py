"""Densities are fitted on the training truth when a training starts, and kept in its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.data.folder import load_folder
from ramses_d2.engine.hooks import fit_densities
from ramses_d2.engine.trainer import RamsesTrainer
from tests.conftest import GRAMS_PER_MM2
from tests.tools.command_line import ROOT

Folder = Callable[..., Path]


def dataset_dicts(masses: dict[int, list[float]], resolution: float = 2.0) -> list[dict[str, Any]]:
    """A dataset dict of particles of 40 px: class id -> masses."""
    particles = [
        {"category_id": class_id, "mass": mass, "area": 40.0, "label": 1}
        for class_id, of_class in masses.items()
        for mass in of_class
    ]
    return [{"file_name": "a", "resolution": resolution, "annotations": particles}]


def test_the_truth_of_the_folder(tiny_folder: Folder) -> None:
    found = fit_densities(load_folder(tiny_folder())[0], 3)
    assert found == pytest.approx(GRAMS_PER_MM2 * np.arange(1, 4))


def test_the_best_constant_of_each_class() -> None:
    """40 px at 2 px/mm are 10 mm2; no density on a fine grid has a smaller MAPE than the one found."""
    masses = {0: [1.0, 2.0, 4.0, 4.5], 2: [7.0]}
    found = fit_densities(dataset_dicts(masses), 4)
    assert found[2] == pytest.approx(0.7)
    for class_id, truth in ((0, masses[0]), (1, masses[0] + masses[2])):  # class 1 has no truth: that of all
        grid = np.linspace(0.01, 1, 2000)
        errors = [np.mean(np.abs(10 * density - truth) / truth) for density in grid]
        assert np.mean(np.abs(10 * found[class_id] - truth) / truth) <= min(errors) + 1e-9
    assert found[1] == found[3]


def test_nothing_weighed() -> None:
    assert fit_densities(dataset_dicts({0: [np.nan]}), 2).tolist() == [0, 0]
    assert fit_densities(dataset_dicts({0: [1.0]}, resolution=np.nan), 2).tolist() == [0, 0]


def train(path: str, folder: Path, output: Path, *overrides: str, resume: bool = False) -> RamsesTrainer:
    uri = f"('ramses://{folder}',)"
    sets = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(output), *overrides]
    cfg = load_config(str(ROOT / path), ["MODEL.RAMSES.MASS.DENSITY", "True", *sets])
    output.mkdir(exist_ok=True)
    register_datasets(cfg.DATASETS.TRAIN)
    trainer = RamsesTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def test_a_training_weighs_by_area(tiny_folder: Folder, tmp_path: Path) -> None:
    """Plain SOLOv2; a resumed training keeps its densities although the truth has changed."""
    folder, output = tiny_folder(), tmp_path / "out"
    trainer = train("tests/solov2_tiny.yaml", folder, output, "SOLVER.MAX_ITER", "1")
    expected = pytest.approx(GRAMS_PER_MM2 * np.arange(1, 4))
    assert trainer.model.areal_density.grams_per_mm2.tolist() == expected
    other = tiny_folder(name="elsewhere", nan_masses=True)
    resumed = train("tests/solov2_tiny.yaml", other, output, "SOLVER.MAX_ITER", "2", resume=True)
    assert resumed.start_iter == 1
    assert resumed.model.areal_density.grams_per_mm2.tolist() == expected


def test_without_truth_there_are_no_masses(
    tiny_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    trainer = train("tests/solov2_tiny.yaml", tiny_folder(nan_masses=True), output, "SOLVER.MAX_ITER", "1")
    assert not trainer.model.areal_density.is_known
    assert "no masses are predicted" in caplog.text
    assert "mass" not in json.loads((output / "evaluation.json").read_text())
